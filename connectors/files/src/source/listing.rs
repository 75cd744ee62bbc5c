//! Which files there are, and which table each belongs to.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use highwater_core::{Error, Result};

use crate::disk;
use crate::spec::{Compression, Format, SourceSpec};
use crate::template::decode;

/// A file of a table, as it was when the folder was listed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    /// Below the folder that the user named: what cursors call it.
    pub(crate) relative: String,
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    pub(crate) stamp: Stamp,
}

/// What tells that a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// In bytes.
    pub(crate) size: u64,
    /// Microseconds since 1970.
    pub(crate) modified: i64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let metadata =
            fs::metadata(path).map_err(|e| disk::failed("A file cannot be read", path, e))?;
        Ok(Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified = since.and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(0);
        Self { size: metadata.len(), modified }
    }
}

/// The files of every table, by table name; those of a table by their relative paths.
pub(crate) type Listing = BTreeMap<String, BTreeMap<String, SourceFile>>;

/// Lists all files that the spec names.
pub(crate) fn list(spec: &SourceSpec) -> Result<Listing> {
    let mut lister = Lister { spec, found: Listing::new() };
    for path in spec.path.iter() {
        lister.add(path)?;
    }
    Ok(lister.found)
}

struct Lister<'a> {
    spec: &'a SourceSpec,
    found: Listing,
}

impl Lister<'_> {
    fn add(&mut self, text: &str) -> Result<()> {
        let path = Path::new(text);
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.add_folder(path),
            Ok(_) => self.add_file(path),
            Err(_) if text.contains(['*', '?', '[']) => self.add_glob(text),
            Err(error) => {
                Err(disk::failed("The source cannot be read", path, error).context("key", "path"))
            }
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let base = path.parent().unwrap_or(Path::new(""));
        let added = self.take(path, base, None)?;
        if added {
            return Ok(());
        }
        Err(Error::config("The file's name does not tell its format")
            .context("path", path.display())
            .context("key", "format")
            .hint("set `format: csv`, `json`, `jsonl` or `parquet`"))
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        for path in entries(folder)? {
            if path.is_dir() {
                let table = decode(&file_name(&path)?);
                self.walk(&path, folder, &table)?;
            } else {
                self.take(&path, folder, None)?;
            }
        }
        Ok(())
    }

    fn walk(&mut self, folder: &Path, base: &Path, table: &str) -> Result<()> {
        for path in entries(folder)? {
            if path.is_dir() {
                self.walk(&path, base, table)?;
            } else {
                self.take(&path, base, Some(table))?;
            }
        }
        Ok(())
    }

    fn add_glob(&mut self, pattern: &str) -> Result<()> {
        let wrong = |e: glob::PatternError| {
            Error::config("The glob cannot be understood").context("key", "path").caused_by(e)
        };
        let options =
            glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let (base, table) = glob_parts(pattern);
        let mut matched = false;
        for path in glob::glob_with(pattern, options).map_err(wrong)? {
            let path = path.map_err(|e| {
                let path = e.path().to_owned();
                disk::failed("A folder cannot be listed", &path, e.into())
            })?;
            let below = path.strip_prefix(&base).unwrap_or(&path);
            let hidden = below.iter().any(|part| is_hidden(&part.to_string_lossy()));
            if !hidden && path.is_file() {
                matched |= self.take(&path, &base, Some(&table))?;
            }
        }
        if matched {
            return Ok(());
        }
        Err(Error::config("No file of a known format matches the glob")
            .context("path", pattern)
            .context("key", "path"))
    }

    /// Adds a file, unless its format is unknown.
    fn take(&mut self, path: &Path, base: &Path, table: Option<&str>) -> Result<bool> {
        let name = file_name(path)?;
        let by_name = Format::of_name(&name);
        let format = match self.spec.format.or(by_name.map(|(format, _)| format)) {
            // Both are lines of JSON.
            Some(Format::Json) => Format::Jsonl,
            Some(format) => format,
            None => return Ok(false),
        };
        let gzip = if name.to_ascii_lowercase().ends_with(".gz") {
            Compression::Gzip
        } else {
            Compression::None
        };
        let compression = self.spec.compression.unwrap_or(gzip);
        let relative = path.strip_prefix(base).unwrap_or(path);
        let relative = relative.to_str().ok_or_else(|| not_unicode(path))?.to_owned();
        let table = match (&self.spec.table_name, table) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => decode(stem(&name)),
        };
        let file = SourceFile {
            path: path.to_owned(),
            relative: relative.clone(),
            format,
            compression,
            stamp: Stamp::of(path)?,
        };
        let other = self.found.entry(table.clone()).or_default().insert(relative, file);
        match other {
            Some(other) if other.path != path => {
                Err(Error::config("Two files of a table have the same name below their folders")
                    .context("table", table)
                    .context("file", path.display())
                    .context("other file", other.path.display())
                    .context("key", "path")
                    .hint("name the folder above both, or give them different names"))
            }
            _ => Ok(true),
        }
    }
}

