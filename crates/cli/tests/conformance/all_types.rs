//! A table with every type that a destination has to take, with values and NULLs, and lists of
//! each.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, IntervalDayTime, IntervalMonthDayNano};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array,
    DurationMicrosecondArray, DurationMillisecondArray, DurationNanosecondArray,
    DurationSecondArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, IntervalDayTimeArray, IntervalMonthDayNanoArray,
    IntervalYearMonthArray, LargeBinaryArray, LargeStringArray, ListArray, MapArray, RecordBatch,
    StringArray, StructArray, Time32MillisecondArray, Time32SecondArray, Time64MicrosecondArray,
    Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use super::ipc::{self, WireTable, extension, field, id, uuid};
use super::plugin::Plugin;

/// Rows of a sample: two with values and one without.
const ROWS: usize = 3;

fn plain(name: &str, values: impl Array + 'static) -> (Field, ArrayRef) {
    (field(name, values.data_type().clone()), Arc::new(values))
}

/// JSON as PostgreSQL writes it, so that it can be compared byte for byte.
const JSON: [Option<&[u8]>; ROWS] =
    [Some(br#"{"a": 1, "b": [true, null]}"#), Some(br#""text""#), None];

fn numbers() -> Vec<(Field, ArrayRef)> {
    let decimals = Decimal128Array::from(vec![Some(12_345_678_901_234), Some(-1), None]);
    let decimals = decimals.with_precision_and_scale(19, 10).unwrap();
    vec![
        plain("int8", Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None])),
        plain("int16", Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
        plain("int32", Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
        plain("int64", Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
        plain("uint8", UInt8Array::from(vec![Some(0), Some(u8::MAX), None])),
        plain("uint16", UInt16Array::from(vec![Some(0), Some(u16::MAX), None])),
        plain("uint32", UInt32Array::from(vec![Some(0), Some(u32::MAX), None])),
        plain("uint64", UInt64Array::from(vec![Some(0), Some(u64::MAX), None])),
        plain("float32", Float32Array::from(vec![Some(1.5), Some(-0.1), None])),
        plain("float64", Float64Array::from(vec![Some(1.0e300), Some(-0.1), None])),
        plain("bool", BooleanArray::from(vec![Some(true), Some(false), None])),
        plain("decimal", decimals),
    ]
}

fn texts_and_bytes() -> Vec<(Field, ArrayRef)> {
    let bytes: Vec<Option<&[u8]>> = vec![Some(b"\x00\xff\x7f"), Some(b""), None];
    let words = vec![Some("ä \"quoted\" \n text"), Some(""), None];
    let uuids = [Some([7_u8; 16]), Some([0xff; 16]), None];
    let uuids =
        FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids.into_iter(), 16).unwrap();
    let inet: Vec<Option<&[u8]>> = vec![Some(b"10.1.2.0/24"), Some(b"2001:db8::1/128"), None];
    let mac: Vec<Option<&[u8]>> = vec![Some(&[0xaa, 0xbb, 0xcc, 0, 1, 2]), Some(&[0; 6]), None];
    vec![
        plain("binary", BinaryArray::from(bytes.clone())),
        plain("large_binary", LargeBinaryArray::from(bytes)),
        plain("utf8", StringArray::from(words.clone())),
        plain("large_utf8", LargeStringArray::from(words)),
        (uuid("uuid"), Arc::new(uuids)),
        (extension("json", "json", DataType::Binary), Arc::new(BinaryArray::from(JSON.to_vec()))),
        (extension("inet", "inet", DataType::Binary), Arc::new(BinaryArray::from(inet))),
        (extension("mac", "mac", DataType::Binary), Arc::new(BinaryArray::from(mac))),
    ]
}

/// 2023-11-14T22:13:20Z and a moment before 1970.
const SECONDS: [Option<i64>; ROWS] = [Some(1_700_000_000), Some(-1), None];

fn scaled(by: i64, plus: i64) -> Vec<Option<i64>> {
    SECONDS.iter().map(|seconds| seconds.map(|seconds| seconds * by + plus)).collect()
}

fn times() -> Vec<(Field, ArrayRef)> {
    let day = 86_400_000;
    vec![
        plain("date32", Date32Array::from(vec![Some(19_675), Some(-1), None])),
        plain("date64", Date64Array::from(vec![Some(19_675 * day), Some(-day), None])),
        plain("time32_s", Time32SecondArray::from(vec![Some(0), Some(86_399), None])),
        plain("time32_ms", Time32MillisecondArray::from(vec![Some(1), Some(86_399_999), None])),
        plain("time64_us", Time64MicrosecondArray::from(vec![Some(1), Some(86_399_999_999), None])),
        plain(
            "time64_ns",
            Time64NanosecondArray::from(vec![Some(1_000), Some(86_399_999_999_000), None]),
        ),
        plain("timestamp_s", TimestampSecondArray::from(scaled(1, 0)).with_timezone("UTC")),
        plain(
            "timestamp_ms",
            TimestampMillisecondArray::from(scaled(1_000, 1)).with_timezone("UTC"),
        ),
        plain(
            "timestamp_us",
            TimestampMicrosecondArray::from(scaled(1_000_000, 1)).with_timezone("UTC"),
        ),
        plain(
            "timestamp_ns",
            TimestampNanosecondArray::from(scaled(1_000_000_000, 1)).with_timezone("UTC"),
        ),
        plain("duration_s", DurationSecondArray::from(vec![Some(1), Some(100_000), None])),
        plain("duration_ms", DurationMillisecondArray::from(vec![Some(1), Some(100_000), None])),
        plain("duration_us", DurationMicrosecondArray::from(vec![Some(1), Some(100_000), None])),
        plain("duration_ns", DurationNanosecondArray::from(vec![Some(1_000), Some(5_000), None])),
        plain("interval_months", IntervalYearMonthArray::from(vec![Some(14), Some(0), None])),
        plain(
            "interval_day_time",
            IntervalDayTimeArray::from(vec![
                Some(IntervalDayTime::new(3, 4_005)),
                Some(IntervalDayTime::new(0, 0)),
                None,
            ]),
        ),
        plain(
            "interval_month_day_nano",
            IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(1, 2, 3_000)),
                Some(IntervalMonthDayNano::new(0, 0, 0)),
                None,
            ]),
        ),
    ]
}

