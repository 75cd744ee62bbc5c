//! Reads one table: which files, how much of each, and where a checkpoint may stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Error, ErrorKind, NullCursor, Op, Output, ReadMode,
    Result, TablePlan,
};

use super::csv::CsvReader;
use super::cursor::{FileCursor, Reading, compare};
use super::input::{Hashing, Input, Lines};
use super::listing::{self, SourceFile, Stamp};
use super::parquet;
use super::tables::Found;
use super::text::{Progress, csv_failed, open_csv, read_csv, read_json};
use crate::spec::{Compression, CsvDialect, Format, OnChange, SourceSpec};

/// A checkpoint is sent at the end of a file once so much was sent since the last one.
const CHECKPOINT_ROWS: u64 = 100_000;
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// One read of one table.
pub(crate) struct TableRead {
    spec: Arc<SourceSpec>,
    plan: TablePlan,
    found: Arc<Found>,
    /// Where each file was left, by its relative path.
    cursors: BTreeMap<String, FileCursor>,
    output: Output,
    /// Cursors of files that were read since the last checkpoint.
    pending: Checkpoint,
    rows: u64,
    bytes: u64,
}

/// What happened to a file.
enum Read {
    /// It is as it was.
    Unchanged,
    /// It is read to its end.
    Done(FileCursor),
    /// The run was asked to stop in the middle of it.
    Stopped,
}

impl TableRead {
    pub(crate) fn new(
        spec: Arc<SourceSpec>,
        plan: TablePlan,
        found: Found,
        cursors: BTreeMap<String, FileCursor>,
        output: Output,
    ) -> Self {
        let pending = Checkpoint::default();
        Self { spec, plan, found: Arc::new(found), cursors, output, pending, rows: 0, bytes: 0 }
    }

    fn is_incremental(&self) -> bool {
        self.plan.read_mode == ReadMode::Incremental
    }

    /// Reads all files, in the order of their names.
    pub(crate) fn run(mut self) -> Result<Completion> {
        let files = self.files()?;
        crash::at(CrashPoint::ReadSnapshot);
        for file in files {
            if let Read::Stopped = self.file(&file)? {
                return Ok(Completion::Stopped);
            }
            let due = self.rows >= CHECKPOINT_ROWS || self.bytes >= CHECKPOINT_BYTES;
            let stopping = self.output.is_stopping();
            if self.is_incremental() && (due || stopping) {
                self.checkpoint()?;
            }
            if stopping {
                return Ok(Completion::Stopped);
            }
        }
        crash::at(CrashPoint::ReadRows);
        if self.is_incremental() {
            self.checkpoint()?;
        }
        Ok(Completion::Complete)
    }

    fn files(&self) -> Result<Vec<SourceFile>> {
        let mut listing = listing::list(&self.spec)?;
        let files = listing.remove(&self.plan.name().name).ok_or_else(|| {
            Error::config("The files of a table are gone").context("table", self.plan.name())
        })?;
        Ok(files.into_values().collect())
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.rows = 0;
        self.bytes = 0;
        self.output.blocking_checkpoint(std::mem::take(&mut self.pending))
    }

    /// Reads what is new of a file and notes its cursor.
    fn file(&mut self, file: &SourceFile) -> Result<Read> {
        let cursor = self.cursors.get(&file.relative).filter(|_| self.is_incremental()).cloned();
        let read = match compare(file, cursor)? {
            Reading::Nothing => Read::Unchanged,
            Reading::Touched(cursor) => Read::Done(cursor),
            Reading::Rest { input, from } => self.rows_of(file, Some((*input, from)))?,
            Reading::All { again } => {
                if again && self.spec.on_change == OnChange::Fail {
                    return Err(Error::data("A file that was read before has changed")
                        .context("table", self.plan.name())
                        .context("file", file.path.display())
                        .hint("`on_change: read` in the source's spec reads it again as a whole"));
                }
                self.rows_of(file, None)?
            }
        };
        if let Read::Done(cursor) = &read {
            let key = CursorKey::Partition(self.plan.name().clone(), file.relative.clone());
            self.pending.cursors.insert(key, cursor.to_cursor());
        }
        Ok(read)
    }

    /// Reads a file, or the rest of it, and checks that it did not change meanwhile.
    fn rows_of(&mut self, file: &SourceFile, rest: Option<(Hashing, FileCursor)>) -> Result<Read> {
        let table = Arc::new(self.plan.source.as_ref().clone());
        let schema = table.schema.clone();
        let mut stopped = false;
        let found = self.found.clone();
        let dialect = self.spec.format_spec.clone().unwrap_or_default().csv()?;
        let read = {
            let mut emit = |rows: RecordBatch| {
                if self.output.is_stopping() && file.stamp.size > CHECKPOINT_BYTES {
                    stopped = true;
                    return Err(Error::interrupted("The run was asked to stop"));
                }
                let rows = self.without_null_cursors(rows, file)?;
                self.rows += rows.num_rows() as u64;
                self.bytes += rows.get_array_memory_size() as u64;
                let batch = Batch { table: table.clone(), op: Op::Upsert, rows };
                self.output.blocking_batch(batch)?;
                crash::at(CrashPoint::ReadBatch);
                Ok(())
            };
            let format = CsvOrJson { file, columns: &found.columns, schema: &schema };
            match file.format {
                Format::Parquet => parquet::read(file, &found.columns, &schema, &mut emit)
                    .map(|rows| FileCursor::whole(file, rows)),
                Format::Csv => format.csv(dialect, rest, &mut emit),
                Format::Json | Format::Jsonl => format.json(rest, &mut emit),
            }
        };
        if stopped {
            return Ok(Read::Stopped);
        }
        let is_same = Stamp::of(&file.path).is_ok_and(|now| now == file.stamp);
        let is_cut_short = |e: &Error| e.kind() == ErrorKind::Interrupted;
        // What is wrong with a file that somebody is writing is not worth telling.
        if !is_same && !read.as_ref().is_err_and(is_cut_short) {
            return Err(Error::transient("A file changed while it was read")
                .context("table", self.plan.name())
                .context("file", file.path.display())
                .hint("run the same command again when nobody writes the file; nothing of it was committed"));
        }
        Ok(Read::Done(read?))
    }

