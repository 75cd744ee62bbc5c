//! Configuration files that are wrong: each is shown with its line and one thing to do.

use crate::transcript::Session;

const DESTINATION: &str = "---
kind: destination
spec:
  name: copy
  path: sqlite
  spec:
    connection_string: copy.db
";

/// A file with this source and a good destination; what `validate-config` says of it.
fn with_source(source: &str) -> Session {
    let mut session = Session::new();
    session.file("sync.yml", &format!("{source}{DESTINATION}"));
    assert_eq!(session.run("validate-config sync.yml"), 2);
    session
}

fn source(lines: &str) -> String {
    format!("kind: source\nspec:\n  name: shop\n  path: sqlite\n{lines}")
}

const GOOD: &str =
    "  tables: [orders]\n  destinations: [copy]\n  spec:\n    connection_string: shop.db\n";

#[test]
fn a_good_file_is_valid() {
    let mut session = Session::new();
    session.file("sync.yml", &format!("{}{DESTINATION}", source(GOOD)));
    assert_eq!(session.run("validate-config sync.yml"), 0);
    assert_eq!(session.run("validate-config sync.yml --json"), 0);
    session.matches("config_good");
}

#[test]
fn a_missing_file() {
    let mut session = Session::new();
    assert_eq!(session.run("sync nowhere.yml"), 2);
    assert_eq!(session.run("--log-format json sync nowhere.yml"), 2);
    session.hidden_file("empty/readme.txt", b"");
    assert_eq!(session.run("sync empty/"), 2);
    session.matches("config_no_file");
}

#[test]
fn a_syntax_error() {
    with_source(&source("  tables: [orders\n  destinations: [copy]\n")).matches("config_syntax");
}

#[test]
fn a_key_that_is_there_twice() {
    with_source(&source(&format!("  name: other\n{GOOD}"))).matches("config_twice");
}

#[test]
fn an_unknown_key() {
    with_source(&source(&format!("  tabels: [orders]\n{GOOD}"))).matches("config_unknown_key");
}

#[test]
fn an_unknown_key_of_a_table() {
    let lines = GOOD.replace("[orders]", "\n    - name: orders\n      cursr: updated_at");
    with_source(&source(&lines)).matches("config_unknown_table_key");
}

#[test]
fn an_unknown_key_of_the_connector() {
    let lines = GOOD.replace("connection_string", "conection_string");
    with_source(&source(&lines)).matches("config_unknown_spec_key");
}

#[test]
fn a_missing_variable() {
    let lines = GOOD.replace("shop.db", "${SHOP_DATABASE}");
    with_source(&source(&lines)).matches("config_missing_variable");
}

#[test]
fn a_value_of_the_wrong_type() {
    with_source(&source(&GOOD.replace("[orders]", "5"))).matches("config_wrong_type");
    let lines = GOOD.replace("shop.db", "shop.db\n    batch_size: many");
    with_source(&source(&lines)).matches("config_wrong_spec_type");
}

#[test]
fn a_word_that_is_no_mode() {
    let lines = GOOD.replace("[orders]", "[{name: orders, write_mode: upsert}]");
    with_source(&source(&lines)).matches("config_wrong_mode");
}

/// Stale rows are told by columns that would not be there: every command says so, before a row is
/// read. What is read incrementally has no stale rows.
#[test]
fn stale_rows_without_the_columns_that_tell_them() {
    let destination = DESTINATION.replace("  spec:", "  metadata_columns: none\n  spec:");
    let written = |entry: &str, destination: &str| {
        format!("{}{destination}", source(&GOOD.replace("orders", entry)))
    };
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY, at INTEGER);");
    session.file("sync.yml", &written("orders", &destination));
    for command in ["validate-config", "plan", "sync"] {
        assert_eq!(session.run(&format!("{command} sync.yml")), 2);
    }
    let append = destination.replace("  spec:", "  write_mode: append\n  spec:");
    let stale = "{name: orders, write_mode: overwrite-delete-stale}";
    session.file("sync.yml", &written(stale, &append));
    assert_eq!(session.run("validate-config sync.yml"), 2);
    assert!(!session.path("copy.db").exists());
    session.matches("config_stale");
    for (entry, destination) in [
        ("{name: orders, cursor: at}", &destination),
        ("{name: orders, write_mode: append}", &destination),
        ("orders", &append),
        (stale, &append.replace("none", "cloudquery")),
    ] {
        session.file("sync.yml", &written(entry, destination));
        assert_eq!(session.run("validate-config sync.yml"), 0, "{entry}");
        assert_eq!(session.run("sync sync.yml"), 0, "{entry}");
        std::fs::remove_file(session.path("copy.db")).unwrap();
    }
}

#[test]
fn a_missing_key() {
    let lines = GOOD.replace("  destinations: [copy]\n", "");
    with_source(&source(&lines)).matches("config_missing_key");
}

#[test]
fn a_destination_that_is_not_there() {
    let lines = GOOD.replace("[copy]", "[cpoy]");
    with_source(&source(&lines)).matches("config_unknown_destination");
}

#[test]
fn two_sources_of_one_name() {
    let good = source(GOOD);
    with_source(&format!("{good}---\n{good}")).matches("config_two_names");
}

#[test]
fn a_connector_that_is_not_there() {
    with_source(&source(GOOD).replace("path: sqlite", "path: sqlte"))
        .matches("config_no_connector");
}

