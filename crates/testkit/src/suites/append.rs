//! `append`: old rows and every row read.

use highwater_core::{ErrorKind, Op, WriteMode};

use crate::harness::Harness;
use crate::job::{Change, Job, Run, delete, sync, try_sync, upsert, visible};
use crate::rows::{assert_same, count};
use crate::tables::{Item, item, item_table, items, orders};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Append)
}

fn batch(rows: &[Item]) -> Change {
    upsert(&items(&item_table("items"), rows))
}

/// Every row of every sync is there, also one that was there before, value for value.
pub async fn rows_of_all_syncs_stand_side_by_side(harness: &dyn Harness) {
    let first = [item(1, "a", 1), item(2, "b", 1)];
    let second = [item(1, "a", 1), item(3, "c", 2)];
    let committed = sync(harness, &job(), &[batch(&first)]).await;
    assert_eq!((committed.written, committed.unchanged, committed.deleted), (2, 0, 0));
    sync(harness, &job(), &[batch(&second)]).await;
    let all = items(&item_table("items"), &[first, second].concat());
    assert_same(&visible(harness, &job()).await, &[all]);
}

/// Equal rows in one batch are different rows.
pub async fn equal_rows_are_all_added(harness: &dyn Harness) {
    let rows = [item(1, "a", 1), item(1, "a", 1), item(1, "a", 1)];
    sync(harness, &job(), &[batch(&rows[..2]), batch(&rows[2..])]).await;
    assert_same(&visible(harness, &job()).await, &[items(&item_table("items"), &rows)]);
}

/// The second commit of a writer adds to the first, and the cursor alone may move.
pub async fn a_writer_commits_more_than_once(harness: &dyn Harness) {
    let run = Run::open(harness, &job()).await;
    let mut writer = run.writer().await;
    let mut written = 0;
    for (position, rows) in
        [vec![item(1, "a", 1)], vec![], vec![item(2, "b", 2)]].iter().enumerate()
    {
        if !rows.is_empty() {
            let rows = items(&item_table("items"), rows);
            writer.write(run.batch(Op::Upsert, &rows)).await.expect("rows are taken");
        }
        let checkpoint = run.checkpoint(position as i64);
        let committed = writer.commit(&checkpoint).await.expect("a commit");
        written += crate::job::total(&committed).written;
    }
    assert_eq!(written, 2);
    let all = items(&item_table("items"), &[item(1, "a", 1), item(2, "b", 2)]);
    assert_same(&visible(harness, &job()).await, &[all]);
}

/// Many rows in many batches arrive, each once.
pub async fn thousands_of_rows_arrive_once_each(harness: &dyn Harness) {
    let sample = orders(12_000);
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    let slices: Vec<_> =
        (0..12).map(|part| upsert(&sample.rows.slice(part * 1_000, 1_000))).collect();
    let committed = sync(harness, &job, &slices).await;
    assert_eq!(committed.written, 12_000);
    assert_same(&visible(harness, &job).await, &[sample.rows]);
}

/// A record of a deletion cannot be appended; it is refused and nothing is changed.
pub async fn a_delete_record_is_refused(harness: &dyn Harness) {
    let rows = items(&item_table("items"), &[item(1, "a", 1)]);
    sync(harness, &job(), &[upsert(&rows)]).await;
    let error = try_sync(harness, &job(), &[delete(&rows)]).await.expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(count(&visible(harness, &job()).await), 1);
}
