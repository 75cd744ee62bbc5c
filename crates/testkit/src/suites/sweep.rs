//! Sweeps: an incremental table that is read as a whole again, so that rows which the source has
//! deleted without a word are found.

use highwater_core::{Committed, ErrorKind, WriteMode};

use crate::harness::Harness;
use crate::job::{
    Change, Job, Run, delete, record, sync, try_sync, upsert, visible, visible_history,
};
use crate::rows::{assert_same, count};
use crate::tables::{Item, item, item_table, items, loose_item_table};

const MODES: [WriteMode; 2] = [WriteMode::Overwrite, WriteMode::AppendDedup];

fn job(mode: WriteMode) -> Job {
    Job::new(item_table(&format!("items_{}", mode.as_str().replace('-', "_"))), mode)
        .by_cursor("updated_at")
        .of_sync(mode.as_str())
}

fn batch(job: &Job, rows: &[Item]) -> Change {
    upsert(&items(&job.table, rows))
}

async fn expect(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    assert_same(&visible(harness, job).await, &[items(&job.table, rows)]);
}

async fn expect_history(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    assert_same(&visible_history(harness, job).await, &[items(&job.table, rows)]);
}

/// Rows that the sweep did not bring are deleted when the table is finished, and counted; not
/// before, and not twice.
pub async fn rows_that_were_not_brought_are_deleted(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let all = [item(1, "a", 1), item(2, "b", 2), item(3, "c", 3)];
        sync(harness, &job, &[batch(&job, &all)]).await;
        let run = Run::open(harness, &job.clone().sweeping()).await;
        let brought = [item(1, "a", 1), item(3, "C", 4)];
        let committed = run.commit(&[batch(&job, &brought)], 1).await;
        assert_eq!(committed, Committed { written: 1, unchanged: 1, deleted: 0 });
        assert_eq!(count(&visible(harness, &job).await), 3);
        assert_eq!(run.finish().await.deleted, 1);
        expect(harness, &job, &brought).await;
        assert_eq!(run.finish().await.deleted, 0);
        expect(harness, &job, &brought).await;
    }
}

/// In `append-dedup` such a deletion has a record with the row's key and cursor, and an older row
/// that comes late does not undo it; one that is as new does.
pub async fn a_deletion_has_a_record_and_a_tombstone(harness: &dyn Harness) {
    let job = job(WriteMode::AppendDedup);
    let all = [item(1, "a", 1), item(2, "b", 5), item(3, "c", 0).without_cursor()];
    sync(harness, &job, &[batch(&job, &all)]).await;
    let committed = sync(harness, &job.clone().sweeping(), &[batch(&job, &all[..1])]).await;
    assert_eq!(committed, Committed { written: 0, unchanged: 1, deleted: 2 });
    let records = [all[1].clone().deletion(), all[2].clone().deletion()];
    let history = [all.to_vec(), records.to_vec()].concat();
    expect_history(harness, &job, &history).await;
    sync(harness, &job, &[batch(&job, &[item(2, "late", 4)])]).await;
    expect(harness, &job, &all[..1]).await;
    sync(harness, &job, &[batch(&job, &[item(2, "back", 5)])]).await;
    expect(harness, &job, &[all[0].clone(), item(2, "back", 5)]).await;
}

/// A row that is as it was adds nothing to the history; one that is not does.
pub async fn an_unchanged_row_adds_nothing_to_the_history(harness: &dyn Harness) {
    let job = job(WriteMode::AppendDedup);
    let all = [item(1, "a", 1), item(2, "b", 2)];
    sync(harness, &job, &[batch(&job, &all)]).await;
    for _ in 0..2 {
        let again = sync(harness, &job.clone().sweeping(), &[batch(&job, &all)]).await;
        assert_eq!(again, Committed { written: 0, unchanged: 2, deleted: 0 });
    }
    expect_history(harness, &job, &all).await;
    let changed = [item(1, "a", 1), item(2, "B", 2), item(3, "c", 1)];
    let committed = sync(harness, &job.clone().sweeping(), &[batch(&job, &changed)]).await;
    assert_eq!(committed, Committed { written: 2, unchanged: 1, deleted: 0 });
    expect(harness, &job, &changed).await;
    expect_history(harness, &job, &[&all[..], &changed[1..]].concat()).await;
}

