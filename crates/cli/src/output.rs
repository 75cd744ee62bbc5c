//! stdout is the result, stderr is progress: the one place that writes to either.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use highwater_core::Error;
use indicatif::MultiProgress;
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// The bars on the terminal, so that lines are written above and not through them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// The bars of this process.
pub fn bars() -> &'static MultiProgress {
    BARS.get_or_init(MultiProgress::new)
}

/// Whether stderr is a terminal that can show bars.
pub fn shows_bars() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes a result. A reader that went away (`| head`) is no error: the command ends as it would.
///
/// # Errors
/// `Internal` when stdout cannot be written for another reason.
pub fn result(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") })
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::internal("The result cannot be written to stdout").caused_by(error).into())
        }
        _ => Ok(()),
    }
}

/// Writes a result as JSON.
///
/// # Errors
/// As [`result`].
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::internal("The result is not JSON").caused_by(e))?;
    result(&text)
}

/// Writes a line to stderr, above the bars if there are any. Without a reader it is lost.
pub fn note(text: &str) {
    let write = || {
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "{text}");
    };
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Writes an error to stderr.
pub fn failure(failure: &Failure, as_json: bool) {
    if !as_json {
        return note(&failure.to_string());
    }
    log("error", "", value(failure));
}

/// An error as JSON.
pub fn value(failure: &Failure) -> Value {
    let spot = failure.spot.as_ref();
    json!({
        "message": failure.error.full_message(),
        "file": spot.map(|s| &s.file),
        "line": spot.map(|s| s.line),
        "column": spot.map(|s| s.column),
        "hint": failure.hint(),
    })
}

/// Writes a line of a JSON log to stderr; `more` may replace the message.
pub fn log(level: &str, message: &str, more: Value) {
    let mut line = json!({
        "time": highwater_core::Instant::now().to_rfc3339(),
        "level": level,
        "message": message,
    });
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    note(&line.to_string());
}

/// Columns under their titles, as wide as their widest cell; numbers go to the right.
pub fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '-')
    };
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count());
        cells.chain([titles[i].chars().count()]).max().unwrap_or(0)
    };
    let right: Vec<bool> = (0..titles.len())
        .map(|i| {
            !rows.is_empty() && rows.iter().all(|row| row.get(i).is_some_and(|c| is_number(c)))
        })
        .collect();
    let mut out = String::new();
    let titles: Vec<String> = titles.iter().map(|t| (*t).to_owned()).collect();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let fill = " ".repeat(width(i).saturating_sub(cell.chars().count()));
            let gap = if i == 0 { "" } else { "  " };
            let (before, after) = if right[i] { (fill.as_str(), "") } else { ("", fill.as_str()) };
            line.push_str(&format!("{gap}{before}{cell}{after}"));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A number with commas between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![
            vec!["orders".to_owned(), count(1_234_567), "exactly_once".to_owned()],
            vec!["x".to_owned(), count(12), String::new()],
        ];
        assert_eq!(
            table(&["TABLE", "READ", "GUARANTEE"], &rows),
            "TABLE        READ  GUARANTEE\norders  1,234,567  exactly_once\nx              12\n"
        );
    }
}
