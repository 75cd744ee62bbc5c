//! PostgreSQL as a source and as a destination: binary COPY both ways.
//!
//! Start at [`PostgresConnector`]. Reading: `source` decides what is read, `horizon` what is new,
//! `read` runs the COPY, `tuples` and `decode` turn its bytes into Arrow. `types` and `catalog`
//! say what a table is. `conninfo`, `passfile`, `tls` and `session` are about the connection.

mod catalog;
mod config;
mod conninfo;
mod decode;
mod dialect;
mod encode;
mod horizon;
mod numeric;
mod passfile;
mod read;
mod session;
mod source;
mod store;
mod tls;
mod tuples;
mod types;

use async_trait::async_trait;
use highwater_core::{Connector, Result, Role, Source};
use serde_json::Value;

pub use config::{DestinationSpec, PgxLogLevel, SourceSpec};

/// PostgreSQL, and what speaks its protocol closely enough.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostgresConnector;

#[async_trait]
impl Connector for PostgresConnector {
    fn kind(&self) -> &'static str {
        "postgresql"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }

    fn url_schemes(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }

    fn spec_from_url(&self, url: &str, _role: Role) -> Result<Value> {
        config::from_url(url)
    }

    fn spec_schema(&self, role: Role) -> Value {
        config::schema(role)
    }

    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        let spec: SourceSpec = config::parse(spec)?;
        let target = config::target(spec.connection_string.as_ref())?;
        Ok(Box::new(source::PostgresSource::new(target, spec.all_schemas())))
    }
}
