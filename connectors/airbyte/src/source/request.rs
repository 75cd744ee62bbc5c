//! What a connector is asked for: the configured catalog, and the state that it begins with.

use std::collections::BTreeSet;

use highwater_core::plan::SYNC_GROUP_ID;
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Cursor, CursorKey, Mapping, Plan, ReadMode, Result, State, TableName, TablePlan, WriteMode,
};
use serde_json::{Map, Value};

use super::streams::{Offered, Streams, descriptor, table_name};
use crate::protocol::{
    self, ConfiguredCatalog, ConfiguredStream, DestinationSyncMode, StreamDescriptor, StreamState,
    SyncMode,
};

/// Key in the cursor of the whole source: what belongs to no stream.
pub(super) const SHARED: &str = "shared_state";
/// Key in the cursor of the whole source: the streams that had a state of their own when it moved
/// last. The state of another stream is older than the shared one, and of no use.
pub(super) const READ: &str = "streams";
/// Key in the cursor of the whole source: states of streams that were not read.
pub(super) const OTHERS: &str = "stream_states";

/// The configured catalog of a plan.
///
/// # Errors
/// `Schema` for a stream that the connector does not offer.
pub(super) fn catalog(plan: &Plan, streams: &Streams) -> Result<ConfiguredCatalog> {
    let configured = plan.tables.values().map(|table| {
        let offered = streams.get(table.name())?;
        Ok(configured(plan, table, offered))
    });
    Ok(ConfiguredCatalog { streams: configured.collect::<Result<_>>()? })
}

fn configured(plan: &Plan, table: &TablePlan, offered: &Offered) -> ConfiguredStream {
    let primary_key = primary_key(table, offered);
    let sync_mode = match table.read_mode {
        ReadMode::FullRefresh => SyncMode::FullRefresh,
        ReadMode::Incremental => SyncMode::Incremental,
    };
    let is_keyed = !primary_key.is_empty();
    let destination_sync_mode = match table.write_mode {
        WriteMode::Replace | WriteMode::ReplaceDedup => DestinationSyncMode::Overwrite,
        WriteMode::AppendDedup | WriteMode::Overwrite | WriteMode::OverwriteDeleteStale
            if is_keyed =>
        {
            DestinationSyncMode::AppendDedup
        }
        _ => DestinationSyncMode::Append,
    };
    let generation = i64::try_from(table.generation).unwrap_or(i64::MAX);
    let mut stream =
        ConfiguredStream::new(offered.stream.clone(), sync_mode, destination_sync_mode);
    stream.cursor_field = cursor_field(table, offered);
    stream.primary_key = primary_key;
    stream.generation_id = Some(generation);
    stream.minimum_generation_id = Some(if table.rebuild { generation } else { 0 });
    stream.sync_id = Some(plan.started_at.0);
    stream
}

/// The path of the cursor field: the source's where it takes no other.
fn cursor_field(table: &TablePlan, offered: &Offered) -> Vec<String> {
    let default = &offered.stream.default_cursor_field;
    let chosen = table.cursor_field.as_ref().and_then(|column| offered.path(column));
    match chosen {
        Some(path) if !offered.table.source_defined_cursor => path.clone(),
        _ => default.clone(),
    }
}

/// The paths of the primary key: the source's where it defines one. Empty where a column of the
/// key is none of the stream's.
fn primary_key(table: &TablePlan, offered: &Offered) -> Vec<Vec<String>> {
    let defined = &offered.stream.source_defined_primary_key;
    if !defined.is_empty() {
        return defined.clone();
    }
    let path = |column: String| offered.path(&column).cloned();
    key_columns(table).map(path).collect::<Option<_>>().unwrap_or_default()
}

/// The columns of the key as the source calls them.
pub(super) fn key_columns(table: &TablePlan) -> impl Iterator<Item = String> {
    let before = |column: &String| {
        table.mappings.iter().rev().fold(column.clone(), |name, mapping| match mapping {
            Mapping::Rename { column, to } if *to == name => column.clone(),
            _ => name,
        })
    };
    let key = table.target.primary_key.iter().filter(|column| *column != SYNC_GROUP_ID);
    key.map(before)
}

/// The state that the connector begins with: what the destination has of the planned tables.
pub(super) fn state(plan: &Plan, state: &State, offered: &Streams) -> Vec<protocol::State> {
    let global = state.cursors.get(&CursorKey::Global).filter(|cursor| !cursor.0.is_null());
    let read = global.and_then(|cursor| read_streams(&cursor.0));
    let mut streams = Vec::new();
    for table in plan.tables.values() {
        // A stream that was left out when the shared state moved has missed what came then, or
        // has no state any more.
        let is_behind = table.read_mode == ReadMode::Incremental
            && read.as_ref().is_some_and(|read| !read.contains(table.name()));
        let cursor = state.cursors.get(&cursor_key(table)).filter(|_| !is_behind);
        if let Some(Cursor(value)) = cursor.filter(|cursor| !cursor.0.is_null()) {
            // In the connector's own words: an empty namespace is not the same as none to all.
            let own = offered.get(table.name()).ok().map(|offered| offered.stream.descriptor());
            let descriptor = own.unwrap_or_else(|| descriptor(table.name()));
            streams.push(StreamState { descriptor, state: Some(value.clone()) });
        }
    }
    let Some(Cursor(global)) = global else {
        return streams.into_iter().map(protocol::State::Stream).collect();
    };
    let others = global.get(OTHERS).and_then(Value::as_array).into_iter().flatten();
    for other in others.filter_map(stream_state) {
        if !plan.tables.contains_key(&table_name(&other.descriptor)) {
            streams.push(other);
        }
    }
    vec![protocol::State::Global { shared: global.get(SHARED).cloned(), streams }]
}

/// Under which key the position of a table is kept.
pub(super) fn cursor_key(table: &TablePlan) -> CursorKey {
    match table.read_mode {
        ReadMode::Incremental => CursorKey::Table(table.name().clone()),
        ReadMode::FullRefresh => {
            CursorKey::Partition(table.name().clone(), FULL_REFRESH.to_owned())
        }
    }
}

/// The cursor of the whole source.
pub(super) fn global_cursor<'a>(
    shared: Option<Value>,
    read: impl Iterator<Item = &'a TableName>,
    others: &[StreamState],
) -> Value {
    let json = |descriptor: &StreamDescriptor| serde_json::to_value(descriptor).unwrap_or_default();
    let mut cursor = Map::new();
    cursor.insert(SHARED.to_owned(), shared.unwrap_or_default());
    cursor.insert(READ.to_owned(), read.map(|table| json(&descriptor(table))).collect());
    if !others.is_empty() {
        let others = others.iter().map(|other| {
            let mut object = Map::new();
            object.insert("stream_descriptor".to_owned(), json(&other.descriptor));
            object.insert("stream_state".to_owned(), other.state.clone().unwrap_or_default());
            Value::Object(object)
        });
        cursor.insert(OTHERS.to_owned(), others.collect());
    }
    Value::Object(cursor)
}

/// `None` where the cursor does not say.
fn read_streams(global: &Value) -> Option<BTreeSet<TableName>> {
    let read = global.get(READ)?.as_array()?.iter();
    read.map(|stream| serde_json::from_value(stream.clone()).ok().map(|d| table_name(&d))).collect()
}

fn stream_state(value: &Value) -> Option<StreamState> {
    let descriptor = serde_json::from_value(value.get("stream_descriptor")?.clone()).ok()?;
    Some(StreamState { descriptor, state: value.get("stream_state").cloned() })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
