//! Where rows go to.

use std::collections::BTreeMap;

use arrow_schema::Field;
use async_trait::async_trait;

use crate::batch::Batch;
use crate::deletion::Deletion;
use crate::error::{Error, Result};
use crate::guarantee::DestinationDelivery;
use crate::key_digests::{KeyDigests, KeyTable};
use crate::plan::{Plan, TablePlan, WriteMode};
use crate::source::{Output, Partition};
use crate::state::{Checkpoint, Fence, StateStore};
use crate::table::{SchemaChange, Table, TableName};
use crate::types::type_name;

/// What a destination can do. Plain data: the engine decides from it, the documentation shows it.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// The write modes it supports; others are refused by the plan.
    pub write_modes: &'static [WriteMode],
    /// Why the other write modes are not there: one sentence for the plan's refusal.
    pub write_modes_note: &'static str,
    /// Whether rows and cursors become durable in one step.
    pub delivery: DestinationDelivery,
    /// The longest name of a table or column, in bytes.
    pub identifier_bytes_max: usize,
    /// How many writers may be at work at once; further partitions wait.
    pub writers_max: usize,
    /// Whether names that differ only in case are different names.
    pub case_sensitive_names: bool,
    /// Whether [`Destination::describe`] can tell what is there. Where it cannot, the plan says
    /// `CreateTable` for every table, and the destination makes it as it should be.
    pub describes_tables: bool,
    /// Whether [`Writer::commit`] only hands over: what has become durable is told by
    /// [`Writer::durable`] and [`Writer::end`], and cursors are saved after that. All partitions
    /// of a run then go through one writer, one after another.
    pub commits_later: bool,
    /// The form of records that it takes as they are (see [`crate::types::RECORD`]): a source
    /// that gives the same form is not decoded where nothing changes the rows on their way.
    pub takes_records: Option<&'static str>,
}

impl Capabilities {
    /// What a transactional database can do: every write mode, rows and cursors in one step, any
    /// number of writers, tables described.
    pub const fn transactional(identifier_bytes_max: usize) -> Self {
        Self {
            write_modes: WriteMode::ALL,
            write_modes_note: "",
            delivery: DestinationDelivery::Atomic,
            identifier_bytes_max,
            writers_max: usize::MAX,
            case_sensitive_names: true,
            describes_tables: true,
            commits_later: false,
            takes_records: None,
        }
    }
}

/// A table that exists at the destination.
#[derive(Debug, Clone)]
pub struct ExistingTable {
    /// Its columns and primary key, as a source over the same system would discover them.
    pub table: Table,
    /// What tells it from another table of the same name made later (`pg_class.oid`).
    pub identity: Option<String>,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows added or changed.
    pub written: u64,
    /// Rows that were there already, value for value, or were older than what was there.
    pub unchanged: u64,
    /// Rows removed.
    pub deleted: u64,
}

/// What a commit did to each table of a partition, by the table's name at the source.
pub type CommittedTables = BTreeMap<TableName, Committed>;

impl std::ops::AddAssign for Committed {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.unchanged += other.unchanged;
        self.deleted += other.deleted;
    }
}

/// A system that rows are written to. One instance serves one run.
///
/// Methods may be called concurrently.
#[async_trait]
pub trait Destination: Send + Sync {
    /// What it can do. Constant for an instance.
    fn capabilities(&self) -> Capabilities;

    /// Whether the system can be reached and written. Leaves nothing behind.
    ///
    /// # Errors
    /// `Config` for wrong credentials, missing rights or a read-only system, `Transient` when it
    /// cannot be reached.
    async fn check(&self) -> Result<()>;

    /// The name under which a source table is written when the user gives none: the namespace
    /// that the destination is configured with, the name as it is.
    fn target_name(&self, source: &TableName) -> TableName;

    /// The tables as they are now, in the order asked for; `None` for one that does not exist.
    /// Changes nothing.
    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>>;

