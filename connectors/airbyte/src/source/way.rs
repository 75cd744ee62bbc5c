//! The way from the decoding thread to the writers.

use std::sync::Arc;

use arrow_array::RecordBatch;
use highwater_core::{Batch, Checkpoint, Op, Output, Result, Table};

use super::order::Exit;

/// To the writers. Waits while they are behind.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) output: Output,
    /// The tables as they are planned, in the order of the lanes.
    pub(super) tables: Vec<Arc<Table>>,
}

impl Exit for Way {
    fn rows(&mut self, table: usize, rows: RecordBatch) -> Result<()> {
        let table = Arc::clone(&self.tables[table]);
        self.output.blocking_batch(Batch { table, op: Op::Upsert, rows })
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.output.blocking_checkpoint(checkpoint)
    }
}
