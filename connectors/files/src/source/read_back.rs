//! Reads back what a destination has committed: the files that its logs name, in the columns and
//! types that are asked for.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use highwater_core::text::convert_rows;
use highwater_core::{Batch, Error, Op, Output, Result, Table};

use super::infer::Column;
use super::listing::{SourceFile, Stamp};
use super::read;
use crate::log::Place;
use crate::spec::{CsvDialect, DestinationSettings, Format};

/// Sends the rows of a table; nothing when no sync has written it.
///
/// # Errors
/// `Unsupported` for CSV files that do not name their columns; `Data` for a value that is none of
/// the wanted type.
pub(crate) fn send(
    place: &Place,
    settings: &DestinationSettings,
    wanted: &Table,
    output: &Output,
) -> Result<()> {
    let Some(shape) = place.find_shape(&wanted.name)? else { return Ok(()) };
    let dialect = settings.format_spec.csv()?;
    if settings.format == Format::Csv && !dialect.header {
        return Err(Error::unsupported(
            "CSV files without the names of their columns cannot be read back",
        )
        .context("table", &wanted.name)
        .hint("leave `format_spec.skip_header` out"));
    }
    let columns = shape.table.schema.fields().iter();
    let columns: Vec<Column> = columns.map(|there| known(there, wanted, settings.format)).collect();
    let mut chosen: Vec<Field> = columns
        .iter()
        .filter(|column| wanted.field(column.field.name()).is_some())
        .map(|column| column.field.clone())
        .collect();
    if chosen.is_empty() {
        // The rows are there all the same.
        chosen.extend(columns.first().map(|column| column.field.clone()));
    }
    let reading = Reading { dialect, columns, schema: Schema::new(chosen), wanted, output };
    for name in place.files_of(&wanted.name)? {
        let path = place.root().join(&name);
        // Whoever moves a file away takes its rows out of the table.
        if !path.exists() {
            continue;
        }
        let stamp = Stamp::of(&path)?;
        let (format, compression) = (settings.format, settings.compression);
        reading.file(&SourceFile { path, relative: name, format, compression, stamp })?;
    }
    Ok(())
}

/// A column of the files: text is read as what is wanted, Parquet as what it is.
fn known(there: &Field, wanted: &Table, format: Format) -> Column {
    let field = match (format, wanted.field(there.name())) {
        (Format::Csv | Format::Json | Format::Jsonl, Some(wanted)) => wanted,
        _ => there,
    };
    Column { field: field.clone().with_nullable(true), raw: false }
}

struct Reading<'a> {
    dialect: CsvDialect,
    columns: Vec<Column>,
    schema: Schema,
    wanted: &'a Table,
    output: &'a Output,
}

impl Reading<'_> {
    fn file(&self, file: &SourceFile) -> Result<()> {
        let table = Arc::new(self.wanted.clone());
        let mut emit = |rows: RecordBatch| {
            let rows = convert_rows(&rows, self.wanted)
                .map_err(|error| error.context("file", file.path.display()))?;
            self.output.blocking_batch(Batch { table: table.clone(), op: Op::Upsert, rows })
        };
        let schema = Arc::new(self.schema.clone());
        read::whole(file, self.dialect, &self.columns, &schema, &mut emit)
    }
}
