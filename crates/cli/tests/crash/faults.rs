//! Faults from outside: the network, signals, a second run.

use highwater_core::WriteMode;
use highwater_testkit::postgres::{Options, Postgres};
use highwater_testkit::proxy::{Fault, Proxy};
use highwater_testkit::tables::Random;
use tempfile::TempDir;

use super::scenario::{Pair, Scenario};
use super::systems::PostgreSql;

/// No sync of these tests commits more often than this.
const COMMITS_MAX: u64 = 60;

/// PostgreSQL to PostgreSQL, the destination behind a proxy.
fn through(proxy: &Proxy, mode: WriteMode) -> Scenario {
    let destination = PostgreSql::new();
    let url = proxy.url(destination.name());
    let destination = Box::new(destination.through(url));
    Scenario::between(TempDir::new().unwrap(), Box::new(PostgreSql::new()), destination, mode, 12)
}

/// Injects a fault into every COMMIT of two syncs, one scenario per COMMIT.
fn at_every_commit(mode: WriteMode, fault: fn(u64) -> Fault, code_when_fired: &[i32]) {
    let proxy = Proxy::start(Postgres::shared().port());
    for nth in 1..=COMMITS_MAX {
        let mut scenario = through(&proxy, mode);
        let fired_before = proxy.fired();
        proxy.inject(fault(nth));
        for round in 0..2 {
            if round == 1 {
                scenario.change();
            }
            let before = proxy.fired();
            let ended = scenario.program.run(&scenario.arguments);
            let code = ended.code.unwrap_or(-1);
            if code == 0 {
                let checked = scenario.completed(&ended);
                checked.unwrap_or_else(|wrong| panic!("{mode}, COMMIT {nth}: {wrong}"));
                continue;
            }
            let excused = proxy.fired() > before && code_when_fired.contains(&code);
            assert!(excused, "{mode}, COMMIT {nth}: code {code}\n{}", ended.stderr);
            scenario.died();
            let again = scenario.sync();
            again.map(drop).unwrap_or_else(|wrong| panic!("{mode}, COMMIT {nth}: {wrong}"));
        }
        if proxy.fired() == fired_before {
            assert!(nth > 4, "only {} COMMITs were seen", nth - 1);
            return;
        }
    }
    panic!("more than {COMMITS_MAX} COMMITs in two syncs");
}

/// The server has committed, and the connection is cut before the client hears of it: the sync
/// finds out, and goes on.
#[test]
fn a_lost_reply_of_commit_is_found_out() {
    // 75: the one that takes the lease.
    for mode in [WriteMode::Append, WriteMode::AppendDedup] {
        at_every_commit(mode, |nth| Fault::LoseCommitReply { nth }, &[75]);
    }
    // 3: the one that makes the table to be filled, before any row; it is not worth finding out.
    at_every_commit(WriteMode::Replace, |nth| Fault::LoseCommitReply { nth }, &[3, 75]);
}

/// The connection is cut before the server sees the COMMIT: nothing of it is there, and a later
/// sync brings it.
#[test]
fn a_lost_commit_is_made_up_for() {
    for mode in [WriteMode::Append, WriteMode::OverwriteDeleteStale] {
        at_every_commit(mode, |nth| Fault::LoseCommit { nth }, &[1, 3, 75]);
    }
}

/// A run stops inside its commit, is overtaken by a second one that completes, and wakes up: it
/// ends with 75 and changes nothing.
fn a_run_that_sleeps_is_overtaken(pair: Pair, mode: WriteMode, point: &str) {
    let mut scenario = Scenario::new(pair, mode, 12);
    scenario.sync().unwrap();
    scenario.change();
    let mut sleeper = scenario.program.start(&scenario.arguments, Some(&format!("{point}:stop")));
    assert!(sleeper.wait_until_stopped(), "{}", sleeper.wait().stderr);
    let mut take_over = scenario.arguments.clone();
    take_over.push("--take-over".to_owned());
    let ended = scenario.program.run(&take_over).expect(0).unwrap();
    scenario.completed(&ended).unwrap();
    sleeper.signal("CONT");
    sleeper.wait().expect(75).unwrap();
    scenario.completed(&ended).unwrap();
    scenario.sync_again().unwrap();
}

#[test]
fn a_run_that_sleeps_in_its_transaction_is_overtaken_on_postgresql() {
    for mode in [WriteMode::Append, WriteMode::AppendDedup] {
        for point in ["commit.fence:1", "commit.rows:1", "commit.state:1"] {
            a_run_that_sleeps_is_overtaken(Pair::PostgresToPostgres, mode, point);
        }
    }
}

