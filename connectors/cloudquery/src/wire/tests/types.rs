//! One column, both ways.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray,
    Int32Array, StringArray, StructArray, cast::AsArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, UnionFields, UnionMode};
use highwater_core::types::{
    CLOUDQUERY, DECLARED, DEFINITION, FROM, JSON, NUMERIC, UUID, declared_in, extension_field,
    with_metadata,
};
use highwater_core::{ErrorKind, LogicalType};

use super::fixtures::{
    EXTENSION, every_wire_type, inets, jsons, layouts, list_of, macs, theirs, uuids,
};
use crate::wire::types::{from_wire, from_wire_array, to_wire, to_wire_array};

fn declared(declared: &str) -> Field {
    with_metadata(Field::new("c", DataType::Utf8, true), DECLARED, format!("postgresql:{declared}"))
}

#[test]
fn every_type_of_the_wire_comes_back_bit_for_bit() {
    for (field, array) in every_wire_type() {
        let ours = from_wire(&field).unwrap();
        let values = from_wire_array(&field, &array).unwrap();
        assert_eq!(values.data_type(), ours.data_type(), "{field}");
        assert_eq!(values.logical_null_count(), array.logical_null_count(), "{field}");
        LogicalType::of(&ours).unwrap();
        assert_eq!(ours.metadata()[FROM], CLOUDQUERY);

        let back = to_wire(&ours).unwrap();
        assert_eq!(back, field, "the field");
        let theirs = to_wire_array(&ours, &values).unwrap();
        assert_eq!(theirs.data_type(), field.data_type(), "{field}");
        // Arrow compares floats by their bits: NaN equals itself and the sign of zero counts.
        assert_eq!(&theirs, &array, "{field}");
        let again = from_wire_array(&back, &theirs).unwrap();
        assert_eq!(&again, &values, "{field}");
    }
}

#[test]
fn slices_are_converted_as_slices() {
    for (field, array) in every_wire_type() {
        let ours = from_wire(&field).unwrap();
        let whole = from_wire_array(&field, &array).unwrap();
        for (start, length) in [(0, 0), (1, 2), (2, 1), (0, 1)] {
            let values = from_wire_array(&field, &array.slice(start, length)).unwrap();
            assert_eq!(&values, &whole.slice(start, length), "{field}");
            let theirs = to_wire_array(&ours, &whole.slice(start, length)).unwrap();
            assert_eq!(&theirs, &array.slice(start, length), "{field}");
        }
    }
}

#[test]
fn their_extensions_have_our_meanings() {
    let meaning = |field: &Field| LogicalType::of(&from_wire(field).unwrap()).unwrap();
    assert_eq!(meaning(&theirs("u", DataType::FixedSizeBinary(16), "uuid")), LogicalType::Uuid);
    let json = theirs("j", DataType::Binary, "json");
    assert_eq!(meaning(&json), LogicalType::Json);
    assert_eq!(declared_in(&from_wire(&json).unwrap(), "postgresql"), Some("jsonb"));
    let inet = from_wire(&theirs("i", DataType::Binary, "inet")).unwrap();
    assert_eq!(declared_in(&inet, "postgresql"), Some("inet"));
    let mac = from_wire(&theirs("m", DataType::Binary, "mac")).unwrap();
    assert_eq!(declared_in(&mac, "postgresql"), Some("macaddr"));
    let lists = list_of(theirs("item", DataType::Binary, "json"), &jsons());
    let lists = from_wire(&Field::new("l", lists.data_type().clone(), true)).unwrap();
    assert_eq!(declared_in(&lists, "postgresql"), Some("jsonb[]"));

    let text = from_wire_array(&theirs("m", DataType::Binary, "mac"), &macs()).unwrap();
    assert_eq!(text.as_string::<i32>().value(0), "00:01:02:aa:bb:ff");
    let text = from_wire_array(&theirs("i", DataType::Binary, "inet"), &inets()).unwrap();
    assert_eq!(text.as_string::<i32>().value(0), "10.0.0.1/32");
}

