//! The source: types, snapshots, and what an incremental read sends.

use arrow_schema::{DataType, TimeUnit};
use highwater_core::{ErrorKind, NullCursor, State, TablePlan};

use crate::support::{File, planned, read, saved, sync, texts};

#[tokio::test]
async fn every_type_arrives_with_its_extremes_and_null() {
    let file = File::new(
        "CREATE TABLE t (i INTEGER, r DOUBLE, s VARCHAR(9), b BLOB, f BOOLEAN, d DATE,
           at DATETIME, z TIMESTAMPTZ, h TIME, p DECIMAL(20,2), n NUMERIC, x DECIMAL_TEXT(38,3),
           j JSON_TEXT, u UUID_TEXT, e DURATION, y NUMERIC_TEXT);
         INSERT INTO t VALUES (-9223372036854775808, 1e308, 'Zoë\n', x'00ff', 1, '2026-11-21',
           '2026-11-21T03:04:05.000006', '2026-11-21 03:04:05+02:00', '23:59:59.999999', 0.1,
           9007199254740993, '12345678901234567890123456789012345.678', '{\"a\": 1}',
           '0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11', 'P1M-2DT3S',
           '0.1000000000000000000000000000000000000000001');
         INSERT INTO t VALUES (NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,
           NULL,NULL,NULL);
         INSERT INTO t VALUES (9223372036854775807, -2.5e-308, '', x'', 0, '0000-01-01',
           '9999-12-31 23:59:59', '-infinity', '00:00:00', 123456789012345678, 1.5, '-0.001',
           'null', '00000000-0000-0000-0000-000000000000', 'PT0S', 'NaN')",
    );
    let table = file.table("t").await;
    let (batches, _) = read(&file, &planned(table, None), &State::default()).await.unwrap();
    assert_eq!(
        texts(&batches),
        [
            "-9223372036854775808|1e+308|Zoë\n|AP8=|true|2026-11-21|2026-11-21 03:04:05.000006|\
             2026-11-21 01:04:05.000000Z|23:59:59.999999|0.10|9007199254740993|\
             12345678901234567890123456789012345.678|{\"a\": 1}|\
             0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11|P1M-2DT3S|\
             0.1000000000000000000000000000000000000000001",
            "NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
            "9223372036854775807|-2.5e-308|||false|0000-01-01|9999-12-31 23:59:59.000000|-infinity|\
             00:00:00.000000|123456789012345678.00|1.5|-0.001|null|\
             00000000-0000-0000-0000-000000000000|PT0S|NaN",
        ]
    );
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_named_and_can_be_read_as_text() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INT, m);
         INSERT INTO t VALUES (1, 5, 1), (2, 'five', 'one')",
    );
    let table = file.table("t").await;
    let source = file.source().await;
    let error = source.review(&planned(table.clone(), None)).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Data, Some("m")));
    let as_text = |table: &highwater_core::Table, column: &str| {
        let mut table = table.clone();
        let fields = table.schema.fields().iter().map(|field| {
            if field.name() == column {
                arrow_schema::Field::new(column, DataType::Utf8, true)
            } else {
                field.as_ref().clone()
            }
        });
        table.schema = std::sync::Arc::new(arrow_schema::Schema::new(fields.collect::<Vec<_>>()));
        table
    };
    let table = as_text(&table, "m");
    let plan = planned(table.clone(), None);
    let error = read(&file, &plan, &State::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(
        (error.context_value("table"), error.context_value("column")),
        (Some("t"), Some("n"))
    );
    assert!(error.hint_text().unwrap().contains("type: text"));
    assert!(!error.full_message().contains("five"), "no value in an error");
    let plan = planned(as_text(&table, "n"), None);
    let (batches, _) = read(&file, &plan, &State::default()).await.unwrap();
    assert_eq!(texts(&batches), ["1|5|1", "2|five|one"]);
}

