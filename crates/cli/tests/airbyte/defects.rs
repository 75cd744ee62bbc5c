//! Defects that were found in Airbyte, its connectors or its libraries, one test each and named
//! after the defect: the real program does not have them.
//!
//! All records of these tests carry the same `emitted_at`: no order can be taken from it.

use serde_json::{Value, json};

use super::has_python;
use super::proof::{
    DEDUP, OVERWRITE, PERSON, Shop, both, good, people, person, record, state, status, stream,
};
use crate::airbyte::{rows, user};

/// Of equal cursors an arbitrary row won within a batch, and the older one between batches.
#[test]
fn a_tie_is_won_by_the_later_arrival() {
    if !has_python("a_tie_is_won_by_the_later_arrival") {
        return;
    }
    for mut shop in both(DEDUP, &[people()]) {
        // In one batch.
        shop.syncs("people", &[person(1, "a", Some(5)), person(1, "b", Some(5))], 5);
        assert_eq!(shop.table("people", &PERSON), ["1 | b | 5"]);
        // In batches of one sync, each with its commit.
        let mut lines = Vec::new();
        for name in ["c", "d", "e"] {
            lines.push(record("people", &person(1, name, Some(5))));
            lines.push(state("people", &json!(name), 1));
        }
        lines.push(status("people", "COMPLETE"));
        shop.ends(0, &lines);
        assert_eq!(shop.table("people", &PERSON), ["1 | e | 5"]);
        // In different syncs.
        shop.syncs("people", &[person(1, "f", Some(5))], 5);
        assert_eq!(shop.table("people", &PERSON), ["1 | f | 5"]);
    }
}

/// The three rows of one key that PyAirbyte kept all, and the older record by which it then
/// replaced them.
#[test]
fn three_rows_of_one_key_in_a_batch_and_an_older_record_later() {
    if !has_python("three_rows_of_one_key_in_a_batch_and_an_older_record_later") {
        return;
    }
    for mut shop in both(DEDUP, &[people()]) {
        let three = [(10, 100), (20, 200), (15, 150)];
        let three = three.map(|(name, at)| person(1, &name.to_string(), Some(at)));
        shop.syncs("people", &three, 200);
        assert_eq!(shop.table("people", &PERSON), ["1 | 20 | 200"]);
        shop.syncs("people", &[person(1, "1", Some(50))], 200);
        assert_eq!(shop.table("people", &PERSON), ["1 | 20 | 200"]);
        assert_eq!(shop.table("people_history", &["id"]).len(), 4);
    }
}

/// A row without a cursor is older than every row with one, in a batch and against the table.
#[test]
fn a_null_cursor_is_lowest() {
    if !has_python("a_null_cursor_is_lowest") {
        return;
    }
    for mut shop in both(DEDUP, &[people()]) {
        shop.syncs("people", &[person(1, "new", Some(5)), person(1, "none", None)], 5);
        assert_eq!(shop.table("people", &PERSON), ["1 | new | 5"]);
        shop.syncs("people", &[person(1, "none", None), person(2, "none", None)], 5);
        assert_eq!(shop.table("people", &PERSON), ["1 | new | 5", "2 | none | NULL"]);
        // Both without: the later one. Then one with.
        shop.syncs("people", &[person(2, "other", None)], 5);
        assert_eq!(shop.table("people", &PERSON), ["1 | new | 5", "2 | other | NULL"]);
        shop.syncs("people", &[person(2, "old", Some(-7))], 5);
        assert_eq!(shop.table("people", &PERSON), ["1 | new | 5", "2 | old | -7"]);
    }
}

