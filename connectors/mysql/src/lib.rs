//! MySQL and MariaDB as a source.
//!
//! [`MysqlConnector`] is all that others see. `source.rs` reads, `horizon.rs` says up to where a
//! cursor may move, `types.rs` says which column is which type.

mod catalog;
mod config;
mod horizon;
mod reader;
mod session;
mod source;
mod types;

use async_trait::async_trait;
use highwater_core::{Connector, Result, Role, Source};
use serde_json::{Value, json};

use crate::config::Spec;
use crate::source::MysqlSource;

/// The connector of kind `mysql`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MysqlConnector;

#[async_trait]
impl Connector for MysqlConnector {
    fn kind(&self) -> &'static str {
        "mysql"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["mysql", "mariadb"]
    }

    fn roles(&self) -> &'static [Role] {
        &[Role::Source]
    }

    fn url_schemes(&self) -> &'static [&'static str] {
        &["mysql", "mariadb"]
    }

    fn spec_from_url(&self, url: &str, _role: Role) -> Result<Value> {
        let url =
            url.strip_prefix("mariadb:").map_or(url.to_owned(), |rest| format!("mysql:{rest}"));
        config::options(&url)?;
        Ok(json!({ "connection_string": url }))
    }

    fn spec_schema(&self, _role: Role) -> Value {
        schemars::schema_for!(Spec).to_value()
    }

    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        Ok(Box::new(MysqlSource::new(Spec::parse(spec)?.options()?)))
    }
}
