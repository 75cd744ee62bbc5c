//! What Airbyte's page about incremental append + deduped promises, sentence by sentence: its
//! worked example value by value, cursors and keys that the source or the user defines, records
//! that delete, cursors that are not granular, and its known limitation with our answers to it.

use serde_json::{Value, json};

use super::has_python;
use super::proof::{DEDUP, PERSON, Shop, bare, both, good, people, person, record, status, stream};
use crate::airbyte::{rows, user};

fn royal(name: &str, deceased: bool, updated_at: i64) -> Value {
    json!({ "name": name, "deceased": deceased, "updated_at": updated_at })
}

/// Louis XVI and Marie Antoinette.
#[test]
fn the_worked_example() {
    if !has_python("the_worked_example") {
        return;
    }
    let columns = json!({ "name": "string", "deceased": "boolean", "updated_at": "integer" });
    let royals = stream("royals", &columns, &["name"], "updated_at");
    let entries = "[{name: royals, sync_mode: incremental, destination_sync_mode: append_dedup}]";
    for mut shop in both(entries, &[royals]) {
        let shown = ["name", "CASE WHEN deceased THEN 'true' ELSE 'false' END", "updated_at"];
        let (louis, marie) = ("Louis XVI", "Marie Antoinette");
        shop.syncs("royals", &[royal(louis, false, 1754), royal(marie, false, 1755)], 1755);
        assert_eq!(
            shop.table("royals", &shown),
            ["Louis XVI | false | 1754", "Marie Antoinette | false | 1755"]
        );
        shop.syncs("royals", &[royal(louis, false, 1785)], 1785);
        assert_eq!(
            shop.table("royals", &shown),
            ["Louis XVI | false | 1785", "Marie Antoinette | false | 1755"]
        );
        assert_eq!(shop.position(), json!({ "at": 1755 }));
        shop.syncs("royals", &[royal(louis, true, 1793), royal(marie, true, 1793)], 1793);
        assert_eq!(
            shop.table("royals", &shown),
            ["Louis XVI | true | 1793", "Marie Antoinette | true | 1793"]
        );
        assert_eq!(
            shop.table("royals_history", &shown),
            [
                "Louis XVI | false | 1754",
                "Louis XVI | false | 1785",
                "Louis XVI | true | 1793",
                "Marie Antoinette | false | 1755",
                "Marie Antoinette | true | 1793",
            ]
        );
        // "Cleanup jobs which retain only the latest instance of each record in the history".
        shop.run("history compact sync.yml").expect(0).unwrap();
        assert_eq!(shop.table("royals_history", &shown), shop.table("royals", &shown));
    }
}

/// What the source defines, the connector is asked with, and nobody has to name.
#[test]
fn a_cursor_and_a_key_that_the_source_defines() {
    if !has_python("a_cursor_and_a_key_that_the_source_defines") {
        return;
    }
    let mut shop = Shop::new(DEDUP, &[people()]);
    shop.syncs("people", &[person(1, "a", Some(5)), person(1, "b", Some(4))], 5);
    assert_eq!(shop.table("people", &PERSON), ["1 | a | 5"]);
    let asked = &shop.given("catalog")["streams"][0];
    assert_eq!(asked["sync_mode"], "incremental");
    assert_eq!(asked["destination_sync_mode"], "append_dedup");
    assert_eq!(asked["cursor_field"], json!(["updated_at"]));
    assert_eq!(asked["primary_key"], json!([["id"]]));
}

/// Key and cursor are the user's: the source has none, or the key is another one at the
/// destination.
#[test]
fn a_cursor_and_a_key_that_the_user_defines() {
    if !has_python("a_cursor_and_a_key_that_the_user_defines") {
        return;
    }
    let columns = json!({ "id": "integer", "name": "string", "updated_at": "integer" });
    let entry = "[{name: people, sync_mode: incremental, destination_sync_mode: append_dedup, \
                 cursor_field: [updated_at], primary_key: [[name]]}]";
    let mut shop = Shop::new(entry, &[bare("people", &columns)]);
    shop.syncs("people", &[person(1, "a", Some(5)), person(2, "a", Some(4))], 5);
    shop.syncs("people", &[person(3, "a", Some(6)), person(3, "b", Some(6))], 6);
    assert_eq!(shop.table("people", &PERSON), ["3 | a | 6", "3 | b | 6"]);
    let asked = &shop.given("catalog")["streams"][0];
    assert_eq!(asked["cursor_field"], json!(["updated_at"]));
    assert_eq!(asked["primary_key"], json!([["name"]]));
    // Without them there is nothing to deduplicate by.
    shop.entries(DEDUP);
    let ended = shop.ends(2, &[]);
    assert!(ended.stderr.contains("cursor"), "{}", ended.stderr);
}

