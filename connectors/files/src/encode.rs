//! From batches to the bytes of a data file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use flate2::write::GzEncoder;
use highwater_core::text::{TextColumn, convert, push_json_string};
use highwater_core::types::{EXTENSION, JSON, NUMERIC, extension_field, with_metadata};
use highwater_core::{Error, Result};
use memchr::{memchr, memchr2};
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::disk;
use crate::row_groups::RowGroups;
use crate::spec::{Compression, CsvDialect, DestinationSettings, Format, ParquetCompression};

/// Text is handed to the file in pieces of this size.
const TEXT_BYTES: usize = 128 << 10;
/// A Parquet row group ends at this many rows, or where it takes too much memory.
const ROW_GROUP_ROWS: usize = 128 << 10;

/// The file, and what has gone into it.
struct Sink {
    file: BufWriter<File>,
    crc: crc32fast::Hasher,
    size: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.crc.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A data file that is being written.
pub(crate) struct Encoder {
    path: PathBuf,
    rows: u64,
    body: Body,
}

enum Body {
    Csv(TextSink, CsvDialect),
    Json(TextSink),
    Parquet(Box<RowGroups<Sink>>, SchemaRef),
}

struct TextSink {
    out: TextOut,
    buffer: String,
}

enum TextOut {
    Plain(Sink),
    Gzip(GzEncoder<Sink>),
}

/// A complete and durable file.
pub(crate) struct Encoded {
    pub(crate) size: u64,
    pub(crate) rows: u64,
    pub(crate) crc32: u32,
}

impl TextSink {
    fn new(sink: Sink, compression: Compression) -> Self {
        let out = match compression {
            Compression::None => TextOut::Plain(sink),
            Compression::Gzip => TextOut::Gzip(GzEncoder::new(sink, flate2::Compression::fast())),
        };
        Self { out, buffer: String::with_capacity(TEXT_BYTES + 4096) }
    }

