//! Sources that read all tables together and speak of each: which tables are finished when others
//! fail, records with parts of their own, deletions told by a column.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, TimeUnit};
use async_trait::async_trait;
use highwater_core::plan::{DELETED_AT, EXTRACTED_AT, GENERATION_ID, META, RAW_ID};
use highwater_core::types::{
    self, JSON, RECORD, RECORD_EXTRACTED_AT, RECORD_META, extension_field,
};
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Destination, Error, MetadataColumns, Op, Output,
    Partition, Plan, Reads, Result, Source, SourceDelivery, State, Table, TableName, TablePlan,
    WriteMode,
};
use highwater_engine::{
    Deletes, Outcome, RunOptions, Silent, StopSignal, Summary, SyncRequest, TableOptions, Target,
    sync,
};
use highwater_testkit::memory::Memory;
use highwater_testkit::rows;
use highwater_testkit::scripted::Journal;

/// What a connector's read brings.
#[derive(Clone)]
enum Sent {
    /// A row of a table: its id, and whether it says that the row was deleted.
    Row(&'static str, i64, bool),
    /// The position of a table: all its rows so far are covered.
    Position(&'static str, i64),
    Completed(&'static str),
    Failed(&'static str),
    Note(&'static str, &'static str),
    Break,
}

struct Connector(Vec<Sent>);

fn table(name: &str) -> Table {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
    let part = |field: Field, part: &str| types::with_metadata(field, RECORD, part);
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new(DELETED_AT, DataType::Utf8, true),
        part(Field::new(EXTRACTED_AT, instant, true), RECORD_EXTRACTED_AT),
        part(extension_field(META, DataType::Utf8, JSON), RECORD_META),
        part(Field::new("_line", DataType::Utf8, true), "line:test"),
    ];
    let mut table = Table::new(TableName::new(name), fields).with_primary_key(["id"]);
    table.source_defined_cursor = true;
    table
}

/// One row with the columns that the plan asks for.
fn row(source: &Arc<Table>, id: i64, deleted: bool) -> RecordBatch {
    let columns = source.schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "id" => Arc::new(Int64Array::from(vec![id])),
            DELETED_AT => Arc::new(StringArray::from(vec![deleted.then_some("now")])),
            EXTRACTED_AT => {
                Arc::new(TimestampMicrosecondArray::from(vec![id * 1_000]).with_timezone("UTC"))
            }
            META => {
                let changes = r#"{"changes":[{"field":"x","change":"NULLED","reason":"y"}]}"#;
                Arc::new(StringArray::from(vec![(id == 2).then_some(changes)]))
            }
            other => panic!("{other} was not asked for"),
        }
    });
    RecordBatch::try_new(Arc::clone(&source.schema), columns.collect()).unwrap()
}

#[async_trait]
impl Source for Connector {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(vec![table("a"), table("b")])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Again("the connector decides".into())
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn reads(&self) -> Reads {
        Reads::Together
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        let tables = plan.tables.keys().cloned().collect();
        Ok(vec![Partition { tables, id: "read".into(), bounds: serde_json::Value::Null }])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        _state: &State,
        output: Output,
    ) -> Result<Completion> {
        for sent in &self.0 {
            match sent {
                Sent::Row(name, id, deleted) => {
                    let source = Arc::clone(&plan.tables[&TableName::new(*name)].source);
                    let rows = row(&source, *id, *deleted);
                    output.batch(Batch { table: source, op: Op::Upsert, rows }).await?;
                }
                Sent::Position(name, at) => {
                    let key = CursorKey::Table(TableName::new(*name));
                    output.checkpoint(Checkpoint::of(key, serde_json::json!(at))).await?;
                }
                Sent::Completed(name) => output.completed(TableName::new(*name)).await?,
                Sent::Failed(name) => {
                    output.failed(TableName::new(*name), Error::data("The API said no")).await?;
                }
                Sent::Note(name, text) => output.note(TableName::new(*name), *text).await?,
                Sent::Break => return Err(Error::transient("The process died")),
            }
        }
        Ok(Completion::Complete)
    }
}

