//! The rows of the table that holds the state: `key, value, version`, as CloudQuery's own state
//! tables have them.
//!
//! A key is a JSON list that begins with the name of the sync, a value is JSON. Of several rows
//! with one key the highest version counts, so that a plugin that only adds rows serves too. A row
//! is never removed, because plugins cannot: what is forgotten is an empty text, which is no JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field};
use highwater_core::{CursorKey, Error, Result, Table, TableName};
use serde_json::{Value, json};

/// The table at the plugin.
pub const TABLE: &str = "_highwater_state";

pub(super) fn table() -> Table {
    let fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
        Field::new("version", DataType::UInt64, true),
    ];
    Table::new(TableName::new(TABLE), fields).with_primary_key(["key"])
}

/// A row to be written: what is kept under a key from now on, or that it is forgotten.
pub(super) type Change = (Key, Option<Value>);

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn lease(sync: &str) -> Self {
        Self(json!([sync, "lease"]).to_string())
    }

    pub(super) fn of_cursor(sync: &str, key: &CursorKey) -> Self {
        Self(match key.table() {
            None => json!([sync, "cursor"]).to_string(),
            Some(t) => json!([sync, "cursor", t.namespace, t.name, key.partition()]).to_string(),
        })
    }

    pub(super) fn table(sync: &str, table: &TableName) -> Self {
        Self(json!([sync, "table", table.namespace, table.name]).to_string())
    }

    /// Sync, kind, and what follows.
    fn parts(&self) -> Option<(String, String, Vec<Value>)> {
        let mut parts: Vec<Value> = serde_json::from_str(&self.0).ok()?;
        let rest = parts.split_off(2.min(parts.len()));
        match &parts[..] {
            [Value::String(sync), Value::String(kind)] => Some((sync.clone(), kind.clone(), rest)),
            _ => None,
        }
    }

    /// The cursor that the row holds, if it holds one.
    pub(super) fn cursor(&self) -> Option<CursorKey> {
        let (_, kind, rest) = self.parts()?;
        match (kind.as_str(), &rest[..]) {
            ("cursor", []) => Some(CursorKey::Global),
            ("cursor", [namespace, Value::String(name), Value::String(partition)]) => {
                Some(CursorKey::from_parts(Some(table_name(namespace, name)), partition))
            }
            _ => None,
        }
    }

    /// The table whose record the row holds, if it holds one.
    pub(super) fn record(&self) -> Option<TableName> {
        let (_, kind, rest) = self.parts()?;
        match (kind.as_str(), &rest[..]) {
            ("table", [namespace, Value::String(name)]) => Some(table_name(namespace, name)),
            _ => None,
        }
    }
}

fn table_name(namespace: &Value, name: &str) -> TableName {
    TableName { namespace: namespace.as_str().map(str::to_owned), name: name.to_owned() }
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    /// `None`: forgotten.
    value: Option<Value>,
    version: u64,
}

/// Rows by their key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows(BTreeMap<Key, Row>);

impl Rows {
    /// Takes rows in that were read.
    ///
    /// # Errors
    /// `Data` for a value that is no JSON.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let wrong =
            || Error::data("The table of the state has other columns").context("table", TABLE);
        let column = |name| batch.column_by_name(name).ok_or_else(wrong);
        let keys = column("key")?.as_string_opt::<i32>().ok_or_else(wrong)?;
        let values = column("value")?.as_string_opt::<i32>().ok_or_else(wrong)?;
        let versions = column("version")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
        for at in 0..batch.num_rows() {
            if values.is_null(at) {
                continue;
            }
            let key = Key(keys.value(at).to_owned());
            let version = if versions.is_null(at) { 0 } else { versions.value(at) };
            if self.0.get(&key).is_some_and(|known| known.version > version) {
                continue;
            }
            let value = match values.value(at) {
                "" => None,
                text => Some(serde_json::from_str(text).map_err(|_| {
                    Error::data("A row of the state is no JSON")
                        .context("table", TABLE)
                        .context("key", &key.0)
                })?),
            };
            self.0.insert(key, Row { value, version });
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is kept under a key, unless it was forgotten.
    pub(super) fn value(&self, key: &Key) -> Option<&Value> {
        self.0.get(key)?.value.as_ref()
    }

    /// What is kept of a sync.
    pub(super) fn of<'a>(&'a self, sync: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        self.0.iter().filter_map(move |(key, row)| {
            let is_its = key.parts().is_some_and(|parts| parts.0 == sync);
            row.value.as_ref().filter(|_| is_its).map(|value| (key, value))
        })
    }

