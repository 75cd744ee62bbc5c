//! Every command, from the first sync of a table to its state.

use std::io::Read;
use std::process::Stdio;

use rusqlite::Connection;

use crate::transcript::Session;

const ORDERS: &str = "CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    updated_at TIMESTAMP NOT NULL
);
INSERT INTO orders VALUES
    (1, 'placed', '2026-01-01 08:00:00'),
    (2, 'placed', '2026-01-02 08:00:00'),
    (3, 'paid', '2026-01-03 08:00:00');
CREATE TABLE colours (name TEXT PRIMARY KEY);
INSERT INTO colours VALUES ('red'), ('green');";

const SYNC: &str = "kind: source
spec:
  name: shop
  path: sqlite
  destinations: [copy]
  tables:
    - name: orders
      cursor: updated_at
      write_mode: append-dedup
    - colours
  spec:
    connection_string: shop.db
---
kind: destination
spec:
  name: copy
  path: sqlite
  write_mode: overwrite
  spec:
    connection_string: copy.db
";

/// A shop and a file that syncs it.
fn shop() -> Session {
    let mut session = Session::new();
    session.sql("shop.db", ORDERS).file("sync.yml", SYNC);
    session
}

#[test]
fn the_second_sync_moves_only_what_changed() {
    let mut session = shop();
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    session.sql(
        "shop.db",
        "UPDATE orders SET status = 'paid', updated_at = '2026-01-04 08:00:00' WHERE id = 1;
INSERT INTO orders VALUES (4, 'placed', '2026-01-05 08:00:00');",
    );
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    session.query("copy.db", "SELECT id, status, updated_at FROM orders ORDER BY id");
    session.query("copy.db", "SELECT count(*) FROM orders_history");
    session.matches("sync");
}

