//! As a source: `spec`, `check`, `discover`, `read`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Folder, asked, catalog};

/// A shop with users, of which `at` says when they changed.
fn shop() -> Folder {
    let folder = Folder::new();
    let script = "
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, at TIMESTAMP);
        INSERT INTO users VALUES (1, 'Ann', '2026-01-01 00:00:00'),
            (2, 'Bob', '2026-01-02 00:00:00'), (3, 'Cid', '2026-01-03 00:00:00');
        CREATE TABLE notes (text TEXT);
        INSERT INTO notes VALUES ('a \"note\"'), (NULL);";
    folder.database("shop.db").execute_batch(script).unwrap();
    folder.write("config.json", json!({"connection_string": "shop.db"}));
    folder
}

const READ: &str = "read --config config.json --catalog catalog.json";
const GO_ON: &str = "read --config config.json --catalog catalog.json --state state.json";

#[test]
fn a_spec_is_printed_without_a_configuration() {
    let folder = Folder::new();
    for name in ["sqlite", "source-sqlite", "destination-postgresql", "files"] {
        let said = folder.run(name, "spec", &[]).expect(0);
        assert_eq!(said.messages.len(), 1, "{name}");
        let spec = said.of("SPEC")[0];
        let schema = &spec["connectionSpecification"];
        assert_eq!(schema["type"], "object");
        // Some look only at the root for what is a secret.
        assert_eq!(schema["properties"]["sync_name"]["type"], "string", "{name}");
        let secret = schema["properties"].get("connection_string");
        assert_eq!(secret.is_none(), name == "files");
        assert!(secret.is_none_or(|secret| secret["airbyte_secret"] == true), "{name}");
        for role in spec["connectionSpecification"]["anyOf"].as_array().unwrap() {
            let properties = &role["properties"];
            assert_eq!(properties["sync_name"]["default"], "airbyte", "{name}");
            assert_eq!(properties["table_options"]["type"], "object", "{name}");
            let secret = properties.get("connection_string");
            assert!(secret.is_none_or(|secret| secret["airbyte_secret"] == true), "{name}");
        }
        assert_eq!(
            spec["supported_destination_sync_modes"],
            json!(["append", "overwrite", "append_dedup"])
        );
    }
}

#[test]
fn a_check_that_fails_is_a_message_and_no_failure() {
    let folder = shop();
    let check = "check --config config.json";
    let said = folder.run("source-sqlite", check, &[]).expect(0);
    assert_eq!(said.messages.len(), 1);
    assert_eq!(said.of("CONNECTION_STATUS"), [&json!({"status": "SUCCEEDED"})]);

    let failed = |config: Value, part: &str| {
        folder.write("config.json", config);
        let said = folder.run("source-sqlite", check, &[]).expect(0);
        let status = said.of("CONNECTION_STATUS")[0].clone();
        assert_eq!(status["status"], "FAILED");
        assert!(status["message"].as_str().unwrap().contains(part), "{status}");
    };
    failed(json!({"connection_string": "nowhere/shop.db"}), "does not exist");
    failed(json!({"connection": "shop.db"}), "unknown field `connection`");
    failed(json!({"connection_string": "shop.db", "sync_name": ""}), "`sync_name` is no name");
    failed(json!("not a mapping"), "");
}

