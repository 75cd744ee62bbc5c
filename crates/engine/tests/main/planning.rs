//! What the plan chooses, notes and refuses.

use arrow_schema::{DataType, Field};
use highwater_core::{ErrorKind, ReadMode, SchemaChange, Table, TableName, WriteMode};
use highwater_engine::{ColumnOptions, Outcome, Planned, TableOptions, plan};
use highwater_testkit::scripted::Step;
use highwater_testkit::tables::item_table;

use crate::bench::{Bench, ids, upsert};

async fn planned(bench: &Bench) -> highwater_core::Result<Planned> {
    Ok(plan(&bench.source(), &bench.request).await?.remove(0))
}

async fn refusal(bench: &Bench) -> highwater_core::Error {
    planned(bench).await.map(|p| p.plan).unwrap_err()
}

fn bench() -> Bench {
    Bench::new(vec![upsert(0..3), Step::Checkpoint]).0
}

#[tokio::test]
async fn a_plan_touches_nothing() {
    let bench = bench();
    let planned = planned(&bench).await.unwrap();
    let table = &planned.plan.tables[&TableName::new("t")];
    assert_eq!(table.read_mode, ReadMode::Incremental);
    assert_eq!(table.changes, [SchemaChange::CreateTable]);
    assert_eq!(table.guarantee.to_string(), "exactly_once");
    assert!(bench.journal.lines().is_empty(), "{:?}", bench.journal.lines());
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_something_to_do() {
    let cases: [(&str, fn(&mut TableOptions)); 7] = [
        ("no such table", |t| t.name = "tt".into()),
        ("matches no table", |t| t.name = "x*".into()),
        ("no such column", |t| t.cursor = Some("updated".into())),
        ("no such column", |t| t.primary_key = Some(vec!["idd".into()])),
        ("needs a full refresh", |t| {
            t.write_mode = Some(WriteMode::Replace);
            t.read_mode = Some(ReadMode::Incremental);
        }),
        ("needs a cursor field", |t| {
            t.cursor = None;
            t.write_mode = Some(WriteMode::AppendDedup);
        }),
        ("leaves out", |t| {
            t.columns = Some(vec![ColumnOptions { name: "value".into(), as_type: None }]);
        }),
    ];
    for (words, change) in cases {
        let mut bench = bench();
        change(&mut bench.request.tables[0]);
        let error = refusal(&bench).await;
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(words), "{error}");
        assert!(error.hint_text().is_some(), "{error}");
    }
}

#[tokio::test]
async fn two_tables_never_meet_in_one() {
    let mut bench = bench();
    bench.tables.push(item_table("other"));
    bench.request.tables[0].target = Some("both".into());
    assert!(refusal(&bench).await.message().contains("into one table"));
    // The history of one table is a table too.
    bench.request.tables[0].target = None;
    bench.tables[1] = item_table("t_history");
    bench.request.tables[0].write_mode = Some(WriteMode::AppendDedup);
    assert!(refusal(&bench).await.message().contains("into one table"));
}

fn with_column(table: &Table, name: &str, data_type: DataType) -> Table {
    let mut fields: Vec<_> = table
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .filter(|f| f.name() != name)
        .collect();
    fields.push(Field::new(name, data_type, true));
    let mut changed = Table::new(table.name.clone(), fields);
    changed.primary_key = table.primary_key.clone();
    changed
}

#[tokio::test]
async fn a_new_column_is_added_and_an_impossible_one_stops_its_table_only() {
    let (mut bench, memory) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.run().await.unwrap();
    let original = bench.tables[0].clone();
    bench.tables[0] = with_column(&original, "note", DataType::Utf8);
    let changed = planned(&bench).await.unwrap();
    let changes = &changed.plan.tables[&TableName::new("t")].changes;
    assert!(matches!(&changes[..], [SchemaChange::AddColumn(f)] if f.name() == "note"));

    bench.tables[0] = with_column(&original, "value", DataType::Boolean);
    bench.tables.push(item_table("other"));
    bench
        .scripts
        .push(highwater_testkit::scripted::Script::new(&bench.tables[1], vec![Step::Checkpoint]));
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Partial);
    let failure = summary.destinations[0].tables.iter().find_map(|t| t.error.as_ref()).unwrap();
    for word in ["value", "Boolean", "Utf8"] {
        assert!(failure.message.contains(word), "{}", failure.message);
    }
    assert_eq!(ids(&memory), [0, 1, 2]);
}

#[tokio::test]
async fn a_table_that_is_gone_is_an_error_and_never_a_silent_resume() {
    let (bench, memory) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.run().await.unwrap();
    memory.drop_table(&TableName::new("t"));
    let summary = bench.run().await.unwrap();
    let failure = summary.destinations[0].tables[0].error.as_ref().unwrap();
    assert_eq!(failure.kind, ErrorKind::Schema);
    assert!(failure.message.contains("gone"), "{}", failure.message);
    assert!(failure.hint.as_ref().unwrap().contains("state reset"));
}

#[tokio::test]
async fn without_migration_nothing_is_altered() {
    let (mut bench, memory) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.request.targets[0].may_migrate = false;
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Failed);
    assert!(memory.rows(&TableName::new("t")).is_none());
}

#[tokio::test]
async fn stamps_that_the_source_table_brings_along_are_replaced_by_this_sync() {
    use highwater_core::MetadataColumns;
    let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.tables[0] = with_column(&bench.tables[0], "_cq_source_name", DataType::Utf8);
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    let planned = planned(&bench).await.unwrap();
    let table = &planned.plan.tables[&TableName::new("t")];
    assert!(table.source.field("_cq_source_name").is_none(), "it is not read");
    let names: Vec<_> = table.target.column_names().collect();
    assert_eq!(names[..2], ["_cq_sync_time", "_cq_source_name"]);
    assert_eq!(names.iter().filter(|n| **n == "_cq_source_name").count(), 1);
}

#[tokio::test]
async fn a_key_names_each_column_once_and_history_keeps_its_own_names() {
    let mut bench = bench();
    bench.request.tables[0].primary_key = Some(vec!["id".into(), "id".into()]);
    assert!(refusal(&bench).await.message().contains("twice"));
    bench.request.tables[0].primary_key = None;
    bench.request.tables[0].write_mode = Some(WriteMode::AppendDedup);
    bench.tables[0] = with_column(&bench.tables[0], "_highwater_seq", DataType::Int64);
    assert!(refusal(&bench).await.message().contains("_highwater_"));
}
