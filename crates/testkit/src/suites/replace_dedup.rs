//! `replace-dedup`: as `replace`, with one row per key: the newest of this read.

use highwater_core::WriteMode;

use crate::harness::Harness;
use crate::job::{Change, Job, Run, delete, sync, upsert, visible};
use crate::rows::assert_same;
use crate::tables::{Item, item, item_table, items, loose_item_table};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::ReplaceDedup).ordered_by("updated_at")
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

fn gone(id: i64, updated_at: i64) -> Change {
    delete(&items(&item_table("items"), &[item(id, "", updated_at).deletion()]))
}

async fn expect(harness: &dyn Harness, rows: &[Item]) {
    let expected = items(&item_table("items"), rows);
    assert_same(&visible(harness, &job()).await, &[expected]);
}

/// Three rows of one key in one batch, an older one after a newer one in a later commit, and a
/// tie: one row is left, the greatest cursor, then the last to arrive.
pub async fn the_newest_row_of_each_key_is_left(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    let three = [item(1, "one", 100), item(1, "two", 200), item(1, "three", 150)];
    let others = [item(2, "tie", 5), item(3, "null", 0).without_cursor()];
    run.commit(&[batch(&three), batch(&others)], 1).await;
    let later = [item(1, "older", 50), item(2, "later tie", 5), item(3, "lowest", -9)];
    run.commit(&[batch(&later)], 2).await;
    run.finish().await;
    run.release().await;
    expect(harness, &[item(1, "two", 200), later[1].clone(), later[2].clone()]).await;
}

/// Readers see the old rows until the read is finished; then only what was read, however old.
pub async fn only_the_rows_of_this_read_are_left(harness: &dyn Harness) {
    let old = [item(1, "old", 9), item(2, "old", 9)];
    sync(harness, &job(), &[batch(&old)]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&[item(1, "new", 1), item(3, "new", 1)])], 1).await;
    expect(harness, &old).await;
    run.finish().await;
    expect(harness, &[item(1, "new", 1), item(3, "new", 1)]).await;
    run.finish().await;
    expect(harness, &[item(1, "new", 1), item(3, "new", 1)]).await;
}

/// A run that ends early changes nothing, and nothing of it is in the next one's table.
pub async fn an_abandoned_run_leaves_the_old_rows(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "old", 1)])]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&[item(2, "abandoned", 9)]), gone(3, 9)], 1).await;
    drop(run);
    expect(harness, &[item(1, "old", 1)]).await;
    sync(harness, &job(), &[batch(&[item(3, "new", 1)])]).await;
    expect(harness, &[item(3, "new", 1)]).await;
}

/// A row that was deleted stays deleted, whatever older row the read brings after that; a newer
/// one brings it back.
pub async fn an_older_row_does_not_undo_a_deletion(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&[item(1, "a", 1), item(2, "b", 1), item(3, "c", 9)])], 1).await;
    let committed = run.commit(&[gone(1, 5), gone(2, 5), gone(3, 5)], 2).await;
    assert_eq!(committed.deleted, 2);
    run.commit(&[batch(&[item(1, "late", 4), item(2, "again", 6)])], 3).await;
    run.finish().await;
    run.release().await;
    expect(harness, &[item(2, "again", 6), item(3, "c", 9)]).await;
}

/// Deletions are forgotten with the read that brought them.
pub async fn the_next_read_knows_of_no_deletion(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(2, "b", 1)]), gone(1, 9)]).await;
    expect(harness, &[item(2, "b", 1)]).await;
    sync(harness, &job(), &[batch(&[item(1, "a", 1)])]).await;
    expect(harness, &[item(1, "a", 1)]).await;
}

/// Without a column that orders them, the last to arrive counts.
pub async fn without_an_order_the_later_arrival_counts(harness: &dyn Harness) {
    let job = Job::new(item_table("items"), WriteMode::ReplaceDedup);
    let run = Run::open(harness, &job).await;
    run.commit(&[batch(&[item(1, "first", 9), item(1, "second", 5)]), gone(2, 9)], 1).await;
    run.commit(&[batch(&[item(1, "third", 1), item(2, "back", 1)])], 2).await;
    run.finish().await;
    expect(harness, &[item(1, "third", 1), item(2, "back", 1)]).await;
}

/// NULL in a key equals NULL, read after read.
pub async fn null_in_a_key_equals_null(harness: &dyn Harness) {
    let table = loose_item_table("items", &["region", "id"]);
    let job = Job::new(table.clone(), WriteMode::ReplaceDedup).ordered_by("updated_at");
    for _ in 0..2 {
        let run = Run::open(harness, &job).await;
        let first = [item(1, "a", 1), item(1, "b", 2), item(1, "c", 1).within("north")];
        run.commit(&[upsert(&items(&table, &first))], 1).await;
        let second = [item(1, "d", 3), item(0, "e", 1).without_id(), item(1, "f", 1)];
        run.commit(&[upsert(&items(&table, &second))], 2).await;
        run.finish().await;
        run.release().await;
        let left = [first[2].clone(), second[0].clone(), second[1].clone()];
        assert_same(&visible(harness, &job).await, &[items(&table, &left)]);
    }
}

/// Nothing is kept but the table.
pub async fn no_history_is_kept(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(1, "b", 2)])]).await;
    let target = harness.destination().await.target_name(&job().table.name);
    let history = target.renamed(format!("{}_history", target.name));
    assert!(harness.rows(&history).await.is_none());
    expect(harness, &[item(1, "b", 2)]).await;
}
