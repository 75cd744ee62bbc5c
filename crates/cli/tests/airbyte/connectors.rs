//! How connectors are found and asked, and what they refuse.

use serde_json::{Value, json};

use super::{connector, destination, has_python, rows, session, source, user};
use crate::plugins::program;
use crate::transcript::Session;

/// A program that answers `spec` with a strict specification, and else is the scripted source.
fn strict(session: &Session) {
    let spec = json!({ "type": "SPEC", "spec": { "connectionSpecification": {
        "type": "object", "required": ["count"], "additionalProperties": false,
        "properties": {
            "count": { "type": "integer", "minimum": 1 },
            "password": { "type": "string", "airbyte_secret": true },
        },
    } } });
    let lines = format!(
        "#!/bin/sh\nif [ \"$1\" = spec ]; then echo '{spec}'; else exec ./source-shop \"$@\"; fi\n"
    );
    program(session, "source-strict", &lines);
}

/// A script with one stream that has no cursor.
fn script(session: &mut Session, more: &Value) {
    let mut script = json!({ "catalog": [{
        "name": "users",
        "json_schema": { "properties": { "id": { "type": "integer" } } },
        "supported_sync_modes": ["full_refresh"],
    }] });
    script.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    session.hidden_file("script.json", script.to_string().as_bytes());
}

#[test]
fn settings_that_the_connector_does_not_take() {
    let mut session = session();
    strict(&session);
    session.secret("hunter2");
    let strictly = |spec| source("[users]", spec).replace("./source-shop", "./source-strict");
    for (spec, code) in [
        ("{count: 5}", 0),
        ("{}", 2),
        ("{count: 0}", 2),
        ("{count: many}", 2),
        ("{cuont: 5}", 2),
        ("{count: 5, password: [hunter2]}", 2),
    ] {
        session.file("sync.yml", &(strictly(spec) + &destination("")));
        assert_eq!(session.run("validate-config sync.yml"), code, "{spec}");
    }
    // What a file has counts before what stands in `spec`.
    let with_file =
        strictly("{count: 0}").replace("  spec", "  config_file: settings.json\n  spec");
    session.file("sync.yml", &(with_file + &destination("")));
    session.hidden_file("settings.json", b"{\"count\": 3}");
    assert_eq!(session.run("validate-config sync.yml"), 0);
    session.hidden_file("settings.json", b"[3]");
    assert_eq!(session.run("validate-config sync.yml"), 2);
    session.matches("airbyte_validate");
}

#[test]
fn connections_are_tested_and_tables_told() {
    if !has_python("connections_are_tested_and_tables_told") {
        return;
    }
    let mut session = session();
    script(&mut session, &json!({}));
    let spec = "{script: script.json}";
    let append = destination("  write_mode: append\n");
    session.file("sync.yml", &(source("[users]", spec) + &append));
    assert_eq!(session.run("test-connection sync.yml"), 0);
    assert_eq!(session.run("tables sync.yml --json"), 0);
    script(&mut session, &json!({ "check": "the service says no" }));
    assert_eq!(session.run("test-connection sync.yml"), 2);
    session.file("sync.yml", &(source("[user]", spec) + &append));
    assert_eq!(session.run("sync sync.yml"), 2);
    let incremental = "[{name: users, sync_mode: incremental}]";
    session.file("sync.yml", &(source(incremental, spec) + &append));
    assert_eq!(session.run("sync sync.yml"), 2);
    session.matches("airbyte_asked");
}

#[test]
fn connectors_that_are_not_there() {
    let mut session = session();
    session.variable("PATH", "/nowhere");
    for path in ["./source-nothing", "manifest.yaml", "airbyte/source-faker", "source-faker"] {
        let text = source("[users]", "{}").replace("./source-shop", path) + &destination("");
        session.file("sync.yml", &text);
        assert_eq!(session.run("sync sync.yml"), 2, "{path}");
    }
    session.matches("airbyte_not_found");
}

/// A sync into a connector needs a place for its states, and the connector makes its tables.
#[test]
fn a_destination_of_airbyte() {
    if !has_python("a_destination_of_airbyte") {
        return;
    }
    let mut session = session();
    connector(&session, "scripted_destination.py", "destination-copy");
    rows(&mut session, &[user(1, "Louis", "1754")]);
    let written = "---
kind: destination
spec:
  name: copy
  path: ./destination-copy
  registry: airbyte
  write_mode: append
  spec: {lines_file: lines.jsonl, catalog_file: catalog.json}
---
kind: destination
spec:
  name: state
  path: sqlite
  spec:
    connection_string: state.db
";
    let from = source("[users]", "{rows_file: rows.jsonl, emitted_at: 1700000000000}");
    session.file("sync.yml", &format!("{from}{written}"));
    assert_eq!(session.run("plan sync.yml"), 2);
    let backend =
        "  backend_options: {table_name: cursors, connection: \"@@plugins.state.connection\"}\n";
    let good = format!("{from}{backend}{written}");
    session.file("sync.yml", &good);
    for command in ["validate-config", "test-connection", "plan", "migrate", "sync"] {
        assert_eq!(session.run(&format!("{command} sync.yml")), 0);
    }
    let lines = std::fs::read_to_string(session.path("lines.jsonl")).unwrap();
    let records: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["type"] == "RECORD")
        .collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["record"]["data"]["name"], "Louis");
    assert_eq!(session.run("state show sync.yml"), 0);
    assert_eq!(session.run("refresh sync.yml users"), 0);
    assert_eq!(session.run("state reset sync.yml --all --clear"), 2);
    let dedup = good.replace("write_mode: append", "write_mode: replace-dedup");
    session.file("sync.yml", &dedup);
    assert_eq!(session.run("plan sync.yml"), 2);
    session.file("sync.yml", &good.replace("  write_mode: append\n", ""));
    assert_eq!(session.run("plan sync.yml"), 2);
    session.matches("airbyte_destination");
}

