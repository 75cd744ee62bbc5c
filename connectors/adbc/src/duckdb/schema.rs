//! The tables of the destination: made, altered and checked inside the transaction of the rows
//! that need it.

use std::sync::Arc;

use arrow_array::TimestampMicrosecondArray;
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::{
    Error, ErrorKind, Instant, Plan, Result, SchemaChange, Table, TableName, TablePlan,
};
use highwater_sql::Dialect;
use highwater_sql::{belongings, ddl};
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::{self, Relation, number};
use super::dialect::DuckDbDialect;
use super::mark::Mark;
use super::types::{Stored, stored_field};
use crate::session::{Parameter, Session};

/// What the identities of all tables begin with that a sync makes.
pub(crate) fn identity_prefix(sync: &str) -> String {
    format!("{:016x}-", xxh3_64(sync.as_bytes()))
}

/// The identity of the tables that a run makes.
pub(crate) fn identity_of(plan: &Plan) -> String {
    format!("{}{}", identity_prefix(&plan.sync), plan.sync_id)
}

/// The token of a table; `None` for tables that others made, and where there is none.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn identity(session: &mut Session, name: &TableName) -> Result<Option<String>> {
    Ok(catalog::relation(session, name)?.and_then(|relation| relation.mark().identity))
}

/// Makes the table of the plan fit its rows; returns the statements that were needed. Repeating
/// it changes nothing.
///
/// # Errors
/// `Schema` when the table is not as the plan has seen it.
pub(crate) fn prepare(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
) -> Result<Vec<String>> {
    let token = identity_of(plan);
    let mut ran = Vec::new();
    for change in &table.changes {
        let there = catalog::relation(session, &table.target.name)?;
        if there.as_ref().is_some_and(|there| is_done(there, table, change, &token)) {
            continue;
        }
        for statement in statements(session, table, change, &token, there.as_ref())? {
            session.run(&statement).map_err(|error| refused(error, table, change))?;
            ran.push(statement);
        }
    }
    if !table.rebuild {
        prepare_belongings(session, table, &mut ran)?;
    }
    Ok(ran)
}

fn statements(
    session: &mut Session,
    table: &TablePlan,
    change: &SchemaChange,
    token: &str,
    there: Option<&Relation>,
) -> Result<Vec<String>> {
    if *change == SchemaChange::AddKey {
        let Some(there) = there else { return Ok(Vec::new()) };
        if !is_unique(session, &table.target)? {
            return Err(Error::schema("The destination table holds rows with the same key")
                .context("table", &table.target.name)
                .context("primary key", table.target.primary_key.join(", "))
                .hint("remove the older ones, or give the table another name: `target: …`"));
        }
        let mark = Mark { key: table.target.primary_key.clone(), ..there.mark() };
        return Ok(vec![mark.statement(&there.name, there.comment.as_deref())]);
    }
    let mut statements = Vec::new();
    if let (SchemaChange::CreateTable | SchemaChange::Recreate, Some(schema)) =
        (change, &table.target.name.namespace)
    {
        statements.push(format!("CREATE SCHEMA IF NOT EXISTS {}", DuckDbDialect.quote(schema)));
    }
    let at_table = belongings::to_change(table, change);
    statements.extend(ddl::change(&DuckDbDialect, &at_table, change, Some(token))?);
    Ok(statements)
}

/// Whether no two rows of a table have the same key, NULL being a value.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn is_unique(session: &mut Session, table: &Table) -> Result<bool> {
    let from = DuckDbDialect.table(&table.name);
    let key = ddl::quoted(&DuckDbDialect, &table.primary_key);
    let one = match table.primary_key.as_slice() {
        [only] => table.field(only).is_some_and(|field| !field.is_nullable()),
        _ => false,
    };
    // The first takes half the time, and does not count NULL.
    let sql = match one {
        true => format!("SELECT count(*) - count(DISTINCT {key}) FROM {from}"),
        false => format!(
            "SELECT count(*) FROM (SELECT 1 FROM {from} GROUP BY {key} HAVING count(*) > 1 LIMIT 1)"
        ),
    };
    let found = session.fetch(&sql, &[])?;
    Ok(number(&found, 0, 0) == Some(0))
}

/// Makes history and tombstones as the rows need them, whatever mode the table was written in.
fn prepare_belongings(
    session: &mut Session,
    table: &TablePlan,
    ran: &mut Vec<String>,
) -> Result<()> {
    for belonging in belongings::plans(table, &DuckDbDialect) {
        let there = catalog::relation(session, &belonging.target.name)?;
        let changes = match there {
            None => vec![SchemaChange::CreateTable],
            Some(there) => {
                belongings::missing(&belonging, &there.table(), stored_field, |_, _| true)?
            }
        };
        for change in changes {
            for statement in ddl::change(&DuckDbDialect, &belonging, &change, None)? {
                session.run(&statement)?;
                ran.push(statement);
            }
        }
    }
    Ok(())
}

/// Whether an earlier writer of this run has made the change.
fn is_done(there: &Relation, table: &TablePlan, change: &SchemaChange, made_by: &str) -> bool {
    match change {
        SchemaChange::CreateTable => true,
        SchemaChange::AddKey => there.table().primary_key == table.target.primary_key,
        SchemaChange::AddColumn(field) => there.column(field.name()).is_some(),
        SchemaChange::Recreate => there.mark().identity.as_deref() == Some(made_by),
        SchemaChange::WidenColumn { to, .. } => {
            let (column, wanted) = (there.column(to.name()), Stored::of(to));
            let (Some(column), Ok(wanted)) = (column, wanted) else { return false };
            column.declared == wanted.sql && column.meaning == wanted.meaning
        }
        SchemaChange::DropNotNull(field) => {
            !there.column(field.name()).is_some_and(|column| column.not_null)
        }
    }
}

fn refused(error: Error, table: &TablePlan, change: &SchemaChange) -> Error {
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let at = |error: Error| error.context("table", &table.target.name);
    match change {
        SchemaChange::WidenColumn { to, .. } if cause.starts_with("Dependency Error") => {
            at(Error::schema("DuckDB cannot change the type of a column that an index needs")
                .context("column", to.name())
                .hint("drop the index, or give the table another name: `target: …`")
                .caused_by(error))
        }
        SchemaChange::WidenColumn { to, .. } if error.kind() == ErrorKind::Data => {
            at(error.with_kind(ErrorKind::Schema).context("column", to.name()))
        }
        _ => at(error),
    }
}

/// An instant as a parameter.
pub(crate) fn instant(instant: Instant) -> Parameter {
    let value = TimestampMicrosecondArray::from(vec![instant.0]);
    Parameter(Arc::new(value.with_timezone("UTC")))
}

/// An instant as a column of this type stores it, for statements that compare the two; `None` for
/// a column that holds no times. CloudQuery's own tables have wall-clock times in UTC.
pub(crate) fn instant_in(field: &Field, at: Instant) -> Option<Parameter> {
    match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Some(instant(at)),
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            Some(Parameter(Arc::new(TimestampMicrosecondArray::from(vec![at.0]))))
        }
        _ => None,
    }
}
