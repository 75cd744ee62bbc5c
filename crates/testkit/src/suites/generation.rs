//! Generations: which reading of a table the rows belong to, and what an interrupted one leaves
//! for the next run.

use highwater_core::state::FULL_REFRESH;
use highwater_core::{Checkpoint, Cursor, CursorKey, ErrorKind, State, TableName, WriteMode};
use serde_json::json;

use crate::harness::Harness;
use crate::job::{Change, Job, Run, record, refresh, sync, upsert, visible};
use crate::rows::assert_same;
use crate::tables::{Item, item, item_table, items};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Append)
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

async fn expect(harness: &dyn Harness, rows: &[Item]) {
    let expected = items(&item_table("items"), rows);
    assert_same(&visible(harness, &job()).await, &[expected]);
}

/// The generation of the record, and the one that was finished.
async fn generations(harness: &dyn Harness, job: &Job) -> (u64, Option<u64>) {
    let record = record(harness, job).await.expect("a record");
    (record.generation, record.finished_generation)
}

async fn state(harness: &dyn Harness) -> State {
    let destination = harness.destination().await;
    let store = destination.state_store().expect("a destination with state");
    store.look("suite").await.unwrap_or_else(|e| panic!("{}", e.full_message()))
}

/// Every full read is a generation of its own, and is finished with its table.
pub async fn a_full_read_begins_a_generation(harness: &dyn Harness) {
    sync(harness, &job(), &[batch(&[item(1, "a", 1)])]).await;
    assert_eq!(generations(harness, &job()).await, (1, Some(1)));
    let run = Run::open(harness, &job()).await;
    assert_eq!(run.table().generation, 2);
    run.commit(&[batch(&[item(2, "b", 1)])], 1).await;
    assert_eq!(generations(harness, &job()).await, (2, Some(1)));
    run.finish().await;
    assert_eq!(generations(harness, &job()).await, (2, Some(2)));
}

/// A read that goes on where it was interrupted stays in its generation, keeps what was committed
/// and forgets its position at the end.
pub async fn an_interrupted_read_goes_on_in_its_generation(harness: &dyn Harness) {
    let job = job().resumable();
    let first = Run::open(harness, &job).await;
    first.commit(&[batch(&[item(1, "a", 1)])], 5).await;
    drop(first);
    assert_eq!(generations(harness, &job).await, (1, None));
    let second = Run::open(harness, &job).await;
    let position = CursorKey::Partition(job.table.name.clone(), FULL_REFRESH.to_owned());
    assert_eq!(second.state.cursors.get(&position), Some(&Cursor(json!(5))));
    assert_eq!(second.table().generation, 1);
    second.commit(&[batch(&[item(2, "b", 1)])], 9).await;
    second.finish().await;
    second.release().await;
    expect(harness, &[item(1, "a", 1), item(2, "b", 1)]).await;
    assert_eq!(generations(harness, &job).await, (1, Some(1)));
    assert!(!state(harness).await.cursors.contains_key(&position));
    assert_eq!(Run::open(harness, &job).await.table().generation, 2);
}

/// An interrupted read that cannot go on leaves its generation behind.
pub async fn an_interrupted_read_that_cannot_go_on_begins_another(harness: &dyn Harness) {
    let first = Run::open(harness, &job()).await;
    first.commit(&[batch(&[item(1, "a", 1)])], 5).await;
    drop(first);
    let second = Run::open(harness, &job()).await;
    assert_eq!(second.table().generation, 2);
    second.commit(&[], 1).await;
    second.finish().await;
    assert_eq!(generations(harness, &job()).await, (2, Some(2)));
}

/// Incremental reads belong to one generation, sync after sync.
pub async fn incremental_reads_stay_in_one_generation(harness: &dyn Harness) {
    let job = job().by_cursor("updated_at");
    for id in 1..=3 {
        sync(harness, &job, &[batch(&[item(id, "a", id)])]).await;
        assert_eq!(generations(harness, &job).await, (0, Some(0)));
    }
}

