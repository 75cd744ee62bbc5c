//! The tables that highwater keeps beside the user's: history, tombstones, staging.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::{SchemaChange, Table, TableName, TablePlan, WriteMode};
use xxhash_rust::xxh3::xxh3_64;

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

/// The tombstones of `append-dedup` and, while its read lasts, of `replace-dedup`: key and cursor
/// of the newest deletion per key, so that a late older row does not bring a deleted row back.
pub fn tombstones(plan: &TablePlan, dialect: &dyn Dialect) -> Table {
    let kept = |field: &Field| {
        plan.target.primary_key.contains(field.name())
            || plan.order_by.as_ref() == Some(field.name())
    };
    let fields = nullable_fields(plan, kept);
    let name =
        dialect.derived_name(&format!("_highwater_{}", plan.target.name.name), "_tombstones");
    Table::new(plan.target.name.renamed(name), fields)
        .with_primary_key(plan.target.primary_key.clone())
}

/// The table that a rebuild ([`TablePlan::rebuild`]) of a sync fills before it is swapped in.
pub fn replacement(plan: &TablePlan, sync: &str, dialect: &dyn Dialect) -> TableName {
    plan.target.name.renamed(dialect.derived_name(&of_sync(plan, sync), "_new"))
}

/// What the names of tables begin with that belong to one sync while it works on a table. Several
/// syncs may work on the same one.
fn of_sync(plan: &TablePlan, sync: &str) -> String {
    let hash = xxh3_64(sync.as_bytes()) >> 32;
    format!("_highwater_{}_{hash:08x}", plan.target.name.name)
}

/// The plan by which a rebuild writes: everything is as in `plan`, but the target is the table
/// beside, so that its history and tombstones have names of their own too ([`all`]), and its only
/// change is to be made. Writing needs no other code than for a plan without a rebuild.
///
/// How to use it: a writer makes the tables of `all(&beside(plan, sync))` in its first commit, marked
/// with sync and generation, unless they are there with that mark already; it stages, merges and
/// deletes by `beside(plan, sync)`, and keeps its records by `plan`. `finish` puts each table of
/// `all(&beside(plan, sync))` in the place of the one of `all(plan)`, except the tombstones where
/// [`keeps_tombstones`] is false: they are dropped.
pub fn beside(plan: &TablePlan, sync: &str, dialect: &dyn Dialect) -> TablePlan {
    let mut target = plan.target.as_ref().clone();
    target.name = replacement(plan, sync, dialect);
    TablePlan {
        target: Arc::new(target),
        rebuild: false,
        changes: vec![SchemaChange::CreateTable],
        ..plan.clone()
    }
}

/// The tables that a plan writes to: the target first, then history and tombstones where the mode
/// has them.
pub fn all(plan: &TablePlan, dialect: &dyn Dialect) -> Vec<Table> {
    let mut tables = vec![plan.target.as_ref().clone()];
    if plan.write_mode == WriteMode::AppendDedup {
        tables.push(history(plan, dialect));
    }
    if is_ordered(plan.write_mode) {
        tables.push(tombstones(plan, dialect));
    }
    tables
}

/// Whether a mode orders the versions of a row by [`TablePlan::order_by`] and remembers deletions.
pub fn is_ordered(mode: WriteMode) -> bool {
    matches!(mode, WriteMode::AppendDedup | WriteMode::ReplaceDedup)
}

/// Whether the tombstones are of use after the table is finished.
pub fn keeps_tombstones(plan: &TablePlan) -> bool {
    plan.write_mode == WriteMode::AppendDedup
}

/// The keys that a sweep has seen: the key columns of the target. It belongs to one run, whose
/// mark it carries, and has a name of its sync; every commit of that run adds to it ([`crate::merge::steps`]), and
/// [`crate::sweep`] takes it away at the end.
pub fn seen(plan: &TablePlan, sync: &str, dialect: &dyn Dialect) -> Table {
    let key = &plan.target.primary_key;
    let fields = key.iter().filter_map(|name| plan.target.field(name).cloned()).collect();
    let name = dialect.derived_name(&of_sync(plan, sync), "_seen");
    Table::new(plan.target.name.renamed(name), fields).with_primary_key(key.clone())
}

/// Whether a run has to remember the keys that it saw.
pub fn remembers_keys(plan: &TablePlan) -> bool {
    plan.sweep && plan.reconcile && !plan.target.primary_key.is_empty()
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
