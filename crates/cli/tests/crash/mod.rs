//! A sync that dies anywhere and is run again loses nothing and doubles nothing.
//!
//! The first test walks every crash point, in every write mode, over every pair of systems: the
//! real program is ended there with `_exit`, run again, and both sides are compared row by row.
//! The others take what a crash point cannot show: a lost reply of COMMIT, a run that sleeps and
//! is overtaken, signals, and death at any time.

mod faults;
mod loss;
mod outages;
mod scenario;
pub mod systems;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use highwater_core::{CrashPoint, WriteMode};
use highwater_testkit::crash::CrashAt;

use scenario::{Pair, Scenario};

/// Scenarios at work at the same time.
const WORKERS: usize = 3;
/// Rows per table: enough for every rule, and few enough for hundreds of scenarios.
const ROWS: i64 = 24;

/// A scenario to run, and what it should leave.
type Task = (Pair, WriteMode, CrashAt, Arc<BTreeSet<String>>);

/// What all workers found.
#[derive(Default)]
struct Findings {
    reached: BTreeSet<&'static str>,
    failures: Vec<String>,
}

#[test]
fn every_crash_point_in_every_write_mode_loses_and_doubles_nothing() {
    let reached = walk(Pair::all());
    let all: BTreeSet<_> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
    let never: Vec<_> = all.difference(&reached).collect();
    assert!(never.is_empty(), "no scenario passes these crash points: {never:?}");
}

#[test]
fn a_first_read_in_rounds_that_dies_anywhere_loses_and_doubles_nothing() {
    let modes = [WriteMode::Append, WriteMode::Overwrite];
    walk(modes.map(|mode| (Pair::PostgresToPostgresInRounds, mode)).into());
}

/// Walks every crash point that these pairs pass; returns which.
fn walk(pairs: Vec<(Pair, WriteMode)>) -> BTreeSet<&'static str> {
    let tasks = Mutex::new(VecDeque::new());
    let findings = Mutex::new(Findings::default());
    in_parallel(&Mutex::new(pairs.into()), |(pair, mode)| match clean_runs(pair, mode) {
        Ok(found) => tasks.lock().unwrap().extend(found),
        Err(wrong) => fail(&findings, format!("{pair:?}, {mode}, no crash:\n{wrong}")),
    });
    in_parallel(&tasks, |(pair, mode, at, clean)| match crash_twice(pair, mode, at, &clean) {
        Ok(()) => drop(findings.lock().unwrap().reached.insert(at.point.name())),
        Err(wrong) => fail(&findings, format!("{pair:?}, {mode}, {}:\n{wrong}", at.to_variable())),
    });
    let Findings { reached, failures } = findings.into_inner().unwrap();
    let shown = failures.len().min(5);
    assert!(
        failures.is_empty(),
        "{} scenarios failed; the first {shown}:\n{}",
        failures.len(),
        failures[..shown].join("\n")
    );
    reached
}

fn fail(findings: &Mutex<Findings>, failure: String) {
    findings.lock().unwrap().failures.push(failure);
}

fn in_parallel<T: Send>(tasks: &Mutex<VecDeque<T>>, work: impl Fn(T) + Sync) {
    let next = || tasks.lock().unwrap().pop_front();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(task) = next() {
                    work(task);
                }
            });
        }
    });
}

/// The same syncs as [`crash_twice`] without a crash; a further sync of an unchanged source
/// writes nothing. From the crash points that they pass come the tasks: at each the first time
/// and, in `append`, the last time, when part of the work is committed already.
fn clean_runs(pair: Pair, mode: WriteMode) -> Result<Vec<Task>, String> {
    let mut scenario = Scenario::new(pair, mode, ROWS);
    let first = scenario.sync_and_trace()?;
    scenario.sync_again()?;
    scenario.change();
    scenario.add_column();
    scenario.change();
    let second = scenario.sync_and_trace()?;
    scenario.sync_again()?;
    let commits = first.get(CrashPoint::CommitDone.name()).copied().unwrap_or(0);
    if pair.has_rounds() && commits < 6 {
        return Err(format!("two tables in three rounds each, and {commits} commits"));
    }
    let objects = Arc::new(scenario.objects());
    let mut tasks = Vec::new();
    for point in CrashPoint::ALL {
        let times = |passed: &BTreeMap<String, u64>| passed.get(point.name()).copied().unwrap_or(0);
        let most = times(&first).max(times(&second));
        // The processes of a plugin count by themselves.
        let counts_all = mode == WriteMode::Append && !pair.has_plugins();
        let last = if counts_all { most } else { most.min(1) };
        let mut worth = BTreeSet::from([1, last]);
        if pair.has_rounds() {
            // In the first read of a table, when a part of it is committed.
            worth.insert(2);
        }
        for nth in worth.into_iter().filter(|nth| (1..=most).contains(nth)) {
            tasks.push((pair, mode, CrashAt { point: *point, nth }, Arc::clone(&objects)));
        }
    }
    Ok(tasks)
}

/// A first sync that dies, and an incremental one after changes and a new column that dies while
/// the source changes on.
fn crash_twice(
    pair: Pair,
    mode: WriteMode,
    at: CrashAt,
    clean: &BTreeSet<String>,
) -> Result<(), String> {
    let mut scenario = Scenario::new(pair, mode, ROWS);
    let first = scenario.sync_and_crash(at)?;
    if first {
        if pair.has_rounds() {
            // A read that goes on finds another table.
            scenario.change();
        }
        scenario.sync()?;
    }
    scenario.change();
    scenario.add_column();
    scenario.change();
    let second = scenario.sync_and_crash(at)?;
    if second {
        scenario.change();
        scenario.sync()?;
    }
    if !first && !second {
        return Err("the point was passed before, and is not now".to_owned());
    }
    let left =
        |scenario: &Scenario| -> Vec<_> { scenario.objects().difference(clean).cloned().collect() };
    if !left(&scenario).is_empty() {
        // What a run left that died before it had a fence of its own, a later one clears away.
        scenario.sync()?;
    }
    let left = left(&scenario);
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}
