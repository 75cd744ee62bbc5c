//! `append-dedup`: every row read goes into `<table>_history`; `<table>` holds, per primary key,
//! the row with the greatest cursor, later arrival breaking ties.

use highwater_core::{Committed, Instant, WriteMode};

use crate::harness::Harness;
use crate::job::{Change, Job, delete, sync, upsert, visible, visible_history};
use crate::rows::{assert_same, count};
use crate::tables::{Item, item, item_table, items, loose_item_table, royals, royals_table};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::AppendDedup)
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

fn gone(id: i64, updated_at: i64) -> Change {
    delete(&items(&item_table("items"), &[item(id, "", updated_at).deletion()]))
}

async fn expect(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    assert_same(&visible(harness, job).await, &[items(&job.table, rows)]);
}

async fn expect_history(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    assert_same(&visible_history(harness, job).await, &[items(&job.table, rows)]);
}

/// Airbyte's worked example, value by value: Louis XVI and Marie Antoinette over three syncs,
/// with the final table and the history after each.
pub async fn the_worked_example_of_three_syncs(harness: &dyn Harness) {
    let job = Job::new(royals_table(), WriteMode::AppendDedup);
    let louis = "Louis XVI";
    let marie = "Marie Antoinette";
    let syncs: [(&[_], &[_], &[_]); 3] = [
        (
            &[(louis, false, 1754), (marie, false, 1755)],
            &[(louis, false, 1754), (marie, false, 1755)],
            &[(louis, false, 1754), (marie, false, 1755)],
        ),
        (
            &[(louis, false, 1785)],
            &[(marie, false, 1755), (louis, false, 1785)],
            &[(louis, false, 1754), (marie, false, 1755), (louis, false, 1785)],
        ),
        (
            &[(louis, true, 1793), (marie, true, 1793)],
            &[(louis, true, 1793), (marie, true, 1793)],
            &[
                (louis, false, 1754),
                (marie, false, 1755),
                (louis, false, 1785),
                (louis, true, 1793),
                (marie, true, 1793),
            ],
        ),
    ];
    for (delta, final_table, history) in syncs {
        sync(harness, &job, &[upsert(&royals(delta))]).await;
        assert_same(&visible(harness, &job).await, &[royals(final_table)]);
        assert_same(&visible_history(harness, &job).await, &[royals(history)]);
    }
}

/// An older row goes into the history and does not replace a newer one, in a later sync or a
/// later batch.
pub async fn an_older_row_never_replaces_a_newer_one(harness: &dyn Harness) {
    let first = [item(1, "five", 5), item(1, "four", 4), item(2, "one", 1)];
    sync(harness, &job(), &[batch(&first[..1]), batch(&first[1..])]).await;
    expect(harness, &job(), &[first[0].clone(), first[2].clone()]).await;
    let second = [item(1, "three", 3), item(2, "two", 2)];
    let committed = sync(harness, &job(), &[batch(&second)]).await;
    assert_eq!(committed, Committed { written: 1, unchanged: 1, deleted: 0 });
    expect(harness, &job(), &[first[0].clone(), second[1].clone()]).await;
    let all: Vec<_> = first.into_iter().chain(second).collect();
    expect_history(harness, &job(), &all).await;
}

/// Equal cursors: the later arrival counts, within a batch, across batches and across syncs.
pub async fn a_tie_is_broken_by_arrival(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "first", 1), item(1, "second", 1)])]).await;
    expect(harness, &job(), &[item(1, "second", 1)]).await;
    sync(harness, &job(), &[batch(&[item(1, "third", 1)]), batch(&[item(1, "fourth", 1)])]).await;
    expect(harness, &job(), &[item(1, "fourth", 1)]).await;
    sync(harness, &job(), &[batch(&[item(1, "fifth", 1)])]).await;
    expect(harness, &job(), &[item(1, "fifth", 1)]).await;
    assert_eq!(count(&visible_history(harness, &job()).await), 5);
}

/// Three versions of a row in one batch, not in their order, and an older one in the next sync:
/// one row is left, the newest.
pub async fn three_versions_in_one_batch_leave_the_newest(harness: &dyn Harness) {
    let three = [item(1, "10", 100), item(1, "20", 200), item(1, "15", 150)];
    let committed = sync(harness, &job(), &[batch(&three)]).await;
    assert_eq!((committed.written, committed.deleted), (1, 0));
    expect(harness, &job(), &three[1..2]).await;
    sync(harness, &job(), &[batch(&[item(1, "1", 50)])]).await;
    expect(harness, &job(), &three[1..2]).await;
    assert_eq!(count(&visible_history(harness, &job()).await), 4);
}

