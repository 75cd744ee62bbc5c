//! One column on the wire and ours: which Arrow type, which extension, which metadata.
//!
//! CloudQuery has four extension types. Everything else is plain Arrow, the same on both sides,
//! except that layouts which not every reader knows are written in their plain form.
//!
//! | CloudQuery | ours |
//! |---|---|
//! | `uuid` on FixedSizeBinary(16) | `arrow.uuid` on FixedSizeBinary(16) |
//! | `json` on Binary | `arrow.json` on Utf8, declared `postgresql:jsonb` |
//! | `inet` on Binary: an address with its mask, as text | Utf8, declared `postgresql:inet` |
//! | `mac` on Binary: six bytes | Utf8, declared `postgresql:macaddr` |
//! | Utf8, Binary, the values' type, Decimal128, List | views, dictionaries, Decimal32 and 64, list views |
//! | Utf8, all NULL | Null |
//!
//! The declared types are those that CloudQuery's own PostgreSQL destination creates. Extensions
//! may be items of lists, fields of structs and values of maps.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field, FieldRef, Fields};
use highwater_core::types::{
    CLOUDQUERY, DECLARED, EXTENSION, FROM, JSON, UUID, declared_in, with_metadata,
};
use highwater_core::{Error, LogicalType, Result};

use super::values::Step;

/// Metadata key of Arrow: what an extension type says of itself.
const EXTENSION_METADATA: &str = "ARROW:extension:metadata";
/// CloudQuery's metadata key: the column is part of the primary key.
pub const PRIMARY_KEY: &str = "cq:extension:primary_key";
/// CloudQuery's metadata key: no two rows have the same value.
pub const UNIQUE: &str = "cq:extension:unique";
/// CloudQuery's metadata key: the column is part of the key that an incremental read goes by.
pub const INCREMENTAL_KEY: &str = "cq:extension:incremental";
/// CloudQuery's metadata key: `_cq_id` is computed from the column.
pub const PRIMARY_KEY_COMPONENT: &str = "cq:extension:primary_key_component";
/// CloudQuery's metadata key: what a JSON column holds.
const TYPE_SCHEMA: &str = "cq:extension:type_schema";
/// Values of CloudQuery's marks.
pub(super) const TRUE: &str = "true";

const OURS: &str = "highwater:";
const THEIRS: &str = "cq:";
const SYSTEM: &str = "postgresql";

/// A column with what makes its values fit.
#[derive(Debug, Clone)]
pub struct Column {
    /// The column as it is afterwards.
    pub field: Field,
    pub(super) step: Step,
}

impl Column {
    /// From ours to CloudQuery's.
    ///
    /// # Errors
    /// `Unsupported` for unions and run-end encoding, with the column's name.
    pub fn outward(field: &Field) -> Result<Self> {
        outward(field).map_err(|fault| fault.of(field))
    }

    /// From CloudQuery's to ours.
    ///
    /// # Errors
    /// `Unsupported` for unions and run-end encoding, `Schema` for one of CloudQuery's extension
    /// types on a storage type that it does not have; both with the column's name.
    pub fn inward(field: &Field) -> Result<Self> {
        let mut column = inward(field).map_err(|fault| fault.of(field))?;
        column.field = with_metadata(column.field, FROM, CLOUDQUERY);
        // The meaning has to be one that destinations know.
        LogicalType::of(&column.field)?;
        Ok(column)
    }

    /// The values in their new form.
    ///
    /// # Errors
    /// `Data` with the column's name, never with a value.
    pub fn convert(&self, array: &ArrayRef) -> Result<ArrayRef> {
        self.step
            .run(array, self.field.data_type(), None)
            .map_err(|e| e.context("column", self.field.name()))
    }
}

/// The column as CloudQuery knows it. See [`Column::outward`].
///
/// # Errors
/// As [`Column::outward`].
pub fn to_wire(field: &Field) -> Result<Field> {
    Ok(Column::outward(field)?.field)
}

/// The column as we know it. See [`Column::inward`].
///
/// # Errors
/// As [`Column::inward`].
pub fn from_wire(field: &Field) -> Result<Field> {
    Ok(Column::inward(field)?.field)
}

/// The values of our `field` as CloudQuery knows them. To convert many, keep a [`Column`].
///
/// # Errors
/// As [`Column::outward`] and [`Column::convert`].
pub fn to_wire_array(field: &Field, array: &ArrayRef) -> Result<ArrayRef> {
    Column::outward(field)?.convert(array)
}

