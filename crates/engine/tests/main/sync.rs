//! One source, one destination: what is committed when, and what a failure leaves behind.

use std::sync::Arc;

use highwater_core::{ErrorKind, WriteMode};
use highwater_engine::Outcome;
use highwater_testkit::memory::{Fault, Memory, Operation};
use highwater_testkit::scripted::{Script, Step};
use highwater_testkit::tables::item_table;

use crate::bench::{Bench, ids, ids_of, upsert};

fn script() -> Vec<Step> {
    vec![upsert(0..3), Step::Checkpoint, upsert(3..6), upsert(6..8), Step::Checkpoint]
}

#[tokio::test]
async fn rows_are_committed_before_the_source_is_told() {
    let (bench, memory) = Bench::new(script());
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Complete);
    assert_eq!(ids(&memory), Vec::from_iter(0..8));
    let journal = &bench.journal;
    assert!(journal.position("commit d all 3 rows t=1") < journal.position("acknowledge t=1"));
    assert!(journal.position("acknowledge t=1") < journal.position("commit d all 5 rows t=2"));
    assert!(journal.position("commit d all 5 rows t=2") < journal.position("acknowledge t=2"));
    assert!(journal.position("acknowledge t=2") < journal.position("finish d t"));
    let table = &summary.destinations[0].tables[0];
    assert_eq!((table.rows_read, table.rows_written, table.complete), (8, 8, true));
}

#[tokio::test]
async fn a_second_run_reads_nothing_and_writes_nothing() {
    let (bench, memory) = Bench::new(script());
    bench.run().await.unwrap();
    let summary = bench.run().await.unwrap();
    let table = &summary.destinations[0].tables[0];
    assert_eq!((table.rows_read, table.rows_written, table.complete), (0, 0, true));
    assert_eq!(ids(&memory), Vec::from_iter(0..8));
}

/// Every operation fails once, before and after it was done; the next run makes up for it.
#[tokio::test]
async fn whatever_fails_once_the_next_run_completes_without_gap_or_duplicate() {
    let operations = [
        Operation::Open,
        Operation::Write,
        Operation::Commit,
        Operation::Finish,
        Operation::Release,
    ];
    let mut failed = 0;
    for operation in operations {
        for nth in 1..=3 {
            for fault in
                [Fault::Reject(ErrorKind::Transient), Fault::FailAfter(ErrorKind::Transient)]
            {
                let (mut bench, memory) = Bench::new(script());
                memory.fail(operation, nth, fault);
                let first = bench.run().await;
                failed += usize::from(!matches!(&first, Ok(s) if s.outcome() == Outcome::Complete));
                bench.options.take_over = true;
                // Faults that the first run did not reach meet the second one.
                let mut last = bench.run().await;
                for _ in 0..2 {
                    if matches!(&last, Ok(summary) if summary.outcome() == Outcome::Complete) {
                        break;
                    }
                    last = bench.run().await;
                }
                assert_eq!(last.unwrap().outcome(), Outcome::Complete);
                assert_eq!(ids(&memory), Vec::from_iter(0..8), "{operation:?} {nth} {fault:?}");
            }
        }
    }
    assert!(failed >= 12, "only {failed} faults were met");
}

#[tokio::test]
async fn a_source_that_fails_keeps_what_was_committed_and_goes_on_from_there() {
    let mut steps = script();
    steps.insert(3, Step::FailOnce(ErrorKind::Transient));
    let (mut bench, memory) = Bench::new(steps);
    let source = std::sync::Arc::new(bench.source());
    let first = highwater_engine::sync(source.clone(), &bench.request, &bench.options).await;
    assert_eq!(first.unwrap().outcome(), Outcome::TryLater);
    assert_eq!(ids(&memory), Vec::from_iter(0..3), "rows after the last checkpoint were committed");
    bench.options.take_over = true;
    let second = highwater_engine::sync(source, &bench.request, &bench.options).await.unwrap();
    assert_eq!(second.outcome(), Outcome::Complete);
    assert_eq!(ids(&memory), Vec::from_iter(0..8));
    bench.journal.position("read t all from 1");
}

#[tokio::test]
async fn a_stopped_run_commits_what_is_complete() {
    let mut steps = script();
    steps.insert(2, Step::WaitForStop);
    let (bench, memory) = Bench::new(steps);
    let stop = bench.options.stop.clone();
    let journal = bench.journal.clone();
    let (summary, ()) = tokio::join!(bench.run(), async move {
        while !journal.lines().iter().any(|line| line.starts_with("acknowledge")) {
            tokio::task::yield_now().await;
        }
        stop.stop();
    });
    assert_eq!(summary.unwrap().outcome(), Outcome::Interrupted);
    assert_eq!(ids(&memory), Vec::from_iter(0..3));
}