#[tokio::test]
async fn only_what_is_asked_for_is_discovered_in_order_of_name() {
    let file = File::new(
        "CREATE TABLE b (a); CREATE TABLE a (a); CREATE VIEW v AS SELECT a FROM a;
         CREATE TABLE _highwater_lease (a); CREATE TABLE a_history (a);",
    );
    let source = file.source().await;
    let names = |tables: Vec<highwater_core::Table>| -> Vec<String> {
        tables.into_iter().map(|t| t.name.to_string()).collect()
    };
    assert_eq!(names(source.discover(None).await.unwrap()), ["a", "a_history", "b", "v"]);
    let only = ["a*".to_owned(), "v".to_owned()];
    assert_eq!(names(source.discover(Some(&only)).await.unwrap()), ["a", "a_history", "v"]);
    file.run("CREATE VIEW broken AS SELECT x FROM gone");
    assert_eq!(names(source.discover(None).await.unwrap()), ["a", "a_history", "b", "v"]);
    let error = source.discover(Some(&["broken".to_owned()])).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("table")), (ErrorKind::Schema, Some("broken")));
}

#[tokio::test]
async fn a_second_sync_of_an_unchanged_table_sends_nothing() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP);
         INSERT INTO t VALUES (1, '2026-01-01 10:00:00'), (2, '2026-01-01T10:00:00'), (3, NULL)",
    );
    let plan = planned(file.table("t").await, Some("at"));
    let mut state = State::default();
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap().len(), 3);
    let before = state.clone();
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap(), [""; 0]);
    assert_eq!(before, state);
    assert_eq!(saved(&state, "t")["max"], "2026-01-01 10:00:00.000000");
    // The same instant in other spellings is a tie, not the past.
    file.run(
        "INSERT INTO t VALUES (4, '2026-01-01 10:00'), (5, '2026-01-01 10:00:00.000'),
         (6, '2026-01-01 09:59:59')",
    );
    assert_eq!(
        sync(&file, &plan, &mut state).await.unwrap(),
        ["4|2026-01-01 10:00:00.000000", "5|2026-01-01 10:00:00.000000"]
    );
}

#[tokio::test]
async fn zones_do_not_hide_rows() {
    let file = File::new(
        "CREATE TABLE t (id INT, at TIMESTAMPTZ); CREATE INDEX i ON t (at);
         INSERT INTO t VALUES (1, '2026-01-01 10:00:00Z')",
    );
    let plan = planned(file.table("t").await, Some("at"));
    let mut state = State::default();
    sync(&file, &plan, &mut state).await.unwrap();
    file.run(
        "INSERT INTO t VALUES (2, '2026-01-01 04:00:00-08:00'), (3, '2026-01-01 11:00:00+02')",
    );
    assert_eq!(
        sync(&file, &plan, &mut state).await.unwrap(),
        ["2|2026-01-01 12:00:00.000000Z"],
        "noon in UTC comes, nine o'clock is the past"
    );
}

