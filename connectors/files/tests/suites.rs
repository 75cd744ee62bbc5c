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

highwater_testkit::suites! { Fresh::new() => destination, append, replace, state, source }

/// The cases of other suites that need no write mode which files do not have.
macro_rules! cases {
    ($suite:ident: $($case:ident,)*) => {
        mod $suite {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    highwater_testkit::suites::$suite::$case(&Fresh::new()).await;
                }
            )*
        }
    };
}

cases! { types:
    every_type_comes_back,
    columns_are_described_as_announced,
    hard_values_are_kept_or_refused,
    a_type_that_nothing_stores_is_refused,
}

cases! { schema:
    a_new_column_comes_with_its_first_rows,
    an_abandoned_run_leaves_the_columns,
    not_null_is_taken_away,
    a_migration_adds_a_column,
    a_type_is_widened_where_nothing_is_lost,
}
