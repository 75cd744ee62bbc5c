//! What the user configures: the path of a database file, and how much DuckDB may use.

use std::path::{Path, PathBuf};

use highwater_core::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The memory that DuckDB may use when nothing else is configured.
pub(crate) const MEMORY_LIMIT: &str = "1GiB";
/// Rows per batch when nothing else is configured.
const BATCH_ROWS: usize = 65_536;

/// The `spec` of a DuckDB source or destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// Path of the database file. A destination's file is created when it does not exist.
    pub(crate) connection_string: String,
    /// The memory that DuckDB may use for itself (default 1GiB); what is more goes to a folder
    /// beside the file while the sync runs.
    #[serde(default)]
    pub(crate) memory_limit: Option<String>,
    /// The threads that DuckDB may use (default: one per processor, and half of them while rows
    /// are loaded).
    #[serde(default)]
    pub(crate) threads: Option<u32>,
    /// The shared library of DuckDB, or the folder that holds it (default: `HIGHWATER_DUCKDB_LIB`,
    /// else where it is installed).
    #[serde(default)]
    pub(crate) library: Option<String>,
    /// Rows per batch of a source (default 65536). A destination commits at checkpoints, whatever
    /// this says.
    #[serde(default)]
    pub(crate) batch_size: Option<u32>,
    /// Taken for CloudQuery's sake. A destination commits at checkpoints, whatever this says.
    #[serde(default)]
    pub(crate) batch_size_bytes: Option<u32>,
    /// Taken for CloudQuery's sake: `--log-level debug` shows what is done.
    #[serde(default)]
    #[expect(dead_code, reason = "it is taken, and nothing follows from it")]
    pub(crate) debug: Option<bool>,
}

impl Spec {
    /// Parses a `spec`.
    ///
    /// # Errors
    /// `Config`, with the `key` that is wrong.
    pub(crate) fn parse(spec: Value) -> Result<Self> {
        let parsed: Self = serde_json::from_value(spec.clone()).map_err(|error| {
            let key = wrong_key(&spec).unwrap_or_else(|| "connection_string".to_owned());
            Error::config("The spec of a DuckDB database is wrong")
                .context("key", key)
                .hint("connection_string: ./shop.duckdb")
                .caused_by(error)
        })?;
        if let Err(error) = Location::parse(&parsed.connection_string) {
            return Err(error.context("key", "connection_string"));
        }
        for (key, value) in [
            ("batch_size", parsed.batch_size),
            ("batch_size_bytes", parsed.batch_size_bytes),
            ("threads", parsed.threads),
        ] {
            if value == Some(0) {
                return Err(Error::config("It has to be at least 1")
                    .context("key", key)
                    .hint(format!("leave `{key}` out")));
            }
        }
        if let Some(limit) = &parsed.memory_limit
            && !is_size(limit)
        {
            return Err(Error::config("It is not an amount of memory")
                .context("key", "memory_limit")
                .hint("memory_limit: 2GiB"));
        }
        Ok(parsed)
    }

    /// Rows per batch of a source.
    pub(crate) fn batch_rows(&self) -> usize {
        self.batch_size.map_or(BATCH_ROWS, |n| n as usize)
    }

    /// With what the file is opened.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            library: self.library.clone().map(PathBuf::from),
            memory: self.memory_limit.clone().unwrap_or_else(|| MEMORY_LIMIT.to_owned()),
            threads: self.threads,
        }
    }
}

/// Which DuckDB, and how much of the machine it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) library: Option<PathBuf>,
    pub(crate) memory: String,
    pub(crate) threads: Option<u32>,
}

/// `512MB`, `1.5 GiB`: a number and a unit.
fn is_size(text: &str) -> bool {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = text[end..].trim().to_ascii_uppercase();
    let units = ["B", "KB", "MB", "GB", "TB", "KIB", "MIB", "GIB", "TIB"];
    text[..end].parse::<f64>().is_ok_and(|number| number > 0.0) && units.contains(&unit.as_str())
}

