//! The merge statements, run by a real engine (SQLite in memory) through the plainest dialect.

// A broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deletion;
mod state;
mod sweep;

use std::sync::Arc;

use arrow_schema::{DataType, Field};
use highwater_core::{ReadMode, Result, SchemaChange, Table, TableName, TablePlan, WriteMode};
use highwater_sql::merge::{self, Counts};
use highwater_sql::{Dialect, ddl, derived};
use rusqlite::{Connection, params};

struct Plain;

impl Dialect for Plain {
    fn system(&self) -> &'static str {
        "plain"
    }
    fn identifier_bytes_max(&self) -> usize {
        63
    }
    fn internal(&self, name: &str) -> String {
        format!("\"_highwater_{name}\"")
    }
    fn column_type(&self, field: &Field) -> Result<String> {
        Ok(if field.data_type() == &DataType::Int64 { "INTEGER" } else { "TEXT" }.to_owned())
    }
    fn ordered(&self, expression: &str, _field: &Field) -> String {
        expression.to_owned()
    }
    fn parameter(&self, n: usize) -> String {
        format!("?{n}")
    }
    fn widen_column(&self, _table: &TableName, _to: &Field) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn drop_not_null(&self, _table: &TableName, _column: &str) -> Vec<String> {
        Vec::new()
    }
}

/// `(op, key, cursor, value)`
type Row<'a> = (&'a str, Option<&'a str>, Option<i64>, &'a str);

struct Bench {
    connection: Connection,
    plan: TablePlan,
    arrived: i64,
}

impl Bench {
    fn new(write_mode: WriteMode, key_is_nullable: bool) -> Self {
        let fields = vec![
            Field::new("name", DataType::Utf8, key_is_nullable),
            Field::new("updated_at", DataType::Int64, true),
            Field::new("value", DataType::Utf8, true),
        ];
        let table = Arc::new(Table::new(TableName::new("t"), fields).with_primary_key(["name"]));
        let plan = TablePlan {
            cursor_field: Some("updated_at".into()),
            order_by: Some("updated_at".into()),
            changes: vec![SchemaChange::CreateTable],
            ..TablePlan::new(Arc::clone(&table), table, ReadMode::Incremental, write_mode)
        };
        let connection = Connection::open_in_memory().unwrap();
        for table in derived::all(&plan, &Plain) {
            for statement in ddl::create_table(&Plain, &table, None).unwrap() {
                connection.execute(&statement, []).unwrap();
            }
        }
        Self { connection, plan, arrived: 0 }
    }

    /// Stages the rows, merges them, and returns `(written, deleted)`.
    fn merge(&mut self, rows: &[Row<'_>]) -> (usize, usize) {
        let columns = ddl::staging_columns(&Plain, &self.plan).unwrap();
        self.connection.execute(&format!("CREATE TEMP TABLE staging ({columns})"), []).unwrap();
        for (ordinal, (op, key, cursor, value)) in rows.iter().enumerate() {
            let ordinal = i64::try_from(ordinal).unwrap();
            self.connection
                .execute(
                    "INSERT INTO staging VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![key, cursor, value, ordinal, op],
                )
                .unwrap();
        }
        let (mut written, mut deleted) = (0, 0);
        for step in merge::steps(&Plain, "it's me", &self.plan, "staging", str::to_owned) {
            let affected = if step.parameters {
                self.connection.execute(&step.sql, params![self.arrived, 1_i64])
            } else {
                self.connection.execute(&step.sql, [])
            }
            .unwrap_or_else(|e| panic!("{e}: {}", step.sql));
            match step.counts {
                Counts::Written => written += affected,
                Counts::Deleted => deleted += affected,
                Counts::Nothing => {}
            }
        }
        self.connection.execute("DROP TABLE staging", []).unwrap();
        self.arrived += i64::try_from(rows.len()).unwrap();
        (written, deleted)
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut texts = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<String> = (0..columns)
                .map(|i| match row.get::<_, rusqlite::types::Value>(i).unwrap() {
                    rusqlite::types::Value::Null => "-".to_owned(),
                    rusqlite::types::Value::Integer(i) => i.to_string(),
                    rusqlite::types::Value::Text(t) => t,
                    other => format!("{other:?}"),
                })
                .collect();
            texts.push(cells.join(" "));
        }
        texts
    }

