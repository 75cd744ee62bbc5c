//! Airbyte's words in an entry of `tables`: its names of the modes, and paths to fields.
//!
//! [`settle`] turns them into ours when a document is read, so that nothing else has to know them.

use std::fmt;

use highwater_core::{Error, ReadMode, WriteMode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

use super::moment;
use super::spec::TableSettings;

/// A column, or a field inside of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath {
    /// The names, from the outside to the inside; at least one.
    parts: Vec<String>,
    /// Whether it was written as one text, in which dots may separate the names.
    is_text: bool,
}

impl FieldPath {
    /// A column of that name, dots and all.
    pub fn column(name: &str) -> Self {
        Self { parts: vec![name.to_owned()], is_text: true }
    }

    /// The names, from the outside to the inside.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }

    /// Whether it is inside of another field.
    pub fn is_nested(&self) -> bool {
        self.parts.len() > 1
    }

    /// The column that has its values.
    pub fn column_name(&self) -> String {
        self.parts.join("_")
    }

    /// Takes a text apart at its dots.
    fn split(&mut self) {
        if let ([text], true) = (self.parts.as_slice(), self.is_text) {
            self.parts = text.split('.').map(str::to_owned).collect();
        }
    }
}

struct PathVisitor;

impl<'de> de::Visitor<'de> for PathVisitor {
    type Value = FieldPath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a column or a list of names")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<FieldPath, E> {
        Ok(FieldPath::column(text))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<FieldPath, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = list.next_element::<String>()? {
            parts.push(part);
        }
        match parts.is_empty() {
            true => Err(de::Error::custom("the list is empty: name a column")),
            false => Ok(FieldPath { parts, is_text: false }),
        }
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathVisitor)
    }
}

impl JsonSchema for FieldPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FieldPath".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ]
        })
    }
}

/// Airbyte's names for what a sync leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum DestinationSyncMode {
    Append,
    Overwrite,
    AppendDedup,
    OverwriteDedup,
    Update,
    SoftDelete,
}

/// What becomes of rows that the source has deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Deletes {
    Hard,
    Soft,
    Reconcile,
}

impl From<Deletes> for highwater_engine::Deletes {
    fn from(deletes: Deletes) -> Self {
        match deletes {
            Deletes::Hard => Self::Hard,
            Deletes::Soft => Self::Soft,
            Deletes::Reconcile => Self::Reconcile,
        }
    }
}

/// After how many seconds a table is read as a whole again; `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep(pub Option<u64>);

struct SweepVisitor;

