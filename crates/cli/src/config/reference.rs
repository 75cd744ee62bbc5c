//! What the configuration's types say of themselves: the JSON Schema for editors, and the
//! reference page `docs/configuration.md`.

use highwater_core::Role;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::mappings::{ConditionKeys, Encrypt, Equal, Hash, MappingKeys, Rename};
use super::spec::{
    BackendOptions, ColumnSettings, DestinationSpec, SourceSpec, TableSettings, TransformerSpec,
};
use crate::registry;

/// The JSON Schema of one document of a configuration file.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let kinds = [
        ("source", generator.subschema_for::<SourceSpec>()),
        ("destination", generator.subschema_for::<DestinationSpec>()),
        ("transformer", generator.subschema_for::<TransformerSpec>()),
    ];
    let documents: Vec<Value> = kinds
        .into_iter()
        .map(|(kind, spec)| {
            json!({
                "type": "object",
                "properties": { "kind": { "const": kind }, "spec": spec },
                "required": ["kind", "spec"],
                "additionalProperties": false,
            })
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A document of a highwater configuration file",
        "oneOf": documents,
        "$defs": generator.take_definitions(true),
    })
}

/// The reference page, in Markdown.
pub fn page() -> String {
    let mut out = String::from(INTRODUCTION);
    section::<SourceSpec>(&mut out, "Source", "The `spec` of a document of `kind: source`.");
    section::<TableSettings>(
        &mut out,
        "Tables",
        "An entry of `tables` is a name, a pattern with `*`, or a mapping with these keys.",
    );
    section::<ColumnSettings>(&mut out, "Columns", "An entry of `columns` is a name or a mapping.");
    mappings(&mut out);
    section::<BackendOptions>(&mut out, "Backend options", "Where cursors are kept.");
    section::<DestinationSpec>(
        &mut out,
        "Destination",
        "The `spec` of a document of `kind: destination`.",
    );
    section::<TransformerSpec>(
        &mut out,
        "Transformer",
        "The `spec` of a document of `kind: transformer`.",
    );
    for connector in registry::CONNECTORS {
        for role in connector.roles() {
            let word = match role {
                Role::Source => "source",
                Role::Destination => "destination",
            };
            let title = format!("`path: {}` as {word}", connector.kind());
            keys(&mut out, &title, "The connector's own `spec`.", &connector.spec_schema(*role));
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

const INTRODUCTION: &str = "# Configuration

A configuration file is YAML: documents between lines `---`, each a source, a destination or a
transformer. CloudQuery's files run unchanged, on built-in connectors and on CloudQuery's plugins
([what differs](coming-from-cloudquery.md)). Unknown keys are errors. `highwater schema` prints a
JSON Schema for editors.

Texts may hold `${NAME}` (an environment variable; one that is not set is an error),
`${file:PATH}` (a file's content) and `${time:EXPRESSION}` or `${time:EXPRESSION|LAYOUT}` (`now`,
`2026-01-31`, `-24h`, `7 days ago`; the layout is Go's, such as `2006-01-02`). They are expanded
after parsing, so whatever characters a value has, it stays one value.

This page is made from the types that read the file.
";

/// What is done to rows before they are written.
fn mappings(out: &mut String) {
    let words = "An entry of `mappings` is one of these keys; [more about them](mappings.md).";
    section::<MappingKeys>(out, "Mappings", words);
    section::<Rename>(out, "`rename`", "A column gets another name.");
    section::<Hash>(out, "`hash`", "Values become hashes.");
    section::<Encrypt>(out, "`encrypt`", "Values become ciphertexts.");
    section::<ConditionKeys>(out, "`filter`", "A condition is one of these keys.");
    section::<Equal>(out, "`equal`", "A column has a value.");
}

fn section<T: JsonSchema>(out: &mut String, title: &str, words: &str) {
    keys(out, title, words, &schemars::schema_for!(T).to_value());
}

fn keys(out: &mut String, title: &str, words: &str, schema: &Value) {
    let nothing = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&nothing);
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    out.push_str(&format!(
        "\n## {title}\n\n{words}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    ));
    for (name, key) in properties {
        let default = match key.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) if text.is_empty() => String::new(),
            Some(Value::Array(list)) if list.is_empty() => String::new(),
            Some(Value::Object(map)) if map.is_empty() => String::new(),
            Some(value) => format!("`{}`", value.to_string().trim_matches('"')),
        };
        let meaning = key["description"].as_str().unwrap_or_default();
        let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        out.push_str(&format!("| `{name}` | {} | {default} | {meaning} |\n", kind(key, schema)));
    }
}

/// The type of a key in words.
fn kind(key: &Value, root: &Value) -> String {
    if let Some(words) = key["enum"].as_array() {
        let words: Vec<String> =
            words.iter().filter_map(Value::as_str).map(|w| format!("`{w}`")).collect();
        return words.join(", ");
    }
    if let Some(word) = key["const"].as_str() {
        return format!("`{word}`");
    }
    if let Some(pointer) = key["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
        return root.pointer(pointer).map_or_else(String::new, |found| kind(found, root));
    }
    for alternatives in ["anyOf", "oneOf"] {
        if let Some(list) = key[alternatives].as_array() {
            let mut kinds: Vec<String> = list.iter().map(|k| kind(k, root)).collect();
            kinds.retain(|k| !k.is_empty());
            kinds.dedup();
            return kinds.join(" or ");
        }
    }
    let one = |name: &str| match name {
        "string" => "text",
        "integer" => "whole number",
        "number" => "number",
        "boolean" => "`true`, `false`",
        "object" => "mapping",
        "array" => "list",
        _ => "",
    };
    match &key["type"] {
        Value::String(name) if name == "array" && !key["items"].is_null() => {
            format!("list of {}", kind(&key["items"], root))
        }
        Value::String(name) => one(name).to_owned(),
        Value::Array(names) if names.iter().any(|n| n == "array") && !key["items"].is_null() => {
            format!("list of {}", kind(&key["items"], root))
        }
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).map(one).filter(|n| !n.is_empty());
            names.collect::<Vec<_>>().join(" or ")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set `HIGHWATER_WRITE_DOCS=1` to write the page anew.
    #[test]
    fn the_reference_page_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("HIGHWATER_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/configuration.md is stale: HIGHWATER_WRITE_DOCS=1 cargo test -p highwater reference_page"
        );
    }

    #[test]
    fn the_key_path_names_every_connector() {
        let schema = schemars::schema_for!(SourceSpec).to_value();
        let words = schema["properties"]["path"]["description"].as_str().unwrap();
        for kind in registry::kinds() {
            assert!(words.contains(&format!("`{kind}`")), "{kind}: {words}");
        }
    }

    #[test]
    fn every_key_says_what_it_means() {
        for (name, definition) in schema()["$defs"].as_object().unwrap() {
            let Some(keys) = definition["properties"].as_object() else { continue };
            for (key, value) in keys {
                let words = value["description"].as_str().unwrap_or_default();
                assert!(!words.is_empty(), "{name}.{key}");
            }
        }
    }
}
