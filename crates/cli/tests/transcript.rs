//! Runs the binary in a folder of its own and compares what it said with what is written down.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;
use tempfile::TempDir;

/// A folder, and what was said in it so far.
pub struct Session {
    folder: TempDir,
    variables: Vec<(String, String)>,
    text: String,
    secrets: Vec<String>,
    hidden: Vec<(String, String)>,
}

impl Session {
    /// An empty folder.
    pub fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            variables: Vec::new(),
            text: String::new(),
            secrets: Vec::new(),
            hidden: Vec::new(),
        }
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and shows it in the transcript.
    pub fn file(&mut self, name: &str, content: &str) -> &mut Self {
        writeln!(self.text, "# {name}\n{}\n", content.trim_end()).unwrap();
        self.hidden_file(name, content.as_bytes())
    }

    /// Writes a file that the transcript does not show.
    pub fn hidden_file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Runs SQL in a SQLite database and shows it in the transcript.
    pub fn sql(&mut self, database: &str, script: &str) -> &mut Self {
        writeln!(self.text, "# {database}\n{}\n", script.trim_end()).unwrap();
        Connection::open(self.path(database)).unwrap().execute_batch(script).unwrap();
        self
    }

    /// Shows the rows of a query.
    pub fn query(&mut self, database: &str, query: &str) -> &mut Self {
        let connection = Connection::open(self.path(database)).unwrap();
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        writeln!(self.text, "# {database}: {query}").unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<String> = (0..columns)
                .map(|i| match row.get_ref(i).unwrap() {
                    rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                    rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                    rusqlite::types::ValueRef::Real(n) => n.to_string(),
                    rusqlite::types::ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
                    rusqlite::types::ValueRef::Blob(b) => format!("{b:?}"),
                })
                .collect();
            writeln!(self.text, "{}", cells.join(" | ")).unwrap();
        }
        self.text.push('\n');
        self
    }

    /// Sets an environment variable for what runs from now on.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A text that must not be in any output.
    pub fn secret(&mut self, secret: &str) -> &mut Self {
        self.secrets.push(secret.to_owned());
        self
    }

    /// Shows `name` wherever the transcript has `text`, which differs from run to run.
    pub fn hide(&mut self, text: impl ToString, name: &str) -> &mut Self {
        self.hidden.push((text.to_string(), name.to_owned()));
        self
    }

    /// A command in the folder, with a known environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .envs(self.variables.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null());
        command
    }

    /// Runs highwater with arguments separated by spaces; the exit code.
    pub fn run(&mut self, arguments: &str) -> i32 {
        let output = self
            .command(env!("CARGO_BIN_EXE_highwater"))
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        self.record(arguments, &output)
    }

    /// Adds what a run said; the exit code.
    pub fn record(&mut self, arguments: &str, output: &Output) -> i32 {
        let code = output.status.code().unwrap_or(-1);
        let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
        for text in [&stdout, &stderr] {
            assert!(!text.contains("panicked"), "{text}");
            for secret in &self.secrets {
                assert!(!text.contains(secret), "{secret} is in:\n{text}");
            }
        }
        writeln!(self.text, "$ highwater {arguments}").unwrap();
        for (name, text) in [("stdout", stdout), ("stderr", stderr)] {
            if !text.is_empty() {
                writeln!(self.text, "--- {name}\n{}", text.trim_end()).unwrap();
            }
        }
        writeln!(self.text, "--- exit code {code}\n").unwrap();
        code
    }

    /// Compares everything so far with `tests/transcripts/<name>.txt`. Set
    /// `HIGHWATER_WRITE_TRANSCRIPTS=1` to write the files anew, and read their diff.
    pub fn matches(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
        let path = folder.join(format!("{name}.txt"));
        let mut text = normal(&self.text, self.folder.path());
        for (hidden, name) in &self.hidden {
            text = text.replace(hidden, name);
        }
        let text = format!("{}\n", text.trim_end());
        if std::env::var_os("HIGHWATER_WRITE_TRANSCRIPTS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(expected == text, "{name} is now:\n{text}\nand was:\n{expected}");
    }
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The text without what differs from run to run: the folder, times, and names made from them.
fn normal(text: &str, folder: &Path) -> String {
    let text = text.replace(&folder.display().to_string(), "[FOLDER]");
    let mut out = String::new();
    for line in text.lines() {
        let line = replace_runs(line, is_timestamp, "[TIME]");
        let line = replace_runs(&line, is_seconds, "[SECONDS]");
        let line = replace_value(&line, "_ms\": ", "[MILLISECONDS]");
        let line = replace_value(&line, "sync_id\": ", "[ID]");
        let line = replace_value(&line, "highwater:", "[ID]");
        let line = without_logged_time(&line);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The line without the time that a plugin gave to its log line.
fn without_logged_time(line: &str) -> String {
    const KEY: &str = "\\\"timestamp\\\":\\\"";
    let Some((before, after)) = line.split_once(KEY) else { return line.to_owned() };
    let rest = after.split_once('\\').map_or("", |(_, rest)| rest);
    format!("{before}{KEY}[TIME]\\{rest}")
}

/// Replaces what follows `key`, as far as it belongs to a number, an id or a quoted one.
fn replace_value(line: &str, key: &str, with: &str) -> String {
    let Some(at) = line.find(key) else { return line.to_owned() };
    let (before, after) = line.split_at(at + key.len());
    let end = after
        .char_indices()
        .find(|(i, c)| !c.is_ascii_alphanumeric() && *c != '-' && (*c != '"' || *i > 0))
        .map_or(after.len(), |(i, _)| i);
    let end = if after.starts_with('"') { end + 1 } else { end };
    format!("{before}{with}{}", replace_value(&after[end..], key, with))
}

/// Replaces every run of characters that belong to a time and that `is` one.
fn replace_runs(line: &str, is: fn(&str) -> bool, with: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in line.chars().chain(['\0']) {
        if c.is_ascii_digit() || "-:.TZ".contains(c) {
            run.push(c);
            continue;
        }
        out.push_str(if is(&run) { with } else { &run });
        run.clear();
        if c != '\0' {
            out.push(c);
        }
    }
    out
}

/// `2026-11-21T03:04:05.000006Z`.
fn is_timestamp(text: &str) -> bool {
    text.len() == 27 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}

/// `0.3`, as summaries show seconds.
fn is_seconds(text: &str) -> bool {
    matches!(text.split_once('.'), Some((whole, tenth))
        if tenth.len() == 1 && !whole.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.'))
}
