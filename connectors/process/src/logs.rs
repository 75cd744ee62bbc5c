//! The lines that a process prints: read at once whatever they hold, counted, and passed on.
//!
//! A process that is not read blocks, so nothing here waits for anything but the next bytes; and a
//! line without an end must not fill the memory, so no line is kept beyond its limit. The text
//! goes to `tracing` under the target `plugin`, never to our stdout.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::sleep;

use crate::Kind;
use crate::hidden::Hidden;
use crate::words::{in_short, said};

/// A longer line is cut.
const LINE_BYTES: usize = 4096;
/// What is left of a longer line.
const CUT_CHARACTERS: usize = 1000;
/// How many of the last lines an error shows.
const LAST_LINES: usize = 5;
/// How much of each of the last lines an error shows.
const LAST_CHARACTERS: usize = 300;
/// How many lines are held back at most while nobody knows whether they matter.
const HELD_LINES: usize = 200;

/// How many errors and warnings a process has logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Lines of level error and worse.
    pub errors: u64,
    /// Lines of level warning.
    pub warnings: u64,
}

/// What one process has printed so far: the counts and the last lines.
#[derive(Debug, Default)]
pub struct LogBook {
    kind: Kind,
    name: String,
    errors: AtomicU64,
    warnings: AtomicU64,
    hidden: Hidden,
    last: Mutex<VecDeque<String>>,
    last_error: Mutex<Option<String>>,
    /// Held while bytes are between a pipe and the book.
    reading: Mutex<()>,
    /// Lines that wait for [`LogBook::release`]; `None` when lines are passed on at once.
    held: Mutex<Option<Vec<Line>>>,
}

#[derive(Debug)]
struct Line {
    level: Level,
    message: String,
    fields: String,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For its makers.
    Trace,
    /// For whoever looks for a defect.
    Debug,
    /// For everybody.
    Info,
    /// Something may be wrong.
    Warn,
    /// Something is wrong.
    Error,
}

impl Level {
    /// The level that a process calls `name`; the SDKs have many names, and what is none of them
    /// is information.
    pub fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "trace" | "silly" => Self::Trace,
            "debug" | "verbose" => Self::Debug,
            "warn" | "warning" => Self::Warn,
            "error" | "fatal" | "panic" | "critical" => Self::Error,
            _ => Self::Info,
        }
    }
}

impl LogBook {
    /// The empty book of the process that the configuration calls `name`.
    pub fn new(kind: Kind, name: &str) -> Self {
        let mut book = Self::default();
        book.kind = kind;
        name.clone_into(&mut book.name);
        book
    }

    /// What its lines must not show.
    pub fn hidden(&self) -> &Hidden {
        &self.hidden
    }

    /// How many errors and warnings there were so far.
    pub fn counts(&self) -> LogCounts {
        LogCounts {
            errors: self.errors.load(Ordering::Relaxed),
            warnings: self.warnings.load(Ordering::Relaxed),
        }
    }

