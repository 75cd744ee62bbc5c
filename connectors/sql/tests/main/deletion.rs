//! Conditions that remove rows, run by a real engine through the plainest dialect.

use std::sync::Arc;

use arrow_array::StringArray;
use arrow_schema::{DataType, Field};
use highwater_core::deletion::{Equal, Group, PARENT_ID, ROW_ID, Relation};
use highwater_core::{Deletion, ErrorKind, Instant, Plan, Table, TableName, WriteMode};
use highwater_sql::deletion::Removal;
use highwater_sql::read_back::full_read;
use rusqlite::Connection;

use crate::Plain;

fn plan(names: &[&str]) -> Plan {
    let table = |name: &&str| {
        let text = |column| Field::new(column, DataType::Utf8, true);
        let plan = full_read(Table::new(
            TableName::new(*name),
            vec![text(ROW_ID), text(PARENT_ID), text("name")],
        ));
        (plan.name().clone(), plan)
    };
    Plan {
        sync: "s".into(),
        sync_id: "1".into(),
        started_at: Instant(0),
        state_with_data: true,
        sync_group_id: None,
        tables: names.iter().map(table).collect(),
    }
}

fn deletion(table: &str, name: Option<&str>, relations: &[(&str, &str)]) -> Deletion {
    let equal = |name: &str| Equal {
        column: "name".into(),
        field: Field::new("name", DataType::Utf8, true),
        value: Arc::new(StringArray::from(vec![name])),
    };
    let relation = |(table, parent): &(&str, &str)| Relation {
        table: TableName::new(*table),
        parent: TableName::new(*parent),
    };
    Deletion {
        table: TableName::new(table),
        groups: name.iter().map(|n| Group { any: false, equal: vec![equal(n)] }).collect(),
        relations: relations.iter().map(relation).collect(),
    }
}

/// Fills tables with `id, parent, name`, runs the deletion, and shows the ids that are left.
fn left(tables: &[(&str, &[(&str, &str, &str)])], deletion: &Deletion) -> Vec<String> {
    let names: Vec<_> = tables.iter().map(|(name, _)| *name).collect();
    let plan = plan(&names);
    let connection = Connection::open_in_memory().unwrap();
    for (name, rows) in tables {
        connection
            .execute_batch(&format!("CREATE TABLE {name} ({ROW_ID}, {PARENT_ID}, name)"))
            .unwrap();
        for (id, parent, text) in *rows {
            let insert = format!("INSERT INTO {name} VALUES (?1, nullif(?2, ''), nullif(?3, ''))");
            connection.execute(&insert, [id, parent, text]).unwrap();
        }
    }
    let removal = Removal::new(&Plain, &plan, deletion).unwrap();
    let values: Vec<Option<String>> = removal
        .parameters()
        .iter()
        .map(|parameter| {
            let values = parameter.value.as_any().downcast_ref::<StringArray>().unwrap();
            values.iter().next().flatten().map(str::to_owned)
        })
        .collect();
    for statement in removal.statements(|_| true).unwrap() {
        let values = rusqlite::params_from_iter(&values);
        connection.execute(&statement.sql, values).unwrap_or_else(|e| panic!("{e}: {statement:?}"));
    }
    let ids = |name: &str| -> String {
        let sql =
            format!("SELECT coalesce(group_concat({ROW_ID} ORDER BY {ROW_ID}), '') FROM {name}");
        connection.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    names.iter().map(|name| ids(name)).collect()
}

#[test]
fn a_table_with_two_parents_loses_the_rows_of_both() {
    let tables: [(&str, &[(&str, &str, &str)]); 4] = [
        ("root", &[("r1", "", "x"), ("r2", "", "y")]),
        ("a", &[("a1", "r1", ""), ("a2", "r2", "")]),
        ("b", &[("b1", "r1", ""), ("b2", "r2", "")]),
        ("leaf", &[("l1", "a1", ""), ("l2", "b1", ""), ("l3", "a2", ""), ("l4", "", "")]),
    ];
    let relations = [("a", "root"), ("b", "root"), ("leaf", "a"), ("leaf", "b")];
    let deletion = deletion("root", Some("x"), &relations);
    assert_eq!(left(&tables, &deletion), ["r2", "a2", "b2", "l3,l4"]);
}

#[test]
fn rows_of_a_table_may_belong_to_rows_of_the_same_table() {
    let tables: [(&str, &[(&str, &str, &str)]); 1] =
        [("tree", &[("1", "", "x"), ("2", "1", ""), ("3", "2", ""), ("4", "", "")])];
    // One relation is one step.
    let once = deletion("tree", Some("x"), &[("tree", "tree")]);
    assert_eq!(left(&tables, &once), ["3,4"]);
}

#[test]
fn what_depends_on_a_table_that_is_not_planned_stays() {
    let tables: [(&str, &[(&str, &str, &str)]); 2] =
        [("root", &[("r", "", "x")]), ("leaf", &[("l", "m", "")])];
    let relations = [("middle", "root"), ("leaf", "middle")];
    assert_eq!(left(&tables, &deletion("root", None, &relations)), ["", "l"]);
}

#[test]
fn a_column_or_a_mode_that_does_not_allow_it_is_said_before_anything_happens() {
    let mut plan = plan(&["root", "leaf"]);
    let mut odd = deletion("root", Some("x"), &[]);
    odd.groups[0].equal[0].column = "nobody".into();
    let error = Removal::new(&Plain, &plan, &odd).err().unwrap();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Schema, Some("nobody")));
    let leaf = plan.tables.get_mut(&TableName::new("leaf")).unwrap();
    leaf.write_mode = WriteMode::AppendDedup;
    let related = deletion("root", Some("x"), &[("leaf", "root")]);
    let error = Removal::new(&Plain, &plan, &related).err().unwrap();
    assert_eq!(
        (error.kind(), error.context_value("table")),
        (ErrorKind::Unsupported, Some("leaf"))
    );
    assert!(error.hint_text().unwrap().contains("write_mode"));
}
