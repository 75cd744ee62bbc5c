//! Sources that read all tables at once and keep their cursors as rows of a table; transformers;
//! keys, groups and forced schema changes.

use std::sync::{Arc, Mutex};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use futures::FutureExt;
use highwater_core::deletion::ROW_ID;
use highwater_core::plan::{SOURCE_NAME, SYNC_GROUP_ID};
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Destination, Error, ErrorKind, MetadataColumns, Op,
    Output, Partition, Plan, Reads, Result, Source, SourceDelivery, State, Table, TableName,
    TablePlan, Transformer, WriteMode,
};
use highwater_engine::state_table::{StateRow, StateRows};
use highwater_engine::{
    Keeper, KeyChoice, Outcome, RunOptions, Silent, StateTable, StopSignal, Summary, SyncRequest,
    TableOptions, Target, state_table, sync,
};
use highwater_testkit::memory::{Fault, Memory, Operation};
use highwater_testkit::rows;
use highwater_testkit::scripted::Journal;
use tokio::sync::mpsc;

/// Something that a plugin's stream brings.
#[derive(Clone)]
enum Sent {
    /// Rows of a table with these ids.
    Rows(&'static str, std::ops::Range<i64>),
    /// The table could not be read completely.
    Failed(&'static str),
    /// The position reached: a row of the state table.
    Position(&'static str),
    /// The stream breaks.
    Break,
}

/// A plugin with tables `a` and `b`, which reads them in one stream.
struct Plugin {
    stream: Vec<Sent>,
    /// The positions that each read began with.
    began: Arc<Mutex<Vec<Option<String>>>>,
}

fn table(name: &str) -> Table {
    let mut id = Field::new("id", DataType::Int64, false);
    id = id.with_metadata([("kept".to_owned(), "yes".to_owned())].into());
    let fields = vec![id, Field::new(ROW_ID, DataType::Utf8, true)];
    let mut table = Table::new(TableName::new(name), fields).with_primary_key(["id"]);
    table.source_defined_cursor = true;
    table
}

#[async_trait]
impl Source for Plugin {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(vec![table("a"), table("b")])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Again("the plugin decides".into())
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn reads(&self) -> Reads {
        Reads::Once
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        let tables = plan.tables.keys().cloned().collect();
        Ok(vec![Partition { tables, id: "sync".into(), bounds: serde_json::Value::Null }])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let known = state.cursors.get(&CursorKey::Global).filter(|c| !c.0.is_null());
        let mut known: StateRows = known.map_or_else(StateRows::default, |cursor| {
            serde_json::from_value(cursor.0.clone()).unwrap()
        });
        let began = known.rows.get("position").map(|row| row.value.clone());
        self.began.lock().unwrap().push(began);
        for sent in &self.stream {
            match sent {
                Sent::Rows(name, ids) => {
                    let source = Arc::clone(&plan.tables[&TableName::new(*name)].source);
                    let columns: Vec<ArrayRef> = vec![
                        Arc::new(Int64Array::from_iter_values(ids.clone())),
                        Arc::new(StringArray::from_iter_values(
                            ids.clone().map(|id| format!("row-{id}")),
                        )),
                    ];
                    let rows = RecordBatch::try_new(Arc::clone(&source.schema), columns)?;
                    output.batch(Batch { table: source, op: Op::Upsert, rows }).await?;
                }
                Sent::Failed(name) => {
                    output.failed(TableName::new(*name), Error::data("The API said no")).await?;
                }
                Sent::Position(value) => {
                    let version = known.rows.get("position").map_or(1, |row| row.version + 1);
                    let row = StateRow { value: (*value).to_owned(), version };
                    known.rows.insert("position".into(), row);
                    let cursor = serde_json::to_value(&known).unwrap();
                    output.checkpoint(Checkpoint::of(CursorKey::Global, cursor)).await?;
                }
                Sent::Break => return Err(Error::transient("The stream broke")),
            }
        }
        Ok(Completion::Complete)
    }
}

/// A plugin that never says what tables it has.
struct Hanging;

#[async_trait]
impl Source for Hanging {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        std::future::pending().await
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn partitions(&self, _plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(Vec::new())
    }

    async fn read(&self, _: &Plan, _: &Partition, _: &State, _: Output) -> Result<Completion> {
        Ok(Completion::Complete)
    }
}

struct Bench {
    journal: Journal,
    began: Arc<Mutex<Vec<Option<String>>>>,
    request: SyncRequest,
}

impl Bench {
    fn new(targets: &[(&str, &Memory)], journal: Journal) -> Self {
        let target = |(name, memory): &(&str, &Memory)| Target {
            write_mode: WriteMode::OverwriteDeleteStale,
            metadata_columns: MetadataColumns::CloudQuery,
            ..Target::new(*name, Arc::new((*memory).clone()) as Arc<dyn Destination>)
        };
        let request = SyncRequest {
            sync: "plugin".into(),
            tables: vec![TableOptions { name: "*".into(), ..TableOptions::default() }],
            skip_tables: vec![],
            targets: targets.iter().map(target).collect(),
            state_table: None,
        };
        Self { journal, began: Arc::default(), request }
    }

    fn keep(mut self, keeper: Keeper) -> Self {
        self.request.state_table =
            Some(StateTable { table: state_table::table("cq_state"), keeper });
        self
    }

    async fn run(&self, stream: &[Sent]) -> Result<Summary> {
        let plugin = Plugin { stream: stream.to_vec(), began: Arc::clone(&self.began) };
        sync(Arc::new(plugin), &self.request, &options()).await
    }

    fn began(&self) -> Vec<Option<String>> {
        self.began.lock().unwrap().clone()
    }
}

fn options() -> RunOptions {
    RunOptions {
        take_over: false,
        tasks_max: 2,
        stop: StopSignal::default(),
        observer: Arc::new(Silent),
    }
}

fn one() -> (Bench, Memory) {
    let journal = Journal::default();
    let memory = Memory::new("d", journal.clone());
    (Bench::new(&[("d", &memory)], journal), memory)
}

/// A table as it is described, and its rows.
fn found(memory: &Memory, name: &str) -> Option<(Table, Vec<RecordBatch>)> {
    let name = TableName::new(name);
    let described = memory.describe(std::slice::from_ref(&name)).now_or_never().unwrap();
    let table = described.unwrap().remove(0)?.table;
    Some((table, memory.rows(&name).unwrap_or_default()))
}

fn texts(memory: &Memory, name: &str, column: &str) -> Vec<String> {
    let Some((table, batches)) = found(memory, name) else { return Vec::new() };
    let at = table.schema.index_of(column).unwrap();
    let mut all: Vec<_> = rows::texts(&batches, &table.schema)
        .into_iter()
        .map(|row| row[at].clone().unwrap_or_else(|| "NULL".into()))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn the_cursor_is_a_row_of_the_destination_in_the_commit_of_the_data() {
    let (bench, memory) = one();
    let bench = bench.keep(Keeper::Target(0));
    let stream = [Sent::Rows("a", 0..3), Sent::Rows("b", 0..1), Sent::Position("3")];
    let summary = bench.run(&stream).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Complete);
    assert_eq!(texts(&memory, "cq_state", "key"), ["position"]);
    assert_eq!(texts(&memory, "cq_state", "value"), ["3"]);
    let tables: Vec<_> = summary.destinations[0].tables.iter().map(|t| &t.table.name).collect();
    assert_eq!(tables, ["a", "b"], "the state table is none of the user's");
    let a = &summary.destinations[0].tables[0];
    assert_eq!((a.rows_read, a.rows_written), (3, 3));
    // One commit of rows and cursor.
    let commits = bench.journal.lines().into_iter().filter(|l| l.starts_with("commit d")).count();
    assert_eq!(commits, 1);
    bench.run(&[Sent::Rows("a", 3..4), Sent::Position("4")]).await.unwrap();
    assert_eq!(bench.began(), [None, Some("3".to_owned())]);
    assert_eq!(texts(&memory, "cq_state", "version"), ["2"]);
}

#[tokio::test]
async fn a_run_that_is_stopped_while_a_plugin_starts_ends() {
    let (bench, _memory) = one();
    let options = options();
    options.stop.stop();
    let stopped = sync(Arc::new(Hanging), &bench.request, &options).await.unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Interrupted);
}

#[tokio::test]
async fn a_stream_that_breaks_commits_neither_rows_nor_cursor() {
    let (bench, memory) = one();
    let bench = bench.keep(Keeper::Target(0));
    let summary = bench.run(&[Sent::Rows("a", 0..3), Sent::Break]).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::TryLater);
    assert!(texts(&memory, "a", "id").is_empty());
    assert!(texts(&memory, "cq_state", "key").is_empty());
}

#[tokio::test]
async fn a_cursor_kept_apart_is_written_when_every_destination_has_the_rows() {
    let journal = Journal::default();
    let [first, second, keeper] = ["d", "e", "keeper"].map(|n| Memory::new(n, journal.clone()));
    let bench = Bench::new(&[("d", &first), ("e", &second)], journal.clone());
    let apart =
        Keeper::Apart { name: "keeper".into(), destination: Arc::new(keeper.clone()) as Arc<_> };
    let bench = bench.keep(apart);
    second.fail(Operation::Commit, 1, Fault::Reject(ErrorKind::Transient));
    let stream = [Sent::Rows("a", 0..3), Sent::Position("3")];
    let summary = bench.run(&stream).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Partial);
    assert!(texts(&keeper, "cq_state", "key").is_empty(), "one destination lacks the rows");
    bench.run(&stream).await.unwrap();
    assert_eq!(bench.began(), [None, None]);
    assert_eq!(texts(&keeper, "cq_state", "value"), ["3"]);
    assert_eq!(texts(&second, "a", "id"), ["0", "1", "2"]);
    assert!(journal.position("commit e sync 3") < journal.position("commit keeper"));
}

