//! A table whose first read is committed in rounds gets its key with the last of them.

use highwater_core::state::FULL_REFRESH;
use highwater_core::{Checkpoint, Committed, CursorKey, ReadMode, SchemaChange, WriteMode, Writer};
use highwater_testkit::job::{Change, Job, Run, delete, sync, total, upsert, visible};
use highwater_testkit::postgres::Database;
use highwater_testkit::rows::assert_same;
use highwater_testkit::tables::{item, item_table, items, loose_item_table};
use serde_json::json;

use crate::server::database;
use crate::suites::System;

struct Bench {
    database: Database,
    system: System,
    job: Job,
}

impl Bench {
    fn new(mode: WriteMode) -> Self {
        let database = database();
        let system = System::at(&database, database.url().to_owned());
        let job = Job::new(item_table("items"), mode).by_cursor("updated_at");
        Self { database, system, job }
    }

    async fn run(&self) -> Run {
        Run::open(&self.system, &self.job).await
    }

    fn row(&self, id: i64, value: &'static str) -> Change {
        upsert(&items(&self.job.table, &[item(id, value, 1)]))
    }

    fn has_key(&self) -> bool {
        let count =
            "SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass AND indisunique";
        self.database.value(count).unwrap() == "1"
    }

    fn comment(&self) -> Option<String> {
        self.database.value("SELECT obj_description('items'::regclass, 'pg_class')")
    }

    /// Two runs that died in a round each, of which the second has sent a row again.
    async fn interrupted() -> Self {
        let bench = Self::new(WriteMode::Overwrite);
        let run = bench.run().await;
        let rows = [bench.row(1, "a"), bench.row(2, "a")];
        round(&run, &mut run.writer().await, &rows, 1).await;
        run.release().await;
        let run = bench.run().await;
        round(&run, &mut run.writer().await, &[bench.row(2, "b")], 1).await;
        run.release().await;
        assert_eq!(bench.count(), 3);
        assert!(bench.comment().is_some());
        bench
    }

    /// As it is for a run that knows nothing of the earlier ones.
    fn forgotten(mut self, mode: WriteMode) -> Self {
        self.job = Job::new(item_table("items"), mode).by_cursor("updated_at").of_sync("another");
        self
    }

    fn count(&self) -> u64 {
        self.database.value("SELECT count(*) FROM items").unwrap().parse().unwrap()
    }
}

/// Commits rows at a position inside of the first read.
async fn round(run: &Run, writer: &mut Box<dyn Writer>, rows: &[Change], at: i64) -> Committed {
    let key = CursorKey::Partition(run.table().name().clone(), FULL_REFRESH.to_owned());
    commit(run, writer, rows, &Checkpoint::of(key, json!(at))).await
}

/// Commits the last rows of the first read.
async fn last(run: &Run, writer: &mut Box<dyn Writer>, rows: &[Change]) -> Committed {
    commit(run, writer, rows, &run.checkpoint(9)).await
}

async fn commit(
    run: &Run,
    writer: &mut Box<dyn Writer>,
    rows: &[Change],
    checkpoint: &Checkpoint,
) -> Committed {
    for Change(op, rows) in rows {
        writer.write(run.batch(*op, rows)).await.unwrap();
    }
    let committed = writer.commit(checkpoint).await;
    total(&committed.unwrap_or_else(|e| panic!("{}", e.full_message())))
}

#[tokio::test]
async fn the_key_comes_with_the_last_commit() {
    let bench = Bench::new(WriteMode::Overwrite);
    let run = bench.run().await;
    let mut writer = run.writer().await;
    for id in 1..=2 {
        let committed = round(&run, &mut writer, &[bench.row(id, "a")], id).await;
        assert_eq!(committed.written, 1);
        assert!(!bench.has_key(), "the rows of later rounds are only added");
    }
    assert!(bench.comment().is_some_and(|comment| comment.starts_with("highwater: ")));
    last(&run, &mut writer, &[bench.row(3, "a")]).await;
    assert!(bench.has_key());
    assert_eq!(bench.comment(), None);
    run.finish().await;
    run.release().await;
    // From now on rows are merged.
    sync(&bench.system, &bench.job, &[bench.row(2, "b"), bench.row(4, "b")]).await;
    let rows = [item(1, "a", 1), item(2, "b", 1), item(3, "a", 1), item(4, "b", 1)];
    assert_same(&visible(&bench.system, &bench.job).await, &[items(&bench.job.table, &rows)]);
}

