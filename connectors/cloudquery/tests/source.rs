//! A source plugin's stream: rows, deletions, failures, and everything that can be wrong with it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_schema::Schema;
use highwater_cloudquery::source::{SourceConfig, SourcePlugin};
use highwater_core::{
    Completion, ErrorKind, Message, Output, ReadMode, Source, SourceDelivery, State, TableName,
};
use serde_json::{Value, json};

use crate::reading::{
    Scripted, incremental_tables, plan, planned, run, run_plan, run_until, table_a, two_tables,
};
use crate::scripted;

fn counts(pairs: &[(&str, usize)]) -> std::collections::BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// The first `count` rows of `a`, a message each.
fn rows_of_a(count: u64) -> Value {
    json!({"rows": "a", "from": 1, "count": count})
}

#[tokio::test]
async fn messages_of_one_row_become_large_batches_in_order() {
    let script = Scripted::new(
        two_tables(),
        json!([
            {"migrate": "a"}, {"migrate": "b"}, {"empty": "a"},
            {"rows": "a", "from": 1, "count": 9000},
            {"rows": "b", "from": 1, "count": 10, "per_message": 3},
            {"rows": "a", "from": 9001, "count": 1000, "per_message": 50},
        ]),
    );
    let run = script.run(script.config()).await;
    assert!(run.is_complete(), "{run:?}");
    assert_eq!(run.batches()["a"], [8192, 1808]);
    assert_eq!(run.batches()["b"], [10]);
    let ids: Vec<String> = (1..=10_000).map(|n| n.to_string()).collect();
    assert_eq!(run.values("a", "id"), ids);
    assert_eq!(run.values("a", "name")[9_999], "name-10000");
    assert_eq!(run.messages.len(), 3, "no checkpoint without a state table");
}

#[tokio::test]
async fn init_get_tables_and_sync_are_asked_for_as_configured() {
    let script = Scripted::new(two_tables(), json!([]));
    let source = SourcePlugin::new(SourceConfig {
        spec: json!({"at": "<@@plugins.pg.connection>", "state": "@@plugins.kept.connection"}),
        tables: vec!["a".to_owned(), "*".to_owned()],
        skip_tables: vec!["c".to_owned()],
        skip_dependent_tables: false,
        deterministic_cq_id: true,
        shard: Some((2, 3)),
        state_placeholder: Some("@@plugins.kept.connection".to_owned()),
        connections: vec![("@@plugins.pg.connection".to_owned(), "unix:///pg".to_owned())],
        ..script.with_state()
    });
    assert!(run(&source, &State::default()).await.is_complete());
    let mut calls = script.journal("call");
    let connection = calls[2]["connection"].take();
    assert!(connection.as_str().unwrap().starts_with("unix:///"), "{connection}");
    let spec = json!({"at": "<unix:///pg>", "state": connection});
    assert_eq!(
        calls,
        [
            json!({"call": "init", "spec": spec, "invocation": "this-run", "no_connection": false}),
            json!({"call": "get_tables", "tables": ["a", "*"], "skip": ["c"],
                "skip_dependent": false}),
            json!({"call": "sync", "tables": ["a", "*"], "skip": ["c"], "skip_dependent": false,
                "deterministic": true, "backend": "cq_state", "connection": null,
                "shard": [2, 3], "errors": true, "checkpoints": true}),
        ]
    );
    source.close().await.unwrap();

    let plain = SourcePlugin::new(SourceConfig { spec: Value::Null, ..script.config() });
    run(&plain, &State::default()).await;
    let calls = script.journal("call");
    assert_eq!(calls[3]["spec"], json!({}), "no settings are an empty object");
    assert_eq!(calls[5]["backend"], Value::Null);
    assert_eq!(calls[5]["checkpoints"], json!(false));
    assert_eq!(calls[5]["shard"], Value::Null);
}

