//! A sync that dies anywhere and is run again loses nothing and doubles nothing.
//!
//! The first test walks every crash point, in every write mode, over every pair of systems: the
//! real program is ended there with `_exit`, run again, and both sides are compared row by row.
//! The others take what a crash point cannot show: a lost reply of COMMIT, a run that sleeps and
//! is overtaken, signals, and death at any time.

mod faults;
mod scenario;
mod systems;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use highwater_core::{CrashPoint, WriteMode};
use highwater_testkit::crash::CrashAt;

use scenario::{Pair, Scenario};

/// Scenarios at work at the same time.
const WORKERS: usize = 3;
/// Rows per table: enough for every rule, and few enough for hundreds of scenarios.
const ROWS: i64 = 24;

/// A scenario to run.
type Task = (Pair, WriteMode, CrashAt);

/// What all workers found.
#[derive(Default)]
struct Findings {
    reached: BTreeSet<&'static str>,
    failures: Vec<String>,
}

#[test]
fn every_crash_point_in_every_write_mode_loses_and_doubles_nothing() {
    let clean = objects_after_clean_runs();
    let mut tasks: VecDeque<Task> = VecDeque::new();
    for (pair, mode) in Pair::all() {
        for point in CrashPoint::ALL {
            tasks.push_back((pair, mode, CrashAt { point: *point, nth: 1 }));
            if mode == WriteMode::Append {
                // In the second table, when the first one is committed.
                tasks.push_back((pair, mode, CrashAt { point: *point, nth: 2 }));
            }
        }
    }
    let (tasks, findings) = (Mutex::new(tasks), Mutex::new(Findings::default()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((pair, mode, at)) = next(&tasks) {
                    let result = crash_twice(pair, mode, at, &clean[&(pair, mode.as_str())]);
                    let mut findings = findings.lock().unwrap();
                    match result {
                        Ok(true) => drop(findings.reached.insert(at.point.name())),
                        Ok(false) => {}
                        Err(wrong) => findings
                            .failures
                            .push(format!("{pair:?}, {mode}, {}:\n{wrong}", at.to_variable())),
                    }
                }
            });
        }
    });
    let findings = findings.into_inner().unwrap();
    let shown = findings.failures.len().min(5);
    assert!(
        findings.failures.is_empty(),
        "{} scenarios failed; the first {shown}:\n{}",
        findings.failures.len(),
        findings.failures[..shown].join("\n")
    );
    let all: BTreeSet<_> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
    let never: Vec<_> = all.difference(&findings.reached).collect();
    assert!(never.is_empty(), "no scenario passes these crash points: {never:?}");
}

fn next(tasks: &Mutex<VecDeque<Task>>) -> Option<Task> {
    tasks.lock().unwrap().pop_front()
}

/// A first sync that dies, and an incremental one after changes and a new column that dies while
/// the source changes on. Whether the point was reached.
fn crash_twice(
    pair: Pair,
    mode: WriteMode,
    at: CrashAt,
    clean: &BTreeSet<String>,
) -> Result<bool, String> {
    let mut scenario = Scenario::new(pair, mode, ROWS);
    let mut reached = scenario.sync_and_crash(at)?;
    if reached {
        scenario.sync()?;
    }
    scenario.change();
    scenario.add_column();
    scenario.change();
    if scenario.sync_and_crash(at)? {
        reached = true;
        scenario.change();
        scenario.sync()?;
    }
    let left: Vec<_> = scenario.objects().difference(clean).cloned().collect();
    if left.is_empty() { Ok(reached) } else { Err(format!("left behind: {left:?}")) }
}

/// What a destination holds after the same syncs without a crash, and that a further sync of an
/// unchanged source writes nothing.
fn objects_after_clean_runs() -> BTreeMap<(Pair, &'static str), BTreeSet<String>> {
    let run = |pair, mode| {
        let mut scenario = Scenario::new(pair, mode, ROWS);
        scenario.sync()?;
        scenario.sync_again()?;
        scenario.change();
        scenario.add_column();
        scenario.change();
        scenario.sync()?;
        scenario.sync_again()?;
        Ok(scenario.objects())
    };
    let mut all = BTreeMap::new();
    for (pair, mode) in Pair::all() {
        let objects: Result<_, String> = run(pair, mode);
        let objects = objects.unwrap_or_else(|wrong| panic!("{pair:?}, {mode}:\n{wrong}"));
        all.insert((pair, mode.as_str()), objects);
    }
    all
}