    /// The syncs of which something is kept.
    pub(super) fn syncs(&self) -> Vec<String> {
        let mut syncs: Vec<_> = self.0.keys().filter_map(Key::parts).map(|parts| parts.0).collect();
        syncs.sort();
        syncs.dedup();
        syncs
    }

    /// The rows that make `changes`, each with its next version.
    pub(super) fn changed(&self, changes: Vec<Change>) -> Self {
        let changed = changes.into_iter().filter_map(|(key, value)| {
            let version = match self.0.get(&key) {
                Some(row) if row.value == value => return None,
                Some(row) => row.version + 1,
                None => 1,
            };
            Some((key, Row { value, version }))
        });
        Self(changed.collect())
    }

    pub(super) fn merge(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }

    pub(super) fn to_batch(&self) -> Result<RecordBatch> {
        let texts = self.0.values();
        let texts = texts.map(|row| row.value.as_ref().map(Value::to_string).unwrap_or_default());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(self.0.keys().map(|key| &key.0))),
            Arc::new(StringArray::from_iter_values(texts)),
            Arc::new(UInt64Array::from_iter_values(self.0.values().map(|r| r.version))),
        ];
        Ok(RecordBatch::try_new(table().schema, columns)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_say_what_they_are_about() {
        let table = TableName::in_namespace("a\"b", "lease");
        for cursor in [
            CursorKey::Global,
            CursorKey::Table(TableName::new("cursor")),
            CursorKey::Partition(table.clone(), "x,y".into()),
        ] {
            let key = Key::of_cursor("s", &cursor);
            assert_eq!((key.cursor(), key.record()), (Some(cursor), None));
        }
        let key = Key::table("s", &table);
        assert_eq!((key.cursor(), key.record()), (None, Some(table)));
        assert_eq!((Key::lease("s").cursor(), Key::lease("s").record()), (None, None));
        for strange in ["", "x", "[]", "[1]", "[\"s\"]", "[\"s\",2]", "{}"] {
            let key = Key(strange.to_owned());
            assert_eq!((key.cursor(), key.record()), (None, None), "{strange}");
        }
    }

    #[test]
    fn the_highest_version_counts_and_null_is_not_forgotten() {
        let (a, b) = (Key::lease("a"), Key::lease("b"));
        let mut rows = Rows::default();
        let first = rows.changed(vec![(a.clone(), Some(json!(1))), (b.clone(), Some(json!("x")))]);
        rows.merge(first.clone());
        let second =
            rows.changed(vec![(a.clone(), Some(Value::Null)), (b.clone(), Some(json!("x")))]);
        // What is there already is not written again.
        assert_eq!(second.0.keys().collect::<Vec<_>>(), [&a]);
        rows.merge(second.clone());
        let third = rows.changed(vec![(b.clone(), None)]);
        rows.merge(third.clone());
        let mut read = Rows::default();
        for part in [&third, &second, &first] {
            read.take(&part.to_batch().unwrap()).unwrap();
        }
        assert_eq!(read, rows);
        assert_eq!((read.value(&a), read.value(&b)), (Some(&Value::Null), None));
        assert_eq!(read.syncs(), ["a", "b"]);
        assert_eq!(read.of("b").count(), 0);
    }
}