    fn final_rows(&self) -> Vec<String> {
        self.rows("SELECT name, updated_at, value FROM t ORDER BY name, updated_at, value")
    }
}

#[test]
fn append_dedup_keeps_the_greatest_cursor_and_every_record() {
    let mut bench = Bench::new(WriteMode::AppendDedup, false);
    let counts = bench.merge(&[
        ("u", Some("a"), Some(1), "first"),
        ("u", Some("b"), Some(5), "b5"),
        ("u", Some("a"), Some(3), "third"),
        ("u", Some("a"), Some(2), "second"),
    ]);
    assert_eq!(counts, (2, 0));
    assert_eq!(bench.final_rows(), ["a 3 third", "b 5 b5"]);
    // Older than what is there; a tie, where the later arrival wins; NULL, which is lowest.
    let counts = bench.merge(&[
        ("u", Some("a"), Some(2), "late and old"),
        ("u", Some("b"), Some(5), "tie"),
        ("u", Some("b"), None, "without cursor"),
        ("u", Some("c"), None, "only one"),
    ]);
    assert_eq!(counts, (2, 0));
    assert_eq!(bench.final_rows(), ["a 3 third", "b 5 tie", "c - only one"]);
    let history = bench.rows("SELECT _highwater_seq, name, value FROM t_history ORDER BY 1");
    assert_eq!(history.len(), 8);
    assert_eq!(history[0], "0 a first");
    assert_eq!(history[7], "7 c only one");
    // The same rows again change nothing.
    assert_eq!(bench.merge(&[("u", Some("a"), Some(3), "third")]), (0, 0));
}

#[test]
fn a_deletion_outlives_late_older_rows_and_yields_to_newer_ones() {
    let mut bench = Bench::new(WriteMode::AppendDedup, false);
    bench.merge(&[("u", Some("a"), Some(5), "a5"), ("u", Some("b"), Some(5), "b5")]);
    // The deletion of a is newer, that of b is older than its row.
    assert_eq!(
        bench.merge(&[("d", Some("a"), Some(7), ""), ("d", Some("b"), Some(4), "")]),
        (0, 1)
    );
    assert_eq!(bench.final_rows(), ["b 5 b5"]);
    bench.merge(&[("u", Some("a"), Some(6), "late")]);
    assert_eq!(bench.final_rows(), ["b 5 b5"], "a late older row brought a deleted row back");
    bench.merge(&[("u", Some("a"), Some(8), "new")]);
    assert_eq!(bench.final_rows(), ["a 8 new", "b 5 b5"]);
    bench.merge(&[("u", Some("a"), Some(7), "older")]);
    assert_eq!(bench.final_rows(), ["a 8 new", "b 5 b5"]);
    // Deleted and new in one batch: the cursor decides, then the arrival.
    bench.merge(&[("u", Some("b"), Some(9), "b9"), ("d", Some("b"), Some(9), "")]);
    assert_eq!(bench.final_rows(), ["a 8 new"]);
    let history = bench.rows("SELECT _highwater_op FROM t_history ORDER BY _highwater_seq");
    assert_eq!(history.concat(), "uudduuuud");
}

#[test]
fn keys_match_null_safely() {
    for mode in [WriteMode::Overwrite, WriteMode::AppendDedup] {
        let mut bench = Bench::new(mode, true);
        assert_eq!(bench.merge(&[("u", None, Some(1), "x"), ("u", Some("a"), Some(1), "y")]).0, 2);
        assert_eq!(bench.merge(&[("u", None, Some(2), "z"), ("u", None, Some(3), "zz")]).0, 1);
        assert_eq!(bench.final_rows(), ["- 3 zz", "a 1 y"]);
        // What is the same is left alone.
        assert_eq!(bench.merge(&[("u", None, Some(3), "zz")]).0, 0);
        assert_eq!(bench.merge(&[("d", None, Some(4), "")]), (0, 1));
        assert_eq!(bench.final_rows(), ["a 1 y"]);
    }
}

