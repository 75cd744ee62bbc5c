//! The wire form against the genuine code: what we write is read by pyarrow and CloudQuery's SDK,
//! and what they write is read by us.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::*;
use arrow_buffer::{IntervalMonthDayNano, OffsetBuffer};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use highwater_cloudquery::wire::types::{UNIQUE, marked};
use highwater_cloudquery::wire::{Decoder, Encoder, INSERT_BYTES_MAX, encode_table};
use highwater_core::types::{DECLARED, EXTENSION, JSON, NUMERIC, UUID, with_metadata};
use highwater_core::{Table, TableName};
use highwater_testkit::sdk;
use serde_json::{Value, json};

#[allow(dead_code)]
#[path = "../src/wire/tests/fixtures.rs"]
mod fixtures;

type Column = (Field, ArrayRef, Value);

fn column(name: &str, array: impl Array + 'static, expected: Value) -> Column {
    let array: ArrayRef = Arc::new(array);
    (Field::new(name, array.data_type().clone(), true), array, expected)
}

fn extended(extension: &str, (field, array, expected): Column) -> Column {
    (with_metadata(field, EXTENSION, extension), array, expected)
}

fn declared(text: &str, (field, array, expected): Column) -> Column {
    (with_metadata(field, DECLARED, format!("postgresql:{text}")), array, expected)
}

fn texts(values: [Option<&str>; 3]) -> StringArray {
    values.to_vec().into()
}

fn uuids() -> FixedSizeBinaryArray {
    let value = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    let values = [Some(value), None, Some([0; 16])];
    FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 16).unwrap()
}

