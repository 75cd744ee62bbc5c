//! One YAML document: a source, a destination or a transformer.

use highwater_core::secret::Secret;
use highwater_core::{Error, MetadataColumns, Role};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::de::{self, Problem};
use super::driver::{Driver, required};
use super::expand::{Surroundings, expand};
use super::node::{Node, NodeValue};
use super::spec::{DestinationSpec, SourceSpec, TableEntry, TableSettings, TransformerSpec};
use super::tables;
use super::text::DocumentText;
use super::{Config, Section};
use crate::failure::{Failure, Result};

/// The document that a section was read from.
#[derive(Debug, Clone)]
pub struct Origin {
    document: DocumentText,
    /// The value of the document's `spec`.
    spec: Node,
}

impl Origin {
    /// What came from variables and files into the settings of the connector or plugin.
    pub fn secrets(&self) -> Vec<Secret> {
        self.spec.get("spec").map(Node::values).unwrap_or_default()
    }

    /// An error at the key at a dotted path of the document's `spec`.
    pub fn failure(&self, path: &str, error: Error) -> Failure {
        self.document.failure(self.spec.place_of(path), error)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Source,
    Destination,
    Transformer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kind: Kind,
    #[serde(rename = "spec")]
    _spec: IgnoredAny,
}

/// Reads a document and adds what it is to `config`.
///
/// # Errors
/// `Config` or `Unsupported` at the place of what is wrong.
pub fn read(document: &DocumentText, around: &Surroundings<'_>, config: &mut Config) -> Result<()> {
    let mut root = Node::parse(document)?;
    expand(&mut root, document, around)?;
    let header: Header = typed(&root, document)?;
    let spec = root.get("spec").cloned().unwrap_or(Node { value: NodeValue::Null, ..root });
    let origin = Origin { document: document.clone(), spec };
    match header.kind {
        Kind::Source => config.sources.push(source(origin)?),
        Kind::Destination => config.destinations.push(destination(origin)?),
        Kind::Transformer => config.transformers.push(transformer(origin)?),
    }
    Ok(())
}

fn typed<'de, T: Deserialize<'de>>(node: &'de Node, document: &DocumentText) -> Result<T> {
    de::read(node)
        .map_err(|Problem { error, place }| document.failure(place.unwrap_or(node.place), error))
}

fn source(origin: Origin) -> Result<Section<SourceSpec>> {
    let mut spec: SourceSpec = typed(&origin.spec, &origin.document)?;
    required(&origin, "name", &spec.name)?;
    let driver = Driver::of(&origin, &spec)?;
    if spec.discover_every.is_some() && !driver.is_airbyte() {
        let error = Error::config("`discover_every` is for connectors of Airbyte")
            .hint("leave `discover_every` out: every sync looks at the source");
        return Err(origin.failure("discover_every", error));
    }
    match driver {
        Driver::Builtin(_) => no_plugin(&origin, &spec)?,
        Driver::Plugin(_) => own_cursor(&origin, &spec)?,
        Driver::Airbyte => {
            no_plugin(&origin, &spec)?;
            own_positions(&origin, &spec)?;
        }
    }
    for (i, entry) in spec.tables.iter_mut().enumerate() {
        tables::settle(&mut entry.0, driver.is_airbyte())
            .map_err(|(key, error)| origin.failure(&format!("tables.{i}.{key}"), error))?;
    }
    spec.spec = inner(&origin, driver, Role::Source)?;
    Ok(Section { spec, driver, origin: Some(origin) })
}

fn destination(origin: Origin) -> Result<Section<DestinationSpec>> {
    let mut spec: DestinationSpec = typed(&origin.spec, &origin.document)?;
    required(&origin, "name", &spec.name)?;
    let driver = Driver::of(&origin, &spec)?;
    if driver.is_airbyte() {
        own_columns(&origin, &spec)?;
    }
    spec.spec = inner(&origin, driver, Role::Destination)?;
    Ok(Section { spec, driver, origin: Some(origin) })
}

fn transformer(origin: Origin) -> Result<Section<TransformerSpec>> {
    let mut spec: TransformerSpec = typed(&origin.spec, &origin.document)?;
    required(&origin, "name", &spec.name)?;
    let driver = Driver::plugin(&origin, &spec)?;
    // A plugin's settings are the plugin's business in every role.
    spec.spec = inner(&origin, driver, Role::Destination)?;
    Ok(Section { spec, driver, origin: Some(origin) })
}

/// Refuses what a built-in source has no use for: ignoring it would be a lie.
fn no_plugin(origin: &Origin, spec: &SourceSpec) -> Result<()> {
    for (key, is_set) in [
        ("deterministic_cq_id", spec.deterministic_cq_id),
        ("otel_endpoint", !spec.otel_endpoint.is_empty()),
        ("otel_endpoint_insecure", spec.otel_endpoint_insecure),
    ] {
        if is_set {
            let error = Error::unsupported(format!("`{key}` is for plugins, and this is none"))
                .hint(format!("leave `{key}` out"));
            return Err(origin.failure(key, error));
        }
    }
    Ok(())
}

/// Refuses settings of a table that only the plugin itself could follow.
fn own_cursor(origin: &Origin, spec: &SourceSpec) -> Result<()> {
    for (i, TableEntry(table)) in spec.tables.iter().enumerate() {
        for (key, is_set) in [
            ("cursor", table.cursor.is_some()),
            ("cursor_field", table.cursor_field.is_some()),
            ("read_mode", table.read_mode.is_some()),
            ("sync_mode", table.sync_mode.is_some()),
            ("null_cursor", table.null_cursor.is_some()),
            ("lookback", table.lookback.is_some()),
            ("sweep", table.sweep.is_some()),
            ("deletes", table.deletes == Some(tables::Deletes::Reconcile)),
        ] {
            if is_set {
                let error = Error::config(format!(
                    "`{key}` has no effect here: a plugin decides by itself what is new"
                ))
                .hint(format!("leave `{key}` out"));
                return Err(origin.failure(&format!("tables.{i}.{key}"), error));
            }
        }
        no_text(origin, i, table, "A plugin has no other text of a value")?;
    }
    Ok(())
}

/// A column of a source that has one form of a value only.
fn no_text(origin: &Origin, i: usize, table: &TableSettings, why: &'static str) -> Result<()> {
    let columns = table.columns.iter().flatten().enumerate();
    match columns.into_iter().find(|(_, column)| column.0.as_type.is_some()) {
        None => Ok(()),
        Some((n, _)) => {
            let error = Error::config(why).hint("name the column without `type`");
            Err(origin.failure(&format!("tables.{i}.columns.{n}.type"), error))
        }
    }
}

/// Refuses settings that a connector of Airbyte cannot follow: it knows what it has sent.
fn own_positions(origin: &Origin, spec: &SourceSpec) -> Result<()> {
    for (i, TableEntry(table)) in spec.tables.iter().enumerate() {
        for (key, is_set) in
            [("null_cursor", table.null_cursor.is_some()), ("lookback", table.lookback.is_some())]
        {
            if is_set {
                let error = Error::config(format!(
                    "`{key}` has no effect here: a connector of Airbyte decides by itself where it goes on"
                ))
                .hint(format!("leave `{key}` out"));
                return Err(origin.failure(&format!("tables.{i}.{key}"), error));
            }
        }
    }
    Ok(())
}

/// Refuses columns that a destination of Airbyte would take for columns of the source: it makes
/// its own.
fn own_columns(origin: &Origin, spec: &DestinationSpec) -> Result<()> {
    if spec.metadata_columns == Some(MetadataColumns::Airbyte) {
        let error = Error::config("A destination of Airbyte adds these columns itself")
            .hint("leave `metadata_columns` out");
        return Err(origin.failure("metadata_columns", error));
    }
    Ok(())
}

/// The connector's own settings, with variables turned into the types that its schema asks for. A
/// plugin's are what stands in the file: only the plugin knows what it asks for.
fn inner(origin: &Origin, driver: Driver, role: Role) -> Result<Map<String, Value>> {
    let Some(node) = origin.spec.get("spec") else { return Ok(Map::new()) };
    let spec = match driver {
        Driver::Builtin(connector) => {
            let schema = connector.spec_schema(role);
            check_keys(origin, node, &schema)?;
            let spec = to_json(node, Some(&schema), &schema);
            if let Some((path, error)) = wrong_value(&spec, &schema, &schema, "spec") {
                return Err(origin.failure(&path, error));
            }
            spec
        }
        Driver::Plugin(_) | Driver::Airbyte => match to_json(node, None, &Value::Null) {
            spec @ (Value::Object(_) | Value::Null) => spec,
            _ => {
                let error = Error::config("Key `spec`: expected a mapping");
                return Err(origin.failure("spec", error));
            }
        },
    };
    match spec {
        Value::Object(spec) => Ok(spec),
        // `spec:` with nothing behind it.
        _ => Ok(Map::new()),
    }
}

/// Refuses keys that the connector's schema does not have, with a suggestion.
fn check_keys(origin: &Origin, node: &Node, schema: &Value) -> Result<()> {
    let (NodeValue::Map(entries), Some(known)) = (&node.value, schema["properties"].as_object())
    else {
        return Ok(());
    };
    if schema["additionalProperties"] != Value::Bool(false) {
        return Ok(());
    }
    for (key, _) in entries {
        if known.contains_key(&key.name) {
            continue;
        }
        let error = Error::config(format!("Unknown key `{}`", key.name));
        let names: Vec<String> = known.keys().cloned().collect();
        let hint = de::one_of(&key.name, &names);
        return Err(origin.document.failure(key.place, error.hint(hint)));
    }
    Ok(())
}

fn to_json(node: &Node, schema: Option<&Value>, root: &Value) -> Value {
    let schema = schema.map(|s| resolved(s, root));
    let property = |name: &str| schema.map(|s| &s["properties"][name]).filter(|s| !s.is_null());
    match &node.value {
        NodeValue::Null => Value::Null,
        NodeValue::Bool(value) => Value::Bool(*value),
        NodeValue::Number(value) => Value::Number(value.clone()),
        NodeValue::Text(text) if text.retype && !schema.is_some_and(|s| takes_text(s, root)) => {
            to_json(&Node { place: node.place, value: de::retype(&text.text) }, None, root)
        }
        NodeValue::Text(text) => Value::String(text.text.clone()),
        NodeValue::List(items) => {
            let of_items = schema.map(|s| &s["items"]).filter(|s| !s.is_null());
            items.iter().map(|item| to_json(item, of_items, root)).collect()
        }
        NodeValue::Map(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| (key.name.clone(), to_json(value, property(&key.name), root)))
                .collect(),
        ),
    }
}