/// The values of CloudQuery's `field` as we know them. To convert many, keep a [`Column`].
///
/// # Errors
/// As [`Column::inward`] and [`Column::convert`].
pub fn from_wire_array(field: &Field, array: &ArrayRef) -> Result<ArrayRef> {
    Column::inward(field)?.convert(array)
}

/// Whether CloudQuery's mark is set on the column.
pub fn is_marked(field: &Field, mark: &str) -> bool {
    field.metadata().get(mark).is_some_and(|value| value == TRUE)
}

/// The column with CloudQuery's mark.
#[must_use]
pub fn marked(field: Field, mark: &str) -> Field {
    with_metadata(field, mark, TRUE)
}

/// The column without CloudQuery's mark.
#[must_use]
pub fn unmarked(field: Field, mark: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(mark);
    field.with_metadata(metadata)
}

/// Why a type cannot be carried; the column's name is added where it is known.
enum Fault {
    Unsupported(DataType),
    Storage(String, DataType),
}

impl Fault {
    fn of(self, field: &Field) -> Error {
        let (error, data_type) = match self {
            Self::Unsupported(data_type) => {
                (Error::unsupported("A column has a type that cannot be carried"), data_type)
            }
            Self::Storage(extension, data_type) => (
                Error::schema(format!(
                    "A column's extension type `{extension}` is not stored as CloudQuery's is"
                )),
                data_type,
            ),
        };
        error.context("column", field.name()).context("type", data_type)
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn extension_of(field: &Field) -> Option<&str> {
    field.metadata().get(EXTENSION).map(String::as_str)
}

/// The column of another type, with the metadata that may stay and the given pairs.
fn rebuilt(
    field: &Field,
    data_type: DataType,
    stays: fn(&str, &str) -> bool,
    pairs: &[(&str, &str)],
) -> Field {
    let own = field.metadata().iter().filter(|(key, value)| stays(key, value));
    let mut metadata: HashMap<String, String> =
        own.map(|(key, value)| (key.clone(), value.clone())).collect();
    metadata.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Field::new(field.name(), data_type, field.is_nullable()).with_metadata(metadata)
}

fn stays_outward(key: &str, _: &str) -> bool {
    !key.starts_with(OURS) && key != EXTENSION && key != EXTENSION_METADATA
}

/// What a plugin writes under our own keys is not taken: it could name types and definitions that
/// a destination would create.
fn stays_inward(key: &str, value: &str) -> bool {
    match key {
        TYPE_SCHEMA => true,
        UNIQUE | INCREMENTAL_KEY | PRIMARY_KEY_COMPONENT => value == TRUE,
        _ => !key.starts_with(THEIRS) && stays_outward(key, value),
    }
}

fn outward(field: &Field) -> Result<Column, Fault> {
    let data_type = field.data_type();
    let leaf = |name: &str, data_type: DataType, step: Step| {
        let serialized = format!("{name}-serialized");
        let pairs = [(EXTENSION, name), (EXTENSION_METADATA, serialized.as_str())];
        Ok(Column { field: rebuilt(field, data_type, stays_outward, &pairs), step })
    };
    match extension_of(field) {
        Some(UUID) if *data_type == DataType::FixedSizeBinary(16) => {
            return leaf("uuid", data_type.clone(), Step::Keep);
        }
        Some(JSON) if is_text(data_type) => {
            return leaf("json", DataType::Binary, Step::TextToBytes);
        }
        None if is_text(data_type) => match declared_in(field, SYSTEM) {
            Some("inet" | "cidr") => return leaf("inet", DataType::Binary, Step::AddressToBytes),
            Some("macaddr") => return leaf("mac", DataType::Binary, Step::MacToBytes),
            _ => {}
        },
        _ => {}
    }
    match plain(data_type, true) {
        Some(plain) => through(field, plain, outward),
        None => nested(field, outward, stays_outward),
    }
}

fn inward(field: &Field) -> Result<Column, Fault> {
    let data_type = field.data_type();
    if let DataType::Dictionary(_, values) = data_type {
        return through(field, values.as_ref().clone(), inward);
    }
    let leaf = |to: DataType, step: Step, pairs: &[(&str, &str)]| {
        Ok(Column { field: rebuilt(field, to, stays_inward, pairs), step })
    };
    let texts = is_bytes(data_type) || is_text(data_type);
    match extension_of(field) {
        Some("uuid" | UUID) if *data_type == DataType::FixedSizeBinary(16) => {
            return leaf(data_type.clone(), Step::Keep, &[(EXTENSION, UUID)]);
        }
        Some("json") if texts => {
            let pairs = [(EXTENSION, JSON), (DECLARED, "postgresql:jsonb")];
            return leaf(DataType::Utf8, Step::BytesToText, &pairs);
        }
        Some(JSON) if is_text(data_type) => {
            return leaf(DataType::Utf8, Step::BytesToText, &[(EXTENSION, JSON)]);
        }
        Some("inet") if texts => {
            let pairs = [(DECLARED, "postgresql:inet")];
            return leaf(DataType::Utf8, Step::BytesToText, &pairs);
        }
        Some("mac") if is_bytes(data_type) || *data_type == DataType::FixedSizeBinary(6) => {
            let pairs = [(DECLARED, "postgresql:macaddr")];
            return leaf(DataType::Utf8, Step::BytesToMac, &pairs);
        }
        Some(name @ ("uuid" | "json" | "inet" | "mac")) => {
            return Err(Fault::Storage(name.to_owned(), data_type.clone()));
        }
        _ => {}
    }
    let mut column = match plain(data_type, false) {
        Some(plain) => through(field, plain, inward)?,
        None => nested(field, inward, stays_inward)?,
    };
    // PostgreSQL's array of `jsonb` is declared by the list, not by its items.
    if let DataType::List(item) | DataType::LargeList(item) = column.field.data_type()
        && declared_in(item, SYSTEM) == Some("jsonb")
    {
        column.field = with_metadata(column.field, DECLARED, "postgresql:jsonb[]");
    }
    Ok(column)
}

/// The layout that every reader knows, for one that not every reader does.
fn plain(data_type: &DataType, to_wire: bool) -> Option<DataType> {
    Some(match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::ListView(item) => DataType::List(Arc::clone(item)),
        DataType::LargeListView(item) => DataType::LargeList(Arc::clone(item)),
        DataType::Null if to_wire => DataType::Utf8,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale)
            if to_wire =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        _ => return None,
    })
}

