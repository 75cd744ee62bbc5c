//! A source plugin under test: its script, the plan of a run, and what the run brought.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_cloudquery::host::PluginSpec;
use highwater_cloudquery::source::{SourceConfig, SourcePlugin};
use highwater_core::{
    Checkpoint, Completion, Cursor, CursorKey, Deletion, Error, Instant, Message, Output,
    Partition, Plan, ReadMode, Result, Source, State, Table, TableName, TablePlan, WriteMode,
};
use serde_json::{Value, json};

use crate::scripted;

/// The script of a scripted source: what it has, and what it sends.
pub struct Scripted {
    folder: tempfile::TempDir,
}

impl Scripted {
    pub fn new(tables: Value, steps: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let script = json!({"tables": tables, "steps": steps, "journal": journal});
        std::fs::write(folder.path().join("script"), script.to_string()).unwrap();
        Self { folder }
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn spec(&self) -> PluginSpec {
        scripted::spec(&format!("source={}", self.path("script").display()))
    }

    pub fn config(&self) -> SourceConfig {
        SourceConfig { invocation_id: "this-run".to_owned(), ..config(self.spec()) }
    }

    /// With cursors kept in `cq_state`.
    pub fn with_state(&self) -> SourceConfig {
        SourceConfig { state_table: Some("cq_state".to_owned()), ..self.config() }
    }

    /// The lines of its journal of one kind.
    pub fn journal(&self, key: &str) -> Vec<Value> {
        lines(&self.path("journal")).into_iter().filter(|line| line.get(key).is_some()).collect()
    }

    pub async fn run(&self, config: SourceConfig) -> Run {
        run(&SourcePlugin::new(config), &State::default()).await
    }
}

pub fn config(spec: PluginSpec) -> SourceConfig {
    SourceConfig::new(spec, json!({}))
}

pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Two tables: `a` with a key, and `b`.
pub fn two_tables() -> Value {
    json!([table_a(), {"name": "b", "columns": {"id": "int"}}])
}

pub fn table_a() -> Value {
    json!({"name": "a", "columns": {"id": "int", "name": "text"}, "key": ["id"]})
}

/// `a` is read incrementally, and `child` depends on it; `b` does not.
pub fn incremental_tables() -> Value {
    json!([
        {"name": "a", "columns": {"id": "int"}, "key": ["id"], "incremental": true},
        {"name": "child", "columns": {"id": "int"}, "parent": "a"},
        {"name": "b", "columns": {"id": "int"}},
    ])
}

/// What a run brought.
#[derive(Debug)]
pub struct Run {
    pub messages: Vec<Message>,
    pub end: Result<Completion>,
}

impl Run {
    /// The numbers of rows of the batches of each table, in order.
    pub fn batches(&self) -> BTreeMap<String, Vec<usize>> {
        let mut batches: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for message in &self.messages {
            if let Message::Batch(batch) = message {
                assert_eq!(batch.rows.schema(), batch.table.schema);
                let of_table = batches.entry(batch.table.name.to_string()).or_default();
                of_table.push(batch.rows.num_rows());
            }
        }
        batches
    }

    pub fn rows(&self) -> BTreeMap<String, usize> {
        self.batches().into_iter().map(|(name, counts)| (name, counts.iter().sum())).collect()
    }

    /// All values of a column, as text, in order.
    pub fn values(&self, table: &str, column: &str) -> Vec<String> {
        let mut values = Vec::new();
        for message in &self.messages {
            if let Message::Batch(batch) = message
                && batch.table.name.name == table
            {
                let column = batch.rows.column_by_name(column).unwrap();
                let text = arrow_cast::cast(column, &arrow_schema::DataType::Utf8).unwrap();
                let text = arrow_array::cast::AsArray::as_string::<i32>(&text);
                values.extend(text.iter().map(|v| v.unwrap_or("NULL").to_owned()));
            }
        }
        values
    }

    pub fn failed(&self) -> Vec<(String, &Error)> {
        let failed = self.messages.iter().filter_map(|message| match message {
            Message::Failed { table, error } => Some((table.to_string(), error.as_ref())),
            _ => None,
        });
        failed.collect()
    }

