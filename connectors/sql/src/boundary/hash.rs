//! A row as 128 bits, the same in every version and for every batch it arrives in.
//!
//! The hash is xxh3 (128 bits, no seed) of the concatenated encodings of the row's values, in the
//! order of the column names given. A value is a tag byte and a payload; all integers are little
//! endian. Values that mean the same are encoded the same whatever Arrow width they come in, so
//! that a widened column does not make known rows look new.
//!
//! | value | tag | payload |
//! |---|---|---|
//! | NULL | 0 | |
//! | boolean | 1 | one byte, 0 or 1 |
//! | integer, decimal, numeric | 2 | mantissa without trailing zeros (i128), exponent of ten (i32) |
//! | float | 3 | bits of the f64 |
//! | numeric of other digits, NaN, infinity | 4 | length (u64), text |
//! | text, JSON | 5 | length (u64), UTF-8 |
//! | binary, UUID | 6 | length (u64), bytes |
//! | date | 7 | days (i64) |
//! | time | 8 | nanoseconds (i128) |
//! | timestamp | 9 (wall clock), 10 (UTC) | nanoseconds (i128); the infinities are its extremes |
//! | everything else | 11 | length (u64), canonical text of [`highwater_core::text`] |

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrowPrimitiveType, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::text::TextColumn;
use highwater_core::{Error, LogicalType, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::ticks;

/// Hashes rows over a fixed list of columns.
#[derive(Debug, Clone)]
pub struct RowHasher {
    columns: Vec<(usize, Field)>,
}

/// Appends the encoding of the value of a row.
type Encode<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

impl RowHasher {
    /// A hasher over the columns named, in that order; `None` when the schema lacks one of them.
    pub fn new<S: AsRef<str>>(schema: &Schema, columns: &[S]) -> Option<Self> {
        let columns = columns.iter().map(|name| {
            let (at, field) = schema.column_with_name(name.as_ref())?;
            Some((at, field.clone()))
        });
        Some(Self { columns: columns.collect::<Option<_>>()? })
    }

    /// The hashes of the rows asked for, in that order.
    ///
    /// # Errors
    /// `Unsupported` for types that no system stores.
    pub fn hash(
        &self,
        batch: &RecordBatch,
        rows: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<u128>> {
        let encoders = self.encoders(batch)?;
        let mut bytes = Vec::with_capacity(256);
        let hashes = rows.into_iter().map(|row| {
            bytes.clear();
            for encode in &encoders {
                encode(row, &mut bytes);
            }
            xxh3_128(&bytes)
        });
        Ok(hashes.collect())
    }

    /// The hash (xxh3, 64 bits) of every single value of the rows asked for, in the order of the
    /// columns.
    ///
    /// # Errors
    /// As [`Self::hash`].
    pub fn cells(
        &self,
        batch: &RecordBatch,
        rows: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<Vec<u64>>> {
        let encoders = self.encoders(batch)?;
        let mut bytes = Vec::with_capacity(64);
        let mut cell = |encode: &Encode<'_>, row| {
            bytes.clear();
            encode(row, &mut bytes);
            xxh3_64(&bytes)
        };
        let rows = rows.into_iter();
        Ok(rows.map(|row| encoders.iter().map(|encode| cell(encode, row)).collect()).collect())
    }

    fn encoders<'a>(&self, batch: &'a RecordBatch) -> Result<Vec<Encode<'a>>> {
        self.columns.iter().map(|(at, field)| encoder(field, batch.column(*at))).collect()
    }
}

fn encoder<'a>(field: &Field, array: &'a dyn Array) -> Result<Encode<'a>> {
    let logical = LogicalType::of(field)?;
    let encode: Encode<'a> = match &logical {
        LogicalType::Null => Box::new(|_, _| {}),
        LogicalType::Boolean => {
            let values = array.as_boolean();
            Box::new(|row, out| out.extend([1, u8::from(values.value(row))]))
        }
        LogicalType::Integer { .. } | LogicalType::Decimal { .. } | LogicalType::Float { .. } => {
            number(array)?
        }
        LogicalType::Date => match array.data_type() {
            DataType::Date64 => {
                let values = array.as_primitive::<Date64Type>();
                Box::new(|row, out| tagged(out, 7, &(values.value(row) / 86_400_000).to_le_bytes()))
            }
            _ => {
                let values = array.as_primitive::<Date32Type>();
                Box::new(|row, out| tagged(out, 7, &i64::from(values.value(row)).to_le_bytes()))
            }
        },
        LogicalType::Time(unit) => nanoseconds(8, ticks(array)?, *unit),
        LogicalType::Timestamp { unit, utc } => {
            nanoseconds(if *utc { 10 } else { 9 }, ticks(array)?, *unit)
        }
        LogicalType::Uuid | LogicalType::Binary => binary(array),
        LogicalType::Numeric => text(field, array, |digits, out| match mantissa(digits) {
            Some((value, exponent)) => push_number(out, value, exponent),
            None => sized(out, 4, digits.as_bytes()),
        })?,
        LogicalType::Text | LogicalType::Json => {
            text(field, array, |text, out| sized(out, 5, text.as_bytes()))?
        }
        _ => text(field, array, |text, out| sized(out, 11, text.as_bytes()))?,
    };
    if matches!(logical, LogicalType::Null) {
        return Ok(Box::new(|_, out| out.push(0)));
    }
    if array.null_count() == 0 {
        return Ok(encode);
    }
    Ok(Box::new(move |row, out| if array.is_null(row) { out.push(0) } else { encode(row, out) }))
}

