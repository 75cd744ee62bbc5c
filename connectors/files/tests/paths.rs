//! Destinations that share a folder, and files that were there before.

use highwater_core::*;
use serde_json::{Value, json};

use crate::support::*;

fn rows() -> Folder {
    Folder::with(&[("t.csv", "u\n1\n2\n")])
}

async fn replace(from: Value, to: Value) -> Result<Done> {
    sync(from, to, ReadMode::FullRefresh, WriteMode::Replace).await
}

fn text(folder: &Folder, name: &str) -> String {
    std::fs::read_to_string(folder.path(name)).unwrap()
}

#[tokio::test]
async fn paths_in_one_folder_are_destinations_of_their_own() {
    let (from, out) = (rows(), Folder::new());
    let to = |name: &str| json!({ "path": out.path(name) });
    for name in ["monday.csv", "tuesday.csv"] {
        // Each gets every row: no cursor of another counts.
        let done = append(from.spec(), to(name)).await.unwrap();
        assert_eq!(done.committed.written, 2, "{name}");
        assert_eq!(append(from.spec(), to(name)).await.unwrap().committed.written, 0, "{name}");
    }
    replace(from.spec(), to("wednesday.csv")).await.unwrap();
    replace(from.spec(), to("wednesday.csv")).await.unwrap();
    assert_eq!(visible(out.0.path()), ["monday.csv", "tuesday.csv", "wednesday.csv"]);
    for name in visible(out.0.path()) {
        assert_eq!(text(&out, &name), "u\n1\n2\n", "{name}");
    }
    let monday = destination(to("monday.csv")).await;
    let store = monday.state_store().unwrap();
    assert_eq!(store.list().await.unwrap(), ["s"]);
    assert_eq!(store.look("s").await.unwrap().cursors.len(), 1);
    let friday = destination(to("friday.csv")).await;
    let store = friday.state_store().unwrap();
    assert!(store.list().await.unwrap().is_empty());
    assert_eq!(store.look("s").await.unwrap(), State::default());
    assert!(friday.describe(&[TableName::new("t")]).await.unwrap()[0].is_none());
}

#[tokio::test]
async fn a_file_that_is_not_of_this_sync_is_refused() {
    for mode in [WriteMode::Append, WriteMode::Replace] {
        let (from, out) = (rows(), Folder::with(&[("mine.csv", "precious\n")]));
        let to = json!({ "path": out.path("mine.csv") });
        // The plan refuses, and so does a run without one.
        let planned = destination(to.clone()).await.describe(&[TableName::new("t")]).await;
        let ran = sync(from.spec(), to.clone(), ReadMode::FullRefresh, mode).await;
        for error in [planned.err().unwrap(), ran.err().unwrap()] {
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert_eq!(error.message(), "The file exists and is not one of this sync");
            assert_eq!(error.context_value("key"), Some("path"));
            assert!(error.hint_text().is_some());
        }
        assert_eq!(visible(out.0.path()), ["mine.csv"]);
        assert_eq!(text(&out, "mine.csv"), "precious\n");
        std::fs::remove_file(out.path("mine.csv")).unwrap();
        sync(from.spec(), to, ReadMode::FullRefresh, mode).await.unwrap();
        assert_eq!(visible(out.0.path()), ["mine.csv"]);
    }
}

#[tokio::test]
async fn a_file_of_another_template_is_refused_too() {
    let (from, out) = (rows(), Folder::new());
    append(from.spec(), json!({ "path": out.path("t.csv") })).await.unwrap();
    let same = json!({ "path": out.path("{{TABLE}}.{{FORMAT}}"), "format": "csv" });
    let error = replace(from.spec(), same).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    // A name with `{{UUID}}` is never taken.
    let apart = json!({ "path": out.path("{{TABLE}}-{{UUID}}.csv") });
    replace(from.spec(), apart).await.unwrap();
    assert_eq!(visible(out.0.path()).len(), 2);
}

#[tokio::test]
async fn a_file_of_another_sync_is_refused() {
    let (from, out) = (rows(), Folder::new());
    let to = json!({ "path": out.path("t.csv") });
    append(from.spec(), to.clone()).await.unwrap();
    let destination = destination(to).await;
    let source = source(from.spec()).await;
    let tables = source.discover(None).await.unwrap();
    let mut plan = plan(tables, ReadMode::FullRefresh, WriteMode::Replace);
    plan.sync = "other".into();
    let store = destination.state_store().unwrap();
    let state = store.open("other", &request()).await.unwrap();
    let partition = source.partitions(&plan, &state).await.unwrap().remove(0);
    let refused = destination.writer(&plan, &partition, &state.fence.unwrap()).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Config);
    assert_eq!(store.list().await.unwrap(), ["other", "s"]);
}
