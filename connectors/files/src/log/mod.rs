//! The commit log of one sync: what was committed, in order, and the state that it adds up to.
//!
//! The log is the folder `_highwater/<sync>-<hash>/` below the root of the data, where the hash is
//! that of the template of the files' names: destinations that share a folder share no log. Entry `n` is the file
//! `<n, 20 digits>.json`, made only if it does not exist: whoever makes it has committed, whoever
//! finds it taken has lost the lease. Each entry holds the hash of the one before. An `open` entry
//! begins each run and repeats the whole state, so only the entries since the last one are read;
//! older ones are a record for people and may be deleted.
//!
//! Data files are written below `stage/` in the same folder, named in an entry, and get their own
//! names only then: a reader of the data's folders sees committed rows only.

mod entries;
mod place;
mod publish;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::state::TableRecord;
use highwater_core::{Checkpoint, Cursor, CursorKey, Instant, Owner, State, Table, TableName};
use serde::{Deserialize, Serialize};

pub(crate) use place::{Place, refuse_foreign};
pub(crate) use store::{Kind, Logs, SyncLog};

/// The folder of all logs, below the root of the data.
pub(crate) const FOLDER: &str = "_highwater";

/// One file of the log.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Dense, from 1; the same as in the file's name.
    seq: u64,
    /// XXH3 of the bytes of the entry before, 128 bits in hexadecimal; empty in the first.
    prev_hash: String,
    /// The run that made it.
    epoch: u64,
    /// When, by the clock of the machine that made it.
    at: Instant,
    action: Action,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// A run took the lease; all before it adds up to this state.
    Open {
        owner: Owner,
        /// The sync and the template of its files, to be sure whose log this is.
        sync: String,
        template: String,
        state: Folded,
    },
    /// Rows, cursors, or both.
    Commit(Change),
    /// A table was completed.
    Finish(Change),
    /// Cursors or records were set without rows.
    State(Change),
    /// The run gave the lease back.
    Release,
}

/// What an entry changes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Change {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cursors: Vec<(Key, Position)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tables: Vec<TableChange>,
}

/// Where a cursor is from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Position {
    At(Cursor),
    /// There is none any more.
    Forgotten,
}

/// A [`CursorKey`] in its parts.
pub(crate) type Key = (Option<TableName>, String);

pub(crate) fn key_parts(key: &CursorKey) -> Key {
    (key.table().cloned(), key.partition().to_owned())
}

/// The cursors of a checkpoint.
pub(crate) fn positions(checkpoint: &Checkpoint) -> Vec<(Key, Position)> {
    let cursors = checkpoint.cursors.iter();
    cursors.map(|(key, cursor)| (key_parts(key), Position::At(cursor.clone()))).collect()
}

/// What an entry changes about one table, by its name at the source.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct TableChange {
    pub(crate) source: Option<TableName>,
    /// The new record; `Some(None)` forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "double")]
    pub(crate) record: Option<Option<TableRecord>>,
    /// The table as it is now, when that is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Shape>,
    /// Files whose rows are visible from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) added: Vec<DataFile>,
    /// Names of files whose rows are no longer part of the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) removed: Vec<String>,
    /// Files that become visible when the table is finished (a rebuild, as `replace`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) staged: Vec<DataFile>,
}

/// A destination table: its columns and what tells it from a later one of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) table: Table,
    /// Random, made with the table.
    pub(crate) identity: String,
}

/// A data file: complete, durable and never changed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataFile {
    /// Its path below the root of the data.
    pub(crate) name: String,
    /// Its name in the stage.
    pub(crate) stage: String,
    /// Whether it takes the place of an older file of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) replaces: bool,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) rows: u64,
    /// Of its bytes. Nothing here reads it again: it is for whoever wants to know, years later or
    /// after a copy to elsewhere, whether a file still is what was committed.
    pub(crate) crc32: u32,
}

/// Everything that the log says of one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TableState {
    pub(crate) record: Option<TableRecord>,
    pub(crate) shape: Option<Shape>,
    /// The files that hold its rows.
    pub(crate) files: Vec<DataFile>,
    /// Files of an unfinished rebuild.
    pub(crate) staged: Vec<DataFile>,
    /// When an entry last changed it.
    pub(crate) changed_at: Instant,
}

