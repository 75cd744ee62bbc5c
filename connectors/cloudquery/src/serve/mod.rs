//! Our connectors as a plugin: the server side of CloudQuery's protocol.
//!
//! Nothing here knows a connector: [`Served`] is what a plugin does, and the command line
//! implements it.
//!
//! | module | what |
//! |---|---|
//! | [`listen`] | the socket, and the end of the server |
//! | `service` | the calls |
//! | `write` | rows that come in: order, batches, commits |
//! | `gate` | several streams of rows at once |
//! | `given_up` | how a stream of rows ended |
//! | [`output`] | rows that go out |
//! | [`backend`] | cursors, kept by another plugin |
//! | `words` | errors as statuses |

pub mod backend;
mod gate;
mod given_up;
pub mod listen;
pub mod output;
mod service;
mod words;
mod write;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_core::{Deletion, Error, Instant, Output, Result, Table, TableName};
use serde_json::Value;
use tokio::sync::watch;

pub use listen::{Address, serve};
pub use output::SyncOutput;

/// The header of a `Write` whose caller sends cursors only when the rows that they cover have been
/// answered for: what was lost on another stream is no business of theirs.
pub const CURSORS_AFTER_ROWS: (&str, &str) = ("highwater-cursors", "after-rows");
/// Rows of a stream after which it is committed.
pub const COMMIT_ROWS: usize = 100_000;
/// Bytes of a stream after which it is committed.
pub const COMMIT_BYTES: usize = 64 << 20;
/// Seconds after which the rows of a stream are committed, counted from the first of them.
pub const COMMIT_SECONDS: u64 = 10;

/// Which tables are asked for, in CloudQuery's words: `*` matches any text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names and patterns. One that matches nothing is an error. None: every table.
    pub tables: Vec<String>,
    /// Names and patterns of tables that are left out.
    pub skip_tables: Vec<String>,
    /// Whether tables that depend on others are only there if they are named themselves.
    pub skip_dependent_tables: bool,
}

/// Where a source's cursors are kept: a table behind another plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendOptions {
    /// The table.
    pub table_name: String,
    /// `unix:///path` or `host:port`.
    pub connection: String,
}

/// What a source is asked to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncRequest {
    /// The tables.
    pub selection: Selection,
    /// Where cursors are kept; without it every row is sent.
    pub backend: Option<BackendOptions>,
    /// Which part of the tables, from 1, and of how many.
    pub shard: Option<(u32, u32)>,
    /// Whether a table that fails is a message, and not the end of the stream.
    pub with_error_messages: bool,
    /// Whether cursors may be sent among the rows that they cover.
    pub with_checkpoints: bool,
}

/// Why a test of a connection did not succeed.
#[derive(Debug)]
pub struct TestFailure {
    /// One word: `INVALID_SPEC`, `UNREACHABLE` or `FAILED`.
    pub code: &'static str,
    /// What went wrong.
    pub error: Error,
}

/// What a plugin does. Calls may come at the same time, and twice.
#[async_trait]
pub trait Served: Send + Sync + 'static {
    /// The plugin's name.
    fn name(&self) -> &str;

    /// The plugin's version.
    fn version(&self) -> &str;

    /// The JSON Schema of the plugin's own `spec`.
    fn spec_schema(&self) -> Value;

    /// Takes the settings. Later calls mean these, those that are running keep theirs.
    async fn init(&self, spec: Value) -> Result<()>;

    /// The tables that the source has.
    async fn tables(&self, selection: &Selection) -> Result<Vec<Table>>;

    /// Sends tables and rows. Dropped when nobody listens any more.
    async fn sync(&self, request: SyncRequest, output: SyncOutput) -> Result<()>;

    /// Sends the rows of a table at the destination, as [`highwater_core::Destination::read`].
    async fn read(&self, table: &Table, output: Output) -> Result<()>;

    /// Whether only one stream may hold rows that are not committed.
    async fn takes_one_stream(&self) -> Result<bool>;

    /// Takes one stream of rows.
    async fn writer(&self) -> Result<Box<dyn ServedWriter>>;

    /// Whether the system can be worked with.
    async fn test_connection(&self, spec: Value) -> Result<(), TestFailure>;

    /// The caller has finished. It may begin again.
    async fn close(&self) -> Result<()>;
}

/// One stream of tables and rows into the destination. Dropped without a commit: nothing of what
/// came since the last one is visible. After an error it is not used any more.
#[async_trait]
pub trait ServedWriter: Send {
    /// Makes a table fit, at once.
    async fn migrate(&mut self, table: &Table, forced: bool) -> Result<()>;

    /// Takes rows.
    async fn write(&mut self, table: &TableName, rows: RecordBatch) -> Result<()>;

    /// Removes rows by a condition, among those taken and those that are there.
    async fn delete(&mut self, deletion: &Deletion) -> Result<()>;

    /// Removes rows that a source brought before a time.
    async fn delete_stale(
        &mut self,
        table: &TableName,
        source_name: &str,
        before: Instant,
    ) -> Result<()>;

    /// Makes everything visible and durable that was taken.
    async fn commit(&mut self) -> Result<()>;
}

/// Returns when the plugin is asked to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without anybody who could ask, it is as good as asked.
    let _ = stop.wait_for(|stop| *stop).await;
}
