//! The cursors of a plugin: rows of its state table at the backend, which are the truth.

use highwater_testkit::postgres::Postgres;

use super::{api, asked, count, destination, event, events, has_sdk, rows, session, source};

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
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(asked(&session), ["2026-01-03T00:00:01Z"]);
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
         INSERT INTO cq_state VALUES ('events', '2026-01-02T00:00:01Z', 3)",
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
