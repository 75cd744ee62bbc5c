//! Columns that highwater adds, and the shape of a batch at its destination.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::plan::{SOURCE_NAME, SYNC_TIME};
use highwater_core::{Batch, Error, MetadataColumns, Op, Plan, Result, Table, TablePlan};

/// The columns added in front of those of the source.
pub(crate) fn fields(columns: MetadataColumns) -> Vec<Field> {
    if columns == MetadataColumns::None {
        return Vec::new();
    }
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
    vec![Field::new(SYNC_TIME, instant, true), Field::new(SOURCE_NAME, DataType::Utf8, true)]
}

/// Takes columns out of what is read that the destination gets from this sync: a table that was
/// itself filled by a sync brings the stamps of that one along.
pub(crate) fn without_stamps(mut source: Table, columns: MetadataColumns) -> Table {
    let stamps = fields(columns);
    if stamps.iter().any(|stamp| source.field(stamp.name()).is_some()) {
        let kept = source.schema.fields().iter();
        let kept = kept.filter(|f| stamps.iter().all(|stamp| stamp.name() != f.name()));
        source.schema = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
    }
    source
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
    // A table may have no columns, and still rows.
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows = RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|e| Error::from(e).context("table", table.name()))?;
    Ok(Batch { table: Arc::clone(&table.source), op: batch.op, rows })
}

fn constant(field: &Field, plan: &Plan, rows: usize) -> ArrayRef {
    match field.name().as_str() {
        SYNC_TIME => {
            let stamps = TimestampMicrosecondArray::from_value(plan.started_at.0, rows);
            Arc::new(stamps.with_data_type(field.data_type().clone()))
        }
        SOURCE_NAME => {
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&plan.sync, rows)))
        }
        _ => new_null_array(field.data_type(), rows),
    }
}
