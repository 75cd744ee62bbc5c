//! What PostgreSQL promises of rebuilds, sweeps and the state of older versions, beyond the suites.

use highwater_core::{
    Connector, ErrorKind, LeaseRequest, Op, Owner, SchemaChange, TableName, WriteMode,
};
use highwater_postgres::PostgresConnector;
use highwater_testkit::job::{
    Job, Run, delete, record, refresh, sync, try_sync, upsert, visible, visible_history,
};
use highwater_testkit::postgres::{Database, Postgres};
use highwater_testkit::proxy::{Fault, Proxy};
use highwater_testkit::rows::{assert_same, count};
use highwater_testkit::tables::{item, item_table, items, loose_item_table};
use serde_json::json;

use crate::server::{database, error};
use crate::suites::System;

/// A new database and what runs over it.
fn system() -> (Database, System) {
    let database = database();
    let url = database.url().to_owned();
    let system = System::at(&database, url);
    (database, system)
}

fn history_job() -> Job {
    Job::new(item_table("items"), WriteMode::AppendDedup)
}

/// Tables of highwater's own that are there only while a run is at work.
fn leftovers(database: &Database) -> Vec<Vec<Option<String>>> {
    database.rows(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'i') AND relname LIKE '\\_highwater%'
         AND relname NOT LIKE '\\_highwater\\_items\\_tombstones%' ORDER BY 1",
    )
}

#[tokio::test]
async fn a_history_that_others_depend_on_is_rebuilt_in_place() {
    let (database, system) = system();
    let job = history_job();
    let row = |id, value: &'static str| upsert(&items(&job.table, &[item(id, value, 1)]));
    let gone = delete(&items(&job.table, &[item(9, "", 9).deletion()]));
    sync(&system, &job, &[row(1, "a"), gone.clone()]).await;
    database.execute("CREATE VIEW versions AS SELECT id FROM items_history");
    database.execute("CREATE INDEX of_ours ON _highwater_items_tombstones (updated_at)");
    let tables = ["items", "items_history", "_highwater_items_tombstones"];
    let oids = || tables.map(|table| database.value(&format!("SELECT '{table}'::regclass::oid")));
    let before = oids();
    refresh(&system, &job, true).await;
    let run = Run::open(&system, &job).await;
    run.commit(&[row(2, "b"), gone], 1).await;
    assert_eq!(database.value("SELECT string_agg(id::text, ',') FROM versions").unwrap(), "1,9");
    run.finish().await;
    run.release().await;
    let after = oids();
    assert_ne!(after[0], before[0], "swapped");
    assert_eq!(after[1..], before[1..], "rows exchanged");
    assert_eq!(database.value("SELECT string_agg(id::text, ',') FROM versions").unwrap(), "2,9");
    assert_eq!(leftovers(&database), Vec::<Vec<Option<String>>>::new());
    // The tombstone of the new generation is the one that counts.
    assert_eq!(database.value("SELECT count(*) FROM _highwater_items_tombstones").unwrap(), "1");
    sync(&system, &job, &[row(9, "late")]).await;
    assert_same(&visible(&system, &job).await, &[items(&job.table, &[item(2, "b", 1)])]);
    // Columns that have changed would be lost.
    refresh(&system, &job, true).await;
    database.execute("ALTER TABLE items_history DROP COLUMN value");
    let refused = error(try_sync(&system, &job, &[row(3, "c")]).await.map(drop));
    assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
    assert_eq!(
        refused.context_value("with columns that have changed"),
        Some("public.items_history")
    );
    assert_same(&visible(&system, &job).await, &[items(&job.table, &[item(2, "b", 1)])]);
}

#[tokio::test]
async fn the_lease_drops_what_nobody_goes_on_with() {
    let (database, system) = system();
    for mode in [WriteMode::Replace, WriteMode::ReplaceDedup, WriteMode::AppendDedup] {
        let job = Job::new(item_table("items"), mode);
        let rows = [upsert(&items(&job.table, &[item(1, "a", 1)]))];
        sync(&system, &job, &rows).await;
        if mode == WriteMode::AppendDedup {
            refresh(&system, &job, true).await;
        }
        let run = Run::open(&system, &job).await;
        run.commit(&rows, 1).await;
        assert_ne!(leftovers(&database).len(), 0, "{mode}");
        drop(run);
        // Another sync's are left alone.
        Run::open(&system, &job.of_sync("another")).await.release().await;
        assert_ne!(leftovers(&database).len(), 0, "{mode}");
        refresh(&system, &job, true).await;
        Run::open(&system, &job).await.release().await;
        assert_eq!(leftovers(&database).len(), 0, "{mode}");
        database.execute("DROP TABLE items; DROP SCHEMA _highwater CASCADE");
    }
}

