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
    /// When it began, as RFC 3339 in UTC.
    #[serde(serialize_with = "as_rfc3339")]
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
    /// Of these, rows that the user's filters left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows_filtered: u64,
    /// Of these, rows that went into the quarantine, because a mapping failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows_quarantined: u64,
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
    /// Whether it came from the source: then it is the same at every destination.
    #[serde(skip)]
    pub from_source: bool,
    /// Whether all rows of its table are committed all the same.
    #[serde(skip)]
    pub rows_committed: bool,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.full_message(),
            hint: error.hint_text().map(str::to_owned),
            from_source: false,
            rows_committed: false,
        }
    }
}

/// Most tables have no mappings: their summaries say nothing of them.
fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

fn as_rfc3339<S: serde::Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&at.to_rfc3339())
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
    /// What was done is committed, but tables failed or rows went into the quarantine.
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
        let quarantined = tables().any(|t| t.rows_quarantined > 0);
        if failures.is_empty() && !quarantined && tables().all(|t| t.complete) {
            return Outcome::Complete;
        }
        let is_durable = |f: &&Failure| f.rows_committed && f.kind == ErrorKind::Data;
        if complete > 0 || failures.iter().any(is_durable) {
            return Outcome::Partial;
        }
        if !failures.is_empty() && failures.iter().all(|f| f.kind == ErrorKind::Transient) {
            return Outcome::TryLater;
        }
        Outcome::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, error: Option<ErrorKind>) -> TableSummary {
        TableSummary {
            table: TableName::new(name),
            target: TableName::new(name),
            read_mode: ReadMode::FullRefresh,
            write_mode: WriteMode::Append,
            guarantee: Guarantee::ExactlyOnce,
            rows_read: 0,
            rows_filtered: 0,
            rows_quarantined: 0,
            rows_written: 0,
            rows_unchanged: 0,
            rows_deleted: 0,
            duration_ms: 0,
            complete: error.is_none(),
            error: error.map(|kind| Failure::from(&Error::new(kind, "It failed"))),
            notes: Vec::new(),
        }
    }

    fn outcome(interrupted: bool, tables: Vec<TableSummary>) -> Outcome {
        let destinations =
            vec![DestinationSummary { destination: "d".into(), error: None, tables }];
        let summary = Summary {
            sync: "s".into(),
            sync_id: "1".into(),
            started_at: Instant(0),
            duration_ms: 0,
            interrupted,
            destinations,
        };
        summary.outcome()
    }

    #[test]
    fn a_run_with_a_failed_table_is_never_a_success() {
        let good = || table("good", None);
        assert_eq!(outcome(false, vec![good()]), Outcome::Complete);
        assert_eq!(outcome(false, vec![]), Outcome::Complete);
        for kind in [ErrorKind::Data, ErrorKind::Schema, ErrorKind::Transient] {
            assert_eq!(outcome(false, vec![good(), table("bad", Some(kind))]), Outcome::Partial);
        }
        let only = |kind| outcome(false, vec![table("bad", Some(kind))]);
        assert_eq!(only(ErrorKind::Data), Outcome::Failed);
        assert_eq!(only(ErrorKind::Transient), Outcome::TryLater);
        let fenced = table("bad", Some(ErrorKind::Fenced));
        assert_eq!(outcome(true, vec![good(), fenced]), Outcome::TryLater);
        let unfinished = TableSummary { complete: false, ..good() };
        assert_eq!(outcome(true, vec![good(), unfinished.clone()]), Outcome::Interrupted);
        let quarantined = TableSummary { rows_quarantined: 1, ..good() };
        assert_eq!(outcome(false, vec![good(), quarantined.clone()]), Outcome::Partial);
        assert_eq!(outcome(false, vec![quarantined]), Outcome::Partial);
        // A table that is not complete for no reason that anybody gave is no success either.
        assert_eq!(outcome(false, vec![unfinished]), Outcome::Failed);
    }
}