impl de::Visitor<'_> for SweepVisitor {
    type Value = Sweep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true` or a duration such as `36h`, `90d` or `2w`")
    }

    fn visit_bool<E: de::Error>(self, every_time: bool) -> Result<Sweep, E> {
        Ok(Sweep(every_time.then_some(0)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Sweep, E> {
        let seconds = moment::seconds(text).filter(|_| text.parse::<u64>().is_err());
        let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
        seconds.map(|seconds| Sweep(Some(seconds))).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Sweep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SweepVisitor)
    }
}

impl JsonSchema for Sweep {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sweep".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "string"] })
    }
}

/// What is wrong with an entry, and at which key.
pub type Wrong = (&'static str, Error);

/// Replaces Airbyte's words by ours. `has_paths`: whether the source's records may have fields
/// inside of others.
///
/// # Errors
/// `Config` or `Unsupported` for what contradicts itself or cannot be done.
pub fn settle(table: &mut TableSettings, has_paths: bool) -> Result<(), Wrong> {
    let twice = [
        ("cursor_field", "cursor", table.cursor_field.is_some() && table.cursor.is_some()),
        ("sync_mode", "read_mode", table.sync_mode.is_some() && table.read_mode.is_some()),
        (
            "destination_sync_mode",
            "write_mode",
            table.destination_sync_mode.is_some() && table.write_mode.is_some(),
        ),
    ];
    if let Some((theirs, ours, _)) = twice.into_iter().find(|(_, _, is_twice)| *is_twice) {
        let error = Error::config(format!("`{theirs}` and `{ours}` are two names of one key"));
        return Err((theirs, error.hint("leave one of the two out")));
    }
    let cursor_key = if table.cursor_field.is_some() { "cursor_field" } else { "cursor" };
    table.cursor = table.cursor_field.take().or(table.cursor.take());
    table.read_mode = table.sync_mode.take().or(table.read_mode);
    if let Some(mode) = table.destination_sync_mode.take() {
        table.write_mode = Some(write_mode(mode, table.read_mode)?);
    }
    if let Some(cursor) = &mut table.cursor {
        settle_path(cursor, has_paths).map_err(|error| (cursor_key, error))?;
    }
    for path in table.primary_key.iter_mut().flatten() {
        settle_path(path, has_paths).map_err(|error| ("primary_key", error))?;
    }
    Ok(())
}

fn settle_path(path: &mut FieldPath, has_paths: bool) -> Result<(), Error> {
    if has_paths {
        path.split();
    } else if path.is_nested() {
        return Err(Error::config(
            "A path into a column is for connectors of Airbyte: this source has columns",
        )
        .hint(format!("name the column: `{}`", path.parts[0])));
    }
    match path.parts.iter().any(String::is_empty) {
        true => Err(Error::config("A part of a path is empty")
            .hint("name each part, such as `metadata.updated_at`")),
        false => Ok(()),
    }
}

fn write_mode(mode: DestinationSyncMode, read_mode: Option<ReadMode>) -> Result<WriteMode, Wrong> {
    let key = "destination_sync_mode";
    let is_incremental = read_mode == Some(ReadMode::Incremental);
    match mode {
        DestinationSyncMode::Append => Ok(WriteMode::Append),
        DestinationSyncMode::AppendDedup => Ok(WriteMode::AppendDedup),
        DestinationSyncMode::Overwrite | DestinationSyncMode::OverwriteDedup if is_incremental => {
            Err((
                key,
                Error::config(
                    "The table would be replaced by what an incremental read finds, and lose all other rows",
                )
                .hint("sync_mode: full_refresh   # or destination_sync_mode: append_dedup"),
            ))
        }
        DestinationSyncMode::Overwrite => Ok(WriteMode::Replace),
        DestinationSyncMode::OverwriteDedup => Ok(WriteMode::ReplaceDedup),
        DestinationSyncMode::Update => Err((
            key,
            Error::unsupported(
                "`update` changes records of an application and is no way to keep a table",
            )
            .hint("destination_sync_mode: append_dedup   # updates by primary key, and adds what is new"),
        )),
        DestinationSyncMode::SoftDelete => Err((
            key,
            Error::unsupported(
                "`soft_delete` changes records of an application and is no way to keep a table",
            )
            .hint("destination_sync_mode: append_dedup, with `deletes: soft`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settled(more: Value, has_paths: bool) -> Result<TableSettings, Wrong> {
        let mut entry = json!({ "name": "t" });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut table: TableSettings = serde_json::from_value(entry).unwrap();
        settle(&mut table, has_paths).map(|()| table)
    }

    #[test]
    fn every_pair_of_modes_has_its_meaning() {
        use ReadMode::{FullRefresh, Incremental};
        for (read, write, expected) in [
            ("full_refresh", "overwrite", Some((FullRefresh, WriteMode::Replace))),
            ("full_refresh", "append", Some((FullRefresh, WriteMode::Append))),
            ("full_refresh", "overwrite_dedup", Some((FullRefresh, WriteMode::ReplaceDedup))),
            ("full_refresh", "append_dedup", Some((FullRefresh, WriteMode::AppendDedup))),
            ("incremental", "append", Some((Incremental, WriteMode::Append))),
            ("incremental", "append_dedup", Some((Incremental, WriteMode::AppendDedup))),
            ("incremental", "overwrite", None),
            ("incremental", "overwrite_dedup", None),
            ("full_refresh", "update", None),
            ("incremental", "soft_delete", None),
        ] {
            let keys = json!({ "sync_mode": read, "destination_sync_mode": write });
            let found = settled(keys, false);
            let modes = found.ok().map(|t| (t.read_mode.unwrap(), t.write_mode.unwrap()));
            assert_eq!(modes, expected, "{read} {write}");
        }
        // Each alone says nothing about the other.
        let table = settled(json!({ "sync_mode": "full_refresh" }), false).unwrap();
        assert_eq!((table.read_mode, table.write_mode), (Some(FullRefresh), None));
        let table = settled(json!({ "destination_sync_mode": "overwrite" }), false).unwrap();
        assert_eq!((table.read_mode, table.write_mode), (None, Some(WriteMode::Replace)));
    }

    #[test]
    fn paths_have_all_of_airbytes_forms() {
        let parts = |path: &FieldPath| path.parts().join("/");
        for (written, expected) in [
            (json!("updated_at"), "updated_at"),
            (json!(["updated_at"]), "updated_at"),
            (json!("metadata.updated_at"), "metadata/updated_at"),
            (json!(["metadata", "updated_at"]), "metadata/updated_at"),
            (json!(["a.b"]), "a.b"),
        ] {
            let table = settled(json!({ "cursor_field": written }), true).unwrap();
            assert_eq!(parts(&table.cursor.unwrap()), expected);
        }
        let keys = json!({ "primary_key": [["owner", "id"], ["n"], "a.b", "c"] });
        let table = settled(keys, true).unwrap();
        let key = table.primary_key.unwrap();
        let found: Vec<_> = key.iter().map(FieldPath::column_name).collect();
        assert_eq!(found, ["owner_id", "n", "a_b", "c"]);
        // A column may have a dot in its name.
        let table = settled(json!({ "cursor": "a.b", "primary_key": [["id"]] }), false).unwrap();
        assert_eq!(table.cursor.unwrap().column_name(), "a.b");
        for wrong in [json!({ "cursor": ["a", "b"] }), json!({ "primary_key": [["a", "b"]] })] {
            assert!(settled(wrong, false).is_err());
        }
        assert!(settled(json!({ "cursor": "a..b" }), true).is_err());
    }

    #[test]
    fn a_sweep_is_a_duration_or_every_time() {
        let sweep = |value| settled(json!({ "sweep": value }), false).map(|table| table.sweep);
        assert_eq!(sweep(json!("7d")).unwrap(), Some(Sweep(Some(7 * 86_400))));
        assert_eq!(sweep(json!(true)).unwrap(), Some(Sweep(Some(0))));
        assert_eq!(sweep(json!(false)).unwrap(), Some(Sweep(None)));
        for wrong in [json!("seven"), json!("7")] {
            let table =
                serde_json::from_value::<TableSettings>(json!({ "name": "t", "sweep": wrong }));
            assert!(table.is_err());
        }
    }

    #[test]
    fn two_names_of_one_key_are_refused() {
        for keys in [
            json!({ "cursor": "a", "cursor_field": "a" }),
            json!({ "read_mode": "incremental", "sync_mode": "incremental" }),
            json!({ "write_mode": "append", "destination_sync_mode": "append" }),
        ] {
            assert!(settled(keys, true).is_err());
        }
    }
}