    pub fn failed_tables(&self) -> Vec<String> {
        self.failed().into_iter().map(|(table, _)| table).collect()
    }

    pub fn deletions(&self) -> Vec<&Deletion> {
        let deletions = self.messages.iter().filter_map(|message| match message {
            Message::Delete(deletion) => Some(deletion.as_ref()),
            _ => None,
        });
        deletions.collect()
    }

    pub fn checkpoints(&self) -> Vec<&Checkpoint> {
        let checkpoints = self.messages.iter().filter_map(|message| match message {
            Message::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        });
        checkpoints.collect()
    }

    /// The cursors that were sent, as `key=value@version`; an empty checkpoint is `-`.
    pub fn cursors(&self) -> Vec<String> {
        let one = |checkpoint: &Checkpoint| match checkpoint.cursors.get(&CursorKey::Global) {
            None => "-".to_owned(),
            Some(cursor) => {
                let rows = cursor.0["rows"].as_object().unwrap().iter();
                let text = |(key, row): (&String, &Value)| {
                    format!("{key}={}@{}", row["value"].as_str().unwrap(), row["version"])
                };
                rows.map(text).collect::<Vec<_>>().join(" ")
            }
        };
        self.checkpoints().into_iter().map(one).collect()
    }

    pub fn is_complete(&self) -> bool {
        matches!(self.end, Ok(Completion::Complete))
    }

    pub fn error(&self) -> &Error {
        self.end.as_ref().unwrap_err()
    }
}

/// A state whose state table holds these rows.
pub fn state(rows: Value) -> State {
    let cursor = Cursor(json!({"rows": rows}));
    State { cursors: BTreeMap::from([(CursorKey::Global, cursor)]), ..State::default() }
}

/// A plan of all tables that the source lists.
pub async fn plan(source: &dyn Source) -> Plan {
    plan_of(source.discover(None).await.unwrap_or_else(|e| panic!("{}", e.full_message())))
}

pub fn plan_of(tables: Vec<Table>) -> Plan {
    Plan {
        sync: "plugin".to_owned(),
        sync_id: "1".to_owned(),
        started_at: Instant::now(),
        state_with_data: true,
        sync_group_id: None,
        tables: tables.into_iter().map(|t| (t.name.clone(), planned(t))).collect(),
    }
}

pub fn planned(table: Table) -> TablePlan {
    let incremental = table.source_defined_cursor;
    let table = Arc::new(table);
    TablePlan::new(
        Arc::clone(&table),
        table,
        if incremental { ReadMode::Incremental } else { ReadMode::FullRefresh },
        WriteMode::Overwrite,
    )
}

pub async fn run(source: &dyn Source, state: &State) -> Run {
    let plan = plan(source).await;
    run_plan(source, &plan, state).await
}

pub async fn run_plan(source: &dyn Source, plan: &Plan, state: &State) -> Run {
    let stop = Arc::new(AtomicBool::new(false));
    run_until(source, plan, state, &stop, |_| false).await
}

/// Runs until a message comes after which the run is asked to stop.
pub async fn run_until(
    source: &dyn Source,
    plan: &Plan,
    state: &State,
    stop: &Arc<AtomicBool>,
    last: impl Fn(&Message) -> bool,
) -> Run {
    let partitions = source.partitions(plan, state).await.unwrap();
    let [partition]: [Partition; 1] = partitions.try_into().unwrap();
    assert_eq!(partition.tables, plan.tables.keys().cloned().collect::<Vec<TableName>>());
    let (output, mut receiver) = Output::bounded(4, Arc::clone(stop));
    let collect = async {
        let mut messages = Vec::new();
        while let Some(message) = receiver.recv().await {
            if last(&message) {
                stop.store(true, Ordering::Relaxed);
            }
            messages.push(message);
        }
        messages
    };
    let (end, messages) = tokio::join!(source.read(plan, &partition, state, output), collect);
    Run { messages, end }
}