/// Keys of all commits of the run are seen, and in an older version too.
pub async fn all_commits_of_a_sweep_count(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let all = [item(1, "a", 5), item(2, "b", 5), item(3, "c", 5)];
        sync(harness, &job, &[batch(&job, &all)]).await;
        let run = Run::open(harness, &job.clone().sweeping()).await;
        run.commit(&[batch(&job, &all[..1])], 1).await;
        run.commit(&[], 2).await;
        let older = if mode == WriteMode::AppendDedup { 4 } else { 5 };
        run.commit(&[batch(&job, &[item(2, "b", older)])], 3).await;
        assert_eq!(run.finish().await.deleted, 1);
        expect(harness, &job, &all[..2]).await;
    }
}

/// A sweep that ends early deletes nothing, and what it saw does not count for the next.
pub async fn an_interrupted_sweep_deletes_nothing(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let all = [item(1, "a", 1), item(2, "b", 1)];
        sync(harness, &job, &[batch(&job, &all)]).await;
        let run = Run::open(harness, &job.clone().sweeping()).await;
        run.commit(&[batch(&job, &all[..1])], 1).await;
        drop(run);
        expect(harness, &job, &all).await;
        sync(harness, &job, &[]).await;
        expect(harness, &job, &all).await;
        let committed = sync(harness, &job.clone().sweeping(), &[batch(&job, &all[1..])]).await;
        assert_eq!(committed.deleted, 1);
        expect(harness, &job, &all[1..]).await;
    }
}

/// A complete sweep that brought nothing leaves an empty table.
pub async fn a_sweep_that_brings_nothing_empties_the_table(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        sync(harness, &job, &[batch(&job, &[item(1, "a", 1), item(2, "b", 1)])]).await;
        assert_eq!(sync(harness, &job.clone().sweeping(), &[]).await.deleted, 2);
        assert_eq!(count(&visible(harness, &job).await), 0);
    }
}

/// Without `reconcile` a sweep only repairs: nothing is deleted.
pub async fn a_sweep_without_reconcile_deletes_nothing(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        sync(harness, &job, &[batch(&job, &[item(1, "a", 1), item(2, "b", 1)])]).await;
        let repair = Job { reconcile: false, ..job.clone().sweeping() };
        assert_eq!(sync(harness, &repair, &[batch(&job, &[item(1, "A", 2)])]).await.deleted, 0);
        expect(harness, &job, &[item(1, "A", 2), item(2, "b", 1)]).await;
    }
}

/// NULL in a key is a key that was seen, or was not.
pub async fn null_in_a_key_is_seen(harness: &dyn Harness) {
    for mode in MODES {
        let name = format!("loose_{}", mode.as_str().replace('-', "_"));
        let job = Job { table: loose_item_table(&name, &["region", "id"]), ..job(mode) };
        let all = [item(1, "a", 1), item(2, "b", 1), item(3, "c", 1).within("north")];
        sync(harness, &job, &[batch(&job, &all)]).await;
        let brought = [all[0].clone(), all[2].clone()];
        let committed = sync(harness, &job.clone().sweeping(), &[batch(&job, &brought)]).await;
        assert_eq!(committed.deleted, 1);
        expect(harness, &job, &brought).await;
    }
}

/// A row that the sweep brings and the source then deletes is gone.
pub async fn deletions_within_a_sweep_count(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let all = [item(1, "a", 1), item(2, "b", 1)];
        sync(harness, &job, &[batch(&job, &all)]).await;
        let run = Run::open(harness, &job.clone().sweeping()).await;
        let gone = delete(&items(&job.table, &[item(1, "", 2).deletion()]));
        let committed = run.commit(&[batch(&job, &all), gone], 1).await;
        assert_eq!(committed.deleted, 1);
        assert_eq!(run.finish().await.deleted, 0);
        expect(harness, &job, &all[1..]).await;
    }
}

