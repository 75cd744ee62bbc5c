//! The first read of a table goes in rounds. Interrupted anywhere, while transactions go on, it
//! loses nothing and sends no row version twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Completion, Connector, CursorKey, Error, ErrorKind, Message, Output, Plan, ReadMode, Result,
    Source, State, TableName, WriteMode,
};
use highwater_postgres::PostgresConnector;
use highwater_testkit::postgres::Database;
use serde_json::{Value, json};

use crate::server::{Open, Sent, database, error, plan, plan_of, table};

/// Rows that fill a page by sevens.
const MAKE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int, at timestamptz DEFAULT now(), pad text)
      WITH (autovacuum_enabled = off);
    ALTER TABLE t ALTER pad SET STORAGE PLAIN;
    INSERT INTO t SELECT i, 0, now(), repeat('x', 1000) FROM generate_series(1, 100) AS i";

/// A destination that commits at checkpoints, over runs that may be interrupted.
struct Load {
    source: Box<dyn Source>,
    plan: Plan,
    state: State,
    /// Every row that was committed: `id|v`.
    added: Vec<String>,
    /// By id the row that was committed last.
    latest: BTreeMap<String, String>,
    notes: Vec<String>,
}

fn name() -> TableName {
    TableName::new("t")
}

impl Load {
    async fn new(url: &str, pace: Value, cursor: Option<&str>) -> Self {
        let mut spec = json!({"connection_string": url});
        spec.as_object_mut().unwrap().extend(pace.as_object().unwrap().clone());
        let source = PostgresConnector.source(spec).await.unwrap();
        let mut table = table(source.as_ref(), "t").await;
        table.schema = Arc::new(table.schema.project(&[0, 1]).unwrap());
        let plan = plan(vec![plan_of(table, cursor)]);
        let (state, added, latest) = (State::default(), Vec::new(), BTreeMap::new());
        Self { source, plan, state, added, latest, notes: Vec::new() }
    }

    /// As many pages per round, and as many readers.
    async fn of(database: &Database, pages: u32, readers: u8) -> Self {
        let pace = json!({"commit_every_pages": pages, "readers": readers});
        Self::new(database.url(), pace, Some("at")).await
    }

    fn mode(mut self, mode: WriteMode) -> Self {
        self.plan.tables.values_mut().next().unwrap().write_mode = mode;
        self
    }

    fn take(&mut self, rows: &mut Vec<arrow_array::RecordBatch>) -> usize {
        let sent = Sent { batches: std::mem::take(rows), completion: Completion::Complete };
        let rows = sent.rows();
        for row in &rows {
            let id = row.split('|').next().unwrap().to_owned();
            self.latest.insert(id, row.clone());
        }
        self.added.extend(rows.iter().cloned());
        rows.len()
    }

    /// Reads until so many checkpoints were committed, or to the end. Returns how many rows each
    /// of them covered.
    async fn run(&mut self, checkpoints: usize) -> Result<Vec<usize>> {
        let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
        let partitions = self.source.partitions(&self.plan, &self.state).await?;
        let (mut batches, mut covered, mut cursors) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut notes = Vec::new();
        let collect = async {
            let mut pending = Vec::new();
            while covered.len() < checkpoints {
                match messages.recv().await {
                    Some(Message::Batch(batch)) => pending.push(batch.rows),
                    Some(Message::Checkpoint(checkpoint)) => {
                        covered.push(pending.len());
                        batches.append(&mut pending);
                        cursors.extend(checkpoint.cursors);
                    }
                    Some(Message::Note { text, .. }) => notes.push(text),
                    Some(other) => panic!("{other:?}"),
                    None => break,
                }
            }
            drop(messages);
        };
        let read = self.source.read(&self.plan, &partitions[0], &self.state, output);
        let (ended, ()) = tokio::join!(read, collect);
        tokio::task::yield_now().await;
        self.notes.extend(notes);
        let mut batches = batches.into_iter();
        let counts = covered
            .into_iter()
            .map(|count| self.take(&mut batches.by_ref().take(count).collect()))
            .collect();
        self.state.cursors.extend(cursors);
        match ended {
            Ok(Completion::Complete) => {
                // As the end of a table does.
                self.state.cursors.remove(&self.progress_key());
                Ok(counts)
            }
            Ok(Completion::Stopped) => panic!("nobody asked it to stop"),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(counts),
            Err(error) => Err(error),
        }
    }

    async fn complete(&mut self) -> Vec<usize> {
        let counts = self.run(usize::MAX).await.unwrap();
        assert!(self.state.cursors.contains_key(&CursorKey::Table(name())));
        counts
    }

    fn progress_key(&self) -> CursorKey {
        CursorKey::Partition(name(), FULL_REFRESH.to_owned())
    }

