//! Rows that the source has lost without a word: found by comparing keys, between real systems, and
//! never too many of them at once.

use std::path::{Path, PathBuf};

use highwater_core::CrashPoint;
use highwater_testkit::crash::{CRASHED, CrashAt, Program};
use highwater_testkit::postgres::{Database, Postgres};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::transcript::Session;

/// Where rows go.
enum Copy {
    Postgres(Database),
    Sqlite(PathBuf),
}

/// A database, its copy, and how its table is synced.
struct Shop {
    folder: TempDir,
    source: Database,
    copy: Copy,
    program: Program,
}

impl Shop {
    /// Both kinds of copies of a new database.
    fn both(entry: &str, mode: &str, script: &str) -> [Self; 2] {
        [true, false].map(|to_postgres| Self::new(to_postgres, entry, mode, script))
    }

    fn new(to_postgres: bool, entry: &str, mode: &str, script: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let source = Postgres::shared().create_database();
        source.execute(script);
        let (copy, path, place) = if to_postgres {
            let database = Postgres::shared().create_database();
            let place = database.url().to_owned();
            (Copy::Postgres(database), "postgresql", place)
        } else {
            let file = folder.path().join("copy.db");
            let place = file.display().to_string();
            (Copy::Sqlite(file), "sqlite", place)
        };
        let document = format!(
            "kind: source\nspec:\n  name: shop\n  path: postgresql\n  tables: [{entry}]\n  \
             destinations: [copy]\n  spec: {{connection_string: '{}'}}\n---\n\
             kind: destination\nspec:\n  name: copy\n  path: {path}\n  write_mode: {mode}\n  \
             spec: {{connection_string: '{place}'}}\n",
            source.url()
        );
        std::fs::write(folder.path().join("sync.yml"), document).unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), folder.path());
        Self { folder, source, copy, program }
    }

    fn arguments(&self) -> Vec<String> {
        ["sync", "sync.yml", "--json"].map(str::to_owned).to_vec()
    }

    /// Syncs; what was done to the table.
    fn sync(&self) -> Value {
        let ended = self.program.run(&self.arguments()).expect(0).unwrap();
        ended.tables().pop().unwrap()
    }

    /// Values of a query, which both systems understand, as the copy has them.
    fn copied(&self, query: &str) -> Vec<String> {
        match &self.copy {
            Copy::Postgres(database) => values(database, query),
            Copy::Sqlite(file) => sqlite_values(file, query),
        }
    }

    /// Whether the copy has what the source has.
    fn assert_same(&self, query: &str) {
        assert_eq!(self.copied(query), values(&self.source, query));
    }
}

