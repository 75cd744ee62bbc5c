//! Rebuilds and sweeps in a file: what is beside, what is left, and state of older versions.

use arrow_schema::{DataType, Field};
use highwater_core::{Cursor, ErrorKind, TableName, WriteMode};
use highwater_testkit::job::{
    Job, Run, delete, record, refresh, sync, try_sync, upsert, visible, visible_history,
};
use highwater_testkit::rows::{assert_same, count};
use highwater_testkit::tables::{TableChanges, item, item_table, items};
use serde_json::json;

use crate::support::File;

const BESIDE: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' \
                      AND (name GLOB '*_new*' OR name GLOB '*_seen') ORDER BY name";

fn empty() -> File {
    File::new("PRAGMA user_version = 1")
}

fn job(mode: WriteMode) -> Job {
    Job::new(item_table("items"), mode).by_cursor("updated_at")
}

#[tokio::test]
async fn a_state_of_an_older_version_is_read_and_upgraded() {
    let file = empty();
    let job = job(WriteMode::AppendDedup);
    let rows = |id| [upsert(&items(&job.table, &[item(id, "a", id)]))];
    sync(&file, &job, &rows(1)).await;
    for column in ["generation", "finished_generation", "rebuild", "swept_at"] {
        file.run(&format!("ALTER TABLE _highwater_tables DROP COLUMN {column}"));
    }
    let columns = "SELECT name FROM pragma_table_info('_highwater_tables')";
    let before = file.rows(columns);
    let looked = record(&file, &job).await.unwrap();
    assert_eq!((looked.generation, looked.finished_generation, looked.rows_total), (0, None, 1));
    assert_eq!(file.rows(columns), before, "looking changes nothing");
    let run = Run::open(&file, &job).await;
    assert_eq!(run.state.table_cursor(&job.table.name), Some(&Cursor(json!(1))));
    run.commit(&rows(2), 2).await;
    run.finish().await;
    assert_eq!(file.rows(columns).len(), before.len() + 4);
    let upgraded = record(&file, &job).await.unwrap();
    assert_eq!((upgraded.finished_generation, upgraded.rows_total), (Some(0), 2));
    assert_eq!(count(&visible(&file, &job).await), 2);
}

#[tokio::test]
async fn a_swap_carries_indexes_and_triggers_and_leaves_nothing_beside() {
    let file = empty();
    let job = job(WriteMode::AppendDedup);
    let rows = |id| upsert(&items(&job.table, &[item(id, "a", id)]));
    let gone = delete(&items(&job.table, &[item(9, "", 9).deletion()]));
    sync(&file, &job, &[rows(1), gone.clone()]).await;
    file.run(
        "CREATE INDEX by_seq ON items_history (_highwater_seq); CREATE INDEX by_value ON items (value);
         CREATE VIEW v AS SELECT i.value FROM items AS i JOIN items_history AS h ON h.id = i.id",
    );
    let belongings = "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' \
                      AND sql IS NOT NULL ORDER BY name";
    let before = file.rows(belongings);
    assert_eq!(before.len(), 3);
    for id in 2..=3 {
        refresh(&file, &job, true).await;
        sync(&file, &job, &[rows(id), gone.clone()]).await;
        assert_eq!(file.rows(belongings), before);
        assert_eq!(file.rows(BESIDE), [""; 0]);
        assert_eq!(file.rows("SELECT count(*) FROM v"), ["1"]);
        assert_eq!(file.rows("SELECT id FROM _highwater_items_tombstones"), ["9"]);
    }
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_dropped_by_the_next_run() {
    let file = empty();
    let dedup = job(WriteMode::AppendDedup);
    sync(&file, &dedup, &[upsert(&items(&dedup.table, &[item(1, "a", 1)]))]).await;
    refresh(&file, &dedup, true).await;
    let run = Run::open(&file, &dedup).await;
    run.commit(&[upsert(&items(&dedup.table, &[item(2, "b", 2)]))], 1).await;
    let beside = [
        "_highwater__highwater_items_eb86332c_new_tombstones",
        "_highwater_items_eb86332c_new",
        "_highwater_items_eb86332c_new_history",
    ];
    assert_eq!(file.rows(BESIDE), beside);
    // Another sync has nothing to do with them; the next run goes on with them.
    Run::open(&file, &dedup.of_sync("another")).await.release().await;
    Run::open(&file, &dedup).await.release().await;
    assert_eq!(file.rows(BESIDE), beside);
    let run = Run::open(&file, &dedup).await;
    let store = run.destination.state_store().unwrap();
    store.refresh(&run.fence, &dedup.table.name, true).await.unwrap();
    Run::open(&file, &dedup).await.release().await;
    assert_eq!(file.rows(BESIDE), [""; 0]);
    // What a sweep has seen belongs to its run.
    let swept = Job::new(item_table("swept"), WriteMode::Overwrite).sweeping();
    let run = Run::open(&file, &swept).await;
    run.commit(&[upsert(&items(&swept.table, &[item(1, "a", 1)]))], 1).await;
    assert_eq!(file.rows(BESIDE), ["_highwater_swept_eb86332c_seen"]);
    drop(run);
    Run::open(&file, &dedup).await.release().await;
    assert_eq!(file.rows(BESIDE), [""; 0]);
}

#[tokio::test]
async fn a_column_that_changes_while_the_table_is_read_anew() {
    let file = empty();
    let narrow = item_table("items").with_column(Field::new("n", DataType::Int32, true));
    let job = Job::new(narrow.clone(), WriteMode::Replace).resumable();
    sync(&file, &job, &[upsert(&items(&narrow, &[item(9, "old", 9)]))]).await;
    let run = Run::open(&file, &job).await;
    run.commit(&[upsert(&items(&narrow, &[item(1, "a", 1)]))], 1).await;
    drop(run);
    let wide = narrow.clone().with_column(Field::new("n", DataType::Utf8, true));
    let other = Job::new(wide.clone(), WriteMode::Replace).resumable();
    let error = try_sync(&file, &other, &[upsert(&items(&wide, &[item(2, "b", 2)]))]).await;
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Schema, Some("n")));
    assert!(error.hint_text().unwrap().contains("highwater refresh items"), "{error}");
    assert_eq!(file.rows("SELECT value FROM items"), ["old"]);
    refresh(&file, &other, true).await;
    sync(&file, &other, &[upsert(&items(&wide, &[item(2, "b", 2)]))]).await;
    assert_eq!(file.rows("SELECT value FROM items"), ["b"]);
}

