//! Rows that the source has lost without a word, found by comparing keys.

use std::sync::{Arc, Mutex};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use highwater_core::mapping::HashMethod;
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Error, ErrorKind, KeyDigests, KeyTable, Mapping,
    MetadataColumns, Op, Output, Partition, Plan, ReadMode, Result, Source, SourceDelivery, State,
    Table, TableName, TablePlan, WriteMode,
};
use highwater_engine::{
    Deletes, Outcome, RunOptions, Silent, StopSignal, Summary, SyncRequest, TableOptions, Target,
    sync,
};
use highwater_testkit::memory::{Fault, Keys, Memory, Operation};
use highwater_testkit::rows::texts;
use highwater_testkit::scripted::Journal;
use serde_json::json;

/// What a table of the source has: a key of two columns and the version of the row.
type Row = (i64, Option<&'static str>, i64);

/// A source that sends what is newer than its cursor, and tells its keys.
#[derive(Clone)]
struct Shop {
    rows: Arc<Mutex<Vec<Row>>>,
    /// What the table has by the time that keys are asked for.
    later: Arc<Mutex<Option<Vec<Row>>>>,
    tells_keys: bool,
    key_error: Option<ErrorKind>,
    read_error: Arc<Mutex<Option<ErrorKind>>>,
    journal: Journal,
}

fn name() -> TableName {
    TableName::new("t")
}

fn table() -> Table {
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("part", DataType::Utf8, true),
        Field::new("version", DataType::Int64, true),
    ];
    Table { cursor_field: Some("version".into()), ..Table::new(name(), fields) }
        .with_primary_key(["id", "part"])
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(table().schema, columns).unwrap()
}

#[async_trait]
impl Source for Shop {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(vec![table()])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn partitions(&self, _plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(vec![Partition::whole(&name())])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let table = &plan.tables[&name()];
        let from = state.table_cursor(&name()).map_or(0, |cursor| cursor.0.as_i64().unwrap());
        self.journal.note(format!("read from {from}"));
        let mut rows = self.rows.lock().unwrap().clone();
        rows.retain(|row| row.2 > from);
        let to = rows.iter().map(|row| row.2).fold(from, i64::max);
        let rows = batch(&rows);
        output.batch(Batch { table: Arc::clone(&table.source), op: Op::Upsert, rows }).await?;
        output.checkpoint(Checkpoint::of(CursorKey::Table(name()), json!(to))).await?;
        match *self.read_error.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "The line broke")),
            None => Ok(Completion::Complete),
        }
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        let shop = self.clone();
        let read = move || {
            shop.journal.note("keys of the source");
            if let Some(kind) = shop.key_error {
                return Err(Error::new(kind, "The keys cannot be told"));
            }
            if let Some(later) = shop.later.lock().unwrap().take() {
                *shop.rows.lock().unwrap() = later;
            }
            Ok(vec![batch(&shop.rows.lock().unwrap())])
        };
        self.tells_keys.then(|| Box::new(Keys::new(table, read)) as Box<dyn KeyDigests>)
    }
}

struct Bench {
    source: Shop,
    memory: Memory,
    request: SyncRequest,
    journal: Journal,
}

impl Bench {
    fn new(write_mode: WriteMode, rows: &[Row]) -> Self {
        let journal = Journal::default();
        let memory = Memory::new("d", journal.clone());
        let source = Shop {
            rows: Arc::new(Mutex::new(rows.to_vec())),
            later: Arc::default(),
            tells_keys: true,
            key_error: None,
            read_error: Arc::default(),
            journal: journal.clone(),
        };
        let request = SyncRequest {
            sync: "shop".into(),
            tables: vec![TableOptions {
                name: "*".into(),
                read_mode: Some(ReadMode::Incremental),
                deletes: Some(Deletes::Reconcile),
                ..TableOptions::default()
            }],
            skip_tables: vec![],
            targets: vec![Target { write_mode, ..Target::new("d", Arc::new(memory.clone())) }],
            state_table: None,
        };
        Self { source, memory, request, journal }
    }

    async fn run(&self) -> Summary {
        let options = RunOptions {
            take_over: false,
            tasks_max: 2,
            stop: StopSignal::default(),
            observer: Arc::new(Silent),
        };
        sync(Arc::new(self.source.clone()), &self.request, &options).await.unwrap()
    }

    /// How many rows a complete run deletes.
    async fn deletes(&self) -> u64 {
        let summary = self.run().await;
        assert_eq!(summary.outcome(), Outcome::Complete, "{summary:?}");
        summary.destinations[0].tables[0].rows_deleted
    }

