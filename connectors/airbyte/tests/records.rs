//! RECORD lines into columns: every type with values that fit, that nearly fit and that do not.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Float64Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field};
use highwater_airbyte::records::{Decoder, Kind, Line, Origin, Wanted, parse, schema};
use highwater_core::ErrorKind;
use serde_json::{Value, json};

pub(crate) const NULLED: &str = "NULLED";
pub(crate) const TRUNCATED: &str = "TRUNCATED";

/// The columns of all properties of `schema`, and meta.
pub(crate) fn decoder(schema: &Value) -> Decoder {
    let mut wanted: Vec<Wanted> =
        schema::fields(schema).into_iter().map(Wanted::property).collect();
    wanted.push(Wanted { field: Kind::Any.field("_meta"), origin: Origin::Meta });
    Decoder::new(wanted, schema::property_names(schema)).unwrap()
}

pub(crate) fn feed(decoder: &mut Decoder, line: &str) {
    match parse(line.as_bytes(), 1).unwrap() {
        Line::Record(record) => decoder.append(&record).unwrap(),
        other => panic!("{line}: {other:?}"),
    }
}

fn line_of(data: &str) -> String {
    format!(r#"{{"type":"RECORD","record":{{"stream":"s","data":{data},"emitted_at":7}}}}"#)
}

/// A value as text that tells all values of a type apart; `None` is NULL.
pub(crate) fn shown(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch.column_by_name(column).unwrap();
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Time64(_) => array.as_primitive::<Time64MicrosecondType>().value(row).to_string(),
        DataType::Timestamp(_, _) => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        _ => array.as_string::<i32>().value(row).to_owned(),
    })
}

/// The changes that a row's meta lists.
pub(crate) fn changes(batch: &RecordBatch, row: usize) -> Vec<(String, String)> {
    let Some(meta) = shown(batch, "_meta", row) else { return Vec::new() };
    let meta: Value = serde_json::from_str(&meta).unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let entries = meta["changes"].as_array().unwrap();
    assert!(!entries.is_empty());
    entries.iter().map(|entry| (text(entry, "field"), text(entry, "change"))).collect()
}

