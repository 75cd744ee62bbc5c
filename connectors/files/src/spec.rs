//! The keys of `spec`, for both roles: parsed, checked and described in one place.

use std::time::Duration;

use highwater_core::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Comma-separated values.
    Csv,
    /// One JSON object per line; the files end in `.json`, as CloudQuery's do.
    Json,
    /// One JSON object per line; the files end in `.jsonl`.
    #[serde(alias = "ndjson")]
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }

    /// The format that a file's name tells, and whether it is compressed.
    pub fn of_name(name: &str) -> Option<(Self, Compression)> {
        let name = name.to_ascii_lowercase();
        let (name, compression) = match name.strip_suffix(".gz") {
            Some(name) => (name, Compression::Gzip),
            None => (name.as_str(), Compression::None),
        };
        let format = match name.rsplit_once('.')?.1 {
            "csv" => Self::Csv,
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::Jsonl,
            "parquet" if compression == Compression::None => Self::Parquet,
            _ => return None,
        };
        Some((format, compression))
    }
}

/// How a CSV or JSON file is compressed as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Compression {
    /// Not at all.
    #[default]
    #[serde(rename = "", alias = "none")]
    None,
    /// gzip; the file's name gets `.gz`.
    #[serde(rename = "gzip")]
    Gzip,
}

/// How Parquet pages are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParquetCompression {
    /// Zstandard, level 1.
    #[default]
    Zstd,
    /// Snappy.
    Snappy,
    /// None.
    Uncompressed,
}

/// What is special about the format.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FormatSpec {
    /// CSV: the character between fields, one ASCII character. Default: `,`.
    pub delimiter: Option<String>,
    /// CSV: there is no line with the names of the columns. As a source the columns are then
    /// called `column_1`, `column_2`, …
    #[serde(default)]
    pub skip_header: bool,
    /// CSV: the character around fields, one ASCII character. Default: `"`.
    pub quote: Option<String>,
    /// Parquet: accepted for CloudQuery's sake (`v1.0`, `v2.4`, `v2.6`, `v2Latest`); files are
    /// always written so that readers of all of them understand them.
    pub version: Option<String>,
    /// Parquet: accepted for CloudQuery's sake (`undefined`, `required`, `optional`, `repeated`);
    /// the root has no repetition, which every reader accepts.
    pub root_repetition: Option<String>,
    /// Parquet: rows in a row group at most. Default: 131072; a row group also ends at 24 MiB.
    #[schemars(range(min = 1))]
    pub max_row_group_length: Option<usize>,
    /// Parquet: how pages are compressed. Default: `zstd`.
    #[serde(default)]
    pub compression: ParquetCompression,
}

/// The dialect of a CSV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CsvDialect {
    pub(crate) delimiter: u8,
    pub(crate) quote: u8,
    pub(crate) header: bool,
}

impl FormatSpec {
    pub(crate) fn csv(&self) -> Result<CsvDialect> {
        let delimiter = one_character("format_spec.delimiter", self.delimiter.as_deref(), b',')?;
        let quote = one_character("format_spec.quote", self.quote.as_deref(), b'"')?;
        if delimiter == quote {
            return Err(Error::config("Delimiter and quote are the same character")
                .context("key", "format_spec.quote"));
        }
        Ok(CsvDialect { delimiter, quote, header: !self.skip_header })
    }

