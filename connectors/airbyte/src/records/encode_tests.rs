//! What becomes of each type, of text that needs escapes, and of the parts of a record.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int64Array, ListArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use highwater_core::types::{JSON, NUMERIC, RECORD, UUID, extension_field, with_metadata};
use serde_json::{Value, json};

use super::*;

fn batch(columns: Vec<(Field, ArrayRef)>) -> RecordBatch {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn encoded(rows: &RecordBatch) -> String {
    let mut out = String::new();
    let encoder = Encoder::new(None, "t", rows.schema_ref()).unwrap();
    encoder.encode(rows, 7, &mut out).unwrap();
    out
}

/// The values of one column.
fn values(field: Field, array: ArrayRef) -> Vec<Value> {
    let text = encoded(&batch(vec![(field.with_name("c"), array)]));
    text.lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["record"]["data"]["c"].take())
        .collect()
}

fn plain(data_type: DataType) -> Field {
    Field::new("c", data_type, true)
}

#[test]
fn a_line_is_what_the_protocol_says() {
    let rows = batch(vec![
        (plain(DataType::Int64).with_name("id"), Arc::new(Int64Array::from(vec![Some(1), None]))),
        (plain(DataType::Utf8).with_name("a \"b\""), Arc::new(StringArray::from(vec!["x", "y"]))),
    ]);
    assert_eq!(
        encoded(&rows),
        concat!(
            r#"{"type":"RECORD","record":{"stream":"t","data":{"id":1,"a \"b\"":"x"},"emitted_at":7}}"#,
            "\n",
            r#"{"type":"RECORD","record":{"stream":"t","data":{"id":null,"a \"b\"":"y"},"emitted_at":7}}"#,
            "\n"
        )
    );
    let encoder = Encoder::new(Some("n\n"), "t", rows.schema_ref()).unwrap();
    let mut out = String::new();
    encoder.encode(&rows.slice(0, 1), 7, &mut out).unwrap();
    let line: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(line["record"]["namespace"], "n\n");
    assert_eq!(out.lines().count(), 1);
}

#[test]
fn rows_without_columns_are_records_all_the_same() {
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(2));
    let rows =
        RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    let line = r#"{"type":"RECORD","record":{"stream":"t","data":{},"emitted_at":7}}"#;
    assert_eq!(encoded(&rows), format!("{line}\n{line}\n"));
}

#[test]
fn every_number_keeps_its_digits() {
    let decimals = Decimal128Array::from(vec![Some(1250), Some(-1), None]);
    let decimals = decimals.with_precision_and_scale(38, 3).unwrap();
    let numerics = ["123456789012345678901234567890.10", "-0.5", "NaN", "+7"];
    let rows = batch(vec![
        (plain(DataType::Decimal128(38, 3)).with_name("d"), Arc::new(decimals)),
        (plain(DataType::UInt64).with_name("u"), Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1]))),
        (
            extension_field("n", DataType::Utf8, NUMERIC),
            Arc::new(StringArray::from(numerics[..3].to_vec())),
        ),
        (
            plain(DataType::Float32).with_name("f"),
            Arc::new(Float32Array::from(vec![0.1, f32::INFINITY, 1e30])),
        ),
    ]);
    let text = encoded(&rows);
    let data: Vec<_> = text
        .lines()
        .map(|line| &line[line.find("{\"d\"").unwrap()..line.find(",\"emitted").unwrap()])
        .collect();
    assert_eq!(
        data,
        [
            r#"{"d":1.250,"u":18446744073709551615,"n":123456789012345678901234567890.10,"f":0.1}"#,
            r#"{"d":-0.001,"u":0,"n":-0.5,"f":"Infinity"}"#,
            r#"{"d":null,"u":1,"n":"NaN","f":1e+30}"#,
        ]
    );
    let odd = extension_field("c", DataType::Utf8, NUMERIC);
    assert_eq!(values(odd, Arc::new(StringArray::from(vec!["+7"]))), [json!("+7")]);
    let floats = vec![0.1, 1e300, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let floats = values(plain(DataType::Float64), Arc::new(Float64Array::from(floats)));
    let words = [json!("NaN"), json!("Infinity"), json!("-Infinity")];
    assert_eq!(floats[..3], [json!(0.1), json!(1e300), json!(-0.0)]);
    assert_eq!(floats[3..], words);
}

#[test]
fn days_and_times_are_as_the_protocol_has_them() {
    let days = Date32Array::from(vec![0, -719_528, -719_529, 2_932_897, i32::MAX]);
    assert_eq!(
        values(plain(DataType::Date32), Arc::new(days)),
        ["1970-01-01", "0001-01-01 BC", "0001-12-31 BC", "10000-01-01", "infinity"]
            .map(Value::from)
            .into_iter()
            .enumerate()
            .map(|(i, v)| if i == 2 { json!("0002-12-31 BC") } else { v })
            .collect::<Vec<_>>()
    );
    let micro = TimeUnit::Microsecond;
    let instants = vec![Some(6), Some(-62_167_219_200_000_000), Some(i64::MIN), None];
    let zoned = TimestampMicrosecondArray::from(instants.clone()).with_timezone("UTC");
    let field = plain(DataType::Timestamp(micro, Some("UTC".into())));
    assert_eq!(
        values(field, Arc::new(zoned)),
        [
            json!("1970-01-01T00:00:00.000006Z"),
            json!("0001-01-01T00:00:00.000000Z BC"),
            json!("-infinity"),
            Value::Null
        ]
    );
    let local = TimestampNanosecondArray::from(vec![1]);
    let field = plain(DataType::Timestamp(TimeUnit::Nanosecond, None));
    assert_eq!(values(field, Arc::new(local)), [json!("1970-01-01T00:00:00.000000001")]);
    let clock: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![Some(1), None]));
    assert_eq!(
        values(Kind::Time.field("c"), Arc::clone(&clock)),
        [json!("00:00:00.000001"), Value::Null]
    );
    assert_eq!(values(Kind::TimeUtc.field("c"), clock), [json!("00:00:00.000001Z"), Value::Null]);
}