#[test]
fn replace_dedup_folds_all_batches_of_a_read_and_keeps_no_history() {
    let mut bench = Bench::new(WriteMode::ReplaceDedup, false);
    let rows = [("u", Some("a"), Some(2), "x"), ("u", Some("a"), Some(3), "y")];
    assert_eq!(bench.merge(&rows), (1, 0));
    assert_eq!(
        bench.merge(&[("u", Some("a"), Some(1), "older"), ("u", Some("b"), None, "z")]).0,
        1
    );
    assert_eq!(
        bench.merge(&[("d", Some("b"), Some(5), ""), ("d", Some("a"), Some(1), "")]),
        (0, 1)
    );
    assert_eq!(bench.merge(&[("u", Some("b"), Some(4), "older than its deletion")]), (0, 0));
    assert_eq!(bench.final_rows(), ["a 3 y"]);
    assert!(bench.rows("SELECT name FROM sqlite_schema WHERE name LIKE '%history'").is_empty());
}

#[test]
fn the_order_has_the_name_that_it_has_at_the_target() {
    for mode in [WriteMode::AppendDedup, WriteMode::ReplaceDedup] {
        let mut bench = Bench::new(mode, false);
        bench.plan.cursor_field = Some("a name that only the source has".into());
        bench.merge(&[("u", Some("a"), Some(2), "new"), ("u", Some("a"), Some(1), "old")]);
        assert_eq!(bench.final_rows(), ["a 2 new"]);
        bench.plan.order_by = None;
        bench.merge(&[("u", Some("a"), Some(1), "arrived later")]);
        assert_eq!(bench.final_rows(), ["a 1 arrived later"]);
    }
}

#[test]
fn a_compacted_history_has_the_latest_record_of_each_key() {
    let mut bench = Bench::new(WriteMode::AppendDedup, true);
    bench.merge(&[("u", Some("a"), Some(1), "1"), ("u", Some("a"), Some(3), "3")]);
    bench.merge(&[("u", Some("a"), Some(2), "2"), ("u", None, None, "x"), ("u", None, None, "y")]);
    bench.merge(&[("u", Some("b"), Some(1), "b"), ("d", Some("b"), Some(1), "")]);
    let compact = merge::compact_history(&Plain, &bench.plan);
    assert_eq!(bench.connection.execute(&compact, []).unwrap(), 4);
    let left = "SELECT name, _highwater_op, value FROM t_history ORDER BY _highwater_seq";
    assert_eq!(bench.rows(left), ["a u 3", "- u y", "b d "]);
    assert_eq!(bench.connection.execute(&compact, []).unwrap(), 0);
}

#[test]
fn overwrite_takes_what_arrives_last() {
    let mut bench = Bench::new(WriteMode::Overwrite, false);
    bench.merge(&[("u", Some("a"), Some(9), "one"), ("u", Some("a"), Some(1), "two")]);
    assert_eq!(bench.final_rows(), ["a 1 two"]);
    assert_eq!(bench.merge(&[("u", Some("a"), Some(1), "two")]), (0, 0));
    assert_eq!(bench.merge(&[("u", Some("a"), Some(0), "three")]), (1, 0));
    assert_eq!(bench.merge(&[("d", Some("a"), None, "")]), (0, 1));
    assert!(bench.final_rows().is_empty());
}

#[test]
fn long_names_stay_different() {
    let long = "x".repeat(60);
    let (a, b) = (format!("{long}aaa"), format!("{long}bbb"));
    let (a, b) = (Plain.derived_name(&a, "_history"), Plain.derived_name(&b, "_history"));
    assert!(a.len() <= 63 && b.len() <= 63 && a != b && a.ends_with("_history"), "{a} {b}");
    assert_eq!(Plain.derived_name("orders", "_history"), "orders_history");
}