/// The state that the entries add up to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Folded {
    #[serde(with = "pairs")]
    pub(crate) cursors: BTreeMap<Key, Cursor>,
    #[serde(with = "pairs")]
    pub(crate) tables: BTreeMap<TableName, TableState>,
}

impl Folded {
    fn apply(&mut self, change: &Change, at: Instant) {
        for (key, cursor) in &change.cursors {
            match cursor {
                Position::At(cursor) => self.cursors.insert(key.clone(), cursor.clone()),
                Position::Forgotten => self.cursors.remove(key),
            };
        }
        for table in &change.tables {
            let Some(source) = &table.source else { continue };
            let state = self.tables.entry(source.clone()).or_default();
            state.changed_at = at;
            if let Some(record) = &table.record {
                state.record.clone_from(record);
            }
            if let Some(shape) = &table.shape {
                state.shape = Some(shape.clone());
            }
            state.files.retain(|file| !table.removed.contains(&file.name));
            state.files.extend(table.added.iter().cloned());
            // A file moves from the staged ones to the added ones, or waits for that.
            state.staged.retain(|file| !table.added.iter().any(|added| added.stage == file.stage));
            state.staged.extend(table.staged.iter().cloned());
        }
    }

    /// Forgets what an unfinished rebuild has staged, for its files go with the run that made them:
    /// and with it the cursors that say that its rows need not be read again.
    fn drop_unfinished(&mut self) {
        for (name, table) in &mut self.tables {
            if !table.staged.is_empty() {
                table.staged.clear();
                self.cursors.retain(|(of, _), _| of.as_ref() != Some(name));
            }
        }
    }

    /// The cursors of a table.
    pub(crate) fn cursors_of(&self, table: &TableName) -> Vec<Key> {
        self.cursors.keys().filter(|(of, _)| of.as_ref() == Some(table)).cloned().collect()
    }

    /// The names of all files that were committed and not removed.
    pub(crate) fn file_names(&self) -> BTreeSet<&str> {
        self.tables.values().flat_map(|t| &t.files).map(|file| file.name.as_str()).collect()
    }

    /// The state as the engine knows it, without fence and lease.
    pub(crate) fn state(&self) -> State {
        let cursors = self.cursors.iter();
        let tables = self.tables.iter();
        State {
            cursors: cursors
                .map(|((t, p), c)| (CursorKey::from_parts(t.clone(), p), c.clone()))
                .collect(),
            tables: tables.filter_map(|(n, t)| Some((n.clone(), t.record.clone()?))).collect(),
            ..State::default()
        }
    }
}

/// JSON objects have text keys only: maps are lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// `null` is `Some(None)`: a key that is there and says "nothing".
mod double {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod recovery;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_survives_its_text() {
        let mut folded = Folded::default();
        let table = TableName::in_namespace("public", "orders");
        let file = |name: &str| DataFile {
            name: name.into(),
            stage: format!("{name}.part"),
            replaces: false,
            size: 3,
            rows: 2,
            crc32: 1,
        };
        let change = Change {
            cursors: vec![
                ((Some(table.clone()), "a/b.csv".into()), Position::At(Cursor(json!({"size": 1})))),
                ((None, String::new()), Position::At(Cursor(json!(9_007_199_254_740_993_i64)))),
            ],
            tables: vec![TableChange {
                source: Some(table.clone()),
                record: Some(Some(TableRecord { rows_total: 2, ..TableRecord::default() })),
                staged: vec![file("x")],
                added: vec![file("y")],
                ..TableChange::default()
            }],
        };
        folded.apply(&change, Instant(1));
        let text = serde_json::to_string(&folded).unwrap();
        assert_eq!(serde_json::from_str::<Folded>(&text).unwrap(), folded);
        assert_eq!(folded.state().cursors.len(), 2);

        let finish = Change {
            cursors: vec![((None, String::new()), Position::Forgotten)],
            tables: vec![TableChange {
                source: Some(table.clone()),
                record: Some(None),
                added: vec![file("x")],
                removed: vec!["y".into()],
                ..TableChange::default()
            }],
        };
        let finish: Change =
            serde_json::from_str(&serde_json::to_string(&finish).unwrap()).unwrap();
        folded.apply(&finish, Instant(2));
        assert_eq!(folded.cursors.len(), 1);
        let state = &folded.tables[&table];
        assert_eq!((state.files.len(), state.staged.len(), &state.record), (1, 0, &None));
        assert_eq!(state.files[0].name, "x");
    }
}
