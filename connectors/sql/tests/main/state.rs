//! State of older versions, and the marks of what a rebuild leaves.

use std::sync::Arc;

use highwater_core::state::{FULL_REFRESH, TableRecord};
use highwater_core::{
    Cursor, CursorKey, ReadMode, SchemaChange, State, Table, TableName, TablePlan, WriteMode,
};
use highwater_sql::{Dialect, rebuild, state::StateSql};
use rusqlite::{Connection, params};
use serde_json::json;

use crate::Plain;

const SQL: StateSql<'static> = StateSql(&Plain);

fn columns(connection: &Connection) -> Vec<String> {
    let mut statement =
        connection.prepare("SELECT name FROM pragma_table_info('_highwater_tables')").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_state_of_an_older_version_is_read_as_it_is_and_upgraded() {
    let connection = Connection::open_in_memory().unwrap();
    let table = Plain.internal("tables");
    connection
        .execute_batch(&format!(
            "CREATE TABLE {table} (sync TEXT NOT NULL, table_namespace TEXT NOT NULL, \
             table_name TEXT NOT NULL, identity TEXT, columns TEXT NOT NULL, \
             rows_total BIGINT NOT NULL, finished_epoch BIGINT, finished_at BIGINT, \
             PRIMARY KEY (sync, table_namespace, table_name)); \
             INSERT INTO {table} VALUES ('s', '', 't', 'i', '[]', 7, 1, 2)"
        ))
        .unwrap();
    let read = |names: &[String]| -> (i64, i64, Option<i64>, i64, Option<i64>) {
        let sql = SQL.tables(|column| names.iter().any(|name| name == column));
        connection
            .query_row(&sql, ["s"], |row| {
                Ok((row.get(4)?, row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?))
            })
            .unwrap()
    };
    assert_eq!(read(&columns(&connection)), (7, 0, None, 0, None));
    for (column, statement) in SQL.upgrade() {
        assert!(!columns(&connection).iter().any(|name| name == column));
        connection.execute(&statement, []).unwrap();
    }
    assert_eq!(read(&columns(&connection)), (7, 0, None, 0, None));
    let saved = params!["s", "", "t", "i", "[]", 3, 4, 1];
    connection.execute(&SQL.save_table(), saved).unwrap();
    assert_eq!(read(&columns(&connection)), (10, 4, None, 1, None));
    let finished = params!["s", "", "t", 5, 6, 4, 99];
    connection.execute(&SQL.finish_table(), finished).unwrap();
    assert_eq!(read(&columns(&connection)), (10, 4, Some(4), 0, Some(99)));
    connection.execute(&SQL.next_generation(), params!["s", "", "t", 1]).unwrap();
    assert_eq!(read(&columns(&connection)), (10, 5, Some(4), 1, Some(99)));
    // A table made now has the same columns.
    let new = Connection::open_in_memory().unwrap();
    for statement in SQL.create() {
        new.execute_batch(&statement).unwrap();
    }
    assert_eq!(columns(&new), columns(&connection));
}

fn plan(generation: u64, read_mode: ReadMode, resumable: bool) -> TablePlan {
    let mut table = Table::new(TableName::new("t"), Vec::new());
    table.resumable = resumable;
    let table = Arc::new(table);
    let plan = TablePlan::new(Arc::clone(&table), table, read_mode, WriteMode::Replace);
    TablePlan { generation, ..plan }
}

#[test]
fn a_rebuild_goes_on_with_its_generation_only() {
    let resumable = plan(3, ReadMode::FullRefresh, true);
    let mark = rebuild::mark("run-1", &resumable);
    assert!(rebuild::goes_on(&mark, "run-2", &resumable));
    assert!(!rebuild::goes_on(&mark, "run-2", &plan(4, ReadMode::FullRefresh, true)));
    assert!(!rebuild::goes_on(&mark, "run-2", &plan(33, ReadMode::FullRefresh, true)));
    assert!(rebuild::goes_on(&mark, "run-2", &plan(3, ReadMode::Incremental, false)));
    // A full refresh that cannot be resumed has its own rows only.
    assert!(!rebuild::goes_on(&mark, "run-2", &plan(3, ReadMode::FullRefresh, false)));
    assert!(rebuild::goes_on(&mark, "run-1", &plan(3, ReadMode::FullRefresh, false)));
}

#[test]
fn only_rows_that_a_cursor_covers_are_kept_for_the_next_run() {
    let table = TableName::new("t");
    let mark = rebuild::mark("run-1", &plan(3, ReadMode::FullRefresh, true));
    let record = TableRecord {
        generation: 3,
        finished_generation: Some(2),
        rebuild: true,
        ..TableRecord::default()
    };
    let state = |record: TableRecord, keys: &[CursorKey]| State {
        cursors: keys.iter().map(|key| (key.clone(), Cursor(json!(1)))).collect(),
        tables: [(table.clone(), record)].into(),
        ..State::default()
    };
    let part = CursorKey::Partition(table.clone(), FULL_REFRESH.to_owned());
    let keep = |record: &TableRecord, keys: &[CursorKey]| {
        rebuild::may_go_on(&mark, &state(record.clone(), keys))
    };
    assert!(keep(&record, std::slice::from_ref(&part)));
    assert!(keep(&record, &[CursorKey::Table(table.clone())]));
    assert!(!keep(&record, &[]));
    assert!(!keep(&record, &[CursorKey::Table(TableName::new("u"))]));
    let with = |change: fn(&mut TableRecord)| {
        let mut changed = record.clone();
        change(&mut changed);
        changed
    };
    assert!(!keep(&with(|r| r.generation = 4), std::slice::from_ref(&part)));
    assert!(!keep(&with(|r| r.rebuild = false), std::slice::from_ref(&part)));
    assert!(!keep(&with(|r| r.finished_generation = Some(3)), std::slice::from_ref(&part)));
}

#[test]
fn what_was_left_is_fitted_to_the_rows_of_the_next_run() {
    use arrow_schema::{DataType, Field};
    let table = |fields: &[(&str, DataType, bool)]| {
        let fields = fields.iter().map(|(name, of, null)| Field::new(*name, of.clone(), *null));
        Table::new(TableName::new("t"), fields.collect())
    };
    let wanted = Arc::new(table(&[
        ("a", DataType::Int64, true),
        ("b", DataType::Utf8, true),
        ("new", DataType::Utf8, true),
    ]));
    let plan =
        TablePlan::new(Arc::clone(&wanted), wanted, ReadMode::FullRefresh, WriteMode::Replace);
    let changes = |present: &[(&str, DataType, bool)]| {
        rebuild::changes(&plan, &table(present), |field| Ok(field.clone()))
    };
    let present = [
        ("a", DataType::Int32, true),
        ("b", DataType::Utf8, false),
        ("gone", DataType::Utf8, false),
    ];
    let kinds: Vec<_> = changes(&present)
        .unwrap()
        .iter()
        .map(|change| match change {
            SchemaChange::AddColumn(f) => format!("add {}", f.name()),
            SchemaChange::WidenColumn { to, .. } => format!("widen {}", to.name()),
            SchemaChange::DropNotNull(f) => format!("null {}", f.name()),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["widen a", "null b", "add new", "null gone"]);
    let error = changes(&[("a", DataType::Utf8, true)]).unwrap_err();
    assert_eq!(error.context_value("column"), Some("a"));
}
