//! Airbyte's sync modes, its states and its columns.

use serde_json::{Value, json};

use super::{destination, has_python, rows, session, source, user};

const ROWS: &str = "{rows_file: rows.jsonl, emitted_at: 1700000000000}";

/// The worked example of a first sync and a change, by a state that the connector gave.
#[test]
fn incremental_append_and_deduped() {
    if !has_python("incremental_append_and_deduped") {
        return;
    }
    let mut session = session();
    rows(&mut session, &[user(1, "Louis", "1754"), user(2, "Marie", "1755")]);
    let entry = "[{name: users, sync_mode: incremental, destination_sync_mode: append_dedup}]";
    session.file("sync.yml", &(source(entry, ROWS) + &destination("")));
    assert_eq!(session.run("plan sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query(
        "copy.db",
        "SELECT id, name, updated_at, changed, _airbyte_extracted_at, _airbyte_generation_id \
         FROM users ORDER BY id",
    );
    session.query("copy.db", "SELECT count(DISTINCT _airbyte_raw_id) FROM users");
    assert_eq!(session.run("state show sync.yml"), 0);
    rows(&mut session, &[user(1, "Louis XVI", "1774"), user(2, "Marie", "1755")]);
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", "SELECT id, name, updated_at FROM users ORDER BY id");
    session.query("copy.db", "SELECT id, name, updated_at FROM users_history ORDER BY 1, 3");
    let state = "{\"updated_at\":\"1700\"}";
    assert_eq!(session.run(&format!("state set sync.yml --table users --to {state}")), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    session.matches("airbyte_dedup");
}

#[test]
fn every_mode_as_it_is_planned() {
    if !has_python("every_mode_as_it_is_planned") {
        return;
    }
    let mut session = session();
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let all: Vec<_> = names.map(|name| (name, user(1, "x", "2026").1)).to_vec();
    rows(&mut session, &all);
    let entries = "
    - {name: a, sync_mode: full_refresh, destination_sync_mode: overwrite}
    - {name: b, sync_mode: full_refresh, destination_sync_mode: append}
    - {name: c, sync_mode: full_refresh, destination_sync_mode: overwrite_dedup}
    - {name: d, sync_mode: incremental, destination_sync_mode: append}
    - {name: e, sync_mode: incremental, destination_sync_mode: append_dedup}
    - {name: f, sync_mode: full_refresh, destination_sync_mode: append_dedup}
    - {name: g, destination_sync_mode: append_dedup, primary_key: [[changed, by], [id]],
       cursor_field: changed.at}";
    session.file("sync.yml", &(source(entries, ROWS) + &destination("")));
    assert_eq!(session.run("plan sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml"), 0);
    for table in names {
        session.query("copy.db", &format!("SELECT id, name FROM {table}"));
    }
    session.query("copy.db", "SELECT changed_by, id, changed_at FROM g");
    session.matches("airbyte_modes");
}

#[test]
fn the_default_mode_has_cloudquerys_columns() {
    if !has_python("the_default_mode_has_cloudquerys_columns") {
        return;
    }
    let mut session = session();
    rows(&mut session, &[user(1, "Louis", "1754")]);
    session.file("sync.yml", &(source("[users]", ROWS) + &destination("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", "SELECT name FROM pragma_table_info('users')");
    session.matches("airbyte_default_mode");
}

/// Rows that the source has lost, by a refresh that removes and by a sweep that reconciles.
#[test]
fn refreshes_and_sweeps() {
    if !has_python("refreshes_and_sweeps") {
        return;
    }
    let mut session = session();
    rows(&mut session, &[user(1, "Louis", "1754"), user(2, "Marie", "1755")]);
    let entry = "[{name: users, destination_sync_mode: append_dedup}]";
    session.file("sync.yml", &(source(entry, ROWS) + &destination("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    rows(&mut session, &[user(2, "Marie", "1755")]);
    assert_eq!(session.run("refresh sync.yml users --keep"), 0);
    session.query("copy.db", "SELECT id, name, _airbyte_generation_id FROM users ORDER BY id");
    assert_eq!(session.run("refresh sync.yml users --remove"), 0);
    session.query("copy.db", "SELECT id, name, _airbyte_generation_id FROM users ORDER BY id");
    rows(&mut session, &[user(3, "Axel", "1755")]);
    let swept =
        "[{name: users, destination_sync_mode: append_dedup, deletes: reconcile, sweep: 7d}]";
    session.file("sync.yml", &(source(swept, ROWS) + &destination("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", "SELECT id, name FROM users ORDER BY id");
    assert_eq!(session.run("state reset sync.yml --table users --clear"), 0);
    session.query("copy.db", "SELECT count(*) FROM users");
    session.matches("airbyte_refresh");
}

/// A stream that is INCOMPLETE is a failure, also when the connector ends with 0.
#[test]
fn a_stream_that_is_incomplete() {
    if !has_python("a_stream_that_is_incomplete") {
        return;
    }
    let mut session = session();
    let other = || ("others", user(1, "Axel", "1755").1);
    rows(&mut session, &[user(1, "Louis", "1754"), other()]);
    let entry = "[{name: \"*\", sync_mode: full_refresh, destination_sync_mode: overwrite}]";
    session.file("sync.yml", &(source(entry, ROWS) + &destination("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    rows(&mut session, &[user(2, "Marie", "1755"), other()]);
    let incomplete = ROWS.replace('}', ", incomplete: [users]}");
    session.file("sync.yml", &(source(entry, &incomplete) + &destination("")));
    assert_eq!(session.run("sync sync.yml"), 3);
    session.query("copy.db", "SELECT id, name FROM users");
    session.matches("airbyte_incomplete");
}

/// A record that says that its row was deleted removes it, or is a row like others.
#[test]
fn deletions() {
    if !has_python("deletions") {
        return;
    }
    let mut session = session();
    let row = |id: i64, day: &str, deleted: Value| json!({ "id": id, "updated_at": day, "_ab_cdc_deleted_at": deleted });
    let both = |day: &str, deleted: &Value| {
        ["hard", "soft"].map(|name| (name, row(1, day, deleted.clone()))).to_vec()
    };
    let entries = "
    - {name: hard, destination_sync_mode: append_dedup}
    - {name: soft, destination_sync_mode: append_dedup, deletes: soft}";
    rows(&mut session, &both("2026-01-01", &Value::Null));
    let catalog = |name: &str| {
        let text = json!({ "type": ["null", "string"] });
        json!({ "name": name, "supported_sync_modes": ["incremental"],
            "source_defined_cursor": true, "default_cursor_field": ["updated_at"],
            "source_defined_primary_key": [["id"]],
            "json_schema": { "properties": { "id": { "type": "integer" },
                "updated_at": text, "_ab_cdc_deleted_at": text } } })
    };
    let script = json!({ "catalog": [catalog("hard"), catalog("soft")] });
    session.hidden_file("script.json", script.to_string().as_bytes());
    let spec = ROWS.replace('{', "{script: script.json, ");
    session.file("sync.yml", &(source(entries, &spec) + &destination("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    rows(&mut session, &both("2026-01-02", &json!("2026-01-02")));
    assert_eq!(session.run("sync sync.yml"), 0);
    session.query("copy.db", "SELECT id, _ab_cdc_deleted_at FROM hard");
    session.query("copy.db", "SELECT id, _ab_cdc_deleted_at FROM soft");
    session.query("copy.db", "SELECT updated_at, _highwater_op FROM hard_history ORDER BY 1");
    session.matches("airbyte_deletions");
}

/// One state for all tables: a table that is refreshed is read anew, the others go on.
#[test]
fn global_states() {
    if !has_python("global_states") {
        return;
    }
    let mut session = session();
    let other = |id: i64, day: &str| ("others", user(id, "Axel", day).1);
    rows(&mut session, &[user(1, "Louis", "1754"), other(1, "1755")]);
    let spec = ROWS.replace('}', ", global: true, save_args: args}");
    let append = destination("  write_mode: append\n");
    session.file("sync.yml", &(source("[\"*\"]", &spec) + &append));
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(session.run("state show sync.yml"), 0);
    assert_eq!(session.run("refresh sync.yml users --remove"), 0);
    session.query("copy.db", "SELECT id, name, _airbyte_generation_id FROM users");
    let last = (1..).map(|n| session.path(&format!("args/{n}"))).take_while(|p| p.exists());
    let read = last.filter(|folder| folder.join("state.json").exists()).last().unwrap();
    let state = std::fs::read_to_string(read.join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    // The shared state is there, and of the streams only the one that goes on.
    assert_eq!(state[0]["type"], "GLOBAL");
    assert_eq!(state[0]["global"]["shared_state"]["total"], 2);
    let streams = state[0]["global"]["stream_states"].as_array().unwrap();
    assert_eq!(streams.len(), 1, "{state}");
    assert_eq!(streams[0]["stream_descriptor"]["name"], "others");
    assert_eq!(session.run("state reset sync.yml --all --clear"), 0);
    assert_eq!(session.run("state show sync.yml"), 0);
    session.matches("airbyte_global");
}
