//! Connections of a destination.

use std::sync::Arc;

use highwater_core::{Fence, Result};

use crate::conninfo::Target;
use crate::session::{Session, quote};
use crate::store::writer_name;

/// Opens the sessions of a destination.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Inner>);

struct Inner {
    target: Target,
    /// The schema that tables are written into, where it is configured.
    schema: Option<String>,
}

impl Connector {
    pub(crate) fn new(target: Target, schema: Option<String>) -> Self {
        Self(Arc::new(Inner { target, schema }))
    }

    pub(crate) fn schema(&self) -> Option<&str> {
        self.0.schema.as_deref()
    }

    /// A session.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn session(&self) -> Result<Session> {
        self.open(None).await
    }

    /// A session under a fence: a newer run finds it by its name and ends it.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn writer_session(&self, fence: &Fence) -> Result<Session> {
        self.open(Some(writer_name(fence))).await
    }

    async fn open(&self, name: Option<String>) -> Result<Session> {
        // Types without a schema are found where the tables are, then in `public`.
        let path = self.schema().map(|schema| format!("{}, public", quote(schema)));
        let settings = [("search_path", path), ("application_name", name)];
        let settings: Vec<(&str, &str)> =
            settings.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))).collect();
        Session::open(&self.0.target, &settings).await
    }
}
