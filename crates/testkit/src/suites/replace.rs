//! `replace`: exactly the rows of this full read, swapped in at the end.

use arrow_schema::{DataType, Field};
use highwater_core::WriteMode;

use crate::harness::Harness;
use crate::job::{Change, Job, Run, sync, upsert, visible};
use crate::rows::{assert_same, count};
use crate::tables::{Item, TableChanges, item, item_table, items, orders};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Replace)
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

async fn expect(harness: &dyn Harness, rows: &[Item]) {
    let expected = items(&item_table("items"), rows);
    assert_same(&visible(harness, &job()).await, &[expected]);
}

/// Old rows are gone, also changed and unchanged ones: only what was read is there.
pub async fn only_the_rows_of_this_read_are_left(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    sync(harness, &job(), &[batch(&[item(2, "B", 2)]), batch(&[item(3, "c", 2)])]).await;
    expect(harness, &[item(2, "B", 2), item(3, "c", 2)]).await;
}

/// Until the table is finished readers see the old rows, whatever was committed.
pub async fn readers_see_the_old_rows_until_the_end(harness: &dyn Harness) {
    let (old, new) = ([item(1, "old", 1)], [item(1, "new", 2), item(2, "new", 2)]);
    sync(harness, &job(), &[batch(&old)]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&new[..1])], 1).await;
    expect(harness, &old).await;
    run.commit(&[batch(&new[1..])], 2).await;
    expect(harness, &old).await;
    run.finish().await;
    expect(harness, &new).await;
    run.finish().await;
    expect(harness, &new).await;
}

/// A run that ends before the swap changes nothing, and nothing of it is in the next one's table.
pub async fn an_abandoned_run_leaves_the_old_rows(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "old", 1)])]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&[item(1, "abandoned", 2), item(2, "abandoned", 2)])], 1).await;
    drop(run);
    expect(harness, &[item(1, "old", 1)]).await;
    sync(harness, &job(), &[batch(&[item(3, "new", 3)])]).await;
    expect(harness, &[item(3, "new", 3)]).await;
}

/// All partitions of the read are in the new table.
pub async fn the_rows_of_all_partitions_are_swapped_in(harness: &dyn Harness) {
    let sample = orders(900);
    let job = Job::new(sample.table.clone(), WriteMode::Replace);
    let run = Run::open(harness, &job).await;
    for part in 0..3 {
        let mut writer = run.writer_of(&format!("part-{part}")).await;
        let rows = sample.rows.slice(part * 300, 300);
        writer.write(run.batch(highwater_core::Op::Upsert, &rows)).await.expect("rows are taken");
        writer.commit(&highwater_core::Checkpoint::default()).await.expect("a commit");
    }
    run.finish().await;
    assert_same(&visible(harness, &job).await, &[sample.rows]);
}

/// A complete read of an empty source leaves an empty table.
pub async fn an_empty_read_leaves_an_empty_table(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1)])]).await;
    sync(harness, &job(), &[]).await;
    assert_eq!(count(&visible(harness, &job()).await), 0);
    let name = harness.destination().await.target_name(&job().table.name);
    assert!(harness.rows(&name).await.is_some(), "the table is still there");
}

/// The new table has the columns, types and keys of this read, whatever the old one had.
pub async fn the_new_table_has_the_shape_of_this_read(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1)])]).await;
    let table = item_table("items")
        .with_column(Field::new("updated_at", DataType::Utf8, true))
        .with_column(Field::new("extra", DataType::Boolean, true));
    let changed = job().of_table(table.clone());
    let rows = items(
        &table.clone().with_column(Field::new("updated_at", DataType::Int64, true)),
        &[item(2, "b", 7)],
    );
    let mut columns = rows.columns().to_vec();
    columns[3] = std::sync::Arc::new(arrow_array::StringArray::from(vec!["yesterday"]));
    let rows = arrow_array::RecordBatch::try_new(table.schema.clone(), columns).expect("rows");
    sync(harness, &changed, &[upsert(&rows)]).await;
    assert_same(&visible(harness, &changed).await, &[rows]);
    let destination = harness.destination().await;
    let name = destination.target_name(&table.name);
    let described = destination.describe(&[name]).await.expect("described");
    let described = &described[0].as_ref().expect("the table exists").table;
    assert_eq!(described.primary_key, ["id"]);
    assert_eq!(described.column_names().count(), 5);
}

/// Rows with one key are all rows of the read.
pub async fn equal_keys_are_all_kept(harness: &dyn Harness) {
    let both = [item(1, "a", 1), item(1, "b", 1), item(2, "c", 1)];
    for _ in 0..2 {
        sync(harness, &job(), &[batch(&both)]).await;
        expect(harness, &both).await;
    }
    sync(harness, &job(), &[batch(&both[1..])]).await;
    expect(harness, &both[1..]).await;
}

/// The rows that were there before are counted when they go.
pub async fn old_rows_are_counted(harness: &dyn Harness) {
    let first = sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    assert_eq!((first.written, first.deleted), (2, 0));
    let empty = sync(harness, &job(), &[]).await;
    assert_eq!((empty.written, empty.deleted), (0, 2));
}
