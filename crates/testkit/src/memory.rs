//! A destination in memory that keeps every promise of the contracts, in the plainest way: the
//! model against which the suites themselves are tested, and the one whose operations can be made
//! to fail at will in tests of the engine.

mod faults;
mod keys;
mod merge;
mod rebuild;
mod removal;
mod store;
mod tables;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::Field;
use async_trait::async_trait;
use highwater_core::{
    Batch, Capabilities, Checkpoint, Committed, CommittedTables, Deletion, Destination,
    DestinationDelivery, Error, ExistingTable, Fence, KeyDigests, KeyTable, LogicalType, Op,
    Output, Partition, Plan, Result, SchemaChange, StateStore, Table, TableName, TablePlan,
    WriteMode, Writer, text,
};

use faults::Faults;
pub use faults::{Fault, Operation};
pub use keys::Keys;
use tables::Contents;

use crate::scripted::Journal;

/// A system in memory. Clones share it: each is a new run over the same system.
#[derive(Debug, Clone)]
pub struct Memory {
    name: Arc<str>,
    contents: Arc<Mutex<Contents>>,
    faults: Faults,
    journal: Journal,
}

impl Memory {
    /// An empty system; `name` stands in the lines of the journal.
    pub fn new(name: &str, journal: Journal) -> Self {
        Self { name: name.into(), contents: Arc::default(), faults: Faults::default(), journal }
    }

    /// Lets the `nth` (from 1) of the next such operations go wrong.
    pub fn fail(&self, operation: Operation, nth: u64, fault: Fault) {
        self.faults.inject(operation, nth, fault);
    }

    /// What a reader sees of a table; `None` when it is not there.
    pub fn rows(&self, table: &TableName) -> Option<Vec<RecordBatch>> {
        let contents = self.contents();
        contents.tables.get(table).map(tables::Stored::batches)
    }

