//! The suites of the testkit over PostgreSQL, as source and as destination.

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Source, TableName};
use highwater_postgres::PostgresConnector;
use highwater_testkit::harness::Harness;
use highwater_testkit::postgres::Database;
use serde_json::json;

use crate::server;

/// A database, as both sides see it.
pub struct System {
    database: Database,
    url: String,
}

impl System {
    /// A new database.
    fn fresh() -> Self {
        let database = server::database();
        Self { url: database.url().to_owned(), database }
    }

    /// A database by another URL than its own: through a proxy, for example.
    pub fn at(database: &Database, url: String) -> Self {
        Self { database: database.clone(), url }
    }

    fn spec(&self) -> serde_json::Value {
        json!({"connection_string": self.url})
    }
}

#[async_trait]
impl Harness for System {
    async fn source(&self) -> Box<dyn Source> {
        PostgresConnector.source(self.spec()).await.unwrap()
    }

    async fn destination(&self) -> Box<dyn Destination> {
        PostgresConnector.destination(self.spec()).await.unwrap()
    }

    async fn drop_table(&self, table: &TableName) {
        let schema = table.namespace.as_deref().unwrap_or("public");
        self.database.execute(&format!("DROP TABLE \"{schema}\".\"{}\"", table.name));
    }
}

highwater_testkit::suites! { System::fresh() =>
    destination, append, overwrite, delete_stale, append_dedup, replace, replace_dedup,
    generation, rebuild, sweep, compaction, key_digests, state, schema, schema_by_key, types, types_by_key,
    many_tables, recreate, deletion, read_back,
    source, cursor,
}
