//! Rebuilds: rows that go beside the present table, with a history and tombstones of their own,
//! until the read is finished.

use arrow_schema::{DataType, Field};
use highwater_core::{Checkpoint, ErrorKind, WriteMode};

use crate::harness::Harness;
use crate::job::{
    Change, Job, Run, delete, record, refresh, sync, upsert, visible, visible_history,
};
use crate::rows::{assert_same, count};
use crate::tables::{Item, TableChanges, item, item_table, items, loose_item_table};

/// The modes in which an incremental table can be built anew.
const MODES: [WriteMode; 3] = [WriteMode::Append, WriteMode::Overwrite, WriteMode::AppendDedup];

fn job(mode: WriteMode) -> Job {
    Job::new(item_table(&format!("items_{}", mode.as_str().replace('-', "_"))), mode)
        .by_cursor("updated_at")
        .of_sync(mode.as_str())
}

fn resumable(mode: WriteMode) -> Job {
    Job::new(item_table("items"), mode).resumable()
}

fn batch(job: &Job, rows: &[Item]) -> Change {
    upsert(&items(&job.table, rows))
}

fn gone(job: &Job, id: i64, updated_at: i64) -> Change {
    delete(&items(&job.table, &[item(id, "", updated_at).deletion()]))
}

async fn expect(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    assert_same(&visible(harness, job).await, &[items(&job.table, rows)]);
}

async fn expect_history(harness: &dyn Harness, job: &Job, rows: &[Item]) {
    if job.write_mode == WriteMode::AppendDedup {
        assert_same(&visible_history(harness, job).await, &[items(&job.table, rows)]);
    }
}

/// Until the table is finished readers see the old rows and the old history, whatever was
/// committed; then exactly the new ones.
pub async fn readers_see_the_old_rows_until_the_refresh_is_finished(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        let old = [item(1, "old", 8), item(2, "old", 8)];
        let new = [item(1, "new", 3), item(3, "new", 3)];
        sync(harness, &job, &[batch(&job, &old)]).await;
        refresh(harness, &job, true).await;
        let run = Run::open(harness, &job).await;
        assert!(run.table().rebuild);
        for row in &new {
            run.commit(&[batch(&job, std::slice::from_ref(row))], 1).await;
            expect(harness, &job, &old).await;
            expect_history(harness, &job, &old).await;
        }
        run.finish().await;
        expect(harness, &job, &new).await;
        expect_history(harness, &job, &new).await;
        run.finish().await;
        expect(harness, &job, &new).await;
        run.release().await;
        let record = record(harness, &job).await.expect("a record");
        assert_eq!((record.finished_generation, record.rebuild), (Some(1), false));
    }
}

/// What comes after a rebuild goes into the new table like any other delta.
pub async fn the_next_sync_goes_on_with_the_new_table(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
        refresh(harness, &job, true).await;
        sync(harness, &job, &[batch(&job, &[item(2, "b", 2)])]).await;
        let run = Run::open(harness, &job).await;
        assert!(!run.table().rebuild && run.state.table_cursor(&job.table.name).is_some());
        let target = run.table().target.name.clone();
        let described = run.destination.describe(&[target]).await.expect("described");
        let described = described[0].as_ref().expect("the table exists");
        assert_eq!(described.identity, run.state.tables[&job.table.name].identity);
        run.commit(&[batch(&job, &[item(3, "c", 3)])], 2).await;
        run.finish().await;
        expect(harness, &job, &[item(2, "b", 2), item(3, "c", 3)]).await;
        expect_history(harness, &job, &[item(2, "b", 2), item(3, "c", 3)]).await;
        run.release().await;
        // And once more.
        refresh(harness, &job, true).await;
        sync(harness, &job, &[batch(&job, &[item(4, "d", 4)])]).await;
        expect(harness, &job, &[item(4, "d", 4)]).await;
        expect_history(harness, &job, &[item(4, "d", 4)]).await;
    }
}

