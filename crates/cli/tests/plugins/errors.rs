//! What goes wrong in or with a plugin, as the user sees it.

use highwater_testkit::sdk;
use serde_json::Value;

use super::{
    api, asked, count, destination, events, has_sdk, program, rows, scripted_as, served, session,
    source,
};
use crate::transcript::Session;

fn sqlite(keys: &str) -> String {
    destination("copy", "sqlite", keys, "    connection_string: copy.db\n")
}

#[test]
fn a_table_that_failed_keeps_its_stale_rows_and_is_named() {
    if !has_sdk("a_table_that_failed_keeps_its_stale_rows_and_is_named") {
        return;
    }
    let mut session = session(&events(1..=2));
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    api(&mut session, &events(1..=3), 1);
    let failing = source("copy", "copy", "    fail_table: accounts\n") + &sqlite("");
    session.file("sync.yml", &failing);
    assert_eq!(session.run("sync sync.yml --summary-location summary.jsonl"), 3);
    session.query("copy.db", "SELECT number FROM accounts");
    session.query("copy.db", "SELECT id FROM events");
    let line = std::fs::read_to_string(session.path("summary.jsonl")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["errors_per_table"]["accounts"], 1);
    assert_eq!(line["errors_per_table"]["events"], 0);
    assert!(line["source_errors"].as_u64().unwrap() >= 1, "{line}");
    assert_eq!(line["destination_errors"], 0, "{line}");
    session.matches("plugin_table_failed");
}