#[tokio::test]
async fn a_pattern_without_a_match_says_what_there_is() {
    let script = Scripted::new(two_tables(), json!([]));
    let config = SourceConfig { tables: vec!["nope*".to_owned()], ..script.config() };
    let error = SourcePlugin::new(config).discover(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("nope*"), "{error}");
    assert_eq!(error.hint_text(), Some("The plugin has: a, b"));

    let empty = Scripted::new(json!([]), json!([]));
    let error = SourcePlugin::new(empty.config()).discover(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn tables_are_incremental_only_where_the_state_is_kept() {
    let script = Scripted::new(incremental_tables(), json!([]));
    let of = |config: SourceConfig| async {
        let source = SourcePlugin::new(config);
        let mut all = Vec::new();
        for table in source.discover(None).await.unwrap() {
            let notes = source.review(&planned(table.clone())).await.unwrap();
            all.push((table.name.name, table.source_defined_cursor, notes.join(" ")));
        }
        all
    };
    let kept = "Read incrementally by the plugin, which keeps its position in `cq_state`.";
    let could = "Read in full: the plugin could read it incrementally with `backend_options`.";
    let expected = |incremental: bool, note: &str| {
        let family = |name: &str| (name.to_owned(), incremental, note.to_owned());
        vec![family("a"), ("b".to_owned(), false, String::new()), family("child")]
    };
    assert_eq!(of(script.with_state()).await, expected(true, kept));
    assert_eq!(of(script.config()).await, expected(false, could));
}

#[tokio::test]
async fn a_computed_row_id_is_the_key() {
    let tables = json!([
        {"name": "a", "columns": {"id": "int", "_cq_id": "text"}, "key": ["id"]},
        {"name": "b", "columns": {"id": "int"}, "key": ["id"]},
    ]);
    let as_sent =
        json!({"name": "a", "columns": {"id": "int", "_cq_id": "text"}, "key": ["_cq_id"]});
    let script = Scripted::new(tables, json!([{"migrate": as_sent}, rows_of_a(1)]));
    let source = SourcePlugin::new(SourceConfig { deterministic_cq_id: true, ..script.config() });
    let keys = source.discover(None).await.unwrap();
    assert_eq!(keys.iter().map(|t| t.primary_key.concat()).collect::<Vec<_>>(), ["_cq_id", "id"]);
    let run = run(&source, &State::default()).await;
    assert_eq!((run.rows(), run.failed().len()), (counts(&[("a", 1)]), 0));
}

#[tokio::test]
async fn a_read_mode_that_the_plugin_does_not_have_is_refused() {
    let script = Scripted::new(incremental_tables(), json!([]));
    let source = SourcePlugin::new(script.with_state());
    let tables = source.discover(None).await.unwrap();
    for (table, mode) in [(0, ReadMode::FullRefresh), (1, ReadMode::Incremental)] {
        let mut plan = planned(tables[table].clone());
        plan.read_mode = mode;
        let error = source.review(&plan).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}: {mode}", plan.name());
        assert!(error.hint_text().is_some());
        let delivery = source.delivery(&plan);
        assert!(matches!(delivery, SourceDelivery::Again(_)));
    }
}

#[tokio::test]
async fn rows_have_the_columns_of_the_plan() {
    let script = Scripted::new(two_tables(), json!([rows_of_a(3)]));
    let source = SourcePlugin::new(script.config());
    let mut plan = plan(&source).await;
    let table = plan.tables.get_mut(&TableName::new("a")).unwrap();
    let narrow = Arc::make_mut(&mut table.source);
    narrow.schema = Schema::new(vec![narrow.schema.field(1).clone()]).into();
    let run = run_plan(&source, &plan, &State::default()).await;
    assert_eq!(run.values("a", "name"), ["name-1", "name-2", "name-3"]);
    let Message::Batch(batch) = &run.messages[0] else { panic!("{run:?}") };
    assert_eq!(batch.rows.num_columns(), 1);
}

#[tokio::test]
async fn a_table_may_be_sent_twice_and_a_message_may_hold_two_batches() {
    let script = Scripted::new(
        two_tables(),
        json!([
            {"migrate": "a"}, {"migrate": "a"},
            {"rows": "a", "from": 1, "count": 10, "per_message": 10, "batches": 2},
            {"migrate": "a"}, {"rows": "a", "from": 11, "count": 1},
        ]),
    );
    let run = script.run(script.config()).await;
    assert!(run.is_complete());
    assert_eq!(run.rows(), counts(&[("a", 11)]));
    assert_eq!(run.values("a", "id").last().unwrap(), "11");
}

#[tokio::test]
async fn a_failed_table_keeps_its_rows_and_the_others_go_on() {
    let steps = json!([
        rows_of_a(2), {"error": "a", "text": "GET https://me:secret@api/x: 500 ".to_owned()
            + &"x".repeat(2000)},
        {"error": "a"}, {"rows": "a", "from": 3, "count": 1}, {"rows": "b", "from": 1, "count": 5},
        {"error": ""},
    ]);
    let script = Scripted::new(two_tables(), steps);
    let source = SourcePlugin::new(script.config());
    let run = run(&source, &State::default()).await;
    assert!(run.is_complete());
    assert_eq!(run.rows(), counts(&[("a", 3), ("b", 5)]));
    let failed = run.failed();
    assert_eq!(run.failed_tables(), ["a", "(no table)", "b"], "once, however often");
    let error = failed[0].1;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().chars().count() < 600 && error.message().contains("500"), "{error}");
    assert!(!error.message().contains("secret"), "{error}");
    assert_eq!(source.table_errors()[&TableName::new("a")], 2);
}

