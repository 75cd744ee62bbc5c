//! Our connectors as others run them: real processes, with messages on stdin and stdout.

mod crashes;
mod pyairbyte;
mod read;
mod write;

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a connector said, and how it ended.
struct Said {
    status: ExitStatus,
    messages: Vec<Value>,
    stderr: String,
}

impl Said {
    /// Whose exit code has to be this one.
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{:?}\n{}", self.messages, self.stderr);
        self
    }

    fn of(&self, kind: &str) -> Vec<&Value> {
        let key = match kind {
            "CONNECTION_STATUS" => "connectionStatus",
            _ => &kind.to_lowercase(),
        };
        let own = self.messages.iter().filter(|message| message["type"] == kind);
        own.map(|message| &message[key]).collect()
    }

    /// What was said of streams, as `NAME STATUS`.
    fn statuses(&self) -> Vec<String> {
        let traces = self.of("TRACE").into_iter().filter(|trace| trace["type"] == "STREAM_STATUS");
        let word = |trace: &Value| {
            let status = &trace["stream_status"];
            let name = status["stream_descriptor"]["name"].as_str().unwrap();
            format!("{name} {}", status["status"].as_str().unwrap())
        };
        traces.map(word).collect()
    }

    /// The errors, as `FAILURE_TYPE: MESSAGE`.
    fn errors(&self) -> Vec<String> {
        let traces = self.of("TRACE").into_iter().filter(|trace| trace["type"] == "ERROR");
        let word = |trace: &Value| {
            let error = &trace["error"];
            let kind = error["failure_type"].as_str().unwrap();
            format!("{kind}: {}", error["message"].as_str().unwrap())
        };
        traces.map(word).collect()
    }

    /// The data of the records.
    fn rows(&self) -> Vec<&Value> {
        self.of("RECORD").into_iter().map(|record| &record["data"]).collect()
    }
}

/// A folder with files for connectors.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl ToString) {
        std::fs::write(self.path().join(name), content.to_string()).unwrap();
    }

    fn database(&self, name: &str) -> Connection {
        Connection::open(self.path().join(name)).unwrap()
    }

    /// The cells of a query, as text.
    fn query(&self, database: &str, query: &str) -> Vec<Vec<String>> {
        let connection = self.database(database);
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cell = |index| {
                Ok(match row.get::<_, Cell>(index)? {
                    Cell::Null => "NULL".to_owned(),
                    Cell::Integer(number) => number.to_string(),
                    Cell::Real(number) => number.to_string(),
                    Cell::Text(text) => text,
                    Cell::Blob(blob) => format!("{blob:?}"),
                })
            };
            (0..columns).map(cell).collect()
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The command line of a connector; `words` are what stands behind its name.
    fn command(&self, name: &str, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["connector", "airbyte", name]).args(words.split_whitespace());
        command.current_dir(self.path());
        command
    }

    /// Runs a connector to its end. All that it prints has to be messages.
    fn run(&self, name: &str, words: &str, input: &[Value]) -> Said {
        self.run_with(self.command(name, words), input)
    }

    fn run_with(&self, mut command: Command, input: &[Value]) -> Said {
        let lines = input.iter().fold(String::new(), |text, line| match line {
            // What is no JSON.
            Value::String(line) => format!("{text}{line}\n"),
            line => format!("{text}{line}\n"),
        });
        self.write("stdin", lines);
        command.stdin(File::open(self.path().join("stdin")).unwrap());
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let parsed = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
        Said {
            status: output.status,
            messages: text.lines().map(parsed).collect(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A stream of a configured catalog for a source.
fn asked(name: &str, sync_mode: &str, cursor: &[&str]) -> Value {
    json!({
        "stream": {"name": name, "json_schema": {}, "supported_sync_modes": [sync_mode]},
        "sync_mode": sync_mode, "cursor_field": cursor, "destination_sync_mode": "append",
        // PyAirbyte gives sources what is meant for destinations.
        "generation_id": 1, "minimum_generation_id": 1, "sync_id": 1, "namespace": null,
    })
}

fn catalog(streams: &[Value]) -> Value {
    json!({ "streams": streams })
}