    /// Refuses keys of another format: they would have no effect.
    fn check(&self, format: Format) -> Result<()> {
        let csv = self.delimiter.is_some() || self.quote.is_some() || self.skip_header;
        let parquet = self.version.is_some()
            || self.root_repetition.is_some()
            || self.max_row_group_length.is_some()
            || self.compression != ParquetCompression::default();
        let wrong = match format {
            Format::Csv => parquet.then_some("Parquet"),
            Format::Parquet => csv.then_some("CSV"),
            Format::Json | Format::Jsonl => (csv || parquet).then_some("other formats"),
        };
        if let Some(other) = wrong {
            return Err(Error::config(format!("`format_spec` has keys of {other}"))
                .context("key", "format_spec")
                .context("format", format.ending()));
        }
        if self.max_row_group_length == Some(0) {
            return Err(Error::config("A row group holds at least one row")
                .context("key", "format_spec.max_row_group_length"));
        }
        let known = |value: &Option<String>, words: &[&str]| {
            value.as_deref().is_none_or(|v| words.contains(&v))
        };
        if !known(&self.version, &["v1.0", "v2.4", "v2.6", "v2Latest"]) {
            return Err(Error::config("`version` is not one of v1.0, v2.4, v2.6, v2Latest")
                .context("key", "format_spec.version"));
        }
        if !known(&self.root_repetition, &["undefined", "required", "optional", "repeated"]) {
            return Err(Error::config(
                "`root_repetition` is not one of undefined, required, optional, repeated",
            )
            .context("key", "format_spec.root_repetition"));
        }
        Ok(())
    }
}

fn one_character(key: &'static str, text: Option<&str>, default: u8) -> Result<u8> {
    match text.map(str::as_bytes) {
        None => Ok(default),
        Some([byte]) if byte.is_ascii() && !matches!(byte, b'\r' | b'\n') => Ok(*byte),
        Some(_) => Err(Error::config("This has to be one ASCII character").context("key", key)),
    }
}

/// One path or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Paths {
    /// A file, a folder or a glob.
    One(String),
    /// Files, folders and globs.
    Several(Vec<String>),
}

impl Paths {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths.as_slice(),
        }
        .iter()
        .map(String::as_str)
    }
}

/// What happens to a file that was read before and has changed other than by growing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// It is read again as a whole.
    #[default]
    Read,
    /// It stops the table: files are only ever added or appended to.
    Fail,
}

/// Files as a source.
///
/// A file is a table named by its stem. A folder is one table per file stem in it, and one table
/// per sub-folder with all files below it. A glob is one table, named by the text before its
/// first wildcard (`orders-*.csv`: `orders`) or else by its folder (`in/*.csv`: `in`). Files and
/// folders that begin with `.` or `_` are left out of folders and globs.
///
/// In CSV an empty field is NULL, and `""` an empty text; in a file of one column an empty line is
/// NULL, in others it is no row. Without `columns`, numbers with a point are `numeric`: every
/// digit stays.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// A file, a folder or a glob (`*`, `?`, `[…]`, `**`); or a list of them.
    pub path: Paths,
    /// The format of all files; `ndjson` is another word for `jsonl`. Default: by each file's
    /// ending (`.csv`, `.json`, `.jsonl`, `.ndjson`, `.parquet`, and the text formats with `.gz`);
    /// other files are left out.
    pub format: Option<Format>,
    /// How CSV and JSON files are compressed. Default: gzip for names that end in `.gz`.
    pub compression: Option<Compression>,
    /// What is special about CSV files: `delimiter`, the character between fields (default `,`);
    /// `quote`, the character around fields (default `"`); `skip_header: true`, where no line has
    /// the names of the columns: they are `column_1`, `column_2`, … then. The keys that a
    /// destination has for Parquet have no effect.
    pub format_spec: Option<FormatSpec>,
    /// All files are one table of this name.
    pub table_name: Option<String>,
    /// How many rows of each CSV or JSON table are looked at to find the types of its columns,
    /// the same number in each of its files. Default: 10000.
    pub sample_rows: Option<u64>,
    /// Types of columns of CSV and JSON files, by column name or `table.column`: `boolean`,
    /// `int8` … `int64`, `uint8` … `uint64`, `float32`, `float64`, `decimal(p,s)`, `numeric`,
    /// `text`, `json`, `uuid`, `binary`, `date`, `time`, `timestamp`, `timestamptz`, `duration`,
    /// `interval`. Others are found by looking at the sample.
    #[serde(default)]
    pub columns: Map<String, Value>,
    /// What happens to a file that has changed other than by growing. Default: `read`.
    #[serde(default)]
    pub on_change: OnChange,
}

/// Rows looked at when the user says nothing.
pub(crate) const SAMPLE_ROWS: u64 = 10_000;

