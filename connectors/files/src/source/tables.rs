//! What the tables are: their files, and columns found by looking at a sample.

use std::collections::{BTreeMap, BTreeSet};

use arrow_schema::Field;
use highwater_core::text::json_object;
use highwater_core::{Error, Result, Table, TableName};

use super::infer::{Column, Guess, Probe};
use super::input::{Hashing, Input, Lines};
use super::listing::{Listing, SourceFile};
use super::text::{csv_failed, each_csv_record, each_json_line, json_failed, open_csv};
use super::{parquet, types};
use crate::spec::{Format, SAMPLE_ROWS, SourceSpec};

/// A table that was found, and how its columns were.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) columns: Vec<Column>,
    pub(crate) format: Format,
    files: usize,
    sampled_rows: u64,
    /// Whether every row was looked at.
    all_rows: bool,
}

impl Found {
    pub(crate) fn table(&self, name: &str) -> Table {
        let fields: Vec<Field> = self.columns.iter().map(|c| c.field.clone()).collect();
        Table { source_defined_cursor: true, ..Table::new(TableName::new(name), fields) }
    }

    /// How the types were found: one sentence.
    pub(crate) fn note(&self) -> String {
        let Self { files, sampled_rows: rows, .. } = self;
        match self.format {
            Format::Parquet => format!("types are those of the {files} Parquet file(s)"),
            _ if self.all_rows => {
                format!("types were found by looking at all {rows} row(s) of {files} file(s)")
            }
            _ => format!(
                "types were found by looking at {rows} row(s) of {files} file(s): a later value of another type stops the table; `columns` and `sample_rows` of the source say otherwise"
            ),
        }
    }
}

/// How a table is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Not at all: its files are not opened.
    No,
    /// With others, by a pattern: it may still be skipped.
    Among,
    /// By its name.
    ByName,
}

/// What was found of the tables that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) tables: BTreeMap<String, Found>,
    /// The tables of which a file cannot be read: asking for one of them by its name says why.
    pub(crate) unreadable: Vec<String>,
}

/// Finds the columns of the tables that are asked for.
///
/// # Errors
/// Why a table cannot be read, if it is asked for by its name or no other can be read either.
pub(crate) fn discover(
    spec: &SourceSpec,
    listing: &Listing,
    asked: impl Fn(&str) -> Asked,
) -> Result<Discovered> {
    let mut declared = Declared::new(spec, listing.len() == 1)?;
    let mut discovered = Discovered::default();
    let mut first_error = None;
    let mut all = true;
    for (name, files) in listing {
        let asked = asked(name);
        if asked == Asked::No {
            all = false;
            continue;
        }
        let files: Vec<&SourceFile> = files.values().collect();
        let table = match look(spec, &files, name, &mut declared) {
            Ok(table) => table,
            Err(error) => {
                let named = error.context_value("table").is_some();
                let error = if named { error } else { error.context("table", name) };
                if asked == Asked::ByName {
                    return Err(error);
                }
                tracing::warn!(%error, "a table cannot be read");
                all = false;
                discovered.unreadable.push(name.clone());
                first_error.get_or_insert(error);
                continue;
            }
        };
        if table.columns.is_empty() {
            tracing::warn!(table = %name, "the files of a table have no column yet: it is left out");
            continue;
        }
        discovered.tables.insert(name.clone(), table);
    }
    if let (Some(error), true) = (first_error, discovered.tables.is_empty()) {
        return Err(error);
    }
    if all {
        declared.check_all_used()?;
    }
    Ok(discovered)
}

fn look(
    spec: &SourceSpec,
    files: &[&SourceFile],
    name: &str,
    declared: &mut Declared<'_>,
) -> Result<Found> {
    let format = files.first().map_or(Format::Csv, |file| file.format);
    if let Some(other) = files.iter().find(|file| file.format != format) {
        return Err(Error::config("The files of a table have different formats")
            .context("file", files[0].path.display())
            .context("other file", other.path.display())
            .hint("put them into different folders, or name them with a glob such as `*.csv`"));
    }
    let total = spec.sample_rows.unwrap_or(SAMPLE_ROWS);
    let quota = total.div_ceil(files.len().max(1) as u64);
    let mut sample = Sample::new(quota)?;
    let columns = match format {
        Format::Parquet => parquet::columns(files.iter().copied())?,
        Format::Csv => {
            files.iter().try_for_each(|file| sample.look_at_csv(file, spec))?;
            sample.columns(false)
        }
        Format::Json | Format::Jsonl => {
            files.iter().try_for_each(|file| sample.look_at_json(file))?;
            sample.columns(true)
        }
    };
    let columns = match format {
        Format::Parquet => columns,
        _ => declared.apply(name, columns, format)?,
    };
    Ok(Found {
        columns,
        format,
        files: files.len(),
        sampled_rows: sample.rows,
        all_rows: sample.all,
    })
}

