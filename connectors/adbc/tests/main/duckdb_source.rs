//! DuckDB as a source: types, snapshots, and what an incremental read sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_schema::DataType;
use highwater_core::types::DECLARED;
use highwater_core::{
    Completion, ErrorKind, LogicalType, Message, NullCursor, Output, State, TablePlan,
};

use crate::reading::{plan_of, planned, read, sync, table, texts};
use crate::support::File;

/// What every type gives: an extreme value, another one.
const TYPES: [(&str, &str, &str, &str, &str); 32] = [
    ("BOOLEAN", "true", "true", "false", "false"),
    ("TINYINT", "-128", "-128", "127", "127"),
    ("UTINYINT", "255", "255", "0", "0"),
    ("SMALLINT", "-32768", "-32768", "32767", "32767"),
    ("USMALLINT", "65535", "65535", "0", "0"),
    ("INTEGER", "-2147483648", "-2147483648", "1", "1"),
    ("UINTEGER", "4294967295", "4294967295", "0", "0"),
    ("BIGINT", "-9223372036854775808", "-9223372036854775808", "1", "1"),
    ("UBIGINT", "18446744073709551615", "18446744073709551615", "0", "0"),
    (
        "HUGEINT",
        "-170141183460469231731687303715884105728",
        "-170141183460469231731687303715884105728",
        "170141183460469231731687303715884105727",
        "170141183460469231731687303715884105727",
    ),
    (
        "UHUGEINT",
        "340282366920938463463374607431768211455",
        "340282366920938463463374607431768211455",
        "0",
        "0",
    ),
    ("FLOAT", "0.1", "0.1", "'nan'", "NaN"),
    ("DOUBLE", "1e308", "1e+308", "'-inf'", "-Infinity"),
    ("DECIMAL(4,1)", "999.9", "999.9", "-0.1", "-0.1"),
    (
        "DECIMAL(38,10)",
        "9999999999999999999999999999.0123456789",
        "9999999999999999999999999999.0123456789",
        "0",
        "0.0000000000",
    ),
    ("VARCHAR", "'Zoë\n'", "Zoë\n", "''", ""),
    ("BLOB", "'\\x00\\xFF'", "AP8=", "''", ""),
    ("BIT", "'010101'", "010101", "'1'", "1"),
    (
        "UUID",
        "'0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11'",
        "0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11",
        "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ),
    ("JSON", "'{\"a\":  1}'", "{\"a\":  1}", "'null'", "null"),
    ("DATE", "'9999-12-31'", "9999-12-31", "'-infinity'", "-infinity"),
    ("TIME", "'23:59:59.999999'", "23:59:59.999999", "'00:00:00'", "00:00:00.000000"),
    ("TIMETZ", "'23:59:59.5+02'", "23:59:59.5+02", "'00:00:00-15:59'", "00:00:00-15:59"),
    (
        "TIMESTAMP",
        "'2026-11-21 03:04:05.000006'",
        "2026-11-21 03:04:05.000006",
        "'infinity'",
        "infinity",
    ),
    ("TIMESTAMP_S", "'2026-11-21 03:04:05'", "2026-11-21 03:04:05", "'-infinity'", "-infinity"),
    (
        "TIMESTAMP_MS",
        "'2026-11-21 03:04:05.006'",
        "2026-11-21 03:04:05.006",
        "'1700-01-01'",
        "1700-01-01 00:00:00.000",
    ),
    (
        "TIMESTAMP_NS",
        "'2026-11-21 03:04:05.000000007'",
        "2026-11-21 03:04:05.000000007",
        "'1970-01-01'",
        "1970-01-01 00:00:00.000000000",
    ),
    (
        "TIMESTAMPTZ",
        "'2026-11-21 03:04:05.000006+02'",
        "2026-11-21 01:04:05.000006Z",
        "'-infinity'",
        "-infinity",
    ),
    ("INTERVAL", "'1 month -2 days 3 seconds'", "P1M-2DT3S", "'0 days'", "PT0S"),
    ("ENUM('sad', 'it''s')", "'it''s'", "it's", "'sad'", "sad"),
    ("INTEGER[]", "[1, NULL]", "[1,null]", "[]", "[]"),
    ("VARCHAR[2]", "['a', NULL]", "[\"a\",null]", "['', '']", "[\"\",\"\"]"),
];

#[tokio::test]
async fn every_type_arrives_with_its_extremes_and_null() {
    let Some(file) = File::new() else { return };
    let columns: Vec<_> =
        TYPES.iter().enumerate().map(|(at, (kind, ..))| format!("c{at} {kind}")).collect();
    let values = |value: fn(
        &(&'static str, &'static str, &'static str, &'static str, &'static str),
    ) -> &'static str| { TYPES.iter().map(value).collect::<Vec<_>>() };
    file.run(&format!("CREATE TABLE t ({})", columns.join(", ")));
    file.run(&format!("INSERT INTO t VALUES ({})", values(|t| t.1).join(", ")));
    file.run("INSERT INTO t (c0) VALUES (NULL)");
    file.run(&format!("INSERT INTO t VALUES ({})", values(|t| t.3).join(", ")));
    let source = file.source().await;
    let found = table(source.as_ref(), "t").await;
    let (batches, _) =
        read(source.as_ref(), &planned(found, None), &State::default()).await.unwrap();
    let nulls = vec!["NULL"; TYPES.len()];
    let expected = [values(|t| t.2), nulls, values(|t| t.4)];
    let rows = texts(&batches);
    for (row, expected) in rows.iter().zip(&expected) {
        let row: Vec<_> = row.split('|').collect();
        for ((found, expected), (kind, ..)) in row.iter().zip(expected).zip(&TYPES) {
            assert_eq!(found, expected, "{kind}");
        }
    }
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn nested_types_keep_what_is_inside() {
    let Some(file) = File::new() else { return };
    file.run(
        "CREATE TABLE t (s STRUCT(h HUGEINT, \"a b\" STRUCT(t TIMETZ, f BOOLEAN)[]),
           m MAP(UUID, DECIMAL(9,2)), u UNION(n INTEGER, s VARCHAR), us UNION(h HUGEINT)[],
           i STRUCT(i INTERVAL), e ENUM('x')[], d DATE[])",
    );
    file.run(
        "INSERT INTO t VALUES (
           {h: 170141183460469231731687303715884105727, 'a b': [{t: '01:00:00+01', f: true}, NULL]},
           map {'0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11': 1.50}, 'text', [union_value(h := 5)],
           {i: interval '300000 hours'}, ['x'], ['-infinity'])",
    );
    file.run("INSERT INTO t VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL)");
    let source = file.source().await;
    let found = table(source.as_ref(), "t").await;
    let declared = &found.field("us").unwrap().metadata()[DECLARED];
    assert_eq!(declared, "duckdb:UNION(h HUGEINT)[]");
    let logical = LogicalType::of(found.field("u").unwrap()).unwrap();
    assert_eq!(logical, LogicalType::Json);
    let (batches, _) =
        read(source.as_ref(), &planned(found, None), &State::default()).await.unwrap();
    assert_eq!(
        texts(&batches),
        [
            "{\"h\":170141183460469231731687303715884105727,\
              \"a b\":[{\"t\":\"01:00:00+01\",\"f\":true},null]}|\
             {\"0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11\":1.50}|{\"s\":\"text\"}|[{\"h\":5}]|\
             {\"i\":\"300000:00:00\"}|[\"x\"]|[\"-infinity\"]",
            "NULL|NULL|NULL|NULL|NULL|NULL|NULL",
        ]
    );
}

#[tokio::test]
async fn what_arrow_cannot_hold_is_an_error_and_no_other_value() {
    let Some(file) = File::new() else { return };
    file.run(
        "CREATE TABLE t (i INTERVAL); INSERT INTO t VALUES (to_microseconds(9223372036854775807))",
    );
    let source = file.source().await;
    let plan = planned(table(source.as_ref(), "t").await, None);
    let error = read(source.as_ref(), &plan, &State::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
}

#[tokio::test]
async fn tables_and_views_are_found_with_keys_and_declared_types() {
    let Some(file) = File::new() else { return };
    file.run(
        "CREATE SCHEMA s; CREATE SCHEMA _highwater_x; CREATE TABLE _highwater_x.t (a INTEGER);
         CREATE TABLE b (a INTEGER); CREATE TABLE _highwater_lease (a INTEGER);
         CREATE TABLE s.p (a INTEGER, b VARCHAR NOT NULL, c DECIMAL(9,2), PRIMARY KEY (b, a));
         CREATE VIEW v AS SELECT a, c FROM s.p; CREATE TABLE \"we\"\"ird é\" (\"x y\" INTEGER)",
    );
    let source = file.source().await;
    let tables = source.discover(None).await.unwrap();
    let names: Vec<_> = tables.iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["b", "v", "we\"ird é", "s.p"]);
    let keyed = &tables[3];
    assert_eq!(keyed.primary_key, ["b", "a"]);
    let nullable: Vec<_> = keyed.schema.fields().iter().map(|f| f.is_nullable()).collect();
    assert_eq!(nullable, [false, false, true]);
    assert_eq!(keyed.field("c").unwrap().metadata()[DECLARED], "duckdb:DECIMAL(9,2)");
    file.run("INSERT INTO s.p VALUES (1, 'x', 1.5); INSERT INTO \"we\"\"ird é\" VALUES (7)");
    for (name, rows) in [("v", "1|1.50"), ("we\"ird é", "7"), ("s.p", "1|x|1.50")] {
        let plan = planned(table(source.as_ref(), name).await, None);
        let (batches, _) = read(source.as_ref(), &plan, &State::default()).await.unwrap();
        assert_eq!(texts(&batches), [rows]);
    }
}

#[tokio::test]
async fn a_table_that_has_changed_since_it_was_planned_is_told() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t (a INTEGER, b INTEGER)");
    let source = file.source().await;
    let plan = planned(table(source.as_ref(), "t").await, None);
    for change in ["ALTER TABLE t ALTER a TYPE VARCHAR", "ALTER TABLE t DROP a", "DROP TABLE t"] {
        file.run(change);
        let error = read(source.as_ref(), &plan, &State::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{change}");
        assert_eq!(error.context_value("table"), Some("t"), "{change}");
    }
}

#[tokio::test]
async fn a_second_sync_sends_what_is_new_at_the_boundary_too() {
    let Some(file) = File::new() else { return };
    file.run(
        "CREATE TABLE t (id INTEGER, moment TIMESTAMP);
         INSERT INTO t VALUES (1, '2026-01-01 10:00:00'), (2, '2026-01-01 10:00:00'), (3, NULL)",
    );
    let source = file.source().await;
    let plan = planned(table(source.as_ref(), "t").await, Some("moment"));
    let mut state = State::default();
    assert_eq!(sync(source.as_ref(), &plan, &mut state).await.len(), 3);
    assert_eq!(sync(source.as_ref(), &plan, &mut state).await, [""; 0]);
    file.run(
        "INSERT INTO t VALUES (4, '2026-01-01 10:00:00'), (5, '2026-01-01 09:59:59'),
           (1, '2026-01-01 10:00:00'), (6, '2026-01-01 10:00:00.000001'), (7, NULL)",
    );
    // A second row that equals a delivered one is a row of its own.
    let expected = [
        "1|2026-01-01 10:00:00.000000",
        "4|2026-01-01 10:00:00.000000",
        "6|2026-01-01 10:00:00.000001",
        "7|NULL",
    ];
    assert_eq!(sync(source.as_ref(), &plan, &mut state).await, expected);
    assert_eq!(sync(source.as_ref(), &plan, &mut state).await, [""; 0]);
    let plan = TablePlan { null_cursor: NullCursor::Exclude, ..plan };
    let notes = source.review(&plan).await.unwrap();
    assert_eq!(notes, ["2 rows without `moment` are left out"]);
}

#[tokio::test]
async fn positions_of_every_order_find_what_follows_them() {
    let Some(file) = File::new() else { return };
    for (kind, first, before, next) in [
        ("BIGINT", "-5", "-6", "-4"),
        ("HUGEINT", "99999999999999999999", "9", "100000000000000000000"),
        ("DECIMAL(18,3)", "0.100", "0.099", "0.101"),
        ("FLOAT", "0.1", "0.05", "'nan'"),
        ("DATE", "'1999-12-31'", "'0001-01-01 (BC)'", "'2000-01-01'"),
        ("TIME", "'03:00:00'", "'02:59:59.999999'", "'03:00:00.000001'"),
        ("TIMESTAMP_S", "'2020-01-01'", "'0044-03-15 (BC)'", "'2020-01-01 00:00:01'"),
        ("TIMESTAMP_NS", "'2020-01-01'", "'2019-12-31'", "'2020-01-01 00:00:00.000000001'"),
        (
            "TIMESTAMPTZ",
            "'2020-01-01 00:00:00Z'",
            "'2020-01-01 01:59:59+02'",
            "'2020-01-01 02:00:01+02'",
        ),
        (
            "UUID",
            "'7fffffff-0000-0000-0000-000000000000'",
            "'10000000-0000-0000-0000-000000000000'",
            "'80000000-0000-0000-0000-000000000000'",
        ),
        ("VARCHAR", "'it''s Z'", "'A'", "'it''s a'"),
        ("VARCHAR COLLATE NOCASE", "'B'", "'A'", "'a'"),
    ] {
        file.run(&format!("CREATE OR REPLACE TABLE t (id INTEGER, c {kind})"));
        file.run(&format!("INSERT INTO t VALUES (1, {first})"));
        let source = file.source().await;
        let plan = planned(table(source.as_ref(), "t").await, Some("c"));
        source.review(&plan).await.unwrap();
        let mut state = State::default();
        assert_eq!(sync(source.as_ref(), &plan, &mut state).await.len(), 1, "{kind}");
        file.run(&format!("INSERT INTO t VALUES (2, {before}), (3, {next}), (4, {first})"));
        let ids: Vec<_> = sync(source.as_ref(), &plan, &mut state)
            .await
            .iter()
            .map(|row| row.split('|').next().unwrap().to_owned())
            .collect();
        assert_eq!(ids, ["3", "4"], "{kind}");
    }
}

#[tokio::test]
async fn a_cursor_field_without_an_order_is_refused_with_those_that_have_one() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t (id INTEGER, z TIMETZ, b BIT, e ENUM('x'), j JSON, l INTEGER[])");
    let source = file.source().await;
    let found = table(source.as_ref(), "t").await;
    for wrong in ["z", "b", "e", "j", "l", "gone"] {
        let error = source.review(&planned(found.clone(), Some(wrong))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong}");
        assert_eq!(error.hint_text(), Some("cursor: id   # or one of: id"));
    }
    assert_eq!(source.review(&planned(found, Some("id"))).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn rows_come_in_bounded_batches_and_stop_when_asked() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t AS SELECT range AS id, repeat('x', 100) AS s FROM range(300000)");
    let source = file.source().await;
    let plan = plan_of(planned(table(source.as_ref(), "t").await, None));
    let partitions = source.partitions(&plan, &State::default()).await.unwrap();
    let stopping = Arc::new(AtomicBool::new(false));
    let (output, mut messages) = Output::bounded(1, stopping.clone());
    let count = async {
        let mut rows = Vec::new();
        while let Some(Message::Batch(batch)) = messages.recv().await {
            assert!(batch.rows.get_array_memory_size() < 32 << 20);
            rows.push(batch.rows.num_rows());
            stopping.store(true, Ordering::Relaxed);
        }
        rows
    };
    let state = State::default();
    let (completion, rows) =
        tokio::join!(source.read(&plan, &partitions[0], &state, output), count);
    assert_eq!(completion.unwrap(), Completion::Stopped);
    assert!(rows.len() < 4, "it goes on although it was asked to stop: {rows:?}");
    assert!(rows.iter().all(|rows| *rows < 70_000), "{rows:?}");
}

#[tokio::test]
async fn one_snapshot_while_another_session_writes() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t AS SELECT range AS id, repeat('x', 200) AS s FROM range(200000)");
    // The destination holds the file for writing; the source shares it.
    let destination = file.destination().await;
    destination.check().await.unwrap();
    let source = file.source().await;
    let plan = plan_of(planned(table(source.as_ref(), "t").await, None));
    let partitions = source.partitions(&plan, &State::default()).await.unwrap();
    let (output, mut messages) = Output::bounded(1, Arc::new(AtomicBool::new(false)));
    let collect = async {
        let (mut rows, mut changed) = (0, false);
        while let Some(Message::Batch(batch)) = messages.recv().await {
            rows += batch.rows.num_rows();
            if !changed {
                changed = true;
                file.run("DELETE FROM t WHERE id >= 10");
            }
        }
        rows
    };
    let state = State::default();
    let (completion, rows) =
        tokio::join!(source.read(&plan, &partitions[0], &state, output), collect);
    assert_eq!(completion.unwrap(), Completion::Complete);
    assert_eq!(rows, 200_000);
    assert_eq!(file.rows("SELECT count(*) FROM t"), ["10"]);
}