/// Numbers with a value in an i128 or an f64.
fn number(array: &dyn Array) -> Result<Encode<'_>> {
    fn integers<T: ArrowPrimitiveType>(array: &dyn Array, scale: i8) -> Encode<'_>
    where
        T::Native: Into<i128>,
    {
        let values = array.as_primitive::<T>();
        Box::new(move |row, out| push_number(out, values.value(row).into(), -i32::from(scale)))
    }
    fn floats<'a, T: ArrowPrimitiveType>(
        array: &'a dyn Array,
        widen: impl Fn(T::Native) -> f64 + 'a,
    ) -> Encode<'a> {
        let values = array.as_primitive::<T>();
        Box::new(move |row, out| tagged(out, 3, &widen(values.value(row)).to_bits().to_le_bytes()))
    }
    Ok(match array.data_type() {
        DataType::Int8 => integers::<Int8Type>(array, 0),
        DataType::Int16 => integers::<Int16Type>(array, 0),
        DataType::Int32 => integers::<Int32Type>(array, 0),
        DataType::Int64 => integers::<Int64Type>(array, 0),
        DataType::UInt8 => integers::<UInt8Type>(array, 0),
        DataType::UInt16 => integers::<UInt16Type>(array, 0),
        DataType::UInt32 => integers::<UInt32Type>(array, 0),
        DataType::UInt64 => integers::<UInt64Type>(array, 0),
        DataType::Decimal32(_, scale) => integers::<Decimal32Type>(array, *scale),
        DataType::Decimal64(_, scale) => integers::<Decimal64Type>(array, *scale),
        DataType::Decimal128(_, scale) => integers::<Decimal128Type>(array, *scale),
        DataType::Decimal256(precision, scale) => {
            let field = Field::new("", DataType::Decimal256(*precision, *scale), true);
            text(&field, array, |digits, out| match mantissa(digits) {
                Some((value, exponent)) => push_number(out, value, exponent),
                None => sized(out, 4, digits.as_bytes()),
            })?
        }
        DataType::Float16 => floats::<Float16Type>(array, |v| v.to_f64()),
        DataType::Float32 => floats::<Float32Type>(array, f64::from),
        DataType::Float64 => floats::<Float64Type>(array, |v| v),
        other => return Err(Error::internal("A number has an unknown type").context("type", other)),
    })
}

fn nanoseconds<'a>(tag: u8, ticks: impl Fn(usize) -> i64 + 'a, unit: TimeUnit) -> Encode<'a> {
    let factor = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    Box::new(move |row, out| {
        let nanoseconds = match ticks(row) {
            i64::MAX => i128::MAX,
            i64::MIN => i128::MIN,
            ticks => i128::from(ticks) * factor,
        };
        tagged(out, tag, &nanoseconds.to_le_bytes());
    })
}

fn binary(array: &dyn Array) -> Encode<'_> {
    match array.data_type() {
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            Box::new(|row, out| sized(out, 6, values.value(row)))
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            Box::new(|row, out| sized(out, 6, values.value(row)))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            Box::new(|row, out| sized(out, 6, values.value(row)))
        }
        _ => {
            let values = array.as_binary::<i32>();
            Box::new(|row, out| sized(out, 6, values.value(row)))
        }
    }
}

/// Values by their canonical text.
fn text<'a>(
    field: &Field,
    array: &'a dyn Array,
    push: impl Fn(&str, &mut Vec<u8>) + 'a,
) -> Result<Encode<'a>> {
    if let DataType::Utf8 = array.data_type() {
        let values = array.as_string::<i32>();
        return Ok(Box::new(move |row, out| push(values.value(row), out)));
    }
    let values = TextColumn::new(field, array)?;
    Ok(Box::new(move |row, out| {
        let mut text = String::new();
        values.write(row, &mut text);
        push(&text, out);
    }))
}

