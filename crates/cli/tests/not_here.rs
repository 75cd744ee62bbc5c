//! What is refused before anything runs, with the reason: commands and flags of CloudQuery that are
//! not here, and files that are not where they were said to be.

use crate::transcript::Session;

#[test]
fn commands_of_cloudquery_that_are_not_here_say_why() {
    let mut session = Session::new();
    for command in [
        "login",
        "logout",
        "switch team",
        "addon download x",
        "plugin publish ./dist",
        "plugin docs upload",
        "sync sync.yml --cq-columns-not-null",
        "lgoin",
    ] {
        assert_eq!(session.run(command), 2, "{command}");
    }
    session.matches("not_here");
}

#[test]
fn an_interrupted_conversation_has_nothing_to_resume() {
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)");
    assert_eq!(session.run("init shop.db copy.db --yes --resume-conversation"), 0);
}

#[test]
fn files_that_a_run_would_need_are_looked_for_before_it() {
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)");
    for flag in ["license none.lic", "summary-location a/b/s.jsonl", "tables-metrics-location a/m"]
    {
        assert_eq!(session.run(&format!("sync shop.db copy.db --{flag}")), 2, "{flag}");
    }
    assert!(!session.path("a").exists() && !session.path("copy.db").exists());
    std::fs::create_dir(session.path("a")).unwrap();
    assert_eq!(session.run("sync shop.db copy.db --name shop --summary-location a/s.jsonl"), 0);
    assert!(session.path("a/s.jsonl").exists());
    session.matches("files_not_there");
}

#[test]
fn a_placeholder_of_a_group_is_a_known_one() {
    let mut session = Session::new();
    let text = "kind: source
spec: {name: shop, path: sqlite, tables: [t], destinations: [copy], spec: {connection_string: s.db}}
---
kind: destination
spec:
  name: copy
  path: sqlite
  write_mode: append
  sync_group_id: \"{{YEAR}}-{{WEEK}}\"
  spec: {connection_string: copy.db}
";
    session.file("sync.yml", text);
    assert_eq!(session.run("sync sync.yml"), 2);
    assert!(!session.path("copy.db").exists());
    session.matches("unknown_placeholder");
}
