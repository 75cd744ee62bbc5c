//! Reading rows over every kind of connection, forwarding them, and connections that end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arrow_array::cast::AsArray;
use highwater_core::types::record_form;
use highwater_core::{Completion, ErrorKind, Message, Output, State};
use highwater_testkit::postgres::{Database, GUARDED, Options, Postgres};
use highwater_testkit::proxy::Proxy;

use crate::server::{Reader, database, error};
use crate::source::TYPES;

const FORM: &str = "postgresql-copy";

/// A table whose COPY does not fit into the buffers of a connection.
const LARGE: &str = "
CREATE TABLE large AS
SELECT i AS id, repeat(md5(i::text), 20) AS body FROM generate_series(1, 50000) i";

/// Puts rules before those that the cluster has.
fn allow(database: &Database, rules: &str) {
    let file = database.value("SHOW hba_file").unwrap();
    let before =
        database.value("SELECT pg_catalog.pg_read_file(pg_catalog.current_setting('hba_file'))");
    let text = format!("{rules}\n{}", before.unwrap());
    // One column, a row per line.
    let lines: Vec<String> = text.lines().map(|line| format!("('{line}')")).collect();
    database.execute(&format!("COPY (VALUES {}) TO '{file}'", lines.join(", ")));
    database.execute("SELECT pg_catalog.pg_reload_conf()");
}

/// Reads `t` over a URL.
async fn rows(url: &str) -> Vec<String> {
    Reader::new(url, "t", None).await.sync().await
}