fn tagged(out: &mut Vec<u8>, tag: u8, payload: &[u8]) {
    out.push(tag);
    out.extend_from_slice(payload);
}

fn sized(out: &mut Vec<u8>, tag: u8, payload: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(payload);
}

fn push_number(out: &mut Vec<u8>, mut mantissa: i128, mut exponent: i32) {
    if mantissa == 0 {
        exponent = 0;
    }
    while mantissa != 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    tagged(out, 2, &mantissa.to_le_bytes());
    out.extend_from_slice(&exponent.to_le_bytes());
}

/// `-12.50e3` as (-1250, 1); `None` when it has too many digits or is no number.
fn mantissa(text: &str) -> Option<(i128, i32)> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse().ok()?),
        None => (text, 0i32),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some((whole.parse().ok()?, exponent));
    }
    let unscaled = format!("{whole}{fraction}").parse().ok()?;
    Some((unscaled, exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
        LargeStringArray, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    };
    use highwater_core::types::{NUMERIC, extension_field};

    use super::*;

    fn one(field: Field, array: ArrayRef) -> u128 {
        let schema = Arc::new(Schema::new(vec![field]));
        let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
        RowHasher::new(&schema, &["c"]).unwrap().hash(&batch, [0]).unwrap()[0]
    }

    fn plain(array: impl Array + 'static) -> u128 {
        let array: ArrayRef = Arc::new(array);
        one(Field::new("c", array.data_type().clone(), true), array)
    }

    #[test]
    fn the_hash_of_a_row_never_changes() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("score", DataType::Float64, true),
            Field::new("on", DataType::Boolean, true),
            Field::new("day", DataType::Date32, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("price", DataType::Decimal128(10, 2), true),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
            Arc::new(StringArray::from(vec![Some("Zoë"), Some("")])),
            Arc::new(Float64Array::from(vec![Some(0.1), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(Date32Array::from(vec![Some(-1), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_006), None])),
            Arc::new(
                Decimal128Array::from(vec![Some(1250), None])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let hashes = RowHasher::new(&schema, &names).unwrap().hash(&batch, [0, 1]).unwrap();
        let hashes: Vec<_> = hashes.iter().map(|h| format!("{h:032x}")).collect();
        // Pinned: another value here makes every saved boundary worthless.
        assert_eq!(
            hashes,
            ["76b2d81520cd7693c391facbd668398c", "9751ed91acf8e527649da06a31c86753"]
        );
        let later = RowHasher::new(&schema, &names).unwrap().hash(&batch.slice(1, 1), [0]).unwrap();
        assert_eq!(format!("{:032x}", later[0]), hashes[1], "batches do not matter");
    }

    #[test]
    fn the_same_value_in_a_wider_type_is_the_same() {
        assert_eq!(plain(Int32Array::from(vec![42])), plain(Int64Array::from(vec![42])));
        let decimal = |value, scale| {
            plain(Decimal128Array::from(vec![value]).with_precision_and_scale(20, scale).unwrap())
        };
        assert_eq!(decimal(1250, 2), decimal(12_500, 3));
        assert_eq!(decimal(4200, 2), plain(Int64Array::from(vec![42])));
        let numeric = |text| {
            let field = extension_field("c", DataType::Utf8, NUMERIC);
            one(field, Arc::new(StringArray::from(vec![text])))
        };
        assert_eq!(numeric("12.500"), decimal(1250, 2));
        assert_eq!(numeric("4.2e1"), plain(Int64Array::from(vec![42])));
        assert_ne!(numeric("NaN"), numeric("0"));
        assert_eq!(
            plain(TimestampMillisecondArray::from(vec![5])),
            plain(TimestampMicrosecondArray::from(vec![5_000]))
        );
        assert_eq!(plain(StringArray::from(vec!["é"])), plain(LargeStringArray::from(vec!["é"])));
        assert_ne!(plain(StringArray::from(vec!["42"])), plain(Int64Array::from(vec![42])));
        assert_ne!(
            plain(StringArray::from(vec![""])),
            plain(StringArray::from(vec![None::<&str>]))
        );
    }

    #[test]
    fn neighbouring_values_do_not_run_together() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Utf8, true),
            Field::new("b", DataType::Utf8, true),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("ab"), Some("a"), None])),
            Arc::new(StringArray::from(vec![Some("c"), Some("bc"), Some("abc")])),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let mut hashes = RowHasher::new(&schema, &["a", "b"]).unwrap().hash(&batch, 0..3).unwrap();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 3);
        assert!(RowHasher::new(&schema, &["a", "gone"]).is_none());
    }
}
