//! A history that is made short, and a table that is emptied.

use highwater_core::{ErrorKind, WriteMode};

use crate::harness::Harness;
use crate::job::{
    Change, Job, Run, delete, record, refresh, sync, upsert, visible, visible_history,
};
use crate::rows::{assert_same, count};
use crate::tables::{Item, item, item_table, items, loose_item_table};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::AppendDedup)
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

async fn expect_history(harness: &dyn Harness, rows: &[Item]) {
    let expected = items(&item_table("items"), rows);
    assert_same(&visible_history(harness, &job()).await, &[expected]);
}

async fn compact(run: &Run) -> u64 {
    let compacted = run.destination.compact_history(&run.plan, run.table(), &run.fence).await;
    compacted.unwrap_or_else(|e| panic!("{}", e.full_message()))
}

/// Of each key the record with the greatest cursor stays, NULL being the lowest and the later
/// arrival breaking ties; a deletion is a record. The table is as it was.
pub async fn the_latest_record_of_each_key_is_left(harness: &dyn Harness) {
    let null = item(3, "null", 0).without_cursor();
    sync(harness, &job(), &[batch(&[item(1, "new", 9), item(2, "tie", 5), null])]).await;
    let second = [item(1, "older", 4), item(2, "later", 5), item(3, "lowest", -7), item(4, "d", 1)];
    sync(harness, &job(), &[batch(&second), gone(4, 1), gone(5, 2)]).await;
    let run = Run::open(harness, &job()).await;
    assert_eq!(compact(&run).await, 4);
    let records = [item(4, "", 1).deletion(), item(5, "", 2).deletion()];
    let rows = [item(1, "new", 9), second[1].clone(), second[2].clone()];
    expect(harness, &rows).await;
    expect_history(harness, &[&rows[..], &records[..]].concat()).await;
    assert_eq!(compact(&run).await, 0);
    run.release().await;
}

/// Syncs go on after a compaction as if there had been none.
pub async fn syncs_go_on_after_a_compaction(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 5), item(2, "b", 5)]), gone(2, 6)]).await;
    let run = Run::open(harness, &job()).await;
    compact(&run).await;
    run.release().await;
    sync(harness, &job(), &[batch(&[item(1, "older", 4), item(2, "late", 5)])]).await;
    expect(harness, &[item(1, "a", 5)]).await;
    sync(harness, &job(), &[batch(&[item(1, "tie", 5)])]).await;
    expect(harness, &[item(1, "tie", 5)]).await;
    let run = Run::open(harness, &job()).await;
    compact(&run).await;
    expect_history(harness, &[item(1, "tie", 5), item(2, "", 6).deletion()]).await;
}

/// NULL in a key equals NULL.
pub async fn null_in_a_key_is_one_key(harness: &dyn Harness) {
    let table = loose_item_table("items", &["region", "id"]);
    let job = Job::new(table.clone(), WriteMode::AppendDedup);
    let rows = [item(1, "a", 1), item(1, "b", 2), item(1, "c", 1).within("north")];
    sync(harness, &job, &[upsert(&items(&table, &rows))]).await;
    let run = Run::open(harness, &job).await;
    assert_eq!(compact(&run).await, 1);
    assert_same(&visible_history(harness, &job).await, &[items(&table, &rows[1..])]);
}

/// A run that was overtaken compacts and clears nothing; where nothing is, nothing goes.
pub async fn without_right_or_rows_nothing_goes(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    assert_eq!(compact(&run).await, 0);
    assert_eq!(clear(&run).await, 0);
    run.release().await;
    let all = [item(1, "a", 1), item(1, "b", 2)];
    sync(harness, &job(), &[batch(&all)]).await;
    let older = Run::open(harness, &job()).await;
    let newer = Run::open(harness, &job()).await;
    let (plan, table, fence) = (&older.plan, older.table(), &older.fence);
    let refused = older.destination.compact_history(plan, table, fence).await;
    assert_eq!(refused.expect_err("a newer run has the lease").kind(), ErrorKind::Fenced);
    let refused = older.destination.clear(plan, table, fence).await;
    assert_eq!(refused.expect_err("a newer run has the lease").kind(), ErrorKind::Fenced);
    expect(harness, &all[1..]).await;
    expect_history(harness, &all).await;
    newer.release().await;
}

async fn clear(run: &Run) -> u64 {
    let cleared = run.destination.clear(&run.plan, run.table(), &run.fence).await;
    cleared.unwrap_or_else(|e| panic!("{}", e.full_message())).deleted
}

/// A table that is cleared is empty and as if it had never been synced: no history, no deletion,
/// no cursor is remembered. Others stay as they are.
pub async fn a_cleared_table_is_as_never_synced(harness: &dyn Harness) {
    let other = Job::new(item_table("others"), WriteMode::AppendDedup);
    sync(harness, &other, &[upsert(&items(&other.table, &[item(1, "a", 1)]))]).await;
    let rows = [item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)];
    sync(harness, &job(), &[batch(&rows), gone(3, 9)]).await;
    let run = Run::open(harness, &job()).await;
    assert_eq!(clear(&run).await, 2);
    assert_eq!(clear(&run).await, 0);
    run.release().await;
    expect(harness, &[]).await;
    expect_history(harness, &[]).await;
    let name = harness.destination().await.target_name(&job().table.name);
    assert!(harness.rows(&name).await.is_some(), "the table is still there");
    assert_eq!(record(harness, &job()).await, None);
    assert!(record(harness, &other).await.is_some());
    assert_eq!(count(&visible(harness, &other).await), 1);
    let run = Run::open(harness, &job()).await;
    let keys: Vec<_> = run.state.cursors.keys().collect();
    assert_eq!(keys, [&other.position_key()]);
    run.commit(&[batch(&[item(3, "again", 2)])], 1).await;
    run.finish().await;
    expect(harness, &[item(3, "again", 2)]).await;
    expect_history(harness, &[item(3, "again", 2)]).await;
}

/// What an unfinished rebuild has left beside goes with the rest.
pub async fn what_is_beside_is_cleared_too(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "old", 1)])]).await;
    refresh(harness, &job(), true).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&[item(2, "beside", 2)])], 1).await;
    assert_eq!(clear(&run).await, 1);
    run.release().await;
    sync(harness, &job(), &[batch(&[item(3, "new", 3)])]).await;
    refresh(harness, &job(), true).await;
    sync(harness, &job(), &[batch(&[item(4, "newer", 4)])]).await;
    expect(harness, &[item(4, "newer", 4)]).await;
}
