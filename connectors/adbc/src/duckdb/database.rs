//! Open database files: one instance of DuckDB per file and process.
//!
//! The lock that DuckDB takes on a file is one of the process: a second instance in the same
//! process would not notice it, and by closing the file it would give up the lock of the first.
//! So all sessions of a process over one file share an instance; one that reads only goes before
//! one that writes is opened, and whoever reads while there is one that writes reads through that.
//!
//! Inside an instance any number of transactions are at work, each with a snapshot. Those that
//! write take turns here ([`Database::write_lock`]), so that the lease that was checked at the
//! begin of a transaction is still held at its end.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use adbc_core::Driver;
use adbc_core::options::{OptionDatabase, OptionValue};
use adbc_driver_manager::ManagedDatabase;
use highwater_core::{Error, Result};

use super::config::{Location, Setup};
use crate::driver;
use crate::errors;
use crate::session::{Session, System};

/// How long is waited for another user of the file in this process.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What DuckDB is told besides the user's limits: nothing is fetched from anywhere, and what is
/// read has the type that it is stored as.
const SETTINGS: [(&str, &str); 3] = [
    ("autoinstall_known_extensions", "false"),
    ("autoload_known_extensions", "false"),
    ("arrow_lossless_conversion", "true"),
];

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Other processes may read it at the same time.
    Read,
    /// No other process can open it.
    Write,
}

struct Open {
    access: Access,
    database: Weak<Database>,
}

/// The files that this process has open. An entry goes when the file is closed.
static OPEN: Mutex<BTreeMap<PathBuf, Open>> = Mutex::new(BTreeMap::new());
static CLOSED: Condvar = Condvar::new();

fn open_files() -> MutexGuard<'static, BTreeMap<PathBuf, Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open file.
pub(crate) struct Database {
    /// `None` when it is being closed.
    database: Option<ManagedDatabase>,
    key: PathBuf,
    path: PathBuf,
    writing: Arc<Turn>,
}

impl Database {
    /// Opens the file, or shares what this process has open. A file that does not exist is made
    /// for writing only.
    ///
    /// # Errors
    /// `Config` when there is no such file or it is no database, `Transient` when another process
    /// has it open or this one does not give it back in time.
    pub(crate) fn open(location: &Location, setup: &Setup, access: Access) -> Result<Arc<Self>> {
        check_path(location, access)?;
        let driver = driver::duckdb(setup.library.as_deref())?;
        let key = location.canonical();
        let deadline = Instant::now() + PATIENCE;
        let mut open = open_files();
        while let Some(there) = open.get(&key) {
            let serves = access == Access::Read || there.access == Access::Write;
            if serves && let Some(database) = there.database.upgrade() {
                return Ok(database);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::transient("The database is being read by this process")
                    .context("path", location.path.display())
                    .hint("run the same command again"));
            }
            open = CLOSED.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let database = Some(start(driver, location, setup, access)?);
        let (path, writing) = (location.path.clone(), Arc::default());
        let database = Arc::new(Self { database, key: key.clone(), path, writing });
        open.insert(key, Open { access, database: Arc::downgrade(&database) });
        Ok(database)
    }

    /// A new session, which keeps the file open.
    ///
    /// # Errors
    /// What DuckDB says.
    pub(crate) fn connect(self: &Arc<Self>) -> Result<Session> {
        let Some(database) = &self.database else {
            return Err(Error::internal("The database is closed"));
        };
        let system = System::DuckDb(self.path.clone());
        let mut session = Session::connect(database, system)?.keeping(Arc::clone(self) as _);
        // What DuckDB converts between instants and wall-clock times it converts in UTC. Without
        // its calendar it cannot convert, and knows no such setting.
        let _ = session.run("SET TimeZone = 'UTC'");
        // Each piece of a table is compressed as soon as it is whole: not five at once, while the
        // source waits. Older versions always do so.
        let _ = session.run("SET GLOBAL write_buffer_row_group_count = 1");
        Ok(session)
    }