#[test]
fn json_stands_as_it_is_and_on_one_line() {
    let texts =
        vec![Some("{\"a\": 1.50,\n \"b\":\r\n [\"x\\ny\"]}"), Some("null"), None, Some("7")];
    let json = extension_field("c", DataType::Utf8, JSON);
    let rows = batch(vec![(json, Arc::new(StringArray::from(texts)) as ArrayRef)]);
    let text = encoded(&rows);
    assert_eq!(text.lines().count(), 4);
    assert!(text.contains(r#"{"c":{"a": 1.50,  "b":   ["x\ny"]}}"#), "{text}");
    let large = extension_field("c", DataType::LargeUtf8, JSON);
    let texts = arrow_array::LargeStringArray::from(vec![Some("[1,\n2]"), None]);
    assert_eq!(values(large, Arc::new(texts)), [json!([1, 2]), Value::Null]);
}

#[test]
fn what_json_has_no_type_for_is_text() {
    let binary = BinaryArray::from(vec![b"\x00\xff".as_slice()]);
    assert_eq!(values(plain(DataType::Binary), Arc::new(binary)), [json!("AP8=")]);
    let id = FixedSizeBinaryArray::try_from_iter([[1u8; 16]].into_iter()).unwrap();
    let field = extension_field("c", DataType::FixedSizeBinary(16), UUID);
    assert_eq!(values(field, Arc::new(id)), [json!("01010101-0101-0101-0101-010101010101")]);
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None])]);
    assert_eq!(values(plain(list.data_type().clone()), Arc::new(list)), [json!([1, null])]);
    let null = arrow_array::new_null_array(&DataType::Null, 1);
    assert_eq!(values(plain(DataType::Null), null), [Value::Null]);
}

#[test]
fn text_comes_back_whatever_is_in_it() {
    let mut texts: Vec<String> = (0..0x80u8)
        .flat_map(|byte| {
            let c = char::from(byte);
            [format!("{c}"), format!("1234567{c}9"), format!("äöü\u{1f600}{c}{c}abc")]
        })
        .collect();
    texts.push(String::new());
    texts.push("\u{80}\u{2028}".repeat(20));
    let array = StringArray::from_iter_values(&texts);
    let back = values(plain(DataType::Utf8), Arc::new(array));
    assert_eq!(back, texts.into_iter().map(Value::from).collect::<Vec<_>>());
}

#[test]
fn parts_of_records_are_no_data() {
    let part = |field: Field, part: &str| with_metadata(field, RECORD, part);
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let stamps = TimestampMicrosecondArray::from(vec![Some(1_999), None, Some(-1)]);
    let meta = vec![
        Some(r#"{"sync_id":5,"changes":[{"field":"x","change":"NULLED","reason":"r"}]}"#),
        Some(r#"{"sync_id":5,"changes":[]}"#),
        None,
    ];
    let rows = batch(vec![
        (
            part(plain(instant).with_name("_e"), RECORD_EXTRACTED_AT),
            Arc::new(stamps.with_timezone("UTC")),
        ),
        (plain(DataType::Int64).with_name("id"), Arc::new(Int64Array::from(vec![1, 2, 3]))),
        (
            part(extension_field(META, DataType::Utf8, JSON), RECORD_META),
            Arc::new(StringArray::from(meta)),
        ),
        (plain(DataType::Utf8).with_name(RAW_ID), Arc::new(StringArray::from(vec!["u"; 3]))),
    ]);
    let lines: Vec<Value> =
        encoded(&rows).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0]["record"],
        json!({"stream": "t", "data": {"id": 1}, "emitted_at": 1,
            "meta": {"changes": [{"field": "x", "change": "NULLED", "reason": "r"}]}})
    );
    assert_eq!(lines[1]["record"], json!({"stream": "t", "data": {"id": 2}, "emitted_at": 7}));
    assert_eq!(lines[2]["record"]["emitted_at"], -1);
}

#[test]
fn records_as_they_came_pass_untouched() {
    let line = with_metadata(plain(DataType::Utf8).with_name("_line"), RECORD, "line:airbyte");
    let texts = vec![r#"{"type":"RECORD" , "x":1}"#, r#"{"y":"ä"}"#];
    let rows = batch(vec![(line, Arc::new(StringArray::from(texts.clone())) as ArrayRef)]);
    assert_eq!(encoded(&rows), format!("{}\n{}\n", texts[0], texts[1]));
}

#[test]
fn rows_of_other_columns_are_refused() {
    let rows =
        batch(vec![(plain(DataType::Int64), Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let other = Schema::new(vec![plain(DataType::Utf8)]);
    let encoder = Encoder::new(None, "t", &other).unwrap();
    assert!(encoder.encode(&rows, 0, &mut String::new()).is_err());
}
