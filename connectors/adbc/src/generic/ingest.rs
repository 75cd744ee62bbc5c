//! A thread that loads rows through one connection.
//!
//! A driver loads a stream of rows, and takes its time for each: so all rows of a table that come
//! between two commits are one stream, fed through a bounded channel (that is the back-pressure).
//! Where the driver has transactions, rows are visible with the commit and not before; a stream
//! that is given up ends with an error, so that nothing of it is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use adbc_core::error::Status;
use adbc_core::options::{IngestMode, OptionConnection, OptionStatement, OptionValue};
use adbc_core::{Connection, Optionable, Statement};
use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use highwater_core::{CrashPoint, Error, Result, TableName, crash, text};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::catalog;
use super::config::option_value;
use super::system::{Manner, Remote};
use super::types;
use crate::session::Session;

/// How many batches wait for the driver.
const WAITING: usize = 2;

/// A table that rows go to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: TableName,
    /// The columns as the plan writes them.
    pub(super) schema: SchemaRef,
}

/// What the thread is told.
enum Order {
    Rows(usize, RecordBatch),
    Commit(oneshot::Sender<Result<()>>),
}

/// The writer's end.
pub(super) struct Ingest {
    /// `None` when it is being dropped.
    orders: Option<mpsc::Sender<Order>>,
    /// Ends with the thread, after its connection.
    alive: std::sync::mpsc::Receiver<()>,
    /// `None` when its end has been told.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Ingest {
    /// Starts the thread. It connects when the first order comes.
    pub(super) fn start(remote: Arc<Remote>, targets: Vec<Target>) -> Self {
        let (orders, inbox) = mpsc::channel(WAITING);
        let (lives, alive) = std::sync::mpsc::channel();
        let thread = tokio::task::spawn_blocking(move || {
            let done = Thread::run(&remote, targets, inbox);
            drop(lives);
            done
        });
        Self { orders: Some(orders), alive, thread: Some(thread) }
    }

    /// Whether the thread could be told.
    async fn tell(&mut self, order: Order) -> bool {
        match &self.orders {
            Some(orders) => orders.send(order).await.is_ok(),
            None => false,
        }
    }

    /// Rows for the table at a place in the list of targets.
    ///
    /// # Errors
    /// What became of earlier rows.
    pub(super) async fn rows(&mut self, target: usize, rows: RecordBatch) -> Result<()> {
        match self.tell(Order::Rows(target, rows)).await {
            true => Ok(()),
            false => Err(self.failure().await),
        }
    }

    /// Makes everything durable; tables without rows are made.
    ///
    /// # Errors
    /// What the driver says; nothing is committed then where there are transactions.
    pub(super) async fn commit(&mut self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        if !self.tell(Order::Commit(reply)).await {
            return Err(self.failure().await);
        }
        match answer.await {
            Ok(done) => done,
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why the thread has ended.
    async fn failure(&mut self) -> Error {
        let told = || Error::internal("The load has failed before");
        match self.thread.take() {
            None => told(),
            Some(thread) => match thread.await {
                Ok(done) => done.err().unwrap_or_else(told),
                Err(error) => Error::internal("A loading thread ended early").caused_by(error),
            },
        }
    }
}

impl Drop for Ingest {
    /// Waits for the thread: a transaction that is given up keeps no lock from the next writer.
    fn drop(&mut self) {
        drop(self.orders.take());
        // Nothing is ever sent: this ends with the thread.
        let _ = self.alive.recv();
    }
}

type Inbox = Arc<Mutex<Waiting>>;

/// The orders, and one that was taken too early.
struct Waiting {
    orders: mpsc::Receiver<Order>,
    next: Option<Order>,
}

impl Waiting {
    fn take(&mut self) -> Option<Order> {
        self.next.take().or_else(|| self.orders.blocking_recv())
    }
}

struct Thread<'a> {
    session: Session,
    remote: &'a Remote,
    manner: Manner,
    targets: Vec<Target>,
    inbox: Inbox,
    transactions: bool,
    /// The tables that are there.
    present: BTreeMap<usize, bool>,
}

impl<'a> Thread<'a> {
    fn run(remote: &'a Remote, targets: Vec<Target>, orders: mpsc::Receiver<Order>) -> Result<()> {
        let inbox = Arc::new(Mutex::new(Waiting { orders, next: None }));
        let Some(first) = take(&inbox) else { return Ok(()) };
        lock(&inbox).next = Some(first);
        let mut session = remote.connect()?;
        let manner = remote.manner(&mut session);
        let present = BTreeMap::new();
        let mut thread =
            Self { session, remote, manner, targets, inbox, transactions: false, present };
        for at in 0..thread.targets.len() {
            thread.look(at)?;
        }
        thread.transactions = begin(&mut thread.session);
        let done = thread.obey();
        if thread.transactions && done.is_err() {
            // The connection goes in any case, and its transaction with it.
            let _ = thread.session.connection().rollback();
        }
        done
    }

    /// Whether a table is there, with all columns that are written.
    fn look(&mut self, at: usize) -> Result<()> {
        let target = &self.targets[at];
        let found = catalog::schema(&mut self.session, &self.remote.spec, &target.name);
        // Some drivers do not say that there is none, but that it cannot be read.
        let Ok(Some(found)) = found else {
            self.present.insert(at, false);
            return Ok(());
        };
        let missing =
            target.schema.fields().iter().find(|f| found.field_with_name(f.name()).is_err());
        if let Some(missing) = missing {
            return Err(Error::schema("The table at the destination lacks a column")
                .context("table", &target.name)
                .context("column", missing.name())
                .hint(format!(
                    "ALTER TABLE {} ADD COLUMN {} …   -- there: the standard of ADBC cannot do it",
                    self.manner.table(None, &target.name),
                    self.manner.quote(missing.name())
                )));
        }
        self.present.insert(at, true);
        Ok(())
    }

