//! Sessions that read side by side in one snapshot. The first of them has taken it, and keeps it
//! from ending.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::{Completion, Error, Output, Result, TablePlan};
use tokio::task::JoinSet;

use super::pages::Range;
use crate::begin::SNAPSHOT;
use crate::catalog::{self, Relation, get};
use crate::read::{self, Filter};
use crate::session::{Session, literal};
use crate::source::{self, PostgresSource};
use crate::types::Wire;

/// A range is to be read by its pages, in this session alone.
const BY_PAGES: &str = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
                        SET LOCAL max_parallel_workers_per_gather = 0";

/// What is read of a table.
pub(super) struct Work {
    pub(super) table: Arc<TablePlan>,
    pub(super) relation: Relation,
    pub(super) wires: Vec<Wire>,
    /// Expressions after the columns, for the filter.
    pub(super) hidden: Vec<String>,
    /// What a row has to fulfil, wherever it is.
    pub(super) condition: Option<String>,
}

impl Work {
    pub(super) fn statement(&self, range: Range) -> String {
        let conditions: Vec<String> =
            range.condition().into_iter().chain(self.condition.clone()).collect();
        let condition = (!conditions.is_empty()).then(|| conditions.join(" AND "));
        read::copy_statement(
            &self.table.source,
            &self.wires,
            &self.hidden,
            &self.relation,
            condition.as_deref(),
        )
    }
}

type Pieces = Arc<Mutex<VecDeque<Range>>>;

/// The sessions. Dropping them ends what they read.
pub(super) struct Readers(Vec<Session>);

impl Readers {
    /// The session that has taken the snapshot, and up to `count` in all. Where the server takes
    /// no more of them, fewer read. `by_pages`: ranges are read, not the table in one piece.
    ///
    /// # Errors
    /// As the server's.
    pub(super) async fn open(
        from: &PostgresSource,
        holder: Session,
        count: usize,
        by_pages: bool,
    ) -> Result<Self> {
        if by_pages {
            holder.run("prepare the session", BY_PAGES).await?;
        }
        let mut sessions = vec![holder];
        if count > 1 {
            let exported =
                catalog::rows(&sessions[0], "SELECT pg_catalog.pg_export_snapshot()", &[]).await?;
            let Some(row) = exported.first() else {
                return Err(Error::internal("The export of a snapshot returned nothing"));
            };
            let snapshot: String = get(row, 0)?;
            while sessions.len() < count {
                match beside(from, &snapshot).await {
                    Ok(session) => sessions.push(session),
                    Err(error) => {
                        let readers = sessions.len();
                        tracing::warn!(readers, %error, "There is no session for another reader");
                        break;
                    }
                }
            }
        }
        Ok(Self(sessions))
    }

    /// Leaves the sessions for their next use.
    ///
    /// # Errors
    /// As the server's.
    pub(super) async fn end(self) -> Result<()> {
        for session in self.0 {
            source::end(session).await?;
        }
        Ok(())
    }

    /// Reads the pieces, each row once, with a filter of its own for each reader. Returns the
    /// filters.
    ///
    /// # Errors
    /// As [`read::copy`]: of the reader that failed first.
    pub(super) async fn read(
        &mut self,
        work: &Arc<Work>,
        pieces: Vec<Range>,
        filter: impl Fn() -> Filter,
        output: &Output,
    ) -> Result<(Completion, Vec<Filter>)> {
        let count = self.0.len().min(pieces.len());
        let pieces = Arc::new(Mutex::new(VecDeque::from(pieces)));
        let mut readers = JoinSet::new();
        for session in self.0.drain(..count) {
            let (work, pieces) = (Arc::clone(work), Arc::clone(&pieces));
            readers.spawn(read_pieces(session, work, pieces, filter(), output.clone()));
        }
        let (mut completion, mut filters) = (Completion::Complete, Vec::new());
        while let Some(ended) = readers.join_next().await {
            let (session, filter, ended) = ended.map_err(|error| {
                Error::internal("A task of the read ended unexpectedly").caused_by(error)
            })??;
            self.0.push(session);
            filters.push(filter);
            if ended == Completion::Stopped {
                completion = ended;
            }
        }
        Ok((completion, filters))
    }
}

async fn beside(from: &PostgresSource, snapshot: &str) -> Result<Session> {
    let session = from.session().await?;
    let begin = format!("{SNAPSHOT}; SET TRANSACTION SNAPSHOT {}; {BY_PAGES}", literal(snapshot));
    session.run("take part in a snapshot", &begin).await?;
    Ok(session)
}

/// Reads what nobody else has begun to read.
async fn read_pieces(
    session: Session,
    work: Arc<Work>,
    pieces: Pieces,
    mut filter: Filter,
    output: Output,
) -> Result<(Session, Filter, Completion)> {
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some(range) = next() {
        let (statement, hidden) = (work.statement(range), work.hidden.len());
        let (table, wires) = (&work.table, &work.wires);
        let done =
            read::copy(&session, &statement, table, wires, hidden, &mut filter, &output).await?;
        if done == Completion::Stopped {
            return Ok((session, filter, done));
        }
    }
    Ok((session, filter, Completion::Complete))
}
