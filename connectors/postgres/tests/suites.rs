//! The suites of the testkit over PostgreSQL, as source and as destination.

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Source, TableName};
use highwater_postgres::PostgresConnector;
use highwater_testkit::harness::Harness;
use highwater_testkit::postgres::Database;
use serde_json::json;

use crate::server;

/// A new database for every case.
struct Fresh(Database);

impl Fresh {
    fn new() -> Self {
        Self(server::database())
    }

    fn spec(&self) -> serde_json::Value {
        json!({"connection_string": self.0.url()})
    }
}

#[async_trait]
impl Harness for Fresh {
    async fn source(&self) -> Box<dyn Source> {
        PostgresConnector.source(self.spec()).await.unwrap()
    }

    async fn destination(&self) -> Box<dyn Destination> {
        PostgresConnector.destination(self.spec()).await.unwrap()
    }

    async fn drop_table(&self, table: &TableName) {
        let schema = table.namespace.as_deref().unwrap_or("public");
        self.0.execute(&format!("DROP TABLE \"{schema}\".\"{}\"", table.name));
    }
}

highwater_testkit::suites! { Fresh::new() =>
    destination, append, overwrite, delete_stale, append_dedup, replace, state, schema, types,
    source, cursor,
}
