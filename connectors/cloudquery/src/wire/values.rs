//! The values of a column in another form.
//!
//! Bytes are shared wherever the form allows it: JSON as text and as bytes is one buffer, lists
//! keep their offsets. Only addresses are rewritten.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::ByteArrayType;
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, GenericByteArray, GenericListArray, MapArray,
    OffsetSizeTrait, StringArray, StructArray,
};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType};
use highwater_core::{Error, Result};

use super::address;

/// What happens to the values of one column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Nothing: the type is the same, whatever the field's metadata says.
    Keep,
    /// Text to the bytes of the text.
    TextToBytes,
    /// Bytes to text, which they have to be.
    BytesToText,
    /// The text of a network address to the same with its mask.
    AddressToBytes,
    /// The text of a hardware address to its six bytes.
    MacToBytes,
    /// Six bytes to the text of a hardware address.
    BytesToMac,
    /// Another layout of the same values first.
    Plain { plain: DataType, then: Box<Step> },
    /// One step for the items, or one for each field.
    Nested(Vec<Step>),
}

impl Step {
    /// The values as `to`, which is what the step was made for. Where `hidden` says NULL, the
    /// value belongs to a record that is NULL itself and may be anything.
    pub(super) fn run(
        &self,
        array: &ArrayRef,
        to: &DataType,
        hidden: Option<&NullBuffer>,
    ) -> Result<ArrayRef> {
        match self {
            Self::Keep => Ok(Arc::clone(array)),
            Self::TextToBytes => text_to_bytes(array),
            Self::BytesToText => bytes_to_text(array, hidden),
            Self::AddressToBytes => {
                rewritten(array, hidden, "A network address cannot be read", |text, out| {
                    address::with_mask(text).map(|text| out.append_value(text.as_bytes()))
                })
            }
            Self::MacToBytes => {
                rewritten(array, hidden, "A hardware address cannot be read", |text, out| {
                    address::mac_bytes(text).map(|bytes| out.append_value(bytes))
                })
            }
            Self::BytesToMac => bytes_to_mac(array, hidden),
            Self::Plain { plain, then } => then.run(&plainly(array, plain)?, to, hidden),
            Self::Nested(steps) => nested(steps, array, to, hidden),
        }
    }
}

/// Another layout of the same values.
fn plainly(array: &ArrayRef, plain: &DataType) -> Result<ArrayRef> {
    if array.data_type() == plain {
        return Ok(Arc::clone(array));
    }
    arrow_cast::cast(array, plain).map_err(misfit)
}

fn misfit(error: ArrowError) -> Error {
    Error::data("Values do not fit the column's type").caused_by(error)
}

fn not_as_declared() -> Error {
    Error::internal("Rows do not have the type of their column")
}

/// The valid slots, `None` if all are.
fn visible(array: &dyn Array, hidden: Option<&NullBuffer>) -> Option<NullBuffer> {
    NullBuffer::union(array.nulls(), hidden)
}

fn text_to_bytes(array: &ArrayRef) -> Result<ArrayRef> {
    let text = plainly(array, &DataType::Utf8)?;
    let text = text.as_string_opt::<i32>().ok_or_else(not_as_declared)?;
    Ok(Arc::new(BinaryArray::from(text.clone())))
}

fn bytes_to_text(array: &ArrayRef, hidden: Option<&NullBuffer>) -> Result<ArrayRef> {
    if matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return plainly(array, &DataType::Utf8);
    }
    let bytes = plainly(array, &DataType::Binary)?;
    let bytes = bytes.as_binary_opt::<i32>().ok_or_else(not_as_declared)?;
    if let Ok(text) = StringArray::try_from_binary(bytes.clone()) {
        return Ok(Arc::new(text));
    }
    // What a NULL covers need not be text.
    let valid = visible(bytes, hidden);
    let mut out = StringBuilder::with_capacity(bytes.len(), size_of_values(bytes));
    for row in 0..bytes.len() {
        if valid.as_ref().is_none_or(|valid| valid.is_valid(row)) {
            let text = str::from_utf8(bytes.value(row))
                .map_err(|_| Error::data("A value that has to be text is not UTF-8"))?;
            out.append_value(text);
        } else {
            out.append_null();
        }
    }
    Ok(Arc::new(out.finish()))
}

fn size_of_values<T: ByteArrayType<Offset = i32>>(array: &GenericByteArray<T>) -> usize {
    let offsets = array.value_offsets();
    let ends = offsets.first().zip(offsets.last());
    ends.map_or(0, |(first, last)| usize::try_from(last - first).unwrap_or(0))
}

/// Every text through `write`, which says `None` if it cannot read it.
fn rewritten(
    array: &ArrayRef,
    hidden: Option<&NullBuffer>,
    complaint: &str,
    write: impl Fn(&str, &mut BinaryBuilder) -> Option<()>,
) -> Result<ArrayRef> {
    let text = plainly(array, &DataType::Utf8)?;
    let text = text.as_string_opt::<i32>().ok_or_else(not_as_declared)?;
    let valid = visible(text, hidden);
    let mut out = BinaryBuilder::with_capacity(text.len(), size_of_values(text) + 4 * text.len());
    for row in 0..text.len() {
        if valid.as_ref().is_none_or(|valid| valid.is_valid(row)) {
            write(text.value(row), &mut out).ok_or_else(|| Error::data(complaint))?;
        } else {
            out.append_null();
        }
    }
    Ok(Arc::new(out.finish()))
}

