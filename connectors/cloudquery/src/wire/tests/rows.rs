//! Rows, both ways.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use highwater_core::{ErrorKind, Table, TableName};

use super::fixtures::{every_wire_type, layouts, read, stream_of, written};
use crate::wire::{Decoder, Encoder, INSERT_BYTES_MAX, decode_table, encode_table};

fn table_of(batch: &RecordBatch) -> Arc<Table> {
    let mut table = Table::new(TableName::new("t"), Vec::new());
    table.schema = batch.schema();
    Arc::new(table)
}

fn texts(rows: usize, bytes: usize) -> RecordBatch {
    let text: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("{row:0bytes$}"))));
    RecordBatch::try_from_iter([("text", text)]).unwrap()
}

#[test]
fn every_type_gets_from_plugin_to_plugin_unchanged() {
    let columns = every_wire_type();
    let mut decoder = Decoder::new();
    let decoded = decoder.decode(&stream_of("t", &columns, 1)).unwrap();
    assert_eq!(decoded.table.name, TableName::new("t"));
    let [rows] = decoded.batches.as_slice() else { panic!("one batch") };
    assert_eq!(rows.schema(), decoded.table.schema);

    let mut encoder = Encoder::new(&decoded.table, INSERT_BYTES_MAX).unwrap();
    let messages = encoder.encode(rows).unwrap();
    let [message] = messages.as_slice() else { panic!("one message") };
    let back = read(message);
    let [back] = back.as_slice() else { panic!("one batch") };
    for ((field, array), back) in columns.iter().zip(back.columns()) {
        assert_eq!(back, array, "{field}");
    }
    let again = decoder.decode(message).unwrap();
    assert_eq!(&again.batches[0], rows);
}

#[test]
fn a_message_starts_with_the_bytes_of_its_table() {
    let rows = texts(1, 3);
    let table = table_of(&rows);
    let alone = encode_table(&table).unwrap();
    let message = Encoder::new(&table, INSERT_BYTES_MAX).unwrap().encode(&rows).unwrap().remove(0);
    assert_eq!(message[..alone.len() - 8], alone[..alone.len() - 8]);
    assert_eq!(decode_table(&message).unwrap(), decode_table(&alone).unwrap());
}

#[test]
fn the_same_schema_is_parsed_once_and_another_one_is_seen() {
    let columns = every_wire_type();
    let mut decoder = Decoder::new();
    let first = decoder.decode(&stream_of("a", &columns, 1)).unwrap();
    let second = decoder.decode(&stream_of("a", &columns, 1)).unwrap();
    assert!(Arc::ptr_eq(&first.table, &second.table));
    let other = decoder.decode(&stream_of("b", &columns, 1)).unwrap();
    assert_eq!(other.table.name.name, "b");
    let fewer = decoder.decode(&stream_of("a", &columns[1..], 1)).unwrap();
    assert_eq!(fewer.table.schema.fields().len(), columns.len() - 1);
}

#[test]
fn no_batch_is_dropped_and_none_is_needed() {
    let columns = every_wire_type();
    let mut decoder = Decoder::new();
    assert_eq!(decoder.decode(&stream_of("t", &columns, 3)).unwrap().batches.len(), 3);
    assert!(decoder.decode(&stream_of("t", &columns, 0)).unwrap().batches.is_empty());
    let none: Vec<(Field, ArrayRef)> =
        columns.iter().map(|(field, array)| (field.clone(), array.slice(0, 0))).collect();
    let empty = decoder.decode(&stream_of("t", &none, 1)).unwrap();
    assert_eq!(empty.batches[0].num_rows(), 0);
    let mut encoder = Encoder::new(&empty.table, INSERT_BYTES_MAX).unwrap();
    assert!(encoder.encode(&empty.batches[0]).unwrap().is_empty());
}

#[test]
fn compressed_bodies_and_dictionaries_are_read() {
    let columns = every_wire_type();
    let plain = Decoder::new().decode(&stream_of("t", &columns, 1)).unwrap();
    let batch = read(&stream_of("t", &columns, 1)).remove(0);
    for codec in [arrow_ipc::CompressionType::LZ4_FRAME, arrow_ipc::CompressionType::ZSTD] {
        let stream = written(&batch.schema(), &[batch.clone(), batch.clone()], Some(codec));
        let decoded = Decoder::new().decode(&stream).unwrap();
        assert_eq!(decoded.batches.len(), 2);
        assert_eq!(decoded.batches[1], plain.batches[0]);
    }
    let (field, array, text) = layouts().swap_remove(0);
    let decoded = Decoder::new().decode(&stream_of("t", &[(field, array)], 1)).unwrap();
    assert_eq!(decoded.batches[0].column(0), &text);
}

#[test]
fn layouts_of_ours_are_written_plainly() {
    for (field, array, plain) in layouts() {
        let schema = Arc::new(Schema::new(vec![field]));
        let rows = RecordBatch::try_new(schema, vec![array]).unwrap();
        let mut encoder = Encoder::new(&table_of(&rows), INSERT_BYTES_MAX).unwrap();
        let back = read(&encoder.encode(&rows).unwrap()[0]);
        assert_eq!(back[0].column(0), &plain);
    }
}

#[test]
fn messages_stay_within_the_limit_and_keep_every_row_in_order() {
    for (rows, limit) in
        [(texts(10_000, 40), 20_000), (texts(1, 40), 20_000), (texts(3000, 7), 4000)]
    {
        let mut encoder = Encoder::new(&table_of(&rows), limit).unwrap();
        let messages = encoder.encode(&rows).unwrap();
        assert!(messages.iter().all(|message| message.len() <= limit));
        let needed = messages.iter().map(|message| message.len()).sum::<usize>().div_ceil(limit);
        assert!(messages.len() <= needed + 1, "{} messages, {needed} needed", messages.len());
        let back: Vec<RecordBatch> = messages.iter().flat_map(|message| read(message)).collect();
        assert_eq!(back.len(), messages.len());
        let back = arrow_select::concat::concat_batches(&back[0].schema(), &back).unwrap();
        assert_eq!(back.columns(), rows.columns());
    }
}