#[tokio::test]
async fn the_destination_with_the_cursor_is_last_and_keeps_it_back_when_another_failed() {
    let journal = Journal::default();
    let [first, second] = ["d", "e"].map(|name| Memory::new(name, journal.clone()));
    let bench = Bench::new(&[("d", &first), ("e", &second)], journal.clone());
    let bench = bench.keep(Keeper::Target(0));
    let stream = [Sent::Rows("a", 0..2), Sent::Position("2")];
    second.fail(Operation::Commit, 1, Fault::Reject(ErrorKind::Transient));
    bench.run(&stream).await.unwrap();
    assert_eq!(texts(&first, "a", "id"), ["0", "1"]);
    assert!(texts(&first, "cq_state", "key").is_empty());
    // A destination that cannot even be opened counts as one that lacks the rows.
    second.fail(Operation::Open, 1, Fault::Reject(ErrorKind::Transient));
    bench.run(&stream).await.unwrap();
    assert!(texts(&first, "cq_state", "key").is_empty());
    bench.run(&stream).await.unwrap();
    assert_eq!(texts(&first, "cq_state", "value"), ["2"]);
    assert_eq!(texts(&second, "a", "id"), ["0", "1"]);
}

#[tokio::test]
async fn a_destination_that_refuses_an_incremental_table_keeps_the_cursor_back() {
    let journal = Journal::default();
    let [first, second] = ["d", "e"].map(|name| Memory::new(name, journal.clone()));
    let bench = Bench::new(&[("d", &first), ("e", &second)], journal.clone());
    let mut bench = bench.keep(Keeper::Target(0));
    bench.request.targets[1].may_migrate = false;
    let stream = [Sent::Rows("a", 0..2), Sent::Position("2")];
    let summary = bench.run(&stream).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Partial);
    assert_eq!(texts(&first, "a", "id"), ["0", "1"]);
    assert!(texts(&first, "cq_state", "key").is_empty(), "the other one lacks the rows");
    bench.request.targets[1].may_migrate = true;
    bench.run(&stream).await.unwrap();
    assert_eq!(texts(&second, "a", "id"), ["0", "1"]);
    assert_eq!(texts(&first, "cq_state", "value"), ["2"]);
}

