//! A table as CloudQuery sends it: an Arrow schema with metadata, and nothing after it.
//!
//! CloudQuery's tables have a name without a namespace. What it says of a table and we have no
//! word for (title, name of the key's constraint, permissions, sensitive columns, …) stays in the
//! metadata of [`Table::schema`] under CloudQuery's own keys, and is written again from there, so
//! that it gets from a plugin to another.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use arrow_ipc::MetadataVersion;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use highwater_core::{Error, LogicalType, Result, Table, TableName};

use super::frames::{END, Frames, parse_schema};
use super::size::ALIGNMENT;
use super::types::{Column, INCREMENTAL_KEY, PRIMARY_KEY, TRUE, is_marked, marked, unmarked};

const NAME: &str = "cq:table_name";
const DESCRIPTION: &str = "cq:table_description";
const PARENT: &str = "cq:table_depends_on";
const INCREMENTAL: &str = "cq:extension:incremental";
/// CloudQuery's metadata key: the table's title.
pub const TITLE: &str = "cq:table_title";
/// CloudQuery's metadata key: the name of the primary key's constraint.
pub const CONSTRAINT_NAME: &str = "cq:extension:constraint_name";
const PREFIX: &str = "cq:";

/// Namespaces whose name nobody would miss in a table's name.
const DEFAULT_NAMESPACES: [&str; 2] = ["public", "main"];

/// The table that a message describes, in our types.
///
/// # Errors
/// `Data` for bytes that are no schema, for a table without a name and for two columns of one
/// name; `Schema` and `Unsupported` for a column as [`Column::inward`].
pub fn decode_table(stream: &[u8]) -> Result<Table> {
    let schema = parse_schema(&Frames::new(&Bytes::copy_from_slice(stream)).schema()?)?;
    Ok(read(&schema)?.0)
}

/// The table as a message: a whole Arrow stream without rows.
///
/// # Errors
/// `Unsupported` for a column as [`Column::outward`].
pub fn encode_table(table: &Table) -> Result<Bytes> {
    let mut stream = schema_message(&schema_of(table)?.0)?;
    stream.extend_from_slice(&END);
    Ok(stream.into())
}

/// The name that the table has on the wire. CloudQuery knows no namespaces: a default one is left
/// out, any other becomes a prefix (`shop.orders` is `shop_orders`), because two tables of one
/// name would become one.
pub fn wire_name(name: &TableName) -> Cow<'_, str> {
    match name.namespace.as_deref() {
        Some(namespace) if !DEFAULT_NAMESPACES.contains(&namespace) => {
            Cow::Owned(format!("{namespace}_{}", name.name))
        }
        _ => Cow::Borrowed(&name.name),
    }
}

/// The table, and for each column what makes its values ours.
pub(super) fn read(schema: &Schema) -> Result<(Table, Vec<Column>)> {
    let metadata = schema.metadata();
    let text = |key: &str| metadata.get(key).filter(|text| !text.is_empty());
    let name = text(NAME).ok_or_else(|| {
        Error::data("A plugin sent a table without a name").context("missing", NAME)
    })?;
    let in_table = |e: Error| e.context("table", name);
    let columns = schema
        .fields()
        .iter()
        .map(|field| Column::inward(field))
        .collect::<Result<Vec<_>>>()
        .map_err(in_table)?;
    let mut seen = HashSet::new();
    if let Some(twice) = schema.fields().iter().find(|field| !seen.insert(field.name())) {
        let error = Error::data("A plugin sent a table with two columns of one name");
        return Err(in_table(error.context("column", twice.name())));
    }
    let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
    let marked_names = |mark: &'static str| {
        schema.fields().iter().filter(move |f| is_marked(f, mark)).map(|f| f.name().clone())
    };
    let mut table =
        Table::new(TableName::new(name), fields).with_primary_key(marked_names(PRIMARY_KEY));
    table.source_defined_cursor = metadata.get(INCREMENTAL).is_some_and(|value| value == TRUE);
    table.parent = text(PARENT).map(TableName::new);
    table.description = text(DESCRIPTION).cloned();
    if table.source_defined_cursor {
        let keys: Vec<String> = marked_names(INCREMENTAL_KEY).collect();
        table.cursor_field = only(keys).filter(|key| {
            table.field(key).is_some_and(|f| LogicalType::of(f).is_ok_and(|t| t.has_order()))
        });
    }
    // An empty title is written anyhow.
    let kept = metadata.iter().filter(|(key, value)| {
        key.starts_with(PREFIX)
            && ![NAME, DESCRIPTION, PARENT, INCREMENTAL].contains(&key.as_str())
            && (*key != TITLE || !value.is_empty())
    });
    let kept: HashMap<String, String> = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
    table.schema = Schema::new_with_metadata(table.schema.fields().clone(), kept).into();
    Ok((table, columns))
}

fn only(mut names: Vec<String>) -> Option<String> {
    if names.len() == 1 { names.pop() } else { None }
}

/// The schema on the wire, and for each column what makes its values fit.
pub(super) fn schema_of(table: &Table) -> Result<(Schema, Vec<Column>)> {
    let mut columns = table
        .schema
        .fields()
        .iter()
        .map(|field| Column::outward(field))
        .collect::<Result<Vec<_>>>()
        .map_err(|e| e.context("table", &table.name))?;
    for column in &mut columns {
        let field = unmarked(column.field.clone(), PRIMARY_KEY);
        let name = field.name();
        let (key, cursor) =
            (table.primary_key.contains(name), table.cursor_field.as_ref() == Some(name));
        let field = if key { marked(field, PRIMARY_KEY) } else { field };
        column.field = if cursor { marked(field, INCREMENTAL_KEY) } else { field };
    }
    let own = table.schema.metadata().iter().filter(|(key, _)| key.starts_with(PREFIX));
    let mut metadata: HashMap<String, String> = own.map(|(k, v)| (k.clone(), v.clone())).collect();
    // The Python SDK breaks where one of these is missing.
    metadata.entry(TITLE.to_owned()).or_default();
    // Absent where there is none: the Python SDK makes a parent of an empty name.
    metadata.remove(PARENT);
    if let Some(parent) = &table.parent {
        metadata.insert(PARENT.to_owned(), wire_name(parent).into_owned());
    }
    for (key, value) in [
        (NAME, wire_name(&table.name).as_ref()),
        (DESCRIPTION, table.description.as_deref().unwrap_or_default()),
        (INCREMENTAL, if table.source_defined_cursor { TRUE } else { "false" }),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
    let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
    Ok((Schema::new_with_metadata(fields, metadata), columns))
}

/// How streams are written: plain, and padded no more than has to be, since most of them are
/// small.
pub(super) fn options() -> Result<IpcWriteOptions> {
    Ok(IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?)
}

/// The start of a stream: its schema.
pub(super) fn schema_message(schema: &Schema) -> Result<Vec<u8>> {
    let options = options()?;
    let mut dictionaries = DictionaryTracker::new(true);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut dictionaries,
        &options,
    );
    let mut stream = Vec::with_capacity(encoded.ipc_message.len() + 32);
    write_message(&mut stream, encoded, &options)?;
    Ok(stream)
}
