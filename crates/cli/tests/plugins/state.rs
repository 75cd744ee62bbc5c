//! The cursors of a plugin: rows of its state table at the backend, which are the truth.

use highwater_testkit::postgres::Postgres;

use serde_json::{Value, json};

use super::{
    api, asked, count, destination, event, events, has_sdk, rows, scripted_as, served, session,
    source,
};
use crate::transcript::Session;

const STATE: &str = "SELECT key, value, version FROM cq_state";

fn sqlite() -> String {
    destination("copy", "sqlite", "", "    connection_string: copy.db\n")
}

#[test]
fn a_plugin_resumes_from_its_table_in_the_destination() {
    if !has_sdk("a_plugin_resumes_from_its_table_in_the_destination") {
        return;
    }
    let mut session = session(&events(1..=3));
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite()));
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", STATE);
    session.query("copy.db", "SELECT _cq_source_name, id, at, payload FROM events");
    session.query("copy.db", "SELECT region, number, name, ref, extra FROM accounts");
    let mut more = events(2..=5);
    more.push(event(1));
    api(&mut session, &more, 1);
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", STATE);
    session.query("copy.db", "SELECT id FROM events");
    session.query("copy.db", "SELECT count(*) FROM event_lines");
    // Only what is read in full can have stale rows.
    session.query("copy.db", "SELECT number FROM accounts");
    assert_eq!(asked(&session), ["", "2026-01-03T00:00:01Z"]);
    session.matches("plugin_state");
}

#[test]
fn a_table_that_cloudquery_made_is_resumed_from() {
    if !has_sdk("a_table_that_cloudquery_made_is_resumed_from") {
        return;
    }
    let mut session = session(&events(1..=4));
    session.sql(
        "copy.db",
        "CREATE TABLE cq_state (key text NOT NULL, value text, version integer, \
         CONSTRAINT cq_state_cqpk PRIMARY KEY (key));
         INSERT INTO cq_state VALUES ('events', '2026-01-03T00:00:01Z', 7), ('other', 'x', 1);",
    );
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite()));
    // A position without the rows that it stands for is not gone on from.
    assert_eq!(session.run("sync sync.yml"), 3);
    assert_eq!(count(&session, "copy.db", "cq_state"), "2");
    session.sql(
        "copy.db",
        "CREATE TABLE events (_cq_sync_time timestamp, _cq_source_name text, id integer NOT NULL, \
         at timestamp, payload text, CONSTRAINT events_cqpk PRIMARY KEY (id));",
    );
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(asked(&session), ["2026-01-03T00:00:01Z", "2026-01-03T00:00:01Z"]);
    assert_eq!(rows(&session, "copy.db", "SELECT id FROM events ORDER BY id"), ["3", "4"]);
    assert_eq!(
        rows(&session, "copy.db", "SELECT key, value FROM cq_state ORDER BY key"),
        ["events | 2026-01-04T00:00:01Z", "other | x"]
    );
    let newer = rows(&session, "copy.db", "SELECT version > 7 FROM cq_state WHERE key = 'events'");
    assert_eq!(newer, ["1"]);
}

