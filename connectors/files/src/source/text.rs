//! Reads the rows of CSV and JSON files into batches.

use std::collections::HashMap;
use std::io;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use highwater_core::text::{Mismatch, TextBuilder, json_object};
use highwater_core::{Error, Result};

use super::csv::{CsvError, CsvReader, Record};
use super::infer::Column;
use super::input::{Input, Lines};
use super::listing::SourceFile;
use crate::disk;
use crate::spec::{Compression, CsvDialect};

/// A batch has at most so many rows, and about so many bytes of text.
pub(crate) const BATCH_ROWS: usize = 8_192;
pub(crate) const BATCH_BYTES: usize = 8 << 20;

/// Takes the batches of a file.
pub(crate) type Emit<'a> = dyn FnMut(RecordBatch) -> Result<()> + 'a;

/// What was read of a file, counted from its beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) rows: u64,
    pub(crate) lines: u64,
}

/// The columns that are wanted, under construction.
struct Rows {
    schema: SchemaRef,
    builders: Vec<TextBuilder>,
    rows: usize,
    bytes: usize,
}

impl Rows {
    fn new(schema: &SchemaRef) -> Result<Self> {
        let builders = schema.fields().iter().map(|f| TextBuilder::new(f));
        let builders = builders.collect::<Result<_>>()?;
        Ok(Self { schema: schema.clone(), builders, rows: 0, bytes: 0 })
    }

    fn end_row(&mut self, bytes: usize, emit: &mut Emit<'_>) -> Result<()> {
        self.rows += 1;
        self.bytes += bytes;
        if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.flush(emit)?;
        }
        Ok(())
    }

    fn flush(&mut self, emit: &mut Emit<'_>) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = self.builders.iter_mut().map(TextBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        self.rows = 0;
        self.bytes = 0;
        emit(batch)
    }
}

/// Names the file and the line.
fn at(error: Error, file: &SourceFile, line: u64) -> Error {
    error.context("file", file.path.display()).context("line", line)
}

fn io_failed(file: &SourceFile, line: u64, error: io::Error) -> Error {
    let broken = matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    );
    if broken && file.compression == Compression::Gzip {
        return at(Error::data("A compressed file is broken").caused_by(error), file, line);
    }
    disk::failed("A file cannot be read", &file.path, error)
}

/// What is wrong with a CSV file.
pub(crate) fn csv_failed(file: &SourceFile, line: u64, error: CsvError) -> Error {
    match error {
        CsvError::Io(error) => io_failed(file, line, error),
        CsvError::Utf8 => at(Error::data("A file is not UTF-8"), file, line)
            .hint("convert it: `iconv -f latin1 -t utf-8 FILE > NEW`"),
        CsvError::AfterQuote => at(
            Error::data("There is text between a closing quote and the next delimiter"),
            file,
            line,
        )
        .hint("write a quote inside a quoted field twice, or set `format_spec.quote`"),
        CsvError::OpenQuote => at(Error::data("A quoted field has no end"), file, line)
            .hint("write a quote inside a quoted field twice, or set `format_spec.quote`"),
    }
}

fn mismatch(file: &SourceFile, line: u64, column: &str, mismatch: &Mismatch) -> Error {
    at(Error::data("A value does not fit its column's type"), file, line)
        .context("column", column)
        .context("type", mismatch.expected())
        .hint(format!(
            "declare the column's type in the source's spec: `columns: {{{column}: text}}`"
        ))
}

/// Opens a CSV file at its first record: the names of its columns, and the records after them.
pub(crate) fn open_csv(
    file: &SourceFile,
    input: Input,
    dialect: CsvDialect,
) -> Result<(Vec<String>, CsvReader<Input>)> {
    let mut reader = CsvReader::new(input, dialect, 1).map_err(|e| csv_failed(file, 1, e))?;
    let mut record = Record::default();
    if !reader.read(&mut record).map_err(|e| csv_failed(file, record.line, e))? {
        return Ok((Vec::new(), reader));
    }
    let mut names: Vec<String> = Vec::new();
    for (i, field) in record.fields().enumerate() {
        let name = field.map_err(|e| csv_failed(file, record.line, e))?;
        let name = name.filter(|_| dialect.header).filter(|name| !name.is_empty());
        names.push(name.map_or_else(|| format!("column_{}", i + 1), str::to_owned));
    }
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return Err(at(
                Error::schema("Two columns of a file have one name"),
                file,
                record.line,
            )
            .context("column", name));
        }
    }
    Ok((names, reader))
}

/// Reads CSV records up to `limit` rows, checking that each has as many fields as there are
/// names.
pub(crate) fn each_csv_record(
    file: &SourceFile,
    reader: &mut CsvReader<Input>,
    names: usize,
    limit: u64,
    mut row: impl FnMut(&Record) -> Result<()>,
) -> Result<u64> {
    let mut record = Record::default();
    let mut rows = 0;
    while rows < limit {
        let line = reader.line();
        if !reader.read(&mut record).map_err(|e| csv_failed(file, line, e))? {
            break;
        }
        if record.len() != names {
            let words = if record.len() > names { "many" } else { "few" };
            return Err(at(Error::data(format!("A record has too {words} fields")), file, record.line)
                .context("fields", record.len())
                .context("expected", names)
                .hint("put fields that hold the delimiter or a line end into quotes, or set `format_spec.delimiter`"));
        }
        row(&record)?;
        rows += 1;
    }
    Ok(rows)
}

