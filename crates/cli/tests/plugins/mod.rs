//! Whole configurations with plugins: real programs, real databases, the command as a user runs it.

mod errors;
mod modes;
mod shown;
mod state;
mod together;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use highwater_testkit::sdk;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::transcript::Session;

/// Whether the Python SDK is there; else the test is skipped and says so.
fn has_sdk(test: &str) -> bool {
    sdk::or_skip(test, sdk::python()).is_some()
}

/// A folder with the incremental source of the SDK as `./incremental`, and what its "API" has.
fn session(events: &[Value]) -> Session {
    let mut session = Session::new();
    sdk::executable(&session.path("."), "incremental.py");
    api(&mut session, events, 2);
    session
}

/// What the "API" answers: these events, and so many accounts.
fn api(session: &mut Session, events: &[Value], accounts: i64) {
    let accounts: Vec<Value> = (1..=accounts)
        .map(|number| {
            json!({ "region": "eu", "number": number, "name": format!("account {number}"),
                "ref": format!("00112233-4455-6677-8899-{number:012}"), "extra": { "n": number } })
        })
        .collect();
    let data = json!({ "events": events, "accounts": accounts });
    session.hidden_file("api.json", data.to_string().as_bytes());
}

/// An event of that day of January with two lines.
fn event(id: i64) -> Value {
    json!({ "id": id, "at": format!("2026-01-{id:02}T00:00:01Z"), "payload": format!("event {id}"),
        "lines": [{ "line": 1, "text": "one" }, { "line": 2, "text": "two" }] })
}

fn events(ids: impl IntoIterator<Item = i64>) -> Vec<Value> {
    ids.into_iter().map(event).collect()
}

/// The document of the source; `more` is added to the keys of its own `spec`.
fn source(destination: &str, backend: &str, more: &str) -> String {
    format!(
        "kind: source
spec:
  name: shop
  path: ./incremental
  registry: local
  tables: [\"*\"]
  destinations: [{destination}]
  backend_options:
    table_name: cq_state
    connection: \"@@plugins.{backend}.connection\"
  spec:
    data: api.json
    requests: requests.jsonl
{more}"
    )
}

/// The document of a destination.
fn destination(name: &str, path: &str, keys: &str, spec: &str) -> String {
    format!(
        "---
kind: destination
spec:
  name: {name}
  path: {path}
{keys}  spec:
{spec}"
    )
}

/// The positions from which the "API" was asked for events, oldest first.
fn asked(session: &Session) -> Vec<String> {
    let text = std::fs::read_to_string(session.path("requests.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["table"] == "events")
        .map(|line| line["since"].as_str().unwrap().to_owned())
        .collect()
}

/// The rows of a query in a SQLite database, columns joined with ` | `.
fn rows(session: &Session, database: &str, query: &str) -> Vec<String> {
    let connection = Connection::open(session.path(database)).unwrap();
    let mut statement = connection.prepare(query).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let cell = |i| row.get::<_, rusqlite::types::Value>(i).map(|v| shown(&v));
        let cells: Result<Vec<String>, _> = (0..columns).map(cell).collect();
        cells.map(|cells| cells.join(" | "))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn shown(value: &rusqlite::types::Value) -> String {
    use rusqlite::types::Value as V;
    match value {
        V::Null => "NULL".to_owned(),
        V::Integer(number) => number.to_string(),
        V::Real(number) => number.to_string(),
        V::Text(text) => text.clone(),
        V::Blob(bytes) => format!("{bytes:?}"),
    }
}

fn count(session: &Session, database: &str, table: &str) -> String {
    rows(session, database, &format!("SELECT count(*) FROM {table}")).remove(0)
}

/// The scripted plugin of `connectors/cloudquery`: a test of the whole workspace has built it; else
/// it is built now.
fn scripted() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program =
            PathBuf::from(env!("CARGO_BIN_EXE_highwater")).with_file_name("scripted_plugin");
        if !program.exists() {
            let built = Command::new(env!("CARGO"))
                .args([
                    "build",
                    "--locked",
                    "-p",
                    "highwater-cloudquery",
                    "--bin",
                    "scripted_plugin",
                ])
                .status();
            assert!(built.unwrap().success());
        }
        program
    });
    program.clone()
}

/// The scripted plugin as a program in the folder that has its script in it.
fn scripted_as(session: &Session, name: &str, script: &str) {
    let lines = format!("#!/bin/sh\nSCRIPT='{script}' exec '{}' \"$@\"\n", scripted().display());
    program(session, name, &lines);
}

/// An executable file. Written by another process, so that no child of this one has it open.
pub fn program(session: &Session, name: &str, lines: &str) {
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", lines])
        .arg(session.path(name))
        .status();
    assert!(written.unwrap().success(), "cannot write {name}");
}

/// The binary itself, called as the plugin of a connector.
fn served(session: &Session, name: &str) {
    let own = env!("CARGO_BIN_EXE_highwater");
    std::os::unix::fs::symlink(own, session.path(&format!("highwater-{name}"))).unwrap();
}
