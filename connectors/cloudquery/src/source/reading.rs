//! One `Sync` call: what it brings becomes batches, deletions, failures and checkpoints.
//!
//! A table that cannot be carried on with is failed, and so are those that depend on it: what is
//! missing of it is missing of them. The others go on. The plugin's cursors
//! move only if nothing that they may cover was lost on the way: otherwise they stay, and rows are
//! read again by the next sync.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::deletion::Relation;
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Error, ErrorKind, Op, Output, Plan, Result, State,
    Table, TableName,
};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use super::pace::Pace;
use super::tables::Listed;
use super::{SAID_CHARACTERS, Session, SourcePlugin};
use crate::proto::plugin::sync;
use crate::proto::plugin::sync::response::Message;
use crate::proxy::{StateRows, received};
use crate::wire::{Coalesced, Coalescer, Decoded, Decoder, decode_table, from_sync};

/// How often a read that waits for the plugin looks whether it has to stop.
const LOOK: Duration = Duration::from_millis(100);
/// After so many looks without a message the rows gathered so far are passed on.
const IDLE_LOOKS: u32 = 20;

/// The table of an error that names none.
const NO_NAME: &str = "(no table)";

/// The state of a read.
pub(super) struct Reading<'a> {
    source: &'a SourcePlugin,
    session: &'a Session,
    listed: &'a Listed,
    plan: &'a Plan,
    output: &'a Output,
    decoder: Decoder,
    coalescer: Coalescer,
    lanes: HashMap<TableName, Lane>,
    /// The tables of which it was said that they failed.
    told: BTreeSet<TableName>,
    /// The cursors that came on the stream and were not sent on yet.
    pace: Pace,
    /// The first reason why no cursor may move.
    doubt: Option<String>,
}

