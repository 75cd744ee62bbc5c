//! State that lives with the data: leases and fences, cursors that move with the rows, and what
//! is remembered of a table.

use std::collections::BTreeMap;

use highwater_core::{
    Checkpoint, Cursor, CursorKey, Error, ErrorKind, Lease, LeaseRequest, Op, Owner, State,
    StateStore, TableName, TableRecord, WriteMode,
};
use serde_json::json;

use crate::harness::Harness;
use crate::job::{Job, Run, sync, try_sync, upsert, visible};
use crate::rows::{assert_same, count};
use crate::tables::{item, item_table, items};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Append)
}

fn rows(id: i64) -> arrow_array::RecordBatch {
    items(&item_table("items"), &[item(id, "a", 1)])
}

fn elsewhere() -> Owner {
    Owner { host: "elsewhere".to_owned(), ..Owner::this_process() }
}

fn request(owner: Owner, take_over: bool) -> LeaseRequest {
    LeaseRequest { owner, take_over }
}

async fn look(harness: &dyn Harness, sync: &str) -> State {
    let destination = harness.destination().await;
    let store = destination.state_store().expect("a destination with state");
    store.look(sync).await.unwrap_or_else(|e| panic!("{}", e.full_message()))
}

fn store(run: &Run) -> &dyn StateStore {
    run.destination.state_store().expect("a destination with state")
}

#[track_caller]
fn assert_fenced<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("a newer run has the lease");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{}", error.full_message());
}

/// Looking where nothing was ever synced finds nothing and makes nothing.
pub async fn looking_changes_nothing(harness: &dyn Harness) {
    for _ in 0..2 {
        assert_eq!(look(harness, "suite").await, State::default());
        let destination = harness.destination().await;
        let store = destination.state_store().expect("a destination with state");
        assert_eq!(store.list().await.expect("a list"), Vec::<String>::new());
    }
    let run = Run::open(harness, &job()).await;
    assert_eq!(run.fence.epoch, 1);
    run.commit(&[upsert(&rows(1))], 1).await;
    let before = look(harness, "suite").await;
    assert_eq!(look(harness, "suite").await, before);
    assert_eq!(before.fence, None);
    // The run still holds its right.
    run.commit(&[upsert(&rows(2))], 2).await;
}

/// Every run gets a fence one higher than any before, of its sync alone.
pub async fn every_run_gets_the_next_fence(harness: &dyn Harness) {
    for epoch in 1..=3 {
        let run = Run::open(harness, &job()).await;
        assert_eq!((run.fence.sync.as_str(), run.fence.epoch), ("suite", epoch));
        run.release().await;
    }
    assert_eq!(Run::open(harness, &job().of_sync("other")).await.fence.epoch, 1);
    let destination = harness.destination().await;
    let store = destination.state_store().expect("a destination with state");
    assert_eq!(store.list().await.expect("a list"), ["other", "suite"]);
}

/// A run is refused while another is alive on a machine that cannot be seen; after that one's
/// release, or by taking over, it is not.
pub async fn a_second_run_waits_for_the_first(harness: &dyn Harness) {
    let first = Run::try_open(harness, &job(), &request(elsewhere(), false)).await;
    let first = first.unwrap_or_else(|e| panic!("{}", e.full_message()));
    let refused = Run::try_open(harness, &job(), &request(Owner::this_process(), false)).await;
    let error = refused.err().expect("the lease is held");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(error.context_value("host"), Some("elsewhere"));
    // The refusal has taken nothing from the first.
    first.commit(&[upsert(&rows(1))], 1).await;
    store(&first).renew(&first.fence).await.expect("a renewal");
    first.release().await;
    let second = Run::try_open(harness, &job(), &request(elsewhere(), false)).await;
    assert_eq!(second.unwrap_or_else(|e| panic!("{}", e.full_message())).fence.epoch, 2);
    let third = Run::try_open(harness, &job(), &request(Owner::this_process(), true)).await;
    assert_eq!(third.unwrap_or_else(|e| panic!("{}", e.full_message())).fence.epoch, 3);
}