    /// The column as [`Self::describe`] would show it after it was created for `field`: two
    /// source types that are stored alike are no schema change.
    ///
    /// # Errors
    /// `Unsupported` when values of this type cannot be stored without changing them.
    fn stored_field(&self, field: &Field) -> Result<Field>;

    /// Whether every value of a column stored as `wanted` fits into the column `present`
    /// unchanged. Both are fields as [`Self::describe`] shows them, of one logical type; systems
    /// with lengths and precisions in their types (`varchar(3)`, `timestamp(0)`) compare these.
    fn holds(&self, wanted: &Field, present: &Field) -> bool {
        let _ = (wanted, present);
        true
    }

    /// The type of a column in the system's own words, for people to read. The field is one as
    /// [`Self::stored_field`] or [`Self::describe`] gives it.
    fn type_name(&self, field: &Field) -> String {
        type_name(field)
    }

    /// Whether it takes the rows of this table as they come in a wire form: every value is in the
    /// form in which the column of [`TablePlan::target`] is loaded.
    fn takes_wire_form(&self, form: &str, table: &TablePlan) -> bool {
        let _ = (form, table);
        false
    }

    /// Whether the table of this plan can be made anew beside the old one, as
    /// [`crate::TablePlan::rebuild`] says. Asked before anything is changed for it.
    ///
    /// # Errors
    /// `Unsupported` where it cannot.
    fn check_rebuild(&self, table: &TablePlan) -> Result<()> {
        let _ = table;
        Ok(())
    }

    /// What tells this system from every other: two connectors over one database give one text.
    /// `None` where that cannot be known. Used to refuse a table that would be copied into itself.
    async fn place(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// The statements that make `change` to the table of `plan`, for people to read. What is
    /// executed is the same.
    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String>;

    /// Makes the changes of the plan now, without rows (`highwater migrate`); returns what it
    /// ran. A sync does not call this: there the writer makes the changes in the transaction of
    /// the first rows that need them.
    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>>;

    /// A writer for one partition. Checks nothing and makes nothing visible.
    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Box<dyn Writer>>;

    /// As [`crate::Source::key_digests`], of a table of the plan. Only where a batch of
    /// [`crate::Op::Delete`] with these keys deletes exactly their rows.
    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        let _ = table;
        None
    }

    /// Completes a table after all its partitions were read completely and committed without
    /// error: swaps in what `replace` staged, deletes the stale rows of
    /// `overwrite-delete-stale` (only for a full refresh) and those that a sweep did not bring,
    /// prunes the history of `append-dedup`, records the table and its generation as finished,
    /// and forgets the cursor `Partition(table, FULL_REFRESH)`. One atomic step under the fence (where
    /// [`Plan::state_with_data`]); repeating it changes nothing.
    ///
    /// Called exactly once per table and run, in no particular order, also when no row was read.
    ///
    /// # Errors
    /// `Fenced` when a newer run has taken over, `Data` where too many rows would go
    /// ([`TablePlan::check_deletes`]); nothing is changed then.
    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed>;

