//! What the errors of a driver mean to the user.
//!
//! Messages of databases quote row values ("could not convert string 'x'", "duplicate key id: 5"):
//! of those that may, only the class is kept.

use adbc_core::error::{Error as AdbcError, Status};
use arrow_schema::ArrowError;
use highwater_core::Error;

use crate::session::System;

/// Classes of DuckDB's errors whose messages hold no values: names and places only.
const WITHOUT_VALUES: [&str; 9] = [
    "Binder Error",
    "Catalog Error",
    "Connection Error",
    "Dependency Error",
    "FATAL Error",
    "IO Error",
    "Not implemented Error",
    "Out of Memory Error",
    "TransactionContext Error",
];

/// An error of a driver as one of ours.
pub(crate) fn explain(system: &System, error: AdbcError) -> Error {
    match system {
        System::DuckDb(path) => of_duckdb(&error).context("path", path.display()),
        System::Other(driver) => of_driver(error).context("driver", driver),
    }
}

/// An error that comes while rows are read.
pub(crate) fn explain_arrow(system: &System, error: ArrowError) -> Error {
    let message = match error {
        ArrowError::CDataInterface(message) => message,
        other => other.to_string(),
    };
    explain(system, AdbcError::with_message_and_status(message, Status::Internal))
}

fn of_duckdb(error: &AdbcError) -> Error {
    let message = error.message.as_str();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let (class, _) = message.split_once(':').unwrap_or((message, ""));
    let explained = if has(&["Could not set lock on file", "Conflicting lock is held"]) {
        Error::transient("Another process has the database open")
            .hint("close it there (a DuckDB file has one writing process), or run this again later")
    } else if has(&["not a valid DuckDB database file"]) {
        Error::config("The file is not a DuckDB database")
            .hint("check the path; files of other kinds are read with `path: file`")
    } else if has(&["No such file or directory", "database does not exist"]) {
        Error::config("No such file").hint("check the path")
    } else if has(&["Permission denied", "Read-only file system"]) {
        Error::config("The database cannot be opened for this")
            .hint("give this user the right to read and write the file and its folder")
    } else if has(&["No space left on device", "Disk quota exceeded"]) {
        Error::transient("The disk is full")
            .hint("free some space and run the same command again; nothing was committed")
    } else if class == "Out of Memory Error" {
        Error::transient("DuckDB needs more memory than it is given").hint("memory_limit: 4GiB")
    } else if has(&["read-only mode", "read-only database"]) {
        Error::config("The database is opened for reading only")
    } else if error.status == Status::Cancelled || class.contains("INTERRUPT") {
        Error::interrupted("The read was given up")
    } else if class == "Constraint Error" {
        Error::data("A row breaks a rule of the destination table")
    } else if ["Conversion Error", "Out of Range Error", "Invalid Input Error"].contains(&class) {
        Error::data("A value does not fit")
    } else if class == "TransactionContext Error" && has(&["Conflict", "conflict"]) {
        Error::transient("Another transaction has changed the same rows")
            .hint("run the same command again")
    } else if is_missing_name(message) {
        Error::schema("A table or column is not there any more")
            .hint("run the same command again: the tables are looked at first")
    } else {
        Error::internal("DuckDB refused a statement")
    };
    let kept = match WITHOUT_VALUES.contains(&class) {
        true => message,
        false => class,
    };
    explained.caused_by(kept.lines().next().unwrap_or_default().to_owned())
}

fn is_missing_name(message: &str) -> bool {
    (message.starts_with("Catalog Error") && message.contains("does not exist"))
        || (message.starts_with("Binder Error") && message.contains("not found"))
        || (message.starts_with("Binder Error") && message.contains("does not have a column"))
}

fn of_driver(error: AdbcError) -> Error {
    let explained = match error.status {
        Status::IO | Status::Timeout => Error::transient("The system cannot be reached")
            .hint("check its address, and run the same command again"),
        Status::Unauthenticated | Status::Unauthorized => {
            Error::config("The system refuses this user").hint("check the credentials in `options`")
        }
        Status::InvalidData | Status::Integrity => Error::data("The system refused a value"),
        Status::NotImplemented => Error::unsupported("The driver cannot do this"),
        Status::NotFound => Error::schema("A table or column is not there"),
        Status::Cancelled => Error::interrupted("The work was given up"),
        _ => Error::internal("The driver refused a request"),
    };
    // The message may quote values; its class is all that is told.
    explained.context("status", format!("{:?}", error.status))
}
