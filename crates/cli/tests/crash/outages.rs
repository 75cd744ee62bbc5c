//! Servers that go away: the source in the middle of a read, the destination between two tables
//! and in the middle of a COPY. The run says so and ends with the code for "later"; the next one
//! brings exactly what is missing.

use highwater_core::WriteMode;
use highwater_testkit::postgres::{Options, Postgres};
use tempfile::TempDir;

use super::scenario::Scenario;
use super::systems::PostgreSql;

/// More than one batch, and more than sockets and channels hold.
const MANY: i64 = 30_000;

/// Failed as a whole, in part, or out of reach.
const CODES: [Option<i32>; 3] = [Some(1), Some(3), Some(75)];

fn cluster() -> Postgres {
    Postgres::start(&Options { durable: true, ..Options::default() })
}

fn between(source: PostgreSql, destination: PostgreSql, mode: WriteMode, rows: i64) -> Scenario {
    let folder = TempDir::new().unwrap();
    Scenario::between(folder, Box::new(source), Box::new(destination), mode, rows)
}

/// Lets the run stop at a point, does something, lets it go on, and looks at how it ended.
fn interrupted(scenario: &mut Scenario, point: &str, outage: impl FnOnce()) {
    let stop = format!("{point}:stop");
    let mut child = scenario.program.start(&scenario.arguments, Some(&stop));
    assert!(child.wait_until_stopped(), "{point}: {}", child.wait().stderr);
    outage();
    child.signal("CONT");
    let ended = child.wait();
    assert!(CODES.contains(&ended.code), "{point}: {ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("PostgreSQL"), "{point}: {said}");
    scenario.died();
}

#[test]
fn a_source_that_restarts_in_the_middle_of_a_read() {
    let cluster = cluster();
    for mode in [WriteMode::Append, WriteMode::Overwrite, WriteMode::Replace] {
        let source = PostgreSql::on(&cluster);
        let mut scenario = between(source, PostgreSql::new(), mode, MANY);
        interrupted(&mut scenario, "read.batch:2", || {
            cluster.stop_immediate();
            cluster.restart();
        });
        scenario.sync().unwrap_or_else(|wrong| panic!("{mode}: {wrong}"));
        scenario.change();
        scenario.sync().unwrap_or_else(|wrong| panic!("{mode}: {wrong}"));
        scenario.sync_again().unwrap_or_else(|wrong| panic!("{mode}: {wrong}"));
    }
}

#[test]
fn a_destination_that_goes_away_and_comes_back_later() {
    let cluster = cluster();
    // In the middle of a COPY; between the tables: one is committed, the other is not.
    for point in ["stage.batch:2", "commit.done:1"] {
        for mode in [WriteMode::Append, WriteMode::AppendDedup, WriteMode::Replace] {
            let destination = PostgreSql::on(&cluster);
            let mut scenario = between(PostgreSql::new(), destination, mode, MANY);
            scenario.arguments.extend(["--tasks".to_owned(), "1".to_owned()]);
            interrupted(&mut scenario, point, || cluster.stop_immediate());
            // It is still away.
            let away = scenario.program.run(&scenario.arguments);
            assert_eq!(away.code, Some(75), "{away:?}");
            assert!(away.stderr.contains("cannot be reached"), "{}", away.stderr);
            cluster.restart();
            scenario.sync().unwrap_or_else(|wrong| panic!("{point}, {mode}: {wrong}"));
            scenario.change();
            scenario.sync().unwrap_or_else(|wrong| panic!("{point}, {mode}: {wrong}"));
            scenario.sync_again().unwrap_or_else(|wrong| panic!("{point}, {mode}: {wrong}"));
        }
    }
}
