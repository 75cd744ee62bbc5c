//! Mappings of a table's entry: what arrives, what does not, and what is refused.

use highwater_testkit::postgres::Postgres;

use crate::transcript::Session;

/// A sync of table `people` into `copy.db`, with these lines in its entry.
fn config(lines: &str) -> String {
    let lines = lines.trim_end().replace('\n', "\n      ");
    format!(
        "kind: source
spec:
  name: crm
  path: sqlite
  tables:
    - name: people
      {lines}
  destinations: [copy]
  spec:
    connection_string: crm.db
---
kind: destination
spec:
  name: copy
  path: sqlite
  write_mode: overwrite
  spec:
    connection_string: copy.db
"
    )
}

const PEOPLE: &str =
    "CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, ssn TEXT, country TEXT, changed INTEGER);
INSERT INTO people VALUES
  (1, 'ann@example.com', '078-05-1120', 'AT', 10),
  (2, 'bob@example.com', NULL, 'DE', 20),
  (3, 'cat@example.com', '219-09-9999', 'DE', 30),
  (4, NULL, '457-55-5462', NULL, 40);";

/// Whether a text stands anywhere in the files of the destination.
fn is_in_destination(session: &Session, text: &str) -> bool {
    ["copy.db", "copy.db-wal", "copy.db-journal"]
        .iter()
        .filter_map(|name| std::fs::read(session.path(name)).ok())
        .any(|bytes| bytes.windows(text.len()).any(|found| found == text.as_bytes()))
}

