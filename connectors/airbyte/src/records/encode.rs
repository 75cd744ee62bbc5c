//! Rows into RECORD lines, column by column and without a tree of values.
//!
//! | column | JSON |
//! |---|---|
//! | boolean, integer, float, decimal, numeric | itself, with every digit |
//! | `NaN`, `Infinity`, `-Infinity` | a string of that word: who cannot store it says so, and nobody takes it for a missing value |
//! | date, time, timestamp | a string as the protocol has it: `2026-11-21T03:04:05.000006Z`, ` BC` before year 1 |
//! | JSON | itself, on one line |
//! | list, struct, map | nested |
//! | binary | a string, base64 |
//! | all else | a string of the text that [`highwater_core::text`] has for it |
//!
//! Columns that are not of the table but of the records do not go into `data`: when the record was
//! made is `emitted_at`, what was changed in it is `meta`, and a record as it came is the line.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::plan::{EXTRACTED_AT, GENERATION_ID, META, RAW_ID};
use highwater_core::text::TextColumn;
use highwater_core::types::{
    LogicalType, RECORD_EXTRACTED_AT, RECORD_META, record_form, record_part,
};
use highwater_core::{Error, Result};

use super::schema::{Kind, SYSTEM};

/// Writes the rows of one stream. Made once, used for every batch.
#[derive(Debug)]
pub struct Encoder {
    /// All of a line up to the first member of `data`.
    head: String,
    columns: Vec<Column>,
    /// The place of the column with whole lines; nothing else is looked at then.
    line: Option<usize>,
    extracted_at: Option<usize>,
    meta: Option<usize>,
}

#[derive(Debug)]
struct Column {
    at: usize,
    field: Field,
    /// `,"name":`; the first has no comma.
    key: String,
    form: Form,
}

/// What becomes of the text of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// What [`TextColumn::write_json`] makes of it.
    Plain,
    /// The value is JSON.
    Json,
    /// A date.
    Date,
    /// A timestamp, with `T` for the space.
    Timestamp,
    /// A time of day in UTC.
    TimeUtc,
}

/// Whether a column is of the record, not of the table.
pub fn is_part(field: &Field) -> bool {
    record_part(field).is_some()
        || matches!(field.name().as_str(), RAW_ID | EXTRACTED_AT | META | GENERATION_ID)
}

