//! The suites that every connector passes, on a new database file per case.

use async_trait::async_trait;
use highwater_core::{Destination, Source, TableName};
use highwater_testkit::harness::Harness;

use crate::support::File;

#[async_trait]
impl Harness for File {
    async fn source(&self) -> Box<dyn Source> {
        File::source(self).await
    }

    async fn destination(&self) -> Box<dyn Destination> {
        File::destination(self).await
    }

    async fn drop_table(&self, table: &TableName) {
        self.run(&format!("DROP TABLE \"{}\"", table.name));
    }
}

/// The case is skipped, and says so, where there is no DuckDB.
macro_rules! file {
    () => {
        match File::new() {
            Some(file) => file,
            None => return,
        }
    };
}

highwater_testkit::suites! { file!() =>
    destination, append, overwrite, delete_stale, append_dedup, replace,
    state, schema, schema_by_key, types, types_by_key,
    many_tables, recreate, deletion, read_back,
    generation, rebuild, replace_dedup, sweep, compaction, key_digests,
    source, cursor,
}