#[tokio::test]
async fn rows_that_were_read_and_are_gone_are_missed() {
    let (database, system) = system();
    let job = history_job();
    let row = |id| upsert(&items(&job.table, &[item(id, "a", id)]));
    sync(&system, &job, &[row(1)]).await;
    refresh(&system, &job, true).await;
    let run = Run::open(&system, &job).await;
    run.commit(&[row(2)], 1).await;
    drop(run);
    database.execute("DROP TABLE _highwater_items_eb86332c_new");
    let refused = error(try_sync(&system, &job, &[row(3)]).await.map(drop));
    assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
    assert_eq!(refused.hint_text(), Some("to begin again: `highwater refresh items`"));
    assert_same(&visible(&system, &job).await, &[items(&job.table, &[item(1, "a", 1)])]);
    refresh(&system, &job, true).await;
    sync(&system, &job, &[row(4)]).await;
    assert_same(&visible(&system, &job).await, &[items(&job.table, &[item(4, "a", 4)])]);
}

#[tokio::test]
async fn a_column_that_became_longer_is_so_in_an_interrupted_read_too() {
    let (database, system) = system();
    let table = |declared: &str| {
        let mut table = item_table("items");
        table.resumable = true;
        let fields = table.schema.fields().iter().map(|field| {
            let field = field.as_ref().clone();
            match field.name().as_str() {
                "value" => highwater_core::types::with_metadata(
                    field,
                    highwater_core::types::DECLARED,
                    format!("postgresql:{declared}"),
                ),
                _ => field,
            }
        });
        let fields: Vec<_> = fields.collect();
        highwater_core::Table {
            schema: std::sync::Arc::new(arrow_schema::Schema::new(fields)),
            ..table
        }
    };
    let first = Job::new(table("character varying(3)"), WriteMode::Replace);
    let run = Run::open(&system, &first).await;
    run.commit(&[upsert(&items(&first.table, &[item(1, "abc", 1)]))], 1).await;
    drop(run);
    let second = Job::new(table("character varying(9)"), WriteMode::Replace);
    sync(&system, &second, &[upsert(&items(&second.table, &[item(2, "abcdefg", 1)]))]).await;
    let rows = "SELECT string_agg(value, ',' ORDER BY id) FROM items";
    assert_eq!(database.value(rows).unwrap(), "abc,abcdefg");
    let run = Run::open(&system, &second).await;
    run.commit(&[upsert(&items(&second.table, &[item(1, "abcdefg", 1)]))], 1).await;
    drop(run);
    // A wider column than needed holds everything.
    sync(&system, &first, &[upsert(&items(&first.table, &[item(2, "abc", 1)]))]).await;
    assert_eq!(database.value(rows).unwrap(), "abcdefg,abc");
}

#[tokio::test]
async fn a_sweep_may_be_the_first_sync() {
    for mode in [WriteMode::Overwrite, WriteMode::AppendDedup] {
        let (database, system) = system();
        let job = Job::new(item_table("items"), mode).sweeping();
        let rows: Vec<_> = (1..=50).map(|id| item(id, "a", id)).collect();
        let run = Run::open(&system, &job).await;
        run.commit(&[upsert(&items(&job.table, &rows[..40]))], 1).await;
        run.commit(&[upsert(&items(&job.table, &rows[40..]))], 2).await;
        assert_eq!(run.finish().await.deleted, 0);
        run.release().await;
        assert_same(&visible(&system, &job).await, &[items(&job.table, &rows)]);
        let swept = sync(&system, &job, &[upsert(&items(&job.table, &rows[..40]))]).await;
        assert_eq!((swept.written, swept.unchanged, swept.deleted), (0, 40, 10), "{mode}");
        assert_eq!(leftovers(&database).len(), 0);
    }
}

