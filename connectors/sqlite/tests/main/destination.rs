//! What is special about SQLite as a destination: storage classes, locks, one file for all.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use highwater_core::{
    Checkpoint, Connector, ErrorKind, Message, Op, Output, State, Table, TableName, WriteMode,
};
use highwater_sqlite::SqliteConnector;
use highwater_testkit::job::{Job, Run, sync, try_sync, upsert};
use highwater_testkit::tables::{item, item_table, items, loose_item_table};

use crate::support::{File, plan_of, planned};

fn empty() -> File {
    File::new("PRAGMA user_version = 1")
}

fn one_column(field: Field, column: ArrayRef) -> (Table, RecordBatch) {
    let table = Table::new(TableName::new("t"), vec![field]);
    let rows = RecordBatch::try_new(table.schema.clone(), vec![column]).unwrap();
    (table, rows)
}

#[tokio::test]
async fn a_float_that_would_be_changed_is_refused_by_name() {
    for wrong in [f64::NAN, -0.0] {
        let column = Arc::new(Float64Array::from(vec![1.5, wrong]));
        let (table, rows) = one_column(Field::new("score", DataType::Float64, true), column);
        let job = Job::new(table, WriteMode::Append);
        let file = empty();
        let error = try_sync(&file, &job, &[upsert(&rows)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert_eq!(error.context_value("column"), Some("score"));
        assert_eq!(file.rows("SELECT name FROM sqlite_schema WHERE name = 't'"), [""; 0]);
    }
}

#[tokio::test]
async fn text_is_not_put_where_it_would_become_a_number() {
    // STRING says nothing to SQLite: such a column turns '007' into 7.
    let file = File::new("CREATE TABLE t (code STRING); INSERT INTO t VALUES ('a')");
    let column = Arc::new(StringArray::from(vec!["007"]));
    let (table, rows) = one_column(Field::new("code", DataType::Utf8, true), column);
    let job = Job::new(table, WriteMode::Append);
    let error = try_sync(&file, &job, &[upsert(&rows)]).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Schema, Some("code")));
    assert_eq!(file.rows("SELECT code FROM t"), ["a"]);
}

#[tokio::test]
async fn a_swap_keeps_what_belongs_to_the_table() {
    let file = empty();
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::Replace);
    sync(&file, &job, &[upsert(&items(&table, &[item(1, "a", 1)]))]).await;
    file.run(
        "CREATE INDEX by_value ON items (value); CREATE VIEW v AS SELECT value FROM items;
         CREATE TABLE log (id); CREATE TRIGGER seen AFTER INSERT ON items BEGIN
         INSERT INTO log VALUES (new.id); END;",
    );
    let name = [TableName::new("items")];
    let identity = |described: Vec<Option<highwater_core::ExistingTable>>| {
        described.into_iter().next().flatten().unwrap().identity
    };
    let before = identity(file.destination().await.describe(&name).await.unwrap());
    sync(&file, &job, &[upsert(&items(&table, &[item(2, "b", 1)]))]).await;
    let after = identity(file.destination().await.describe(&name).await.unwrap());
    assert!(before.is_some() && after.is_some() && before != after);
    assert_eq!(file.rows("SELECT value FROM v"), ["b"]);
    let kept = "SELECT name FROM sqlite_schema WHERE name IN ('by_value', 'seen') ORDER BY name";
    assert_eq!(file.rows(kept), ["by_value", "seen"]);
    assert_eq!(file.rows("SELECT name FROM sqlite_schema WHERE name GLOB '*_new'"), [""; 0]);
}

#[tokio::test]
async fn a_key_that_may_be_null_survives_every_swap() {
    let file = empty();
    let table = loose_item_table("items", &["id"]);
    let job = Job::new(table.clone(), WriteMode::Replace);
    for value in ["a", "b", "c"] {
        sync(&file, &job, &[upsert(&items(&table, &[item(1, value, 1)]))]).await;
        let described =
            file.destination().await.describe(&[TableName::new("items")]).await.unwrap();
        assert_eq!(described[0].as_ref().unwrap().table.primary_key, ["id"]);
    }
}

#[tokio::test]
async fn what_an_abandoned_run_left_beside_is_removed_by_the_next() {
    let file = empty();
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::Replace);
    let run = Run::open(&file, &job).await;
    let mut writer = run.writer().await;
    let rows = items(&table, &[item(1, "a", 1)]);
    writer.write(run.batch(Op::Upsert, &rows)).await.unwrap();
    writer.commit(&Checkpoint::default()).await.unwrap();
    let beside = "SELECT name FROM sqlite_schema WHERE name GLOB '_highwater_*_new'";
    assert_eq!(file.rows(beside), ["_highwater_items_eb86332c_new"]);
    let other = Job::new(item_table("others"), WriteMode::Append);
    let run = Run::open(&file, &other.of_sync("another sync")).await;
    assert_eq!(file.rows(beside), ["_highwater_items_eb86332c_new"], "not ours to remove");
    run.release().await;
    Run::open(&file, &other).await;
    assert_eq!(file.rows(beside), [""; 0]);
}

