//! Code for one system, as source, destination or both.

use async_trait::async_trait;
use serde_json::Value;

use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::source::Source;

/// Which side a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Rows come from it.
    Source,
    /// Rows go to it.
    Destination,
}

/// One system. The command line keeps all of them in one alphabetical registry.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Its name in `path:` and in documentation: `postgresql`.
    fn kind(&self) -> &'static str;

    /// Other names for it, among them the names of CloudQuery's plugins that it stands in for
    /// (without `cloudquery/`).
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it can be.
    fn roles(&self) -> &'static [Role] {
        &[Role::Source, Role::Destination]
    }

    /// Whether its sources may know by themselves what is new, so that a table is read
    /// incrementally although the user names no cursor.
    fn defines_cursors(&self) -> bool {
        false
    }

    /// The schemes of URLs that name such a system, without `://`.
    fn url_schemes(&self) -> &'static [&'static str];

    /// Turns a URL (or a path, for schemes that are one) into a `spec`.
    ///
    /// # Errors
    /// `Config` when the URL is not one of this system.
    fn spec_from_url(&self, url: &str, role: Role) -> Result<Value>;

    /// The JSON Schema of `spec` in this role, generated from the type that parses it.
    fn spec_schema(&self, role: Role) -> Value;

    /// Parses `spec` and makes a source. Connects to nothing yet.
    ///
    /// # Errors
    /// `Config` with a context pair `key` (a dotted path into `spec`) where a key is wrong;
    /// `Unsupported` when the system cannot be a source.
    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        let _ = spec;
        Err(Error::unsupported(format!("{} cannot be a source", self.kind())))
    }

    /// Parses `spec` and makes a destination. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Self::source`].
    async fn destination(&self, spec: Value) -> Result<Box<dyn Destination>> {
        let _ = spec;
        Err(Error::unsupported(format!("{} cannot be a destination", self.kind())))
    }
}