/// What PostgreSQL's tables have, as its source gives it, and what has to be read of it.
fn from_postgresql() -> Vec<Column> {
    const UUID_TEXT: &str = "00112233-4455-6677-8899-aabbccddeeff";
    const ZERO: &str = "00000000-0000-0000-0000-000000000000";
    // In a list the genuine code shows the bytes.
    let bytes_of = |text: &str| json!({ "hex": text.replace('-', "") });
    let documents = [Some("{\"a\": [1, null, \"ä\"]}"), None, Some("null")];
    let numbers = [Some("123456789012345678901234567890.5"), None, Some("NaN")];
    let mut words = ListBuilder::new(StringBuilder::new());
    words.append_value([Some("a"), None, Some("")]);
    words.append_null();
    words.append_value(Vec::<Option<&str>>::new());
    let ids: ArrayRef = Arc::new(uuids());
    let item =
        with_metadata(Field::new("item", DataType::FixedSizeBinary(16), true), EXTENSION, UUID);
    let ids = ListArray::new(Arc::new(item), OffsetBuffer::from_lengths([2, 0, 1]), ids, None);
    let money = Decimal128Array::from(vec![Some(-1_234_567_890), None, Some(1)]);
    let large = Decimal256Array::from_iter([Some(arrow_buffer::i256::MINUS_ONE), None, None]);
    // The years 1, and 9999.
    let instants = vec![Some(-62_135_596_800_000_000), None, Some(253_402_300_799_999_999)];
    let intervals = vec![Some(IntervalMonthDayNano::new(-1, 2, 3_000)), None, None];
    let bytes = json!({"hex": "00ff"});
    vec![
        column(
            "smallint",
            Int16Array::from(vec![Some(i16::MIN), None, Some(1)]),
            json!([-32768, null, 1]),
        ),
        column(
            "bigint",
            Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]),
            json!([i64::MIN, null, i64::MAX]),
        ),
        column(
            "boolean",
            BooleanArray::from(vec![Some(true), None, Some(false)]),
            json!([true, null, false]),
        ),
        column(
            "double",
            Float64Array::from(vec![Some(0.1), None, Some(f64::NAN)]),
            json!([0.1, null, "NaN"]),
        ),
        column("text", texts([Some("aé😀\n"), None, Some("")]), json!(["aé😀\n", null, ""])),
        column(
            "bytea",
            BinaryArray::from_iter([Some(b"\x00\xff"), None, None]),
            json!([bytes, null, null]),
        ),
        declared(
            "jsonb",
            extended(
                JSON,
                column("jsonb", texts(documents), json!([{"a": [1, null, "ä"]}, null, null])),
            ),
        ),
        declared(
            "json",
            extended(
                JSON,
                column("json", texts([Some("[1]"), None, Some("{}")]), json!([[1], null, {}])),
            ),
        ),
        extended(UUID, column("uuid", uuids(), json!([UUID_TEXT, null, ZERO]))),
        extended(NUMERIC, column("numeric", texts(numbers), json!(numbers))),
        column(
            "numeric_19_10",
            money.with_precision_and_scale(19, 10).unwrap(),
            json!(["-0.1234567890", null, "1E-10"]),
        ),
        column(
            "numeric_76_0",
            large.with_precision_and_scale(76, 0).unwrap(),
            json!(["-1", null, null]),
        ),
        declared(
            "inet",
            column(
                "inet",
                texts([Some("10.0.0.1"), None, Some("2001:db8::/32")]),
                json!([hex("10.0.0.1/32"), null, hex("2001:db8::/32")]),
            ),
        ),
        declared(
            "macaddr",
            column(
                "macaddr",
                texts([Some("08:00:2b:01:02:ff"), None, None]),
                json!([{"hex": "08002b0102ff"}, null, null]),
            ),
        ),
        declared("text[]", column("words", words.finish(), json!([["a", null, ""], null, []]))),
        declared(
            "uuid[]",
            column("ids", ids, json!([[bytes_of(UUID_TEXT), null], [], [bytes_of(ZERO)]])),
        ),
        column(
            "date",
            Date32Array::from(vec![Some(-719_162), None, Some(2_932_896)]),
            json!(["0001-01-01", null, "9999-12-31"]),
        ),
        column(
            "time",
            Time64MicrosecondArray::from(vec![Some(86_399_999_999), None, Some(0)]),
            json!(["23:59:59.999999", null, "00:00:00"]),
        ),
        column(
            "timestamp",
            TimestampMicrosecondArray::from(instants.clone()),
            json!(["0001-01-01T00:00:00", null, "9999-12-31T23:59:59.999999"]),
        ),
        column(
            "timestamptz",
            TimestampMicrosecondArray::from(instants).with_timezone("UTC"),
            json!(["0001-01-01T00:00:00+00:00", null, "9999-12-31T23:59:59.999999+00:00"]),
        ),
        column(
            "infinity",
            TimestampMicrosecondArray::from(vec![Some(i64::MAX), None, Some(0)])
                .with_timezone("UTC"),
            json!([i64::MAX, null, 0]),
        ),
        column(
            "interval",
            IntervalMonthDayNanoArray::from(intervals),
            json!([{"months": -1, "days": 2, "nanoseconds": 3000}, null, null]),
        ),
        column(
            "uint64",
            UInt64Array::from(vec![Some(u64::MAX), None, Some(0)]),
            json!([u64::MAX, null, 0]),
        ),
    ]
}

/// The text as the bytes that the genuine code shows.
fn hex(text: &str) -> Value {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    json!({ "hex": digits })
}

fn table_of(columns: &[Column]) -> (Arc<Table>, RecordBatch) {
    let fields = columns.iter().map(|(field, ..)| field.clone()).collect();
    let table = Table::new(TableName::new("t"), fields);
    let arrays = columns.iter().map(|(_, array, _)| Arc::clone(array)).collect();
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), arrays).unwrap();
    (Arc::new(table), rows)
}

fn encoded(table: &Arc<Table>, rows: &RecordBatch) -> Bytes {
    let messages = Encoder::new(table, INSERT_BYTES_MAX).unwrap().encode(rows).unwrap();
    let [message] = messages.as_slice() else { panic!("one message") };
    message.clone()
}

/// One column of the rows that were read.
fn values(read: &Value, index: usize) -> Vec<Value> {
    read["rows"].as_array().unwrap().iter().map(|row| row[index].clone()).collect()
}

