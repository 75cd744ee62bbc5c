//! As a destination: `write`.

use serde_json::{Value, json};

use super::{Folder, Said, asked, catalog};

/// A folder with the configuration of a destination, and its catalog.
fn destination(streams: &[Value]) -> Folder {
    let folder = Folder::new();
    folder.write("config.json", json!({"connection_string": "copy.db"}));
    folder.write("catalog.json", catalog(streams));
    folder
}

/// `users` of a generation.
pub(super) fn users(mode: &str, generation: Option<(u64, u64)>) -> Value {
    let schema = json!({"type": "object", "properties": {
        "id": {"type": ["null", "integer"]}, "name": {"type": ["null", "string"]},
        "price": {"type": ["null", "number"]}, "at": {"type": ["null", "string"],
            "format": "date-time", "airbyte_type": "timestamp_without_timezone"}}});
    let mut stream = json!({
        "stream": {"name": "users", "namespace": null, "json_schema": schema,
            "supported_sync_modes": ["full_refresh", "incremental"]},
        "sync_mode": "incremental", "destination_sync_mode": mode,
        "primary_key": [["id"]], "cursor_field": ["at"],
    });
    if let Some((id, minimum)) = generation {
        stream["generation_id"] = json!(id);
        stream["minimum_generation_id"] = json!(minimum);
        stream["sync_id"] = json!(1);
    }
    stream
}

pub(super) fn user(id: i64, name: &str, day: u32) -> Value {
    let at = format!("2026-01-{day:02}T00:00:00");
    record("users", json!({"id": id, "name": name, "at": at}))
}

fn record(stream: &str, data: Value) -> Value {
    // As PyAirbyte has it: every field that there is.
    json!({"type": "RECORD", "log": null, "state": null, "record": {"namespace": null,
        "stream": stream, "data": data, "emitted_at": 1_767_225_600_000_i64, "meta": null,
        "file_reference": null}})
}

pub(super) fn state(stream: &str, number: i64) -> Value {
    json!({"type": "STATE", "state": {"type": "STREAM", "id": number, "partition_id": "p",
        "stream": {"stream_descriptor": {"name": stream}, "stream_state": {"n": number}}}})
}

pub(super) fn status(stream: &str, status: &str) -> Value {
    json!({"type": "TRACE", "trace": {"type": "STREAM_STATUS", "emitted_at": 1.7e12,
        "stream_status": {"stream_descriptor": {"name": stream}, "status": status}}})
}

fn write(folder: &Folder, input: &[Value]) -> Said {
    folder.run("destination-sqlite", "write --config config.json --catalog catalog.json", input)
}