struct Bench {
    memory: Memory,
    journal: Journal,
    request: SyncRequest,
}

impl Bench {
    fn new(write_mode: WriteMode) -> Self {
        let journal = Journal::default();
        let memory = Memory::new("d", journal.clone());
        let destination: Arc<dyn Destination> = Arc::new(memory.clone());
        let request = SyncRequest {
            sync: "connector".into(),
            tables: vec![TableOptions { name: "*".into(), ..TableOptions::default() }],
            skip_tables: vec![],
            targets: vec![Target { write_mode, ..Target::new("d", destination) }],
            state_table: None,
        };
        Self { memory, journal, request }
    }

    async fn run(&self, sent: &[Sent]) -> Summary {
        let options = RunOptions {
            take_over: false,
            tasks_max: 2,
            stop: StopSignal::default(),
            observer: Arc::new(Silent),
        };
        sync(Arc::new(Connector(sent.to_vec())), &self.request, &options).await.unwrap()
    }

    fn ids(&self, name: &str) -> Vec<i64> {
        let rows = self.memory.rows(&TableName::new(name)).unwrap_or_default();
        let columns = rows.iter().map(|rows| rows.column_by_name("id").unwrap().clone());
        let ids = columns
            .flat_map(|c| c.as_primitive::<arrow_array::types::Int64Type>().values().to_vec());
        ids.collect()
    }
}

fn complete(summary: &Summary) -> Vec<(String, bool)> {
    let tables = summary.destinations[0].tables.iter();
    tables.map(|t| (t.table.to_string(), t.complete)).collect()
}

fn both(a: bool, b: bool) -> Vec<(String, bool)> {
    vec![("a".to_owned(), a), ("b".to_owned(), b)]
}

#[tokio::test]
async fn a_table_that_is_complete_stays_so_when_the_process_dies() {
    let bench = Bench::new(WriteMode::Append);
    let sent = [
        Sent::Row("a", 1, false),
        Sent::Position("a", 1),
        Sent::Completed("a"),
        Sent::Row("b", 1, false),
        Sent::Break,
    ];
    let summary = bench.run(&sent).await;
    assert_eq!(complete(&summary), both(true, false));
    assert_eq!(summary.outcome(), Outcome::Partial);
    assert_eq!((bench.ids("a"), bench.ids("b")), (vec![1], vec![]));
}

#[tokio::test]
async fn a_table_of_which_the_source_says_nothing_is_not_complete() {
    let bench = Bench::new(WriteMode::Append);
    let sent = [
        Sent::Row("a", 1, false),
        Sent::Position("a", 1),
        Sent::Completed("a"),
        Sent::Row("b", 1, false),
    ];
    let summary = bench.run(&sent).await;
    assert_eq!(complete(&summary), both(true, false));
    let error = summary.destinations[0].tables[1].error.as_ref().unwrap();
    assert!(error.message.contains("without saying"), "{}", error.message);
    assert!(bench.ids("b").is_empty(), "no position covers its row");
}

#[tokio::test]
async fn a_source_that_says_nothing_of_tables_has_read_all_of_them() {
    let bench = Bench::new(WriteMode::Append);
    let summary = bench.run(&[Sent::Row("a", 1, false), Sent::Row("b", 2, false)]).await;
    assert_eq!(complete(&summary), both(true, true));
    assert_eq!((bench.ids("a"), bench.ids("b")), (vec![1], vec![2]));
}

#[tokio::test]
async fn a_table_that_failed_is_not_swapped_in() {
    let mut bench = Bench::new(WriteMode::Replace);
    bench.request.tables[0].read_mode = Some(highwater_core::ReadMode::FullRefresh);
    let all = [Sent::Row("a", 1, false), Sent::Row("b", 1, false)];
    bench.run(&all).await;
    let sent = [Sent::Row("a", 2, false), Sent::Row("b", 2, false), Sent::Failed("b")];
    let ended = [sent.as_slice(), &[Sent::Position("a", 0), Sent::Completed("a")]].concat();
    let summary = bench.run(&ended).await;
    assert_eq!(complete(&summary), both(true, false));
    assert_eq!((bench.ids("a"), bench.ids("b")), (vec![2], vec![1]));
}

