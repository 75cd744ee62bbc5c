//! Deletions by a condition, both ways.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};
use highwater_core::deletion::{Deletion, Equal, Group, Relation};
use highwater_core::types::{UUID, extension_field};
use highwater_core::{ErrorKind, TableName};

use super::fixtures::{stream_of, theirs, uuids, written};
use crate::proto::plugin::{Predicate, PredicatesGroup, TableRelation, sync};
use crate::wire::{from_sync, from_write, to_sync, to_write};

fn message() -> sync::MessageDeleteRecord {
    let uuid = (theirs("id", DataType::FixedSizeBinary(16), "uuid"), uuids());
    let name: ArrayRef = Arc::new(StringArray::from(vec!["a", "not this one"]));
    let name = (Field::new("name", DataType::Utf8, true), name);
    let predicate = |column: &str, record| Predicate { operator: 0, column: column.into(), record };
    sync::MessageDeleteRecord {
        table_name: "orders".into(),
        where_clause: vec![
            PredicatesGroup {
                grouping_type: 0,
                predicates: vec![predicate("id", stream_of("orders", &[uuid], 1))],
            },
            PredicatesGroup {
                grouping_type: 1,
                predicates: vec![predicate("name", stream_of("orders", &[name], 2))],
            },
        ],
        table_relations: vec![TableRelation {
            table_name: "lines".into(),
            parent_table: "orders".into(),
        }],
    }
}

#[test]
fn a_message_becomes_a_deletion_and_comes_back() {
    let deletion = from_sync(&message()).unwrap();
    assert_eq!(deletion.table, TableName::new("orders"));
    assert_eq!(deletion.relations.len(), 1);
    assert_eq!(deletion.relations[0].parent, TableName::new("orders"));
    let [all, any] = deletion.groups.as_slice() else { panic!("two groups") };
    assert_eq!((all.any, any.any), (false, true));
    assert_eq!(all.equal[0].field.metadata()["ARROW:extension:name"], UUID);
    assert_eq!(all.equal[0].value.as_ref(), uuids().slice(0, 1).as_ref());
    assert_eq!(any.equal[0].value.as_ref(), &StringArray::from(vec!["a"]) as &dyn Array);

    for back in [from_sync(&to_sync(&deletion).unwrap()), from_write(&to_write(&deletion).unwrap())]
    {
        let back = back.unwrap();
        assert_eq!(back.table, deletion.table);
        assert_eq!(back.relations, deletion.relations);
        for (a, b) in back.groups.iter().zip(&deletion.groups) {
            assert_eq!(a.any, b.any);
            assert_eq!(a.equal.len(), b.equal.len());
            for (a, b) in a.equal.iter().zip(&b.equal) {
                assert_eq!((&a.column, &a.value), (&b.column, &b.value));
                assert_eq!(a.field.data_type(), b.field.data_type());
            }
        }
    }
}

#[test]
fn ours_is_written_in_their_types_and_names() {
    let deletion = Deletion {
        table: TableName::in_namespace("shop", "orders"),
        groups: vec![Group {
            any: true,
            equal: vec![
                Equal {
                    column: "id".into(),
                    field: extension_field("x", DataType::FixedSizeBinary(16), UUID),
                    value: uuids().slice(0, 1),
                },
                Equal {
                    column: "n".into(),
                    field: Field::new("n", DataType::Int64, false),
                    value: Arc::new(Int64Array::from(vec![None])),
                },
            ],
        }],
        relations: vec![Relation {
            table: TableName::in_namespace("public", "lines"),
            parent: TableName::in_namespace("shop", "orders"),
        }],
    };
    let message = to_write(&deletion).unwrap();
    assert_eq!(message.table_name, "shop_orders");
    assert_eq!(message.table_relations[0].table_name, "lines");
    assert_eq!(message.table_relations[0].parent_table, "shop_orders");
    let group = &message.where_clause[0];
    assert_eq!(group.grouping_type, 1);
    let record = super::fixtures::read(&group.predicates[0].record).remove(0);
    assert_eq!(record.schema().field(0).name(), "id");
    assert_eq!(record.schema().field(0).metadata()["ARROW:extension:name"], "uuid");
    let back = from_write(&message).unwrap();
    assert!(back.groups[0].equal[1].value.is_null(0));
}

#[test]
fn incomplete_or_unknown_is_refused_before_anything_is_deleted() {
    let broken: [fn(&mut sync::MessageDeleteRecord); 6] = [
        |m| m.table_name.clear(),
        |m| m.where_clause[0].predicates[0].column.clear(),
        |m| m.where_clause[0].predicates[0].record.clear(),
        |m| m.where_clause[0].predicates[0].record = written(&Schema::empty(), &[], None),
        |m| {
            let column = (
                Field::new("id", DataType::Int64, true),
                Arc::new(Int64Array::from(vec![0; 0])) as ArrayRef,
            );
            m.where_clause[0].predicates[0].record = stream_of("t", &[column], 1);
        },
        |m| m.table_relations[0].parent_table.clear(),
    ];
    for change in broken {
        let mut message = message();
        change(&mut message);
        assert_eq!(from_sync(&message).unwrap_err().kind(), ErrorKind::Data);
    }
    let unknown: [fn(&mut sync::MessageDeleteRecord); 2] =
        [|m| m.where_clause[0].predicates[0].operator = 7, |m| m.where_clause[0].grouping_type = 7];
    for change in unknown {
        let mut message = message();
        change(&mut message);
        let error = from_sync(&message).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.context_value("table"), Some("orders"));
    }
}