/// Files as a destination.
///
/// The keys are those of CloudQuery's file destination. What differs: `batch_size` and
/// `batch_size_bytes` have larger defaults; rows become visible when a sync commits, not when a
/// batch is full; a path without `{{UUID}}` is allowed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    /// Where files are written: a path with the placeholders `{{TABLE}}`, `{{TABLE_HYPHEN}}`,
    /// `{{FORMAT}}`, `{{UUID}}`, `{{YEAR}}`, `{{MONTH}}`, `{{DAY}}`, `{{HOUR}}`, `{{MINUTE}}` and
    /// `{{SYNC_ID}}`. A path without a placeholder for the table is a folder, and files are written
    /// to `{{TABLE}}/{{UUID}}.{{FORMAT}}` in it (`{{TABLE}}.{{FORMAT}}` with `no_rotate`); if it
    /// names a file (`out.csv`), a sync of one table writes that file.
    ///
    /// A file that is there and that the sync has not written is never changed: without
    /// `{{UUID}}` in the path the sync is refused. Files are never appended to: without `{{UUID}}`
    /// a later `append` makes `out-<uuid>.csv` beside `out.csv`, while `replace` puts the new file
    /// in the place of the old one. The state of a sync belongs to its path: with another path it
    /// begins anew and leaves the files of the old one alone.
    pub path: String,
    /// The format; `ndjson` is another word for `jsonl`. Default: by the ending of `path`, else
    /// `parquet`.
    pub format: Option<Format>,
    /// What is special about the format. CSV: `delimiter`, the character between fields (default
    /// `,`); `quote`, the character around fields (default `"`); `skip_header: true`, no line with
    /// the names of the columns. Parquet: `compression`, that of the pages: `zstd` (the default),
    /// `snappy` or `uncompressed`; `max_row_group_length`, rows in a row group at most (default
    /// 131072; a row group also ends at 24 MiB); `version` (`v1.0`, `v2.4`, `v2.6`, `v2Latest`)
    /// and `root_repetition` (`undefined`, `required`, `optional`, `repeated`) are accepted for
    /// CloudQuery's sake and have no effect: every reader understands the files. JSON: none.
    pub format_spec: Option<FormatSpec>,
    /// How CSV and JSON files are compressed. Default: gzip if `path` ends in `.gz`.
    pub compression: Option<Compression>,
    /// One file per table and commit, as large as it gets.
    #[serde(default)]
    pub no_rotate: bool,
    /// Rows in a file at most; 0: no limit. Default: 1000000.
    pub batch_size: Option<u64>,
    /// Bytes of rows in a file at most, as they are in memory; 0: no limit. Default: 256 MiB.
    pub batch_size_bytes: Option<u64>,
    /// The longest time rows are added to one file (`30s`, `5m`); `0s`: no limit, the default.
    pub batch_timeout: Option<String>,
}

/// A destination's settings after defaults and checks.
#[derive(Debug, Clone)]
pub(crate) struct DestinationSettings {
    pub(crate) path: String,
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    pub(crate) format_spec: FormatSpec,
    pub(crate) file_rows_max: u64,
    pub(crate) file_bytes_max: u64,
    pub(crate) file_age_max: Option<Duration>,
}

impl SourceSpec {
    pub(crate) fn check(&self) -> Result<()> {
        if self.path.iter().next().is_none() || self.path.iter().any(str::is_empty) {
            return Err(
                Error::config("`path` must name a file, a folder or a glob").context("key", "path")
            );
        }
        let format_spec = self.format_spec.clone().unwrap_or_default();
        format_spec.csv()?;
        if let Some(format) = self.format {
            format_spec.check(format)?;
        }
        if self.sample_rows == Some(0) {
            return Err(
                Error::config("At least one row has to be looked at").context("key", "sample_rows")
            );
        }
        Ok(())
    }
}

