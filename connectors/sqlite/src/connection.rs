//! Connections to a database file, and what SQLite's errors mean to the user.

use std::path::Path;
use std::time::Duration;

use highwater_core::{Error, Result};
use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, OpenFlags};

use crate::config::Location;
use crate::dialect::register_functions;

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens an existing file for reading.
///
/// # Errors
/// `Config` when there is no such file or it is no database, `Transient` when it is locked.
pub(crate) fn open_read_only(location: &Location) -> Result<Connection> {
    let path = &location.path;
    if !path.exists() {
        return Err(Error::config("No such file")
            .context("path", path.display())
            .hint(format!("check the path; it is relative to {}", current_folder())));
    }
    if path.is_dir() {
        return Err(Error::config("The path is a folder, not a database file")
            .context("path", path.display())
            .hint("name the file in it"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&location.name, flags)
        .and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            register_functions(&connection)?;
            // SQLite opens lazily: only a first read finds out what the file is.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(connection)
        })
        .map_err(|error| explain_read(error, path))?;
    Ok(connection)
}

/// Opens a file for writing, and creates it where the folder exists.
///
/// # Errors
/// As [`open_read_only`]; `Config` when the file or its folder cannot be written.
pub(crate) fn open_read_write(location: &Location) -> Result<Connection> {
    let path = &location.path;
    let folder = location.folder();
    if !folder.is_dir() {
        return Err(Error::config("The folder of the database file does not exist")
            .context("path", path.display())
            .hint(format!("mkdir -p {}", folder.display())));
    }
    if path.is_dir() {
        return Err(Error::config("The path is a folder, not a database file")
            .context("path", path.display())
            .hint("name the file in it"));
    }
    if let Some(parameter) = read_only_parameter(&location.name) {
        return Err(Error::config("The database cannot be written")
            .context("path", path.display())
            .context("parameter", parameter)
            .hint(format!(
                "the connection string asks for reading only: leave `{parameter}` out"
            )));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (connection, read_only) = Connection::open_with_flags(&location.name, flags)
        .and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            register_functions(&connection)?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            let read_only = connection.is_readonly("main")?;
            Ok((connection, read_only))
        })
        .map_err(|error| explain(error, path))?;
    if read_only {
        return Err(not_writable(path).context("path", path.display()));
    }
    Ok(connection)
}

/// The parameter of a `file:` URI that makes the database read-only.
fn read_only_parameter(name: &str) -> Option<&str> {
    let (_, parameters) = name.strip_prefix("file:")?.split_once('?')?;
    let parameters = parameters.split('#').next()?;
    parameters.split('&').find(|parameter| matches!(*parameter, "mode=ro" | "immutable=1"))
}

/// As [`explain`], for a source: it needs no right to write, but a database in WAL mode makes
/// files beside itself also where it is only read.
fn explain_read(error: rusqlite::Error, path: &Path) -> Error {
    let code = error.sqlite_error_code();
    if !matches!(
        code,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen)
    ) {
        return explain(error, path);
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Error::config("The database cannot be opened for reading")
        .hint(format!(
            "chmod u+r {}; one in WAL mode in a folder that cannot be written opens, while nobody \
             writes it, with sqlite://{}?immutable=1",
            path.display(),
            absolute.display()
        ))
        .context("path", path.display())
        .caused_by(error)
}

fn not_writable(path: &Path) -> Error {
    Error::config("The database cannot be written")
        .hint(format!("chmod u+w {}   # and the folder it is in", path.display()))
}

fn current_folder() -> String {
    std::env::current_dir().map_or_else(|_| ".".to_owned(), |path| path.display().to_string())
}

