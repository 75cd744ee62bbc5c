//! Tables as the streams of a catalog, and what a configured catalog asks for.

use std::collections::BTreeSet;

use highwater_airbyte::protocol::{
    AirbyteStream, ConfiguredCatalog, ConfiguredStream, DestinationSyncMode, SyncMode,
};
use highwater_airbyte::records::json_schema;
use highwater_core::{Error, ReadMode, Result, Table, TableName, TableRecord, WriteMode};
use highwater_engine::selection::matches;
use highwater_engine::{ColumnOptions, Generation, TableOptions};
use serde_json::Value;

use crate::jobs;
use crate::served::settings::Settings;

/// A table as a stream of a catalog.
///
/// # Errors
/// `Unsupported` for a column that JSON cannot carry.
pub(super) fn stream(table: &Table, settings: &Settings) -> Result<AirbyteStream> {
    let own = own_options(&table.name, settings).unwrap_or_default();
    let key = own.primary_key.as_ref().unwrap_or(&table.primary_key);
    let cursor = own.cursor.as_ref().or(table.cursor_field.as_ref());
    let fields = table.schema.fields().iter().map(AsRef::as_ref);
    let mut modes = vec![SyncMode::FullRefresh];
    // Whoever asks may choose any column as the cursor field. PyAirbyte takes the last mode that it
    // is offered also where nobody has: `read_mode` in the settings offers less.
    if own.read_mode != Some(ReadMode::FullRefresh) {
        modes.push(SyncMode::Incremental);
    }
    Ok(AirbyteStream {
        name: table.name.name.clone(),
        namespace: table.name.namespace.clone(),
        json_schema: json_schema::of_fields(fields)?,
        supported_sync_modes: modes.iter().map(|mode| mode.word().to_owned()).collect(),
        source_defined_cursor: Some(table.source_defined_cursor),
        default_cursor_field: cursor.cloned().into_iter().collect(),
        source_defined_primary_key: key.iter().map(|column| vec![column.clone()]).collect(),
        is_resumable: Some(false),
        ..AirbyteStream::default()
    })
}

/// What the settings of the connector say of a table.
fn own_options(table: &TableName, settings: &Settings) -> Option<TableOptions> {
    let own = &settings.table_options;
    let exact = own.iter().find(|(name, _)| !name.contains('*') && matches(name, table));
    let found = exact.or_else(|| own.iter().find(|(name, _)| matches(name, table)));
    found.map(|(_, own)| jobs::table_options(own))
}

/// Reads a configured catalog.
///
/// # Errors
/// `Config` for anything that is none.
pub(super) fn parse(catalog: Value) -> Result<ConfiguredCatalog> {
    serde_json::from_value(catalog).map_err(|e| {
        Error::config(format!("The file of `--catalog` is no configured catalog: {e}"))
    })
}

/// The name of a stream as that of a table. PyAirbyte gives the empty text for none.
pub(super) fn table_name(stream: &AirbyteStream) -> TableName {
    let namespace = stream.namespace.clone().filter(|namespace| !namespace.is_empty());
    TableName { namespace, name: stream.name.clone() }
}

/// How a stream is to be read.
///
/// # Errors
/// `Config` for a stream that the source does not have.
pub(super) fn read_options(
    asked: &ConfiguredStream,
    discovered: &[Table],
    settings: &Settings,
) -> Result<TableOptions> {
    let name = table_name(&asked.stream);
    let table = discovered.iter().find(|table| table.name == name).ok_or_else(|| {
        Error::config("The source has no such stream")
            .context("stream", &name)
            .hint("discover the streams again")
    })?;
    let mut options = own_options(&name, settings).unwrap_or_default();
    options.name = name.to_string();
    // How rows are written is the caller's business.
    options.write_mode = None;
    options.history_retention_seconds = None;
    options.read_mode = Some(match asked.sync_mode {
        SyncMode::Incremental => ReadMode::Incremental,
        SyncMode::FullRefresh => ReadMode::FullRefresh,
    });
    match &asked.cursor_field[..] {
        [cursor] if !table.source_defined_cursor => options.cursor = Some(cursor.clone()),
        [] | [_] => {}
        _ => {
            return Err(Error::unsupported("A cursor field inside of a column cannot be used")
                .context("stream", &name)
                .hint("choose a column as the cursor field"));
        }
    }
    let has_cursor =
        options.cursor.is_some() || table.cursor_field.is_some() || table.source_defined_cursor;
    if asked.sync_mode == SyncMode::Incremental && !has_cursor {
        return Err(Error::config("An incremental read needs a cursor field")
            .context("stream", &name)
            .hint(format!(
                "choose one for the stream, or name it in the configuration: table_options: \
                 {{{}: {{cursor: updated_at}}}}; without one: {{read_mode: full_refresh}}",
                name.name
            )));
    }
    if options.columns.is_none() {
        options.columns = columns(asked, table, &options);
    }
    Ok(options)
}