#[test]
fn rows_of_very_different_size_are_cut_where_they_have_to_be() {
    let sizes = [1, 5000, 1, 1, 9000, 5000, 5000, 1, 1, 1];
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(sizes.map(|n| "x".repeat(n))));
    let rows = RecordBatch::try_from_iter([("text", text)]).unwrap();
    let limit = 8000;
    let messages = Encoder::new(&table_of(&rows), limit).unwrap().encode(&rows).unwrap();
    let mut large = 0;
    let mut seen = Vec::new();
    for message in &messages {
        let batch = read(message).remove(0);
        if message.len() > limit {
            large += 1;
            assert_eq!(batch.num_rows(), 1, "only a row that is too large alone");
        }
        seen.extend(arrow_cast::cast(batch.column(0), &DataType::Utf8).unwrap().to_data().iter());
    }
    assert_eq!(large, 1);
    assert_eq!(seen, sizes);
}

trait Lengths {
    fn iter(&self) -> Vec<usize>;
}

impl Lengths for arrow_data::ArrayData {
    fn iter(&self) -> Vec<usize> {
        let texts = StringArray::from(self.clone());
        (0..texts.len()).map(|row| texts.value(row).len()).collect()
    }
}

#[test]
fn a_slice_takes_its_own_rows_only() {
    let columns = every_wire_type();
    let decoded = Decoder::new().decode(&stream_of("t", &columns, 1)).unwrap();
    let many = vec![decoded.batches[0].clone(); 500];
    let all = arrow_select::concat::concat_batches(&decoded.table.schema, &many).unwrap();
    let mut encoder = Encoder::new(&decoded.table, usize::MAX).unwrap();
    let few = encoder.encode(&decoded.batches[0]).unwrap().remove(0).len();
    for start in [0, 3, 999, 1497] {
        let slice = all.slice(start, 3);
        let message = encoder.encode(&slice).unwrap().remove(0);
        assert!(message.len() <= few + 64, "{} bytes, not {few}", message.len());
        let back = Decoder::new().decode(&message).unwrap();
        assert_eq!(back.batches[0], decoded.batches[0]);
    }
    // Unaligned bits of booleans and of validity.
    for length in [1, 2, 7, 8, 9, 63, 64, 65] {
        for start in [1, 5, 8, 13] {
            let slice = all.slice(start, length);
            let message = encoder.encode(&slice).unwrap().remove(0);
            let back = Decoder::new().decode(&message).unwrap().batches.remove(0);
            assert_eq!(back.columns(), slice.columns());
        }
    }
}

#[test]
fn the_size_is_never_less_than_what_is_written() {
    let columns = every_wire_type();
    let decoded = Decoder::new().decode(&stream_of("t", &columns, 1)).unwrap();
    let many = vec![decoded.batches[0].clone(); 40];
    let all = arrow_select::concat::concat_batches(&decoded.table.schema, &many).unwrap();
    let mut encoder = Encoder::new(&decoded.table, usize::MAX).unwrap();
    let start = encode_table(&decoded.table).unwrap().len();
    for (offset, length) in [(0, 120), (1, 64), (7, 1), (9, 33)] {
        let rows = all.slice(offset, length);
        let message = encoder.encode(&rows).unwrap().remove(0);
        let wire = read(&message).remove(0);
        let size = crate::wire::size::of_batch(&wire);
        let written = message.len() - start;
        assert!(size >= written, "{size} < {written}");
        assert!(size <= written + 600, "{size} is far more than {written}");
    }
}

#[test]
fn a_null_where_a_value_was_promised_names_table_and_column() {
    let array: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(1)]));
    let columns = [(Field::new("c", DataType::Int32, true), array)];
    let stream = stream_of("t", &columns, 1);
    let mut decoded = Decoder::new().decode(&stream).unwrap();
    let table = Arc::make_mut(&mut decoded.table);
    table.schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Int32, false)]));
    let mut encoder = Encoder::new(&decoded.table, INSERT_BYTES_MAX).unwrap();
    let error = encoder.encode(&decoded.batches[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("table"), Some("t"));
    assert!(error.full_message().contains("'c'"), "{}", error.full_message());
}

#[test]
fn intervals_can_be_joined_wherever_they_lay_in_the_message() {
    let columns: Vec<(Field, ArrayRef)> = every_wire_type()
        .into_iter()
        .filter(|(field, _)| field.data_type().to_string().contains("MonthDayNano"))
        .collect();
    assert!(columns.len() > 5, "alone, in lists, maps and records");
    let message = stream_of("t", &columns, 1);
    let large: Vec<(Field, ArrayRef)> = columns
        .iter()
        .map(|(field, array)| {
            let many: Vec<&dyn Array> = vec![array.as_ref(); 9000];
            (field.clone(), arrow_select::concat::concat(&many).unwrap())
        })
        .collect();
    // One is copied as a whole, one is read where it lies.
    for message in [message, stream_of("t", &large, 1)] {
        for start in 0..16 {
            let moved = [&vec![0; start], &message[..]].concat();
            let moved = bytes::Bytes::from(moved).slice(start..);
            let decoded = Decoder::new().decode(&moved).unwrap();
            let rows = &decoded.batches[0];
            let twice = arrow_select::concat::concat_batches(&rows.schema(), [rows, rows]).unwrap();
            assert_eq!(&twice.slice(rows.num_rows(), rows.num_rows()), rows);
        }
    }
}