#[test]
fn a_run_that_sleeps_before_its_transaction_is_overtaken_on_sqlite() {
    // Inside its transaction it holds the lock of the whole file, and nobody can overtake it.
    for mode in [WriteMode::Append, WriteMode::AppendDedup] {
        a_run_that_sleeps_is_overtaken(Pair::SqliteToSqlite, mode, "stage.rows:1");
    }
}

#[test]
fn a_run_that_sleeps_before_its_manifest_is_overtaken_on_files() {
    // The first manifest of a run is the one that takes the lease.
    for point in ["stage.rows:1", "file.written:1", "file.manifest_staged:2"] {
        a_run_that_sleeps_is_overtaken(Pair::SqliteToFiles, WriteMode::Append, point);
    }
}

/// The destination's server crashes while a run is inside its commit, or has just made it, and
/// comes back: what was committed is there, the run ends with an error, the next one goes on.
#[test]
fn a_server_that_crashes_keeps_what_was_committed() {
    let cluster = Postgres::start(&Options { durable: true, ..Options::default() });
    for point in ["stage.batch:1", "commit.state:1", "commit.done:1", "finish.applied:1"] {
        let mut scenario = Scenario::between(
            TempDir::new().unwrap(),
            Box::new(PostgreSql::new()),
            Box::new(PostgreSql::on(&cluster)),
            WriteMode::Append,
            12,
        );
        let crash = format!("{point}:stop");
        let mut child = scenario.program.start(&scenario.arguments, Some(&crash));
        assert!(child.wait_until_stopped(), "{point}: {}", child.wait().stderr);
        cluster.stop_immediate();
        cluster.restart();
        child.signal("CONT");
        let ended = child.wait();
        assert!(matches!(ended.code, Some(0 | 1 | 3 | 75)), "{point}: {ended:?}");
        scenario.died();
        scenario.sync().unwrap_or_else(|wrong| panic!("{point}: {wrong}"));
        scenario.change();
        scenario.sync().unwrap_or_else(|wrong| panic!("{point}: {wrong}"));
    }
}

/// SIGTERM and Ctrl-C while rows are on their way: what is complete is committed, the exit code
/// says so, and the next sync brings the rest.
#[test]
fn a_run_that_is_asked_to_stop_leaves_cleanly() {
    for pair in [Pair::SqliteToSqlite, Pair::PostgresToPostgres, Pair::SqliteToFiles] {
        for signal in ["TERM", "INT"] {
            let mut scenario = Scenario::new(pair, WriteMode::Append, 30_000);
            let crash = Some("read.batch:2:stop");
            let mut child = scenario.program.start(&scenario.arguments, crash);
            assert!(child.wait_until_stopped(), "{pair:?}: {}", child.wait().stderr);
            child.signal(signal);
            child.signal("CONT");
            child.wait().expect(130).unwrap_or_else(|wrong| panic!("{pair:?}: {wrong}"));
            scenario.died();
            scenario.sync().unwrap_or_else(|wrong| panic!("{pair:?}: {wrong}"));
        }
    }
}

/// Killed at any time, again and again, while the source changes: the next run makes it good.
fn killed_at_any_time(pair: Pair, mode: WriteMode, seed: u64) {
    let mut random = Random::new(seed);
    let mut scenario = Scenario::new(pair, mode, 3_000);
    for round in 0..10 {
        let child = scenario.program.start(&scenario.arguments, None);
        std::thread::sleep(std::time::Duration::from_millis(random.below(250)));
        child.signal("KILL");
        child.wait();
        scenario.died();
        if round % 3 == 2 {
            let checked = scenario.sync();
            checked.map(drop).unwrap_or_else(|wrong| panic!("{pair:?}, {mode}: {wrong}"));
        }
        scenario.change();
    }
    scenario.sync().unwrap_or_else(|wrong| panic!("{pair:?}, {mode}: {wrong}"));
    scenario.sync_again().unwrap_or_else(|wrong| panic!("{pair:?}, {mode}: {wrong}"));
}

#[test]
fn a_run_is_killed_at_any_time_on_sqlite() {
    killed_at_any_time(Pair::SqliteToSqlite, WriteMode::Append, 1);
    killed_at_any_time(Pair::SqliteToSqlite, WriteMode::AppendDedup, 2);
}

#[test]
fn a_run_is_killed_at_any_time_on_postgresql() {
    killed_at_any_time(Pair::PostgresToPostgres, WriteMode::Append, 3);
    killed_at_any_time(Pair::PostgresToPostgres, WriteMode::OverwriteDeleteStale, 4);
}

#[test]
fn a_run_is_killed_at_any_time_on_files() {
    killed_at_any_time(Pair::SqliteToFiles, WriteMode::Append, 5);
}
