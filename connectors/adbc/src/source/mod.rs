//! DuckDB as a source: one read transaction per table, so that bounds and rows come from the same
//! snapshot. The file is opened for reading only, and only while something is read.
//!
//! `catalog.rs` says which tables there are, `declared.rs` takes their types apart, `carried.rs`
//! says how values travel, `cursor.rs` and `read.rs` read.

pub(crate) mod abandon;
pub(crate) mod carried;
mod catalog;
mod cursor;
pub(crate) mod declared;
mod read;

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use adbc_core::Connection;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use highwater_core::{
    Completion, Error, Instant, KeyDigests, KeyTable, NullCursor, Output, Partition, Plan,
    ReadMode, Result, Source, SourceDelivery, State, Table, TablePlan,
};
use highwater_sql::boundary::InclusiveCursor;

use crate::duckdb::catalog::Relation;
use crate::duckdb::config::{Location, Setup, Spec};
use crate::duckdb::database::{Access, Database};
use crate::duckdb::key_digests::{DuckDbKeys, Side};
use crate::session::Session;
use abandon::Abandon;
pub(crate) use catalog::quoted;
use read::Job;

/// A name as an identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What tells the file from every other, whatever path or link leads to it; `None` while it does
/// not exist.
pub(crate) fn place(location: &Location) -> Option<String> {
    let file = std::fs::metadata(&location.path).ok()?;
    Some(format!("{}:{}", file.dev(), file.ino()))
}

/// Sends the rows of one table, all of them, as they are in one snapshot.
///
/// # Errors
/// As [`Source::read`].
pub(crate) fn read_whole(
    session: &mut Session,
    plan: TablePlan,
    batch_rows: usize,
    output: &Output,
) -> Result<Completion> {
    read::table(session, &Job { plan, saved: None, batch_rows }, output)
}

/// Sends those rows of a table of which `condition`, with its WHERE, is true. The session is in a
/// transaction, which stays open.
///
/// # Errors
/// As [`Source::read`].
pub(crate) fn read_where(
    session: &mut Session,
    plan: TablePlan,
    relation: &Relation,
    condition: &str,
    batch_rows: usize,
    output: &Output,
) -> Result<Completion> {
    let job = Job { plan, saved: None, batch_rows };
    read::rows_where(session, &job, relation, condition, output)
}

/// A database file that rows are read from.
pub(crate) struct DuckDbSource {
    location: Location,
    setup: Setup,
    batch_rows: usize,
}

impl DuckDbSource {
    /// A source as configured. Opens nothing yet.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        Ok(Self {
            location: Location::parse(&spec.connection_string)?,
            setup: spec.setup(),
            batch_rows: spec.batch_rows(),
        })
    }

    /// Runs blocking work in a session of its own. When the future is dropped, the statement that
    /// runs is interrupted and the session closed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let abandon = Abandon::default();
        let watched = Arc::clone(&abandon.0);
        let (location, setup) = (self.location.clone(), self.setup.clone());
        let done = tokio::task::spawn_blocking(move || {
            let database = Database::open(&location, &setup, Access::Read)?;
            let mut session = database.connect()?;
            watched.watch(session.connection().get_cancel_handle())?;
            work(&mut session)
        });
        done.await
            .map_err(|error| Error::internal("A reading thread ended early").caused_by(error))?
    }
}

#[async_trait]
impl Source for DuckDbSource {
    async fn check(&self) -> Result<()> {
        self.blocking(|session| session.run("SELECT 1")).await
    }

    async fn place(&self) -> Result<Option<String>> {
        Ok(place(&self.location))
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        self.blocking(|session| {
            session.run("BEGIN TRANSACTION READ ONLY")?;
            let relations = catalog::relations(session)?;
            Ok(relations.iter().map(Relation::table).collect())
        })
        .await
    }

    /// Once: a file has one writing process, which no reader meets, so a snapshot shows all of a
    /// transaction or nothing, and what was sent is known by its hash at the boundary of the
    /// inclusive cursor. What a cursor field cannot promise is that values are committed in their
    /// order: a program may take the time, wait for the file and commit after the sync has read.
    /// `lookback` reads that far behind the position again, and still sends nothing twice.
    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        if table.read_mode != ReadMode::Incremental {
            return Ok(Vec::new());
        }
        let (field, plan) = (cursor::check(table)?, table.clone());
        // Finds a `lookback` that has no meaning before anything is read.
        InclusiveCursor::new(table, None, Instant::now())?;
        self.blocking(move |session| {
            read::existing(session, &plan)?;
            if plan.null_cursor != NullCursor::Exclude || !field.is_nullable() {
                return Ok(Vec::new());
            }
            let (from, column) = (catalog::quoted(plan.name()), quote(field.name()));
            let sql = format!("SELECT count(*) FROM {from} AS t WHERE t.{column} IS NULL");
            let counted = session.fetch(&sql, &[])?;
            let rows = counted.column(0).as_primitive::<Int64Type>().value(0);
            let left_out = format!("{rows} rows without `{}` are left out", field.name());
            Ok(if rows > 0 { vec![left_out] } else { Vec::new() })
        })
        .await
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        let side = Side::Source(self.location.clone(), self.setup.clone());
        Some(Box::new(DuckDbKeys::new(side, table)))
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(plan.tables.keys().map(Partition::whole).collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let mut completion = Completion::Complete;
        for name in &partition.tables {
            let table = plan.table(name)?;
            let job = Job {
                plan: table.clone(),
                saved: state.table_cursor(name).cloned(),
                batch_rows: self.batch_rows,
            };
            let output = output.clone();
            completion = self.blocking(move |session| read::table(session, &job, &output)).await?;
            if completion == Completion::Stopped {
                break;
            }
        }
        Ok(completion)
    }
}
