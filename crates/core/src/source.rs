//! Where rows come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::batch::Batch;
use crate::deletion::Deletion;
use crate::error::{Error, Result};
use crate::guarantee::SourceDelivery;
use crate::key_digests::{KeyDigests, KeyTable};
use crate::plan::{Plan, TablePlan};
use crate::state::{Checkpoint, State};
use crate::table::{Table, TableName};

/// What travels from a source to the writers, in order.
#[derive(Debug, Clone)]
pub enum Message {
    /// Rows.
    Batch(Batch),
    /// Rows to be removed by a condition.
    Delete(Arc<Deletion>),
    /// All rows before it are covered by its cursors.
    Checkpoint(Checkpoint),
    /// A table could not be read completely: its rows are kept, it is not finished, and the run
    /// is no success. The others go on.
    Failed {
        /// The table at the source; it may be one that is not in the plan.
        table: TableName,
        /// Why.
        error: Arc<Error>,
    },
    /// A table was read completely, and everything sent of it is covered by checkpoints. It can be
    /// finished even if the rest of the partition fails. A source that sends none of these has
    /// read all tables when [`Source::read`] returns `Complete`; one that sends any sends one for
    /// each such table.
    Completed(TableName),
    /// Something that the user should know about a table: one sentence, without row values. It is
    /// shown with the table's results.
    Note {
        /// The table at the source.
        table: TableName,
        /// The sentence.
        text: String,
    },
}

/// A slice of a sync that one task reads and one writer per destination commits.
///
/// Partitions are independent: they are read in any order and at the same time, and each is
/// committed on its own. Two partitions never move the same cursor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// The tables it reads, by source table name.
    pub tables: Vec<TableName>,
    /// Tells the partitions of a table apart, and is the same for the same slice in a later run.
    pub id: String,
    /// What the source needs to read it.
    pub bounds: Value,
}

impl Partition {
    /// A whole table in one piece.
    pub fn whole(table: &TableName) -> Self {
        Self { tables: vec![table.clone()], id: table.to_string(), bounds: Value::Null }
    }
}

/// What one read of a source can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Each table is read by itself: destinations at the same position of a table share its read.
    ByTable,
    /// All tables of a destination come from one read. Destinations that ask for the same tables
    /// from the same positions share it; others have a read of their own.
    Together,
    /// There can be one read only: all destinations share it, and [`Source::partitions`] is
    /// called once with every table of every destination.
    Once,
}

/// Whether a read came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Everything that there was to read was sent.
    Complete,
    /// The run was asked to stop; what follows the last checkpoint must not be committed.
    Stopped,
}

/// The way out of a source. `send` waits while the destination is behind: that is the
/// back-pressure, and the reason why memory stays bounded.
#[derive(Debug, Clone)]
pub struct Output {
    messages: mpsc::Sender<Message>,
    stopping: Arc<AtomicBool>,
}

impl Output {
    /// An output that holds at most `limit` messages, and its other end. `stopping` is shared with
    /// whoever may ask the source to stop.
    pub fn bounded(limit: usize, stopping: Arc<AtomicBool>) -> (Self, mpsc::Receiver<Message>) {
        let (messages, receiver) = mpsc::channel(limit);
        (Self { messages, stopping }, receiver)
    }

    /// Sends rows. Empty batches are dropped.
    ///
    /// # Errors
    /// `Interrupted` when nobody reads any more; return it, somebody else knows the cause.
    pub async fn batch(&self, batch: Batch) -> Result<()> {
        if batch.rows.num_rows() == 0 {
            return Ok(());
        }
        self.send(Message::Batch(batch)).await
    }

    /// Sends a condition by which rows are removed.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub async fn delete(&self, deletion: Deletion) -> Result<()> {
        self.send(Message::Delete(Arc::new(deletion))).await
    }

    /// Says that a table could not be read completely; see [`Message::Failed`].
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub async fn failed(&self, table: TableName, error: Error) -> Result<()> {
        self.send(Message::Failed { table, error: Arc::new(error) }).await
    }

    /// Says that a table was read completely; see [`Message::Completed`].
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub async fn completed(&self, table: TableName) -> Result<()> {
        self.send(Message::Completed(table)).await
    }

    /// Says something about a table; see [`Message::Note`].
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub async fn note(&self, table: TableName, text: impl Into<String> + Send) -> Result<()> {
        self.send(Message::Note { table, text: text.into() }).await
    }

    /// Sends a checkpoint: all rows sent so far are covered by its cursors.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<()> {
        self.send(Message::Checkpoint(checkpoint)).await
    }

    /// As [`Self::batch`], from a thread that is not a task of the runtime.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn blocking_batch(&self, batch: Batch) -> Result<()> {
        if batch.rows.num_rows() == 0 {
            return Ok(());
        }
        self.messages.blocking_send(Message::Batch(batch)).map_err(|_| writers_gone())
    }

    /// As [`Self::checkpoint`], from a thread that is not a task of the runtime.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn blocking_checkpoint(&self, checkpoint: Checkpoint) -> Result<()> {
        self.messages.blocking_send(Message::Checkpoint(checkpoint)).map_err(|_| writers_gone())
    }

    /// Whether the run was asked to stop. A source looks at this between batches, stops at the
    /// next place where it can send a checkpoint (or at once), and returns
    /// [`Completion::Stopped`].
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    async fn send(&self, message: Message) -> Result<()> {
        self.messages.send(message).await.map_err(|_| writers_gone())
    }
}

