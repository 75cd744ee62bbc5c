//! A plugin's cursors: held by the state proxy, and sent on when nothing can be missing.

use std::sync::Arc;

use highwater_cloudquery::host::{Plugin, Registry};
use highwater_cloudquery::source::SourcePlugin;
use highwater_core::{Message, Source, State, TableName};
use serde_json::{Value, json};

use crate::host_docker::docker;
use crate::reading::{Run, Scripted, incremental_tables, plan, run, run_plan, run_until, state};
use crate::scripted::{executable, other_path};

fn rows(table: &str, from: u64, count: u64) -> Value {
    json!({"rows": table, "from": from, "count": count})
}

async fn run_with(steps: Value, before: &State) -> (Run, Scripted) {
    let script = Scripted::new(incremental_tables(), steps);
    let source = SourcePlugin::new(script.with_state());
    let run = run(&source, before).await;
    (run, script)
}

async fn cursors(steps: Value) -> Vec<String> {
    let (run, _) = run_with(steps, &State::default()).await;
    assert!(run.is_complete(), "{run:?}");
    run.cursors()
}

#[tokio::test]
async fn what_was_flushed_is_sent_after_the_last_row() {
    let steps = json!([
        rows("a", 1, 3), {"flush": {"at": "3"}, "version": 8}, rows("a", 4, 2),
        {"flush": {"at": "5", "other": "x"}}, rows("a", 6, 1),
    ]);
    let before = state(json!({"at": {"value": "0", "version": 7}}));
    let (run, _) = run_with(steps, &before).await;
    assert!(run.is_complete(), "{run:?}");
    assert_eq!(run.cursors(), ["at=5@9 other=x@1"]);
    assert!(matches!(run.messages.last(), Some(Message::Checkpoint(_))), "after the last row");
    assert_eq!(run.values("a", "id").len(), 6);
}

#[tokio::test]
async fn the_plugin_reads_what_is_committed_and_what_it_has_flushed() {
    let steps = json!([
        {"read": ["key", "value", "version"]}, {"flush": {"at": "3"}, "version": 8},
        {"read": ["value", "key"]}, {"read": ["version"]},
    ]);
    let before =
        state(json!({"at": {"value": "0", "version": 7}, "k": {"value": "", "version": 0}}));
    let (run, script) = run_with(steps, &before).await;
    assert!(run.is_complete());
    assert_eq!(
        script.journal("read"),
        [
            json!({"read": ["at=0=7", "k==0"]}),
            json!({"read": ["3=at", "=k"]}),
            json!({"read": ["8", "0"]}),
        ]
    );
    assert_eq!(run.cursors(), ["at=3@8"], "rows that nobody changed are not sent");
}

#[tokio::test]
async fn a_state_of_many_megabytes_comes_in_several_messages() {
    let many: serde_json::Map<String, Value> = (0..100)
        .map(|n| (format!("k{n:03}"), json!({"value": "v".repeat(100_000), "version": n})))
        .collect();
    let steps = json!([{"read": ["version", "value"]}]);
    let (run, script) = run_with(steps, &state(Value::Object(many))).await;
    assert!(run.is_complete());
    // Its client takes no message of more than 4 MiB.
    let value = "v".repeat(100_000);
    let all: Vec<String> = (0..100).map(|n| format!("{n}={value}")).collect();
    assert!(script.journal("read") == [json!({"read": all})], "not what is committed");
}

#[tokio::test]
async fn without_a_change_an_empty_checkpoint_ends_the_read() {
    let before = state(json!({"at": {"value": "3", "version": 7}}));
    let steps = json!([rows("a", 1, 1), {"flush": {"at": "3"}}, {"flush": {}}]);
    let (run, _) = run_with(steps, &before).await;
    assert!(run.is_complete());
    assert_eq!(run.cursors(), ["-"]);
}

#[tokio::test]
async fn a_cursor_stays_when_a_table_that_it_may_cover_failed() {
    let flush = json!({"flush": {"at": "5"}});
    let error = |table: &str| json!({"error": table});
    for table in ["a", "child", "unheard of"] {
        let none: [&str; 0] = [];
        assert_eq!(cursors(json!([rows("a", 1, 3), flush, error(table)])).await, none, "{table}");
        // Before the flush or after it: the plugin flushes all the same.
        assert_eq!(cursors(json!([error(table), rows("a", 1, 3), flush])).await, none, "{table}");
    }
    assert_eq!(cursors(json!([error("b"), flush])).await, ["at=5@1"], "`b` has no cursor");
    let other = json!({"name": "a", "columns": {"id": "text"}, "key": ["id"]});
    let none: [&str; 0] = [];
    assert_eq!(cursors(json!([{"migrate": other}, flush])).await, none);
    let unknown = json!({"name": "unknown", "columns": {"id": "int"}});
    assert_eq!(cursors(json!([{"rows": unknown, "from": 1, "count": 1}, flush])).await, none);
}

