//! A table that is dropped and made anew: with the first rows of the run that does it, in one
//! step, and once.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field};
use highwater_core::{Checkpoint, SchemaChange, Table, TableName, WriteMode};

use crate::harness::Harness;
use crate::job::{Job, Run, sync, upsert, visible};
use crate::rows::{assert_same, count};
use crate::tables::{item, item_table, items};

fn old() -> Job {
    Job::new(item_table("items"), WriteMode::Append)
}

fn old_rows() -> RecordBatch {
    items(&item_table("items"), &[item(1, "old", 1), item(2, "old", 1)])
}

/// A table of the same name with other columns and types.
fn new_table() -> Table {
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Boolean, false),
    ];
    Table::new(TableName::new("items"), fields)
}

fn new() -> Job {
    let changes = Some(vec![SchemaChange::Recreate]);
    Job { changes, ..Job::new(new_table(), WriteMode::Append) }
}

fn new_rows(id: i64) -> RecordBatch {
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![id])), Arc::new(BooleanArray::from(vec![true]))];
    RecordBatch::try_new(new_table().schema, columns).expect("rows fit their table")
}

async fn expect(harness: &dyn Harness, ids: &[i64]) {
    let expected: Vec<_> = ids.iter().map(|id| new_rows(*id)).collect();
    let found = visible(harness, &new()).await;
    assert!(found.iter().all(|batch| batch.column_by_name("region").is_none()), "old columns");
    assert_same(&found, &expected);
}

/// Readers see the old rows until the commit, and only the new ones after it.
pub async fn the_new_rows_take_the_place_of_the_old_ones(harness: &dyn Harness) {
    sync(harness, &old(), &[upsert(&old_rows())]).await;
    let run = Run::open(harness, &new()).await;
    let mut writer = run.writer().await;
    let batch = run.batch(highwater_core::Op::Upsert, &new_rows(7));
    writer.write(batch).await.expect("rows are taken");
    assert_same(&visible(harness, &old()).await, &[old_rows()]);
    let committed = writer.commit(&run.checkpoint(1)).await.expect("a commit");
    assert_eq!(committed[&TableName::new("items")].written, 1);
    expect(harness, &[7]).await;
    run.finish().await;
    expect(harness, &[7]).await;
}

/// Whatever else the run commits is added to the new table.
pub async fn a_run_makes_the_table_anew_once(harness: &dyn Harness) {
    sync(harness, &old(), &[upsert(&old_rows())]).await;
    let run = Run::open(harness, &new()).await;
    let mut writer = run.writer().await;
    for id in [1, 2] {
        writer.write(run.batch(highwater_core::Op::Upsert, &new_rows(id))).await.expect("taken");
        writer.commit(&Checkpoint::default()).await.expect("a commit");
    }
    drop(writer);
    for id in [3, 4] {
        let mut writer = run.writer_of(&format!("part-{id}")).await;
        writer.write(run.batch(highwater_core::Op::Upsert, &new_rows(id))).await.expect("taken");
        writer.commit(&Checkpoint::default()).await.expect("a commit");
    }
    run.finish().await;
    run.finish().await;
    expect(harness, &[1, 2, 3, 4]).await;
    run.release().await;
    // The next run finds a table that fits.
    sync(harness, &Job::new(new_table(), WriteMode::Append), &[upsert(&new_rows(5))]).await;
    expect(harness, &[1, 2, 3, 4, 5]).await;
}

/// A run that ends before its commit has dropped nothing.
pub async fn an_abandoned_run_keeps_the_old_table(harness: &dyn Harness) {
    sync(harness, &old(), &[upsert(&old_rows())]).await;
    let run = Run::open(harness, &new()).await;
    let mut writer = run.writer().await;
    let batch = run.batch(highwater_core::Op::Upsert, &new_rows(7));
    writer.write(batch).await.expect("rows are taken");
    drop(writer);
    drop(run);
    assert_same(&visible(harness, &old()).await, &[old_rows()]);
    sync(harness, &old(), &[]).await;
    assert_same(&visible(harness, &old()).await, &[old_rows()]);
}

/// A table that no row was read of is new and empty when it is finished.
pub async fn an_empty_read_leaves_the_new_table(harness: &dyn Harness) {
    sync(harness, &old(), &[upsert(&old_rows())]).await;
    let run = Run::open(harness, &new()).await;
    run.finish().await;
    run.finish().await;
    assert_eq!(count(&visible(harness, &new()).await), 0);
    expect_shape(harness).await;
}

/// `migrate` drops the rows and makes the table; a sync after it finds one that fits.
pub async fn a_migration_makes_the_table_anew(harness: &dyn Harness) {
    sync(harness, &old(), &[upsert(&old_rows())]).await;
    let run = Run::open(harness, &new()).await;
    let ran = run.destination.migrate(&run.plan).await.expect("a migration");
    assert!(!ran.is_empty());
    drop(run);
    assert_eq!(count(&visible(harness, &new()).await), 0);
    expect_shape(harness).await;
    sync(harness, &Job::new(new_table(), WriteMode::Append), &[upsert(&new_rows(1))]).await;
    expect(harness, &[1]).await;
}

async fn expect_shape(harness: &dyn Harness) {
    let destination = harness.destination().await;
    let name = destination.target_name(&new_table().name);
    let described = destination.describe(&[name]).await.expect("a description");
    let table = &described[0].as_ref().expect("the table is there").table;
    assert_eq!(table.column_names().collect::<Vec<_>>(), ["id", "value"]);
}