impl DestinationSpec {
    pub(crate) fn settings(self) -> Result<DestinationSettings> {
        if self.path.is_empty() {
            return Err(Error::config("`path` must be set").context("key", "path"));
        }
        let by_name = Format::of_name(&self.path);
        let format = self.format.or(by_name.map(|(f, _)| f)).unwrap_or(Format::Parquet);
        let compression = self.compression.or(by_name.map(|(_, c)| c)).unwrap_or_default();
        if format == Format::Parquet && compression != Compression::None {
            return Err(Error::config("Parquet files are not compressed as a whole")
                .context("key", "compression")
                .hint(
                    "leave `compression` out: the pages of a Parquet file are compressed with zstd",
                ));
        }
        let format_spec = self.format_spec.unwrap_or_default();
        format_spec.check(format)?;
        format_spec.csv()?;
        let timeout = match &self.batch_timeout {
            None => None,
            Some(text) => Some(parse_duration(text)?).filter(|d| !d.is_zero()),
        };
        if self.no_rotate {
            check_no_rotate(&self.path, self.batch_size, self.batch_size_bytes, timeout)?;
        }
        let limit = |value: Option<u64>, default: u64| match value {
            _ if self.no_rotate => u64::MAX,
            Some(0) => u64::MAX,
            Some(value) => value,
            None => default,
        };
        Ok(DestinationSettings {
            path: complete_path(&self.path, self.no_rotate),
            format,
            compression,
            format_spec,
            file_rows_max: limit(self.batch_size, 1_000_000),
            file_bytes_max: limit(self.batch_size_bytes, 256 << 20),
            file_age_max: timeout,
        })
    }
}

fn check_no_rotate(
    path: &str,
    rows: Option<u64>,
    bytes: Option<u64>,
    timeout: Option<Duration>,
) -> Result<()> {
    if path.contains("{{UUID}}") {
        return Err(Error::config("`path` should not contain {{UUID}} when `no_rotate` is true")
            .context("key", "path"));
    }
    let limited = |limit: Option<u64>| limit.is_some_and(|l| l > 0);
    if limited(rows) || limited(bytes) || timeout.is_some() {
        return Err(Error::config(
            "`no_rotate` cannot be used with a `batch_size`, `batch_size_bytes` or `batch_timeout` other than zero",
        )
        .context("key", "no_rotate"));
    }
    Ok(())
}

fn complete_path(path: &str, no_rotate: bool) -> String {
    if path.contains("{{TABLE}}") || path.contains("{{TABLE_HYPHEN}}") {
        return path.to_owned();
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    if Format::of_name(name).is_some() || name.contains("{{FORMAT}}") || name.contains("{{UUID}}") {
        return path.to_owned();
    }
    let rest = if no_rotate { "{{TABLE}}.{{FORMAT}}" } else { "{{TABLE}}/{{UUID}}.{{FORMAT}}" };
    format!("{}/{rest}", path.trim_end_matches('/'))
}

/// `1m30s`, `500ms`; the units are `h`, `m`, `s` and `ms`.
fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::config("This is not a duration such as `30s` or `1m30s`")
            .context("key", "batch_timeout")
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(|b| b.is_ascii_alphabetic()).count();
        total += match &rest[..letters] {
            "h" => Duration::from_secs(value.saturating_mul(3_600)),
            "m" => Duration::from_secs(value.saturating_mul(60)),
            "s" => Duration::from_secs(value),
            "ms" => Duration::from_millis(value),
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
    }
    Ok(total)
}

/// Parses `spec` and says which key is wrong.
pub(crate) fn parse<T: DeserializeOwned>(spec: Value) -> Result<T> {
    let keys = spec.as_object().cloned().unwrap_or_default();
    let error = match serde_json::from_value(spec) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error.to_string(),
    };
    let key = culprit::<T>(&keys, &error);
    // The words of serde: its first letter is made a capital, as in all messages.
    let mut words = error.chars();
    let message = words.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(words);
    let error = Error::config(message.collect::<String>());
    Err(match key {
        Some(key) => error.context("key", key),
        None => error,
    })
}