#[tokio::test]
async fn a_table_that_comes_otherwise_than_it_was_listed_fails_alone() {
    let narrow = json!({"name": "a", "columns": {"id": "int"}, "key": ["id"]});
    let wide = json!({"name": "a", "columns": {"id": "int", "name": "text", "more": "int"}});
    let other = json!({"name": "a", "columns": {"id": "text", "name": "text"}, "key": ["id"]});
    let json_type = json!({"name": "a", "columns": {"id": "int", "name": "json"}, "key": ["id"]});
    let key = json!({"name": "a", "columns": {"id": "int", "name": "text"}, "key": ["name"]});
    for (described, column, also_rows) in [
        (narrow, "missing column: name", true),
        (wide, "new column: more", true),
        (other, "column: id, type: Utf8, listed: Int64", true),
        (json_type, "column: name", true),
        (key, "primary key: name, listed: id", false),
    ] {
        for step in
            [json!({"migrate": described}), json!({"rows": described, "from": 1, "count": 2})]
        {
            if step.get("rows").is_some() && !also_rows {
                continue;
            }
            let steps = json!([
                {"rows": "a", "from": 1, "count": 1}, step, {"rows": "a", "from": 2, "count": 7},
                {"rows": "b", "from": 1, "count": 3},
            ]);
            let script = Scripted::new(two_tables(), steps);
            let run = script.run(script.config()).await;
            assert!(run.is_complete(), "{run:?}");
            assert_eq!(run.rows(), counts(&[("a", 1), ("b", 3)]), "{column}");
            let failed = run.failed();
            assert_eq!(failed.len(), 1);
            assert_eq!((failed[0].0.as_str(), failed[0].1.kind()), ("a", ErrorKind::Schema));
            assert!(failed[0].1.to_string().contains(column), "{}", failed[0].1);
        }
    }
}

#[tokio::test]
async fn rows_of_a_table_that_was_not_listed_are_a_failure() {
    let unknown = json!({"name": "unknown", "columns": {"id": "int"}});
    let steps = json!([
        {"rows": unknown, "from": 1, "count": 3}, rows_of_a(2),
        {"delete": "never heard of"},
    ]);
    let script = Scripted::new(two_tables(), steps);
    let run = script.run(script.config()).await;
    assert!(run.is_complete());
    assert_eq!(run.rows(), counts(&[("a", 2)]));
    assert_eq!(run.failed_tables(), ["unknown", "never heard of"]);
    assert!(run.failed()[0].1.message().contains("did not list"));
}