    fn spill(&mut self, at_least: usize) -> io::Result<()> {
        if self.buffer.len() > at_least {
            match &mut self.out {
                TextOut::Plain(sink) => sink.write_all(self.buffer.as_bytes())?,
                TextOut::Gzip(encoder) => encoder.write_all(self.buffer.as_bytes())?,
            }
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Sink> {
        self.spill(0)?;
        match self.out {
            TextOut::Plain(sink) => Ok(sink),
            TextOut::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl Encoder {
    /// A new file for rows of `schema`.
    pub(crate) fn create(
        path: PathBuf,
        schema: &SchemaRef,
        settings: &DestinationSettings,
    ) -> Result<Self> {
        let file = File::create_new(&path)
            .map_err(|e| disk::failed("A data file cannot be made", &path, e))?;
        Self::over(file, path, schema, settings)
    }

    fn over(
        file: File,
        path: PathBuf,
        schema: &SchemaRef,
        settings: &DestinationSettings,
    ) -> Result<Self> {
        let sink = Sink {
            file: BufWriter::with_capacity(TEXT_BYTES, file),
            crc: crc32fast::Hasher::new(),
            size: 0,
        };
        let body = match settings.format {
            Format::Csv => {
                let dialect = settings.format_spec.csv()?;
                let mut text = TextSink::new(sink, settings.compression);
                if dialect.header {
                    push_header(&mut text.buffer, schema, dialect);
                }
                Body::Csv(text, dialect)
            }
            Format::Json | Format::Jsonl => Body::Json(TextSink::new(sink, settings.compression)),
            Format::Parquet => {
                let fields = schema.fields().iter().map(|f| marked(parquet_field(f)));
                let fields: Vec<_> = fields.collect();
                let schema = Arc::new(Schema::new(fields));
                let rows = settings.format_spec.max_row_group_length.unwrap_or(ROW_GROUP_ROWS);
                let writer = RowGroups::new(sink, schema.clone(), properties(settings), rows)
                    .map_err(|e| parquet_failed(&path, e))?;
                Body::Parquet(Box::new(writer), schema)
            }
        };
        Ok(Self { path, rows: 0, body })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let failed = |e| disk::failed("A data file cannot be written", &self.path, e);
        match &mut self.body {
            Body::Csv(sink, dialect) => write_csv(sink, rows, *dialect)?.map_err(failed)?,
            Body::Json(sink) => write_json(sink, rows)?.map_err(failed)?,
            Body::Parquet(writer, schema) => {
                let rows = parquet_rows(rows, schema)?;
                writer.write(&rows).map_err(|e| parquet_failed(&self.path, e))?;
            }
        }
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// Completes the file and makes it durable. What a Parquet file says of its rows is compared
    /// with what was written.
    pub(crate) fn finish(self) -> Result<Encoded> {
        let failed = |e| disk::failed("A data file cannot be completed", &self.path, e);
        let parquet = matches!(self.body, Body::Parquet(..));
        let mut sink = match self.body {
            Body::Csv(sink, _) | Body::Json(sink) => sink.finish().map_err(failed)?,
            Body::Parquet(writer, _) => {
                writer.finish().map_err(|e| parquet_failed(&self.path, e))?
            }
        };
        sink.flush().map_err(failed)?;
        sink.file.get_ref().sync_all().map_err(failed)?;
        if parquet {
            verify(&self.path, self.rows)?;
        }
        Ok(Encoded { size: sink.size, rows: self.rows, crc32: sink.crc.finalize() })
    }
}

fn verify(path: &Path, rows: u64) -> Result<()> {
    let file =
        File::open(path).map_err(|e| disk::failed("A data file cannot be read back", path, e))?;
    let reader = SerializedFileReader::new(file).map_err(|e| parquet_failed(path, e))?;
    let there = reader.metadata().file_metadata().num_rows();
    if u64::try_from(there) == Ok(rows) {
        return Ok(());
    }
    Err(Error::internal("A Parquet file holds another number of rows than was written")
        .context("path", path.display())
        .context("written", rows)
        .context("found", there))
}

fn push_header(out: &mut String, schema: &Schema, dialect: CsvDialect) {
    for (i, field) in schema.fields().iter().enumerate() {
        if i > 0 {
            out.push(char::from(dialect.delimiter));
        }
        let start = out.len();
        out.push_str(field.name());
        quote(out, start, dialect);
    }
    out.push('\n');
}

/// Puts quotes around the field that begins at `start` if it needs them: NULL is an empty field
/// without quotes, so an empty text has them.
fn quote(out: &mut String, start: usize, dialect: CsvDialect) {
    let field = &out.as_bytes()[start..];
    let inner = memchr(dialect.quote, field).is_some();
    let needed = inner
        || field.is_empty()
        || memchr2(b'\n', b'\r', field).is_some()
        || memchr(dialect.delimiter, field).is_some()
        // At the beginning of a file this would be taken for a byte order mark.
        || field.starts_with("\u{feff}".as_bytes());
    if !needed {
        return;
    }
    let quote = char::from(dialect.quote);
    if inner {
        let doubled = out[start..].replace(quote, &format!("{quote}{quote}"));
        out.truncate(start);
        out.push_str(&doubled);
    }
    out.insert(start, quote);
    out.push(quote);
}

/// Whether the text of such a value may hold anything but letters, digits and `+-.: `.
fn is_free_text(data_type: &DataType) -> bool {
    use DataType as D;
    !(data_type.is_numeric() || data_type.is_temporal() || matches!(data_type, D::Boolean))
}

fn write_csv(
    sink: &mut TextSink,
    rows: &RecordBatch,
    dialect: CsvDialect,
) -> Result<io::Result<()>> {
    let odd = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.: ".contains(&byte);
    let odd_dialect = odd(dialect.delimiter) || odd(dialect.quote);
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, array)| {
        let check = odd_dialect || is_free_text(field.data_type());
        Ok((TextColumn::new(field, array)?, check))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    for row in 0..rows.num_rows() {
        let out = &mut sink.buffer;
        for (i, (column, check)) in columns.iter().enumerate() {
            if i > 0 {
                out.push(char::from(dialect.delimiter));
            }
            if !column.is_null(row) {
                let start = out.len();
                column.write(row, out);
                if *check {
                    quote(out, start, dialect);
                }
            }
        }
        out.push('\n');
        if let Err(error) = sink.spill(TEXT_BYTES) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn write_json(sink: &mut TextSink, rows: &RecordBatch) -> Result<io::Result<()>> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).enumerate();
    let columns = columns.map(|(i, (field, array))| {
        let mut key = String::from(if i == 0 { "{" } else { "," });
        push_json_string(&mut key, field.name());
        key.push(':');
        Ok((key, TextColumn::new(field, array)?))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    for row in 0..rows.num_rows() {
        let out = &mut sink.buffer;
        if columns.is_empty() {
            out.push('{');
        }
        for (key, column) in &columns {
            out.push_str(key);
            column.write_json(row, out);
        }
        out.push_str("}\n");
        if let Err(error) = sink.spill(TEXT_BYTES) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn properties(settings: &DestinationSettings) -> WriterProperties {
    let codec = match settings.format_spec.compression {
        ParquetCompression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        ParquetCompression::Snappy => Codec::SNAPPY,
        ParquetCompression::Uncompressed => Codec::UNCOMPRESSED,
    };
    WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(concat!("highwater ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

/// The column as it is in a file.
pub(crate) fn stored_field(field: &Field, format: Format) -> Field {
    match format {
        Format::Parquet => parquet_field(field),
        Format::Csv | Format::Json | Format::Jsonl => field.clone(),
    }
}

/// The column that Parquet gets: intervals and columns of NULL are text there, seconds milliseconds,
/// zeros before the point of a decimal are digits, and nested columns that hold such are JSON.
fn parquet_field(field: &Field) -> Field {
    let changed = |data_type| Field::new(field.name(), data_type, field.is_nullable());
    match field.data_type() {
        DataType::Interval(_) | DataType::Null => changed(DataType::Utf8),
        // It knows no seconds, and would make a plain number of them.
        DataType::Timestamp(TimeUnit::Second, zone) => {
            changed(DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))
        }
        DataType::Time32(TimeUnit::Second) => changed(DataType::Time32(TimeUnit::Millisecond)),
        decimal if has_negative_scale(decimal) => match whole_digits(decimal) {
            digits @ 0..=38 => changed(DataType::Decimal128(digits, 0)),
            digits @ 39..=76 => changed(DataType::Decimal256(digits, 0)),
            _ => extension_field(field.name(), DataType::Utf8, NUMERIC)
                .with_nullable(field.is_nullable()),
        },
        nested if nested.is_nested() && holds_text_only(nested) => {
            extension_field(field.name(), DataType::Utf8, JSON).with_nullable(field.is_nullable())
        }
        _ => field.clone(),
    }
}

/// Arrow's JSON type is known to Parquet's by this second mark only.
fn marked(field: Field) -> Field {
    if field.metadata().get(EXTENSION).is_some_and(|name| name == JSON) {
        return with_metadata(field, "ARROW:extension:metadata", "");
    }
    field
}

fn has_negative_scale(data_type: &DataType) -> bool {
    use DataType as D;
    matches!(data_type, D::Decimal32(_, s) | D::Decimal64(_, s) | D::Decimal128(_, s) | D::Decimal256(_, s) if *s < 0)
}

/// The digits before the point of a decimal without digits after it.
fn whole_digits(data_type: &DataType) -> u8 {
    use DataType as D;
    match data_type {
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
            p.saturating_add(s.unsigned_abs())
        }
        _ => u8::MAX,
    }
}

/// Whether somewhere inside is a type that Parquet has no form for.
fn holds_text_only(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) | DataType::Null => true,
        decimal if has_negative_scale(decimal) => true,
        DataType::Struct(fields) => {
            fields.is_empty() || fields.iter().any(|f| holds_text_only(f.data_type()))
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => holds_text_only(item.data_type()),
        _ => false,
    }
}

/// The rows in the columns that Parquet gets.
fn parquet_rows(rows: &RecordBatch, stored: &SchemaRef) -> Result<RecordBatch> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(stored.fields()).zip(rows.columns());
    let arrays = columns.map(|((field, stored), array)| convert(field, array, stored));
    Ok(RecordBatch::try_new(stored.clone(), arrays.collect::<Result<_>>()?)?)
}

/// An error of the Parquet library: the file system's reason is inside it.
pub(crate) fn parquet_failed(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(inner) => disk::failed("A Parquet file cannot be read or written", path, *inner),
            Err(inner) => Error::data("A Parquet file cannot be read or written")
                .context("path", path.display())
                .caused_by(inner),
        },
        other => Error::data("A Parquet file cannot be read or written")
            .context("path", path.display())
            .caused_by(other),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array};
    use highwater_core::ErrorKind;
    use serde_json::json;

    use super::*;
    use crate::spec::{self, DestinationSpec};

    #[test]
    fn seconds_are_times_in_parquet_too() {
        let unit = |data_type| parquet_field(&Field::new("c", data_type, true)).data_type().clone();
        let utc: Option<Arc<str>> = Some("UTC".into());
        for zone in [None, utc] {
            assert_eq!(
                unit(DataType::Timestamp(TimeUnit::Second, zone.clone())),
                DataType::Timestamp(TimeUnit::Millisecond, zone)
            );
        }
        assert_eq!(
            unit(DataType::Time32(TimeUnit::Second)),
            DataType::Time32(TimeUnit::Millisecond)
        );
    }

    #[test]
    fn a_full_disk_is_said() {
        for format in ["csv", "jsonl", "parquet"] {
            let spec = json!({"path": "x", "format": format});
            let settings = spec::parse::<DestinationSpec>(spec).unwrap().settings().unwrap();
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
            let rows = RecordBatch::try_from_iter([("id", ids)]).unwrap();
            // Every write to this device fails as on a full disk.
            let full = Path::new("/dev/full").to_owned();
            let file = File::options().write(true).open(&full).unwrap();
            let error = Encoder::over(file, full, &rows.schema(), &settings)
                .and_then(|mut encoder| encoder.write(&rows).and_then(|()| encoder.finish()))
                .err()
                .unwrap();
            assert_eq!(error.kind(), ErrorKind::Transient, "{format}");
            assert!(error.message().contains("the disk is full"), "{format}: {error}");
        }
    }

    #[test]
    fn a_number_of_rows_that_differs_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let settings = spec::parse::<DestinationSpec>(json!({"path": "x"})).unwrap();
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let rows = RecordBatch::try_from_iter([("id", ids)]).unwrap();
        let mut encoder =
            Encoder::create(path.clone(), &rows.schema(), &settings.settings().unwrap()).unwrap();
        encoder.write(&rows).unwrap();
        encoder.finish().unwrap();
        assert!(verify(&path, 2).is_ok());
        assert_eq!(verify(&path, 3).unwrap_err().kind(), ErrorKind::Internal);
    }
}