/// How a stream that comes in is to be written. `record` is what is known of the table from before.
///
/// # Errors
/// `Unsupported` for a mode that we do not have; `Config` for generations that make no sense.
pub(super) fn write_options(
    asked: &ConfiguredStream,
    settings: &Settings,
    record: Option<&TableRecord>,
) -> Result<TableOptions> {
    let name = table_name(&asked.stream);
    let mut options = own_options(&name, settings).unwrap_or_default();
    options.name = name.to_string();
    options.read_mode = Some(ReadMode::Incremental);
    options.write_mode = Some(match asked.destination_sync_mode {
        DestinationSyncMode::Append | DestinationSyncMode::Overwrite => WriteMode::Append,
        DestinationSyncMode::AppendDedup => WriteMode::AppendDedup,
        DestinationSyncMode::Update | DestinationSyncMode::SoftDelete => {
            return Err(Error::unsupported("The destination cannot change single rows of a table")
                .context("stream", &name)
                .hint("choose append, overwrite or append_dedup"));
        }
    });
    options.generation = Some(generation(asked, record).map_err(|e| e.context("stream", &name))?);
    Ok(options)
}

/// The generation of the rows that come.
///
/// `overwrite` of a full read means that the old rows go, also where generations are not counted,
/// or are one and the same for ever: then the next one is ours to count. Everywhere else old rows
/// go only when a newer generation than theirs comes.
fn generation(asked: &ConfiguredStream, record: Option<&TableRecord>) -> Result<Generation> {
    let told = |id: Option<i64>| {
        let id = u64::try_from(id.unwrap_or(0));
        id.map_err(|_| Error::config("A generation is less than 0"))
    };
    let id = told(asked.generation_id)?;
    let minimum = told(asked.minimum_generation_id)?;
    if minimum > id || (0 < minimum && minimum < id) {
        return Err(Error::config("`minimum_generation_id` is neither 0 nor `generation_id`"));
    }
    let before = record.map_or(0, |record| record.generation);
    let replaces = asked.destination_sync_mode == DestinationSyncMode::Overwrite
        && asked.sync_mode == SyncMode::FullRefresh;
    if replaces {
        let id = id.max(before + 1);
        return Ok(Generation { id, minimum: id });
    }
    // Whoever does not count goes on with what is there.
    let id = if asked.generation_id.is_none() { before } else { id };
    // Rows that were to replace others wait beside them, and their states were given back: they
    // go on to replace them, also when nobody asks for that a second time.
    let is_replacing = record.is_some_and(|record| record.rebuild && record.generation == id);
    let minimum = if is_replacing { id } else { minimum };
    Ok(Generation { id, minimum })
}

/// The columns that were chosen, where these are not all; the key and the cursor always.
fn columns(
    asked: &ConfiguredStream,
    table: &Table,
    options: &TableOptions,
) -> Option<Vec<ColumnOptions>> {
    let properties = asked.stream.json_schema.get("properties")?.as_object()?;
    let key = options.primary_key.as_ref().unwrap_or(&table.primary_key);
    let cursor = options.cursor.as_ref().or(table.cursor_field.as_ref());
    let needed: BTreeSet<&str> = key.iter().chain(cursor).map(String::as_str).collect();
    let chosen: Vec<ColumnOptions> = table
        .column_names()
        .filter(|name| properties.contains_key(*name) || needed.contains(name))
        .map(|name| ColumnOptions { name: name.to_owned(), as_type: None })
        .collect();
    let is_all = chosen.len() == table.schema.fields().len() || properties.is_empty();
    (!is_all).then_some(chosen)
}