/// A source that defines its cursor goes on by that one; the user's only says which row is newer,
/// and the run says so.
#[test]
fn a_cursor_that_both_define() {
    if !has_python("a_cursor_that_both_define") {
        return;
    }
    let mut shop = Shop::new(&DEDUP.replace('}', ", cursor_field: [name]}"), &[people()]);
    let rows = [person(1, "b", Some(1)), person(1, "a", Some(2))];
    let ended = shop.syncs("people", &rows, 2);
    assert!(ended.stdout.contains("reads by a cursor of its own"), "{}", ended.stdout);
    assert_eq!(shop.table("people", &PERSON), ["1 | b | 1"]);
}

/// A composite key, as the page's example has it for campaigns.
#[test]
fn a_composite_key() {
    if !has_python("a_composite_key") {
        return;
    }
    let columns =
        json!({ "account": "string", "campaign": "integer", "cost": "integer", "day": "string" });
    let row = |account: &str, campaign: i64, cost: i64, day: &str| json!({ "account": account, "campaign": campaign, "cost": cost, "day": day });
    let entry = "[{name: campaigns, sync_mode: incremental, destination_sync_mode: append_dedup, \
                 cursor_field: day, primary_key: [[account], [campaign]]}]";
    for mut shop in both(entry, &[bare("campaigns", &columns)]) {
        let first = [row("x", 1, 10, "2026-01-01"), row("x", 2, 20, "2026-01-01")];
        shop.syncs("campaigns", &first, 1);
        let second = [row("y", 1, 30, "2026-01-02"), row("x", 1, 11, "2026-01-02")];
        shop.syncs("campaigns", &second, 2);
        assert_eq!(
            shop.table("campaigns", &["account", "campaign", "cost"]),
            ["x | 1 | 11", "x | 2 | 20", "y | 1 | 30"]
        );
    }
}

