//! Many tables in one partition: batches of all of them come in any order, and one commit makes
//! them all visible.

use highwater_core::{Checkpoint, TableName, WriteMode};

use super::together::{Sent, Together};
use crate::harness::Harness;
use crate::job::{Job, visible};
use crate::rows::{assert_same, count};
use crate::tables::{Item, item, item_table, items};

const NAMES: [&str; 3] = ["many_a", "many_b", "many_c"];

fn job(name: &str) -> Job {
    Job::new(item_table(name), WriteMode::Append)
}

fn jobs() -> Vec<Job> {
    NAMES.map(job).to_vec()
}

fn rows(name: &str, from: i64, count: i64) -> arrow_array::RecordBatch {
    let all: Vec<Item> = (from..from + count).map(|id| item(id, "v", id * 10)).collect();
    items(&item_table(name), &all)
}

/// Small batches of three tables in turn: nothing is seen before the commit, everything after
/// it, and what was done is told table by table.
pub async fn interleaved_batches_are_one_commit(harness: &dyn Harness) {
    let together = Together::open(harness, &jobs()).await;
    let mut writer = together.writer().await;
    let mut sent = Vec::new();
    for round in 0..30 {
        for (nth, name) in NAMES.iter().enumerate() {
            sent.push(Sent::Rows(name, rows(name, round * 10, nth as i64 + 1)));
        }
    }
    together.send(&mut writer, sent).await;
    for name in NAMES {
        assert_eq!(count(&visible(harness, &job(name)).await), 0, "{name}");
    }
    let committed = writer.commit(&Checkpoint::default()).await.expect("a commit");
    for (nth, name) in NAMES.iter().enumerate() {
        let each = nth as i64 + 1;
        assert_eq!(committed[&TableName::new(*name)].written, 30 * each as u64, "{name}");
        let expected: Vec<_> = (0..30).map(|round| rows(name, round * 10, each)).collect();
        assert_same(&visible(harness, &job(name)).await, &expected);
    }
}

/// A table of the partition that nobody sent a row of is made all the same.
pub async fn a_table_without_rows_is_made(harness: &dyn Harness) {
    let together = Together::open(harness, &jobs()).await;
    together.commit(vec![Sent::Rows(NAMES[0], rows(NAMES[0], 1, 2))]).await;
    together.finish().await;
    let destination = harness.destination().await;
    let names = NAMES.map(|name| destination.target_name(&TableName::new(name)));
    let there = destination.describe(&names).await.expect("a description");
    assert_eq!(there.iter().map(Option::is_some).collect::<Vec<_>>(), [true; 3]);
    assert_eq!(count(&visible(harness, &job(NAMES[0])).await), 2);
    assert_eq!(count(&visible(harness, &job(NAMES[2])).await), 0);
}

/// A writer goes on after a commit, with other tables than before.
pub async fn commits_follow_one_another(harness: &dyn Harness) {
    let together = Together::open(harness, &jobs()).await;
    let mut writer = together.writer().await;
    for round in 0..3 {
        let sent = NAMES
            .iter()
            .enumerate()
            .filter(|(nth, _)| *nth != round)
            .map(|(_, name)| Sent::Rows(name, rows(name, round as i64 * 10, 3)))
            .collect();
        together.send(&mut writer, sent).await;
        let committed = writer.commit(&Checkpoint::default()).await.expect("a commit");
        let written: u64 = committed.values().map(|table| table.written).sum();
        assert_eq!(written, 6);
    }
    for (nth, name) in NAMES.iter().enumerate() {
        let rounds = (0..3).filter(|round| *round != nth);
        let expected: Vec<_> = rounds.map(|round| rows(name, round as i64 * 10, 3)).collect();
        assert_same(&visible(harness, &job(name)).await, &expected);
    }
}

/// What a dropped writer took is seen in no table.
pub async fn a_dropped_writer_leaves_nothing_in_any_table(harness: &dyn Harness) {
    let together = Together::open(harness, &jobs()).await;
    let mut writer = together.writer().await;
    let sent = |from| NAMES.iter().map(|name| Sent::Rows(name, rows(name, from, 2))).collect();
    together.send(&mut writer, sent(1)).await;
    drop(writer);
    together.commit(sent(100)).await;
    for name in NAMES {
        assert_same(&visible(harness, &job(name)).await, &[rows(name, 100, 2)]);
    }
}

/// Dozens of tables, hundreds of batches in turn: as a plugin of a cloud sends them.
pub async fn dozens_of_tables_take_turns(harness: &dyn Harness) {
    let names: Vec<String> = (0..40).map(|n| format!("turn_{n:02}")).collect();
    let jobs: Vec<Job> = names.iter().map(|name| job(name)).collect();
    let together = Together::open(harness, &jobs).await;
    let mut sent = Vec::new();
    for round in 0..10 {
        sent.extend(names.iter().map(|name| Sent::Rows(name, rows(name, round * 5, 5))));
    }
    let committed = together.commit(sent).await;
    assert_eq!(committed.len(), 40);
    assert!(committed.values().all(|table| table.written == 50), "{committed:?}");
    assert_same(&visible(harness, &jobs[39]).await, &[rows(&names[39], 0, 50)]);
}
