//! Shows a running sync on stderr: bars on a terminal, lines otherwise, JSON on request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::{Instant, TableName};
use highwater_engine::{Event, Observer};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;

use crate::args::{Global, LogFormat};
use crate::{hints, output};

/// How often a table that is at work says so, where there are no bars.
const LINE_SECONDS: u64 = 10;
/// How often it does in JSON.
const JSON_SECONDS: u64 = 1;

/// The observer that fits stderr and the flags.
pub fn observer(global: &Global) -> Arc<dyn Observer> {
    let level = Level::of(global.level());
    match global.log_format {
        LogFormat::Json => Arc::new(Lines { is_json: true, level, tables: Mutex::default() }),
        // Text has nothing that is more than information: what failed is said at the end.
        LogFormat::Text if level > Level::Info => Arc::new(highwater_engine::Silent),
        LogFormat::Text if output::shows_bars() => Arc::new(Bars { bars: Mutex::default() }),
        LogFormat::Text => Arc::new(Lines { is_json: false, level, tables: Mutex::default() }),
    }
}

/// How important a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What only a search for a defect needs.
    Debug,
    /// Progress and notes.
    Info,
    /// What may be wrong.
    Warn,
    /// What failed.
    Error,
}

impl Level {
    /// The least important level that `--log-level` asks for.
    pub fn of(flag: &str) -> Self {
        match flag {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "debug" | "trace" => Self::Debug,
            _ => Self::Info,
        }
    }

    /// As `--log-level` writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A bar per table.
struct Bars {
    bars: Mutex<BTreeMap<TableName, ProgressBar>>,
}

impl Observer for Bars {
    fn event(&self, event: &Event<'_>) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::TableStarted { table } => {
                bars.entry((*table).clone()).or_insert_with(|| bar(table));
            }
            Event::RowsRead { table, rows } => {
                bars.entry((*table).clone()).or_insert_with(|| bar(table)).inc(*rows);
            }
            Event::RowsCommitted { .. } => {}
            Event::TableEnded { table, destination, error } => {
                if let Some(bar) = bars.get(*table) {
                    match error {
                        None => bar.finish_with_message("done"),
                        Some(_) => bar.abandon_with_message(format!("failed at {destination}")),
                    }
                }
            }
            Event::Notice { message } => output::note(&format!("note: {message}")),
        }
    }
}

fn bar(table: &TableName) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {prefix} {human_pos} rows, {rate} {elapsed} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{} rows/s", output::count(state.per_sec() as u64));
            });
    let bar = output::bars().add(ProgressBar::new_spinner().with_style(style));
    bar.set_prefix(table.to_string());
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// Lines of text or JSON.
struct Lines {
    is_json: bool,
    level: Level,
    tables: Mutex<BTreeMap<TableName, Reading>>,
}

/// How far a table is, and when that was last said.
struct Reading {
    rows: u64,
    started: Instant,
    said: Instant,
}

impl Lines {
    fn say(&self, level: Level, text: &str, json: serde_json::Value) {
        match self.is_json {
            _ if level < self.level => {}
            true => output::log(level.word(), text, json),
            false => output::note(text),
        }
    }

    /// Counts rows; the count and the rows per second when it is time to say them.
    fn read(&self, table: &TableName, rows: u64) -> Option<(u64, u64)> {
        let now = Instant::now();
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let reading =
            tables.entry(table.clone()).or_insert(Reading { rows: 0, started: now, said: now });
        reading.rows += rows;
        let pause_seconds = if self.is_json { JSON_SECONDS } else { LINE_SECONDS };
        if now.micros_since(reading.said) < pause_seconds * 1_000_000 {
            return None;
        }
        reading.said = now;
        let micros = now.micros_since(reading.started).max(1);
        let per_second = u128::from(reading.rows) * 1_000_000 / u128::from(micros);
        Some((reading.rows, u64::try_from(per_second).unwrap_or(u64::MAX)))
    }
}

impl Observer for Lines {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::TableStarted { table } => {
                self.read(table, 0);
                if self.is_json {
                    let fields = json!({ "event": "table_started", "table": table.to_string() });
                    self.say(Level::Info, "Table started", fields);
                }
            }
            Event::RowsRead { table, rows } => {
                let Some((rows, per_second)) = self.read(table, *rows) else { return };
                let text = format!(
                    "{table}: {} rows read, {} rows/s",
                    output::count(rows),
                    output::count(per_second)
                );
                let fields = json!({
                    "event": "rows_read", "table": table.to_string(),
                    "rows": rows, "rows_per_second": per_second,
                });
                self.say(Level::Info, &text, fields);
            }
            Event::RowsCommitted { table, destination, committed } => {
                if self.is_json {
                    let fields = json!({
                        "event": "rows_committed", "table": table.to_string(),
                        "destination": destination, "written": committed.written,
                        "unchanged": committed.unchanged, "deleted": committed.deleted,
                    });
                    self.say(Level::Debug, "Rows committed", fields);
                }
            }
            Event::TableEnded { table, destination, error } => {
                let mut fields = json!({
                    "event": "table_ended", "table": table.to_string(),
                    "destination": destination, "complete": error.is_none(),
                });
                match error {
                    // In text the summary says it all.
                    _ if !self.is_json => {}
                    None => {
                        self.say(Level::Info, &format!("{table}: done at {destination}"), fields)
                    }
                    Some(error) => {
                        fields["error"] = error.full_message().into();
                        let source = table.to_string();
                        let hint = error.hint_text();
                        let hint = hint.map(|h| hints::completed(h, Some(&source), None));
                        fields["hint"] = hint.into();
                        self.say(
                            Level::Error,
                            &format!("{table}: failed at {destination}"),
                            fields,
                        );
                    }
                }
            }
            Event::Notice { message } => {
                let text =
                    if self.is_json { (*message).to_owned() } else { format!("note: {message}") };
                self.say(Level::Info, &text, json!({ "event": "notice" }));
            }
        }
    }
}