/// The names of the users, in order.
fn names(folder: &Folder) -> Vec<String> {
    let rows = folder.query("copy.db", "SELECT name FROM users ORDER BY id, name");
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

/// The numbers of the states that were given back.
pub(super) fn numbers(said: &Said) -> Vec<i64> {
    said.of("STATE").iter().map(|s| s["stream"]["stream_state"]["n"].as_i64().unwrap()).collect()
}

#[test]
fn states_come_back_whole_with_a_count() {
    let folder = destination(&[users("append", None), users_named("orders")]);
    let input = [
        json!({"type": "LOG", "log": {"level": "INFO", "message": "hello"}}),
        Value::String("no message".to_owned()),
        json!({"type": "NEWKIND", "newkind": {}}),
        user(1, "Ann", 1),
        record("orders", json!({"id": 1, "at": "2026-01-01T00:00:00"})),
        user(2, "Bob", 2),
        state("users", 1),
        state("orders", 2),
        state("users", 1),
        json!({"type": "STATE", "state": {"type": "STREAM", "data": null, "global": null,
            "stream": {"stream_descriptor": {"name": "users", "namespace": null},
                "stream_state": null}, "sourceStats": {"recordCount": 0.0}}}),
    ];
    let said = write(&folder, &input).expect(0);
    assert_eq!(said.messages.len(), 4, "{:?}", said.messages);
    let of = |name: &str| -> Vec<Value> {
        let states = said.of("STATE").into_iter();
        let own = states.filter(|s| s["stream"]["stream_descriptor"]["name"] == name);
        own.cloned().collect()
    };
    let mut first = input[6]["state"].clone();
    first["destinationStats"] = json!({"recordCount": 2.0});
    let mut again = input[8]["state"].clone();
    again["destinationStats"] = json!({"recordCount": 0.0});
    let mut last = input[9]["state"].clone();
    last["destinationStats"] = json!({"recordCount": 0.0});
    assert_eq!(of("users"), [first, again, last]);
    assert_eq!(of("orders")[0]["destinationStats"], json!({"recordCount": 1.0}));
    assert_eq!(names(&folder), ["Ann", "Bob"]);
}

fn users_named(name: &str) -> Value {
    let mut stream = users("append", None);
    stream["stream"]["name"] = json!(name);
    stream
}

#[test]
fn global_states_come_back_too() {
    let folder = destination(&[users("append_dedup", Some((1, 0)))]);
    let global = json!({"type": "STATE", "state": {"type": "GLOBAL", "global": {
        "shared_state": {"lsn": 18_446_744_073_709_551_615_u64},
        "stream_states": [{"stream_descriptor": {"name": "users"}, "stream_state": {"number": 99}}]
    }}});
    let input = [user(1, "Ann", 1), global.clone(), user(2, "Bob", 2), global];
    let said = write(&folder, &input).expect(0);
    let counts = said.of("STATE").into_iter().map(|s| s["destinationStats"]["recordCount"].clone());
    assert_eq!(counts.collect::<Vec<_>>(), [json!(1.0), json!(1.0)]);
    assert_eq!(
        said.of("STATE")[0]["global"]["shared_state"]["lsn"],
        18_446_744_073_709_551_615_u64
    );
    assert_eq!(names(&folder), ["Ann", "Bob"]);
}

#[test]
fn the_columns_of_airbyte_are_filled_and_words_for_numbers_are_read() {
    let folder = destination(&[users("append", Some((3, 0)))]);
    let mut seconds = record(
        "users",
        json!({"id": 1, "price": "1.500000000", "_airbyte_meta": {},
        "more": 1, "at": "2026-01-01T00:00:00"}),
    );
    seconds["record"]["emitted_at"] = json!(1_767_225_600);
    let said = write(&folder, &[seconds, state("users", 1), status("users", "COMPLETE")]).expect(0);
    assert!(said.stderr.contains("more"), "{}", said.stderr);
    let query = "SELECT id, price, _airbyte_extracted_at, _airbyte_generation_id,
        length(_airbyte_raw_id), json_extract(_airbyte_meta, '$.changes') FROM users";
    let expected = ["1", "1.5", "2026-01-01 00:00:00.000000Z", "3", "36", "[]"];
    assert_eq!(folder.query("copy.db", query), [expected]);
}

#[test]
fn one_generation_for_ever_truncates_nothing() {
    let folder = destination(&[users("append_dedup", Some((1, 1)))]);
    let complete = status("users", "COMPLETE");
    write(&folder, &[user(1, "Ann", 1), user(2, "Bob", 1), state("users", 1), complete.clone()])
        .expect(0);
    write(&folder, &[user(2, "Ben", 2), state("users", 2), complete.clone()]).expect(0);
    // Older than what is there.
    write(&folder, &[user(2, "Bob", 1), state("users", 3), complete]).expect(0);
    assert_eq!(names(&folder), ["Ann", "Ben"]);
}

#[test]
fn a_new_generation_replaces_the_old_one_when_it_is_complete() {
    for mode in ["append", "append_dedup"] {
        let folder = destination(&[users(mode, Some((1, 0)))]);
        let first = [user(1, "Ann", 1), state("users", 1), status("users", "COMPLETE")];
        write(&folder, &first).expect(0);
        folder.write("catalog.json", catalog(&[users(mode, Some((2, 2)))]));
        let rows = [user(2, "Bob", 2), state("users", 2)];
        // Nobody says that it is complete, as when the source has failed.
        let said = write(&folder, &rows).expect(1);
        assert_eq!(numbers(&said), [2], "{mode}");
        assert_eq!(names(&folder), ["Ann"], "{mode}");
        let said = write(&folder, &[status("users", "INCOMPLETE")]).expect(1);
        assert!(said.errors()[0].contains("completely"), "{:?}", said.errors());
        assert_eq!(names(&folder), ["Ann"], "{mode}");
        // The same attempt goes on: what came before belongs to it.
        let more = [user(3, "Cid", 3), state("users", 3), status("users", "COMPLETE")];
        write(&folder, &more).expect(0);
        assert_eq!(names(&folder), ["Bob", "Cid"], "{mode}");
        let generations = "SELECT DISTINCT _airbyte_generation_id FROM users";
        assert_eq!(folder.query("copy.db", generations), [["2"]], "{mode}");
    }
}

/// A refresh that has failed for good, and syncs that know nothing of it: what was confirmed of the
/// refresh is not sent again.
#[test]
fn what_was_confirmed_of_a_new_generation_is_not_lost() {
    for later in [Some((2, 0)), None] {
        let folder = destination(&[users("append", Some((1, 0)))]);
        let complete = status("users", "COMPLETE");
        write(&folder, &[user(1, "Ann", 1), state("users", 1), complete.clone()]).expect(0);
        folder.write("catalog.json", catalog(&[users("append", Some((2, 2)))]));
        let said = write(&folder, &[user(2, "Bob", 2), state("users", 2)]).expect(1);
        assert_eq!(numbers(&said), [2]);
        folder.write("catalog.json", catalog(&[users("append", later)]));
        write(&folder, &[user(3, "Cid", 3), state("users", 3), complete]).expect(0);
        assert_eq!(names(&folder), ["Bob", "Cid"], "{later:?}");
    }
}

#[test]
fn a_table_that_is_gone_comes_back_by_a_refresh_only() {
    let folder = destination(&[users("append_dedup", Some((1, 0)))]);
    let complete = status("users", "COMPLETE");
    let first = [user(1, "Ann", 1), state("users", 1), complete.clone()];
    write(&folder, &first).expect(0);
    folder.database("copy.db").execute_batch("DROP TABLE users").unwrap();
    let said = write(&folder, &[user(2, "Bob", 2), state("users", 2), complete.clone()]).expect(1);
    assert!(numbers(&said).is_empty());
    assert!(said.errors()[0].contains("hint: refresh the stream"), "{:?}", said.errors());
    folder.write("catalog.json", catalog(&[users("append_dedup", Some((2, 2)))]));
    write(&folder, &[user(1, "Ann", 1), user(2, "Bob", 2), state("users", 3), complete]).expect(0);
    assert_eq!(names(&folder), ["Ann", "Bob"]);
}

#[test]
fn overwrite_of_a_full_read_replaces_also_where_nobody_counts() {
    for generation in [None, Some((1, 1))] {
        let mut stream = users("overwrite", generation);
        stream["sync_mode"] = json!("full_refresh");
        let folder = destination(&[stream]);
        for name in ["Ann", "Bob"] {
            write(&folder, &[user(1, name, 1), status("users", "COMPLETE")]).expect(0);
            assert_eq!(names(&folder), [name], "{generation:?}");
        }
        let said = write(&folder, &[user(1, "Cid", 1), status("users", "INCOMPLETE")]).expect(1);
        assert_eq!(said.errors().len(), 1);
        assert_eq!(names(&folder), ["Bob"], "{generation:?}");
    }
    // Old hosts say nothing of streams: the end of the input is the end of all.
    let mut stream = users("overwrite", None);
    stream["sync_mode"] = json!("full_refresh");
    let folder = destination(&[stream]);
    write(&folder, &[user(1, "Ann", 1)]).expect(0);
    write(&folder, &[user(1, "Bob", 1)]).expect(0);
    assert_eq!(names(&folder), ["Bob"]);
}

#[test]
fn a_source_that_replaces_by_changes_alone_loses_nothing() {
    let folder = destination(&[users("overwrite", Some((1, 1)))]);
    for (id, name) in [(1, "Ann"), (2, "Bob")] {
        write(&folder, &[user(id, name, 1), status("users", "COMPLETE")]).expect(0);
    }
    assert_eq!(names(&folder), ["Ann", "Bob"]);
}

#[test]
fn an_incomplete_stream_fails_and_the_others_do_not() {
    let folder = destination(&[users("append", Some((1, 0))), users_named("orders")]);
    let input = [
        user(1, "Ann", 1),
        state("users", 1),
        user(2, "not covered", 1),
        record("orders", json!({"id": 7})),
        status("users", "INCOMPLETE"),
        status("orders", "COMPLETE"),
    ];
    let said = write(&folder, &input).expect(1);
    assert_eq!(numbers(&said), [1]);
    // The source sends again what no state covers.
    assert_eq!(names(&folder), ["Ann"]);
    assert_eq!(folder.query("copy.db", "SELECT id FROM orders"), [["7"]]);
}

#[test]
fn a_count_of_another_is_a_warning() {
    let folder = destination(&[users("append", None)]);
    let mut wrong = state("users", 1);
    wrong["state"]["sourceStats"] = json!({"recordCount": 1.0});
    let said = write(&folder, &[user(1, "Ann", 1), user(2, "Bob", 1), wrong]).expect(0);
    assert_eq!(said.of("STATE")[0]["destinationStats"], json!({"recordCount": 2.0}));
    assert!(said.stderr.contains("counts"), "{}", said.stderr);
}

#[test]
fn what_cannot_be_written_is_an_error_that_names_it() {
    let folder = destination(&[users("append", None)]);
    let stranger = record("ghosts", json!({"id": 1}));
    let said = write(&folder, &[user(1, "Ann", 1), state("users", 1), stranger]).expect(1);
    assert!(said.errors()[0].contains("ghosts"), "{:?}", said.errors());
    assert_eq!(numbers(&said), [1]);

    // The sender has died in the middle of a line.
    let folder = destination(&[users("append", None)]);
    let half = Value::String(r#"{"type":"RECORD","record":{"stream":"users","da"#.to_owned());
    let said = write(&folder, &[user(1, "Ann", 1), state("users", 1), half]).expect(1);
    assert_eq!(numbers(&said), [1]);
    assert_eq!(said.errors().len(), 1, "{:?}", said.errors());
    assert_eq!(names(&folder), ["Ann"]);

    for (mode, part) in [("update", "single rows"), ("soft_delete", "single rows")] {
        let folder = destination(&[users(mode, None)]);
        let said = write(&folder, &[]).expect(1);
        let error = &said.errors()[0];
        assert!(error.starts_with("config_error: ") && error.contains(part), "{error}");
    }
    let mut keyless = users("append_dedup", None);
    keyless["primary_key"] = json!([]);
    let said = write(&destination(&[keyless]), &[]).expect(1);
    assert!(said.errors()[0].starts_with("config_error: "), "{:?}", said.errors());
    let said = write(&destination(&[users("append", Some((3, 2)))]), &[]).expect(1);
    assert!(said.errors()[0].contains("minimum_generation_id"), "{:?}", said.errors());
}

#[test]
fn rows_that_are_deleted_at_the_source_go() {
    let mut stream = users("append_dedup", None);
    let deleted = json!({"type": ["null", "string"], "format": "date-time"});
    stream["stream"]["json_schema"]["properties"]["_ab_cdc_deleted_at"] = deleted;
    stream["cursor_field"] = json!([]);
    stream["stream"]["source_defined_cursor"] = json!(true);
    let folder = destination(&[stream]);
    let gone = record("users", json!({"id": 1, "_ab_cdc_deleted_at": "2026-01-03T00:00:00Z"}));
    write(&folder, &[user(1, "Ann", 1), user(2, "Bob", 1), state("users", 1)]).expect(0);
    write(&folder, &[gone, state("users", 2)]).expect(0);
    assert_eq!(names(&folder), ["Bob"]);
}

#[test]
fn two_names_at_one_place_do_not_know_each_other() {
    let folder = destination(&[users("append", Some((1, 0)))]);
    let complete = status("users", "COMPLETE");
    write(&folder, &[user(1, "Ann", 1), state("users", 1), complete]).expect(0);
    let names = || folder.query("copy.db", "SELECT DISTINCT sync FROM _highwater_cursor");
    assert_eq!(names(), [["airbyte"]]);
    let other = json!({"connection_string": "copy.db", "sync_name": "shop", "table_options":
        {"users": {"target": "customers"}}});
    folder.write("config.json", other);
    write(&folder, &[user(2, "Bob", 1), state("users", 1)]).expect(0);
    assert_eq!(names(), [["airbyte"], ["shop"]]);
    assert_eq!(folder.query("copy.db", "SELECT name FROM customers"), [["Bob"]]);
}

/// Files that are to replace others go with the run that made them. So their states come back only
/// when they have replaced them.
#[test]
fn states_of_files_that_replace_others_come_back_at_the_end() {
    let folder = destination(&[users("append", Some((1, 0)))]);
    folder.write("config.json", json!({"path": "out/{{TABLE}}/{{UUID}}.json", "format": "json"}));
    let words = "write --config config.json --catalog catalog.json";
    let run = |input: &[Value]| folder.run("destination-files", words, input);
    let names = || {
        let files = std::fs::read_dir(folder.path().join("out/users")).unwrap();
        let text = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let text: String = text.collect();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut names: Vec<_> = rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let complete = status("users", "COMPLETE");
    let said = run(&[user(1, "Ann", 1), state("users", 1), complete.clone()]).expect(0);
    assert_eq!(numbers(&said), [1]);
    folder.write("catalog.json", catalog(&[users("append", Some((2, 2)))]));
    let said = run(&[user(2, "Bob", 2), state("users", 2)]).expect(1);
    assert!(numbers(&said).is_empty());
    assert_eq!(names(), ["Ann"]);
    // So the sender sends it again.
    let again = [user(2, "Bob", 2), state("users", 2), user(3, "Cid", 3), state("users", 3)];
    let said = run(&[&again[..], std::slice::from_ref(&complete)].concat()).expect(0);
    assert_eq!(numbers(&said), [2, 3]);
    assert_eq!(names(), ["Bob", "Cid"]);
    let said = run(&[user(4, "Dee", 2), state("users", 4), complete]).expect(0);
    assert_eq!(numbers(&said), [4]);
    assert_eq!(names(), ["Bob", "Cid", "Dee"]);
}

/// The same rows, states and generations at another system.
#[test]
fn postgresql_reads_and_writes_too() {
    let database = highwater_testkit::postgres::Postgres::shared().create_database();
    let folder = destination(&[users("append_dedup", Some((1, 1)))]);
    folder.write("config.json", json!({"connection_string": database.url()}));
    let words = "write --config config.json --catalog catalog.json";
    let run = |input: &[Value]| folder.run("destination-postgresql", words, input);
    let complete = status("users", "COMPLETE");
    let names = || {
        let names = database.value("SELECT string_agg(name, ' ' ORDER BY id) FROM users");
        names.unwrap_or_default()
    };
    let said = run(&[user(1, "Ann", 1), state("users", 1), user(2, "Bob", 1), complete.clone()]);
    assert_eq!(numbers(&said.expect(0)), [1]);
    run(&[user(2, "Ben", 2), state("users", 2), complete.clone()]).expect(0);
    assert_eq!(names(), "Ann Ben");
    folder.write("catalog.json", catalog(&[users("append_dedup", Some((2, 2)))]));
    run(&[user(3, "Cid", 1), state("users", 3)]).expect(1);
    assert_eq!(names(), "Ann Ben");
    run(&[user(4, "Dee", 1), complete]).expect(0);
    assert_eq!(names(), "Cid Dee");

    folder.write("catalog.json", catalog(&[asked("users", "incremental", &["at"])]));
    let read = "read --config config.json --catalog catalog.json";
    let said = folder.run("source-postgresql", read, &[]);
    let mut said = said.expect(0);
    if said.rows().is_empty() {
        // PostgreSQL's default schema is a namespace.
        let mut stream = asked("users", "incremental", &["at"]);
        stream["stream"]["namespace"] = json!("public");
        folder.write("catalog.json", catalog(&[stream]));
        said = folder.run("source-postgresql", read, &[]).expect(0);
    }
    let found: Vec<_> = said.rows().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(found, ["Cid", "Dee"]);
    assert_eq!(said.statuses().last().unwrap(), "users COMPLETE");
}

#[test]
fn rows_go_through_a_pipe_and_are_the_same() {
    let folder = destination(&[]);
    let script = "
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12,3), at TIMESTAMP,
            is_new BOOLEAN, score REAL, data BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO users SELECT i, iif(i % 7 = 0, NULL, 'né \"' || i || '\" ' || char(10)),
            i || '.125', strftime('%Y-%m-%d %H:%M:%S', 1767225600 + i, 'unixepoch'), i % 2,
            i / 8.0, x'00ff' FROM n;";
    folder.database("shop.db").execute_batch(script).unwrap();
    folder.write("source.json", json!({"connection_string": "shop.db"}));
    folder.write("asked.json", catalog(&[asked("users", "incremental", &["at"])]));
    let said = folder.run("source-sqlite", "discover --config source.json", &[]).expect(0);
    let mut stream = users("append_dedup", Some((1, 1)));
    stream["stream"] = said.of("CATALOG")[0]["streams"][0].clone();
    folder.write("catalog.json", catalog(&[stream]));
    let program = env!("CARGO_BIN_EXE_highwater");
    let pipe = format!(
        "'{program}' connector airbyte source-sqlite read --config source.json \
         --catalog asked.json | '{program}' connector airbyte destination-sqlite write \
         --config config.json --catalog catalog.json"
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &pipe]).current_dir(folder.path());
    let said = folder.run_with(command, &[]).expect(0);
    let state = said.of("STATE").last().copied().unwrap();
    assert_eq!(state["destinationStats"], state["sourceStats"]);
    let columns = "id, name, at, is_new, score, data";
    let query = format!("SELECT {columns} FROM users ORDER BY id");
    let (there, here) = (folder.query("copy.db", &query), folder.query("shop.db", &query));
    assert_eq!(there.len(), 20_000);
    let other = there.iter().zip(&here).find(|(a, b)| a[..2] != b[..2] || a[3..5] != b[3..5]);
    assert_eq!(other, None);
    let sum = "SELECT sum(price * 1000) / 1000 FROM users";
    assert_eq!(folder.query("copy.db", sum), folder.query("shop.db", sum));
}
