//! How the table of the plan and the table at the destination differ, and what may be done
//! about it: add, widen, relax; everything else is for a person to decide.

use std::collections::{BTreeMap, BTreeSet};

use arrow_schema::Field;
use highwater_core::{
    Capabilities, Destination, Error, ExistingTable, LogicalType, ReadMode, Result, SchemaChange,
    Table, TablePlan, TableRecord, WriteMode,
};

/// What has to change at the destination before rows of `plan` fit.
///
/// # Errors
/// `Schema` naming the column and both types when that would lose or change something.
pub(crate) fn changes(
    destination: &dyn Destination,
    plan: &TablePlan,
    existing: Option<&Table>,
) -> Result<Vec<SchemaChange>> {
    let stored = plan
        .target
        .schema
        .fields()
        .iter()
        .map(|f| destination.stored_field(f).map_err(|e| e.context("table", plan.name())))
        .collect::<Result<Vec<Field>>>()?;
    let Some(existing) = existing else { return Ok(vec![SchemaChange::CreateTable]) };
    if plan.rebuild {
        // A new table of the right shape takes the place of the old one.
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    for (field, stored) in plan.target.schema.fields().iter().zip(&stored) {
        match existing.field(field.name()) {
            None => changes.push(SchemaChange::AddColumn(field.as_ref().clone())),
            Some(there) => changes.extend(column_change(destination, plan, field, stored, there)?),
        }
    }
    for there in existing.schema.fields() {
        if plan.target.field(there.name()).is_none() && !there.is_nullable() {
            changes.push(SchemaChange::DropNotNull(there.as_ref().clone()));
        }
    }
    changes.extend(key_change(plan, existing)?);
    Ok(changes)
}

fn column_change(
    destination: &dyn Destination,
    plan: &TablePlan,
    field: &Field,
    stored: &Field,
    there: &Field,
) -> Result<Option<SchemaChange>> {
    let (wanted, present) = (LogicalType::of(stored)?, LogicalType::of(there)?);
    let alike = wanted == present || same_list(&wanted, &present);
    let fits = if alike { destination.holds(stored, there) } else { wanted.widens_to(&present) };
    if !fits {
        let widens =
            if alike { destination.holds(there, stored) } else { present.widens_to(&wanted) };
        if widens {
            return Ok(Some(SchemaChange::WidenColumn { from: there.clone(), to: field.clone() }));
        }
        return Err(Error::schema("A column has another type at the destination")
            .context("table", plan.name())
            .context("column", field.name())
            .context("type needed", destination.type_name(stored))
            .context("type at the destination", destination.type_name(there))
            .hint(other_type_hint(plan)));
    }
    let relaxed = field.is_nullable()
        && !there.is_nullable()
        && !plan.target.primary_key.contains(field.name());
    Ok(relaxed.then(|| SchemaChange::DropNotNull(there.clone())))
}

/// A table that is read incrementally can be made anew with the new type, and filled again.
fn other_type_hint(plan: &TablePlan) -> String {
    match plan.read_mode {
        ReadMode::Incremental => {
            let history = match plan.write_mode {
                WriteMode::AppendDedup => "; its history begins anew then",
                _ => "",
            };
            format!(
                "to read the table again into one with the new type: `highwater refresh FILE {} --remove`{history}",
                plan.name()
            )
        }
        ReadMode::FullRefresh => "give the table another name at the destination (`target: …`), or change the column there yourself".to_owned(),
    }
}

/// Lists are compared by what they hold; the name of the item does not matter.
fn same_list(a: &LogicalType, b: &LogicalType) -> bool {
    match (a, b) {
        (LogicalType::List(a), LogicalType::List(b)) => {
            match (LogicalType::of(a), LogicalType::of(b)) {
                (Ok(a), Ok(b)) => a == b || same_list(&a, &b),
                _ => false,
            }
        }
        _ => false,
    }
}

fn key_change(plan: &TablePlan, existing: &Table) -> Result<Option<SchemaChange>> {
    let wanted: BTreeSet<_> = plan.target.primary_key.iter().collect();
    let present: BTreeSet<_> = existing.primary_key.iter().collect();
    if wanted.is_empty() || wanted == present {
        return Ok(None);
    }
    if present.is_empty() {
        return Ok(Some(SchemaChange::AddKey));
    }
    Err(Error::schema("The table has another primary key at the destination")
        .context("table", plan.name())
        .context("primary key", plan.target.primary_key.join(", "))
        .context("primary key at the destination", existing.primary_key.join(", "))
        .hint("give the table another name at the destination (`target: …`), or name the same columns in `primary_key`"))
}

/// Whether the destination's table is still the one that the cursor belongs to (invariant I5).
///
/// # Errors
/// `Schema` when it was dropped, or dropped and made again.
pub(crate) fn check_identity(
    plan: &TablePlan,
    record: Option<&TableRecord>,
    existing: Option<&ExistingTable>,
) -> Result<()> {
    let words = match existing {
        // A position that was set by hand for a table of which nothing is known.
        None if record.is_none() => return Ok(()),
        None => "The destination table is gone, and the cursor says that rows were delivered",
        Some(existing) => {
            let expected = record.and_then(|r| r.identity.as_ref());
            match (expected, &existing.identity) {
                (Some(expected), identity) if Some(expected) != identity.as_ref() => {
                    "The destination table was dropped and made again since the last sync"
                }
                _ => return Ok(()),
            }
        }
    };
    Err(Error::schema(words)
        .context("table", plan.name())
        .context("destination table", &plan.target.name)
        .hint(format!(
            "to copy the table again from the beginning: `highwater state reset … --table {}`",
            plan.name()
        )))
}

/// The history table has columns of highwater's own beside those of the table.
///
/// # Errors
/// `Config` naming the column that has such a name already.
pub(crate) fn check_history_columns(table: &Table) -> Result<()> {
    match table.column_names().find(|name| name.starts_with("_highwater_")) {
        None => Ok(()),
        Some(column) => Err(Error::config(
            "A column's name begins with `_highwater_`, which the history table needs for its own",
        )
        .context("table", &table.name)
        .context("column", column)
        .hint("leave it out with `columns: […]`, or choose another write mode")),
    }
}

/// Column names must fit the destination and stay different there.
///
/// # Errors
/// `Config` naming the column.
pub(crate) fn check_column_names(table: &Table, capabilities: &Capabilities) -> Result<()> {
    let mut seen = BTreeMap::new();
    for name in table.column_names() {
        if name.len() > capabilities.identifier_bytes_max {
            return Err(Error::config("A column's name is too long for the destination")
                .context("table", &table.name)
                .context("column", name)
                .context("limit in bytes", capabilities.identifier_bytes_max)
                .hint(renamed(name, capabilities.identifier_bytes_max / 2, "")));
        }
        let folded =
            if capabilities.case_sensitive_names { name.to_owned() } else { name.to_lowercase() };
        if let Some(other) = seen.insert(folded, name) {
            return Err(Error::config("Two columns have one name at the destination")
                .context("table", &table.name)
                .context("column", name)
                .context("other column", other)
                .hint(renamed(name, capabilities.identifier_bytes_max - 2, "_2")));
        }
    }
    Ok(())
}

/// The mapping that gives a column the first `limit` bytes of its name, and what stands behind it.
fn renamed(name: &str, limit: usize, behind: &str) -> String {
    let ends = (0..=limit.min(name.len())).rev();
    let start = &name[..ends.into_iter().find(|at| name.is_char_boundary(*at)).unwrap_or(0)];
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mark = if is_plain { "" } else { "'" };
    let quoted = |text: &str| format!("{mark}{}{mark}", text.replace('\'', "''"));
    format!(
        "mappings: [{{rename: {{column: {}, to: {}}}}}]   # or leave it out: `columns: […]`",
        quoted(name),
        quoted(&format!("{start}{behind}"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_fit_is_renamed() {
        assert!(
            renamed("ID", 61, "_2")
                .starts_with("mappings: [{rename: {column: ID, to: ID_2}}]   # or")
        );
        let hint = renamed("it's äöü", 6, "");
        assert!(hint.contains("{column: 'it''s äöü', to: 'it''s '}"), "{hint}");
    }
}
