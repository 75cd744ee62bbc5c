//! The rows of the state table: what is committed, and what a plugin has written since.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use highwater_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Rows of a state table; as JSON they are the source's global cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRows {
    /// By key.
    pub rows: BTreeMap<String, StateRow>,
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRow {
    /// The plugin's own text.
    pub value: String,
    /// Grows with every change, so that of several rows with one key the newest is known.
    pub version: u64,
}

/// A row as a plugin writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The key.
    pub key: String,
    /// The plugin's own text.
    pub value: String,
    /// Plugins on the Python SDK know no versions.
    pub version: Option<u64>,
}

/// The rows of a batch of the state table. A row without a key or a value says nothing.
///
/// # Errors
/// `Schema` when a column is missing or of another type.
pub fn received(rows: &RecordBatch) -> Result<Vec<Received>> {
    let text = |name: &'static str| {
        let column = rows.column_by_name(name).ok_or_else(|| {
            Error::schema("A row of the state table lacks a column").context("column", name)
        })?;
        arrow_cast::cast(column, &DataType::Utf8).map_err(|e| no_text(name).caused_by(e))
    };
    let (keys, values) = (text("key")?, text("value")?);
    let keys = keys.as_string_opt::<i32>().ok_or_else(|| no_text("key"))?;
    let values = values.as_string_opt::<i32>().ok_or_else(|| no_text("value"))?;
    let versions = rows.column_by_name("version").map(|versions| {
        arrow_cast::cast(versions, &DataType::UInt64).map_err(|e| {
            Error::schema("The state table's versions are no whole numbers").caused_by(e)
        })
    });
    let versions = versions.transpose()?;
    let versions = versions.as_ref().and_then(|v| v.as_primitive_opt::<UInt64Type>());
    let all = (0..rows.num_rows()).filter(|&row| keys.is_valid(row) && values.is_valid(row));
    Ok(all
        .map(|row| Received {
            key: keys.value(row).to_owned(),
            value: values.value(row).to_owned(),
            version: versions.filter(|v| v.is_valid(row)).map(|v| v.value(row)),
        })
        .collect())
}

fn no_text(column: &str) -> Error {
    Error::schema("A column of the state table is no text").context("column", column)
}

/// What is committed and what is held.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// `None` until the read has begun.
    committed: Option<BTreeMap<String, StateRow>>,
    held: BTreeMap<String, StateRow>,
}

impl Book {
    pub(super) fn begin(&mut self, committed: StateRows) {
        self.committed = Some(committed.rows);
        self.held.clear();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.committed.is_some()
    }

    pub(super) fn held(&self) -> StateRows {
        StateRows { rows: self.held.clone() }
    }

    /// Takes rows in and returns those that changed something. Of several with one key the
    /// highest version counts, of equal ones the last; without a version every change is newer.
    pub(super) fn hold(&mut self, rows: Vec<Received>) -> StateRows {
        let mut changed = StateRows::default();
        for Received { key, value, version } in rows {
            let old = self.row(&key);
            let version = match (version, old) {
                (_, Some(old))
                    if old.value == value && version.is_none_or(|v| v <= old.version) =>
                {
                    continue;
                }
                (Some(version), Some(old)) if version < old.version => continue,
                (Some(version), _) => version,
                (None, Some(old)) => old.version.saturating_add(1),
                (None, None) => 1,
            };
            let row = StateRow { value, version };
            changed.rows.insert(key.clone(), row.clone());
            self.held.insert(key, row);
        }
        changed
    }

    pub(super) fn settle(&mut self, rows: &StateRows) {
        let committed = self.committed.get_or_insert_default();
        for (key, row) in &rows.rows {
            if self.held.get(key) == Some(row) {
                self.held.remove(key);
            }
            committed.insert(key.clone(), row.clone());
        }
    }

    fn row(&self, key: &str) -> Option<&StateRow> {
        self.held.get(key).or_else(|| self.committed.as_ref()?.get(key))
    }

    /// What a reader sees: the committed rows under the held ones, by key.
    pub(super) fn content(&self) -> BTreeMap<String, StateRow> {
        let mut content = self.committed.clone().unwrap_or_default();
        content.extend(self.held.iter().map(|(key, row)| (key.clone(), row.clone())));
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: &str, version: Option<u64>) -> Received {
        Received { key: key.to_owned(), value: value.to_owned(), version }
    }

    fn begun(rows: &[(&str, &str, u64)]) -> Book {
        let mut book = Book::default();
        book.begin(state(rows));
        book
    }

    fn state(rows: &[(&str, &str, u64)]) -> StateRows {
        let row = |(key, value, version): &(&str, &str, u64)| {
            ((*key).to_owned(), StateRow { value: (*value).to_owned(), version: *version })
        };
        StateRows { rows: rows.iter().map(row).collect() }
    }

    #[test]
    fn the_highest_version_counts_and_of_equal_ones_the_last() {
        let mut book = begun(&[("a", "base", 5)]);
        book.hold(vec![row("a", "older", Some(4)), row("a", "seven", Some(7))]);
        assert_eq!(book.held(), state(&[("a", "seven", 7)]));
        book.hold(vec![row("a", "six", Some(6))]);
        assert_eq!(book.held(), state(&[("a", "seven", 7)]));
        book.hold(vec![row("a", "seven again", Some(7))]);
        assert_eq!(book.held(), state(&[("a", "seven again", 7)]));
    }

    #[test]
    fn without_a_version_every_change_gets_the_next_one() {
        let mut book = begun(&[("a", "base", 5)]);
        assert_eq!(book.hold(vec![row("a", "base", None)]), StateRows::default());
        assert_eq!(book.held(), StateRows::default(), "nothing has changed");
        book.hold(vec![row("a", "x", None), row("b", "new", None), row("a", "y", None)]);
        assert_eq!(book.held(), state(&[("a", "y", 7), ("b", "new", 1)]));
    }

    #[test]
    fn what_is_settled_is_held_no_longer_and_still_read() {
        let mut book = begun(&[("a", "base", 5)]);
        let changed = book.hold(vec![row("a", "x", None), row("b", "y", None)]);
        book.settle(&changed);
        assert_eq!(book.held(), StateRows::default());
        assert_eq!(book.content(), state(&[("a", "x", 6), ("b", "y", 1)]).rows);
        // A newer one came in the meantime: it stays.
        let older = book.hold(vec![row("b", "z", None)]);
        book.hold(vec![row("b", "newest", None)]);
        book.settle(&older);
        assert_eq!(book.held(), state(&[("b", "newest", 3)]));
    }

    #[test]
    fn a_new_run_begins_with_nothing_held() {
        let mut book = Book::default();
        assert!(!book.has_begun());
        book.begin(StateRows::default());
        book.hold(vec![row("a", "x", None)]);
        book.begin(state(&[("b", "y", 1)]));
        assert_eq!(book.content(), state(&[("b", "y", 1)]).rows);
    }

    #[test]
    fn a_cursor_has_the_form_that_the_engine_reads() {
        let json = serde_json::to_value(state(&[("k", "v", 7)])).unwrap();
        assert_eq!(json, serde_json::json!({"rows": {"k": {"value": "v", "version": 7}}}));
    }
}
