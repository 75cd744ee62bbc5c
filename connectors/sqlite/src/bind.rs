//! From Arrow columns to the parameters of an INSERT, without an allocation per value.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type,
};
use arrow_array::{Array, ArrowPrimitiveType, BinaryArray, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use highwater_core::text::TextColumn;
use highwater_core::{Error, LogicalType, Result, TableName};
use rusqlite::Statement;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

/// A column whose values become parameters.
struct Binder<'a> {
    array: &'a dyn Array,
    values: Values<'a>,
}

enum Values<'a> {
    Integer(Box<dyn Fn(usize) -> i64 + 'a>),
    Real(Box<dyn Fn(usize) -> f64 + 'a>),
    Boolean(&'a BooleanArray),
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
    Bytes(Box<dyn Fn(usize) -> &'a [u8] + 'a>),
    /// Everything that is stored as its canonical text.
    Canonical(TextColumn<'a>),
}

fn integers<T: ArrowPrimitiveType>(array: &dyn Array) -> Values<'_>
where
    T::Native: Into<i64>,
{
    let values = array.as_primitive::<T>().values();
    Values::Integer(Box::new(move |row| values[row].into()))
}

impl<'a> Binder<'a> {
    fn new(field: &Field, array: &'a dyn Array) -> Result<Self> {
        let values = match array.data_type() {
            DataType::Int8 => integers::<Int8Type>(array),
            DataType::Int16 => integers::<Int16Type>(array),
            DataType::Int32 => integers::<Int32Type>(array),
            DataType::Int64 => integers::<Int64Type>(array),
            DataType::UInt8 => integers::<UInt8Type>(array),
            DataType::UInt16 => integers::<UInt16Type>(array),
            DataType::UInt32 => integers::<UInt32Type>(array),
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>().values();
                Values::Real(Box::new(|row| values[row].to_f64()))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().values();
                Values::Real(Box::new(|row| values[row].into()))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                Values::Real(Box::new(|row| values[row]))
            }
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Binary => Values::Binary(array.as_binary()),
            DataType::LargeBinary => {
                let values = array.as_binary::<i64>();
                Values::Bytes(Box::new(|row| values.value(row)))
            }
            DataType::BinaryView => {
                let values = array.as_binary_view();
                Values::Bytes(Box::new(|row| values.value(row)))
            }
            DataType::FixedSizeBinary(_) if LogicalType::of(field)? == LogicalType::Binary => {
                let values = array.as_fixed_size_binary();
                Values::Bytes(Box::new(|row| values.value(row)))
            }
            _ => Values::Canonical(TextColumn::new(field, array)?),
        };
        Ok(Self { array, values })
    }

    /// The value of a row; `scratch` holds the text of values that have to be written first.
    fn value<'b>(&'b self, row: usize, scratch: &'b mut String) -> ValueRef<'b> {
        if self.array.is_null(row) {
            return ValueRef::Null;
        }
        match &self.values {
            Values::Integer(value) => ValueRef::Integer(value(row)),
            Values::Real(value) => ValueRef::Real(value(row)),
            Values::Boolean(array) => ValueRef::Integer(array.value(row).into()),
            Values::Text(array) => ValueRef::Text(array.value(row).as_bytes()),
            Values::Binary(array) => ValueRef::Blob(array.value(row)),
            Values::Bytes(value) => ValueRef::Blob(value(row)),
            Values::Canonical(column) => {
                scratch.clear();
                if column.is_null(row) {
                    return ValueRef::Null;
                }
                column.write(row, scratch);
                ValueRef::Text(scratch.as_bytes())
            }
        }
    }
}

/// The first value of a column as it is stored.
///
/// # Errors
/// `Unsupported` for types that are not stored.
pub(crate) fn single_value(field: &Field, array: &dyn Array) -> Result<Value> {
    let mut scratch = String::new();
    let binder = Binder::new(field, array)?;
    Ok(match binder.value(0, &mut scratch) {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

/// What an INSERT of rows can fail with.
pub(crate) enum Failure {
    /// A value or a type that cannot be stored.
    Refused(Error),
    /// SQLite's error.
    Sqlite(rusqlite::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Executes `statement` once per row: the columns of the batch, then for a staging table the
/// ordinal (counted on from `staged.0`) and the operation (`staged.1`).
pub(crate) fn insert(
    statement: &mut Statement<'_>,
    table: &TableName,
    rows: &RecordBatch,
    staged: Option<(i64, &str)>,
) -> Result<(), Failure> {
    let schema = rows.schema_ref();
    let binders = schema
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, array)| Binder::new(field, array).map_err(|e| e.context("table", table)))
        .collect::<Result<Vec<_>>>()?;
    let mut scratch = String::new();
    let count = binders.len();
    for row in 0..rows.num_rows() {
        for (at, binder) in binders.iter().enumerate() {
            let value = binder.value(row, &mut scratch);
            if let ValueRef::Real(number) = value
                && (number.is_nan() || (number == 0.0 && number.is_sign_negative()))
            {
                return Err(not_a_real(table, schema.field(at), number).into());
            }
            statement.raw_bind_parameter(at + 1, ToSqlOutput::Borrowed(value))?;
        }
        if let Some((ordinal, operation)) = staged {
            statement.raw_bind_parameter(count + 1, ordinal + row as i64)?;
            statement.raw_bind_parameter(count + 2, operation)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}

/// SQLite would store NULL for NaN, and lose the sign of a negative zero.
fn not_a_real(table: &TableName, field: &Field, number: f64) -> Error {
    Error::data(if number.is_nan() {
        "SQLite cannot store NaN: it would become NULL"
    } else {
        "SQLite cannot store -0.0: it would become 0.0"
    })
    .context("table", table)
    .context("column", field.name())
    .hint(crate::types::text_hint(field.name()))
}