#[tokio::test]
async fn rows_of_a_table_outside_the_plan_are_dropped_silently() {
    let steps = json!([
        {"migrate": "a"}, {"migrate": "b"}, {"rows": "b", "from": 1, "count": 3}, rows_of_a(2),
        {"delete": "b", "column": "id", "value": 1},
    ]);
    let script = Scripted::new(two_tables(), steps);
    let source = SourcePlugin::new(script.config());
    let mut plan = plan(&source).await;
    plan.tables.remove(&TableName::new("b"));
    let run = run_plan(&source, &plan, &State::default()).await;
    assert!(run.is_complete());
    assert_eq!(run.rows(), counts(&[("a", 2)]));
    assert_eq!(run.messages.len(), 1, "{run:?}");
}

#[tokio::test]
async fn deletions_come_after_the_rows_before_them() {
    let steps = json!([
        rows_of_a(5),
        {"delete": "a", "column": "id", "value": 4, "relations": [["b", "a"]]},
        {"rows": "a", "from": 6, "count": 1}, {"delete": "a"},
    ]);
    let script = Scripted::new(two_tables(), steps);
    let run = script.run(script.config()).await;
    assert!(run.is_complete());
    let kinds: String = run
        .messages
        .iter()
        .map(|message| match message {
            Message::Batch(batch) => batch.rows.num_rows().to_string(),
            Message::Delete(_) => "d".to_owned(),
            _ => "?".to_owned(),
        })
        .collect();
    assert_eq!(kinds, "5d1d");
    let [first, all] = run.deletions()[..] else { panic!("{run:?}") };
    assert_eq!(first.groups[0].equal[0].column, "id");
    assert_eq!(first.relations[0].table.name, "b");
    assert!(all.groups.is_empty());
}

#[tokio::test]
async fn a_plugin_that_dies_in_the_middle_is_an_error_that_says_so() {
    let steps = json!([rows_of_a(3), {"die": 137}]);
    let script = Scripted::new(two_tables(), steps);
    let run = script.run(script.with_state()).await;
    assert_eq!(run.error().kind(), ErrorKind::Transient);
    assert!(run.error().message().contains("137"), "{}", run.error());
    assert!(run.error().message().contains("memory"), "{}", run.error());
    assert_eq!(run.cursors(), [""; 0]);
}

#[tokio::test]
async fn a_stream_that_ends_with_an_error_has_the_plugins_words() {
    let script = Scripted::new(two_tables(), json!([rows_of_a(3), {"status": "no more quota"}]));
    let run = script.run(script.with_state()).await;
    assert!(run.error().message().contains("no more quota"), "{}", run.error());
    assert_eq!(run.cursors(), [""; 0]);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_an_error_with_its_reason() {
    let tables = json!([{"name": "big", "columns": {"value": "bytes"}}]);
    let script = Scripted::new(
        tables,
        json!([{"large": "big", "bytes": 100}, {"large": "big", "bytes": 300 << 20}]),
    );
    let run = script.run(script.config()).await;
    assert_eq!(run.error().kind(), ErrorKind::Data);
    assert!(run.error().message().contains("too large"), "{}", run.error());

    let script = Scripted::new(
        json!([{"name": "big", "columns": {"value": "bytes"}}]),
        json!([{"large": "big", "bytes": 150 << 20}]),
    );
    let run = script.run(script.config()).await;
    assert!(run.is_complete(), "150 MiB are not too large: {:?}", run.end);
    assert_eq!(run.rows(), counts(&[("big", 1)]));
}

#[tokio::test]
async fn bytes_that_belong_to_no_table_end_the_read() {
    let script = Scripted::new(two_tables(), json!([rows_of_a(1), {"garbage": true}]));
    let run = script.run(script.with_state()).await;
    assert_eq!(run.error().kind(), ErrorKind::Data);
    assert_eq!(run.error().context_value("plugin"), Some("scripted"));
    assert_eq!(run.cursors(), [""; 0]);
}

#[tokio::test]
async fn a_read_that_hangs_stops_when_it_is_asked_to() {
    let steps =
        json!([{"rows": "a", "from": 1, "count": 9000, "per_message": 9000}, {"hang": true}]);
    let script = Scripted::new(two_tables(), steps);
    let source = SourcePlugin::new(script.with_state());
    let plan = plan(&source).await;
    let stop = Arc::new(AtomicBool::new(false));
    let is_batch = |message: &Message| matches!(message, Message::Batch(_));
    let run = run_until(&source, &plan, &State::default(), &stop, is_batch).await;
    assert!(matches!(run.end, Ok(Completion::Stopped)), "{run:?}");
    assert_eq!(run.cursors(), [""; 0]);
    source.close().await.unwrap();
}

#[tokio::test]
async fn rows_are_passed_on_while_the_plugin_is_silent() {
    let script = Scripted::new(two_tables(), json!([rows_of_a(3), {"hang": true}]));
    let source = SourcePlugin::new(script.config());
    let plan = plan(&source).await;
    let stop = Arc::new(AtomicBool::new(false));
    let is_batch = |message: &Message| matches!(message, Message::Batch(_));
    let run = run_until(&source, &plan, &State::default(), &stop, is_batch).await;
    assert_eq!(run.rows(), counts(&[("a", 3)]));
}

#[tokio::test]
async fn nothing_is_left_of_a_read_that_is_dropped() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let script = Scripted::new(two_tables(), json!([rows_of_a(9000), {"hang": true}]));
    let mut config = script.with_state();
    config.plugin.environment[0].1 += &format!(" note={}", note.path().display());
    let source = SourcePlugin::new(config);
    let plan = plan(&source).await;
    let partition = source.partitions(&plan, &State::default()).await.unwrap().remove(0);
    let (output, mut messages) = Output::bounded(4, Arc::default());
    let state = State::default();
    let mut reading = source.read(&plan, &partition, &state, output);
    tokio::select! {
        end = &mut reading => panic!("{end:?}"),
        message = messages.recv() => assert!(message.is_some()),
    }
    drop(reading);
    let id = std::fs::read_to_string(note.path()).unwrap();
    let id = id.split(' ').next().unwrap();
    assert!(scripted::is_alive(id));
    drop(source);
    scripted::eventually("the plugin's end", || !scripted::is_alive(id));
}

