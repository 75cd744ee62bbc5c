//! Data and systems that a sync cannot get along with: each ends with a clear message and the
//! right exit code, and nothing is lost.

use highwater_testkit::postgres::Postgres;
use highwater_testkit::proxy::{Fault, Proxy};

use rusqlite::Connection;

use crate::transcript::Session;

/// A SQLite database with one table `t`, and arguments that sync it into another.
fn table(definition: &str, rows: &str) -> Session {
    let mut session = Session::new();
    session.sql("shop.db", &format!("CREATE TABLE t ({definition});\n{rows}"));
    session
}

const URLS: &str = "sync shop.db copy.db --name shop --tasks 1";

#[test]
fn an_unknown_table() {
    let mut session = table("id INTEGER PRIMARY KEY", "CREATE TABLE orders (id INTEGER);");
    assert_eq!(session.run(&format!("{URLS} --table ordrs")), 2);
    assert_eq!(session.run(&format!("{URLS} --table invoice_*")), 2);
    session.file(
        "sync.yml",
        "kind: source
spec:
  name: shop
  path: sqlite
  tables:
    - t
    - name: ordrs
  destinations: [copy]
  spec:
    connection_string: shop.db
---
kind: destination
spec:
  name: copy
  path: sqlite
  spec:
    connection_string: copy.db
",
    );
    assert_eq!(session.run("sync sync.yml"), 2);
    session.matches("data_unknown_table");
}

#[test]
fn a_cursor_column_that_is_missing_or_has_no_order() {
    let mut session = table("id INTEGER PRIMARY KEY, updated_at TIMESTAMP, picture BLOB", "");
    assert_eq!(session.run(&format!("{URLS} --table t --cursor updated")), 2);
    assert_eq!(session.run(&format!("{URLS} --table t --cursor picture")), 2);
    session.matches("data_cursor");
}

#[test]
fn no_primary_key_where_the_mode_needs_one() {
    let mut session = table("id INTEGER, updated_at TIMESTAMP", "");
    let dedup = format!("{URLS} --table t --cursor updated_at --write-mode append-dedup");
    assert_eq!(session.run(&dedup), 2);
    session.matches("data_no_primary_key");
}

#[test]
fn lengths_that_mean_nothing() {
    let mut session = table("id INTEGER PRIMARY KEY, updated_at TIMESTAMP", "");
    for (flags, code) in [
        ("--cursor id --lookback 10m", 2),
        ("--cursor updated_at --lookback 600", 2),
        ("--lookback 600", 2),
        ("--cursor updated_at --history-retention 90d", 2),
        ("--cursor id --lookback 600", 0),
        ("--cursor updated_at --write-mode append-dedup --history-retention 90d --target u", 0),
    ] {
        assert_eq!(session.run(&format!("{URLS} --table t {flags}")), code, "{flags}");
        std::fs::remove_file(session.path("copy.db")).ok();
    }
    session.matches("data_lengths");
}

#[test]
fn a_source_that_is_not_there() {
    let mut session = Session::new();
    assert_eq!(session.run(URLS), 2);
    session.matches("data_no_source");
}

#[test]
fn a_destination_that_is_read_only() {
    let mut session = table("id INTEGER PRIMARY KEY", "INSERT INTO t VALUES (1);");
    assert_eq!(session.run("sync shop.db /proc/copy.db --name shop"), 2);
    Connection::open(session.path("copy.db")).unwrap().execute_batch("VACUUM").unwrap();
    assert_eq!(session.run("sync shop.db sqlite:copy.db?mode=ro --name shop"), 2);
    session.matches("data_read_only");
}

