//! Several of everything in one file.

use serde_json::Value;

use super::{count, destination, event, has_sdk, rows, scripted_as, served, session, source};

const TRANSFORMER: &str = "---
kind: transformer
spec:
  name: NAME
  path: ./NAME
  registry: local
";

/// A built-in source and one of the SDK, a built-in destination and our own binary as a plugin,
/// three transformers, of which each destination has its own chain.
#[test]
fn two_sources_two_destinations_three_transformers() {
    if !has_sdk("two_sources_two_destinations_three_transformers") {
        return;
    }
    let mut session = session(&[event(1), event(2)]);
    served(&session, "sqlite");
    session.sql(
        "orders.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT);
         INSERT INTO orders VALUES (1, 'placed'), (2, 'paid'), (3, 'sent');",
    );
    for (name, script) in [
        ("prefix", "transformer prefix=raw_"),
        ("mark", "transformer add=mark"),
        ("halves", "transformer halves"),
    ] {
        scripted_as(&session, name, script);
    }
    let orders = "---
kind: source
spec:
  name: orders
  path: sqlite
  tables: [orders]
  destinations: [copy, lake]
  spec:
    connection_string: orders.db
";
    let copy = destination(
        "copy",
        "sqlite",
        "  transformers: [prefix, mark]\n  send_sync_summary: true\n",
        "    connection_string: copy.db\n",
    );
    let lake = destination(
        "lake",
        "./highwater-sqlite",
        "  registry: local\n  write_mode: append\n  sync_group_id: \"{{SYNC_ID}}\"\n  transformers: [halves, mark]\n  send_sync_summary: true\n",
        "    connection_string: lake.db\n",
    );
    let transformers: String =
        ["prefix", "mark", "halves"].map(|name| TRANSFORMER.replace("NAME", name)).concat();
    let shop = source("copy, lake", "copy", "");
    session.file("sync.yml", &format!("{shop}{orders}{copy}{lake}{transformers}"));
    let id = "5ca1ab1e-0000-4000-8000-000000000001";
    let code = session.run(&format!(
        "sync sync.yml --invocation-id {id} --summary-location s.jsonl --tables-metrics-location m.jsonl"
    ));
    assert_eq!(code, 0);
    session.query("copy.db", "SELECT id, status, mark FROM raw_orders");
    session.query("copy.db", "SELECT id, payload, mark FROM raw_events");
    session.query(
        "lake.db",
        "SELECT _cq_source_name, _cq_sync_group_id, id, status, mark FROM orders",
    );
    session
        .query("lake.db", "SELECT event_id, line, mark FROM event_lines ORDER BY event_id, line");
    session.query("copy.db", "SELECT key, value, version FROM cq_state");
    session.query(
        "lake.db",
        "SELECT _cq_source_name, destination_name, resources, source_errors, sync_id FROM cloudquery_sync_summaries",
    );
    assert_eq!(count(&session, "copy.db", "cloudquery_sync_summaries"), "2");
    let read = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(session.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = read("s.jsonl");
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line["sync_id"] == id));
    let metrics = read("m.jsonl");
    assert_eq!(metrics.len(), 8);
    let orders = metrics.iter().find(|m| m["table"] == "orders" && m["destination_name"] == "copy");
    assert_eq!(orders.unwrap()["resources"], 3);
    assert_eq!(rows(&session, "copy.db", "SELECT count(*) FROM raw_accounts"), ["2"]);
    session.matches("plugin_together");
}