#[tokio::test]
async fn rows_that_came_again_are_folded_when_the_key_is_made() {
    let bench = Bench::new(WriteMode::Overwrite);
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(1, "a"), bench.row(2, "a")], 1).await;
    round(&run, &mut writer, &[bench.row(3, "a")], 2).await;
    drop(writer);
    run.release().await;
    // It was interrupted, and rows that were delivered have changed.
    let run = bench.run().await;
    assert!(run.table().resumes_first_read);
    assert_eq!(run.table().changes, [SchemaChange::AddKey]);
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(2, "b")], 2).await;
    round(&run, &mut writer, &[bench.row(4, "b")], 3).await;
    assert!(!bench.has_key());
    assert_eq!(bench.count(), 5, "both versions are there");
    drop(writer);
    run.release().await;
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(2, "c"), bench.row(1, "c")], 3).await;
    let committed = last(&run, &mut writer, &[bench.row(5, "c")]).await;
    assert!(bench.has_key());
    assert_eq!(committed.unchanged, 3, "{committed:?}");
    run.finish().await;
    run.release().await;
    let rows =
        [item(1, "c", 1), item(2, "c", 1), item(3, "a", 1), item(4, "b", 1), item(5, "c", 1)];
    assert_same(&visible(&bench.system, &bench.job).await, &[items(&bench.job.table, &rows)]);
}

#[tokio::test]
async fn a_full_refresh_in_rounds_has_its_key_from_the_beginning() {
    let mut bench = Bench::new(WriteMode::Overwrite);
    bench.job.read_mode = ReadMode::FullRefresh;
    let run = bench.run().await;
    let mut writer = run.writer().await;
    // Nothing tells its last round from the others.
    round(&run, &mut writer, &[bench.row(1, "a"), bench.row(2, "a")], 1).await;
    round(&run, &mut writer, &[bench.row(1, "b"), bench.row(3, "b")], 2).await;
    run.finish().await;
    run.release().await;
    assert!(bench.has_key());
    let rows = [item(1, "b", 1), item(2, "a", 1), item(3, "b", 1)];
    assert_same(&visible(&bench.system, &bench.job).await, &[items(&bench.job.table, &rows)]);
}

#[tokio::test]
async fn the_key_comes_also_where_the_last_commit_brings_no_row() {
    let bench = Bench::new(WriteMode::Overwrite);
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(1, "a")], 1).await;
    last(&run, &mut writer, &[]).await;
    assert!(bench.has_key());
    drop(writer);
    run.release().await;
    let bench = Bench::new(WriteMode::Overwrite);
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(1, "a")], 1).await;
    drop(writer);
    run.release().await;
    let run = bench.run().await;
    last(&run, &mut run.writer().await, &[]).await;
    assert!(bench.has_key());
    run.finish().await;
    run.release().await;
    assert_eq!(bench.count(), 1);
}

