//! Rows of a table on the wire: an Arrow stream of a schema and, for CloudQuery, one batch.
//!
//! Plugins built on the Python SDK send a message for each row, with the schema of the table in
//! each: the decoder recognises a schema by its bytes, and knows then how to convert each column.
//! The encoder writes the schema once and puts it before every batch.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_ipc::writer::{
    CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message,
};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use highwater_core::{Error, Result, Table};
use xxhash_rust::xxh3::xxh3_64;

use super::frames::{END, Frames, parse_schema};
use super::types::Column;
use super::{size, table};

/// Inserts are cut below this: a gRPC server that was not told otherwise takes 4 MiB.
pub const INSERT_BYTES_MAX: usize = 3_670_016;

/// Schemas that a decoder remembers. A plugin has a few hundred tables; one whose schema is
/// different every time must not fill the memory.
const SCHEMAS_MAX: usize = 4096;

/// The rows of one message, in our types.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The table as this message describes it; the same one for the same description.
    pub table: Arc<Table>,
    /// The rows. CloudQuery's own readers take the first batch and drop the others; here all
    /// are kept. None and empty ones are normal.
    pub batches: Vec<RecordBatch>,
}

#[derive(Debug)]
struct Known {
    head: Bytes,
    wire: SchemaRef,
    table: Arc<Table>,
    columns: Vec<Column>,
}

/// Reads inserts.
#[derive(Debug, Default)]
pub struct Decoder {
    known: HashMap<u64, Arc<Known>>,
}

impl Decoder {
    /// A decoder that knows no schema yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The table and the rows of a message.
    ///
    /// # Errors
    /// `Data` for what is no Arrow stream and for values that are not what their column says;
    /// `Schema` and `Unsupported` as [`super::decode_table`].
    pub fn decode(&mut self, stream: &Bytes) -> Result<Decoded> {
        let mut frames = Frames::new(stream);
        let known = self.known(&frames.schema()?)?;
        let mut dictionaries = HashMap::new();
        let mut batches = Vec::with_capacity(1);
        let in_table = |e: Error| e.context("table", &known.table.name);
        while let Some(frame) = frames.next_frame().map_err(in_table)? {
            let batch = frame.to_batch(&known.wire, &mut dictionaries).map_err(in_table)?;
            if let Some(batch) = batch {
                batches.push(known.convert(&batch).map_err(in_table)?);
            }
        }
        Ok(Decoded { table: Arc::clone(&known.table), batches })
    }

    fn known(&mut self, head: &Bytes) -> Result<Arc<Known>> {
        let hash = xxh3_64(head);
        if let Some(known) = self.known.get(&hash).filter(|known| known.head == *head) {
            return Ok(Arc::clone(known));
        }
        let wire = parse_schema(head)?;
        let (table, columns) = table::read(&wire)?;
        // A copy, so that the whole message is not kept.
        let head = Bytes::copy_from_slice(head);
        let known = Known { head, wire: Arc::new(wire), table: Arc::new(table), columns };
        if self.known.len() >= SCHEMAS_MAX {
            self.known.clear();
        }
        let known = Arc::new(known);
        self.known.insert(hash, Arc::clone(&known));
        Ok(known)
    }
}

impl Known {
    fn convert(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let schema = SchemaRef::clone(&self.table.schema);
        converted(batch, &self.columns, schema)
    }
}

/// Every column as it has to be.
fn converted(batch: &RecordBatch, columns: &[Column], schema: SchemaRef) -> Result<RecordBatch> {
    let arrays = batch
        .columns()
        .iter()
        .zip(columns)
        .map(|(array, column)| column.convert(array))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, arrays, &options)
        .map_err(|e| Error::data("Rows do not fit the columns of their table").caused_by(e))
}

/// Writes inserts of one table.
pub struct Encoder {
    table: Arc<Table>,
    wire: SchemaRef,
    columns: Vec<Column>,
    start: Vec<u8>,
    limit_bytes: usize,
    options: IpcWriteOptions,
    compression: CompressionContext,
}

impl Encoder {
    /// An encoder for rows with the columns of `table`, whose messages stay within `limit_bytes`.
    ///
    /// # Errors
    /// As [`super::encode_table`].
    pub fn new(table: &Arc<Table>, limit_bytes: usize) -> Result<Self> {
        let (wire, columns) = table::schema_of(table)?;
        Ok(Self {
            table: Arc::clone(table),
            start: table::schema_message(&wire)?,
            wire: Arc::new(wire),
            columns,
            limit_bytes,
            options: table::options()?,
            compression: CompressionContext::default(),
        })
    }

    /// The table that the rows belong to.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The rows as messages of one batch each, in order; none for no rows. A row that is larger
    /// than the limit is a message of its own.
    ///
    /// # Errors
    /// `Data` for a value that CloudQuery's type of its column cannot hold.
    pub fn encode(&mut self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        let encoded = self.messages(rows);
        encoded.map_err(|e| e.context("table", &self.table.name))
    }

    fn messages(&mut self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        if rows.num_columns() != self.columns.len() {
            return Err(Error::internal("Rows do not have the columns of their table"));
        }
        let mut rest = converted(rows, &self.columns, SchemaRef::clone(&self.wire))?;
        let mut messages = Vec::new();
        while rest.num_rows() > 0 {
            let first = self.fitting(&rest);
            let left = rest.num_rows() - first;
            if left == 0 {
                messages.push(self.message(&rest)?);
                break;
            }
            messages.push(self.message(&rest.slice(0, first))?);
            rest = rest.slice(first, left);
        }
        Ok(messages)
    }

    /// How many of the first rows go into one message: all, or a number that fits, at least one.
    fn fitting(&self, rows: &RecordBatch) -> usize {
        let room = self.limit_bytes.saturating_sub(self.start.len() + END.len());
        let mut count = rows.num_rows();
        let mut bytes = size::of_batch(rows);
        while count > 1 && bytes > room {
            // As many as fit if all are equally large; fewer each time, so that it ends.
            let share = (count as u128 * room as u128 / bytes as u128).min(count as u128 - 1);
            count = usize::try_from(share).unwrap_or(1).max(1);
            bytes = size::of_batch(&rows.slice(0, count));
        }
        count
    }

    fn message(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        let mut dictionaries = DictionaryTracker::new(true);
        let (_, encoded) = IpcDataGenerator::default().encode(
            batch,
            &mut dictionaries,
            &self.options,
            &mut self.compression,
        )?;
        let bytes = encoded.ipc_message.len() + encoded.arrow_data.len() + 2 * size::ALIGNMENT;
        let mut stream = Vec::with_capacity(self.start.len() + bytes + END.len());
        stream.extend_from_slice(&self.start);
        write_message(&mut stream, encoded, &self.options)?;
        stream.extend_from_slice(&END);
        Ok(stream.into())
    }
}
