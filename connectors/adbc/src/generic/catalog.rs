//! What a driver says of a system's tables: their names and keys by `GetObjects`, their columns by
//! `GetTableSchema`.

use std::collections::BTreeMap;

use adbc_core::Connection;
use adbc_core::Optionable;
use adbc_core::error::Status;
use adbc_core::options::{ObjectDepth, OptionConnection};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatchReader, StructArray};
use arrow_schema::Schema;
use highwater_core::{Error, Result, Table, TableName};

use super::config::Spec;
use super::types;
use crate::session::Session;

/// Schemas that are the systems' own.
const SYSTEM_SCHEMAS: [&str; 4] = ["information_schema", "pg_catalog", "pg_toast", "sys"];
/// Tables and schemas that begin so are highwater's own.
const OWN: &str = "_highwater";

/// A table, as `GetObjects` tells.
struct Listed {
    name: TableName,
    primary_key: Vec<String>,
}

/// The tables that a user may sync, sorted by name; with `only`, those that a pattern names.
///
/// # Errors
/// What the driver says.
pub(super) fn tables(
    session: &mut Session,
    spec: &Spec,
    only: Option<&[String]>,
) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for listed in listed(session, spec)? {
        let (full, name) = (listed.name.to_string(), &listed.name.name);
        let mut patterns = only.into_iter().flatten();
        if only.is_some() && !patterns.any(|p| matches(p, &full) || matches(p, name)) {
            continue;
        }
        let is_asked_for = only.into_iter().flatten().any(|p| *p == full || p == name);
        match schema(session, spec, &listed.name) {
            Ok(Some(schema)) => {
                let fields = schema.fields().iter().map(|field| types::field(field)).collect();
                let table = Table::new(listed.name, fields);
                tables.push(table.with_primary_key(listed.primary_key));
            }
            Ok(None) => {}
            Err(error) if is_asked_for => return Err(error),
            // One that cannot be read stops nobody who reads others.
            Err(error) => {
                tracing::warn!(table = %listed.name, %error, "left out: it cannot be read");
            }
        }
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tables)
}

/// Whether the pattern, in which `*` matches any text, may name the table; the engine decides.
fn matches(pattern: &str, name: &str) -> bool {
    let (start, rest) = pattern.split_once('*').unwrap_or((pattern, ""));
    let end = rest.rsplit('*').next().unwrap_or_default();
    match pattern.contains('*') {
        true => name.starts_with(start) && name.ends_with(end),
        false => name == pattern,
    }
}

/// The columns of a table; `None` when there is none of that name.
///
/// # Errors
/// What the driver says.
pub(super) fn schema(
    session: &mut Session,
    spec: &Spec,
    name: &TableName,
) -> Result<Option<Schema>> {
    let (catalog, namespace) = (spec.catalog.as_deref(), name.namespace.as_deref());
    match session.connection().get_table_schema(catalog, namespace, &name.name) {
        Ok(schema) => Ok(Some(schema)),
        Err(error) if error.status == Status::NotFound => Ok(None),
        Err(error) => Err(session.failed(error).context("table", name)),
    }
}

fn listed(session: &mut Session, spec: &Spec) -> Result<Vec<Listed>> {
    let current = session.connection().get_option_string(OptionConnection::CurrentCatalog);
    let catalog = spec.catalog.clone().or_else(|| current.ok().filter(|name| !name.is_empty()));
    let objects = session.connection().get_objects(
        ObjectDepth::All,
        catalog.as_deref(),
        spec.schema.as_deref(),
        None,
        None,
        None,
    );
    let objects = objects.map_err(|error| session.failed(error))?;
    let by_catalog = in_catalogs(objects).map_err(|error| {
        Error::internal("The driver lists its tables in a form that is not the standard's")
            .caused_by(error)
    })?;
    let mut filled = by_catalog.into_iter().filter(|(_, tables)| !tables.is_empty());
    let (first, second) = (filled.next(), filled.next());
    match (first, second) {
        (Some((one, _)), Some((other, _))) => {
            Err(Error::config("There are tables in several catalogs")
                .context("key", "catalog")
                .hint(format!("catalog: {one}   # or {other}, …")))
        }
        (Some((_, tables)), None) => Ok(tables),
        _ => Ok(Vec::new()),
    }
}

type Listing<T> = Result<T, arrow_schema::ArrowError>;

/// The tables of each catalog.
fn in_catalogs(
    objects: Box<dyn RecordBatchReader + Send>,
) -> Listing<BTreeMap<String, Vec<Listed>>> {
    let mut catalogs: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    for batch in objects {
        let batch = StructArray::from(batch?);
        for row in 0..batch.len() {
            let catalog = text(&batch, "catalog_name", row).unwrap_or_default();
            let tables = catalogs.entry(catalog).or_default();
            if let Some(schema) = items(&batch, "catalog_db_schemas", row) {
                for at in 0..schema.len() {
                    in_schema(&schema, at, tables);
                }
            }
        }
    }
    Ok(catalogs)
}

fn in_schema(schemas: &StructArray, at: usize, tables: &mut Vec<Listed>) {
    let namespace = text(schemas, "db_schema_name", at).filter(|name| !name.is_empty());
    let hidden = |name: &str| {
        SYSTEM_SCHEMAS.contains(&name.to_ascii_lowercase().as_str()) || name.starts_with(OWN)
    };
    if namespace.as_deref().is_some_and(hidden) {
        return;
    }
    if let Some(found) = items(schemas, "db_schema_tables", at) {
        for row in 0..found.len() {
            let Some(name) = text(&found, "table_name", row) else { continue };
            let kind = text(&found, "table_type", row).unwrap_or_default();
            if name.starts_with(OWN) || !is_readable(&kind) {
                continue;
            }
            tables.push(Listed {
                name: TableName { namespace: namespace.clone(), name },
                primary_key: primary_key(&found, row),
            });
        }
    }
}

/// Whether rows can be read of an object of this type, in the words of any system.
fn is_readable(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let has = |word| kind.contains(word);
    (kind.is_empty() || has("table") || has("view"))
        && !["toast", "system", "temporary", "index"].into_iter().any(has)
}

fn primary_key(tables: &StructArray, row: usize) -> Vec<String> {
    if let Some(constraints) = items(tables, "table_constraints", row) {
        for at in 0..constraints.len() {
            if text(&constraints, "constraint_type", at).as_deref() != Some("PRIMARY KEY") {
                continue;
            }
            let Some(columns) = list(&constraints, "constraint_column_names", at) else { continue };
            let Some(columns) = columns.as_string_opt::<i32>() else { continue };
            return columns.iter().flatten().map(str::to_owned).collect();
        }
    }
    Vec::new()
}

fn text(rows: &StructArray, column: &str, row: usize) -> Option<String> {
    let values = rows.column_by_name(column)?.as_string_opt::<i32>()?;
    values.is_valid(row).then(|| values.value(row).to_owned())
}

fn list(rows: &StructArray, column: &str, row: usize) -> Option<ArrayRef> {
    let values = rows.column_by_name(column)?.as_list_opt::<i32>()?;
    values.is_valid(row).then(|| values.value(row))
}

/// The records in a list of records: one array of them, or none.
fn items(rows: &StructArray, column: &str, row: usize) -> Option<StructArray> {
    list(rows, column, row)?.as_struct_opt().cloned()
}
