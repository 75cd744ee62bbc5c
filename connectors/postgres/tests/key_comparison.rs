//! Keys of a source that is changed while they are compared: what is not seen counts as deleted, so
//! a table must not look empty.

use std::time::Duration;

use highwater_core::key_digests::{BUCKETS, Digests, KeyColumn, KeyForm};
use highwater_core::{ErrorKind, KeyTable, Result, TableName};
use highwater_testkit::postgres::{Database, Options, Postgres};

use crate::server::{Open, database, error, source, table};

/// A table with three keys.
fn events() -> Database {
    let database = database();
    database.execute(
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz);
         INSERT INTO events SELECT g, now() FROM generate_series(1, 3) g",
    );
    database
}

async fn keys_of(url: &str, name: &str) -> KeyTable {
    let found = table(source(url).await.as_ref(), name).await;
    let field = found.field("id").unwrap().clone();
    let form = KeyForm::of(&field).unwrap();
    let columns = vec![KeyColumn { field, form }];
    KeyTable { name: found.name, columns, along: None, of_sync: None }
}

async fn digests(url: &str, keys: &KeyTable) -> Result<Digests> {
    source(url).await.key_digests(keys).unwrap().digests(BUCKETS).await
}

fn count(digests: &Digests) -> u64 {
    digests.values().map(|digest| digest.rows).sum()
}

/// Counts the keys while `change` is made in a transaction that ends once the count waits for it.
async fn counted_during(database: &Database, name: &str, change: &str) -> Result<Digests> {
    let keys = keys_of(database.url(), name).await;
    let other = Open::new(database).await;
    other.run(&format!("BEGIN; {change}")).await;
    let url = database.url().to_owned();
    let counted = tokio::spawn(async move { digests(&url, &keys).await });
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = current_database() AND NOT l.granted";
    while database.value(waiting).as_deref() == Some("0") {
        assert!(!counted.is_finished(), "the count does not wait for `{change}`");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.run("COMMIT").await;
    counted.await.unwrap()
}

#[tokio::test]
async fn a_table_that_is_rewritten_meanwhile_does_not_look_empty() {
    for change in ["ALTER TABLE events SET UNLOGGED", "ALTER TABLE events ALTER id TYPE bigint"] {
        let counted = counted_during(&events(), "events", change).await.unwrap();
        assert_eq!(count(&counted), 3, "{change}");
    }
}

#[tokio::test]
async fn a_table_that_is_filled_anew_meanwhile_has_its_new_keys() {
    let change = "TRUNCATE events; INSERT INTO events VALUES (7)";
    assert_eq!(count(&counted_during(&events(), "events", change).await.unwrap()), 1);
}

#[tokio::test]
async fn what_cannot_be_locked_is_looked_at_again() {
    let database = events();
    database.execute("CREATE MATERIALIZED VIEW seen AS SELECT * FROM events");
    let keys = keys_of(database.url(), "seen").await;
    assert_eq!(count(&digests(database.url(), &keys).await.unwrap()), 3);
    let refused = counted_during(&database, "seen", "REFRESH MATERIALIZED VIEW seen").await;
    let refused = error(refused);
    assert_eq!(refused.kind(), ErrorKind::Transient, "{}", refused.full_message());
    assert_eq!(refused.context_value("table"), Some("seen"));
}

#[tokio::test]
async fn a_table_that_is_not_there_has_not_lost_its_keys() {
    let database = events();
    let keys = keys_of(database.url(), "events").await;
    database.execute("ALTER TABLE events RENAME TO others");
    let gone = error(digests(database.url(), &keys).await);
    assert_eq!(gone.kind(), ErrorKind::Schema);
    assert_eq!(gone.context_value("table"), Some("events"));
    let elsewhere = KeyTable { name: TableName::in_namespace("nowhere", "events"), ..keys };
    assert_eq!(error(digests(database.url(), &elsewhere).await).kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn the_keys_of_a_standby_are_not_compared_where_another_server_may_have_been_read() {
    let primary = Postgres::start(&Options::default());
    let database = primary.create_database();
    database.execute("CREATE TABLE events (id int PRIMARY KEY); INSERT INTO events VALUES (1)");
    let standby = primary.start_standby();
    standby.catch_up(&primary);
    let alone = standby.url(database.name());
    let keys = keys_of(&alone, "events").await;
    assert_eq!(count(&digests(&alone, &keys).await.unwrap()), 1, "there is no other server");
    let both = |first: &Postgres, second: &Postgres| {
        let (first_port, second_port) = (first.port(), second.port());
        first.url(database.name()).replacen(
            &format!("127.0.0.1:{first_port}"),
            &format!("127.0.0.1:{first_port},127.0.0.1:{second_port}"),
            1,
        )
    };
    let counted = digests(&both(&primary, &standby), &keys).await;
    assert_eq!(count(&counted.unwrap()), 1, "the first one is the primary");
    let refused = error(digests(&both(&standby, &primary), &keys).await);
    assert_eq!(refused.kind(), ErrorKind::Config, "{}", refused.full_message());
    assert!(refused.hint_text().unwrap().contains("target_session_attrs=primary"));
    let primary_only = format!("{}?target_session_attrs=primary", both(&standby, &primary));
    assert_eq!(count(&digests(&primary_only, &keys).await.unwrap()), 1);
}
