//! Checks a plugin's settings against the JSON Schema that the plugin itself gives.
//!
//! It knows the keywords that CloudQuery's SDKs write. One that it does not know forbids nothing
//! here: what it would forbid the plugin still refuses. No message holds a value, because that may
//! be a secret.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

use crate::config::de::one_of;

/// A definition that refers to itself is followed this far.
const DEPTH_MAX: usize = 64;

/// What a schema forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The dotted path of the value; a key that should not be there, or should be, is its end.
    pub path: String,
    /// What is wrong, as the beginning of a sentence.
    pub message: String,
    /// The key that it should perhaps have been.
    pub hint: Option<String>,
}

/// Everything in `value`, which itself is at `path`, that `schema` forbids. Unknown keys are first:
/// a key that is missing is often one that is misspelt.
pub fn violations(value: &Value, schema: &Value, path: &str) -> Vec<Violation> {
    let mut found = Checker { root: schema }.check(value, schema, path, 0);
    found.sort_by_key(|violation| violation.hint.is_none());
    found
}

struct Checker<'a> {
    root: &'a Value,
}

impl<'a> Checker<'a> {
    fn check(&self, value: &Value, schema: &Value, path: &str, depth: usize) -> Vec<Violation> {
        let keywords = match schema {
            Value::Bool(false) => return one(path, "Nothing may stand here"),
            Value::Object(keywords) if depth < DEPTH_MAX => keywords,
            _ => return Vec::new(),
        };
        let mut found = Vec::new();
        if let Some(target) = keywords.get("$ref").and_then(|r| self.target(r)) {
            found.extend(self.check(value, target, path, depth + 1));
        }
        found.extend(plain(value, keywords, path));
        match value {
            Value::Object(entries) => found.extend(self.object(entries, keywords, path, depth)),
            Value::Array(items) => found.extend(self.array(items, keywords, path, depth)),
            _ => {}
        }
        found.extend(self.combined(value, keywords, path, depth));
        found
    }

