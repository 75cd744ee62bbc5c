//! What happens to a source in the middle of a read: changes of the table, and a restart.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use highwater_core::{Completion, CursorKey, ErrorKind, Message, Output, Result};
use highwater_testkit::postgres::{Database, Options, Postgres};

use crate::server::{Open, Reader, database, error};

/// More than sockets, channels and buffers hold: who reads half of it is in the middle.
const ROWS: usize = 40_000;

fn fill(database: &Database, rows: usize) {
    database.execute(&format!(
        "CREATE TABLE big (id int PRIMARY KEY, at timestamptz DEFAULT now(), filling text);
         INSERT INTO big (id, filling)
         SELECT i, repeat(chr(65 + i % 26), 1500) FROM generate_series(1, {rows}) i"
    ));
}

/// Reads all partitions, and does something when the first rows of the first one have come and
/// the rest is held up.
async fn read(reader: &mut Reader, in_the_middle: impl AsyncFnOnce()) -> Result<usize> {
    let mut rows = 0;
    let mut in_the_middle = Some(in_the_middle);
    for partition in reader.source.partitions(&reader.plan, &reader.state).await? {
        let (output, mut messages) = Output::bounded(1, Arc::new(AtomicBool::new(false)));
        let take = async {
            let (mut rows, mut cursors) = (0, Vec::new());
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Batch(batch) => rows += batch.rows.num_rows(),
                    Message::Checkpoint(checkpoint) => cursors.push(checkpoint.cursors),
                    other => panic!("{other:?}"),
                }
                if let Some(in_the_middle) = in_the_middle.take() {
                    in_the_middle().await;
                }
            }
            (rows, cursors)
        };
        let read = reader.source.read(&reader.plan, &partition, &reader.state, output);
        let (completion, (taken, cursors)) = tokio::join!(read, take);
        assert_eq!(completion?, Completion::Complete);
        rows += taken;
        reader.state.cursors.extend(cursors.into_iter().flatten());
    }
    Ok(rows)
}

