//! What the tests of the source share: a scripted connector, a plan for it, and what it sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use highwater_airbyte::host::{ConnectorSpec, Role};
use highwater_airbyte::source::{AirbyteSource, AirbyteSourceConfig, TablePaths};
use highwater_core::types::record_part;
use highwater_core::{
    Checkpoint, Completion, CursorKey, Error, Instant, Message, Output, Plan, ReadMode, Result,
    Source, State, TableName, TablePlan, WriteMode,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use highwater_core::ReadMode::{FullRefresh, Incremental};
pub use highwater_core::WriteMode::{Append, Overwrite, Replace};

/// A connector that does as a script says.
pub struct Shop {
    pub folder: TempDir,
    pub spec: ConnectorSpec,
    pub paths: Vec<TablePaths>,
}

/// A connector of these streams that reads by printing these lines.
pub fn shop(streams: &[Value], lines: Vec<Value>) -> Shop {
    with_config(|folder| {
        let script = json!({"catalog": streams, "lines": lines});
        let path = folder.join("script.json");
        std::fs::write(&path, script.to_string()).unwrap();
        json!({"script": path, "save_args": folder.join("calls")})
    })
}

/// A connector that reads these rows, `{"stream": …, "data": …}` each, by their cursor.
pub fn rows_shop(rows: &[Value], settings: Value) -> Shop {
    with_config(|folder| {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let path = folder.join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut config = settings;
        config["rows_file"] = json!(path);
        config["save_args"] = json!(folder.join("calls"));
        config
    })
}

fn with_config(config: impl FnOnce(&Path) -> Value) -> Shop {
    let folder = tempfile::tempdir().unwrap();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/connectors/scripted_source.py");
    let mut spec = ConnectorSpec::new("shop", Role::Source, program);
    spec.cache_dir = folder.path().join("cache");
    spec.config = config(folder.path());
    Shop { folder, spec, paths: Vec::new() }
}

/// What a read sent, and how it ended.
pub struct Heard {
    pub messages: Vec<Message>,
    pub result: Result<Completion>,
}

/// What a table is read and written as.
pub type Wanted<'a> = (&'a str, ReadMode, WriteMode);

impl Shop {
    pub fn source(&self) -> AirbyteSource {
        let tables = self.paths.clone();
        AirbyteSource::new(AirbyteSourceConfig { connector: self.spec.clone(), tables }).unwrap()
    }

    /// What the connector was called with, the calls of one command, in order.
    pub fn calls(&self, command: &str) -> Vec<PathBuf> {
        let calls = (1..).map(|number| self.folder.path().join(format!("calls/{number}")));
        let made = calls.take_while(|call| call.exists());
        let is_of = |call: &PathBuf| {
            // It may be written just now.
            let text = std::fs::read_to_string(call.join("argv.json")).unwrap_or_default();
            let call: Value = serde_json::from_str(&text).unwrap_or_default();
            call["argv"][1] == command
        };
        made.filter(is_of).collect()
    }