#[tokio::test]
async fn more_rows_than_memory_may_hold_are_one_commit_all_the_same() {
    let file = empty();
    let text = "x".repeat(1 << 20);
    let column = Arc::new(StringArray::from(vec![text.as_str(); 8]));
    let (table, rows) = one_column(Field::new("s", DataType::Utf8, true), column);
    let run = Run::open(&file, &Job::new(table, WriteMode::Append)).await;
    let mut writer = run.writer().await;
    for _ in 0..6 {
        writer.write(run.batch(Op::Upsert, &rows)).await.unwrap();
    }
    assert_eq!(file.rows("SELECT name FROM sqlite_schema WHERE name = 't'"), [""; 0]);
    let store = run.destination.state_store().unwrap();
    store.renew(&run.fence).await.expect("a lease is alive while its own transaction is open");
    writer.commit(&run.checkpoint(1)).await.unwrap();
    assert_eq!(file.rows("SELECT count(*), sum(length(s)) FROM t"), ["48|50331648"]);
    store.renew(&run.fence).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_can_be_source_and_destination_at_once() {
    let file = File::new(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, s TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
         INSERT INTO orders SELECT i, 'row ' || i FROM n",
    );
    let source_table = file.table("orders").await;
    let mut target = source_table.clone();
    target.name = TableName::new("copy");
    let run = Run::open(&file, &Job::new(target, WriteMode::Overwrite)).await;
    let mut writer = run.writer().await;
    let plan = plan_of(planned(source_table, None));
    let source = file.source().await;
    let partitions = source.partitions(&plan, &State::default()).await.unwrap();
    let (output, mut messages) = Output::bounded(1, Arc::new(AtomicBool::new(false)));
    let reading =
        tokio::spawn(
            async move { source.read(&plan, &partitions[0], &State::default(), output).await },
        );
    let mut sequence = 0;
    while let Some(message) = messages.recv().await {
        let Message::Batch(batch) = message else { continue };
        writer.write(run.batch(Op::Upsert, &batch.rows)).await.unwrap();
        sequence += 1;
        // The reader still holds its snapshot while this is committed.
        writer.commit(&run.checkpoint(sequence)).await.unwrap();
    }
    reading.await.unwrap().unwrap();
    assert!(sequence > 1);
    let differ = "SELECT count(*) FROM (SELECT * FROM orders EXCEPT SELECT * FROM copy)";
    assert_eq!(file.rows(differ), ["0"]);
    assert_eq!(file.rows("SELECT count(*) FROM copy"), ["30000"]);
}

#[tokio::test]
async fn a_destination_that_cannot_be_written_says_so_before_anything_is_read() {
    let file = File::new("CREATE TABLE t (a)");
    let name = format!("file:{}?mode=ro", file.path.display());
    let spec = serde_json::json!({ "connection_string": name });
    let error = SqliteConnector.destination(spec).await.unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.message(), "The database cannot be written");

    let nowhere = file.path.with_file_name("none").join("x.db");
    let spec = serde_json::json!({ "connection_string": nowhere });
    let error = SqliteConnector.destination(spec).await.unwrap().check().await.unwrap_err();
    assert!(error.hint_text().unwrap().starts_with("mkdir -p"));

    let fresh = file.path.with_file_name("fresh.db");
    let spec = serde_json::json!({ "connection_string": fresh });
    SqliteConnector.destination(spec).await.unwrap().check().await.unwrap();
    assert!(!fresh.exists(), "a check leaves nothing behind");
}

#[tokio::test]
async fn a_namespace_is_refused_because_there_are_none() {
    let file = empty();
    let name = TableName::in_namespace("public", "items");
    let destination = file.destination().await;
    assert_eq!(destination.target_name(&name), TableName::new("items"));
    let error = destination.describe(&[name]).await.unwrap_err();
    assert_eq!(error.hint_text(), Some("target: public_items"));
}

#[tokio::test]
async fn integers_that_are_keys_and_cursors_stay_integers() {
    let file = empty();
    let column: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX]));
    let (table, rows) = one_column(Field::new("id", DataType::Int64, false), column);
    let job = Job::new(table.with_primary_key(["id"]), WriteMode::Overwrite);
    sync(&file, &job, &[upsert(&rows)]).await;
    let stored = "SELECT id, typeof(id) FROM t ORDER BY id";
    assert_eq!(
        file.rows(stored),
        ["-9223372036854775808|integer", "0|integer", "9223372036854775807|integer"]
    );
}

#[tokio::test]
async fn keys_with_several_texts_are_refused() {
    use highwater_core::types::{NUMERIC, extension_field};
    let field = extension_field("id", DataType::Utf8, NUMERIC);
    let (table, rows) = one_column(field, Arc::new(StringArray::from(vec!["1.0"])));
    let job = Job::new(table.with_primary_key(["id"]), WriteMode::Overwrite);
    let error = try_sync(&empty(), &job, &[upsert(&rows)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context_value("column"), Some("id"));
}
