//! Every type that CloudQuery asks a destination to accept, with values and NULLs.

use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

pub const EXTENSION: &str = "ARROW:extension:name";

/// A column of one of CloudQuery's own types.
pub fn theirs(name: &str, data_type: DataType, extension: &str) -> Field {
    Field::new(name, data_type, true).with_metadata(
        [
            (EXTENSION.to_owned(), extension.to_owned()),
            ("ARROW:extension:metadata".to_owned(), format!("{extension}-serialized")),
        ]
        .into(),
    )
}

pub fn uuids() -> ArrayRef {
    let values = [Some([7_u8; 16]), None, Some(*b"0123456789abcdef")];
    Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 16).unwrap())
}

fn bytes(values: [Option<&[u8]>; 3]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter(values))
}

pub fn jsons() -> ArrayRef {
    bytes([Some(b"{ \"a\": \"\xc3\xa4\" }"), None, Some(b"[1, 2.50,3]")])
}

pub fn inets() -> ArrayRef {
    bytes([Some(b"10.0.0.1/32"), None, Some(b"2001:db8::/32")])
}

pub fn macs() -> ArrayRef {
    bytes([Some(&[0, 1, 2, 0xaa, 0xbb, 0xff]), None, Some(&[0; 6])])
}

/// One list of two, NULL, an empty one; the items are the first two of `items`.
pub fn list_of(item: Field, items: &ArrayRef) -> ArrayRef {
    let offsets = OffsetBuffer::new(vec![0, 2, 2, 2].into());
    let nulls = NullBuffer::from(vec![true, false, true]);
    Arc::new(ListArray::new(Arc::new(item), offsets, items.slice(0, 2), Some(nulls)))
}

pub fn large_list_of(item: Field, items: &ArrayRef) -> ArrayRef {
    let offsets = OffsetBuffer::new(vec![0_i64, 2, 2, 2].into());
    let nulls = NullBuffer::from(vec![true, false, true]);
    Arc::new(LargeListArray::new(Arc::new(item), offsets, items.slice(0, 2), Some(nulls)))
}

pub fn fixed_list_of(item: Field, items: &ArrayRef) -> ArrayRef {
    let nulls = NullBuffer::from(vec![true, false, true]);
    Arc::new(FixedSizeListArray::new(Arc::new(item), 1, Arc::clone(items), Some(nulls)))
}

/// Two records and a NULL between them.
pub fn struct_of(columns: Vec<(Field, ArrayRef)>) -> ArrayRef {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let nulls = NullBuffer::from(vec![true, false, true]);
    Arc::new(StructArray::new(fields.into(), arrays, Some(nulls)))
}

/// One map of two entries, NULL, an empty one.
pub fn map_of(value: Field, values: &ArrayRef) -> ArrayRef {
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let fields = vec![Field::new("key", DataType::Utf8, false), value];
    let entries = StructArray::new(fields.into(), vec![keys, values.slice(0, 2)], None);
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    let offsets = OffsetBuffer::new(vec![0, 2, 2, 2].into());
    let nulls = NullBuffer::from(vec![true, false, true]);
    Arc::new(MapArray::new(field, offsets, entries, Some(nulls), false))
}

fn flat() -> Vec<(&'static str, ArrayRef)> {
    let utc = |array: ArrayRef, unit| {
        arrow_cast::cast(&array, &DataType::Timestamp(unit, Some("UTC".into()))).unwrap()
    };
    let longs: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(1)]));
    let as_longs = |data_type| arrow_cast::cast(&longs, &data_type).unwrap();
    // pyarrow takes no time that is outside of a day.
    let times: ArrayRef = Arc::new(Int64Array::from(vec![Some(86_399_999_999), None, Some(0)]));
    let as_times = |unit| arrow_cast::cast(&times, &DataType::Time64(unit)).unwrap();
    let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(86_399), None, Some(0)]));
    let as_ints = |data_type| arrow_cast::cast(&ints, &data_type).unwrap();
    vec![
        ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(1)]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(1)]))),
        ("int32", Arc::clone(&ints)),
        ("int64", Arc::clone(&longs)),
        ("uint8", Arc::new(UInt8Array::from(vec![Some(u8::MAX), None, Some(1)]))),
        ("uint16", Arc::new(UInt16Array::from(vec![Some(u16::MAX), None, Some(1)]))),
        ("uint32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None, Some(1)]))),
        ("uint64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(1)]))),
        ("float16", arrow_cast::cast(&ints, &DataType::Float16).unwrap()),
        ("float32", Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::NAN)]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(f64::NAN)]))),
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("utf8", Arc::new(StringArray::from(vec![Some("ä\0"), None, Some("")]))),
        ("large_utf8", Arc::new(LargeStringArray::from(vec![Some("ä"), None, Some("")]))),
        ("binary", bytes([Some(b"\xff\0"), None, Some(b"")])),
        ("large_binary", Arc::new(LargeBinaryArray::from_iter([Some(b"\xff"), None, Some(b"x")]))),
        ("fixed", arrow_cast::cast(&uuids(), &DataType::FixedSizeBinary(16)).unwrap()),
        ("date32", as_ints(DataType::Date32)),
        ("date64", Arc::new(Date64Array::from(vec![Some(86_400_000), None, Some(0)]))),
        ("time32_s", as_ints(DataType::Time32(TimeUnit::Second))),
        ("time32_ms", as_ints(DataType::Time32(TimeUnit::Millisecond))),
        ("time64_us", as_times(TimeUnit::Microsecond)),
        ("time64_ns", as_times(TimeUnit::Nanosecond)),
        ("ts_s", utc(Arc::clone(&longs), TimeUnit::Second)),
        ("ts_ms", utc(Arc::clone(&longs), TimeUnit::Millisecond)),
        ("ts_us", utc(Arc::clone(&longs), TimeUnit::Microsecond)),
        ("ts_ns", utc(Arc::clone(&longs), TimeUnit::Nanosecond)),
        ("ts_local", as_longs(DataType::Timestamp(TimeUnit::Microsecond, None))),
        ("duration_s", as_longs(DataType::Duration(TimeUnit::Second))),
        ("duration_ms", as_longs(DataType::Duration(TimeUnit::Millisecond))),
        ("duration_us", as_longs(DataType::Duration(TimeUnit::Microsecond))),
        ("duration_ns", as_longs(DataType::Duration(TimeUnit::Nanosecond))),
        (
            "interval_month",
            Arc::new(IntervalYearMonthArray::from(vec![Some(i32::MIN), None, Some(1)])),
        ),
        (
            "interval_day",
            Arc::new(IntervalDayTimeArray::from(vec![
                Some(IntervalDayTime::new(-1, i32::MAX)),
                None,
                Some(IntervalDayTime::ZERO),
            ])),
        ),
        (
            "interval_nano",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(-1, 2, i64::MIN)),
                None,
                Some(IntervalMonthDayNano::ZERO),
            ])),
        ),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from(vec![Some(-1_234_567_890), None, Some(1)])
                    .with_precision_and_scale(19, 10)
                    .unwrap(),
            ),
        ),
    ]
}

