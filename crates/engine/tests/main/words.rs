//! What is said of a table, and that it is true: positions set by hand, types, notes.

use arrow_schema::{DataType, TimeUnit};
use highwater_core::{
    Cursor, CursorKey, Destination, Error, ErrorKind, LeaseRequest, MetadataColumns, Owner,
    StateStore, Table, TableName, WriteMode,
};
use highwater_engine::{Deletes, Outcome, plan};
use highwater_testkit::memory::Memory;
use highwater_testkit::scripted::Step;
use highwater_testkit::tables::TableChanges;
use serde_json::json;

use crate::bench::{Bench, upsert};

fn name() -> TableName {
    TableName::new("t")
}

async fn notes(bench: &Bench) -> Vec<String> {
    let planned = plan(&bench.source(), &bench.request).await.unwrap().remove(0);
    planned.plan.tables[&name()].notes.clone()
}

/// Why the plan leaves the table out.
async fn refused(bench: &Bench) -> Option<Error> {
    let planned = plan(&bench.source(), &bench.request).await.unwrap().remove(0);
    planned.refused.into_iter().next().map(|refused| refused.error)
}

async fn set_by_hand(memory: &Memory) {
    let store: &dyn StateStore = memory.state_store().unwrap();
    let request = LeaseRequest { owner: Owner::this_process(), take_over: false };
    let fence = store.open("shop", &request).await.unwrap().fence.unwrap();
    store.set(&fence, &CursorKey::Table(name()), Some(&Cursor(json!(5)))).await.unwrap();
    store.release(&fence).await.unwrap();
}

/// A position that was set before the first sync begins a table.
#[tokio::test]
async fn a_position_set_by_hand_starts_a_table() {
    let (bench, memory) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    set_by_hand(&memory).await;
    assert_eq!(bench.run().await.unwrap().outcome(), Outcome::Complete);
    assert!(memory.rows(&name()).is_some());
    // What was delivered and dropped is no new table, whatever was set.
    memory.drop_table(&name());
    set_by_hand(&memory).await;
    let summary = bench.run().await.unwrap();
    let failure = summary.destinations[0].tables[0].error.as_ref().unwrap();
    assert!(failure.message.contains("gone"), "{}", failure.message);
}

fn retyped(table: &Table) -> Table {
    table.clone().with_column(arrow_schema::Field::new("value", DataType::Boolean, true))
}

/// A type that has changed: what is read incrementally can be read into a new table.
#[tokio::test]
async fn a_changed_type_names_the_refresh_that_helps() {
    for (full, mode, words) in [
        (false, WriteMode::Append, "highwater refresh FILE t --remove`"),
        (false, WriteMode::AppendDedup, "t --remove`; its history begins anew"),
        (true, WriteMode::Append, "target: …"),
    ] {
        let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
        bench.request.tables[0].write_mode = Some(mode);
        if full {
            bench.full_refresh(mode);
        }
        bench.run().await.unwrap();
        bench.tables[0] = retyped(&bench.tables[0]);
        let planned = plan(&bench.source(), &bench.request).await.unwrap().remove(0);
        let error = &planned.refused[0].error;
        assert!(error.hint_text().unwrap().contains(words), "{}", error.full_message());
        assert!(error.full_message().contains("type needed"), "{}", error.full_message());
    }
}

/// A history that is begun when rows are there already does not know of them.
#[tokio::test]
async fn a_history_that_begins_now_is_noted() {
    let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.request.tables[0].write_mode = Some(WriteMode::Overwrite);
    bench.run().await.unwrap();
    bench.request.tables[0].write_mode = Some(WriteMode::AppendDedup);
    let begins = |notes: &[String]| notes.iter().any(|note| note.contains("history begins"));
    assert!(begins(&notes(&bench).await));
    bench.run().await.unwrap();
    assert!(!begins(&notes(&bench).await));
}

/// Columns that stay and are filled are not called NULL.
#[tokio::test]
async fn metadata_columns_that_stay_are_filled_on() {
    let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    bench.run().await.unwrap();
    bench.request.targets[0].metadata_columns = MetadataColumns::None;
    let notes = notes(&bench).await;
    assert!(notes.iter().any(|note| note.contains("filled on: _cq_source_name")), "{notes:?}");
    assert!(notes.iter().all(|note| !note.contains("NULL from now on")), "{notes:?}");
}

