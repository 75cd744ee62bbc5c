//! Definitions of tables and their changes.

use arrow_schema::Field;
use highwater_core::{Result, SchemaChange, Table, TableName, TablePlan, WriteMode};

use crate::derived;
use crate::dialect::Dialect;

/// The suffix of the unique index that stands in for a primary key whose columns may be NULL.
/// `describe` shows the columns of such an index as the table's primary key.
pub const KEY_INDEX: &str = "_highwater_key";

/// `CREATE TABLE IF NOT EXISTS` with columns, NOT NULL and the primary key, or, where a key
/// column may be NULL, a unique index instead. `identity` is passed to
/// [`Dialect::identity_mark`] and [`Dialect::table_annotations`].
///
/// # Errors
/// `Unsupported` when a column cannot be stored.
pub fn create_table(
    dialect: &dyn Dialect,
    table: &Table,
    identity: Option<&str>,
) -> Result<Vec<String>> {
    if !dialect.indexes_keys() {
        let mut statements = vec![create_table_without_key(dialect, table, identity)?];
        statements.extend(dialect.table_annotations(table, identity));
        return Ok(statements);
    }
    if !has_primary_key(table) {
        let mut statements = vec![create_table_without_key(dialect, table, identity)?];
        statements.extend(add_unique_index(dialect, table));
        return Ok(statements);
    }
    let key = format!(", PRIMARY KEY ({})", quoted(dialect, &table.primary_key));
    Ok(vec![create(dialect, table, &key, identity)?])
}

/// `CREATE TABLE IF NOT EXISTS` with columns and NOT NULL only; the key is added after the load
/// with [`add_key`], which is faster than keeping an index up to date.
///
/// # Errors
/// As [`create_table`].
pub fn create_table_without_key(
    dialect: &dyn Dialect,
    table: &Table,
    identity: Option<&str>,
) -> Result<String> {
    create(dialect, table, "", identity)
}

/// Gives a loaded table its key: a primary key, or, where a key column may be NULL, a unique
/// index. Nothing for a table without a key.
pub fn add_key(dialect: &dyn Dialect, table: &Table) -> Option<String> {
    if has_primary_key(table) {
        return Some(format!(
            "ALTER TABLE {} ADD PRIMARY KEY ({})",
            dialect.table(&table.name),
            quoted(dialect, &table.primary_key),
        ));
    }
    add_unique_index(dialect, table)
}

/// A unique index over the table's key, under a name of its own so that repeating this changes
/// nothing. Nothing for a table without a key, and where keys are no indexes.
pub fn add_unique_index(dialect: &dyn Dialect, table: &Table) -> Option<String> {
    if table.primary_key.is_empty() || !dialect.indexes_keys() {
        return None;
    }
    let name = dialect.derived_name(&table.name.name, KEY_INDEX);
    Some(format!(
        "CREATE UNIQUE INDEX IF NOT EXISTS {} ON {} ({})",
        dialect.quote(&name),
        dialect.table(&table.name),
        quoted(dialect, &table.primary_key),
    ))
}

/// Whether the table has a key and no column of it may be NULL.
fn has_primary_key(table: &Table) -> bool {
    !table.primary_key.is_empty()
        && table.primary_key.iter().all(|k| table.field(k).is_some_and(|f| !f.is_nullable()))
}

fn create(
    dialect: &dyn Dialect,
    table: &Table,
    key: &str,
    identity: Option<&str>,
) -> Result<String> {
    let fields = table.schema.fields().iter();
    let columns = fields.map(|field| column(dialect, field)).collect::<Result<Vec<_>>>()?;
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS {} ({}{key}{})",
        dialect.table(&table.name),
        columns.join(", "),
        dialect.identity_mark(identity),
    ))
}

/// The statements of one schema change of a planned table, including what it means for the
/// tables that belong to it (history and tombstones of `append-dedup`).
///
/// # Errors
/// `Unsupported` when a column cannot be stored.
pub fn change(
    dialect: &dyn Dialect,
    plan: &TablePlan,
    change: &SchemaChange,
    identity: Option<&str>,
) -> Result<Vec<String>> {
    let dedup = plan.write_mode == WriteMode::AppendDedup;
    let history = derived::history(plan, dialect);
    let mut statements = Vec::new();
    match change {
        SchemaChange::Recreate => {
            let drop = |name: &TableName| format!("DROP TABLE IF EXISTS {}", dialect.table(name));
            statements.push(drop(&plan.target.name));
            if dedup {
                statements.push(drop(&history.name));
                statements.push(drop(&derived::tombstones(plan, dialect).name));
            }
            statements.extend(self::change(dialect, plan, &SchemaChange::CreateTable, identity)?);
        }
        SchemaChange::CreateTable => {
            statements.extend(create_table(dialect, &plan.target, identity)?);
            if dedup {
                statements.extend(create_table(dialect, &history, None)?);
                statements.extend(create_table(
                    dialect,
                    &derived::tombstones(plan, dialect),
                    None,
                )?);
            }
        }
        SchemaChange::AddKey if !dialect.indexes_keys() => {
            statements.extend(dialect.table_annotations(&plan.target, identity));
        }
        SchemaChange::AddKey => statements.extend(add_unique_index(dialect, &plan.target)),
        SchemaChange::AddColumn(field) => {
            statements.push(add_column(dialect, &plan.target.name, field)?);
            statements.extend(dialect.column_annotations(&plan.target.name, field));
            if dedup {
                statements.push(add_column(dialect, &history.name, field)?);
                statements.extend(dialect.column_annotations(&history.name, field));
            }
        }
        SchemaChange::WidenColumn { to, .. } => {
            statements.extend(dialect.widen_column(&plan.target.name, to)?);
            if dedup {
                statements.extend(dialect.widen_column(&history.name, to)?);
            }
            let tombstones = derived::tombstones(plan, dialect);
            if dedup && tombstones.field(to.name()).is_some() {
                statements.extend(dialect.widen_column(&tombstones.name, to)?);
            }
        }
        SchemaChange::DropNotNull(field) => {
            statements.extend(dialect.drop_not_null(&plan.target.name, field.name()));
        }
    }
    Ok(statements)
}

/// The columns of a staging table with [`Dialect::staging_type`], for a `CREATE … TABLE name (…)`
/// that each system spells itself.
///
/// # Errors
/// `Unsupported` when a column cannot be stored.
pub fn staging_columns(dialect: &dyn Dialect, plan: &TablePlan) -> Result<String> {
    let schema = derived::staging_schema(plan);
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            Ok(format!("{} {}", dialect.quote(field.name()), dialect.staging_type(field)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(columns.join(", "))
}

fn add_column(dialect: &dyn Dialect, table: &TableName, field: &Field) -> Result<String> {
    // Rows that are there already have no value for it, so it cannot be NOT NULL.
    let definition = column(dialect, &field.clone().with_nullable(true))?;
    Ok(format!("ALTER TABLE {} ADD COLUMN {definition}", dialect.table(table)))
}

fn column(dialect: &dyn Dialect, field: &Field) -> Result<String> {
    let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
    Ok(format!("{} {}{not_null}", dialect.quote(field.name()), dialect.column_type(field)?))
}

/// Column names, quoted and separated by commas.
pub fn quoted<S: AsRef<str>>(dialect: &dyn Dialect, names: &[S]) -> String {
    names.iter().map(|n| dialect.quote(n.as_ref())).collect::<Vec<_>>().join(", ")
}