/// A run that ends early leaves the old rows for readers and its own for the next run, which goes
/// on from the cursor.
pub async fn an_interrupted_rebuild_goes_on(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
        refresh(harness, &job, true).await;
        let first = Run::open(harness, &job).await;
        first.commit(&[batch(&job, &[item(1, "a", 2)])], 7).await;
        let mut writer = first.writer().await;
        let uncommitted = items(&job.table, &[item(9, "never", 9)]);
        writer.write(first.batch(highwater_core::Op::Upsert, &uncommitted)).await.expect("taken");
        drop(writer);
        drop(first);
        expect(harness, &job, &[item(1, "old", 1)]).await;
        let second = Run::open(harness, &job).await;
        assert!(second.table().rebuild && second.table().generation == 1);
        assert!(second.state.table_cursor(&job.table.name).is_some());
        second.commit(&[batch(&job, &[item(2, "b", 2)])], 8).await;
        expect(harness, &job, &[item(1, "old", 1)]).await;
        second.finish().await;
        expect(harness, &job, &[item(1, "a", 2), item(2, "b", 2)]).await;
        expect_history(harness, &job, &[item(1, "a", 2), item(2, "b", 2)]).await;
        second.release().await;
    }
}

/// A full refresh that was interrupted goes on with what it had, in each mode that replaces.
pub async fn an_interrupted_full_refresh_goes_on(harness: &dyn Harness) {
    for mode in [WriteMode::Replace, WriteMode::ReplaceDedup] {
        let job = resumable(mode).of_sync(mode.as_str());
        sync(harness, &job, &[batch(&job, &[item(7, "old", 1)])]).await;
        for id in 1..=3 {
            let run = Run::open(harness, &job).await;
            run.commit(&[batch(&job, &[item(id, "new", id)])], id).await;
            drop(run);
            expect(harness, &job, &[item(7, "old", 1)]).await;
        }
        let run = Run::open(harness, &job).await;
        run.commit(&[batch(&job, &[item(4, "new", 4)])], 4).await;
        run.finish().await;
        run.release().await;
        expect(harness, &job, &[1, 2, 3, 4].map(|id| item(id, "new", id))).await;
        // The next read is another one.
        sync(harness, &job, &[batch(&job, &[item(7, "old", 1)])]).await;
        expect(harness, &job, &[item(7, "old", 1)]).await;
    }
}

/// What a generation has left that nobody goes on with is in no later table.
pub async fn what_another_generation_left_is_dropped(harness: &dyn Harness) {
    let job = resumable(WriteMode::Replace);
    sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
    let run = Run::open(harness, &job).await;
    run.commit(&[batch(&job, &[item(2, "left", 2)])], 1).await;
    drop(run);
    refresh(harness, &job, true).await;
    sync(harness, &job, &[batch(&job, &[item(3, "new", 3)])]).await;
    expect(harness, &job, &[item(3, "new", 3)]).await;
    // The same for an incremental table that is refreshed twice.
    let job = self::job(WriteMode::AppendDedup);
    sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
    refresh(harness, &job, true).await;
    let run = Run::open(harness, &job).await;
    run.commit(&[batch(&job, &[item(2, "left", 9)]), gone(&job, 3, 9)], 1).await;
    drop(run);
    refresh(harness, &job, true).await;
    sync(harness, &job, &[batch(&job, &[item(3, "new", 3)])]).await;
    expect(harness, &job, &[item(3, "new", 3)]).await;
    expect_history(harness, &job, &[item(3, "new", 3)]).await;
}

/// Rows that no cursor covers are read again: the next run begins with nothing.
pub async fn rows_without_a_position_are_read_again(harness: &dyn Harness) {
    for job in [resumable(WriteMode::Replace), job(WriteMode::Append)] {
        sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
        refresh(harness, &job, true).await;
        let run = Run::open(harness, &job).await;
        let mut writer = run.writer().await;
        let rows = items(&job.table, &[item(2, "new", 2)]);
        writer.write(run.batch(highwater_core::Op::Upsert, &rows)).await.expect("rows are taken");
        writer.commit(&Checkpoint::default()).await.expect("a commit");
        drop((writer, run));
        sync(harness, &job, &[upsert(&rows)]).await;
        expect(harness, &job, &[item(2, "new", 2)]).await;
    }
}

/// Deletions are remembered for the rows of one generation: also when its run was interrupted,
/// and no longer than that.
pub async fn tombstones_belong_to_their_generation(harness: &dyn Harness) {
    let job = job(WriteMode::AppendDedup);
    sync(harness, &job, &[batch(&job, &[item(1, "old", 1)]), gone(&job, 1, 9)]).await;
    refresh(harness, &job, true).await;
    let run = Run::open(harness, &job).await;
    run.commit(&[batch(&job, &[item(1, "a", 5)]), gone(&job, 2, 9)], 1).await;
    drop(run);
    let run = Run::open(harness, &job).await;
    run.commit(&[batch(&job, &[item(2, "late", 5)])], 2).await;
    run.finish().await;
    run.release().await;
    expect(harness, &job, &[item(1, "a", 5)]).await;
    sync(harness, &job, &[batch(&job, &[item(2, "late", 8)])]).await;
    expect(harness, &job, &[item(1, "a", 5)]).await;
    sync(harness, &job, &[batch(&job, &[item(2, "again", 10)])]).await;
    expect(harness, &job, &[item(1, "a", 5), item(2, "again", 10)]).await;
}