/// What a connector renews itself is kept where the configuration says, and used from then on.
#[test]
fn settings_that_the_connector_renews() {
    if !has_python("settings_that_the_connector_renews") {
        return;
    }
    let mut session = session();
    session.secret("s3cond");
    let renewed = json!({ "script": "script.json", "password": "s3cond", "save_args": "args" });
    let status = json!({ "type": "TRACE", "trace": { "type": "STREAM_STATUS", "emitted_at": 0.0,
        "stream_status": { "stream_descriptor": { "name": "users" }, "status": "COMPLETE" } } });
    let lines = json!([
        { "type": "CONTROL", "control": { "type": "CONNECTOR_CONFIG", "emitted_at": 0.0,
            "connectorConfig": { "config": renewed } } },
        { "type": "RECORD", "record": { "stream": "users", "data": { "id": 1 }, "emitted_at": 1 } },
        status,
    ]);
    script(&mut session, &json!({ "lines": lines }));
    let text = source("[users]", "{script: script.json, password: first, save_args: args}");
    let append = destination("  write_mode: append\n");
    session.file("sync.yml", &(text.clone() + &append));
    assert_eq!(session.run("sync sync.yml"), 0);
    let kept = text.replace("  spec", "  config_file: tokens.json\n  spec");
    session.file("sync.yml", &(kept + &append));
    // Nobody would notice a wrong path before the old settings are refused.
    assert_eq!(session.run("sync sync.yml"), 2);
    session.hidden_file("tokens.json", b"{}");
    assert_eq!(session.run("sync sync.yml"), 0);
    let tokens = std::fs::read_to_string(session.path("tokens.json")).unwrap();
    let tokens: Value = serde_json::from_str(&tokens).unwrap();
    assert_eq!(tokens["password"], "s3cond");
    assert_eq!(session.run("sync sync.yml"), 0);
    let calls = (1..).map(|n| session.path(&format!("args/{n}/config.json")));
    let last = calls.take_while(|path| path.exists()).last().unwrap();
    let given: Value = serde_json::from_str(&std::fs::read_to_string(last).unwrap()).unwrap();
    assert_eq!(given["password"], "s3cond");
    session.matches("airbyte_renewed");
}

/// What comes from outside of the file may be a secret, also where the connector does not know it.
#[test]
fn what_came_from_a_variable_is_in_no_line() {
    if !has_python("what_came_from_a_variable_is_in_no_line") {
        return;
    }
    let mut session = session();
    session.variable("PIN", "p1n-of-mine").secret("p1n-of-mine");
    let log = |level: &str| json!({ "type": "LOG", "log": { "level": level, "message": "with p1n-of-mine" } });
    let failure = json!({ "type": "TRACE", "trace": { "type": "ERROR", "emitted_at": 0.0,
        "error": { "message": "no entry for p1n-of-mine", "failure_type": "config_error" } } });
    let lines = json!([log("INFO"), log("ERROR"), failure]);
    script(&mut session, &json!({ "lines": lines }));
    let text = source("[users]", "{script: script.json, entry: \"${PIN}\"}");
    session.file("sync.yml", &(text + &destination("  write_mode: append\n")));
    assert_ne!(session.run("sync sync.yml --log-level info"), 0);
    session.matches("airbyte_variable");
}

/// The trace of a program is for those who look for a defect in it.
#[test]
fn a_message_of_many_lines() {
    if !has_python("a_message_of_many_lines") {
        return;
    }
    let mut session = session();
    let trace =
        format!("It failed\nTraceback:\n{}ValueError: no", "  File x\n    f()\n".repeat(50));
    let log = json!({ "type": "LOG", "log": { "level": "ERROR", "message": trace } });
    let failure = json!({ "type": "TRACE", "trace": { "type": "ERROR", "emitted_at": 0.0,
        "error": { "message": "It failed", "failure_type": "config_error" } } });
    script(&mut session, &json!({ "lines": [log, failure] }));
    let text = source("[users]", "{script: script.json}");
    session.file("sync.yml", &(text + &destination("  write_mode: append\n")));
    assert_ne!(session.run("sync sync.yml"), 0);
    session.matches("airbyte_traceback");
}