/// `NULL = NULL` is not true in SQL: such rows never matched, and were one more at every sync.
#[test]
fn a_null_in_a_part_of_the_key_matches() {
    if !has_python("a_null_in_a_part_of_the_key_matches") {
        return;
    }
    let columns = json!({ "a": "string", "b": "string", "n": "integer", "at": "integer" });
    let row = |a: Option<&str>, b: Option<&str>, n: i64| json!({ "a": a, "b": b, "n": n, "at": n });
    let entry = "[{name: pairs, sync_mode: incremental, destination_sync_mode: append_dedup}]";
    for mut shop in both(entry, &[stream("pairs", &columns, &["a", "b"], "at")]) {
        for n in [1, 4, 7] {
            let three =
                [row(Some("x"), None, n), row(None, Some("x"), n + 1), row(None, None, n + 2)];
            shop.syncs("pairs", &three, n);
        }
        let left = ["NULL | NULL | 9", "NULL | x | 8", "x | NULL | 7"];
        assert_eq!(shop.table("pairs", &["a", "b", "n"]), left);
    }
}

fn changes() -> Value {
    let columns = json!({ "id": "integer", "name": "string", "_ab_cdc_lsn": "integer",
        "_ab_cdc_deleted_at": "string" });
    stream("items", &columns, &["id"], "_ab_cdc_lsn")
}

fn change(id: i64, name: &str, at: i64) -> Value {
    json!({ "id": id, "name": name, "_ab_cdc_lsn": at, "_ab_cdc_deleted_at": null })
}

fn deletion(id: i64, at: i64) -> Value {
    json!({ "id": id, "name": null, "_ab_cdc_lsn": at, "_ab_cdc_deleted_at": "2026-01-01T00:00:00Z" })
}

const ITEMS: &str = "[{name: items, sync_mode: incremental, destination_sync_mode: append_dedup}]";

/// A hard deletion left no trace: an older update in a later batch brought the row back.
#[test]
fn a_deleted_row_is_not_resurrected() {
    if !has_python("a_deleted_row_is_not_resurrected") {
        return;
    }
    for mut shop in both(ITEMS, &[changes()]) {
        shop.syncs("items", &[change(1, "a", 10)], 10);
        shop.syncs("items", &[deletion(1, 20)], 20);
        assert!(shop.table("items", &["id"]).is_empty());
        shop.syncs("items", &[change(1, "late", 15)], 20);
        assert!(shop.table("items", &["id"]).is_empty(), "an older update brought it back");
        shop.syncs("items", &[change(1, "new", 30)], 30);
        assert_eq!(shop.table("items", &["id", "name"]), ["1 | new"]);
        // Nor does an older deletion that comes late take a newer row away.
        shop.syncs("items", &[deletion(1, 25)], 30);
        assert_eq!(shop.table("items", &["id", "name"]), ["1 | new"]);
    }
}

/// airbyte#32930: inserted and deleted in the same millisecond and batch, the deletion was lost.
#[test]
fn a_deletion_in_the_same_batch_and_moment_counts() {
    if !has_python("a_deletion_in_the_same_batch_and_moment_counts") {
        return;
    }
    for mut shop in both(ITEMS, &[changes()]) {
        let lines = [
            change(1, "gone", 7),
            deletion(1, 7),
            deletion(2, 7),
            change(2, "back", 7),
            change(3, "x", 7),
        ];
        shop.syncs("items", &lines, 7);
        assert_eq!(shop.table("items", &["id", "name"]), ["2 | back", "3 | x"]);
        // The same moment, in a later sync.
        shop.syncs("items", &[deletion(3, 7)], 7);
        assert_eq!(shop.table("items", &["id", "name"]), ["2 | back"]);
    }
}

