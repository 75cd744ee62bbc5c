//! Any system with an ADBC driver: what the standard promises for all of them, and no more.
//!
//! `config.rs` is what the user says, `system.rs` opens the driver and knows how the system spells
//! names, `types.rs` what its Arrow types mean, `catalog.rs` what it says of its tables.
//! `source.rs` and `cursor.rs` read; `destination.rs` and `ingest.rs` load rows in bulk.

mod catalog;
mod config;
mod cursor;
mod destination;
mod ingest;
mod source;
mod system;
mod types;

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Error, Result, Role, Source};
use serde_json::Value;

use config::Spec;
use destination::AdbcDestination;
use source::AdbcSource;

/// The connector of kind `adbc`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdbcConnector;

#[async_trait]
impl Connector for AdbcConnector {
    fn kind(&self) -> &'static str {
        "adbc"
    }

    fn url_schemes(&self) -> &'static [&'static str] {
        &[]
    }

    fn spec_from_url(&self, _url: &str, _role: Role) -> Result<Value> {
        Err(Error::config("A driver has no URL: its options stand in a file")
            .hint("path: adbc   # with spec: {driver: snowflake, options: {…}}"))
    }

    fn spec_schema(&self, _role: Role) -> Value {
        schemars::schema_for!(Spec).to_value()
    }

    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        Ok(Box::new(AdbcSource::new(Spec::parse(spec)?)))
    }

    async fn destination(&self, spec: Value) -> Result<Box<dyn Destination>> {
        Ok(Box::new(AdbcDestination::new(Spec::parse(spec)?)))
    }
}