#[tokio::test]
async fn a_sweep_whose_keys_the_server_has_lost_deletes_nothing() {
    let (database, system) = system();
    let job = Job::new(item_table("items"), WriteMode::Overwrite);
    let rows = [upsert(&items(&job.table, &[item(1, "a", 1), item(2, "b", 1)]))];
    sync(&system, &job, &rows).await;
    let run = Run::open(&system, &job.clone().sweeping()).await;
    run.commit(&rows, 1).await;
    // As a crash of the server does it.
    database.execute("TRUNCATE _highwater_items_eb86332c_seen");
    let refused = error(run.try_finish().await);
    assert_eq!(refused.kind(), ErrorKind::Transient, "{refused}");
    assert_eq!(count(&visible(&system, &job).await), 2);
    // As nobody should do it.
    database.execute("DROP TABLE _highwater_items_eb86332c_seen");
    let refused = error(run.try_finish().await);
    assert_eq!(refused.kind(), ErrorKind::Transient, "{refused}");
    assert_eq!(count(&visible(&system, &job).await), 2);
    drop(run);
    assert_eq!(sync(&system, &job.clone().sweeping(), &rows).await.deleted, 0);
    assert_eq!(leftovers(&database).len(), 0);
}

#[tokio::test]
async fn keys_that_may_be_null_are_swept_whether_they_are_or_not() {
    const ROWS: i64 = 30_000;
    let (_database, system) = system();
    let table = loose_item_table("items", &["id"]);
    let job = Job { table: table.clone(), ..history_job() };
    let all: Vec<_> = (0..ROWS).map(|id| item(id, "a", 1)).collect();
    sync(&system, &job, &[upsert(&items(&table, &all))]).await;
    let brought = &all[10..];
    let swept = sync(&system, &job.clone().sweeping(), &[upsert(&items(&table, brought))]).await;
    assert_eq!((swept.written, swept.deleted), (0, 10));
    // One row without a key takes the careful way.
    let nobody = item(0, "nobody", 1).without_id();
    let few = [all[10].clone(), nobody.clone(), all[11].clone()];
    sync(&system, &job, &[upsert(&items(&table, &few))]).await;
    let swept = sync(&system, &job.sweeping(), &[upsert(&items(&table, &few[..2]))]).await;
    assert_eq!((swept.written, swept.unchanged), (0, 2));
    assert_eq!(swept.deleted, ROWS as u64 - 11);
}

#[tokio::test]
async fn a_table_gets_its_history_when_its_mode_changes() {
    let (_database, system) = system();
    let job = Job::new(item_table("items"), WriteMode::Overwrite).by_cursor("updated_at");
    let first = item(1, "a", 1);
    sync(&system, &job, &[upsert(&items(&job.table, std::slice::from_ref(&first)))]).await;
    let job = Job { write_mode: WriteMode::AppendDedup, ..job };
    sync(&system, &job, &[]).await;
    let second = item(2, "b", 2);
    sync(&system, &job, &[upsert(&items(&job.table, std::slice::from_ref(&second)))]).await;
    assert_same(&visible(&system, &job).await, &[items(&job.table, &[first, second.clone()])]);
    assert_same(&visible_history(&system, &job).await, &[items(&job.table, &[second])]);
}

#[tokio::test]
async fn records_of_two_syncs_are_compacted_by_their_keys() {
    let (database, system) = system();
    let job = history_job();
    let other = Job { changes: Some(Vec::new()), ..job.of_sync("other") };
    let row = |id, at| upsert(&items(&job.table, &[item(id, "a", at)]));
    sync(&system, &job, &[row(1, 1)]).await;
    sync(&system, &other, &[row(2, 1)]).await;
    sync(&system, &job, &[row(1, 2)]).await;
    // The same number for two records, as older versions may have given it.
    database.execute("UPDATE items_history SET _highwater_seq = 0");
    let run = Run::open(&system, &job).await;
    let removed = run.destination.compact_history(&run.plan, run.table(), &run.fence).await;
    assert_eq!(removed.unwrap(), 1);
    assert_eq!(
        database.rows("SELECT id, updated_at FROM items_history ORDER BY 1"),
        [
            [Some("1".to_owned()), Some("2".to_owned())],
            [Some("2".to_owned()), Some("1".to_owned())]
        ]
    );
}