fn writers_gone() -> Error {
    Error::interrupted("The writers stopped reading")
}

/// A system that rows are read from. One instance serves one run.
///
/// Methods may be called concurrently. Every future is cancel-safe: when it is dropped, the
/// connection behind it is closed and nothing is left open in the system.
#[async_trait]
pub trait Source: Send + Sync {
    /// Whether the system can be reached and read. Reads no rows.
    ///
    /// # Errors
    /// `Config` for wrong credentials or names, `Transient` when it cannot be reached.
    async fn check(&self) -> Result<()>;

    /// The tables that can be read, sorted by name, each with all its columns and what the
    /// system knows of its keys. Called once, before the plan is made; when `only` is given, the
    /// patterns (`*` matches any text) that the user wrote, tables that match none may be left
    /// out. A column whose type cannot be carried is an error that names it, and the hint says
    /// how to leave it out.
    async fn discover(&self, only: Option<&[String]>) -> Result<Vec<Table>>;

    /// As [`crate::Destination::place`].
    async fn place(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// How often a row version of this table is sent, seen over syncs.
    fn delivery(&self, table: &TablePlan) -> SourceDelivery;

    /// The wire form in which it can send the rows of this table as they are: exactly the columns
    /// of [`TablePlan::source`], in that order. `None`: only as columns.
    fn wire_form(&self, table: &TablePlan) -> Option<&'static str> {
        let _ = table;
        None
    }

    /// Whether `table` can be read as planned, and what the user should know about it: one
    /// sentence each, shown by `plan`. Called once per table after the modes are settled; may
    /// look at the system and reads no rows.
    ///
    /// # Errors
    /// `Config` when the cursor field is missing or of a type without an order, `Unsupported`
    /// when the source has no such mode.
    async fn review(&self, table: &TablePlan) -> Result<Vec<String>>;

    /// Cuts the tables of the plan into partitions. `state` is what the destination has
    /// committed; a table without a cursor is read from the beginning. A full refresh of a table
    /// that is not [`TablePlan::divisible`] is one partition.
    async fn partitions(&self, plan: &Plan, state: &State) -> Result<Vec<Partition>>;

    /// Reads one partition in one snapshot (invariant I6) and sends its rows and checkpoints.
    ///
    /// Rows are sent in arrival order; a checkpoint is sent only where all rows it covers have
    /// been sent, and commits all rows sent before it: a source that reads several tables at once
    /// holds back rows that no checkpoint covers yet, as far as sending them again would double
    /// them. An incremental read of a table ends with a checkpoint that carries its cursor, also
    /// when there was no row. The first one may send positions where it can go on before that
    /// ([`crate::state::FULL_REFRESH`]). A full refresh sends none, or the position where it can go
    /// on ([`Table::resumable`]). After [`Completion::Complete`] the engine commits what followed the
    /// last checkpoint, unless the source has spoken of single tables ([`Message::Completed`]);
    /// after `Stopped` or an error it does not.
    ///
    /// Rows that the committed cursor already covers (the boundary of an inclusive cursor) are
    /// recognised and not sent again.
    async fn read(
        &self,
        plan: &Plan,
        partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion>;

    /// The keys of a table, as they are when they are asked for; `None` where it cannot tell them
    /// without a read. Looks at nothing.
    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        let _ = table;
        None
    }

    /// What one read can serve.
    fn reads(&self) -> Reads {
        Reads::ByTable
    }

    /// Tells the source that the checkpoint is durable everywhere it has to be, so that it may
    /// forget what came before. Called in order, after the commit (invariant I4). May be repeated.
    async fn acknowledge(&self, checkpoint: &Checkpoint) -> Result<()> {
        let _ = checkpoint;
        Ok(())
    }

    /// As [`crate::Destination::close`].
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