#[tokio::test]
async fn a_row_from_the_future_does_not_stop_the_sync_for_ever() {
    let file = File::new(
        "CREATE TABLE t (id INT, day DATE);
         INSERT INTO t VALUES (1, '2020-01-01'), (2, '2999-01-01')",
    );
    let plan = planned(file.table("t").await, Some("day"));
    let mut state = State::default();
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap().len(), 2);
    assert_eq!(saved(&state, "t")["max"], "2020-01-01");
    file.run("INSERT INTO t VALUES (3, '2020-01-02'), (4, '2999-01-01')");
    let sent = sync(&file, &plan, &mut state).await.unwrap();
    assert_eq!(sent, ["3|2020-01-02", "4|2999-01-01"]);
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn ties_null_cursors_and_new_columns_lose_and_double_nothing() {
    let file = File::new(
        "CREATE TABLE t (id INT, v INT);
         INSERT INTO t VALUES (1, 7), (1, 7), (2, NULL)",
    );
    let mut state = State::default();
    let plan = planned(file.table("t").await, Some("v"));
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap().len(), 3);
    file.run(
        "ALTER TABLE t ADD COLUMN note TEXT DEFAULT 'none';
         INSERT INTO t VALUES (1, 7, 'third'), (3, NULL, 'new'), (4, 8, 'new')",
    );
    let plan = planned(file.table("t").await, Some("v"));
    let sent = sync(&file, &plan, &mut state).await.unwrap();
    assert_eq!(sent, ["1|7|third", "3|NULL|new", "4|8|new"]);
    let plan = TablePlan { null_cursor: NullCursor::Fail, ..plan };
    let error = sync(&file, &plan, &mut state).await.unwrap_err();
    assert_eq!((error.kind(), error.hint_text()), (ErrorKind::Data, Some("null_cursor: include")));
    let plan = TablePlan { null_cursor: NullCursor::Exclude, ..plan };
    let notes = file.source().await.review(&plan).await.unwrap();
    assert!(notes[0].contains("no index") && notes[1].contains("2 rows"), "{notes:?}");
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn numbers_are_compared_exactly() {
    let file = File::new(
        "CREATE TABLE t (v DECIMAL(38,2));
         INSERT INTO t VALUES (9007199254740993), (0.1)",
    );
    let mut state = State::default();
    let plan = TablePlan { lookback: 1, ..planned(file.table("t").await, Some("v")) };
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap().len(), 2);
    file.run("INSERT INTO t VALUES (9007199254740992), (9007199254740991), (9007199254740994)");
    let sent = sync(&file, &plan, &mut state).await.unwrap();
    assert_eq!(sent, ["9007199254740992.00", "9007199254740994.00"]);
}

#[tokio::test]
async fn text_is_ordered_by_bytes_whatever_the_column_says() {
    let file = File::new(
        "CREATE TABLE t (k TEXT COLLATE NOCASE); CREATE INDEX i ON t (k);
         INSERT INTO t VALUES ('a'), ('B')",
    );
    let mut state = State::default();
    let plan = planned(file.table("t").await, Some("k"));
    sync(&file, &plan, &mut state).await.unwrap();
    assert_eq!(saved(&state, "t")["max"], "a");
    file.run("INSERT INTO t VALUES ('A'), ('Z'), ('b')");
    assert_eq!(sync(&file, &plan, &mut state).await.unwrap(), ["b"]);
}

#[tokio::test]
async fn a_cursor_field_without_an_order_is_refused_with_those_that_have_one() {
    let file = File::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, j JSON_TEXT, d DECIMAL_TEXT(9,2), m INT, n INT);
         CREATE INDEX i ON t (m);
         INSERT INTO t VALUES (1, NULL, NULL, 5, 5), (2, NULL, NULL, 'late', 'late')",
    );
    let table = file.table("t").await;
    let source = file.source().await;
    for wrong in ["j", "gone"] {
        let error = source.review(&planned(table.clone(), Some(wrong))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong}");
        assert_eq!(error.hint_text(), Some("cursor: id   # or one of: id, d, m, n"));
    }
    // Numbers and texts in one column have no common order.
    let error = source.review(&planned(table.clone(), Some("m"))).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("found")), (ErrorKind::Data, Some("text")));
    let error =
        read(&file, &planned(table.clone(), Some("n")), &State::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(source.review(&planned(table, Some("id"))).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn rows_come_in_bounded_batches_from_one_snapshot() {
    let file = File::new(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT i, printf('%0300d', i) FROM n",
    );
    let plan = planned(file.table("t").await, None);
    let (batches, checkpoint) = read(&file, &plan, &State::default()).await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 20_000);
    assert!(batches.iter().all(|b| b.num_rows() <= 8192));
    assert!(checkpoint.cursors.is_empty(), "a full refresh has no cursor");
    assert_eq!(batches[0].schema().field(0).data_type(), &DataType::Int64);
}

#[tokio::test]
async fn a_timestamp_with_more_digits_than_microseconds_keeps_them() {
    let file = File::new(
        "CREATE TABLE t (at TIMESTAMP); INSERT INTO t VALUES ('2026-11-21 03:04:05.000000001')",
    );
    let table = file.table("t").await;
    let expected = DataType::Timestamp(TimeUnit::Nanosecond, None);
    assert_eq!(table.field("at").unwrap().data_type(), &expected);
}