/// A connector that ends with 0 although a stream is INCOMPLETE: the platform swapped what little
/// had come over the good table.
#[test]
fn an_overwrite_of_an_incomplete_stream_with_exit_code_0_swaps_nothing() {
    if !has_python("an_overwrite_of_an_incomplete_stream_with_exit_code_0_swaps_nothing") {
        return;
    }
    for mut shop in both(OVERWRITE, &[people()]) {
        let old = [person(1, "a", Some(1)), person(2, "b", Some(2))];
        shop.syncs("people", &old, 2);
        for lines in [
            vec![status("people", "STARTED"), status("people", "INCOMPLETE")],
            vec![record("people", &person(3, "c", Some(3))), status("people", "INCOMPLETE")],
            // It says nothing at its end although it has begun.
            vec![status("people", "STARTED"), record("people", &person(3, "c", Some(3)))],
            vec![
                record("people", &person(3, "c", Some(3))),
                state("people", &json!(3), 1),
                status("people", "INCOMPLETE"),
                json!({ "exit": 0 }),
            ],
        ] {
            let ended = shop.ends(1, &lines);
            assert!(ended.stderr.contains("complete"), "{}", ended.stderr);
            assert_eq!(shop.table("people", &PERSON), ["1 | a | 1", "2 | b | 2"], "{lines:?}");
        }
        shop.syncs("people", &[person(4, "d", Some(4))], 4);
        assert_eq!(shop.table("people", &PERSON), ["4 | d | 4"]);
    }
}

/// airbyte#13312: an overwrite wiped the table when the source failed.
#[test]
fn an_overwrite_leaves_the_table_alone_when_the_source_fails() {
    if !has_python("an_overwrite_leaves_the_table_alone_when_the_source_fails") {
        return;
    }
    for mut shop in both(OVERWRITE, &[people()]) {
        shop.syncs("people", &[person(1, "a", Some(1)), person(2, "b", Some(2))], 2);
        let new = record("people", &person(3, "c", Some(3)));
        for ends in [json!({ "exit": 1 }), json!({ "kill": 9 }), json!({ "exit": 143 })] {
            for lines in
                [vec![], vec![new.clone()], vec![new.clone(), state("people", &json!(3), 1)]]
            {
                let lines = [lines, vec![ends.clone()]].concat();
                let ended = shop.sends(&lines);
                assert!(!matches!(ended.code, Some(0) | None), "{lines:?}: {ended:?}");
                assert_eq!(shop.table("people", &PERSON), ["1 | a | 1", "2 | b | 2"], "{lines:?}");
            }
        }
        shop.syncs("people", &[person(4, "d", Some(4))], 4);
        assert_eq!(shop.table("people", &PERSON), ["4 | d | 4"]);
    }
}

/// airbyte#42468: a full refresh gave 0 rows every other sync, because the final state of the one
/// before was given to the next.
#[test]
fn every_full_refresh_reads_everything() {
    if !has_python("every_full_refresh_reads_everything") {
        return;
    }
    for mode in ["overwrite", "overwrite_dedup"] {
        for resumable in [false, true] {
            let mut people = people();
            people["is_resumable"] = json!(resumable);
            let mut shop = Shop::new(&OVERWRITE.replace("overwrite", mode), &[people]);
            for round in 1..=4 {
                let two = [person(1, "a", Some(round)), person(2, "b", Some(round))];
                shop.syncs("people", &two, round);
                let given = shop.given("state");
                assert!(given.is_null() || given == json!([]), "{mode}: {given}");
                let all = [format!("1 | a | {round}"), format!("2 | b | {round}")];
                assert_eq!(shop.table("people", &PERSON), all, "{mode}");
            }
        }
    }
}