/// Where the state is kept elsewhere the tables themselves tell what has been done.
#[tokio::test]
async fn a_finish_is_repeated_without_the_state() {
    let file = empty();
    for mode in [WriteMode::Replace, WriteMode::ReplaceDedup] {
        let job = Job::new(item_table("items"), mode).ordered_by("updated_at");
        for id in 1..=2 {
            let mut run = Run::open(&file, &job).await;
            run.plan.state_with_data = false;
            run.commit(&[upsert(&items(&job.table, &[item(id, "a", 1)]))], 1).await;
            for _ in 0..2 {
                run.finish().await;
                assert_same(&visible(&file, &job).await, &[items(&job.table, &[item(id, "a", 1)])]);
            }
        }
    }
    let swept = Job::new(item_table("swept"), WriteMode::AppendDedup).sweeping();
    let all = [item(1, "a", 1), item(2, "b", 1)];
    let mut run = Run::open(&file, &Job { sweep: false, reconcile: false, ..swept.clone() }).await;
    run.plan.state_with_data = false;
    run.commit(&[upsert(&items(&swept.table, &all))], 1).await;
    run.finish().await;
    let mut run = Run::open(&file, &swept).await;
    run.plan.state_with_data = false;
    run.commit(&[upsert(&items(&swept.table, &all[..1]))], 2).await;
    assert_eq!(run.finish().await.deleted, 1);
    assert_eq!(run.finish().await.deleted, 0);
    assert_eq!(count(&visible(&file, &swept).await), 1);
    assert_eq!(count(&visible_history(&file, &swept).await), 3);
    let names = [TableName::new("swept")];
    assert!(run.destination.describe(&names).await.unwrap()[0].is_some());
}

/// The write mode may change between two runs of one rebuild: what the new one needs is made.
#[tokio::test]
async fn a_write_mode_that_changes_while_the_table_is_read_anew() {
    let file = empty();
    let before = job(WriteMode::Overwrite);
    sync(&file, &before, &[upsert(&items(&before.table, &[item(9, "old", 9)]))]).await;
    refresh(&file, &before, true).await;
    let run = Run::open(&file, &before).await;
    run.commit(&[upsert(&items(&before.table, &[item(1, "a", 1)]))], 1).await;
    drop(run);
    let after = job(WriteMode::AppendDedup);
    sync(&file, &after, &[upsert(&items(&after.table, &[item(2, "b", 2)]))]).await;
    let rows = [item(1, "a", 1), item(2, "b", 2)];
    assert_same(&visible(&file, &after).await, &[items(&after.table, &rows)]);
    assert_same(&visible_history(&file, &after).await, &[items(&after.table, &rows[1..])]);
    assert_eq!(file.rows(BESIDE), [""; 0]);
}