#[tokio::test]
async fn a_closed_plugin_ends_in_good_order() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let script = Scripted::new(two_tables(), json!([]));
    let mut config = script.config();
    config.plugin.environment[0].1 += &format!(" note={}", note.path().display());
    let source = SourcePlugin::new(config);
    source.close().await.unwrap();
    run(&source, &State::default()).await;
    source.close().await.unwrap();
    let id = std::fs::read_to_string(note.path()).unwrap();
    assert!(!scripted::is_alive(id.split(' ').next().unwrap()));
    source.close().await.unwrap();
    assert_eq!(source.log_counts().errors, 0);
}

#[tokio::test]
async fn the_log_lines_are_counted() {
    let script = Scripted::new(json!([table_a()]), json!([rows_of_a(1)]));
    let mut config = script.config();
    config.plugin.environment[0].1 += " levels";
    let source = SourcePlugin::new(config);
    assert_eq!(source.log_counts().errors, 0);
    assert!(run(&source, &State::default()).await.is_complete());
    source.close().await.unwrap();
    scripted::eventually("its error line", || source.log_counts().errors == 1);
    assert_eq!(source.log_counts().warnings, 1);
}

#[tokio::test]
async fn a_plugin_without_a_test_of_its_connection_says_so() {
    let script = Scripted::new(two_tables(), json!([]));
    let error = SourcePlugin::new(script.config()).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context_value("code"), Some("UNIMPLEMENTED"));
    let folder = tempfile::tempdir().unwrap();
    let of = |words: &str| {
        let script = format!("destination={} {words}", folder.path().display());
        SourcePlugin::new(crate::reading::config(scripted::spec(&script)))
    };
    of("").check().await.unwrap();
    let error = of("bad-test").check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.context_value("code"), Some("UNREACHABLE"));
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// Not timed: a read of many rows in large messages has to come whole and in few batches.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_come_whole() {
    let steps = json!([{"rows": "b", "from": 1, "count": 1_000_000, "per_message": 10_000}]);
    let script = Scripted::new(two_tables(), steps);
    let source = SourcePlugin::new(script.config());
    let plan = plan(&source).await;
    let run = run_plan(&source, &plan, &State::default()).await;
    assert!(run.is_complete());
    assert_eq!(run.batches()["b"], vec![10_000; 100]);
}
