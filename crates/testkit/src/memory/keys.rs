//! The digests of keys, one key at a time.

use std::sync::Arc;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use async_trait::async_trait;
use highwater_core::key_digests::{self, Chosen, Digests};
use highwater_core::text::convert_rows;
use highwater_core::{Batch, KeyDigests, KeyTable, Op, Output, Result};

/// Reads the rows of a table.
type Read = Box<dyn Fn() -> Result<Vec<RecordBatch>> + Send + Sync>;

/// The keys of rows in memory. They are read once, when they are first asked for.
pub struct Keys {
    table: KeyTable,
    read: Read,
    snapshot: Option<RecordBatch>,
}

impl Keys {
    /// The keys of the rows that `read` gives, whatever other columns these have.
    pub fn new(
        table: &KeyTable,
        read: impl Fn() -> Result<Vec<RecordBatch>> + Send + Sync + 'static,
    ) -> Self {
        Self { table: table.clone(), read: Box::new(read), snapshot: None }
    }

    fn snapshot(&mut self) -> Result<(RecordBatch, Vec<u128>)> {
        let rows = match &self.snapshot {
            Some(rows) => rows.clone(),
            None => {
                let table = self.table.table();
                let rows = (self.read)()?;
                let rows = rows.iter().map(|rows| convert_rows(rows, &table));
                let rows = rows.collect::<Result<Vec<_>>>()?;
                self.snapshot.insert(concat_batches(&table.schema, &rows)?).clone()
            }
        };
        let hashes = key_digests::hashes(&self.table.columns, &rows)?;
        Ok((rows, hashes))
    }
}

#[async_trait]
impl KeyDigests for Keys {
    async fn digests(&mut self, buckets: u32) -> Result<Digests> {
        let mut digests = Digests::new();
        for hash in self.snapshot()?.1 {
            digests.entry(key_digests::bucket(hash, buckets)).or_default().add(hash);
        }
        Ok(digests)
    }

    async fn keys(&mut self, chosen: &Chosen, output: Output) -> Result<()> {
        let (rows, hashes) = self.snapshot()?;
        let meant = (0_u64..).zip(hashes).filter(|(_, hash)| chosen.has(*hash)).map(|(at, _)| at);
        let meant = UInt64Array::from(meant.collect::<Vec<_>>());
        let rows = take_record_batch(&rows, &meant)?;
        let table = Arc::new(self.table.table());
        output.batch(Batch { table, op: Op::Upsert, rows }).await
    }
}