#[tokio::test]
async fn one_failed_table_does_not_stop_the_others_and_is_no_success() {
    let (mut bench, memory) = Bench::new(vec![upsert(0..2), Step::Fail(ErrorKind::Data)]);
    let other = item_table("other");
    let rows =
        highwater_testkit::tables::items(&other, &[highwater_testkit::tables::item(7, "x", 7)]);
    bench.scripts.push(Script::new(&other, vec![Step::Upsert(rows), Step::Checkpoint]));
    bench.tables.push(other);
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Partial);
    assert_eq!(ids_of(&memory, "other"), [7]);
    assert!(ids(&memory).is_empty());
    let failed = summary.destinations[0].tables.iter().find(|t| t.table.name == "t").unwrap();
    assert!(!failed.complete && failed.error.is_some());
}

#[tokio::test]
async fn a_replaced_table_shows_its_old_rows_until_the_read_is_complete() {
    let (mut bench, memory) = Bench::new(vec![upsert(0..4)]);
    bench.full_refresh(WriteMode::Replace);
    bench.run().await.unwrap();
    assert_eq!(ids(&memory), Vec::from_iter(0..4));
    bench.scripts[0].steps = vec![upsert(10..12), Step::Fail(ErrorKind::Transient)];
    bench.run().await.unwrap();
    assert_eq!(ids(&memory), Vec::from_iter(0..4), "an incomplete read was swapped in");
    bench.scripts[0].steps = vec![upsert(10..12)];
    bench.run().await.unwrap();
    assert_eq!(ids(&memory), [10, 11]);
}

#[tokio::test]
async fn partitions_of_a_table_are_finished_together() {
    let (mut bench, memory) = Bench::new(vec![upsert(0..4), Step::Checkpoint]);
    bench.scripts[0].partition = "1".into();
    let mut second = bench.scripts[0].clone();
    second.partition = "2".into();
    second.steps = vec![upsert(4..9), Step::Checkpoint];
    bench.scripts.push(second);
    bench.run().await.unwrap();
    assert_eq!(ids(&memory), Vec::from_iter(0..9));
    let lines = bench.journal.lines();
    let finishes: Vec<_> = lines.iter().filter(|l| l.starts_with("finish")).collect();
    assert_eq!(finishes.len(), 1, "{lines:#?}");
    assert!(bench.journal.position("finish") > bench.journal.position("commit d 2"));
    assert!(bench.journal.position("finish") > bench.journal.position("commit d 1"));
}

#[tokio::test]
async fn a_newer_run_fences_the_older_one() {
    let (mut bench, memory) = Bench::new(script());
    // The first run takes its lease and hangs in its commit; the second one takes over.
    memory.fail(Operation::Commit, 1, Fault::Hang);
    let first = tokio::time::timeout(std::time::Duration::from_millis(200), bench.run()).await;
    assert!(first.is_err(), "it hangs");
    let refused = bench.run().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced, "the holder of the lease is alive");
    bench.options.take_over = true;
    assert_eq!(bench.run().await.unwrap().outcome(), Outcome::Complete);
    assert_eq!(ids(&memory), Vec::from_iter(0..8));
}

#[tokio::test]
async fn every_system_is_closed_when_the_run_has_ended_well_or_not() {
    for (fails, outcome) in [
        (None, Some(Outcome::Complete)),
        (Some(Operation::Commit), Some(Outcome::Failed)),
        // The run does not even begin.
        (Some(Operation::Open), None),
    ] {
        let (mut bench, memory) = Bench::new(script());
        let backend = Memory::new("backend", bench.journal.clone());
        if let Some(operation) = fails {
            let keeper = if operation == Operation::Open { &backend } else { &memory };
            keeper.fail(operation, 1, Fault::Reject(ErrorKind::Data));
        }
        bench.request.targets[0].backend = Some(Arc::new(backend));
        // How the end of a system goes does not matter to the run.
        memory.fail(Operation::Close, 1, Fault::FailAfter(ErrorKind::Transient));
        assert_eq!(bench.run().await.ok().map(|s| s.outcome()), outcome, "{fails:?}");
        let mut lines = bench.journal.lines();
        let mut closed = lines.split_off(lines.len() - 3);
        closed.sort();
        assert_eq!(closed, ["close backend", "close d", "close source"], "{fails:?}");
        assert!(!lines.iter().any(|line| line.starts_with("close")), "{lines:?}");
    }
}
