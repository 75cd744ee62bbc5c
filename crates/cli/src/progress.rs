//! Shows a running sync on stderr: bars on a terminal, lines otherwise, JSON on request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::{Instant, TableName};
use highwater_engine::{Event, Observer};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;

use crate::args::{Global, LogFormat};
use crate::output;

/// How often a table that is at work says so, where there are no bars.
const LINE_SECONDS: u64 = 10;
/// How often it does in JSON.
const JSON_SECONDS: u64 = 1;

/// The observer that fits stderr and the flags. `--log-level` above `info` shows no progress.
pub fn observer(global: &Global) -> Arc<dyn Observer> {
    if matches!(global.log_level.as_str(), "warn" | "error") {
        return Arc::new(highwater_engine::Silent);
    }
    match global.log_format {
        LogFormat::Json => Arc::new(Lines { is_json: true, tables: Mutex::default() }),
        LogFormat::Text if output::shows_bars() => Arc::new(Bars { bars: Mutex::default() }),
        LogFormat::Text => Arc::new(Lines { is_json: false, tables: Mutex::default() }),
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
    tables: Mutex<BTreeMap<TableName, Reading>>,
}

/// How far a table is, and when that was last said.
struct Reading {
    rows: u64,
    started: Instant,
    said: Instant,
}

impl Lines {
    fn say(&self, level: &str, text: &str, json: serde_json::Value) {
        if !self.is_json {
            return output::note(text);
        }
        let mut line = json!({
            "time": Instant::now().to_rfc3339(),
            "level": level,
            "message": text,
        });
        if let (Some(line), Some(more)) = (line.as_object_mut(), json.as_object()) {
            line.extend(more.clone());
        }
        output::note(&line.to_string());
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
                    self.say("info", "Table started", fields);
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
                self.say("info", &text, fields);
            }
            Event::RowsCommitted { table, destination, committed } => {
                if self.is_json {
                    let fields = json!({
                        "event": "rows_committed", "table": table.to_string(),
                        "destination": destination, "written": committed.written,
                        "unchanged": committed.unchanged, "deleted": committed.deleted,
                    });
                    self.say("debug", "Rows committed", fields);
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
                    None => self.say("info", &format!("{table}: done at {destination}"), fields),
                    Some(error) => {
                        fields["error"] = error.full_message().into();
                        self.say("error", &format!("{table}: failed at {destination}"), fields);
                    }
                }
            }
            Event::Notice { message } => {
                let text =
                    if self.is_json { (*message).to_owned() } else { format!("note: {message}") };
                self.say("info", &text, json!({ "event": "notice" }));
            }
        }
    }
}
