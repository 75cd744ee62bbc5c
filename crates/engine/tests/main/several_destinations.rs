//! One source, several destinations: read once while their cursors agree, each with its own state.

use highwater_core::{ErrorKind, Guarantee};
use highwater_engine::Outcome;
use highwater_testkit::memory::{Fault, Memory, Operation};
use highwater_testkit::scripted::Step;

use crate::bench::{Bench, ids, upsert};

fn reads(bench: &Bench) -> Vec<String> {
    bench.journal.lines().into_iter().filter(|line| line.starts_with("read")).collect()
}

fn two() -> (Bench, Memory, Memory) {
    let (mut bench, first) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    let second = bench.add_target("e");
    (bench, first, second)
}

#[tokio::test]
async fn the_source_is_read_once_for_all() {
    let (bench, first, second) = two();
    bench.run().await.unwrap();
    assert_eq!(reads(&bench), ["read t all from 0"]);
    assert_eq!((ids(&first), ids(&second)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert!(bench.journal.position("commit e") < bench.journal.position("acknowledge"));
    assert!(bench.journal.position("commit d") < bench.journal.position("acknowledge"));
}

#[tokio::test]
async fn one_that_fails_catches_up_alone_and_nothing_is_acknowledged_without_it() {
    for operation in [Operation::Open, Operation::Write, Operation::Commit] {
        let (mut bench, first, second) = two();
        second.fail(operation, 1, Fault::Reject(ErrorKind::Transient));
        let summary = bench.run().await.unwrap();
        assert_eq!(summary.outcome(), Outcome::Partial, "{operation:?}");
        assert_eq!((ids(&first), ids(&second)), (vec![0, 1, 2], vec![]));
        assert!(!bench.journal.lines().iter().any(|l| l.starts_with("acknowledge")));
        // New rows come; the first goes on, the second catches up, neither reads twice.
        bench.scripts[0].steps.extend([upsert(3..5), Step::Checkpoint]);
        assert_eq!(bench.run().await.unwrap().outcome(), Outcome::Complete);
        let mut seen = reads(&bench);
        seen[1..].sort();
        assert_eq!(seen, ["read t all from 0", "read t all from 0", "read t all from 1"]);
        assert_eq!((ids(&first), ids(&second)), (Vec::from_iter(0..5), Vec::from_iter(0..5)));
        // From now on they agree again.
        bench.run().await.unwrap();
        assert_eq!(reads(&bench).len(), 4);
    }
}

#[tokio::test]
async fn cursors_kept_apart_are_saved_after_the_data_and_the_label_says_so() {
    let (mut bench, data) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    let keeper = Memory::new("keeper", bench.journal.clone());
    bench.request.targets[0].backend = Some(std::sync::Arc::new(keeper.clone()));
    let summary = bench.run().await.unwrap();
    let label = &summary.destinations[0].tables[0].guarantee;
    assert!(matches!(label, Guarantee::AtLeastOnce(_)), "{label}");
    let journal = &bench.journal;
    assert!(journal.position("commit d") < journal.position("save keeper"));
    assert!(journal.position("save keeper") < journal.position("acknowledge"));
    bench.run().await.unwrap();
    assert_eq!(ids(&data), [0, 1, 2]);
    // Data first: a lost cursor repeats rows, and loses none.
    let (mut bench, data) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.request.targets[0].backend = Some(std::sync::Arc::new(keeper.clone()));
    bench.request.sync = "another".into();
    keeper.fail(Operation::Save, 1, Fault::Reject(ErrorKind::Transient));
    bench.run().await.unwrap();
    bench.run().await.unwrap();
    assert_eq!(ids(&data), [0, 0, 1, 1, 2, 2]);
}
