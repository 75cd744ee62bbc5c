//! The commit protocol: who may commit, what a plain reader sees, what the log remembers.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use highwater_core::*;
use highwater_testkit::job::total;
use serde_json::{Value, json};

use crate::support::*;

struct Site {
    out: Folder,
}

fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    let array: ArrayRef = Arc::new(range.collect::<Int64Array>());
    RecordBatch::try_from_iter([("id", array)]).unwrap()
}

fn table() -> Table {
    let fields = numbers(0..0).schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    Table::new(TableName::new("t"), fields)
}

fn batch(range: std::ops::Range<i64>) -> Batch {
    Batch { table: Arc::new(table()), op: Op::Upsert, rows: numbers(range) }
}

fn cursor(at: i64) -> Checkpoint {
    Checkpoint::of(CursorKey::Table(TableName::new("t")), json!(at))
}

fn partition() -> Partition {
    Partition { tables: vec![TableName::new("t")], id: String::new(), bounds: Value::Null }
}

/// A run that has opened the state and a writer.
struct Run {
    destination: Box<dyn Destination>,
    plan: Plan,
    state: State,
    fence: Fence,
    writer: Box<dyn Writer>,
}

impl Site {
    fn new() -> Self {
        Self { out: Folder::new() }
    }

    async fn run(&self, mode: WriteMode) -> Run {
        let destination = destination(self.out.spec()).await;
        let plan = plan(vec![table()], ReadMode::Incremental, mode);
        let state = destination.state_store().unwrap().open("s", &request()).await.unwrap();
        let fence = state.fence.clone().unwrap();
        let writer = destination.writer(&plan, &partition(), &fence).await.unwrap();
        Run { destination, plan, state, fence, writer }
    }

    fn log(&self) -> std::path::PathBuf {
        let logs = std::fs::read_dir(self.out.0.path().join("_highwater")).unwrap();
        let mut logs = logs.map(|entry| entry.unwrap().path());
        let of_sync = |path: &std::path::PathBuf| {
            path.file_name().unwrap().to_str().unwrap().starts_with("s-")
        };
        logs.find(of_sync).unwrap()
    }

    fn entries(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.log())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with(".json"))
            .collect();
        names.sort();
        names
    }

    fn staged(&self) -> usize {
        std::fs::read_dir(self.log().join("stage")).unwrap().count()
    }

    async fn rows(&self) -> Vec<i64> {
        let rows = read_one(self.out.spec()).await;
        let mut ids: Vec<i64> =
            rows.into_iter().map(|r| r[0].as_ref().unwrap().parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    }
}

#[tokio::test]
async fn rows_are_visible_with_their_cursor_and_not_before() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    assert_eq!(run.fence.epoch, 1);
    run.writer.write(batch(0..3)).await.unwrap();
    assert!(visible(site.out.0.path()).is_empty());
    let done = run.writer.commit(&cursor(3)).await.unwrap();
    assert_eq!(total(&done).written, 3);
    assert_eq!(site.rows().await, [0, 1, 2]);
    let state = run.destination.state_store().unwrap().look("s").await.unwrap();
    assert_eq!(state.table_cursor(&TableName::new("t")), Some(&Cursor(json!(3))));
    let record = &state.tables[&TableName::new("t")];
    assert_eq!((record.rows_total, record.columns.as_slice()), (3, &["id".to_owned()][..]));
    assert!(record.finished_epoch.is_none());
    let finished =
        run.destination.finish(&run.plan, &run.plan.tables[&TableName::new("t")], &run.fence);
    assert_eq!(finished.await.unwrap(), Committed::default());
    run.destination.state_store().unwrap().release(&run.fence).await.unwrap();
    let state = site.run(WriteMode::Append).await.state;
    assert_eq!(state.fence.unwrap().epoch, 2);
    assert_eq!(state.tables[&TableName::new("t")].finished_epoch, Some(1));
    assert_eq!(state.cursors.len(), 1);
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    run.writer.write(batch(0..3)).await.unwrap();
    assert_eq!(site.staged(), 1);
    drop(run);
    assert_eq!(site.staged(), 0);
    assert!(visible(site.out.0.path()).is_empty());
}

