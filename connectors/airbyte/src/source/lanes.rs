//! A table under way: its records in columns, and what the connector has said of it.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, RecordBatch, RecordBatchOptions};
use highwater_core::{CursorKey, Error, ReadMode, Result, Table, TableName, TablePlan, WriteMode};

use super::order::Traits;
use super::request::{cursor_key, key_columns};
use super::streams::Offered;
use crate::protocol::Progress;
use crate::records::{Decoder, Misfit, Record, Strictness, schema};

/// How many rows make a batch.
const BATCH_ROWS: usize = 8_192;
/// How many bytes of lines make a batch.
const BATCH_BYTES: usize = 4 << 20;
/// How many names a note lists.
const NAMES_MAX: usize = 10;

/// A table under way.
#[derive(Debug)]
pub(super) struct Lane {
    planned: Arc<Table>,
    pub(super) cursor_key: CursorKey,
    pub(super) traits: Traits,
    /// Whether it is read incrementally.
    pub(super) is_incremental: bool,
    /// Records since the state before.
    pub(super) since_state: u64,
    /// What the connector said last of it; `Unknown`: nothing.
    pub(super) progress: Progress,
    /// Why it cannot be gone on with, however well the connector does. Nothing more is gathered.
    misfit: Option<Misfit>,
    /// Which of the columns tell rows apart.
    key: Vec<usize>,
    /// Rows in which all of those are NULL.
    keyless: u64,
    rows: Rows,
}

/// Rows that are being gathered.
#[derive(Debug)]
enum Rows {
    Columns(Box<Decoder>),
    /// Records as they came.
    Lines(StringBuilder),
}

impl Lane {
    /// A planned table, of which nothing has come.
    ///
    /// # Errors
    /// `Schema` when the stream does not have a planned column; `Unsupported` when records cannot
    /// be read as a column wants it.
    pub(super) fn new(table: &TablePlan, offered: &Offered) -> Result<Self> {
        let rows = match offered.wanted(&table.source)? {
            None => Rows::Lines(StringBuilder::new()),
            Some(wanted) => {
                let properties = schema::property_names(&offered.stream.json_schema);
                let mut decoder = Decoder::new(wanted, properties)?;
                for (column, strictness) in strict(table) {
                    decoder.set_strictness(column, strictness);
                }
                Rows::Columns(Box::new(decoder))
            }
        };
        let key = strict(table).into_iter();
        let key = key.filter(|(_, strictness)| *strictness == Strictness::Exact);
        Ok(Self {
            planned: Arc::clone(&table.source),
            cursor_key: cursor_key(table),
            traits: traits(table),
            is_incremental: table.read_mode == ReadMode::Incremental,
            since_state: 0,
            progress: Progress::Unknown,
            misfit: None,
            key: key.map(|(column, _)| column).collect(),
            keyless: 0,
            rows,
        })
    }

    pub(super) fn name(&self) -> &TableName {
        &self.planned.name
    }

    pub(super) fn planned(&self) -> &Arc<Table> {
        &self.planned
    }

    /// Takes a record; whether there is enough for a batch.
    ///
    /// # Errors
    /// `Data` for a record that cannot be read.
    pub(super) fn append(&mut self, record: &Record<'_>) -> Result<bool> {
        self.since_state += 1;
        if self.misfit.is_some() {
            return Ok(false);
        }
        let rows = match &mut self.rows {
            Rows::Columns(decoder) => {
                decoder.append(record)?;
                if let Some(misfit) = decoder.misfit() {
                    self.misfit = Some(misfit.clone());
                    self.progress = Progress::Incomplete;
                    // No state covers what was gathered, and none will.
                    decoder.finish()?;
                    return Ok(false);
                }
                decoder.rows()
            }
            Rows::Lines(lines) => {
                lines.append_value(record.line());
                lines.offsets_slice().len() - 1
            }
        };
        Ok(rows >= BATCH_ROWS || self.gathered() >= BATCH_BYTES)
    }

    /// The error for a value with which it cannot be gone on, if there was one.
    pub(super) fn misfit(&self) -> Option<Error> {
        self.misfit.as_ref().map(|misfit| unfit(&self.planned, misfit))
    }

