//! Whoever has started the connector as the engine's destination: rows go out as RECORD lines, and
//! a commit is a STATE line.
//!
//! The state of a stream holds the positions of all parts of its table, as
//! `{"highwater": {PART: POSITION}}`; a table that is read in one piece has the part `""`. States
//! are of the type STREAM: PyAirbyte saves no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_airbyte::records::Encoder;
use highwater_core::{
    Batch, Capabilities, Checkpoint, Committed, CommittedTables, Cursor, CursorKey, Destination,
    DestinationDelivery, Error, ExistingTable, Fence, Instant, LeaseRequest, Op, Partition, Plan,
    ReadMode, Result, SchemaChange, State, StateStore, TableName, TablePlan, TableRecord,
    WriteMode, Writer,
};
use serde_json::{Map, Value, json};

use super::lines::Lines;

/// The key of our positions in the state of a stream.
const OWN: &str = "highwater";

/// By table: the position of each part.
pub(super) type Positions = BTreeMap<TableName, BTreeMap<String, Value>>;

/// The positions in the file of `--state`.
///
/// # Errors
/// `Config` for a state that is not one of ours.
pub(super) fn positions(states: &Value) -> Result<Positions> {
    let mut positions = Positions::new();
    let states = match states {
        Value::Array(states) => &states[..],
        Value::Null => &[],
        Value::Object(object) if object.is_empty() => &[],
        one => std::slice::from_ref(one),
    };
    for state in states {
        if !matches!(state["type"].as_str(), None | Some("STREAM")) {
            return Err(foreign_state());
        }
        let stream = &state["stream"];
        let descriptor = &stream["stream_descriptor"];
        let name = descriptor["name"].as_str().ok_or_else(foreign_state)?;
        let own = match &stream["stream_state"] {
            Value::Null => continue,
            Value::Object(own) if own.is_empty() => continue,
            own => own[OWN].as_object().ok_or_else(foreign_state)?,
        };
        let namespace = descriptor["namespace"].as_str().map(str::to_owned);
        let table = TableName { namespace, name: name.to_owned() };
        positions.insert(table, own.clone().into_iter().collect());
    }
    Ok(positions)
}

fn foreign_state() -> Error {
    Error::config("The state is not one that this connector has printed")
        .hint("leave `--state` out, or reset the state, to read from the beginning")
}

/// Where rows go.
pub(super) struct Outlet(Arc<Inner>);

struct Inner {
    lines: Arc<Lines>,
    /// Those at the beginning, then those that were reached.
    reached: Mutex<Positions>,
    /// The streams of which something was said, and those of which rows were.
    started: tokio::sync::Mutex<(BTreeSet<TableName>, BTreeSet<TableName>)>,
}

impl Outlet {
    /// Goes on from `positions`.
    pub(super) fn new(lines: Arc<Lines>, positions: Positions) -> Self {
        let reached = Mutex::new(positions);
        Self(Arc::new(Inner { lines, reached, started: tokio::sync::Mutex::default() }))
    }
}

impl Inner {
    async fn started(&self, table: &TableName, has_rows: bool) -> Result<()> {
        let mut started = self.started.lock().await;
        if started.0.insert(table.clone()) {
            self.lines.status(table, "STARTED").await?;
        }
        if has_rows && started.1.insert(table.clone()) {
            self.lines.status(table, "RUNNING").await?;
        }
        Ok(())
    }

    /// Takes the positions of a checkpoint, and prints the states of their tables.
    async fn advance(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut moved = BTreeSet::new();
        for (key, cursor) in &checkpoint.cursors {
            let Some(table) = key.table() else {
                return Err(Error::unsupported(
                    "A position of the whole source cannot be told by streams",
                ));
            };
            let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            let parts = reached.entry(table.clone()).or_default();
            parts.insert(key.partition().to_owned(), cursor.0.clone());
            moved.insert(table.clone());
        }
        for table in moved {
            self.lines.state(&table, &self.state_of(&table)).await?;
        }
        Ok(())
    }

    fn state_of(&self, table: &TableName) -> Value {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Map<String, Value> =
            reached.get(table).cloned().unwrap_or_default().into_iter().collect();
        json!({ OWN: parts })
    }
}

