//! What is asked of a connector for a plan and a state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use highwater_core::{Checkpoint, Instant};
use serde_json::json;

use super::*;
use crate::protocol::Catalog;

fn streams() -> Streams {
    let stream = |name: &str| {
        json!({
            "name": name,
            "json_schema": {"properties": {
                "id": {"type": "integer"},
                "meta": {"type": "object", "properties": {"at": {"type": "string"}}},
                "at": {"type": "string"},
            }},
            "supported_sync_modes": ["full_refresh", "incremental"],
            "extra": 1,
        })
    };
    let mut own = stream("own");
    own["source_defined_cursor"] = true.into();
    own["default_cursor_field"] = json!(["meta", "at"]);
    own["source_defined_primary_key"] = json!([["id"]]);
    let catalog = json!({"streams": [stream("a"), stream("b"), own]});
    let catalog: Catalog = serde_json::from_value(catalog).unwrap();
    let paths = vec![vec!["meta".to_owned(), "at".to_owned()]];
    Streams::new(catalog, &[super::super::TablePaths { pattern: "a".to_owned(), paths }]).unwrap()
}

fn planned(name: &str, read: ReadMode, write: WriteMode) -> TablePlan {
    let table = streams().get(&TableName::new(name)).unwrap().table.clone();
    let target = Arc::new(table.clone());
    TablePlan::new(Arc::new(table), target, read, write)
}

fn plan(tables: Vec<TablePlan>) -> Plan {
    Plan {
        sync: "s".into(),
        sync_id: "1".into(),
        started_at: Instant(77),
        state_with_data: true,
        sync_group_id: None,
        tables: tables.into_iter().map(|table| (table.name().clone(), table)).collect(),
    }
}

#[test]
fn the_catalog_says_modes_keys_cursors_and_generations() {
    let mut a = planned("a", ReadMode::Incremental, WriteMode::AppendDedup);
    a.cursor_field = Some("meta_at".into());
    let target = a.target.as_ref().clone().with_primary_key(["ident"]);
    a.target = Arc::new(target);
    a.mappings = vec![Mapping::Rename { column: "id".into(), to: "ident".into() }];
    a.generation = 3;
    let mut b = planned("b", ReadMode::FullRefresh, WriteMode::Replace);
    b.generation = 9;
    let mut own = planned("own", ReadMode::Incremental, WriteMode::Append);
    own.cursor_field = Some("at".into());
    let catalog = catalog(&plan(vec![a, b, own]), &streams()).unwrap();
    let said = serde_json::to_value(&catalog).unwrap();
    let of = |index: usize| {
        let mut stream = said["streams"][index].clone();
        assert_eq!(stream["stream"]["extra"], 1);
        stream.as_object_mut().unwrap().shift_remove("stream");
        stream
    };
    assert_eq!(
        of(0),
        json!({"sync_mode": "incremental", "destination_sync_mode": "append_dedup",
            "cursor_field": ["meta", "at"], "primary_key": [["id"]],
            "generation_id": 3, "minimum_generation_id": 0, "sync_id": 77})
    );
    assert_eq!(
        of(1),
        json!({"sync_mode": "full_refresh", "destination_sync_mode": "overwrite",
            "cursor_field": [], "primary_key": [],
            "generation_id": 9, "minimum_generation_id": 9, "sync_id": 77})
    );
    // The source takes no cursor but its own.
    assert_eq!(of(2)["cursor_field"], json!(["meta", "at"]));
    assert_eq!(of(2)["primary_key"], json!([["id"]]));
    let unknown = planned("a", ReadMode::FullRefresh, WriteMode::Append);
    let mut source = unknown.source.as_ref().clone();
    source.name = TableName::new("gone");
    let gone = TablePlan { source: Arc::new(source), ..unknown };
    let error = super::catalog(&plan(vec![gone]), &streams()).unwrap_err();
    assert_eq!(error.context_value("stream"), Some("gone"));
}

fn committed(checkpoints: Vec<(CursorKey, Value)>) -> State {
    let mut state = State::default();
    for (key, cursor) in checkpoints {
        state.cursors.extend(Checkpoint::of(key, cursor).cursors);
    }
    state
}

fn table_key(name: &str) -> CursorKey {
    CursorKey::Table(TableName::new(name))
}

#[test]
fn the_states_of_planned_streams_are_given_and_no_others() {
    let refresh = |name: &str| CursorKey::Partition(TableName::new(name), FULL_REFRESH.to_owned());
    let state = committed(vec![
        (table_key("a"), json!({"at": 1})),
        (refresh("a"), json!("of no use")),
        (table_key("b"), json!("of no use")),
        (refresh("b"), json!({"page": 2})),
        (table_key("gone"), json!(1)),
        (table_key("own"), Value::Null),
    ]);
    let plan = plan(vec![
        planned("a", ReadMode::Incremental, WriteMode::Append),
        planned("b", ReadMode::FullRefresh, WriteMode::Append),
        planned("own", ReadMode::Incremental, WriteMode::Append),
    ]);
    assert_eq!(
        protocol::input(&super::state(&plan, &state, &streams())),
        r#"[{"type":"STREAM","stream":{"stream_descriptor":{"name":"a"},"stream_state":{"at":1}}},{"type":"STREAM","stream":{"stream_descriptor":{"name":"b"},"stream_state":{"page":2}}}]"#
    );
    assert!(super::state(&plan, &State::default(), &streams()).is_empty());
}

#[test]
fn a_global_state_comes_back_without_streams_that_it_has_left_behind() {
    let a = TableName::new("a");
    let other = StreamState {
        descriptor: StreamDescriptor::new(None, "other"),
        state: Some(json!({"x": 1})),
    };
    let cursor = global_cursor(Some(json!({"lsn": 5})), [&a].into_iter(), &[other]);
    let state = committed(vec![
        (CursorKey::Global, cursor),
        (table_key("a"), json!({"done": true})),
        (table_key("b"), json!({"done": true})),
    ]);
    let plan = plan(vec![
        planned("a", ReadMode::Incremental, WriteMode::Append),
        planned("b", ReadMode::Incremental, WriteMode::Append),
    ]);
    assert_eq!(
        protocol::input(&super::state(&plan, &state, &streams())),
        r#"[{"type":"GLOBAL","global":{"shared_state":{"lsn":5},"stream_states":[{"stream_descriptor":{"name":"a"},"stream_state":{"done":true}},{"stream_descriptor":{"name":"other"},"stream_state":{"x":1}}]}}]"#
    );
    // A cursor that does not say what was read is taken as it is.
    let bare = committed(vec![
        (CursorKey::Global, json!({SHARED: {"lsn": 5}})),
        (table_key("b"), json!({"done": true})),
    ]);
    assert!(protocol::input(&super::state(&plan, &bare, &streams())).contains("\"name\":\"b\""));
}