#[test]
fn the_backend_of_the_state() {
    let backend = |connection: &str| {
        source(&format!(
            "  backend_options:\n    table_name: cq_state\n    connection: \"{connection}\"\n{GOOD}"
        ))
    };
    let mut session = Session::new();
    session.file("sync.yml", &format!("{}{DESTINATION}", backend("@@plugins.copy.connection")));
    assert_eq!(session.run("validate-config sync.yml"), 0);
    session.matches("config_backend");
    with_source(&backend("@@plugins.cpy.connection")).matches("config_backend_unknown");
    with_source(&backend("localhost:7777")).matches("config_backend_grpc");
}

#[test]
fn cloudquery_files_run_on_built_in_connectors() {
    let mut session = Session::new();
    session.variable("CONNECTION_STRING", "postgres://me:pa:s#s@localhost/db");
    session.file(
        "sync.yml",
        "kind: source
spec:
  name: pg # a comment with ${NOTHING}
  path: cloudquery/postgresql
  registry: cloudquery
  version: \"v25.2.2\"
  tables: [\"*\"]
  skip_dependent_tables: true
  destinations: [\"sqlite\"]
  backend_options:
    table_name: \"cq_state_pg\"
    connection: \"@@plugins.sqlite.connection\"
  spec:
    connection_string: ${CONNECTION_STRING}
---
kind: destination
spec:
  name: sqlite
  path: cloudquery/sqlite
  registry: cloudquery
  version: v2.7.4
  write_mode: append
  migrate_mode: safe
  pk_mode: default
  spec:
    connection_string: ./db.sqlite
",
    );
    session.secret("pa:s#s");
    assert_eq!(session.run("validate-config sync.yml"), 0);
    session.matches("config_cloudquery");
}

#[test]
fn a_secret_of_a_file_is_not_shown() {
    let mut session = Session::new();
    session.hidden_file(
        "sync.yml",
        b"kind: source\nspec:\n  name: a\n  path: postgresql\n  tables: ['*']\n  destinations: [copy]\n  spec:\n    connection_string: postgres://me:hunter2@localhost:port/db\n    password: [hunter2\n",
    );
    session.secret("hunter2");
    assert_eq!(session.run("sync sync.yml"), 2);
    session.matches("config_secret");
}

#[test]
fn flags_that_are_wrong() {
    let mut session = Session::new();
    for arguments in [
        "sync",
        "snyc shop.db copy.db",
        "sync shop.db",
        "sync shop.db copy.db other.db",
        "sync shop.db copy.db --write-mode upsert",
        "sync shop.db copy.db --lookback soon",
        "sync sync.yml --table orders",
        "sync sync.yml --name shop",
        "sync sync.yml --write-mode append",
        "sync oracle://me:hunter2@host/db copy.db",
    ] {
        assert_eq!(session.secret("hunter2").run(arguments), 2, "{arguments}");
    }
    session.matches("flags_wrong");
}

#[test]
fn a_mistyped_connection_string_is_not_repeated() {
    let mut session = Session::new();
    session.secret("SEKRET");
    for mistyped in [
        "postgres//u:SEKRET@127.0.0.1/x",
        "postgres//u:SEKRET@127.0.0.1/x.db",
        "postgres//u:SEKRET@127.0.0.1/x.yml",
        "postgres:/u:SEKRET@127.0.0.1/x",
        "postgress://u:SEK/SEKRET@127.0.0.1/x",
        "postgres://u:SEKRET/x@127.0.0.1/x",
        "hots=h password=SEKRET",
        "u:SEKRET/x",
    ] {
        for command in [
            vec!["sync", "i.db", mistyped],
            vec!["sync", mistyped, "o.db"],
            vec!["sync", mistyped],
            vec!["status", mistyped],
            vec!["init", "i.db", mistyped, "--yes"],
            vec![mistyped],
            vec!["sync", "./i.db", "o.db", "--write-mode", mistyped],
        ] {
            // Alone it may as well be a misspelt command.
            if !mistyped.contains(['@', '=']) && !command.contains(&"i.db") {
                continue;
            }
            let output =
                session.command(env!("CARGO_BIN_EXE_highwater")).args(&command).output().unwrap();
            assert_eq!(session.record(&command.join(" "), &output), 2, "{command:?}");
        }
    }
}

#[test]
fn a_connection_string_of_keys_and_values_is_postgresql() {
    let mut session = Session::new();
    let port = highwater_testkit::postgres::free_port();
    let output = session
        .command(env!("CARGO_BIN_EXE_highwater"))
        .args(["status", &format!("host=127.0.0.1 port={port} user=u password=SEKRET dbname=x")])
        .output()
        .unwrap();
    assert_eq!(session.secret("SEKRET").record("status", &output), 75);
}

#[test]
fn a_check_answers_in_json_also_when_it_fails() {
    let mut session = Session::new();
    session.file("sync.yml", "kind: source\nspec:\n  nmae: shop\n");
    assert_eq!(session.run("validate-config sync.yml --json"), 2);
    session.hidden_file("empty.yml", b"# nothing yet\n");
    assert_eq!(session.run("validate-config empty.yml"), 2);
    session.hidden_file("folder/notes.txt", b"");
    assert_eq!(session.run("validate-config folder"), 2);
    session.matches("config_check_json");
}