#[tokio::test]
async fn a_cursor_kept_apart_is_not_resumed_into_a_destination_without_the_tables() {
    let journal = Journal::default();
    let [old, new, keeper] = ["d", "e", "keeper"].map(|n| Memory::new(n, journal.clone()));
    let apart = || {
        let destination = Arc::new(keeper.clone()) as Arc<_>;
        Keeper::Apart { name: "keeper".into(), destination }
    };
    let stream = [Sent::Rows("a", 0..2), Sent::Rows("b", 0..1), Sent::Position("2")];
    let bench = Bench::new(&[("d", &old)], journal.clone()).keep(apart());
    bench.run(&stream).await.unwrap();
    for targets in [vec![("e", &new)], vec![("d", &old), ("e", &new)]] {
        let bench = Bench::new(&targets, journal.clone()).keep(apart());
        let summary = bench.run(&[Sent::Rows("a", 2..3), Sent::Position("3")]).await.unwrap();
        assert_ne!(summary.outcome(), Outcome::Complete);
        let told = &summary.destinations.last().unwrap().tables[0].error;
        assert!(told.as_ref().unwrap().message.contains("none of the tables"), "{told:?}");
        assert_eq!(texts(&keeper, "cq_state", "value"), ["2"], "the new one lacks the rows");
    }
    // A table that is new to the plugin is no reason: it has no position of it.
    bench.run(&[Sent::Rows("a", 2..3), Sent::Position("3")]).await.unwrap();
    assert_eq!(texts(&keeper, "cq_state", "value"), ["3"]);
}

