//! What a plugin sends is not believed: an error, never a panic and never a lost row.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::Schema;
use bytes::Bytes;
use highwater_core::ErrorKind;

use super::fixtures::{every_wire_type, stream_of, written};
use crate::wire::{Decoder, decode_table};

#[test]
fn what_is_no_stream_is_a_data_error() {
    for garbage in [
        &b""[..],
        b"x",
        b"{}",
        b"PAR1",
        b"ARROW1\0\0",
        &[0xff; 4],
        &[0xff; 64],
        &[0; 64],
        &[0xff, 0xff, 0xff, 0xff, 4, 0, 0, 0, 9, 9, 9, 9],
    ] {
        let error = Decoder::new().decode(&Bytes::copy_from_slice(garbage)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{garbage:?}");
        let error = decode_table(garbage).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{garbage:?}");
    }
}

#[test]
fn a_stream_that_is_cut_off_is_an_error_or_has_no_rows() {
    let mut columns = every_wire_type();
    columns.truncate(4);
    let stream = stream_of("t", &columns, 1);
    let mut decoder = Decoder::new();
    for length in 0..stream.len() - 8 {
        match decoder.decode(&stream.slice(..length)) {
            Ok(decoded) => assert!(decoded.batches.is_empty(), "{length}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Data),
        }
    }
}

#[test]
fn a_second_stream_after_the_end_is_not_dropped_in_silence() {
    let stream = stream_of("t", &every_wire_type(), 1);
    let twice = Bytes::from([&stream[..], &stream[..]].concat());
    assert_eq!(Decoder::new().decode(&twice).unwrap_err().kind(), ErrorKind::Data);
    let padded = Bytes::from([&stream[..], &[0; 24]].concat());
    assert_eq!(Decoder::new().decode(&padded).unwrap().batches.len(), 1);
}

#[test]
fn damaged_bytes_are_an_error_or_other_values_but_never_a_panic() {
    let metadata = [("cq:table_name".to_owned(), "t".to_owned())];
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("text", Arc::new(StringArray::from(vec![Some("abc"), Some(""), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let fields = batch.schema().fields().clone();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
    let batch = batch.with_schema(Arc::clone(&schema)).unwrap();
    for codec in [None, Some(arrow_ipc::CompressionType::LZ4_FRAME)] {
        let stream = written(&schema, std::slice::from_ref(&batch), codec);
        for at in 0..stream.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = stream.to_vec();
                damaged[at] = value;
                if let Err(error) = Decoder::new().decode(&damaged.into()) {
                    assert!(
                        matches!(
                            error.kind(),
                            ErrorKind::Data | ErrorKind::Schema | ErrorKind::Unsupported
                        ),
                        "byte {at}: {error}"
                    );
                }
            }
        }
    }
}