/// airbyte#34869: a stream failed, its final state was sent and saved nevertheless, and what it
/// had not read was never read.
#[test]
fn a_state_after_the_failure_of_its_stream_is_not_saved() {
    if !has_python("a_state_after_the_failure_of_its_stream_is_not_saved") {
        return;
    }
    let failure = json!({ "type": "TRACE", "trace": { "type": "ERROR", "emitted_at": 1.5,
        "error": { "message": "page 2 cannot be read", "failure_type": "system_error",
            "stream_descriptor": { "name": "people" } } } });
    for told in [vec![status("people", "INCOMPLETE")], vec![failure.clone()]] {
        let mut shop = Shop::new(DEDUP, &[people()]);
        let mut lines = vec![
            record("people", &person(1, "a", Some(1))),
            state("people", &json!(1), 1),
            record("people", &person(2, "b", Some(2))),
        ];
        lines.extend(told.clone());
        lines.extend([state("people", &json!("the end"), 1), status("people", "INCOMPLETE")]);
        shop.ends(1, &lines);
        assert_eq!(shop.table("people", &PERSON)[0], "1 | a | 1", "what was covered is kept");
        let all = [person(2, "b", Some(2)), person(3, "c", Some(3))];
        shop.syncs("people", &all, 3);
        assert_eq!(shop.position(), json!({ "at": 1 }), "{told:?}");
        let all = ["1 | a | 1", "2 | b | 2", "3 | c | 3"];
        assert_eq!(shop.table("people", &PERSON), all);
    }
}

/// The same by one state for the whole source: what the connector did not read of one stream stands
/// before its new position in all of them.
#[test]
fn a_global_state_after_the_failure_of_a_stream_is_not_saved() {
    if !has_python("a_global_state_after_the_failure_of_a_stream_is_not_saved") {
        return;
    }
    let columns = json!({ "id": "integer", "updated_at": "integer" });
    let streams = ["a", "b"].map(|name| stream(name, &columns, &["id"], "updated_at"));
    let row = |name: &str, id: i64| record(name, &json!({ "id": id, "updated_at": id }));
    let global = |at: i64, count: usize| {
        let part = |name: &str| json!({ "stream_descriptor": { "name": name }, "stream_state": { "at": at } });
        json!({ "type": "STATE", "state": { "type": "GLOBAL",
            "global": { "shared_state": { "at": at }, "stream_states": [part("a"), part("b")] },
            "sourceStats": { "recordCount": count as f64 } } })
    };
    let append = "[{name: \"*\", sync_mode: incremental, destination_sync_mode: append}]";
    let mut shop = Shop::new(append, &streams);
    let first = [row("a", 1), row("b", 1), global(1, 2)];
    let then = [row("a", 2), status("b", "INCOMPLETE"), global(2, 1), status("a", "COMPLETE")];
    shop.ends(1, &[first.as_slice(), &then].concat());
    let ends = [status("a", "COMPLETE"), status("b", "COMPLETE")];
    let all = [row("a", 2), row("b", 2), global(2, 2)];
    shop.ends(0, &[all.as_slice(), &ends].concat());
    assert_eq!(shop.given("state")[0]["global"]["shared_state"]["at"], 1);
    assert_eq!(shop.table("b", &["id"]), ["1", "2"], "nothing of it is missing");
    assert_eq!(shop.table("a", &["id"]), ["1", "2"], "nothing of the other is there twice");
}

/// Where the counts of a state and of the records that came differ, the platform logged it.
#[test]
fn a_count_that_differs_commits_nothing() {
    if !has_python("a_count_that_differs_commits_nothing") {
        return;
    }
    for mut shop in both(DEDUP, &[people()]) {
        shop.syncs("people", &[person(1, "a", Some(1))], 1);
        // The record 3 was lost on the way.
        let ended = shop.ends(
            1,
            &[
                record("people", &person(2, "b", Some(2))),
                state("people", &json!(3), 2),
                status("people", "COMPLETE"),
            ],
        );
        assert!(ended.stderr.contains("sent: 2") && ended.stderr.contains("came: 1"), "{ended:?}");
        assert_eq!(shop.table("people_history", &PERSON), ["1 | a | 1"]);
        shop.syncs("people", &[person(2, "b", Some(2)), person(3, "c", Some(3))], 3);
        assert_eq!(shop.position(), json!({ "at": 1 }), "it goes on before them");
        assert_eq!(shop.table("people", &PERSON), ["1 | a | 1", "2 | b | 2", "3 | c | 3"]);
    }
}

