//! The file of a destination and its store: opened for writing once, and kept open then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_core::{Error, Result};

use super::config::{Location, Setup};
use super::database::{Access, Database, PATIENCE, WriteLock};
use crate::session::Session;

/// A file. Copies share what is open.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) location: Location,
    setup: Setup,
    held: Arc<Mutex<Option<Arc<Database>>>>,
}

impl File {
    pub(crate) fn new(location: Location, setup: Setup) -> Self {
        Self { location, setup, held: Arc::default() }
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file, which stays open: no other process can have it until [`Self::close`].
    fn database(&self) -> Result<Arc<Database>> {
        let mut held = self.held();
        if let Some(database) = held.as_ref() {
            return Ok(Arc::clone(database));
        }
        let database = Database::open(&self.location, &self.setup, Access::Write)?;
        *held = Some(Arc::clone(&database));
        Ok(database)
    }

    /// A session that may write. The file is made where it does not exist.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub(crate) fn connect(&self) -> Result<Session> {
        self.database()?.connect()
    }

    /// A session that only reads; `None` where there is no file. Leaves nothing open.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub(crate) fn look(&self) -> Result<Option<Session>> {
        if let Some(database) = self.held().as_ref() {
            return database.connect().map(Some);
        }
        if !self.location.path.exists() {
            return Ok(None);
        }
        Database::open(&self.location, &self.setup, Access::Read)?.connect().map(Some)
    }

    /// How many threads are enough to load rows while they are read; `None` where the user says
    /// how many there are.
    pub(crate) fn loading_threads(&self) -> Option<usize> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.setup.threads.is_none().then_some((processors / 2).max(1))
    }

    /// The right to write, for which others in this process are waited for.
    ///
    /// # Errors
    /// `Transient` when that lasts too long.
    pub(crate) fn lock(&self, patience: Duration) -> Result<WriteLock> {
        self.database()?.write_lock(patience).ok_or_else(|| {
            Error::transient("Another run of this process keeps the database locked")
                .context("path", self.location.path.display())
                .hint("run the same command again later")
        })
    }

    /// A transaction that excludes all others that write.
    ///
    /// # Errors
    /// As [`Self::lock`] and [`Self::connect`].
    pub(crate) fn begin(&self) -> Result<Transaction> {
        self.begin_within(PATIENCE)
    }

    /// As [`Self::begin`], and waits so long at most.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(crate) fn begin_within(&self, patience: Duration) -> Result<Transaction> {
        let lock = self.lock(patience)?;
        let mut session = self.connect()?;
        session.run("BEGIN TRANSACTION")?;
        Ok(Transaction { session, _lock: lock })
    }

    /// Gives the file back to other processes, once the last session is gone.
    pub(crate) fn close(&self) {
        let held = self.held().take();
        drop(held);
    }
}

/// An open transaction. Dropping it rolls it back, and then lets others write.
pub(crate) struct Transaction {
    pub(crate) session: Session,
    _lock: WriteLock,
}

impl Transaction {
    /// Makes what was done durable and visible.
    ///
    /// # Errors
    /// What DuckDB says; nothing was committed then.
    pub(crate) fn commit(mut self) -> Result<()> {
        self.session.run("COMMIT")
    }
}