#[test]
fn rows_as_postgresql_gives_them_are_read_by_the_genuine_code() {
    let name = "rows_as_postgresql_gives_them_are_read_by_the_genuine_code";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let columns = from_postgresql();
    let (table, rows) = table_of(&columns);
    let read = sdk::read_arrow(&encoded(&table, &rows)).unwrap();
    assert_eq!(read["batches"], 1);
    for (index, (field, _, expected)) in columns.iter().enumerate() {
        assert_eq!(read["columns"][index]["name"], field.name().as_str());
        assert_eq!(&json!(values(&read, index)), expected, "{field}");
    }
    let kind = |name: &str| {
        let index = columns.iter().position(|(field, ..)| field.name() == name).unwrap();
        read["columns"][index]["type"].as_str().unwrap()
    };
    assert_eq!([kind("uuid"), kind("json"), kind("jsonb")], ["uuid", "json", "json"]);
}

#[test]
fn a_slice_is_read_as_its_own_rows() {
    let name = "a_slice_is_read_as_its_own_rows";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let columns = from_postgresql();
    let (table, rows) = table_of(&columns);
    let many = vec![rows; 7];
    let many = arrow_select::concat::concat_batches(&table.schema, &many).unwrap();
    let read = sdk::read_arrow(&encoded(&table, &many.slice(5, 11))).unwrap();
    for (index, (field, _, expected)) in columns.iter().enumerate() {
        // A column with a day that Python does not have is shown as numbers throughout.
        let expected: Vec<Value> = (5..16).map(|row| expected[row % 3].clone()).collect();
        assert_eq!(values(&read, index), expected, "{field}");
    }
}

#[test]
fn a_table_is_read_by_the_genuine_code() {
    let name = "a_table_is_read_by_the_genuine_code";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("line", DataType::Int32, false),
        Field::new("at", utc, true),
        marked(Field::new("code", DataType::Utf8, true), UNIQUE),
    ];
    let orders = Table::new(TableName::new("order_lines"), fields).with_primary_key(["id", "line"]);
    let orders = Table {
        parent: Some(TableName::new("orders")),
        description: Some("What was ordered".into()),
        source_defined_cursor: true,
        cursor_field: Some("at".into()),
        ..orders
    };
    let read = sdk::read_arrow(&encode_table(&orders).unwrap()).unwrap();
    let about = json!({
        "name": "order_lines", "title": "", "description": "What was ordered",
        "is_incremental": true, "parent": "orders",
    });
    assert_eq!(read["table"], about);
    let column = |name: &str, kind: &str, key: bool, unique: bool, incremental: bool| {
        json!({
            "name": name, "type": kind, "not_null": key, "primary_key": key,
            "unique": unique, "incremental_key": incremental,
        })
    };
    let columns = json!([
        column("id", "int64", true, false, false),
        column("line", "int32", true, false, false),
        column("at", "timestamp[us, tz=UTC]", false, false, true),
        column("code", "string", false, true, false),
    ]);
    assert_eq!(read["columns"], columns);
    assert_eq!(read["batches"], 0);

    let fields = vec![Field::new("c", DataType::Utf8, true)];
    let bare = Table::new(TableName::in_namespace("shop", "bare"), fields);
    let read = sdk::read_arrow(&encode_table(&bare).unwrap()).unwrap();
    let about = json!({
        "name": "shop_bare", "title": "", "description": "",
        "is_incremental": false, "parent": null,
    });
    assert_eq!(read["table"], about);
}

/// Every type there is: from us to the genuine code, written by it in every form, back to us.
#[test]
fn every_type_comes_back_from_the_genuine_code_in_every_form() {
    let name = "every_type_comes_back_from_the_genuine_code_in_every_form";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let columns = fixtures::every_wire_type();
    let ours = Decoder::new().decode(&fixtures::stream_of("t", &columns, 1)).unwrap();
    let table = ours.table;
    let rows = arrow_select::concat::concat_batches(&table.schema, &ours.batches).unwrap();
    let message = encoded(&table, &rows);
    for (form, batches) in
        [("single", 1), ("each", 3), ("lz4", 1), ("zstd", 1), ("dictionary", 1), ("slice", 1)]
    {
        let theirs = Bytes::from(sdk::rewrite_arrow(form, &message).unwrap());
        assert_ne!(theirs, message);
        let back = Decoder::new().decode(&theirs).unwrap();
        assert_eq!(back.batches.len(), batches, "{form}");
        assert_eq!(back.table.name, table.name);
        let back = arrow_select::concat::concat_batches(&back.table.schema, &back.batches).unwrap();
        assert_eq!(back.num_columns(), rows.num_columns());
        for (index, field) in table.schema.fields().iter().enumerate() {
            let found = back.schema_ref().field(index);
            assert_eq!(found.metadata(), field.metadata(), "{form}");
            assert_eq!(back.column(index), rows.column(index), "{form}: {field}");
        }
    }
}