#[tokio::test]
async fn rows_are_read_whatever_the_server_asks_for() {
    let socket_folder = tempfile::Builder::new().prefix("hw").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(
        socket_folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let folder = socket_folder.path().display();
    let options = Options { tls: true, ..Options::default() };
    let server = Postgres::start(&options.setting("unix_socket_directories", &folder));
    let database = server.create_database();
    database.execute(
        "CREATE ROLE hashed LOGIN SUPERUSER; CREATE ROLE clear LOGIN SUPERUSER PASSWORD 's3cret';
         CREATE ROLE salted LOGIN SUPERUSER PASSWORD 's3cret';
         SET password_encryption TO md5; ALTER ROLE hashed PASSWORD 's3cret';
         CREATE TABLE t AS SELECT 'yes' AS body",
    );
    allow(
        &database,
        "hostssl all salted all scram-sha-256\nhost all hashed all md5\n\
         host all clear all password\nlocal all all trust",
    );
    // A reload is told to the processes, which need not have heard it yet.
    let (port, name) = (server.port(), database.name());
    let authority = server.authority_file();
    let url =
        |user: &str, query: &str| format!("postgres://{user}@127.0.0.1:{port}/{name}?{query}");
    loop {
        let refused =
            crate::server::source(&url("clear:wrong", "sslmode=disable")).await.check().await;
        if refused.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for mode in ["disable", "prefer", "require"] {
        let query = format!("sslmode={mode}");
        for user in ["postgres", "hashed:s3cret", "clear:s3cret"] {
            assert_eq!(rows(&url(user, &query)).await, ["yes"], "{user} {mode}");
        }
        for user in ["hashed:wrong", "clear:wrong", "hashed"] {
            let refused = error(crate::server::source(&url(user, &query)).await.check().await);
            assert_eq!(refused.kind(), ErrorKind::Config, "{user} {mode}: {refused}");
            assert!(!format!("{refused:?}").contains("wrong"), "{refused:?}");
        }
    }
    // The name of the server, and the log-in bound to its certificate.
    let checked =
        format!("sslmode=verify-full&channel_binding=require&sslrootcert={}", authority.display());
    assert_eq!(rows(&url("salted:s3cret", &checked)).await, ["yes"]);
    let refused = crate::server::source(&url("salted:wrong", &checked)).await.check().await;
    assert_eq!(error(refused).kind(), ErrorKind::Config);
    let socket = format!("postgres:///{name}?host={folder}&port={port}&user=postgres");
    assert_eq!(rows(&socket).await, ["yes"]);
    // The first host that answers.
    let free = highwater_testkit::postgres::free_port();
    let several = format!("postgres://postgres@127.0.0.1:{free},127.0.0.1:{port}/{name}");
    assert_eq!(rows(&several).await, ["yes"]);
}

#[tokio::test]
async fn a_password_that_is_hashed_with_salt_is_enough() {
    let server = Postgres::shared();
    let database = server.create_database();
    database.execute(&format!("CREATE TABLE t AS SELECT 1 AS one; GRANT SELECT ON t TO {GUARDED}"));
    let password = highwater_testkit::postgres::GUARDED_PASSWORD_IN_URL;
    assert_eq!(rows(&server.guarded_url(database.name(), password)).await, ["1"]);
}

/// Reads until the first batch is there, then does something, then reads on.
async fn interrupted(mut reader: Reader, interrupt: impl FnOnce()) -> highwater_core::Error {
    let name = reader.table().name().clone();
    let (output, mut messages) = Output::bounded(1, Arc::new(AtomicBool::new(false)));
    let (plan, state) = (reader.plan.clone(), State::default());
    let partitions = reader.source.partitions(&plan, &state).await.unwrap();
    let watch = async {
        let mut interrupt = Some(interrupt);
        while let Some(message) = messages.recv().await {
            match message {
                Message::Batch(_) => {
                    if let Some(interrupt) = interrupt.take() {
                        interrupt();
                    }
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    };
    let read = reader.source.read(&plan, &partitions[0], &state, output);
    let (done, ()) = tokio::join!(read, watch);
    error(done)
}

#[tokio::test]
async fn a_server_process_that_ends_in_the_middle_is_worth_another_try() {
    let database = database();
    database.execute(LARGE);
    for forwarded in [None, Some(FORM.to_owned())] {
        let mut reader = Reader::new(database.url(), "large", None).await;
        reader.table().forwarded = forwarded;
        let lost = interrupted(reader, || {
            database.execute(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                 WHERE datname = current_database() AND query LIKE 'COPY%'",
            );
        })
        .await;
        assert_eq!(lost.kind(), ErrorKind::Transient, "{lost}");
        assert_eq!(lost.context_value("table"), Some("large"));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_is_worth_another_try() {
    let server = Postgres::shared();
    let database = server.create_database();
    database.execute(LARGE);
    let proxy = Proxy::start(server.port());
    let reader = Reader::new(&proxy.url(database.name()), "large", None).await;
    let lost = interrupted(reader, || proxy.cut()).await;
    assert_eq!(lost.kind(), ErrorKind::Transient, "{lost}");
}

#[tokio::test]
async fn an_error_of_a_row_ends_the_read_and_hides_the_value() {
    let database = database();
    database.execute(
        "CREATE TABLE base AS SELECT i FROM generate_series(1, 20000) i;
         CREATE VIEW t AS SELECT ('secret' || i)::text AS a, 1 / (i - 15000) AS b FROM base",
    );
    let mut reader = Reader::new(database.url(), "t", None).await;
    let refused = error(reader.try_sync().await);
    assert_eq!(refused.kind(), ErrorKind::Data);
    assert_eq!(refused.context_value("sqlstate"), Some("22012"));
    assert!(!format!("{refused:?}").contains("secret"));
    // The session ended with the error and the next one begins.
    database.execute("DROP VIEW t; CREATE VIEW t AS SELECT 'x' AS a, 1 AS b");
    assert_eq!(reader.sync().await, ["x|1"]);
}

#[tokio::test]
async fn a_read_that_is_asked_to_stop_ends_the_statement() {
    let database = database();
    database.execute(LARGE);
    let mut reader = Reader::new(database.url(), "large", None).await;
    reader.table();
    let stopping = Arc::new(AtomicBool::new(true));
    let (output, mut messages) = Output::bounded(100, stopping);
    let (plan, state) = (reader.plan.clone(), State::default());
    let partitions = reader.source.partitions(&plan, &state).await.unwrap();
    let done = reader.source.read(&plan, &partitions[0], &state, output).await.unwrap();
    assert_eq!(done, Completion::Stopped);
    while let Some(message) = messages.recv().await {
        assert!(!matches!(message, Message::Checkpoint(_)), "{message:?}");
    }
}

/// The forwarded rows as one COPY, written into a table of the same shape.
async fn forwarded(database: &Database, from: &str, cursor: Option<&str>, into: &str) -> usize {
    use futures::SinkExt;
    let mut reader = Reader::new(database.url(), from, cursor).await;
    reader.table().forwarded = Some(FORM.to_owned());
    let sent = reader.try_sync().await.unwrap();
    assert_eq!(sent.completion, Completion::Complete);
    let mut copy = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    let mut rows = 0;
    for batch in &sent.batches {
        assert_eq!(record_form(batch.schema_ref().field(0)), Some(FORM));
        let tuples = batch.column(0).as_binary::<i32>();
        assert_eq!(tuples.values().len(), *tuples.value_offsets().last().unwrap() as usize);
        copy.extend_from_slice(tuples.values());
        rows += batch.num_rows();
    }
    copy.extend((-1_i16).to_be_bytes());
    let (client, connection) =
        tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let statement = format!("COPY {into} FROM STDIN (FORMAT binary)");
    let mut sink = Box::pin(client.copy_in::<_, bytes::Bytes>(statement.as_str()).await.unwrap());
    sink.send(copy.into()).await.unwrap();
    assert_eq!(sink.as_mut().finish().await.unwrap() as usize, rows);
    connection.abort();
    rows
}

#[tokio::test]
async fn forwarded_rows_are_what_a_copy_takes() {
    let database = database();
    database.execute(TYPES);
    // What is read as text is not forwarded in earnest.
    let natives = "b, i2, i4, i8, f4, f8, t, v, c, y, d, ti, ts, tz, u, j, jb, n10, n38, n76, iv, \
                   ai, at, aj";
    database.execute(&format!(
        "CREATE TABLE sent AS SELECT {natives} FROM kinds; CREATE TABLE taken (LIKE sent)"
    ));
    assert_eq!(forwarded(&database, "sent", None, "taken").await, 2);
    let differing = "SELECT count(*) FROM (SELECT sent::text FROM sent EXCEPT ALL SELECT taken::text FROM taken) d";
    assert_eq!(database.value(differing).as_deref(), Some("0"));
    assert_eq!(database.value("SELECT count(*) FROM taken").as_deref(), Some("2"));
}

#[tokio::test]
async fn hidden_fields_are_cut_off_forwarded_rows() {
    let database = database();
    database.execute(
        "CREATE TABLE a (id int, note text, updated_at timestamptz);
         INSERT INTO a SELECT i, nullif(repeat('é', i % 40), ''), '2026-01-01'::timestamptz + i * '1 s'::interval
         FROM generate_series(1, 20000) i;
         CREATE TABLE b (LIKE a)",
    );
    assert_eq!(forwarded(&database, "a", Some("updated_at"), "b").await, 20_000);
    let differing = "SELECT count(*) FROM (SELECT * FROM a EXCEPT ALL SELECT * FROM b) d";
    assert_eq!(database.value(differing).as_deref(), Some("0"));
}

/// The most memory that this process had, in bytes.
fn memory_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_value_of_a_hundred_megabytes_arrives() {
    let database = database();
    database.execute(
        "CREATE TABLE t (id int, body text);
         INSERT INTO t VALUES (1, 'small'), (2, repeat('0123456789', 10000000)), (3, 'small')",
    );
    for forwarded in [None, Some(FORM.to_owned())] {
        let mut reader = Reader::new(database.url(), "t", None).await;
        reader.table().forwarded = forwarded.clone();
        let before = memory_peak();
        let sent = reader.try_sync().await.unwrap();
        let grown = memory_peak() - before;
        let rows: usize = sent.batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, 3);
        let most = sent.batches.iter().map(|batch| batch.get_array_memory_size()).max().unwrap();
        assert!(most >= 100_000_000, "{most}");
        // Other tests run beside this one; without a bound it were many times as much.
        assert!(grown < 1_000_000_000, "{grown} {forwarded:?}");
    }
}