/// The key that is unknown or has a value of the wrong type: each is tried alone.
fn wrong_key(spec: &Value) -> Option<String> {
    let given = spec.as_object()?;
    given.iter().find_map(|(key, value)| {
        let mut one = Map::from_iter([("connection_string".to_owned(), json!("x"))]);
        one.insert(key.clone(), value.clone());
        serde_json::from_value::<Spec>(Value::Object(one)).is_err().then(|| key.clone())
    })
}

/// Where a database file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) path: PathBuf,
}

impl Location {
    /// Understands a path.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn parse(connection_string: &str) -> Result<Self> {
        let path = connection_string.split('?').next().unwrap_or_default();
        if path.is_empty() || path.starts_with(":memory:") {
            return Err(Error::config(
                "A database file has to be named; one in memory would be gone after the sync",
            )
            .hint("connection_string: ./shop.duckdb"));
        }
        if path.starts_with("md:") || path.starts_with("motherduck:") {
            return Err(Error::unsupported("A database of MotherDuck is no file")
                .hint("connection_string: ./shop.duckdb"));
        }
        if connection_string.len() > path.len() {
            return Err(Error::config("Parameters behind the path are not taken")
                .hint("memory_limit: 2GiB   # and threads: 4, as keys beside connection_string"));
        }
        Ok(Self { path: PathBuf::from(path) })
    }

    /// The `spec` of a URL or a plain path.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn spec_from_url(url: &str) -> Result<Value> {
        let path = match url.strip_prefix("duckdb:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => url,
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut spec = Map::from_iter([("connection_string".to_owned(), json!(path))]);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = match value.parse::<u32>() {
                Ok(number) if key != "memory_limit" => json!(number),
                _ => json!(value),
            };
            spec.insert(key.to_owned(), value);
        }
        let spec = Value::Object(spec);
        Spec::parse(spec.clone()).map_err(|error| {
            error.hint("duckdb:///absolute/path.duckdb or duckdb:relative.duckdb")
        })?;
        Ok(spec)
    }

    /// The folder that holds the file.
    pub(crate) fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// The one path of the file, whatever path or link leads to it.
    pub(crate) fn canonical(&self) -> PathBuf {
        if let Ok(path) = self.path.canonicalize() {
            return path;
        }
        match (self.folder().canonicalize(), self.path.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => self.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::ErrorKind;

    use super::*;

    #[test]
    fn every_spelling_of_a_path_names_the_file() {
        for (url, path) in [
            ("duckdb:///abs/path.duckdb", "/abs/path.duckdb"),
            ("duckdb://rel/path.duckdb", "rel/path.duckdb"),
            ("duckdb:rel.duckdb", "rel.duckdb"),
            ("./shop.duckdb", "./shop.duckdb"),
        ] {
            let spec = Location::spec_from_url(url).unwrap();
            assert_eq!(spec, json!({ "connection_string": path }), "{url}");
        }
        let spec = Location::spec_from_url("duckdb:a.db?threads=2&memory_limit=500MB").unwrap();
        let setup = Spec::parse(spec).unwrap().setup();
        assert_eq!((setup.memory.as_str(), setup.threads), ("500MB", Some(2)));
        for wrong in ["duckdb://", "duckdb::memory:", "duckdb:md:shop", "duckdb:a.db?no=1"] {
            assert!(Location::spec_from_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_key_is_named() {
        for (spec, key) in [
            (json!({}), "connection_string"),
            (json!({"connection_string": 1}), "connection_string"),
            (json!({"connection_string": "a.db?x=1"}), "connection_string"),
            (json!({"connection_string": "a.db", "threads": "x"}), "threads"),
            (json!({"connection_string": "a.db", "threads": 0}), "threads"),
            (json!({"connection_string": "a.db", "memory_limit": "much"}), "memory_limit"),
            (json!({"connection_string": "a.db", "memory": "1GB"}), "memory"),
        ] {
            let error = Spec::parse(spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(error.context_value("key"), Some(key));
        }
    }
}