#[tokio::test]
async fn the_arrival_order_goes_on_when_the_state_was_reset() {
    let (database, system) = system();
    let job = history_job();
    let row = |id| upsert(&items(&job.table, &[item(id, "a", id)]));
    sync(&system, &job, &[row(1), row(2)]).await;
    let run = Run::open(&system, &job).await;
    let store = run.destination.state_store().unwrap();
    let key = highwater_core::CursorKey::Table(job.table.name.clone());
    store.set(&run.fence, &key, None).await.unwrap();
    run.commit(&[row(3)], 1).await;
    run.commit(&[row(4)], 2).await;
    run.finish().await;
    run.release().await;
    sync(&system, &job, &[row(5)]).await;
    let order = "SELECT string_agg(_highwater_seq::text, ',' ORDER BY id) FROM items_history";
    assert_eq!(database.value(order).unwrap(), "0,1,2,3,4");
}

#[tokio::test]
async fn of_two_rows_of_an_interrupted_read_the_later_one_stays() {
    let (database, system) = system();
    let job = Job::new(item_table("items"), WriteMode::ReplaceDedup).resumable();
    let rows: Vec<_> = (2..500).chain([1]).map(|id| item(id, "old", 1)).collect();
    let run = Run::open(&system, &job).await;
    run.commit(&[upsert(&items(&job.table, &rows))], 1).await;
    drop(run);
    // There is room in front of the old row now.
    database.execute("DELETE FROM _highwater_items_eb86332c_new WHERE id <> 1");
    database.execute("VACUUM _highwater_items_eb86332c_new");
    let new = item(1, "new", 1);
    sync(&system, &job, &[upsert(&items(&job.table, std::slice::from_ref(&new)))]).await;
    assert_same(&visible(&system, &job).await, &[items(&job.table, &[new])]);
}

#[tokio::test]
async fn a_sweep_may_make_the_table_anew() {
    let (database, system) = system();
    let job = Job::new(item_table("items"), WriteMode::Overwrite).by_cursor("updated_at");
    let row = |id| upsert(&items(&job.table, &[item(id, "a", 1)]));
    sync(&system, &job, &[row(1), row(2)]).await;
    let anew = Job { changes: Some(vec![SchemaChange::Recreate]), ..job.clone().sweeping() };
    let run = Run::open(&system, &anew).await;
    run.commit(&[row(2)], 1).await;
    run.commit(&[row(3)], 2).await;
    assert_eq!(run.finish().await.deleted, 0);
    run.release().await;
    let left = [item(2, "a", 1), item(3, "a", 1)];
    assert_same(&visible(&system, &job).await, &[items(&job.table, &left)]);
    assert_eq!(leftovers(&database).len(), 0);
}

#[tokio::test]
async fn a_lost_reply_to_the_end_of_a_table_is_resolved() {
    let rebuilt = Job::new(item_table("items"), WriteMode::ReplaceDedup);
    let swept = history_job().sweeping();
    for job in [rebuilt, swept] {
        for (fault, arrives) in
            [(Fault::LoseCommitReply { nth: 1 }, true), (Fault::LoseCommit { nth: 1 }, false)]
        {
            let database = database();
            let proxy = Proxy::start(Postgres::shared().port());
            let system = System::at(&database, proxy.url(database.name()));
            let row = |id| upsert(&items(&job.table, &[item(id, "a", 1)]));
            sync(&system, &job, &[row(1), row(2)]).await;
            let run = Run::open(&system, &job).await;
            run.commit(&[row(2)], 1).await;
            proxy.inject(fault);
            let finished = run.try_finish().await;
            assert_eq!(proxy.fired(), 1);
            assert_eq!(finished.is_ok(), arrives, "{fault:?}");
            run.try_finish().await.unwrap();
            assert_same(&visible(&system, &job).await, &[items(&job.table, &[item(2, "a", 1)])]);
            assert_eq!(leftovers(&database).len(), 0);
        }
    }
}

