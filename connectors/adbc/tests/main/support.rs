//! A file to work on. Where DuckDB's library is not installed a test says that it is skipped.

use std::path::PathBuf;

use arrow_array::{Array, ArrayRef};
use arrow_cast::display::array_value_to_string;
use highwater_adbc::DuckDbConnector;
use highwater_adbc::testing::query;
use highwater_core::{Connector, Destination, Source};
use highwater_testkit::sdk;
use serde_json::{Value, json};

/// A database file that goes when the test ends.
pub struct File {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
    library: PathBuf,
}

impl File {
    /// An empty database; `None` where there is no DuckDB, which is said.
    pub fn new() -> Option<Self> {
        let thread = std::thread::current();
        let library = sdk::or_skip(thread.name().unwrap_or("a test"), sdk::duckdb())?;
        // In memory where that is possible: what a power cut does is not tested here.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("test.duckdb");
        query(&path, &library, true, "SELECT 1").unwrap();
        Some(Self { _folder: folder, path, library })
    }

    pub fn spec(&self) -> Value {
        json!({
            "connection_string": self.path,
            "library": self.library,
            "memory_limit": "256MiB",
            "threads": 2,
        })
    }

    pub async fn source(&self) -> Box<dyn Source> {
        DuckDbConnector.source(self.spec()).await.unwrap()
    }

    pub async fn destination(&self) -> Box<dyn Destination> {
        DuckDbConnector.destination(self.spec()).await.unwrap()
    }

    /// Runs statements, as a user would behind highwater's back.
    pub fn run(&self, sql: &str) {
        query(&self.path, &self.library, true, sql).unwrap();
    }

    /// The rows of a query as texts, `NULL` for NULL.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let rows = query(&self.path, &self.library, false, sql).unwrap();
        let value = |row: usize, column: &ArrayRef| match column.is_null(row) {
            true => "NULL".to_owned(),
            false => array_value_to_string(column, row).unwrap(),
        };
        (0..rows.num_rows())
            .map(|row| {
                let values = rows.columns().iter().map(|column| value(row, column));
                values.collect::<Vec<_>>().join("|")
            })
            .collect()
    }
}