#[test]
fn ours_become_theirs() {
    let uuid = extension_field("c", DataType::FixedSizeBinary(16), UUID);
    assert_eq!(to_wire(&uuid).unwrap(), theirs("c", DataType::FixedSizeBinary(16), "uuid"));
    for text in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
        let json = extension_field("c", text, JSON);
        for declared in ["json", "jsonb"] {
            let json = with_metadata(json.clone(), DECLARED, format!("postgresql:{declared}"));
            assert_eq!(to_wire(&json).unwrap(), theirs("c", DataType::Binary, "json"));
        }
        assert_eq!(to_wire(&json).unwrap(), theirs("c", DataType::Binary, "json"));
    }
    for network in ["inet", "cidr"] {
        assert_eq!(to_wire(&declared(network)).unwrap(), theirs("c", DataType::Binary, "inet"));
    }
    assert_eq!(to_wire(&declared("macaddr")).unwrap(), theirs("c", DataType::Binary, "mac"));
    let plain = Field::new("c", DataType::Utf8, true);
    assert_eq!(to_wire(&declared("macaddr8")).unwrap(), plain);
    assert_eq!(to_wire(&declared("inet[]")).unwrap(), plain);
    let mysql = with_metadata(plain.clone(), DECLARED, "mysql:inet");
    assert_eq!(to_wire(&mysql).unwrap(), plain);
    assert_eq!(to_wire(&extension_field("c", DataType::Utf8, NUMERIC)).unwrap(), plain);
    let defined = with_metadata(declared("mood"), DEFINITION, "[]");
    assert_eq!(to_wire(&defined).unwrap(), plain);
}

#[test]
fn layouts_that_not_every_reader_knows_become_plain() {
    for (field, array, plain) in layouts() {
        assert_eq!(to_wire(&field).unwrap().data_type(), plain.data_type(), "{field}");
        let wire = to_wire_array(&field, &array).unwrap();
        assert_eq!(&wire, &plain, "{field}");
    }
    let (field, array, plain) = layouts().swap_remove(0);
    assert_eq!(from_wire(&field).unwrap().data_type(), &DataType::Utf8);
    assert_eq!(&from_wire_array(&field, &array).unwrap(), &plain);
}

#[test]
fn an_address_without_mask_gets_one_and_no_address_is_an_error_without_the_value() {
    let values: ArrayRef =
        Arc::new(StringArray::from(vec![Some("10.0.0.1"), None, Some("::1"), Some("10.0.0.0/8")]));
    let wire = to_wire_array(&declared("inet"), &values).unwrap();
    let wire = wire.as_binary::<i32>();
    assert_eq!(wire.value(0), b"10.0.0.1/32");
    assert!(wire.is_null(1));
    assert_eq!(wire.value(2), b"::1/128");
    assert_eq!(wire.value(3), b"10.0.0.0/8");
    for (kind, bad) in [("inet", "secret"), ("cidr", "10.0.0.1/64"), ("macaddr", "secret")] {
        let values: ArrayRef = Arc::new(StringArray::from(vec![bad]));
        let error = to_wire_array(&declared(kind), &values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.context_value("column"), Some("c"));
        assert!(!error.full_message().contains(bad));
    }
}

#[test]
fn bytes_that_are_not_what_they_say_are_an_error() {
    for (extension, bad) in
        [("json", &b"\xff\xfe"[..]), ("inet", b"\xff"), ("mac", b"12345"), ("mac", b"")]
    {
        let field = theirs("c", DataType::Binary, extension);
        let values: ArrayRef = Arc::new(BinaryArray::from(vec![bad]));
        let error = from_wire_array(&field, &values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.context_value("column"), Some("c"));
    }
    for (extension, storage) in [
        ("uuid", DataType::Binary),
        ("uuid", DataType::FixedSizeBinary(15)),
        ("json", DataType::Int64),
        ("mac", DataType::Utf8),
    ] {
        let error = from_wire(&theirs("c", storage, extension)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert_eq!(error.context_value("column"), Some("c"));
    }
}

/// Arrow's C++ builders put an empty value, not NULL, under a NULL record.
#[test]
fn what_a_null_record_hides_may_be_anything() {
    let field = theirs("m", DataType::Binary, "mac");
    let hidden: ArrayRef = Arc::new(BinaryArray::from(vec![&b"abcdef"[..], b"\xff"]));
    let records: ArrayRef = Arc::new(StructArray::new(
        vec![field, theirs("j", DataType::Binary, "json")].into(),
        vec![Arc::clone(&hidden), hidden],
        Some(NullBuffer::from(vec![true, false])),
    ));
    let column = Field::new("r", records.data_type().clone(), true);
    let ours = from_wire_array(&column, &records).unwrap();
    let ours = ours.as_struct();
    assert!(ours.is_null(1));
    assert_eq!(ours.column(0).as_string::<i32>().value(0), "61:62:63:64:65:66");
    assert_eq!(ours.column(1).as_string::<i32>().value(0), "abcdef");

    let item = Arc::new(theirs("item", DataType::Binary, "mac"));
    let items: ArrayRef = Arc::new(BinaryArray::from(vec![&b""[..], b"", b"abcdef", b"abcdef"]));
    let nulls = NullBuffer::from(vec![false, true]);
    let lists: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, items, Some(nulls)));
    let column = Field::new("l", lists.data_type().clone(), true);
    let ours = from_wire_array(&column, &lists).unwrap();
    let ours = ours.as_fixed_size_list();
    assert!(ours.is_null(0));
    assert_eq!(ours.value(1).as_string::<i32>().value(1), "61:62:63:64:65:66");
}