/// A cursor with the granularity of a day: the source sends the day of the boundary again, and
/// with it what came later on that day. The final table has everything once.
#[test]
fn an_inclusive_cursor_that_knows_only_days() {
    if !has_python("an_inclusive_cursor_that_knows_only_days") {
        return;
    }
    let mut shop = Shop::new("[{name: users, destination_sync_mode: append_dedup}]", &[]);
    shop.settings = ", rows_file: rows.jsonl".to_owned();
    let day_1 = [user(1, "a", "2026-01-01"), user(2, "b", "2026-01-01")];
    let columns = ["id", "name", "updated_at"];
    let sync = |shop: &mut Shop, given: &[(&'static str, Value)]| {
        rows(&mut shop.session, given);
        shop.script_of_rows();
        shop.run("sync sync.yml --json").expect(0).unwrap().sum("rows_read")
    };
    assert_eq!(sync(&mut shop, &day_1), 2);
    // Later on the same day: a new row, and a change that the cursor does not show.
    let later =
        [user(1, "a", "2026-01-01"), user(2, "B", "2026-01-01"), user(3, "c", "2026-01-01")];
    assert_eq!(sync(&mut shop, &later), 3);
    let all = ["1 | a | 2026-01-01", "2 | B | 2026-01-01", "3 | c | 2026-01-01"];
    assert_eq!(shop.table("users", &columns), all);
    // The day is over.
    let next = [later.as_slice(), &[user(1, "A", "2026-01-02")]].concat();
    assert_eq!(sync(&mut shop, &next), 4);
    let all = ["1 | A | 2026-01-02", "2 | B | 2026-01-01", "3 | c | 2026-01-01"];
    assert_eq!(shop.table("users", &columns), all);
    assert_eq!(sync(&mut shop, &next), 1);
    assert_eq!(shop.table("users", &columns), all);
}

/// Rows that a source says it has deleted go, or stay with the time of their deletion.
#[test]
fn records_that_delete() {
    if !has_python("records_that_delete") {
        return;
    }
    let columns =
        json!({ "id": "integer", "_ab_cdc_lsn": "integer", "_ab_cdc_deleted_at": "string" });
    let row = |id: i64, at: i64, deleted: Option<&str>| json!({ "id": id, "_ab_cdc_lsn": at, "_ab_cdc_deleted_at": deleted });
    let entries = |deletes: &str| {
        format!("[{{name: items, destination_sync_mode: append_dedup, deletes: {deletes}}}]")
    };
    let day = Some("2026-01-02T00:00:00Z");
    for (deletes, left) in [
        ("hard", vec!["1 | NULL"]),
        ("soft", vec!["1 | NULL", "2 | 2026-01-02T00:00:00Z", "3 | 2026-01-02T00:00:00Z"]),
    ] {
        let items = stream("items", &columns, &["id"], "_ab_cdc_lsn");
        for mut shop in both(&entries(deletes), &[items]) {
            shop.syncs("items", &[row(1, 1, None), row(2, 2, None)], 2);
            // The deletion of a row that never came, too.
            shop.syncs("items", &[row(2, 3, day), row(3, 4, day)], 4);
            assert_eq!(shop.table("items", &["id", "_ab_cdc_deleted_at"]), left, "{deletes}");
            // A row that comes again is there again.
            shop.syncs("items", &[row(2, 5, None)], 5);
            assert!(
                shop.table("items", &["id", "_ab_cdc_deleted_at"]).contains(&"2 | NULL".into())
            );
        }
    }
}

/// "Modifications … without properly updating the cursor field … won't be picked up": a row that
/// changed and one that is gone, neither of which the cursor shows.
fn not_seen_by_the_cursor(entry: &str) -> Shop {
    let mut shop = Shop::new(DEDUP, &[people()]);
    let all = [person(1, "a", Some(1)), person(2, "b", Some(2)), person(3, "c", Some(3))];
    shop.syncs("people", &all, 3);
    // In the source row 1 is "A" now, and row 2 is gone: the delta is empty.
    shop.syncs("people", &[], 3);
    assert_eq!(shop.table("people", &PERSON), ["1 | a | 1", "2 | b | 2", "3 | c | 3"]);
    shop.entries(entry);
    shop.script(&good("people", &[person(1, "A", Some(1)), person(3, "c", Some(3))], 3));
    shop
}

#[test]
fn the_known_limitation_answered_by_a_refresh() {
    if !has_python("the_known_limitation_answered_by_a_refresh") {
        return;
    }
    let shop = not_seen_by_the_cursor(DEDUP);
    shop.run("refresh sync.yml people --keep").expect(0).unwrap();
    assert_eq!(shop.position(), Value::Null, "the connector begins anew");
    assert_eq!(shop.table("people", &PERSON), ["1 | A | 1", "2 | b | 2", "3 | c | 3"]);
    shop.run("refresh sync.yml people --remove").expect(0).unwrap();
    assert_eq!(shop.table("people", &PERSON), ["1 | A | 1", "3 | c | 3"]);
}

#[test]
fn the_known_limitation_answered_by_sweeps() {
    if !has_python("the_known_limitation_answered_by_sweeps") {
        return;
    }
    let sweep = DEDUP.replace('}', ", sweep: 1s}");
    let mut shop = not_seen_by_the_cursor(&sweep);
    shop.run("sync sync.yml").expect(0).unwrap();
    assert_eq!(shop.position(), Value::Null, "the connector begins anew");
    assert_eq!(shop.table("people", &PERSON), ["1 | A | 1", "2 | b | 2", "3 | c | 3"]);
    shop.entries(&DEDUP.replace('}', ", deletes: reconcile}"));
    shop.syncs("people", &[person(1, "A", Some(1)), person(3, "c", Some(3))], 3);
    assert_eq!(shop.table("people", &PERSON), ["1 | A | 1", "3 | c | 3"]);
    // A sweep that is not complete proves nothing about what it did not bring.
    let ended =
        shop.sends(&[record("people", &person(1, "A", Some(1))), status("people", "INCOMPLETE")]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(shop.table("people", &PERSON), ["1 | A | 1", "3 | c | 3"]);
}