fn bytes_to_mac(array: &ArrayRef, hidden: Option<&NullBuffer>) -> Result<ArrayRef> {
    let bytes = plainly(array, &DataType::Binary)?;
    let bytes = bytes.as_binary_opt::<i32>().ok_or_else(not_as_declared)?;
    let valid = visible(bytes, hidden);
    let mut out = StringBuilder::with_capacity(bytes.len(), 17 * bytes.len());
    let mut text = String::with_capacity(17);
    for row in 0..bytes.len() {
        if valid.as_ref().is_none_or(|valid| valid.is_valid(row)) {
            text.clear();
            if !address::write_mac(bytes.value(row), &mut text) {
                return Err(Error::data("A hardware address does not have six bytes"));
            }
            out.append_value(&text);
        } else {
            out.append_null();
        }
    }
    Ok(Arc::new(out.finish()))
}

fn nested(
    steps: &[Step],
    array: &ArrayRef,
    to: &DataType,
    hidden: Option<&NullBuffer>,
) -> Result<ArrayRef> {
    match (to, steps) {
        (DataType::List(_), [step]) => list::<i32>(step, array, to),
        (DataType::LargeList(_), [step]) => list::<i64>(step, array, to),
        (DataType::FixedSizeList(item, size), [step]) => {
            let lists = array.as_fixed_size_list_opt().ok_or_else(not_as_declared)?;
            let width = usize::try_from(*size).unwrap_or(0);
            let hidden = visible(lists, hidden).map(|nulls| spread(&nulls, width));
            let items = step.run(lists.values(), item.data_type(), hidden.as_ref())?;
            let nulls = lists.nulls().cloned();
            let lists = FixedSizeListArray::try_new_with_length(
                Arc::clone(item),
                *size,
                items,
                nulls,
                lists.len(),
            );
            Ok(Arc::new(lists.map_err(misfit)?))
        }
        (DataType::Map(entries, sorted), [step]) => {
            let maps = array.as_map_opt().ok_or_else(not_as_declared)?;
            let inner: ArrayRef = Arc::new(maps.entries().clone());
            let inner = step.run(&inner, entries.data_type(), None)?;
            let inner = inner.as_struct_opt().ok_or_else(not_as_declared)?.clone();
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            let maps = MapArray::try_new(Arc::clone(entries), offsets, inner, nulls, *sorted);
            Ok(Arc::new(maps.map_err(misfit)?))
        }
        (DataType::Struct(fields), steps) if fields.len() == steps.len() => {
            let records = array.as_struct_opt().ok_or_else(not_as_declared)?;
            let hidden = visible(records, hidden);
            let columns = records
                .columns()
                .iter()
                .zip(steps)
                .zip(fields)
                .map(|((column, step), field)| step.run(column, field.data_type(), hidden.as_ref()))
                .collect::<Result<Vec<_>>>()?;
            let records = StructArray::try_new_with_length(
                fields.clone(),
                columns,
                records.nulls().cloned(),
                records.len(),
            );
            Ok(Arc::new(records.map_err(misfit)?))
        }
        _ => Err(not_as_declared()),
    }
}

fn list<O: OffsetSizeTrait>(step: &Step, array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let (DataType::List(item) | DataType::LargeList(item)) = to else {
        return Err(not_as_declared());
    };
    let lists = array.as_list_opt::<O>().ok_or_else(not_as_declared)?;
    let (offsets, items) = trimmed(lists);
    let items = step.run(&items, item.data_type(), None)?;
    let nulls = lists.nulls().cloned();
    let lists = GenericListArray::try_new(Arc::clone(item), offsets, items, nulls);
    Ok(Arc::new(lists.map_err(misfit)?))
}

/// The items that the lists have, without those that a slice left behind.
fn trimmed<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> (OffsetBuffer<O>, ArrayRef) {
    let offsets = lists.offsets();
    let (first, last) = match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => (*first, *last),
        _ => (O::zero(), O::zero()),
    };
    if first == O::zero() && last.as_usize() == lists.values().len() {
        return (offsets.clone(), Arc::clone(lists.values()));
    }
    let shifted: ScalarBuffer<O> = offsets.iter().map(|offset| *offset - first).collect();
    let items = lists.values().slice(first.as_usize(), (last - first).as_usize());
    (OffsetBuffer::new(shifted), items)
}

/// Every bit `width` times.
fn spread(nulls: &NullBuffer, width: usize) -> NullBuffer {
    let mut bits = BooleanBufferBuilder::new(nulls.len() * width);
    for valid in nulls {
        bits.append_n(width, valid);
    }
    NullBuffer::new(bits.finish())
}
