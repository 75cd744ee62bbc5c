//! Any system as a source: the columns of a table by their names, in one statement, streamed.

use std::sync::Arc;

use adbc_core::Connection;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use highwater_core::{
    Batch, Checkpoint, Completion, CrashPoint, Cursor, CursorKey, Error, Instant, Op, Output,
    Partition, Plan, ReadMode, Result, Source, SourceDelivery, State, Table, TableName, TablePlan,
    crash,
};
use highwater_sql::boundary::InclusiveCursor;

use super::config::Spec;
use super::system::{Manner, Remote};
use super::{catalog, cursor, types};
use crate::session::Session;
use crate::source::abandon::Abandon;

/// A system that rows are read from.
pub(crate) struct AdbcSource {
    remote: Arc<Remote>,
}

impl AdbcSource {
    /// A source as configured. Loads and connects nothing yet.
    pub(crate) fn new(spec: Spec) -> Self {
        Self { remote: Arc::new(Remote::new(spec)) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session, &Remote) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        blocking(&self.remote, work).await
    }
}

/// Runs blocking work in a session of its own. When the future is dropped, the driver is asked to
/// give up what it is doing.
pub(super) async fn blocking<T: Send + 'static>(
    remote: &Arc<Remote>,
    work: impl FnOnce(&mut Session, &Remote) -> Result<T> + Send + 'static,
) -> Result<T> {
    let abandon = Abandon::default();
    let (watched, remote) = (Arc::clone(&abandon.0), Arc::clone(remote));
    let done = tokio::task::spawn_blocking(move || {
        let mut session = remote.connect()?;
        watched.watch(session.connection().get_cancel_handle())?;
        work(&mut session, &remote)
    });
    done.await.map_err(|error| Error::internal("A working thread ended early").caused_by(error))?
}

#[async_trait]
impl Source for AdbcSource {
    async fn check(&self) -> Result<()> {
        self.blocking(|_, _| Ok(())).await
    }

    async fn discover(&self, only: Option<&[String]>) -> Result<Vec<Table>> {
        let only = only.map(<[String]>::to_vec);
        self.blocking(move |session, remote| {
            catalog::tables(session, &remote.spec, only.as_deref())
        })
        .await
    }

    fn delivery(&self, table: &TablePlan) -> SourceDelivery {
        match table.read_mode {
            ReadMode::FullRefresh => SourceDelivery::Once,
            ReadMode::Incremental => SourceDelivery::Again(
                "rows of a system behind a driver are recognised by their content".to_owned(),
            ),
        }
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        types::refuse_unknown(table)?;
        if table.read_mode == ReadMode::FullRefresh {
            return Ok(Vec::new());
        }
        // Finds a `lookback` that has no meaning before anything is read.
        InclusiveCursor::new(table, None, Instant::now())?;
        let plan = table.clone();
        self.blocking(move |session, remote| {
            let field = cursor::check(&plan, &remote.manner(session))?;
            Ok(match plan.lookback {
                0 => vec![format!(
                    "A row that is committed late, with a smaller `{}` than was read before, is \
                     not found: the standard of ADBC has nothing that tells. `lookback` reads \
                     again so far behind",
                    field.name()
                )],
                _ => Vec::new(),
            })
        })
        .await
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
            types::refuse_unknown(table)?;
            let job = Job { plan: table.clone(), saved: state.table_cursor(name).cloned() };
            let output = output.clone();
            completion = self
                .blocking(move |session, remote| {
                    let manner = remote.manner(session);
                    let catalog = remote.spec.catalog.as_deref();
                    job.read(session, &manner, catalog, &output)
                })
                .await?;
            if completion == Completion::Stopped {
                break;
            }
        }
        Ok(completion)
    }
}

struct Job {
    plan: TablePlan,
    saved: Option<Cursor>,
}

impl Job {
    /// Reads the table in one statement, which sees one state of it, and sends its rows as they
    /// come; for an incremental read the cursor that covers them.
    fn read(
        &self,
        session: &mut Session,
        manner: &Manner,
        catalog: Option<&str>,
        output: &Output,
    ) -> Result<Completion> {
        crash::at(CrashPoint::ReadSnapshot);
        let plan = &self.plan;
        let (mut boundary, mut condition) = (None, (String::new(), None));
        if plan.read_mode == ReadMode::Incremental {
            cursor::check(plan, manner)?;
            let cursor = InclusiveCursor::new(plan, self.saved.as_ref(), Instant::now())?;
            condition = cursor::condition(&cursor, manner)?;
            boundary = Some(cursor);
        }
        let (condition, parameter) = condition;
        let sql = select(&plan.source, plan.name(), manner, catalog) + &condition;
        let parameters: Vec<_> = parameter.into_iter().collect();
        let mut rows = session.query(&sql, &parameters)?;
        while let Some(sent) = rows.next()? {
            let mut rows = adapted(&sent, &plan.source)?;
            if let Some(boundary) = &mut boundary {
                rows = boundary.admit(rows)?;
            }
            let table = plan.source.clone();
            output.blocking_batch(Batch { table, op: Op::Upsert, rows })?;
            crash::at(CrashPoint::ReadBatch);
            if output.is_stopping() {
                return Ok(Completion::Stopped);
            }
        }
        crash::at(CrashPoint::ReadRows);
        if let Some(boundary) = boundary {
            if boundary.excluded() > 0 {
                let rows = boundary.excluded();
                tracing::info!(table = %plan.name(), rows, "rows without a cursor left out");
            }
            let key = CursorKey::Table(plan.name().clone());
            output.blocking_checkpoint(Checkpoint::of(key, boundary.finish()?))?;
        }
        Ok(Completion::Complete)
    }
}

/// The statement that reads the columns of `table` from the table of that name.
pub(super) fn select(
    table: &Table,
    name: &TableName,
    manner: &Manner,
    catalog: Option<&str>,
) -> String {
    let columns: Vec<_> =
        table.column_names().map(|name| format!("t.{}", manner.quote(name))).collect();
    let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
    format!("SELECT {columns} FROM {} t", manner.table(catalog, name))
}

/// The rows that a driver sent, with the columns of the table.
///
/// # Errors
/// As [`types::adapt`].
pub(super) fn adapted(sent: &RecordBatch, table: &Table) -> Result<RecordBatch> {
    let theirs = sent.schema_ref().fields().iter().zip(sent.columns());
    let columns = theirs.zip(table.schema.fields()).map(|((theirs, values), field)| {
        types::adapt(theirs, values, field).map_err(|error| error.context("table", &table.name))
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(sent.num_rows()));
    Ok(RecordBatch::try_new_with_options(table.schema.clone(), columns, &options)?)
}
