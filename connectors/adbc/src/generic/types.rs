//! What a driver's Arrow types mean, and the form in which rows are given to a driver.
//!
//! A driver's types are taken as they are. Of extension types those with a known meaning are
//! understood: JSON, UUIDs, booleans in bytes, and numbers that a driver gives as text because
//! Arrow has no type for them. A column of any other is refused if it is asked for: nobody but the
//! driver knows what its bytes mean.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int8Type;
use arrow_array::{Array, ArrayRef, BooleanArray, StringArray};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field};
use highwater_core::types::{EXTENSION, JSON, NUMERIC, UUID, type_name, with_metadata};
use highwater_core::{Error, LogicalType, Result, TablePlan, text};

use super::config::TextKind;

/// Arrow's metadata key of what an extension type is.
const EXTENSION_METADATA: &str = "ARROW:extension:metadata";
/// Metadata key: the type of a column that cannot be carried.
const REFUSED: &str = "highwater:refused";

/// The field of a column that a driver describes so.
pub(super) fn field(theirs: &Field) -> Field {
    let name = theirs.name().as_str();
    let plain = |data_type: DataType| Field::new(name, data_type, theirs.is_nullable());
    let extension = theirs.metadata().get(EXTENSION).map(String::as_str);
    let is_text = |data_type: &DataType| {
        matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
    };
    let stored = theirs.data_type();
    match extension {
        None => {}
        Some(JSON) if is_text(stored) => {
            return with_metadata(plain(stored.clone()), EXTENSION, JSON);
        }
        Some(UUID) if *stored == DataType::FixedSizeBinary(16) => {
            return with_metadata(plain(stored.clone()), EXTENSION, UUID);
        }
        Some("arrow.bool8") if *stored == DataType::Int8 => return plain(DataType::Boolean),
        Some(_) if is_text(stored) => {
            let kind = opaque_type(theirs).unwrap_or_default();
            let field = plain(stored.clone());
            return match kind.as_str() {
                "numeric" | "decimal" => with_metadata(field, EXTENSION, NUMERIC),
                "json" | "jsonb" => with_metadata(field, EXTENSION, JSON),
                _ => field,
            };
        }
        Some(other) => {
            let kind = opaque_type(theirs).unwrap_or_else(|| other.to_owned());
            return with_metadata(plain(DataType::Binary), REFUSED, kind);
        }
    }
    let data_type = match stored {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        other => other.clone(),
    };
    match LogicalType::of(&plain(data_type.clone())) {
        Ok(_) => plain(data_type),
        Err(_) => with_metadata(plain(DataType::Binary), REFUSED, stored.to_string()),
    }
}

/// The name of the type behind `arrow.opaque`.
fn opaque_type(field: &Field) -> Option<String> {
    let metadata = field.metadata().get(EXTENSION_METADATA)?;
    let parsed: serde_json::Value = serde_json::from_str(metadata).ok()?;
    Some(parsed.get("type_name")?.as_str()?.to_ascii_lowercase())
}

/// Refuses columns that cannot be carried, if they are asked for.
///
/// # Errors
/// `Unsupported`, with the column and its type.
pub(super) fn refuse_unknown(plan: &TablePlan) -> Result<()> {
    let fields = plan.source.schema.fields().iter();
    let mut refused = fields.filter_map(|field| Some((field, field.metadata().get(REFUSED)?)));
    let Some((field, kind)) = refused.next() else { return Ok(()) };
    Err(Error::unsupported("A column has a type that only its driver understands")
        .context("table", plan.name())
        .context("column", field.name())
        .context("type", kind)
        .hint(format!(
            "columns: [id, name]   # without {}, or read a view that casts it to text",
            field.name()
        )))
}

/// The values that a driver sent in the type of the plan's field.
///
/// # Errors
/// `Data` for a value that does not fit, `Schema` when the driver sends another type than it has
/// described.
pub(super) fn adapt(sent: &Field, values: &ArrayRef, wanted: &Field) -> Result<ArrayRef> {
    let ours = field(sent);
    if ours.metadata().contains_key(REFUSED) {
        return Err(Error::unsupported("A column has a type that only its driver understands")
            .context("column", sent.name()));
    }
    let values = match (values.data_type(), ours.data_type()) {
        (DataType::Int8, DataType::Boolean) => {
            let bytes = values.as_primitive::<Int8Type>();
            let raw = bytes.values();
            let bits = BooleanBuffer::collect_bool(raw.len(), |at| raw[at] != 0);
            Arc::new(BooleanArray::new(bits, bytes.nulls().cloned())) as ArrayRef
        }
        (from, to) if from == to => Arc::clone(values),
        // Dictionaries are expanded; zones are names for the same instants.
        (_, to) => arrow_cast::cast(values, to)?,
    };
    let values = match LogicalType::of(&ours)? {
        LogicalType::Numeric => with_our_words(values),
        _ => values,
    };
    if ours.data_type() == wanted.data_type() {
        return Ok(values);
    }
    let meaning = |field: &Field| LogicalType::of(field);
    let (from, to) = (meaning(&ours)?, meaning(wanted)?);
    if from.widens_to(&to) || to == LogicalType::Text || values.null_count() == values.len() {
        return text::convert(&ours, &values, wanted);
    }
    Err(Error::schema("The driver sends another type than it has described")
        .context("column", wanted.name())
        .context("described", type_name(wanted))
        .context("sent", type_name(&ours))
        .hint("run the same command again: the tables are looked at first"))
}

