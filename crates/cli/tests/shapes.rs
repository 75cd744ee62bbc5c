//! Tables of unusual shapes and names: from PostgreSQL into PostgreSQL, SQLite and Parquet. Every
//! value arrives, or a clear error says why not.

use highwater_testkit::crash::{Ended, Program};
use highwater_testkit::postgres::{Database, Postgres};
use rusqlite::Connection;
use tempfile::TempDir;

/// A source, a destination, and a folder for files.
struct Place {
    source: Database,
    destination: Database,
    folder: TempDir,
}

impl Place {
    fn new(statements: &str) -> Self {
        let (source, destination) =
            (Postgres::shared().create_database(), Postgres::shared().create_database());
        source.execute(statements);
        Self { source, destination, folder: TempDir::new().unwrap() }
    }

    fn sync(&self, destination: &str, more: &[&str]) -> Ended {
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), self.folder.path());
        let mut arguments = vec!["sync", self.source.url(), destination, "--name", "shapes"];
        arguments.extend(more);
        program.run(&arguments.into_iter().map(str::to_owned).collect::<Vec<_>>())
    }

    /// Syncs into PostgreSQL and compares all values of a table, in the order of its columns.
    fn compare(&self, tables: &[&str], more: &[&str]) {
        self.sync(self.destination.url(), more).expect(0).unwrap();
        for table in tables {
            let query = format!("SELECT t::text FROM {table} t ORDER BY 1");
            let (there, here) = (self.source.rows(&query), self.destination.rows(&query));
            assert_eq!(there, here, "{table}");
            assert!(!there.is_empty(), "{table}: a test that shows nothing");
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn sqlite(&self, name: &str) -> Connection {
        Connection::open(self.folder.path().join(name)).unwrap()
    }
}

/// So many columns, the first one the key.
fn wide(columns: usize) -> String {
    let names: Vec<String> = (2..=columns).map(|n| format!("c{n} int")).collect();
    let values: Vec<String> = (2..=columns).map(|n| format!("i * {n}")).collect();
    format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {});
         INSERT INTO wide SELECT i, {} FROM generate_series(1, 20) i",
        names.join(", "),
        values.join(", ")
    )
}

/// PostgreSQL's own limit.
const COLUMNS_MAX: usize = 1600;