/// The end of a read forgets the position of its full refresh, and no other cursor.
pub async fn other_cursors_outlive_a_full_refresh(harness: &dyn Harness) {
    let job = job().resumable();
    let others = [
        CursorKey::Global,
        CursorKey::Table(job.table.name.clone()),
        CursorKey::Partition(job.table.name.clone(), "a slice".to_owned()),
        CursorKey::Partition(TableName::new("others"), FULL_REFRESH.to_owned()),
    ];
    let run = Run::open(harness, &job).await;
    let mut checkpoint = run.checkpoint(1);
    checkpoint.cursors.extend(others.iter().map(|key| (key.clone(), Cursor(json!("kept")))));
    run.writer().await.commit(&checkpoint).await.expect("a commit");
    run.finish().await;
    let left = state(harness).await.cursors;
    assert_eq!(left.keys().collect::<Vec<_>>(), others.iter().collect::<Vec<_>>());
}

/// A refresh forgets the cursors of its table alone and begins the next generation; what else is
/// remembered stays.
pub async fn a_refresh_begins_the_next_generation(harness: &dyn Harness) {
    let job = job().by_cursor("updated_at");
    let other = Job::new(item_table("others"), WriteMode::Append).by_cursor("updated_at");
    sync(harness, &job, &[batch(&[item(1, "a", 1)])]).await;
    sync(harness, &other, &[upsert(&items(&other.table, &[item(1, "a", 1)]))]).await;
    let before = record(harness, &job).await.expect("a record");
    refresh(harness, &job, false).await;
    let after = record(harness, &job).await.expect("the record stays");
    assert_eq!((after.generation, after.rebuild), (before.generation + 1, false));
    assert_eq!(after.finished_generation, before.finished_generation);
    assert_eq!((&after.identity, after.rows_total), (&before.identity, before.rows_total));
    let keys: Vec<_> = state(harness).await.cursors.into_keys().collect();
    assert_eq!(keys, [CursorKey::Table(other.table.name.clone())]);
    refresh(harness, &job, true).await;
    let again = record(harness, &job).await.expect("the record stays");
    assert_eq!((again.generation, again.rebuild), (before.generation + 2, true));
    let untouched = record(harness, &other).await.expect("a record");
    assert_eq!((untouched.generation, untouched.rebuild), (0, false));
}

/// Rows of a refresh that keeps the old ones stand beside them, in the new generation.
pub async fn a_refresh_that_keeps_adds_to_the_old_rows(harness: &dyn Harness) {
    let job = job().by_cursor("updated_at");
    sync(harness, &job, &[batch(&[item(1, "a", 1)])]).await;
    refresh(harness, &job, false).await;
    let run = Run::open(harness, &job).await;
    assert!(run.state.table_cursor(&job.table.name).is_none());
    assert_eq!((run.table().generation, run.table().rebuild), (1, false));
    run.commit(&[batch(&[item(1, "a", 1), item(2, "b", 2)])], 1).await;
    expect(harness, &[item(1, "a", 1), item(1, "a", 1), item(2, "b", 2)]).await;
    run.finish().await;
    assert_eq!(generations(harness, &job).await, (1, Some(1)));
}

/// A refresh of a table that was never synced does nothing; one under an old fence is refused.
pub async fn a_refresh_without_reason_or_right_changes_nothing(harness: &dyn Harness) {
    refresh(harness, &job(), true).await;
    assert_eq!(state(harness).await.tables.len(), 0);
    let run = Run::open(harness, &job()).await;
    run.writer().await.commit(&Checkpoint::default()).await.expect("a commit");
    let newer = Run::open(harness, &job()).await;
    let before = state(harness).await.tables;
    let store = run.destination.state_store().expect("a destination with state");
    let refused = store.refresh(&run.fence, &job().table.name, true).await;
    assert_eq!(refused.expect_err("a newer run has the lease").kind(), ErrorKind::Fenced);
    assert_eq!(state(harness).await.tables, before);
    newer.release().await;
}
