//! Rows on their way: Arrow is the only value type.

use std::sync::Arc;

use arrow_array::RecordBatch;

use crate::table::Table;

/// What the rows of a batch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// The current version of each row, new or changed.
    Upsert,
    /// Rows that the source no longer has. Key columns (and the cursor field, if there is one)
    /// are filled, others may be NULL.
    Delete,
}

/// Rows of one table, in arrival order.
///
/// On its way out of a source the record batch has exactly the columns of `table.schema`, in that
/// order; a writer gets it with the columns of the plan's target instead. Aim for a few
/// thousand rows or a few megabytes: memory is bounded by the number of batches in flight.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The table as the source describes it.
    pub table: Arc<Table>,
    /// What the rows are.
    pub op: Op,
    /// The rows.
    pub rows: RecordBatch,
}