#[test]
fn as_many_columns_as_there_can_be() {
    let place = Place::new(&wide(COLUMNS_MAX));
    for mode in ["append", "replace"] {
        place.compare(&["wide"], &["--write-mode", mode]);
        place.destination.execute("DROP TABLE wide; DROP SCHEMA _highwater CASCADE");
    }
    place.sync(&place.file("wide.db"), &["--write-mode", "append"]).expect(0).unwrap();
    let query = "SELECT count(*), sum(c2), sum(c1600) FROM wide";
    let sums = place.sqlite("wide.db").query_row(query, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    assert_eq!(sums.unwrap(), (20, 210 * 2, 210 * 1600));
}

#[test]
fn as_many_columns_as_there_can_be_are_merged_in_sqlite() {
    let place = Place::new(&wide(COLUMNS_MAX));
    for mode in ["overwrite", "append-dedup"] {
        let file = format!("{mode}.db");
        let more = ["--cursor", "c2", "--write-mode", mode];
        place.sync(&place.file(&file), &more).expect(0).unwrap();
        place.source.execute("UPDATE wide SET c2 = c2 + 1000, c1600 = 0 WHERE id < 5");
        place.sync(&place.file(&file), &more).expect(0).unwrap();
        let query = "SELECT count(*), sum(c2), sum(c1600) FROM wide";
        let there = place.source.rows(query).pop().unwrap();
        let here = place.sqlite(&file).query_row(query, [], |row| {
            (0..3).map(|at| row.get::<_, i64>(at).map(|sum| Some(sum.to_string()))).collect()
        });
        assert_eq!(here, Ok(there), "{mode}");
    }
}

#[test]
fn as_many_columns_as_there_can_be_are_merged() {
    let place = Place::new(&wide(COLUMNS_MAX));
    let keyed = ["--cursor", "c2", "--write-mode", "overwrite"];
    place.compare(&["wide"], &keyed);
    place.source.execute("UPDATE wide SET c2 = c2 + 1000 WHERE id < 5");
    // Staged rows have two columns more.
    let ended = place.sync(place.destination.url(), &keyed);
    if ended.code == Some(0) {
        place.compare(&["wide"], &keyed);
    } else {
        assert!(matches!(ended.code, Some(1 | 3)), "{ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("1600 columns"), "{said}");
    }
}

#[test]
fn no_columns_at_all() {
    let place = Place::new(
        "CREATE TABLE nothing (); CREATE TABLE others (id int PRIMARY KEY);
         INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
         INSERT INTO others VALUES (1)",
    );
    place.compare(&["nothing", "others"], &["--write-mode", "append"]);
    assert_eq!(place.destination.value("SELECT count(*) FROM nothing").as_deref(), Some("2"));
    // SQLite has no table without columns: that is said, and the other table is synced.
    for mode in ["append", "overwrite", "replace"] {
        let file = format!("{mode}.db");
        let ended = place.sync(&place.file(&file), &["--write-mode", mode]).expect(3).unwrap();
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("SQLite has no tables without columns"), "{said}");
        assert!(said.contains("skip_tables: [nothing]"), "{said}");
        let count =
            place.sqlite(&file).query_row("SELECT count(*) FROM others", [], |row| row.get(0));
        assert_eq!(count, Ok(1), "{mode}");
    }
}

/// Quotes, a letter outside of the basic plane, words that SQL has for itself, names that differ
/// only in case, and names as long as they can be that differ only at their end.
fn names() -> Vec<String> {
    let long = |end: char| format!("{}{end}", "n".repeat(62));
    let emoji = "🦀".repeat(15);
    let mut names: Vec<String> =
        ["we\"ird", "it's", "a b", "Order", "order", "ORDER", "select", "x.y"]
            .map(str::to_owned)
            .into();
    names.extend([long('1'), long('2'), format!("{emoji}abc"), "back\\slash".to_owned()]);
    names
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table of every name, with a column of every name.
fn named() -> String {
    let names = names();
    let columns: Vec<String> = names.iter().map(|name| format!("{} text", quoted(name))).collect();
    let values: Vec<String> =
        names.iter().map(|name| format!("'{}' || i", name.replace('\'', "''"))).collect();
    let tables = names.iter().enumerate().map(|(n, name)| {
        format!(
            "CREATE TABLE {0} (id int, {1}, PRIMARY KEY (id, {2}), plain text);
             INSERT INTO {0} SELECT i + {n} * 10, {3}, 'old' FROM generate_series(1, 3) i;",
            quoted(name),
            columns.join(", "),
            quoted(&names[n]),
            values.join(", "),
        )
    });
    tables.collect()
}

#[test]
fn names_of_every_kind_arrive_at_postgresql() {
    for mode in ["append", "overwrite", "replace"] {
        let place = Place::new(&named());
        let tables: Vec<String> = names().iter().map(|name| quoted(name)).collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let mut more = vec!["--tasks", "8", "--write-mode", mode];
        if mode == "overwrite" {
            more.extend(["--cursor", "id"]);
        }
        place.compare(&tables, &more);
        if more.contains(&"--cursor") {
            for table in &tables {
                place.source.execute(&format!("UPDATE {table} SET plain = 'new', id = id"));
            }
            place.compare(&tables, &more);
        }
    }
}

/// A transaction that has made a table with this name and a key, and goes on until somebody waits
/// for it.
fn waited_for(name: &str) -> String {
    format!(
        "DO $$ BEGIN
           EXECUTE 'CREATE TABLE {name} (id int, PRIMARY KEY (id))';
           PERFORM pg_advisory_xact_lock(4711);
           FOR glance IN 1..3000 LOOP
             IF EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted
                        AND transactionid = pg_current_xact_id()::xid) THEN RETURN; END IF;
             PERFORM pg_sleep(0.01);
           END LOOP;
           RAISE EXCEPTION 'nobody came';
         END $$"
    )
}

#[test]
fn names_that_the_server_chooses_may_be_taken_meanwhile() {
    for mode in ["append", "overwrite", "append-dedup", "replace"] {
        let place = Place::new(
            "CREATE TABLE short (id int PRIMARY KEY, at int); INSERT INTO short VALUES (1, 1), (2, 2)",
        );
        // The history of an append-dedup table has the long name.
        let (name, other) = match mode {
            "append-dedup" => ("n".repeat(55), format!("{}_histor1", "n".repeat(55))),
            _ => (format!("{}2", "n".repeat(62)), format!("{}1", "n".repeat(62))),
        };
        let (holder, holds) = (place.destination.clone(), waited_for(&other));
        let holding = std::thread::spawn(move || holder.execute(&holds));
        let held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                    WHERE d.datname = current_database() AND l.objid = 4711";
        while place.destination.value(held).as_deref() != Some("1") && !holding.is_finished() {
            std::thread::yield_now();
        }
        let more = ["--table", "short", "--target", &name, "--cursor", "at", "--write-mode", mode];
        place.sync(place.destination.url(), &more).expect(0).unwrap();
        holding.join().unwrap();
        let count = format!("SELECT count(*) FROM {name}");
        assert_eq!(place.destination.value(&count).as_deref(), Some("2"), "{mode}");
    }
}

#[test]
fn a_name_without_room_for_that_of_its_history_is_refused() {
    let place = Place::new(&named());
    let dedup = ["--cursor", "id", "--write-mode", "append-dedup"];
    let ended = place.sync(place.destination.url(), &dedup).expect(2).unwrap();
    assert!(ended.stderr.contains("too long") && ended.stderr.contains("hint: "), "{ended:?}");
    assert_eq!(
        place
            .destination
            .value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .as_deref(),
        Some("0")
    );
}

#[test]
fn names_that_sqlite_cannot_tell_apart_are_refused_and_the_others_arrive() {
    let place = Place::new(
        "CREATE TABLE \"we\"\"ird 🦀\" (id int PRIMARY KEY, \"select\" text, \"it's\" text);
         INSERT INTO \"we\"\"ird 🦀\" VALUES (1, 'a', 'b');
         CREATE TABLE cased (id int PRIMARY KEY, \"Name\" text, name text);
         INSERT INTO cased VALUES (1, 'a', 'b')",
    );
    let ended = place.sync(&place.file("names.db"), &[]);
    assert!(matches!(ended.code, Some(2..=4)), "{ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.to_lowercase().contains("name") && said.contains("cased"), "{said}");
    // Without the one that cannot be: all values.
    place.sync(&place.file("names.db"), &["--table", "we\"ird 🦀"]).expect(0).unwrap();
    let query = "SELECT id, \"select\", \"it's\" FROM \"we\"\"ird 🦀\"";
    let row = place.sqlite("names.db").query_row(query, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    });
    assert_eq!(row.unwrap(), (1, "a".to_owned(), "b".to_owned()));
}

#[test]
fn shapes_and_names_arrive_in_parquet() {
    let place = Place::new(&format!("{}; {}", wide(COLUMNS_MAX), named()));
    let config = format!(
        "kind: source\nspec:\n  name: shapes\n  path: postgresql\n  tables: [\"*\"]\n  \
         destinations: [files]\n  spec: {{connection_string: \"{}\"}}\n---\nkind: destination\n\
         spec:\n  name: files\n  path: file\n  write_mode: append\n  spec: {{path: \"{}\", format: parquet}}\n",
        place.source.url(),
        place.file("out"),
    );
    std::fs::write(place.folder.path().join("sync.yml"), config).unwrap();
    let program = Program::new(env!("CARGO_BIN_EXE_highwater"), place.folder.path());
    let arguments = ["sync", "sync.yml", "--json"].map(str::to_owned);
    let ended = program.run(&arguments).expect(0).unwrap();
    assert_eq!(ended.sum("rows_written"), 20 + 3 * names().len() as u64);
}
