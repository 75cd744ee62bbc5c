//! Sources on CloudQuery's own SDKs: what their servers and state clients do with us.

use std::collections::BTreeMap;
use std::path::Path;

use highwater_cloudquery::host::{PluginSpec, Registry, Role};
use highwater_cloudquery::source::{SourceConfig, SourcePlugin};
use highwater_core::{ErrorKind, Source, State, TableName};
use highwater_testkit::sdk;
use serde_json::{Value, json};

use crate::reading::{Run, config, lines, run};

fn plugin(folder: &Path, file: &str) -> PluginSpec {
    let path = sdk::executable(folder, file).display().to_string();
    PluginSpec::new(file, Role::Source, Registry::Local, path)
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// The incremental plugin: its "API" is a file.
struct Incremental {
    folder: tempfile::TempDir,
}

impl Incremental {
    fn new(events: u32) -> Self {
        let new = Self { folder: tempfile::tempdir().unwrap() };
        new.has(events);
        new
    }

    /// So many events, each with a line; and two accounts.
    fn has(&self, events: u32) {
        let at = |n: u32| format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
        let events: Vec<Value> = (1..=events)
            .map(|n| {
                json!({"id": n, "at": at(n), "payload": format!("p{n}"),
                    "lines": [{"line": 1, "text": format!("line of {n}")}]})
            })
            .collect();
        let accounts = json!([
            {"region": "eu", "number": 1, "name": "one",
                "ref": "00000000-0000-0000-0000-000000000001", "extra": {"a": [1, null]}},
            {"region": "eu", "number": 2, "name": null, "ref": null, "extra": null},
        ]);
        let data = json!({"events": events, "accounts": accounts});
        std::fs::write(self.folder.path().join("data"), data.to_string()).unwrap();
    }

    fn config(&self, spec: Value) -> SourceConfig {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut all = json!({"data": path("data"), "requests": path("requests")});
        let all_pairs = all.as_object_mut().unwrap();
        all_pairs.extend(spec.as_object().unwrap().clone());
        SourceConfig {
            spec: all,
            skip_dependent_tables: false,
            state_table: Some("cq_state".to_owned()),
            ..config(plugin(self.folder.path(), "incremental.py"))
        }
    }

    async fn run(&self, spec: Value, before: &State) -> (Run, State) {
        let source = SourcePlugin::new(self.config(spec));
        let run = run(&source, before).await;
        let mut after = before.clone();
        for checkpoint in run.checkpoints() {
            after.cursors.extend(checkpoint.cursors.clone());
        }
        (run, after)
    }

    /// What each request for events began with.
    fn since(&self) -> Vec<String> {
        let requests = lines(&self.folder.path().join("requests"));
        let events = requests.iter().filter(|request| request["table"] == "events");
        events.map(|request| request["since"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn the_python_memory_plugin_is_read_whole() {
    let name = "the_python_memory_plugin_is_read_whole";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = config(plugin(folder.path(), "memdb.py"));
    let source = SourcePlugin::new(SourceConfig { deterministic_cq_id: true, ..config.clone() });
    let run = run(&source, &State::default()).await;
    assert!(run.is_complete(), "{run:?}");
    let expected = [("table_1", 3), ("table_1_relation_1", 9), ("table_2", 3)];
    assert_eq!(run.rows(), counts(&expected));
    assert_eq!(run.failed_tables(), [""; 0]);
    let tables = source.discover(None).await.unwrap();
    assert_eq!(tables[0].primary_key, ["name", "id"], "it has no `_cq_id`");
    assert_eq!(tables[1].parent, Some(TableName::new("table_1")));
    source.close().await.unwrap();

    let nope = SourceConfig { tables: vec!["nope*".to_owned()], ..config };
    let error = SourcePlugin::new(nope).discover(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let hint = "The plugin has: table_1, table_1_relation_1, table_2";
    assert_eq!(error.hint_text(), Some(hint));
}

#[tokio::test]
async fn the_javascript_memory_plugin_is_read_whole() {
    let name = "the_javascript_memory_plugin_is_read_whole";
    let Some(_) = sdk::or_skip(name, sdk::node()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = config(plugin(folder.path(), "memdb.mjs"));
    let source = SourcePlugin::new(SourceConfig {
        spec: Value::Null,
        skip_dependent_tables: false,
        ..config.clone()
    });
    source.check().await.unwrap();
    let run_of = run(&source, &State::default()).await;
    assert!(run_of.is_complete(), "{run_of:?}");
    let expected = [("table1", 3), ("table2", 2), ("table3", 2), ("table3_child1", 4)];
    assert_eq!(run_of.rows(), counts(&expected));
    assert_eq!(run_of.failed_tables(), [""; 0]);
    source.close().await.unwrap();

    let config = SourceConfig { deterministic_cq_id: true, ..config };
    let source = SourcePlugin::new(config);
    let tables = source.discover(None).await.unwrap();
    assert!(tables.iter().all(|table| table.primary_key == ["_cq_id"]), "{tables:?}");
    let run_of = run(&source, &State::default()).await;
    assert_eq!(run_of.failed_tables(), [""; 0]);
}

#[tokio::test]
async fn the_position_of_a_python_plugin_moves_with_its_rows() {
    let name = "the_position_of_a_python_plugin_moves_with_its_rows";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let api = Incremental::new(25);
    let flushes = json!({"flush_every": 10});
    let (first, state) = api.run(flushes.clone(), &State::default()).await;
    assert!(first.is_complete(), "{first:?}");
    assert_eq!(first.rows(), counts(&[("accounts", 2), ("event_lines", 25), ("events", 25)]));
    // Three flushes, of which two in the middle: one cursor, at the end.
    assert_eq!(first.cursors(), ["events=2026-01-01T00:00:25Z@3"]);
    assert_eq!(first.values("accounts", "extra"), ["{\"a\": [1, null]}", "NULL"]);

    api.has(30);
    let (second, state) = api.run(flushes.clone(), &state).await;
    assert_eq!(second.rows()["events"], 6, "the row at the position comes again");
    assert_eq!(second.cursors(), ["events=2026-01-01T00:00:30Z@4"]);
    let (third, _) = api.run(flushes, &state).await;
    assert_eq!(third.rows()["events"], 1);
    assert_eq!(third.cursors(), ["-"], "nothing has changed");
    assert_eq!(api.since(), ["", "2026-01-01T00:00:25Z", "2026-01-01T00:00:30Z"]);
}

#[tokio::test]
async fn a_python_plugin_that_dies_after_a_flush_reads_its_rows_again() {
    let name = "a_python_plugin_that_dies_after_a_flush_reads_its_rows_again";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let api = Incremental::new(200);
    let spec = json!({"flush_every": 10, "die_after": 150});
    let (died, state) = api.run(spec, &State::default()).await;
    assert!(died.error().message().contains("137"), "{}", died.error());
    assert_eq!(died.cursors(), [""; 0]);
    assert_eq!(state, State::default());
    let (again, _) = api.run(json!({"flush_every": 10}), &state).await;
    assert!(again.is_complete(), "{again:?}");
    assert_eq!(again.rows()["events"], 200);
    assert_eq!(api.since(), ["", ""]);
}

#[tokio::test]
async fn a_python_table_that_fails_moves_no_position() {
    let name = "a_python_table_that_fails_moves_no_position";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let api = Incremental::new(25);
    // It flushes the position of a table that failed, and fails a child once per parent row.
    for (table, failed, cursors) in [
        ("events", vec!["events", "event_lines"], vec![]),
        ("event_lines", vec!["event_lines"], vec![]),
        ("accounts", vec!["accounts"], vec!["events=2026-01-01T00:00:25Z@3".to_owned()]),
    ] {
        let spec = json!({"flush_every": 10, "fail_table": table, "fail_after": 0});
        let (run, _) = api.run(spec, &State::default()).await;
        assert!(run.is_complete(), "{run:?}");
        assert_eq!(run.failed_tables(), failed);
        assert_eq!(run.cursors(), cursors, "{table}");
    }
}

#[tokio::test]
async fn a_python_plugin_that_sends_its_position_in_band_is_committed_on_the_way() {
    let name = "a_python_plugin_that_sends_its_position_in_band_is_committed_on_the_way";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let api = Incremental::new(25);
    let spec = json!({"flush_every": 10, "checkpoints": true});
    let (run, _) = api.run(spec, &State::default()).await;
    assert!(run.is_complete(), "{run:?}");
    // The first at once; those that follow soon after it may go as one.
    let cursors = run.cursors();
    assert_eq!(cursors[0], "events=2026-01-01T00:00:10Z@1");
    let last = cursors.iter().rfind(|cursor| *cursor != "-").unwrap();
    assert_eq!(last, "events=2026-01-01T00:00:25Z@3");
}

#[tokio::test]
async fn a_python_plugin_without_a_state_table_reads_everything() {
    let name = "a_python_plugin_without_a_state_table_reads_everything";
    let Some(_) = sdk::or_skip(name, sdk::python()) else { return };
    let api = Incremental::new(25);
    for _ in 0..2 {
        let config = SourceConfig { state_table: None, ..api.config(json!({})) };
        let source = SourcePlugin::new(config);
        let run = run(&source, &State::default()).await;
        assert_eq!(run.rows()["events"], 25);
        assert_eq!(run.cursors(), [""; 0]);
        let tables = source.discover(None).await.unwrap();
        assert!(tables.iter().all(|table| !table.source_defined_cursor));
    }
}
