//! The loss that CloudQuery has, made impossible: a plugin on the genuine SDK flushes its cursor
//! in the middle of 2,000 rows, and somebody dies before those rows are durable.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use highwater_core::CrashPoint;
use highwater_testkit::crash::{CRASHED, CrashAt, Ended, Program};
use highwater_testkit::sdk;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::in_parallel;

const ROWS: i64 = 2_000;

/// A source of 2,000 events that flushes after every 500, and a SQLite file at the other end.
struct Loss {
    folder: TempDir,
    program: Program,
}

impl Loss {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        sdk::executable(folder.path(), "incremental.py");
        sdk::executable(folder.path(), "destination.py");
        let events: Vec<Value> = (0..ROWS)
            .map(|id| {
                let at = format!("2026-01-01T{:02}:{:02}:{:02}Z", id / 3600, id / 60 % 60, id % 60);
                json!({ "id": id, "at": at, "payload": "x".repeat(100), "lines": [] })
            })
            .collect();
        let data = json!({ "events": events, "accounts": [] }).to_string();
        std::fs::write(folder.path().join("api.json"), data).unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), folder.path());
        Self { folder, program }
    }

    /// Writes the configuration; `destination` are the lines that say what it is.
    fn configure(&self, destination: &str) {
        let text = format!(
            "kind: source\nspec:\n  name: events\n  registry: local\n  path: ./incremental\n  \
             tables: [events]\n  skip_dependent_tables: true\n  destinations: [there]\n  \
             backend_options:\n    table_name: cq_state\n    \
             connection: \"@@plugins.there.connection\"\n  spec:\n    data: api.json\n    \
             flush_every: 500\n---\nkind: destination\nspec:\n  name: there\n  \
             write_mode: append\n{destination}"
        );
        std::fs::write(self.folder.path().join("sync.yml"), text).unwrap();
    }

    fn sync(&self, crash: Option<CrashAt>) -> Ended {
        let arguments = ["sync", "sync.yml", "--json"].map(str::to_owned);
        match crash {
            None => self.program.run(&arguments),
            Some(at) => self.program.run_and_crash(&arguments, at),
        }
    }

    /// How many different events there are, and the cursor that was saved.
    fn found(&self) -> (i64, Option<String>) {
        let file = self.folder.path().join("there.db");
        let connection = Connection::open(file).unwrap();
        let one = |query: &str| connection.query_row(query, [], |row| row.get(0)).ok();
        let rows = one("SELECT CAST(count(DISTINCT id) AS TEXT) FROM events");
        let rows = rows.and_then(|rows: String| rows.parse().ok()).unwrap_or(0);
        (rows, one("SELECT value FROM cq_state WHERE key = 'events'"))
    }

    /// A cursor that is saved means that the rows up to it are there: all of them, at the end.
    fn check(&self, complete: bool) -> Result<(), String> {
        match self.found() {
            (ROWS, Some(_)) => Ok(()),
            (_, None) if !complete => Ok(()),
            other => Err(format!("rows and cursor: {other:?}")),
        }
    }
}

const SQLITE: &str = "  path: sqlite\n  spec:\n    connection_string: there.db\n";

#[test]
fn a_destination_plugin_that_dies_loses_no_row() {
    let test = "crash::loss::a_destination_plugin_that_dies_loses_no_row";
    if sdk::or_skip(test, sdk::python()).is_none() {
        return;
    }
    let loss = Loss::new();
    let plugin = "  registry: local\n  path: ./destination\n  spec:\n    path: there.db\n";
    loss.configure(&format!("{plugin}    die_after_rows: 700\n"));
    let ended = loss.sync(None);
    assert!(ended.code != Some(0), "{}", ended.stdout);
    assert!(ended.stderr.contains("137"), "{}", ended.stderr);
    let (rows, cursor) = loss.found();
    assert!(rows < ROWS, "the plugin did not die in the middle");
    assert_eq!(cursor, None, "the cursor ran ahead of {} rows", ROWS - rows);
    loss.configure(plugin);
    loss.sync(None).expect(0).unwrap();
    loss.check(true).unwrap();
}

#[test]
fn highwater_may_die_anywhere_with_a_plugin_of_the_genuine_sdk() {
    let test = "crash::loss::highwater_may_die_anywhere_with_a_plugin_of_the_genuine_sdk";
    if sdk::or_skip(test, sdk::python()).is_none() {
        return;
    }
    let clean = Loss::new();
    clean.configure(SQLITE);
    let arguments = ["sync", "sync.yml", "--json"].map(str::to_owned);
    let (ended, passed) = clean.program.run_and_trace(&arguments);
    ended.expect(0).unwrap();
    clean.check(true).unwrap();
    let points = CrashPoint::ALL.iter().filter(|point| passed.contains_key(point.name()));
    let points: VecDeque<_> = points.copied().collect();
    for needed in [CrashPoint::PluginFlushed, CrashPoint::PluginEnded, CrashPoint::CommitState] {
        assert!(points.contains(&needed), "{} is never passed", needed.name());
    }
    let failures = Mutex::new(Vec::new());
    in_parallel(&Mutex::new(points), |point| {
        if let Err(wrong) = die_at(point) {
            failures.lock().unwrap().push(format!("{}: {wrong}", point.name()));
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}

fn die_at(point: CrashPoint) -> Result<(), String> {
    let loss = Loss::new();
    loss.configure(SQLITE);
    loss.sync(Some(CrashAt { point, nth: 1 })).expect(CRASHED)?;
    if Path::new(&loss.folder.path().join("there.db")).exists() {
        loss.check(false)?;
    }
    loss.sync(None).expect(0)?;
    loss.check(true)?;
    // Nothing was left for a third run but the row at the cursor, which the plugin sends again.
    let third = loss.sync(None).expect(0)?;
    match third.sum("rows_read") {
        0 | 1 => Ok(()),
        more => Err(format!("{more} rows were read again")),
    }
}