#[tokio::test]
async fn what_a_source_says_of_a_table_stands_in_the_summary_once() {
    let bench = Bench::new(WriteMode::Append);
    let said = Sent::Note("a", "2 values are NULL.");
    let summary = bench.run(&[said.clone(), said]).await;
    let notes = &summary.destinations[0].tables[0].notes;
    assert_eq!(notes.iter().filter(|note| *note == "2 values are NULL.").count(), 1, "{notes:?}");
}

#[tokio::test]
async fn records_bring_what_airbytes_columns_hold() {
    let mut bench = Bench::new(WriteMode::Append);
    bench.request.targets[0].metadata_columns = MetadataColumns::Airbyte;
    bench.request.skip_tables = vec!["b".into()];
    let summary = bench.run(&[Sent::Row("a", 1, false), Sent::Row("a", 2, false)]).await;
    assert_eq!(summary.outcome(), Outcome::Complete, "{summary:?}");
    let mut batches = bench.memory.rows(&TableName::new("a")).unwrap();
    batches.retain(|rows| rows.num_rows() > 0);
    let names: Vec<_> = batches[0].schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, [RAW_ID, EXTRACTED_AT, META, GENERATION_ID, "id", DELETED_AT]);
    let mut all = rows::texts(&batches, &batches[0].schema());
    all.sort_by_key(|row| row[4].clone());
    let sync_id = summary.started_at.0;
    assert_ne!(all[0][0], all[1][0], "each row has an id of its own");
    assert!(all.iter().all(|row| row[0].as_ref().is_some_and(|id| id.len() == 36)));
    let read = batches[0].column(1).as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(read, 1_000, "when the record says that it was read");
    assert_eq!(all[0][2].as_deref(), Some(&*format!(r#"{{"sync_id":{sync_id},"changes":[]}}"#)));
    let nulled = format!(
        r#"{{"sync_id":{sync_id},"changes":[{{"field":"x","change":"NULLED","reason":"y"}}]}}"#
    );
    assert_eq!(all[1][2].as_deref(), Some(&*nulled));
    // Nothing was ever refreshed.
    assert_eq!(all[0][3].as_deref(), Some("0"));
}

#[tokio::test]
async fn a_record_that_says_so_removes_its_row_where_rows_have_keys() {
    let sent = [
        Sent::Row("a", 1, false),
        Sent::Row("a", 2, false),
        Sent::Row("a", 1, true),
        Sent::Row("a", 3, true),
        Sent::Row("a", 3, false),
    ];
    for (mode, deletes, expected) in [
        (WriteMode::Overwrite, None, vec![2, 3]),
        (WriteMode::AppendDedup, None, vec![2, 3]),
        (WriteMode::Overwrite, Some(Deletes::Soft), vec![1, 2, 3]),
        (WriteMode::Append, None, vec![1, 2, 1, 3, 3]),
    ] {
        let mut bench = Bench::new(mode);
        bench.request.tables[0].deletes = deletes;
        let summary = bench.run(&sent).await;
        assert_eq!(summary.outcome(), Outcome::Complete, "{mode}: {summary:?}");
        let mut ids = bench.ids("a");
        if mode != WriteMode::Append {
            ids.sort_unstable();
        }
        assert_eq!(ids, expected, "{mode} {deletes:?}");
    }
}

#[tokio::test]
async fn a_sweep_is_refused_where_rows_have_no_keys() {
    let mut bench = Bench::new(WriteMode::Append);
    bench.request.tables[0].sweep_seconds = Some(0);
    let options = RunOptions {
        take_over: false,
        tasks_max: 1,
        stop: StopSignal::default(),
        observer: Arc::new(Silent),
    };
    let refused = sync(Arc::new(Connector(vec![])), &bench.request, &options).await.unwrap_err();
    assert!(refused.full_message().contains("written by key"), "{}", refused.full_message());
    assert!(!bench.journal.lines().iter().any(|line| line.starts_with("commit")));
}