    /// Reads these tables from nothing.
    pub async fn read(&self, wanted: &[Wanted<'_>]) -> Heard {
        self.read_from(wanted, &State::default()).await
    }

    pub async fn read_from(&self, wanted: &[Wanted<'_>], state: &State) -> Heard {
        let source = self.source();
        let plan = plan(&source, wanted).await;
        read(&source, &plan, state, Arc::default()).await
    }
}

pub fn json_in(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A plan without the columns that records bring beside their data.
pub async fn plan(source: &AirbyteSource, wanted: &[Wanted<'_>]) -> Plan {
    let tables = source.discover(None).await.unwrap();
    let planned = wanted.iter().map(|(name, read, write)| {
        let table = tables.iter().find(|table| table.name.to_string() == *name).unwrap();
        let mut table = table.clone();
        let fields = table.schema.fields().iter().filter(|field| record_part(field).is_none());
        let fields: Vec<_> = fields.cloned().collect();
        table.schema = Arc::new(arrow_schema::Schema::new(fields));
        let mut target = table.clone();
        if *write == Append {
            target.primary_key.clear();
        }
        let mut plan = TablePlan::new(Arc::new(table), Arc::new(target), *read, *write);
        plan.cursor_field = plan.source.cursor_field.clone();
        (plan.name().clone(), plan)
    });
    Plan {
        sync: "shop".into(),
        sync_id: "1".into(),
        started_at: Instant(1_000),
        state_with_data: true,
        sync_group_id: None,
        tables: planned.collect::<BTreeMap<_, _>>(),
    }
}

/// Reads the whole partition. `stopping` asks it to stop.
pub async fn read(
    source: &AirbyteSource,
    plan: &Plan,
    state: &State,
    stopping: Arc<AtomicBool>,
) -> Heard {
    let partitions = source.partitions(plan, state).await.unwrap();
    assert_eq!(partitions.len(), 1);
    let (output, mut sent) = Output::bounded(4, stopping);
    let reading = source.read(plan, &partitions[0], state, output);
    let collecting = async {
        let mut messages = Vec::new();
        while let Some(message) = sent.recv().await {
            messages.push(message);
        }
        messages
    };
    let (result, messages) = tokio::join!(reading, collecting);
    Heard { messages, result }
}

impl Heard {
    /// Rows, commits, failures and ends, in order: `a:3`, `commit a=5`, `failed a`, `done a`.
    /// Batches of one table that follow each other are one.
    pub fn log(&self) -> Vec<String> {
        let mut log: Vec<String> = Vec::new();
        let mut rows: Option<(String, usize)> = None;
        for message in &self.messages {
            if let Message::Batch(batch) = message {
                let (table, count) = (batch.table.name.to_string(), batch.rows.num_rows());
                match &mut rows {
                    Some((of, sum)) if *of == table => *sum += count,
                    _ => log.extend(rows.replace((table, count)).map(|(t, n)| format!("{t}:{n}"))),
                }
                continue;
            }
            log.extend(rows.take().map(|(table, count)| format!("{table}:{count}")));
            match message {
                Message::Checkpoint(checkpoint) => log.push(commit(checkpoint)),
                Message::Failed { table, .. } => log.push(format!("failed {table}")),
                Message::Completed(table) => log.push(format!("done {table}")),
                Message::Note { .. } | Message::Batch(_) | Message::Delete(_) => {}
            }
        }
        log.extend(rows.map(|(table, count)| format!("{table}:{count}")));
        log
    }

    pub fn rows(&self, table: &str) -> usize {
        let batches = self.messages.iter().filter_map(|message| match message {
            Message::Batch(batch) if batch.table.name.name == table => Some(batch.rows.num_rows()),
            _ => None,
        });
        batches.sum()
    }

    /// The values of the column `id`.
    pub fn ids(&self, table: &str) -> Vec<i64> {
        let mut ids = Vec::new();
        for message in &self.messages {
            if let Message::Batch(batch) = message
                && batch.table.name.name == table
            {
                let column = batch.rows.column_by_name("id").unwrap();
                ids.extend(column.as_primitive::<Int64Type>().values());
            }
        }
        ids
    }

    pub fn failure(&self, table: &str) -> &Error {
        let mut failures = self.messages.iter().filter_map(|message| match message {
            Message::Failed { table: of, error } if of.to_string() == table => Some(error),
            _ => None,
        });
        failures.next().unwrap_or_else(|| panic!("{table} did not fail: {:?}", self.log()))
    }

    pub fn notes(&self, table: &str) -> Vec<&str> {
        let notes = self.messages.iter().filter_map(|message| match message {
            Message::Note { table: of, text } if of.to_string() == table => Some(text.as_str()),
            _ => None,
        });
        notes.collect()
    }

    pub fn error(&self) -> &Error {
        self.result.as_ref().err().unwrap_or_else(|| panic!("no error: {:?}", self.log()))
    }

    /// The state after all that was sent was committed, on top of nothing.
    pub fn state(&self) -> State {
        let mut state = State::default();
        for message in &self.messages {
            if let Message::Checkpoint(checkpoint) = message {
                state.cursors.extend(checkpoint.cursors.clone());
            }
        }
        state
    }
}

fn commit(checkpoint: &Checkpoint) -> String {
    let cursors = checkpoint.cursors.iter().map(|(key, cursor)| format!(" {key}={}", cursor.0));
    format!("commit{}", cursors.collect::<String>())
}

pub fn key(table: &str) -> CursorKey {
    CursorKey::Table(TableName::new(table))
}

/// A stream of `id` and `updated_at` that can be read both ways, and resumed.
pub fn stream(name: &str) -> Value {
    json!({
        "name": name,
        "json_schema": {"type": "object", "properties": {
            "id": {"type": "integer"},
            "updated_at": {"type": "string"},
        }},
        "supported_sync_modes": ["full_refresh", "incremental"],
        "source_defined_cursor": true,
        "default_cursor_field": ["updated_at"],
        "source_defined_primary_key": [["id"]],
        "is_resumable": true,
    })
}

/// One that can only be read in full, from its beginning.
pub fn whole_stream(name: &str) -> Value {
    let mut stream = stream(name);
    stream["is_resumable"] = false.into();
    stream
}

pub fn record(stream: &str, id: i64) -> Value {
    json!({"type": "RECORD", "record": {"stream": stream, "data": {"id": id}, "emitted_at": 1_000}})
}

/// So many records of a stream.
pub fn records(stream: &str, count: u64) -> Value {
    let data = json!({"id": "{i}", "updated_at": "2026"});
    let record = json!({"stream": stream, "data": data, "emitted_at": 1_000});
    json!({"repeat": count, "line": {"type": "RECORD", "record": record}})
}

/// A state of one stream, after `count` records.
pub fn state(stream: &str, cursor: i64, count: u64) -> Value {
    let of = json!({"stream_descriptor": {"name": stream}, "stream_state": cursor});
    json!({"type": "STATE", "state": {
        "type": "STREAM", "stream": of, "sourceStats": {"recordCount": count as f64},
    }})
}

pub fn global(shared: i64, streams: &[(&str, i64)], count: u64) -> Value {
    let states = streams
        .iter()
        .map(|(name, cursor)| json!({"stream_descriptor": {"name": name}, "stream_state": cursor}));
    let global = json!({"shared_state": shared, "stream_states": states.collect::<Vec<_>>()});
    json!({"type": "STATE", "state": {
        "type": "GLOBAL", "global": global, "sourceStats": {"recordCount": count as f64},
    }})
}

pub fn status(stream: &str, word: &str) -> Value {
    json!({"type": "TRACE", "trace": {
        "type": "STREAM_STATUS", "emitted_at": 1.5,
        "stream_status": {"stream_descriptor": {"name": stream}, "status": word},
    }})
}

pub fn failure(stream: Option<&str>, kind: &str, message: &str) -> Value {
    let mut error = json!({"message": message, "failure_type": kind});
    if let Some(stream) = stream {
        error["stream_descriptor"] = json!({"name": stream});
    }
    json!({"type": "TRACE", "trace": {"type": "ERROR", "emitted_at": 1.5, "error": error}})
}