    fn obey(&mut self) -> Result<()> {
        while let Some(order) = take(&self.inbox) {
            match order {
                Order::Rows(at, rows) => self.stream(at, Some(rows))?,
                Order::Commit(reply) => {
                    let done = self.commit();
                    let failed = done.is_err();
                    // Who asked has gone: the commit has happened all the same.
                    let _ = reply.send(done);
                    if failed {
                        return Err(Error::internal("A commit has failed"));
                    }
                }
            }
        }
        // Dropped without a commit.
        if self.transactions {
            let _ = self.session.connection().rollback();
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let absent = self.present.iter().filter(|(_, there)| !**there).map(|(at, _)| *at);
        for at in absent.collect::<Vec<_>>() {
            self.stream(at, None)?;
        }
        crash::at(CrashPoint::StageRows);
        if self.transactions {
            let committed = self.session.connection().commit();
            committed.map_err(|error| self.session.failed(error))?;
        }
        crash::at(CrashPoint::CommitDone);
        Ok(())
    }

    /// Loads rows of one table until another order comes; with none, makes the table only.
    fn stream(&mut self, at: usize, first: Option<RecordBatch>) -> Result<()> {
        let target = self.targets[at].clone();
        let mode = match self.present.insert(at, true) {
            Some(true) => IngestMode::Append,
            // A table that two find missing is made by the first.
            _ => IngestMode::CreateAppend,
        };
        let given = target.schema.fields().iter();
        let given = given.map(|field| types::given(field, &self.manner.text));
        let given = Arc::new(Schema::new(given.collect::<Result<Vec<_>>>()?));
        let inbox = first.is_some().then(|| Arc::clone(&self.inbox));
        let failure = Arc::<Mutex<Option<Error>>>::default();
        let failed = Arc::clone(&failure);
        let stream =
            Stream { schema: given, wanted: target.schema.clone(), at, first, inbox, failed };
        let loaded = self.load(&target, mode, Box::new(stream));
        if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error.context("table", &target.name));
        }
        loaded.map_err(|error| self.explain(error).context("table", &target.name))
    }

    fn load(
        &mut self,
        target: &Target,
        mode: IngestMode,
        rows: Box<dyn RecordBatchReader + Send>,
    ) -> adbc_core::error::Result<()> {
        let mut statement = self.session.connection().new_statement()?;
        for (key, value) in &self.remote.spec.ingest_options {
            statement.set_option(OptionStatement::from(key.as_str()), option_value(value))?;
        }
        if let Some(catalog) = &self.remote.spec.catalog {
            statement.set_option(OptionStatement::TargetCatalog, catalog.as_str().into())?;
        }
        if let Some(schema) = &target.name.namespace {
            statement.set_option(OptionStatement::TargetDbSchema, schema.as_str().into())?;
        }
        statement.set_option(OptionStatement::TargetTable, target.name.name.as_str().into())?;
        statement.set_option(OptionStatement::IngestMode, mode.into())?;
        statement.bind_stream(rows)?;
        statement.execute_update().map(drop)
    }

    fn explain(&self, error: adbc_core::error::Error) -> Error {
        let is_type = error.status == Status::NotImplemented;
        let explained = self.session.failed(error);
        match is_type {
            true => explained.hint(
                "text_columns: [decimal, time, list]   # in the spec: kinds of columns that the \
                 driver does not take",
            ),
            false => explained,
        }
    }
}

/// Whether the driver has transactions: one has begun then.
fn begin(session: &mut Session) -> bool {
    let off = OptionValue::String("false".to_owned());
    session.connection().set_option(OptionConnection::AutoCommit, off).is_ok()
}

fn lock(inbox: &Inbox) -> std::sync::MutexGuard<'_, Waiting> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(inbox: &Inbox) -> Option<Order> {
    lock(inbox).take()
}

/// The rows of one table, as a driver pulls them.
struct Stream {
    schema: SchemaRef,
    wanted: SchemaRef,
    at: usize,
    first: Option<RecordBatch>,
    /// `None`: there are no more.
    inbox: Option<Inbox>,
    /// Why there are no more, where it is an error.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Stream {
    fn fail(&mut self, error: Error) -> ArrowError {
        self.inbox = None;
        let message = error.message().to_owned();
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        ArrowError::ExternalError(message.into())
    }

    fn converted(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let fields = self.wanted.fields().iter().zip(self.schema.fields());
        let columns = fields
            .zip(rows.columns())
            .map(|((from, to), values)| text::convert(from, values, to))
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Iterator for Stream {
    type Item = std::result::Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = match self.first.take() {
            Some(rows) => rows,
            None => {
                let mut inbox = self.inbox.as_ref().map(lock)?;
                match inbox.take() {
                    Some(Order::Rows(at, rows)) if at == self.at => rows,
                    Some(other) => {
                        inbox.next = Some(other);
                        drop(inbox);
                        self.inbox = None;
                        return None;
                    }
                    None => {
                        drop(inbox);
                        return Some(Err(self.fail(Error::interrupted("The load was given up"))));
                    }
                }
            }
        };
        Some(self.converted(&rows).map_err(|error| self.fail(error)))
    }
}

impl RecordBatchReader for Stream {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
