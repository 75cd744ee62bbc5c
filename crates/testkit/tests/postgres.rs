//! The throw-away cluster.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use highwater_testkit::postgres::{
    GUARDED_PASSWORD, GUARDED_PASSWORD_IN_URL, Options, Postgres, free_port,
};
use tokio_postgres::NoTls;

#[test]
fn databases_of_the_shared_cluster_are_separate() {
    let (a, b) = (Postgres::shared().create_database(), Postgres::shared().create_database());
    a.execute("CREATE TABLE t (v text); INSERT INTO t VALUES ('x'), (NULL)");
    b.execute("CREATE TABLE t (v text)");
    assert_eq!(a.rows("SELECT v FROM t ORDER BY v"), [vec![Some("x".to_owned())], vec![None]]);
    assert_eq!(b.value("SELECT count(*) FROM t").as_deref(), Some("0"));
    assert!(b.try_execute("SELECT 1 FROM missing").unwrap_err().contains("42P01"));
}

#[test]
fn a_database_that_is_given_back_is_empty_when_it_is_used_again() {
    let cluster = Postgres::start(&Options::default());
    let first = cluster.create_database();
    first.execute("CREATE SCHEMA other; CREATE TABLE other.t (v int); CREATE TABLE t (v int)");
    let (name, copy) = (first.name().to_owned(), first.clone());
    drop(first);
    let second = cluster.create_database();
    assert_ne!(second.name(), name, "a clone still uses it");
    drop(copy);
    let third = cluster.create_database();
    assert_eq!(third.name(), name);
    third.execute("CREATE TABLE t (v int)");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('public', 'other')";
    assert_eq!(third.value(schemas).as_deref(), Some("1"));
    third.execute("CREATE PUBLICATION p FOR TABLE t");
    drop(third);
    assert_ne!(cluster.create_database().name(), name, "it cannot be emptied for certain");
}

#[tokio::test]
async fn the_guarded_role_needs_its_password() {
    let cluster = Postgres::shared();
    let right = cluster.guarded_url("postgres", GUARDED_PASSWORD_IN_URL);
    let (client, connection) = tokio_postgres::connect(&right, NoTls).await.unwrap();
    let _background = tokio::spawn(connection);
    client.simple_query("SELECT 1").await.unwrap();
    let wrong = cluster.guarded_url("postgres", "wrong");
    let error = tokio_postgres::connect(&wrong, NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "28P01");
    assert!(!GUARDED_PASSWORD.is_empty());
}

#[test]
fn a_durable_cluster_keeps_what_was_committed_before_it_was_cut_off() {
    let cluster = Postgres::start(&Options { durable: true, ..Options::default() });
    let database = cluster.create_database();
    database.execute("CREATE TABLE t AS SELECT 7 AS v");
    cluster.stop_immediate();
    assert!(database.try_execute("SELECT 1").is_err());
    cluster.restart();
    assert_eq!(database.value("SELECT v FROM t").as_deref(), Some("7"));
}

#[test]
fn a_cluster_with_tls_shows_a_certificate_of_its_authority() {
    let options = Options { tls: true, ..Options::default() }.setting("max_connections", 17);
    let cluster = Postgres::start(&options);
    let database = cluster.database("postgres");
    assert_eq!(database.value("SHOW ssl").as_deref(), Some("on"));
    assert_eq!(database.value("SHOW max_connections").as_deref(), Some("17"));
    let output = Command::new("openssl")
        .args(["s_client", "-starttls", "postgres", "-verify_return_error", "-connect"])
        .arg(format!("127.0.0.1:{}", cluster.port()))
        .arg("-CAfile")
        .arg(cluster.authority_file())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Verify return code: 0"));
}

/// Started by the test below as a process of its own, which is then killed.
#[test]
#[ignore = "started by `a_killed_test_process_leaves_no_server_behind`"]
fn start_a_cluster_and_wait_to_be_killed() {
    let cluster = Postgres::start(&Options::default());
    let data = cluster.database("postgres").value("SHOW data_directory").unwrap();
    std::fs::write(std::env::var_os("HIGHWATER_TESTKIT_TELL").unwrap(), data).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_test_process_leaves_no_server_behind() {
    let folder = tempfile::tempdir().unwrap();
    let tell = folder.path().join("data_directory");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "postgres::start_a_cluster_and_wait_to_be_killed"])
        .env("HIGHWATER_TESTKIT_TELL", &tell)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let data = wait_for(|| std::fs::read_to_string(&tell).ok().filter(|text| !text.is_empty()));
    let data = Path::new(&data);
    assert!(data.join("postmaster.pid").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(|| (!data.parent().unwrap().exists()).then_some(()));
}

#[test]
fn a_free_port_can_be_listened_on() {
    std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
}

fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(value) = condition() {
            return value;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("it did not happen within 30 seconds");
}
