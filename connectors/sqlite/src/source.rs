//! SQLite as a source: one read transaction per table, so that bounds and rows come from the same
//! snapshot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use highwater_core::{
    Completion, Error, Instant, KeyDigests, KeyTable, NullCursor, Output, Partition, Plan,
    ReadMode, Result, Source, SourceDelivery, State, Table, TableName, TablePlan,
};
use highwater_sql::boundary::InclusiveCursor;
use rusqlite::{Connection, InterruptHandle};

use crate::catalog::{self, Relation, quote};
use crate::config::{Location, Spec};
use crate::connection::{explain, open_read_only};
use crate::cursor;
use crate::key_digests::SqliteKeys;
use crate::read::{self, Job};
use crate::types::{MIXED, text_hint};

/// A database file that rows are read from.
pub(crate) struct SqliteSource {
    location: Location,
    batch_rows: usize,
    batch_bytes: usize,
}

impl SqliteSource {
    /// A source as configured. Opens nothing yet.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        Ok(Self {
            location: Location::parse(&spec.connection_string)?,
            batch_rows: spec.batch_rows(),
            batch_bytes: spec.batch_bytes(),
        })
    }

    /// Runs blocking work on a connection of its own. When the future is dropped, the statement
    /// that runs is interrupted and the connection closed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Location) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let abandon = Abandon::default();
        let (shared, location) = (abandon.0.clone(), self.location.clone());
        let done = tokio::task::spawn_blocking(move || {
            let connection = open_read_only(&location)?;
            shared.watch(connection.get_interrupt_handle())?;
            work(&connection, &location)
        });
        done.await
            .map_err(|error| Error::internal("A reading thread ended early").caused_by(error))?
    }
}

/// Interrupts the thread behind a future that is dropped.
#[derive(Default)]
struct Abandon(Arc<Watched>);

#[derive(Default)]
struct Watched {
    abandoned: AtomicBool,
    handle: Mutex<Option<InterruptHandle>>,
}

impl Watched {
    fn watch(&self, handle: InterruptHandle) -> Result<()> {
        if let Ok(mut place) = self.handle.lock() {
            *place = Some(handle);
        }
        if self.abandoned.load(Ordering::SeqCst) {
            return Err(Error::interrupted("The read was given up"));
        }
        Ok(())
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::SeqCst);
        if let Ok(handle) = self.0.handle.lock()
            && let Some(handle) = handle.as_ref()
        {
            handle.interrupt();
        }
    }
}

#[async_trait]
impl Source for SqliteSource {
    async fn check(&self) -> Result<()> {
        self.blocking(|_, _| Ok(())).await
    }

    async fn place(&self) -> Result<Option<String>> {
        Ok(self.location.place())
    }

    async fn discover(&self, only: Option<&[String]>) -> Result<Vec<Table>> {
        let only = only.map(<[String]>::to_vec);
        self.blocking(move |connection, location| {
            let failed = |error| explain(error, &location.path);
            let mut tables = Vec::new();
            for name in catalog::names(connection).map_err(failed)? {
                let wanted = only.as_ref().is_none_or(|patterns| {
                    patterns.iter().any(|pattern| catalog::matches(pattern, &name))
                });
                if !wanted {
                    continue;
                }
                match described(connection, &name) {
                    Ok(Some((_, table))) => tables.push(table),
                    Ok(None) => {}
                    // A view over tables that are gone stops nobody who did not ask for it.
                    Err(error) if !only.iter().flatten().any(|asked| asked == &name) => {
                        tracing::warn!(table = name, %error, "left out: it cannot be read");
                    }
                    Err(error) => return Err(failed(error).context("table", &name)),
                }
            }
            Ok(tables)
        })
        .await
    }

    /// Once: SQLite has one writer at a time, so a snapshot shows all of a transaction or nothing,
    /// and what was sent is known by its hash at the boundary of the inclusive cursor. What a
    /// cursor field cannot promise here is that values are committed in their order: a program
    /// may take the time, wait for the lock and commit after the sync has read. `lookback` reads
    /// that far behind the position again, and still sends nothing twice.
    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        refuse_mixtures(table)?;
        if table.read_mode != ReadMode::Incremental {
            return Ok(Vec::new());
        }
        let (field, plan) = (cursor::check(table)?, table.clone());
        // Finds a `lookback` that has no meaning before anything is read.
        InclusiveCursor::new(table, None, Instant::now())?;
        self.blocking(move |connection, location| {
            let failed = |error| explain(error, &location.path);
            let relation = existing(connection, plan.name(), location)?;
            let mut notes = Vec::new();
            if relation.is_indexed(field.name()) {
                cursor::check_classes(connection, &relation, &plan.source, &field)?
                    .map_err(failed)?;
            } else {
                notes.push(format!(
                    "`{}` has no index: every sync reads the whole table to find what changed",
                    field.name()
                ));
            }
            if plan.null_cursor == NullCursor::Exclude && field.is_nullable() {
                let (from, column) = (quote(&relation.name), quote(field.name()));
                let sql = format!("SELECT count(*) FROM {from} AS t WHERE t.{column} IS NULL");
                let rows: i64 = connection.query_row(&sql, [], |row| row.get(0)).map_err(failed)?;
                if rows > 0 {
                    notes.push(format!("{rows} rows without `{}` are left out", field.name()));
                }
            }
            Ok(notes)
        })
        .await
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        Some(Box::new(SqliteKeys::of_source(&self.location, table)))
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
            refuse_mixtures(table)?;
            let job = Job {
                plan: table.clone(),
                saved: state.table_cursor(name).cloned(),
                batch_rows: self.batch_rows,
                batch_bytes: self.batch_bytes,
            };
            let output = output.clone();
            completion = self
                .blocking(move |connection, location| {
                    let relation = existing(connection, job.plan.name(), location)?;
                    read::table(connection, location, &relation, &job, &output)
                })
                .await?;
            if completion == Completion::Stopped {
                break;
            }
        }
        Ok(completion)
    }
}

/// A table and its description; `None` when there is none of that name.
pub(crate) fn described(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<Option<(Relation, Table)>> {
    let Some(relation) = catalog::relation(connection, name)? else { return Ok(None) };
    let table = relation.table(connection)?;
    Ok(Some((relation, table)))
}

fn existing(connection: &Connection, name: &TableName, location: &Location) -> Result<Relation> {
    let relation = catalog::relation(connection, &name.name)
        .map_err(|error| explain(error, &location.path))?;
    relation.ok_or_else(|| {
        Error::schema("The table is not there any more")
            .context("table", name)
            .context("path", location.path.display())
    })
}

/// A column without a type of its own, with values of several storage classes, has to be declared
/// by the user.
pub(crate) fn refuse_mixtures(plan: &TablePlan) -> Result<()> {
    for field in plan.source.schema.fields() {
        if let Some(classes) = field.metadata().get(MIXED) {
            return Err(Error::data(
                "A column without a declared type holds values of several types",
            )
            .context("table", plan.name())
            .context("column", field.name())
            .context("found", classes)
            .hint(text_hint(field.name())));
        }
    }
    Ok(())
}
