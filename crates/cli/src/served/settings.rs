//! The `spec` that a plugin is given: the connector's own keys, and `table_options`.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_core::{Connector, Destination, Error, Result, Role, Source};
use schemars::schema_for;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::spec::TableSettings;
use crate::config::tables;

/// The key that is ours and not the connector's: settings of single tables, by their names.
pub(crate) const TABLE_OPTIONS: &str = "table_options";

/// What a plugin was told.
pub(crate) struct Settings {
    connector: &'static dyn Connector,
    spec: Value,
    pub(crate) table_options: BTreeMap<String, TableSettings>,
    destination: OnceCell<Arc<dyn Destination>>,
}

impl Settings {
    /// Takes the settings apart. The connector has not looked at its own yet.
    ///
    /// # Errors
    /// `Config` naming the table whose options are wrong.
    pub(crate) fn new(connector: &'static dyn Connector, mut spec: Value) -> Result<Self> {
        let options = spec.as_object_mut().and_then(|spec| spec.remove(TABLE_OPTIONS));
        let options: Map<String, Value> = match options {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(options)) => options,
            Some(_) => {
                return Err(Error::config("`table_options` is no mapping")
                    .context("key", TABLE_OPTIONS)
                    .hint("table_options: {orders: {primary_key: [id], cursor: updated_at}}"));
            }
        };
        let options = options.into_iter().map(|(table, mut settings)| {
            if let Some(settings) = settings.as_object_mut() {
                settings.insert("name".to_owned(), Value::String(table.clone()));
            }
            let parsed = serde_json::from_value(settings).map_err(|e| {
                Error::config(format!("The options of a table are wrong: {e}"))
                    .context("key", format!("{TABLE_OPTIONS}.{table}"))
            });
            let mut parsed: TableSettings = parsed?;
            tables::settle(&mut parsed, false).map_err(|(key, error)| {
                error.context("key", format!("{TABLE_OPTIONS}.{table}.{key}"))
            })?;
            Ok((table, parsed))
        });
        let table_options = options.collect::<Result<_>>()?;
        Ok(Self { connector, spec, table_options, destination: OnceCell::new() })
    }

    /// Whether the connector understands its settings, as a source or as a destination.
    ///
    /// # Errors
    /// `Config` naming the key, where it does not.
    pub(crate) async fn check(&self) -> Result<()> {
        let source = match self.source().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match self.destination().await {
            Ok(_) => Ok(()),
            Err(error) if error.to_string() == source.to_string() => Err(error),
            Err(error) => Err(error.context("as a source", source)),
        }
    }

    /// Whether the system can be worked with, as a source or as a destination.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn reach(&self) -> Result<()> {
        let read = match self.source().await {
            Ok(source) => source.check().await,
            Err(error) => Err(error),
        };
        let Err(error) = read else { return Ok(()) };
        match self.destination().await {
            Ok(destination) => destination.check().await,
            // It is a source.
            Err(_) => Err(error),
        }
    }

    /// A new source: one serves one run.
    ///
    /// # Errors
    /// `Config` naming the key that is wrong for a source.
    pub(crate) async fn source(&self) -> Result<Arc<dyn Source>> {
        self.connector.source(self.spec.clone()).await.map(Arc::from)
    }

    /// Tells the system that is read from others, in 8 characters: the same ones in every process
    /// and version. By where it is, if the connector can say that; else by its settings.
    ///
    /// # Errors
    /// What the source says when it is asked where it is.
    pub(crate) async fn system(&self, source: &dyn Source) -> Result<String> {
        let place = match source.place().await? {
            Some(place) => place,
            None => canonical(&self.spec),
        };
        let hash = xxh3_64(format!("{} {place}", self.connector.kind()).as_bytes());
        Ok(format!("{:08x}", hash >> 32))
    }

    /// The destination.
    ///
    /// # Errors
    /// `Config` naming the key that is wrong for a destination.
    pub(crate) async fn destination(&self) -> Result<Arc<dyn Destination>> {
        let made = async { self.connector.destination(self.spec.clone()).await.map(Arc::from) };
        self.destination.get_or_try_init(|| made).await.cloned()
    }
}

/// JSON in which the order of keys says nothing.
fn canonical(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<&String, &Value> = object.iter().collect();
            let entry = |(key, value): (&String, &Value)| {
                format!("{}:{}", Value::String(key.clone()), canonical(value))
            };
            format!("{{{}}}", joined(sorted.into_iter().map(entry).collect()))
        }
        Value::Array(items) => format!("[{}]", joined(items.iter().map(canonical).collect())),
        other => other.to_string(),
    }
}

/// The JSON Schema of a plugin's `spec`: the connector's for either role, and our key.
pub(crate) fn schema(connector: &dyn Connector) -> Value {
    let mut source = connector.spec_schema(Role::Source);
    let destination = connector.spec_schema(Role::Destination);
    let mut options = schema_for!(TableSettings).to_value();
    if let Some(options) = options.as_object_mut() {
        // The key of the mapping is the name.
        options.remove("required");
        options.remove("$schema");
    }
    let definitions = options.as_object_mut().and_then(|options| options.remove("$defs"));
    if let Some(source) = source.as_object_mut() {
        let properties = source.entry("properties").or_insert_with(|| json!({}));
        properties[TABLE_OPTIONS] = json!({
            "type": "object",
            "description": "Settings of single tables, by their names: primary key, cursor, columns.",
            "additionalProperties": options,
        });
        if let Some(Value::Object(definitions)) = definitions {
            let own = source.entry("$defs").or_insert_with(|| json!({}));
            for (name, definition) in definitions {
                own[&name] = definition;
            }
        }
    }
    either(source, destination)
}

/// A schema that takes what one of two does. References into a schema stay inside it.
fn either(mut source: Value, mut destination: Value) -> Value {
    let mut definitions = Map::new();
    for schema in [&mut source, &mut destination] {
        let Some(schema) = schema.as_object_mut() else { continue };
        schema.remove("$schema");
        if let Some(Value::Object(own)) = schema.remove("$defs") {
            definitions.extend(own);
        }
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "anyOf": [source, destination],
    });
    if !definitions.is_empty() {
        schema["$defs"] = Value::Object(definitions);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_the_same_in_any_order() {
        let text = r#"{"a":[1,{"x":null,"y":"b"}],"c":true}"#;
        for given in [text, r#"{"c":true,"a":[1,{"y":"b","x":null}]}"#] {
            assert_eq!(canonical(&serde_json::from_str(given).unwrap()), text);
        }
        assert_ne!(canonical(&json!({"a": [1, 2]})), canonical(&json!({"a": [2, 1]})));
    }

    /// Another hash would let every table be read again from its beginning.
    #[tokio::test]
    async fn a_system_has_the_same_name_for_ever() {
        let connector = crate::registry::by_path("files").unwrap();
        let name = async |spec: Value| {
            let settings = Settings::new(connector, spec).unwrap();
            settings.system(settings.source().await.unwrap().as_ref()).await.unwrap()
        };
        let spec = json!({"path": "/nowhere/{{TABLE}}/*.csv", "format": "csv"});
        let first = name(spec.clone()).await;
        assert_eq!(first, "ed2b6261");
        let mut other = spec.clone();
        other["table_options"] = json!({"a": {"cursor": "b"}});
        assert_eq!(name(other.clone()).await, first);
        other["path"] = json!("/elsewhere/{{TABLE}}/*.csv");
        assert_ne!(name(other).await, first);
    }
}
