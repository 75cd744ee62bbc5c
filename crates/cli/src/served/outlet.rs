//! The caller of a plugin as the engine's destination: rows go out as messages, cursors to the
//! backend that the caller named.
//!
//! A cursor is kept only when all rows that it covers were taken by the network. The caller has
//! them then, or they are on their way to it; that it also stores them before it loses them, the
//! protocol cannot say. Callers that know checkpoints get the cursors among the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_cloudquery::serve::SyncOutput;
use highwater_cloudquery::serve::backend::Backend;
use highwater_cloudquery::wire::{self, Encoder, INSERT_BYTES_MAX};
use highwater_core::{
    Batch, Capabilities, Checkpoint, Committed, CommittedTables, Cursor, CursorKey, Deletion,
    Destination, DestinationDelivery, Error, ExistingTable, Fence, LeaseRequest, Op, Partition,
    Plan, ReadMode, Result, SchemaChange, State, StateStore, Table, TableName, TablePlan,
    TableRecord, WriteMode, Writer,
};
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

/// What our keys in a state table begin with, before the system and the table.
const KEY_PREFIX: &str = "highwater";

/// Where rows go.
pub(super) struct Outlet(Arc<Inner>);

struct Inner {
    /// `None`: only asked what would be sent.
    output: Option<SyncOutput>,
    backend: Option<AsyncMutex<Backend>>,
    with_checkpoints: bool,
    /// Which system is read: a state table may have the cursors of several.
    system: String,
    /// The tables that are read.
    tables: Vec<TableName>,
    /// Filled when all tables are sent.
    announced: OnceCell<()>,
    /// The positions: those at the beginning, then those that were reached.
    reached: Mutex<BTreeMap<TableName, BTreeMap<String, Value>>>,
}

/// A table as it is sent: with the mark of an incremental one where its rows are not all sent.
pub(super) fn announced(plan: &TablePlan) -> Table {
    let mut table = plan.target.as_ref().clone();
    table.source_defined_cursor = plan.read_mode == ReadMode::Incremental;
    table.cursor_field = plan.cursor_field.clone().filter(|_| table.source_defined_cursor);
    table
}

impl Outlet {
    /// Sends to `output`; cursors are those of `backend`, kept under the name `system`.
    pub(super) fn new(
        output: SyncOutput,
        backend: Option<Backend>,
        with_checkpoints: bool,
        system: String,
        tables: Vec<TableName>,
    ) -> Self {
        Self(Arc::new(Inner {
            output: Some(output),
            backend: backend.map(AsyncMutex::new),
            with_checkpoints,
            system,
            tables,
            announced: OnceCell::new(),
            reached: Mutex::default(),
        }))
    }

    /// Sends nothing.
    pub(super) fn silent() -> Self {
        Self(Arc::new(Inner {
            output: None,
            backend: None,
            with_checkpoints: false,
            system: String::new(),
            tables: Vec::new(),
            announced: OnceCell::new(),
            reached: Mutex::default(),
        }))
    }

    /// Writes the cursors of these tables to the backend, where they have not been sent.
    ///
    /// # Errors
    /// What the backend says.
    pub(super) async fn keep_cursors(&self, tables: &BTreeSet<TableName>) -> Result<()> {
        let Some(backend) = &self.0.backend else { return Ok(()) };
        if self.0.with_checkpoints {
            return Ok(());
        }
        let mut backend = backend.lock().await;
        let mut keys = Vec::new();
        for table in tables {
            keys.extend(self.0.set(&mut backend, table)?);
        }
        if keys.is_empty() {
            return Ok(());
        }
        backend.flush(&keys).await
    }
}