/// The seed's arrangement: rows go to files that are only appended to, cursors to a database.
#[test]
fn cursors_are_kept_in_another_destination() {
    let mut session = Session::new();
    session.sql("shop.db", ORDERS).file(
        "sync.yml",
        "kind: source
spec:
  name: shop
  path: cloudquery/sqlite
  registry: cloudquery
  version: v1.0.0
  tables: [{name: orders, cursor: updated_at}]
  destinations: [files]
  backend_options:
    table_name: cq_state_shop
    connection: \"@@plugins.state.connection\"
  spec:
    connection_string: shop.db
---
kind: destination
spec:
  name: files
  path: cloudquery/file
  registry: cloudquery
  version: v5.0.0
  write_mode: append
  spec:
    path: out/{{TABLE}}/{{UUID}}.{{FORMAT}}
    format: csv
---
kind: destination
spec:
  name: state
  path: cloudquery/sqlite
  registry: cloudquery
  version: v2.7.4
  spec:
    connection_string: state.db
",
    );
    assert_eq!(session.run("plan sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("state show sync.yml"), 0);
    session.matches("backend");
}

#[test]
fn two_urls_are_enough() {
    let mut session = Session::new();
    session.sql("shop.db", ORDERS);
    let arguments = "shop.db sqlite:copy.db --name shop --table orders --cursor updated_at \
                     --primary-key id --write-mode append-dedup";
    assert_eq!(session.run(&format!("plan {arguments}")), 0);
    assert_eq!(session.run(&format!("sync {arguments}")), 0);
    assert_eq!(session.run(&format!("sync {arguments} --json")), 0);
    session.matches("urls");
}

#[test]
fn a_plan_touches_nothing() {
    let mut session = shop();
    assert_eq!(session.run("plan sync.yml"), 0);
    assert_eq!(session.run("plan sync.yml --json"), 0);
    assert!(!session.path("copy.db").exists());
    session.matches("plan");
}

#[test]
fn a_migration_makes_tables_without_rows() {
    let mut session = shop();
    assert_eq!(session.run("sync sync.yml --no-migrate"), 4);
    assert_eq!(session.run("migrate sync.yml"), 0);
    session.query("copy.db", "SELECT count(*) FROM orders");
    assert_eq!(session.run("migrate sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml --no-migrate --tasks 1"), 0);
    session.matches("migrate");
}

#[test]
fn state_is_shown_set_and_forgotten() {
    let mut session = shop();
    assert_eq!(session.run("state list sync.yml"), 0);
    assert_eq!(session.run("status sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    assert_eq!(session.run("state list sync.yml"), 0);
    assert_eq!(session.run("state list copy.db"), 0);
    assert_eq!(session.run("state show sync.yml"), 0);
    assert_eq!(session.run("status sync.yml"), 0);
    assert_eq!(session.run("state reset sync.yml --table ordres"), 2);
    assert_eq!(session.run("state reset sync.yml --table orders"), 0);
    assert_eq!(session.run("state show sync.yml"), 0);
    let to = r#"{"v":1,"field":"updated_at","max":"2026-01-03 00:00:00.000000"}"#;
    assert_eq!(
        session.run(&format!("state set sync.yml --table orders --to {}", to.replace(' ', "T"))),
        0
    );
    assert_eq!(session.run("state set sync.yml --table orders --to soon"), 2);
    assert_eq!(session.run("state set sync.yml --table orders --to 17"), 2);
    assert_eq!(session.run("state set sync.yml --table ordrs --to {}"), 2);
    assert_eq!(session.run(r#"state set sync.yml --table orders --to {"v":1,"field":"id"}"#), 2);
    assert_eq!(
        session.run(&format!(
            "state set sync.yml --table orders --to {} --json",
            to.replace(' ', "T")
        )),
        0
    );
    assert_eq!(session.run("state show copy.db --json"), 0);
    assert_eq!(session.run("state reset sync.yml --table colours --json"), 0);
    assert_eq!(session.run("state reset sync.yml --all"), 0);
    assert_eq!(session.run("state reset sync.yml --sync other --all"), 2);
    session.matches("state");
}

#[test]
fn tables_are_described() {
    let mut session = shop();
    assert_eq!(session.run("tables sync.yml"), 0);
    assert_eq!(session.run("tables shop.db --name shop --filter spec"), 0);
    assert_eq!(session.run("tables sync.yml --format markdown --filter spec"), 0);
    assert_eq!(session.run("tables sync.yml --json"), 0);
    assert!(session.path("cq-docs/shop/__tables.json").exists());
    let page = std::fs::read_to_string(session.path("cq-docs/shop/orders.md")).unwrap();
    assert!(page.contains("|id (PK)|"), "{page}");
    session.matches("tables");
}

#[test]
fn connections_are_tested() {
    let mut session = shop();
    assert_eq!(session.run("test-connection sync.yml"), 0);
    std::fs::remove_file(session.path("shop.db")).unwrap();
    assert_eq!(session.run("test-connection sync.yml"), 2);
    assert_eq!(session.run("test-connection sync.yml --json"), 2);
    session.matches("test_connection");
}

#[test]
fn init_writes_a_file_that_sync_accepts() {
    let mut session = Session::new();
    session.sql("shop.db", ORDERS);
    assert_eq!(session.run("init shop.db --yes"), 2);
    assert_eq!(session.run("init shop.db copy.db --yes"), 0);
    let written = std::fs::read_to_string(session.path("sync.yml")).unwrap();
    let written = written.lines().filter(|l| !l.contains("name: \"sqlite-shop-"));
    let written = written.collect::<Vec<_>>().join("\n");
    session.file("sync.yml.written", &written);
    assert_eq!(session.run("init shop.db copy.db --yes"), 2);
    assert_eq!(session.run("validate-config sync.yml"), 0);
    assert_eq!(session.run("init shop.db postgres://me:hunter2@h/db --yes --spec-path pg.yml"), 0);
    session.secret("hunter2");
    assert!(!std::fs::read_to_string(session.path("pg.yml")).unwrap().contains("hunter2"));
    session.matches("init");
}

#[test]
fn one_source_that_fails_does_not_stop_the_next() {
    let mut session = Session::new();
    let port = highwater_testkit::postgres::free_port();
    let broken = SYNC
        .replace("name: shop\n  path: sqlite", "name: broken\n  path: postgresql")
        .replace("shop.db", &format!("postgres://me@127.0.0.1:{port}/db"));
    session.sql("shop.db", ORDERS).hide(port, "[PORT]");
    session.hidden_file("configuration/a.yml", broken.as_bytes());
    let (source, _) = SYNC.split_once("---\n").unwrap();
    session.hidden_file("configuration/b.yaml", source.as_bytes());
    let code = session.run("sync configuration --tasks 1 --summary-location summary.jsonl");
    assert_eq!(code, 75);
    let summary = std::fs::read_to_string(session.path("summary.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    assert_eq!(line["source_name"], "shop");
    assert_eq!(line["destination_name"], "copy");
    assert_eq!(line["resources"], 5);
    assert_eq!(line["resources_per_table"]["orders"], 3);
    assert_eq!(line["errors_per_table"]["orders"], 0);
    session.matches("two_sources");
}

#[test]
fn progress_is_json_on_request() {
    let mut session = shop();
    assert_eq!(session.run("sync sync.yml --tasks 1 --log-format json --log-level warn"), 0);
    let output = session
        .command(env!("CARGO_BIN_EXE_highwater"))
        .args(["--log-format", "json", "sync", "sync.yml"])
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    let events: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|line| line["event"].as_str().map(str::to_owned))
        .collect();
    assert!(events.iter().any(|e| e == "table_ended"), "{lines}");
}

/// Lines of the JSON log of a sync in which nothing fits.
fn log_of_a_failure(level: &str) -> Vec<(String, String)> {
    let mut session = Session::new();
    session.sql(
        "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
CREATE TABLE u (id INTEGER); INSERT INTO t VALUES (1, 'x');",
    );
    let arguments = ["--log-format", "json", "--log-level", level, "sync", "shop.db", "copy.db"];
    let command = session.command(env!("CARGO_BIN_EXE_highwater")).args(arguments).output();
    let lines = String::from_utf8(command.unwrap().stderr).unwrap();
    let lines = lines.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["level"] == "error" {
            assert_eq!(line["hint"], "--columns n:text   # and the other columns to copy");
        }
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (text("level"), text("event"))
    });
    lines.collect()
}

#[test]
fn a_log_has_the_lines_of_its_level_and_above() {
    let failed = ("error".to_owned(), "table_ended".to_owned());
    let note = ("info".to_owned(), "note".to_owned());
    assert_eq!(log_of_a_failure("error"), std::slice::from_ref(&failed));
    let info = log_of_a_failure("info");
    assert!(info.contains(&failed) && info.contains(&note), "{info:?}");
    assert!(info.iter().all(|(level, _)| level != "debug"), "{info:?}");
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE u (id INTEGER);");
    assert_eq!(session.run("sync shop.db copy.db --name shop --tasks 1 --log-level error"), 0);
    assert_eq!(session.run("sync shop.db copy.db --name shop --tasks 1"), 0);
    session.matches("log_level");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let session = shop();
    let mut child = session
        .command(env!("CARGO_BIN_EXE_highwater"))
        .args(["schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(stderr, "");
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let mut session = shop();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = session
        .command(env!("CARGO_BIN_EXE_highwater"))
        .args(["schema"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(session.record("schema > /dev/full", &output), 1);
    session.matches("stdout_full");
}

#[test]
fn the_example_shows_a_first_and_a_second_day() {
    let mut session = Session::new();
    assert_eq!(session.run("example"), 0);
    assert_eq!(session.run("example"), 0);
    assert_eq!(session.run("sync highwater-example/sync.yml"), 0);
    session.matches("example");
}

#[test]
fn the_shop_of_the_examples_folder_is_the_one_of_the_example() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");
    let mut session = Session::new();
    assert_eq!(session.run("example"), 0);
    let made = std::fs::read_to_string(session.path("highwater-example/sync.yml")).unwrap();
    assert_eq!(made, std::fs::read_to_string(format!("{folder}/sync.yml")).unwrap());
}

/// The first letter of a process's state: `T` when it is stopped.
fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[test]
fn a_stop_commits_what_is_complete_and_says_where_the_next_sync_goes_on() {
    let mut session = shop();
    // The process stops itself after its first batch, so that the signal finds it at work.
    session.variable("HIGHWATER_CRASH", "read.batch:1:stop");
    let child = session
        .command(env!("CARGO_BIN_EXE_highwater"))
        .args(["sync", "sync.yml", "--tasks", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    while process_state(pid).is_some_and(|state| state != 'T' && state != 'Z') {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for signal in ["-TERM", "-CONT"] {
        let sent = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
        assert!(sent.unwrap().success());
    }
    let output = child.wait_with_output().unwrap();
    let code = output.status.code();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("Stopping: what is complete is committed first."), "{stderr}");
    assert!(stderr.contains("Reached at copy") || stderr.contains("No cursor was"), "{stderr}");
    session.variable("HIGHWATER_CRASH", "");
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
}

#[test]
fn a_database_goes_into_files_without_a_word_about_modes() {
    let mut session = Session::new();
    session.sql("shop.db", ORDERS);
    for _ in 0..2 {
        assert_eq!(session.run("sync shop.db out/ --name shop --table orders --tasks 1"), 0);
    }
    assert_eq!(session.run("sync shop.db orders.parquet --name one --table orders --tasks 1"), 0);
    let appended = "sync shop.db new/ --name new --table orders --cursor updated_at --tasks 1";
    assert_eq!(session.run(appended), 0);
    assert_eq!(session.run("init shop.db lake/ --yes"), 0);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    let written = std::fs::read_to_string(session.path("sync.yml")).unwrap();
    assert!(written.contains("# append, replace\n  write_mode: replace\n"), "{written}");
}

#[test]
fn one_sync_has_state_at_two_destinations() {
    let mut session = Session::new();
    let second = SYNC.split_once("---\n").unwrap().1.replace("copy", "other");
    let both = SYNC.replace("destinations: [copy]", "destinations: [copy, other]");
    session
        .sql("shop.db", ORDERS)
        .hidden_file("sync.yml", format!("{both}---\n{second}").as_bytes());
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    assert_eq!(session.run("state reset sync.yml --table orders"), 2);
    assert_eq!(session.run("state reset sync.yml --destination other --table orders"), 0);
    session.query("other.db", "SELECT count(*) FROM orders_history");
    // What is dropped behind highwater's back is copied again by what the hint says.
    Connection::open(session.path("copy.db")).unwrap().execute_batch("DROP TABLE orders").unwrap();
    assert_ne!(session.run("sync sync.yml --tasks 1"), 0);
    assert_eq!(session.run("state reset sync.yml --destination copy --table orders"), 0);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    session.matches("two_destinations");
}
