//! The suites that every connector has to pass, over Parquet files.

use async_trait::async_trait;
use highwater_core::*;
use highwater_testkit::harness::Harness;
use highwater_testkit::job::{Change, Job, sync};
use serde_json::json;

use crate::support::{Folder, destination, source};

/// A new folder, and the format of the files in it.
pub struct Fresh(Folder, &'static str);

impl Fresh {
    pub fn new() -> Self {
        Self::of("parquet")
    }

    pub fn of(format: &'static str) -> Self {
        Self(Folder::new(), format)
    }
}

#[async_trait]
impl Harness for Fresh {
    async fn source(&self) -> Box<dyn Source> {
        source(json!({"path": self.0.path("")})).await
    }

    async fn destination(&self) -> Box<dyn Destination> {
        destination(json!({"path": self.0.path(""), "format": self.1})).await
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
    destination, append, replace, state, schema, types, many_tables, recreate, read_back, source,
    generation,
}

/// What text files hold comes back in the types that are asked for.
mod csv {
    use super::*;

    highwater_testkit::suites! { Fresh::of("csv") => many_tables, recreate, read_back }
}

/// The same for lines of JSON.
mod jsonl {
    use super::*;

    highwater_testkit::suites! { Fresh::of("jsonl") => many_tables, read_back }
}
