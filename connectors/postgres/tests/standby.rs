//! Reading from a hot standby, which sees neither the open transactions of its primary nor which
//! of their ids are still running: the whole table is scanned, and nothing is lost or sent twice.

use highwater_core::ErrorKind;
use highwater_testkit::postgres::{Database, Options, Postgres};

use crate::server::{Open, Reader, error};

/// A primary with a table of events, its standby, and a reader of the standby.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    database: Database,
}

impl Pair {
    fn start() -> Self {
        let primary = Postgres::start(&Options::default());
        let database = primary.create_database();
        database.execute(
            "CREATE TABLE events (id int PRIMARY KEY, at timestamptz DEFAULT now());
             INSERT INTO events VALUES (1)",
        );
        let standby = primary.start_standby();
        Self { primary, standby, database }
    }

    /// The rows of the next sync, by their ids, once the standby has everything.
    async fn sync(&self, reader: &mut Reader) -> Vec<String> {
        self.standby.catch_up(&self.primary);
        ids(reader.sync().await)
    }

    async fn reader(&self, cluster: &Postgres) -> Reader {
        Reader::new(&cluster.url(self.database.name()), "events", Some("at")).await
    }
}

fn ids(rows: Vec<String>) -> Vec<String> {
    rows.into_iter().map(|row| row.split('|').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_standby_is_recognised_and_misses_nothing() {
    let pair = Pair::start();
    let mut reader = pair.reader(&pair.standby).await;
    let notes = reader.source.review(reader.plan.tables.values().next().unwrap()).await.unwrap();
    assert!(notes[0].contains("standby") && notes[0].contains("whole table"), "{notes:?}");
    let late = Open::new(&pair.database).await;
    late.run(
        "BEGIN; INSERT INTO events VALUES (2, '2001-01-01'); SAVEPOINT a;
         INSERT INTO events VALUES (3, NULL); UPDATE events SET at = now() WHERE id = 1",
    )
    .await;
    let idle = Open::new(&pair.database).await;
    idle.run("BEGIN; SELECT now()").await;
    pair.database.execute("INSERT INTO events VALUES (4, now()), (5, '2999-01-01')");
    assert_eq!(pair.sync(&mut reader).await, ["1", "4", "5"]);
    assert!(reader.cursor()["lower_bound"].is_null(), "nobody knows what is open on the primary");
    assert_eq!(pair.sync(&mut reader).await, [""; 0]);
    late.run("RELEASE a; COMMIT").await;
    assert_eq!(pair.sync(&mut reader).await, ["1", "2", "3"]);
    idle.run("INSERT INTO events VALUES (6, '2001-01-01'); COMMIT").await;
    assert_eq!(pair.sync(&mut reader).await, ["6"]);
    assert_eq!(pair.sync(&mut reader).await, [""; 0]);
}

#[tokio::test]
async fn a_standby_that_lags_behind_what_was_read_is_waited_for() {
    let pair = Pair::start();
    let mut at_primary = pair.reader(&pair.primary).await;
    let mut at_standby = pair.reader(&pair.standby).await;
    pair.standby.catch_up(&pair.primary);
    pair.standby.pause_replay();
    pair.database.execute("INSERT INTO events VALUES (2)");
    assert_eq!(ids(at_primary.sync().await), ["1", "2"]);
    at_standby.state = at_primary.state.clone();
    let lags = error(at_standby.try_sync().await);
    assert_eq!(lags.kind(), ErrorKind::Transient, "{lags}");
    assert_eq!(lags.context_value("table"), Some("events"));
    pair.standby.resume_replay();
    assert_eq!(pair.sync(&mut at_standby).await, [""; 0]);
    pair.database.execute("INSERT INTO events VALUES (3)");
    assert_eq!(pair.sync(&mut at_standby).await, ["3"]);
    // And back: the position of a standby holds at the primary.
    at_primary.state = at_standby.state.clone();
    pair.database.execute("INSERT INTO events VALUES (4)");
    assert_eq!(ids(at_primary.sync().await), ["4"]);
}

#[tokio::test]
async fn a_standby_that_became_the_primary_goes_on() {
    let pair = Pair::start();
    let mut reader = pair.reader(&pair.standby).await;
    assert_eq!(pair.sync(&mut reader).await, ["1"]);
    pair.primary.stop_fast();
    let promoted = pair.standby.database(pair.database.name());
    promoted.execute("SELECT pg_promote()");
    promoted.execute("INSERT INTO events VALUES (2)");
    assert_eq!(ids(reader.sync().await), ["2"]);
    assert!(!reader.cursor()["lower_bound"].is_null());
    assert_eq!(ids(reader.sync().await), [""; 0]);
}
