//! What a destination's keys make of the tables of a plugin.

use serde_json::json;

use super::{destination, rows, scripted_as};
use crate::transcript::Session;

const SOURCE: &str = "kind: source
spec:
  name: shop
  path: ./shop
  registry: local
  tables: [\"*\"]
  destinations: [copy]
";

/// A scripted source whose table has CloudQuery's row ids beside its own key.
fn session() -> Session {
    let mut session = Session::new();
    let script = json!({
        "tables": [{ "name": "orders", "key": ["id"],
            "columns": { "_cq_id": "text", "id": "int", "note": "text" } }],
        "steps": [{ "migrate": "orders" }, { "rows": "orders", "from": 1, "count": 3 }],
    });
    session.hidden_file("script.json", script.to_string().as_bytes());
    let path = session.path("script.json").display().to_string();
    scripted_as(&session, "shop", &format!("source={path}"));
    session
}

fn sqlite(keys: &str) -> String {
    destination("copy", "sqlite", keys, "    connection_string: copy.db\n")
}

/// The columns that make a row unique. The scripted columns may be NULL, so that is an index.
fn key(session: &Session) -> Vec<String> {
    let query = "SELECT column.name FROM pragma_index_list('orders') AS list, \
                 pragma_index_info(list.name) AS column WHERE list.\"unique\" ORDER BY column.seqno";
    rows(session, "copy.db", query)
}

#[test]
fn the_key_is_the_plugins_or_the_row_id() {
    for (keys, expected) in [
        ("  write_mode: overwrite\n", vec!["id"]),
        ("  write_mode: overwrite\n  pk_mode: cq-id-only\n", vec!["_cq_id"]),
        ("  write_mode: append\n", vec![]),
        (
            "  write_mode: overwrite\n  sync_group_id: \"{{YEAR}}\"\n",
            vec!["_cq_sync_group_id", "id"],
        ),
    ] {
        let mut session = session();
        session.file("sync.yml", &(SOURCE.to_owned() + &sqlite(keys)));
        assert_eq!(session.run("sync sync.yml"), 0, "{keys}");
        assert_eq!(key(&session), expected, "{keys}");
        let columns = rows(&session, "copy.db", "SELECT name FROM pragma_table_info('orders')");
        assert_eq!(columns[..2], ["_cq_sync_time", "_cq_source_name"], "{keys}");
    }
}

#[test]
fn a_table_that_cannot_be_altered_is_made_anew_only_by_force() {
    let mut session = session();
    let old = "CREATE TABLE orders (_cq_sync_time TIMESTAMPTZ, _cq_source_name TEXT, _cq_id TEXT, \
               id BIGINT NOT NULL PRIMARY KEY, note BLOB); INSERT INTO orders (id) VALUES (9);";
    session.sql("copy.db", old);
    session.file("sync.yml", &(SOURCE.to_owned() + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 4);
    assert_eq!(rows(&session, "copy.db", "SELECT id FROM orders"), ["9"]);
    session.file("sync.yml", &(SOURCE.to_owned() + &sqlite("  migrate_mode: forced\n")));
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(rows(&session, "copy.db", "SELECT id FROM orders ORDER BY id"), ["1", "2", "3"]);
    session.matches("plugin_forced");
}

#[test]
fn columns_names_and_modes_of_a_table_are_the_users() {
    let mut session = session();
    let entry = "[{name: orders, target: bestellungen, columns: [id, note], primary_key: [note], write_mode: append}]";
    session.file(
        "sync.yml",
        &(SOURCE.replace("[\"*\"]", entry) + &sqlite("  metadata_columns: none\n")),
    );
    assert_eq!(session.run("sync sync.yml"), 0);
    let columns = rows(&session, "copy.db", "SELECT name FROM pragma_table_info('bestellungen')");
    assert_eq!(columns, ["id", "note"]);
}

#[test]
fn the_cursors_of_a_plugin_are_its_own() {
    let mut session = session();
    let backend =
        "  backend_options: {table_name: cq_state, connection: \"@@plugins.copy.connection\"}\n";
    session.file("sync.yml", &(SOURCE.to_owned() + backend + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("state reset sync.yml --all"), 2);
    session.matches("plugin_state_reset");
}
