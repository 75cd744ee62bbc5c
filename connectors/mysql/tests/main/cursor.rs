//! Incremental reads lose nothing that the server's clock wrote, and send nothing twice.

use highwater_core::{ErrorKind, NullCursor};

use crate::server::{Other, Reader, database, source_as};

async fn events(cursor: &str) -> (String, Other, Reader) {
    let (name, mut other) = database().await;
    other
        .run(&format!(
            "CREATE TABLE events (id int PRIMARY KEY, at {cursor}, KEY (at));
             INSERT INTO events (id) VALUES (1), (2)"
        ))
        .await;
    let reader = Reader::new(&name, "events", Some("at")).await;
    (name, other, reader)
}

async fn ids(reader: &mut Reader) -> Vec<String> {
    let rows = reader.sync().await;
    rows.iter().map(|row| row.split('|').next().unwrap().to_owned()).collect()
}

const CLOCKS: [&str; 3] = [
    "datetime(6) DEFAULT CURRENT_TIMESTAMP(6)",
    "timestamp(6) DEFAULT CURRENT_TIMESTAMP(6)",
    "date DEFAULT CURRENT_DATE",
];

#[tokio::test]
async fn a_row_that_is_committed_late_arrives_once() {
    for clock in CLOCKS {
        let (name, mut other, mut reader) = events(clock).await;
        let mut late = Other::open(&name).await;
        late.run("BEGIN; INSERT INTO events (id) VALUES (3)").await;
        other.run("INSERT INTO events (id) VALUES (4)").await;
        assert_eq!(ids(&mut reader).await, ["1", "2", "4"], "{clock}");
        assert!(ids(&mut reader).await.is_empty(), "{clock}");
        late.run("COMMIT").await;
        assert_eq!(ids(&mut reader).await, ["3"], "{clock}");
        other.run("INSERT INTO events (id) VALUES (5)").await;
        assert_eq!(ids(&mut reader).await, ["5"], "{clock}");
        assert!(ids(&mut reader).await.is_empty(), "{clock}");
    }
}

#[tokio::test]
async fn a_row_from_the_future_hides_nothing() {
    for clock in &CLOCKS[..1] {
        let (_, mut other, mut reader) = events(clock).await;
        other.run("INSERT INTO events VALUES (9, '2999-01-01')").await;
        assert_eq!(ids(&mut reader).await, ["1", "2", "9"]);
        other.run("INSERT INTO events (id) VALUES (3)").await;
        assert_eq!(ids(&mut reader).await, ["3"]);
        assert!(ids(&mut reader).await.is_empty());
    }
}

#[tokio::test]
async fn the_zone_of_the_server_moves_no_bound() {
    // The server is behind UTC: a bound in UTC would be hours ahead of its wall clock. Its host is
    // ahead of UTC: taken as UTC, the start of a transaction would lie in the future.
    let (name, mut other, mut reader) = events(CLOCKS[0]).await;
    assert_eq!(other.one("SELECT @@system_time_zone").await, "JST");
    assert_eq!(other.one("SELECT @@time_zone").await, "-05:00");
    assert_eq!(ids(&mut reader).await, ["1", "2"]);
    let mut late = Other::open(&name).await;
    late.run("BEGIN; INSERT INTO events (id) VALUES (3)").await;
    for id in 4..7 {
        other.run(&format!("INSERT INTO events (id) VALUES ({id})")).await;
        if id == 4 {
            // Longer than the slack of the bound, which would hide a start that is misread.
            other.run("DO SLEEP(7)").await;
        }
        assert_eq!(ids(&mut reader).await, [id.to_string()]);
    }
    late.run("COMMIT").await;
    assert_eq!(ids(&mut reader).await, ["3"]);
}

#[tokio::test]
async fn instants_arrive_in_utc_after_a_look_at_the_transactions() {
    let (_, mut other, mut reader) = events("timestamp(6) NULL").await;
    other.run("DELETE FROM events; SET time_zone = '+00:00'").await;
    other.run("INSERT INTO events VALUES (1, '2024-03-31 02:30:00.5')").await;
    assert_eq!(reader.sync().await, ["1|2024-03-31 02:30:00.500000Z"]);
    other.run("INSERT INTO events VALUES (2, '2024-03-31 02:30:00.5')").await;
    assert_eq!(reader.sync().await, ["2|2024-03-31 02:30:00.500000Z"]);
}

#[tokio::test]
async fn rows_without_a_cursor_are_read_left_out_or_refused() {
    let (_, mut other, mut reader) = events("datetime(6) NULL DEFAULT CURRENT_TIMESTAMP(6)").await;
    other.run("INSERT INTO events VALUES (3, NULL)").await;
    assert_eq!(ids(&mut reader).await, ["1", "2", "3"]);
    other.run("INSERT INTO events VALUES (4, NULL)").await;
    assert_eq!(ids(&mut reader).await, ["4"]);
    reader.table().null_cursor = NullCursor::Fail;
    other.run("INSERT INTO events VALUES (5, NULL)").await;
    assert_eq!(reader.try_sync().await.unwrap_err().kind(), ErrorKind::Data);
}

#[tokio::test]
async fn numbers_and_texts_are_followed_and_the_plan_says_what_is_missed() {
    let (name, mut other) = database().await;
    other
        .run(
            "CREATE TABLE t (id bigint unsigned PRIMARY KEY, v varchar(9), d decimal(9,2));
             INSERT INTO t VALUES (1, 'a', 1.5), (18446744073709551614, 'B', 2.25)",
        )
        .await;
    for (cursor, next) in
        [("id", "18446744073709551615, 'b', 9"), ("v", "3, 'é''', 8"), ("d", "4, NULL, 9.25")]
    {
        let mut reader = Reader::new(&name, "t", Some(cursor)).await;
        assert!(reader.notes().await.iter().any(|note| note.contains("No clock")), "{cursor}");
        assert!(reader.sync().await.len() >= 2, "{cursor}");
        assert!(reader.sync().await.is_empty(), "{cursor}");
        other.run(&format!("INSERT INTO t VALUES ({next})")).await;
        assert_eq!(reader.sync().await.len(), 1, "{cursor}");
        assert!(reader.sync().await.is_empty(), "{cursor}");
    }
}

#[tokio::test]
async fn a_user_that_sees_no_others_is_told() {
    let (name, mut other, reader) = events(CLOCKS[0]).await;
    assert!(!reader.notes().await.iter().any(|note| note.contains("PROCESS")));
    other.run("CREATE USER IF NOT EXISTS blind").await;
    other.run(&format!("GRANT SELECT ON {name}.* TO blind")).await;
    let blind = source_as("blind", &name).await;
    let mut blind = Reader::of(blind, "events", Some("at")).await;
    let notes = blind.notes().await;
    assert!(notes.iter().any(|note| note.contains("GRANT PROCESS")), "{notes:?}");
    assert_eq!(ids(&mut blind).await, ["1", "2"]);
}

#[tokio::test]
async fn a_cursor_without_an_order_is_refused() {
    let (name, mut other) = database().await;
    other.run("CREATE TABLE t (id int, b blob, m time)").await;
    for column in ["b", "m"] {
        let reader = Reader::new(&name, "t", Some(column)).await;
        let table = reader.plan.tables.values().next().unwrap();
        let refused = reader.source.review(table).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{column}");
    }
}
