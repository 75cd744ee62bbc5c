//! What single values and whole batches look like on the wire.

use arrow_array::{Date32Array, Int32Array, ListArray, TimestampMicrosecondArray};
use arrow_schema::Schema;
use highwater_core::ErrorKind;

use super::*;

fn batch(array: impl Array + 'static) -> RecordBatch {
    let field = Field::new("c", array.data_type().clone(), true);
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(array)]).unwrap()
}

fn bytes(array: impl Array + 'static) -> Result<Vec<u8>> {
    let prepared = Prepared::new(&batch(array), None)?;
    let mut out = Vec::new();
    assert_eq!(prepared.encode(0, usize::MAX, &mut out)?, prepared.rows());
    Ok(out)
}

#[test]
fn integers_and_null() {
    let written = bytes(Int32Array::from(vec![Some(-2), None])).unwrap();
    assert_eq!(written, [0, 1, 0, 0, 0, 4, 255, 255, 255, 254, 0, 1, 255, 255, 255, 255]);
}

#[test]
fn the_columns_of_a_staging_table_follow() {
    let staged = Staged { first_ordinal: 7, operation: "d" };
    let prepared = Prepared::new(&batch(Int32Array::from(vec![1])), Some(staged)).unwrap();
    let mut out = Vec::new();
    prepared.encode(0, usize::MAX, &mut out).unwrap();
    assert_eq!(out[..2], [0, 3]);
    assert_eq!(out[10..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, b'd']);
}

#[test]
fn encoding_stops_when_the_buffer_is_full_and_goes_on() {
    let prepared = Prepared::new(&batch(Int32Array::from_iter_values(0..100)), None).unwrap();
    let mut out = Vec::new();
    let next = prepared.encode(0, 25, &mut out).unwrap();
    assert_eq!((next, out.len()), (3, 30));
    out.clear();
    assert_eq!(prepared.encode(next, usize::MAX, &mut out).unwrap(), 100);
    assert_eq!(out.len(), 970);
}

#[test]
fn days_and_instants_count_from_2000_and_infinity_stays() {
    let days = bytes(Date32Array::from(vec![EPOCH_DAYS, i32::MAX])).unwrap();
    assert_eq!(days[6..10], [0; 4]);
    assert_eq!(days[16..20], i32::MAX.to_be_bytes());
    let micros = vec![EPOCH_MICROS + 1, i64::MIN];
    let instants = bytes(TimestampMicrosecondArray::from(micros)).unwrap();
    assert_eq!(instants[6..14], 1_i64.to_be_bytes());
    assert_eq!(instants[20..28], i64::MIN.to_be_bytes());
    let beyond = bytes(TimestampMicrosecondArray::from(vec![i64::MIN + 1])).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Data);
}

#[test]
fn a_nul_in_a_text_is_refused_by_name_of_its_column() {
    let error = bytes(StringArray::from(vec!["a\0b"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("column"), Some("c"));
    assert!(!error.full_message().contains('\0'));
}

#[test]
fn arrays_have_their_header() {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
        Some(vec![Some(5), None]),
        Some(vec![]),
    ]);
    let written = bytes(lists).unwrap();
    let first: Vec<u8> =
        [1_i32, 1, 23, 2, 1, 4, 5, -1].iter().flat_map(|i| i.to_be_bytes()).collect();
    assert_eq!(written[2..6], 32_i32.to_be_bytes());
    assert_eq!(written[6..38], first);
    let empty: Vec<u8> = [12_i32, 0, 0, 23].iter().flat_map(|i| i.to_be_bytes()).collect();
    assert_eq!(written[40..], empty);
}

#[test]
fn texts_of_every_length_are_written_as_they_are() {
    let long = "größer, ".repeat(10);
    let texts: Vec<&str> = (0..=long.len()).filter_map(|end| long.get(..end)).collect();
    // The last ones end with the buffer, so a block of 16 would reach beyond it.
    let array = StringArray::from_iter_values(texts.iter().chain(&texts[..20]));
    for part in [array.clone(), array.slice(5, 12), array.slice(array.len() - 1, 1)] {
        let expected: Vec<u8> = part
            .iter()
            .flatten()
            .flat_map(|text| {
                let length = (text.len() as i32).to_be_bytes();
                [&[0, 1], &length[..], text.as_bytes()].concat()
            })
            .collect();
        assert_eq!(bytes(part).unwrap(), expected);
    }
}

#[test]
fn a_nul_counts_only_where_it_is_written() {
    let texts = StringArray::from(vec!["a\0", "b", "c\0", "d"]);
    assert_eq!(bytes(texts.slice(1, 1)).unwrap(), [0, 1, 0, 0, 0, 1, b'b']);
    let (offsets, values, _) = texts.into_parts();
    let nulls = NullBuffer::from(vec![false, true, false, true]);
    let texts = StringArray::new(offsets, values, Some(nulls));
    let written = bytes(texts).unwrap();
    let field = |text: u8| [0, 1, 0, 0, 0, 1, text];
    let null = [0, 1, 255, 255, 255, 255];
    assert_eq!(written, [&null[..], &field(b'b'), &null, &field(b'd')].concat());
}