/// Every type of the wire: the flat ones, CloudQuery's four, each in a list, and nested ones.
pub fn every_wire_type() -> Vec<(Field, ArrayRef)> {
    let mut columns: Vec<(Field, ArrayRef)> = flat()
        .into_iter()
        .map(|(name, array)| (Field::new(name, array.data_type().clone(), true), array))
        .collect();
    columns.push((theirs("uuid", DataType::FixedSizeBinary(16), "uuid"), uuids()));
    columns.push((theirs("json", DataType::Binary, "json"), jsons()));
    columns.push((theirs("inet", DataType::Binary, "inet"), inets()));
    columns.push((theirs("mac", DataType::Binary, "mac"), macs()));
    let with =
        |name: &str, array: ArrayRef| (Field::new(name, array.data_type().clone(), true), array);
    let mut nested = Vec::new();
    for (field, array) in &columns {
        let item = field.clone().with_name("item");
        nested.push(with(&format!("list_{}", field.name()), list_of(item.clone(), array)));
        nested.push(with(
            &format!("large_list_{}", field.name()),
            large_list_of(item.clone(), array),
        ));
        nested.push(with(&format!("fixed_list_{}", field.name()), fixed_list_of(item, array)));
    }
    nested.push(with("record", struct_of(columns.clone())));
    for (field, array) in &columns {
        let value = field.clone().with_name("value");
        nested.push(with(&format!("map_{}", field.name()), map_of(value, array)));
    }
    let record = struct_of(vec![columns.last().unwrap().clone()]);
    let inner = Field::new("item", record.data_type().clone(), true);
    nested.push(with("records", list_of(inner, &record)));
    columns.extend(nested);
    columns
}

/// The columns as a stream of a table, by Arrow's own writer.
pub fn stream_of(name: &str, columns: &[(Field, ArrayRef)], batches: usize) -> bytes::Bytes {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.iter().cloned().unzip();
    let metadata = [("cq:table_name".to_owned(), name.to_owned())];
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    written(&schema, &vec![batch; batches], None)
}

pub fn written(
    schema: &Schema,
    batches: &[RecordBatch],
    compression: Option<arrow_ipc::CompressionType>,
) -> bytes::Bytes {
    use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), schema, options).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap().into()
}

/// Reads with Arrow's own reader.
pub fn read(stream: &[u8]) -> Vec<RecordBatch> {
    let reader = arrow_ipc::reader::StreamReader::try_new(stream, None).unwrap();
    reader.map(|batch| batch.unwrap()).collect()
}

/// Layouts of ours that are written in their plain form, with what they become.
pub fn layouts() -> Vec<(Field, ArrayRef, ArrayRef)> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]));
    let field = |array: &ArrayRef| Field::new("c", array.data_type().clone(), true);
    let mut dictionary = StringDictionaryBuilder::<Int32Type>::new();
    dictionary.extend(vec![Some("a"), None, Some("a")]);
    let dictionary: ArrayRef = Arc::new(dictionary.finish());
    let view: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None, Some("a")]));
    let bytes_view = arrow_cast::cast(&text, &DataType::BinaryView).unwrap();
    let bytes = arrow_cast::cast(&text, &DataType::Binary).unwrap();
    let null: ArrayRef = Arc::new(NullArray::new(3));
    let decimals: ArrayRef = Arc::new(Decimal128Array::from(vec![Some(123), None, Some(-5)]));
    let decimals = arrow_cast::cast(&decimals, &DataType::Decimal128(9, 2)).unwrap();
    let small = arrow_cast::cast(&decimals, &DataType::Decimal32(9, 2)).unwrap();
    let middle = arrow_cast::cast(&decimals, &DataType::Decimal64(9, 2)).unwrap();
    let item = Field::new("item", DataType::Utf8View, true);
    let lists = list_of(item, &view);
    let plain_lists = list_of(Field::new("item", DataType::Utf8, true), &text);
    vec![
        (field(&dictionary), dictionary, Arc::clone(&text)),
        (field(&view), view, text),
        (field(&bytes_view), bytes_view, bytes),
        (field(&null), null, new_null_array(&DataType::Utf8, 3)),
        (field(&small), small, Arc::clone(&decimals)),
        (field(&middle), middle, decimals),
        (field(&lists), lists, plain_lists),
    ]
}