fn values(database: &Database, query: &str) -> Vec<String> {
    let all = format!(
        "SELECT coalesce(string_agg(v, E'\\x1e' ORDER BY v COLLATE \"C\"), '') FROM ({query}) AS q (v)"
    );
    let all = database.value(&all).unwrap_or_default();
    all.split('\u{1e}').filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

fn sqlite_values(file: &Path, query: &str) -> Vec<String> {
    let connection = Connection::open(file).unwrap();
    let mut statement = connection.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let mut values: Vec<_> = rows.map(Result::unwrap).collect();
    values.sort();
    values
}

const ORDERS: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, name text, updated_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO orders (id, name) SELECT i, 'order ' || i FROM generate_series(1, 10000) AS i;";
const RECONCILED: &str = "{name: orders, cursor: updated_at, deletes: reconcile}";
const IDS: &str = "SELECT CAST(id AS text) FROM orders";

#[test]
fn a_hundred_of_ten_thousand_rows() {
    for mode in ["overwrite", "append-dedup"] {
        for shop in Shop::both(RECONCILED, mode, ORDERS) {
            shop.sync();
            shop.source.execute(
                "DELETE FROM orders WHERE id % 100 = 7;
                 UPDATE orders SET name = 'new', updated_at = clock_timestamp() WHERE id IN (1, 2, 3);
                 INSERT INTO orders VALUES (10001, 'x', clock_timestamp());",
            );
            let done = shop.sync();
            assert_eq!(
                (&done["rows_deleted"], &done["rows_read"]),
                (&100.into(), &4.into()),
                "{done}"
            );
            shop.assert_same(IDS);
            shop.assert_same("SELECT name FROM orders");
            let done = shop.sync();
            assert_eq!(
                (&done["rows_deleted"], &done["rows_read"]),
                (&0.into(), &0.into()),
                "{done}"
            );
            if mode == "append-dedup" {
                let deleted = "SELECT CAST(id AS text) FROM orders_history WHERE _highwater_op = 'd' \
                               AND updated_at IS NOT NULL";
                assert_eq!(shop.copied(deleted).len(), 100);
                let tombstones = "SELECT CAST(id AS text) FROM _highwater_orders_tombstones";
                assert_eq!(shop.copied(tombstones).len(), 100);
                // One of them comes back.
                shop.source.execute("INSERT INTO orders VALUES (7, 'back', clock_timestamp())");
                assert_eq!(shop.sync()["rows_written"], 1);
                shop.assert_same(IDS);
            }
        }
    }
}

/// Keys that are easily taken for one another, NULL in a key, and a column that is renamed.
#[test]
fn keys_that_are_hard_to_tell_apart() {
    let script = "
        CREATE TABLE items (part text, code varchar(40), n int, at timestamptz, day date, updated_at timestamptz NOT NULL DEFAULT now());
        INSERT INTO items SELECT part, code, n, now(), DATE '2026-11-21'
          FROM unnest(ARRAY['a', 'a ', ' a', 'A', '', 'n', 'v1:a', 'it''s', '\"', '\\', '🦀', '🦀 ', 'é', NULL]) AS part,
               unnest(ARRAY['x', 'x ', ':', '', '🦀']) AS code, generate_series(1, 2) AS n;";
    let entry = "{name: items, cursor: updated_at, primary_key: [part, code, n], deletes: reconcile, \
                 mappings: [{rename: {column: code, to: kode}}]}";
    let key = "SELECT coalesce(part, '<null>') || '|' || coalesce(code, '<null>') || '|' || CAST(n AS text) FROM items";
    for shop in Shop::both(entry, "overwrite", script) {
        shop.sync();
        shop.source.execute(
            "DELETE FROM items WHERE n = 1 AND (part IN ('a', '🦀', 'it''s') OR part IS NULL) \
             AND code IN ('x', '')",
        );
        let done = shop.sync();
        assert_eq!((&done["rows_deleted"], &done["rows_read"]), (&8.into(), &0.into()), "{done}");
        let copied = shop.copied(&key.replace("code", "kode"));
        assert_eq!(copied, values(&shop.source, key));
    }
}

/// A key that a mapping hides cannot be compared: the table is read as a whole, and a note says so.
#[test]
fn a_hidden_key() {
    let entry = "{name: orders, cursor: updated_at, deletes: reconcile, \
                 mappings: [{hash: {column: id, method: SHA-256}}]}";
    let script = ORDERS.replace("10000", "50");
    let shop = Shop::new(false, entry, "overwrite", &script);
    shop.sync();
    shop.source.execute("DELETE FROM orders WHERE id < 4");
    let done = shop.sync();
    assert_eq!((&done["rows_deleted"], &done["rows_read"]), (&3.into(), &47.into()), "{done}");
    assert!(done["notes"].to_string().contains("a mapping hides its key"), "{done}");
}

/// Wherever the process dies, nothing is half deleted, and the next sync ends the work.
#[test]
fn killed_around_the_deletion() {
    let script = ORDERS.replace("10000", "60");
    let points = [
        CrashPoint::StageBatch,
        CrashPoint::CommitFence,
        CrashPoint::CommitHistory,
        CrashPoint::CommitRows,
        CrashPoint::CommitState,
        CrashPoint::CommitDone,
        CrashPoint::FinishBegin,
        CrashPoint::FinishApplied,
    ];
    for shop in Shop::both(RECONCILED, "append-dedup", &script) {
        shop.sync();
        let mut crashes = 0;
        for (round, point) in (1..).zip(points) {
            shop.source.execute(&format!("DELETE FROM orders WHERE id % 20 = {round}"));
            let before = shop.copied(IDS);
            // The deletions are committed second, after the rows (of which there are none).
            for nth in [1, 2] {
                let ended = shop.program.run_and_crash(&shop.arguments(), CrashAt { point, nth });
                crashes += usize::from(ended.code == Some(CRASHED));
                let now = shop.copied(IDS);
                let after = values(&shop.source, IDS);
                assert!(now == before || now == after, "{point:?}, {nth}: half deleted");
            }
            shop.sync();
            shop.assert_same(IDS);
            let records = "SELECT CAST(id AS text) FROM orders_history WHERE _highwater_op = 'd'";
            assert_eq!(shop.copied(records).len(), 3 * round, "{point:?}: one record per deletion");
        }
        assert!(crashes >= points.len(), "{crashes} crashes");
        assert!(shop.folder.path().exists());
    }
}

#[test]
fn a_mass_deletion_is_refused() {
    let mut session = Session::new();
    session.sql(
        "shop.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
INSERT INTO t SELECT i, 0 FROM n;",
    );
    let stale =
        "sync shop.db copy.db --name shop --tasks 1 --table t --write-mode overwrite-delete-stale";
    assert_eq!(session.run(stale), 0);
    session.sql("shop.db", "DELETE FROM t WHERE id > 25; UPDATE t SET v = 1;");
    for _ in 0..2 {
        assert_eq!(session.run(stale), 3);
        session.query("copy.db", "SELECT count(*), sum(v) FROM t");
    }
    assert_eq!(session.run(&format!("{stale} --allow-mass-delete")), 0);
    session.sql("shop.db", "DELETE FROM t;");
    assert_eq!(session.run(stale), 3);
    session.query("copy.db", "SELECT count(*), sum(v) FROM t");
    session.matches("deletes_mass");
}
