//! The suites that every connector has to pass, over Parquet files.

use async_trait::async_trait;
use highwater_core::*;
use highwater_testkit::harness::Harness;
use highwater_testkit::job::{Change, Job, sync};
use serde_json::json;

use crate::support::{Folder, destination, source};

/// A new folder.
struct Fresh(Folder);

impl Fresh {
    fn new() -> Self {
        Self(Folder::new())
    }
}

#[async_trait]
impl Harness for Fresh {
    async fn source(&self) -> Box<dyn Source> {
        source(json!({"path": self.0.path("")})).await
    }

    async fn destination(&self) -> Box<dyn Destination> {
        destination(json!({"path": self.0.path("")})).await
    }

    /// Files have no keys: rows are added.
    async fn fill(&self, table: &Table, change: &Change) {
        let job = Job::new(table.clone(), WriteMode::Append).of_sync("fill");
        sync(self, &job, std::slice::from_ref(change)).await;
    }

    async fn drop_table(&self, table: &TableName) {
        std::fs::remove_dir_all(self.0.path(&table.name)).unwrap();
    }
}

highwater_testkit::suites! { Fresh::new() =>
    destination, append, replace, state, schema, types, source,
}