#[test]
fn postgresql_keeps_rows_and_cursors_together() {
    if !has_sdk("postgresql_keeps_rows_and_cursors_together") {
        return;
    }
    let database = Postgres::shared().create_database();
    database.execute(
        "CREATE TABLE cq_state (key text NOT NULL, value text, version numeric(20,0), \
         CONSTRAINT cq_state_cqpk PRIMARY KEY (key));
         INSERT INTO cq_state VALUES ('events', '2026-01-02T00:00:01Z', 3);
         CREATE TABLE events (_cq_sync_time timestamp, _cq_source_name text, id bigint NOT NULL, \
         at timestamp, payload text, CONSTRAINT events_cqpk PRIMARY KEY (id))",
    );
    let mut session = session(&events(1..=3));
    let spec = format!("    connection_string: \"{}\"\n", database.url());
    let pg = destination("pg", "cloudquery/postgresql", "  version: v8.0.0\n", &spec);
    session.hidden_file("sync.yml", (source("pg", "pg", "") + &pg).as_bytes());
    assert_eq!(session.run("sync sync.yml"), 0);
    api(&mut session, &events(1..=6), 2);
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(asked(&session), ["2026-01-02T00:00:01Z", "2026-01-03T00:00:01Z"]);
    let value = |query: &str| database.value(query).unwrap();
    assert_eq!(value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM events"), "2 3 4 5 6");
    assert_eq!(value("SELECT value FROM cq_state WHERE key = 'events'"), "2026-01-06T00:00:01Z");
    // Each of the two syncs has moved it once.
    assert_eq!(value("SELECT version::text FROM cq_state WHERE key = 'events'"), "5");
    assert_eq!(
        value(
            "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) \
               FROM pg_attribute WHERE attrelid = 'accounts'::regclass AND attnum > 0"
        ),
        "timestamp with time zone, text, text, bigint, text, uuid, jsonb"
    );
}

#[test]
fn another_destination_keeps_the_cursors_of_files() {
    if !has_sdk("another_destination_keeps_the_cursors_of_files") {
        return;
    }
    let mut session = session(&events(1..=3));
    let files = destination(
        "files",
        "files",
        "  write_mode: append\n",
        "    path: \"out/{{TABLE}}/{{UUID}}.{{FORMAT}}\"\n    format: json\n",
    );
    let state = destination("sqlite", "sqlite", "", "    connection_string: ./db.sqlite\n");
    let text = source("files", "sqlite", "") + &files + &state;
    session.file("sync.yml", &text.replace("[\"*\"]", "[events]"));
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("db.sqlite", STATE);
    api(&mut session, &events(1..=5), 2);
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("db.sqlite", STATE);
    assert_eq!(asked(&session), ["", "2026-01-03T00:00:01Z"]);
    let mut lines = 0;
    for file in std::fs::read_dir(session.path("out/events")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            lines += std::fs::read_to_string(path).unwrap().lines().count();
        }
    }
    // The plugin asks for the row at its cursor again, and files are appended to.
    assert_eq!(lines, 6);
    session.matches("plugin_state_apart");
}