/// A state that came while another one was being saved was dropped from memory. Were it the last
/// one, the next sync got everything after the one before it again.
#[test]
fn a_state_that_comes_while_another_is_saved_counts() {
    if !has_python("a_state_that_comes_while_another_is_saved_counts") {
        return;
    }
    for mut shop in
        both("[{name: people, sync_mode: incremental, destination_sync_mode: append}]", &[people()])
    {
        let lines = json!({ "repeat": 2_000, "line": "{\"type\":\"RECORD\",\"record\":{\"stream\":\
            \"people\",\"data\":{\"id\":{i},\"updated_at\":{i}},\"emitted_at\":1}}\n{\"type\":\
            \"STATE\",\"state\":{\"type\":\"STREAM\",\"stream\":{\"stream_descriptor\":{\"name\":\
            \"people\"},\"stream_state\":{\"at\":{i}}},\"sourceStats\":{\"recordCount\":1.0}}}" });
        shop.ends(0, &[lines, status("people", "COMPLETE")]);
        assert_eq!(shop.table("people", &["id"]).len(), 2_000);
        shop.syncs("people", &[], 1_999);
        assert_eq!(shop.position(), json!({ "at": 1_999 }));
    }
}

/// A mapper that failed was a line in the debug log, and the value went through in clear text.
#[test]
fn a_mapper_that_fails_lets_no_clear_text_through() {
    if !has_python("a_mapper_that_fails_lets_no_clear_text_through") {
        return;
    }
    let entry = DEDUP.replace('}', ", mappings: [{hash: {column: name, method: SHA-256}}]}");
    let mut shop = Shop::new(&entry, &[people()]);
    shop.session.variable("HIGHWATER_FAIL_MAPPING", "name:2");
    shop.script(&good("people", &[person(1, "Ludwig", Some(1)), person(2, "Antonia", Some(2))], 2));
    assert_eq!(shop.session.run("sync sync.yml"), 3);
    assert_eq!(shop.table("people", &["id"]), ["1"]);
    assert_eq!(
        shop.table("_highwater_quarantine", &["source_table", "\"column\""]),
        ["people | name"]
    );
    for file in ["copy.db", "copy.db-wal"] {
        let bytes = std::fs::read(shop.session.path(file)).unwrap_or_default();
        for clear in ["Ludwig", "Antonia"] {
            let found = bytes.windows(clear.len()).any(|found| found == clear.as_bytes());
            assert!(!found, "{clear} is in {file}");
        }
    }
    // It is the raw line, too, that has the clear text.
    assert!(
        shop.table("people_history", &["_airbyte_meta"])
            .iter()
            .all(|meta| !meta.contains("Ludwig"))
    );
}

/// Rows at the boundary of a moment with fractions, which come while or after it is read; by one
/// state of the whole source.
#[test]
fn late_rows_at_a_fractional_boundary_are_not_missed() {
    if !has_python("late_rows_at_a_fractional_boundary_are_not_missed") {
        return;
    }
    let at = |fraction: &str| format!("2026-01-01T00:00:00.{fraction}Z");
    let mut shop = Shop::new("[{name: \"*\", destination_sync_mode: append_dedup}]", &[]);
    shop.settings = ", rows_file: rows.jsonl, global: true, state_every: 2".to_owned();
    let mut sent = vec![
        user(1, "a", &at("123455")),
        user(2, "b", &at("123456")),
        ("others", user(1, "x", &at("9")).1),
    ];
    let mut sync = |shop: &mut Shop, more: Vec<(&'static str, Value)>| {
        sent.extend(more);
        rows(&mut shop.session, &sent);
        shop.script_of_rows();
        shop.run("sync sync.yml").expect(0).unwrap();
    };
    sync(&mut shop, Vec::new());
    // Committed late, with the very same moment; and one microsecond later.
    let late = [user(3, "c", &at("123456")), user(4, "d", &at("123457"))];
    sync(&mut shop, late.to_vec());
    assert_eq!(shop.given("state")[0]["type"], "GLOBAL");
    assert_eq!(shop.table("users", &["id", "name"]), ["1 | a", "2 | b", "3 | c", "4 | d"]);
    sync(&mut shop, vec![("others", user(2, "y", &at("9")).1), user(5, "e", &at("123457"))]);
    assert_eq!(shop.table("users", &["id"]), ["1", "2", "3", "4", "5"]);
    assert_eq!(shop.table("others", &["id", "name"]), ["1 | x", "2 | y"]);
}