    /// Takes a table away.
    pub fn drop_table(&self, table: &TableName) {
        self.contents().tables.remove(table);
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` on a copy that takes the place of the contents only if it succeeds, unless a
    /// fault is due.
    async fn atomically<T>(
        &self,
        operation: Operation,
        detail: &str,
        work: impl FnOnce(&mut Contents) -> Result<T> + Send,
    ) -> Result<T> {
        self.faults
            .around(operation, || {
                let mut contents = self.contents();
                let mut next = contents.clone();
                let result = work(&mut next)?;
                *contents = next;
                self.journal.note(format!("{} {} {detail}", operation.as_str(), self.name));
                Ok(result)
            })
            .await
    }
}

#[async_trait]
impl Destination for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            describes_tables: true,
            commits_later: false,
            takes_records: None,
            write_modes: WriteMode::ALL,
            write_modes_note: "",
            delivery: DestinationDelivery::Atomic,
            identifier_bytes_max: 63,
            writers_max: 8,
            case_sensitive_names: true,
        }
    }

    async fn check(&self) -> Result<()> {
        self.faults.around(Operation::Check, || Ok(())).await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        TableName::new(source.name.clone())
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        let contents = self.contents();
        Ok(names
            .iter()
            .map(|name| {
                contents.tables.get(name).map(|stored| ExistingTable {
                    table: stored.table.clone(),
                    identity: Some(stored.identity.to_string()),
                })
            })
            .collect())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        LogicalType::of(field).map(|_| field.clone())
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        vec![format!("{} {change:?}", plan.target.name)]
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        self.atomically(Operation::Migrate, "", |contents| {
            let mut ran = Vec::new();
            for table in plan.tables.values() {
                contents.prepare(plan, table)?;
                ran.extend(table.changes.iter().flat_map(|change| self.ddl(table, change)));
            }
            Ok(ran)
        })
        .await
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        Ok(Box::new(MemoryWriter {
            memory: self.clone(),
            plan: plan.clone(),
            partition: partition.clone(),
            fence: fence.clone(),
            staged: Vec::new(),
        }))
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let read_back = Arc::new(table.clone());
        for stored in self.rows(&table.name).unwrap_or_default() {
            let rows = text::convert_rows(&stored, table)?;
            output.batch(Batch { table: Arc::clone(&read_back), op: Op::Upsert, rows }).await?;
        }
        Ok(())
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        let (memory, name, of_sync) = (self.clone(), table.name.clone(), table.of_sync.clone());
        let read = move || {
            let mut rows = Vec::new();
            for row in memory.rows(&name).unwrap_or_default() {
                let is_meant = |sync| match row.num_rows() {
                    0 => Ok(false),
                    _ => merge::is_of_sync(&row, sync),
                };
                if of_sync.as_deref().map_or(Ok(true), is_meant)? {
                    rows.push(row);
                }
            }
            Ok(rows)
        };
        Some(Box::new(Keys::new(table, read)))
    }

    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let detail = table.name().to_string();
        self.atomically(Operation::Finish, &detail, |contents| {
            contents.check_fence(plan, fence)?;
            let committed = contents.finish(plan, table, fence)?;
            contents.record(plan, table, fence, 0);
            contents.record_finished(plan, table, fence);
            Ok(committed)
        })
        .await
    }

    async fn compact_history(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<u64> {
        self.atomically(Operation::Finish, "compact", |contents| {
            contents.check_fence(plan, fence)?;
            contents.compact(table)
        })
        .await
    }

    async fn clear(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        self.atomically(Operation::Finish, "clear", |contents| {
            contents.check_fence(plan, fence)?;
            Ok(contents.clear(plan, table, fence))
        })
        .await
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        let journal = &self.journal;
        let work = || {
            journal.note(format!("close {}", self.name));
            Ok(())
        };
        self.faults.around(Operation::Close, work).await
    }
}

struct MemoryWriter {
    memory: Memory,
    plan: Plan,
    partition: Partition,
    fence: Fence,
    staged: Vec<Staged>,
}

/// What was sent, in its order.
enum Staged {
    Batch(Batch),
    Delete(Deletion),
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let staged = &mut self.staged;
        let plan = self.plan.tables.get(&batch.table.name);
        let plan = plan.ok_or_else(|| Error::internal("The table is not planned"))?;
        let keyed = merge::is_keyed(plan);
        self.memory
            .faults
            .around(Operation::Write, || {
                if batch.op == Op::Delete && !keyed {
                    return Err(Error::unsupported("A deletion cannot be written in this mode"));
                }
                staged.push(Staged::Batch(batch));
                Ok(())
            })
            .await
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        removal::check(&self.plan, deletion)?;
        let staged = &mut self.staged;
        let stage = || {
            // Values that are none of their column are found now, not with the commit.
            Contents::default().remove(&self.plan, deletion)?;
            staged.push(Staged::Delete(deletion.clone()));
            Ok(())
        };
        self.memory.faults.around(Operation::Write, stage).await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let staged = std::mem::take(&mut self.staged);
        let rows: usize = batches(&staged).map(|batch| batch.rows.num_rows()).sum();
        let cursors: Vec<_> =
            checkpoint.cursors.iter().map(|(key, c)| format!(" {key}={}", c.0)).collect();
        let detail = format!("{} {rows} rows{}", self.partition.id, cursors.concat());
        let (plan, fence) = (&self.plan, &self.fence);
        let mut written = plan.clone();
        for table in written.tables.values_mut().filter(|table| table.rebuild) {
            *table = rebuild::beside(table, &plan.sync);
        }
        let tables = self.partition.tables.iter().filter_map(|name| plan.tables.get(name));
        self.memory
            .atomically(Operation::Commit, &detail, |contents| {
                contents.check_fence(plan, fence)?;
                let mut committed = CommittedTables::new();
                let mut rest = &staged[..];
                loop {
                    let end = rest.iter().position(|sent| matches!(sent, Staged::Delete(_)));
                    let (now, later) = rest.split_at(end.unwrap_or(rest.len()));
                    for table in tables.clone() {
                        let of_table = |batch: &&Batch| batch.table.name == *table.name();
                        let batches: Vec<_> = batches(now).filter(of_table).collect();
                        let merged = contents.merge(plan, table, &batches)?;
                        *committed.entry(table.name().clone()).or_default() += merged;
                    }
                    let Some((Staged::Delete(deletion), later)) = later.split_first() else {
                        break;
                    };
                    for (table, removed) in contents.remove(&written, deletion)? {
                        *committed.entry(table).or_default() += removed;
                    }
                    rest = later;
                }
                for table in tables.clone() {
                    let of_table = |batch: &&Batch| batch.table.name == *table.name();
                    let rows = batches(&staged).filter(of_table).map(|b| b.rows.num_rows() as u64);
                    contents.record(plan, table, fence, rows.sum());
                }
                contents.save(plan, checkpoint);
                Ok(committed)
            })
            .await
    }
}

fn batches(staged: &[Staged]) -> impl Iterator<Item = &Batch> {
    staged.iter().filter_map(|sent| match sent {
        Staged::Batch(batch) => Some(batch),
        Staged::Delete(_) => None,
    })
}