/// When a table was swept is remembered, and stays so over ordinary syncs.
pub async fn the_time_of_a_sweep_is_remembered(harness: &dyn Harness) {
    let job = job(WriteMode::Overwrite);
    sync(harness, &job, &[batch(&job, &[item(1, "a", 1)])]).await;
    assert_eq!(record(harness, &job).await.expect("a record").swept_at, None);
    let run = Run::open(harness, &job.clone().sweeping()).await;
    run.commit(&[batch(&job, &[item(1, "a", 1)])], 1).await;
    assert_eq!(record(harness, &job).await.expect("a record").swept_at, None);
    run.finish().await;
    let swept_at = Some(run.plan.started_at);
    assert_eq!(record(harness, &job).await.expect("a record").swept_at, swept_at);
    run.release().await;
    assert_eq!(sync(harness, &job, &[]).await.deleted, 0);
    assert_eq!(record(harness, &job).await.expect("a record").swept_at, swept_at);
}

/// A sweep that was overtaken deletes nothing.
pub async fn an_overtaken_sweep_deletes_nothing(harness: &dyn Harness) {
    let job = job(WriteMode::AppendDedup);
    let all = [item(1, "a", 1), item(2, "b", 1)];
    sync(harness, &job, &[batch(&job, &all)]).await;
    let run = Run::open(harness, &job.clone().sweeping()).await;
    run.commit(&[batch(&job, &all[..1])], 1).await;
    let newer = Run::open(harness, &job).await;
    let refused = run.try_finish().await.expect_err("a newer run has the lease");
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    expect(harness, &job, &all).await;
    expect_history(harness, &job, &all).await;
    newer.release().await;
}

/// Two syncs that work on one table at the same time do not take what the other has seen for what
/// was not brought.
pub async fn sweeps_of_two_syncs_do_not_meet(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let all = [item(1, "a", 1), item(2, "b", 1)];
        sync(harness, &job, &[batch(&job, &all)]).await;
        let other = job.of_sync("another").sweeping();
        let run = Run::open(harness, &job.clone().sweeping()).await;
        run.commit(&[batch(&job, &all[..1])], 1).await;
        let second = Run::open(harness, &other).await;
        second.commit(&[batch(&job, &all)], 1).await;
        run.commit(&[batch(&job, &all[1..])], 2).await;
        assert_eq!(second.finish().await.deleted, 0, "{mode}");
        assert_eq!(run.finish().await.deleted, 0, "{mode}");
        expect(harness, &job, &all).await;
        second.release().await;
        run.release().await;
    }
}

/// A sweep that did not bring too many rows deletes none and leaves no record of a deletion, and
/// is no finished one; what it brought stays. The next one that may deletes them.
pub async fn a_sweep_refuses_a_mass_deletion(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let all: Vec<_> = (1..=30).map(|id| item(id, "a", 1)).collect();
        sync(harness, &job, &[batch(&job, &all)]).await;
        let guarded = job.clone().sweeping().guarded();
        for (brought, message) in [(&all[10..], "10 of 30 rows"), (&all[..0], "30 of 30 rows")] {
            let refused = try_sync(harness, &guarded, &[batch(&job, brought)]).await;
            let refused = refused.expect_err("too many rows would go");
            assert!(refused.message().starts_with(message), "{refused}");
            expect(harness, &job, &all).await;
            if mode == WriteMode::AppendDedup {
                expect_history(harness, &job, &all).await;
            }
            assert_eq!(record(harness, &job).await.expect("a record").swept_at, None);
        }
        let committed = sync(harness, &guarded, &[batch(&job, &all[9..])]).await;
        assert_eq!(committed.deleted, 9);
        let committed = sync(harness, &job.clone().sweeping(), &[batch(&job, &all[20..])]).await;
        assert_eq!(committed.deleted, 11);
        expect(harness, &job, &all[20..]).await;
    }
}