    /// The bytes of the lines whose rows are gathered.
    pub(super) fn gathered(&self) -> usize {
        match &self.rows {
            Rows::Columns(decoder) => decoder.bytes(),
            Rows::Lines(lines) => lines.values_slice().len(),
        }
    }

    /// The rows gathered so far, if there are some.
    pub(super) fn take(&mut self) -> Result<Option<RecordBatch>> {
        let columns = match &mut self.rows {
            Rows::Columns(decoder) if decoder.rows() == 0 => return Ok(None),
            Rows::Lines(lines) if lines.offsets_slice().len() == 1 => return Ok(None),
            Rows::Lines(lines) => {
                let lines = lines.finish();
                let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
                return Ok(Some(RecordBatch::try_new_with_options(
                    Arc::clone(&self.planned.schema),
                    vec![Arc::new(lines)],
                    &options,
                )?));
            }
            Rows::Columns(decoder) => decoder.finish()?,
        };
        if let Some((first, more)) = self.key.split_first() {
            let column = |index: &usize| columns.column(*index);
            let is_keyless = |row: &usize| more.iter().all(|index| column(index).is_null(*row));
            let first = column(first);
            if first.null_count() > 0 {
                let rows = (0..first.len()).filter(|row| first.is_null(*row));
                self.keyless += rows.filter(is_keyless).count() as u64;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(columns.num_rows()));
        let schema = Arc::clone(&self.planned.schema);
        let columns = columns.columns().to_vec();
        Ok(Some(RecordBatch::try_new_with_options(schema, columns, &options)?))
    }

    /// Whether records brought fields that the catalog does not have.
    pub(super) fn has_unknown(&self) -> bool {
        match &self.rows {
            Rows::Columns(decoder) => decoder.unknown().next().is_some(),
            Rows::Lines(_) => false,
        }
    }

    /// What the user should know of the values that came.
    pub(super) fn note(&self) -> Option<String> {
        let Rows::Columns(decoder) = &self.rows else { return None };
        let changed = decoder.changed().map(|(column, count)| format!("{count} of `{column}`"));
        let unknown = decoder.unknown().map(|(field, _)| field.to_owned());
        let keyless = (self.keyless > 0)
            .then(|| format!("{} rows came without a key: they are one row.", self.keyless));
        let sentences = [
            keyless,
            listed(changed.collect(), "Values that do not fit their column are NULL or cut: "),
            listed(unknown.collect(), "Fields that the catalog does not have were left out: "),
        ];
        let sentences: Vec<_> = sentences.into_iter().flatten().collect();
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }
}

/// A sentence with some of `names`; `None` where there are none.
fn listed(mut names: Vec<String>, before: &str) -> Option<String> {
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("{before}{}.", names.join(", "))),
        (false, more) => Some(format!("{before}{} and {more} more.", names.join(", "))),
    }
}

/// The columns in which NULL must not stand for a value that does not fit: rows would be taken for
/// the same row, for older ones, or for rows that are not deleted.
fn strict(table: &TablePlan) -> Vec<(usize, Strictness)> {
    if matches!(table.write_mode, WriteMode::Append | WriteMode::Replace) {
        return Vec::new();
    }
    let index = |column: &str| table.source.schema.index_of(column).ok();
    let is_dedup = matches!(table.write_mode, WriteMode::AppendDedup | WriteMode::ReplaceDedup);
    let order = table.cursor_field.as_deref().filter(|_| is_dedup);
    let others = order.into_iter().chain(table.deletion_column.as_deref()).filter_map(index);
    let mut columns: Vec<_> = others.map(|column| (column, Strictness::NoNull)).collect();
    let key = key_columns(table).filter_map(|column| index(&column));
    columns.extend(key.map(|column| (column, Strictness::Exact)));
    columns
}

/// The error for a value that does not fit a column that is strict. It does not hold the value.
fn unfit(table: &Table, misfit: &Misfit) -> Error {
    Error::data("A value of the key, the cursor or the deletion column does not fit its column")
        .context("stream", &table.name)
        .context("column", &misfit.column)
        .context("line", misfit.line)
        .hint(format!(
            "read it as text, and name the other columns too: `columns: [{{name: {}, type: text}}, …]`",
            misfit.column
        ))
}