#[test]
fn a_part_of_the_rows_has_a_name_of_its_own() {
    if !has_sdk("a_part_of_the_rows_has_a_name_of_its_own") {
        return;
    }
    let mut session = session(&events(1..=2));
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite()));
    assert_eq!(session.run("sync sync.yml --shard 1/2 --summary-location s.jsonl"), 0);
    let names = rows(&session, "copy.db", "SELECT DISTINCT _cq_source_name FROM events");
    assert_eq!(names, ["shop_1_2"]);
    let line = std::fs::read_to_string(session.path("s.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["shard_num"], &line["shard_total"]), (&1.into(), &2.into()));
    assert_eq!(count(&session, "copy.db", "accounts"), "2");
}

#[test]
fn dependent_tables_follow_only_where_they_are_asked_for() {
    if !has_sdk("dependent_tables_follow_only_where_they_are_asked_for") {
        return;
    }
    let mut session = session(&events(1..=2));
    let entry = "[{name: \"event*\", target: seen_events, write_mode: append}]";
    let follow = "  skip_dependent_tables: false\n  skip_tables: [accounts]\n";
    for (tables, keys, expected) in [
        ("[events]", "", vec!["events"]),
        ("[events]", "  skip_dependent_tables: false\n", vec!["event_lines", "events"]),
        ("[\"*\"]", follow, vec!["event_lines", "events"]),
        ("[\"*\"]", "  skip_tables: [event*]\n", vec!["accounts"]),
        (&entry.replace("event*", "events"), "", vec!["seen_events"]),
    ] {
        let _ = std::fs::remove_file(session.path("copy.db"));
        let text = source("copy", "copy", "").replace("[\"*\"]", tables);
        let text = text.replace("  backend_options", &format!("{keys}  backend_options"));
        session.file("sync.yml", &(text + &sqlite()));
        assert_eq!(session.run("sync sync.yml"), 0, "{tables} {keys}");
        let query = "SELECT name FROM sqlite_master WHERE type = 'table' AND \
                     (name LIKE '%event%' OR name = 'accounts') ORDER BY name";
        assert_eq!(rows(&session, "copy.db", query), expected, "{tables} {keys}");
    }
}

/// A source's own settings may name the backend, which is our proxy, and any plugin.
#[test]
fn settings_may_hold_the_address_of_a_destination() {
    let mut session = Session::new();
    served(&session, "sqlite");
    let journal = session.path("journal.jsonl").display().to_string();
    let script = json!({ "tables": [{ "name": "t", "columns": { "id": "int" }, "key": ["id"] }],
        "steps": [{ "rows": "t", "from": 1, "count": 1 }], "journal": journal });
    session.hidden_file("script.json", script.to_string().as_bytes());
    let path = session.path("script.json").display().to_string();
    scripted_as(&session, "shop", &format!("source={path}"));
    let lake = destination(
        "lake",
        "./highwater-sqlite",
        "  registry: local\n",
        "    connection_string: lake.db\n",
    );
    let settings = "    state: \"@@plugins.copy.connection\"\n    others: [\"at @@plugins.lake.connection\"]\n";
    let text = source("copy", "copy", settings).replace("./incremental", "./shop");
    session.file("sync.yml", &(text + &sqlite() + &lake));
    assert_eq!(session.run("sync sync.yml"), 0);
    let spec = noted(&journal, "init").remove(0)["spec"].clone();
    let (state, other) = (spec["state"].as_str().unwrap(), spec["others"][0].as_str().unwrap());
    assert!(!state.contains("@@") && !other.contains("@@"), "{spec}");
    assert!(other.starts_with("at ") && !other.ends_with(state), "{spec}");
}

/// What the scripted source has noted of one kind of call.
fn noted(journal: &str, call: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(journal).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["call"] == call).collect()
}

#[test]
fn what_the_command_line_says_reaches_the_plugin() {
    let mut session = Session::new();
    let journal = session.path("journal.jsonl").display().to_string();
    let script = json!({ "tables": [{ "name": "t", "columns": { "id": "int" }, "key": ["id"] }],
        "steps": [{ "rows": "t", "from": 1, "count": 1 }], "journal": journal });
    session.hidden_file("script.json", script.to_string().as_bytes());
    let path = session.path("script.json").display().to_string();
    scripted_as(&session, "shop", &format!("source={path}"));
    let text = source("copy", "copy", "    number: 7\n    text: \"7\"\n");
    let text = text
        .replace("./incremental", "./shop")
        .replace("tables: [\"*\"]", "tables: [t]\n  skip_tables: [u]\n  deterministic_cq_id: true");
    session.file("sync.yml", &(text + &sqlite()));
    let id = "5ca1ab1e-0000-4000-8000-000000000001";
    session.run(&format!("sync sync.yml --shard 2/3 --invocation-id {id}"));
    let init = noted(&journal, "init").remove(0);
    assert_eq!(init["invocation"], id);
    assert_eq!(init["no_connection"], false);
    assert_eq!((&init["spec"]["number"], &init["spec"]["text"]), (&json!(7), &json!("7")));
    let sync = noted(&journal, "sync").remove(0).to_string();
    for part in [
        "\"tables\":[\"t\"]",
        "\"skip\":[\"u\"]",
        "\"deterministic\":true",
        "\"shard\":[2,3]",
        "\"backend\":\"cq_state\"",
    ] {
        assert!(sync.contains(part), "{sync}");
    }
    assert_eq!(session.run("tables sync.yml"), 0);
    assert_eq!(noted(&journal, "init").pop().unwrap()["no_connection"], true);
    let tables = noted(&journal, "get_tables").pop().unwrap();
    assert_eq!((&tables["tables"], &tables["skip"]), (&json!(["*"]), &json!([])));
}
