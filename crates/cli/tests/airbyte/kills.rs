//! Killed at any time, hundreds of times: highwater or a connector dies of SIGKILL while the source
//! grows. In the end every row is there, and where highwater keeps the state with the rows, once.
//!
//! The chances come from a fixed seed; when exactly a kill strikes does not, for it is a matter of
//! the clock. What has to hold, holds wherever it strikes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use highwater_testkit::crash::{Ended, Program};
use highwater_testkit::tables::Random;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::has_python;
use crate::crash::systems::{JsonLines, PostgreSql, Sqlite, System};

/// The columns of a row, as they are compared.
const COLUMNS: [&str; 3] = ["id", "value", "updated_at"];

/// A table of which the new rows are added.
const APPEND: &str = "sync_mode: incremental, destination_sync_mode: append";

/// A source that grows, the program between it and a destination, and whom to kill.
struct Ground {
    folder: TempDir,
    program: Program,
    random: Random,
    /// What the source has, by id: value and cursor.
    rows: BTreeMap<i64, (i64, i64)>,
    /// The cursor goes on with every third change only: rows come late at a boundary.
    changes: i64,
    /// The connector is the one with rows in a file, not our own.
    is_scripted: bool,
    /// How long a run takes that is not killed.
    usual: Duration,
    /// How often each kind of process was killed.
    killed: BTreeMap<&'static str, u32>,
}

