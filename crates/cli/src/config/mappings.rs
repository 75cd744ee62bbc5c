//! The key `mappings` of a table's entry: what is done to its rows before they are written.

use highwater_core::mapping::{Condition, HashMethod};
use highwater_core::{Error, Mapping, Secret};
use highwater_engine::mappings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

use super::Section;
use super::spec::SourceSpec;
use crate::failure::Result;

/// An entry of `mappings`.
#[derive(Debug, Clone, PartialEq)]
pub struct MappingEntry(pub Mapping);

/// A condition of `filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionEntry(pub Condition);

/// The keys of an entry of `mappings`: exactly one of them.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct MappingKeys {
    /// Gives a column another name.
    #[serde(default)]
    rename: Option<Rename>,
    /// The name of a column that is left out. A column of the primary key has to stay.
    #[serde(default)]
    drop: Option<String>,
    /// Keeps the rows for which a condition holds. Others are left out, and counted in the summary;
    /// rows that were written before there was the filter stay. Deletions go through.
    #[serde(default)]
    filter: Option<ConditionEntry>,
    /// Puts a hash in the place of each value. NULL stays NULL. A column of the primary key can be
    /// hashed, the cursor field of a table that is read incrementally cannot.
    #[serde(default)]
    hash: Option<Hash>,
    /// Encrypts each value with AES-GCM: a random nonce of 12 bytes, the ciphertext and its tag of
    /// 16 bytes, in hexadecimal. NULL stays NULL. Not for columns of the primary key, nor for the
    /// cursor field of a table that is read incrementally.
    #[serde(default)]
    encrypt: Option<Encrypt>,
}

/// The keys of `rename`.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The column's name.
    column: String,
    /// Its name afterwards.
    to: String,
}

/// The keys of `hash`.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    /// The column's name.
    column: String,
    /// The hash function. The hash is that of the value's text, in lower-case hexadecimal.
    #[schemars(schema_with = "method_schema")]
    method: HashMethod,
    /// The column's name afterwards; the name with `_hashed` by default.
    #[serde(default)]
    to: Option<String>,
}

/// The keys of `encrypt`.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encrypt {
    /// The column's name.
    column: String,
    /// The key: 32, 48 or 64 hexadecimal digits, for AES-128, AES-192 or AES-256. Keep it in a
    /// variable: `${KEY}`.
    #[schemars(schema_with = "text_schema")]
    key: Secret,
    /// The column's name afterwards; the name with `_encrypted` by default.
    #[serde(default)]
    to: Option<String>,
}

/// The keys of a condition: exactly one of them.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ConditionKeys {
    /// Conditions that all have to hold.
    #[serde(default)]
    and: Option<Vec<ConditionEntry>>,
    /// Conditions of which one has to hold.
    #[serde(default)]
    or: Option<Vec<ConditionEntry>>,
    /// A condition that must not hold.
    #[serde(default)]
    not: Option<Box<ConditionEntry>>,
    /// Holds where the text of a column's value is this one. It does not hold for NULL.
    #[serde(default)]
    equal: Option<Equal>,
    /// The name of a column: holds where it is NULL.
    #[serde(default)]
    is_null: Option<String>,
}

/// The keys of `equal`.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Equal {
    /// The column's name.
    column: String,
    /// The text of the value, as CSV files have it: `5`, `12.50`, `true`, `2026-11-21`.
    value: String,
}

impl<'de> Deserialize<'de> for MappingEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = MappingKeys::deserialize(deserializer)?;
        let MappingKeys { rename, drop, filter, hash, encrypt } = keys;
        let named = |to: Option<String>, column: &str, suffix: &str| {
            to.unwrap_or_else(|| format!("{column}{suffix}"))
        };
        let given = [
            rename.map(|Rename { column, to }| Mapping::Rename { column, to }),
            drop.map(|column| Mapping::Drop { column }),
            filter.map(|condition| Mapping::Filter(condition.0)),
            hash.map(|Hash { column, method, to }| {
                let to = named(to, &column, "_hashed");
                Mapping::Hash { column, to, method }
            }),
            encrypt.map(|Encrypt { column, key, to }| {
                let to = named(to, &column, "_encrypted");
                Mapping::Encrypt { column, to, key }
            }),
        ];
        let what = "an entry of `mappings`: `rename`, `drop`, `filter`, `hash` or `encrypt`";
        only(given, what).map(Self)
    }
}

impl<'de> Deserialize<'de> for ConditionEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = ConditionKeys::deserialize(deserializer)?;
        let ConditionKeys { and, or, not, equal, is_null } = keys;
        let all = |parts: Vec<Self>| parts.into_iter().map(|part| part.0).collect();
        let given = [
            and.map(|parts| Condition::And(all(parts))),
            or.map(|parts| Condition::Or(all(parts))),
            not.map(|part| Condition::Not(Box::new(part.0))),
            equal.map(|Equal { column, value }| Condition::Equal { column, value }),
            is_null.map(|column| Condition::IsNull { column }),
        ];
        only(given, "a condition: `and`, `or`, `not`, `equal` or `is_null`").map(Self)
    }
}

