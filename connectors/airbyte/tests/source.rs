//! A source connector as a source: tables, rows, states, statuses.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use highwater_airbyte::source::{LINE, TablePaths};
use highwater_core::state::FULL_REFRESH;
use highwater_core::types::{RECORD_EXTRACTED_AT, RECORD_META, record_part};
use highwater_core::{
    Checkpoint, Completion, CursorKey, ErrorKind, Message, Source, State, TableName,
};
use serde_json::{Value, json};

use crate::source_support::*;

fn row(stream: &str, id: i64, updated_at: &str) -> Value {
    json!({"stream": stream, "data": {"id": id, "updated_at": updated_at}})
}

#[tokio::test]
async fn an_incremental_read_goes_on_where_its_state_says() {
    let rows: Vec<Value> = (1..=5).map(|id| row("a", id, &format!("2026-01-0{id}"))).collect();
    let shop = rows_shop(&rows, json!({"state_every": 2}));
    let first = shop.read(&[("a", Incremental, Append)]).await;
    assert!(matches!(first.result, Ok(Completion::Complete)), "{:?}", first.result);
    let state = |day: u32| format!("commit a={{\"updated_at\":\"2026-01-0{day}\"}}");
    assert_eq!(first.log(), ["a:2", &state(2), "a:2", &state(4), "a:1", &state(5), "done a"]);
    // The cursor is inclusive: its last row comes again.
    let second = shop.read_from(&[("a", Incremental, Append)], &first.state()).await;
    assert_eq!(second.ids("a"), [5]);
    let calls = shop.calls("read");
    let catalog = json_in(&calls[1].join("catalog.json"));
    let asked = &catalog["streams"][0];
    assert_eq!(asked["sync_mode"], "incremental");
    assert_eq!(asked["sync_id"], 1_000);
    assert_eq!(asked["stream"]["supported_sync_modes"], json!(["full_refresh", "incremental"]));
    assert_eq!(
        json_in(&calls[1].join("state.json")),
        json!([{"type": "STREAM", "stream": {
            "stream_descriptor": {"name": "a"}, "stream_state": {"updated_at": "2026-01-05"},
        }}])
    );
}

