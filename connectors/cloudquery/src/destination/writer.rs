//! Writes one partition: rows go out as they come, a commit is the plugin's answer to the end of
//! its stream, and cursors follow in a stream of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::deletion::{Equal, Group};
use highwater_core::{
    Batch, Checkpoint, Committed, CommittedTables, Deletion, Error, Fence, Op, Partition, Plan,
    Result, TableName, TablePlan, WriteMode, Writer,
};

use super::Shared;
use super::stream::WriteStream;
use super::tables::{Migration, parents_first, send_all, wire_deletion, wire_table};
use crate::proto::plugin::write;
use crate::proto::plugin::write::request::Message;
use crate::wire::{Encoder, INSERT_BYTES_MAX, to_write};

/// Rows that one deletion by their key names: more would make a statement that is too long.
const KEYS_AT_ONCE: usize = 100;

pub(super) struct PluginWriter {
    shared: Arc<Shared>,
    plan: Plan,
    fence: Fence,
    tables: BTreeMap<TableName, Slot>,
    /// Of the tables with data, parents first.
    migrations: Vec<Migration>,
    /// Of the table with cursors.
    state_migrations: Vec<Migration>,
    data: Option<Open>,
    /// Cursors that go out after the data, as inserts.
    held: Vec<Bytes>,
    written: CommittedTables,
}

struct Slot {
    plan: TablePlan,
    encoder: Encoder,
}

/// A stream, and the migrations that were sent in it.
struct Open {
    stream: WriteStream,
    migrations: Vec<Migration>,
}

