//! Comparing the keys of two tables without sending them all: each side counts its keys and adds
//! up their hashes per bucket, and only keys of buckets that differ are looked at.
//!
//! A key falls into a bucket by its hash, so that order and collation of a system play no role.
//! The hash has to be the same everywhere. It is the MD5 of this text, in UTF-8:
//!
//! - Every column of the key in order: `n` for NULL; `v`, the number of bytes of the value's text,
//!   `:` and the text for a value. The last column goes without the number and the `:`. So no two
//!   keys have one text.
//! - The text of a value is that of its [`KeyForm`].
//!
//! Of the MD5 the first 60 bits are used, as a number: its low bits are the bucket ([`bucket`]),
//! and its upper and lower 30 bits are added up apart, which no sum of 64 bits overflows.
//!
//! Digests only choose what is looked at. Which row goes is decided by the keys themselves, hashed
//! here on both sides ([`hashes`]): a system that hashes otherwise costs time and no row.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, TimeUnit};
use async_trait::async_trait;
use md5::{Digest as _, Md5};

use crate::error::{Error, Result};
use crate::source::Output;
use crate::table::{Table, TableName};
use crate::text::TextColumn;
use crate::types::{DECLARED, LogicalType};

/// Into how many buckets keys fall, unless somebody asks for others: a power of two.
pub const BUCKETS: u32 = 1 << 14;

/// The half of a hash.
const HALF: u64 = (1 << 30) - 1;

/// How the value of a key column is written down before it is hashed: the same in every system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// Decimal digits, `-42`. Also decimals without a fraction.
    Integer,
    /// The text itself.
    Text,
    /// Lower-case hexadecimal with hyphens.
    Uuid,
    /// `true`, `false`.
    Boolean,
    /// Days since 2000-01-01 as 8 lower-case hexadecimal digits of a signed number of 32 bits;
    /// the infinities are its ends.
    Date,
    /// Microseconds since 2000-01-01 as 16 lower-case hexadecimal digits of a signed number of
    /// 64 bits; the infinities are its ends.
    Timestamp {
        /// Whether it is an instant.
        utc: bool,
    },
    /// Decimal digits with as many places as the scale says, at least one: `-12.50`.
    Decimal {
        /// Digits after the point.
        scale: u8,
    },
    /// Two lower-case hexadecimal digits per byte.
    Binary,
}

impl KeyForm {
    /// The form of a column; `None` for types of which two systems may have two texts, or whose
    /// system takes different texts for one value.
    pub fn of(field: &Field) -> Option<Self> {
        Some(match LogicalType::of(field).ok()? {
            LogicalType::Integer { .. } | LogicalType::Decimal { scale: 0, .. } => Self::Integer,
            LogicalType::Text if is_plain_text(field) => Self::Text,
            LogicalType::Uuid => Self::Uuid,
            LogicalType::Boolean => Self::Boolean,
            LogicalType::Date => Self::Date,
            LogicalType::Timestamp { unit, utc } if unit != TimeUnit::Nanosecond => {
                Self::Timestamp { utc }
            }
            LogicalType::Decimal { scale, .. } => {
                Self::Decimal { scale: u8::try_from(scale).ok()? }
            }
            LogicalType::Binary => Self::Binary,
            _ => return None,
        })
    }
}

/// Whether a text is nothing but its characters: not padded, not without case, no enum.
fn is_plain_text(field: &Field) -> bool {
    let Some(declared) = field.metadata().get(DECLARED) else { return true };
    match declared.split_once(':') {
        Some(("postgresql", declared)) => {
            declared == "text" || declared.starts_with("character varying")
        }
        Some(("sqlite" | "duckdb", _)) => true,
        _ => false,
    }
}

/// A column of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyColumn {
    /// The column.
    pub field: Field,
    /// How its values are hashed.
    pub form: KeyForm,
}

/// A table of which the keys are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyTable {
    /// Its name.
    pub name: TableName,
    /// The key, in the same order on both sides.
    pub columns: Vec<KeyColumn>,
    /// A column that comes along with the keys.
    pub along: Option<Field>,
    /// Only rows whose [`crate::plan::SOURCE_NAME`] is this.
    pub of_sync: Option<String>,
}

impl KeyTable {
    /// The table with those columns only that [`KeyDigests::keys`] brings.
    pub fn table(&self) -> Table {
        let along = self
            .along
            .iter()
            .filter(|along| self.columns.iter().all(|column| column.field.name() != along.name()));
        let fields = self.columns.iter().map(|column| column.field.clone());
        Table::new(self.name.clone(), fields.chain(along.cloned()).collect())
    }
}

/// What is known of the keys of a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many there are.
    pub rows: u64,
    /// The sum of the upper 30 bits of their hashes.
    pub upper: i64,
    /// The sum of the lower 30 bits of their hashes.
    pub lower: i64,
}

impl Digest {
    /// Adds a key by its hash ([`hashes`]).
    pub fn add(&mut self, hash: u128) {
        let number = number(hash);
        self.rows += 1;
        self.upper = self.upper.wrapping_add((number >> 30).cast_signed());
        self.lower = self.lower.wrapping_add((number & HALF).cast_signed());
    }
}

