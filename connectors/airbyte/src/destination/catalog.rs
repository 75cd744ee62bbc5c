//! What a destination is told before the first record: its streams, and what becomes of their rows.
//!
//! | write mode | `destination_sync_mode` | rows of older generations |
//! |---|---|---|
//! | `append`, `overwrite` without a key | `append` | stay |
//! | `overwrite`, `append-dedup` | `append_dedup` | stay |
//! | `replace` | `overwrite`; `append` where refreshes are supported for sure | go at the end |
//! | `replace-dedup`, and whatever is rebuilt | as without; only where refreshes are supported | go at the end |
//!
//! `overwrite` together with the generations is understood by all: those who know generations take
//! it for the same, the others know the word.

use highwater_core::types::record_form;
use highwater_core::{Error, Plan, ReadMode, Result, TableName, TablePlan, WriteMode};
use serde_json::{Map, Value};

use crate::protocol::{
    AirbyteStream, ConfiguredCatalog, ConfiguredStream, DestinationSyncMode, StreamDescriptor,
    SyncMode,
};
use crate::records::schema::SYSTEM;
use crate::records::{is_part, json_schema};

/// Metadata of a table's schema: the stream as its source offers it.
const STREAM: &str = "airbyte:stream";

/// The stream that a table is written as.
pub(super) fn descriptor(table: &TablePlan) -> StreamDescriptor {
    let TableName { namespace, name } = &table.target.name;
    StreamDescriptor::new(namespace.as_deref(), name)
}

/// Whether a table is told in a word that destinations without generations understand too. What
/// such a one has of an unfinished run is gone with the next.
pub(super) fn is_overwritten(table: &TablePlan, supports_refreshes: Option<bool>) -> bool {
    table.write_mode == WriteMode::Replace && supports_refreshes != Some(true)
}

/// The catalog of these tables.
///
/// # Errors
/// `Unsupported` for what the destination cannot do.
pub(super) fn configured(
    plan: &Plan,
    tables: &[&TablePlan],
    supports_refreshes: Option<bool>,
) -> Result<ConfiguredCatalog> {
    let streams = tables.iter().map(|table| {
        stream(plan, table, supports_refreshes).map_err(|e| e.context("table", table.name()))
    });
    Ok(ConfiguredCatalog { streams: streams.collect::<Result<_>>()? })
}

fn stream(
    plan: &Plan,
    table: &TablePlan,
    supports_refreshes: Option<bool>,
) -> Result<ConfiguredStream> {
    let mode = mode(table, supports_refreshes)?;
    let stream = described(table)?;
    let sync_mode = match table.read_mode {
        ReadMode::FullRefresh => SyncMode::FullRefresh,
        ReadMode::Incremental => SyncMode::Incremental,
    };
    let generation = i64::try_from(table.generation.max(1)).unwrap_or(i64::MAX);
    let cursor = table.order_by.as_ref();
    let cursor_field = cursor.map(|column| path(&stream, column)).unwrap_or_default();
    let key = table.target.primary_key.iter();
    let primary_key = key.map(|column| path(&stream, column)).collect();
    let is_replaced = matches!(table.write_mode, WriteMode::Replace | WriteMode::ReplaceDedup);
    let minimum = if is_replaced || table.rebuild { generation } else { 0 };
    Ok(ConfiguredStream {
        cursor_field,
        primary_key,
        generation_id: Some(generation),
        minimum_generation_id: Some(minimum),
        sync_id: Some(plan.started_at.0),
        ..ConfiguredStream::new(stream, sync_mode, mode)
    })
}

/// As `Destination::check_rebuild`.
///
/// # Errors
/// `Unsupported` where old and new rows would be mixed.
pub(super) fn check_rebuild(table: &TablePlan, supports_refreshes: Option<bool>) -> Result<()> {
    let rebuilt = TablePlan { rebuild: true, ..table.clone() };
    mode(&rebuilt, supports_refreshes).map(drop).map_err(|e| e.context("table", table.name()))
}

fn mode(table: &TablePlan, supports_refreshes: Option<bool>) -> Result<DestinationSyncMode> {
    let is_sure = supports_refreshes == Some(true);
    let needs_generations = table.rebuild && table.write_mode != WriteMode::Replace;
    if needs_generations && !is_sure {
        return Err(Error::unsupported(
            "Rows can be rebuilt or deduplicated beside the old ones only where the destination supports refreshes",
        )
        .context("write mode", table.write_mode)
        .hint("supports_refreshes: true, if the documentation of the destination says so"));
    }
    if table.reconcile {
        return Err(Error::unsupported(
            "The destination cannot remove rows that a sweep did not bring",
        )
        .hint("leave `deletes: reconcile` out"));
    }
    let is_keyed = !table.target.primary_key.is_empty();
    Ok(match table.write_mode {
        WriteMode::Append => DestinationSyncMode::Append,
        WriteMode::Overwrite if is_keyed => DestinationSyncMode::AppendDedup,
        WriteMode::Overwrite => DestinationSyncMode::Append,
        WriteMode::AppendDedup | WriteMode::ReplaceDedup => DestinationSyncMode::AppendDedup,
        WriteMode::Replace if is_sure => DestinationSyncMode::Append,
        WriteMode::Replace => DestinationSyncMode::Overwrite,
        WriteMode::OverwriteDeleteStale => {
            return Err(Error::unsupported("Stale rows cannot be removed at this destination"));
        }
    })
}

/// The stream as its source has it, under the target's name; its columns are those of the target.
fn described(table: &TablePlan) -> Result<AirbyteStream> {
    let target = &table.target;
    let own = target.schema.metadata().get(STREAM);
    let own = own.and_then(|text| serde_json::from_str::<AirbyteStream>(text).ok());
    let mut stream = own.clone().unwrap_or_default();
    stream.name.clone_from(&target.name.name);
    stream.namespace.clone_from(&target.name.namespace);
    if stream.supported_sync_modes.is_empty() {
        let modes = [SyncMode::FullRefresh, SyncMode::Incremental];
        stream.supported_sync_modes = modes.map(|mode| mode.word().to_owned()).to_vec();
    }
    let is_raw = target.schema.fields().iter().any(|f| record_form(f) == Some(SYSTEM));
    if is_raw && own.is_some() {
        return Ok(stream);
    }
    let of_source = stream.json_schema.get("properties").and_then(Value::as_object);
    let mut properties = Map::new();
    for field in target.schema.fields().iter().filter(|field| !is_part(field)) {
        let source = of_source.and_then(|of_source| of_source.get(field.name()));
        properties.insert(field.name().clone(), json_schema::property(source, field)?);
    }
    if of_source != Some(&properties) {
        stream.json_schema = json_schema::of_properties(properties);
    }
    Ok(stream)
}

/// Where a column is in the records. A column that was made of a nested value is not in records
/// that pass as they came, so it is looked for among the paths that the source tells.
fn path(stream: &AirbyteStream, column: &str) -> Vec<String> {
    let is_property = stream.json_schema.get("properties").is_some_and(|p| p.get(column).is_some());
    let told = stream.source_defined_primary_key.iter().chain([&stream.default_cursor_field]);
    let nested = told.into_iter().find(|path| path.len() > 1 && path.join("_") == column);
    match nested {
        Some(path) if !is_property => path.clone(),
        _ => vec![column.to_owned()],
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