#[tokio::test]
async fn a_zombie_is_refused_and_changes_nothing() {
    let site = Site::new();
    let mut zombie = site.run(WriteMode::Append).await;
    zombie.writer.write(batch(0..3)).await.unwrap();
    let mut newer = site.run(WriteMode::Append).await;
    let refused = zombie.writer.commit(&cursor(3)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    let store = zombie.destination.state_store().unwrap();
    for refused in [
        store.renew(&zombie.fence).await,
        store.save(&zombie.fence, &cursor(9)).await,
        store.set(&zombie.fence, &CursorKey::Global, None).await,
        store.release(&zombie.fence).await,
        zombie
            .destination
            .finish(&zombie.plan, &zombie.plan.tables[&TableName::new("t")], &zombie.fence)
            .await
            .map(|_| ()),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Fenced);
    }
    newer.writer.write(batch(0..2)).await.unwrap();
    newer.writer.commit(&cursor(2)).await.unwrap();
    drop(zombie);
    assert_eq!(site.rows().await, [0, 1]);
    newer.destination.state_store().unwrap().renew(&newer.fence).await.unwrap();
}

#[tokio::test]
async fn a_living_run_keeps_its_lease() {
    let site = Site::new();
    let run = site.run(WriteMode::Append).await;
    let other = destination(site.out.spec()).await;
    let mut owner = Owner::this_process();
    owner.since = Instant(1);
    let asks = LeaseRequest { owner, take_over: false };
    let refused = other.state_store().unwrap().open("s", &asks).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    run.destination.state_store().unwrap().release(&run.fence).await.unwrap();
    other.state_store().unwrap().open("s", &asks).await.unwrap();
    let lease = other.state_store().unwrap().look("s").await.unwrap().lease.unwrap();
    assert!(!lease.released);
}

#[tokio::test]
async fn two_writers_of_one_run_share_the_log() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    let mut other = run.destination.writer(&run.plan, &partition(), &run.fence).await.unwrap();
    run.writer.write(batch(0..1)).await.unwrap();
    other.write(batch(1..2)).await.unwrap();
    let (first, second) = (cursor(1), Checkpoint::default());
    let (a, b) = tokio::join!(run.writer.commit(&first), other.commit(&second));
    assert_eq!(total(&a.unwrap()).written + total(&b.unwrap()).written, 2);
    assert_eq!(site.rows().await, [0, 1]);
    let state = run.destination.state_store().unwrap().look("s").await.unwrap();
    assert_eq!(state.tables[&TableName::new("t")].rows_total, 2);
}

#[tokio::test]
async fn each_entry_follows_from_the_one_before() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    for at in 1..4 {
        run.writer.write(batch(at..at + 1)).await.unwrap();
        run.writer.commit(&cursor(at)).await.unwrap();
    }
    let entries = site.entries();
    assert_eq!(entries.first().unwrap(), "00000000000000000001.json");
    assert_eq!(entries.len(), 4);
    // A changed entry is found, because the next one names its hash.
    let path = site.log().join(&entries[2]);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"rows\":1", "\"rows\":2")).unwrap();
    let error = run.destination.state_store().unwrap().look("s").await.unwrap_err();
    assert!(error.message().contains("damaged"), "{error}");
    std::fs::write(&path, text).unwrap();
    // What is before the last `open` is not needed.
    drop(run);
    drop(site.run(WriteMode::Append).await);
    for entry in entries {
        std::fs::remove_file(site.log().join(entry)).unwrap();
    }
    let state = site.run(WriteMode::Append).await.state;
    assert_eq!(state.table_cursor(&TableName::new("t")), Some(&Cursor(json!(3))));
    assert_eq!(state.fence.unwrap().epoch, 3);
}