#[test]
fn every_mapping_on_the_way_to_a_final_table() {
    let mut session = Session::new();
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    session.variable("KEY", key).secret(key).sql("crm.db", PEOPLE).file(
        "sync.yml",
        &config(
            "write_mode: append-dedup
cursor: changed
mappings:
  - rename: {column: changed, to: version}
  - filter: {or: [{equal: {column: country, value: DE}}, {is_null: country}]}
  - hash: {column: email, method: SHA-256}
  - encrypt: {column: ssn, key: \"${KEY}\", to: number}
  - drop: country",
        ),
    );
    assert_eq!(session.run("validate-config sync.yml"), 0);
    assert_eq!(session.run("plan sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    let rows = "SELECT id, email_hashed, length(number), version FROM people ORDER BY id";
    session.query("copy.db", rows);
    session.sql(
        "crm.db",
        "UPDATE people SET email = 'bob@example.org', changed = 50 WHERE id = 2;
INSERT INTO people VALUES (5, 'eve@example.com', NULL, 'FR', 60);",
    );
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    session.query("copy.db", rows);
    session.query("copy.db", "SELECT count(*) FROM people_history");
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    for clear in ["example.com", "example.org", "078-05", "219-09-9999", "457-55-5462"] {
        assert!(!is_in_destination(&session, clear), "{clear}");
    }
    session.matches("mappings_all");
}

#[test]
fn a_mapper_failure_never_leaks_and_never_loses_a_row() {
    let mut session = Session::new();
    session.sql("crm.db", PEOPLE).file(
        "sync.yml",
        &config("cursor: id\nmappings:\n  - hash: {column: email, method: SHA-256}\n  - drop: ssn"),
    );
    // Every second value of the column.
    session.variable("HIGHWATER_FAIL_MAPPING", "email:2");
    assert_eq!(session.run("sync sync.yml --tasks 1"), 3);
    for clear in ["@example.com", "078-05", "219-09", "457-55"] {
        assert!(!is_in_destination(&session, clear), "{clear}");
    }
    assert!(is_in_destination(&session, "quarantine"), "the files are those of the destination");
    session.query("copy.db", "SELECT id, email_hashed FROM people ORDER BY id");
    session.query(
        "copy.db",
        "SELECT sync, source_table, generation, \"column\", reason, row FROM _highwater_quarantine",
    );
    assert_eq!(session.run("sync sync.yml --tasks 1"), 0);
    session.query("copy.db", "SELECT count(*) FROM _highwater_quarantine");
    session.sql(
        "crm.db",
        "INSERT INTO people (id, email) VALUES (5, 'dan@example.com'), (6, 'eve@example.com');",
    );
    assert_eq!(session.run("sync sync.yml --tasks 1 --json --log-format json"), 3);
    assert_eq!(session.run("state show sync.yml"), 0);
    session.matches("mappings_quarantine");
}

#[test]
fn the_quarantine_is_made_by_migrate_and_not_against_no_migrate() {
    let mut session = Session::new();
    session
        .sql("crm.db", PEOPLE)
        .file("sync.yml", &config("cursor: id\nmappings:\n  - hash: {column: email, method: MD5}"));
    session.sql(
        "copy.db",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, email_hashed TEXT, ssn TEXT, country TEXT, changed INTEGER);",
    );
    session.variable("HIGHWATER_FAIL_MAPPING", "email:2");
    assert_eq!(session.run("sync sync.yml --tasks 1 --no-migrate"), 1);
    assert_eq!(session.run("migrate sync.yml"), 0);
    assert_eq!(session.run("sync sync.yml --tasks 1 --no-migrate"), 3);
    session.query("copy.db", "SELECT source_table, row FROM _highwater_quarantine");
    session.matches("mappings_migrate");
}

/// Two tables, copied at once to two destinations: both have one quarantine for both tables.
#[test]
fn tables_share_the_quarantine_of_a_database_and_of_a_folder() {
    let database = Postgres::shared().create_database();
    let mut session = Session::new();
    for table in ["people", "members"] {
        session.sql("crm.db", &PEOPLE.replace("people", table));
    }
    let config = config("mappings: [{hash: {column: email, method: SHA-512}}, {drop: ssn}]")
        .replace("name: people", "name: \"*\"")
        .replace("[copy]", "[warehouse, folder]");
    let (source, _) = config.split_once("---").unwrap();
    let destinations = "---
kind: destination
spec: {name: warehouse, path: postgresql, write_mode: overwrite, spec: {connection_string: \"${TARGET}\"}}
---
kind: destination
spec: {name: folder, path: files, write_mode: append, spec: {path: out, format: json}}
";
    session.variable("TARGET", database.url()).variable("HIGHWATER_FAIL_MAPPING", "email");
    session.hidden_file("sync.yml", format!("{source}{destinations}").as_bytes());
    assert_eq!(session.run("sync sync.yml --tasks 4"), 3);
    let value = |query: &str| database.value(query).unwrap_or_default();
    // A row without an email has nothing that could fail.
    assert_eq!(value("SELECT string_agg(id::text, ',') FROM people"), "4");
    let quarantined = "SELECT string_agg(source_table || (row ->> 'id'), ',' ORDER BY source_table,
        row ->> 'id') FROM _highwater_quarantine WHERE sync = 'crm' AND \"column\" = 'email'";
    assert_eq!(value(quarantined), "members1,members2,members3,people1,people2,people3");
    let mut lines = Vec::new();
    let mut folders = vec![session.path("out")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("@example.com") && !text.contains("078-05"), "{path:?}");
            if path.to_string_lossy().contains("highwater_quarantine") {
                lines.extend(text.lines().map(str::to_owned));
            }
        }
    }
    assert_eq!(lines.len(), 6, "{lines:?}");
}

#[test]
fn mappings_that_cannot_be_done() {
    let mut session = Session::new();
    session.sql("crm.db", PEOPLE);
    session.secret("c0ffee");
    for lines in [
        "mappings: [{hash: {column: emial, method: SHA-256}}]",
        "mappings: [{drop: id}]",
        "mappings: [{encrypt: {column: id, key: 00112233445566778899aabbccddeeff}}]",
        "mappings: [{rename: {column: email, to: ssn}}]",
        "write_mode: append-dedup\ncursor: changed\nmappings: [{drop: changed}]",
        "cursor: changed\nmappings: [{hash: {column: changed, method: MD5}}]",
        "mappings:\n  - encrypt:\n      column: ssn\n      key: c0ffee",
        "mappings: [{encrypt: {column: ssn, key: c0ffee}}]",
        "mappings: [{hash: {column: email, method: MD6}}]",
        "mappings: [{hash: {column: email, method: MD5}, drop: ssn}]",
        "mappings: [{filter: {equals: {column: email, value: x}}}]",
        "mappings: [{filter: {equal: {column: changed, value: 5}}}]",
    ] {
        session.hidden_file("sync.yml", config(lines).as_bytes());
        assert_eq!(session.run("sync sync.yml --tasks 1"), 2, "{lines}");
    }
    assert!(!session.path("copy.db").exists(), "nothing was begun");
    session.matches("mappings_refused");
}
