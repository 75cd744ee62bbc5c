//! From the values of a text reply to Arrow columns.

use arrow_array::ArrayRef;
use arrow_array::builder::{ArrayBuilder, BinaryBuilder, StringBuilder};
use arrow_schema::{DataType, Field};
use highwater_core::text::TextBuilder;
use highwater_core::types::type_name;
use highwater_core::{Error, LogicalType, Result, TableName};
use mysql_async::Value;

/// One column of a batch under construction.
pub(crate) struct Reader {
    column: String,
    type_name: String,
    values: Values,
    is_instant: bool,
    is_date: bool,
    text: String,
}

enum Values {
    Text(StringBuilder),
    Binary(BinaryBuilder),
    /// Text that has to be a value of the type.
    Parsed(TextBuilder),
}

impl Reader {
    /// # Errors
    /// `Unsupported` for types that no system stores.
    pub(crate) fn new(field: &Field) -> Result<Self> {
        let logical = LogicalType::of(field)?;
        let values = match (&logical, field.data_type()) {
            (LogicalType::Text | LogicalType::Json, DataType::Utf8) => {
                Values::Text(StringBuilder::new())
            }
            (LogicalType::Binary, DataType::Binary) => Values::Binary(BinaryBuilder::new()),
            _ => Values::Parsed(TextBuilder::new(field)?),
        };
        let is_instant = matches!(logical, LogicalType::Timestamp { utc: true, .. });
        let is_date = matches!(logical, LogicalType::Date | LogicalType::Timestamp { .. });
        let (column, type_name) = (field.name().clone(), type_name(field));
        Ok(Self { column, type_name, values, is_instant, is_date, text: String::new() })
    }

    /// Appends a value; returns how many bytes it takes, roughly.
    ///
    /// # Errors
    /// `Data` when the value does not fit the column's type.
    pub(crate) fn append(&mut self, value: &Value, table: &TableName) -> Result<usize> {
        let bytes = match value {
            Value::NULL => {
                match &mut self.values {
                    Values::Text(builder) => builder.append_null(),
                    Values::Binary(builder) => builder.append_null(),
                    Values::Parsed(builder) => builder.append_null(),
                }
                return Ok(8);
            }
            Value::Bytes(bytes) => bytes.as_slice(),
            _ => return Err(Error::internal("A text reply holds a value that is no text")),
        };
        let fits = match &mut self.values {
            Values::Binary(builder) => {
                builder.append_value(bytes);
                true
            }
            Values::Text(builder) => match std::str::from_utf8(bytes) {
                Ok(text) => {
                    builder.append_value(text);
                    true
                }
                Err(_) => false,
            },
            Values::Parsed(builder) => match std::str::from_utf8(bytes) {
                // The session is in UTC, and says so nowhere.
                Ok(text) if self.is_instant => {
                    self.text.clear();
                    self.text.push_str(text);
                    self.text.push('Z');
                    builder.append(&self.text).is_ok()
                }
                Ok(text) => builder.append(text).is_ok(),
                Err(_) => false,
            },
        };
        if fits {
            return Ok(bytes.len() + 8);
        }
        let what = match self.is_date {
            true => "A date does not exist in the calendar, such as a zero date",
            false => "A value does not fit the type of its column",
        };
        Err(Error::data(what)
            .context("table", table)
            .context("column", &self.column)
            .context("type", &self.type_name)
            .hint(format!(
                "columns: [{{name: {}, type: text}}]   # and the other columns to copy",
                self.column
            )))
    }

    /// The column so far; begins the next one.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::Text(builder) => ArrayBuilder::finish(builder),
            Values::Binary(builder) => ArrayBuilder::finish(builder),
            Values::Parsed(builder) => builder.finish(),
        }
    }
}