    fn set(&self, rows: &[Row]) {
        *self.source.rows.lock().unwrap() = rows.to_vec();
    }

    /// What of a table's columns is there, sorted.
    fn shown(&self, name: &str, columns: &[&str]) -> Vec<String> {
        let rows = self.memory.rows(&TableName::new(name)).unwrap_or_default();
        let schema = rows[0].schema();
        let at: Vec<_> = columns.iter().map(|c| schema.index_of(c).unwrap()).collect();
        let row = |row: &Vec<Option<String>>| {
            let values = at.iter().map(|at| row[*at].clone().unwrap_or_else(|| "-".to_owned()));
            values.collect::<Vec<_>>().join(" ")
        };
        let mut shown: Vec<_> = texts(&rows, &schema).iter().map(row).collect();
        shown.sort();
        shown
    }

    fn keys(&self) -> Vec<String> {
        self.shown("t", &["id", "part"])
    }
}

const THREE: [Row; 3] = [(1, Some("a"), 1), (1, None, 2), (2, Some("a"), 3)];

#[tokio::test]
async fn what_the_source_has_lost_is_deleted_without_a_whole_read() {
    for mode in [WriteMode::Overwrite, WriteMode::AppendDedup, WriteMode::OverwriteDeleteStale] {
        let mut bench = Bench::new(mode, &THREE);
        bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
        assert_eq!(bench.deletes().await, 0, "{mode}");
        assert!(!bench.journal.lines().contains(&"keys of the source".to_owned()), "{mode}");
        // Another row with the same text when its columns are put together, and a late one.
        bench.set(&[(1, Some("a"), 1), (2, Some("a"), 3), (12, None, 4)]);
        assert_eq!(bench.deletes().await, 1, "{mode}");
        assert_eq!(bench.keys(), ["1 a", "12 -", "2 a"], "{mode}");
        let reads = bench.journal.lines().into_iter().filter(|line| line.starts_with("read"));
        assert_eq!(reads.collect::<Vec<_>>(), ["read from 0", "read from 3"], "{mode}");
        assert_eq!(bench.deletes().await, 0, "{mode}");
    }
}

#[tokio::test]
async fn a_deletion_has_a_record_and_a_tombstone() {
    let bench = Bench::new(WriteMode::AppendDedup, &THREE);
    bench.deletes().await;
    bench.set(&THREE[..2]);
    assert_eq!(bench.deletes().await, 1);
    let history = bench.shown("t_history", &["id", "part", "version"]);
    assert_eq!(history, ["1 - 2", "1 a 1", "2 a 3", "2 a 3"]);
    // A newer row with the key lives again.
    bench.set(&[THREE[0], THREE[1], (2, Some("a"), 7)]);
    assert_eq!(bench.deletes().await, 0);
    assert_eq!(bench.keys(), ["1 -", "1 a", "2 a"]);
}

#[tokio::test]
async fn the_source_is_looked_at_when_the_rows_are_committed() {
    let bench = Bench::new(WriteMode::Overwrite, &THREE);
    bench.deletes().await;
    // A row comes back and another goes while the sync runs; a third is committed late, with a
    // cursor that is passed.
    bench.set(&[THREE[0]]);
    let late = (8, Some("late"), 1);
    *bench.source.later.lock().unwrap() = Some(vec![THREE[2], late]);
    assert_eq!(bench.deletes().await, 2);
    assert_eq!(bench.keys(), ["2 a"], "what the destination lacks is left to the cursor");
    let lines = bench.journal.lines();
    let at = |start: &str| lines.iter().rposition(|line| line.starts_with(start)).unwrap();
    assert!(at("read from") < at("keys of the source"), "{lines:#?}");
    assert!(at("keys of the source") < at("commit d deletions of t"), "{lines:#?}");
    assert!(at("commit d deletions of t") < at("finish d"), "{lines:#?}");
}

#[tokio::test]
async fn rows_of_another_sync_stay() {
    let mut bench = Bench::new(WriteMode::Overwrite, &THREE);
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    bench.deletes().await;
    bench.request.sync = "another".into();
    bench.set(&[(9, None, 1), (9, Some("x"), 2)]);
    bench.deletes().await;
    assert_eq!(bench.keys().len(), 5);
    bench.set(&[(9, None, 1)]);
    assert_eq!(bench.deletes().await, 1);
    assert_eq!(bench.keys(), ["1 -", "1 a", "2 a", "9 -"]);
}

