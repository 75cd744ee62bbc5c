//! How many bytes rows take on the wire, without writing them.
//!
//! An array that was sliced, or that lies in the middle of a large message, holds on to far more
//! memory than its rows take. What counts here is the rows alone, as the encoder writes them.

use arrow_array::cast::AsArray;
use arrow_array::{Array, OffsetSizeTrait, RecordBatch};
use arrow_data::ArrayData;
use arrow_schema::DataType;

/// Bytes that every buffer's length is rounded up to.
pub(super) const ALIGNMENT: usize = 8;
/// What a message's head takes for each array and for each buffer.
const DESCRIPTION: usize = 16;
/// The head itself, with its tables and padding.
const HEAD: usize = 256;

/// The bytes that the message of these rows takes: not less than it will, and more only by the
/// slack of its head.
pub fn of_batch(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    HEAD + columns.map(|column| of_column(column.as_ref())).sum::<usize>()
}

/// As [`of_array`]; the types that nearly all columns have are measured as they are.
fn of_column(array: &dyn Array) -> usize {
    let len = array.len();
    let offsets = match array.data_type() {
        DataType::Utf8 => array.as_string_opt::<i32>().map(|texts| texts.value_offsets()),
        DataType::Binary => array.as_binary_opt::<i32>().map(|bytes| bytes.value_offsets()),
        _ => None,
    };
    let values = match (offsets, array.data_type().primitive_width()) {
        (Some([first, .., last]), _) => {
            padded((len + 1) * 4) + padded(usize::try_from(last - first).unwrap_or(0))
        }
        (_, Some(width)) => padded(len * width),
        _ => return of_array(&array.to_data()),
    };
    validity(len, array.null_count()) + values
}

fn validity(len: usize, nulls: usize) -> usize {
    DESCRIPTION + padded(if nulls > 0 { len.div_ceil(8) } else { 0 })
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT) + DESCRIPTION
}

fn of_array(data: &ArrayData) -> usize {
    let len = data.len();
    validity(len, data.null_count())
        + match data.data_type() {
            DataType::Boolean => padded(len.div_ceil(8)),
            DataType::Utf8 | DataType::Binary => {
                let (first, last) = ends::<i32>(data);
                padded((len + 1) * 4) + padded(last - first)
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                let (first, last) = ends::<i64>(data);
                padded((len + 1) * 8) + padded(last - first)
            }
            DataType::List(_) | DataType::Map(_, _) => {
                let (first, last) = ends::<i32>(data);
                padded((len + 1) * 4) + of_items(data, first, last)
            }
            DataType::LargeList(_) => {
                let (first, last) = ends::<i64>(data);
                padded((len + 1) * 8) + of_items(data, first, last)
            }
            DataType::FixedSizeList(_, width) => {
                let width = usize::try_from(*width).unwrap_or(0);
                of_items(data, data.offset() * width, (data.offset() + len) * width)
            }
            DataType::Struct(_) => data.child_data().iter().map(of_array).sum(),
            DataType::Null => 0,
            flat => match flat.primitive_width() {
                Some(width) => padded(len * width),
                None => match flat {
                    DataType::FixedSizeBinary(width) => {
                        padded(len * usize::try_from(*width).unwrap_or(0))
                    }
                    // Layouts that are not written: what they hold is close enough.
                    _ => data.get_slice_memory_size().unwrap_or(0),
                },
            },
        }
}

fn of_items(data: &ArrayData, first: usize, last: usize) -> usize {
    data.child_data().first().map_or(0, |items| of_array(&items.slice(first, last - first)))
}

/// The first and the last offset of the slice.
fn ends<O: OffsetSizeTrait>(data: &ArrayData) -> (usize, usize) {
    if data.is_empty() {
        return (0, 0);
    }
    let offsets = data.buffers().first().map_or(&[][..], |buffer| buffer.typed_data::<O>());
    let at = |row: usize| offsets.get(row).map_or(0, |offset| offset.as_usize());
    (at(data.offset()), at(data.offset() + data.len()))
}