/// Numbers as text, with our words for those that have no digits.
fn with_our_words(values: ArrayRef) -> ArrayRef {
    let Some(texts) = values.as_string_opt::<i32>() else { return values };
    let is_word = |text: &str| text.bytes().last().is_some_and(|b| b.is_ascii_alphabetic());
    if !texts.iter().flatten().any(is_word) {
        return values;
    }
    let ours = texts.iter().map(|text| {
        text.map(|text| match text.to_ascii_lowercase().as_str() {
            "nan" => "NaN".to_owned(),
            "inf" | "infinity" => "Infinity".to_owned(),
            "-inf" | "-infinity" => "-Infinity".to_owned(),
            _ => text.to_owned(),
        })
    });
    Arc::new(ours.collect::<StringArray>())
}

/// The field that a driver is given for a column, whose values are converted by
/// [`text::convert`].
///
/// # Errors
/// `Unsupported` for types that no driver takes.
pub(super) fn given(field: &Field, as_text: &[TextKind]) -> Result<Field> {
    let is_text = |kind| as_text.contains(&kind);
    let logical = LogicalType::of(field)?;
    let text = match &logical {
        LogicalType::Text | LogicalType::Numeric | LogicalType::Json | LogicalType::Nested => true,
        LogicalType::Null => true,
        LogicalType::Decimal { .. } => is_text(TextKind::Decimal),
        LogicalType::Integer { bits: 64, signed: false } => is_text(TextKind::Unsigned64),
        LogicalType::Time(_) => is_text(TextKind::Time),
        LogicalType::Date | LogicalType::Timestamp { .. } => is_text(TextKind::Timestamp),
        LogicalType::Duration(_) | LogicalType::Interval => is_text(TextKind::Duration),
        LogicalType::Uuid => is_text(TextKind::Uuid),
        LogicalType::List(_) => is_text(TextKind::List),
        _ => false,
    };
    let data_type = match (field.data_type(), &logical) {
        _ if text => DataType::Utf8,
        (_, LogicalType::Binary) => DataType::Binary,
        (DataType::Float16, _) => DataType::Float32,
        (DataType::Date64, _) => DataType::Date32,
        (DataType::Decimal32(p, s) | DataType::Decimal64(p, s), _) => DataType::Decimal128(*p, *s),
        (other, _) => other.clone(),
    };
    Ok(Field::new(field.name(), data_type, field.is_nullable()))
}

#[cfg(test)]
mod tests {
    use arrow_array::{DictionaryArray, Int8Array, Int64Array};

    use super::*;

    fn extension(data_type: DataType, name: &str, metadata: &str) -> Field {
        let field = with_metadata(Field::new("c", data_type, true), EXTENSION, name);
        with_metadata(field, EXTENSION_METADATA, metadata)
    }

    #[test]
    fn known_extensions_are_understood_and_others_refused() {
        let numeric = r#"{"type_name": "numeric", "vendor_name": "PostgreSQL"}"#;
        let ours = field(&extension(DataType::Utf8, "arrow.opaque", numeric));
        assert_eq!(LogicalType::of(&ours).unwrap(), LogicalType::Numeric);
        let ours = field(&extension(DataType::Int8, "arrow.bool8", ""));
        assert_eq!(ours, Field::new("c", DataType::Boolean, true));
        let inet = r#"{"type_name": "inet", "vendor_name": "PostgreSQL"}"#;
        let ours = field(&extension(DataType::Binary, "arrow.opaque", inet));
        assert_eq!(ours.metadata()[REFUSED], "inet");
    }

    #[test]
    fn values_come_in_the_type_that_was_planned() {
        let bool8 = extension(DataType::Int8, "arrow.bool8", "");
        let bytes: ArrayRef = Arc::new(Int8Array::from(vec![Some(0), Some(7), None]));
        let wanted = Field::new("c", DataType::Boolean, true);
        let adapted = adapt(&bool8, &bytes, &wanted).unwrap();
        let expected = BooleanArray::from(vec![Some(false), Some(true), None]);
        assert_eq!(adapted.as_boolean(), &expected);
        let words: DictionaryArray<Int8Type> = vec!["a", "b", "a"].into_iter().collect();
        let sent = Field::new("c", words.data_type().clone(), true);
        let adapted = adapt(&sent, &(Arc::new(words) as ArrayRef), &field(&sent)).unwrap();
        assert_eq!(adapted.as_string::<i32>(), &StringArray::from(vec!["a", "b", "a"]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let sent = Field::new("c", DataType::Int64, true);
        let error = adapt(&sent, &numbers, &wanted).unwrap_err();
        assert_eq!(error.kind(), highwater_core::ErrorKind::Schema);
    }
}