#[tokio::test]
async fn a_mass_deletion_is_refused_and_the_rows_that_were_read_stay() {
    let many: Vec<Row> = (1..=40).map(|id| (id, None, id)).collect();
    let mut bench = Bench::new(WriteMode::AppendDedup, &many);
    bench.deletes().await;
    let left: Vec<Row> = (14..=41).map(|id| (id, None, id)).collect();
    for (rows, message) in [(&left[..], "13 of 41 rows"), (&[], "41 of 41 rows")] {
        bench.set(rows);
        for _ in 0..2 {
            let summary = bench.run().await;
            assert_eq!(summary.outcome(), Outcome::Partial, "{summary:?}");
            let failure = summary.destinations[0].tables[0].error.as_ref().unwrap();
            assert!(failure.message.starts_with(message), "{failure:?}");
            assert!(failure.hint.as_ref().unwrap().contains("--allow-mass-delete"));
            assert_eq!(bench.keys().len(), 41);
            assert_eq!(bench.shown("t_history", &["id"]).len(), 41);
        }
    }
    bench.set(&left);
    bench.request.tables[0].allow_mass_delete = true;
    assert_eq!(bench.deletes().await, 13);
    assert_eq!(bench.keys().len(), 28);
    bench.request.tables[0].allow_mass_delete = false;
    bench.request.targets[0].allow_mass_delete = true;
    bench.set(&[]);
    assert_eq!(bench.deletes().await, 28);
}

#[tokio::test]
async fn after_an_error_nothing_is_deleted() {
    let mut bench = Bench::new(WriteMode::Overwrite, &THREE);
    bench.deletes().await;
    bench.set(&THREE[..2]);
    *bench.source.read_error.lock().unwrap() = Some(ErrorKind::Transient);
    assert_ne!(bench.run().await.outcome(), Outcome::Complete);
    *bench.source.read_error.lock().unwrap() = None;
    bench.source.key_error = Some(ErrorKind::Unsupported);
    let summary = bench.run().await;
    let failure = summary.destinations[0].tables[0].error.as_ref().unwrap();
    assert!(failure.hint.as_ref().unwrap().starts_with("sweep: 1d"), "{failure:?}");
    bench.source.key_error = None;
    // The rows' commit, and the one of the deletions.
    bench.memory.fail(Operation::Commit, 2, Fault::Reject(ErrorKind::Transient));
    assert_ne!(bench.run().await.outcome(), Outcome::Complete);
    assert_eq!(bench.keys().len(), 3);
    assert_eq!(bench.deletes().await, 1);
    assert_eq!(bench.keys(), ["1 -", "1 a"]);
}

#[tokio::test]
async fn a_key_is_followed_where_it_is_renamed_and_not_where_it_is_hidden() {
    let rename = Mapping::Rename { column: "id".into(), to: "number".into() };
    let hash = Mapping::Hash { column: "part".into(), to: "part".into(), method: HashMethod::Md5 };
    for (mapping, compares) in [(rename, true), (hash, false)] {
        let mut bench = Bench::new(WriteMode::Overwrite, &THREE);
        bench.request.tables[0].mappings = vec![mapping];
        bench.deletes().await;
        bench.set(&THREE[..2]);
        assert_eq!(bench.deletes().await, 1);
        assert_eq!(bench.memory.rows(&name()).unwrap().len(), 3, "an empty one and two rows");
        let lines = bench.journal.lines();
        assert_eq!(lines.contains(&"keys of the source".to_owned()), compares);
        assert_eq!(lines.contains(&"read from 3".to_owned()), compares);
    }
}

#[tokio::test]
async fn where_keys_are_not_told_the_table_is_read_as_a_whole_and_a_note_says_why() {
    let mut bench = Bench::new(WriteMode::Overwrite, &THREE);
    bench.source.tells_keys = false;
    bench.deletes().await;
    bench.set(&THREE[1..]);
    let summary = bench.run().await;
    let table = &summary.destinations[0].tables[0];
    assert_eq!((table.rows_deleted, table.rows_read), (1, 2));
    let said = "Deleted rows are found by reading the whole table in every sync: the source";
    assert!(table.notes.iter().any(|note| note.starts_with(said)), "{:?}", table.notes);
}

#[tokio::test]
async fn with_sweeps_keys_are_not_compared() {
    let mut bench = Bench::new(WriteMode::Overwrite, &THREE);
    bench.request.tables[0].sweep_seconds = Some(3600);
    bench.deletes().await;
    bench.set(&THREE[1..]);
    assert_eq!(bench.deletes().await, 0, "no sweep is due");
    bench.request.tables[0].sweep_seconds = Some(0);
    assert_eq!(bench.deletes().await, 1);
    assert!(!bench.journal.lines().contains(&"keys of the source".to_owned()));
}
