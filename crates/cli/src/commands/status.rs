//! `highwater status`: when each table was last complete, how far it is, and who is at work.

use clap::Args;
use highwater_core::{Lease, State, TableName};
use serde_json::{Value, json};

use crate::args::{Global, PlaceArgs};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::{self, count};
use crate::{report, stores};

/// Show when each table was last complete, how far it is, and who is at work
#[derive(Debug, Args)]
pub struct Status {
    /// Whose status; a destination alone shows every sync that it knows
    #[command(flatten)]
    pub what: PlaceArgs,
}

impl Status {
    /// Shows the state of every sync at every destination.
    ///
    /// # Errors
    /// `Transient` when a destination cannot be reached.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let (mut text, mut values) = (String::new(), Vec::new());
        for store in stores::stores(&self.what, global).await? {
            for (sync, state) in store.states().await? {
                text.push_str(&words(&sync, &store.name, &state));
                values.push(value(&sync, &store.name, &state));
            }
        }
        if global.json {
            output::json(&values)?;
        } else if text.is_empty() {
            output::result("No sync has been run.")?;
        } else {
            output::result(text.trim_end())?;
        }
        Ok(Exit::Success)
    }
}

/// `running`, `ended`, or a run that ended without saying so.
fn lease_words(lease: Option<&Lease>) -> String {
    let Some(lease) = lease else { return "never run".to_owned() };
    let at = lease.renewed_at.to_rfc3339();
    let owner = format!("process {} on {}", lease.owner.pid, lease.owner.host);
    match (lease.released, lease.owner.is_alive()) {
        (true, _) => format!("idle, last run ended {at}"),
        (false, Some(true)) => format!("running: {owner}"),
        (false, Some(false)) => format!("idle, last run died after {at}: {owner}"),
        (false, None) => format!("perhaps running: {owner}, last sign of life {at}"),
    }
}

fn words(sync: &str, keeper: &str, state: &State) -> String {
    let mut out = format!("{sync} at {keeper}: {}\n", lease_words(state.lease.as_ref()));
    let rows: Vec<Vec<String>> = state
        .tables
        .iter()
        .map(|(table, record)| {
            let finished = record.finished_at.map_or("never".to_owned(), |at| at.to_rfc3339());
            vec![table.to_string(), finished, count(record.rows_total), position(state, table)]
        })
        .collect();
    if !rows.is_empty() {
        out.push_str(&output::table(&["TABLE", "LAST COMPLETE", "ROWS RECEIVED", "CURSOR"], &rows));
    }
    out.push('\n');
    out
}

fn position(state: &State, table: &TableName) -> String {
    match state.table_cursor(table) {
        Some(cursor) => report::cursor(cursor),
        None => match state.partition_cursors(table).count() {
            0 => String::new(),
            parts => format!("{parts} parts"),
        },
    }
}

fn value(sync: &str, keeper: &str, state: &State) -> Value {
    let tables: Vec<Value> = state
        .tables
        .iter()
        .map(|(table, record)| {
            json!({
                "table": table.to_string(),
                "last_complete": record.finished_at.map(|at| at.to_rfc3339()),
                "rows_total": record.rows_total,
                "cursor": position(state, table),
            })
        })
        .collect();
    json!({
        "sync": sync,
        "kept_at": keeper,
        "lease": state.lease.as_ref().map(|lease| json!({
            "released": lease.released,
            "alive": lease.owner.is_alive(),
            "host": lease.owner.host,
            "pid": lease.owner.pid,
            "renewed_at": lease.renewed_at.to_rfc3339(),
        })),
        "tables": tables,
    })
}