/// A column that came between two runs of one generation is in the new table.
pub async fn a_column_that_came_in_between_is_there(harness: &dyn Harness) {
    let job = resumable(WriteMode::Replace);
    let run = Run::open(harness, &job).await;
    run.commit(&[batch(&job, &[item(1, "a", 1)])], 1).await;
    drop(run);
    let wider = job.table.clone().with_column(Field::new("extra", DataType::Utf8, true));
    let job = job.of_table(wider);
    sync(harness, &job, &[batch(&job, &[item(2, "b", 2)])]).await;
    expect(harness, &job, &[item(1, "a", 1), item(2, "b", 2)]).await;
}

/// A key that may be NULL is matched in the new table, and survives every swap.
pub async fn null_in_a_key_equals_null_in_a_rebuild(harness: &dyn Harness) {
    for mode in [WriteMode::Overwrite, WriteMode::AppendDedup] {
        let job = job(mode);
        let table = loose_item_table(&job.table.name.name, &["region", "id"]);
        let job = job.of_table(table);
        sync(harness, &job, &[batch(&job, &[item(1, "a", 1)])]).await;
        for _ in 0..2 {
            refresh(harness, &job, true).await;
            let run = Run::open(harness, &job).await;
            run.commit(&[batch(&job, &[item(1, "b", 2)])], 1).await;
            let nobody = item(0, "d", 1).without_id();
            run.commit(&[batch(&job, &[item(1, "c", 3), nobody.clone()])], 2).await;
            run.finish().await;
            run.release().await;
            expect(harness, &job, &[item(1, "c", 3), nobody.clone()]).await;
            sync(harness, &job, &[batch(&job, &[item(1, "e", 4)])]).await;
            expect(harness, &job, &[item(1, "e", 4), nobody]).await;
        }
    }
}

/// A complete read that brought nothing leaves an empty table.
pub async fn a_rebuild_without_rows_leaves_an_empty_table(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
        refresh(harness, &job, true).await;
        let run = Run::open(harness, &job).await;
        run.finish().await;
        run.release().await;
        assert_eq!(count(&visible(harness, &job).await), 0);
        let name = harness.destination().await.target_name(&job.table.name);
        assert!(harness.rows(&name).await.is_some(), "the table is still there");
        expect_history(harness, &job, &[]).await;
    }
}

/// A run that was overtaken swaps nothing in.
pub async fn an_overtaken_run_swaps_nothing_in(harness: &dyn Harness) {
    let job = job(WriteMode::AppendDedup);
    sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
    refresh(harness, &job, true).await;
    let older = Run::open(harness, &job).await;
    older.commit(&[batch(&job, &[item(2, "new", 2)])], 1).await;
    let newer = Run::open(harness, &job).await;
    let refused = older.try_finish().await.expect_err("a newer run has the lease");
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    expect(harness, &job, &[item(1, "old", 1)]).await;
    expect_history(harness, &job, &[item(1, "old", 1)]).await;
    newer.commit(&[batch(&job, &[item(3, "new", 3)])], 2).await;
    newer.finish().await;
    expect(harness, &job, &[item(2, "new", 2), item(3, "new", 3)]).await;
}

/// What another sync does beside the same table leaves the rows of this one where they are.
pub async fn rebuilds_of_two_syncs_do_not_meet(harness: &dyn Harness) {
    for mode in MODES {
        let job = job(mode);
        sync(harness, &job, &[batch(&job, &[item(1, "old", 1)])]).await;
        refresh(harness, &job, true).await;
        let run = Run::open(harness, &job).await;
        run.commit(&[batch(&job, &[item(2, "a", 2)])], 1).await;
        drop(run);
        let other = job.of_sync("another");
        sync(harness, &other, &[]).await;
        refresh(harness, &other, true).await;
        sync(harness, &other, &[batch(&job, &[item(9, "other", 9)])]).await;
        sync(harness, &job, &[batch(&job, &[item(3, "b", 3)])]).await;
        expect(harness, &job, &[item(2, "a", 2), item(3, "b", 3)]).await;
        expect_history(harness, &job, &[item(2, "a", 2), item(3, "b", 3)]).await;
    }
}