/// Writers of one run share the tables beside and the keys that were seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_one_run_fill_the_same_tables() {
    let modes = [
        Job::new(item_table("items"), WriteMode::Replace),
        Job::new(item_table("items"), WriteMode::ReplaceDedup),
        Job::new(item_table("items"), WriteMode::Overwrite).sweeping(),
        history_job().sweeping(),
    ];
    for job in modes {
        let (database, system) = system();
        for before in [0, 12] {
            let run = std::sync::Arc::new(Run::open(&system, &job).await);
            let mut writers = tokio::task::JoinSet::new();
            for part in 0..6_i64 {
                let (run, table) = (std::sync::Arc::clone(&run), job.table.clone());
                writers.spawn(async move {
                    let mut writer = run.writer_of(&part.to_string()).await;
                    for id in [part, part + 10] {
                        let rows = items(&table, &[item(id, "a", 1)]);
                        writer.write(run.batch(Op::Upsert, &rows)).await.unwrap();
                        writer.commit(&run.checkpoint(id)).await.unwrap();
                    }
                });
            }
            while let Some(written) = writers.join_next().await {
                written.unwrap();
            }
            // A swap counts the rows that went.
            let is_swapped = matches!(job.write_mode, WriteMode::Replace | WriteMode::ReplaceDedup);
            let gone = if is_swapped { before } else { 0 };
            assert_eq!(run.finish().await.deleted, gone, "{}", job.write_mode);
            std::sync::Arc::into_inner(run).unwrap().release().await;
            let all: Vec<_> =
                (0..6).flat_map(|part| [part, part + 10]).map(|id| item(id, "a", 1)).collect();
            assert_same(&visible(&system, &job).await, &[items(&job.table, &all)]);
            assert_eq!(leftovers(&database).len(), 0);
        }
    }
}

/// What an older version has left is read as it is, and completed when a run takes the lease.
#[tokio::test]
async fn the_state_of_an_older_version_is_taken_over() {
    let (database, system) = system();
    let job = history_job();
    let row = |id| upsert(&items(&job.table, &[item(id, "a", id)]));
    sync(&system, &job, &[row(1)]).await;
    let older = "ALTER TABLE _highwater.tables DROP COLUMN generation, DROP COLUMN rebuild,
                 DROP COLUMN finished_generation, DROP COLUMN swept_at";
    database.execute(older);
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = '_highwater.tables'::regclass
                   AND attnum > 0 AND NOT attisdropped";
    assert_eq!(database.value(columns).unwrap(), "8");
    let found = record(&system, &job).await.unwrap();
    assert_eq!((found.rows_total, found.generation, found.rebuild), (1, 0, false));
    assert_eq!((found.finished_generation, found.swept_at), (None, None));
    assert_eq!(database.value(columns).unwrap(), "8", "looking changes nothing");
    let role = format!("upgrading_{}", database.name());
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE, CREATE ON SCHEMA _highwater TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA _highwater TO {role}"
    ));
    let weak = System::at(&database, database.url().replace("postgres@", &format!("{role}@")));
    let refused = error(try_sync(&weak, &job, &[row(2)]).await.map(drop));
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    assert!(refused.hint_text().unwrap().contains("ADD COLUMN swept_at BIGINT"), "{refused}");
    sync(&system, &job, &[row(2)]).await;
    assert_eq!(database.value(columns).unwrap(), "12");
    let found = record(&system, &job).await.unwrap();
    assert_eq!((found.rows_total, found.finished_generation), (2, Some(0)));
    assert_eq!(count(&visible(&system, &job).await), 2);
}

#[tokio::test]
async fn rebuilds_and_sweeps_work_in_a_schema_of_their_own() {
    let (database, _system) = system();
    let spec = json!({"connection_string": database.url(), "schema": "raw \"data\""});
    let destination = || async { PostgresConnector.destination(spec.clone()).await.unwrap() };
    let job = history_job().sweeping();
    let rows = [upsert(&items(&job.table, &[item(1, "a", 1), item(2, "b", 1)]))];
    let sync = async |job: &Job| {
        let done = highwater_testkit::job::sync_at(destination().await, job, &rows).await;
        done.unwrap_or_else(|e| panic!("{}", e.full_message()))
    };
    assert_eq!(sync(&job).await.deleted, 0);
    sync(&Job::new(item_table("items"), WriteMode::ReplaceDedup)).await;
    let tables = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables
                  WHERE schemaname = 'raw \"data\"'";
    assert_eq!(database.value(tables).unwrap(), "_highwater_items_tombstones items items_history");
    let name = destination().await.target_name(&TableName::new("items"));
    assert_eq!(name.namespace.as_deref(), Some("raw \"data\""));
}