/// Rows are stale by the stamps of the sync that brought them. Without these columns nothing is
/// copied; what is read incrementally has no stale rows and does without.
#[tokio::test]
async fn stale_rows_need_the_columns_that_tell_them() {
    let (mut bench, memory) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.request.tables[0].write_mode = Some(WriteMode::OverwriteDeleteStale);
    assert!(refused(&bench).await.is_none());
    bench.full_refresh(WriteMode::OverwriteDeleteStale);
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    assert!(refused(&bench).await.is_none());
    for columns in [MetadataColumns::None, MetadataColumns::Airbyte] {
        bench.request.targets[0].metadata_columns = columns;
        let error = refused(&bench).await.unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint_text().unwrap().contains("metadata_columns: cloudquery"), "{error}");
    }
    assert_eq!(bench.run().await.unwrap().outcome(), Outcome::Failed);
    assert!(memory.rows(&name()).is_none());
}

/// The stamps of another sync, which the source table has, do not tell what this one has brought.
#[tokio::test]
async fn stamps_of_the_source_do_not_tell_stale_rows() {
    let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.full_refresh(WriteMode::OverwriteDeleteStale);
    for (stamp, data_type) in [
        ("_cq_sync_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ("_cq_source_name", DataType::Utf8),
    ] {
        let field = arrow_schema::Field::new(stamp, data_type, true);
        bench.tables[0] = bench.tables[0].clone().with_column(field);
    }
    assert!(refused(&bench).await.is_some());
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    assert!(refused(&bench).await.is_none());
}

/// Columns that earlier syncs have made are filled on, and tell stale rows.
#[tokio::test]
async fn stamps_that_stay_tell_stale_rows() {
    let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
    bench.full_refresh(WriteMode::OverwriteDeleteStale);
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    bench.run().await.unwrap();
    bench.request.targets[0].metadata_columns = MetadataColumns::None;
    assert_eq!(bench.run().await.unwrap().outcome(), Outcome::Complete);
}

/// Who plans a refresh that removes rows hears that the history goes too.
#[tokio::test]
async fn a_refresh_that_takes_the_history_says_so() {
    for mode in [WriteMode::AppendDedup, WriteMode::Overwrite] {
        for removes in [true, false] {
            let (mut bench, memory) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
            bench.request.tables[0].write_mode = Some(mode);
            bench.run().await.unwrap();
            let store: &dyn StateStore = memory.state_store().unwrap();
            let request = LeaseRequest { owner: Owner::this_process(), take_over: false };
            let fence = store.open("shop", &request).await.unwrap().fence.unwrap();
            store.refresh(&fence, &name(), removes).await.unwrap();
            store.release(&fence).await.unwrap();
            let is_said = notes(&bench).await.iter().any(|note| note.contains("history goes"));
            assert_eq!(is_said, removes && mode == WriteMode::AppendDedup, "{mode} {removes}");
        }
    }
}

/// A table that somebody else has filled is not replaced without a word.
#[tokio::test]
async fn a_table_of_somebody_else_is_said_to_be_replaced() {
    let is_said = |notes: Vec<String>| notes.iter().any(|note| note.contains("rows are replaced"));
    for mode in [WriteMode::Replace, WriteMode::ReplaceDedup, WriteMode::Overwrite] {
        let is_replaced = mode != WriteMode::Overwrite;
        let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
        bench.full_refresh(mode);
        bench.request.tables[0].cursor = Some("updated_at".into());
        assert!(!is_said(notes(&bench).await), "{mode}: there is no table yet");
        bench.run().await.unwrap();
        assert!(!is_said(notes(&bench).await), "{mode}: the sync has made it");
        bench.request.sync = "other".into();
        assert_eq!(is_said(notes(&bench).await), is_replaced, "{mode}");
    }
}

/// A sweep that deletes says nothing of rows that stay.
#[tokio::test]
async fn deletions_by_a_sweep_are_not_said_to_stay() {
    for deletes in [None, Some(Deletes::Reconcile)] {
        let (mut bench, _) = Bench::new(vec![upsert(0..3), Step::Checkpoint]);
        bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
        bench.request.tables[0].write_mode = Some(WriteMode::OverwriteDeleteStale);
        bench.request.tables[0].deletes = deletes;
        let notes = notes(&bench).await;
        let stay = notes.iter().any(|note| note.contains("stay at the destination"));
        assert_eq!(stay, deletes.is_none(), "{notes:?}");
    }
}