/// Where the lease is elsewhere nothing is dropped with it: what another run has left is dropped
/// by the first commit.
#[tokio::test]
async fn a_run_whose_lease_is_elsewhere_begins_with_nothing() {
    let file = empty();
    let replace = Job::new(item_table("items"), WriteMode::Replace);
    let swept = Job::new(item_table("swept"), WriteMode::Overwrite).sweeping();
    for job in [replace, swept] {
        let mut run = Run::open(&file, &job).await;
        run.plan.state_with_data = false;
        run.commit(&[upsert(&items(&job.table, &[item(1, "left", 1)]))], 1).await;
        assert_eq!(file.rows(BESIDE).len(), 1);
        run.plan.sync_id = "another run of the same generation".to_owned();
        run.commit(&[upsert(&items(&job.table, &[item(2, "new", 1)]))], 1).await;
        run.finish().await;
        let expected = items(&job.table, &[item(2, "new", 1)]);
        assert_same(&visible(&file, &job).await, &[expected]);
        run.release().await;
    }
}

#[tokio::test]
async fn nothing_of_a_table_is_left_that_nobody_needs() {
    let file = empty();
    let job = Job::new(item_table("items"), WriteMode::ReplaceDedup).ordered_by("updated_at");
    let gone = delete(&items(&job.table, &[item(1, "", 9).deletion()]));
    sync(&file, &job, &[gone, upsert(&items(&job.table, &[item(2, "b", 1)]))]).await;
    let own = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '*items*'";
    assert_eq!(file.rows(own), ["items"]);
    let run = Run::open(&file, &job).await;
    run.commit(&[upsert(&items(&job.table, &[item(3, "c", 1)]))], 1).await;
    assert_eq!(file.rows(own).len(), 3);
    let cleared = run.destination.clear(&run.plan, run.table(), &run.fence).await.unwrap();
    assert_eq!(cleared.deleted, 1);
    assert_eq!(file.rows(own), ["items"]);
    assert_eq!(file.rows("SELECT count(*) FROM items"), ["0"]);
}

/// Rows that were committed beside and that no run reads again are missed: nothing is swapped in
/// without them.
#[tokio::test]
async fn rows_that_were_read_and_are_gone_are_missed() {
    let file = empty();
    let job = job(WriteMode::Append);
    let row = |id| upsert(&items(&job.table, &[item(id, "a", id)]));
    sync(&file, &job, &[row(1)]).await;
    refresh(&file, &job, true).await;
    let run = Run::open(&file, &job).await;
    run.commit(&[row(2)], 1).await;
    drop(run);
    let gone = "DROP TABLE _highwater_items_eb86332c_new";
    file.run(gone);
    for rows in [&[row(3)][..], &[]] {
        let refused = try_sync(&file, &job, rows).await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
        assert_eq!(refused.hint_text(), Some("to begin again: `highwater refresh items`"));
        assert_same(&visible(&file, &job).await, &[items(&job.table, &[item(1, "a", 1)])]);
    }
    refresh(&file, &job, true).await;
    sync(&file, &job, &[row(4)]).await;
    assert_same(&visible(&file, &job).await, &[items(&job.table, &[item(4, "a", 4)])]);
    // A read that cannot be resumed misses its own rows.
    let full = Job::new(item_table("items"), WriteMode::Replace).of_sync("suite");
    let run = Run::open(&file, &full).await;
    run.commit(&[row(5)], 1).await;
    file.run(gone);
    assert_eq!(run.try_finish().await.unwrap_err().kind(), ErrorKind::Schema);
    assert_same(&visible(&file, &full).await, &[items(&job.table, &[item(4, "a", 4)])]);
}

#[tokio::test]
async fn a_sweep_whose_keys_are_gone_deletes_nothing() {
    let file = empty();
    let job = job(WriteMode::Overwrite);
    let rows = [upsert(&items(&job.table, &[item(1, "a", 1), item(2, "b", 1)]))];
    sync(&file, &job, &rows).await;
    let run = Run::open(&file, &job.clone().sweeping()).await;
    run.commit(&rows, 1).await;
    file.run("DROP TABLE _highwater_items_eb86332c_seen");
    let refused = run.try_finish().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Transient, "{refused}");
    assert_eq!(count(&visible(&file, &job).await), 2);
}