/// The digests of a table by bucket; buckets without a key are left out.
pub type Digests = BTreeMap<u32, Digest>;

/// Some buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Into how many all keys fall.
    pub of: u32,
    /// The ones that are meant.
    pub buckets: BTreeSet<u32>,
}

impl Chosen {
    /// Whether a key is in one of them.
    pub fn has(&self, hash: u128) -> bool {
        self.buckets.contains(&bucket(hash, self.of))
    }
}

/// The keys of a table in one snapshot, which the first call takes and the end gives back.
#[async_trait]
pub trait KeyDigests: Send {
    /// Counts and sums per bucket, of `buckets`, a power of two.
    ///
    /// # Errors
    /// `Unsupported` where keys that differ may be the same for the system (a collation without
    /// case); nothing has to be wrong with the table otherwise.
    async fn digests(&mut self, buckets: u32) -> Result<Digests>;

    /// Sends the keys of some buckets, in any order: batches with the columns of
    /// [`KeyTable::table`].
    ///
    /// # Errors
    /// As [`Self::digests`]; `Interrupted` when nobody takes them.
    async fn keys(&mut self, chosen: &Chosen, output: Output) -> Result<()>;
}

/// The bucket of a hash, of `buckets`, a power of two.
pub fn bucket(hash: u128, buckets: u32) -> u32 {
    // The mask has 32 bits.
    (number(hash) & u64::from(buckets.saturating_sub(1))) as u32
}

/// The first 60 bits.
fn number(hash: u128) -> u64 {
    (hash >> 68) as u64
}

/// The MD5 of every key, as a number. The columns of the key come first in `rows`.
///
/// # Errors
/// `Internal` when the rows do not have them.
pub fn hashes(columns: &[KeyColumn], rows: &RecordBatch) -> Result<Vec<u128>> {
    let values =
        columns.iter().zip(rows.columns()).map(|(column, values)| Values::new(column, values));
    let values = values.collect::<Result<Vec<_>>>()?;
    if values.len() != columns.len() {
        return Err(Error::internal("Keys came without all of their columns"));
    }
    let (mut text, mut value) = (String::new(), String::new());
    let mut hashes = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        text.clear();
        for (at, column) in values.iter().enumerate() {
            if column.is_null(row) {
                text.push('n');
                continue;
            }
            value.clear();
            column.write(row, &mut value);
            text.push('v');
            if at + 1 < values.len() {
                text.push_str(itoa::Buffer::new().format(value.len()));
                text.push(':');
            }
            text.push_str(&value);
        }
        let hash: [u8; 16] = Md5::digest(text.as_bytes()).into();
        hashes.push(u128::from_be_bytes(hash));
    }
    Ok(hashes)
}

