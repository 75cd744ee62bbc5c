//! The faults of the proxy, against a real server.

use highwater_testkit::postgres::{Database, Postgres};
use highwater_testkit::proxy::{Fault, Proxy};
use tokio_postgres::{Client, Error, NoTls};

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn table() -> (Database, Proxy) {
    let database = Postgres::shared().create_database();
    database.execute("CREATE TABLE t (v int)");
    (database, Proxy::start(Postgres::shared().port()))
}

fn count(database: &Database) -> String {
    database.value("SELECT count(*) FROM t").unwrap()
}

#[tokio::test]
async fn without_a_fault_everything_passes() {
    let (database, proxy) = table();
    let mut client = connect(&proxy.url(database.name())).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO t SELECT generate_series(1, 10000)", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    let rows = client.query("SELECT v, repeat('x', 100) FROM t", &[]).await.unwrap();
    assert_eq!(rows.len(), 10_000);
    assert_eq!((proxy.commits(), proxy.fired()), (1, 0));
}

#[tokio::test]
async fn the_reply_of_the_second_commit_is_lost_and_its_rows_are_there() {
    let (database, proxy) = table();
    proxy.inject(Fault::LoseCommitReply { nth: 2 });
    let client = connect(&proxy.url(database.name())).await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    client.execute("BEGIN", &[]).await.unwrap();
    client.execute("INSERT INTO t VALUES (2)", &[]).await.unwrap();
    let error = client.execute("COMMIT", &[]).await.unwrap_err();
    assert!(error.as_db_error().is_none(), "{error}");
    assert_eq!((count(&database).as_str(), proxy.fired()), ("2", 1));
    let client = connect(&proxy.url(database.name())).await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (3); COMMIT").await.unwrap();
    assert_eq!((count(&database).as_str(), proxy.fired()), ("3", 1));
}

#[tokio::test]
async fn a_lost_commit_leaves_no_row() {
    let (database, proxy) = table();
    proxy.inject(Fault::LoseCommit { nth: 1 });
    let client = connect(&proxy.url(database.name())).await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    assert!(client.batch_execute("COMMIT").await.is_err());
    assert_eq!((count(&database).as_str(), proxy.fired()), ("0", 1));
}

#[tokio::test]
async fn a_connection_is_reset_after_so_many_bytes() {
    let (database, proxy) = table();
    proxy.inject(Fault::CutAfterServerBytes(20_000));
    let client = connect(&proxy.url(database.name())).await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();
    let query = "SELECT repeat('x', 100) FROM generate_series(1, 1000)";
    assert!(client.simple_query(query).await.is_err());
    assert_eq!(proxy.fired(), 1);
    let client = connect(&proxy.url(database.name())).await.unwrap();
    assert!(client.simple_query(query).await.is_ok());
}

#[tokio::test]
async fn connections_are_cut_and_refused_on_request() {
    let (database, proxy) = table();
    let client = connect(&proxy.url(database.name())).await.unwrap();
    proxy.refuse(true);
    assert!(connect(&proxy.url(database.name())).await.is_err());
    client.simple_query("SELECT 1").await.unwrap();
    proxy.cut();
    assert!(client.simple_query("SELECT 1").await.is_err());
    proxy.refuse(false);
    assert!(connect(&proxy.url(database.name())).await.is_ok());
}

#[tokio::test]
async fn a_delay_holds_messages_back() {
    let (database, proxy) = table();
    let client = connect(&proxy.url(database.name())).await.unwrap();
    proxy.delay(std::time::Duration::from_millis(20));
    let start = std::time::Instant::now();
    client.simple_query("SELECT 1").await.unwrap();
    assert!(start.elapsed().as_millis() >= 40);
}
