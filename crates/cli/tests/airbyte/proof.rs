//! What the proofs share: a connector that sends what a test says, the real program between it and
//! a copy, and what both of them said.

use std::process::Output;

use highwater_testkit::crash::{Ended, Program};
use serde_json::{Value, json};

use super::connector;
use crate::crash::systems::{PostgreSql, Sqlite, System};
use crate::transcript::Session;

/// A sync of a scripted connector into a copy.
pub struct Shop {
    pub session: Session,
    pub copy: Box<dyn System>,
    streams: Vec<Value>,
    entries: String,
    /// More settings of the connector, as the inside of a mapping.
    pub settings: String,
}

/// Both databases as destinations: what holds in one has to hold in the other.
pub fn both(entries: &str, streams: &[Value]) -> [Shop; 2] {
    let postgres: Box<dyn System> = Box::new(PostgreSql::new());
    [Shop::new(entries, streams), Shop { copy: postgres, ..Shop::new(entries, streams) }]
}

impl Shop {
    /// These streams with these entries of `tables`, into a SQLite file.
    pub fn new(entries: &str, streams: &[Value]) -> Self {
        let session = Session::new();
        connector(&session, "scripted_source.py", "source-shop");
        let copy = Box::new(Sqlite(session.path("copy.db")));
        let streams = streams.to_vec();
        Self { session, copy, streams, entries: entries.to_owned(), settings: String::new() }
    }

    /// The entries of `tables` from now on.
    pub fn entries(&mut self, entries: &str) {
        entries.clone_into(&mut self.entries);
    }

    /// The streams from now on.
    pub fn streams(&mut self, streams: &[Value]) {
        self.streams = streams.to_vec();
    }

    /// What the connector does when it reads; and the configuration.
    pub fn script(&mut self, lines: &[Value]) {
        let script = json!({ "catalog": self.streams, "lines": lines });
        self.session.hidden_file("script.json", script.to_string().as_bytes());
        let url = self.copy.url();
        let kind = if url.starts_with("postgres") { "postgresql" } else { "sqlite" };
        let url = url.strip_prefix("sqlite://").unwrap_or(&url);
        let text = format!(
            "kind: source
spec:
  name: shop
  path: ./source-shop
  registry: airbyte
  tables: {}
  destinations: [copy]
  spec: {{script: script.json, save_args: args{}}}
---
kind: destination
spec:
  name: copy
  path: {kind}
  spec: {{connection_string: \"{url}\"}}
",
            self.entries, self.settings
        );
        self.session.hidden_file("sync.yml", text.as_bytes());
    }

    /// The configuration alone, for a connector that has rows of its own (`rows_file`).
    pub fn script_of_rows(&mut self) {
        self.script(&[]);
        self.session.hidden_file("script.json", b"{}");
    }

    /// A run of the program with arguments separated by spaces.
    pub fn run(&self, arguments: &str) -> Ended {
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), self.session.path("."));
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let ended = program.run(&arguments);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended
    }

    /// A sync in which the connector does this.
    pub fn sends(&mut self, lines: &[Value]) -> Ended {
        self.script(lines);
        self.run("sync sync.yml --json")
    }

    /// A sync that has to end with this exit code.
    pub fn ends(&mut self, code: i32, lines: &[Value]) -> Ended {
        self.sends(lines).expect(code).unwrap()
    }

    /// A sync in which a stream sends these records and is complete, with a state behind them.
    pub fn syncs(&mut self, stream: &str, records: &[Value], position: i64) -> Ended {
        let lines = good(stream, records, position);
        self.ends(0, &lines)
    }

    /// The rows of a table in order: ` | ` between values.
    pub fn table(&self, table: &str, columns: &[&str]) -> Vec<String> {
        let cells = |row: Vec<Option<String>>| -> Vec<String> {
            row.into_iter().map(|cell| cell.unwrap_or_else(|| "NULL".to_owned())).collect()
        };
        let rows = self.copy.rows(table, columns);
        let mut rows: Vec<String> = rows.into_iter().map(|row| cells(row).join(" | ")).collect();
        rows.sort();
        rows
    }

