//! Clocks that step back: what is written afterwards has a cursor before the saved bound, and is
//! found all the same.

use highwater_core::CursorKey;
use serde_json::{Value, json};

use crate::server::{Open, Reader, database};

/// Moves the saved bound as if the last sync had read a clock that was ahead by so much.
fn read_ahead(reader: &mut Reader, seconds: i64) {
    let name = reader.plan.tables.keys().next().unwrap().clone();
    let cursor = reader.state.cursors.get_mut(&CursorKey::Table(name)).unwrap();
    let Value::Object(position) = &mut cursor.0 else { panic!("{cursor:?}") };
    let bound = position["lower_bound"].as_i64().expect("a bound");
    position.insert("lower_bound".into(), json!(bound + seconds * 1_000_000));
}

fn bound(reader: &Reader) -> i64 {
    reader.cursor()["lower_bound"].as_i64().expect("a bound")
}

#[tokio::test]
async fn a_clock_that_stepped_back_hides_nothing() {
    let database = database();
    // What an hour ahead wrote, and what the right time writes.
    database.execute(
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz DEFAULT now());
         INSERT INTO events VALUES (1, now() + interval '1 hour')",
    );
    let mut reader = Reader::new(database.url(), "events", Some("at")).await;
    assert_eq!(reader.sync().await.len(), 1);
    read_ahead(&mut reader, 3600);
    let ahead = bound(&reader);
    let late = Open::new(&database).await;
    late.run("BEGIN; INSERT INTO events VALUES (2)").await;
    database.execute("INSERT INTO events VALUES (3)");
    assert_eq!(reader.sync().await.len(), 1, "row 3");
    assert!(bound(&reader) < ahead, "the bound follows the clock, also backwards");
    late.run("COMMIT").await;
    assert_eq!(reader.sync().await.len(), 1, "row 2");
    assert_eq!(reader.sync().await, [""; 0]);
}

#[tokio::test]
async fn days_and_times_without_a_zone_survive_a_step_back() {
    for (declared, default) in [("timestamp", "localtimestamp"), ("date", "current_date")] {
        let database = database();
        database.execute(&format!(
            "CREATE TABLE events (id int PRIMARY KEY, at {declared} DEFAULT {default});
             INSERT INTO events VALUES (1, {default} + interval '3 days')"
        ));
        let mut reader = Reader::new(database.url(), "events", Some("at")).await;
        assert_eq!(reader.sync().await.len(), 1);
        read_ahead(&mut reader, 3 * 86_400);
        database.execute("INSERT INTO events VALUES (2)");
        assert_eq!(reader.sync().await.len(), 1, "{declared}");
        assert_eq!(reader.sync().await, [""; 0], "{declared}");
    }
}

/// A clock that went back and has caught up since cannot be told from one that never did: then
/// `lookback` widens the range that is read, and the versions that were delivered stay delivered.
#[tokio::test]
async fn lookback_finds_what_a_clock_wrote_that_was_behind_for_a_while() {
    let database = database();
    database.execute(
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz DEFAULT now());
         INSERT INTO events VALUES (1)",
    );
    let mut reader = Reader::new(database.url(), "events", Some("at")).await;
    reader.table().lookback = 600;
    assert_eq!(reader.sync().await.len(), 1);
    database.execute("INSERT INTO events VALUES (2, now() - interval '5 minutes')");
    assert_eq!(reader.sync().await.len(), 1);
    assert_eq!(reader.sync().await, [""; 0]);
}
