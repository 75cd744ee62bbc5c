//! The path of a data file: a template with placeholders, as in CloudQuery's file destination.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, Timelike, Utc};
use highwater_core::{Error, Instant, Result, TableName};

use crate::spec::{Compression, Format};

const PLACEHOLDERS: [&str; 10] = [
    "TABLE",
    "TABLE_HYPHEN",
    "FORMAT",
    "UUID",
    "YEAR",
    "MONTH",
    "DAY",
    "HOUR",
    "MINUTE",
    "SYNC_ID",
];

/// A checked template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// The longest folder without a placeholder: the root of everything that is written.
    root: PathBuf,
    /// The template below the root.
    below: String,
    ending: String,
}

impl Template {
    /// # Errors
    /// `Config` for a placeholder that does not exist.
    pub(crate) fn new(path: &str, format: Format, compression: Compression) -> Result<Self> {
        let mut rest = path;
        while let Some((_, after)) = rest.split_once("{{") {
            let known = after.split_once("}}").filter(|(name, _)| PLACEHOLDERS.contains(name));
            let Some((_, after)) = known else {
                return Err(Error::config("`path` has a placeholder that does not exist")
                    .context("key", "path")
                    .hint(format!(
                        "there are {}",
                        PLACEHOLDERS.map(|name| format!("{{{{{name}}}}}")).join(", ")
                    )));
            };
            rest = after;
        }
        let literal = path.split("{{").next().unwrap_or_default();
        let at = literal.rfind('/').map_or(0, |at| at + 1);
        let root = if at == 0 { "./" } else { &path[..at] };
        let gz = if compression == Compression::Gzip { ".gz" } else { "" };
        Ok(Self {
            root: PathBuf::from(root),
            below: path[at..].to_owned(),
            ending: format!("{}{gz}", format.ending()),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What tells it from other templates below the same root.
    pub(crate) fn identity(&self) -> String {
        format!("{} {}", self.below.replace("{{FORMAT}}", &self.ending), self.ending)
    }

    /// Whether each file has a name of its own.
    pub(crate) fn tells_files_apart(&self) -> bool {
        self.below.contains("{{UUID}}")
    }

    /// The name of a table's file now, where that can be told before a run.
    pub(crate) fn fixed_name(&self, table: &TableName) -> Option<String> {
        let fixed = !self.tells_files_apart() && !self.below.contains("{{SYNC_ID}}");
        fixed.then(|| self.fill(table, "", Instant::now()))
    }

    /// Whether files of different tables have different names.
    pub(crate) fn tells_tables_apart(&self) -> bool {
        self.below.contains("{{TABLE}}") || self.below.contains("{{TABLE_HYPHEN}}")
    }

    /// The path of a file, relative to the root, with `/` between its parts.
    pub(crate) fn fill(&self, table: &TableName, sync_id: &str, at: Instant) -> String {
        let at: DateTime<Utc> = DateTime::from_timestamp_micros(at.0).unwrap_or_default();
        let name = encode(&table.to_string());
        let uuid = uuid::Uuid::now_v7().to_string();
        let mut path = String::new();
        let mut rest = self.below.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            path.push_str(before);
            let (placeholder, after) = after.split_once("}}").unwrap_or((after, ""));
            match placeholder {
                "TABLE" => path.push_str(&name),
                "TABLE_HYPHEN" => path.push_str(&name.replace('_', "-")),
                "FORMAT" => path.push_str(&self.ending),
                "UUID" => path.push_str(&uuid),
                "YEAR" => path.push_str(&format!("{:04}", at.year())),
                "MONTH" => path.push_str(&format!("{:02}", at.month())),
                "DAY" => path.push_str(&format!("{:02}", at.day())),
                "HOUR" => path.push_str(&format!("{:02}", at.hour())),
                "MINUTE" => path.push_str(&format!("{:02}", at.minute())),
                _ => path.push_str(&encode(sync_id)),
            }
            rest = after;
        }
        path.push_str(rest);
        path
    }

    /// Where the files of a table are, for people.
    pub(crate) fn describe(&self, table: &TableName) -> String {
        let below = self.below.replace("{{TABLE}}", &encode(&table.to_string()));
        self.root.join(below).display().to_string()
    }
}

/// A name as one part of a path: no separator, not hidden, and not the folder of the log.
pub(crate) fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let first_special = at == 0 && (c == '.' || name.starts_with(crate::log::FOLDER));
        if first_special || matches!(c, '/' | '\\' | '%' | '\0') || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    if out.is_empty() { "%".to_owned() } else { out }
}

/// The inverse of [`encode`].
pub(crate) fn decode(part: &str) -> String {
    if part == "%" {
        return String::new();
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
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
    fn placeholders_are_filled() {
        let template = Template::new(
            "out/x/{{YEAR}}-{{MONTH}}-{{DAY}}T{{HOUR}}{{MINUTE}}/{{TABLE_HYPHEN}}/{{TABLE}}.{{SYNC_ID}}.{{FORMAT}}",
            Format::Csv,
            Compression::Gzip,
        )
        .unwrap();
        assert_eq!(template.root(), Path::new("out/x"));
        let at = Instant(1_795_230_245_000_006);
        let path = template.fill(&TableName::new("a_b"), "run/1", at);
        assert_eq!(path, "2026-11-21T0304/a-b/a_b.run%2F1.csv.gz");
        let plain = Template::new("{{TABLE}}.{{FORMAT}}", Format::Json, Compression::None).unwrap();
        assert_eq!(plain.root(), Path::new("./"));
        assert_eq!(plain.fill(&TableName::in_namespace("s", "t"), "", at), "s.t.json");
        let error = Template::new("{{TABEL}}", Format::Csv, Compression::None).unwrap_err();
        assert_eq!(error.context_value("key"), Some("path"));
    }

    #[test]
    fn a_name_never_leaves_its_folder() {
        for name in ["../../etc/passwd", ".", "..", "a/b", "_highwater", "%2F", "é\n", "", "a.b"] {
            let part = encode(name);
            assert!(
                !part.contains('/') && !part.starts_with('.') && part != "_highwater",
                "{part}"
            );
            assert_eq!(decode(&part), name);
        }
    }
}
