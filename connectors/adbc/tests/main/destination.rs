//! What is special about DuckDB as a destination: keys without an index, comments that say what
//! types do not, one process per file, memory.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use highwater_adbc::DuckDbConnector;
use highwater_core::types::{NUMERIC, extension_field};
use highwater_core::{Checkpoint, Connector, ErrorKind, Op, Table, TableName, WriteMode};
use highwater_testkit::job::{Job, Run, sync, try_sync, upsert};
use highwater_testkit::tables::{item, item_table, items};

use crate::support::File;

fn one_column(field: Field, column: ArrayRef) -> (Table, RecordBatch) {
    let table = Table::new(TableName::new("t"), vec![field]);
    let rows = RecordBatch::try_new(table.schema.clone(), vec![column]).unwrap();
    (table, rows)
}

#[tokio::test]
async fn comments_keep_the_key_and_what_types_do_not_say() {
    let Some(file) = File::new() else { return };
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("wide", DataType::Decimal256(60, 5), true),
        extension_field("numbers", DataType::Utf8, NUMERIC),
    ];
    let table = Table::new(TableName::new("t"), fields).with_primary_key(["id"]);
    let rows = RecordBatch::new_empty(table.schema.clone());
    let job = Job::new(table, WriteMode::Overwrite);
    sync(&file, &job, &[upsert(&rows)]).await;
    let types = "SELECT column_name, data_type, coalesce(comment, '-') FROM duckdb_columns() \
                 WHERE table_name = 't' ORDER BY column_index";
    assert_eq!(
        file.rows(types),
        [
            "id|BIGINT|-",
            "wide|VARCHAR|highwater: decimal(60,5)",
            "numbers|VARCHAR|highwater: numeric"
        ]
    );
    file.run("ALTER TABLE t RENAME TO u; ALTER TABLE u ADD COLUMN more INTEGER; ALTER TABLE u RENAME TO t");
    let described = file.destination().await.describe(&[TableName::new("t")]).await.unwrap();
    let there = described[0].as_ref().unwrap();
    assert_eq!(there.table.primary_key, ["id"]);
    assert!(there.identity.is_some());
    assert_eq!(there.table.field("wide").unwrap().data_type(), &DataType::Decimal256(60, 5));
}

#[tokio::test]
async fn a_swap_keeps_what_a_user_has_made() {
    let Some(file) = File::new() else { return };
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::Replace);
    sync(&file, &job, &[upsert(&items(&table, &[item(1, "a", 1)]))]).await;
    let mark = file.rows("SELECT comment FROM duckdb_tables() WHERE table_name = 'items'");
    file.run(&format!("COMMENT ON TABLE items IS 'All items. {}'", mark[0]));
    file.run("CREATE INDEX by_value ON items (value); CREATE VIEW v AS SELECT value FROM items");
    sync(&file, &job, &[upsert(&items(&table, &[item(2, "b", 1)]))]).await;
    assert_eq!(file.rows("SELECT value FROM v"), ["b"]);
    assert_eq!(file.rows("SELECT index_name FROM duckdb_indexes()"), ["by_value"]);
    let comment = file.rows("SELECT comment FROM duckdb_tables() WHERE table_name = 'items'");
    assert!(comment[0].starts_with("All items. highwater: {"), "{comment:?}");
    let described = file.destination().await.describe(&[TableName::new("items")]).await.unwrap();
    assert_eq!(described[0].as_ref().unwrap().table.primary_key, ["id"]);
}

#[tokio::test]
async fn tables_of_others_with_indexes_and_other_columns_are_merged_into() {
    let Some(file) = File::new() else { return };
    let table = item_table("items");
    file.run(
        "CREATE TABLE items (extra VARCHAR, updated_at BIGINT, value VARCHAR, id BIGINT PRIMARY KEY);
         CREATE UNIQUE INDEX u ON items (extra);
         INSERT INTO items VALUES ('x', 1, 'old', 1), ('y', 1, 'stays', 9)",
    );
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    let rows = items(&table, &[item(1, "new", 2), item(2, "b", 2)]);
    sync(&file, &job, &[upsert(&rows)]).await;
    let stored = "SELECT id, value, coalesce(extra, '-') FROM items ORDER BY id";
    assert_eq!(file.rows(stored), ["1|new|x", "2|b|-", "9|stays|y"]);
    let job = Job::new(table.clone(), WriteMode::Append).of_sync("more");
    sync(&file, &job, &[upsert(&items(&table, &[item(3, "c", 3)]))]).await;
    assert_eq!(file.rows(stored), ["1|new|x", "2|b|-", "3|c|-", "9|stays|y"]);
}

#[tokio::test]
async fn all_commits_of_a_first_load_are_folded() {
    let Some(file) = File::new() else { return };
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    let run = Run::open(&file, &job).await;
    let mut writer = run.writer().await;
    let write =
        |rows: &[highwater_testkit::tables::Item]| run.batch(Op::Upsert, &items(&table, rows));
    writer.write(write(&[item(1, "a", 1), item(2, "b", 1), item(1, "c", 1)])).await.unwrap();
    writer.write(write(&[item(3, "d", 1), item(2, "e", 1)])).await.unwrap();
    let done = writer.commit(&run.checkpoint(1)).await.unwrap();
    let done = done[&table.name];
    assert_eq!((done.written, done.unchanged), (3, 2));
    writer.write(write(&[item(1, "c", 1), item(3, "f", 1), item(4, "g", 1)])).await.unwrap();
    let done = writer.commit(&run.checkpoint(2)).await.unwrap()[&table.name];
    assert_eq!((done.written, done.unchanged), (3, 0));
    let stored = "SELECT id, value FROM items ORDER BY id";
    assert_eq!(file.rows(stored), ["1|c", "2|e", "3|f", "4|g"]);
    let gone = items(&table, &[item(3, "", 9).deletion()]);
    writer.write(run.batch(Op::Delete, &gone)).await.unwrap();
    writer.write(write(&[item(4, "h", 1), item(5, "i", 1)])).await.unwrap();
    let done = writer.commit(&run.checkpoint(3)).await.unwrap()[&table.name];
    assert_eq!((done.written, done.deleted), (2, 1));
    assert_eq!(file.rows(stored), ["1|c", "2|e", "4|h", "5|i"]);
}