#[tokio::test]
async fn a_column_is_read_as_text_where_the_user_wants_it() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t (d DATE, n BIGINT); INSERT INTO t VALUES ('2026-11-21', 5)");
    let source = file.source().await;
    let mut found = table(source.as_ref(), "t").await;
    let fields = found.schema.fields().iter();
    let fields = fields.map(|f| arrow_schema::Field::new(f.name(), DataType::Utf8, true));
    found.schema = Arc::new(arrow_schema::Schema::new(fields.collect::<Vec<_>>()));
    let (batches, _) =
        read(source.as_ref(), &planned(found, None), &State::default()).await.unwrap();
    assert_eq!(texts(&batches), ["2026-11-21|5"]);
}

#[tokio::test]
async fn the_place_is_the_file_whatever_leads_to_it() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t (a INTEGER)");
    let place = file.source().await.place().await.unwrap();
    assert!(place.is_some());
    assert_eq!(place, file.destination().await.place().await.unwrap());
}

#[tokio::test]
async fn another_reader_may_have_the_file_open() {
    let Some(file) = File::new() else { return };
    file.run("CREATE TABLE t AS SELECT range AS id FROM range(5)");
    let (one, other) = (file.source().await, file.source().await);
    let plan = planned(table(one.as_ref(), "t").await, None);
    let state = State::default();
    let (a, b) =
        tokio::join!(read(one.as_ref(), &plan, &state), read(other.as_ref(), &plan, &state));
    assert_eq!(texts(&a.unwrap().0).len() + texts(&b.unwrap().0).len(), 10);
    // A file that nobody may write is read as well.
    let mut rights = std::fs::metadata(&file.path).unwrap().permissions();
    rights.set_readonly(true);
    std::fs::set_permissions(&file.path, rights).unwrap();
    assert_eq!(texts(&read(one.as_ref(), &plan, &state).await.unwrap().0).len(), 5);
}