/// First the plain layout, then what its values need.
fn through(
    field: &Field,
    plain: DataType,
    convert: fn(&Field) -> Result<Column, Fault>,
) -> Result<Column, Fault> {
    let inner = convert(&field.clone().with_data_type(plain.clone()))?;
    Ok(Column { field: inner.field, step: Step::Plain { plain, then: Box::new(inner.step) } })
}

fn nested(
    field: &Field,
    convert: fn(&Field) -> Result<Column, Fault>,
    stays: fn(&str, &str) -> bool,
) -> Result<Column, Fault> {
    let one = |item: &FieldRef| -> Result<(FieldRef, Vec<Step>), Fault> {
        let column = convert(item)?;
        Ok((column.field.into(), vec![column.step]))
    };
    let (data_type, steps) = match field.data_type() {
        DataType::List(item) => one(item).map(|(item, steps)| (DataType::List(item), steps))?,
        DataType::LargeList(item) => {
            one(item).map(|(item, steps)| (DataType::LargeList(item), steps))?
        }
        DataType::FixedSizeList(item, size) => {
            one(item).map(|(item, steps)| (DataType::FixedSizeList(item, *size), steps))?
        }
        DataType::Map(entries, sorted) => {
            one(entries).map(|(entries, steps)| (DataType::Map(entries, *sorted), steps))?
        }
        DataType::Struct(fields) => {
            let columns =
                fields.iter().map(|f| convert(f)).collect::<Result<Vec<Column>, Fault>>()?;
            let (fields, steps): (Vec<Field>, Vec<Step>) =
                columns.into_iter().map(|column| (column.field, column.step)).unzip();
            (DataType::Struct(Fields::from(fields)), steps)
        }
        other @ (DataType::Union(_, _) | DataType::RunEndEncoded(_, _)) => {
            return Err(Fault::Unsupported(other.clone()));
        }
        flat => (flat.clone(), Vec::new()),
    };
    // The fields of items carry metadata, which is part of the type.
    let step = if data_type == *field.data_type() { Step::Keep } else { Step::Nested(steps) };
    Ok(Column { field: rebuilt(field, data_type, stays, &[]), step })
}