#[tokio::test]
async fn more_rows_than_memory_may_hold_are_one_commit_all_the_same() {
    let Some(file) = File::new() else { return };
    let text = "x".repeat(1 << 20);
    let column = Arc::new(StringArray::from(vec![text.as_str(); 8]));
    let (table, rows) = one_column(Field::new("s", DataType::Utf8, true), column);
    let run = Run::open(&file, &Job::new(table, WriteMode::Append)).await;
    let mut writer = run.writer().await;
    for _ in 0..6 {
        writer.write(run.batch(Op::Upsert, &rows)).await.unwrap();
    }
    assert_eq!(file.rows("SELECT table_name FROM duckdb_tables() WHERE table_name = 't'"), [""; 0]);
    let store = run.destination.state_store().unwrap();
    store.renew(&run.fence).await.expect("a lease is alive while its own transaction is open");
    writer.commit(&run.checkpoint(1)).await.unwrap();
    assert_eq!(file.rows("SELECT count(*), sum(length(s))::BIGINT FROM t"), ["48|50331648"]);
    store.renew(&run.fence).await.unwrap();
}

#[tokio::test]
async fn what_an_abandoned_run_left_beside_is_removed_by_the_next() {
    let Some(file) = File::new() else { return };
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::Replace);
    let run = Run::open(&file, &job).await;
    let mut writer = run.writer().await;
    let rows = items(&table, &[item(1, "a", 1)]);
    writer.write(run.batch(Op::Upsert, &rows)).await.unwrap();
    writer.commit(&Checkpoint::default()).await.unwrap();
    drop(writer);
    let beside = "SELECT table_name FROM duckdb_tables() WHERE table_name GLOB '_highwater_*_new'";
    assert_eq!(file.rows(beside).len(), 1);
    let other = Job::new(item_table("others"), WriteMode::Append);
    Run::open(&file, &other.of_sync("another sync")).await.release().await;
    assert_eq!(file.rows(beside).len(), 1, "not ours to remove");
    Run::open(&file, &other).await.release().await;
    assert_eq!(file.rows(beside), [""; 0]);
}

#[tokio::test]
async fn a_destination_that_cannot_be_written_says_so_before_anything_is_read() {
    let Some(file) = File::new() else { return };
    let at = |path: &std::path::Path| {
        let mut spec = file.spec();
        spec["connection_string"] = serde_json::json!(path);
        spec
    };
    let nowhere = file.path.with_file_name("none").join("x.duckdb");
    let destination = DuckDbConnector.destination(at(&nowhere)).await.unwrap();
    let error = destination.check().await.unwrap_err();
    assert!(error.hint_text().unwrap().starts_with("mkdir -p"));

    let text = file.path.with_file_name("text.duckdb");
    std::fs::write(&text, "this is certainly not a database, but a text".repeat(400)).unwrap();
    let error = DuckDbConnector.destination(at(&text)).await.unwrap().check().await.unwrap_err();
    assert_eq!(error.message(), "The file is not a DuckDB database");

    let fresh = file.path.with_file_name("fresh.duckdb");
    DuckDbConnector.destination(at(&fresh)).await.unwrap().check().await.unwrap();
    assert!(!fresh.exists(), "a check leaves nothing behind");
}

#[tokio::test]
async fn a_library_that_is_missing_is_an_error_with_ways_to_get_it() {
    let spec = serde_json::json!({ "connection_string": "x.duckdb", "library": "/nowhere.so" });
    let error = DuckDbConnector.destination(spec).await.unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint_text().unwrap().contains("npm install"));
}

#[tokio::test]
async fn a_key_whose_values_have_several_forms_is_refused() {
    let Some(file) = File::new() else { return };
    let field = extension_field("id", DataType::Utf8, NUMERIC);
    let (table, rows) = one_column(field, Arc::new(StringArray::from(vec!["1.0"])));
    let job = Job::new(table.with_primary_key(["id"]), WriteMode::Overwrite);
    let error = try_sync(&file, &job, &[upsert(&rows)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context_value("column"), Some("id"));
}

#[tokio::test]
async fn numbers_that_are_text_are_ordered_as_numbers() {
    let Some(file) = File::new() else { return };
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        extension_field("updated_at", DataType::Utf8, NUMERIC),
    ];
    let table = Table::new(TableName::new("t"), fields).with_primary_key(["id"]);
    let rising = [
        "-Infinity",
        "-125",
        "-12.5",
        "-0.001",
        "0.00",
        "0.0009",
        "1.5",
        "9",
        "10",
        "Infinity",
        "NaN",
    ];
    let job = Job::new(table.clone(), WriteMode::AppendDedup);
    for cursor in &rising {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![1])), Arc::new(StringArray::from(vec![*cursor]))];
        let rows = RecordBatch::try_new(table.schema.clone(), columns).unwrap();
        sync(&file, &job, &[upsert(&rows)]).await;
        assert_eq!(file.rows("SELECT updated_at FROM t"), [*cursor]);
    }
}