impl Ground {
    fn new(seed: u64, is_scripted: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), folder.path());
        Self {
            folder,
            program,
            random: Random::new(seed),
            rows: BTreeMap::new(),
            changes: 0,
            is_scripted,
            usual: Duration::ZERO,
            killed: BTreeMap::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program that writes down its process before it becomes `command`.
    fn wrapper(&self, name: &str, command: &str) {
        let script = format!("#!/bin/sh\necho $$ > {name}.$1.pid\nexec {command} \"$@\"\n");
        // Written by another process, so that no child of this one has it open for writing.
        let written = Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &script])
            .arg(self.path(name))
            .status();
        assert!(written.unwrap().success());
        std::fs::set_permissions(self.path(name), Permissions::from_mode(0o755)).unwrap();
    }

    /// The document of the source; `modes` are the two of its table.
    fn source(&self, modes: &str, more: &str) -> String {
        let tests =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../connectors/airbyte/tests/connectors");
        let spec = if self.is_scripted {
            self.wrapper("source-shop", &format!("python3 -SEs {tests}/scripted_source.py"));
            "{rows_file: rows.jsonl, state_every: 5}"
        } else {
            let program = env!("CARGO_BIN_EXE_highwater");
            self.wrapper("source-shop", &format!("{program} connector airbyte source-sqlite"));
            "{connection_string: source.db, batch_size: 7}"
        };
        format!(
            "kind: source\nspec:\n  name: shop\n  registry: airbyte\n  path: ./source-shop\n  \
             discover_every: 1h\n  destinations: [copy]\n  tables: [{{name: items, {modes}, \
             cursor_field: updated_at}}]\n  spec: {spec}\n{more}"
        )
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.path("sync.yml"), text).unwrap();
    }

    /// New rows; with `updates` also new versions of some that are there.
    fn grow(&mut self, updates: bool) {
        let mut changed = BTreeSet::new();
        for _ in 0..=self.random.below(20) {
            self.changes += 1;
            let last = self.rows.len() as i64;
            let is_new = !updates || last == 0 || self.random.below(3) > 0;
            let id = if is_new { last + 1 } else { 1 + self.random.below(last as u64) as i64 };
            self.rows.insert(id, (self.changes, self.changes / 3));
            changed.insert(id);
        }
        if self.is_scripted {
            let line = |(id, (value, at)): (&i64, &(i64, i64))| {
                let data = json!({ "id": id, "value": value, "updated_at": at });
                format!("{}\n", json!({ "stream": "items", "data": data }))
            };
            let text: String = self.rows.iter().map(line).collect();
            std::fs::write(self.path("new.jsonl"), text).unwrap();
            std::fs::rename(self.path("new.jsonl"), self.path("rows.jsonl")).unwrap();
            return;
        }
        let connection = Connection::open(self.path("source.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        let mut statements = String::from(
            "BEGIN; CREATE TABLE IF NOT EXISTS items \
             (id INTEGER PRIMARY KEY, value INTEGER, updated_at INTEGER);",
        );
        for id in changed {
            let (value, at) = self.rows[&id];
            statements
                .push_str(&format!("INSERT OR REPLACE INTO items VALUES ({id}, {value}, {at});"));
        }
        connection.execute_batch(&(statements + "COMMIT;")).unwrap();
    }

    fn sync(&self) -> Ended {
        let arguments = ["sync", "sync.yml"].map(str::to_owned);
        self.program.run(&arguments).expect(0).unwrap()
    }

    /// A first good run, by which the moments of the kills are measured.
    fn begin(&mut self) {
        self.grow(false);
        self.sync();
        let since = Instant::now();
        self.sync();
        self.usual = since.elapsed();
    }

    /// A run in which one of `processes` or, where that is not at work, highwater is killed.
    fn round(&mut self, processes: &[&'static str]) {
        for process in processes {
            let _ = std::fs::remove_file(self.path(&format!("{process}.pid")));
        }
        let victim = self.random.below(processes.len() as u64 + 1) as usize;
        let victim = processes.get(victim).copied();
        let usual = self.usual.as_micros() as u64;
        let arguments = ["sync", "sync.yml"].map(str::to_owned);
        let running = self.program.start(&arguments, None);
        // A connector begins late and lives for a short time: its time counts from then.
        let since = Instant::now();
        while victim.is_some_and(|victim| self.pid(victim).is_none())
            && since.elapsed() < 2 * self.usual
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let longest = if victim.is_some() { usual / 8 } else { usual };
        std::thread::sleep(Duration::from_micros(self.random.below(1 + longest)));
        let pid = victim.and_then(|victim| self.pid(victim));
        if let (Some(pid), Some(victim)) = (&pid, victim) {
            // It may have ended just now.
            let killed = Command::new("kill").args(["-s", "KILL", pid]).output().unwrap();
            *self.killed.entry(victim).or_default() += u32::from(killed.status.success());
        } else {
            running.signal("KILL");
        }
        let ended = running.wait();
        *self.killed.entry("highwater").or_default() += u32::from(ended.signal == Some(9));
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        // Killed, or a connector was: done all the same, failed, or told to try again.
        assert!(matches!(ended.code, None | Some(0 | 1 | 3 | 75)), "{ended:?}");
    }

    /// The process of a connector, if it is at work.
    fn pid(&self, process: &str) -> Option<String> {
        let pid = std::fs::read_to_string(self.path(&format!("{process}.pid"))).ok()?;
        let pid = pid.trim().to_owned();
        let said = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        // Whoever has its number now may be somebody else.
        (!pid.is_empty() && said.contains("--config")).then_some(pid)
    }

    /// What the source has, as the destination shows it.
    fn expected(&self) -> Vec<String> {
        let rows = self.rows.iter();
        rows.map(|(id, (value, at))| format!("{id} | {value} | {at}")).collect()
    }

    /// That every process was killed now and then, or the test would prove little.
    fn struck(&self, processes: &[&str]) {
        for process in processes {
            let was_killed = self.killed.get(process).is_some_and(|times| *times > 0);
            assert!(was_killed, "{process} was never killed: {:?}", self.killed);
        }
    }
}

fn shown(system: &dyn System, table: &str) -> Vec<String> {
    let rows = system.rows(table, &COLUMNS).into_iter();
    let mut rows: Vec<(i64, String)> = rows
        .map(|row| {
            let cells: Vec<String> = row.into_iter().map(|cell| cell.unwrap()).collect();
            (cells[0].parse().unwrap(), cells.join(" | "))
        })
        .collect();
    rows.sort();
    rows.into_iter().map(|(_, row)| row).collect()
}

/// So many rounds, and then a good run: exactly the rows of the source, each once.
fn survives(seed: u64, rounds: u32, mode: &str, is_scripted: bool, kind: &str) {
    let mut ground = Ground::new(seed, is_scripted);
    let copy: Box<dyn System> = match kind {
        "postgresql" => Box::new(PostgreSql::new()),
        "files" => Box::new(JsonLines(ground.path("out"))),
        _ => Box::new(Sqlite(ground.path("copy.db"))),
    };
    let url = copy.url();
    let url = url.strip_prefix("sqlite://").unwrap_or(&url);
    let spec = match kind {
        "files" => format!("{{path: \"{url}\", format: jsonl}}"),
        _ => format!("{{connection_string: \"{url}\"}}"),
    };
    let destination =
        format!("---\nkind: destination\nspec:\n  name: copy\n  path: {kind}\n  spec: {spec}\n");
    let modes = format!("sync_mode: incremental, destination_sync_mode: {mode}");
    ground.configure(&(ground.source(&modes, "") + &destination));
    ground.begin();
    let updates = mode == "append_dedup";
    for round in 0..rounds {
        ground.grow(updates);
        ground.round(&["source-shop.read"]);
        // What is in a file that no manifest names yet is not there.
        if round % 10 == 9 && kind != "files" {
            let ids = copy.rows("items", &["id"]);
            let different: BTreeSet<_> = ids.iter().collect();
            assert_eq!(ids.len(), different.len(), "seed {seed}, round {round}: a row is double");
        }
    }
    ground.struck(&["highwater", "source-shop.read"]);
    for _ in 0..2 {
        ground.sync();
        assert_eq!(shown(&*copy, "items"), ground.expected(), "seed {seed}");
    }
    if updates {
        let history: BTreeSet<String> = shown(&*copy, "items_history").into_iter().collect();
        let missing: Vec<_> =
            ground.expected().into_iter().filter(|row| !history.contains(row)).collect();
        assert!(missing.is_empty(), "seed {seed}: not in the history: {missing:?}");
    }
}

#[test]
fn append_into_sqlite() {
    survives(1, 60, "append", false, "sqlite");
}

#[test]
fn append_and_deduped_into_sqlite() {
    survives(2, 60, "append_dedup", false, "sqlite");
}

#[test]
fn append_into_postgresql() {
    survives(3, 15, "append", false, "postgresql");
}

#[test]
fn append_and_deduped_into_postgresql() {
    survives(4, 15, "append_dedup", false, "postgresql");
}

#[test]
fn append_and_deduped_with_a_connector_that_sends_its_boundary_again() {
    let test = "append_and_deduped_with_a_connector_that_sends_its_boundary_again";
    if has_python(test) {
        survives(5, 40, "append_dedup", true, "sqlite");
    }
}

/// What JSON lines show was committed by a manifest; files of runs that died are not in it, and a
/// later run clears them away.
#[test]
fn append_into_files() {
    survives(7, 15, "append", false, "files");
}

/// A table that is replaced as a whole is, whoever dies when, as it was at one time or another, and
/// never goes back.
#[test]
fn overwrite_into_sqlite() {
    let mut ground = Ground::new(8, false);
    let copy = Sqlite(ground.path("copy.db"));
    let modes = "sync_mode: full_refresh, destination_sync_mode: overwrite";
    let destination = "---\nkind: destination\nspec:\n  name: copy\n  path: sqlite\n  \
                       spec: {connection_string: copy.db}\n";
    ground.configure(&(ground.source(modes, "") + destination));
    ground.begin();
    let mut versions = vec![ground.expected()];
    let mut last = 0;
    for round in 0..25 {
        ground.grow(false);
        versions.push(ground.expected());
        ground.round(&["source-shop.read"]);
        let rows = shown(&copy, "items");
        let version = versions.iter().position(|version| *version == rows);
        let version =
            version.unwrap_or_else(|| panic!("round {round}: neither old nor new: {rows:?}"));
        assert!(version >= last, "round {round}: from version {last} back to {version}");
        last = version;
    }
    ground.struck(&["highwater", "source-shop.read"]);
    ground.sync();
    assert_eq!(shown(&copy, "items"), ground.expected());
}

/// Connectors at both ends: whatever dies, every row arrives at least once.
#[test]
fn a_destination_connector_gets_every_row_at_least_once() {
    if !has_python("a_destination_connector_gets_every_row_at_least_once") {
        return;
    }
    let mut ground = Ground::new(6, false);
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../../connectors/airbyte/tests/connectors");
    ground.wrapper("destination-copy", &format!("python3 -SEs {tests}/scripted_destination.py"));
    let backend =
        "  backend_options: {table_name: cursors, connection: \"@@plugins.state.connection\"}\n";
    let destinations = "---
kind: destination
spec:
  name: copy
  path: ./destination-copy
  registry: airbyte
  spec: {lines_file: lines.jsonl}
---
kind: destination
spec:
  name: state
  path: sqlite
  spec: {connection_string: state.db}
";
    ground.configure(&(ground.source(APPEND, backend) + destinations));
    ground.begin();
    let processes = ["source-shop.read", "destination-copy.write"];
    for _ in 0..30 {
        ground.grow(false);
        ground.round(&processes);
    }
    ground.struck(&["highwater", "source-shop.read", "destination-copy.write"]);
    ground.sync();
    let lines = std::fs::read_to_string(ground.path("lines.jsonl")).unwrap();
    let arrived: BTreeSet<i64> = lines.lines().filter_map(id_of).collect();
    let all: BTreeSet<i64> = ground.rows.keys().copied().collect();
    assert_eq!(arrived, all);
    // At the end nothing more is sent but what is new.
    let before = lines.lines().filter_map(id_of).count();
    ground.sync();
    let lines = std::fs::read_to_string(ground.path("lines.jsonl")).unwrap();
    assert_eq!(lines.lines().filter_map(id_of).count(), before, "a state was not saved");
}

/// The row that a line of the destination's file is. A line may follow the begin of one that its
/// writer did not live to end.
fn id_of(line: &str) -> Option<i64> {
    let start = line.rfind("{\"type\"")?;
    let message: Value = serde_json::from_str(&line[start..]).ok()?;
    message["record"]["data"]["id"].as_i64()
}
