//! Values, paths and names that do not fit, and what is promised of them: nothing is taken for
//! something else without a word.

use highwater_testkit::crash::Ended;
use serde_json::{Value, json};

use super::has_python;
use super::proof::{Shop, bare, both, good, people, person, record, state, status, stream};

const TWO: &str = "[{name: people, write_mode: MODE}, {name: orders, write_mode: append-dedup}]";

fn orders() -> Value {
    let columns = json!({ "id": "integer", "name": "string", "updated_at": "integer" });
    stream("orders", &columns, &["id"], "updated_at")
}

/// Rows of both streams; a state covers the first person only.
fn lines(bad: &Value) -> Vec<Value> {
    let mut lines = good("orders", &[person(7, "o", Some(1)), person(8, "o", Some(1))], 1);
    lines.push(record("people", &person(1, "x", Some(1))));
    lines.push(state("people", &json!(1), 1));
    lines.push(record("people", &person(2, "x", Some(2))));
    lines.push(record("people", bad));
    lines.push(record("people", &person(3, "x", Some(3))));
    lines.push(state("people", &json!(3), 3));
    lines.push(status("people", "COMPLETE"));
    lines
}

fn said(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

/// All such rows were taken for one row, and the run was a success.
#[test]
fn a_key_that_does_not_fit_fails_its_table_and_no_other() {
    if !has_python("a_key_that_does_not_fit_fails_its_table_and_no_other") {
        return;
    }
    for mode in ["append-dedup", "overwrite", "replace-dedup"] {
        for id in [json!("x123"), json!("99999999999999999999"), json!({ "a": 1 })] {
            let mut shop = Shop::new(&TWO.replace("MODE", mode), &[people(), orders()]);
            let bad = json!({ "id": id, "name": "secretname", "updated_at": 2 });
            let ended = shop.ends(3, &lines(&bad));
            let said = said(&ended);
            assert!(said.contains("does not fit its column"), "{said}");
            assert!(said.contains("type: text") && said.contains("people"), "{said}");
            for value in ["x123", "99999999999999999999", "secretname"] {
                assert!(!said.contains(value), "{said}");
            }
            assert_eq!(shop.table("orders", &["id"]), ["7", "8"]);
            if mode == "append-dedup" {
                assert_eq!(shop.table("people", &["id"]), ["1"]);
                // It goes on behind what was covered.
                shop.ends(0, &both_end());
                let states = shop.given("state").to_string();
                assert!(states.contains("{\"at\":1}") && !states.contains("{\"at\":3}"));
            }
        }
    }
}

fn both_end() -> Vec<Value> {
    vec![status("people", "COMPLETE"), status("orders", "COMPLETE")]
}

/// It was NULL, thus older than every row, and a real update was lost.
#[test]
fn a_cursor_that_does_not_fit_fails_its_table() {
    if !has_python("a_cursor_that_does_not_fit_fails_its_table") {
        return;
    }
    let bad = json!({ "id": 1, "name": "new", "updated_at": "yesterday" });
    for (mode, code) in [("append-dedup", 3), ("overwrite", 0), ("append", 0), ("replace", 0)] {
        let mut shop = Shop::new(&TWO.replace("MODE", mode), &[people(), orders()]);
        let ended = shop.ends(code, &lines(&bad));
        assert_eq!(said(&ended).contains("does not fit its column"), code == 3);
    }
}

/// What the error says helps.
#[test]
fn a_key_read_as_text_takes_every_value() {
    if !has_python("a_key_read_as_text_takes_every_value") {
        return;
    }
    let entry = "[{name: people, write_mode: append-dedup, columns: [{name: id, type: text}, name, updated_at]}]";
    for mut shop in both(entry, &[people()]) {
        let ids = [json!("x1"), json!(99_999_999_999_999_999_999_u128.to_string()), json!(5)];
        let rows: Vec<Value> =
            ids.iter().map(|id| json!({ "id": id, "name": "n", "updated_at": 1 })).collect();
        shop.syncs("people", &rows, 1);
        assert_eq!(shop.table("people", &["id"]), ["5", "99999999999999999999", "x1"]);
    }
}

/// They are one row, as always, and the summary counts them.
#[test]
fn rows_without_a_key_are_counted() {
    if !has_python("rows_without_a_key_are_counted") {
        return;
    }
    let mut shop = Shop::new("[{name: people, write_mode: append-dedup}]", &[people()]);
    let rows = [json!({ "name": "a" }), json!({ "id": null, "name": "b" }), person(1, "c", None)];
    let ended = shop.syncs("people", &rows, 1);
    assert!(said(&ended).contains("2 rows came without a key"), "{}", said(&ended));
    assert_eq!(shop.table("people", &["id"]), ["1", "NULL"]);
}

/// It emptied tables that are replaced.
#[test]
fn a_connector_that_says_nothing_has_failed() {
    if !has_python("a_connector_that_says_nothing_has_failed") {
        return;
    }
    for mode in ["replace", "replace-dedup", "overwrite-delete-stale"] {
        let entry = format!("[{{name: people, write_mode: {mode}}}]");
        let mut shop = Shop::new(&entry, &[people()]);
        shop.syncs("people", &[person(1, "x", Some(1))], 1);
        for silent in [vec![], vec![json!("welcome to the connector")]] {
            let ended = shop.ends(1, &silent);
            assert!(said(&ended).contains("The connector said nothing"), "{}", said(&ended));
            assert_eq!(shop.table("people", &["id"]), ["1"]);
        }
    }
}

/// A misspelt part of a key was NULL in every row, which made them one row.
#[test]
fn a_misspelt_nested_key_is_refused() {
    if !has_python("a_misspelt_nested_key_is_refused") {
        return;
    }
    let mut people = bare("people", &json!({ "id": "integer", "updated_at": "integer" }));
    people["json_schema"]["properties"]["owner"] =
        json!({ "type": "object", "properties": { "id": { "type": "integer" } } });
    for key in ["[[owner, idd]]", "[[updated_at, id]]"] {
        let entry = format!(
            "[{{name: people, write_mode: append-dedup, cursor: updated_at, primary_key: {key}}}]"
        );
        let mut shop = Shop::new(&entry, std::slice::from_ref(&people));
        let ended = shop.ends(2, &[]);
        assert!(said(&ended).contains("nested path"), "{}", said(&ended));
    }
}

/// The stream's own values were dropped, or internal columns came into the user's table.
#[test]
fn fields_with_names_of_metadata_columns_are_kept() {
    if !has_python("fields_with_names_of_metadata_columns_are_kept") {
        return;
    }
    let columns = json!({ "id": "integer", "_airbyte_meta": "string",
        "_airbyte_extracted_at": "string", "_airbyte_raw_id": "string" });
    let stream = stream("people", &columns, &["id"], "id");
    let row = json!({ "id": 1, "_airbyte_meta": "m", "_airbyte_extracted_at": "e",
        "_airbyte_raw_id": "r" });
    let kept = ["_airbyte_meta_source", "_airbyte_extracted_at_source", "_airbyte_raw_id_source"];
    for mut shop in both("[{name: people, write_mode: append-dedup}]", &[stream]) {
        shop.script(&good("people", std::slice::from_ref(&row), 1));
        let plan = shop.run("plan sync.yml").expect(0).unwrap();
        assert!(said(&plan).contains("`_airbyte_meta` of the source"), "{}", said(&plan));
        shop.run("sync sync.yml").expect(0).unwrap();
        assert_eq!(shop.table("people", &kept), ["m | e | r"]);
        let plan = shop.run("plan sync.yml --json").expect(0).unwrap();
        assert!(!said(&plan).contains("_airbyte_meta_2"), "{}", said(&plan));
    }
}

/// Its rows had metadata columns, and nothing else.
#[test]
fn a_stream_without_properties_keeps_its_records() {
    if !has_python("a_stream_without_properties_keeps_its_records") {
        return;
    }
    for schema in [json!({}), json!({ "type": "object", "properties": {} })] {
        let mut any = bare("people", &json!({}));
        any["json_schema"] = schema;
        for mut shop in both("[{name: people, write_mode: append}]", &[any]) {
            let rows = [json!({ "a": 1, "b": ["x"] }), json!({})];
            let ended = shop.syncs("people", &rows, 1);
            assert!(!said(&ended).contains("left out"), "{}", said(&ended));
            let found: Vec<Value> = shop
                .table("people", &["data"])
                .iter()
                .map(|text| serde_json::from_str(text).unwrap())
                .collect();
            assert!(rows.iter().all(|row| found.contains(row)) && found.len() == 2, "{found:?}");
        }
    }
}

/// The source's cursor was missed though nothing needs it, and hints named internal columns.
#[test]
fn a_choice_of_columns_needs_the_cursor_only_where_it_is_used() {
    if !has_python("a_choice_of_columns_needs_the_cursor_only_where_it_is_used") {
        return;
    }
    let entry = |mode| format!("[{{name: people, write_mode: {mode}, columns: [id, name]}}]");
    let mut shop = Shop::new(&entry("append-dedup"), &[people()]);
    let refused = said(&shop.ends(2, &[]));
    assert!(refused.contains("add `updated_at` to `columns`"), "{refused}");
    shop.entries(&entry("replace"));
    shop.syncs("people", &[person(1, "x", Some(1))], 1);
    assert_eq!(shop.table("people", &["id", "name"]), ["1 | x"]);
    shop.entries("[{name: people, write_mode: append-dedup, primary_key: [zzzzzzzz]}]");
    let refused = said(&shop.ends(2, &[]));
    assert!(refused.contains("id, name, updated_at"), "{refused}");
    assert!(!refused.contains("_airbyte_record"), "{refused}");
}
