//! The tables of the destination: made, altered and checked inside the transaction of the rows
//! that need it.

use arrow_array::TimestampMicrosecondArray;
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::text::TextColumn;
use highwater_core::{Error, Instant, LogicalType, Plan, Result, SchemaChange, TablePlan};
use highwater_sql::Dialect;
use highwater_sql::{belongings, ddl};
use rusqlite::Connection;
use rusqlite::ffi::ErrorCode;
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::{self, Relation};
use crate::config::Location;
use crate::connection::explain;
use crate::dialect::SqliteDialect;
use crate::source::described;
use crate::types;

/// What the identities of all tables begin with that a sync makes.
pub(crate) fn identity_prefix(sync: &str) -> String {
    format!("{:016x}-", xxh3_64(sync.as_bytes()))
}

/// The identity of the tables that a run makes.
pub(crate) fn identity_of(plan: &Plan) -> String {
    format!("{}{}", identity_prefix(&plan.sync), plan.sync_id)
}

/// Makes the table of the plan fit its rows; returns the statements that were needed. Repeating
/// it changes nothing.
///
/// # Errors
/// `Schema` when the table is not as the plan has seen it.
pub(crate) fn prepare(
    connection: &Connection,
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
) -> Result<Vec<String>> {
    check_columns(table)?;
    let token = identity_of(plan);
    let mut ran = Vec::new();
    for change in &table.changes {
        if is_done(connection, table, change, &token).map_err(|e| explain(e, &location.path))? {
            continue;
        }
        let at_table = belongings::to_change(table, change);
        for statement in ddl::change(&SqliteDialect, &at_table, change, Some(&token))? {
            if run(connection, &statement).map_err(|e| refused(e, location, table, change))? {
                ran.push(statement);
            }
        }
    }
    if !table.rebuild {
        prepare_belongings(connection, location, table, &mut ran)?;
        check_affinities(connection, location, table)?;
    }
    Ok(ran)
}

/// Refuses a table without columns, which other systems have.
///
/// # Errors
/// `Unsupported` naming the table.
pub(crate) fn check_columns(table: &TablePlan) -> Result<()> {
    if !table.target.schema.fields().is_empty() {
        return Ok(());
    }
    Err(Error::unsupported("SQLite has no tables without columns")
        .context("table", table.name())
        .hint(format!("skip_tables: [{}]", table.name())))
}

/// Makes history and tombstones as the rows need them, whatever mode the table was written in.
fn prepare_belongings(
    connection: &Connection,
    location: &Location,
    table: &TablePlan,
    ran: &mut Vec<String>,
) -> Result<()> {
    let failed = |error| explain(error, &location.path);
    for belonging in belongings::plans(table, &SqliteDialect) {
        let there = described(connection, &belonging.target.name.name).map_err(failed)?;
        let changes = match there {
            None => vec![SchemaChange::CreateTable],
            Some((_, there)) => {
                belongings::missing(&belonging, &there, types::stored_field, |_, _| true)?
            }
        };
        for change in changes {
            for statement in ddl::change(&SqliteDialect, &belonging, &change, None)? {
                connection.execute_batch(&statement).map_err(failed)?;
                ran.push(statement);
            }
        }
    }
    Ok(())
}

/// Runs a statement; `false` when another writer of this run has added the column already.
fn run(connection: &Connection, statement: &str) -> rusqlite::Result<bool> {
    match connection.execute_batch(statement) {
        Err(error) if error.to_string().contains("duplicate column name") => Ok(false),
        other => other.map(|()| true),
    }
}

/// Whether an earlier writer of this run has made the change.
fn is_done(
    connection: &Connection,
    table: &TablePlan,
    change: &SchemaChange,
    made_by: &str,
) -> rusqlite::Result<bool> {
    let Some(relation) = catalog::relation(connection, &table.target.name.name)? else {
        return Ok(false);
    };
    Ok(match change {
        SchemaChange::CreateTable | SchemaChange::AddKey | SchemaChange::AddColumn(_) => false,
        SchemaChange::Recreate => {
            let token = catalog::identity(connection, &table.target.name.name)?;
            token.as_deref() == Some(made_by)
        }
        SchemaChange::WidenColumn { to, .. } => {
            let wanted = types::declared_type(to).unwrap_or_default();
            relation.declared(to.name()) == Some(wanted.as_str())
        }
        SchemaChange::DropNotNull(field) => !relation.is_not_null(field.name()),
    })
}

