//! What a sync of PostgreSQL by a cursor sees: rows that changed without the cursor, and what `plan`
//! says of a role that may not see everything.

use highwater_testkit::crash::Program;
use highwater_testkit::postgres::{Database, Postgres};
use tempfile::TempDir;

/// A source, a copy, and a folder with the document.
struct Shop {
    source: Database,
    copy: Database,
    folder: TempDir,
}

impl Shop {
    fn new() -> Self {
        let shop = Self {
            source: Postgres::shared().create_database(),
            copy: Postgres::shared().create_database(),
            folder: TempDir::new().unwrap(),
        };
        shop.source.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, state text, at timestamp NOT NULL);
             INSERT INTO orders SELECT i, 'new', '2026-01-01'::timestamp + i * interval '1 s'
             FROM generate_series(1, 1000) i",
        );
        shop
    }

    /// Syncs; how many rows were read and written.
    fn sync(&self, entry: &str, mode: &str) -> (u64, u64) {
        let document = format!(
            "kind: source\nspec:\n  name: shop\n  path: postgresql\n  tables: [{entry}]\n  \
             destinations: [copy]\n  spec: {{connection_string: '{}'}}\n---\n\
             kind: destination\nspec:\n  name: copy\n  path: postgresql\n  write_mode: {mode}\n  \
             spec: {{connection_string: '{}'}}\n",
            self.source.url(),
            self.copy.url(),
        );
        std::fs::write(self.folder.path().join("sync.yml"), document).unwrap();
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), self.folder.path());
        let ended = program.run(&["sync", "sync.yml", "--json"].map(str::to_owned));
        let ended = ended.expect(0).unwrap();
        (ended.sum("rows_read"), ended.sum("rows_written"))
    }

    fn assert_same(&self, mode: &str) {
        let query = "SELECT id::text, state, at::text FROM orders ORDER BY id";
        assert_eq!(self.copy.rows(query), self.source.rows(query), "{mode}");
    }
}

#[test]
fn a_row_that_changes_without_its_cursor_is_found_by_a_sweep() {
    const CURSOR: &str = "{name: orders, cursor: at}";
    const SWEEP: &str = "{name: orders, cursor: at, sweep: true}";
    for mode in ["overwrite", "append-dedup"] {
        let shop = Shop::new();
        assert_eq!(shop.sync(CURSOR, mode), (1000, 1000));
        // Its cursor stays where it is, long before the last sync.
        shop.source.execute("UPDATE orders SET state = 'paid' WHERE id = 500");
        let before = shop.copy.rows("SELECT id, xmin FROM orders WHERE id <> 500 ORDER BY id");
        assert_eq!(shop.sync(SWEEP, mode), (1000, 1), "{mode}");
        shop.assert_same(mode);
        let after = shop.copy.rows("SELECT id, xmin FROM orders WHERE id <> 500 ORDER BY id");
        assert_eq!(before, after, "{mode}: rows that did not change were written");
        // And so every time.
        shop.source.execute("UPDATE orders SET state = 'sent' WHERE id = 7");
        assert_eq!(shop.sync(SWEEP, mode), (1000, 1), "{mode}");
        shop.assert_same(mode);
        if mode == "append-dedup" {
            let versions = "SELECT state FROM orders_history WHERE id = 7 ORDER BY _highwater_seq";
            let expected = [Some("new".to_owned()), Some("sent".to_owned())];
            assert_eq!(shop.copy.rows(versions).concat(), expected);
        }
    }
}

#[test]
fn a_plan_tells_that_the_role_may_not_see_other_sessions() {
    let shop = Shop::new();
    let role = format!("reader_{}", shop.source.name());
    shop.source.execute(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON orders TO {role}"));
    let url = shop.source.url().replace("postgres@", &format!("{role}@"));
    // Somebody else's session, whose transaction the role cannot see.
    let somebody = shop.source.clone();
    let somebody = std::thread::spawn(move || {
        somebody.execute(
            "DO $$ BEGIN FOR glance IN 1..2500 LOOP
               EXIT WHEN to_regclass('enough') IS NOT NULL;
               PERFORM pg_sleep(0.01);
             END LOOP; END $$",
        );
    });
    let there = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND query LIKE 'DO %'";
    while shop.source.value(there).as_deref() != Some("1") && !somebody.is_finished() {
        std::thread::yield_now();
    }
    let program = Program::new(env!("CARGO_BIN_EXE_highwater"), shop.folder.path());
    let plan = |source: &str| {
        let copy = shop.copy.url();
        let arguments = ["plan", source, copy, "--table", "orders", "--cursor", "at"];
        program.run(&arguments.map(str::to_owned)).expect(0).unwrap().stdout
    };
    let note = "`GRANT pg_read_all_stats` to it";
    let said = plan(&url);
    assert!(said.contains(note) && said.contains("every sync scans the whole table"), "{said}");
    shop.source.execute(&format!("GRANT pg_read_all_stats TO {role}"));
    let said = plan(&url);
    assert!(said.contains("orders") && !said.contains("pg_read_all_stats"), "{said}");
    shop.source.execute("CREATE TABLE enough ()");
    somebody.join().unwrap();
}