    fn progress(&mut self) -> &mut Value {
        let key = self.progress_key();
        &mut self.state.cursors.get_mut(&key).expect("an unfinished read").0
    }

    /// Each row version that there is was delivered, none twice, and by the key the last one wins.
    fn check(&self, database: &Database) {
        let mut seen = BTreeSet::new();
        let twice: Vec<_> = self.added.iter().filter(|row| !seen.insert(*row)).collect();
        assert_eq!(twice, [""; 0], "delivered twice");
        for row in rows(database) {
            assert!(seen.contains(&row), "{row} was not delivered");
            let id = row.split('|').next().unwrap();
            assert_eq!(self.latest.get(id), Some(&row), "overwritten by an older version");
        }
    }
}

fn rows(database: &Database) -> Vec<String> {
    let rows = database.rows("SELECT id || '|' || v FROM t ORDER BY 1");
    rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
}

fn made() -> Database {
    let database = database();
    database.execute(MAKE);
    database
}

/// Changes in all pages: updates, new rows, rows that go, and room that is used again.
fn change(database: &Database, round: usize) {
    database.execute(&format!(
        "UPDATE t SET v = v + 1, at = now() WHERE id % 9 = {round} % 9;
         DELETE FROM t WHERE id % 13 = {round} % 13;"
    ));
    database.execute("VACUUM t");
    database.execute(&format!(
        "UPDATE t SET v = v + 1, at = now() WHERE id % 11 = {round} % 11;
         INSERT INTO t SELECT {round} * 1000 + i, 0, now(), repeat('y', 1000)
           FROM generate_series(1, 12) AS i;"
    ));
}

#[tokio::test]
async fn a_first_read_is_committed_in_rounds() {
    let database = made();
    for (pages, readers, rounds) in [(4, 1, 4), (4, 3, 4), (100, 2, 1)] {
        let mut load = Load::of(&database, pages, readers).await;
        let counts = load.complete().await;
        assert_eq!(counts.len(), rounds, "{pages} pages");
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        load.check(&database);
        assert_eq!(load.run(usize::MAX).await.unwrap(), [0], "then it is read incrementally");
        database.execute("UPDATE t SET v = v + 1, at = now() WHERE id IN (1, 100)");
        assert_eq!(load.run(usize::MAX).await.unwrap(), [2]);
        load.check(&database);
        database.execute("TRUNCATE t");
        database.execute(
            "INSERT INTO t SELECT i, 0, now(), repeat('x', 1000) FROM generate_series(1, 100) AS i",
        );
    }
}

#[tokio::test]
async fn an_interrupted_read_goes_on_from_every_round() {
    for interrupted_after in 1..=5 {
        for readers in [1, 3] {
            let database = made();
            let mut load = Load::of(&database, 3, readers).await;
            let counts = load.run(interrupted_after).await.unwrap();
            assert_eq!(counts.len(), interrupted_after);
            change(&database, 1);
            let counts = load.complete().await;
            assert!(counts.iter().sum::<usize>() < 100, "{counts:?}: not from the beginning");
            load.check(&database);
            change(&database, 2);
            assert_eq!(load.complete().await.len(), 1);
            load.check(&database);
        }
    }
}

#[tokio::test]
async fn a_read_that_is_interrupted_again_and_again_comes_to_its_end() {
    let database = made();
    let mut load = Load::of(&database, 2, 2).await;
    let mut runs = 0;
    while !load.state.cursors.contains_key(&CursorKey::Table(name())) {
        runs += 1;
        assert!(runs < 40, "it does not come to its end");
        // The first checkpoint of a run that goes on brings what is new in the pages before.
        load.run(if runs == 1 { 1 } else { 2 }).await.unwrap();
        change(&database, runs);
    }
    assert!(runs > 4, "{runs} runs");
    load.complete().await;
    load.check(&database);
}

#[tokio::test]
async fn an_interruption_before_the_first_round_of_a_run_repeats_nothing() {
    let database = made();
    let mut load = Load::of(&database, 3, 1).await;
    load.run(2).await.unwrap();
    let before = load.progress().clone();
    change(&database, 1);
    load.run(0).await.unwrap();
    assert_eq!(*load.progress(), before);
    change(&database, 2);
    // Only what was new in the pages before.
    load.run(1).await.unwrap();
    assert_eq!(load.progress()["pages"], before["pages"]);
    assert_ne!(*load.progress(), before);
    load.complete().await;
    load.check(&database);
}