impl Inner {
    fn reached(&self) -> MutexGuard<'_, BTreeMap<TableName, BTreeMap<String, Value>>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output(&self) -> Result<&SyncOutput> {
        self.output.as_ref().ok_or_else(|| Error::internal("Nobody takes the rows"))
    }

    /// The key of a table's position.
    fn key(&self, table: &TableName) -> String {
        format!("{KEY_PREFIX}/{}/{table}", self.system)
    }

    /// Puts the position of a table into the backend's rows; the key, when it has moved.
    fn set(&self, backend: &mut Backend, table: &TableName) -> Result<Option<String>> {
        let Some(position) = self.reached().get(table).cloned() else { return Ok(None) };
        let text = serde_json::to_string(&position)
            .map_err(|e| Error::internal("A cursor is no JSON").caused_by(e))?;
        let key = self.key(table);
        Ok(backend.set(&key, text).then_some(key))
    }

    /// Sends all tables, those that others depend on first.
    async fn announce(&self, plan: &Plan) -> Result<()> {
        let announcing = async {
            let output = self.output()?;
            let mut waiting: Vec<&TablePlan> = plan.tables.values().collect();
            let mut sent = BTreeSet::new();
            while !waiting.is_empty() {
                let planned = |parent: &TableName| plan.tables.contains_key(parent);
                let (mut ready, later): (Vec<_>, Vec<_>) = waiting.iter().partition(|table| {
                    let parent = table.source.parent.as_ref();
                    parent.is_none_or(|parent| sent.contains(parent) || !planned(parent))
                });
                if ready.is_empty() {
                    // Tables that depend on each other.
                    ready.clone_from(&waiting);
                }
                for table in &ready {
                    output.table(&announced(table)).await?;
                    sent.insert(table.name());
                }
                waiting = if ready.len() == waiting.len() { Vec::new() } else { later };
            }
            Ok(())
        };
        self.announced.get_or_try_init(|| announcing).await.map(drop)
    }

    /// Takes the positions of a checkpoint, and sends them where the caller knows what they are.
    async fn advance(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut moved = BTreeSet::new();
        for (key, cursor) in &checkpoint.cursors {
            let Some(table) = key.table() else {
                return Err(Error::unsupported(
                    "A cursor of the whole source cannot be kept by tables",
                ));
            };
            let mut reached = self.reached();
            let position = reached.entry(table.clone()).or_default();
            position.insert(key.partition().to_owned(), cursor.0.clone());
            moved.insert(table.clone());
        }
        let Some(backend) = self.backend.as_ref().filter(|_| self.with_checkpoints) else {
            return Ok(());
        };
        let mut backend = backend.lock().await;
        let mut keys = Vec::new();
        for table in &moved {
            keys.extend(self.set(&mut backend, table)?);
        }
        if keys.is_empty() {
            return Ok(());
        }
        for record in backend.record(&keys)? {
            self.output()?.checkpoint(record).await?;
        }
        Ok(())
    }

    /// The state as the backend has it, for the tables that the engine is going to ask for.
    async fn state(&self) -> Result<State> {
        let mut state = State::default();
        let Some(backend) = &self.backend else { return Ok(state) };
        let backend = backend.lock().await;
        for table in &self.tables {
            let key = self.key(table);
            let Some(text) = backend.get(&key) else { continue };
            let position: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|e| {
                Error::data("A cursor in the state table is none of highwater's")
                    .context("key", &key)
                    .hint("delete its row to read the table from the beginning")
                    .caused_by(e)
            })?;
            for (partition, cursor) in &position {
                let key = CursorKey::from_parts(Some(table.clone()), partition);
                state.cursors.insert(key, Cursor(cursor.clone()));
            }
            self.reached().insert(table.clone(), position);
        }
        Ok(state)
    }
}

#[async_trait]
impl Destination for Outlet {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_modes: &[WriteMode::Overwrite],
            write_modes_note: "whoever calls the plugin decides how rows are written",
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
        TableName::new(wire::wire_name(source))
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        Ok(vec![None; names.len()])
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        wire::types::to_wire(field).map(|_| field.clone())
    }

    fn ddl(&self, _: &TablePlan, _: &SchemaChange) -> Vec<String> {
        Vec::new()
    }

    async fn migrate(&self, _: &Plan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn writer(&self, plan: &Plan, _: &Partition, _: &Fence) -> Result<Box<dyn Writer>> {
        self.0.announce(plan).await?;
        Ok(Box::new(OutletWriter {
            inner: Arc::clone(&self.0),
            plan: plan.clone(),
            encoders: BTreeMap::new(),
            committed: CommittedTables::new(),
        }))
    }

    async fn finish(&self, plan: &Plan, _: &TablePlan, _: &Fence) -> Result<Committed> {
        // A table without any row is sent all the same.
        self.0.announce(plan).await?;
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
            return Err(Error::unsupported("Deleted rows cannot be sent by their keys")
                .context("table", name));
        }
        if !self.encoders.contains_key(name) {
            let plan = self.plan.tables.get(name).ok_or_else(|| {
                Error::internal("Rows of a table that is not planned").context("table", name)
            })?;
            let encoder = Encoder::new(&Arc::new(announced(plan)), INSERT_BYTES_MAX)?;
            self.encoders.insert(name.clone(), encoder);
        }
        let Some(encoder) = self.encoders.get_mut(name) else { return Ok(()) };
        for record in encoder.encode(&batch.rows)? {
            self.inner.output()?.rows(record).await?;
        }
        self.committed.entry(name.clone()).or_default().written += batch.rows.num_rows() as u64;
        Ok(())
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        self.inner.output()?.delete(deletion).await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        self.inner.advance(checkpoint).await?;
        Ok(std::mem::take(&mut self.committed))
    }
}

/// The state of one run: what the backend says, and what the run reaches.
#[async_trait]
impl StateStore for Outlet {
    async fn open(&self, sync: &str, _: &LeaseRequest) -> Result<State> {
        let fence = Some(Fence { sync: sync.to_owned(), epoch: 1 });
        Ok(State { fence, ..self.0.state().await? })
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
        self.0.state().await
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn set(&self, _: &Fence, _: &CursorKey, _: Option<&Cursor>) -> Result<()> {
        Err(Error::unsupported("A plugin's cursors are its caller's"))
    }
}