#[test]
fn the_tables_are_streams() {
    let folder = shop();
    folder.write(
        "config.json",
        json!({"connection_string": "shop.db", "table_options": {"users": {"cursor": "at"},
            "*": {"read_mode": "full_refresh"}}}),
    );
    let said = folder.run("source-sqlite", "discover --config config.json", &[]).expect(0);
    let streams = said.of("CATALOG")[0]["streams"].as_array().unwrap().clone();
    let names: Vec<_> = streams.iter().map(|stream| stream["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["notes", "users"]);
    // Without a column that could be a cursor.
    assert_eq!(streams[0]["supported_sync_modes"], json!(["full_refresh"]));
    let users = &streams[1];
    assert_eq!(users["source_defined_primary_key"], json!([["id"]]));
    assert_eq!(users["default_cursor_field"], json!(["at"]));
    assert_eq!(users["supported_sync_modes"], json!(["full_refresh", "incremental"]));
    let properties = &users["json_schema"]["properties"];
    assert_eq!(properties["id"], json!({"type": ["null", "integer"]}));
    assert_eq!(
        properties["at"],
        json!({"type": ["null", "string"], "format": "date-time",
               "airbyte_type": "timestamp_without_timezone"})
    );
}

#[test]
fn a_full_read_says_begin_rows_state_and_end() {
    let folder = shop();
    folder.write("catalog.json", catalog(&[asked("notes", "full_refresh", &[])]));
    let said = folder.run("source-sqlite", READ, &[]).expect(0);
    assert_eq!(said.statuses(), ["notes STARTED", "notes RUNNING", "notes COMPLETE"]);
    assert_eq!(said.rows(), [&json!({"text": "a \"note\""}), &json!({"text": null})]);
    let states = said.of("STATE");
    assert_eq!(states.len(), 1);
    assert_eq!(states[0]["type"], "STREAM");
    assert_eq!(states[0]["sourceStats"], json!({"recordCount": 2.0}));
    let kinds: Vec<_> = said.messages.iter().map(|m| m["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["TRACE", "TRACE", "RECORD", "RECORD", "STATE", "TRACE"]);
    for record in said.of("RECORD") {
        // Milliseconds, and no namespace where there is none.
        assert!(record["emitted_at"].as_i64().unwrap() > 1_500_000_000_000);
        assert!(record.get("namespace").is_none());
    }
}

#[test]
fn a_state_in_any_form_goes_on_where_it_was_printed() {
    let folder = shop();
    folder.write("catalog.json", catalog(&[asked("users", "incremental", &["at"])]));
    for nothing in ["[]", "{}", "null"] {
        folder.write("state.json", nothing);
        let said = folder.run("source-sqlite", GO_ON, &[]).expect(0);
        assert_eq!(said.rows().len(), 3, "{nothing}");
    }
    let said = folder.run("source-sqlite", READ, &[]).expect(0);
    let state = said.of("STATE").last().unwrap()["stream"].clone();

    let change = "INSERT INTO users VALUES (4, 'Dee', '2026-01-04 00:00:00');
                  UPDATE users SET name = 'Amy', at = '2026-01-05 00:00:00' WHERE id = 1";
    folder.database("shop.db").execute_batch(change).unwrap();
    let (blob, descriptor) = (&state["stream_state"], &state["stream_descriptor"]);
    // As PyAirbyte gives it back: with a key twice and every field that there is.
    let pyairbyte = format!(
        r#"[{{"type":"STREAM","stream":{{"stream_descriptor":{{"name":"users","namespace":null}},
        "stream_state":{blob}}},"global_":null,"data":null,"sourceStats":{{"recordCount":1.0,
        "rejectedRecordCount":null}},"destinationStats":null,"global_":null}}]"#
    );
    let plain = json!([{"type": "STREAM",
        "stream": {"stream_descriptor": descriptor, "stream_state": blob}}]);
    for form in [pyairbyte, plain.to_string()] {
        folder.write("state.json", form);
        let said = folder.run("source-sqlite", GO_ON, &[]).expect(0);
        let mut ids: Vec<_> = said.rows().iter().map(|row| row["id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 4]);
        assert_eq!(said.of("STATE").last().unwrap()["sourceStats"], json!({"recordCount": 2.0}));
        assert_eq!(said.statuses().last().unwrap(), "users COMPLETE");
    }
}

#[test]
fn what_is_wrong_as_a_whole_is_an_error_and_the_exit_code() {
    let folder = shop();
    let refused = |words: &str, expected: &str, part: &str| {
        let said = folder.run("source-sqlite", words, &[]).expect(1);
        assert_eq!(said.errors().len(), 1, "{:?}", said.messages);
        let error = &said.errors()[0];
        assert!(error.starts_with(expected) && error.contains(part), "{error}");
        assert!(said.rows().is_empty());
    };
    folder.write("catalog.json", catalog(&[asked("ghosts", "full_refresh", &[])]));
    refused(READ, "config_error: The source has no such stream", "ghosts");
    folder.write("catalog.json", catalog(&[asked("users", "incremental", &[])]));
    refused(READ, "config_error: An incremental read needs a cursor", "users");
    folder.write("catalog.json", catalog(&[asked("users", "incremental", &["at"])]));
    let foreign = json!([{"type": "STREAM", "stream": {"stream_descriptor": {"name": "users"},
        "stream_state": {"updated_at": "2026"}}}]);
    folder.write("state.json", foreign);
    refused(GO_ON, "config_error: The state is not one", "leave `--state` out");
    let global = json!([{"type": "GLOBAL", "global": {"shared_state": {"lsn": 1}}}]);
    folder.write("state.json", global);
    refused(GO_ON, "config_error: The state is not one", "leave `--state` out");
    for nothing in [json!([{"type": "STREAM"}]), json!([{"type": "STREAM", "stream": {}}])] {
        folder.write("state.json", nothing);
        refused(GO_ON, "config_error: The state is not one", "leave `--state` out");
    }
    folder.write("catalog.json", "{");
    refused(READ, "config_error: The file of `--catalog`", "catalog.json");
    folder.write("config.json", r#"{"connection_string": "hunter2" hunter2"#);
    refused(READ, "config_error: The file of `--config`", "config.json");
    let said = folder.run("source-sqlite", READ, &[]);
    assert!(!format!("{:?}{}", said.messages, said.stderr).contains("hunter2"));
}

#[test]
fn a_stream_that_fails_is_incomplete_and_the_others_are_not() {
    let folder = shop();
    let script = "CREATE TABLE broken (size INTEGER); INSERT INTO broken VALUES (1), (1e300)";
    folder.database("shop.db").execute_batch(script).unwrap();
    let streams = [asked("broken", "full_refresh", &[]), asked("notes", "full_refresh", &[])];
    folder.write("catalog.json", catalog(&streams));
    let said = folder.run("source-sqlite", READ, &[]).expect(1);
    let statuses = said.statuses();
    assert!(statuses.contains(&"notes COMPLETE".to_owned()), "{statuses:?}");
    assert!(statuses.contains(&"broken INCOMPLETE".to_owned()), "{statuses:?}");
    assert!(!statuses.contains(&"broken COMPLETE".to_owned()), "{statuses:?}");
    let own = |trace: &&Value| trace["error"]["stream_descriptor"]["name"] == "broken";
    assert_eq!(said.of("TRACE").into_iter().filter(own).count(), 1);
    assert!(said.errors()[0].starts_with("system_error: "), "{:?}", said.errors());
}

/// Rows for more than a pipe holds.
fn many(folder: &Folder) {
    let script = "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
                  INSERT INTO users SELECT i, 'name ' || i, '2026-02-01 00:00:00' FROM n";
    folder.database("shop.db").execute_batch(script).unwrap();
    folder.write("catalog.json", catalog(&[asked("users", "full_refresh", &[])]));
}

#[test]
fn nobody_who_reads_is_a_quiet_end() {
    let folder = shop();
    many(&folder);
    let mut command = folder.command("source-sqlite", READ);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(stderr, "");
}

/// PyAirbyte ends `spec`, `check` and `discover` so, and takes any other end for a failure.
#[test]
fn sigterm_kills() {
    use std::os::unix::process::ExitStatusExt;

    let folder = shop();
    many(&folder);
    let mut command = folder.command("source-sqlite", READ);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    // It is at work, and waits for us to read on.
    lines.read_line(&mut String::new()).unwrap();
    let id = child.id().to_string();
    let killed = std::process::Command::new("kill").args(["-s", "TERM", &id]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}