#[tokio::test]
async fn transactions_that_were_open_meanwhile_arrive_once() {
    let database = made();
    let (late, saved) = (Open::new(&database).await, Open::new(&database).await);
    late.run("BEGIN; UPDATE t SET v = 10, at = now() WHERE id IN (3, 98)").await;
    database.execute(
        "BEGIN; UPDATE t SET v = 20, at = now() WHERE id IN (4, 97);
         INSERT INTO t VALUES (201, 0, now(), ''); PREPARE TRANSACTION 'first_load'",
    );
    let mut load = Load::of(&database, 3, 2).await;
    // Newer than the oldest open transaction, and read in the first round.
    database.execute("UPDATE t SET v = 5, at = now() WHERE id IN (1, 99)");
    load.run(1).await.unwrap();
    late.run("COMMIT").await;
    saved
        .run(
            "BEGIN; UPDATE t SET v = 30, at = now() WHERE id = 5; SAVEPOINT a;
             UPDATE t SET v = 31, at = now() WHERE id IN (6, 96); RELEASE a",
        )
        .await;
    load.run(2).await.unwrap();
    saved.run("COMMIT").await;
    load.run(2).await.unwrap();
    database.execute("COMMIT PREPARED 'first_load'");
    load.complete().await;
    load.check(&database);
    assert_eq!(load.complete().await, [0]);
    let late = Open::new(&database).await;
    late.run("BEGIN; UPDATE t SET v = 40, at = now() WHERE id IN (7, 95)").await;
    assert_eq!(load.complete().await, [0]);
    late.run("COMMIT").await;
    assert_eq!(load.complete().await, [2]);
    load.check(&database);
}

#[tokio::test]
async fn a_row_that_lies_about_its_time_is_found_when_the_read_goes_on() {
    let database = made();
    let mut load = Load::of(&database, 3, 1).await;
    load.run(3).await.unwrap();
    database.execute("UPDATE t SET v = 1, at = '2000-01-01' WHERE id = 2");
    load.complete().await;
    load.check(&database);
}

#[tokio::test]
async fn a_table_that_was_rewritten_meanwhile_is_not_added_again() {
    for rewrite in ["VACUUM FULL t", "TRUNCATE t", "ALTER TABLE t SET UNLOGGED"] {
        let database = made();
        let mut load = Load::of(&database, 3, 1).await;
        load.run(2).await.unwrap();
        database.execute(rewrite);
        database.execute("INSERT INTO t VALUES (200, 0, now(), '')");
        let refused = error(load.run(usize::MAX).await);
        assert_eq!(refused.kind(), ErrorKind::Schema, "{rewrite}");
        assert!(refused.hint_text().unwrap().contains("state reset"), "{refused:?}");
        // Matched by their key, all rows may come again.
        let mut load = load.mode(WriteMode::Overwrite);
        let all = rows(&database).len();
        assert_eq!(load.complete().await.iter().sum::<usize>(), all);
        assert!(load.notes[0].contains("from the beginning"), "{:?}", load.notes);
        for row in rows(&database) {
            assert_eq!(load.latest[row.split('|').next().unwrap()], row);
        }
        assert_eq!(load.complete().await, [0]);
    }
}

const PARTITIONED: &str = "
    CREATE TABLE t (id int, v int, at timestamptz DEFAULT now(), pad text) PARTITION BY RANGE (id);
    CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (70);
    CREATE TABLE b PARTITION OF t FOR VALUES FROM (70) TO (100);
    CREATE TABLE c (pad text, at timestamptz DEFAULT now(), v int, id int);
    ALTER TABLE a ALTER pad SET STORAGE PLAIN; ALTER TABLE b ALTER pad SET STORAGE PLAIN;
    INSERT INTO t SELECT i, 0, now(), repeat('x', 1000) FROM generate_series(1, 99) AS i;
    INSERT INTO c SELECT repeat('x', 1000), now(), 0, i FROM generate_series(100, 130) AS i";

#[tokio::test]
async fn partitions_are_read_once_also_when_they_come_and_go_meanwhile() {
    for interrupted_after in 1..=3 {
        let database = database();
        database.execute(PARTITIONED);
        let mut load = Load::of(&database, 3, 2).await;
        let counts = load.run(interrupted_after).await.unwrap();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        database.execute("ALTER TABLE t ATTACH PARTITION c FOR VALUES FROM (100) TO (200)");
        database.execute("UPDATE t SET v = v + 1, at = now() WHERE id % 10 = 3");
        if interrupted_after == 2 {
            database.execute("ALTER TABLE t DETACH PARTITION b");
        }
        let counts = load.run(2).await.unwrap();
        assert_eq!(counts.len(), 2);
        database.execute("UPDATE t SET v = v + 1, at = now() WHERE id % 10 = 4");
        load.complete().await;
        load.check(&database);
        database.execute("UPDATE t SET v = v + 1, at = now() WHERE id IN (1, 101)");
        assert_eq!(load.complete().await, [2]);
        load.check(&database);
    }
}

