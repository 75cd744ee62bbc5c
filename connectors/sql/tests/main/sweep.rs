//! The end of a sweep, and what it remembers, run by a real engine.

use arrow_schema::{DataType, Field};
use highwater_core::plan::{EXTRACTED_AT, SOURCE_NAME};
use highwater_core::{Instant, Plan, WriteMode};
use highwater_sql::merge::{self, Counts};
use highwater_sql::{clear, ddl, derived, sweep};
use rusqlite::params;

use crate::{Bench, Plain};

fn begin(bench: &mut Bench) {
    bench.plan.sweep = true;
    bench.plan.reconcile = true;
    let seen = derived::seen(&bench.plan, "it's me", &Plain);
    for statement in ddl::create_table(&Plain, &seen, None).unwrap() {
        bench.connection.execute(&statement, []).unwrap();
    }
}

fn run(bench: &Bench) -> Plan {
    Plan {
        sync: "it's me".into(),
        sync_id: "1".into(),
        started_at: Instant(0),
        state_with_data: true,
        sync_group_id: None,
        tables: [(bench.plan.name().clone(), bench.plan.clone())].into(),
    }
}

fn end(bench: &mut Bench) -> usize {
    let run = run(bench);
    let mut deleted = 0;
    for step in sweep::steps(&Plain, &run, &bench.plan, str::to_owned) {
        let affected = match step.parameters {
            true => bench.connection.execute(&step.sql, params![bench.arrived, 9_i64]),
            false => bench.connection.execute(&step.sql, []),
        };
        let affected = affected.unwrap_or_else(|e| panic!("{e}: {}", step.sql));
        deleted += if step.counts == Counts::Deleted { affected } else { 0 };
    }
    let seen = derived::seen(&bench.plan, "it's me", &Plain).name.name;
    bench.connection.execute(&format!("DROP TABLE {seen}"), []).unwrap();
    (bench.plan.sweep, bench.plan.reconcile) = (false, false);
    deleted
}

#[test]
fn what_was_not_seen_is_deleted_with_a_record_and_a_tombstone() {
    let mut bench = Bench::new(WriteMode::AppendDedup, true);
    let (a, b) = (("u", Some("a"), Some(1), "a"), ("u", Some("b"), Some(5), "b"));
    let null = ("u", None, Some(2), "null");
    bench.merge(&[a, b, null, ("u", Some("c"), None, "c")]);
    begin(&mut bench);
    // Seen unchanged, seen in an older version, seen in two commits.
    assert_eq!(bench.merge(&[a, null]), (0, 0));
    assert_eq!(bench.merge(&[null, ("u", Some("n"), Some(1), "new")]), (1, 0));
    assert_eq!(end(&mut bench), 2);
    assert_eq!(bench.final_rows(), ["- 2 null", "a 1 a", "n 1 new"]);
    let history = "SELECT _highwater_op, name, updated_at, value FROM t_history \
                   ORDER BY _highwater_seq";
    let records =
        ["u a 1 a", "u b 5 b", "u - 2 null", "u c - c", "u n 1 new", "d b 5 -", "d c - -"];
    assert_eq!(bench.rows(history), records);
    bench.arrived += 2;
    bench.merge(&[("u", Some("b"), Some(4), "late")]);
    assert_eq!(bench.final_rows(), ["- 2 null", "a 1 a", "n 1 new"]);
    bench.merge(&[("u", Some("b"), Some(5), "again")]);
    assert_eq!(bench.final_rows()[2], "b 5 again");
}

#[test]
fn an_unchanged_row_beside_another_version_is_recorded() {
    let mut bench = Bench::new(WriteMode::AppendDedup, false);
    bench.merge(&[("u", Some("a"), Some(1), "a")]);
    begin(&mut bench);
    let rows = [("u", Some("a"), Some(1), "a"), ("u", Some("a"), Some(1), "a")];
    bench.merge(&rows);
    assert_eq!(bench.rows("SELECT count(*) FROM t_history"), ["1"]);
    bench.merge(&[rows[0], ("u", Some("a"), Some(2), "b"), rows[0]]);
    assert_eq!(bench.rows("SELECT count(*) FROM t_history"), ["4"]);
    assert_eq!(end(&mut bench), 0);
    assert_eq!(bench.final_rows(), ["a 2 b"]);
}

#[test]
fn in_overwrite_nothing_but_the_row_goes() {
    let mut bench = Bench::new(WriteMode::Overwrite, false);
    bench.merge(&[("u", Some("a"), Some(1), "a"), ("u", Some("b"), Some(1), "b")]);
    begin(&mut bench);
    bench.merge(&[("d", Some("b"), None, ""), ("u", Some("c"), Some(1), "c")]);
    assert_eq!(end(&mut bench), 1);
    assert_eq!(bench.final_rows(), ["c 1 c"]);
}

/// The table says which sync a row came from.
fn share(bench: &mut Bench) {
    let target = std::sync::Arc::make_mut(&mut bench.plan.target);
    let mut fields: Vec<_> = target.schema.fields().iter().cloned().collect();
    fields.push(Field::new(SOURCE_NAME, DataType::Utf8, true).into());
    target.schema = std::sync::Arc::new(arrow_schema::Schema::new(fields));
}

