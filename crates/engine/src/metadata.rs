//! Columns that highwater adds, and the shape of a batch at its destination.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::{Batch, Error, MetadataColumns, Op, Plan, Result, Table, TablePlan};

/// When the sync began that brought the row. From CloudQuery's command line.
pub const SYNC_TIME: &str = "_cq_sync_time";
/// The source that brought the row. From CloudQuery's command line.
pub const SOURCE_NAME: &str = "_cq_source_name";

/// The columns added in front of those of `source`, but for those that it has itself.
pub(crate) fn fields(columns: MetadataColumns, source: &Table) -> Vec<Field> {
    if columns == MetadataColumns::None {
        return Vec::new();
    }
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
    [Field::new(SYNC_TIME, instant, true), Field::new(SOURCE_NAME, DataType::Utf8, true)]
        .into_iter()
        .filter(|f| source.field(f.name()).is_none())
        .collect()
}

/// The batch with the columns of the plan's target: the source's own, metadata columns filled,
/// columns that the source no longer has as NULL.
pub(crate) fn shape(batch: &Batch, plan: &Plan, table: &TablePlan) -> Result<Batch> {
    let rows = &batch.rows;
    let target = &table.target.schema;
    let columns: Vec<ArrayRef> = if rows.num_columns() == target.fields().len() {
        rows.columns().to_vec()
    } else {
        target
            .fields()
            .iter()
            .map(|field| match rows.column_by_name(field.name()) {
                Some(column) => Arc::clone(column),
                None => constant(field, plan, rows.num_rows()),
            })
            .collect()
    };
    let schema = match batch.op {
        Op::Upsert => Arc::clone(target),
        // A delete record fills its key only.
        Op::Delete => Arc::new(Schema::new(
            target
                .fields()
                .iter()
                .map(|f| f.as_ref().clone().with_nullable(true))
                .collect::<Vec<_>>(),
        )),
    };
    let rows = RecordBatch::try_new(schema, columns)
        .map_err(|e| Error::from(e).context("table", table.name()))?;
    Ok(Batch { table: Arc::clone(&table.source), op: batch.op, rows })
}

fn constant(field: &Field, plan: &Plan, rows: usize) -> ArrayRef {
    match field.name().as_str() {
        SYNC_TIME => Arc::new(
            TimestampMicrosecondArray::from_value(plan.started_at.0, rows).with_timezone("UTC"),
        ),
        SOURCE_NAME => {
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&plan.sync, rows)))
        }
        _ => new_null_array(field.data_type(), rows),
    }
}
