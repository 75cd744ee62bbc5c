//! `overwrite`: one row per primary key; a row read replaces the row with its key.

use highwater_core::{Committed, WriteMode};

use crate::harness::Harness;
use crate::job::{Change, Job, delete, sync, upsert, visible};
use crate::rows::assert_same;
use crate::tables::{Item, item, item_table, items, loose_item_table};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Overwrite)
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

async fn expect(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    assert_same(&visible(harness, job).await, &[items(&job.table, rows)]);
}

/// Rows read replace the rows with their keys; others stay; the counts say which.
pub async fn a_row_replaces_the_row_with_its_key(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)])]).await;
    let second = [item(2, "B", 2), item(3, "c", 1), item(4, "d", 2)];
    let committed = sync(harness, &job(), &[batch(&second)]).await;
    assert_eq!(committed, Committed { written: 2, unchanged: 1, deleted: 0 });
    let expected = [item(1, "a", 1), item(2, "B", 2), item(3, "c", 1), item(4, "d", 2)];
    expect(harness, &job(), &expected).await;
}

/// The row read last counts, whatever its cursor says.
pub async fn what_arrives_last_counts(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "newer", 9)])]).await;
    sync(harness, &job(), &[batch(&[item(1, "older", 1)])]).await;
    expect(harness, &job(), &[item(1, "older", 1)]).await;
}

/// Of equal keys in one commit, within and across batches, the last one counts.
pub async fn equal_keys_in_one_commit_are_folded(harness: &dyn Harness) {
    let one = [item(1, "a", 3), item(1, "b", 2), item(2, "x", 1)];
    let two = [item(2, "y", 2), item(1, "c", 1)];
    sync(harness, &job(), &[batch(&one), batch(&two)]).await;
    expect(harness, &job(), &[item(1, "c", 1), item(2, "y", 2)]).await;
    sync(harness, &job(), &[batch(&one), batch(&two)]).await;
    expect(harness, &job(), &[item(1, "c", 1), item(2, "y", 2)]).await;
}

/// A value may become NULL, and NULL a value.
pub async fn null_replaces_a_value_and_a_value_null(harness: &dyn Harness) {
    let null = Item { value: None, ..item(2, "", 1) };
    sync(harness, &job(), &[batch(&[item(1, "a", 1), null.clone()])]).await;
    let swapped = [Item { id: Some(1), ..null }, item(2, "b", 1)];
    let committed = sync(harness, &job(), &[batch(&swapped)]).await;
    assert_eq!(committed.written, 2);
    expect(harness, &job(), &swapped).await;
}

/// All columns of a composite key together tell rows apart.
pub async fn a_composite_key_counts_as_a_whole(harness: &dyn Harness) {
    let table = loose_item_table("items", &["region", "id"]);
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    let rows = [
        item(1, "a", 1).within("north"),
        item(1, "b", 1).within("south"),
        item(2, "c", 1).within("north"),
    ];
    sync(harness, &job, &[upsert(&items(&table, &rows))]).await;
    let change = [item(1, "B", 2).within("south")];
    sync(harness, &job, &[upsert(&items(&table, &change))]).await;
    expect(harness, &job, &[rows[0].clone(), change[0].clone(), rows[2].clone()]).await;
}

/// NULL in a key equals NULL: such a row is replaced too, also by its copy in the same commit.
pub async fn null_in_a_key_equals_null(harness: &dyn Harness) {
    let table = loose_item_table("items", &["id", "region"]);
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    let first = [
        item(1, "a", 1),
        item(1, "b", 1).within("north"),
        item(0, "c", 1).without_id(),
        item(0, "d", 1).without_id(),
    ];
    sync(harness, &job, &[upsert(&items(&table, &first))]).await;
    expect(harness, &job, &[first[0].clone(), first[1].clone(), first[3].clone()]).await;
    let second = [item(1, "A", 2), item(0, "D", 2).without_id()];
    let committed = sync(harness, &job, &[upsert(&items(&table, &second))]).await;
    assert_eq!(committed.written, 2);
    expect(harness, &job, &[second[0].clone(), first[1].clone(), second[1].clone()]).await;
    let committed = sync(harness, &job, &[upsert(&items(&table, &second))]).await;
    assert_eq!(committed, Committed { written: 0, unchanged: 2, deleted: 0 });
}

/// Without a primary key there is nothing to replace: rows are added.
pub async fn without_a_key_rows_are_added(harness: &dyn Harness) {
    let table = loose_item_table("items", &[]);
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    for _ in 0..2 {
        sync(harness, &job, &[upsert(&items(&table, &[item(1, "a", 1)]))]).await;
    }
    expect(harness, &job, &[item(1, "a", 1), item(1, "a", 1)]).await;
}

/// A delete record removes the row with its key and no other, and one without a row nothing.
pub async fn a_delete_record_removes_the_row(harness: &dyn Harness) {
    let table = item_table("items");
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    let gone = [item(2, "", 2).deletion(), item(7, "", 2).deletion()];
    let committed = sync(harness, &job(), &[delete(&items(&table, &gone))]).await;
    assert_eq!((committed.written, committed.deleted), (0, 1));
    expect(harness, &job(), &[item(1, "a", 1)]).await;
}

/// In one commit the order of arrival decides between a row and its deletion.
pub async fn deletions_and_rows_in_one_commit_keep_their_order(harness: &dyn Harness) {
    let table = item_table("items");
    let gone = |id| delete(&items(&table, &[item(id, "", 1).deletion()]));
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    let changes = [gone(1), batch(&[item(1, "again", 2), item(3, "short", 2)]), gone(3), gone(2)];
    sync(harness, &job(), &changes).await;
    expect(harness, &job(), &[item(1, "again", 2)]).await;
}

/// The destination's own table has the primary key and the NOT NULL of the source.
pub async fn key_and_not_null_are_carried(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1)])]).await;
    let destination = harness.destination().await;
    let name = destination.target_name(&job().table.name);
    let described = destination.describe(&[name]).await.expect("described");
    let table = &described[0].as_ref().expect("the table exists").table;
    assert_eq!(table.primary_key, ["id"]);
    assert!(!table.field("id").expect("the key").is_nullable());
    assert!(table.field("value").expect("a column").is_nullable());
}

/// A table of nothing but its key can be overwritten too.
pub async fn a_table_may_be_all_key(harness: &dyn Harness) {
    let table = loose_item_table("items", &["id", "region", "value", "updated_at"]);
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    let rows = [item(1, "a", 1).within("north"), item(1, "b", 1).within("north")];
    for _ in 0..2 {
        sync(harness, &job, &[upsert(&items(&table, &rows))]).await;
    }
    expect(harness, &job, &rows).await;
}