    /// What `$ref` stands for: a place in the same schema.
    fn target(&self, reference: &Value) -> Option<&'a Value> {
        let text = reference.as_str()?;
        let own = self.root.get("$id").and_then(Value::as_str).unwrap_or_default();
        let text = text.strip_prefix(own).unwrap_or(text);
        let pointer = text.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    fn object(
        &self,
        entries: &Map<String, Value>,
        keywords: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Vec<Violation> {
        let mut found = Vec::new();
        let nothing = Map::new();
        let properties = keywords.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
        for name in keywords.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !entries.contains_key(name) {
                found.extend(one(path, format!("The key `{name}` is missing")));
            }
        }
        let patterns: Vec<(Regex, &Value)> = keywords
            .get("patternProperties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(pattern, schema)| Some((Regex::new(pattern).ok()?, schema)))
            .collect();
        for (name, value) in entries {
            let here = format!("{path}.{name}");
            let mut is_known = false;
            let matching = patterns.iter().filter(|(p, _)| p.is_match(name)).map(|(_, s)| *s);
            for schema in properties.get(name).into_iter().chain(matching) {
                is_known = true;
                found.extend(self.check(value, schema, &here, depth + 1));
            }
            match keywords.get("additionalProperties") {
                Some(Value::Bool(false)) if !is_known => {
                    let known: Vec<String> = properties.keys().cloned().collect();
                    found.push(Violation {
                        path: here,
                        message: format!("Unknown key `{name}`"),
                        hint: Some(one_of(name, &known)),
                    });
                }
                Some(schema) if !is_known => {
                    found.extend(self.check(value, schema, &here, depth + 1));
                }
                _ => {}
            }
        }
        let count = entries.len() as f64;
        found.extend(bounds(count, keywords, path, ["minProperties", "maxProperties"], "keys"));
        found
    }

    fn array(
        &self,
        items: &[Value],
        keywords: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Vec<Violation> {
        let mut found = Vec::new();
        let first = keywords.get("prefixItems").and_then(Value::as_array);
        let first = first.map_or(&[][..], Vec::as_slice);
        for (i, item) in items.iter().enumerate() {
            if let Some(schema) = first.get(i).or_else(|| keywords.get("items")) {
                found.extend(self.check(item, schema, &format!("{path}.{i}"), depth + 1));
            }
        }
        let count = items.len() as f64;
        found.extend(bounds(count, keywords, path, ["minItems", "maxItems"], "entries"));
        let is_unique = keywords.get("uniqueItems") == Some(&Value::Bool(true));
        if is_unique {
            let distinct: BTreeSet<String> = items.iter().map(ToString::to_string).collect();
            if distinct.len() < items.len() {
                found.extend(one(path, "An entry is there twice"));
            }
        }
        found
    }

    fn combined(
        &self,
        value: &Value,
        keywords: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Vec<Violation> {
        let list = |name: &str| keywords.get(name).and_then(Value::as_array);
        let is_valid = |schema: &Value| self.check(value, schema, path, depth + 1).is_empty();
        let mut found = Vec::new();
        for schema in list("allOf").into_iter().flatten() {
            found.extend(self.check(value, schema, path, depth + 1));
        }
        for name in ["anyOf", "oneOf"] {
            let Some(schemas) = list(name) else { continue };
            let tried: Vec<_> =
                schemas.iter().map(|s| self.check(value, s, path, depth + 1)).collect();
            match tried.iter().filter(|t| t.is_empty()).count() {
                0 => found.extend(nearest(tried)),
                1 => {}
                _ if name == "oneOf" => {
                    found.extend(one(path, "Several things are set of which only one may be"));
                }
                _ => {}
            }
        }
        if keywords.get("not").is_some_and(is_valid) {
            found.extend(one(path, "This is a combination that the plugin does not take"));
        }
        if let Some(condition) = keywords.get("if") {
            let branch = if is_valid(condition) { "then" } else { "else" };
            if let Some(schema) = keywords.get(branch) {
                found.extend(self.check(value, schema, path, depth + 1));
            }
        }
        found
    }
}

/// Of alternatives that all failed, the one that comes closest: it went deepest before it failed.
fn nearest(tried: Vec<Vec<Violation>>) -> Vec<Violation> {
    let depth = |violations: &Vec<Violation>| {
        violations.iter().map(|v| v.path.matches('.').count()).min().unwrap_or_default()
    };
    let mut nearest = Vec::new();
    let mut deepest = None;
    for violations in tried {
        if deepest.is_none_or(|deepest| depth(&violations) > deepest) {
            deepest = Some(depth(&violations));
            nearest = violations;
        }
    }
    nearest
}

fn one(path: &str, message: impl Into<String>) -> Vec<Violation> {
    vec![Violation { path: path.to_owned(), message: message.into(), hint: None }]
}

/// What a value by itself must be.
fn plain(value: &Value, keywords: &Map<String, Value>, path: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let types: Vec<&str> = match keywords.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|wanted| is_a(value, wanted)) {
        let wanted: Vec<&str> = types.iter().map(|t| words(t)).collect();
        let is = words(type_of(value));
        found.extend(one(path, format!("Expected {}, found {is}", wanted.join(" or "))));
        return found;
    }
    let is_other = keywords.get("const").is_some_and(|only| only != value);
    let choice = keywords.get("enum").and_then(Value::as_array);
    if is_other || choice.is_some_and(|choice| !choice.contains(value)) {
        let known: Vec<String> = choice.into_iter().flatten().map(ToString::to_string).collect();
        let known = known.join(", ");
        found.extend(one(path, format!("This is none of the values that are possible: {known}")));
    }
    match value {
        Value::String(text) => found.extend(of_text(text, keywords, path)),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            found.extend(of_number(number, keywords, path));
        }
        _ => {}
    }
    found
}

fn of_text(text: &str, keywords: &Map<String, Value>, path: &str) -> Vec<Violation> {
    let count = text.chars().count() as f64;
    let mut found = bounds(count, keywords, path, ["minLength", "maxLength"], "characters");
    let pattern = keywords.get("pattern").and_then(Value::as_str);
    // A pattern that we cannot read is left to the plugin.
    if pattern.is_some_and(|p| Regex::new(p).is_ok_and(|regex| !regex.is_match(text))) {
        let pattern = pattern.unwrap_or_default();
        found.extend(one(path, format!("The text does not match the pattern `{pattern}`")));
    }
    found
}

fn of_number(number: f64, keywords: &Map<String, Value>, path: &str) -> Vec<Violation> {
    let mut found = bounds(number, keywords, path, ["minimum", "maximum"], "");
    let limit = |name: &str| keywords.get(name).and_then(Value::as_f64);
    if let Some(limit) = limit("exclusiveMinimum").filter(|limit| number <= *limit) {
        found.extend(one(path, format!("This has to be more than {limit}")));
    }
    if let Some(limit) = limit("exclusiveMaximum").filter(|limit| number >= *limit) {
        found.extend(one(path, format!("This has to be less than {limit}")));
    }
    found
}

fn bounds(
    number: f64,
    keywords: &Map<String, Value>,
    path: &str,
    names: [&str; 2],
    unit: &str,
) -> Vec<Violation> {
    let limit = |name: &str| keywords.get(name).and_then(Value::as_f64);
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let [least, most] = names;
    match (limit(least), limit(most)) {
        (Some(1.0), _) if number == 0.0 && !unit.is_empty() => one(path, "This is empty"),
        (Some(least), _) if number < least => {
            one(path, format!("There have to be at least {least}{unit}"))
        }
        (_, Some(most)) if number > most => one(path, format!("There can be at most {most}{unit}")),
        _ => Vec::new(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_a(value: &Value, wanted: &str) -> bool {
    let is_whole = |value: &Value| value.as_f64().is_some_and(|number| number.fract() == 0.0);
    match (type_of(value), wanted) {
        ("integer", "number") => true,
        ("number", "integer") => is_whole(value),
        (found, wanted) => found == wanted,
    }
}

fn words(name: &str) -> &'static str {
    match name {
        "null" => "nothing",
        "boolean" => "`true` or `false`",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        "object" => "a mapping",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the Go SDK's generator writes it.
    fn schema() -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://github.com/example/spec",
            "$ref": "#/$defs/Spec",
            "$defs": {
                "Spec": {
                    "properties": {
                        "connection": { "type": "string", "minLength": 1, "pattern": "^[a-z:/]+$" },
                        "concurrency": { "type": "integer", "minimum": 1, "default": 10000 },
                        "format": { "type": "string", "enum": ["csv", "json"] },
                        "csv": { "oneOf": [
                            { "$ref": "#/$defs/Csv" }, { "type": "null" }
                        ] },
                        "accounts": { "type": ["array", "null"], "minItems": 1,
                            "items": { "$ref": "#/$defs/Account" } },
                        "nested": { "$ref": "#/$defs/Spec" },
                        "until": { "type": "string", "format": "date-time" },
                        "rate": { "type": "number", "exclusiveMinimum": 0 }
                    },
                    "additionalProperties": false,
                    "type": "object",
                    "required": ["connection"],
                    "allOf": [{
                        "if": { "properties": { "format": { "const": "csv" } }, "required": ["format"] },
                        "then": { "required": ["csv"] }
                    }],
                    "not": { "required": ["rate", "concurrency"] }
                },
                "Csv": { "type": "object", "additionalProperties": false,
                    "properties": { "header": { "type": "boolean" } } },
                "Account": { "type": "object", "required": ["id"],
                    "properties": { "id": { "type": "string" } } }
            }
        })
    }

    fn found(value: &Value) -> Vec<String> {
        let found = violations(value, &schema(), "spec");
        found.into_iter().map(|v| format!("{}: {}", v.path, v.message)).collect()
    }

    #[test]
    fn what_is_right_passes() {
        for value in [
            json!({ "connection": "a:b" }),
            json!({ "connection": "a", "concurrency": 1, "accounts": null, "csv": null }),
            json!({ "connection": "a", "format": "csv", "csv": { "header": true } }),
            json!({ "connection": "a", "accounts": [{ "id": "x", "more": 1 }], "until": "soon" }),
            json!({ "connection": "a", "nested": { "connection": "b" } }),
            json!({ "connection": "a", "concurrency": 2.0 }),
        ] {
            assert_eq!(found(&value), Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path_and_without_its_value() {
        for (value, expected) in [
            (json!({}), "spec: The key `connection` is missing"),
            (json!({ "connection": "" }), "spec.connection: This is empty"),
            (
                json!({ "connection": "SECRET" }),
                "spec.connection: The text does not match the pattern `^[a-z:/]+$`",
            ),
            (json!({ "connection": 5 }), "spec.connection: Expected a text, found a whole number"),
            (json!({ "connection": "a", "conn": 5 }), "spec.conn: Unknown key `conn`"),
            (
                json!({ "connection": "a", "concurrency": 0 }),
                "spec.concurrency: There have to be at least 1",
            ),
            (json!({ "connection": "a", "rate": 0 }), "spec.rate: This has to be more than 0"),
            (
                json!({ "connection": "a", "format": "xml" }),
                "spec.format: This is none of the values that are possible: \"csv\", \"json\"",
            ),
            (json!({ "connection": "a", "format": "csv" }), "spec: The key `csv` is missing"),
            (
                json!({ "connection": "a", "csv": { "header": 1 } }),
                "spec.csv.header: Expected `true` or `false`, found a whole number",
            ),
            (
                json!({ "connection": "a", "accounts": [{ "id": "x" }, {}] }),
                "spec.accounts.1: The key `id` is missing",
            ),
            (json!({ "connection": "a", "accounts": [] }), "spec.accounts: This is empty"),
            (
                json!({ "connection": "a", "nested": {} }),
                "spec.nested: The key `connection` is missing",
            ),
            (
                json!({ "connection": "a", "rate": 1, "concurrency": 1 }),
                "spec: This is a combination that the plugin does not take",
            ),
        ] {
            assert_eq!(found(&value).first().map(String::as_str), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_definition_that_refers_to_itself_ends() {
        let schema = json!({ "$ref": "#" });
        assert!(violations(&json!({}), &schema, "spec").is_empty());
    }
}
