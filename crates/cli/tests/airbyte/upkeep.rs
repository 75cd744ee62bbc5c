//! `refresh`, `history compact` and `state reset --clear`.

use serde_json::json;

use super::{destination, has_python, rows, session, source, user};
use crate::transcript::Session;

/// Orders that change, in a database, and how they are synced.
fn shop(keys: &str) -> Session {
    let mut session = Session::new();
    session.sql(
        "shop.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT, updated_at TEXT);
INSERT INTO orders VALUES (1, 'open', '2026-01-01'), (2, 'open', '2026-01-02');
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO products VALUES (1, 'pen');",
    );
    session.file(
        "sync.yml",
        &format!(
            "kind: source
spec:
  name: shop
  path: sqlite
  tables:
    - {{name: orders, cursor: updated_at, {keys}}}
    - products
  destinations: [copy]
  spec:
    connection_string: shop.db
---
kind: destination
spec:
  name: copy
  path: sqlite
  write_mode: overwrite
  spec:
    connection_string: copy.db
"
        ),
    );
    assert_eq!(session.run("sync sync.yml"), 0);
    session
}

/// A row that the source has lost without a trace stays with `--keep` and goes with `--remove`.
#[test]
fn a_table_is_read_again() {
    let mut session = shop("write_mode: append-dedup");
    session.sql("shop.db", "DELETE FROM orders WHERE id = 1;");
    assert_eq!(session.run("refresh sync.yml orders products"), 0);
    session.query("copy.db", "SELECT id, state FROM orders ORDER BY id");
    assert_eq!(session.run("refresh sync.yml orders --remove"), 0);
    session.query("copy.db", "SELECT id, state FROM orders ORDER BY id");
    session.query("copy.db", "SELECT id, state FROM orders_history ORDER BY id");
    session.sql("shop.db", "UPDATE orders SET state = 'sent', updated_at = '2026-01-03';");
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", "SELECT id, state FROM orders ORDER BY id");
    session.matches("refresh");
}

#[test]
fn a_refresh_that_cannot_be() {
    let mut session = shop("write_mode: append-dedup");
    for arguments in [
        "refresh sync.yml order",
        "refresh sync.yml orders --sync shops",
        "refresh sync.yml orders --keep --remove",
        "refresh sync.yml",
        "refresh nothing.yml orders",
    ] {
        assert_eq!(session.run(arguments), 2, "{arguments}");
    }
    session.matches("refresh_refused");
}

#[test]
fn a_table_that_no_sync_has_read() {
    let mut session = shop("write_mode: append-dedup");
    assert_eq!(session.run("state reset sync.yml --all"), 0);
    assert_eq!(session.run("refresh sync.yml * --tasks 1 --log-format json --json"), 0);
    session.matches("refresh_new");
}

#[test]
fn a_history_is_compacted() {
    let mut session = shop("write_mode: append-dedup");
    session.sql("shop.db", "UPDATE orders SET state = 'sent', updated_at = '2026-01-03';");
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", "SELECT id, state FROM orders_history ORDER BY id, state");
    assert_eq!(session.run("history compact sync.yml"), 0);
    session.query("copy.db", "SELECT id, state FROM orders_history ORDER BY id, state");
    assert_eq!(session.run("history compact sync.yml --table orders --json"), 0);
    assert_eq!(session.run("history compact sync.yml --table products"), 2);
    assert_eq!(session.run("history compact sync.yml --table nothing"), 2);
    assert_eq!(session.run("history compact sync.yml --destination copies"), 2);
    session.matches("history_compact");
}

#[test]
fn there_is_no_history() {
    let mut session = shop("write_mode: overwrite");
    assert_eq!(session.run("history compact sync.yml"), 0);
    session.matches("history_none");
}

#[test]
fn a_table_is_cleared() {
    let mut session = shop("write_mode: append-dedup");
    assert_eq!(session.run("state reset sync.yml --table orders --clear"), 0);
    session.query("copy.db", "SELECT count(*) FROM orders");
    session.query("copy.db", "SELECT count(*) FROM orders_history");
    session.query("copy.db", "SELECT count(*) FROM products");
    assert_eq!(session.run("state show sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("state reset sync.yml --all --clear --json"), 0);
    session.query("copy.db", "SELECT count(*) FROM products");
    assert_eq!(session.run("state reset sync.yml --table nothing --clear"), 2);
    assert_eq!(session.run("state reset shop.db copy.db --name shop --all --clear"), 2);
    session.matches("clear");
}

/// Where there are several destinations, a refresh is for all, and a clear names one.
#[test]
fn several_destinations() {
    let mut session = Session::new();
    session.sql(
        "shop.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, updated_at TEXT);
INSERT INTO orders VALUES (1, '2026-01-01');",
    );
    let destination = |name: &str| {
        format!(
            "---
kind: destination
spec: {{name: {name}, path: sqlite, write_mode: append, spec: {{connection_string: {name}.db}}}}
"
        )
    };
    session.file(
        "sync.yml",
        &format!(
            "kind: source
spec:
  name: shop
  path: sqlite
  tables: [{{name: orders, cursor: updated_at}}]
  destinations: [near, far]
  spec: {{connection_string: shop.db}}
{}{}",
            destination("near"),
            destination("far")
        ),
    );
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("refresh sync.yml orders"), 0);
    session.query("near.db", "SELECT id FROM orders");
    session.query("far.db", "SELECT id FROM orders");
    assert_eq!(session.run("state reset sync.yml --all --clear"), 2);
    assert_eq!(session.run("state reset sync.yml --all --clear --destination far"), 0);
    session.query("near.db", "SELECT count(*) FROM orders");
    session.query("far.db", "SELECT count(*) FROM orders");
    session.matches("upkeep_several");
}

/// Only the named table is read: another one, which every sync reads and appends as a whole, does
/// not get its rows a second time.
#[test]
fn a_refresh_leaves_the_other_tables_alone() {
    let mut session = shop("write_mode: append-dedup");
    let file = std::fs::read_to_string(session.path("sync.yml")).unwrap();
    let entry = "- {name: 'prod*', read_mode: full_refresh, write_mode: append}";
    session.file("sync.yml", &file.replace("- products", entry));
    std::fs::remove_file(session.path("copy.db")).unwrap();
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("refresh sync.yml orders"), 0);
    session.query("copy.db", "SELECT count(*) FROM products");
    assert_eq!(session.run("refresh sync.yml products"), 0);
    session.query("copy.db", "SELECT count(*) FROM products");
    session.matches("refresh_alone");
}

/// One state is for all tables: what the refreshed one is given, the others are given too.
#[test]
fn a_refresh_where_one_state_is_for_all() {
    if !has_python("a_refresh_where_one_state_is_for_all") {
        return;
    }
    let mut session = session();
    let order = |id: i64| ("orders", json!({ "id": id, "updated_at": "2026-01-01" }));
    rows(&mut session, &[user(1, "Ann", "2026-01-01"), order(1)]);
    let from = source("[users, orders]", "{rows_file: rows.jsonl, global: true}");
    session.file("sync.yml", &(from + &destination("  write_mode: append-dedup\n")));
    assert_eq!(session.run("sync sync.yml"), 0);
    rows(&mut session, &[user(1, "Ann", "2026-01-01"), order(1), order(2)]);
    assert_eq!(session.run("refresh sync.yml users"), 0);
    session.query("copy.db", "SELECT id FROM orders ORDER BY id");
    session.matches("refresh_one_state");
}