/// The lease of a process that has died on this machine is taken at once.
pub async fn the_lease_of_a_dead_process_is_taken(harness: &dyn Harness) {
    let dead = Owner { start_ticks: 1, ..Owner::this_process() };
    let first = Run::try_open(harness, &job(), &request(dead, false)).await;
    assert!(first.is_ok());
    let second = Run::try_open(harness, &job(), &request(Owner::this_process(), false)).await;
    assert_eq!(second.unwrap_or_else(|e| panic!("{}", e.full_message())).fence.epoch, 2);
}

/// The lease tells who holds it, and whether it was given back.
pub async fn the_lease_is_shown(harness: &dyn Harness) {
    let owner = elsewhere();
    let run = Run::try_open(harness, &job(), &request(owner.clone(), false)).await;
    let run = run.unwrap_or_else(|e| panic!("{}", e.full_message()));
    let Lease { owner: shown, released, .. } = look(harness, "suite").await.lease.expect("a lease");
    assert_eq!((shown, released), (owner, false));
    run.release().await;
    assert!(look(harness, "suite").await.lease.expect("a lease").released);
}

/// After a take-over the older run can change nothing: no rows, no cursor, no lease.
pub async fn an_overtaken_run_can_change_nothing(harness: &dyn Harness) {
    let older = Run::open(harness, &job()).await;
    older.commit(&[upsert(&rows(1))], 1).await;
    let newer = Run::open(harness, &job()).await;
    let before = look(harness, "suite").await;
    assert_fenced(older.try_commit(&[upsert(&rows(2))], 2).await);
    assert_fenced(older.try_commit(&[], 2).await);
    assert_fenced(older.try_finish().await);
    let (fence, checkpoint) = (older.fence.clone(), older.checkpoint(2));
    let key = CursorKey::Table(job().table.name);
    assert_fenced(store(&older).renew(&fence).await);
    assert_fenced(store(&older).save(&fence, &checkpoint).await);
    assert_fenced(store(&older).set(&fence, &key, None).await);
    // Giving back a lease that is another's now does not touch it.
    let _ = store(&older).release(&fence).await;
    let after = look(harness, "suite").await;
    assert_eq!((&after.cursors, &after.tables), (&before.cursors, &before.tables));
    assert!(!after.lease.expect("a lease").released);
    newer.commit(&[upsert(&rows(3))], 3).await;
    let expected = items(&item_table("items"), &[item(1, "a", 1), item(3, "a", 1)]);
    assert_same(&visible(harness, &job()).await, &[expected]);
}

/// A run that has written its rows, sleeps, is overtaken and wakes up in front of its commit is
/// refused; its rows are never seen.
pub async fn a_run_that_wakes_up_late_is_refused(harness: &dyn Harness) {
    let older = Run::open(harness, &job()).await;
    older.commit(&[upsert(&rows(1))], 1).await;
    let mut writer = older.writer().await;
    writer.write(older.batch(Op::Upsert, &rows(2))).await.expect("rows are taken");
    let newer = Run::open(harness, &job()).await;
    newer.commit(&[upsert(&rows(2))], 2).await;
    assert_fenced(writer.commit(&older.checkpoint(2)).await);
    drop(writer);
    newer.commit(&[upsert(&rows(3))], 3).await;
    let expected = items(&item_table("items"), &[1, 2, 3].map(|id| item(id, "a", 1)));
    assert_same(&visible(harness, &job()).await, &[expected]);
    let state = look(harness, "suite").await;
    assert_eq!(state.table_cursor(&job().table.name), Some(&Cursor(json!(3))));
}

/// Of many runs that start at once each gets a fence of its own, and only the last may commit.
pub async fn of_runs_that_start_at_once_one_may_commit(harness: &dyn Harness) {
    sync(harness, &job(), &[upsert(&rows(0))]).await;
    let job = job();
    let opens = || Run::open(harness, &job);
    let (a, b, c, d) = tokio::join!(opens(), opens(), opens(), opens());
    let mut runs = [a, b, c, d];
    runs.sort_by_key(|run| run.fence.epoch);
    let epochs: Vec<_> = runs.iter().map(|run| run.fence.epoch).collect();
    assert_eq!(epochs, [2, 3, 4, 5]);
    for run in &runs[..3] {
        assert_fenced(run.try_commit(&[upsert(&rows(1))], 1).await);
    }
    runs[3].commit(&[upsert(&rows(2))], 2).await;
    assert_eq!(count(&visible(harness, &job).await), 2);
}