    /// Leaves out rows without a cursor value, if the user wants that.
    fn without_null_cursors(&self, rows: RecordBatch, file: &SourceFile) -> Result<RecordBatch> {
        let Some(cursor) = &self.plan.cursor_field else { return Ok(rows) };
        let Some(column) = rows.column_by_name(cursor) else { return Ok(rows) };
        if self.plan.null_cursor == NullCursor::Include || column.logical_null_count() == 0 {
            return Ok(rows);
        }
        if self.plan.null_cursor == NullCursor::Fail {
            return Err(Error::data("A row has no value in the cursor field")
                .context("table", self.plan.name())
                .context("cursor", cursor)
                .context("file", file.path.display())
                .hint("`null_cursor: include` reads such rows, `exclude` leaves them out"));
        }
        let Some(nulls) = column.logical_nulls() else { return Ok(rows) };
        Ok(filter_record_batch(&rows, &BooleanArray::new(nulls.into_inner(), None))?)
    }
}

impl FileCursor {
    fn whole(file: &SourceFile, rows: u64) -> Self {
        Self {
            size: file.stamp.size,
            modified: file.stamp.modified,
            rows,
            lines: 0,
            hash: None,
            whole_lines: false,
        }
    }

    /// The cursor of a text file that was read to its end.
    fn text(file: &SourceFile, progress: Progress, raw: &Hashing) -> Self {
        Self {
            lines: progress.lines,
            hash: Some(raw.hash()),
            whole_lines: raw.at_line_end() && file.compression == Compression::None,
            ..Self::whole(file, progress.rows)
        }
    }
}

/// Reads all rows of a file that nobody changes.
pub(crate) fn whole(
    file: &SourceFile,
    dialect: CsvDialect,
    columns: &[super::infer::Column],
    schema: &arrow_schema::SchemaRef,
    emit: &mut super::text::Emit<'_>,
) -> Result<()> {
    let text = CsvOrJson { file, columns, schema };
    match file.format {
        Format::Parquet => parquet::read(file, columns, schema, emit).map(drop),
        Format::Csv => text.csv(dialect, None, emit).map(drop),
        Format::Json | Format::Jsonl => text.json(None, emit).map(drop),
    }
}

/// A text file, what is known of its table, and what is wanted of it.
struct CsvOrJson<'a> {
    file: &'a SourceFile,
    columns: &'a [super::infer::Column],
    schema: &'a arrow_schema::SchemaRef,
}

impl CsvOrJson<'_> {
    fn input(&self) -> Result<Input> {
        Ok(Input::new(Hashing::open(&self.file.path)?, self.file.compression))
    }

    fn csv(
        &self,
        dialect: CsvDialect,
        rest: Option<(Hashing, FileCursor)>,
        emit: &mut super::text::Emit<'_>,
    ) -> Result<FileCursor> {
        let file = self.file;
        let (names, mut reader) = open_csv(file, self.input()?, dialect)?;
        let (before, line) = rest.as_ref().map_or((0, 1), |(_, from)| (from.rows, from.lines + 1));
        let again = match rest {
            Some((input, _)) => Some(Input::Plain(Box::new(input))),
            // The first record is a row, not the names.
            None if !dialect.header => Some(self.input()?),
            None => None,
        };
        if let Some(input) = again {
            reader = CsvReader::new(input, dialect, line).map_err(|e| csv_failed(file, line, e))?;
        }
        let reader = reader.with_empty_lines(names.len() == 1);
        let (mut progress, reader) =
            read_csv(file, &names, reader, self.columns, self.schema, emit)?;
        progress.rows += before;
        Ok(FileCursor::text(file, progress, reader.input().raw()))
    }

    fn json(
        &self,
        rest: Option<(Hashing, FileCursor)>,
        emit: &mut super::text::Emit<'_>,
    ) -> Result<FileCursor> {
        let (before, lines) = match rest {
            Some((input, from)) => {
                (from.rows, Lines::new(Input::Plain(Box::new(input)), from.lines))
            }
            None => (0, Lines::new(self.input()?, 0)),
        };
        let (mut progress, lines) = read_json(self.file, lines, self.columns, self.schema, emit)?;
        progress.rows += before;
        Ok(FileCursor::text(self.file, progress, lines.input().raw()))
    }
}