#[tokio::test]
async fn a_cursor_stays_when_its_rows_go_nowhere() {
    let steps = json!([rows("a", 1, 3), rows("b", 1, 3), {"flush": {"at": "3"}}]);
    let script = Scripted::new(incremental_tables(), steps);
    for (unplanned, cursors) in [("a", vec![]), ("b", vec!["at=3@1".to_owned()])] {
        let source = SourcePlugin::new(script.with_state());
        let mut plan = plan(&source).await;
        plan.tables.remove(&TableName::new(unplanned));
        let run = run_plan(&source, &plan, &State::default()).await;
        assert!(run.is_complete());
        assert_eq!(run.cursors(), cursors, "{unplanned}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_moves_no_cursor() {
    let steps = json!([rows("a", 1, 3), {"flush": {"at": "3"}}, {"status": "broken"}]);
    let (run, script) = run_with(steps, &State::default()).await;
    assert!(run.end.is_err());
    assert_eq!(script.journal("flushed"), [json!({"flushed": true})]);
    assert_eq!(run.cursors(), [""; 0]);
}

#[tokio::test]
async fn a_cursor_on_the_stream_is_sent_at_its_place() {
    let steps = json!([
        rows("a", 1, 3), {"checkpoint": {"at": "3"}}, rows("a", 4, 2), rows("b", 1, 1),
        {"checkpoint": {"at": "5", "x": "y"}}, {"checkpoint": {"at": "5"}}, rows("a", 6, 1),
    ]);
    let before = state(json!({"at": {"value": "0", "version": 1}}));
    let (run, _) = run_with(steps, &before).await;
    assert!(run.is_complete());
    // The second waits for its time, which comes before the end only where everything is slow.
    let cursors = run.cursors();
    assert_eq!(cursors[..2], ["at=3@2", "at=5@3 x=y@1"]);
    assert!(cursors[2..].iter().all(|cursor| cursor == "-"), "{cursors:?}");
    let rows_before = rows_before_cursors(&run);
    assert_eq!(rows_before[0], 3);
    assert!(rows_before[1] >= 6, "after every row that it covers: {rows_before:?}");
    assert_eq!(rows_before.last(), Some(&7));
}

/// How many rows came before each checkpoint.
fn rows_before_cursors(run: &Run) -> Vec<usize> {
    let mut rows_before = Vec::new();
    let mut count = 0;
    for message in &run.messages {
        match message {
            Message::Batch(batch) => count += batch.rows.num_rows(),
            Message::Checkpoint(_) => rows_before.push(count),
            other => panic!("{other:?}"),
        }
    }
    rows_before
}

/// Not timed: however long it takes, at most one in two seconds is sent on.
#[tokio::test]
async fn many_cursors_on_the_stream_become_few() {
    let each = |n: u64| [rows("a", n, 1), json!({"checkpoint": {"at": n.to_string()}})];
    let steps: Vec<Value> = (1..=1000).flat_map(each).collect();
    let start = std::time::Instant::now();
    let (run, _) = run_with(Value::Array(steps), &State::default()).await;
    let most = 3 + start.elapsed().as_secs() / 2;
    assert!(run.is_complete());
    let cursors = run.cursors();
    assert!(cursors.len() as u64 <= most, "{cursors:?}");
    assert_eq!(cursors[0], "at=1@1", "the first at once");
    let last = cursors.iter().rfind(|cursor| *cursor != "-").unwrap();
    assert_eq!(last, "at=1000@1000");
    assert_eq!(run.values("a", "id").len(), 1000);
}

/// A plugin that is silent for long, for its system lets it wait, has its position committed.
#[tokio::test]
async fn a_cursor_that_waits_is_sent_while_the_plugin_is_silent() {
    let steps = json!([
        rows("a", 1, 1), {"checkpoint": {"at": "1"}}, rows("a", 2, 1), {"checkpoint": {"at": "2"}},
        rows("a", 3, 1), {"hang": true},
    ]);
    let script = Scripted::new(incremental_tables(), steps);
    let source = SourcePlugin::new(script.with_state());
    let plan = plan(&source).await;
    let stop = Arc::default();
    let is_second = |message: &Message| match message {
        Message::Checkpoint(at) => at.cursors.values().any(|at| at.0["rows"]["at"]["value"] == "2"),
        _ => false,
    };
    let run = run_until(&source, &plan, &State::default(), &stop, is_second).await;
    assert_eq!(run.cursors(), ["at=1@1", "at=2@2"]);
    assert!(rows_before_cursors(&run)[1] >= 2);
}

#[tokio::test]
async fn a_cursor_that_waits_takes_none_along_that_came_after_a_failure() {
    let steps = json!([
        rows("a", 1, 1), {"checkpoint": {"at": "1"}}, {"checkpoint": {"at": "2"}},
        {"error": "child"}, rows("a", 2, 1), {"checkpoint": {"at": "3"}},
    ]);
    let cursors = cursors(steps).await;
    assert_eq!(cursors[0], "at=1@1");
    assert!(cursors[1..].iter().all(|cursor| cursor == "at=2@2"), "{cursors:?}");
}

#[tokio::test]
async fn a_cursor_on_the_stream_does_not_take_a_flushed_one_along() {
    let steps = json!([
        rows("a", 1, 3), {"flush": {"flushed": "3"}}, {"checkpoint": {"sent": "1"}},
        {"error": "child"}, {"checkpoint": {"sent": "2"}},
    ]);
    let (run, _) = run_with(steps, &State::default()).await;
    assert!(run.is_complete());
    assert_eq!(run.cursors(), ["sent=1@1"], "and after a failure none");
}

#[tokio::test]
async fn without_a_state_table_no_backend_is_offered() {
    let script = Scripted::new(incremental_tables(), json!([{"checkpoint": {"at": "1"}}]));
    let run = script.run(script.config()).await;
    assert!(run.is_complete());
    assert_eq!(run.cursors(), [""; 0]);
}

/// Somebody else's plugin may see no files of ours: it is offered a port, whatever its own is.
#[tokio::test]
async fn a_plugin_that_runs_elsewhere_reaches_the_state() {
    for (words, start) in [("", "unix:///"), (" no-unix", "127.0.0.1:")] {
        let folder = tempfile::tempdir().unwrap();
        let script =
            Scripted::new(incremental_tables(), json!([rows("a", 1, 1), {"flush": {"at": "1"}}]));
        let mut spec = script.spec();
        spec.path = other_path(folder.path());
        spec.environment[0].1 += words;
        let running = Plugin::start(&spec).await.unwrap();
        assert!(running.connection().starts_with(start), "{}", running.connection());
        let mut config = script.with_state();
        config.plugin.registry = Registry::Grpc;
        config.plugin.path = running.connection().to_owned();
        let source = SourcePlugin::new(config);
        assert_eq!(run(&source, &State::default()).await.cursors(), ["at=1@1"]);
        let offered = script.journal("connection")[0]["connection"].clone();
        assert!(offered.as_str().unwrap().starts_with("127.0.0.1:"), "{offered}");
        source.close().await.unwrap();
        assert!(running.died().is_none(), "somebody else's plugin is left alone");
        running.stop().await.unwrap();
    }
}

/// The loopback is another one inside a container. Here 127.0.0.2 stands for the engine's network.
#[tokio::test]
async fn a_plugin_in_a_container_gets_an_address_that_it_can_reach() {
    let folder = tempfile::tempdir().unwrap();
    let go_on = folder.path().join("go-on");
    let script = Scripted::new(incremental_tables(), json!([{"wait": go_on}]));
    let words = format!("source={}", script.path("script").display());
    let mut config = script.with_state();
    config.plugin = docker(folder.path(), &words);
    config.state_placeholder = Some("@@plugins.b.connection".to_owned());
    config.spec = json!({"state": "@@plugins.b.connection", "db": "@@plugins.x.connection"});
    config.connections = vec![("@@plugins.x.connection".to_owned(), "localhost:1".to_owned())];
    let command = folder.path().join("with-network");
    let lines =
        "#!/bin/sh\n[ \"$1\" != network ] || { echo 127.0.0.2; exit; }\nexec DOCKER \"$@\"\n";
    executable(&command, &lines.replace("DOCKER", config.plugin.docker_command.to_str().unwrap()));
    config.plugin.docker_command = command;

    let source = SourcePlugin::new(config);
    source.discover(None).await.unwrap();
    let spec = script.journal("spec")[0]["spec"].clone();
    let (name, port) = spec["state"].as_str().unwrap().split_once(':').unwrap();
    assert_eq!((name, &spec["db"]), ("host.docker.internal", &json!("host.docker.internal:1")));
    let port: u16 = port.parse().unwrap();
    tokio::net::TcpStream::connect(("127.0.0.2", port)).await.unwrap();
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    std::fs::write(go_on, "").unwrap();
    assert!(run(&source, &State::default()).await.is_complete());
    source.close().await.unwrap();
}
