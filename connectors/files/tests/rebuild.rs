//! Tables that are read anew: what readers see, and what an interrupted read leaves.

use highwater_core::*;
use highwater_testkit::job::{Job, Run, record, refresh, sync, upsert, visible};
use highwater_testkit::rows::assert_same;
use highwater_testkit::tables::{Item, item, item_table, items};

use crate::suites::Fresh;

fn batch(rows: &[Item]) -> highwater_testkit::job::Change {
    upsert(&items(&item_table("items"), rows))
}

async fn expect(folder: &Fresh, job: &Job, rows: &[Item]) {
    assert_same(&visible(folder, job).await, &[items(&job.table, rows)]);
}

/// The files of an unfinished read go with its run, so its position goes too: the next read
/// begins anew, in a generation of its own.
#[tokio::test]
async fn an_interrupted_replace_begins_anew() {
    let folder = Fresh::new();
    let job = Job::new(item_table("items"), WriteMode::Replace).resumable();
    sync(&folder, &job, &[batch(&[item(1, "old", 1)])]).await;
    let run = Run::open(&folder, &job).await;
    run.commit(&[batch(&[item(2, "left", 2)])], 5).await;
    drop(run);
    expect(&folder, &job, &[item(1, "old", 1)]).await;
    let destination = highwater_testkit::harness::Harness::destination(&folder).await;
    let looked = destination.state_store().unwrap().look("suite").await.unwrap();
    assert!(looked.cursors.is_empty(), "{looked:?}");
    let run = Run::open(&folder, &job).await;
    assert!(run.state.cursors.is_empty());
    assert_eq!(run.table().generation, 3);
    run.commit(&[batch(&[item(3, "new", 3)])], 1).await;
    run.finish().await;
    expect(&folder, &job, &[item(3, "new", 3)]).await;
    let record = record(&folder, &job).await.unwrap();
    assert_eq!((record.finished_generation, record.rebuild), (Some(3), false));
}

/// A refresh that removes: readers see the old files until the new ones are complete, also when
/// a run dies in between.
#[tokio::test]
async fn a_refresh_takes_the_place_of_the_old_rows() {
    let folder = Fresh::new();
    let job = Job::new(item_table("items"), WriteMode::Append).by_cursor("updated_at");
    sync(&folder, &job, &[batch(&[item(1, "old", 1)])]).await;
    refresh(&folder, &job, true).await;
    let run = Run::open(&folder, &job).await;
    assert!(run.table().rebuild);
    run.commit(&[batch(&[item(2, "left", 2)])], 5).await;
    expect(&folder, &job, &[item(1, "old", 1)]).await;
    drop(run);
    let run = Run::open(&folder, &job).await;
    assert!(run.table().rebuild && run.state.cursors.is_empty());
    run.commit(&[batch(&[item(3, "new", 3)])], 1).await;
    expect(&folder, &job, &[item(1, "old", 1)]).await;
    run.finish().await;
    run.release().await;
    expect(&folder, &job, &[item(3, "new", 3)]).await;
    sync(&folder, &job, &[batch(&[item(4, "next", 4)])]).await;
    expect(&folder, &job, &[item(3, "new", 3), item(4, "next", 4)]).await;
}

#[tokio::test]
async fn what_needs_keys_is_refused() {
    let folder = Fresh::new();
    for mode in [WriteMode::ReplaceDedup, WriteMode::AppendDedup] {
        let job = Job::new(item_table("items"), mode);
        let run = Run::open(&folder, &job).await;
        let error = run.try_commit(&[batch(&[item(1, "a", 1)])], 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

/// A table that is cleared has no rows, and the next sync starts as the first did.
#[tokio::test]
async fn a_cleared_table_is_as_never_synced() {
    for format in ["parquet", "csv", "jsonl"] {
        let folder = Fresh::of(format);
        let job = Job::new(item_table("items"), WriteMode::Append).by_cursor("updated_at");
        sync(&folder, &job, &[batch(&[item(1, "a", 1)])]).await;
        sync(&folder, &job, &[batch(&[item(2, "b", 2)])]).await;
        let run = Run::open(&folder, &job).await;
        let older = Run::open(&folder, &job).await;
        let refused = run.destination.clear(&run.plan, run.table(), &run.fence).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Fenced);
        let cleared = older.destination.clear(&older.plan, older.table(), &older.fence).await;
        assert_eq!(cleared.unwrap().deleted, 2);
        older.release().await;
        assert_eq!(highwater_testkit::rows::count(&visible(&folder, &job).await), 0);
        assert_eq!(record(&folder, &job).await, None);
        let run = Run::open(&folder, &job).await;
        assert!(run.state.cursors.is_empty());
        run.commit(&[batch(&[item(3, "c", 3)])], 1).await;
        run.finish().await;
        assert_eq!(highwater_testkit::rows::count(&visible(&folder, &job).await), 1);
    }
}
