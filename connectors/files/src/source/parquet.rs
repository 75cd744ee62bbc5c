//! Reads Parquet files: their schemas, brought together, and their rows.

use std::fs::File;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use highwater_core::text::convert;
use highwater_core::types::{DECLARED, DEFINITION, type_name};
use highwater_core::{Error, LogicalType, Result};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::infer::Column;
use super::listing::SourceFile;
use super::text::{BATCH_BYTES, BATCH_ROWS, Emit, unknown_column};
use crate::disk;
use crate::encode::parquet_failed;

fn open(file: &SourceFile) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let opened = File::open(&file.path)
        .map_err(|e| disk::failed("A file cannot be opened", &file.path, e))?;
    ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|e| parquet_failed(&file.path, e))
}

/// Dictionaries are a way to store values, not a type of them.
fn expanded(data_type: &DataType) -> DataType {
    let field = |field: &Field| field.clone().with_data_type(expanded(field.data_type()));
    match data_type {
        DataType::Dictionary(_, values) => expanded(values),
        DataType::List(item) => DataType::List(field(item).into()),
        DataType::LargeList(item) => DataType::LargeList(field(item).into()),
        DataType::FixedSizeList(item, length) => {
            DataType::FixedSizeList(field(item).into(), *length)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| field(f)).collect()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries).into(), *sorted),
        other => other.clone(),
    }
}

/// A type that a user of some system defined stays behind: its definition may hold expressions,
/// and a file from anywhere must not have them run at a destination. The values are its text, or
/// those of its base type.
fn without_definition(mut field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    if metadata.remove(DEFINITION).is_some() {
        metadata.remove(DECLARED);
        field.set_metadata(metadata);
    }
    field
}

/// The columns of all files of a table. A column that some files do not have may be NULL; types
/// that differ become the wider one if that holds every value of both.
pub(crate) fn columns<'a>(files: impl Iterator<Item = &'a SourceFile>) -> Result<Vec<Column>> {
    let mut found: Vec<(Column, &SourceFile)> = Vec::new();
    for (nth, file) in files.enumerate() {
        let schema = open(file)?.schema().clone();
        for (column, _) in &mut found {
            if schema.index_of(column.field.name()).is_err() {
                column.field.set_nullable(true);
            }
        }
        for field in schema.fields() {
            let field = without_definition(field.as_ref().clone());
            let data_type = expanded(field.data_type());
            let field = field.with_data_type(data_type);
            LogicalType::of(&field).map_err(|e| {
                e.context("file", file.path.display()).hint(format!(
                    "leave it out: name the other columns in `columns` of the table (without `{}`)",
                    field.name()
                ))
            })?;
            match found.iter_mut().find(|(column, _)| column.field.name() == field.name()) {
                Some((column, first)) => {
                    column.field = unify(&column.field, &field, first, file)?;
                }
                None => {
                    let nullable = field.is_nullable() || nth > 0;
                    found.push((Column { field: field.with_nullable(nullable), raw: false }, file));
                }
            }
        }
    }
    Ok(found.into_iter().map(|(column, _)| column).collect())
}

fn unify(a: &Field, b: &Field, a_file: &SourceFile, b_file: &SourceFile) -> Result<Field> {
    let wider = if carries(b, a)? {
        a
    } else if carries(a, b)? {
        b
    } else {
        return Err(Error::schema("A column has different types in two files of a table")
            .context("column", a.name())
            .context("file", a_file.path.display())
            .context("type", type_name(a))
            .context("other file", b_file.path.display())
            .context("other type", type_name(b))
            .hint("put the files into different tables: one folder for each"));
    };
    Ok(wider.clone().with_nullable(a.is_nullable() || b.is_nullable()))
}

/// Whether every value of `from` is exactly a value of `to`, after a cast.
fn carries(from: &Field, to: &Field) -> Result<bool> {
    let (of_from, of_to) = (LogicalType::of(from)?, LogicalType::of(to)?);
    if of_from != of_to {
        return Ok(of_from.widens_to(&of_to));
    }
    Ok(match of_from {
        _ if from.data_type() == to.data_type() => true,
        // Layouts of one meaning that hold the same values.
        LogicalType::Text | LogicalType::Json | LogicalType::Numeric => true,
        LogicalType::Decimal { .. } => true,
        LogicalType::Binary => !matches!(to.data_type(), DataType::FixedSizeBinary(_)),
        _ => false,
    })
}