/// The only one that is given.
fn only<T, E: de::Error>(given: impl IntoIterator<Item = Option<T>>, what: &str) -> Result<T, E> {
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(E::custom(format!("exactly one key belongs into {what}"))),
    }
}

/// Types whose schema is that of their keys.
macro_rules! schema_of_keys {
    ($($entry:ty, $name:literal, $keys:ty;)*) => {
        $(impl JsonSchema for $entry {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                <$keys>::json_schema(generator)
            }
        })*
    };
}

schema_of_keys! {
    MappingEntry, "Mapping", MappingKeys;
    ConditionEntry, "Condition", ConditionKeys;
}

fn method_schema(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<&str> = HashMethod::ALL.iter().map(|method| method.as_str()).collect();
    json_schema!({ "type": "string", "enum": words })
}

fn text_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string" })
}

/// Refuses keys that cannot be used, at their place.
///
/// # Errors
/// `Config`.
pub fn check(source: &Section<SourceSpec>) -> Result<()> {
    for (table, entry) in source.spec.tables.iter().enumerate() {
        for (at, mapping) in entry.0.mappings.iter().enumerate() {
            if let Mapping::Encrypt { key, .. } = &mapping.0 {
                let path = format!("tables.{table}.mappings.{at}.encrypt.key");
                mappings::check_key(key).map_err(|error| source.failure(&path, error))?;
            }
        }
    }
    Ok(())
}

/// The path, inside a table's entry, of the mapping that an error of the plan is about; empty where
/// it is about none.
pub fn place(entries: &[MappingEntry], error: &Error) -> String {
    let word = error.context_value("mapping");
    let is_about = |column: &str| error.context_value("column") == Some(column);
    let found = entries.iter().position(|entry| {
        let names_column = match &entry.0 {
            Mapping::Filter(condition) => condition.columns().into_iter().any(is_about),
            Mapping::Rename { column, .. }
            | Mapping::Drop { column }
            | Mapping::Hash { column, .. }
            | Mapping::Encrypt { column, .. } => is_about(column),
        };
        word == Some(entry.0.word()) && names_column
    });
    found.map(|at| format!(".mappings.{at}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Mapping, String> {
        serde_json::from_value::<MappingEntry>(value).map(|e| e.0).map_err(|e| e.to_string())
    }

    #[test]
    fn every_mapping_is_what_its_key_says() {
        let text = str::to_owned;
        let equal = Condition::Equal { column: text("c"), value: text("x") };
        let null = Condition::IsNull { column: text("c") };
        for (value, expected) in [
            (
                json!({"rename": {"column": "a", "to": "b"}}),
                Mapping::Rename { column: text("a"), to: text("b") },
            ),
            (json!({"drop": "a"}), Mapping::Drop { column: text("a") }),
            (
                json!({"filter": {"or": [
                    {"not": {"equal": {"column": "c", "value": "x"}}},
                    {"and": [{"is_null": "c"}]},
                ]}}),
                Mapping::Filter(Condition::Or(vec![
                    Condition::Not(Box::new(equal)),
                    Condition::And(vec![null]),
                ])),
            ),
            (
                json!({"hash": {"column": "a", "method": "SHA-1"}}),
                Mapping::Hash { column: text("a"), to: text("a_hashed"), method: HashMethod::Sha1 },
            ),
            (
                json!({"encrypt": {"column": "a", "key": "00", "to": "b"}}),
                Mapping::Encrypt { column: text("a"), to: text("b"), key: Secret::new("00") },
            ),
        ] {
            assert_eq!(read(value).unwrap(), expected);
        }
    }

    #[test]
    fn an_entry_has_one_key() {
        for value in [
            json!({}),
            json!({"drop": "a", "hash": {"column": "a", "method": "MD5"}}),
            json!({"filter": {}}),
            json!({"filter": {"is_null": "a", "or": []}}),
        ] {
            assert!(read(value).unwrap_err().starts_with("exactly one key"));
        }
        assert!(read(json!({"hsah": {}})).unwrap_err().contains("hsah"));
        assert!(read(json!({"hash": {"column": "a", "method": "MD6"}})).is_err());
    }

    #[test]
    fn no_key_is_shown() {
        let mapping = read(json!({"encrypt": {"column": "a", "key": "c0ffee"}})).unwrap();
        assert!(!format!("{mapping:?}").contains("c0ffee"));
        assert!(!serde_json::to_string(&mapping).unwrap().contains("c0ffee"));
    }
}
