//! Incremental reads lose nothing and send nothing twice, whatever transactions do meanwhile.

use highwater_core::{ErrorKind, NullCursor, WriteMode};
use highwater_testkit::postgres::Database;

use crate::server::{Open, Reader, database, error};

async fn events(rows: &str) -> (Database, Reader) {
    let database = database();
    database.execute(&format!(
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz DEFAULT now());
         INSERT INTO events VALUES {rows}"
    ));
    let reader = reader(&database, "at").await;
    (database, reader)
}

async fn reader(database: &Database, cursor: &str) -> Reader {
    let mut reader = Reader::new(database.url(), "events", Some(cursor)).await;
    // Only the id, so that rows are short to compare; the cursor need not be selected.
    let table = reader.table();
    let mut source = (*table.source).clone();
    source.schema = std::sync::Arc::new(source.schema.project(&[0]).unwrap());
    table.source = std::sync::Arc::new(source);
    reader
}

#[tokio::test]
async fn an_unchanged_table_sends_nothing_again() {
    let (database, mut reader) = events("(1), (2), (3)").await;
    assert_eq!(reader.sync().await, ["1", "2", "3"]);
    assert_eq!(reader.sync().await, [""; 0]);
    database.execute("UPDATE events SET at = now() WHERE id = 2; INSERT INTO events VALUES (4)");
    assert_eq!(reader.sync().await, ["2", "4"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn a_row_that_is_committed_late_arrives_once() {
    let (database, mut reader) = events("(1)").await;
    let late = Open::new(&database).await;
    late.run("BEGIN; INSERT INTO events VALUES (2)").await;
    database.execute("INSERT INTO events VALUES (3)");
    assert_eq!(reader.sync().await, ["1", "3"]);
    assert_eq!(reader.sync().await, [""; 0]);
    late.run("COMMIT").await;
    assert_eq!(reader.sync().await, ["2"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn a_transaction_that_was_idle_and_had_written_nothing_is_waited_for() {
    let (database, mut reader) = events("(1)").await;
    let idle = Open::new(&database).await;
    // now() is fixed, no transaction id is taken yet.
    idle.run("BEGIN; SELECT now()").await;
    database.execute("INSERT INTO events VALUES (2)");
    assert_eq!(reader.sync().await, ["1", "2"]);
    assert_eq!(reader.sync().await, [""; 0]);
    // As old as a real one would be, without waiting: the bound itself is looked at.
    let cursor = reader.cursor();
    let bound = cursor["lower_bound"].as_i64().unwrap();
    idle.run("INSERT INTO events VALUES (3); COMMIT").await;
    let written =
        database.value("SELECT (extract(epoch FROM at) * 1000000)::int8 FROM events WHERE id = 3");
    assert!(bound <= written.unwrap().parse::<i64>().unwrap());
    assert_eq!(reader.sync().await, ["3"]);
}

#[tokio::test]
async fn rows_of_savepoints_arrive() {
    let (database, mut reader) = events("(1)").await;
    let late = Open::new(&database).await;
    late.run(
        "BEGIN; INSERT INTO events VALUES (2); SAVEPOINT a; INSERT INTO events VALUES (3);
         UPDATE events SET at = now() WHERE id = 1; RELEASE a",
    )
    .await;
    database.execute("INSERT INTO events VALUES (4)");
    assert_eq!(reader.sync().await, ["1", "4"]);
    late.run("COMMIT").await;
    assert_eq!(reader.sync().await, ["1", "2", "3"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn equal_cursor_values_are_told_apart() {
    let (database, mut reader) = events("(1, '2026-01-01'), (2, '2026-01-01')").await;
    assert_eq!(reader.sync().await, ["1", "2"]);
    let now = "clock_timestamp()";
    database.execute(&format!(
        "DO $$ DECLARE t timestamptz := {now}; BEGIN INSERT INTO events VALUES (3, t), (4, t); END $$"
    ));
    assert_eq!(reader.sync().await, ["3", "4"]);
    database.execute("INSERT INTO events SELECT 5, at FROM events WHERE id = 4");
    assert_eq!(reader.sync().await, ["5"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn a_cursor_of_whole_days_sends_nothing_twice() {
    let database = database();
    database.execute(
        "CREATE TABLE events (id int PRIMARY KEY, day date DEFAULT current_date);
         INSERT INTO events VALUES (1), (2)",
    );
    let mut reader = reader(&database, "day").await;
    assert_eq!(reader.sync().await, ["1", "2"]);
    assert_eq!(reader.sync().await, [""; 0]);
    database.execute("INSERT INTO events VALUES (3)");
    assert_eq!(reader.sync().await, ["3"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn a_row_from_the_future_hides_nothing() {
    let (database, mut reader) = events("(1, '2999-01-01')").await;
    assert_eq!(reader.sync().await, ["1"]);
    database.execute("INSERT INTO events VALUES (2)");
    assert_eq!(reader.sync().await, ["2"]);
    database.execute("INSERT INTO events VALUES (3, 'infinity')");
    assert_eq!(reader.sync().await, ["3"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn a_cursor_that_lags_behind_the_clock_is_followed() {
    let (database, mut reader) = events("(1, '2020-01-01'), (2, '2020-01-02')").await;
    assert_eq!(reader.sync().await, ["1", "2"]);
    database.execute("INSERT INTO events VALUES (3, '2020-01-02'), (4, '2020-01-03')");
    assert_eq!(reader.sync().await, ["3", "4"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn null_cursors_are_read_once_left_out_or_refused() {
    let (database, mut reader) = events("(1, now()), (2, NULL)").await;
    assert_eq!(reader.sync().await, ["1", "2"]);
    database.execute("INSERT INTO events VALUES (3, NULL)");
    assert_eq!(reader.sync().await, ["3"]);
    database.execute("UPDATE events SET at = NULL WHERE id = 1");
    assert_eq!(reader.sync().await, ["1"]);
    assert_eq!(reader.sync().await, [""; 0]);
    reader.table().null_cursor = NullCursor::Exclude;
    database.execute("INSERT INTO events VALUES (4, NULL), (5, now())");
    assert_eq!(reader.sync().await, ["5"]);
    reader.table().null_cursor = NullCursor::Fail;
    database.execute("INSERT INTO events VALUES (6, NULL)");
    let refused = error(reader.try_sync().await);
    assert_eq!(refused.kind(), ErrorKind::Data);
    assert_eq!(refused.context_value("table"), Some("events"));
    // What was left out would never be found any more.
    reader.table().null_cursor = NullCursor::Include;
    assert_eq!(error(reader.try_sync().await).kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_rewritten_table_is_not_added_again() {
    let (database, mut reader) = events("(1), (2)").await;
    assert_eq!(reader.sync().await, ["1", "2"]);
    database.execute("INSERT INTO events VALUES (3)");
    database.execute("VACUUM FULL events");
    assert_eq!(reader.sync().await, ["3"], "VACUUM FULL keeps the ids");
    database.execute("ALTER TABLE events SET UNLOGGED");
    assert_eq!(error(reader.try_sync().await).kind(), ErrorKind::Schema);
    reader.table().write_mode = WriteMode::Overwrite;
    assert_eq!(reader.sync().await, ["1", "2", "3"], "a key makes it harmless");
}

#[tokio::test]
async fn a_table_that_was_vacuumed_beside_a_long_transaction_is_not_rewritten() {
    let database = database();
    // It holds back the snapshot of every session, whatever it writes.
    let long = Open::new(&database).await;
    long.run("CREATE TABLE other (id int); BEGIN; INSERT INTO other VALUES (1)").await;
    database.execute(
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz DEFAULT now());
         INSERT INTO events VALUES (1), (2)",
    );
    let mut reader = reader(&database, "at").await;
    assert_eq!(reader.sync().await, ["1", "2"]);
    database.execute("VACUUM FULL events");
    database.execute("INSERT INTO events VALUES (3)");
    assert_eq!(reader.sync().await, ["3"]);
    database.execute("ALTER TABLE events SET UNLOGGED");
    assert_eq!(error(reader.try_sync().await).kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn cursors_without_a_clock_find_late_and_small_values() {
    let (database, mut reader) = events("(5), (6)").await;
    reader.table().cursor_field = Some("id".into());
    assert_eq!(reader.sync().await, ["5", "6"]);
    let late = Open::new(&database).await;
    late.run("BEGIN; INSERT INTO events VALUES (1)").await;
    database.execute("INSERT INTO events VALUES (7)");
    assert_eq!(reader.sync().await, ["7"]);
    late.run("COMMIT").await;
    assert_eq!(reader.sync().await, ["1"]);
    assert_eq!(reader.sync().await, [""; 0]);
    let notes = reader.source.review(reader.plan.tables.values().next().unwrap()).await.unwrap();
    assert!(notes[0].contains("No clock writes `id`"), "{notes:?}");
}

#[tokio::test]
async fn prepared_transactions_hold_the_bound() {
    let (database, mut reader) = events("(1)").await;
    assert_eq!(reader.sync().await, ["1"]);
    let bound = reader.cursor()["lower_bound"].clone();
    database.execute("BEGIN; INSERT INTO events VALUES (2); PREPARE TRANSACTION 'p'");
    assert_eq!(reader.sync().await, [""; 0]);
    assert_eq!(reader.cursor()["lower_bound"], bound);
    database.execute("COMMIT PREPARED 'p'");
    assert_eq!(reader.sync().await, ["2"]);
    assert_ne!(reader.cursor()["lower_bound"], bound);
}

#[tokio::test]
async fn partitions_are_read_once_also_when_one_is_attached() {
    let database = database();
    database.execute(
        "CREATE TABLE events (id int, at timestamptz DEFAULT now()) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF events FOR VALUES FROM (0) TO (10);
         CREATE TABLE high (id int, at timestamptz DEFAULT now());
         INSERT INTO events VALUES (1); INSERT INTO high VALUES (11, '2020-01-01')",
    );
    let mut reader = reader(&database, "at").await;
    let names: Vec<String> =
        reader.source.discover(None).await.unwrap().iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["events", "high"]);
    assert_eq!(reader.sync().await, ["1"]);
    database.execute("INSERT INTO events VALUES (2)");
    database.execute("ALTER TABLE events ATTACH PARTITION high FOR VALUES FROM (10) TO (20)");
    assert_eq!(reader.sync().await, ["11", "2"]);
    database.execute("INSERT INTO events VALUES (12)");
    assert_eq!(reader.sync().await, ["12"]);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn views_are_read_by_their_content_and_say_so() {
    let (database, _) = events("(1, '2026-01-01'), (2, '2026-01-02'), (3, NULL)").await;
    database.execute("CREATE VIEW recent AS SELECT * FROM events");
    let mut reader = Reader::new(database.url(), "recent", Some("at")).await;
    assert_eq!(reader.sync().await.len(), 3);
    assert_eq!(reader.sync().await, [""; 0]);
    database.execute("INSERT INTO events VALUES (4, '2026-01-02'), (5, '2026-01-03')");
    let rows = reader.sync().await;
    assert!(rows[0].starts_with("4|") && rows[1].starts_with("5|") && rows.len() == 2, "{rows:?}");
    assert_eq!(reader.sync().await, [""; 0]);
    let plan = reader.plan.tables.values().next().unwrap();
    let highwater_core::SourceDelivery::Again(reason) = reader.source.delivery(plan) else {
        panic!("a view is not exact");
    };
    assert!(reason.contains("no row versions"), "{reason}");
    assert!(!reader.source.review(plan).await.unwrap().is_empty());
}

#[tokio::test]
async fn materialized_views_are_read_again_after_a_refresh() {
    let (database, _) = events("(1), (2)").await;
    database.execute("CREATE MATERIALIZED VIEW totals AS SELECT id, at FROM events");
    let mut reader = Reader::new(database.url(), "totals", Some("at")).await;
    assert_eq!(reader.sync().await.len(), 2);
    assert_eq!(reader.sync().await, [""; 0]);
    database.execute("INSERT INTO events VALUES (3); REFRESH MATERIALIZED VIEW totals");
    assert_eq!(reader.sync().await.len(), 3);
}

#[tokio::test]
async fn a_role_that_sees_no_other_sessions_loses_nothing() {
    let (database, _) = events("(1)").await;
    let role = format!("reader_{}", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON events TO {role}"));
    let late = Open::new(&database).await;
    late.run("BEGIN; SELECT now()").await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let mut reader = Reader::new(&url, "events", Some("at")).await;
    let notes = reader.source.review(reader.plan.tables.values().next().unwrap()).await.unwrap();
    assert!(notes[0].contains("pg_read_all_stats"), "{notes:?}");
    assert_eq!(reader.sync().await.len(), 1);
    assert!(reader.cursor()["lower_bound"].is_null());
    late.run("INSERT INTO events VALUES (2, '2000-01-01'); COMMIT").await;
    assert_eq!(reader.sync().await.len(), 1);
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn a_table_that_was_made_again_is_refused() {
    let (database, mut reader) = events("(1)").await;
    reader.sync().await;
    database.execute("DROP TABLE events; CREATE TABLE events (id int PRIMARY KEY, at timestamptz)");
    let refused = error(reader.try_sync().await);
    assert_eq!(refused.kind(), ErrorKind::Schema);
    assert!(refused.hint_text().unwrap().contains("state reset"));
}
