//! What comes from outside: tables compared and changed at once, rows committed when asked.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::{ErrorKind, Instant, Table, TableName};
use highwater_engine::{Intake, Target};
use highwater_testkit::memory::Memory;

fn memory() -> Memory {
    Memory::new("d", Default::default())
}

fn intake(memory: &Memory) -> Intake {
    Intake::new(Target::new("d", Arc::new(memory.clone())))
}

fn name() -> TableName {
    TableName::new("t")
}

fn table() -> Table {
    let fields =
        vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, true)];
    Table::new(name(), fields).with_primary_key(["id"])
}

fn ids(ids: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(ids.to_vec()))
}

fn texts(texts: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, values)| Field::new(*name, values.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, values)| values).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn kept(memory: &Memory) -> Vec<i64> {
    let batches = memory.rows(&name()).unwrap_or_default();
    let ids = batches.iter().flat_map(|rows| {
        let ids = rows.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        ids.values().to_vec()
    });
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn rows_replace_those_with_their_key_and_are_seen_after_the_commit() {
    let memory = memory();
    let mut intake = intake(&memory);
    intake.migrate(&table(), false).await.unwrap();
    intake
        .write(&name(), batch(vec![("id", ids(&[1, 2])), ("text", texts(&["a", "b"]))]))
        .await
        .unwrap();
    assert_eq!(kept(&memory), [0; 0]);
    let done = intake.commit().await.unwrap();
    assert_eq!(done[&name()].written, 2);
    // The order of the columns is another one; none of them is as good as NULL.
    intake.write(&name(), batch(vec![("text", texts(&["c"])), ("id", ids(&[2]))])).await.unwrap();
    intake.write(&name(), batch(vec![("id", ids(&[3]))])).await.unwrap();
    intake.write(&name(), batch(vec![("id", ids(&[]))])).await.unwrap();
    intake.commit().await.unwrap();
    assert_eq!(kept(&memory), [1, 2, 3]);
    assert!(intake.commit().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_committed_is_forgotten() {
    let memory = memory();
    let mut first = intake(&memory);
    first.migrate(&table(), false).await.unwrap();
    first.write(&name(), batch(vec![("id", ids(&[1]))])).await.unwrap();
    drop(first);
    assert_eq!(kept(&memory), [0; 0]);
}

#[tokio::test]
async fn a_table_that_was_not_sent_is_taken_as_it_is() {
    let memory = memory();
    intake(&memory).migrate(&table(), false).await.unwrap();
    let mut second = intake(&memory);
    second.write(&name(), batch(vec![("id", ids(&[1]))])).await.unwrap();
    second.write(&name(), batch(vec![("id", ids(&[1]))])).await.unwrap();
    second.commit().await.unwrap();
    assert_eq!(kept(&memory), [1]);
    let lacking =
        intake(&memory).write(&TableName::new("other"), batch(vec![("id", ids(&[1]))])).await;
    assert_eq!(lacking.unwrap_err().kind(), ErrorKind::Schema);
    let keyless = intake(&memory).write(&name(), batch(vec![("text", texts(&["a"]))])).await;
    assert_eq!(keyless.unwrap_err().kind(), ErrorKind::Schema);
    let extra = batch(vec![("id", ids(&[1])), ("more", texts(&["a"]))]);
    let refused = intake(&memory).write(&name(), extra).await.unwrap_err();
    assert!(refused.to_string().contains("more"), "{refused}");
}

#[tokio::test]
async fn a_change_that_loses_something_is_refused_unless_it_is_forced() {
    let memory = memory();
    let mut intake = intake(&memory);
    intake.migrate(&table(), false).await.unwrap();
    intake.write(&name(), batch(vec![("id", ids(&[1]))])).await.unwrap();
    intake.commit().await.unwrap();
    let text =
        Table::new(name(), vec![Field::new("id", DataType::Utf8, false)]).with_primary_key(["id"]);
    let keyless = Table { primary_key: Vec::new(), ..table() };
    for changed in [&text, &keyless] {
        let refused = intake.migrate(changed, false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Schema);
        assert!(refused.hint_text().unwrap().contains("forced"));
    }
    assert_eq!(kept(&memory), [1]);
    // What is made anew is told by the suites over real destinations.
    intake.migrate(&keyless, true).await.unwrap();
}

#[tokio::test]
async fn a_column_that_comes_later_keeps_the_rows_before_it() {
    let memory = memory();
    let mut intake = intake(&memory);
    intake.migrate(&table(), false).await.unwrap();
    intake.write(&name(), batch(vec![("id", ids(&[1]))])).await.unwrap();
    let mut wider = table();
    let mut fields: Vec<_> = wider.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("more", DataType::Utf8, true)));
    wider.schema = Arc::new(Schema::new(fields));
    intake.migrate(&wider, false).await.unwrap();
    intake.write(&name(), batch(vec![("id", ids(&[2])), ("more", texts(&["x"]))])).await.unwrap();
    intake.commit().await.unwrap();
    assert_eq!(kept(&memory), [1, 2]);
}

#[tokio::test]
async fn stale_rows_of_one_source_go() {
    let memory = memory();
    let mut intake = intake(&memory);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("_cq_sync_time", utc, true),
        Field::new("_cq_source_name", DataType::Utf8, true),
        Field::new("id", DataType::Int64, false),
    ];
    let stamped = Table::new(name(), fields).with_primary_key(["id"]);
    intake.migrate(&stamped, false).await.unwrap();
    let times = TimestampMicrosecondArray::from(vec![10, 20, 10]).with_timezone("UTC");
    let rows = batch(vec![
        ("_cq_sync_time", Arc::new(times)),
        ("_cq_source_name", texts(&["a", "a", "b"])),
        ("id", ids(&[1, 2, 3])),
    ]);
    intake.write(&name(), rows).await.unwrap();
    // The rows before it are committed, and it acts on them too.
    intake.delete_stale(&name(), "a", Instant(20)).await.unwrap();
    assert_eq!(kept(&memory), [2, 3]);
    intake.delete_stale(&TableName::new("nowhere"), "a", Instant(20)).await.unwrap();
}
