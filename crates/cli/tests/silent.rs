//! What must never happen in silence: each of these once ended with exit code 0 and wrong rows.

use highwater_testkit::postgres::{Database, Postgres};

use crate::transcript::Session;

fn databases() -> (Database, Database) {
    (Postgres::shared().create_database(), Postgres::shared().create_database())
}

#[test]
fn a_table_is_not_copied_into_itself() {
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)");
    std::fs::hard_link(session.path("shop.db"), session.path("link.db")).unwrap();
    assert_eq!(session.run("sync shop.db shop.db --table t --write-mode append"), 2);
    assert_eq!(session.run("sync shop.db link.db --table t --write-mode replace"), 2);
    assert_eq!(session.run("sync shop.db link.db --table t --target copy"), 0);
    let database = Postgres::shared().create_database();
    database.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let url = database.url();
    assert_eq!(session.run(&format!("sync {url} {url} --table t --write-mode append")), 2);
    assert_eq!(database.value("SELECT count(*) FROM t").as_deref(), Some("1"));
}

#[test]
fn a_type_that_grows_in_length_or_precision_grows_at_the_destination() {
    let (from, to) = databases();
    from.execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp(0), name varchar(3), u int);
         INSERT INTO t VALUES (1, '2024-01-01', 'abc', 1)",
    );
    let mut session = Session::new();
    for mode in ["append", "overwrite"] {
        let sync = format!(
            "sync {} {} --table t --cursor u --name {mode} --target t_{mode} --write-mode {mode}",
            from.url(),
            to.url()
        );
        assert_eq!(session.run(&sync), 0);
    }
    from.execute(
        "ALTER TABLE t ALTER at TYPE timestamp, ALTER name TYPE text;
         INSERT INTO t VALUES (2, '2024-01-01 00:00:00.6', 'longer', 2)",
    );
    for mode in ["append", "overwrite"] {
        let sync = format!(
            "sync {} {} --table t --cursor u --name {mode} --target t_{mode} --write-mode {mode}",
            from.url(),
            to.url()
        );
        assert_eq!(session.run(&sync), 0);
        let stored = format!("SELECT at::text || ' ' || name FROM t_{mode} WHERE id = 2");
        assert_eq!(to.value(&stored).as_deref(), Some("2024-01-01 00:00:00.6 longer"));
        assert_eq!(to.value(&format!("SELECT count(*) FROM t_{mode}")).as_deref(), Some("2"));
    }
}

#[test]
fn a_table_with_the_stamps_of_another_sync_keeps_its_rows() {
    let mut session = Session::new();
    session
        .sql("shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    for (from, to) in [("shop.db", "first.db"), ("first.db", "second.db")] {
        let sync =
            format!("sync {from} {to} --table t --name shop --write-mode overwrite-delete-stale");
        assert_eq!(session.run(&sync), 0);
        assert_eq!(session.run(&sync), 0);
    }
    let count = |session: &Session, file: &str| {
        let connection = rusqlite::Connection::open(session.path(file)).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((count(&session, "first.db"), count(&session, "second.db")), (2, 2));
    // A row that is gone at the source goes at both, by the stamps of each sync.
    session.sql("first.db", "DELETE FROM t WHERE id = 2");
    let sync = "sync first.db second.db --table t --name shop --write-mode overwrite-delete-stale";
    assert_eq!(session.run(sync), 0);
    assert_eq!(count(&session, "second.db"), 1);
}
