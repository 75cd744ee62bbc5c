//! PostgreSQL as a source and as a destination: binary COPY both ways.
//!
//! Start at [`PostgresConnector`]. Reading: `source` decides what is read, `horizon` what is new,
//! `first_load` in which rounds a large table is read, `read` runs the COPY, `tuples` and `decode` turn its bytes into Arrow. Writing: `destination`
//! answers the engine, `writer` takes rows and commits them, `load` and `encode` send them,
//! `changes` alters tables, `rebuild` and `keys` make new ones, `upkeep` looks after whole tables,
//! `store` keeps the state. `types`, `stored` and `catalog` say what a table is. `conninfo`, `passfile`, `tls` and `session` are
//! about the connection, `wire` reads large results from it, `refusal` and `rights` say what an
//! error of the server means.

mod begin;
mod catalog;
mod changes;
mod config;
mod conninfo;
mod decode;
mod destination;
mod dialect;
mod encode;
mod first_load;
mod fit;
mod horizon;
mod key_digests;
mod keys;
mod load;
#[doc(hidden)]
pub mod measured;
mod names;
mod numeric;
mod outcome;
mod passfile;
mod pool;
mod read;
mod read_back;
mod rebuild;
mod refusal;
mod rights;
mod session;
mod source;
mod storage;
mod store;
mod stored;
mod target;
mod tls;
mod tuples;
mod types;
mod typmod;
mod upkeep;
mod wire;
mod writer;

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Error, Result, Role, Source};
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
        Ok(Box::new(source::PostgresSource::new(target, spec.all_schemas(), spec.pace())))
    }

    async fn destination(&self, spec: Value) -> Result<Box<dyn Destination>> {
        let spec: DestinationSpec = config::parse(spec)?;
        if spec.pgvector_config.is_some() {
            return Err(Error::unsupported(
                "`pgvector_config` is not supported: no embeddings are made",
            )
            .context("key", "pgvector_config"));
        }
        let target = config::target(spec.connection_string.as_ref())?;
        Ok(Box::new(destination::PostgresDestination::new(target, spec.schema)))
    }
}
