//! What the benchmarks measure, without a server: not for anybody else.

use arrow_array::RecordBatch;
use highwater_core::{Error, Result};

use crate::decode::{Chunk, Decoder};
use crate::encode::Prepared;
use crate::tuples::TupleReader;
use crate::types::Wire;

/// The columns that can be measured, in the words of PostgreSQL.
fn wire(name: &str) -> Result<Wire> {
    Ok(match name {
        "bool" => Wire::Bool,
        "int4" => Wire::Int4,
        "int8" => Wire::Int8,
        "float8" => Wire::Float8,
        "numeric(15,2)" => Wire::Decimal { precision: 15, scale: 2 },
        "numeric(38,10)" => Wire::Decimal { precision: 38, scale: 10 },
        "text" => Wire::Text,
        "date" => Wire::Date,
        "timestamptz" => Wire::TimestampTz,
        "uuid" => Wire::Uuid,
        other => return Err(Error::internal("Not measured").context("type", other)),
    })
}

/// Decodes a whole binary COPY in batches; returns how many rows it had.
///
/// # Errors
/// As a read.
pub fn decode(copy: &[u8], columns: &[&str]) -> Result<usize> {
    const BATCH_ROWS: usize = 8192;
    let unfit = |unfit| Error::data(format!("{unfit:?}"));
    let wires = columns.iter().map(|name| wire(name)).collect::<Result<Vec<_>>>()?;
    let mut decoders: Vec<Decoder> = wires.iter().map(Decoder::new).collect();
    let (mut chunk, mut rows, mut taken) = (Chunk::default(), 0, 0);
    let mut tuples = TupleReader::new(wires.len());
    // As they come from a socket.
    for piece in copy.chunks(64 << 10) {
        tuples.feed(piece, |tuple| {
            chunk.push(tuple, 0);
            rows += 1;
            if chunk.is_full() { chunk.decode(&mut decoders).map_err(unfit) } else { Ok(()) }
        })?;
        if rows - taken >= BATCH_ROWS {
            chunk.decode(&mut decoders).map_err(unfit)?;
            for (column, decoder) in decoders.iter_mut().enumerate() {
                std::hint::black_box(decoder.finish().map_err(|error| unfit((column, error)))?);
            }
            taken = rows;
        }
    }
    chunk.decode(&mut decoders).map_err(unfit)?;
    tuples.finish()?;
    Ok(rows)
}

/// Encodes a batch as the rows of a COPY; returns how many bytes they have.
///
/// # Errors
/// As a write.
pub fn encode(batch: &RecordBatch) -> Result<usize> {
    const CHUNK_BYTES: usize = 256 << 10;
    let prepared = Prepared::new(batch, None)?;
    let mut buffer = Vec::with_capacity(2 * CHUNK_BYTES);
    let (mut row, mut bytes) = (0, 0);
    while row < batch.num_rows() {
        row = prepared.encode(row, CHUNK_BYTES, &mut buffer)?;
        bytes += std::hint::black_box(&buffer).len();
        buffer.clear();
    }
    Ok(bytes)
}