/// A record, a map, and lists of every flat type: one of all three values, an empty one, none.
fn nested(flat: &[(Field, ArrayRef)]) -> Vec<(Field, ArrayRef)> {
    let valid = NullBuffer::from(vec![true, true, false]);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, None]));
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
    let fields = vec![field("number", DataType::Int64), field("word", DataType::Utf8)];
    let columns = vec![Arc::clone(&numbers), Arc::clone(&words)];
    let records = StructArray::try_new(fields.into(), columns, Some(valid.clone())).unwrap();
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let entries =
        vec![field("keys", DataType::Utf8).with_nullable(false), field("values", DataType::Int64)];
    let entries = StructArray::try_new(entries.into(), vec![keys, numbers.slice(0, 2)], None);
    let entries = entries.unwrap();
    let entry = Field::new("entries", entries.data_type().clone(), false);
    let offsets = OffsetBuffer::new(vec![0, 2, 2, 2].into());
    let maps =
        MapArray::try_new(Arc::new(entry), offsets, entries, Some(valid.clone()), false).unwrap();
    let mut nested = vec![plain("struct", records), plain("map", maps)];
    for (of, values) in flat {
        let item = Arc::new(of.clone().with_name("item"));
        let offsets = OffsetBuffer::new(vec![0, 3, 3, 3].into());
        let lists =
            ListArray::try_new(item, offsets, Arc::clone(values), Some(valid.clone())).unwrap();
        nested.push(plain(&format!("list_{}", of.name()), lists));
    }
    nested
}

fn columns() -> Vec<(Field, ArrayRef)> {
    let mut columns = numbers();
    columns.extend(texts_and_bytes());
    columns.extend(times());
    let nested = nested(&columns);
    columns.extend(nested);
    columns
}

pub fn table(name: &str, keyed: bool) -> WireTable {
    let key = if keyed { id() } else { field("id", DataType::Int64) };
    let fields = std::iter::once(key).chain(columns().into_iter().map(|(field, _)| field));
    WireTable::new(name, fields.collect())
}

/// Rows with values, and one with none but its id. Ids begin with `first`.
pub fn rows(table: &WireTable, first: i64) -> RecordBatch {
    let values = columns().into_iter().map(|(_, values)| values);
    of(table, first, values.collect())
}

/// Rows without values.
pub fn nulls(table: &WireTable, first: i64) -> RecordBatch {
    let fields = table.schema.fields().iter().skip(1);
    of(table, first, fields.map(|f| new_null_array(f.data_type(), ROWS)).collect())
}

fn of(table: &WireTable, first: i64, values: Vec<ArrayRef>) -> RecordBatch {
    let ids = ipc::ints(first..first + i64::try_from(ROWS).unwrap());
    let columns = std::iter::once(ids).chain(values).collect();
    RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap()
}

pub fn bytes(rows: &RecordBatch) -> Bytes {
    ipc::encode(&rows.schema(), std::slice::from_ref(rows))
}

/// The rows there are these, value for value, in the types that were written.
pub async fn same(plugin: &Plugin, table: &WireTable, expected: &[RecordBatch]) {
    let found = by_id(&plugin.read(table).await);
    let expected = by_id(expected);
    let ids = |rows: &[(i64, RecordBatch)]| rows.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!(ids(&found), ids(&expected));
    let mut different = Vec::new();
    for ((id, found), (_, expected)) in found.iter().zip(&expected) {
        for (at, field) in table.schema.fields().iter().enumerate() {
            let (found, expected) = (found.column(at), expected.column(at));
            if found.to_data() != expected.to_data() {
                different.push(format!("{} of {id}: {found:?}, not {expected:?}", field.name()));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn by_id(batches: &[RecordBatch]) -> Vec<(i64, RecordBatch)> {
    let mut rows = Vec::new();
    for batch in batches {
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
        rows.extend((0..batch.num_rows()).map(|row| (ids.value(row), batch.slice(row, 1))));
    }
    rows.sort_by_key(|(id, _)| *id);
    rows
}