#[test]
fn a_disk_that_is_full() {
    let mut session = Session::new();
    session.sql(
        "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO t SELECT i, printf('%0100d', i) FROM n;",
    );
    // A limit on the size of files stands in for a disk; its signal must not end the program.
    let arguments = format!("{URLS} --summary-location summary.jsonl");
    let limited = format!("ulimit -f 500; exec {} {arguments}", env!("CARGO_BIN_EXE_highwater"));
    let output = session.command("bash").args(["-c", &limited]).output().unwrap();
    assert_eq!(session.record(&format!("{arguments}  # on a full disk"), &output), 75);
    let line = std::fs::read_to_string(session.path("summary.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["resources"], 0, "what was read and not committed is not counted");
    assert_eq!(line["errors_per_table"]["t"], 1);
    assert_eq!(session.run(URLS), 0);
    session.query("copy.db", "SELECT count(*), sum(id) FROM t");
    session.matches("data_disk_full");
}

#[test]
fn rows_that_are_no_csv() {
    let mut session = Session::new();
    session.file("in/orders.csv", "id,name\n1,Ann\n2,Bob,surplus\n");
    assert_eq!(session.run("sync in/ copy.db --name files"), 1);
    session.hidden_file("in/orders.csv", b"id,name\n1,Ann\n2,B\xffb\n");
    assert_eq!(session.run("sync in/ copy.db --name files"), 1);
    session.matches("data_csv");
}

#[test]
fn a_value_that_does_not_fit() {
    let mut session =
        table("id INTEGER PRIMARY KEY, n INTEGER", "INSERT INTO t VALUES (1, 5), (2, 'hunter2');");
    session.secret("hunter2");
    assert_eq!(session.run(URLS), 1);
    session.matches("data_value");
}

#[test]
fn a_column_that_has_another_type_at_the_destination() {
    let mut session = table("id INTEGER PRIMARY KEY, n TEXT", "INSERT INTO t VALUES (1, 'x');");
    session.sql("copy.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);");
    assert_eq!(session.run(&URLS.replace("sync", "plan").replace(" --tasks 1", "")), 4);
    assert_eq!(session.run(URLS), 4);
    session.matches("data_schema");
}

#[test]
fn a_nul_byte_for_postgresql() {
    let database = Postgres::shared().create_database();
    let mut session = table(
        "id INTEGER PRIMARY KEY, name TEXT",
        "INSERT INTO t VALUES (1, 'a' || char(0) || 'b');",
    );
    session.variable("TARGET", database.url()).file("sync.yml", TO_POSTGRES);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 1);
    session.matches("data_nul_byte");
}

#[test]
fn a_wrong_password() {
    let cluster = Postgres::shared();
    let database = cluster.create_database();
    let mut session = table("id INTEGER PRIMARY KEY", "INSERT INTO t VALUES (1);");
    session
        .secret("hunter2")
        .variable("TARGET", &cluster.guarded_url(database.name(), "hunter2"))
        .hide(cluster.port(), "[PORT]")
        .hide(database.name(), "[DATABASE]")
        .file("sync.yml", TO_POSTGRES);
    assert_eq!(session.run("sync sync.yml"), 2);
    assert_eq!(session.run("test-connection sync.yml"), 2);
    session.matches("data_password");
}

#[test]
fn a_server_that_is_not_there() {
    let mut session = table("id INTEGER PRIMARY KEY", "INSERT INTO t VALUES (1);");
    let port = highwater_testkit::postgres::free_port();
    session
        .variable("TARGET", &format!("postgres://me:hunter2@127.0.0.1:{port}/db"))
        .secret("hunter2")
        .hide(port, "[PORT]")
        .file("sync.yml", TO_POSTGRES);
    assert_eq!(session.run("sync sync.yml"), 75);
    session.matches("data_no_server");
}

#[test]
fn a_server_that_goes_away_in_the_middle() {
    let database = Postgres::shared().create_database();
    let proxy = Proxy::start(Postgres::shared().port());
    let mut session = Session::new();
    session.sql(
        "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
INSERT INTO t SELECT i, printf('%0100d', i) FROM n;",
    );
    session
        .variable("TARGET", &proxy.url(database.name()))
        .hide(proxy.port(), "[PORT]")
        .file("sync.yml", TO_POSTGRES);
    proxy.inject(Fault::CutAfterClientBytes(1_000_000));
    // How many batches the source is ahead when the server goes is not always the same.
    session
        .hide(database.name(), "[DATABASE]")
        .hide("8,192", "[READ]")
        .hide("16,384", "[READ]")
        .hide("24,576", "[READ]")
        .hide("32,768", "[READ]")
        .hide("40,960", "[READ]");
    assert_eq!(session.run("sync sync.yml --tasks 1"), 75);
    assert_eq!(proxy.fired(), 1);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    assert_eq!(database.value("SELECT count(*) FROM t").as_deref(), Some("50000"));
    session.matches("data_server_gone");
}

const TO_POSTGRES: &str = "kind: source
spec:
  name: shop
  path: sqlite
  tables: [t]
  destinations: [warehouse]
  spec:
    connection_string: shop.db
---
kind: destination
spec:
  name: warehouse
  path: postgresql
  write_mode: overwrite
  spec:
    connection_string: ${TARGET}
";