/// What becomes of rows of a table that are committed before their state, and sent again.
///
/// Where a key decides which rows are the same row, and no history is kept, nothing. Where the
/// rows go into a table that only a complete read puts in its place, and an incomplete one begins
/// anew, nothing either. Everywhere else they would be there twice.
///
/// A full refresh that cannot be resumed has no state: it is covered when it is complete, and not
/// in parts, so that one that broke off leaves no rows behind.
fn traits(table: &TablePlan) -> Traits {
    let begins_anew = table.read_mode == ReadMode::FullRefresh && !table.source.resumable;
    let is_keyed = !table.target.primary_key.is_empty();
    let repeats = match table.write_mode {
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale | WriteMode::ReplaceDedup => {
            is_keyed
        }
        WriteMode::Replace => begins_anew,
        WriteMode::Append | WriteMode::AppendDedup => table.rebuild && begins_anew,
    };
    Traits { repeats, at_end: begins_anew }
}

#[cfg(test)]
mod tests {
    use highwater_core::ReadMode::{FullRefresh, Incremental};
    use highwater_core::WriteMode::{Append, AppendDedup, Overwrite, Replace, ReplaceDedup};

    use super::*;

    #[test]
    fn only_rows_that_do_no_harm_twice_go_on_before_their_state() {
        let traits = |read, write, resumable, keyed: bool| {
            let mut table = Table::new(TableName::new("t"), Vec::new());
            table.resumable = resumable;
            let key: &[&str] = if keyed { &["id"] } else { &[] };
            let target = table.clone().with_primary_key(key.iter().copied());
            let plan = TablePlan::new(Arc::new(table), Arc::new(target), read, write);
            let Traits { repeats, at_end } = super::traits(&plan);
            (repeats, at_end)
        };
        assert_eq!(traits(Incremental, Append, true, false), (false, false));
        assert_eq!(traits(Incremental, AppendDedup, true, true), (false, false));
        assert_eq!(traits(Incremental, Overwrite, true, true), (true, false));
        assert_eq!(traits(Incremental, Overwrite, true, false), (false, false));
        assert_eq!(traits(FullRefresh, Append, false, false), (false, true));
        assert_eq!(traits(FullRefresh, Append, true, false), (false, false));
        assert_eq!(traits(FullRefresh, Replace, false, false), (true, true));
        assert_eq!(traits(FullRefresh, Replace, true, false), (false, false));
        assert_eq!(traits(FullRefresh, ReplaceDedup, true, true), (true, false));
    }

    #[test]
    fn columns_that_tell_rows_apart_are_strict_under_the_name_that_the_source_has() {
        let field = |name: &str| arrow_schema::Field::new(name, arrow_schema::DataType::Utf8, true);
        let table = Table::new(TableName::new("t"), ["v", "id", "at", "gone"].map(field).to_vec());
        let target = table.clone().with_primary_key(["_cq_sync_group_id", "key"]);
        let strict = |mode| {
            let (source, target) = (Arc::new(table.clone()), Arc::new(target.clone()));
            let mut plan = TablePlan::new(source, target, Incremental, mode);
            plan.cursor_field = Some("at".to_owned());
            plan.deletion_column = Some("gone".to_owned());
            let renamed = highwater_core::Mapping::Rename { column: "id".into(), to: "key".into() };
            plan.mappings = vec![renamed];
            super::strict(&plan)
        };
        let (key, cursor) = ((1, Strictness::Exact), (2, Strictness::NoNull));
        let gone = (3, Strictness::NoNull);
        assert_eq!(strict(AppendDedup), [cursor, gone, key]);
        assert_eq!(strict(ReplaceDedup), [cursor, gone, key]);
        assert_eq!(strict(Overwrite), [gone, key]);
        assert_eq!(strict(Append), []);
        assert_eq!(strict(Replace), []);
    }

    #[test]
    fn a_note_names_some_and_counts_the_rest() {
        let names = |count: usize| (0..count).map(|n| format!("f{n}")).collect::<Vec<_>>();
        assert_eq!(listed(names(0), "Fields: "), None);
        assert_eq!(listed(names(2), "Fields: ").unwrap(), "Fields: f0, f1.");
        assert!(listed(names(12), "Fields: ").unwrap().ends_with("f9 and 2 more."));
    }
}
