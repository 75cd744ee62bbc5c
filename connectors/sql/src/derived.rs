//! The tables that highwater keeps beside the user's: history, tombstones, staging.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::{Table, TableName, TablePlan};

use crate::dialect::Dialect;

/// Arrival order of a row in the history: grows over all syncs, never ties.
pub const SEQUENCE: &str = "_highwater_seq";
/// What a record is: `u` the row's new version, `d` its deletion.
pub const OPERATION: &str = "_highwater_op";
/// When the run that brought the row began.
pub const SYNCED_AT: &str = "_highwater_synced_at";
/// Arrival order of a row in its staging table, from 0.
pub const ORDINAL: &str = "_highwater_ordinal";

/// The history table of `append-dedup`: every column of the final table, all nullable because a
/// delete record fills the key only, and [`SEQUENCE`], [`OPERATION`], [`SYNCED_AT`].
pub fn history(plan: &TablePlan, dialect: &dyn Dialect) -> Table {
    let mut fields = nullable_fields(plan, |_| true);
    fields.push(Field::new(SEQUENCE, DataType::Int64, false));
    fields.push(Field::new(OPERATION, DataType::Utf8, false));
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
    fields.push(Field::new(SYNCED_AT, instant, false));
    let name = dialect.derived_name(&plan.target.name.name, "_history");
    Table::new(plan.target.name.renamed(name), fields)
}

/// The tombstones of `append-dedup`: key and cursor of the newest deletion per key, so that a
/// late older row does not bring a deleted row back.
pub fn tombstones(plan: &TablePlan, dialect: &dyn Dialect) -> Table {
    let kept = |field: &Field| {
        plan.target.primary_key.contains(field.name())
            || plan.cursor_field.as_ref() == Some(field.name())
    };
    let fields = nullable_fields(plan, kept);
    let name =
        dialect.derived_name(&format!("_highwater_{}", plan.target.name.name), "_tombstones");
    Table::new(plan.target.name.renamed(name), fields)
        .with_primary_key(plan.target.primary_key.clone())
}

/// The table that `replace` fills before it is swapped in.
pub fn replacement(plan: &TablePlan, dialect: &dyn Dialect) -> TableName {
    let name = format!("_highwater_{}", plan.target.name.name);
    plan.target.name.renamed(dialect.derived_name(&name, "_new"))
}

/// The columns of a staging table: those of the target, all nullable, then [`ORDINAL`] and
/// [`OPERATION`].
pub fn staging_schema(plan: &TablePlan) -> Schema {
    let mut fields = nullable_fields(plan, |_| true);
    fields.push(Field::new(ORDINAL, DataType::Int64, false));
    fields.push(Field::new(OPERATION, DataType::Utf8, false));
    Schema::new(fields)
}

fn nullable_fields(plan: &TablePlan, kept: impl Fn(&Field) -> bool) -> Vec<Field> {
    let fields = plan.target.schema.fields().iter();
    fields.filter(|f| kept(f)).map(|f| f.as_ref().clone().with_nullable(true)).collect()
}
