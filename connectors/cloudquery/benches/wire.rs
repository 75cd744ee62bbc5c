//! What rows cost on their way to a plugin and from it: encoder, decoder, coalescer.
//!
//! `cargo bench -p highwater-cloudquery --bench wire` prints rows and bytes per second, the best of
//! five rounds. Without `--bench` (as a test) it runs with a few rows, to show that it works.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, TimeUnit};
use bytes::Bytes;
use highwater_cloudquery::wire::{Coalescer, Decoder, Encoder, INSERT_BYTES_MAX};
use highwater_core::types::{EXTENSION, JSON, UUID, with_metadata};
use highwater_core::{Table, TableName};

const BATCH_ROWS: usize = 8192;
const ROUNDS: usize = 5;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (many, few) = if measured { (1_000_000, 100_000) } else { (10_000, 100) };
    let table = orders();
    let batches: Vec<RecordBatch> = (0..many)
        .step_by(BATCH_ROWS)
        .map(|start| rows(&table, start, BATCH_ROWS.min(many - start)))
        .collect();
    let messages = large(&table, many, &batches);
    let single: Vec<RecordBatch> = (0..few).map(|row| rows(&table, row, 1)).collect();
    drop(batches);
    let small = measure("encode, one row in a message", few, || {
        let mut encoder = Encoder::new(&table, INSERT_BYTES_MAX).unwrap();
        single.iter().flat_map(|batch| encoder.encode(batch).unwrap()).collect::<Vec<Bytes>>()
    });
    drop(messages);
    let small = as_received(&small);
    measure("decode, one row in a message", few, || {
        let mut decoder = Decoder::new();
        let rows = |message| decoder.decode(message).unwrap().batches[0].num_rows();
        assert_eq!(small.iter().map(rows).sum::<usize>(), few);
        small.clone()
    });
    measure("decode and coalesce, one row in a message", few, || {
        assert_eq!(coalesced(&small), few);
        small.clone()
    });
}

/// Batches of thousands, out and in; the messages.
fn large(table: &Arc<Table>, many: usize, batches: &[RecordBatch]) -> Vec<Bytes> {
    let messages = measure("encode, 8192 rows in a batch", many, || {
        let mut encoder = Encoder::new(table, INSERT_BYTES_MAX).unwrap();
        batches.iter().flat_map(|batch| encoder.encode(batch).unwrap()).collect::<Vec<Bytes>>()
    });
    measure("decode, as written", many, || {
        assert_eq!(decoded(&messages), many);
        messages.clone()
    });
    let received = as_received(&messages);
    measure("decode, as received", many, || {
        assert_eq!(decoded(&received), many);
        received.clone()
    });
    messages
}

fn decoded(messages: &[Bytes]) -> usize {
    let mut decoder = Decoder::new();
    let mut count = 0;
    for message in messages {
        for batch in black_box(decoder.decode(message).unwrap()).batches {
            count += batch.num_rows();
        }
    }
    count
}

fn coalesced(messages: &[Bytes]) -> usize {
    let (mut decoder, mut coalescer) = (Decoder::new(), Coalescer::default());
    let mut count = 0;
    for message in messages {
        let decoded = decoder.decode(message).unwrap();
        for batch in decoded.batches {
            for ready in black_box(coalescer.push(&decoded.table, batch).unwrap()) {
                count += ready.rows.num_rows();
            }
        }
    }
    count + coalescer.flush().unwrap().iter().map(|ready| ready.rows.num_rows()).sum::<usize>()
}

/// The best of some rounds, which make or take `messages`.
fn measure(what: &str, rows: usize, mut round: impl FnMut() -> Vec<Bytes>) -> Vec<Bytes> {
    let mut best = Duration::MAX;
    let mut messages = Vec::new();
    for _ in 0..ROUNDS {
        drop(std::mem::take(&mut messages));
        let start = Instant::now();
        messages = round();
        best = best.min(start.elapsed());
    }
    let bytes: usize = messages.iter().map(Bytes::len).sum();
    let seconds = best.as_secs_f64();
    println!(
        "{what:42} {:>11.0} rows/s {:>8.1} MB/s {:>8.3} µs/row {:>7.1} bytes/row",
        rows as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        seconds * 1e6 / rows as f64,
        bytes as f64 / rows as f64,
    );
    messages
}

/// The messages as gRPC gives them: in the middle of a larger buffer, wherever the bytes before
/// them end.
fn as_received(messages: &[Bytes]) -> Vec<Bytes> {
    let moved = |message: &Bytes| Bytes::from([&[0; 5][..], &message[..]].concat()).slice(5..);
    messages.iter().map(moved).collect()
}

fn orders() -> Arc<Table> {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let extended = |field: Field, name: &str| with_metadata(field, EXTENSION, name);
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("customer_id", DataType::Int32, false),
        extended(Field::new("reference", DataType::FixedSizeBinary(16), true), UUID),
        Field::new("status", DataType::Utf8, false),
        Field::new("note", DataType::Utf8, true),
        Field::new("total", DataType::Decimal128(12, 2), true),
        Field::new("discount", DataType::Float64, true),
        Field::new("quantity", DataType::Int16, true),
        Field::new("paid", DataType::Boolean, true),
        extended(Field::new("attributes", DataType::Utf8, true), JSON),
        Field::new("created_at", at.clone(), false),
        Field::new("updated_at", at, true),
    ];
    let table = Table::new(TableName::new("orders"), fields);
    Arc::new(table.with_primary_key(["id".to_owned()]))
}

fn rows(table: &Arc<Table>, start: usize, count: usize) -> RecordBatch {
    let all = || (start..start + count).map(|row| i64::try_from(row).unwrap());
    let some = move |every: i64| all().map(move |row| (row % every != 0).then_some(row));
    let at = |row: i64| 1_767_225_600_000_000 + row * 1_234_567;
    let uuids = some(5).map(|row| row.map(|row| i128::from(row).to_be_bytes()));
    let states = ["new", "paid", "shipped", "delivered", "returned"];
    let state = |row: i64| states[usize::try_from(row % 5).unwrap()];
    let totals: Decimal128Array = some(9).map(|row| row.map(|row| i128::from(row) * 99)).collect();
    let times = |array: TimestampMicrosecondArray| array.with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all().collect::<Int64Array>()),
        Arc::new(all().map(|row| i32::try_from(row % 77_777).unwrap()).collect::<Int32Array>()),
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids, 16).unwrap()),
        Arc::new(all().map(|row| Some(state(row))).collect::<StringArray>()),
        Arc::new(
            some(3)
                .map(|row| row.map(|row| format!("please ring at door {row}")))
                .collect::<StringArray>(),
        ),
        Arc::new(totals.with_precision_and_scale(12, 2).unwrap()),
        Arc::new(some(4).map(|row| row.map(|row| row as f64 / 8.0)).collect::<Float64Array>()),
        Arc::new(
            some(7)
                .map(|row| row.map(|row| i16::try_from(row % 100).unwrap()))
                .collect::<Int16Array>(),
        ),
        Arc::new(some(11).map(|row| row.map(|row| row % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(
            some(6)
                .map(|row| row.map(|row| format!("{{\"channel\": \"web\", \"visit\": {row}}}")))
                .collect::<StringArray>(),
        ),
        Arc::new(times(all().map(|row| Some(at(row))).collect())),
        Arc::new(times(some(2).map(|row| row.map(at)).collect())),
    ];
    RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap()
}
