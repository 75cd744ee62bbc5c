//! What destinations of both kinds are told for each write mode.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use highwater_core::types::{RECORD, with_metadata};
use highwater_core::{ErrorKind, Instant, Table};
use serde_json::json;

use super::*;

fn plan(table: TablePlan) -> Plan {
    Plan {
        sync: "s".into(),
        sync_id: "1".into(),
        started_at: Instant(1_795_254_085_000_000),
        state_with_data: false,
        sync_group_id: None,
        tables: BTreeMap::from([(table.name().clone(), table)]),
    }
}

fn fields() -> Vec<Field> {
    vec![Field::new("id", DataType::Int64, true), Field::new("at", DataType::Utf8, true)]
}

fn table(mode: WriteMode) -> TablePlan {
    let mut target = Table::new(TableName::in_namespace("n", "users"), fields());
    if mode != WriteMode::Append && mode != WriteMode::Replace {
        target = target.with_primary_key(["id"]);
    }
    let source = Table::new(TableName::new("users"), fields());
    let (source, target) = (Arc::new(source), Arc::new(target));
    let mut table = TablePlan::new(source, target, ReadMode::Incremental, mode).ordered_by("at");
    table.generation = 4;
    table
}

fn told(table: &TablePlan, supports_refreshes: Option<bool>) -> Result<Value> {
    let plan = plan(table.clone());
    let tables: Vec<_> = plan.tables.values().collect();
    let catalog = configured(&plan, &tables, supports_refreshes)?;
    Ok(serde_json::to_value(&catalog).unwrap()["streams"][0].take())
}

#[test]
fn each_write_mode_has_its_word() {
    use WriteMode::{Append, AppendDedup, Overwrite, Replace, ReplaceDedup};
    let cases = [
        (Append, None, Ok(("append", 0))),
        (Overwrite, None, Ok(("append_dedup", 0))),
        (AppendDedup, None, Ok(("append_dedup", 0))),
        (Replace, None, Ok(("overwrite", 4))),
        (Replace, Some(false), Ok(("overwrite", 4))),
        (Replace, Some(true), Ok(("append", 4))),
        (ReplaceDedup, None, Err(())),
        (ReplaceDedup, Some(true), Ok(("append_dedup", 4))),
    ];
    for (mode, supports, expected) in cases {
        let told = told(&table(mode), supports);
        match expected {
            Ok((word, minimum)) => {
                let told = told.unwrap();
                assert_eq!(told["destination_sync_mode"], word, "{mode} {supports:?}");
                assert_eq!(told["minimum_generation_id"], minimum, "{mode} {supports:?}");
                assert_eq!(told["generation_id"], 4);
                assert_eq!(told["sync_id"], 1_795_254_085_000_000_i64);
                assert_eq!(told["cursor_field"], json!(["at"]));
                assert_eq!(told["sync_mode"], "incremental");
            }
            Err(()) => {
                let error = told.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.hint_text().unwrap().contains("supports_refreshes: true"));
            }
        }
    }
    assert_eq!(told(&table(Overwrite), None).unwrap()["primary_key"], json!([["id"]]));
    assert_eq!(told(&table(Append), None).unwrap()["primary_key"], json!([]));
}

#[test]
fn a_rebuild_needs_refreshes_and_a_reconciling_sweep_is_refused() {
    let mut rebuilt = table(WriteMode::AppendDedup);
    rebuilt.rebuild = true;
    assert!(told(&rebuilt, None).is_err());
    assert_eq!(told(&rebuilt, Some(true)).unwrap()["minimum_generation_id"], 4);
    let mut swept = table(WriteMode::Overwrite);
    (swept.sweep, swept.reconcile) = (true, true);
    assert_eq!(told(&swept, Some(true)).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_first_generation_is_never_nought() {
    // With 0 nothing would be replaced.
    let mut replaced = table(WriteMode::Replace);
    replaced.generation = 0;
    let told = told(&replaced, Some(true)).unwrap();
    assert_eq!((&told["generation_id"], &told["minimum_generation_id"]), (&json!(1), &json!(1)));
}

#[test]
fn a_table_of_another_system_has_a_schema_of_ours() {
    let stream = &told(&table(WriteMode::Append), None).unwrap()["stream"];
    assert_eq!(
        (&stream["name"], &stream["namespace"]),
        (&json!("users"), &json!("n")),
        "the name at the destination"
    );
    assert_eq!(stream["supported_sync_modes"], json!(["full_refresh", "incremental"]));
    let properties = &stream["json_schema"]["properties"];
    assert_eq!(properties["id"], json!({"type": ["null", "integer"]}));
    assert_eq!(properties["at"], json!({"type": ["null", "string"]}));
}

#[test]
fn a_stream_of_a_source_connector_is_passed_on() {
    let own = json!({
        "name": "old", "json_schema": {"type": "object", "x": 1, "properties": {
            "id": {"type": "integer", "description": "d"}, "at": {"type": "string"}}},
        "supported_sync_modes": ["full_refresh"], "new_key": 7,
        "default_cursor_field": ["meta", "at"],
    });
    let with_stream = |fields: Vec<Field>| {
        let mut table = table(WriteMode::Append);
        let metadata = [(STREAM.to_owned(), own.to_string())].into();
        let target = Arc::make_mut(&mut table.target);
        target.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        table
    };
    let stream = &told(&with_stream(fields()), None).unwrap()["stream"];
    assert_eq!(stream["json_schema"], own["json_schema"]);
    assert_eq!((&stream["new_key"], &stream["name"]), (&json!(7), &json!("users")));

    let changed = vec![fields()[0].clone(), Field::new("at", DataType::Boolean, true)];
    let stream = &told(&with_stream(changed), None).unwrap()["stream"];
    let properties = &stream["json_schema"]["properties"];
    assert_eq!(properties["id"], own["json_schema"]["properties"]["id"]);
    assert_eq!(properties["at"], json!({"type": ["null", "boolean"]}));

    let line = Field::new("_airbyte_record", DataType::Utf8, true);
    let mut raw = with_stream(vec![with_metadata(line, RECORD, "line:airbyte")]);
    raw.order_by = Some("meta_at".to_owned());
    let told = told(&raw, None).unwrap();
    assert_eq!(told["stream"]["json_schema"], own["json_schema"]);
    assert_eq!(told["cursor_field"], json!(["meta", "at"]));
}
