//! What a sync did: numbers per table, and the outcome that decides the exit code.

use highwater_core::{
    Committed, Error, ErrorKind, Guarantee, Instant, ReadMode, TableName, WriteMode,
};
use serde::Serialize;

/// What a sync did at every destination.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The sync.
    pub sync: String,
    /// This run.
    pub sync_id: String,
    /// When it began.
    pub started_at: Instant,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Whether it was asked to stop before its end.
    pub interrupted: bool,
    /// One entry per destination.
    pub destinations: Vec<DestinationSummary>,
}

/// What a sync did at one destination.
#[derive(Debug, Clone, Serialize)]
pub struct DestinationSummary {
    /// Its name.
    pub destination: String,
    /// Why nothing could be done here at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// One entry per table, by source table name.
    pub tables: Vec<TableSummary>,
}

/// What a sync did to one table.
#[derive(Debug, Clone, Serialize)]
pub struct TableSummary {
    /// The source table.
    pub table: TableName,
    /// The destination table.
    pub target: TableName,
    /// How it was read.
    pub read_mode: ReadMode,
    /// How it was written.
    pub write_mode: WriteMode,
    /// What its delivery is worth, as a word: `exactly_once`, `effectively_once(id)`.
    #[serde(serialize_with = "as_text")]
    pub guarantee: Guarantee,
    /// Rows that the source sent.
    pub rows_read: u64,
    /// Rows added or changed at the destination.
    pub rows_written: u64,
    /// Rows that were there already.
    pub rows_unchanged: u64,
    /// Rows removed at the destination.
    pub rows_deleted: u64,
    /// From its first read to its end, in milliseconds.
    pub duration_ms: u64,
    /// Whether everything there was to do was done and is durable.
    pub complete: bool,
    /// Why it is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl TableSummary {
    pub(crate) fn add(&mut self, committed: Committed) {
        self.rows_written += committed.written;
        self.rows_unchanged += committed.unchanged;
        self.rows_deleted += committed.deleted;
    }
}

/// An error as it is reported.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// What can be done about it.
    #[serde(serialize_with = "kind_word")]
    pub kind: ErrorKind,
    /// Message, context and causes.
    pub message: String,
    /// One thing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.full_message(),
            hint: error.hint_text().map(str::to_owned),
        }
    }
}

fn as_text<S: serde::Serializer>(guarantee: &Guarantee, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(guarantee)
}

fn kind_word<S: serde::Serializer>(kind: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match kind {
        ErrorKind::Config => "config",
        ErrorKind::Transient => "transient",
        ErrorKind::Schema => "schema",
        ErrorKind::Data => "data",
        ErrorKind::Fenced => "fenced",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Interrupted => "interrupted",
        ErrorKind::Internal => "internal",
    })
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every table is complete at every destination.
    Complete,
    /// What was done is committed, but tables failed.
    Partial,
    /// Nothing was completed.
    Failed,
    /// Another run is at work, or a system was out of reach: the same command may succeed later.
    TryLater,
    /// Stopped on request after a clean commit.
    Interrupted,
}

impl Summary {
    /// How the run ended: a fenced run never counts as anything else, and a run with a failed
    /// table is never complete.
    pub fn outcome(&self) -> Outcome {
        let tables = || self.destinations.iter().flat_map(|d| &d.tables);
        let failures: Vec<&Failure> = self
            .destinations
            .iter()
            .filter_map(|d| d.error.as_ref())
            .chain(tables().filter_map(|t| t.error.as_ref()))
            .collect();
        let complete = tables().filter(|t| t.complete).count();
        if failures.iter().any(|f| f.kind == ErrorKind::Fenced) {
            return Outcome::TryLater;
        }
        if self.interrupted {
            return Outcome::Interrupted;
        }
        if failures.is_empty() && tables().all(|t| t.complete) {
            return Outcome::Complete;
        }
        if complete > 0 {
            return Outcome::Partial;
        }
        if !failures.is_empty() && failures.iter().all(|f| f.kind == ErrorKind::Transient) {
            return Outcome::TryLater;
        }
        Outcome::Failed
    }
}
