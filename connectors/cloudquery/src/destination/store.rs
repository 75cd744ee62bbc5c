//! Cursors of our own sources, kept as rows of the table [`TABLE`] at the plugin.
//!
//! It is as good as the protocol allows. There is no compare-and-set: the lease and the fence are
//! checked by reading the table before and, for the lease, after writing it, so two runs that begin
//! in the same moment on two machines are told apart, and a run that was overtaken notices it at
//! its next commit; between that look and its own write it can still do harm. And there is no
//! transaction: cursors are written once the rows they cover are written, so a crash in between
//! repeats rows.
//!
//! A plugin that cannot be read back has no memory: then a full refresh works as ever, and a sync
//! that has a cursor to save is refused. No row is written into such a plugin.
//!
//! What a run notes of the tables that it writes itself goes out with the next cursor or at the end
//! of the run, not for each table: it costs a stream each time, and only people read it.

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Checkpoint, Cursor, CursorKey, Error, ErrorKind, Fence, Instant, Lease, LeaseRequest, Plan,
    Result, State, StateStore, TableName, TablePlan, TableRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use super::connection::Connection;
use super::reading::{KEEP_ELSEWHERE, Reading};
use super::stream::WriteStream;
use super::tables::{Migrated, Migration, send_all};
use crate::proto::plugin::write;
use crate::proto::plugin::write::request::Message;
use crate::wire::{Encoder, INSERT_BYTES_MAX, encode_table};
pub use rows::TABLE;
use rows::{Change, Key, Rows};

/// A sign of life costs a read and a write; two within the life of a lease are enough.
const RENEWAL_MICROS: u64 = 12_000_000;

/// The store. Nothing is asked of the plugin before it is used.
#[derive(Debug)]
pub(super) struct PluginStore {
    connection: Arc<Connection>,
    migrated: Arc<Migrated>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The table as it was when it was last read or written.
    rows: Rows,
    /// Why nothing can be remembered here.
    no_memory: Option<String>,
    /// The syncs whose lease this run has.
    holds: BTreeMap<String, Hold>,
}

#[derive(Debug)]
struct Hold {
    row: LeaseRow,
    /// Notes that are written with the next cursor or at the end.
    pending: BTreeMap<Key, Value>,
}

/// The row of a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRow {
    epoch: u64,
    /// Tells runs apart that read the same epoch.
    run: String,
    lease: Lease,
}

impl PluginStore {
    pub(super) fn new(connection: &Arc<Connection>, migrated: &Arc<Migrated>) -> Self {
        Self {
            connection: Arc::clone(connection),
            migrated: Arc::clone(migrated),
            inner: Mutex::default(),
        }
    }

    /// Whether this run still has the right to commit. Always where nothing is remembered.
    ///
    /// # Errors
    /// `Fenced` when a newer run has taken over.
    pub(super) async fn check(&self, fence: &Fence) -> Result<()> {
        self.checked(&mut *self.inner.lock().await, fence).await
    }

    /// # Errors
    /// `Unsupported` where cursors cannot be kept.
    pub(super) async fn require_memory(&self) -> Result<()> {
        match &self.inner.lock().await.no_memory {
            Some(reason) => Err(no_memory(reason)),
            None => Ok(()),
        }
    }

    /// Saves cursors whose rows are durable, with what was written of their tables.
    ///
    /// # Errors
    /// As [`StateStore::save`].
    pub(super) async fn save_with(
        &self,
        fence: &Fence,
        checkpoint: &Checkpoint,
        tables: impl Iterator<Item = (&TablePlan, u64)>,
    ) -> Result<()> {
        {
            let mut inner = self.inner.lock().await;
            for (table, written) in tables {
                let mut record = inner.record(&fence.sync, table.name());
                record.columns = table.target.column_names().map(str::to_owned).collect();
                record.rows_total += written;
                inner.note(fence, table.name(), &record)?;
            }
        }
        if checkpoint.cursors.is_empty() {
            return Ok(());
        }
        crash::at(CrashPoint::StateSave);
        self.save(fence, checkpoint).await?;
        crash::at(CrashPoint::StateSaved);
        Ok(())
    }

    /// Notes that a table is complete.
    pub(super) async fn finished(
        &self,
        fence: &Fence,
        plan: &Plan,
        table: &TablePlan,
    ) -> Result<()> {
        let mut inner = self.inner.lock().await;
        let record = TableRecord {
            columns: table.target.column_names().map(str::to_owned).collect(),
            finished_epoch: Some(fence.epoch),
            finished_at: Some(plan.started_at),
            ..inner.record(&fence.sync, table.name())
        };
        inner.note(fence, table.name(), &record)
    }

