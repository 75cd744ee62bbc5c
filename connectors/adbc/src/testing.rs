//! A user's own program over the same file, for tests: a second library in the process would not
//! see the lock of the first.

use std::path::Path;

use arrow_array::RecordBatch;
use highwater_core::Result;

use crate::duckdb::config::{Location, MEMORY_LIMIT, Setup};
use crate::duckdb::database::{Access, Database};

/// Runs one statement; returns its rows.
///
/// # Errors
/// What DuckDB says.
pub fn query(path: &Path, library: &Path, writes: bool, sql: &str) -> Result<RecordBatch> {
    let location = Location { path: path.to_owned() };
    let library = Some(library.to_owned());
    let setup = Setup { library, memory: MEMORY_LIMIT.to_owned(), threads: None };
    let access = if writes { Access::Write } else { Access::Read };
    Database::open(&location, &setup, access)?.connect()?.fetch(sql, &[])
}