#[test]
fn what_the_genuine_code_wrote_has_its_values() {
    let name = "what_the_genuine_code_wrote_has_its_values";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let sample = Bytes::from(sdk::sample_arrow());
    let decoded = Decoder::new().decode(&sample).unwrap();
    assert_eq!(decoded.table.name, TableName::new("sample"));
    let [rows] = decoded.batches.as_slice() else { panic!("one batch") };
    assert_eq!(rows.num_rows(), 2);
    let shown = |name: &str| {
        let array = rows.column_by_name(name).unwrap();
        let plain = match array.data_type() {
            DataType::Timestamp(unit, Some(zone)) => {
                assert_eq!(zone.as_ref(), "UTC");
                DataType::Timestamp(*unit, None)
            }
            other => other.clone(),
        };
        let array = array.to_data().into_builder().data_type(plain).build().unwrap();
        array_value_to_string(&make_array(array), 0).unwrap()
    };
    for (name, value) in [
        ("uuid", "00112233445566778899aabbccddeeff"),
        ("json", r#"{"a": [1, null]}"#),
        ("int8", "-128"),
        ("uint8", "255"),
        ("int16", "-32768"),
        ("uint16", "65535"),
        ("int32", "-2147483648"),
        ("uint32", "4294967295"),
        ("int64", "-9223372036854775808"),
        ("uint64", "18446744073709551615"),
        ("float32", "1.5"),
        ("float64", "0.1"),
        ("bool", "true"),
        ("utf8", "aé😀"),
        ("large_utf8", "large"),
        ("binary", "00ff"),
        ("large_binary", "01"),
        ("date32", "2026-01-02"),
        ("date64", "2026-01-02T00:00:00"),
        ("time_s", "03:04:05"),
        ("time_ms", "03:04:05.678"),
        ("time_us", "03:04:05.678"),
        ("time_ns", "03:04:05.678"),
        ("timestamp_s", "2026-01-02T03:04:05"),
        ("timestamp_ms", "2026-01-02T03:04:05"),
        ("timestamp_us", "2026-01-02T03:04:05"),
        ("timestamp_ns", "2026-01-02T03:04:05"),
        ("duration_s", "PT90S"),
        ("duration_ms", "PT90S"),
        ("duration_us", "PT90S"),
        ("duration_ns", "PT90S"),
        ("interval", "1 mons 2 days 0.000000003 secs"),
        ("decimal", "-1.2345678901"),
        ("list", "[1, , 3]"),
        ("list_utf8", "[a, ]"),
        ("struct", "{x: 1, y: b}"),
        ("map", "{k: 1}"),
    ] {
        assert_eq!(shown(name), value, "{name}");
    }
    for (field, array) in rows.schema().fields().iter().zip(rows.columns()) {
        assert!(array.is_null(1), "{field}");
    }
    assert_eq!(rows.num_columns(), 37);
}

/// Dictionaries of the genuine code are read as their values, batch by batch.
#[test]
fn a_dictionary_is_read_as_its_values() {
    let name = "a_dictionary_is_read_as_its_values";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let texts: StringArray = (0..100).map(|row| Some(format!("v{}", row % 3))).collect();
    let numbers: Int64Array = (0..100).map(|row| (row % 7 != 0).then_some(row % 5)).collect();
    let columns = [column("text", texts, Value::Null), column("number", numbers, Value::Null)];
    let (table, rows) = table_of(&columns);
    let theirs = sdk::rewrite_arrow("dictionary", &encoded(&table, &rows)).unwrap();
    let schema: Schema = fixtures::read(&theirs)[0].schema().as_ref().clone();
    assert!(schema.fields().iter().all(|f| matches!(f.data_type(), DataType::Dictionary(..))));
    let back = Decoder::new().decode(&theirs.into()).unwrap().batches.remove(0);
    assert_eq!(back.columns(), rows.columns());
}