#[tokio::test]
async fn a_column_that_comes_meanwhile_is_added_and_the_rows_stay_unmerged() {
    let mut bench = Bench::new(WriteMode::Overwrite);
    let whole = bench.job.table.clone();
    let mut narrow = whole.clone();
    let columns: Vec<usize> = (0..whole.schema.fields().len())
        .filter(|at| whole.schema.field(*at).name() != "value")
        .collect();
    narrow.schema = std::sync::Arc::new(whole.schema.project(&columns).unwrap());
    bench.job = bench.job.of_table(narrow);
    let run = bench.run().await;
    let rows = items(&whole, &[item(1, "unread", 1), item(2, "unread", 1)]);
    round(&run, &mut run.writer().await, &[upsert(&rows)], 1).await;
    run.release().await;
    bench.job = bench.job.of_table(whole);
    let run = bench.run().await;
    assert_eq!(run.table().changes.len(), 2, "{:?}", run.table().changes);
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(2, "b")], 1).await;
    assert!(!bench.has_key());
    last(&run, &mut writer, &[bench.row(3, "b")]).await;
    assert!(bench.has_key());
    run.finish().await;
    run.release().await;
    let rows = "SELECT id || coalesce(value, '-') FROM items ORDER BY 1";
    let rows: Vec<_> = bench.database.rows(rows).into_iter().flatten().flatten().collect();
    assert_eq!(rows, ["1-", "2b", "3b"]);
}

#[tokio::test]
async fn a_row_that_was_delivered_and_is_reported_as_deleted_goes() {
    let bench = Bench::new(WriteMode::Overwrite);
    let run = bench.run().await;
    round(&run, &mut run.writer().await, &[bench.row(1, "a"), bench.row(2, "a")], 1).await;
    run.release().await;
    let run = bench.run().await;
    let mut writer = run.writer().await;
    let gone = delete(&items(&bench.job.table, &[item(1, "", 2).deletion()]));
    round(&run, &mut writer, &[bench.row(3, "b"), gone], 1).await;
    last(&run, &mut writer, &[]).await;
    run.finish().await;
    run.release().await;
    let rows = [item(2, "a", 1), item(3, "b", 1)];
    assert_same(&visible(&bench.system, &bench.job).await, &[items(&bench.job.table, &rows)]);
}

#[tokio::test]
async fn a_key_that_may_be_null_is_folded_by_the_rules_of_a_merge() {
    let mut bench = Bench::new(WriteMode::Overwrite);
    bench.job =
        Job::new(loose_item_table("items", &["id"]), WriteMode::Overwrite).by_cursor("updated_at");
    let row = |value| upsert(&items(&bench.job.table, &[item(0, value, 1).without_id()]));
    let run = bench.run().await;
    round(&run, &mut run.writer().await, &[row("a")], 1).await;
    run.release().await;
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[row("b")], 1).await;
    last(&run, &mut writer, &[]).await;
    assert_eq!(bench.database.value("SELECT string_agg(value, ',') FROM items").unwrap(), "b");
    run.finish().await;
    run.release().await;
}

#[tokio::test]
async fn a_table_with_a_history_has_its_key_from_the_beginning() {
    let bench = Bench::new(WriteMode::AppendDedup);
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(1, "a"), bench.row(2, "a")], 1).await;
    assert!(bench.has_key());
    drop(writer);
    run.release().await;
    let run = bench.run().await;
    let newer = upsert(&items(&bench.job.table, &[item(1, "b", 2)]));
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[newer], 1).await;
    assert_eq!(bench.count(), 2);
    last(&run, &mut writer, &[bench.row(3, "a")]).await;
    run.finish().await;
    run.release().await;
    assert_eq!(bench.count(), 3);
    assert_eq!(bench.database.value("SELECT count(*) FROM items_history").unwrap(), "4");
}

#[tokio::test]
async fn a_table_that_somebody_gave_a_key_meanwhile_is_merged_into() {
    let bench = Bench::new(WriteMode::Overwrite);
    let run = bench.run().await;
    let mut writer = run.writer().await;
    round(&run, &mut writer, &[bench.row(1, "a")], 1).await;
    bench.database.execute("ALTER TABLE items ADD PRIMARY KEY (id)");
    round(&run, &mut writer, &[bench.row(1, "b"), bench.row(2, "b")], 2).await;
    last(&run, &mut writer, &[]).await;
    run.finish().await;
    run.release().await;
    let rows = [item(1, "b", 1), item(2, "b", 1)];
    assert_same(&visible(&bench.system, &bench.job).await, &[items(&bench.job.table, &rows)]);
}