    /// Reads the table; with `prepare` it is made first, where it is not there: plugins log an
    /// error when they are asked for a table that they do not have. Afterwards `no_memory` says
    /// whether that went well.
    ///
    /// # Errors
    /// What says nothing about whether the plugin can be read: it is out of reach, it died.
    async fn load(&self, inner: &mut Inner, prepare: bool) -> Result<()> {
        self.connection.ready().await?;
        let made = if prepare { self.write(&mut inner.rows, Vec::new()).await } else { Ok(()) };
        if let Err(error) = &made
            && error.kind() == ErrorKind::Transient
        {
            return made;
        }
        // Where it may not be made it may be there all the same.
        let result = self.read_rows().await.map_err(|error| match made {
            Err(first) if error.kind() != ErrorKind::Transient => first,
            _ => error,
        });
        inner.no_memory = match result {
            Ok(rows) => {
                inner.rows = rows;
                None
            }
            Err(error) if error.kind() == ErrorKind::Transient => return Err(error),
            Err(error) => Some(error.full_message()),
        };
        Ok(())
    }

    async fn read_rows(&self) -> Result<Rows> {
        let mut rows = Rows::default();
        if let Some(mut reading) = Reading::open(&self.connection, &rows::table()).await? {
            while let Some(batches) = reading.next().await? {
                for batch in &batches {
                    rows.take(batch)?;
                }
            }
        }
        Ok(rows)
    }

    /// Writes what differs from what is there, and the table itself if this run has not yet.
    async fn write(&self, rows: &mut Rows, changes: Vec<Change>) -> Result<()> {
        let table = Arc::new(rows::table());
        let migration = Migration { table: encode_table(&table)?, force: false };
        let migrations = self.migrated.left([&migration]);
        let changed = rows.changed(changes);
        if changed.is_empty() && migrations.is_empty() {
            return Ok(());
        }
        let mut stream = WriteStream::open(&self.connection).await?;
        send_all(&mut stream, &migrations).await?;
        for record in Encoder::new(&table, INSERT_BYTES_MAX)?.encode(&changed.to_batch()?)? {
            stream.send(Message::Insert(write::MessageInsert { record })).await?;
        }
        stream.close().await?;
        self.migrated.add(migrations);
        rows.merge(changed);
        Ok(())
    }

    async fn checked(&self, inner: &mut Inner, fence: &Fence) -> Result<()> {
        if inner.no_memory.is_some() {
            return Ok(());
        }
        inner.rows = self.read_rows().await?;
        inner.still_holds(fence)
    }

    /// Checks the fence, then writes the changes and what was noted before.
    async fn save_all(
        &self,
        fence: &Fence,
        change: impl FnOnce(&mut Hold) -> Result<Vec<Change>> + Send,
    ) -> Result<()> {
        let mut inner = self.inner.lock().await;
        self.checked(&mut inner, fence).await?;
        let Inner { rows, holds, .. } = &mut *inner;
        let hold = holds.get_mut(&fence.sync).ok_or_else(|| overtaken(fence))?;
        let mut changes = change(hold)?;
        changes.extend(hold.pending.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        self.write(rows, changes).await?;
        hold.pending.clear();
        Ok(())
    }
}

impl Inner {
    fn lease_row(&self, sync: &str) -> Result<Option<LeaseRow>> {
        let Some(value) = self.rows.value(&Key::lease(sync)) else { return Ok(None) };
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|e| unreadable("the lease", sync).caused_by(e))
    }

    fn still_holds(&self, fence: &Fence) -> Result<()> {
        let row = self.lease_row(&fence.sync)?;
        let hold = self.holds.get(&fence.sync);
        match (row, hold) {
            (Some(row), Some(hold)) if row.run == hold.row.run && row.epoch == fence.epoch => {
                Ok(())
            }
            _ => Err(overtaken(fence)),
        }
    }

    /// What is known of a table.
    fn record(&self, sync: &str, table: &TableName) -> TableRecord {
        let key = Key::table(sync, table);
        let pending = self.holds.get(sync).and_then(|hold| hold.pending.get(&key));
        let value = pending.or_else(|| self.rows.value(&key));
        value.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
    }

    fn note(&mut self, fence: &Fence, table: &TableName, record: &TableRecord) -> Result<()> {
        let value = serde_json::to_value(record)
            .map_err(|e| Error::internal("A record is no JSON").caused_by(e))?;
        if let Some(hold) = self.holds.get_mut(&fence.sync) {
            hold.pending.insert(Key::table(&fence.sync, table), value);
        }
        Ok(())
    }

    fn state(&self, sync: &str) -> Result<State> {
        let mut state =
            State { lease: self.lease_row(sync)?.map(|row| row.lease), ..State::default() };
        for (key, value) in self.rows.of(sync) {
            if let Some(key) = key.cursor() {
                state.cursors.insert(key, Cursor(value.clone()));
            } else if let Some(table) = key.record() {
                let record = serde_json::from_value(value.clone())
                    .map_err(|e| unreadable("the record of a table", sync).caused_by(e))?;
                state.tables.insert(table, record);
            }
        }
        Ok(state)
    }
}

fn overtaken(fence: &Fence) -> Error {
    Error::fenced("A newer run of this sync has taken over").context("sync", &fence.sync)
}

