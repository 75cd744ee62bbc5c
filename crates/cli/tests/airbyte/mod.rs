//! Connectors of Airbyte as a user configures and runs them: real programs, real databases.

mod configuration;
mod connectors;
mod defects;
mod fits;
mod kills;
mod misbehaving;
mod modes;
mod proof;
mod seed;
mod upkeep;

use std::path::Path;
use std::process::Command;

use highwater_testkit::sdk;
use serde_json::{Value, json};

use crate::transcript::Session;

/// Whether there is a Python; else the test is skipped and says so.
fn has_python(test: &str) -> bool {
    let runs = Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    let found = if runs { Ok(()) } else { Err("python3 is not installed".to_owned()) };
    sdk::or_skip(test, found).is_some()
}

/// A folder with the scripted source as the program `./source-shop`.
fn session() -> Session {
    let session = Session::new();
    connector(&session, "scripted_source.py", "source-shop");
    session
}

/// A connector that is made for tests, as a program in the folder. Copied by another process, so
/// that no child of this one has it open.
fn connector(session: &Session, file: &str, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../connectors/airbyte/tests");
    let program = folder.join("connectors").join(file);
    let copied = Command::new("cp").arg(program).arg(session.path(name)).status();
    assert!(copied.unwrap().success());
}

/// What the source has: a stream, and a row of it, per line.
fn rows(session: &mut Session, rows: &[(&str, Value)]) {
    let lines = rows.iter().map(|(stream, data)| json!({ "stream": stream, "data": data }));
    let text = lines.fold(String::new(), |text, line| format!("{text}{line}\n"));
    session.file("rows.jsonl", &text);
}

/// A user as the source has it, with what changes inside of another field.
fn user(id: i64, name: &str, day: &str) -> (&'static str, Value) {
    let at = json!({ "at": day, "by": "me" });
    ("users", json!({ "id": id, "name": name, "updated_at": day, "changed": at }))
}

/// The document of the source; `tables` and `spec` are what stands behind these keys.
fn source(tables: &str, spec: &str) -> String {
    format!(
        "kind: source
spec:
  name: shop
  path: ./source-shop
  registry: airbyte
  tables: {tables}
  destinations: [copy]
  spec: {spec}
"
    )
}

/// The document of a SQLite destination, with more of its keys.
fn destination(keys: &str) -> String {
    format!(
        "---
kind: destination
spec:
  name: copy
  path: sqlite
{keys}  spec:
    connection_string: copy.db
"
    )
}
