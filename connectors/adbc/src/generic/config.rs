//! What the user configures: a driver, and what it is told.

use std::collections::BTreeMap;

use adbc_core::options::OptionValue;
use highwater_core::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Kinds of columns that a user can have written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TextKind {
    /// Decimal numbers.
    Decimal,
    /// Whole numbers without a sign of 64 bits.
    Unsigned64,
    /// Times of day.
    Time,
    /// Dates and timestamps.
    Timestamp,
    /// Elapsed times and intervals.
    Duration,
    /// UUIDs.
    Uuid,
    /// Lists.
    List,
}

/// The `spec` of a system that is reached through a driver.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// The driver: the path of its library (or of a folder that holds one, such as that of a
    /// Python package), of its manifest, or a name (`snowflake`) under which it is installed.
    pub(crate) driver: String,
    /// The function by which the library is entered, where it is not the usual one.
    #[serde(default)]
    pub(crate) entrypoint: Option<String>,
    /// Options of the database, in the driver's own words: `uri`, `username`, `password`, ….
    #[serde(default)]
    pub(crate) options: BTreeMap<String, Value>,
    /// Options of each connection, in the driver's own words.
    #[serde(default)]
    pub(crate) connection_options: BTreeMap<String, Value>,
    /// Options of statements that load rows, in the driver's own words.
    #[serde(default)]
    pub(crate) ingest_options: BTreeMap<String, Value>,
    /// The catalog (database, project) whose tables are meant, where the connection does not say
    /// it.
    #[serde(default)]
    pub(crate) catalog: Option<String>,
    /// A source: only tables of this schema. A destination: the schema that tables go to.
    #[serde(default)]
    pub(crate) schema: Option<String>,
    /// What stands around names in statements: `"` where the system is not known to want another.
    #[serde(default)]
    pub(crate) identifier_quote: Option<String>,
    /// What stands for a parameter in statements: `?` or `$1`. An incremental read by a date or a
    /// timestamp needs it where the system is not known.
    #[serde(default)]
    pub(crate) parameter: Option<String>,
    /// A destination: kinds of columns that are written as text, because the driver does not take
    /// them.
    #[serde(default)]
    pub(crate) text_columns: Option<Vec<TextKind>>,
}

impl Spec {
    /// Parses a `spec`.
    ///
    /// # Errors
    /// `Config`, with the `key` that is wrong.
    pub(crate) fn parse(spec: Value) -> Result<Self> {
        // What serde says of a wrong value quotes it, and it may be a secret.
        let parsed: Self = serde_json::from_value(spec.clone()).map_err(|_| {
            Error::config("The spec of an ADBC driver is wrong")
                .context("key", wrong_key(&spec).unwrap_or_else(|| "driver".to_owned()))
                .hint("driver: snowflake   # with `options`, each a text, a number or true/false")
        })?;
        if parsed.driver.is_empty() {
            return Err(Error::config("No driver is named")
                .context("key", "driver")
                .hint("driver: snowflake"));
        }
        for (key, options) in [
            ("options", &parsed.options),
            ("connection_options", &parsed.connection_options),
            ("ingest_options", &parsed.ingest_options),
        ] {
            if let Some((name, _)) = options.iter().find(|(_, value)| text_of(value).is_none()) {
                return Err(Error::config("An option is a text, a number, true or false")
                    .context("key", format!("{key}.{name}"))
                    .hint(format!("{name}: \"text\"")));
            }
        }
        let empty = |text: &Option<String>| text.as_deref() == Some("");
        for (key, value) in [
            ("identifier_quote", &parsed.identifier_quote),
            ("parameter", &parsed.parameter),
            ("schema", &parsed.schema),
            ("catalog", &parsed.catalog),
        ] {
            if empty(value) {
                return Err(Error::config("The key is empty")
                    .context("key", key)
                    .hint(format!("leave `{key}` out")));
            }
        }
        Ok(parsed)
    }
}

/// An option as drivers of every version take it.
pub(crate) fn option_value(value: &Value) -> OptionValue {
    OptionValue::String(text_of(value).unwrap_or_default())
}

/// The text of a scalar.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The key that is unknown or has a value of the wrong type: each is tried alone.
fn wrong_key(spec: &Value) -> Option<String> {
    let given = spec.as_object()?;
    given.iter().find_map(|(key, value)| {
        let mut one = Map::from_iter([("driver".to_owned(), json!("x"))]);
        one.insert(key.clone(), value.clone());
        serde_json::from_value::<Spec>(Value::Object(one)).is_err().then(|| key.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_named_and_no_value_is_told() {
        for (spec, key) in [
            (json!({}), "driver"),
            (json!({"driver": ""}), "driver"),
            (json!({"driver": "x", "options": "hunter2"}), "options"),
            (json!({"driver": "x", "options": {"password": ["hunter2"]}}), "options.password"),
            (json!({"driver": "x", "parameter": ""}), "parameter"),
            (json!({"driver": "x", "text_columns": ["hunter2"]}), "text_columns"),
            (json!({"driver": "x", "uri": "hunter2"}), "uri"),
        ] {
            let error = Spec::parse(spec).err().unwrap();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Config);
            assert_eq!(error.context_value("key"), Some(key));
            assert!(!error.full_message().contains("hunter2"));
        }
    }

    #[test]
    fn options_are_texts_for_the_driver() {
        let spec = json!({"driver": "x", "options": {"a": "t", "b": 5, "c": true}});
        let spec = Spec::parse(spec).unwrap();
        let texts: Vec<_> = spec.options.values().filter_map(text_of).collect();
        assert_eq!(texts, ["t", "5", "true"]);
    }
}