/// Without a column that orders versions, what arrives last counts: rows and deletions alike.
pub async fn without_an_order_the_later_arrival_counts(harness: &dyn Harness) {
    let job = Job { cursor_field: None, ..job() };
    sync(harness, &job, &[batch(&[item(1, "first", 9), item(1, "second", 1)]), gone(2, 9)]).await;
    expect(harness, &job, &[item(1, "second", 1)]).await;
    sync(harness, &job, &[gone(1, 0), batch(&[item(2, "back", 1)])]).await;
    expect(harness, &job, &[item(2, "back", 1)]).await;
    assert_eq!(count(&visible_history(harness, &job).await), 5);
}

/// NULL is the lowest cursor: any value replaces it, it replaces no value, and among NULLs the
/// later arrival counts.
pub async fn null_is_the_lowest_cursor(harness: &dyn Harness) {
    let null = |id, value| item(id, value, 0).without_cursor();
    let first = [null(1, "a"), null(1, "b"), null(2, "c"), item(3, "d", -5)];
    sync(harness, &job(), &[batch(&first)]).await;
    expect(harness, &job(), &[null(1, "b"), null(2, "c"), item(3, "d", -5)]).await;
    let second = [null(1, "e"), item(2, "f", -9), null(3, "g")];
    sync(harness, &job(), &[batch(&second)]).await;
    expect(harness, &job(), &[null(1, "e"), item(2, "f", -9), item(3, "d", -5)]).await;
    assert_eq!(count(&visible_history(harness, &job()).await), 7);
}

/// A delete record removes the row and stays in the history.
pub async fn a_delete_record_removes_the_row(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    let committed = sync(harness, &job(), &[gone(1, 2)]).await;
    assert_eq!((committed.written, committed.deleted), (0, 1));
    expect(harness, &job(), &[item(2, "b", 1)]).await;
    let history = [item(1, "a", 1), item(2, "b", 1), item(1, "", 2).deletion()];
    expect_history(harness, &job(), &history).await;
}

/// A deletion leaves a tombstone: an older row that comes late does not bring the row back.
pub async fn a_late_older_row_stays_deleted(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1)])]).await;
    sync(harness, &job(), &[gone(1, 5)]).await;
    sync(harness, &job(), &[batch(&[item(1, "late", 4)])]).await;
    expect(harness, &job(), &[]).await;
    // The same in one commit, and for a row that was never there.
    sync(harness, &job(), &[gone(2, 5), batch(&[item(2, "late", 4)])]).await;
    expect(harness, &job(), &[]).await;
    assert_eq!(count(&visible_history(harness, &job()).await), 5);
}

/// A row and its deletion of the same moment in one batch: the deletion came later and counts.
/// The other way round the row does.
pub async fn a_row_and_its_deletion_of_one_moment(harness: &dyn Harness) {
    let moment = [batch(&[item(1, "a", 5)]), gone(1, 5), gone(2, 5), batch(&[item(2, "b", 5)])];
    sync(harness, &job(), &moment).await;
    expect(harness, &job(), &[item(2, "b", 5)]).await;
    sync(harness, &job(), &[batch(&[item(1, "late", 4)])]).await;
    expect(harness, &job(), &[item(2, "b", 5)]).await;
}

/// A row that is newer than its deletion brings the row back, and an older one after that does
/// not undo it.
pub async fn a_newer_row_lives_again(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1)]), gone(1, 5)]).await;
    expect(harness, &job(), &[]).await;
    sync(harness, &job(), &[batch(&[item(1, "again", 6)])]).await;
    expect(harness, &job(), &[item(1, "again", 6)]).await;
    sync(harness, &job(), &[batch(&[item(1, "late", 4)])]).await;
    expect(harness, &job(), &[item(1, "again", 6)]).await;
}

/// A deletion that is older than the row leaves it.
pub async fn an_older_deletion_leaves_a_newer_row(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 5)])]).await;
    let committed = sync(harness, &job(), &[gone(1, 4)]).await;
    assert_eq!(committed.deleted, 0);
    expect(harness, &job(), &[item(1, "a", 5)]).await;
    // A deletion at the same position came later: the row goes.
    sync(harness, &job(), &[gone(1, 5)]).await;
    expect(harness, &job(), &[]).await;
}