    /// The right to write, once nobody else has it; `None` when that lasts too long.
    pub(crate) fn write_lock(&self, patience: Duration) -> Option<WriteLock> {
        self.writing.take(patience)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Only when DuckDB has let go of the file may another instance open it.
        drop(self.database.take());
        open_files().remove(&self.key);
        CLOSED.notify_all();
    }
}

fn start(
    mut driver: adbc_driver_manager::ManagedDriver,
    location: &Location,
    setup: &Setup,
    access: Access,
) -> Result<ManagedDatabase> {
    let system = System::DuckDb(location.path.clone());
    let Some(path) = location.path.to_str() else {
        return Err(Error::config("The path is no Unicode text")
            .context("path", location.path.display())
            .hint("rename the folder or the file"));
    };
    let option = |name: &str, value: &str| {
        (OptionDatabase::Other(name.to_owned()), OptionValue::String(value.to_owned()))
    };
    let mode = if access == Access::Read { "READ_ONLY" } else { "READ_WRITE" };
    let mut options = vec![
        option("path", path),
        option("access_mode", mode),
        option("memory_limit", &setup.memory),
    ];
    options.extend(SETTINGS.iter().map(|(name, value)| option(name, value)));
    options.extend(setup.threads.map(|threads| option("threads", &threads.to_string())));
    driver.new_database_with_opts(options).map_err(|error| errors::explain(&system, error))
}

fn check_path(location: &Location, access: Access) -> Result<()> {
    let path = &location.path;
    if path.is_dir() {
        return Err(Error::config("The path is a folder, not a database file")
            .context("path", path.display())
            .hint("name the file in it"));
    }
    if !may_be_a_database(path) {
        return Err(Error::config("The file is not a DuckDB database")
            .context("path", path.display())
            .hint("name another file; what is in this one stays as it is"));
    }
    if access == Access::Read && !path.exists() {
        return Err(Error::config("No such file")
            .context("path", path.display())
            .hint(format!("check the path; it is relative to {}", current_folder())));
    }
    let folder = location.folder();
    if access == Access::Write && !folder.is_dir() {
        return Err(Error::config("The folder of the database file does not exist")
            .context("path", path.display())
            .hint(format!("mkdir -p {}", folder.display())));
    }
    Ok(())
}

/// Whether a file is one of DuckDB's, empty, or not there. DuckDB itself takes a CSV, JSON or
/// Parquet file for a database in memory, in which all rows would be lost.
fn may_be_a_database(path: &Path) -> bool {
    const MAGIC: (usize, &[u8]) = (8, b"DUCK");
    match std::fs::metadata(path) {
        Err(_) => return true,
        // To open a pipe would wait for whoever writes into it.
        Ok(there) if !there.is_file() => return false,
        Ok(there) if there.len() == 0 => return true,
        Ok(_) => {}
    }
    let mut start = [0; MAGIC.0 + MAGIC.1.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    // One that cannot be opened is refused with its reason when the database is.
    read.map_or_else(
        |error| error.kind() != ErrorKind::UnexpectedEof,
        |()| start[MAGIC.0..] == *MAGIC.1,
    )
}

fn current_folder() -> String {
    std::env::current_dir().map_or_else(|_| ".".to_owned(), |path| path.display().to_string())
}

/// Whose turn it is to write.
#[derive(Default)]
struct Turn {
    taken: Mutex<bool>,
    given_back: Condvar,
}

impl Turn {
    fn take(self: &Arc<Self>, patience: Duration) -> Option<WriteLock> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.given_back.wait_timeout_while(taken, patience, |taken| *taken);
        let (mut taken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && *taken {
            return None;
        }
        *taken = true;
        Some(WriteLock(Arc::clone(self)))
    }
}

/// The right to write, given back when it is dropped.
pub(crate) struct WriteLock(Arc<Turn>);

impl Drop for WriteLock {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_duckdb_are_taken_for_databases() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            may_be_a_database(&path)
        };
        assert!(may_be_a_database(&folder.path().join("none")));
        assert!(file("empty", b""));
        assert!(file("database", b"12345678DUCK and more"));
        assert!(!file("short.csv", b"id\n7\n"));
        assert!(!file("long.csv", b"id,name\n7,somebody\n"));
        assert!(!file("other.db", b"SQLite format 3\0"));
    }
}
