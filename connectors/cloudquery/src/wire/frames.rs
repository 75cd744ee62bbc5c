//! The messages that an Arrow stream consists of: a schema, dictionaries, batches, an end.
//!
//! A stream is read message by message and not as a whole, because plugins send the same schema
//! with every row: it is recognised by its bytes and parsed once. What comes from a plugin is not
//! trusted; every length is checked before it is used.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_ipc::convert::MessageBuffer;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::root_as_message;
use arrow_schema::{ArrowError, DataType, IntervalUnit, Schema, SchemaRef};
use bytes::Bytes;
use highwater_core::{Error, Result};

const CONTINUATION: [u8; 4] = [0xff; 4];
/// What ends a stream.
pub const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// More than this is not unpacked from one compressed message.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;

/// A body that is not larger is copied: rows then keep no message alive that is far larger than
/// they are, and every column lies where the reader wants it, instead of being copied alone.
const COPIED_BYTES_MAX: usize = 64 << 10;
/// What 128 bits are aligned to.
const ALIGNMENT_MAX: usize = 16;

/// The bytes of a stream that are not read yet.
#[derive(Debug, Clone)]
pub struct Frames {
    rest: Bytes,
}

/// A message after the schema: what it says, and the buffers that belong to it.
#[derive(Debug, Clone)]
pub struct Frame {
    head: MessageBuffer,
    body: Buffer,
}

pub(super) fn malformed() -> Error {
    Error::data("A plugin sent bytes that are no Arrow stream")
}

impl Frames {
    /// Reads from the start of a stream.
    pub fn new(stream: &Bytes) -> Self {
        Self { rest: stream.clone() }
    }

    /// The schema message, which is the first of every stream. It is not looked into:
    /// [`parse_schema`] does.
    ///
    /// # Errors
    /// `Data` if there is none.
    pub fn schema(&mut self) -> Result<Bytes> {
        self.head()?.ok_or_else(malformed)
    }

    /// The next message, `None` at the end of the stream.
    ///
    /// # Errors
    /// `Data` for what is no message, and for bytes after the end: they could be rows.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(head) = self.head()? else { return Ok(None) };
        let head =
            MessageBuffer::try_new(Buffer::from(head)).map_err(|e| malformed().caused_by(e))?;
        let length = head.as_ref().bodyLength();
        let body = self.take(usize::try_from(length).map_err(|_| malformed())?)?;
        let body = if body.len() <= COPIED_BYTES_MAX {
            Buffer::from_slice_ref(&body)
        } else {
            Buffer::from(body)
        };
        Ok(Some(Frame { head, body }))
    }

    fn head(&mut self) -> Result<Option<Bytes>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut length = self.take(4)?;
        if length[..] == CONTINUATION {
            length = self.take(4)?;
        }
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        if length == 0 {
            return if self.rest.iter().all(|byte| *byte == 0) {
                Ok(None)
            } else {
                Err(malformed())
            };
        }
        self.take(usize::try_from(length).map_err(|_| malformed())?).map(Some)
    }

    fn take(&mut self, length: usize) -> Result<Bytes> {
        if length > self.rest.len() {
            return Err(malformed());
        }
        Ok(self.rest.split_to(length))
    }
}

/// The schema that a schema message says.
///
/// # Errors
/// `Data` if it says none.
pub fn parse_schema(head: &Bytes) -> Result<Schema> {
    let message = root_as_message(head).map_err(|_| malformed())?;
    let schema = message.header_as_schema().ok_or_else(malformed)?;
    let readable = schema.endianness().equals_to_target_endianness() && schema.fields().is_some();
    if !readable || message.bodyLength() != 0 {
        return Err(malformed());
    }
    guarded(|| Ok(arrow_ipc::convert::fb_to_schema(schema)))
}