fn unreadable(what: &str, sync: &str) -> Error {
    Error::data(format!("A row of `{TABLE}` cannot be read: {what}")).context("sync", sync)
}

fn no_memory(reason: &str) -> Error {
    Error::unsupported(format!("The plugin cannot keep cursors: {reason}")).hint(KEEP_ELSEWHERE)
}

fn json(row: &LeaseRow) -> Result<Value> {
    serde_json::to_value(row).map_err(|e| Error::internal("A lease is no JSON").caused_by(e))
}

#[async_trait]
impl StateStore for PluginStore {
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State> {
        let mut inner = self.inner.lock().await;
        self.load(&mut inner, true).await?;
        let fence = |epoch| Some(Fence { sync: sync.to_owned(), epoch });
        if let Some(reason) = &inner.no_memory {
            tracing::info!(reason, "The plugin keeps no cursors; tables are read completely");
            return Ok(State { fence: fence(1), ..State::default() });
        }
        let before = inner.lease_row(sync)?;
        let now = Instant::now();
        request.may_take(sync, before.as_ref().map(|row| &row.lease), now)?;
        let row = LeaseRow {
            epoch: before.map_or(0, |row| row.epoch) + 1,
            run: uuid::Uuid::new_v4().to_string(),
            lease: Lease { owner: request.owner.clone(), renewed_at: now, released: false },
        };
        let fence = fence(row.epoch);
        self.write(&mut inner.rows, vec![(Key::lease(sync), Some(json(&row)?))]).await?;
        // Somebody who did the same in this moment has written last, or we have.
        inner.rows = self.read_rows().await?;
        inner.holds.insert(sync.to_owned(), Hold { row, pending: BTreeMap::new() });
        let held = fence.as_ref().map_or(Ok(()), |fence| inner.still_holds(fence));
        if let Err(error) = held {
            inner.holds.remove(sync);
            return Err(error);
        }
        Ok(State { fence, ..inner.state(sync)? })
    }

    async fn renew(&self, fence: &Fence) -> Result<()> {
        let mut inner = self.inner.lock().await;
        let now = Instant::now();
        let Some(hold) = inner.holds.get_mut(&fence.sync) else { return Ok(()) };
        if now.micros_since(hold.row.lease.renewed_at) < RENEWAL_MICROS {
            return Ok(());
        }
        self.checked(&mut inner, fence).await?;
        let Inner { rows, holds, .. } = &mut *inner;
        let hold = holds.get_mut(&fence.sync).ok_or_else(|| overtaken(fence))?;
        hold.row.lease.renewed_at = now;
        let row = json(&hold.row)?;
        self.write(rows, vec![(Key::lease(&fence.sync), Some(row))]).await
    }

    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        if checkpoint.cursors.is_empty() {
            return Ok(());
        }
        self.require_memory().await?;
        let cursors = checkpoint.cursors.iter();
        let cursors: Vec<_> =
            cursors.map(|(key, c)| (Key::of_cursor(&fence.sync, key), Some(c.0.clone()))).collect();
        self.save_all(fence, |_| Ok(cursors)).await
    }

    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()> {
        {
            let mut inner = self.inner.lock().await;
            if inner.no_memory.is_some() {
                return Ok(());
            }
            inner.note(fence, table, record)?;
        }
        self.save_all(fence, |_| Ok(Vec::new())).await
    }

    async fn release(&self, fence: &Fence) -> Result<()> {
        if !self.inner.lock().await.holds.contains_key(&fence.sync) {
            return Ok(());
        }
        let released = self.save_all(fence, |hold| {
            hold.row.lease.released = true;
            hold.row.lease.renewed_at = Instant::now();
            json(&hold.row).map(|row| vec![(Key::lease(&fence.sync), Some(row))])
        });
        let released = released.await;
        self.inner.lock().await.holds.remove(&fence.sync);
        released
    }

    async fn look(&self, sync: &str) -> Result<State> {
        let mut inner = self.inner.lock().await;
        self.load(&mut inner, false).await?;
        if inner.no_memory.is_some() { Ok(State::default()) } else { inner.state(sync) }
    }

    async fn list(&self) -> Result<Vec<String>> {
        let mut inner = self.inner.lock().await;
        self.load(&mut inner, false).await?;
        Ok(if inner.no_memory.is_some() { Vec::new() } else { inner.rows.syncs() })
    }

    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()> {
        self.require_memory().await?;
        let value = cursor.map(|cursor| cursor.0.clone());
        let mut changes = vec![(Key::of_cursor(&fence.sync, key), value)];
        let record = key.table().map(|table| Key::table(&fence.sync, table));
        let forgotten = record.filter(|_| cursor.is_none());
        changes.extend(forgotten.clone().map(|record| (record, None)));
        self.save_all(fence, |hold| {
            forgotten.map(|record| hold.pending.remove(&record));
            Ok(changes)
        })
        .await
    }
}