/// What was seen of a table so far.
struct Sample {
    quota: u64,
    probe: Probe,
    guesses: Vec<(String, Guess)>,
    rows: u64,
    all: bool,
}

impl Sample {
    fn new(quota: u64) -> Result<Self> {
        Ok(Self { quota, probe: Probe::new()?, guesses: Vec::new(), rows: 0, all: true })
    }

    fn column(&mut self, name: &str) -> usize {
        match self.guesses.iter().position(|(known, _)| known == name) {
            Some(at) => at,
            None => {
                self.guesses.push((name.to_owned(), Guess::default()));
                self.guesses.len() - 1
            }
        }
    }

    fn look_at_csv(&mut self, file: &SourceFile, spec: &SourceSpec) -> Result<()> {
        let dialect = spec.format_spec.clone().unwrap_or_default().csv()?;
        let input = |file: &SourceFile| {
            Ok::<_, Error>(Input::new(Hashing::open(&file.path)?, file.compression))
        };
        let (names, mut reader) = open_csv(file, input(file)?, dialect)?;
        if !dialect.header {
            // The first record is a row, not the names.
            reader = super::csv::CsvReader::new(input(file)?, dialect, 1)
                .map_err(|e| csv_failed(file, 1, e))?;
        }
        let mut reader = reader.with_empty_lines(names.len() == 1);
        let columns: Vec<usize> = names.iter().map(|name| self.column(name)).collect();
        let (guesses, probe) = (&mut self.guesses, &mut self.probe);
        let rows = each_csv_record(file, &mut reader, names.len(), self.quota, |record| {
            for (field, column) in record.fields().zip(&columns) {
                if let Some(text) = field.map_err(|e| csv_failed(file, record.line, e))? {
                    guesses[*column].1.see_text(text, probe);
                }
            }
            Ok(())
        })?;
        self.rows += rows;
        self.all &= rows < self.quota;
        Ok(())
    }

    fn look_at_json(&mut self, file: &SourceFile) -> Result<()> {
        let input = Input::new(Hashing::open(&file.path)?, file.compression);
        let mut lines = Lines::new(input, 0);
        let quota = self.quota;
        let rows = each_json_line(file, &mut lines, quota, |text, line| {
            let seen = json_object(text, |key, raw| {
                let column = self.column(&key);
                if raw != "null" {
                    self.guesses[column].1.see_json(raw, &mut self.probe);
                }
                Some(())
            });
            seen.map_err(|e| json_failed(file, line, &e)).map(|_| ())
        })?;
        self.rows += rows;
        self.all &= rows < quota;
        Ok(())
    }

    fn columns(&self, json: bool) -> Vec<Column> {
        let column = |(name, guess): &(String, Guess)| {
            if json {
                guess.json_column(name, &self.probe)
            } else {
                guess.text_column(name, &self.probe)
            }
        };
        self.guesses.iter().map(column).collect()
    }
}

/// The types that the user declared.
struct Declared<'a> {
    spec: &'a SourceSpec,
    only_table: bool,
    used: BTreeSet<&'a str>,
}

impl<'a> Declared<'a> {
    fn new(spec: &'a SourceSpec, only_table: bool) -> Result<Self> {
        for (key, word) in &spec.columns {
            types::declared(key, word.as_str().unwrap_or_default(), key)?;
        }
        Ok(Self { spec, only_table, used: BTreeSet::new() })
    }

    /// Puts the declared types in the place of those that were found. A JSON file may have a
    /// column that the sample did not show.
    fn apply(&mut self, table: &str, found: Vec<Column>, format: Format) -> Result<Vec<Column>> {
        let mut columns = found;
        for (key, word) in &self.spec.columns {
            let qualified = key.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
            let at = |name: &str| columns.iter().position(|c| c.field.name() == name);
            // A column may have a dot in its name: the whole key is tried first.
            let (name, at) = match (at(key), qualified) {
                (Some(at), _) => (key.as_str(), Some(at)),
                (None, Some(name)) => (name, at(name)),
                (None, None) if self.only_table => (key.as_str(), None),
                (None, None) => continue,
            };
            let field = types::declared(name, word.as_str().unwrap_or_default(), key)?;
            let column = Column { field, raw: false };
            match at {
                Some(at) => columns[at] = column,
                None if format == Format::Csv => continue,
                None => columns.push(column),
            }
            self.used.insert(key);
        }
        Ok(columns)
    }

    fn check_all_used(&self) -> Result<()> {
        match self.spec.columns.keys().find(|key| !self.used.contains(key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Error::config("A declared column is in no table")
                .context("key", format!("columns.{key}"))
                .hint("name a column of a CSV or JSON file, or `table.column`")),
        }
    }
}