/// Where each field of a file goes: `None` for columns that are not wanted.
fn targets(
    file: &SourceFile,
    names: &[String],
    known: &[Column],
    schema: &SchemaRef,
) -> Result<Vec<Option<usize>>> {
    let target = |name: &String| match schema.index_of(name) {
        Ok(at) => Ok(Some(at)),
        Err(_) if known.iter().any(|column| column.field.name() == name) => Ok(None),
        Err(_) => Err(unknown_column(file, name)),
    };
    names.iter().map(target).collect()
}

pub(crate) fn unknown_column(file: &SourceFile, name: &str) -> Error {
    Error::schema("A file has a column that was not there when its table was looked at")
        .context("file", file.path.display())
        .context("column", name)
        .hint(format!(
            "declare it in the source's spec (`columns: {{{name}: text}}`), or raise `sample_rows`"
        ))
}

/// Reads the records behind the names of the columns.
pub(crate) fn read_csv(
    file: &SourceFile,
    names: &[String],
    mut reader: CsvReader<Input>,
    known: &[Column],
    schema: &SchemaRef,
    emit: &mut Emit<'_>,
) -> Result<(Progress, CsvReader<Input>)> {
    let targets = targets(file, names, known, schema)?;
    let missing: Vec<usize> =
        (0..schema.fields().len()).filter(|at| !targets.contains(&Some(*at))).collect();
    let mut rows = Rows::new(schema)?;
    let count = each_csv_record(file, &mut reader, names.len(), u64::MAX, |record| {
        for (field, target) in record.fields().zip(&targets) {
            let field = field.map_err(|e| csv_failed(file, record.line, e))?;
            let Some(target) = *target else { continue };
            match field {
                None => rows.builders[target].append_null(),
                Some(text) => rows.builders[target].append(text).map_err(|wrong| {
                    mismatch(file, record.line, schema.field(target).name(), &wrong)
                })?,
            }
        }
        for at in &missing {
            rows.builders[*at].append_null();
        }
        rows.end_row(record.bytes(), emit)
    })?;
    rows.flush(emit)?;
    Ok((Progress { rows: count, lines: reader.line() - 1 }, reader))
}

/// Calls `object` for each line of a JSON file that is not empty, up to `limit` lines.
pub(crate) fn each_json_line(
    file: &SourceFile,
    lines: &mut Lines<Input>,
    limit: u64,
    mut object: impl FnMut(&str, u64) -> Result<()>,
) -> Result<u64> {
    let mut rows = 0;
    while rows < limit {
        let line = lines.line + 1;
        let Some(bytes) = lines.read().map_err(|e| io_failed(file, line, e))? else { break };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| csv_failed(file, line, CsvError::Utf8))?;
        object(text, line)?;
        rows += 1;
    }
    Ok(rows)
}

/// A line that is no JSON object.
pub(crate) fn json_failed(file: &SourceFile, line: u64, error: &serde_json::Error) -> Error {
    // The library's words name what is wrong and where, and never show the text.
    let column = error.column();
    at(Error::data("A line is not a JSON object"), file, line)
        .context("byte", column)
        .hint("the file must have one JSON object per line")
}

/// Reads the lines of a JSON file.
pub(crate) fn read_json(
    file: &SourceFile,
    mut lines: Lines<Input>,
    known: &[Column],
    schema: &SchemaRef,
    emit: &mut Emit<'_>,
) -> Result<(Progress, Lines<Input>)> {
    let fields = schema.fields();
    let by_name: HashMap<&str, usize> =
        fields.iter().enumerate().map(|(i, f)| (f.name().as_str(), i)).collect();
    let raw: Vec<bool> = fields
        .iter()
        .map(|f| known.iter().any(|column| column.raw && column.field.name() == f.name()))
        .collect();
    let mut rows = Rows::new(schema)?;
    // The line on which each column last had a value.
    let mut seen = vec![0; fields.len()];
    let count = each_json_line(file, &mut lines, u64::MAX, |text, line| {
        let mut failure = None;
        let mut expected = 0;
        let all = json_object(text, |key, value| {
            // Members mostly come in the order of the columns.
            let target = match fields.get(expected) {
                Some(field) if *field.name() == key => expected,
                _ => match by_name.get(key.as_ref()) {
                    Some(target) => *target,
                    None if known.iter().any(|c| *c.field.name() == key) => return Some(()),
                    None => {
                        failure = Some(unknown_column(file, &key).context("line", line));
                        return None;
                    }
                },
            };
            expected = target + 1;
            let builder = &mut rows.builders[target];
            let appended = if std::mem::replace(&mut seen[target], line) == line {
                failure = Some(
                    at(Error::data("A key appears twice in one object"), file, line)
                        .context("column", fields[target].name()),
                );
                return None;
            } else if raw[target] && value != "null" {
                builder.append(value)
            } else {
                builder.append_json(value)
            };
            appended
                .map_err(|wrong| {
                    failure = Some(mismatch(file, line, fields[target].name(), &wrong));
                })
                .ok()
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        all.map_err(|e| json_failed(file, line, &e))?;
        for (builder, seen) in rows.builders.iter_mut().zip(&seen) {
            if *seen != line {
                builder.append_null();
            }
        }
        rows.end_row(text.len(), emit)
    })?;
    rows.flush(emit)?;
    Ok((Progress { rows: count, lines: lines.line }, lines))
}