impl PluginWriter {
    /// # Errors
    /// `Unsupported` for a column that cannot be carried.
    pub(super) fn new(
        shared: &Arc<Shared>,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Self> {
        let planned = partition.tables.iter().filter_map(|name| plan.tables.get(name));
        let (mut tables, mut migrations, mut state_migrations) =
            (BTreeMap::new(), Vec::new(), Vec::new());
        for table in parents_first(planned) {
            let migration = Migration::of(plan, table)?;
            if table.is_state { &mut state_migrations } else { &mut migrations }.extend(migration);
            let encoder = Encoder::new(&Arc::new(wire_table(plan, table)), INSERT_BYTES_MAX)?;
            tables.insert(table.name().clone(), Slot { plan: table.clone(), encoder });
        }
        Ok(Self {
            shared: Arc::clone(shared),
            plan: plan.clone(),
            fence: fence.clone(),
            tables,
            migrations,
            state_migrations,
            data: None,
            held: Vec::new(),
            written: CommittedTables::new(),
        })
    }

    /// The stream for rows, opened with the tables that they need.
    async fn data(&mut self) -> Result<&mut WriteStream> {
        if self.data.is_none() {
            self.data = Some(open(&self.shared, &self.migrations).await?);
        }
        match &mut self.data {
            Some(open) => Ok(&mut open.stream),
            None => Err(Error::internal("A stream that was just opened is gone")),
        }
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        let sent = self.data().await?.send(message).await;
        if sent.is_err() {
            self.data = None;
        }
        sent
    }

    async fn delete_keys(&mut self, name: &TableName, rows: &RecordBatch) -> Result<()> {
        let Some(slot) = self.tables.get(name) else { return Err(not_planned(name)) };
        for deletion in by_key(&slot.plan, rows)? {
            self.send(Message::DeleteRecord(to_write(&deletion)?)).await?;
        }
        Ok(())
    }

    /// Ends the stream with the rows, if there is one or a table has still to be made.
    async fn close_data(&mut self) -> Result<()> {
        if self.data.is_none() && self.shared.migrated.left(&self.migrations).is_empty() {
            return Ok(());
        }
        self.data().await?;
        if let Some(data) = self.data.take() {
            close(&self.shared, data).await?;
            crash::at(CrashPoint::PluginWriteClosed);
        }
        Ok(())
    }

    /// Sends the cursors that the source keeps in a table. Only after the rows that they cover.
    async fn write_held(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let mut state = open(&self.shared, &self.state_migrations).await?;
        for record in self.held.drain(..) {
            state.stream.send(Message::Insert(write::MessageInsert { record })).await?;
        }
        close(&self.shared, state).await
    }
}

async fn open(shared: &Shared, migrations: &[Migration]) -> Result<Open> {
    let migrations = shared.migrated.left(migrations);
    let mut stream = WriteStream::open(&shared.connection).await?;
    send_all(&mut stream, &migrations).await?;
    Ok(Open { stream, migrations })
}

async fn close(shared: &Shared, open: Open) -> Result<()> {
    open.stream.close().await?;
    shared.migrated.add(open.migrations);
    Ok(())
}

fn not_planned(table: &TableName) -> Error {
    Error::internal("Rows of a table that is not planned").context("table", table)
}

/// Deletions of the rows with these keys.
fn by_key(plan: &TablePlan, rows: &RecordBatch) -> Result<Vec<Deletion>> {
    let target = &plan.target;
    let keyed = matches!(plan.write_mode, WriteMode::Overwrite | WriteMode::OverwriteDeleteStale);
    if !keyed || target.primary_key.is_empty() {
        return Err(Error::unsupported("Rows cannot be removed where rows have no key")
            .context("table", plan.name())
            .context("write mode", plan.write_mode));
    }
    let value = |column: &str, row: usize| {
        let at = rows.schema_ref().index_of(column)?;
        let field = rows.schema_ref().field(at).clone();
        let value = rows.column(at).slice(row, 1);
        Ok(Equal { column: column.to_owned(), field, value })
    };
    let deletion =
        |group| Deletion { table: target.name.clone(), groups: vec![group], relations: Vec::new() };
    let all: Vec<usize> = (0..rows.num_rows()).collect();
    let groups: Vec<Result<Group>> = match &target.primary_key[..] {
        [only] => all
            .chunks(KEYS_AT_ONCE)
            .map(|some| {
                let equal = some.iter().map(|&row| value(only, row)).collect::<Result<_>>()?;
                Ok(Group { any: true, equal })
            })
            .collect(),
        key => all
            .iter()
            .map(|&row| {
                let equal = key.iter().map(|column| value(column, row)).collect::<Result<_>>()?;
                Ok(Group { any: false, equal })
            })
            .collect(),
    };
    groups.into_iter().map(|group| group.map(deletion)).collect()
}

#[async_trait]
impl Writer for PluginWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let name = &batch.table.name;
        if batch.op == Op::Delete {
            self.delete_keys(name, &batch.rows).await?;
            self.written.entry(name.clone()).or_default().deleted += batch.rows.num_rows() as u64;
            return Ok(());
        }
        let Some(slot) = self.tables.get_mut(name) else { return Err(not_planned(name)) };
        let records = slot.encoder.encode(&batch.rows)?;
        if slot.plan.is_state {
            self.held.extend(records);
            return Ok(());
        }
        for record in records {
            self.send(Message::Insert(write::MessageInsert { record })).await?;
        }
        let written = Committed { written: batch.rows.num_rows() as u64, ..Committed::default() };
        *self.written.entry(name.clone()).or_default() += written;
        crash::at(CrashPoint::StageBatch);
        Ok(())
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        let message = to_write(&wire_deletion(&self.plan, deletion))?;
        self.send(Message::DeleteRecord(message)).await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        crash::at(CrashPoint::StageRows);
        if self.plan.state_with_data {
            self.shared.store.check(&self.fence).await?;
        }
        self.close_data().await?;
        self.write_held().await?;
        if self.plan.state_with_data {
            let tables = self.tables.values().map(|slot| &slot.plan).filter(|t| !t.is_state);
            let written =
                |table: &TablePlan| self.written.get(table.name()).map_or(0, |c| c.written);
            let tables = tables.map(|table| (table, written(table)));
            self.shared.store.save_with(&self.fence, checkpoint, tables).await?;
        }
        crash::at(CrashPoint::CommitDone);
        Ok(std::mem::take(&mut self.written))
    }
}