impl Encoder {
    /// For rows of these columns, as records of the stream `name`.
    ///
    /// # Errors
    /// `Unsupported` for a column whose values have no text.
    pub fn new(namespace: Option<&str>, name: &str, schema: &Schema) -> Result<Self> {
        let mut head = String::from(r#"{"type":"RECORD","record":{"stream":"#);
        push_string(&mut head, name);
        if let Some(namespace) = namespace {
            head.push_str(r#","namespace":"#);
            push_string(&mut head, namespace);
        }
        head.push_str(r#","data":{"#);
        let fields = schema.fields();
        let part = |part: &str, name: &str| {
            fields.iter().position(|f| record_part(f) == Some(part) || f.name() == name)
        };
        let mut columns = Vec::new();
        for (at, field) in fields.iter().enumerate().filter(|(_, field)| !is_part(field)) {
            let mut key = String::from(if columns.is_empty() { "" } else { "," });
            push_string(&mut key, field.name());
            key.push(':');
            columns.push(Column { at, field: field.as_ref().clone(), key, form: form(field)? });
        }
        Ok(Self {
            head,
            columns,
            line: fields.iter().position(|f| record_form(f) == Some(SYSTEM)),
            extracted_at: part(RECORD_EXTRACTED_AT, EXTRACTED_AT),
            meta: part(RECORD_META, META),
        })
    }

    /// Appends a line per row. `emitted_at` is the time, in milliseconds, of records that do not
    /// bring one.
    ///
    /// # Errors
    /// `Internal` when the rows are not of the columns that the encoder was made for.
    pub fn encode(&self, rows: &RecordBatch, emitted_at: i64, out: &mut String) -> Result<()> {
        if let Some(line) = self.line {
            return lines(rows, line, out);
        }
        let writers = self.columns.iter().map(|column| {
            let values = rows.columns().get(column.at).ok_or_else(misfit)?;
            Writer::new(column, values.as_ref())
        });
        let writers = writers.collect::<Result<Vec<_>>>()?;
        let stamps = match self.extracted_at.and_then(|at| rows.columns().get(at)) {
            Some(stamps) => Some(Stamps::new(stamps.as_ref())?),
            None => None,
        };
        let meta = self.meta.and_then(|at| rows.columns().get(at));
        let meta = meta.map(|meta| meta.as_string_opt::<i32>().ok_or_else(misfit)).transpose()?;
        let mut scratch = String::new();
        for row in 0..rows.num_rows() {
            out.push_str(&self.head);
            for writer in &writers {
                out.push_str(&writer.column.key);
                writer.write(row, out, &mut scratch);
            }
            let stamp = stamps.as_ref().and_then(|stamps| stamps.milliseconds(row));
            out.push_str(r#"},"emitted_at":"#);
            out.push_str(itoa::Buffer::new().format(stamp.unwrap_or(emitted_at)));
            if let Some(changes) = meta.and_then(|meta| changes(meta, row)) {
                out.push_str(r#","meta":{"#);
                push_on_one_line(out, changes);
            }
            out.push_str("}}\n");
        }
        Ok(())
    }
}

fn form(field: &Field) -> Result<Form> {
    Ok(match LogicalType::of(field)? {
        LogicalType::Json => Form::Json,
        LogicalType::Date => Form::Date,
        LogicalType::Timestamp { .. } => Form::Timestamp,
        LogicalType::Time(_) => match Kind::of_field(field) {
            Ok(Kind::TimeUtc) => Form::TimeUtc,
            _ => Form::Plain,
        },
        _ => Form::Plain,
    })
}

fn misfit() -> Error {
    Error::internal("Rows are not of the columns that their stream has")
}

/// Records as they came.
fn lines(rows: &RecordBatch, at: usize, out: &mut String) -> Result<()> {
    let lines = rows.columns().get(at).and_then(|lines| lines.as_string_opt::<i32>());
    for line in lines.ok_or_else(misfit)?.iter().flatten() {
        out.push_str(line);
        out.push('\n');
    }
    Ok(())
}

/// What was changed in a record: `"changes":[…]}`. `None`: nothing.
fn changes(meta: &StringArray, row: usize) -> Option<&str> {
    if meta.is_null(row) {
        return None;
    }
    // The engine has put the number of the run in front, which is no part of the message.
    let text = meta.value(row);
    let changes = &text[text.find("\"changes\"")?..];
    (!changes.ends_with("[]}")).then_some(changes)
}

/// When records were made.
struct Stamps<'a> {
    ticks: &'a [i64],
    per_millisecond: i64,
    array: &'a dyn Array,
}

impl<'a> Stamps<'a> {
    fn new(array: &'a dyn Array) -> Result<Self> {
        use arrow_array::types::TimestampMicrosecondType as Micros;
        let DataType::Timestamp(TimeUnit::Microsecond, _) = array.data_type() else {
            return Err(misfit());
        };
        let ticks = array.as_primitive::<Micros>().values();
        Ok(Self { ticks, per_millisecond: 1_000, array })
    }

    fn milliseconds(&self, row: usize) -> Option<i64> {
        (!self.array.is_null(row)).then(|| self.ticks[row].div_euclid(self.per_millisecond))
    }
}

/// The values of a column in one batch.
struct Writer<'a> {
    column: &'a Column,
    array: &'a dyn Array,
    values: Values<'a>,
}

/// The types that are most of all rows have their own way.
enum Values<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
    F64(&'a [f64]),
    Boolean(&'a BooleanArray),
    Text(&'a StringArray),
    Json(&'a StringArray),
    Other(TextColumn<'a>),
}

impl<'a> Writer<'a> {
    fn new(column: &'a Column, array: &'a dyn Array) -> Result<Self> {
        if !column.field.data_type().equals_datatype(array.data_type()) {
            return Err(misfit().context("column", column.field.name()));
        }
        let is_numeric = matches!(LogicalType::of(&column.field)?, LogicalType::Numeric);
        let values = match (array.data_type(), column.form) {
            (DataType::Int32, Form::Plain) => {
                Values::I32(array.as_primitive::<Int32Type>().values())
            }
            (DataType::Int64, Form::Plain) => {
                Values::I64(array.as_primitive::<Int64Type>().values())
            }
            (DataType::Float64, Form::Plain) => {
                Values::F64(array.as_primitive::<Float64Type>().values())
            }
            (DataType::Boolean, Form::Plain) => Values::Boolean(array.as_boolean()),
            (DataType::Utf8, Form::Plain) if !is_numeric => Values::Text(array.as_string()),
            (DataType::Utf8, Form::Json) => Values::Json(array.as_string()),
            _ => Values::Other(TextColumn::new(&column.field, array)?),
        };
        Ok(Self { column, array, values })
    }

    #[inline]
    fn write(&self, row: usize, out: &mut String, scratch: &mut String) {
        if self.array.is_null(row) {
            out.push_str("null");
            return;
        }
        match &self.values {
            Values::I32(a) => out.push_str(itoa::Buffer::new().format(a[row])),
            Values::I64(a) => out.push_str(itoa::Buffer::new().format(a[row])),
            Values::F64(a) if a[row].is_finite() => {
                out.push_str(zmij::Buffer::new().format_finite(a[row]));
            }
            Values::F64(a) => out.push_str(word(a[row])),
            Values::Boolean(a) => out.push_str(if a.value(row) { "true" } else { "false" }),
            Values::Text(a) => push_string(out, a.value(row)),
            Values::Json(a) => push_on_one_line(out, a.value(row)),
            Values::Other(column) if self.column.form == Form::Plain => column.write_json(row, out),
            Values::Other(column) if column.is_null(row) => out.push_str("null"),
            Values::Other(column) => {
                scratch.clear();
                column.write(row, scratch);
                match self.column.form {
                    Form::Json => push_on_one_line(out, scratch),
                    Form::Date => push_date(out, scratch, ""),
                    Form::Timestamp => push_timestamp(out, scratch),
                    _ => {
                        out.push('"');
                        out.push_str(scratch);
                        out.push_str("Z\"");
                    }
                }
            }
        }
    }
}

fn word(value: f64) -> &'static str {
    match (value.is_nan(), value < 0.0) {
        (true, _) => "\"NaN\"",
        (_, true) => "\"-Infinity\"",
        _ => "\"Infinity\"",
    }
}

/// A date, and what follows it, from the text that core has for it.
fn push_date(out: &mut String, date: &str, rest: &str) {
    out.push('"');
    // Core counts years as astronomers do; the protocol has no year 0.
    let before = match date.strip_prefix('-') {
        Some(date) => date.split_once('-').and_then(|(y, d)| Some((y.parse::<u64>().ok()?, d))),
        None => date.strip_prefix("0000-").map(|day| (0, day)),
    };
    match before {
        Some((year, day)) => {
            out.push_str(&format!("{:04}-{day}{rest} BC", year + 1));
        }
        None => {
            out.push_str(date);
            out.push_str(rest);
        }
    }
    out.push('"');
}

fn push_timestamp(out: &mut String, text: &str) {
    match text.split_once(' ') {
        Some((date, _)) if date.starts_with('-') || date.starts_with("0000-") => {
            push_date(out, date, &format!("T{}", &text[date.len() + 1..]));
        }
        Some((date, clock)) => {
            out.push('"');
            out.push_str(date);
            out.push('T');
            out.push_str(clock);
            out.push('"');
        }
        // Infinity.
        None => push_string(out, text),
    }
}

/// JSON, whose line ends can only be white space: inside of strings they are escapes.
fn push_on_one_line(out: &mut String, json: &str) {
    let mut rest = json;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        out.push(' ');
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

/// Appends `text` as a JSON string with its quotes.
#[inline]
pub(crate) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    match first_special(text.as_bytes()) {
        None => out.push_str(text),
        Some(at) => push_escaped(out, text, at),
    }
    out.push('"');
}

#[cold]
fn push_escaped(out: &mut String, text: &str, mut at: usize) {
    let mut start = 0;
    loop {
        out.push_str(&text[start..at]);
        match text.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            byte => {
                out.push_str("\\u00");
                out.push(char::from(b'0' + (byte >> 4)));
                out.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
            }
        }
        start = at + 1;
        match first_special(&text.as_bytes()[start..]) {
            Some(next) => at = start + next,
            None => break,
        }
    }
    out.push_str(&text[start..]);
}

/// The place of the first byte that cannot stand in a JSON string as it is: eight at a time.
#[inline]
fn first_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let zero = |x: u64| x.wrapping_sub(ONES) & !x;
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        // Borrows can mark a byte above a marked one, never one where none is marked.
        if (quote | backslash | control) & HIGHS != 0 {
            break;
        }
        at += 8;
    }
    bytes[at..].iter().position(is_special).map(|found| at + found)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
