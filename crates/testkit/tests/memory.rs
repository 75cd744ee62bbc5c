//! The suites, run over the destination in memory: a suite that fails here is wrong itself.

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_core::{Destination, ErrorKind, Source, StateStore, TableName, WriteMode};
use highwater_testkit::harness::Harness;
use highwater_testkit::job::{Job, sync, try_sync, upsert, visible};
use highwater_testkit::memory::{Fault, Memory, Operation};
use highwater_testkit::rows::count;
use highwater_testkit::scripted::{Journal, ScriptedSource};
use highwater_testkit::tables::{item, item_table, items};

struct InMemory(Memory);

fn fresh() -> InMemory {
    InMemory(Memory::new("memory", Journal::default()))
}

#[async_trait]
impl Harness for InMemory {
    async fn source(&self) -> Box<dyn Source> {
        Box::new(ScriptedSource::new(Vec::new(), Vec::new(), Journal::default()))
    }

    async fn destination(&self) -> Box<dyn Destination> {
        Box::new(self.0.clone())
    }

    async fn drop_table(&self, table: &TableName) {
        self.0.drop_table(table);
    }

    async fn rows(&self, table: &TableName) -> Option<Vec<RecordBatch>> {
        self.0.rows(table)
    }
}

highwater_testkit::suites! { fresh() =>
    destination, append, overwrite, delete_stale, append_dedup, replace, state, schema,
    schema_by_key, types, types_by_key, many_tables, recreate, deletion, read_back,
    generation, rebuild, replace_dedup, sweep, compaction,
}

#[tokio::test]
async fn a_rejected_commit_is_not_there_and_one_with_a_lost_reply_is() {
    let harness = fresh();
    let job = Job::new(item_table("items"), WriteMode::Append);
    let rows = |id| upsert(&items(&item_table("items"), &[item(id, "a", 1)]));
    harness.0.fail(Operation::Commit, 2, Fault::Reject(ErrorKind::Transient));
    sync(&harness, &job, &[rows(1)]).await;
    let error = try_sync(&harness, &job, &[rows(2)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(count(&visible(&harness, &job).await), 1);
    harness.0.fail(Operation::Commit, 1, Fault::FailAfter(ErrorKind::Transient));
    assert!(try_sync(&harness, &job, &[rows(3)]).await.is_err());
    assert_eq!(count(&visible(&harness, &job).await), 2);
    assert!(harness.0.look("suite").await.unwrap().fence.is_none());
}