/// What an error of SQLite means, with the path and one thing to do about it.
pub(crate) fn explain(error: rusqlite::Error, path: &Path) -> Error {
    let explained = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::transient("Another process keeps the database locked")
                .hint("end the other writer, or run the same command again later")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => not_writable(path),
        Some(ErrorCode::CannotOpen) => Error::config("The database cannot be opened").hint(
            "check that the file and its folder can be read and written; a read-only copy opens \
             with connection_string: file:PATH?immutable=1",
        ),
        Some(ErrorCode::NotADatabase) => Error::config("The file is not a SQLite database")
            .hint("check the path; files of other kinds are read with `path: file`"),
        Some(ErrorCode::DatabaseCorrupt) => Error::data("The database file is damaged")
            .hint(format!("sqlite3 {} 'PRAGMA integrity_check'", path.display())),
        Some(ErrorCode::DiskFull) => Error::transient("The disk is full")
            .hint("free some space and run the same command again; nothing was committed"),
        Some(ErrorCode::SystemIoFailure) => Error::transient("Reading or writing the file failed")
            .hint("check the disk and run the same command again"),
        Some(ErrorCode::OperationInterrupted) => Error::interrupted("The read was given up"),
        Some(ErrorCode::ConstraintViolation) => {
            Error::data("A row breaks a rule of the destination table")
        }
        Some(ErrorCode::TooBig) => Error::data("A value or a row is larger than SQLite can store"),
        Some(ErrorCode::SchemaChanged) => {
            Error::transient("The tables were changed while they were read")
        }
        _ if is_missing_name(&error) => Error::schema("A table or column is not there any more")
            .hint("run the same command again: the tables are looked at first"),
        _ => Error::internal("SQLite refused a statement"),
    };
    explained.context("path", path.display()).caused_by(error)
}

fn is_missing_name(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    ["no such table", "no such column", "has no column named"].iter().any(|w| text.contains(w))
}

#[cfg(test)]
mod tests {
    use highwater_core::ErrorKind;

    use super::*;

    #[test]
    fn a_missing_file_and_a_file_that_is_no_database_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Location::parse(folder.path().join("no.db").to_str().unwrap()).unwrap();
        let error = open_read_only(&missing).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Config, "No such file"));
        assert!(!missing.path.exists(), "a source never creates a file");

        let text = folder.path().join("text.db");
        std::fs::write(&text, "this is certainly not a database, but a text".repeat(40)).unwrap();
        let error = open_read_only(&Location::parse(text.to_str().unwrap()).unwrap()).unwrap_err();
        assert_eq!(error.message(), "The file is not a SQLite database");

        let nowhere = folder.path().join("none").join("x.db");
        let nowhere = Location::parse(nowhere.to_str().unwrap()).unwrap();
        let error = open_read_write(&nowhere).unwrap_err();
        assert!(error.hint_text().unwrap().starts_with("mkdir -p"));
    }

    #[test]
    fn a_source_is_never_told_to_make_its_database_writable() {
        for code in [rusqlite::ffi::SQLITE_READONLY_DIRECTORY, rusqlite::ffi::SQLITE_CANTOPEN] {
            let failure = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            let error = explain_read(failure, Path::new("/x/shop.db"));
            assert_eq!(error.kind(), ErrorKind::Config);
            let hint = error.hint_text().unwrap();
            assert!(hint.contains("sqlite:///x/shop.db?immutable=1"), "{hint}");
            assert!(!hint.contains("u+w"), "{hint}");
        }
    }

    #[test]
    fn a_destination_that_its_url_makes_read_only_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        for parameter in ["mode=ro", "immutable=1"] {
            let name = format!("file:{}?{parameter}", path.display());
            let error = open_read_write(&Location::parse(&name).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(error.context_value("parameter"), Some(parameter));
        }
    }

    #[test]
    fn a_full_disk_a_lock_and_a_broken_rule_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).unwrap();
        let kind = |result: rusqlite::Result<()>| explain(result.unwrap_err(), &path).kind();
        connection.execute_batch("CREATE TABLE t (a TEXT PRIMARY KEY)").unwrap();
        let insert = "INSERT INTO t VALUES (printf('%05000d', abs(random())))";
        connection.pragma_update(None, "max_page_count", 4).unwrap();
        let full = (0..100).try_for_each(|_| connection.execute_batch(insert));
        assert_eq!(kind(full), ErrorKind::Transient);
        connection.pragma_update(None, "max_page_count", 1000).unwrap();
        let twice = connection.execute_batch("INSERT INTO t VALUES (1), (1)");
        assert_eq!(kind(twice), ErrorKind::Data);
        let other = Connection::open(&path).unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(kind(other.execute_batch("BEGIN IMMEDIATE")), ErrorKind::Transient);
        assert_eq!(kind(other.execute_batch("SELECT gone FROM t")), ErrorKind::Schema);
    }
}
