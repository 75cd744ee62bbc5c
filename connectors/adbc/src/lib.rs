//! Systems that are reached through ADBC drivers, loaded at run time: DuckDB as source and
//! destination with everything that it can, any other driver with what the standard promises.
//!
//! `driver.rs` finds and loads the shared library, `session.rs` is a connection, `errors.rs` says
//! what a driver's errors mean. `duckdb/` is DuckDB as a destination, `source/` as a source.

mod driver;
mod duckdb;
mod errors;
mod session;
mod source;

use async_trait::async_trait;
use highwater_core::{Connector, Result, Role};
use serde_json::Value;

use crate::duckdb::config::{Location, Spec};

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
}