#[test]
fn dictionaries_are_looked_up_wherever_they_are() {
    let values: ArrayRef = Arc::new(BinaryArray::from(vec![&b"{}"[..], b"[]"]));
    let keys = Int32Array::from(vec![Some(1), None, Some(0)]);
    let array: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
    let field = theirs("item", array.data_type().clone(), "json");
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("[]"), None, Some("{}")]));
    assert_eq!(&from_wire_array(&field, &array).unwrap(), &text);
    assert_eq!(LogicalType::of(&from_wire(&field).unwrap()).unwrap(), LogicalType::Json);
    let lists = list_of(field, &array);
    let column = Field::new("l", lists.data_type().clone(), true);
    let ours = from_wire_array(&column, &lists).unwrap();
    assert_eq!(ours.as_list::<i32>().value(0).as_string::<i32>().value(0), "[]");
    assert_eq!(ours.data_type(), from_wire(&column).unwrap().data_type());
}

#[test]
fn types_that_cannot_be_carried_name_their_column() {
    let union = DataType::Union(UnionFields::empty(), UnionMode::Sparse);
    let inner = Field::new("item", union.clone(), true);
    for data_type in [union, DataType::List(Arc::new(inner))] {
        let field = Field::new("c", data_type, true);
        for error in [to_wire(&field).unwrap_err(), from_wire(&field).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.context_value("column"), Some("c"));
        }
    }
}

#[test]
fn metadata_stays_where_it_belongs() {
    let marks: HashMap<String, String> = [
        ("cq:extension:primary_key", "true"),
        ("cq:extension:unique", "true"),
        ("cq:extension:incremental", "false"),
        ("cq:extension:primary_key_component", "true"),
        ("cq:extension:type_schema", "{}"),
        ("PARQUET:field_id", "3"),
        (EXTENSION, "someone.else"),
        (DECLARED, "postgresql:evil"),
        (DEFINITION, "[{}]"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let field = Field::new("c", DataType::Utf8, false).with_metadata(marks);
    let ours = from_wire(&field).unwrap();
    let mut keys: Vec<&str> = ours.metadata().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "PARQUET:field_id",
            "cq:extension:primary_key_component",
            "cq:extension:type_schema",
            "cq:extension:unique",
            "highwater:from",
        ]
    );
    assert!(!ours.is_nullable());
    let back = to_wire(&ours).unwrap();
    assert!(!back.metadata().keys().any(|key| key.starts_with("highwater:")));
    assert_eq!(back.metadata()["cq:extension:unique"], "true");
    assert!(!back.is_nullable());
}

#[test]
fn uuids_share_their_bytes() {
    let field = theirs("u", DataType::FixedSizeBinary(16), "uuid");
    let array = uuids();
    let ours = from_wire_array(&field, &array).unwrap();
    let (a, b): (&FixedSizeBinaryArray, &FixedSizeBinaryArray) =
        (array.as_fixed_size_binary(), ours.as_fixed_size_binary());
    assert_eq!(a.value_data().as_ptr(), b.value_data().as_ptr());
}
