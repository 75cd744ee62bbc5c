//! What changes tables and rows on their way to one destination.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::table::Table;

/// Code outside of highwater that rows go through before they are written. One instance serves
/// one run; methods may be called concurrently.
#[async_trait]
pub trait Transformer: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// What becomes of a table: it may get another name, other columns, another key.
    async fn table(&self, table: &Table) -> Result<Table>;

    /// Takes rows from `input`, each with its table, and sends what becomes of them to `output`,
    /// with the name that their table has afterwards and the columns that [`Self::table`] said.
    ///
    /// Rows come out in the order in which they went in; a batch may come out as several, as fewer
    /// rows, or not at all. Returns when `input` has ended and everything has come out. Input is
    /// taken while output waits, up to a bound, so that both sides are at work.
    async fn transform(
        &self,
        input: mpsc::Receiver<(Arc<Table>, RecordBatch)>,
        output: mpsc::Sender<(String, RecordBatch)>,
    ) -> Result<()>;
}