#[tokio::test]
async fn a_dropped_folder_is_noticed_and_moved_files_are_not() {
    let site = Site::new();
    let name = [TableName::new("t")];
    let describe =
        async || destination(site.out.spec()).await.describe(&name).await.unwrap().remove(0);
    assert!(describe().await.is_none());
    let mut run = site.run(WriteMode::Append).await;
    for at in 0..2 {
        run.writer.write(batch(at..at + 1)).await.unwrap();
        run.writer.commit(&cursor(at)).await.unwrap();
    }
    let recorded = run.destination.state_store().unwrap().look("s").await.unwrap();
    let identity = recorded.tables[&name[0]].identity.clone();
    assert!(identity.is_some());
    assert_eq!(describe().await.unwrap().identity, identity);
    let files = visible(site.out.0.path());
    std::fs::remove_file(site.out.0.path().join(&files[0])).unwrap();
    assert_eq!(describe().await.unwrap().identity, identity);
    std::fs::remove_dir_all(site.out.0.path().join("t")).unwrap();
    site.out.put("t/somebody.parquet", "else");
    assert!(describe().await.is_none());
}

#[tokio::test]
async fn a_state_store_without_data() {
    let site = Site::new();
    let destination = destination(site.out.spec()).await;
    let store = destination.state_store().unwrap();
    assert_eq!(store.look("none").await.unwrap(), State::default());
    assert!(store.list().await.unwrap().is_empty());
    let fence = store.open("a/b", &request()).await.unwrap().fence.unwrap();
    let table = TableName::in_namespace("n", "t");
    let part = CursorKey::Partition(table.clone(), "x.csv".into());
    let mut checkpoint = Checkpoint::of(part.clone(), json!({"size": 5}));
    checkpoint.cursors.insert(CursorKey::Global, Cursor(json!("0/16B3748")));
    store.save(&fence, &checkpoint).await.unwrap();
    let record = TableRecord { rows_total: 7, ..TableRecord::default() };
    store.save_table(&fence, &table, &record).await.unwrap();
    store.renew(&fence).await.unwrap();
    assert_eq!(store.list().await.unwrap(), ["a/b"]);
    let state = store.look("a/b").await.unwrap();
    assert_eq!(state.cursors, checkpoint.cursors);
    assert_eq!(state.tables[&table], record);
    assert!(state.fence.is_none() && state.lease.is_some());
    store.set(&fence, &part, None).await.unwrap();
    store.set(&fence, &CursorKey::Global, Some(&Cursor(json!(1)))).await.unwrap();
    store.release(&fence).await.unwrap();
    let state = store.open("a/b", &request()).await.unwrap();
    assert!(state.tables.is_empty());
    assert_eq!(state.cursors.len(), 1);
    assert_eq!(state.fence.unwrap().epoch, 2);
}

#[tokio::test]
async fn data_whose_state_is_elsewhere_is_committed_all_the_same() {
    let site = Site::new();
    let destination = destination(site.out.spec()).await;
    let mut plan = plan(vec![table()], ReadMode::Incremental, WriteMode::Append);
    plan.state_with_data = false;
    let fence = Fence { sync: "s".into(), epoch: 41 };
    let mut writer = destination.writer(&plan, &partition(), &fence).await.unwrap();
    writer.write(batch(0..2)).await.unwrap();
    writer.commit(&cursor(2)).await.unwrap();
    destination.finish(&plan, &plan.tables[&TableName::new("t")], &fence).await.unwrap();
    assert_eq!(site.rows().await, [0, 1]);
    let state = destination.state_store().unwrap().look("s").await.unwrap();
    assert!(state.cursors.is_empty(), "the cursors are kept in the other store");
}

#[tokio::test]
async fn what_a_replace_staged_and_did_not_finish_is_forgotten() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Replace).await;
    run.writer.write(batch(0..2)).await.unwrap();
    run.writer.commit(&Checkpoint::default()).await.unwrap();
    assert!(visible(site.out.0.path()).is_empty());
    drop(run);
    assert_eq!(site.staged(), 1, "it is durable, in case the run goes on");
    let mut run = site.run(WriteMode::Replace).await;
    assert_eq!(site.staged(), 0);
    run.writer.write(batch(5..6)).await.unwrap();
    run.writer.commit(&Checkpoint::default()).await.unwrap();
    let plan = &run.plan.tables[&TableName::new("t")];
    for _ in 0..2 {
        run.destination.finish(&run.plan, plan, &run.fence).await.unwrap();
        assert_eq!(site.rows().await, [5]);
    }
}