/// The entries of a folder that are not hidden, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| disk::failed("A folder cannot be listed", folder, e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !is_hidden(&file_name(&path)?) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or_default();
    name.to_str().map(str::to_owned).ok_or_else(|| not_unicode(path))
}

fn not_unicode(path: &Path) -> Error {
    Error::config("A file's name is no Unicode text").context("path", path.display())
}

/// `orders.csv.gz`: `orders`.
fn stem(name: &str) -> &str {
    let gz = name.len().saturating_sub(3);
    let name = match name.get(gz..) {
        Some(ending) if ending.eq_ignore_ascii_case(".gz") => &name[..gz],
        _ => name,
    };
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The folder of a glob without wildcards, and the table that it is.
fn glob_parts(pattern: &str) -> (PathBuf, String) {
    let first = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let slash = pattern[..first].rfind('/').map_or(0, |at| at + 1);
    let base = PathBuf::from(&pattern[..slash]);
    let file = pattern.rsplit('/').next().unwrap_or(pattern);
    let prefix = file.split(['*', '?', '[']).next().unwrap_or_default();
    let prefix = prefix.trim_end_matches(['-', '_', '.']);
    let folder = base.file_name().map(|name| name.to_string_lossy().into_owned());
    let table = if prefix.is_empty() { folder.unwrap_or_default() } else { prefix.to_owned() };
    (base, if table.is_empty() { "files".to_owned() } else { decode(&table) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn names(spec: Value) -> Result<Vec<(String, Vec<String>)>> {
        let listing = list(&serde_json::from_value(spec).unwrap())?;
        Ok(listing.into_iter().map(|(t, files)| (t, files.into_keys().collect())).collect())
    }

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "a\n1\n").unwrap();
        }
        root
    }

    #[track_caller]
    fn check(found: Vec<(String, Vec<String>)>, expected: &[(&str, &[&str])]) {
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(t, f)| ((*t).into(), f.iter().map(|f| (*f).into()).collect()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_folder_is_a_table_per_stem_and_per_sub_folder() {
        let root = tree(&[
            "a.csv",
            "b.json.gz",
            "notes.txt",
            ".hidden.csv",
            "_tmp.csv",
            "_highwater/s/1.json",
            "orders/2026/x.parquet",
            "orders/y.parquet",
            "public%2Ft/z.csv",
        ]);
        let found = names(json!({"path": root.path()})).unwrap();
        check(
            found,
            &[
                ("a", &["a.csv"]),
                ("b", &["b.json.gz"]),
                ("orders", &["orders/2026/x.parquet", "orders/y.parquet"]),
                ("public/t", &["public%2Ft/z.csv"]),
            ],
        );
    }

    #[test]
    fn a_glob_is_one_table() {
        let root = tree(&["in/orders-1.csv", "in/orders-2.csv", "in/x.csv", "in/.y.csv"]);
        let path = |glob: &str| format!("{}/{glob}", root.path().display());
        let found = names(json!({"path": path("in/orders-*.csv")})).unwrap();
        check(found, &[("orders", &["orders-1.csv", "orders-2.csv"])]);
        let all: &[(&str, &[&str])] = &[("in", &["orders-1.csv", "orders-2.csv", "x.csv"])];
        check(names(json!({"path": path("in/*.csv")})).unwrap(), all);
        check(names(json!({"path": path("in/**/*.csv")})).unwrap(), all);
        let one = names(json!({"path": path("in/x.csv"), "table_name": "t"})).unwrap();
        check(one, &[("t", &["x.csv"])]);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let root = tree(&["a/x.csv", "b/x.csv", "c.txt"]);
        let path = |p: &str| format!("{}/{p}", root.path().display());
        for wrong in [path("none.csv"), path("*.parquet"), path("c.txt")] {
            let error = names(json!({"path": wrong})).unwrap_err();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Config, "{error}");
            assert!(error.context_value("key").is_some());
        }
        let both = names(json!({"path": [path("a/x.csv"), path("b/x.csv")]})).unwrap_err();
        assert!(both.to_string().contains("same name"));
        let text = names(json!({"path": path("c.txt"), "format": "csv"})).unwrap();
        check(text, &[("c", &["c.txt"])]);
    }
}