#[async_trait]
impl Destination for Outlet {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_modes: &[WriteMode::Append],
            write_modes_note: "whoever runs the connector decides how rows are written",
            delivery: DestinationDelivery::Separate,
            identifier_bytes_max: 1 << 10,
            writers_max: 16,
            case_sensitive_names: true,
            describes_tables: false,
            commits_later: false,
            takes_records: None,
        }
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn target_name(&self, source: &TableName) -> TableName {
        source.clone()
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        Ok(vec![None; names.len()])
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        Ok(field.clone())
    }

    fn ddl(&self, _: &TablePlan, _: &SchemaChange) -> Vec<String> {
        Vec::new()
    }

    async fn migrate(&self, _: &Plan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        _: &Fence,
    ) -> Result<Box<dyn Writer>> {
        for table in &partition.tables {
            self.0.started(table, false).await?;
        }
        Ok(Box::new(OutletWriter {
            inner: Arc::clone(&self.0),
            plan: plan.clone(),
            encoders: BTreeMap::new(),
            committed: CommittedTables::new(),
        }))
    }

    async fn finish(&self, _: &Plan, table: &TablePlan, _: &Fence) -> Result<Committed> {
        let name = table.name();
        self.0.started(name, false).await?;
        if table.read_mode == ReadMode::FullRefresh {
            // Records without a state after them are not counted by those who count.
            self.0.lines.state(name, &json!({})).await?;
        }
        self.0.lines.status(name, "COMPLETE").await?;
        Ok(Committed::default())
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(self)
    }
}

struct OutletWriter {
    inner: Arc<Inner>,
    plan: Plan,
    encoders: BTreeMap<TableName, Encoder>,
    committed: CommittedTables,
}

#[async_trait]
impl Writer for OutletWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let name = &batch.table.name;
        if batch.op == Op::Delete {
            return Err(Error::unsupported("Deleted rows cannot be told by this connector")
                .context("table", name));
        }
        self.inner.started(name, true).await?;
        if !self.encoders.contains_key(name) {
            let plan = self.plan.tables.get(name).ok_or_else(|| {
                Error::internal("Rows of a table that is not planned").context("table", name)
            })?;
            let namespace = name.namespace.as_deref();
            let encoder = Encoder::new(namespace, &name.name, &plan.target.schema)?;
            self.encoders.insert(name.clone(), encoder);
        }
        let Some(encoder) = self.encoders.get_mut(name) else { return Ok(()) };
        let rows = batch.rows.num_rows() as u64;
        let mut lines = String::new();
        encoder.encode(&batch.rows, Instant::now().0 / 1000, &mut lines)?;
        self.inner.lines.records(name, rows, lines.as_bytes()).await?;
        self.committed.entry(name.clone()).or_default().written += rows;
        Ok(())
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        self.inner.advance(checkpoint).await?;
        Ok(std::mem::take(&mut self.committed))
    }
}

/// The state of one run: what it was started with, and what it reaches.
#[async_trait]
impl StateStore for Outlet {
    async fn open(&self, sync: &str, _: &LeaseRequest) -> Result<State> {
        let fence = Some(Fence { sync: sync.to_owned(), epoch: 1 });
        Ok(State { fence, ..self.look(sync).await? })
    }

    async fn renew(&self, _: &Fence) -> Result<()> {
        Ok(())
    }

    async fn save(&self, _: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        self.0.advance(checkpoint).await
    }

    async fn save_table(&self, _: &Fence, _: &TableName, _: &TableRecord) -> Result<()> {
        Ok(())
    }

    async fn release(&self, _: &Fence) -> Result<()> {
        Ok(())
    }

    async fn look(&self, _: &str) -> Result<State> {
        let reached = self.0.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::default();
        for (table, parts) in reached.iter() {
            for (part, position) in parts {
                let key = CursorKey::from_parts(Some(table.clone()), part);
                state.cursors.insert(key, Cursor(position.clone()));
            }
        }
        Ok(state)
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn set(&self, _: &Fence, _: &CursorKey, _: Option<&Cursor>) -> Result<()> {
        Err(Error::unsupported("A connector's positions are its caller's"))
    }
}