    /// The last lines, oldest first, each cut; for the error about a process that ended.
    pub fn last_lines(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    /// A process begins: the last lines are its own from now on.
    pub fn begin(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The last line of level error.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when the lines that were in `pipes` at the time of the call are in the book; one
    /// that never stops to print is not waited for longer than a second.
    pub async fn caught_up(&self, pipes: &[OwnedFd]) {
        for _ in 0..500 {
            let empty = {
                let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
                pipes.iter().all(|pipe| rustix::io::ioctl_fionread(pipe).is_ok_and(|n| n == 0))
            };
            if empty {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// From now on lines are held back: this start may be given up for another one. If it is,
    /// they are shown as debug output and not counted.
    pub fn hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// Passes on the lines held back, and from now on every line at once.
    pub fn release(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        for line in held.into_iter().flatten() {
            self.pass_on(&line);
        }
    }

    /// Enters a line: JSON with a level and a message, or any text.
    pub fn line(&self, line: &[u8]) {
        let cut = &line[..line.len().min(LINE_BYTES)];
        self.enter(cut, cut.len() < line.len());
    }

    /// Enters what was said in another way than by a line, at a level that is known. What is only
    /// for debugging is none of the last lines.
    pub fn say(&self, level: Level, message: &str) {
        let message = said(&shown(self.hidden.mask(message)), LINE_BYTES);
        if message.is_empty() {
            return;
        }
        if !matches!(level, Level::Trace | Level::Debug) {
            self.keep(said(&message, LAST_CHARACTERS));
        }
        self.put(Line { level, message, fields: String::new() });
    }

    fn enter(&self, line: &[u8], overlong: bool) {
        let text = String::from_utf8_lossy(line);
        let (level, message, fields) = match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(object) => self.structured(object),
            Err(_) => (Level::Info, text.into_owned(), String::new()),
        };
        let limit = if overlong { CUT_CHARACTERS } else { LINE_BYTES };
        let (message, fields) =
            (said(&shown(self.hidden.mask(&message)), limit), said(&fields, limit));
        if message.is_empty() && fields.is_empty() {
            return;
        }
        self.keep(said(&message, LAST_CHARACTERS));
        self.put(Line { level, message, fields });
    }

    fn put(&self, line: Line) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(lines) if lines.len() < HELD_LINES => lines.push(line),
            _ => {
                drop(held);
                self.pass_on(&line);
            }
        }
    }

    /// Level, message and the other fields of a JSON line. The SDKs name them differently.
    fn structured(&self, mut object: Map<String, Value>) -> (Level, String, String) {
        let mut take = |keys: [&str; 2]| {
            keys.iter().find_map(|key| match object.get(*key) {
                Some(Value::String(_)) => object.remove(*key).and_then(|v| match v {
                    Value::String(text) => Some(text),
                    _ => None,
                }),
                _ => None,
            })
        };
        let level = Level::named(&take(["level", "severity"]).unwrap_or_default());
        let message = take(["message", "event"]).unwrap_or_default();
        // Some say the same twice, under a name of their own.
        object.retain(|_, value| message.is_empty() || value.as_str() != Some(&message));
        let fields = match self.hidden.mask_value(Value::Object(object)) {
            Value::Object(object) if object.is_empty() => String::new(),
            fields => fields.to_string(),
        };
        (level, message, fields)
    }

    fn pass_on(&self, Line { level, message, fields }: &Line) {
        match level {
            Level::Warn => {
                self.warnings.fetch_add(1, Ordering::Relaxed);
            }
            Level::Error => {
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(said(message, LAST_CHARACTERS));
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            Level::Trace | Level::Debug | Level::Info => {}
        }
        self.log(*level, message, fields);
    }

    /// The target is `plugin` for every kind: one setting is for all that others' processes say.
    fn log(&self, level: Level, message: &str, fields: &str) {
        let fields = Some(fields).filter(|fields| !fields.is_empty());
        macro_rules! at {
            ($level:ident) => {
                match self.kind {
                    Kind::Plugin => tracing::$level!(
                        target: "plugin", plugin = self.name.as_str(), fields, "{message}"),
                    Kind::Connector => tracing::$level!(
                        target: "plugin", connector = self.name.as_str(), fields, "{message}"),
                }
            };
        }
        match level {
            Level::Trace => at!(trace),
            Level::Debug => at!(debug),
            Level::Info => at!(info),
            Level::Warn => at!(warn),
            Level::Error => at!(error),
        }
    }

    fn keep(&self, line: String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
}

impl Drop for LogBook {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        for Line { message, fields, .. } in held.into_iter().flatten() {
            self.log(Level::Debug, &message, &fields);
        }
    }
}

/// A message as far as it is shown: all of it to those who look for a defect.
fn shown(message: String) -> String {
    if tracing::enabled!(target: "plugin", tracing::Level::DEBUG) {
        return message;
    }
    in_short(&message).unwrap_or(message)
}

/// Reads lines until the other end closes, and enters them in the book.
pub(crate) async fn follow(mut from: impl AsyncRead + Unpin, book: &LogBook) {
    let mut buffer = vec![0_u8; 16 * 1024];
    let mut lines = Lines::default();
    loop {
        let more = poll_fn(|context| {
            // What has left the pipe is in the book before anybody can look at both.
            let _reading = book.reading.lock().unwrap_or_else(PoisonError::into_inner);
            let mut into = ReadBuf::new(&mut buffer);
            // A read that fails says the same as an end: there is nothing more to read.
            let more = match Pin::new(&mut from).poll_read(context, &mut into) {
                Poll::Ready(result) => result.is_ok() && !into.filled().is_empty(),
                Poll::Pending => return Poll::Pending,
            };
            lines.take(into.filled(), |line, overlong| book.enter(line, overlong));
            Poll::Ready(more)
        });
        if !more.await {
            break;
        }
    }
    lines.end(|line, overlong| book.enter(line, overlong));
}

/// Cuts bytes into lines and keeps at most [`LINE_BYTES`] of each.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    overlong: bool,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            self.add(&bytes[..end]);
            self.end(&mut each);
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.line.len();
        self.overlong |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.line.is_empty() {
            each(&self.line, self.overlong);
        }
        self.line.clear();
        self.overlong = false;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::heard::heard;

    #[tokio::test]
    async fn levels_are_counted_and_the_last_lines_kept() {
        let book = LogBook::new(Kind::Plugin, "p");
        let text = [
            r#"{"level":"info","message":"one"}"#,
            r#"{"level":"error","message":"two","module":"x"}"#,
            r#"{"level":"warning","event":"three"}"#,
            r#"{"level":"warn","message":"four"}"#,
            r#"{"level":7,"message":{"odd":1}}"#,
            "",
            "Traceback: plain text with postgres://me:pw@h/db",
            r#"{"level":"fatal","message":"six, and no newline"}"#,
        ]
        .join("\n");
        follow(text.as_bytes(), &book).await;
        assert_eq!(book.counts(), LogCounts { errors: 2, warnings: 2 });
        let last = book.last_lines();
        assert!(last.ends_with(
            "three | four |  | Traceback: plain text with postgres://me:***@h/db | six, and no newline"
        ), "{last}");
    }

    #[tokio::test]
    async fn lines_held_back_count_once_they_are_released() {
        let book = LogBook::new(Kind::Plugin, "p");
        book.hold();
        let lines = r#"{"level":"error","message":"x"}
"#;
        follow(lines.repeat(2).as_bytes(), &book).await;
        assert_eq!(book.counts().errors, 0);
        assert_eq!(book.last_lines(), "x | x");
        book.release();
        follow(lines.as_bytes(), &book).await;
        assert_eq!(book.counts().errors, 3);
    }

    #[tokio::test]
    async fn garbage_neither_crashes_nor_grows() {
        let book = LogBook::new(Kind::Plugin, "p");
        let mut bytes = vec![0_u8; 100];
        bytes.extend([0xff, 0xfe, b'\n', b'{', b'\n']);
        bytes.extend(b"[".repeat(4000));
        bytes.push(b'\n');
        bytes.extend(vec![b'x'; 10 << 20]);
        follow(bytes.as_slice(), &book).await;
        assert_eq!(book.counts(), LogCounts::default());
        assert!(book.last_lines().len() < LAST_LINES * (LAST_CHARACTERS + 10));
    }

    #[test]
    fn a_line_is_cut_at_its_limit_wherever_the_reads_end() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        let text =
            [b"a".repeat(LINE_BYTES), b"b".repeat(LINE_BYTES + 1), b"c".to_vec()].join(&b'\n');
        for piece in text.chunks(1000) {
            lines.take(piece, |line, overlong| seen.push((line[0], line.len(), overlong)));
        }
        lines.end(|line, overlong| seen.push((line[0], line.len(), overlong)));
        assert_eq!(seen, [(b'a', LINE_BYTES, false), (b'b', LINE_BYTES, true), (b'c', 1, false)]);
    }

    #[test]
    fn lines_are_passed_on_with_level_and_plugin_and_without_passwords() {
        let (last, seen) = heard(|| {
            let book = LogBook::new(Kind::Plugin, "p");
            book.line(br#"{"level":"warn","message":"at x://a:pw@h","rows":3}"#);
            book.line(b"plain");
            book.hidden().add(&serde_json::json!({"password": "swordfish"}));
            book.line(br#"{"message":"m","error":"m","api_key":"k"}"#);
            book.line(b"dial swordfish, token=abc");
            book.hold();
            book.line(br#"{"level":"error","message":"given up"}"#);
            book.last_lines()
        });
        assert_eq!(
            seen.join("\n"),
            "plugin WARN message=at x://a:***@h plugin=\"p\" fields=\"{\\\"rows\\\":3}\"\n\
             plugin INFO message=plain plugin=\"p\"\n\
             plugin INFO message=m plugin=\"p\" \
             fields=\"{\\\"api_key\\\":\\\"***\\\"}\"\n\
             plugin INFO message=dial ***, token=*** plugin=\"p\"\n\
             plugin DEBUG message=given up plugin=\"p\""
        );
        assert!(last.ends_with("m | dial ***, token=*** | given up"), "{last}");
    }
}
