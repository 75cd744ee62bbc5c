//! What an incomplete table means for the others: no table may be taken for complete that is not,
//! because the rows that did not come are then deleted as stale.

use highwater_cloudquery::source::SourcePlugin;
use highwater_core::{ErrorKind, Message, State, TableName};
use serde_json::{Value, json};

use crate::reading::{Run, Scripted, plan, run_plan};

/// `top` ← `mid` ← `leaf`, `gone` ← `orphan` ← `heir`, and `other`. `gone` is not listed.
fn families() -> Value {
    let table = |name: &str, parent: Option<&str>| json!({"name": name, "columns": {"id": "int"}, "parent": parent});
    json!([
        table("leaf", Some("mid")),
        table("mid", Some("top")),
        table("top", None),
        table("orphan", Some("gone")),
        table("heir", Some("orphan")),
        table("other", None),
    ])
}

const ALL: [&str; 6] = ["heir", "leaf", "mid", "orphan", "other", "top"];

fn rows(table: &str) -> Value {
    json!({"rows": table, "from": 1, "count": 2})
}

/// A read of `steps` with all tables of the families except `unplanned`.
async fn read(steps: Value, unplanned: &[&str]) -> (Run, SourcePlugin) {
    let script = Scripted::new(families(), steps);
    let source = SourcePlugin::new(script.config());
    let mut plan = plan(&source).await;
    for name in unplanned {
        plan.tables.remove(&TableName::new(*name)).unwrap();
    }
    let run = run_plan(&source, &plan, &State::default()).await;
    assert!(run.is_complete(), "{run:?}");
    (run, source)
}

async fn failed(steps: Value, unplanned: &[&str]) -> Vec<String> {
    read(steps, unplanned).await.0.failed_tables()
}

#[tokio::test]
async fn what_depends_on_a_failed_table_fails_too_and_its_rows_still_come() {
    let steps = json!([
        rows("top"), rows("leaf"), {"error": "top"}, {"error": "top"}, rows("leaf"), rows("mid"),
    ]);
    let (run, source) = read(steps, &[]).await;
    assert_eq!(run.failed_tables(), ["top", "leaf", "mid"], "each of them once");
    assert_eq!(run.rows()["leaf"], 4);
    assert_eq!(run.rows()["mid"], 2);
    for (table, error) in &run.failed()[1..] {
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.message().contains("depends on"), "{error}");
        assert_eq!(error.context_value("table"), Some(table.as_str()));
        assert_eq!(error.context_value("parent"), Some("top"));
    }
    let errors = source.table_errors();
    assert_eq!(errors, [(TableName::new("top"), 2)].into(), "the others have none of their own");
}

#[tokio::test]
async fn a_table_that_fails_twice_for_different_reasons_is_told_once() {
    let steps = json!([{"error": "leaf"}, {"error": "top"}, {"error": "mid"}]);
    let (run, source) = read(steps, &[]).await;
    assert_eq!(run.failed_tables(), ["leaf", "top", "mid"]);
    assert!(run.failed()[0].1.message().contains("could not read"), "its own error came first");
    assert!(run.failed()[2].1.message().contains("depends on"), "its own error came later");
    assert_eq!(source.table_errors().values().sum::<u64>(), 3);
}

#[tokio::test]
async fn what_depends_on_a_table_outside_the_plan_fails_with_it() {
    assert_eq!(failed(json!([{"error": "top"}]), &["mid"]).await, ["top", "leaf"]);
    assert_eq!(failed(json!([{"error": "mid"}]), &["mid"]).await, ["mid", "leaf"]);
    assert_eq!(failed(json!([{"error": "mid"}]), &["mid", "leaf"]).await, ["mid"]);
    // A table that the plugin did not list, but that others name.
    assert_eq!(failed(json!([{"error": "gone"}]), &[]).await, ["gone", "heir", "orphan"]);
}

#[tokio::test]
async fn an_error_of_nobody_knows_which_table_fails_every_table() {
    for (name, shown) in [("", "(no table)"), ("never heard of", "never heard of")] {
        let (run, source) =
            read(json!([{"error": name}, {"error": name}, rows("other")]), &[]).await;
        let mut expected = vec![shown];
        expected.extend(ALL);
        assert_eq!(run.failed_tables(), expected);
        assert_eq!(run.rows()["other"], 2);
        for (table, error) in &run.failed()[1..] {
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.message().contains("nobody can tell what is missing"), "{error}");
            assert_eq!(error.context_value("table"), Some(table.as_str()));
            assert_eq!(error.context_value("named"), Some(shown));
        }
        assert_eq!(source.table_errors(), [(TableName::new(shown), 2)].into());
    }
    let known = json!([{"error": "other"}]);
    assert_eq!(failed(known, &[]).await, ["other"], "a table that is listed is known");
}

#[tokio::test]
async fn rows_that_nobody_listed_fail_no_other_table() {
    let unknown = json!({"name": "unknown", "columns": {"id": "int"}});
    let steps = json!([{"migrate": unknown}, {"rows": unknown, "from": 1, "count": 1}]);
    assert_eq!(failed(steps, &[]).await, ["unknown"]);
}

#[tokio::test]
async fn no_row_is_deleted_from_a_table_whose_rows_are_dropped() {
    let changed = json!({"name": "mid", "columns": {"id": "text"}, "parent": "top"});
    let steps = json!([
        {"delete": "mid", "column": "id", "value": 1},
        {"migrate": changed},
        {"delete": "mid", "column": "id", "value": 2, "relations": [["leaf", "mid"]]},
        {"delete": "top", "column": "id", "value": 3,
            "relations": [["other", "top"], ["mid", "top"], ["leaf", "mid"]]},
        {"delete": "leaf", "column": "id", "value": 4},
        rows("mid"),
    ]);
    let (run, _) = read(steps, &[]).await;
    assert_eq!(run.failed_tables(), ["mid", "leaf"]);
    assert_eq!(run.rows().get("mid"), None);
    let deletions = run.deletions().into_iter().map(|deletion| {
        let relations = deletion.relations.iter().map(|relation| relation.table.to_string());
        (deletion.table.to_string(), relations.collect::<Vec<_>>().join(" "))
    });
    let pair = |table: &str, relations: &str| (table.to_owned(), relations.to_owned());
    // Its rows stay when those of its parent go, and so do those that depend on them.
    assert_eq!(
        deletions.collect::<Vec<_>>(),
        [pair("mid", ""), pair("top", "other"), pair("leaf", "")]
    );
    assert!(matches!(run.messages[0], Message::Delete(_)), "before it was closed");
}