#[test]
fn a_cursor_of_a_table_that_failed_stays() {
    if !has_sdk("a_cursor_of_a_table_that_failed_stays") {
        return;
    }
    let mut session = session(&events(1..=4));
    let failing = "    fail_table: events\n    fail_after: 2\n    flush_every: 1\n";
    session.file("sync.yml", &(source("copy", "copy", failing) + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 3);
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(asked(&session), ["", ""]);
    assert_eq!(count(&session, "copy.db", "events"), "4");
}

#[test]
fn a_pattern_that_matches_nothing() {
    if !has_sdk("a_pattern_that_matches_nothing") {
        return;
    }
    let mut session = session(&events(1..=1));
    let text = source("copy", "copy", "") + &sqlite("");
    session.file("sync.yml", &text.replace("[\"*\"]", "[evnts]"));
    assert_eq!(session.run("sync sync.yml"), 2);
    session.file("sync.yml", &text.replace("[\"*\"]", "[events]\n  skip_tables: [acounts]"));
    assert_eq!(session.run("sync sync.yml"), 2);
    session.matches("plugin_no_table");
}

#[test]
fn a_plugin_that_is_not_there_or_does_not_start() {
    let mut session = Session::new();
    let plain = "kind: source
spec:
  name: shop
  path: ./shop-plugin
  registry: local
  tables: [\"*\"]
  destinations: [copy]
";
    session.file("sync.yml", &(plain.to_owned() + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 2);
    program(&session, "shop-plugin", "#!/bin/sh\necho 'the library is missing' >&2\nexit 3\n");
    assert_eq!(session.run("sync sync.yml"), 2);
    session.matches("plugin_no_start");
}

#[test]
fn a_plugin_of_the_hub_without_a_key() {
    let mut session = Session::new();
    let hub = "kind: source
spec:
  name: aws
  path: cloudquery/aws
  version: v27.0.0
  tables: [\"*\"]
  destinations: [copy]
";
    session.file("sync.yml", &(hub.to_owned() + &sqlite("")));
    assert_eq!(session.run("plugin install sync.yml"), 2);
    session.matches("plugin_no_key");
}

#[test]
fn settings_are_checked_against_the_plugins_own_schema() {
    let mut session = Session::new();
    served(&session, "sqlite");
    let plugin = |spec: &str| {
        format!(
            "kind: source
spec:
  name: shop
  path: ./highwater-sqlite
  registry: local
  tables: [\"*\"]
  destinations: [copy]
  spec:
{spec}{}",
            sqlite("")
        )
    };
    for (spec, exit) in [
        ("    connection_string: shop.db\n", 0),
        ("    conection_string: shop.db\n", 2),
        ("    connection_string: [shop.db]\n", 2),
    ] {
        session.file("sync.yml", &plugin(spec));
        assert_eq!(session.run("validate-config sync.yml"), exit);
    }
    session.matches("plugin_schema");
}

#[test]
fn a_plugin_without_a_test_fails_the_test_of_its_connection() {
    if !has_sdk("a_plugin_without_a_test_fails_the_test_of_its_connection") {
        return;
    }
    let mut session = session(&events(1..=1));
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite("")));
    assert_eq!(session.run("test-connection sync.yml"), 1);
    assert_eq!(session.run("test-connection sync.yml --json"), 1);
    session.matches("plugin_test_connection");
}

#[test]
fn a_plugin_ends_also_where_a_shell_keeps_sigint_from_it() {
    if !has_sdk("a_plugin_ends_also_where_a_shell_keeps_sigint_from_it") {
        return;
    }
    let mut session = session(&events(1..=1));
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite("")));
    // As for what a script starts with `&`.
    let script = "trap '' INT; exec \"$0\" test-connection sync.yml";
    let mut command = session.command("sh");
    let output = command.args(["-c", script, env!("CARGO_BIN_EXE_highwater")]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot test its connection"), "{stderr}");
    assert!(!stderr.contains("did not end"), "{stderr}");
}

#[test]
fn tables_of_a_plugin_are_described() {
    if !has_sdk("tables_of_a_plugin_are_described") {
        return;
    }
    let mut session = session(&events(1..=1));
    // What the plugin would need to reach its system is not there, and not needed.
    std::fs::remove_file(session.path("api.json")).unwrap();
    let text = source("copy", "copy", "") + &sqlite("");
    session.file("sync.yml", &text.replace("[\"*\"]", "[accounts]"));
    assert_eq!(session.run("tables sync.yml --format markdown"), 0);
    assert_eq!(session.run("tables sync.yml --filter spec --json"), 0);
    let read = |name: &str| std::fs::read_to_string(session.path(name)).unwrap();
    assert_eq!(
        read("cq-docs/shop/README.md"),
        "# Source Plugin: shop\n\n## Tables\n\n- [accounts](accounts.md)\n\
         - [events](events.md) (Incremental)\n  - [event_lines](event_lines.md) (Incremental)\n"
    );
    let page = read("cq-docs/shop/event_lines.md");
    assert!(page.contains("This table depends on [events](events.md).\n"), "{page}");
    assert!(page.contains("|event_id (PK)|`int64`|"), "{page}");
    assert_eq!(session.run("migrate sync.yml"), 0);
    session.query("copy.db", "SELECT name FROM sqlite_master WHERE name IN ('accounts', 'events')");
    session.matches("plugin_tables_described");
}

#[test]
fn a_plugin_that_dies_is_named_and_nothing_is_committed() {
    if !has_sdk("a_plugin_that_dies_is_named_and_nothing_is_committed") {
        return;
    }
    let mut session = session(&events(1..=5));
    let dying = "    die_after: 3\n    flush_every: 1\n";
    session.file("sync.yml", &(source("copy", "copy", dying) + &sqlite("")));
    let code = session.run("sync sync.yml --summary-location summary.jsonl");
    assert!(code == 75 || code == 1, "{code}");
    let line = std::fs::read_to_string(session.path("summary.jsonl")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    // Three tables could not be read; the destination did nothing wrong.
    assert!(line["source_errors"].as_u64().unwrap() >= 3, "{line}");
    assert_eq!(line["destination_errors"], 0, "{line}");
    session.file("sync.yml", &(source("copy", "copy", "") + &sqlite("")));
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(asked(&session), ["", ""]);
    assert_eq!(count(&session, "copy.db", "events"), "5");
}

#[test]
fn lines_of_plugins_are_shown_at_the_level_that_was_asked_for() {
    let mut session = Session::new();
    served(&session, "sqlite");
    session.sql("shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1);");
    let spec = "    connection_string: copy.db\n";
    let plugin = destination("copy", "./highwater-sqlite", "  registry: local\n", spec);
    let shop = "kind: source
spec:
  name: shop
  path: sqlite
  tables: [t]
  destinations: [copy]
  spec: {connection_string: shop.db}
";
    session.file("sync.yml", &(shop.to_owned() + &plugin));
    let said = |flags: &[&str]| {
        let mut command = session.command(env!("CARGO_BIN_EXE_highwater"));
        let output = command.args(["sync", "sync.yml"]).args(flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let line = "plugin has ended";
    assert!(!said(&[]).contains(line));
    for level in ["info", "debug", "trace"] {
        assert!(said(&["--log-level", level]).contains(line), "{level}");
    }
    assert!(!said(&["--log-level", "warn"]).contains(line));
}

#[test]
fn a_destination_that_swallows_an_error_is_no_success() {
    if !has_sdk("a_destination_that_swallows_an_error_is_no_success") {
        return;
    }
    let mut session = session(&events(1..=2));
    sdk::executable(&session.path("."), "destination.py");
    let spec = "    path: store.sqlite\n    fail_table: accounts\n";
    let plugin = destination("store", "./destination", "  registry: local\n", spec);
    session.file("sync.yml", &(source("store", "store", "") + &plugin));
    let mut command = session.command(env!("CARGO_BIN_EXE_highwater"));
    let output = command.args(["sync", "sync.yml", "--json"]).output().unwrap();
    assert_ne!(session.record("sync sync.yml --json", &output), 0);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let plugins = answer["syncs"][0]["plugins"].as_array().unwrap();
    let names: Vec<_> = plugins.iter().map(|p| (p["kind"].clone(), p["name"].clone())).collect();
    assert_eq!(names, [("source".into(), "shop".into()), ("destination".into(), "store".into())]);
    let spec = "    path: store.sqlite\n";
    let plugin = destination("store", "./destination", "  registry: local\n", spec);
    session.file("sync.yml", &(source("store", "store", "") + &plugin));
    assert_eq!(session.run("sync sync.yml"), 0);
    assert_eq!(rows(&session, "store.sqlite", "SELECT count(*) FROM events"), ["2"]);
    assert_eq!(rows(&session, "store.sqlite", "SELECT count(*) FROM accounts"), ["2"]);
}

#[test]
fn a_transformer_that_dies_fails_the_sync() {
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1);");
    scripted_as(&session, "dying", "transformer transform-die=1");
    let source = "kind: source
spec:
  name: shop
  path: sqlite
  tables: [t]
  destinations: [copy]
  spec:
    connection_string: shop.db
";
    let transformer = "---
kind: transformer
spec:
  name: dying
  path: ./dying
  registry: local
";
    let text = source.to_owned() + &sqlite("  transformers: [dying]\n") + transformer;
    session.file("sync.yml", &text);
    let code = session.run("sync sync.yml");
    assert!(code == 75 || code == 1, "{code}");
    assert_eq!(
        rows(&session, "copy.db", "SELECT count(*) FROM sqlite_master WHERE name = 't'"),
        ["0"]
    );
}