/// What becomes of the rows of a table.
enum Lane {
    /// They are sent: the planned table, the last description that came with rows, and where the
    /// planned columns are in it.
    Open { planned: Arc<Table>, sent: Arc<Table>, columns: Vec<usize> },
    /// No destination plans the table.
    Unplanned,
    /// The table has failed here; so many rows were dropped, and deletions of rows not done.
    Closed { dropped: u64, kept: u64 },
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        source: &'a SourcePlugin,
        session: &'a Session,
        listed: &'a Listed,
        plan: &'a Plan,
        output: &'a Output,
    ) -> Self {
        Self {
            source,
            session,
            listed,
            plan,
            output,
            decoder: Decoder::new(),
            coalescer: Coalescer::default(),
            lanes: HashMap::new(),
            told: BTreeSet::new(),
            pace: Pace::default(),
            doubt: None,
        }
    }

    /// Reads the stream to its end.
    pub(super) async fn run(mut self, state: &State) -> Result<Completion> {
        if let Some(proxy) = &self.session.proxy {
            proxy.server.begin(committed(state)?);
        }
        let plugin = &self.session.plugin;
        let stream = tokio::select! {
            stream = async { plugin.client().sync(self.request()).await } => stream,
            () = stopping(self.output) => return Ok(Completion::Stopped),
        };
        let mut stream = stream.map_err(|s| plugin.explain(s))?.into_inner();
        crash::at(CrashPoint::ReadSnapshot);
        let mut clock = interval(LOOK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = 0_u32;
        loop {
            let message = tokio::select! {
                biased;
                message = stream.message() => message.map_err(|s| plugin.explain(s))?,
                _ = clock.tick() => {
                    if self.output.is_stopping() {
                        return Ok(Completion::Stopped);
                    }
                    idle += 1;
                    if idle == IDLE_LOOKS {
                        self.flush().await?;
                    }
                    if idle >= IDLE_LOOKS {
                        self.move_on().await?;
                    }
                    continue;
                }
            };
            let Some(message) = message else { break };
            if self.output.is_stopping() {
                return Ok(Completion::Stopped);
            }
            idle = 0;
            self.message(message).await?;
        }
        self.end().await
    }

    fn request(&self) -> sync::Request {
        let config = &self.source.config;
        let backend = self.session.proxy.as_ref().zip(config.state_table.as_ref());
        sync::Request {
            tables: config.tables.clone(),
            skip_tables: config.skip_tables.clone(),
            skip_dependent_tables: config.skip_dependent_tables,
            deterministic_cq_id: config.deterministic_cq_id,
            backend: backend.map(|(proxy, table)| sync::BackendOptions {
                table_name: table.clone(),
                connection: proxy.connection.clone(),
            }),
            shard: config.shard.map(|(num, total)| sync::request::Shard { num, total }),
            with_error_messages: true,
            supports_checkpoints: backend.is_some(),
        }
    }

    async fn message(&mut self, response: sync::Response) -> Result<()> {
        match response.message {
            Some(Message::Insert(insert)) => self.insert(&insert.record).await,
            Some(Message::MigrateTable(migrate)) => self.announced(&migrate.table).await,
            Some(Message::DeleteRecord(delete)) => self.delete(&delete).await,
            Some(Message::Error(error)) => {
                let words = self.session.plugin.said(&error.error, SAID_CHARACTERS);
                let name = Some(error.table_name).filter(|name| !name.is_empty());
                let table = TableName::new(name.unwrap_or_else(|| NO_NAME.to_owned()));
                let error = Error::data(format!("The plugin could not read a table: {words}"));
                self.failed(&table, error).await?;
                if !self.listed.is_known(&table) {
                    self.failed_all(&table).await?;
                }
                Ok(())
            }
            Some(Message::Checkpoint(checkpoint)) => self.checkpoint(&checkpoint.record).await,
            // A newer protocol's message.
            None => Ok(()),
        }
    }

    /// A table as the plugin is going to send it. It may come several times.
    async fn announced(&mut self, bytes: &[u8]) -> Result<()> {
        let checked = decode_table(bytes).and_then(|table| {
            let checked = self.listed.check(&table);
            checked.map(|()| table)
        });
        match checked {
            Ok(_) => Ok(()),
            Err(error) => self.unusable(error).await,
        }
    }

    async fn insert(&mut self, record: &Bytes) -> Result<()> {
        let Decoded { table, batches } = match self.decoder.decode(record) {
            Ok(decoded) => decoded,
            Err(error) => return self.unusable(error).await,
        };
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(());
        }
        if let Err(error) = self.open(&table) {
            self.close(&table.name, error).await?;
        }
        for batch in batches {
            let Some(lane) = self.lanes.get_mut(&table.name) else { continue };
            let (planned, columns) = match lane {
                Lane::Open { planned, columns, .. } => (planned, columns),
                Lane::Unplanned => {
                    self.doubt_unplanned(&table.name);
                    continue;
                }
                Lane::Closed { dropped, .. } => {
                    *dropped += batch.num_rows() as u64;
                    continue;
                }
            };
            let rows = batch.num_rows() as u64;
            let shaped = project(&batch, planned, columns);
            match shaped.and_then(|rows| self.coalescer.push(planned, rows)) {
                Ok(ready) => self.send(ready).await?,
                Err(error) => {
                    self.close(&table.name, error).await?;
                    if let Some(Lane::Closed { dropped, .. }) = self.lanes.get_mut(&table.name) {
                        *dropped += rows;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes sure that there is a lane for the rows of a table as it came.
    fn open(&mut self, sent: &Arc<Table>) -> Result<()> {
        match self.lanes.get(&sent.name) {
            Some(Lane::Open { sent: before, .. }) if Arc::ptr_eq(before, sent) => return Ok(()),
            Some(Lane::Unplanned | Lane::Closed { .. }) => return Ok(()),
            _ => {}
        }
        let lane = match self.plan.tables.get(&sent.name) {
            None if self.listed.get(&sent.name).is_some() => Lane::Unplanned,
            None => return self.listed.check(sent),
            Some(table) => {
                let planned = Arc::clone(&table.source);
                let columns = self.listed.columns(sent, &planned)?;
                Lane::Open { planned, sent: Arc::clone(sent), columns }
            }
        };
        self.lanes.insert(sent.name.clone(), lane);
        Ok(())
    }

    async fn delete(&mut self, message: &sync::MessageDeleteRecord) -> Result<()> {
        let mut deletion = match from_sync(message) {
            Ok(deletion) => deletion,
            Err(error) => return self.unusable(error).await,
        };
        let name = &deletion.table;
        if self.listed.get(name).is_none() {
            let error = Error::schema("The plugin deletes rows of a table that it did not list");
            return self.failed(name, error.context("table", name)).await;
        }
        if !self.plan.tables.contains_key(name) {
            self.doubt_unplanned(name);
            return Ok(());
        }
        // What would take the place of the rows is dropped.
        if let Some(Lane::Closed { kept, .. }) = self.lanes.get_mut(name) {
            *kept += 1;
            return Ok(());
        }
        self.keep_closed(&mut deletion.relations);
        // It acts on everything sent before it.
        self.flush().await?;
        self.output.delete(deletion).await
    }

    /// Takes closed tables out of what a deletion takes along, and what depends on their rows.
    fn keep_closed(&mut self, relations: &mut Vec<Relation>) {
        let mut out = BTreeSet::new();
        // Parents come first.
        relations.retain(|relation| {
            let lane = self.lanes.get_mut(&relation.table);
            if let Some(Lane::Closed { kept, .. }) = lane {
                *kept += 1;
            } else if !out.contains(&relation.parent) {
                return true;
            }
            out.insert(relation.table.clone());
            false
        });
    }

    /// Rows of the state table that cover everything sent before them.
    async fn checkpoint(&mut self, record: &Bytes) -> Result<()> {
        let Some(proxy) = &self.session.proxy else {
            tracing::debug!("a plugin sent a cursor that nobody asked for");
            return Ok(());
        };
        // Not with the decoder of the rows: it is another table, and may have any name.
        let decoded = Decoder::new().decode(record);
        let rows = decoded.and_then(|decoded| {
            let rows = decoded.batches.iter().map(received);
            Ok(rows.collect::<Result<Vec<_>>>()?.concat())
        });
        let rows = rows.map_err(|e| e.context("plugin", self.session.plugin.name()))?;
        let changed = proxy.server.hold(rows);
        crash::at(CrashPoint::PluginFlushed);
        if self.doubt.is_none() {
            self.pace.add(changed);
        }
        self.move_on().await
    }

    /// Sends on the cursors that came on the stream, if it is time. Only where the plugin sends
    /// one or is silent: elsewhere the commit could part rows from what they take the place of.
    async fn move_on(&mut self) -> Result<()> {
        let Some(proxy) = &self.session.proxy else { return Ok(()) };
        if self.doubt.is_some() {
            return Ok(());
        }
        let Some(rows) = self.pace.due() else { return Ok(()) };
        self.flush().await?;
        self.output.checkpoint(cursor(&rows)?).await?;
        proxy.server.settle(&rows);
        Ok(())
    }

    /// The stream has ended without an error.
    async fn end(mut self) -> Result<Completion> {
        self.flush().await?;
        self.warn();
        crash::at(CrashPoint::PluginEnded);
        let Some(proxy) = &self.session.proxy else { return Ok(Completion::Complete) };
        let held = proxy.server.held();
        match &self.doubt {
            None if held.rows.is_empty() => {
                self.output.checkpoint(Checkpoint::default()).await?;
            }
            None => {
                self.output.checkpoint(cursor(&held)?).await?;
                proxy.server.settle(&held);
            }
            Some(reason) if !held.rows.is_empty() => tracing::warn!(
                plugin = self.session.plugin.name(),
                reason,
                "the position of the plugin stays where it was; rows are read again by the next sync"
            ),
            Some(_) => {}
        }
        Ok(Completion::Complete)
    }

    fn warn(&self) {
        let plugin = self.session.plugin.name();
        for (table, count) in self.source.table_errors() {
            if count > 1 {
                tracing::warn!(plugin, %table, errors = count, "a table failed more than once");
            }
        }
        for (table, lane) in &self.lanes {
            let Lane::Closed { dropped: rows, kept: deletions } = lane else { continue };
            if *rows > 0 {
                tracing::warn!(plugin, %table, rows, "rows of a table that failed were dropped");
            }
            if *deletions > 0 {
                tracing::warn!(plugin, %table, deletions, "a table that failed keeps its rows");
            }
        }
    }

    /// Passes on everything that was gathered.
    async fn flush(&mut self) -> Result<()> {
        let ready = self.coalescer.flush()?;
        self.send(ready).await
    }

    async fn send(&self, ready: Vec<Coalesced>) -> Result<()> {
        for Coalesced { table, rows } in ready {
            self.output.batch(Batch { table, op: Op::Upsert, rows }).await?;
            crash::at(CrashPoint::ReadBatch);
        }
        Ok(())
    }

    /// What a message of the plugin says cannot be used: its table fails if it says which it is.
    /// If not, nobody knows what is missing.
    async fn unusable(&mut self, error: Error) -> Result<()> {
        match error.context_value("table").map(TableName::new) {
            Some(table) => self.close(&table, error).await,
            None => Err(error.context("plugin", self.session.plugin.name())),
        }
    }

    /// The table fails, and its rows are dropped from now on.
    async fn close(&mut self, table: &TableName, error: Error) -> Result<()> {
        if let Some(Lane::Closed { .. }) = self.lanes.get(table) {
            return Ok(());
        }
        self.lanes.insert(table.clone(), Lane::Closed { dropped: 0, kept: 0 });
        self.failed(table, error).await
    }

    /// The table could not be read completely, and neither could those that depend on it: their
    /// rows come with its rows.
    async fn failed(&mut self, table: &TableName, error: Error) -> Result<()> {
        if self.listed.may_be_covered(table) {
            self.doubt.get_or_insert_with(|| format!("the table `{table}` failed"));
        }
        self.source.count_error(table);
        if !self.tell(table, error).await? {
            // It was told of those that depend on it, too.
            return Ok(());
        }
        let listed = self.listed;
        for child in listed.dependents(table) {
            if self.plan.tables.contains_key(child) {
                let error =
                    Error::data("The table that it depends on could not be read completely")
                        .context("table", child)
                        .context("parent", table);
                self.tell(child, error).await?;
            }
        }
        Ok(())
    }

    /// Nobody knows which table an error is of, so none may be taken for complete.
    async fn failed_all(&mut self, named: &TableName) -> Result<()> {
        let plan = self.plan;
        for table in plan.tables.keys() {
            let error = Error::data(
                "The plugin reported an error of a table that it did not list, so nobody can tell \
                 what is missing",
            );
            let error = error.context("table", table).context("named", named);
            self.tell(table, error).await?;
        }
        Ok(())
    }

    /// Sends on why a table failed, if that is the first reason, and says whether it was.
    async fn tell(&mut self, table: &TableName, error: Error) -> Result<bool> {
        if self.told.insert(table.clone()) {
            self.output.failed(table.clone(), error).await?;
            return Ok(true);
        }
        tracing::debug!(error = %error.full_message(), "a table failed again");
        Ok(false)
    }

    fn doubt_unplanned(&mut self, table: &TableName) {
        if self.listed.is_covered(table) {
            self.doubt
                .get_or_insert_with(|| format!("rows of the table `{table}` go to no destination"));
        }
    }
}

/// Resolves when the run was asked to stop.
async fn stopping(output: &Output) {
    while !output.is_stopping() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The content of the state table at the beginning of the run.
fn committed(state: &State) -> Result<StateRows> {
    match state.cursors.get(&CursorKey::Global).map(|cursor| &cursor.0) {
        None | Some(Value::Null) => Ok(StateRows::default()),
        Some(value) => serde_json::from_value(value.clone()).map_err(|e| {
            Error::new(ErrorKind::Internal, "The position of a plugin cannot be read").caused_by(e)
        }),
    }
}

fn cursor(rows: &StateRows) -> Result<Checkpoint> {
    let value = serde_json::to_value(rows);
    let value = value.map_err(|e| Error::internal("State rows are no JSON").caused_by(e))?;
    Ok(Checkpoint::of(CursorKey::Global, value))
}

/// The planned columns of the rows.
fn project(rows: &RecordBatch, planned: &Table, columns: &[usize]) -> Result<RecordBatch> {
    let fields = planned.schema.fields().iter();
    let arrays = fields.zip(columns).map(|(field, &at)| {
        let array = rows.column(at);
        if array.data_type() == field.data_type() {
            return Ok(Arc::clone(array));
        }
        // Nested items may have other metadata in each message.
        Ok(arrow_cast::cast(array, field.data_type())?)
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new_with_options(Arc::clone(&planned.schema), arrays, &options).map_err(|e| {
        Error::data("Rows do not fit the columns of their table")
            .context("table", &planned.name)
            .caused_by(e)
    })
}