#[tokio::test]
async fn states_of_the_whole_source_are_kept_with_those_of_its_streams() {
    let rows = [row("a", 1, "1"), row("b", 2, "2"), row("b", 3, "3")];
    let shop = rows_shop(&rows, json!({"global": true}));
    let wanted = [("a", Incremental, Append), ("b", Incremental, Append)];
    let heard = shop.read(&wanted).await;
    assert!(heard.result.is_ok(), "{:?}", heard.result);
    let state = heard.state();
    let global = &state.cursors[&CursorKey::Global].0;
    assert_eq!(global["shared_state"], json!({"total": 3}));
    assert_eq!(state.cursors[&key("b")].0, json!({"updated_at": "3"}));
    assert_eq!(heard.log()[heard.log().len() - 2..], ["done a", "done b"]);
    let again = shop.read_from(&wanted, &state).await;
    assert_eq!((again.ids("a"), again.ids("b")), (vec![1], vec![3]));
    let given = json_in(&shop.calls("read")[1].join("state.json"));
    assert_eq!(given[0]["type"], "GLOBAL");
    assert_eq!(given[0]["global"]["shared_state"], json!({"total": 3}));
    assert_eq!(given.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_source_that_changed_to_a_state_per_stream_is_not_given_the_one_of_the_whole() {
    let rows = [row("a", 1, "1"), row("b", 2, "2")];
    let wanted = [("a", Incremental, Append), ("b", Incremental, Append)];
    let of_all = rows_shop(&rows, json!({"global": true}));
    let before = of_all.read(&wanted).await.state();
    let shop = rows_shop(&rows, json!({}));
    let after = shop.read_from(&wanted, &before).await.state();
    assert!(after.cursors[&CursorKey::Global].0.is_null());
    shop.read_from(&wanted, &after).await;
    let given = json_in(&shop.calls("read")[1].join("state.json"));
    assert_eq!(given[0]["type"], "STREAM", "{given}");
}

#[tokio::test]
async fn no_state_commits_rows_of_another_stream() {
    let lines = vec![
        record("a", 1),
        record("b", 1),
        state("b", 1, 1),
        record("a", 2),
        record("b", 2),
        state("a", 2, 2),
        state("b", 2, 1),
    ];
    let shop = shop(&[stream("a"), stream("b")], lines);
    let heard = shop.read(&[("a", Incremental, Append), ("b", Incremental, Append)]).await;
    assert_eq!(
        heard.log(),
        ["b:1", "commit b=1", "a:2", "commit a=2", "b:1", "commit b=2", "done a", "done b"]
    );
}

#[tokio::test]
async fn streams_that_flood_wait_for_their_states_on_disk() {
    // More of each than may wait in memory.
    let flood = |stream: &str| {
        let data = json!({"id": "{i}", "updated_at": "x".repeat(300)});
        let record = json!({"stream": stream, "data": data, "emitted_at": 1});
        json!({"repeat": 40_000, "line": {"type": "RECORD", "record": record}})
    };
    let lines = vec![
        flood("a"),
        flood("b"),
        state("b", 1, 40_000),
        state("a", 1, 40_000),
        record("b", 40_000),
        status("a", "COMPLETE"),
        state("b", 2, 1),
        status("b", "COMPLETE"),
    ];
    let shop = shop(&[stream("a"), stream("b")], lines);
    let heard = shop.read(&[("a", Incremental, Append), ("b", Incremental, Append)]).await;
    assert_eq!(
        heard.log(),
        ["b:40000", "commit b=1", "a:40000", "commit a=1", "b:1", "commit b=2", "done a", "done b"]
    );
    assert!(heard.ids("a").into_iter().eq(0..40_000) && heard.ids("b").into_iter().eq(0..40_001));
    // Rows that may come twice do not wait at all.
    let keyed = [("a", Incremental, Append), ("b", Incremental, Overwrite)];
    let log = shop.read(&keyed).await.log();
    assert_eq!(log[..4], ["b:40000", "commit b=1", "a:40000", "commit a=1"]);
}

#[tokio::test]
async fn a_stream_that_is_incomplete_fails_although_the_connector_exits_with_0() {
    let rows = [row("a", 1, "1"), row("b", 2, "2")];
    let shop = rows_shop(&rows, json!({"incomplete": ["b"]}));
    let heard = shop.read(&[("a", FullRefresh, Replace), ("b", FullRefresh, Replace)]).await;
    assert!(matches!(heard.result, Ok(Completion::Complete)));
    assert!(heard.failure("b").message().contains("completely"), "{}", heard.failure("b"));
    assert!(heard.log().contains(&"done a".to_owned()));
    assert!(!heard.log().contains(&"done b".to_owned()));
}

#[tokio::test]
async fn a_source_that_says_nothing_of_streams_and_ends_well_has_read_them_all() {
    let rows = [row("a", 1, "1"), row("b", 2, "2")];
    let shop = rows_shop(&rows, json!({"no_status": true}));
    let heard = shop.read(&[("a", FullRefresh, Append), ("b", FullRefresh, Append)]).await;
    assert_eq!(heard.log()[heard.log().len() - 2..], ["done a", "done b"]);
    // One that speaks of some of them has not read the others.
    let lines = vec![record("a", 1), record("b", 1), status("a", "COMPLETE")];
    let shop = shop_of_two(lines);
    let heard = shop.read(&[("a", Incremental, Append), ("b", Incremental, Append)]).await;
    assert_eq!(heard.log(), ["a:1", "commit", "failed b", "done a"]);
    assert!(heard.failure("b").message().contains("without saying"));
}

fn shop_of_two(lines: Vec<Value>) -> Shop {
    shop(&[stream("a"), stream("b")], lines)
}

#[tokio::test]
async fn a_failure_of_one_stream_is_that_of_its_table() {
    let lines = vec![
        record("a", 1),
        failure(Some("a"), "transient_error", "the shop is closed"),
        status("a", "INCOMPLETE"),
        record("b", 1),
        state("b", 1, 1),
        status("b", "COMPLETE"),
    ];
    let heard =
        shop_of_two(lines).read(&[("a", Incremental, Append), ("b", Incremental, Append)]).await;
    assert!(matches!(heard.result, Ok(Completion::Complete)));
    assert_eq!(heard.failure("a").kind(), ErrorKind::Transient);
    assert!(heard.failure("a").message().contains("the shop is closed"));
    assert_eq!(heard.log(), ["b:1", "commit b=1", "failed a", "done b"]);
}

#[tokio::test]
async fn a_state_after_the_end_of_a_stream_is_its_last() {
    // As the low-code connectors do: COMPLETE, and then the last state.
    let lines = vec![
        status("a", "STARTED"),
        status("w", "STARTED"),
        record("w", 1),
        record("a", 1),
        status("w", "COMPLETE"),
        state("w", 0, 1),
        status("a", "COMPLETE"),
        state("a", 7, 1),
    ];
    let shop = shop(&[stream("a"), whole_stream("w")], lines);
    let heard = shop.read(&[("a", Incremental, Append), ("w", FullRefresh, Append)]).await;
    assert_eq!(heard.log(), ["w:1", "commit", "a:1", "commit a=7", "done a", "done w"]);
    let lines = vec![record("w", 1), status("w", "COMPLETE"), state("w", 0, 9)];
    let shop = self::shop(&[whole_stream("w")], lines);
    let heard = shop.read(&[("w", FullRefresh, Append)]).await;
    assert_eq!(heard.log(), [] as [&str; 0], "its count is looked at first");
    assert_eq!(heard.error().kind(), ErrorKind::Data);
}

#[tokio::test]
async fn a_full_refresh_that_cannot_be_resumed_is_committed_when_it_is_complete() {
    let lines =
        |end: Value| vec![record("w", 1), state("w", 1, 1), record("w", 2), state("w", 2, 1), end];
    let good = shop(&[whole_stream("w")], lines(status("w", "COMPLETE")));
    let heard = good.read(&[("w", FullRefresh, Append)]).await;
    assert_eq!(heard.log(), ["w:2", "commit", "done w"]);
    let bad = shop(&[whole_stream("w")], lines(json!({"exit": 1})));
    let heard = bad.read(&[("w", FullRefresh, Append)]).await;
    assert!(heard.result.is_err() && heard.log().is_empty(), "{:?}", heard.log());
    // In `replace` nobody sees the rows before the end: they go on as they come.
    let heard = bad.read(&[("w", FullRefresh, Replace)]).await;
    assert_eq!(heard.log(), ["w:1", "commit", "w:1", "commit"]);
}

#[tokio::test]
async fn a_full_refresh_that_can_be_resumed_keeps_its_position_apart() {
    let lines = vec![record("a", 1), state("a", 1, 1), record("a", 2), { json!({"exit": 1}) }];
    let shop = shop(&[stream("a")], lines);
    let heard = shop.read(&[("a", FullRefresh, Append)]).await;
    assert!(heard.result.is_err());
    let position = CursorKey::Partition(TableName::new("a"), FULL_REFRESH.to_owned());
    let mut state = heard.state();
    assert_eq!(state.cursors.keys().collect::<Vec<_>>(), [&position]);
    // The state of incremental reads says nothing to it.
    state.cursors.extend(Checkpoint::of(key("a"), json!("other")).cursors);
    shop.read_from(&[("a", FullRefresh, Append)], &state).await;
    let given = json_in(&shop.calls("read")[1].join("state.json"));
    assert_eq!(given[0]["stream"]["stream_state"], 1);
}

#[tokio::test]
async fn records_bring_their_time_their_changes_and_their_line() {
    let line = r#"{"type":"RECORD","record":{"stream":"a","data":{"id":"x", "updated_at":"t"},"emitted_at":5}}"#;
    let shop = shop(&[stream("a")], vec![json!(line)]);
    let source = shop.source();
    let whole = source.discover(None).await.unwrap().remove(0);
    let mut plan = plan(&source, &[("a", Incremental, Append)]).await;
    let mut with = |parts: &[&str], data: bool| {
        let fields = whole.schema.fields().iter().filter(|field| match record_part(field) {
            Some(part) => parts.contains(&part),
            None => data,
        });
        let schema = arrow_schema::Schema::new(fields.cloned().collect::<Vec<_>>());
        let table = plan.tables.get_mut(&TableName::new("a")).unwrap();
        let mut planned = table.source.as_ref().clone();
        planned.schema = Arc::new(schema);
        table.source = Arc::new(planned);
        plan.clone()
    };
    let columns = with(&[RECORD_EXTRACTED_AT, RECORD_META], true);
    let heard = read(&source, &columns, &State::default(), Arc::default()).await;
    let Some(Message::Batch(batch)) = heard.messages.first() else { panic!("no rows") };
    assert_eq!(batch.rows.schema(), columns.tables[&TableName::new("a")].source.schema);
    let column = |name: &str| Arc::clone(batch.rows.column_by_name(name).unwrap());
    let extracted = column("_airbyte_extracted_at");
    assert_eq!(extracted.as_primitive::<TimestampMicrosecondType>().value(0), 5_000);
    let meta: Value =
        serde_json::from_str(column("_airbyte_meta").as_string::<i32>().value(0)).unwrap();
    assert_eq!(meta["changes"][0]["field"], "id");
    assert!(heard.notes("a")[0].contains("1 of `id`"), "{:?}", heard.notes("a"));

    let lines = with(&[LINE], false);
    let heard = read(&source, &lines, &State::default(), Arc::default()).await;
    let Some(Message::Batch(batch)) = heard.messages.first() else { panic!("no rows") };
    assert_eq!(batch.rows.num_columns(), 1);
    assert_eq!(batch.rows.column(0).as_string::<i32>().value(0), line);
}

#[tokio::test]
async fn a_field_that_the_catalog_lacks_is_told_and_the_catalog_is_asked_for_anew() {
    let line =
        r#"{"type":"RECORD","record":{"stream":"a","data":{"id":1,"new":2},"emitted_at":5}}"#;
    let shop = shop(&[stream("a")], vec![json!(line)]);
    shop.read(&[("a", Incremental, Append)]).await;
    let heard = shop.read(&[("a", Incremental, Append)]).await;
    assert!(heard.notes("a")[0].contains("left out: new"), "{:?}", heard.notes("a"));
    assert_eq!(shop.calls("discover").len(), 2);
}

#[tokio::test]
async fn a_nested_cursor_is_a_column_and_the_connector_is_asked_by_its_path() {
    let mut nested = stream("a");
    nested["source_defined_cursor"] = false.into();
    nested["json_schema"]["properties"]["meta"] = json!({
        "type": "object", "properties": {"rev": {"type": "integer"}},
    });
    let line = r#"{"type":"RECORD","record":{"stream":"a","data":{"id":1,"meta":{"rev":3}},"emitted_at":5}}"#;
    let mut shop = shop(&[nested], vec![json!(line)]);
    let path = vec!["meta".to_owned(), "rev".to_owned()];
    shop.paths = vec![TablePaths { pattern: "a".to_owned(), paths: vec![path] }];
    let source = shop.source();
    let mut plan = plan(&source, &[("a", Incremental, Append)]).await;
    let table = plan.tables.values_mut().next().unwrap();
    table.cursor_field = Some("meta_rev".to_owned());
    assert!(source.review(table).await.unwrap().is_empty());
    let heard = read(&source, &plan, &State::default(), Arc::default()).await;
    let Some(Message::Batch(batch)) = heard.messages.first() else { panic!("no rows") };
    let column = batch.rows.column_by_name("meta_rev").unwrap();
    assert_eq!(column.as_primitive::<arrow_array::types::Int64Type>().value(0), 3);
    let catalog = json_in(&shop.calls("read")[0].join("catalog.json"));
    assert_eq!(catalog["streams"][0]["cursor_field"], json!(["meta", "rev"]));
}

#[tokio::test]
async fn what_the_connector_cannot_do_is_said_before_it_is_asked() {
    let mut full = stream("full");
    full["supported_sync_modes"] = json!(["full_refresh"]);
    let mut files = stream("files");
    files["is_file_based"] = true.into();
    let mut own = stream("own");
    own["source_defined_cursor"] = false.into();
    let shop = shop(&[full, files, own, stream("a")], Vec::new());
    let source = shop.source();
    let wanted = ["full", "files", "own", "a"].map(|name| (name, Incremental, Append));
    let mut plan = plan(&source, &wanted).await;
    let mut table = |name: &str| plan.tables.remove(&TableName::new(name)).unwrap();
    let error = source.review(&table("full")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("read_mode: full_refresh"));
    let error = source.review(&table("files")).await.unwrap_err();
    assert!(error.message().contains("files"));
    let mut own = table("own");
    own.cursor_field = None;
    assert_eq!(source.review(&own).await.unwrap_err().kind(), ErrorKind::Config);
    let mut a = table("a");
    assert!(source.review(&a).await.unwrap().is_empty());
    a.cursor_field = Some("id".to_owned());
    assert!(source.review(&a).await.unwrap()[0].contains("`id` only says"));
    a.lookback = 5;
    assert_eq!(source.review(&a).await.unwrap_err().kind(), ErrorKind::Unsupported);
}