/// The first value whose type or word is not one that the schema allows: its path, and the error,
/// which does not hold the value.
fn wrong_value(value: &Value, schema: &Value, root: &Value, path: &str) -> Option<(String, Error)> {
    let key = path.rsplit('.').next().unwrap_or(path);
    let schema = resolved(schema, root);
    if let Value::Object(entries) = value
        && let Some(properties) = schema["properties"].as_object()
    {
        return entries.iter().find_map(|(name, value)| {
            wrong_value(value, properties.get(name)?, root, &format!("{path}.{name}"))
        });
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one],
        _ => return None,
    };
    let (word, found) = match value {
        Value::Null => return None,
        Value::Bool(_) => ("boolean", "a boolean"),
        Value::Number(number) if number.is_f64() => ("number", "a number"),
        Value::Number(_) => ("integer", "a whole number"),
        Value::String(_) => ("string", "a text"),
        Value::Array(_) => ("array", "a list"),
        Value::Object(_) => ("object", "a mapping"),
    };
    if types.contains(&word) || (word == "integer" && types.contains(&"number")) {
        return None;
    }
    let wanted = types.iter().filter_map(|name| match *name {
        "boolean" => Some("`true` or `false`"),
        "integer" => Some("a whole number"),
        "number" => Some("a number"),
        "string" => Some("a text"),
        "array" => Some("a list"),
        "object" => Some("a mapping"),
        _ => None,
    });
    let wanted = wanted.collect::<Vec<_>>().join(" or ");
    let error = Error::config(format!("Key `{key}`: expected {wanted}, found {found}"));
    let quotes = wanted == "a text" && matches!(word, "boolean" | "integer" | "number");
    Some((path.to_owned(), if quotes { error.hint("put it in quotes") } else { error }))
}