#[tokio::test]
async fn a_table_that_failed_keeps_its_stale_rows_and_the_run_is_no_success() {
    let (bench, memory) = one();
    bench.run(&[Sent::Rows("a", 0..3), Sent::Rows("b", 0..3)]).await.unwrap();
    let stream = [Sent::Rows("a", 1..2), Sent::Failed("a"), Sent::Rows("b", 1..2)];
    let summary = bench.run(&stream).await.unwrap();
    // Without a state table the incremental tables of this plugin are read as they come.
    assert_eq!(summary.outcome(), Outcome::Partial);
    let tables = &summary.destinations[0].tables;
    assert!(tables[0].error.as_ref().unwrap().message.contains("The API said no"));
    assert!(!tables[0].complete && tables[1].complete);
    assert_eq!(texts(&memory, "a", "id"), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_table_that_nobody_planned_may_fail_too() {
    let (bench, _memory) = one();
    let summary = bench.run(&[Sent::Rows("a", 0..1), Sent::Failed("ghost")]).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Partial);
    let ghost = summary.destinations[0].tables.iter().find(|t| t.table.name == "ghost");
    assert!(ghost.unwrap().error.is_some());
}

#[tokio::test]
async fn the_group_of_the_sync_is_a_column_and_part_of_the_key() {
    let (mut bench, memory) = one();
    bench.request.targets[0].write_mode = WriteMode::Overwrite;
    for group in ["monday", "tuesday"] {
        bench.request.targets[0].sync_group_id = Some(group.into());
        bench.run(&[Sent::Rows("a", 0..2)]).await.unwrap();
    }
    let (table, _) = found(&memory, "a").unwrap();
    assert_eq!(table.primary_key, [SYNC_GROUP_ID, "id"]);
    assert_eq!(texts(&memory, "a", SYNC_GROUP_ID), ["monday", "monday", "tuesday", "tuesday"]);
    let names: Vec<_> = table.column_names().take(3).collect();
    assert_eq!(names, ["_cq_sync_time", SOURCE_NAME, SYNC_GROUP_ID]);
}

#[tokio::test]
async fn the_row_id_alone_can_be_the_key() {
    let (mut bench, memory) = one();
    bench.request.targets[0].key = KeyChoice::RowId;
    bench.run(&[Sent::Rows("a", 0..2)]).await.unwrap();
    assert_eq!(found(&memory, "a").unwrap().0.primary_key, [ROW_ID]);
}

/// Renames tables and a column, and drops odd rows.
struct Renaming(&'static str);

#[async_trait]
impl Transformer for Renaming {
    fn name(&self) -> &str {
        self.0
    }

    async fn table(&self, table: &Table) -> Result<Table> {
        let mut table = table.clone();
        table.name.name = format!("{}{}", self.0, table.name.name);
        Ok(table)
    }

    async fn transform(
        &self,
        mut input: mpsc::Receiver<(Arc<Table>, RecordBatch)>,
        output: mpsc::Sender<(String, RecordBatch)>,
    ) -> Result<()> {
        while let Some((table, rows)) = input.recv().await {
            let name = format!("{}{}", self.0, table.name.name);
            // Half of the rows in one batch, half in another: what comes out may be cut.
            let half = rows.num_rows() / 2;
            for part in [rows.slice(0, half), rows.slice(half, rows.num_rows() - half)] {
                if output.send((name.clone(), part)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn rows_pass_all_transformers_in_order() {
    let (mut bench, memory) = one();
    let transformers: [Arc<dyn Transformer>; 3] =
        [Arc::new(Renaming("x_")), Arc::new(Renaming("y_")), Arc::new(Renaming("z_"))];
    bench.request.targets[0].transformers = transformers.into();
    let stream: Vec<_> = (0..50).map(|n| Sent::Rows("a", n * 10..n * 10 + 10)).collect();
    let summary = bench.run(&stream).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Complete);
    assert_eq!(texts(&memory, "z_y_x_a", "id").len(), 500);
    assert_eq!(texts(&memory, "z_y_x_a", SOURCE_NAME)[0], "plugin");
    assert!(found(&memory, "a").is_none());
    assert_eq!(summary.destinations[0].tables[0].rows_written, 500);
}

/// Fails at the second batch.
struct Failing;

#[async_trait]
impl Transformer for Failing {
    fn name(&self) -> &str {
        "failing"
    }

    async fn table(&self, table: &Table) -> Result<Table> {
        Ok(table.clone())
    }

    async fn transform(
        &self,
        mut input: mpsc::Receiver<(Arc<Table>, RecordBatch)>,
        _output: mpsc::Sender<(String, RecordBatch)>,
    ) -> Result<()> {
        input.recv().await;
        Err(Error::data("It cannot be transformed"))
    }
}

#[tokio::test]
async fn a_transformer_that_fails_fails_the_destination_and_commits_nothing() {
    let (mut bench, memory) = one();
    bench.request.targets[0].transformers = vec![Arc::new(Failing)];
    let stream: Vec<_> = (0..50).map(|n| Sent::Rows("a", n * 10..n * 10 + 10)).collect();
    let summary = bench.run(&stream).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Failed);
    let error = summary.destinations[0].tables[0].error.as_ref().unwrap();
    assert!(error.message.contains("transformer: failing"), "{}", error.message);
    assert!(texts(&memory, "a", "id").is_empty());
}
