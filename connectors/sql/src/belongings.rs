//! History and tombstones follow what is there: a table may have been written in another mode
//! before, so that they are missing, or lack what has been added to it meanwhile.

use arrow_schema::Field;
use highwater_core::{LogicalType, Result, SchemaChange, Table, TablePlan, WriteMode};

use crate::derived;
use crate::dialect::Dialect;

/// The plan by which `change` is made at the table itself. A column is added to history and
/// tombstones, and widened there, by [`missing`]: only they know which columns they have.
pub fn to_change(plan: &TablePlan, change: &SchemaChange) -> TablePlan {
    match change {
        SchemaChange::AddColumn(_) | SchemaChange::WidenColumn { .. } => alone(plan),
        _ => plan.clone(),
    }
}

/// The tables that belong to the target of a plan, each as a plan of its own.
pub fn plans(plan: &TablePlan, dialect: &dyn Dialect) -> Vec<TablePlan> {
    if plan.write_mode != WriteMode::AppendDedup {
        return Vec::new();
    }
    let belongings = [derived::history(plan, dialect), derived::tombstones(plan, dialect)];
    belongings.map(|table| TablePlan { target: table.into(), ..alone(plan) }).into()
}

fn alone(plan: &TablePlan) -> TablePlan {
    TablePlan { write_mode: WriteMode::Append, ..plan.clone() }
}

/// What has to be changed at a table of [`plans`] that is there. `stored` gives a field as the
/// destination describes it; `holds` as [`highwater_core::Destination::holds`].
///
/// # Errors
/// `Unsupported` when a column cannot be stored.
pub fn missing(
    plan: &TablePlan,
    present: &Table,
    stored: impl Fn(&Field) -> Result<Field>,
    holds: impl Fn(&Field, &Field) -> bool,
) -> Result<Vec<SchemaChange>> {
    let mut changes = Vec::new();
    for field in plan.target.schema.fields() {
        let Some(there) = present.field(field.name()) else {
            changes.push(SchemaChange::AddColumn(field.as_ref().clone()));
            continue;
        };
        let stored = stored(field)?;
        let (wanted, found) = (LogicalType::of(&stored)?, LogicalType::of(there)?);
        let widens = match wanted == found {
            true => !holds(&stored, there) && holds(there, &stored),
            false => !wanted.widens_to(&found) && found.widens_to(&wanted),
        };
        if widens {
            let (from, to) = (there.clone(), field.as_ref().clone());
            changes.push(SchemaChange::WidenColumn { from, to });
        }
    }
    Ok(changes)
}