/// Rows of others that would go with the rows of the table are not touched: the sync says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_others_follow_are_not_exchanged() {
    let (database, system) = system();
    let job = Job::new(item_table("items"), WriteMode::Replace);
    let rows = [upsert(&items(&job.table, &[item(1, "a", 1)]))];
    sync(&system, &job, &rows).await;
    database.execute(
        "CREATE TABLE notes (item bigint CONSTRAINT of_item REFERENCES items (id) ON DELETE CASCADE);
         INSERT INTO notes VALUES (1)",
    );
    let refused = error(try_sync(&system, &job, &rows).await.map(drop));
    assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
    assert_eq!(refused.context_value("foreign key"), Some("of_item"));
    assert_eq!(database.value("SELECT count(*) FROM notes").unwrap(), "1");
    // One that is checked at the end, and deletes nothing, is no hindrance.
    database.execute(
        "ALTER TABLE notes DROP CONSTRAINT of_item, ADD CONSTRAINT of_item FOREIGN KEY (item)
         REFERENCES items (id) DEFERRABLE INITIALLY DEFERRED",
    );
    sync(&system, &job, &rows).await;
    assert_eq!(database.value("SELECT count(*) FROM notes").unwrap(), "1");
}

/// A commit may take longer than a lease lasts without a sign of life: only a run that is told to
/// takes its place.
#[tokio::test]
async fn a_run_in_the_middle_of_a_commit_is_not_ended() {
    let (database, system) = system();
    let job = history_job();
    let first = Run::open(&system, &job).await;
    database.execute("UPDATE _highwater.lease SET renewed_at = 0");
    let name = format!("highwater {:016x} 1", xxhash_rust::xxh3::xxh3_64(job.sync.as_bytes()));
    let url = database.url().to_owned();
    let working = format!("SET application_name = '{name}'; SELECT pg_sleep(600)");
    let shown = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'
         AND query LIKE '%pg_sleep%' AND state = 'active'"
    );
    let database = std::sync::Arc::new(database);
    let server = std::sync::Arc::clone(&database);
    let commit = std::thread::spawn(move || server.try_execute(&working));
    while database.value(&shown).as_deref() != Some("1") {
        tokio::task::yield_now().await;
    }
    let second = System::at(&database, url);
    let request = |take_over| LeaseRequest { owner: Owner::this_process(), take_over };
    let destination = highwater_testkit::harness::Harness::destination(&second).await;
    let store = destination.state_store().unwrap();
    let refused = error(store.open(&job.sync, &request(false)).await.map(drop));
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    assert!(!commit.is_finished());
    store.open(&job.sync, &request(true)).await.unwrap();
    assert!(commit.join().unwrap().is_err(), "ended by the run that was told to");
    drop(first);
}

/// Deletions that come right after the rows of a new table find them by their key.
#[tokio::test]
async fn many_rows_of_a_new_table_are_deleted_at_once() {
    const ROWS: i64 = 30_000;
    let (database, system) = system();
    database.execute(&format!(
        "ALTER DATABASE {} SET enable_nestloop = on; ALTER DATABASE {} SET statement_timeout = '60s'",
        database.name(),
        database.name()
    ));
    for table in [item_table("items"), loose_item_table("loose", &["id"])] {
        let job = Job::new(table.clone(), WriteMode::Overwrite);
        let all: Vec<_> = (0..ROWS).map(|id| item(id, "a", 1)).collect();
        let gone: Vec<_> = (1..ROWS).map(|id| item(id, "", 1).deletion()).collect();
        let changes = [upsert(&items(&table, &all)), delete(&items(&table, &gone))];
        sync(&system, &job, &changes).await;
        assert_same(&visible(&system, &job).await, &[items(&table, &all[..1])]);
    }
}
