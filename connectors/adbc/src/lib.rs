//! Systems that are reached through ADBC drivers, loaded at run time: DuckDB as source and
//! destination with everything that it can, any other driver with what the standard promises.
//!
//! `driver.rs` finds and loads the shared library, `session.rs` is a connection, `errors.rs` says
//! what a driver's errors mean. `duckdb/` is DuckDB as a destination, `source/` as a source.

mod driver;
mod duckdb;
mod errors;
mod generic;
mod session;
mod source;
#[doc(hidden)]
pub mod testing;

pub use generic::AdbcConnector;

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Result, Role, Source};
use serde_json::Value;

use crate::duckdb::config::{Location, Spec};
use crate::duckdb::destination::DuckDbDestination;
use crate::source::DuckDbSource;

/// The connector of kind `duckdb`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DuckDbConnector;

#[async_trait]
impl Connector for DuckDbConnector {
    fn kind(&self) -> &'static str {
        "duckdb"
    }

    fn url_schemes(&self) -> &'static [&'static str] {
        &["duckdb"]
    }

    fn spec_from_url(&self, url: &str, _role: Role) -> Result<Value> {
        Location::spec_from_url(url)
    }

    fn spec_schema(&self, _role: Role) -> Value {
        schemars::schema_for!(Spec).to_value()
    }

    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        Ok(Box::new(DuckDbSource::new(&Spec::parse(spec)?)?))
    }

    async fn destination(&self, spec: Value) -> Result<Box<dyn Destination>> {
        Ok(Box::new(DuckDbDestination::new(&Spec::parse(spec)?)?))
    }
}