/// Decodes each raw JSON value in a column of the kind, and compares it and what was changed.
fn check(property: &Value, cases: &[(&str, Option<&str>, Option<&str>)]) {
    let schema = json!({"properties": {"before": {"type": "integer"}, "c": property}});
    let mut decoder = decoder(&schema);
    for (raw, _, _) in cases {
        feed(&mut decoder, &line_of(&format!(r#"{{"before":1,"c":{raw}}}"#)));
    }
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.num_rows(), cases.len());
    for (row, (raw, value, change)) in cases.iter().enumerate() {
        assert_eq!(shown(&batch, "c", row).as_deref(), *value, "{raw} as {property}");
        let expected: Vec<_> = change.iter().map(|c| ("c".to_owned(), (*c).to_owned())).collect();
        assert_eq!(changes(&batch, row), expected, "{raw} as {property}");
        assert_eq!(shown(&batch, "before", row).as_deref(), Some("1"));
    }
    let counted = decoder.changed().map(|(_, count)| count).sum::<u64>();
    assert_eq!(counted, cases.iter().filter(|case| case.2.is_some()).count() as u64);
}

#[test]
fn text_takes_everything() {
    check(
        &json!({"type": "string"}),
        &[
            (r#""""#, Some(""), None),
            (r#""a b""#, Some("a b"), None),
            (r#""ünï−😀""#, Some("ünï−😀"), None),
            (
                r#""q\" b\\ s\/ \b\f\n\r\t \u00e9 \uD83D\ude00""#,
                Some("q\" b\\ s/ \u{8}\u{c}\n\r\t é 😀"),
                None,
            ),
            (r#""\u0000""#, Some("\0"), None),
            (r#""a\ud800b""#, Some("a\u{fffd}b"), Some(TRUNCATED)),
            (r#""\ude00\ud83d""#, Some("\u{fffd}\u{fffd}"), Some(TRUNCATED)),
            (r#""\ud83d\u0041""#, Some("\u{fffd}A"), Some(TRUNCATED)),
            ("12.50", Some("12.50"), None),
            ("1e400", Some("1e400"), None),
            ("true", Some("true"), None),
            ("false", Some("false"), None),
            ("null", None, None),
            (r#"{"a": [1, "x"]}"#, Some(r#"{"a": [1, "x"]}"#), None),
            (r#"[1,NaN]"#, Some("[1,null]"), Some(TRUNCATED)),
            ("NaN", None, Some(NULLED)),
            ("-Infinity", None, Some(NULLED)),
        ],
    );
}

#[test]
fn whole_numbers_are_exact_or_null() {
    check(
        &json!({"type": "integer"}),
        &[
            ("0", Some("0"), None),
            ("-0", Some("0"), None),
            ("-42", Some("-42"), None),
            ("999999999999999999", Some("999999999999999999"), None),
            ("9223372036854775807", Some("9223372036854775807"), None),
            ("-9223372036854775808", Some("-9223372036854775808"), None),
            ("9223372036854775808", None, Some(NULLED)),
            ("123456789012345678901234567890", None, Some(NULLED)),
            ("1.0", Some("1"), None),
            ("9007199254740993.0", Some("9007199254740993"), None),
            ("1e3", Some("1000"), None),
            ("-12.50E2", Some("-1250"), None),
            ("1000e-3", Some("1"), None),
            ("0e999999", Some("0"), None),
            ("1.5", None, Some(NULLED)),
            ("1e-1", None, Some(NULLED)),
            ("1e999999999999", None, Some(NULLED)),
            (r#""17""#, Some("17"), None),
            (r#"" +007 ""#, Some("7"), None),
            (r#""\u0031""#, Some("1"), None),
            (r#""1.0""#, Some("1"), None),
            (r#""1.5""#, None, Some(NULLED)),
            (r#""""#, None, Some(NULLED)),
            (r#""x""#, None, Some(NULLED)),
            ("true", None, Some(NULLED)),
            ("{}", None, Some(NULLED)),
            ("[1]", None, Some(NULLED)),
            ("NaN", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
}

#[test]
fn doubles_are_the_nearest() {
    check(
        &json!({"type": "number"}),
        &[
            ("0.1", Some("0.1"), None),
            ("-0.0", Some("-0.0"), None),
            ("1846609563221708.2", Some("1846609563221708.3"), None),
            ("0.00009159999999999999", Some("9.159999999999999e-5"), None),
            ("7", Some("7.0"), None),
            ("1.7976931348623157e308", Some("1.7976931348623157e308"), None),
            ("5e-324", Some("5e-324"), None),
            ("1e400", None, Some(NULLED)),
            ("9007199254740993", Some("9007199254740992.0"), None),
            (r#""2.5""#, Some("2.5"), None),
            (r#"".5""#, Some("0.5"), None),
            (r#""NaN""#, None, Some(NULLED)),
            (r#""infinity""#, None, Some(NULLED)),
            (r#""1,5""#, None, Some(NULLED)),
            ("NaN", None, Some(NULLED)),
            ("Infinity", None, Some(NULLED)),
            ("-Infinity", None, Some(NULLED)),
            ("false", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
}

#[test]
fn big_numbers_keep_every_digit() {
    for airbyte in ["big_integer", "big_number"] {
        check(
            &json!({"type": "number", "airbyte_type": airbyte}),
            &[
                ("123456789012345678901234567890", Some("123456789012345678901234567890"), None),
                ("0.10", Some("0.10"), None),
                (r#""-123456789012345678901.50""#, Some("-123456789012345678901.50"), None),
                (r#""+1""#, Some("1"), None),
                (r#""1e""#, None, Some(NULLED)),
                (r#""-""#, None, Some(NULLED)),
                (r#""NaN""#, None, Some(NULLED)),
                ("true", None, Some(NULLED)),
                ("null", None, None),
            ],
        );
    }
}

#[test]
fn booleans_also_as_words_and_digits() {
    check(
        &json!({"type": "boolean"}),
        &[
            ("true", Some("true"), None),
            ("false", Some("false"), None),
            (r#""TRUE""#, Some("true"), None),
            (r#"" no ""#, Some("false"), None),
            ("1", Some("true"), None),
            ("0", Some("false"), None),
            ("2", None, Some(NULLED)),
            (r#""maybe""#, None, Some(NULLED)),
            ("{}", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
}

#[test]
fn dates_and_what_comes_near_them() {
    check(
        &json!({"type": "string", "format": "date"}),
        &[
            (r#""1970-01-02""#, Some("1"), None),
            (r#""1969-12-31""#, Some("-1"), None),
            (r#""19700102""#, Some("1"), None),
            (r#""1970\/01\/02""#, Some("1"), None),
            (r#""1970-01-02T00:00:00Z""#, Some("1"), None),
            (r#""1970-01-02T05:06:07+08:00""#, Some("1"), Some(TRUNCATED)),
            (r#""0001-12-31 BC""#, Some("-719163"), None),
            (r#""1970-02-30""#, None, Some(NULLED)),
            (r#""today""#, None, Some(NULLED)),
            ("19700102", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
}

#[test]
fn instants_are_in_utc() {
    let of =
        |airbyte: &str| json!({"type": "string", "format": "date-time", "airbyte_type": airbyte});
    check(
        &of("timestamp_with_timezone"),
        &[
            (r#""1970-01-01T00:00:01Z""#, Some("1000000"), None),
            (r#""1970-01-01T00:00:01""#, Some("1000000"), None),
            (r#""1970-01-01 00:00:01.5""#, Some("1500000"), None),
            (r#""1970-01-01T02:00:01+02:00""#, Some("1000000"), None),
            (r#""1969-12-31T16:00:01-0800""#, Some("1000000"), None),
            (r#""1970\u002d01-01T00:00:01Z""#, Some("1000000"), None),
            (r#""1970-01-01T24:00:00Z""#, Some("86400000000"), None),
            (r#""1970-01-01""#, Some("0"), None),
            (r#""1970-01-01T00:00:00.123456000Z""#, Some("123456"), None),
            (r#""1970-01-01T00:00:00.1234567Z""#, Some("123456"), Some(TRUNCATED)),
            (r#""0001-01-01T00:00:00Z BC""#, Some("-62167219200000000"), None),
            (r#""1970-01-01T25:00:00Z""#, None, Some(NULLED)),
            (r#""999999-01-01T00:00:00Z""#, None, Some(NULLED)),
            (r#""""#, None, Some(NULLED)),
            ("1000", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
    check(
        &of("timestamp_without_timezone"),
        &[
            (r#""1970-01-01T00:00:01""#, Some("1000000"), None),
            (r#""1970-01-01T02:00:01+02:00""#, Some("7201000000"), None),
            (r#""1970-01-01T00:00:00.0000001""#, Some("0"), Some(TRUNCATED)),
            (r#""x""#, None, Some(NULLED)),
        ],
    );
}

#[test]
fn times_of_day_with_and_without_zone() {
    let of = |airbyte: &str| json!({"type": "string", "format": "time", "airbyte_type": airbyte});
    check(
        &of("time_without_timezone"),
        &[
            (r#""00:00:01.5""#, Some("1500000"), None),
            (r#""02:00:00+02:00""#, Some("7200000000"), None),
            (r#""24:00:00""#, Some("86400000000"), None),
            (r#""1970-01-01T00:00:01""#, Some("1000000"), None),
            (r#""00:00:00.1234567""#, Some("123456"), Some(TRUNCATED)),
            (r#""1970-01-01""#, None, Some(NULLED)),
            ("3600", None, Some(NULLED)),
        ],
    );
    check(
        &of("time_with_timezone"),
        &[
            (r#""02:00:00+02:00""#, Some("0"), None),
            (r#""00:30:00+02:00""#, Some("81000000000"), None),
            (r#""00:00:01Z""#, Some("1000000"), None),
        ],
    );
}

#[test]
fn json_keeps_its_text() {
    check(
        &json!({"type": "object"}),
        &[
            (
                r#"{ "a" : [ 1.0, {"b":"\u00e9"} ] }"#,
                Some(r#"{ "a" : [ 1.0, {"b":"\u00e9"} ] }"#),
                None,
            ),
            ("{}", Some("{}"), None),
            (
                r#"{"NaN":NaN,"s":"NaN \" -Infinity","l":[-Infinity,-1,Infinity]}"#,
                Some(r#"{"NaN":null,"s":"NaN \" -Infinity","l":[null,-1,null]}"#),
                Some(TRUNCATED),
            ),
            (
                r#"{"a":"x\ud800\\ud800\ud83d\ude00","\udc00":1}"#,
                Some(r#"{"a":"x\ufffd\\ud800\ud83d\ude00","\ufffd":1}"#),
                Some(TRUNCATED),
            ),
            ("[]", None, Some(NULLED)),
            (r#""{}""#, None, Some(NULLED)),
            ("1", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
    check(
        &json!({"type": "array"}),
        &[
            ("[ ]", Some("[ ]"), None),
            ("[null,[true]]", Some("[null,[true]]"), None),
            ("{}", None, Some(NULLED)),
        ],
    );
    check(
        &json!({"type": ["string", "object"]}),
        &[
            (r#""a\n""#, Some(r#""a\n""#), None),
            ("1.50", Some("1.50"), None),
            ("[{}]", Some("[{}]"), None),
            (r#""\ud800""#, Some(r#""\ufffd""#), Some(TRUNCATED)),
            ("NaN", None, Some(NULLED)),
            ("null", None, None),
        ],
    );
}

#[test]
fn missing_repeated_and_unknown_fields() {
    let schema = json!({"properties": {
        "a": {"type": "integer"}, "A": {"type": "string"}, "b": {"type": "string"},
    }});
    let mut decoder = decoder(&schema);
    for data in [
        r#"{"a":1,"A":"x","b":"y"}"#,
        "{}",
        r#"{"b":"z"}"#,
        r#"{ "new" : {"a":9} , "a" : 1 , "a" : "x" , "b":"1", "a" : 2 , "b" : "2" }"#,
        r#"{"\u0061":3,"new":1,"other":[]}"#,
        r#"{"a":4,"a":"x"}"#,
    ] {
        feed(&mut decoder, &line_of(data));
    }
    let rows = decoder.finish().unwrap();
    let column = |name| (0..6).map(|row| shown(&rows, name, row)).collect::<Vec<_>>();
    let text = |texts: [Option<&str>; 6]| texts.map(|text| text.map(str::to_owned)).to_vec();
    assert_eq!(column("a"), text([Some("1"), None, None, Some("2"), Some("3"), None]));
    assert_eq!(column("A"), text([Some("x"), None, None, None, None, None]));
    assert_eq!(column("b"), text([Some("y"), None, Some("z"), Some("2"), None, None]));
    // Of a repeated key only the last value counts, also for the changes.
    assert_eq!(changes(&rows, 3), []);
    assert_eq!(changes(&rows, 5), [("a".to_owned(), NULLED.to_owned())]);
    let unknown: Vec<_> = decoder.unknown().collect();
    assert_eq!(unknown, [("new", 2), ("other", 1)]);
    assert_eq!(decoder.changed().collect::<Vec<_>>(), [("a", 1)]);
}

#[test]
fn names_of_unknown_fields_are_bounded() {
    let mut decoder = decoder(&json!({}));
    for row in 0..5_000 {
        feed(&mut decoder, &line_of(&format!(r#"{{"k{row}":1,"k0":2}}"#)));
    }
    let counts: Vec<_> = decoder.unknown().collect();
    assert_eq!(counts.len(), 101);
    assert_eq!((counts[0], counts[100]), (("k0", 5_001), ("…", 4_900)));
    let batch = decoder.finish().unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (5_000, 1));
}

#[test]
fn hidden_and_nested_columns() {
    let schema = json!({"properties": {
        "id": {"type": "integer"}, "skipped": {"type": "string"},
        "metadata": {"type": "object", "properties": {
            "updated_at": {"type": "string", "format": "date-time"},
            "by": {"type": "object", "properties": {"id": {"type": "integer"}}}}},
    }});
    let path = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    let nested = |keys: &[&str], name: &str| Wanted {
        field: schema::field_at(&schema, &path(keys), name).unwrap(),
        origin: Origin::Path(path(keys)),
    };
    let hidden = |field: Field, origin| Wanted { field, origin };
    let wanted = vec![
        hidden(Kind::TimestampUtc.field("at"), Origin::ExtractedAt),
        nested(&["metadata", "updated_at"], "updated"),
        nested(&["id"], "id"),
        nested(&["metadata", "by", "id"], "by"),
        nested(&["metadata"], "metadata"),
        hidden(Kind::Any.field("_meta"), Origin::Meta),
        hidden(Kind::Text.field("line"), Origin::Line),
    ];
    let mut decoder = Decoder::new(wanted, schema::property_names(&schema)).unwrap();
    let full = r#"{"by":{"id":"7"},"updated_at":"1970-01-01T00:00:01Z"}"#;
    let lines = [
        line_of(&format!(r#"{{"id":1,"skipped":"x","metadata":{full}}}"#)),
        line_of(r#"{"metadata":[1],"id":2}"#),
        line_of(&format!(r#"{{"metadata":{full},"id":3,"metadata":{{"updated_at":"x"}}}}"#)),
        r#"{"type":"RECORD","record":{"stream":"s","data":{"id":"x"},"meta":{"changes":[ {"field":"f","change":"NULLED","reason":"R"} ]}}}"#.to_owned(),
        r#"{"type":"RECORD","record":{"stream":"s","data":{"id":5},"emitted_at":8,"meta":{"changes":[]}}}"#.to_owned(),
    ];
    for line in &lines {
        feed(&mut decoder, line);
    }
    let rows = decoder.finish().unwrap();
    let row = |row| ["at", "updated", "id", "by"].map(|name| shown(&rows, name, row));
    let text = |texts: [Option<&str>; 4]| texts.map(|text| text.map(str::to_owned));
    assert_eq!(row(0), text([Some("7000"), Some("1000000"), Some("1"), Some("7")]));
    assert_eq!(row(1), text([Some("7000"), None, Some("2"), None]));
    assert_eq!(row(2), text([Some("7000"), None, Some("3"), None]));
    assert_eq!(row(3), text([None, None, None, None]));
    assert_eq!(row(4), text([Some("8000"), None, Some("5"), None]));
    assert_eq!(shown(&rows, "metadata", 0).as_deref(), Some(full));
    let change = |field: &str| (field.to_owned(), NULLED.to_owned());
    assert_eq!(changes(&rows, 0), []);
    assert_eq!(changes(&rows, 1), [change("metadata")]);
    assert_eq!(changes(&rows, 2), [change("metadata.updated_at")]);
    assert_eq!(changes(&rows, 3), [change("f"), change("id")]);
    assert_eq!(changes(&rows, 4), []);
    for (row, line) in lines.iter().enumerate() {
        assert_eq!(shown(&rows, "line", row).as_ref(), Some(line));
    }
    assert_eq!(decoder.unknown().count(), 0);
}

#[test]
fn a_broken_record_is_taken_back_and_named() {
    let schema = json!({"properties": {"a": {"type": "string"}, "b": {"type": "object"}}});
    let mut decoder = decoder(&schema);
    feed(&mut decoder, &line_of(r#"{"a":"first"}"#));
    for data in [
        r#"{"a":"secret","b":{"x":secret}}"#,
        r#"{"a":"secret","b":{"x" 1}}"#,
        r#"{"a":"secret",}"#,
        r#"{"a":"secret" "b":{}}"#,
        r#"{"a":"secret","b":{}}}"#,
        r#"{"a":"sec\xret"}"#,
        r#"{"a":"sec\u12g4"}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":+1}"#,
        r#"{"a":nul}"#,
        r#"{"a":}"#,
        "{a:1}",
        "{\"a\":\"sec\u{1}ret\"}",
        &format!(r#"{{"b":{}1{}}}"#, r#"{"x":"#.repeat(9_999), "}".repeat(9_999)),
    ] {
        let line = line_of(data);
        let outcome = parse(line.as_bytes(), 41).and_then(|line| match line {
            Line::Record(record) => decoder.append(&record),
            other => panic!("{other:?}"),
        });
        let error = outcome.expect_err(data);
        assert_eq!(error.kind(), ErrorKind::Data, "{data}");
        let place = (error.context_value("stream"), error.context_value("line"));
        assert_eq!(place, (Some("s"), Some("41")), "{data}");
        assert!(!error.full_message().contains("secret"));
    }
    feed(&mut decoder, &line_of(r#"{"a":"second","b":{"x":1}}"#));
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.num_rows(), 2);
    assert_eq!(shown(&batch, "a", 1).as_deref(), Some("second"));
    assert_eq!(decoder.changed().count(), 0);
}

#[test]
fn batches_follow_each_other() {
    let schema = json!({"properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}});
    let mut decoder = decoder(&schema);
    for batch in 0..3 {
        for row in 0..10 {
            feed(&mut decoder, &line_of(&format!(r#"{{"a":"{batch}.{row}","b":{}}}"#, row == 3)));
        }
        assert_eq!((decoder.rows(), decoder.bytes() > 100), (10, true));
        let rows = decoder.finish().unwrap();
        assert_eq!((rows.schema_ref(), rows.num_rows()), (decoder.schema(), 10));
        assert_eq!(shown(&rows, "a", 9), Some(format!("{batch}.9")));
        assert_eq!(shown(&rows, "b", 3).as_deref(), Some("true"));
        assert_eq!((decoder.rows(), decoder.bytes()), (0, 0));
    }
    assert_eq!(decoder.finish().unwrap().num_rows(), 0);
}

#[test]
fn columns_that_records_do_not_have_are_refused() {
    let refused = |field: Field, origin| {
        let error = Decoder::new(vec![Wanted { field, origin }], []).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    };
    refused(Field::new("a", DataType::Int32, true), Origin::Path(vec!["a".to_owned()]));
    refused(Kind::Text.field("a"), Origin::Path(Vec::new()));
    refused(Kind::Text.field("a"), Origin::ExtractedAt);
    refused(Kind::Integer.field("a"), Origin::Meta);
    refused(Kind::Date.field("a"), Origin::Line);
}
