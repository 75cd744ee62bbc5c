//! What a source offers, and what it is asked for.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How a source reads a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// All of it.
    FullRefresh,
    /// What changed since its state.
    Incremental,
}

impl SyncMode {
    /// The word of the protocol.
    pub fn word(self) -> &'static str {
        match self {
            Self::FullRefresh => "full_refresh",
            Self::Incremental => "incremental",
        }
    }
}

/// What a destination does with the records of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationSyncMode {
    /// Adds them.
    Append,
    /// Has them instead of what was there.
    Overwrite,
    /// Keeps the latest of each primary key.
    AppendDedup,
    /// Changes what is there.
    Update,
    /// Marks what is there as deleted.
    SoftDelete,
}

/// The name of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamDescriptor {
    /// Its name.
    pub name: String,
    /// What its name belongs to, such as a database schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl StreamDescriptor {
    /// A stream of `namespace`, if there is one.
    pub fn new(namespace: Option<&str>, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: namespace.map(str::to_owned) }
    }
}

impl fmt::Display for StreamDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A stream that a source offers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AirbyteStream {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its records.
    #[serde(default)]
    pub json_schema: Value,
    /// How it can be read: words of the protocol, of which [`SyncMode`] knows some.
    #[serde(default, deserialize_with = "or_default")]
    pub supported_sync_modes: Vec<String>,
    /// Whether the source knows the cursor field and takes no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_defined_cursor: Option<bool>,
    /// The path of the cursor field, if nobody says another.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub default_cursor_field: Vec<String>,
    /// The paths of the primary key, which nobody may change.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub source_defined_primary_key: Vec<Vec<String>>,
    /// What its name belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Whether a full refresh can be resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_resumable: Option<bool>,
    /// Whether its records are about files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_file_based: Option<bool>,
    /// What else the source says of it; it is passed on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl AirbyteStream {
    /// Its name with its namespace.
    pub fn descriptor(&self) -> StreamDescriptor {
        StreamDescriptor { name: self.name.clone(), namespace: self.namespace.clone() }
    }

    /// Whether it can be read so. A stream that says nothing can be read in full.
    pub fn supports(&self, mode: SyncMode) -> bool {
        match self.supported_sync_modes.as_slice() {
            [] => mode == SyncMode::FullRefresh,
            modes => modes.iter().any(|m| m == mode.word()),
        }
    }
}

/// What a source offers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Its streams, in its order.
    #[serde(default)]
    pub streams: Vec<AirbyteStream>,
}

/// One stream as a connector is asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfiguredStream {
    /// All that the source said of it.
    pub stream: AirbyteStream,
    /// How it is read.
    pub sync_mode: SyncMode,
    /// What becomes of its records. Sources want to be told, too.
    pub destination_sync_mode: DestinationSyncMode,
    /// The path of the cursor field; needed when it is read incrementally.
    #[serde(default, deserialize_with = "or_default")]
    pub cursor_field: Vec<String>,
    /// The paths of the primary key; needed when records are deduplicated.
    #[serde(default, deserialize_with = "or_default")]
    pub primary_key: Vec<Vec<String>>,
    /// Grows with every refresh; destinations made since 2024 refuse to run without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<i64>,
    /// Older rows go when the stream is complete; 0 or the generation itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_generation_id: Option<i64>,
    /// The number of this sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_id: Option<i64>,
    /// Whether files are moved along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_files: Option<bool>,
    /// The object of an API that the records go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_object_name: Option<String>,
    /// What else stands there; it is passed on.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl ConfiguredStream {
    /// `stream`, read and written so; everything else is not said.
    pub fn new(
        stream: AirbyteStream,
        sync_mode: SyncMode,
        destination_sync_mode: DestinationSyncMode,
    ) -> Self {
        Self {
            stream,
            sync_mode,
            destination_sync_mode,
            cursor_field: Vec::new(),
            primary_key: Vec::new(),
            generation_id: None,
            minimum_generation_id: None,
            sync_id: None,
            include_files: None,
            destination_object_name: None,
            rest: Map::new(),
        }
    }
}

/// What a connector is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfiguredCatalog {
    /// The streams.
    pub streams: Vec<ConfiguredStream>,
}

/// JSON's `null` where a list is meant.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_comes_back_as_it_was() {
        let given = json!({
            "name": "users", "namespace": "public",
            "json_schema": {"type": "object", "properties": {"id": {"type": "integer"}}},
            "supported_sync_modes": ["full_refresh", "incremental", "telepathy"],
            "source_defined_cursor": true, "default_cursor_field": ["meta", "updated_at"],
            "source_defined_primary_key": [["id"], ["a", "b"]], "is_resumable": false,
            "something_new": {"x": [1, 2]},
        });
        let stream: AirbyteStream = serde_json::from_value(given.clone()).unwrap();
        assert_eq!(serde_json::to_value(&stream).unwrap(), given);
        assert!(stream.supports(SyncMode::Incremental));
        assert_eq!(stream.descriptor().to_string(), "public.users");

        let bare = r#"{"name":"x","default_cursor_field":null,"supported_sync_modes":null}"#;
        let bare: AirbyteStream = serde_json::from_str(bare).unwrap();
        assert!(bare.supports(SyncMode::FullRefresh) && !bare.supports(SyncMode::Incremental));
    }

    #[test]
    fn a_configured_stream_says_all_that_destinations_ask_for() {
        let stream = AirbyteStream { name: "x".to_owned(), ..AirbyteStream::default() };
        let mut stream =
            ConfiguredStream::new(stream, SyncMode::Incremental, DestinationSyncMode::AppendDedup);
        stream.cursor_field = vec!["at".to_owned()];
        stream.primary_key = vec![vec!["id".to_owned()]];
        stream.generation_id = Some(3);
        stream.minimum_generation_id = Some(0);
        stream.sync_id = Some(7);
        assert_eq!(
            serde_json::to_value(ConfiguredCatalog { streams: vec![stream] }).unwrap(),
            json!({"streams": [{
                "stream": {"name": "x", "json_schema": null, "supported_sync_modes": []},
                "sync_mode": "incremental", "destination_sync_mode": "append_dedup",
                "cursor_field": ["at"], "primary_key": [["id"]],
                "generation_id": 3, "minimum_generation_id": 0, "sync_id": 7,
            }]})
        );
    }
}
