//! Cursors of our own sources as rows at a destination plugin: found again, fenced as well as it
//! goes, and refused where a plugin has no memory.

use std::time::Duration;

use highwater_core::{
    Checkpoint, Cursor, CursorKey, Destination, ErrorKind, Owner, StateStore, TableName,
    TableRecord, WriteMode,
};
use highwater_testkit::job::{Job, Run};
use serde_json::json;

use crate::destination::{Told, is_state, request, two_items};

fn store(destination: &dyn Destination) -> &dyn StateStore {
    destination.state_store().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_records_are_found_by_the_next_run() {
    let told = Told::new("");
    let (table, rows) = two_items();
    let job = Job::new(table.clone(), WriteMode::Overwrite).by_cursor("updated_at");
    let run = told.open(&job).await;
    assert_eq!((run.fence.epoch, run.state.cursors.len()), (1, 0));
    run.commit(std::slice::from_ref(&rows), 7).await;
    run.commit(&[rows], 9).await;
    run.finish().await;
    let started_at = run.plan.started_at;
    run.release().await;

    let looked = store(&told.plugin()).look("suite").await.unwrap();
    assert_eq!(looked.fence, None);
    assert!(looked.lease.unwrap().released);

    let run = told.open(&job).await;
    assert_eq!(run.fence.epoch, 2);
    assert_eq!(run.state.table_cursor(&table.name), Some(&Cursor(json!(9))));
    let record = &run.state.tables[&table.name];
    assert_eq!(record.columns, table.column_names().collect::<Vec<_>>());
    assert_eq!((record.finished_epoch, record.finished_at), (Some(1), Some(started_at)));
    assert_eq!(store(run.destination.as_ref()).list().await.unwrap(), ["suite"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_plugin_without_state_changes_nothing() {
    for words in ["", "no-read", "broken-read"] {
        let told = Told::new(words);
        let plugin = told.plugin();
        assert_eq!(store(&plugin).look("suite").await.unwrap(), Default::default());
        assert!(store(&plugin).list().await.unwrap().is_empty());
        assert!(told.journal().iter().all(|line| line["stream"].is_null()), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_overtaken_commits_nothing_more() {
    let told = Told::new("");
    let (table, rows) = two_items();
    let job = Job::new(table.clone(), WriteMode::OverwriteDeleteStale);
    let old = told.open(&job).await;
    old.commit(std::slice::from_ref(&rows), 1).await;
    let live = Run::try_open(&told, &job, &request(false)).await.err().unwrap();
    assert_eq!(live.kind(), ErrorKind::Fenced);

    let new = told.open(&job).await;
    assert_eq!(new.fence.epoch, 2);
    assert_eq!(old.try_commit(&[], 5).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old.try_finish().await.unwrap_err().kind(), ErrorKind::Fenced);
    let old_store = store(old.destination.as_ref());
    let cursors = old.checkpoint(5);
    assert_eq!(old_store.save(&old.fence, &cursors).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old_store.release(&old.fence).await.unwrap_err().kind(), ErrorKind::Fenced);
    new.commit(&[rows], 3).await;
    new.release().await;
    let run = told.open(&job).await;
    assert_eq!(run.state.table_cursor(&table.name), Some(&Cursor(json!(3))));
    let sent = told.journal();
    assert!(sent.iter().all(|line| line["message"] != "delete_stale"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_are_set_and_forgotten_by_hand() {
    let told = Told::new("");
    let plugin = told.plugin();
    let store = store(&plugin);
    let fence = store.open("s", &request(false)).await.unwrap().fence.unwrap();
    let name = TableName::in_namespace("shop", "t");
    let part = CursorKey::Partition(name.clone(), "a/b".into());
    let whole = CursorKey::Table(name.clone());
    let record = TableRecord { rows_total: 5, ..TableRecord::default() };
    store.save_table(&fence, &name, &record).await.unwrap();
    for key in [&part, &whole, &CursorKey::Global] {
        store.set(&fence, key, Some(&Cursor(json!({"at": 1})))).await.unwrap();
    }
    let mut cursors = store.look("s").await.unwrap().cursors;
    assert_eq!(cursors.keys().collect::<Vec<_>>(), [&CursorKey::Global, &whole, &part]);
    assert_eq!(store.look("s").await.unwrap().tables[&name], record);
    store.set(&fence, &whole, None).await.unwrap();
    cursors.remove(&whole);
    let state = store.look("s").await.unwrap();
    assert_eq!((state.cursors, state.tables.len()), (cursors, 0));
    assert_eq!(store.look("other").await.unwrap(), Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_now_and_then() {
    let told = Told::new("");
    let plugin = told.plugin();
    let store = store(&plugin);
    let fence = store.open("s", &request(false)).await.unwrap().fence.unwrap();
    let before = told.journal().len();
    store.renew(&fence).await.unwrap();
    assert_eq!(told.journal().len(), before, "it has just been taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_process_that_is_gone_is_taken() {
    let told = Told::new("");
    let plugin = told.plugin();
    let gone = Owner { start_ticks: 1, ..Owner::this_process() };
    let lease = highwater_core::LeaseRequest { owner: gone, take_over: false };
    store(&plugin).open("s", &lease).await.unwrap();
    let state = store(&told.plugin()).open("s", &request(false)).await.unwrap();
    assert_eq!(state.fence.unwrap().epoch, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_memory_takes_full_refreshes_and_refuses_cursors() {
    let (table, rows) = two_items();
    for words in ["no-read", "broken-read", "hanging-read"] {
        let mut told = Told::new(words);
        if words == "hanging-read" {
            told.read_patience = Duration::from_millis(300);
        }
        let run = told.open(&Job::new(table.clone(), WriteMode::Overwrite)).await;
        assert_eq!(run.fence.epoch, 1);
        let mut writer = run.writer().await;
        let highwater_testkit::job::Change(op, rows) = &rows;
        writer.write(run.batch(*op, rows)).await.unwrap();
        writer.commit(&Checkpoint::default()).await.unwrap();
        run.finish().await;
        let error = run.try_commit(&[], 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.hint_text().unwrap().contains("@@plugins.NAME.connection"), "{words}");
        store(run.destination.as_ref()).renew(&run.fence).await.unwrap();
        run.release().await;
        let written = told.journal().into_iter().filter(is_state);
        let written: Vec<_> = written.filter(|line| line["message"] == "insert").collect();
        assert!(written.is_empty(), "{words}: {written:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_table_is_refused_before_it_is_copied_where_there_is_no_memory() {
    let told = Told::new("no-read");
    let (table, _) = two_items();
    let run = told.open(&Job::new(table, WriteMode::Append).by_cursor("updated_at")).await;
    let writer = run.destination.writer(&run.plan, &run.partition, &run.fence).await;
    let error = writer.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("backend_options"));
    assert!(told.sent().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_rows_cannot_be_read_says_where_to_keep_cursors() {
    let mut told = Told::new("hanging-read");
    told.read_patience = Duration::from_millis(300);
    let plugin = told.plugin();
    let (output, _messages) = highwater_core::Output::bounded(1, Default::default());
    let error = plugin.read(&two_items().0, output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("backend_options"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_dies_is_not_one_without_memory() {
    let told = Told::new("die-after=1");
    let error = store(&told.plugin()).open("s", &request(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
}

/// The cases of the suite for state that hold without transactions. Those left out want that rows
/// are taken back, that one of several runs that begin in the same moment is always chosen, that
/// every renewal looks, and that a table which was made anew is known by its looks.
macro_rules! suite {
    ($($case:ident,)*) => {
        mod suite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    let told = crate::destination::Told::new("");
                    highwater_testkit::suites::state::$case(&told).await;
                }
            )*
        }
    };
}

suite! {
    looking_changes_nothing,
    every_run_gets_the_next_fence,
    a_second_run_waits_for_the_first,
    the_lease_of_a_dead_process_is_taken,
    the_lease_is_shown,
    every_cursor_comes_back,
    cursors_can_be_kept_apart_from_the_data,
    a_cursor_is_set_and_reset_by_hand,
    two_syncs_work_side_by_side,
}