/// Columns that come later are there from then on, and those that go stay with what they have.
#[test]
fn columns_that_come_and_go() {
    if !has_python("columns_that_come_and_go") {
        return;
    }
    for mut shop in both(DEDUP, &[people()]) {
        shop.syncs("people", &[person(1, "a", Some(1)), person(2, "b", Some(2))], 2);
        let with = |kinds: &Value| stream("people", kinds, &["id"], "updated_at");
        let more =
            json!({ "id": "integer", "name": "string", "updated_at": "integer", "age": "integer" });
        shop.streams(&[with(&more)]);
        let row = json!({ "id": 1, "name": "a", "updated_at": 3, "age": 38 });
        shop.syncs("people", &[row], 3);
        assert_eq!(shop.table("people", &["id", "name", "age"]), ["1 | a | 38", "2 | b | NULL"]);
        shop.streams(&[with(
            &json!({ "id": "integer", "updated_at": "integer", "age": "integer" }),
        )]);
        let ended = shop.syncs("people", &[json!({ "id": 2, "updated_at": 4, "age": 37 })], 4);
        assert_eq!(ended.code, Some(0));
        assert_eq!(shop.table("people", &["id", "age"]), ["1 | 38", "2 | 37"]);
    }
}

/// Columns that were not chosen are not written anywhere; key and cursor cannot be left out.
#[test]
fn columns_that_are_not_selected_are_not_written() {
    if !has_python("columns_that_are_not_selected_are_not_written") {
        return;
    }
    let mut shop = Shop::new(&DEDUP.replace('}', ", columns: [id, updated_at]}"), &[people()]);
    shop.syncs("people", &[person(1, "Ludwig", Some(1))], 1);
    assert_eq!(shop.table("people", &["id", "updated_at"]), ["1 | 1"]);
    assert_eq!(shop.table("people_history", &["id", "updated_at"]), ["1 | 1"]);
    for file in ["copy.db", "copy.db-wal"] {
        let bytes = std::fs::read(shop.session.path(file)).unwrap_or_default();
        assert!(!bytes.windows(6).any(|found| found == b"Ludwig"), "{file}");
    }
    shop.entries(&DEDUP.replace('}', ", columns: [name, updated_at]}"));
    shop.ends(2, &[]);
}

/// An integer column that becomes text, and the other way round: nothing is written wrongly, and
/// what to do is said.
#[test]
fn a_column_that_changes_its_type() {
    if !has_python("a_column_that_changes_its_type") {
        return;
    }
    for (from, value, to, other) in [
        ("integer", json!(1), "string", json!("one")),
        ("string", json!("one"), "integer", json!(1)),
    ] {
        for mut shop in both(DEDUP, &[people()]) {
            let of = |kind: &str| {
                let columns = json!({ "id": "integer", "code": kind, "updated_at": "integer" });
                stream("people", &columns, &["id"], "updated_at")
            };
            shop.streams(&[of(from)]);
            shop.syncs("people", &[json!({ "id": 1, "code": value, "updated_at": 1 })], 1);
            let before = shop.table("people", &["id", "code"]);
            shop.streams(&[of(to)]);
            let second = json!({ "id": 2, "code": other, "updated_at": 2 });
            let ended = shop.sends(&good("people", &[second], 2));
            assert_eq!(ended.code, Some(4));
            assert_eq!(shop.table("people", &["id", "code"]), before);
        }
    }
}
