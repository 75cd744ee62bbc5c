//! `overwrite-delete-stale`: as `overwrite`; then the rows of this source that a complete full
//! read did not see are gone.

use highwater_core::{ErrorKind, ReadMode, WriteMode};

use crate::harness::Harness;
use crate::job::{Change, Job, Run, sync, try_sync, upsert, visible};
use crate::rows::{assert_same, count};
use crate::tables::{Item, item, item_table, items};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::OverwriteDeleteStale)
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

async fn expect(harness: &dyn Harness, rows: &[Item]) {
    let expected = items(&item_table("items"), rows);
    assert_same(&visible(harness, &job()).await, &[expected]);
}

/// Rows not read are removed; rows read again, changed or not, stay.
pub async fn rows_that_were_not_seen_are_removed(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)])]).await;
    let committed = sync(harness, &job(), &[batch(&[item(1, "a", 1), item(3, "C", 2)])]).await;
    assert_eq!(committed.deleted, 1);
    expect(harness, &[item(1, "a", 1), item(3, "C", 2)]).await;
}

/// Nothing is removed before the table is finished, and finishing twice removes nothing more.
pub async fn rows_are_removed_when_the_table_is_finished(harness: &dyn Harness) {
    let all = [item(1, "a", 1), item(2, "b", 1)];
    sync(harness, &job(), &[batch(&all)]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&all[..1])], 1).await;
    expect(harness, &all).await;
    assert_eq!(run.finish().await.deleted, 1);
    expect(harness, &all[..1]).await;
    assert_eq!(run.finish().await.deleted, 0);
    expect(harness, &all[..1]).await;
}

/// A run that ends before it is finished removes nothing; neither does the start of the next.
pub async fn an_abandoned_run_removes_nothing(harness: &dyn Harness) {
    let all = [item(1, "a", 1), item(2, "b", 1)];
    sync(harness, &job(), &[batch(&all)]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&all[..1])], 1).await;
    drop(run);
    let run = Run::open(harness, &job()).await;
    expect(harness, &all).await;
    run.commit(&[batch(&all)], 2).await;
    assert_eq!(run.finish().await.deleted, 0);
    expect(harness, &all).await;
}

/// A row seen in any commit of the run stays.
pub async fn all_commits_of_a_run_count(harness: &dyn Harness) {
    let all = [item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)];
    sync(harness, &job(), &[batch(&all)]).await;
    let run = Run::open(harness, &job()).await;
    run.commit(&[batch(&all[..1])], 1).await;
    run.commit(&[batch(&all[2..])], 2).await;
    assert_eq!(run.finish().await.deleted, 1);
    expect(harness, &[all[0].clone(), all[2].clone()]).await;
}

/// An incremental read sees only what changed: nothing is removed after it.
pub async fn an_incremental_read_removes_nothing(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    let incremental = job().by_cursor("updated_at");
    assert_eq!(incremental.read_mode, ReadMode::Incremental);
    let committed = sync(harness, &incremental, &[batch(&[item(2, "B", 2)])]).await;
    assert_eq!(committed.deleted, 0);
    expect(harness, &[item(1, "a", 1), item(2, "B", 2)]).await;
}

/// Rows that another sync brought into the same table stay.
pub async fn rows_of_another_sync_stay(harness: &dyn Harness) {
    let other = job().of_sync("other");
    sync(harness, &other, &[batch(&[item(9, "theirs", 1)])]).await;
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    sync(harness, &job(), &[batch(&[item(2, "b", 1)])]).await;
    expect(harness, &[item(9, "theirs", 1), item(2, "b", 1)]).await;
}

/// A complete read of an empty source leaves an empty table.
pub async fn an_empty_full_read_removes_every_row(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1), item(2, "b", 1)])]).await;
    let committed = sync(harness, &job(), &[]).await;
    assert_eq!(committed.deleted, 2);
    assert_eq!(count(&visible(harness, &job()).await), 0);
}

/// What would delete too many rows deletes none, also the next time, and keeps what was read; the
/// rows of another sync do not count. Where it is allowed, they go.
pub async fn a_mass_deletion_is_refused(harness: &dyn Harness) {
    let all: Vec<_> = (1..=40).map(|id| item(id, "a", 1)).collect();
    let others: Vec<_> = (101..=200).map(|id| item(id, "theirs", 1)).collect();
    sync(harness, &job().of_sync("other"), &[batch(&others)]).await;
    sync(harness, &job().guarded(), &[batch(&all)]).await;
    let left: Vec<_> = (14..=41).map(|id| item(id, "b", 2)).collect();
    for _ in 0..2 {
        let refused = try_sync(harness, &job().guarded(), &[batch(&left)]).await;
        let refused = refused.expect_err("13 of 41 rows are too many");
        assert_eq!(refused.kind(), ErrorKind::Data);
        assert!(refused.message().starts_with("13 of 41 rows"), "{refused}");
        assert!(refused.hint_text().is_some_and(|hint| hint.contains("--allow-mass-delete")));
        expect(harness, &[&others[..], &all[..13], &left].concat()).await;
    }
    assert_eq!(sync(harness, &job(), &[batch(&left)]).await.deleted, 13);
    expect(harness, &[&others[..], &left].concat()).await;
}

/// All rows are too many, however few they are; some of a few are not.
pub async fn an_empty_full_read_is_refused(harness: &dyn Harness) {
    let all = [item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)];
    assert_eq!(sync(harness, &job().guarded(), &[]).await.deleted, 0, "there was nothing to lose");
    sync(harness, &job().guarded(), &[batch(&all)]).await;
    let refused = try_sync(harness, &job().guarded(), &[]).await.expect_err("all rows would go");
    assert!(refused.message().starts_with("3 of 3 rows"), "{refused}");
    expect(harness, &all).await;
    assert_eq!(sync(harness, &job().guarded(), &[batch(&all[..1])]).await.deleted, 2);
    expect(harness, &all[..1]).await;
}