/// Waits until a session waits for a lock of this database.
async fn someone_waits(database: &Database) {
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = current_database() AND NOT l.granted";
    for _ in 0..3000 {
        if database.value(waiting).as_deref() != Some("0") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nobody waits for a lock");
}

#[tokio::test]
async fn a_table_that_is_read_cannot_be_altered_truncated_or_dropped() {
    for cursor in [None, Some("at")] {
        let database = database();
        fill(&database, ROWS);
        let mut reader = Reader::new(database.url(), "big", cursor).await;
        let rows = read(&mut reader, async || {
            for change in ["ALTER TABLE big ADD COLUMN more int", "TRUNCATE big", "DROP TABLE big"]
            {
                let refused = database.try_execute(&format!("SET lock_timeout = '20ms'; {change}"));
                assert!(refused.unwrap_err().contains("55P03"), "{change} has to wait");
            }
        })
        .await;
        assert_eq!(rows.unwrap(), ROWS, "{cursor:?}");
    }
}

/// A rewritten table looks empty to a snapshot that is older than it. So the lock comes first.
#[tokio::test]
async fn a_table_that_is_being_rewritten_when_a_read_begins_is_read_as_a_whole() {
    for cursor in [None, Some("at")] {
        for change in
            ["ALTER TABLE big SET UNLOGGED", "ALTER TABLE big ADD more float DEFAULT random()"]
        {
            let database = database();
            fill(&database, 500);
            let mut reader = Reader::new(database.url(), "big", cursor).await;
            let migration = Open::new(&database).await;
            migration.run(&format!("BEGIN; {change}")).await;
            let end = async {
                someone_waits(&database).await;
                migration.run("COMMIT").await;
            };
            let (rows, ()) = tokio::join!(read(&mut reader, async || ()), end);
            assert_eq!(rows.unwrap(), 500, "{cursor:?}, {change}");
        }
    }
}

#[tokio::test]
async fn a_table_that_is_emptied_when_a_read_begins_is_empty_and_filled_by_the_next() {
    let database = database();
    fill(&database, 500);
    let mut reader = Reader::new(database.url(), "big", Some("at")).await;
    let other = Open::new(&database).await;
    other.run("BEGIN; TRUNCATE big; INSERT INTO big VALUES (1), (2)").await;
    let end = async {
        someone_waits(&database).await;
        other.run("COMMIT").await;
    };
    let (rows, ()) = tokio::join!(read(&mut reader, async || ()), end);
    let first = rows.unwrap();
    let second = read(&mut reader, async || ()).await.unwrap();
    assert_eq!(first + second, 2, "{first} and then {second}");
}

#[tokio::test]
async fn what_was_altered_or_dropped_since_the_plan_is_said() {
    for cursor in [None, Some("at")] {
        for (change, words) in [
            ("ALTER TABLE big DROP COLUMN filling", "dropped"),
            ("ALTER TABLE big ALTER id TYPE text", "changed its type"),
            ("ALTER TABLE big RENAME TO other", "does not exist"),
            ("DROP TABLE big", "does not exist"),
        ] {
            let database = database();
            fill(&database, 10);
            let mut reader = Reader::new(database.url(), "big", cursor).await;
            database.execute(change);
            let refused = error(read(&mut reader, async || ()).await);
            assert_eq!(refused.kind(), ErrorKind::Schema, "{change}: {refused}");
            assert!(refused.full_message().contains(words), "{change}: {refused}");
            assert_eq!(refused.context_value("table"), Some("big"), "{change}");
            assert!(refused.hint_text().is_some(), "{change}");
        }
    }
}

#[tokio::test]
async fn a_source_that_restarts_in_the_middle_is_read_again() {
    let cluster = Postgres::start(&Options { durable: true, ..Options::default() });
    for cursor in [None, Some("at")] {
        let database = cluster.create_database();
        fill(&database, ROWS);
        let mut reader = Reader::new(database.url(), "big", cursor).await;
        let broken = read(&mut reader, async || {
            cluster.stop_immediate();
            cluster.restart();
        });
        let broken = error(broken.await);
        assert_eq!(broken.kind(), ErrorKind::Transient, "{broken}");
        let name = CursorKey::Table(reader.table().name().clone());
        assert!(!reader.state.cursors.contains_key(&name), "no position covers a part");
        // The same source object goes on: sessions that the server has forgotten are not used.
        assert_eq!(read(&mut reader, async || ()).await.unwrap(), ROWS, "{cursor:?}");
        let again = if cursor.is_some() { 0 } else { ROWS };
        assert_eq!(read(&mut reader, async || ()).await.unwrap(), again, "{cursor:?}");
    }
}

/// Ids of transactions that were rolled back are not on the disk at once, and a server that crashes
/// gives them out again.
#[tokio::test]
async fn a_source_that_crashes_after_a_sync_gives_no_id_twice() {
    // Nothing but a commit writes the log to the disk for so long.
    let options = Options { durable: true, ..Options::default() };
    let cluster = Postgres::start(&options.setting("wal_writer_delay", "2s"));
    let database = cluster.create_database();
    fill(&database, 3);
    let mut reader = Reader::new(database.url(), "big", Some("at")).await;
    assert_eq!(read(&mut reader, async || ()).await.unwrap(), 3);
    let each = |ids: std::ops::Range<i32>, statement: &str| {
        ids.for_each(|id| database.execute(&statement.replace("$1", &id.to_string())));
    };
    each(100..160, "BEGIN; INSERT INTO big VALUES ($1); ROLLBACK");
    assert_eq!(read(&mut reader, async || ()).await.unwrap(), 0);
    cluster.stop_immediate();
    cluster.restart();
    each(200..300, "INSERT INTO big VALUES ($1)");
    assert_eq!(read(&mut reader, async || ()).await.unwrap(), 100);
}

/// What an open transaction or a query writes is brought to the disk with the end of a transaction,
/// and on a quiet server there may be none for long.
#[tokio::test]
async fn a_sync_does_not_depend_on_others_that_end_a_transaction() {
    // At this level the server writes nothing by itself.
    let quiet = Options::default().setting("wal_level", "minimal").setting("max_wal_senders", 0);
    let cluster = Postgres::start(&Options { durable: true, ..quiet });
    let database = cluster.create_database();
    fill(&database, 3);
    let mut reader = Reader::new(database.url(), "big", Some("at")).await;
    let open = Open::new(&database).await;
    open.run("BEGIN; INSERT INTO big VALUES (4)").await;
    assert_eq!(read(&mut reader, async || ()).await.unwrap(), 3);
    // A sync that is not the first one waits in another place.
    database.execute("INSERT INTO big VALUES (5)");
    open.run("INSERT INTO big VALUES (6)").await;
    assert_eq!(read(&mut reader, async || ()).await.unwrap(), 1);
    open.run("COMMIT").await;
    assert_eq!(read(&mut reader, async || ()).await.unwrap(), 2);
}