/// The key without which the error is another one, or the one that it names.
fn culprit<T: DeserializeOwned>(keys: &Map<String, Value>, error: &str) -> Option<String> {
    for key in keys.keys() {
        let mut without = keys.clone();
        without.shift_remove(key);
        match serde_json::from_value::<T>(Value::Object(without)) {
            Err(other) if other.to_string() == error => {}
            _ => {
                let inner = quoted(error).filter(|inner| {
                    keys[key].as_object().is_some_and(|object| object.contains_key(*inner))
                });
                return Some(inner.map_or_else(|| key.clone(), |inner| format!("{key}.{inner}")));
            }
        }
    }
    quoted(error).map(str::to_owned)
}

fn quoted(error: &str) -> Option<&str> {
    error.split('`').nth(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn destination(spec: Value) -> Result<DestinationSettings> {
        parse::<DestinationSpec>(spec)?.settings()
    }

    #[test]
    fn a_cloudquery_spec_is_understood() {
        let settings = destination(json!({
            "path": "out/{{TABLE}}/{{UUID}}.{{FORMAT}}",
            "format": "csv",
            "format_spec": {"delimiter": "#", "skip_header": true},
            "compression": "gzip",
            "batch_size": 10000,
            "batch_size_bytes": 52_428_800,
            "batch_timeout": "30s",
        }))
        .unwrap();
        assert_eq!(settings.format, Format::Csv);
        assert_eq!(settings.compression, Compression::Gzip);
        assert_eq!(settings.file_rows_max, 10_000);
        assert_eq!(settings.file_age_max, Some(Duration::from_secs(30)));
        let dialect = settings.format_spec.csv().unwrap();
        assert_eq!(dialect, CsvDialect { delimiter: b'#', quote: b'"', header: false });
    }

    #[test]
    fn the_path_tells_format_and_table() {
        let path = |path: &str| destination(json!({ "path": path })).unwrap();
        assert_eq!(path("out").path, "out/{{TABLE}}/{{UUID}}.{{FORMAT}}");
        assert_eq!(path("out").format, Format::Parquet);
        let gz = path("out/{{TABLE}}.csv.gz");
        assert_eq!((gz.format, gz.compression), (Format::Csv, Compression::Gzip));
        assert_eq!(path("out/data.jsonl").path, "out/data.jsonl");
        assert_eq!(path("out/{{UUID}}.{{FORMAT}}").path, "out/{{UUID}}.{{FORMAT}}");
        let words =
            |word: &str| destination(json!({"path": "out", "format": word})).unwrap().format;
        assert_eq!((words("ndjson"), words("jsonl")), (Format::Jsonl, Format::Jsonl));
        let no_rotate = destination(json!({"path": "out", "no_rotate": true})).unwrap();
        assert_eq!(no_rotate.path, "out/{{TABLE}}.{{FORMAT}}");
        assert_eq!(no_rotate.file_rows_max, u64::MAX);
    }

    #[test]
    fn a_wrong_key_is_named() {
        let cases = [
            (json!({}), "path"),
            (json!({"path": ""}), "path"),
            (json!({"path": "x", "pth": 1}), "pth"),
            (json!({"path": "x", "batch_size": "many"}), "batch_size"),
            (json!({"path": "x", "format": "xlsx"}), "format"),
            (json!({"path": "x", "format_spec": {"delimeter": ","}}), "format_spec.delimeter"),
            (json!({"path": "x.csv", "format_spec": {"delimiter": "ab"}}), "format_spec.delimiter"),
            (json!({"path": "x.csv", "format_spec": {"version": "v1.0"}}), "format_spec"),
            (json!({"path": "x.csv", "format_spec": {"compression": "snappy"}}), "format_spec"),
            (json!({"path": "x.parquet", "format_spec": {"version": "v9"}}), "format_spec.version"),
            (json!({"path": "x.parquet", "compression": "gzip"}), "compression"),
            (json!({"path": "{{UUID}}", "no_rotate": true}), "path"),
            (json!({"path": "x", "no_rotate": true, "batch_size": 5}), "no_rotate"),
            (json!({"path": "x", "batch_timeout": "5 days"}), "batch_timeout"),
        ];
        for (spec, key) in cases {
            let error = destination(spec.clone()).unwrap_err();
            assert_eq!(error.context_value("key"), Some(key), "{spec}: {error}");
        }
    }
}