/// A cursor is committed with its rows: not before, and not without them.
pub async fn cursors_move_with_the_rows(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    let name = job().table.name;
    let mut writer = run.writer().await;
    writer.write(run.batch(Op::Upsert, &rows(1))).await.expect("rows are taken");
    assert!(look(harness, "suite").await.cursors.is_empty());
    writer.commit(&run.checkpoint(1)).await.expect("a commit");
    assert_eq!(look(harness, "suite").await.table_cursor(&name), Some(&Cursor(json!(1))));
    writer.write(run.batch(Op::Upsert, &rows(2))).await.expect("rows are taken");
    drop(writer);
    assert_eq!(look(harness, "suite").await.table_cursor(&name), Some(&Cursor(json!(1))));
    // The cursor alone.
    run.commit(&[], 7).await;
    assert_eq!(look(harness, "suite").await.table_cursor(&name), Some(&Cursor(json!(7))));
    // A commit without a cursor leaves it.
    run.writer().await.commit(&Checkpoint::default()).await.expect("a commit");
    let next = Run::open(harness, &job()).await;
    assert_eq!(next.state.table_cursor(&name), Some(&Cursor(json!(7))));
    assert_eq!(count(&visible(harness, &job()).await), 1);
}

/// Cursors of every kind come back as they were, whatever is in their names and values.
pub async fn every_cursor_comes_back(harness: &dyn Harness) {
    let odd = "é \"quoted\" 'single' \\ / .. \n ;--";
    let cursors = BTreeMap::from([
        (CursorKey::Global, json!({"lsn": "0/16B3748", "n": u64::MAX})),
        (CursorKey::Table(TableName::new("items")), json!(null)),
        (CursorKey::Table(TableName::in_namespace("public", "items")), json!("text")),
        (CursorKey::Table(TableName::new(odd)), json!([i64::MIN, 0.1, "🦀 \u{1}"])),
        (CursorKey::Partition(TableName::new("items"), odd.to_owned()), json!({odd: {odd: []}})),
        (CursorKey::Partition(TableName::new("items"), "b".to_owned()), json!(true)),
    ]);
    let cursors: BTreeMap<_, _> = cursors.into_iter().map(|(k, v)| (k, Cursor(v))).collect();
    let run = Run::open(harness, &job()).await;
    let checkpoint = Checkpoint { cursors: cursors.clone() };
    run.writer().await.commit(&checkpoint).await.expect("a commit");
    assert_eq!(look(harness, "suite").await.cursors, cursors);
    assert_eq!(Run::open(harness, &job()).await.state.cursors, cursors);
}

/// Cursors that are kept for data elsewhere are saved by the store alone, with table records.
pub async fn cursors_can_be_kept_apart_from_the_data(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    let checkpoint = run.checkpoint(5);
    store(&run).save(&run.fence, &checkpoint).await.expect("saved");
    let record = TableRecord {
        identity: Some("file:1".to_owned()),
        columns: vec!["id".to_owned(), "odd, \"name\"".to_owned()],
        rows_total: 42,
        finished_epoch: Some(run.fence.epoch),
        finished_at: Some(highwater_core::Instant(1_700_000_000_000_001)),
        generation: 7,
        finished_generation: Some(6),
        rebuild: false,
        swept_at: Some(highwater_core::Instant(1_700_000_000_000_000)),
    };
    let name = job().table.name;
    store(&run).save_table(&run.fence, &name, &record).await.expect("saved");
    let state = look(harness, "suite").await;
    assert_eq!(state.cursors, checkpoint.cursors);
    assert_eq!(state.tables, BTreeMap::from([(name, record)]));
}