fn refused(
    error: rusqlite::Error,
    location: &Location,
    table: &TablePlan,
    change: &SchemaChange,
) -> Error {
    let at = |error: Error| error.context("table", &table.target.name);
    match (change, error.sqlite_error_code()) {
        (
            SchemaChange::AddKey | SchemaChange::CreateTable,
            Some(ErrorCode::ConstraintViolation),
        ) => at(Error::schema("The destination table holds rows with the same key")
            .context("primary key", table.target.primary_key.join(", "))
            .hint("remove the older ones, or give the table another name: `target: …`")
            .caused_by(error)),
        (SchemaChange::WidenColumn { to, .. }, Some(ErrorCode::Unknown)) => at(Error::schema(
            "SQLite cannot change the type of a column that an index or key needs",
        )
        .context("column", to.name())
        .context("type", types::declared_type(to).unwrap_or_default())
        .hint("drop the index, or give the table another name: `target: …`")
        .caused_by(error)),
        _ => at(explain(error, &location.path)),
    }
}

/// Refuses a table of the user's own in which text would not stay what it is: SQLite turns text
/// that looks like a number into one where the column is declared to hold numbers.
fn check_affinities(connection: &Connection, location: &Location, table: &TablePlan) -> Result<()> {
    let relation = catalog::relation(connection, &table.target.name.name)
        .map_err(|error| explain(error, &location.path))?;
    let Some(relation) = relation else { return Ok(()) };
    for field in table.target.schema.fields() {
        if let Some(declared) = changes_text(&relation, field)? {
            return Err(Error::schema("The destination column would turn text into numbers")
                .context("table", &table.target.name)
                .context("column", field.name())
                .context("type at the destination", declared)
                .context("type needed", types::declared_type(field)?)
                .hint("give the table another name (`target: …`), or change the column's type"));
        }
    }
    Ok(())
}

fn changes_text<'a>(relation: &'a Relation, field: &Field) -> Result<Option<&'a str>> {
    let at_risk = match LogicalType::of(field)? {
        LogicalType::Text | LogicalType::Null | LogicalType::Json | LogicalType::Numeric => true,
        LogicalType::Integer { bits: 64, signed: false } => true,
        // A float keeps so many digits.
        LogicalType::Decimal { precision, .. } => precision > 15,
        _ => false,
    };
    let Some(declared) = relation.declared(field.name()) else { return Ok(None) };
    let upper = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    let keeps_text =
        !has(&["INT"]) && (upper.trim().is_empty() || has(&["CHAR", "CLOB", "TEXT", "BLOB"]));
    Ok((at_risk && !keeps_text).then_some(declared))
}

/// An instant as it is stored.
///
/// # Errors
/// `Internal` never, as long as instants have a text.
pub(crate) fn instant_text(instant: Instant) -> Result<String> {
    let data_type = types::utc(TimeUnit::Microsecond);
    let array = TimestampMicrosecondArray::from(vec![instant.0]).with_timezone("UTC");
    let mut text = String::new();
    TextColumn::new(&Field::new("instant", data_type, false), &array)?.write(0, &mut text);
    Ok(text)
}

/// `INSERT INTO table (columns) VALUES (?, …)`.
pub(crate) fn insert_statement(table: &str, columns: &[&str]) -> String {
    let names: Vec<_> = columns.iter().map(|name| SqliteDialect.quote(name)).collect();
    let parameters = vec!["?"; columns.len()].join(", ");
    format!("INSERT INTO {table} ({}) VALUES ({parameters})", names.join(", "))
}

/// An instant as a column of this type stores it, for statements that compare the two; `None` for
/// a column that holds no times. CloudQuery's own tables have wall-clock times in UTC.
///
/// # Errors
/// As [`instant_text`].
pub(crate) fn instant_in(field: &Field, instant: Instant) -> Result<Option<String>> {
    Ok(match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Some(instant_text(instant)?),
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            Some(instant_text(instant)?.trim_end_matches('Z').to_owned())
        }
        _ => None,
    })
}
