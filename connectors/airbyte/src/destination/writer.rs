//! One `write` of a destination: rows as RECORD lines, checkpoints as STATE lines, and what came
//! back of these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use highwater_core::{
    Batch, Checkpoint, Committed, CommittedTables, Error, Op, Partition, Plan, Result, TableName,
    TablePlan, Writer,
};
use serde_json::json;

use super::ledger::Ledger;
use super::pipe::Pipe;
use super::{Shared, catalog};
use crate::protocol::{ConfiguredCatalog, StreamDescriptor};
use crate::records::Encoder;

pub(super) struct RecordWriter {
    shared: Arc<Shared>,
    catalog: ConfiguredCatalog,
    tables: BTreeMap<TableName, Slot>,
    /// When the run began, in milliseconds: of records that say nothing themselves.
    emitted_at: i64,
    ledger: Ledger,
    pipe: Option<Pipe>,
    /// Why nothing further can become durable.
    failure: Option<Error>,
    written: CommittedTables,
}

struct Slot {
    descriptor: StreamDescriptor,
    encoder: Encoder,
    /// Whether records tell themselves that their row was deleted.
    tells_deletions: bool,
}

impl Slot {
    fn new(table: &TablePlan) -> Result<Self> {
        let name = &table.target.name;
        let encoder = Encoder::new(name.namespace.as_deref(), &name.name, &table.target.schema)?;
        let told = table.deletion_column.as_ref();
        let tells_deletions = told.is_some_and(|column| table.target.field(column).is_some());
        Ok(Self { descriptor: catalog::descriptor(table), encoder, tells_deletions })
    }
}

impl RecordWriter {
    /// # Errors
    /// `Unsupported` for what the destination cannot do.
    pub(super) fn new(shared: &Arc<Shared>, plan: &Plan, partition: &Partition) -> Result<Self> {
        let planned = partition.tables.iter().filter_map(|name| plan.tables.get(name));
        let planned: Vec<&TablePlan> = planned.collect();
        let supports_refreshes = shared.supports_refreshes;
        let (mut tables, mut ledger) = (BTreeMap::new(), Ledger::default());
        for table in &planned {
            let slot = Slot::new(table).map_err(|e| e.context("table", table.name()))?;
            let keeps_unfinished = !catalog::is_overwritten(table, supports_refreshes);
            ledger.add(table.name().clone(), slot.descriptor.clone(), keeps_unfinished);
            tables.insert(table.name().clone(), slot);
        }
        Ok(Self {
            shared: Arc::clone(shared),
            catalog: catalog::configured(plan, &planned, supports_refreshes)?,
            tables,
            emitted_at: plan.started_at.0.div_euclid(1_000),
            ledger,
            pipe: None,
            failure: None,
            written: CommittedTables::new(),
        })
    }

    /// The process, started with the first thing that it has to do.
    async fn pipe(&mut self) -> Result<&mut Pipe> {
        if self.pipe.is_none() {
            self.pipe = Some(Pipe::new(self.shared.connector.write(&self.catalog).await?)?);
        }
        self.pipe.as_mut().ok_or_else(|| Error::internal("A process that was just started is gone"))
    }

    async fn send(&mut self, lines: String) -> Result<()> {
        let sent = self.pipe().await?.send(lines).await;
        // What it has confirmed before it died stays.
        self.listen();
        sent
    }

    /// Takes the echoes that are there.
    fn listen(&mut self) {
        while let Some(echo) = self.pipe.as_mut().and_then(Pipe::echo_now) {
            let taken = echo.and_then(|echo| self.ledger.echo(&echo));
            self.note(taken);
        }
    }

    /// Keeps the first failure. After it nothing counts as confirmed any more.
    fn note(&mut self, taken: Result<()>) {
        if let Err(error) = taken
            && self.failure.is_none()
        {
            self.failure = Some(error);
        }
    }

    /// Waits for the end of the process, and takes all that it has confirmed.
    async fn finished(&mut self) -> Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        pipe.close_input();
        while let Some(echo) = pipe.echo().await {
            if self.failure.is_none() {
                self.failure = echo.and_then(|echo| self.ledger.echo(&echo)).err();
            }
        }
        let ended = pipe.ended().await;
        self.pipe = None;
        ended
    }

    fn statuses(&self, complete: &[TableName]) -> String {
        if self.shared.supports_refreshes == Some(false) {
            return String::new();
        }
        let emitted_at = highwater_core::Instant::now().0.div_euclid(1_000);
        let slots = complete.iter().filter_map(|table| self.tables.get(table));
        let lines = slots.map(|slot| {
            let status = json!({"stream_descriptor": slot.descriptor, "status": "COMPLETE"});
            let trace =
                json!({"type": "STREAM_STATUS", "emitted_at": emitted_at, "stream_status": status});
            format!("{}\n", json!({"type": "TRACE", "trace": trace}))
        });
        lines.collect()
    }
}

#[async_trait]
impl Writer for RecordWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let name = &batch.table.name;
        let Some(slot) = self.tables.get(name) else {
            return Err(
                Error::internal("Rows of a table that is not planned").context("table", name)
            );
        };
        let is_deletion = batch.op == Op::Delete;
        if is_deletion && !slot.tells_deletions {
            return Err(Error::unsupported("Deletions cannot be told to this destination")
                .context("table", name)
                .hint("deletes: soft, or a source whose records have `_ab_cdc_deleted_at`"));
        }
        let mut lines = String::with_capacity(64 * batch.rows.num_rows());
        let encoded = slot.encoder.encode(&batch.rows, self.emitted_at, &mut lines);
        encoded.map_err(|e| e.context("table", name))?;
        self.send(lines).await?;
        let rows = batch.rows.num_rows() as u64;
        self.ledger.sent(name, rows);
        let written = self.written.entry(name.clone()).or_default();
        *written += match is_deletion {
            true => Committed { deleted: rows, ..Committed::default() },
            false => Committed { written: rows, ..Committed::default() },
        };
        Ok(())
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let lines = self.ledger.hand_over(checkpoint);
        self.send(lines).await?;
        Ok(std::mem::take(&mut self.written))
    }

    async fn durable(&mut self) -> Result<Vec<Checkpoint>> {
        self.listen();
        let durable = self.ledger.take_durable();
        match self.failure.take() {
            Some(failure) if durable.is_empty() => Err(failure),
            failure => {
                self.failure = failure;
                Ok(durable)
            }
        }
    }

    async fn end(&mut self, complete: &[TableName]) -> Result<Vec<Checkpoint>> {
        let complete: BTreeSet<_> =
            complete.iter().filter(|t| self.tables.contains_key(t)).collect();
        let complete: Vec<TableName> = complete.into_iter().cloned().collect();
        if self.pipe.is_none() && complete.is_empty() {
            return Ok(self.ledger.take_durable());
        }
        let statuses = self.statuses(&complete);
        let told = self.pipe().await?.send(statuses).await;
        let ended = self.finished().await;
        for (table, rows) in self.ledger.rejected() {
            self.shared.refuse(table, rows);
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let ended = told.and(ended);
        let open = self.ledger.open();
        if complete.len() == self.tables.len() || open > 0 {
            ended?;
        } else if let Err(error) = ended {
            // It complains that tables are not complete, which is why the run has failed anyway.
            tracing::warn!(error = %error.full_message(), "The destination ended with an error");
            self.shared.doubt(&error);
        }
        if open > 0 {
            return Err(Error::transient("The destination ended without confirming all rows")
                .context("unconfirmed states", open)
                .hint("Run again: what was not confirmed is sent again"));
        }
        Ok(self.ledger.take_durable())
    }
}