#[tokio::test]
async fn a_partition_that_was_rewritten_meanwhile_is_not_added_again() {
    let database = database();
    database.execute(PARTITIONED);
    let mut load = Load::of(&database, 3, 1).await;
    load.run(1).await.unwrap();
    database.execute("VACUUM FULL b");
    assert_eq!(error(load.run(usize::MAX).await).kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn a_materialized_view_that_was_refreshed_meanwhile_is_read_from_the_beginning() {
    let database = database();
    database.execute(&MAKE.replace("TABLE t", "TABLE base").replace("INTO t", "INTO base"));
    database.execute("CREATE MATERIALIZED VIEW t AS SELECT id, v, at, pad FROM base");
    let mut load = Load::of(&database, 3, 1).await;
    load.run(2).await.unwrap();
    assert!(load.complete().await.iter().sum::<usize>() < 90, "it goes on");
    let mut load = Load::of(&database, 3, 1).await;
    load.run(2).await.unwrap();
    database.execute("REFRESH MATERIALIZED VIEW t");
    assert_eq!(load.complete().await.iter().sum::<usize>(), 100);
    assert!(!load.notes.is_empty());
}

#[tokio::test]
async fn another_table_or_unknown_progress_is_refused() {
    let database = made();
    let mut load = Load::of(&database, 3, 1).await;
    load.run(2).await.unwrap();
    let progress = load.progress().clone();
    load.progress()["kind"] = json!("of another version");
    assert_eq!(error(load.run(usize::MAX).await).kind(), ErrorKind::Config);
    *load.progress() = progress;
    database.execute("DROP TABLE t");
    database.execute(MAKE);
    let refused: Error = error(load.run(usize::MAX).await);
    assert_eq!(refused.kind(), ErrorKind::Schema);
    assert!(refused.hint_text().unwrap().contains("state reset"));
}

#[tokio::test]
async fn what_is_still_to_be_read_cannot_be_taken_away() {
    let database = made();
    let load = Load::of(&database, 1, 1).await;
    let (output, mut messages) = Output::bounded(1, Arc::new(AtomicBool::new(false)));
    let partitions = load.source.partitions(&load.plan, &load.state).await.unwrap();
    let look = async {
        assert!(matches!(messages.recv().await, Some(Message::Batch(_))));
        let refused = database.try_execute("BEGIN; LOCK TABLE t NOWAIT; COMMIT");
        drop(messages);
        refused
    };
    let read = load.source.read(&load.plan, &partitions[0], &load.state, output);
    let (ended, refused) = tokio::join!(read, look);
    assert_eq!(error(ended).kind(), ErrorKind::Interrupted);
    assert!(refused.is_err(), "the table can be emptied between two rounds");
}

#[tokio::test]
async fn a_sweep_has_one_commit() {
    let database = made();
    let mut load = Load::of(&database, 3, 2).await.mode(WriteMode::Overwrite);
    load.plan.tables.values_mut().next().unwrap().sweep = true;
    assert_eq!(load.complete().await, [100]);
}

#[tokio::test]
async fn a_full_refresh_is_read_by_several_at_once() {
    for make in [MAKE, PARTITIONED] {
        let database = database();
        database.execute(make);
        let pace = json!({"commit_every_pages": 4, "readers": 3});
        let mut load = Load::new(database.url(), pace, None).await;
        assert_eq!(load.plan.tables[&name()].read_mode, ReadMode::FullRefresh);
        // It has no checkpoint; the rows are looked at here.
        let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
        let partitions = load.source.partitions(&load.plan, &load.state).await.unwrap();
        let collect = async {
            let mut batches = Vec::new();
            while let Some(message) = messages.recv().await {
                let Message::Batch(batch) = message else { panic!("{message:?}") };
                batches.push(batch.rows);
            }
            batches
        };
        let read = load.source.read(&load.plan, &partitions[0], &load.state, output);
        let (ended, mut batches) = tokio::join!(read, collect);
        assert_eq!(ended.unwrap(), Completion::Complete);
        assert!(batches.len() > 3, "one batch for each piece at least");
        load.take(&mut batches);
        load.check(&database);
    }
}

#[tokio::test]
async fn fewer_read_where_the_server_takes_no_more_sessions() {
    let database = made();
    let role = format!("lonely_{}", database.name());
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN CONNECTION LIMIT 1; GRANT SELECT ON t TO {role}"
    ));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let pace = json!({"commit_every_pages": 4, "readers": 3});
    let mut load = Load::new(&url, pace, Some("at")).await;
    assert_eq!(load.complete().await.iter().sum::<usize>(), 100);
    load.check(&database);
}
