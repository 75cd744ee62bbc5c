//! SQLite as source and destination: the embedded default.
//!
//! [`SqliteConnector`] is all that others see. `source.rs` and `read.rs` read; `destination.rs`,
//! `writer.rs` and `store.rs` write; `types.rs` says what a declared type means.

mod bind;
mod catalog;
mod config;
mod connection;
mod cursor;
mod destination;
mod dialect;
mod key_digests;
mod keyed;
mod read;
mod reader;
mod rebuild;
mod removal;
mod schema;
mod source;
mod store;
mod types;
mod upkeep;
mod writer;

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Result, Role, Source};
use serde_json::Value;

use crate::config::{Location, Spec};
use crate::destination::SqliteDestination;
use crate::source::SqliteSource;

/// The connector of kind `sqlite`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SqliteConnector;

#[async_trait]
impl Connector for SqliteConnector {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    fn url_schemes(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    fn spec_from_url(&self, url: &str, _role: Role) -> Result<Value> {
        Location::spec_from_url(url)
    }

    fn spec_schema(&self, _role: Role) -> Value {
        schemars::schema_for!(Spec).to_value()
    }

    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        Ok(Box::new(SqliteSource::new(&Spec::parse(spec)?)?))
    }

    async fn destination(&self, spec: Value) -> Result<Box<dyn Destination>> {
        Ok(Box::new(SqliteDestination::new(&Spec::parse(spec)?)?))
    }
}