/// A second deletion of a row keeps the newer of both tombstones.
pub async fn the_newest_deletion_counts(harness: &dyn Harness) {
    sync(harness, &job(), &[gone(1, 8)]).await;
    sync(harness, &job(), &[gone(1, 3)]).await;
    sync(harness, &job(), &[batch(&[item(1, "between", 5)])]).await;
    expect(harness, &job(), &[]).await;
    sync(harness, &job(), &[batch(&[item(1, "after", 9)])]).await;
    expect(harness, &job(), &[item(1, "after", 9)]).await;
}

/// All columns of a composite key together tell rows apart, and NULL in it equals NULL.
pub async fn a_composite_key_may_hold_null(harness: &dyn Harness) {
    let table = loose_item_table("items", &["region", "id"]);
    let job = Job::new(table.clone(), WriteMode::AppendDedup);
    let first = [item(1, "a", 1), item(1, "b", 1).within("north"), item(0, "c", 1).without_id()];
    sync(harness, &job, &[upsert(&items(&table, &first))]).await;
    let second =
        [item(1, "A", 2), item(0, "older", 0).without_id(), item(1, "B", 2).within("north")];
    sync(harness, &job, &[upsert(&items(&table, &second))]).await;
    expect(harness, &job, &[second[0].clone(), first[2].clone(), second[2].clone()]).await;
    let gone = [item(0, "", 3).without_id().deletion()];
    sync(harness, &job, &[delete(&items(&table, &gone))]).await;
    sync(harness, &job, &[upsert(&items(&table, &[item(0, "late", 2).without_id()]))]).await;
    expect(harness, &job, &[second[0].clone(), second[2].clone()]).await;
}

/// The same delta twice changes the final table once; the history has both arrivals.
pub async fn a_delta_that_comes_again_changes_nothing(harness: &dyn Harness) {
    let delta = [item(1, "a", 1), item(2, "b", 2)];
    sync(harness, &job(), &[batch(&delta)]).await;
    let committed = sync(harness, &job(), &[batch(&delta)]).await;
    assert_eq!(committed, Committed { written: 0, unchanged: 2, deleted: 0 });
    expect(harness, &job(), &delta).await;
    expect_history(harness, &job(), &[delta.clone(), delta].concat()).await;
}

/// History rows that arrived before the retention are removed at the end of a sync; the final
/// table keeps its rows.
pub async fn old_history_is_pruned_and_the_final_table_stays(harness: &dyn Harness) {
    const DAY: i64 = 86_400_000_000;
    let days_ago = |days| Some(Instant(Instant::now().0 - days * DAY));
    let keep = |days: u64| Some(days * 86_400);
    let at = |days| Job { started_at: days_ago(days), history_retention_seconds: keep(7), ..job() };
    sync(harness, &at(30), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    sync(harness, &at(5), &[batch(&[item(1, "A", 2)])]).await;
    sync(harness, &at(0), &[]).await;
    expect_history(harness, &job(), &[item(1, "A", 2)]).await;
    expect(harness, &job(), &[item(1, "A", 2), item(2, "b", 1)]).await;
    sync(harness, &job(), &[batch(&[item(1, "old", 1)])]).await;
    expect(harness, &job(), &[item(1, "A", 2), item(2, "b", 1)]).await;
}

/// A deletion that does not say when it happened goes by its arrival: it removes what came before
/// it, in the same commit too, and what comes after lives again.
pub async fn a_deletion_without_a_cursor_goes_by_its_arrival(harness: &dyn Harness) {
    let gone =
        |id| delete(&items(&item_table("items"), &[item(id, "", 0).without_cursor().deletion()]));
    sync(harness, &job(), &[batch(&[item(1, "a", 5), item(2, "b", 5), item(3, "c", 5)])]).await;
    let changes = [
        gone(1),
        batch(&[item(2, "B", 6), item(4, "d", 1)]),
        gone(2),
        gone(4),
        gone(3),
        batch(&[item(3, "again", 1), item(3, "older", 0)]),
    ];
    let committed = sync(harness, &job(), &changes).await;
    expect(harness, &job(), &[item(3, "again", 1)]).await;
    assert!(committed.deleted >= 2, "{committed:?}");
    sync(harness, &job(), &[batch(&[item(1, "back", 1)])]).await;
    expect(harness, &job(), &[item(1, "back", 1), item(3, "again", 1)]).await;
}