#[tokio::test]
async fn deletes_are_refused() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    let refused = run.writer.write(Batch { op: Op::Delete, ..batch(0..1) }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn several_tables_are_one_entry() {
    let site = Site::new();
    let destination = destination(site.out.spec()).await;
    // By hyphens the names of two tables are one.
    let names = ["a_b", "a-b", "c"];
    let tables = names.map(|name| Table { name: TableName::new(name), ..table() });
    let plan = plan(tables.to_vec(), ReadMode::FullRefresh, WriteMode::Append);
    let fence = destination.state_store().unwrap().open("s", &request()).await.unwrap().fence;
    let fence = fence.unwrap();
    let partition = Partition {
        tables: tables.iter().map(|table| table.name.clone()).collect(),
        id: "all".into(),
        bounds: Value::Null,
    };
    let mut writer = destination.writer(&plan, &partition, &fence).await.unwrap();
    for round in 0..5 {
        for table in &tables[..2] {
            let rows = numbers(round..round + 1);
            let table = Arc::new(table.clone());
            writer.write(Batch { table, op: Op::Upsert, rows }).await.unwrap();
        }
    }
    let before = site.entries().len();
    let committed = writer.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(site.entries().len(), before + 1);
    assert_eq!(committed[&TableName::new("a-b")].written, 5);
    assert_eq!(total(&committed).written, 10);
    // A commit that changes nothing about the tables names none of them.
    writer.commit(&Checkpoint::default()).await.unwrap();
    let last = site.entries().pop().unwrap();
    let entry = std::fs::read_to_string(site.log().join(last)).unwrap();
    assert!(!entry.contains("a_b"), "{entry}");
}

#[tokio::test]
async fn files_of_one_name_by_hyphens_stay_two_files() {
    let out = Folder::new();
    let path = format!("{}/{{{{TABLE_HYPHEN}}}}.csv", out.0.path().display());
    let destination = destination(json!({"path": path, "format": "csv"})).await;
    let tables = ["a_b", "a-b"].map(|name| Table { name: TableName::new(name), ..table() });
    let plan = plan(tables.to_vec(), ReadMode::FullRefresh, WriteMode::Append);
    let fence = destination.state_store().unwrap().open("s", &request()).await.unwrap().fence;
    let partition = Partition {
        tables: tables.iter().map(|table| table.name.clone()).collect(),
        id: "all".into(),
        bounds: Value::Null,
    };
    let mut writer = destination.writer(&plan, &partition, &fence.unwrap()).await.unwrap();
    for table in tables {
        let batch = Batch { table: Arc::new(table), op: Op::Upsert, rows: numbers(0..2) };
        writer.write(batch).await.unwrap();
    }
    writer.commit(&Checkpoint::default()).await.unwrap();
    let files = std::fs::read_dir(out.0.path()).unwrap().map(|e| e.unwrap().file_name());
    let files = files.filter(|name| name.to_str().unwrap().ends_with(".csv"));
    assert_eq!(files.count(), 2);
}

#[tokio::test]
async fn rows_are_not_removed_from_files_and_the_error_says_what_does() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    let deletion =
        Deletion { table: TableName::new("t"), groups: Vec::new(), relations: Vec::new() };
    let error = run.writer.delete(&deletion).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context_value("table"), Some("t"));
    assert!(error.hint_text().unwrap().contains("write_mode: overwrite"));
}

#[tokio::test]
async fn a_table_that_another_sync_writes_is_not_made_anew() {
    let site = Site::new();
    let mut run = site.run(WriteMode::Append).await;
    run.writer.write(batch(0..3)).await.unwrap();
    run.writer.commit(&cursor(1)).await.unwrap();
    let destination = destination(site.out.spec()).await;
    let mut plan = plan(vec![table()], ReadMode::FullRefresh, WriteMode::Append);
    plan.sync = "other".into();
    for table in plan.tables.values_mut() {
        table.changes = vec![SchemaChange::Recreate];
    }
    let fence = destination.state_store().unwrap().open("other", &request()).await.unwrap().fence;
    let mut writer = destination.writer(&plan, &partition(), &fence.unwrap()).await.unwrap();
    writer.write(batch(5..6)).await.unwrap();
    let error = writer.commit(&Checkpoint::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert_eq!(error.context_value("other sync"), Some("s"));
    assert!(error.hint_text().is_some());
}
