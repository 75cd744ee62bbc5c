//! What the user configures: the path of a database file, in one of its spellings.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use highwater_core::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Rows per batch when nothing else is configured.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Bytes of text and blobs per batch when nothing else is configured.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// The `spec` of a SQLite source or destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// Path of the database file, or a `file:` URI with SQLite's parameters. A destination's file
    /// is created when it does not exist.
    pub(crate) connection_string: String,
    /// Rows per batch (default 8192). A destination commits at checkpoints, whatever this says.
    #[serde(default)]
    pub(crate) batch_size: Option<u32>,
    /// Bytes per batch (default 4194304). A destination commits at checkpoints, whatever this
    /// says.
    #[serde(default)]
    pub(crate) batch_size_bytes: Option<u32>,
}

impl Spec {
    /// Parses a `spec`.
    ///
    /// # Errors
    /// `Config`, with the `key` that is wrong.
    pub(crate) fn parse(spec: Value) -> Result<Self> {
        let parsed: Self = serde_json::from_value(spec.clone()).map_err(|error| {
            let key = wrong_key(&spec).unwrap_or_else(|| "connection_string".to_owned());
            Error::config("The spec of a SQLite database is wrong")
                .context("key", key)
                .hint("connection_string: ./shop.db")
                .caused_by(error)
        })?;
        if let Err(error) = Location::parse(&parsed.connection_string) {
            return Err(error.context("key", "connection_string"));
        }
        for (key, value) in
            [("batch_size", parsed.batch_size), ("batch_size_bytes", parsed.batch_size_bytes)]
        {
            if value == Some(0) {
                return Err(Error::config("A batch has to hold at least one row")
                    .context("key", key)
                    .hint(format!("leave `{key}` out")));
            }
        }
        Ok(parsed)
    }

    /// Rows per batch.
    pub(crate) fn batch_rows(&self) -> usize {
        self.batch_size.map_or(BATCH_ROWS, |n| n as usize)
    }

    /// Bytes per batch.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch_size_bytes.map_or(BATCH_BYTES, |n| n as usize)
    }
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Location {
    /// What SQLite is given: a path or a `file:` URI.
    pub(crate) name: String,
    /// The path in the file system.
    pub(crate) path: PathBuf,
}

impl Location {
    /// Understands a path or a `file:` URI.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn parse(connection_string: &str) -> Result<Self> {
        let path = match connection_string.strip_prefix("file:") {
            Some(uri) => {
                let uri = uri.split(['?', '#']).next().unwrap_or_default();
                // `file://host/path`: SQLite knows an empty host and `localhost`.
                let uri = uri
                    .strip_prefix("//")
                    .map_or(uri, |rest| rest.find('/').map_or("", |slash| &rest[slash..]));
                percent_decoded(uri)
            }
            None => connection_string.to_owned(),
        };
        if path.is_empty() || path == ":memory:" || connection_string.contains("mode=memory") {
            return Err(Error::config(
                "A database file has to be named; one in memory would be gone after the sync",
            )
            .hint("connection_string: ./shop.db"));
        }
        Ok(Self { name: connection_string.to_owned(), path: PathBuf::from(path) })
    }

    /// What tells the file from every other, whatever path or link leads to it; `None` while it
    /// does not exist.
    pub(crate) fn place(&self) -> Option<String> {
        let file = std::fs::metadata(&self.path).ok()?;
        Some(format!("{}:{}", file.dev(), file.ino()))
    }

    /// The `spec` of a URL or a plain path.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn spec_from_url(url: &str) -> Result<Value> {
        let path = match url.strip_prefix("sqlite:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => url,
        };
        // Parameters are SQLite's own, and it reads them from a URI only.
        let name = match path.split_once('?') {
            Some((file, parameters)) if url.starts_with("sqlite:") => {
                format!("file:{file}?{parameters}")
            }
            _ => path.to_owned(),
        };
        Self::parse(&name)
            .map_err(|error| error.hint("sqlite:///absolute/path.db or sqlite:relative.db"))?;
        Ok(json!({ "connection_string": name }))
    }

    /// The folder that holds the file.
    pub(crate) fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_path_names_the_file() {
        for (url, name, path) in [
            ("sqlite:///abs/path.db", "/abs/path.db", "/abs/path.db"),
            ("sqlite://rel/path.db", "rel/path.db", "rel/path.db"),
            ("sqlite:rel.db", "rel.db", "rel.db"),
            ("./shop.db", "./shop.db", "./shop.db"),
            ("odd?name.db", "odd?name.db", "odd?name.db"),
            ("sqlite:///a%20b.db?immutable=1", "file:/a%20b.db?immutable=1", "/a b.db"),
        ] {
            let spec = Location::spec_from_url(url).unwrap();
            assert_eq!(spec["connection_string"], name, "{url}");
            assert_eq!(Location::parse(name).unwrap().path, Path::new(path), "{url}");
        }
        assert_eq!(Location::parse("file:///x/y.db").unwrap().path, Path::new("/x/y.db"));
        for wrong in ["sqlite://", "sqlite::memory:", "file:x?mode=memory"] {
            assert!(Location::spec_from_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_key_is_named() {
        for (spec, key) in [
            (json!({}), "connection_string"),
            (json!({"connection_string": 1}), "connection_string"),
            (json!({"connection_string": "a.db", "batch_size": "x"}), "batch_size"),
            (json!({"connection_string": "a.db", "batch_size": 0}), "batch_size"),
            (json!({"connection_string": "a.db", "batchsize": 1}), "batchsize"),
        ] {
            let error = Spec::parse(spec).unwrap_err();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Config);
            assert_eq!(error.context_value("key"), Some(key));
        }
    }
}