#[tokio::test]
async fn a_table_that_was_left_without_its_key_is_folded_by_whoever_adds_it() {
    for mode in [WriteMode::Overwrite, WriteMode::AppendDedup] {
        let bench = Bench::interrupted().await.forgotten(mode);
        let run = bench.run().await;
        assert!(!run.table().resumes_first_read);
        assert!(run.table().changes.contains(&SchemaChange::AddKey));
        run.release().await;
        let rows = [upsert(&items(&bench.job.table, &[item(1, "c", 2), item(3, "c", 2)]))];
        sync(&bench.system, &bench.job, &rows).await;
        assert!(bench.has_key(), "{mode}");
        assert_eq!(bench.comment(), None, "{mode}");
        let rows = "SELECT string_agg(id || value, ',' ORDER BY id) FROM items";
        assert_eq!(bench.database.value(rows).as_deref(), Some("1c,2b,3c"), "{mode}");
    }
}

#[tokio::test]
async fn a_table_that_was_left_without_its_key_gets_it_also_where_nothing_is_read() {
    let bench = Bench::interrupted().await.forgotten(WriteMode::Overwrite);
    let run = bench.run().await;
    let ran = run.destination.migrate(&run.plan).await.unwrap();
    assert!(ran.iter().any(|statement| statement.contains("PRIMARY KEY")), "{ran:?}");
    run.release().await;
    assert_eq!((bench.has_key(), bench.count(), bench.comment()), (true, 2, None));
}

#[tokio::test]
async fn a_table_that_was_left_without_its_key_is_replaced_like_others() {
    let bench = Bench::interrupted().await;
    let old = bench.database.value("SELECT 'items'::regclass::oid");
    let mut bench = bench.forgotten(WriteMode::Replace);
    bench.job.read_mode = ReadMode::FullRefresh;
    sync(&bench.system, &bench.job, &[bench.row(7, "c")]).await;
    assert_eq!((bench.has_key(), bench.count(), bench.comment()), (true, 1, None));
    assert_ne!(bench.database.value("SELECT 'items'::regclass::oid"), old);
}

#[tokio::test]
async fn rows_that_are_not_versions_of_each_other_stay() {
    // Rows that a sync has appended.
    let appended = Bench::interrupted().await.forgotten(WriteMode::Append);
    sync(&appended.system, &appended.job, &[appended.row(1, "c")]).await;
    assert_eq!(appended.comment(), None);
    // A table that was made by somebody else.
    let theirs = Bench::new(WriteMode::Overwrite);
    sync(&theirs.system, &theirs.job, &[theirs.row(1, "a")]).await;
    theirs.database.execute(
        "ALTER TABLE items DROP CONSTRAINT items_pkey;
         INSERT INTO items SELECT * FROM items; COMMENT ON TABLE items IS 'mine'",
    );
    for bench in [appended, theirs] {
        let (count, bench) = (bench.count(), bench.forgotten(WriteMode::Overwrite));
        let run = bench.run().await;
        let mut writer = run.writer().await;
        let Change(op, rows) = bench.row(5, "d");
        writer.write(run.batch(op, &rows)).await.unwrap();
        assert!(writer.commit(&run.checkpoint(9)).await.is_err(), "two rows have one key");
        run.release().await;
        assert_eq!((bench.has_key(), bench.count()), (false, count));
    }
}

#[tokio::test]
async fn a_comment_of_others_stays() {
    let bench = Bench::interrupted().await;
    bench.database.execute("COMMENT ON TABLE items IS 'mine'");
    let run = bench.run().await;
    last(&run, &mut run.writer().await, &[bench.row(3, "c")]).await;
    run.finish().await;
    run.release().await;
    assert_eq!((bench.has_key(), bench.count()), (true, 3));
    assert_eq!(bench.comment().as_deref(), Some("mine"));
}