/// A cursor can be set by hand, and forgotten with what is remembered of its table.
pub async fn a_cursor_is_set_and_reset_by_hand(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    run.commit(&[upsert(&rows(1))], 1).await;
    run.finish().await;
    let name = job().table.name;
    let key = CursorKey::Table(name.clone());
    let part = CursorKey::Partition(TableName::new("others"), "part".to_owned());
    let cursor = Cursor(json!({"by": "hand"}));
    store(&run).set(&run.fence, &key, Some(&cursor)).await.expect("set");
    store(&run).set(&run.fence, &part, Some(&cursor)).await.expect("set");
    let state = look(harness, "suite").await;
    assert_eq!(state.table_cursor(&name), Some(&cursor));
    assert!(state.tables.contains_key(&name));
    store(&run).set(&run.fence, &key, None).await.expect("reset");
    let state = look(harness, "suite").await;
    assert_eq!(state.cursors.keys().collect::<Vec<_>>(), [&part]);
    assert!(!state.tables.contains_key(&name), "the record is forgotten too");
    store(&run).set(&run.fence, &key, None).await.expect("resetting again changes nothing");
}

/// Syncs of different names do not fence each other and keep cursors of their own.
pub async fn two_syncs_work_side_by_side(harness: &dyn Harness) {
    let (one, two) = (job().of_sync("one"), job().of_sync("two"));
    sync(harness, &one, &[upsert(&rows(0))]).await;
    let first = Run::open(harness, &one).await;
    let second = Run::open(harness, &two).await;
    first.commit(&[upsert(&rows(1))], 10).await;
    second.commit(&[upsert(&rows(2))], 20).await;
    first.commit(&[upsert(&rows(3))], 11).await;
    second.commit(&[upsert(&rows(4))], 21).await;
    let name = job().table.name;
    assert_eq!(look(harness, "one").await.table_cursor(&name), Some(&Cursor(json!(11))));
    assert_eq!(look(harness, "two").await.table_cursor(&name), Some(&Cursor(json!(21))));
    assert_eq!(look(harness, "one").await.tables[&name].rows_total, 3);
    assert_eq!(look(harness, "two").await.tables[&name].rows_total, 2);
    assert_eq!(count(&visible(harness, &job()).await), 5);
}

/// A table is remembered with its identity, its columns, its rows and when it was complete.
pub async fn a_table_is_remembered(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    run.commit(&[upsert(&rows(1)), upsert(&rows(2))], 1).await;
    run.commit(&[], 2).await;
    run.commit(&[upsert(&rows(3))], 3).await;
    let name = job().table.name;
    let record = look(harness, "suite").await.tables[&name].clone();
    assert_eq!((record.rows_total, record.finished_epoch), (3, None));
    let mut columns = record.columns.clone();
    columns.sort();
    assert_eq!(columns, ["id", "region", "updated_at", "value"]);
    run.finish().await;
    let record = look(harness, "suite").await.tables[&name].clone();
    assert_eq!((record.rows_total, record.finished_epoch), (3, Some(run.fence.epoch)));
    assert!(record.finished_at.is_some());
    let target = run.table().target.name.clone();
    let described = run.destination.describe(&[target]).await.expect("described");
    assert_eq!(described[0].as_ref().expect("the table exists").identity, record.identity);
}

/// A table that was dropped and made again has another identity than the one remembered.
pub async fn a_table_made_again_is_another_table(harness: &dyn Harness) {
    sync(harness, &job(), &[upsert(&rows(1))]).await;
    let name = job().table.name;
    let remembered = look(harness, "suite").await.tables[&name].identity.clone();
    assert!(remembered.is_some());
    let target = harness.destination().await.target_name(&name);
    harness.drop_table(&target).await;
    let destination = harness.destination().await;
    let names = [target];
    assert!(destination.describe(&names).await.expect("described")[0].is_none());
    sync(harness, &job().of_sync("another"), &[upsert(&rows(2))]).await;
    let described = harness.destination().await.describe(&names).await.expect("described");
    assert_ne!(described[0].as_ref().expect("the table exists").identity, remembered);
}

/// A commit that fails half-way leaves neither rows nor cursor, and the run may go on.
pub async fn a_refused_commit_moves_nothing(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    run.commit(&[upsert(&rows(1))], 1).await;
    let before = look(harness, "suite").await;
    let deletion = crate::job::delete(&rows(1));
    assert!(run.try_commit(&[upsert(&rows(2)), deletion], 2).await.is_err());
    assert_eq!(look(harness, "suite").await.cursors, before.cursors);
    assert_eq!(count(&visible(harness, &job()).await), 1);
    drop(run);
    try_sync(harness, &job(), &[upsert(&rows(2))]).await.expect("the next run commits");
    assert_eq!(count(&visible(harness, &job()).await), 2);
}