/// The schema that a `$ref` into `$defs` stands for; of several alternatives, the one that is a
/// mapping.
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#'));
    if let Some(found) = target.and_then(|pointer| root.pointer(pointer)) {
        return found;
    }
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    alternatives
        .map(|s| resolved(s, root))
        .find(|s| s.get("properties").is_some())
        .unwrap_or(schema)
}

/// Whether a text is a valid value.
fn takes_text(schema: &Value, root: &Value) -> bool {
    let is_text = |t: &Value| t == "string";
    let by_type = match &schema["type"] {
        Value::Array(types) => types.iter().any(is_text),
        one => is_text(one),
    };
    let alternatives = ["anyOf", "oneOf"].iter().filter_map(|k| schema[k].as_array()).flatten();
    by_type
        || schema.get("enum").is_some()
        || alternatives.map(|s| resolved(s, root)).any(|s| takes_text(s, root))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::text::FileText;
    use super::*;

    #[test]
    fn a_variable_becomes_what_the_connector_asks_for() {
        let yaml =
            "password: ${A}\nport: ${A}\nnested: {on: ${B}, list: [\"${A}\", ${A}]}\nfree: ${A}\n";
        let document = Rc::new(FileText::new("f".into(), yaml)).documents().remove(0);
        let mut node = Node::parse(&document).unwrap();
        let around = Surroundings {
            variable: &|name| Some(if name == "A" { "123" } else { "true" }.to_owned()),
            variables: vec![],
            now: highwater_core::Instant(0),
        };
        expand(&mut node, &document, &around).unwrap();
        let schema = serde_json::json!({
            "properties": {
                "password": { "type": ["string", "null"] },
                "port": { "type": "integer" },
                "nested": { "anyOf": [{ "$ref": "#/$defs/Nested" }, { "type": "null" }] },
            },
            "$defs": { "Nested": { "properties": {
                "on": { "type": "boolean" },
                "list": { "type": "array", "items": { "type": "string" } },
            } } },
        });
        assert_eq!(
            to_json(&node, Some(&schema), &schema),
            serde_json::json!({
                "password": "123",
                "port": 123,
                "nested": { "on": true, "list": ["123", "123"] },
                "free": 123,
            })
        );
    }
}
