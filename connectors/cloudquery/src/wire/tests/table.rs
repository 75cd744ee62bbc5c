//! A table, both ways.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use highwater_core::types::{DECLARED, with_metadata};
use highwater_core::{ErrorKind, Table, TableName};

use super::fixtures::{every_wire_type, read, written};
use crate::wire::types::{UNIQUE, is_marked, marked};
use crate::wire::{decode_table, encode_table, wire_name};

fn schema_of(stream: &[u8]) -> Schema {
    let reader = arrow_ipc::reader::StreamReader::try_new(stream, None).unwrap();
    reader.schema().as_ref().clone()
}

fn orders() -> Table {
    let fields = vec![
        marked(Field::new("id", DataType::Int64, false), UNIQUE),
        with_metadata(Field::new("at", DataType::Date32, true), DECLARED, "postgresql:date"),
    ];
    let mut table = Table::new(TableName::new("orders"), fields).with_primary_key(["id"]);
    table.parent = Some(TableName::new("customers"));
    table.description = Some("What was ordered".into());
    table.source_defined_cursor = true;
    table.cursor_field = Some("at".into());
    table
}

#[test]
fn the_metadata_is_cloudquerys() {
    let stream = encode_table(&orders()).unwrap();
    assert_eq!(stream[stream.len() - 8..], [255, 255, 255, 255, 0, 0, 0, 0]);
    assert!(read(&stream).is_empty());
    let schema = schema_of(&stream);
    for (key, value) in [
        ("cq:table_name", "orders"),
        ("cq:table_description", "What was ordered"),
        ("cq:table_title", ""),
        ("cq:table_depends_on", "customers"),
        ("cq:extension:incremental", "true"),
    ] {
        assert_eq!(schema.metadata()[key], value);
    }
    let key = schema.field(0);
    assert_eq!(key.metadata()["cq:extension:primary_key"], "true");
    assert_eq!(key.metadata()["cq:extension:unique"], "true");
    assert!(!key.is_nullable());
    let at = schema.field(1);
    assert_eq!(at.metadata()["cq:extension:incremental"], "true");
    assert_eq!(at.metadata().len(), 1);
}

#[test]
fn the_least_table_has_what_the_python_sdk_needs() {
    let bare = Table::new(TableName::new("t"), vec![Field::new("c", DataType::Utf8, true)]);
    let schema = schema_of(&encode_table(&bare).unwrap());
    for key in ["cq:table_description", "cq:table_title"] {
        assert_eq!(schema.metadata()[key], "");
    }
    assert!(!schema.metadata().contains_key("cq:table_depends_on"));
    assert_eq!(schema.metadata()["cq:extension:incremental"], "false");
    let back = decode_table(&encode_table(&bare).unwrap()).unwrap();
    assert_eq!((back.parent, back.description), (None, None));
    assert!(!back.source_defined_cursor);
}

#[test]
fn a_table_comes_back() {
    let back = decode_table(&encode_table(&orders()).unwrap()).unwrap();
    let sent = orders();
    assert_eq!(back.name, sent.name);
    assert_eq!(back.primary_key, sent.primary_key);
    assert_eq!(back.cursor_field, sent.cursor_field);
    assert_eq!(back.source_defined_cursor, sent.source_defined_cursor);
    assert_eq!(back.parent, sent.parent);
    assert_eq!(back.description, sent.description);
    assert!(is_marked(back.schema.field(0), UNIQUE));
}

#[test]
fn what_we_have_no_word_for_gets_from_plugin_to_plugin() {
    let metadata = [
        ("cq:table_name", "t"),
        ("cq:table_description", "d"),
        ("cq:table_title", "T"),
        ("cq:extension:constraint_name", "t_cqpk"),
        ("cq:extension:incremental", "false"),
        ("cq:table_permissions_needed", "[\"a\"]"),
        ("cq:table_sensitive_columns", "[\"c\"]"),
        ("cq:table_paid", "true"),
        ("cq:table_of_tomorrow", "1"),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut fields: Vec<Field> = every_wire_type().into_iter().map(|(field, _)| field).collect();
    fields[0] = marked(fields[0].clone(), "cq:extension:primary_key");
    fields[1] = marked(fields[1].clone(), "cq:extension:unique");
    fields[2] = marked(fields[2].clone(), "cq:extension:primary_key_component");
    fields[3] = marked(fields[3].clone(), "cq:extension:incremental");
    fields[4] = with_metadata(fields[4].clone(), "cq:extension:type_schema", "{\"x\":1}");
    let schema = Schema::new_with_metadata(fields, metadata.into());
    let table = decode_table(&written(&schema, &[], None)).unwrap();
    assert_eq!(table.primary_key, ["int8"]);
    assert_eq!(table.cursor_field, None, "the table is not incremental");
    assert_eq!(schema_of(&encode_table(&table).unwrap()), schema);
}

#[test]
fn a_key_that_was_taken_away_is_not_written() {
    let mut table = decode_table(&encode_table(&orders()).unwrap()).unwrap();
    table.primary_key.clear();
    let schema = schema_of(&encode_table(&table).unwrap());
    assert!(!schema.field(0).metadata().contains_key("cq:extension:primary_key"));
}

#[test]
fn a_namespace_becomes_a_prefix_unless_it_is_a_default_one() {
    assert_eq!(wire_name(&TableName::new("t")), "t");
    assert_eq!(wire_name(&TableName::in_namespace("public", "t")), "t");
    assert_eq!(wire_name(&TableName::in_namespace("main", "t")), "t");
    assert_eq!(wire_name(&TableName::in_namespace("shop", "t")), "shop_t");
}

#[test]
fn a_table_without_a_name_or_with_a_column_twice_is_refused() {
    let field = Field::new("c", DataType::Utf8, true);
    let nameless = Schema::new(vec![field.clone()]);
    let error = decode_table(&written(&nameless, &[], None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("missing"), Some("cq:table_name"));
    let named = [("cq:table_name".to_owned(), "t".to_owned())];
    let twice = Schema::new_with_metadata(vec![field.clone(), field], named.into());
    let error = decode_table(&written(&twice, &[], None)).unwrap_err();
    assert_eq!(error.context_value("column"), Some("c"));
    assert_eq!(error.context_value("table"), Some("t"));
}

#[test]
fn rows_of_a_table_are_no_hindrance() {
    let schema = Arc::new(schema_of(&encode_table(&orders()).unwrap()));
    let batch = RecordBatch::new_empty(Arc::clone(&schema));
    assert_eq!(decode_table(&written(&schema, &[batch], None)).unwrap().name.name, "orders");
}
