//! What the engine says while it works. The command line shows it; tests listen to it.

use highwater_core::{Committed, TableName};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A table's first partition starts.
    TableStarted {
        /// The source table.
        table: &'a TableName,
    },
    /// Rows were read.
    RowsRead {
        /// The source table.
        table: &'a TableName,
        /// How many, since the last such event.
        rows: u64,
    },
    /// A commit became durable.
    RowsCommitted {
        /// The source table.
        table: &'a TableName,
        /// The destination's name.
        destination: &'a str,
        /// What it did.
        committed: Committed,
    },
    /// A table is complete at a destination, or ended there without being complete.
    TableEnded {
        /// The source table.
        table: &'a TableName,
        /// The destination's name.
        destination: &'a str,
        /// Why it is not complete; `None` when it is.
        error: Option<&'a highwater_core::Error>,
    },
    /// Something the user should know that is no error.
    Notice {
        /// One sentence.
        message: &'a str,
    },
}

/// Listens to a run. Called from many tasks; must not block.
pub trait Observer: Send + Sync {
    /// Takes an event.
    fn event(&self, event: &Event<'_>);
}

/// Hears nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
