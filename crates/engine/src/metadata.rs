//! Columns that highwater adds, and the shape of a batch at its destination.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::plan::{
    EXTRACTED_AT, GENERATION_ID, META, RAW_ID, SOURCE_NAME, SYNC_GROUP_ID, SYNC_TIME,
};
use highwater_core::types::{self, extension_field, record_part};
use highwater_core::{
    Batch, Error, MetadataColumns, Op, Plan, ReadMode, Result, Table, TablePlan, WriteMode,
};

use uuid::Uuid;

use crate::adopt;
use crate::options::Target;

/// The columns added in front of those of the source.
pub(crate) fn fields(target: &Target) -> Vec<Field> {
    let mut fields = Vec::new();
    if target.metadata_columns == MetadataColumns::CloudQuery {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
        fields.push(Field::new(SYNC_TIME, instant, true));
        fields.push(Field::new(SOURCE_NAME, DataType::Utf8, true));
    }
    if target.metadata_columns == MetadataColumns::Airbyte {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
        fields.push(Field::new(RAW_ID, DataType::Utf8, false));
        fields.push(Field::new(EXTRACTED_AT, instant, false));
        let meta = extension_field(META, DataType::Utf8, types::JSON);
        let meta = types::with_metadata(meta, types::DECLARED, "postgresql:jsonb");
        fields.push(meta.with_nullable(false));
        fields.push(Field::new(GENERATION_ID, DataType::Int64, true));
    }
    if target.sync_group_id.is_some() {
        fields.push(Field::new(SYNC_GROUP_ID, DataType::Utf8, false));
    }
    fields
}

/// Takes columns out of what is read that the destination gets from this sync: a table that was
/// itself filled by a sync brings the stamps of that one along.
pub(crate) fn without_stamps(mut source: Table, target: &Target) -> Table {
    let stamps = fields(target);
    if stamps.iter().any(|stamp| source.field(stamp.name()).is_some()) {
        let kept = source.schema.fields().iter();
        let kept = kept.filter(|f| {
            record_part(f).is_some() || stamps.iter().all(|stamp| stamp.name() != f.name())
        });
        source.schema = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
    }
    source
}

