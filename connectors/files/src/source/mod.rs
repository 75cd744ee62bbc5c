//! Files as a source: each file is read once, and again when it has changed.

mod csv;
mod cursor;
mod infer;
mod input;
mod listing;
mod parquet;
mod read;
pub(crate) mod read_back;
mod tables;
mod text;
mod types;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use highwater_core::{
    Completion, Error, LogicalType, Output, Partition, Plan, ReadMode, Result, Source,
    SourceDelivery, State, Table, TableName, TablePlan,
};

use crate::disk::blocking;
use crate::spec::{OnChange, SourceSpec};
use tables::{Asked, Found};

/// Files of one spec.
pub(crate) struct FilesSource {
    spec: Arc<SourceSpec>,
    /// The tables as they were discovered: the plan is made of them.
    found: Arc<Mutex<BTreeMap<String, Found>>>,
}

impl FilesSource {
    pub(crate) fn new(spec: SourceSpec) -> Self {
        Self { spec: Arc::new(spec), found: Arc::default() }
    }

    /// What was found of a table; looks again if that was in another process.
    fn found(&self, name: &str) -> Option<Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn look(&self, name: &TableName) -> Result<Found> {
        if let Some(found) = self.found(&name.name) {
            return Ok(found);
        }
        self.discover(Some(std::slice::from_ref(&name.name))).await?;
        self.found(&name.name)
            .ok_or_else(|| Error::config("The files of a table are gone").context("table", name))
    }
}

/// The table of a partition: files are read one table at a time.
fn only_table<'a>(plan: &'a Plan, tables: &[TableName]) -> Result<&'a TablePlan> {
    match tables {
        [name] => plan.table(name),
        _ => Err(Error::internal("A partition of files is of several tables")),
    }
}

/// How the patterns of the user ask for a table; without any, every table is asked for.
fn asked(patterns: Option<&[String]>, name: &str) -> Asked {
    let Some(patterns) = patterns else { return Asked::Among };
    if patterns.iter().any(|pattern| pattern == name) {
        Asked::ByName
    } else if patterns.iter().any(|pattern| matches(pattern, name)) {
        Asked::Among
    } else {
        Asked::No
    }
}

/// Whether a pattern of the user names a table; `*` matches any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((prefix, rest)) => name.strip_prefix(prefix).is_some_and(|name| {
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| matches(rest, &name[at..]))
        }),
    }
}

#[async_trait]
impl Source for FilesSource {
    async fn check(&self) -> Result<()> {
        let spec = self.spec.clone();
        blocking(move || {
            for file in listing::list(&spec)?.values().flat_map(BTreeMap::values) {
                input::Hashing::open(&file.path)?;
            }
            Ok(())
        })
        .await
    }

    async fn discover(&self, only: Option<&[String]>) -> Result<Vec<Table>> {
        let (spec, only) = (self.spec.clone(), only.map(<[String]>::to_vec));
        let found = blocking(move || {
            let listing = listing::list(&spec)?;
            tables::discover(&spec, &listing, |name| asked(only.as_deref(), name))
        })
        .await?;
        // A table that cannot be read is there all the same: it can be named in order to skip
        // it, and `review` says what is wrong if it is not skipped.
        let unreadable = found.unreadable.iter().map(|n| Table::new(TableName::new(n), vec![]));
        let mut all: Vec<Table> = unreadable.collect();
        all.extend(found.tables.iter().map(|(name, found)| found.table(name)));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(found.tables);
        Ok(all)
    }

    fn delivery(&self, table: &TablePlan) -> SourceDelivery {
        let again =
            table.read_mode == ReadMode::Incremental && self.spec.on_change == OnChange::Read;
        if again {
            SourceDelivery::Again(
                "a file that has changed other than by growing is read again as a whole".to_owned(),
            )
        } else {
            SourceDelivery::Once
        }
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        let was_readable = self.found(&table.name().name).is_some();
        let mut notes = vec![self.look(table.name()).await?.note()];
        if !was_readable && table.source.schema.fields().is_empty() {
            return Err(Error::transient("The files of a table have just changed")
                .context("table", table.name())
                .hint("run the same command again"));
        }
        if table.read_mode == ReadMode::Incremental {
            notes.push(match self.spec.on_change {
                OnChange::Read => "new files are read, and what was appended to CSV and JSON files; a file that has changed otherwise is read again as a whole (`on_change: fail` refuses it)".to_owned(),
                OnChange::Fail => "new files are read, and what was appended to CSV and JSON files; a file that has changed otherwise stops the table".to_owned(),
            });
        }
        if let Some(cursor) = &table.cursor_field {
            let field = table.source.field(cursor).ok_or_else(|| {
                Error::config("The cursor field is not a column of the table")
                    .context("table", table.name())
                    .context("cursor", cursor)
            })?;
            if !LogicalType::of(field)?.has_order() {
                return Err(Error::config("The cursor field is of a type that has no order")
                    .context("table", table.name())
                    .context("cursor", cursor)
                    .context("type", field.data_type()));
            }
        }
        Ok(notes)
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(plan.tables.keys().map(Partition::whole).collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let table = only_table(plan, &partition.tables)?.clone();
        let found = self.look(table.name()).await?;
        let cursors = state.partition_cursors(table.name());
        let cursors =
            cursors.map(|(file, cursor)| Ok((file.to_owned(), cursor::FileCursor::parse(cursor)?)));
        let cursors = cursors.collect::<Result<BTreeMap<_, _>>>()?;
        let spec = self.spec.clone();
        blocking(move || read::TableRead::new(spec, table, found, cursors, output).run()).await
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_matches_any_text() {
        for (pattern, name) in
            [("*", ""), ("*", "a"), ("a*", "ab"), ("*b", "aab"), ("a*c*e", "abcde")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*c", "ab"), ("*é", "e")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