    /// A file that the last `read` of the connector was given: `catalog` or `state`.
    pub fn given(&self, file: &str) -> Value {
        let calls = (1..).map(|number| self.session.path(&format!("args/{number}")));
        let made = calls.take_while(|call| call.exists());
        let read = made.filter(|call| call.join("catalog.json").exists()).last().unwrap();
        match std::fs::read_to_string(read.join(format!("{file}.json"))) {
            // It may be written just now.
            Ok(text) => serde_json::from_str(&text).unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// The state of the only stream in what the last `read` was given.
    pub fn position(&self) -> Value {
        self.given("state")[0]["stream"]["stream_state"].clone()
    }

    /// Shows a sync in the transcript; the exit code.
    pub fn shown(&mut self, what: &str, lines: &[Value]) -> i32 {
        self.script(lines);
        let command = self
            .session
            .command(env!("CARGO_BIN_EXE_highwater"))
            .arg("sync")
            .arg("sync.yml")
            .output();
        let output: Output = command.unwrap();
        self.session.record(&format!("sync sync.yml   # {what}"), &output)
    }
}

/// Records of a stream, a state behind them, and its good end.
pub fn good(stream: &str, records: &[Value], position: i64) -> Vec<Value> {
    let mut lines: Vec<Value> = records.iter().map(|data| record(stream, data)).collect();
    lines.push(state(stream, &json!(position), records.len()));
    lines.push(status(stream, "COMPLETE"));
    lines
}

/// A RECORD. All come at the same moment, so that no order can be taken from it.
pub fn record(stream: &str, data: &Value) -> Value {
    json!({ "type": "RECORD",
        "record": { "stream": stream, "data": data, "emitted_at": 1_700_000_000_000_i64 } })
}

/// A STATE of a stream, `{"at": POSITION}`, that covers so many records.
pub fn state(stream: &str, position: &Value, count: usize) -> Value {
    json!({ "type": "STATE", "state": { "type": "STREAM",
        "stream": { "stream_descriptor": { "name": stream }, "stream_state": { "at": position } },
        "sourceStats": { "recordCount": count as f64 } } })
}

/// A STREAM_STATUS: STARTED, COMPLETE, INCOMPLETE.
pub fn status(stream: &str, word: &str) -> Value {
    json!({ "type": "TRACE", "trace": { "type": "STREAM_STATUS", "emitted_at": 1.5,
        "stream_status": { "stream_descriptor": { "name": stream }, "status": word } } })
}

/// A stream with these columns, that defines its key and its cursor itself.
pub fn stream(name: &str, columns: &Value, key: &[&str], cursor: &str) -> Value {
    let key: Vec<[&str; 1]> = key.iter().map(|column| [*column]).collect();
    let mut stream = bare(name, columns);
    stream["source_defined_cursor"] = json!(true);
    stream["default_cursor_field"] = json!([cursor]);
    stream["source_defined_primary_key"] = json!(key);
    stream
}

/// A stream that leaves key and cursor to the user.
pub fn bare(name: &str, columns: &Value) -> Value {
    let columns: serde_json::Map<String, Value> = columns
        .as_object()
        .unwrap()
        .iter()
        .map(|(column, kind)| (column.clone(), json!({ "type": ["null", kind] })))
        .collect();
    json!({ "name": name, "json_schema": { "type": "object", "properties": columns },
        "supported_sync_modes": ["full_refresh", "incremental"] })
}

/// The stream `people`: a key, a name, and a cursor.
pub fn people() -> Value {
    let columns = json!({ "id": "integer", "name": "string", "updated_at": "integer" });
    stream("people", &columns, &["id"], "updated_at")
}

/// A record of `people`.
pub fn person(id: i64, name: &str, updated_at: Option<i64>) -> Value {
    json!({ "id": id, "name": name, "updated_at": updated_at })
}

/// `people`, incremental and deduplicated.
pub const DEDUP: &str =
    "[{name: people, sync_mode: incremental, destination_sync_mode: append_dedup}]";
/// `people`, replaced by every sync.
pub const OVERWRITE: &str =
    "[{name: people, sync_mode: full_refresh, destination_sync_mode: overwrite}]";
/// The columns of `people`.
pub const PERSON: [&str; 3] = ["id", "name", "updated_at"];
