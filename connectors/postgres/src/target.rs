//! Connections of a destination.

use highwater_core::{Fence, Result};

use crate::conninfo::Target;
use crate::pool::Pool;
use crate::session::{Session, quote};
use crate::store::writer_name;

/// Opens the sessions of a destination.
#[derive(Clone)]
pub(crate) struct Connector {
    pool: Pool,
    /// The schema that tables are written into, where it is configured.
    schema: Option<String>,
}

impl Connector {
    pub(crate) fn new(target: Target, schema: Option<String>) -> Self {
        // Types without a schema are found where the tables are, then in `public`.
        let path = schema.as_ref().map(|schema| format!("{}, public", quote(schema)));
        let settings = path.map(|path| ("search_path", path)).into_iter().collect();
        Self { pool: Pool::new(target, settings), schema }
    }

    pub(crate) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// A session.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn session(&self) -> Result<Session> {
        self.pool.session(None).await
    }

    /// A session under a fence: a newer run finds it by its name and ends it.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn writer_session(&self, fence: &Fence) -> Result<Session> {
        self.pool.session(Some(&writer_name(fence))).await
    }

    /// Closes the sessions that nobody uses.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}