impl Frame {
    /// The rows that the message holds, `None` if it is a dictionary, which is kept for the rows
    /// after it.
    ///
    /// # Errors
    /// `Data` for any other message and for one whose buffers are not as the schema says.
    pub fn to_batch(
        &self,
        schema: &SchemaRef,
        dictionaries: &mut HashMap<i64, ArrayRef>,
    ) -> Result<Option<RecordBatch>> {
        let message = self.head.as_ref();
        let version = message.version();
        if let Some(batch) = message.header_as_record_batch() {
            self.check(batch)?;
            let schema = SchemaRef::clone(schema);
            let known = &*dictionaries;
            guarded(|| {
                read_record_batch(&self.body, batch, schema, known, None, &version)
                    .and_then(realigned)
            })
            .map(Some)
        } else if let Some(batch) = message.header_as_dictionary_batch() {
            self.check(batch.data().ok_or_else(malformed)?)?;
            guarded(|| read_dictionary(&self.body, batch, schema, dictionaries, &version))?;
            Ok(None)
        } else {
            Err(malformed())
        }
    }

    /// Whether every buffer lies inside the body and every count makes sense.
    fn check(&self, batch: arrow_ipc::RecordBatch<'_>) -> Result<()> {
        let packed = batch.compression().is_some();
        let mut unpacked = 0_u64;
        if batch.length() < 0 {
            return Err(malformed());
        }
        for node in batch.nodes().into_iter().flatten() {
            if node.length() < 0 || node.null_count() < 0 || node.null_count() > node.length() {
                return Err(malformed());
            }
        }
        for buffer in batch.buffers().into_iter().flatten() {
            let bytes = usize::try_from(buffer.offset())
                .ok()
                .zip(usize::try_from(buffer.length()).ok())
                .and_then(|(start, length)| Some(start..start.checked_add(length)?))
                .and_then(|range| self.body.get(range))
                .ok_or_else(malformed)?;
            if packed && let Some(length) = bytes.first_chunk::<8>() {
                // -1 says that the buffer is not compressed.
                let length = u64::try_from(i64::from_le_bytes(*length)).unwrap_or(0);
                unpacked = unpacked.saturating_add(length);
            }
        }
        if unpacked > UNPACKED_BYTES_MAX {
            return Err(Error::data("A plugin sent a compressed message that is too large")
                .context("bytes", unpacked)
                .context("bytes_max", UNPACKED_BYTES_MAX));
        }
        Ok(())
    }
}

/// The rows with their intervals where Arrow wants them: it compares and copies them as if they
/// were integers of 128 bits, and panics, but its reader does not align them as such
/// (apache/arrow-rs#5917).
fn realigned(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !batch.columns().iter().any(|column| has_interval(column.data_type())) {
        return Ok(batch);
    }
    let (schema, columns, count) = batch.into_parts();
    let columns = columns
        .into_iter()
        .map(|column| {
            if has_interval(column.data_type()) {
                Ok(make_array(realigned_data(&column.to_data())?))
            } else {
                Ok(column)
            }
        })
        .collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

fn realigned_data(data: &ArrayData) -> Result<ArrayData, ArrowError> {
    let interval = is_interval(data.data_type());
    let buffers = data.buffers().iter().map(|buffer| {
        if interval && buffer.as_ptr().align_offset(ALIGNMENT_MAX) != 0 {
            Buffer::from_slice_ref(buffer.as_slice())
        } else {
            buffer.clone()
        }
    });
    let buffers = buffers.collect();
    let children = data.child_data().iter().map(realigned_data);
    let children = children.collect::<Result<Vec<_>, ArrowError>>()?;
    data.clone().into_builder().buffers(buffers).child_data(children).build()
}

fn has_interval(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_interval(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_interval(field.data_type())),
        DataType::Dictionary(_, values) => has_interval(values),
        flat => is_interval(flat),
    }
}

fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(IntervalUnit::MonthDayNano))
}

/// The reader panics at some of the types and lengths that a malformed message can say; for us
/// that is one more message that cannot be read.
fn guarded<T>(read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(malformed().caused_by(error)),
        Err(_) => Err(malformed()),
    }
}