#[test]
fn a_sync_clears_only_what_is_its_own() {
    let mut bench = Bench::new(WriteMode::AppendDedup, true);
    let rows = [
        ("u", Some("a"), Some(1), ""),
        ("u", Some("b"), Some(1), ""),
        ("u", Some("c"), Some(1), ""),
    ];
    bench.merge(&rows);
    bench.merge(&[("d", Some("a"), Some(2), ""), ("d", Some("b"), Some(2), "")]);
    bench.merge(&[("u", Some("d"), Some(1), "")]);
    share(&mut bench);
    let mark = |table: &str| {
        format!(
            "ALTER TABLE {table} ADD COLUMN {SOURCE_NAME};
             UPDATE {table} SET {SOURCE_NAME} = CASE WHEN name IN ('a', 'd') THEN 'it''s me' ELSE 'other' END;"
        )
    };
    bench.connection.execute_batch(&(mark("t") + &mark("t_history"))).unwrap();
    let deletions = format!("UPDATE t_history SET {SOURCE_NAME} = NULL WHERE _highwater_op = 'd'");
    bench.connection.execute_batch(&deletions).unwrap();
    let mut deleted = Vec::new();
    for (table, statement) in clear::statements(&Plain, &run(&bench), &bench.plan, |_| true) {
        let rows = bench.connection.execute(&statement, []).unwrap_or_else(|e| panic!("{e}"));
        deleted.push((table.name, rows));
    }
    let expected = [("_highwater_t_tombstones", 1), ("t_history", 3), ("t", 1)];
    assert_eq!(deleted, expected.map(|(name, rows)| (name.to_owned(), rows)));
    assert_eq!(bench.rows("SELECT name FROM t"), ["c"]);
    let history = "SELECT name, _highwater_op FROM t_history ORDER BY _highwater_seq";
    assert_eq!(bench.rows(history), ["b u", "c u", "b d"]);
    assert_eq!(bench.rows("SELECT name FROM _highwater_t_tombstones"), ["b"]);
}

#[test]
fn rows_of_another_sync_stay() {
    let mut bench = Bench::new(WriteMode::Overwrite, false);
    share(&mut bench);
    bench
        .connection
        .execute_batch(&format!(
            "ALTER TABLE t ADD COLUMN {SOURCE_NAME}; \
             INSERT INTO t VALUES ('a', 1, '', 'it''s me'), ('b', 1, '', 'other'), ('c', 1, '', NULL)"
        ))
        .unwrap();
    begin(&mut bench);
    assert_eq!(end(&mut bench), 1);
    assert_eq!(bench.final_rows(), ["b 1 ", "c 1 "]);
}

#[test]
fn what_is_new_with_every_read_is_no_change() {
    let mut bench = Bench::new(WriteMode::AppendDedup, false);
    // The column that changes is one that the read itself brings.
    let rename = |bench: &mut Bench, from: &str, to: &str| {
        let target = std::sync::Arc::make_mut(&mut bench.plan.target);
        let renamed = |f: &std::sync::Arc<Field>| match f.name() == from {
            true => f.as_ref().clone().with_name(to),
            false => f.as_ref().clone(),
        };
        let fields: Vec<_> = target.schema.fields().iter().map(renamed).collect();
        target.schema = std::sync::Arc::new(arrow_schema::Schema::new(fields));
        for table in ["t", "t_history"] {
            let sql = format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}");
            bench.connection.execute(&sql, []).unwrap();
        }
    };
    rename(&mut bench, "value", EXTRACTED_AT);
    bench.merge(&[("u", Some("a"), Some(1), "monday"), ("u", Some("b"), Some(1), "monday")]);
    begin(&mut bench);
    bench.merge(&[("u", Some("a"), Some(1), "tuesday"), ("u", Some("b"), Some(2), "tuesday")]);
    end(&mut bench);
    assert_eq!(bench.rows("SELECT * FROM t ORDER BY name"), ["a 1 monday", "b 2 tuesday"]);
    assert_eq!(bench.rows("SELECT count(*) FROM t_history"), ["3"]);
}

#[test]
fn compaction_takes_a_deletion_without_a_cursor_by_its_arrival() {
    let mut bench = Bench::new(WriteMode::AppendDedup, false);
    bench.merge(&[("u", Some("a"), Some(5), "a"), ("u", Some("b"), Some(5), "b")]);
    bench.merge(&[("d", Some("a"), None, ""), ("d", Some("b"), None, "")]);
    bench.merge(&[("u", Some("b"), Some(1), "again"), ("u", Some("b"), Some(0), "older")]);
    assert_eq!(bench.final_rows(), ["b 1 again"]);
    let compact = merge::compact_history(&Plain, &bench.plan);
    assert_eq!(bench.connection.execute(&compact, []).unwrap(), 4);
    let left = "SELECT name, _highwater_op, updated_at FROM t_history ORDER BY name";
    assert_eq!(bench.rows(left), ["a d -", "b u 1"]);
}
