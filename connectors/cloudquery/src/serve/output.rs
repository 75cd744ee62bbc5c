//! Tables and rows on their way out of a `Sync`.

use bytes::Bytes;
use highwater_core::{Deletion, Error, Result, Table, TableName};
use tokio::sync::mpsc;
use tonic::Status;

use super::words;
use crate::proto::plugin::sync;
use crate::proto::plugin::sync::response::Message;
use crate::wire;

/// Messages that wait for the network: each has up to 3.5 MiB.
const MESSAGES_IN_FLIGHT: usize = 4;

pub(super) type Responses = mpsc::Receiver<Result<sync::Response, Status>>;

/// Where a source's messages go. Sending waits while the caller is behind.
#[derive(Debug, Clone)]
pub struct SyncOutput {
    messages: mpsc::Sender<Result<sync::Response, Status>>,
}

impl SyncOutput {
    pub(super) fn new() -> (Self, Responses) {
        let (messages, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        (Self { messages }, receiver)
    }

    /// Sends a table, before any of its rows.
    ///
    /// # Errors
    /// `Unsupported` for a column that the protocol has no type for; `Interrupted` when nobody
    /// listens any more.
    pub async fn table(&self, table: &Table) -> Result<()> {
        let table = wire::encode_table(table)?;
        self.send(Message::MigrateTable(sync::MessageMigrateTable { table })).await
    }

    /// Sends rows, as [`wire::Encoder`] made them.
    ///
    /// # Errors
    /// `Interrupted` when nobody listens any more.
    pub async fn rows(&self, record: Bytes) -> Result<()> {
        self.send(Message::Insert(sync::MessageInsert { record })).await
    }

    /// Sends a condition by which rows are removed.
    ///
    /// # Errors
    /// As [`Self::table`].
    pub async fn delete(&self, deletion: &Deletion) -> Result<()> {
        self.send(Message::DeleteRecord(wire::to_sync(deletion)?)).await
    }

    /// Sends rows of the state table that cover everything that was sent before them.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn checkpoint(&self, record: Bytes) -> Result<()> {
        self.send(Message::Checkpoint(sync::MessageCheckpoint { record })).await
    }

    /// Says that a table could not be read completely.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn failed(&self, table: &TableName, error: &str) -> Result<()> {
        let table_name = wire::wire_name(table).into_owned();
        self.send(Message::Error(sync::MessageError { table_name, error: error.to_owned() })).await
    }

    /// Returns when the network has taken everything that was sent. How far it got from there
    /// nobody tells.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn taken(&self) -> Result<()> {
        let all = self.messages.reserve_many(self.messages.max_capacity()).await;
        all.map(drop).map_err(|_| gone())
    }

    pub(super) async fn fail(&self, error: &Error) {
        // Nobody is left to be told.
        let _ = self.messages.send(Err(words::status(error))).await;
    }

    /// Returns when nobody listens any more.
    pub(super) async fn closed(&self) {
        self.messages.closed().await;
    }

    async fn send(&self, message: Message) -> Result<()> {
        let response = sync::Response { message: Some(message) };
        self.messages.send(Ok(response)).await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::interrupted("The caller stopped listening")
}
