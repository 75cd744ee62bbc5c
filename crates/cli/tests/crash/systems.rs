//! The systems that are crashed into: what a test does to a source and sees at a destination.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use highwater_testkit::postgres::{Database, Postgres};
use highwater_testkit::rows::TextRow;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::Value;

/// A database or folder.
pub trait System {
    /// What the command line calls it.
    fn url(&self) -> String;

    /// Runs statements, separated by semicolons.
    fn execute(&self, statements: &str);

    /// What a reader sees of a table: these columns as text. Nothing when it is not there.
    fn rows(&self, table: &str, columns: &[&str]) -> Vec<TextRow>;

    /// The names of everything in it, to see what is left behind.
    fn objects(&self) -> BTreeSet<String>;
}

/// A SQLite database file.
pub struct Sqlite(pub PathBuf);

impl Sqlite {
    fn open(&self) -> Connection {
        let connection = Connection::open(&self.0).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        connection
    }

    fn query(&self, query: &str) -> Vec<TextRow> {
        let connection = self.open();
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|index| {
                    Ok(match row.get_ref(index)? {
                        ValueRef::Null => None,
                        ValueRef::Integer(number) => Some(number.to_string()),
                        ValueRef::Real(number) => Some(number.to_string()),
                        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                        ValueRef::Blob(bytes) => Some(format!("{bytes:?}")),
                    })
                })
                .collect()
        });
        rows.unwrap().map(Result::unwrap).collect()
    }
}

impl System for Sqlite {
    fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }

    fn execute(&self, statements: &str) {
        self.open().execute_batch(&format!("BEGIN; {statements} COMMIT;")).unwrap();
    }

    fn rows(&self, table: &str, columns: &[&str]) -> Vec<TextRow> {
        if !self.0.exists() || !self.objects().contains(table) {
            return Vec::new();
        }
        self.query(&format!("SELECT {} FROM {table}", columns.join(", ")))
    }

    fn objects(&self) -> BTreeSet<String> {
        let names = self.query("SELECT name FROM sqlite_master");
        names.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
    }
}

/// A DuckDB database file, and the library that opens it.
pub struct DuckDb {
    pub file: PathBuf,
    pub library: PathBuf,
}

impl DuckDb {
    fn query(&self, writes: bool, sql: &str) -> Vec<TextRow> {
        let rows = highwater_adbc::testing::query(&self.file, &self.library, writes, sql).unwrap();
        let text = |row: usize, column: &ArrayRef| {
            let column = column.as_string::<i32>();
            (!column.is_null(row)).then(|| column.value(row).to_owned())
        };
        let columns = |row| rows.columns().iter().map(|column| text(row, column)).collect();
        (0..rows.num_rows()).map(columns).collect()
    }
}

impl System for DuckDb {
    fn url(&self) -> String {
        format!("duckdb://{}?library={}", self.file.display(), self.library.display())
    }

    fn execute(&self, statements: &str) {
        self.query(true, &format!("BEGIN; {statements} COMMIT; SELECT 'done'"));
    }

    fn rows(&self, table: &str, columns: &[&str]) -> Vec<TextRow> {
        if !self.file.exists() || !self.objects().contains(&format!("main.{table}")) {
            return Vec::new();
        }
        let columns: Vec<_> =
            columns.iter().map(|column| format!("CAST({column} AS VARCHAR)")).collect();
        self.query(false, &format!("SELECT {} FROM {table}", columns.join(", ")))
    }

    fn objects(&self) -> BTreeSet<String> {
        let names = self.query(
            false,
            "SELECT schema_name || '.' || table_name FROM duckdb_tables() \
             UNION ALL SELECT 'index ' || index_name FROM duckdb_indexes()",
        );
        names.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
    }
}

/// A database of the shared PostgreSQL cluster.
pub struct PostgreSql {
    database: Database,
    url: String,
}

impl PostgreSql {
    /// An empty one.
    pub fn new() -> Self {
        Self::on(Postgres::shared())
    }

    /// An empty one in another cluster.
    pub fn on(cluster: &Postgres) -> Self {
        let database = cluster.create_database();
        let url = database.url().to_owned();
        Self { database, url }
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        self.database.name()
    }

    /// The same, reached by another way.
    pub fn through(self, url: String) -> Self {
        Self { url, ..self }
    }
}

impl System for PostgreSql {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn execute(&self, statements: &str) {
        self.database.execute(&format!("BEGIN; {statements} COMMIT;"));
    }

    fn rows(&self, table: &str, columns: &[&str]) -> Vec<TextRow> {
        if self.database.value(&format!("SELECT to_regclass('{table}')")).is_none() {
            return Vec::new();
        }
        self.database.rows(&format!("SELECT {} FROM {table}", columns.join(", ")))
    }

    fn objects(&self) -> BTreeSet<String> {
        let names = self.database.rows(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname !~ '^(pg_|information_schema)' AND c.relkind IN ('r', 'v', 'm', 'S', 'i') \
             UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts \
             WHERE database = current_database()",
        );
        names.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
    }
}

/// A folder of files with one JSON object per line.
pub struct JsonLines(pub PathBuf);

impl System for JsonLines {
    fn url(&self) -> String {
        self.0.display().to_string()
    }

    fn execute(&self, _statements: &str) {
        unreachable!("files are a destination here");
    }

    fn rows(&self, table: &str, columns: &[&str]) -> Vec<TextRow> {
        let mut rows = Vec::new();
        for file in files(&self.0.join(table)) {
            for line in std::fs::read_to_string(&file).unwrap().lines() {
                let object: Value = serde_json::from_str(line).unwrap();
                rows.push(columns.iter().map(|column| text(&object[*column])).collect());
            }
        }
        rows
    }

    /// The kinds of things that there are: names of data files are made anew every time.
    fn objects(&self) -> BTreeSet<String> {
        let folder_of = |file: &Path| {
            let folder = file.parent()?.strip_prefix(&self.0).ok()?;
            let ending = file.extension().unwrap_or_default();
            Some(format!("{}/*.{}", folder.display(), ending.display()))
        };
        files(&self.0).iter().filter_map(|file| folder_of(file)).collect()
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