    /// Sends the rows of a table as a reader sees them now, with the columns of `table` in that
    /// order and of these types (a column that the table does not have is NULL); nothing when it
    /// does not exist. For small tables that are kept here (cursors of plugins) and for plugins'
    /// `Read`.
    ///
    /// # Errors
    /// `Unsupported` where rows cannot be read back.
    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let _ = output;
        Err(Error::unsupported("The destination cannot read its rows back")
            .context("table", &table.name))
    }

    /// Removes from the history of an `append-dedup` table every record but the latest of each
    /// key (a deletion counts as a record). Returns how many were removed. Under the fence.
    ///
    /// # Errors
    /// `Unsupported` where there is no history.
    async fn compact_history(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<u64> {
        let _ = (plan, fence);
        Err(Error::unsupported("The destination keeps no history").context("table", table.name()))
    }

    /// Removes every row that syncs have written to a table, with its history and tombstones, and
    /// forgets its cursors and record, in one atomic step under the fence. The table stays.
    ///
    /// # Errors
    /// `Unsupported` where rows cannot be removed.
    async fn clear(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let _ = (plan, fence);
        Err(Error::unsupported("The destination cannot remove rows")
            .context("table", table.name())
            .hint("remove the table there by hand, then `highwater state reset`"))
    }

    /// Whether what was committed of an unfinished rebuild ([`crate::TablePlan::rebuild`]) is still
    /// there in the next run. Where it is not, its cursors go with it.
    fn keeps_unfinished(&self) -> bool {
        true
    }

    /// The store that keeps state with the data; `None` when it has none.
    fn state_store(&self) -> Option<&dyn StateStore>;

    /// The run has ended, well or not: gives back what needs an orderly end (a plugin's process).
    /// Called after the last use; a further call does nothing. What was committed stays committed,
    /// whatever this returns.
    ///
    /// # Errors
    /// When the end was not an orderly one. The run's outcome does not depend on it.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Takes the rows of one partition and commits them.
///
/// Dropping a writer without a commit makes nothing visible and leaves nothing behind that the
/// next run does not clean up.
#[async_trait]
pub trait Writer: Send {
    /// Takes rows. `batch.table` is the table at the source, by whose name the plan is found;
    /// `batch.rows` has exactly the columns of [`TablePlan::target`], in that order (in a batch
    /// with `Op::Delete` all of them nullable). On return the rows are staged, not visible and
    /// not durable. A batch with
    /// `Op::Delete` removes rows in the keyed write modes (in `append-dedup` with a record in
    /// the history) and is an `Unsupported` error in the others.
    ///
    /// # Errors
    /// `Data` for a value that does not fit, naming table and column, never the value. A writer that
    /// works on in the background says it at a later call, the commit at the latest.
    async fn write(&mut self, batch: Batch) -> Result<()>;

    /// Removes rows by a condition: from those staged so far and from the table, before anything
    /// that is written afterwards. Visible and durable with the next commit, as rows are.
    ///
    /// # Errors
    /// `Unsupported` where rows cannot be removed.
    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        Err(Error::unsupported("The destination cannot remove rows by a condition")
            .context("table", &deletion.table))
    }

    /// Makes all rows written since the last commit visible and durable, in one atomic step with
    /// the schema changes they need. Where [`Plan::state_with_data`], the same step checks the
    /// fence first and carries the checkpoint's cursors, the table's record and a dense sequence
    /// number; where not, the fence is of another store, and only rows and schema are committed.
    ///
    /// Returns what was done to each table of the partition; a table to which nothing was done may
    /// be left out.
    ///
    /// Called for every checkpoint, also when no row was written: then only cursors move. With
    /// `replace` the rows are durable and become visible in [`Destination::finish`].
    ///
    /// A lost reply is resolved here: on return the commit has happened; on an error it has not.
    /// If it cannot be found out, the error is `Transient` and says so, and repeating the sync
    /// is safe because the cursor tells.
    ///
    /// # Errors
    /// `Fenced` when a newer run has taken over; nothing is changed then.
    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables>;

    /// The checkpoints that were handed over by [`Self::commit`] and have become durable since
    /// the last call, in order. Does not wait. Only where [`Capabilities::commits_later`].
    ///
    /// # Errors
    /// When what was handed over cannot become durable any more.
    async fn durable(&mut self) -> Result<Vec<Checkpoint>> {
        Ok(Vec::new())
    }

    /// Everything was written and handed over: waits until it is durable, and returns the
    /// checkpoints that [`Self::durable`] has not told. `complete` are the tables that were read
    /// completely; the others are not to be finished (no old row may go). The last call.
    ///
    /// # Errors
    /// As [`Self::durable`].
    async fn end(&mut self, complete: &[TableName]) -> Result<Vec<Checkpoint>> {
        let _ = complete;
        Ok(Vec::new())
    }
}