/// The batch with the columns of `into`: its own, metadata columns filled, columns that the source
/// no longer has as NULL.
pub(crate) fn shape(batch: &Batch, plan: &Plan, table: &TablePlan, into: &Table) -> Result<Batch> {
    let rows = &batch.rows;
    let target = &into.schema;
    let columns = target.fields().iter().enumerate().map(|(at, field)| {
        // As a rule the columns are those wanted, in their order.
        let found = match rows.schema_ref().fields().get(at) {
            Some(same) if same.name() == field.name() => Some(at),
            _ => rows.schema_ref().index_of(field.name()).ok(),
        };
        match found {
            Some(found) if field.name() == META => meta(plan, rows.column(found)),
            Some(found) => adopt::column(rows.schema_ref().field(found), rows.column(found), field),
            None => Ok(constant(field, plan, table, rows.num_rows())),
        }
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>();
    let columns = columns.map_err(|e| e.context("table", table.name()))?;
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

/// What a source says was changed in its records, with the run that brought them.
fn meta(plan: &Plan, changes: &ArrayRef) -> Result<ArrayRef> {
    let Some(changes) = changes.as_any().downcast_ref::<StringArray>() else {
        return Err(Error::internal("What was changed in records is no text"));
    };
    let sync_id = plan.started_at.0;
    let nothing = format!("{{\"sync_id\":{sync_id},\"changes\":[]}}");
    let texts = changes.iter().map(|changes| match changes.and_then(|c| c.strip_prefix('{')) {
        Some(rest) => Cow::Owned(format!("{{\"sync_id\":{sync_id},{rest}")),
        None => Cow::Borrowed(nothing.as_str()),
    });
    Ok(Arc::new(StringArray::from_iter_values(texts)))
}

/// Stale rows are told by the columns that say when and from where a row came.
///
/// # Errors
/// `Config` where they would be removed, and the target has no such columns of this sync: those
/// that the source table brings along speak of another one.
pub(crate) fn check_stale(table: &TablePlan) -> Result<()> {
    let removes_stale = table.write_mode == WriteMode::OverwriteDeleteStale
        && table.read_mode == ReadMode::FullRefresh;
    let is_filled = |name| table.target.field(name).is_some() && table.source.field(name).is_none();
    if !removes_stale || [SYNC_TIME, SOURCE_NAME].into_iter().all(is_filled) {
        return Ok(());
    }
    Err(Error::config(
        "`overwrite-delete-stale` needs the columns that say when and from where a row came",
    )
    .context("table", table.name())
    .context("columns", format!("{SYNC_TIME}, {SOURCE_NAME}"))
    .hint(
        "`metadata_columns: cloudquery`; or `write_mode: overwrite`: rows that are gone at the \
         source stay then",
    ))
}

/// Whether a column of this name is filled by every sync that writes it.
pub(crate) fn is_stamp(column: &str) -> bool {
    [RAW_ID, EXTRACTED_AT, META, GENERATION_ID, SYNC_TIME, SYNC_GROUP_ID, SOURCE_NAME]
        .contains(&column)
}

fn constant(field: &Field, plan: &Plan, table: &TablePlan, rows: usize) -> ArrayRef {
    match field.name().as_str() {
        RAW_ID => {
            let ids = (0..rows).map(|_| Uuid::new_v4().to_string());
            Arc::new(StringArray::from_iter_values(ids))
        }
        EXTRACTED_AT => {
            let stamps = TimestampMicrosecondArray::from_value(plan.started_at.0, rows);
            Arc::new(stamps.with_data_type(field.data_type().clone()))
        }
        META => {
            let text = format!("{{\"sync_id\":{},\"changes\":[]}}", plan.started_at.0);
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)))
        }
        GENERATION_ID => {
            let generation = i64::try_from(table.generation).unwrap_or(i64::MAX);
            Arc::new(Int64Array::from_value(generation, rows))
        }
        SYNC_TIME => {
            let stamps = TimestampMicrosecondArray::from_value(plan.started_at.0, rows);
            Arc::new(stamps.with_data_type(field.data_type().clone()))
        }
        SYNC_GROUP_ID => {
            let group = plan.sync_group_id.as_deref().unwrap_or_default();
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(group, rows)))
        }
        SOURCE_NAME => {
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&plan.sync, rows)))
        }
        _ => new_null_array(field.data_type(), rows),
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::{Instant, TableName};

    use super::*;

    fn planned(source: Table, target: Table) -> (Plan, TablePlan) {
        let table = TablePlan::new(
            Arc::new(source),
            Arc::new(target),
            ReadMode::FullRefresh,
            WriteMode::Append,
        );
        let plan = Plan {
            sync_group_id: None,
            sync: "shop".into(),
            sync_id: "1".into(),
            started_at: Instant(7),
            state_with_data: true,
            tables: [(table.name().clone(), table.clone())].into(),
        };
        (plan, table)
    }

    fn stamped() -> Target {
        let memory = highwater_testkit::memory::Memory::new("d", Default::default());
        let memory = Arc::new(memory);
        Target { metadata_columns: MetadataColumns::CloudQuery, ..Target::new("d", memory) }
    }

    fn table(fields: Vec<Field>) -> Table {
        Table::new(TableName::new("t"), fields)
    }

    #[test]
    fn a_table_without_columns_has_rows_all_the_same() {
        let (plan, planned) = planned(table(vec![]), table(vec![]));
        let options = RecordBatchOptions::new().with_row_count(Some(2));
        let schema = Arc::clone(&planned.source.schema);
        let rows = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        let batch = Batch { table: Arc::clone(&planned.source), op: Op::Upsert, rows };
        assert_eq!(shape(&batch, &plan, &planned, &planned.target).unwrap().rows.num_rows(), 2);
    }

    #[test]
    fn stamps_and_columns_that_are_gone_are_filled_in() {
        let id = Field::new("id", DataType::Int64, false);
        let mut fields = super::fields(&stamped());
        fields.extend([id.clone(), Field::new("gone", DataType::Utf8, true)]);
        let (plan, planned) = planned(table(vec![id]), table(fields));
        let ids: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![1, 2]));
        let schema = Arc::clone(&planned.source.schema);
        let rows = RecordBatch::try_new(schema, vec![ids]).unwrap();
        let batch = Batch { table: Arc::clone(&planned.source), op: Op::Upsert, rows };
        let shaped = shape(&batch, &plan, &planned, &planned.target).unwrap().rows;
        let stamp = TimestampMicrosecondArray::from(vec![7, 7]).with_timezone("UTC");
        assert_eq!(shaped.column(0).as_ref(), &stamp as &dyn arrow_array::Array);
        let name = StringArray::from(vec!["shop", "shop"]);
        assert_eq!(shaped.column(1).as_ref(), &name as &dyn arrow_array::Array);
        assert_eq!(shaped.column(3).null_count(), 2);
    }
}