/// That a file is what the table was when it was looked at.
fn check_unchanged(
    file: &SourceFile,
    there: &Schema,
    known: &[Column],
    schema: &SchemaRef,
) -> Result<()> {
    for field in there.fields() {
        let wanted = schema.field_with_name(field.name()).ok();
        let column = known.iter().find(|column| column.field.name() == field.name());
        let Some(to) = wanted.or(column.map(|column| &column.field)) else {
            return Err(unknown_column(file, field.name())
                .hint("run the same command again: the columns are looked at in each run"));
        };
        let field = field.as_ref().clone().with_data_type(expanded(field.data_type()));
        if !carries(&field, to)? {
            return Err(Error::schema(
                "A column has another type than when its table was looked at",
            )
            .context("file", file.path.display())
            .context("column", field.name())
            .context("type", type_name(&field))
            .context("expected", type_name(to))
            .hint("run the same command again: the columns are looked at in each run"));
        }
    }
    Ok(())
}

/// Reads the wanted columns of a file; returns how many rows there were.
pub(crate) fn read(
    file: &SourceFile,
    known: &[Column],
    schema: &SchemaRef,
    emit: &mut Emit<'_>,
) -> Result<u64> {
    let failed = |e| parquet_failed(&file.path, e);
    let builder = open(file)?;
    check_unchanged(file, builder.schema(), known, schema)?;
    let wanted: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| schema.index_of(field.name()).is_ok())
        .map(|(at, _)| at)
        .collect();
    let expected = builder.metadata().file_metadata().num_rows();
    let groups = builder.metadata().row_groups();
    // Wide rows make small batches.
    let row_bytes = groups
        .iter()
        .map(|group| group.total_byte_size() / group.num_rows().max(1))
        .max()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(1);
    let batch_rows = (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS);
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let reader =
        builder.with_projection(mask).with_batch_size(batch_rows).build().map_err(failed)?;
    let mut rows = 0;
    for batch in reader {
        let batch = batch.map_err(|e| failed(e.into()))?;
        rows += batch.num_rows();
        emit(fitted(&batch, schema).map_err(|e| e.context("file", file.path.display()))?)?;
    }
    if u64::try_from(expected) != Ok(rows as u64) {
        return Err(Error::data("A Parquet file holds another number of rows than it says")
            .context("file", file.path.display())
            .context("expected", expected)
            .context("found", rows));
    }
    Ok(rows as u64)
}

/// The batch with exactly the columns of `schema`.
fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let there: &Schema = batch.schema_ref();
    let columns = schema.fields().iter().map(|field| match there.index_of(field.name()) {
        Err(_) => Ok(new_null_array(field.data_type(), batch.num_rows())),
        Ok(at) => widened(there.field(at), batch.column(at), field),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

fn widened(from: &Field, array: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    if array.data_type() == to.data_type() {
        return Ok(array.clone());
    }
    let failed = |e: Error| e.context("column", to.name()).context("type", type_name(to));
    if LogicalType::of(to)? == LogicalType::Numeric {
        return convert(from, array, to);
    }
    // Not `safe`: that would make NULL of a value that does not fit.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to.data_type(), &options).map_err(|_| {
        failed(Error::data("A value does not fit the type that all files of the table share"))
    })
}

#[cfg(test)]
mod tests {
    use highwater_core::types::with_metadata;

    use super::*;

    #[test]
    fn a_file_brings_no_definition_of_a_type_along() {
        let text = || Field::new("c", DataType::Utf8, true);
        let inet = with_metadata(text(), DECLARED, "postgresql:inet");
        assert_eq!(without_definition(inet.clone()), inet);
        let domain = with_metadata(text(), DECLARED, "postgresql:email");
        let domain = with_metadata(domain, DEFINITION, "[{\"kind\":\"domain\"}]");
        assert_eq!(without_definition(domain), text());
    }
}
