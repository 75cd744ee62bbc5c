//! Every type there and back, with NULLs and extremes, as text and as JSON.

use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, OffsetBuffer, i256};
use arrow_schema::{DataType, Field, Fields, TimeUnit};

use super::{TextBuilder, TextColumn, json_object};
use crate::types::{JSON, NUMERIC, UUID, extension_field};

fn texts(field: &Field, array: &dyn Array) -> Vec<Option<String>> {
    let column = TextColumn::new(field, array).unwrap();
    (0..array.len())
        .map(|row| {
            let mut text = String::new();
            column.write(row, &mut text);
            (!column.is_null(row)).then_some(text)
        })
        .collect()
}

/// Writes, reads and compares, as text and as JSON; returns the texts.
fn round_trip(field: &Field, array: ArrayRef) -> Vec<String> {
    let column = TextColumn::new(field, &array).unwrap();
    let mut builder = TextBuilder::new(field).unwrap();
    let mut from_json = TextBuilder::new(field).unwrap();
    for (row, text) in texts(field, &array).into_iter().enumerate() {
        match text {
            Some(text) => builder.append(&text).unwrap_or_else(|e| panic!("{e}: {text}")),
            None => builder.append_null(),
        }
        let mut json = String::new();
        column.write_json(row, &mut json);
        // It has to be JSON by any reader's judgement.
        let _: serde_json::Value = serde_json::from_str(&json).unwrap();
        from_json.append_json(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
    }
    for read in [builder.finish(), from_json.finish()] {
        assert_eq!(read.data_type(), field.data_type());
        assert_eq!(&read, &array, "{field}");
    }
    texts(field, &array).into_iter().flatten().collect()
}

fn plain(array: impl Array + 'static) -> Vec<String> {
    let field = Field::new("c", array.data_type().clone(), true);
    round_trip(&field, Arc::new(array))
}

fn primitive<T: ArrowPrimitiveType>(values: &[T::Native]) -> Vec<String> {
    let values = values.iter().copied().map(Some).chain([None]);
    plain(values.collect::<PrimitiveArray<T>>())
}

#[test]
fn integers_keep_their_extremes() {
    primitive::<Int8Type>(&[i8::MIN, -1, 0, i8::MAX]);
    primitive::<Int16Type>(&[i16::MIN, i16::MAX]);
    primitive::<Int32Type>(&[i32::MIN, i32::MAX]);
    let texts = primitive::<Int64Type>(&[i64::MIN, i64::MAX]);
    assert_eq!(texts, ["-9223372036854775808", "9223372036854775807"]);
    primitive::<UInt8Type>(&[0, u8::MAX]);
    primitive::<UInt16Type>(&[u16::MAX]);
    primitive::<UInt32Type>(&[u32::MAX]);
    assert_eq!(primitive::<UInt64Type>(&[u64::MAX]), ["18446744073709551615"]);
    plain(BooleanArray::from(vec![Some(true), None, Some(false)]));
}

#[test]
fn floats_keep_every_bit() {
    let texts = primitive::<Float64Type>(&[
        0.1,
        -0.0,
        1.0,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e21,
        123_456_789.125,
    ]);
    assert_eq!(&texts[..3], ["0.1", "-0.0", "1.0"]);
    assert_eq!(&texts[6..9], ["NaN", "Infinity", "-Infinity"]);
    primitive::<Float32Type>(&[0.1, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::NAN, -0.0]);
    let half = |v: f32| <Float16Type as ArrowPrimitiveType>::Native::from_f32(v);
    primitive::<Float16Type>(&[half(0.1), half(65504.0), half(6e-8), half(f32::NAN), half(-0.0)]);
}

#[test]
fn decimals_keep_every_digit() {
    let i = |text: &str| i256::from_string(text).unwrap();
    let most = "9".repeat(76);
    let array = Decimal256Array::from(vec![Some(i(&most)), Some(i(&format!("-{most}"))), None])
        .with_precision_and_scale(76, 38)
        .unwrap();
    assert_eq!(plain(array)[0], format!("{}.{}", "9".repeat(38), "9".repeat(38)));
    let array = Decimal128Array::from(vec![Some(-5), Some(0), None, Some(10_i128.pow(38) - 1)])
        .with_precision_and_scale(38, 10)
        .unwrap();
    assert_eq!(plain(array)[0], "-0.0000000005");
    let array = Decimal64Array::from(vec![12, -999]).with_precision_and_scale(18, -3).unwrap();
    assert_eq!(plain(array), ["12000", "-999000"]);
    plain(Decimal32Array::from(vec![999_999_999]).with_precision_and_scale(9, 0).unwrap());
    let numeric = extension_field("n", DataType::Utf8, NUMERIC);
    let digits = format!("-{}.{}", "1234567890".repeat(30), "0".repeat(20));
    let values = ["NaN", "Infinity", "1.50", &digits, "-0"];
    round_trip(&numeric, Arc::new(StringArray::from(values.to_vec())));
}

#[test]
fn texts_and_bytes_come_back() {
    let values = vec![Some(""), None, Some("é\"\\\n\u{1}\u{7f}😀,"), Some("null"), Some("  ")];
    plain(StringArray::from(values.clone()));
    plain(LargeStringArray::from(values.clone()));
    plain(StringViewArray::from(values));
    let bytes: Vec<Option<&[u8]>> = vec![Some(b""), None, Some(&[0, 255, 10]), Some(b"abc")];
    assert_eq!(plain(BinaryArray::from(bytes.clone())), ["", "AP8K", "YWJj"]);
    plain(LargeBinaryArray::from(bytes.clone()));
    plain(BinaryViewArray::from(bytes));
    let fixed = FixedSizeBinaryArray::try_from_iter([[1u8, 2, 3], [0, 0, 255]].iter()).unwrap();
    plain(fixed);
    let uuid = extension_field("u", DataType::FixedSizeBinary(16), UUID);
    let bytes = FixedSizeBinaryArray::try_from_iter([[0u8; 16], [0xab; 16]].iter()).unwrap();
    let texts = round_trip(&uuid, Arc::new(bytes));
    assert_eq!(texts[1], "abababab-abab-abab-abab-abababababab");
    let json = extension_field("j", DataType::Utf8, JSON);
    let values =
        vec![Some("{\"a\": 1.0, \"a\":2}"), None, Some("null"), Some("\"x\""), Some("1e999")];
    round_trip(&json, Arc::new(StringArray::from(values)));
    plain(NullArray::new(3));
}

#[test]
fn dates_and_times_keep_their_extremes() {
    let texts = primitive::<Date32Type>(&[
        i32::MIN,
        i32::MIN + 1,
        -719_162,
        -719_893,
        0,
        2_932_896,
        i32::MAX - 1,
        i32::MAX,
    ]);
    assert_eq!(texts[0], "-infinity");
    assert_eq!(&texts[2..6], ["0001-01-01", "-0001-01-01", "1970-01-01", "9999-12-31"]);
    assert_eq!(texts[7], "infinity");
    primitive::<Date64Type>(&[i64::MIN, 86_400_000, 1, -1, i64::MAX - 1, i64::MAX]);
    assert_eq!(primitive::<Time32SecondType>(&[0, 86_400]), ["00:00:00", "24:00:00"]);
    primitive::<Time32MillisecondType>(&[1, 86_399_999]);
    let texts = primitive::<Time64MicrosecondType>(&[11_045_000_006, 86_400_000_000]);
    assert_eq!(texts, ["03:04:05.000006", "24:00:00.000000"]);
    primitive::<Time64NanosecondType>(&[0, 86_399_999_999_999]);
}

#[test]
fn timestamps_of_every_unit_keep_their_extremes() {
    let values = [i64::MIN, i64::MIN + 1, -1, 0, 1, 1_795_230_245_000_006, i64::MAX - 1, i64::MAX];
    primitive::<TimestampSecondType>(&values);
    primitive::<TimestampMillisecondType>(&values);
    primitive::<TimestampNanosecondType>(&values);
    let texts = primitive::<TimestampMicrosecondType>(&values);
    assert_eq!(texts[0], "-infinity");
    assert_eq!(texts[2], "1969-12-31 23:59:59.999999");
    assert_eq!(texts[5], "2026-11-21 03:04:05.000006");
    let micros = |v: Vec<i64>| TimestampMicrosecondArray::from(v);
    let texts = plain(micros(values.to_vec()).with_timezone("Europe/Paris"));
    assert_eq!(texts[5], "2026-11-21 03:04:05.000006Z");
    // PostgreSQL's ends: 4713 BC and 294276.
    plain(micros(vec![-210_866_803_200_000_000, 9_223_371_331_200_000_000]));
}

#[test]
fn durations_and_intervals_keep_their_parts() {
    let values = [i64::MIN, -1, 0, 1, 3_600, i64::MAX];
    primitive::<DurationSecondType>(&values);
    primitive::<DurationMillisecondType>(&values);
    primitive::<DurationMicrosecondType>(&values);
    assert_eq!(primitive::<DurationNanosecondType>(&values)[1], "PT-0.000000001S");
    primitive::<IntervalYearMonthType>(&[i32::MIN, 14, 0, i32::MAX]);
    primitive::<IntervalDayTimeType>(&[
        IntervalDayTime::new(i32::MIN, i32::MAX),
        IntervalDayTime::new(1, -1),
    ]);
    let texts = primitive::<IntervalMonthDayNanoType>(&[
        IntervalMonthDayNano::new(14, -3, 14_405_000_006_000),
        IntervalMonthDayNano::new(i32::MIN, i32::MAX, i64::MIN),
        IntervalMonthDayNano::new(0, 0, 0),
    ]);
    assert_eq!(texts[0], "P1Y2M-3DT4H5.000006S");
}

fn int_lists() -> Vec<Option<Vec<Option<i64>>>> {
    vec![Some(vec![Some(i64::MAX), None]), None, Some(vec![]), Some(vec![Some(-1)])]
}

#[test]
fn lists_nest() {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(int_lists());
    let texts = plain(list.clone());
    assert_eq!(texts, ["[9223372036854775807,null]", "[]", "[-1]"]);
    plain(list.slice(1, 2));
    plain(LargeListArray::from_iter_primitive::<Int64Type, _, _>(int_lists()));
    let fixed = vec![Some(vec![Some(1), None]), None];
    plain(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(fixed, 2));
    let outer = Field::new("item", list.data_type().clone(), true);
    let nested = ListArray::new(
        Arc::new(outer),
        OffsetBuffer::from_lengths([3, 0, 1]),
        Arc::new(list),
        None,
    );
    assert_eq!(plain(nested)[0], "[[9223372036854775807,null],null,[]]");
}

#[test]
fn structs_and_maps_nest() {
    let fields = Fields::from(vec![
        Field::new("a \"b\"", DataType::Decimal128(10, 2), true),
        Field::new("t", DataType::Timestamp(TimeUnit::Second, Some("UTC".into())), true),
        extension_field("j", DataType::Utf8, JSON),
    ]);
    let a = Decimal128Array::from(vec![Some(150), None]).with_precision_and_scale(10, 2).unwrap();
    let t = TimestampSecondArray::from(vec![Some(0), None]).with_timezone("UTC");
    let j = StringArray::from(vec![Some("{\"x\":1}"), None]);
    let columns: Vec<ArrayRef> = vec![Arc::new(a), Arc::new(t), Arc::new(j)];
    let array = StructArray::new(fields, columns, None);
    let texts = plain(array.clone());
    let expected = r#"{"a \"b\"":1.50,"t":"1970-01-01 00:00:00Z","j":"{\"x\":1}"}"#;
    assert_eq!(texts[0], expected);
    plain(array.slice(1, 1));

    let mut builder = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    builder.keys().append_value(-1);
    builder.values().append_value("x");
    builder.keys().append_value(-1);
    builder.values().append_null();
    builder.append(true).unwrap();
    builder.append(false).unwrap();
    builder.append(true).unwrap();
    assert_eq!(plain(builder.finish()), [r#"{"-1":"x","-1":null}"#, "{}"]);
}

#[test]
fn a_text_is_read_exactly_or_refused() {
    let timestamp =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Second, zone.map(Into::into));
    let list = DataType::new_list(DataType::Int64, false);
    let record = DataType::Struct(vec![Field::new("a", DataType::Int64, false)].into());
    let refused = [
        (DataType::Int8, vec!["128", "1.0", "", " 1", "1e1", "0x1"]),
        (DataType::UInt64, vec!["-1", "18446744073709551616"]),
        (DataType::Float32, vec!["1e39", "1e-60", "", "1,5"]),
        (DataType::Float64, vec!["1e400", "-1e400", "1e-400"]),
        (DataType::Decimal128(5, 2), vec!["1.234", "1234.5", "NaN"]),
        (DataType::Boolean, vec!["yes", "", "2"]),
        (DataType::Date32, vec!["2026-11-21 00:00:00", "21.11.2026"]),
        (DataType::Time64(TimeUnit::Microsecond), vec!["24:00:00.000001", "25:00:00", "1:00:00"]),
        (timestamp(None), vec!["2026-11-21 03:04:05Z", "2026-11-21 03:04:05.5", "2026-11-21"]),
        (timestamp(Some("UTC")), vec!["2026-11-21 03:04:05"]),
        (DataType::Duration(TimeUnit::Second), vec!["PT0.5S", "P1D", "P1M"]),
        (DataType::Binary, vec!["abc", "****"]),
        (DataType::FixedSizeBinary(3), vec!["YWI="]),
        (list, vec!["[null]", "[1.5]", "1", "[1", "[1] x"]),
        (record, vec!["{}", "{\"a\":1,\"b\":2}", "{\"a\":null}", "{\"a\":1,\"a\":1}"]),
        (DataType::Null, vec!["", "null"]),
    ];
    for (data_type, texts) in refused {
        for text in texts {
            let field = Field::new("c", data_type.clone(), true);
            let error = TextBuilder::new(&field).unwrap().append(text).unwrap_err();
            assert!(error.to_string().contains(&data_type.to_string()), "{data_type} {text}");
        }
    }
    let json = extension_field("j", DataType::Utf8, JSON);
    assert!(TextBuilder::new(&json).unwrap().append("{a}").is_err());
    let numeric = extension_field("n", DataType::Utf8, NUMERIC);
    assert_eq!(TextBuilder::new(&numeric).unwrap().append("x").unwrap_err().expected(), "numeric");
}

#[test]
fn json_of_others_is_read_where_it_is_unambiguous() {
    let read = |field: Field, raw: &str| {
        let mut builder = TextBuilder::new(&field).unwrap();
        builder.append_json(raw).unwrap();
        texts(&field, &builder.finish()).remove(0)
    };
    let numeric = extension_field("n", DataType::Utf8, NUMERIC);
    assert_eq!(read(numeric, "123456789012345678901234567890.10").unwrap().len(), 33);
    let json = extension_field("j", DataType::Utf8, JSON);
    assert_eq!(read(json.clone(), "{\"a\": [1]}").unwrap(), "{\"a\": [1]}");
    assert_eq!(read(json, "null"), None);
    assert_eq!(read(Field::new("c", DataType::Int64, true), "\"42\"").unwrap(), "42");
    let text = Field::new("c", DataType::Utf8, true);
    assert_eq!(read(text.clone(), "1.50").unwrap(), "1.50");
    assert_eq!(read(text, "\"\\u00e9\\n\"").unwrap(), "é\n");
    let mut names = Vec::new();
    json_object("{\"b\":1,\"a\":2}", |name, _| {
        names.push(name.into_owned());
        Some(())
    })
    .unwrap();
    assert_eq!(names, ["b", "a"]);
}