/// The values of a column in its form.
enum Values<'a> {
    Text(TextColumn<'a>),
    Days(&'a dyn Array, Vec<i32>),
    Micros(&'a dyn Array, Vec<i64>),
    Bytes(&'a dyn Array),
}

const DAYS_TO_2000: i32 = 10_957;
const MICROS_TO_2000: i64 = 946_684_800_000_000;

impl<'a> Values<'a> {
    fn new(column: &KeyColumn, array: &'a ArrayRef) -> Result<Self> {
        let array = array.as_ref();
        Ok(match column.form {
            KeyForm::Date => Self::Days(array, days(array)?),
            KeyForm::Timestamp { .. } => Self::Micros(array, micros(array)?),
            KeyForm::Binary => Self::Bytes(array),
            _ => Self::Text(TextColumn::new(&column.field, array)?),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(column) => column.is_null(row),
            Self::Days(array, _) | Self::Micros(array, _) | Self::Bytes(array) => {
                array.is_null(row)
            }
        }
    }

    fn write(&self, row: usize, out: &mut String) {
        match self {
            Self::Text(column) => column.write(row, out),
            Self::Days(_, days) => push_hex(&days[row].to_be_bytes(), out),
            Self::Micros(_, micros) => push_hex(&micros[row].to_be_bytes(), out),
            Self::Bytes(array) => push_hex(bytes(*array, row), out),
        }
    }
}

fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            out.push(char::from_digit(half.into(), 16).unwrap_or('?'));
        }
    }
}

fn bytes(array: &dyn Array, row: usize) -> &[u8] {
    match array.data_type() {
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        DataType::BinaryView => array.as_binary_view().value(row),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().value(row),
        _ => array.as_binary::<i32>().value(row),
    }
}

fn days(array: &dyn Array) -> Result<Vec<i32>> {
    let shifted = |days: i32| match days {
        i32::MAX | i32::MIN => days,
        days => days.saturating_sub(DAYS_TO_2000),
    };
    Ok(match array.data_type() {
        DataType::Date32 => {
            array.as_primitive::<Date32Type>().values().iter().map(|d| shifted(*d)).collect()
        }
        DataType::Date64 => {
            let day = |millis: &i64| match *millis {
                i64::MAX => i32::MAX,
                i64::MIN => i32::MIN,
                millis => shifted(i32::try_from(millis.div_euclid(86_400_000)).unwrap_or(i32::MAX)),
            };
            array.as_primitive::<Date64Type>().values().iter().map(day).collect()
        }
        _ => return Err(Error::internal("A date came in another type")),
    })
}

fn micros(array: &dyn Array) -> Result<Vec<i64>> {
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return Err(Error::internal("A timestamp came in another type"));
    };
    let (ticks, factor): (&[i64], i64) = match unit {
        TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().values(), 1_000_000),
        TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().values(), 1000),
        TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().values(), 1),
        TimeUnit::Nanosecond => return Err(Error::internal("A timestamp has nanoseconds")),
    };
    let shifted = |ticks: &i64| match *ticks {
        i64::MAX | i64::MIN => *ticks,
        ticks => ticks.saturating_mul(factor).saturating_sub(MICROS_TO_2000),
    };
    Ok(ticks.iter().map(shifted).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BinaryArray, Int64Array, StringArray, TimestampSecondArray};
    use arrow_schema::Schema;

    use super::*;

    fn hashed(columns: Vec<(Field, ArrayRef)>) -> Vec<u128> {
        let key: Vec<_> = columns
            .iter()
            .map(|(field, _)| KeyColumn { field: field.clone(), form: KeyForm::of(field).unwrap() })
            .collect();
        let schema =
            Schema::new(columns.iter().map(|(field, _)| field.clone()).collect::<Vec<_>>());
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        hashes(&key, &RecordBatch::try_new(Arc::new(schema), arrays).unwrap()).unwrap()
    }

    fn md5_of(text: &str) -> u128 {
        let hash: [u8; 16] = Md5::digest(text.as_bytes()).into();
        u128::from_be_bytes(hash)
    }

    fn texts(name: &str, values: Vec<Option<&str>>) -> (Field, ArrayRef) {
        (Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(values)))
    }

    #[test]
    fn the_text_of_a_key_is_as_documented() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(-42), None]));
        let id = Field::new("id", DataType::Int64, true);
        assert_eq!(hashed(vec![(id.clone(), Arc::clone(&ids))]), [md5_of("v-42"), md5_of("n")]);
        let both = hashed(vec![(id, ids), texts("name", vec![Some("é:"), None])]);
        assert_eq!(both, [md5_of("v3:-42vé:"), md5_of("nn")]);
        let at = Field::new("at", DataType::Timestamp(TimeUnit::Second, None), false);
        let second: ArrayRef = Arc::new(TimestampSecondArray::from(vec![946_684_801]));
        assert_eq!(hashed(vec![(at, second)]), [md5_of("v00000000000f4240")]);
        let data: ArrayRef = Arc::new(BinaryArray::from(vec![&[0, 255][..]]));
        let binary = Field::new("data", DataType::Binary, false);
        assert_eq!(hashed(vec![(binary, data)]), [md5_of("v00ff")]);
    }

    #[test]
    fn no_two_keys_have_one_text() {
        let pairs = [
            (Some("a"), Some("bc")),
            (Some("ab"), Some("c")),
            (Some("av1:"), Some("b")),
            (None, Some("a")),
            (Some("n"), None),
            (None, None),
            (Some(""), None),
            (None, Some("")),
            (Some(""), Some("")),
            (Some("a "), Some("b")),
            (Some("a"), Some(" b")),
        ];
        let left = pairs.iter().map(|(left, _)| *left).collect();
        let right = pairs.iter().map(|(_, right)| *right).collect();
        let hashes = hashed(vec![texts("a", left), texts("b", right)]);
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), pairs.len());
    }

    #[test]
    fn types_without_one_sure_text_have_no_form() {
        let declared = |declared: &str| {
            Field::new("a", DataType::Utf8, false)
                .with_metadata([(DECLARED.to_owned(), declared.to_owned())].into())
        };
        for unsure in ["postgresql:citext", "postgresql:character(5)", "postgresql:mood"] {
            assert_eq!(KeyForm::of(&declared(unsure)), None, "{unsure}");
        }
        for sure in ["postgresql:text", "postgresql:character varying(9)", "sqlite:VARCHAR(9)"] {
            assert_eq!(KeyForm::of(&declared(sure)), Some(KeyForm::Text), "{sure}");
        }
        for unsure in [DataType::Float64, DataType::Timestamp(TimeUnit::Nanosecond, None)] {
            assert_eq!(KeyForm::of(&Field::new("a", unsure, false)), None);
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_the_order() {
        let hashes = hashed(vec![texts("a", vec![Some("x"), Some("y"), Some("z")])]);
        let of = |order: [usize; 3]| {
            let mut digest = Digest::default();
            order.into_iter().for_each(|at| digest.add(hashes[at]));
            digest
        };
        assert_eq!(of([0, 1, 2]), of([2, 0, 1]));
        assert_ne!(of([0, 1, 2]), of([0, 1, 1]));
    }
}
