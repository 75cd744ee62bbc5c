//! Lengths that mean something: `lookback` in the unit of the cursor, `history_retention` where
//! there is a history. What has no effect is refused, because somebody relies on it.

use std::collections::BTreeSet;

use highwater_core::{Error, LogicalType, TablePlan, WriteMode};
use highwater_engine::Planned;

use super::{at_job, at_table};
use crate::config::Section;
use crate::config::spec::SourceSpec;
use crate::failure::Result;
use crate::jobs::Job;

/// Checks the lengths of a job before it runs. Plans it for that, if there are any; a plugin is
/// not started twice for it.
///
/// # Errors
/// `Config` for a length without a meaning, and what planning finds.
pub async fn check(section: &Section<SourceSpec>, job: &Job) -> Result<()> {
    let entries = || section.spec.tables.iter().map(|entry| &entry.0);
    let is_plugin = section.driver.is_plugin();
    if is_plugin
        || entries().all(|entry| entry.lookback.is_none() && entry.history_retention.is_none())
    {
        return Ok(());
    }
    match highwater_engine::plan(job.source.as_ref(), &job.request).await {
        Ok(plans) => planned(section, &plans),
        // What keeps a system from answering is for the run to say, table by table.
        Err(error) if error.kind() != highwater_core::ErrorKind::Config => Ok(()),
        Err(error) => Err(at_job(section, job, error).await),
    }
}

/// As [`check`], where the plans are there already.
///
/// # Errors
/// `Config` for a length without a meaning.
pub fn planned(section: &Section<SourceSpec>, plans: &[Planned]) -> Result<()> {
    let tables = || plans.iter().flat_map(|planned| planned.plan.tables.values());
    for table in tables() {
        lookback(section, table).map_err(|error| at_table(section, error))?;
    }
    let has_history: BTreeSet<_> = tables()
        .filter(|table| table.write_mode == WriteMode::AppendDedup)
        .map(TablePlan::name)
        .collect();
    let idle = tables().find(|table| {
        table.history_retention_seconds.is_some() && !has_history.contains(table.name())
    });
    match idle {
        None => Ok(()),
        Some(table) => Err(at_table(
            section,
            Error::config("`history_retention` needs the write mode that keeps a history")
                .context("table", table.name())
                .context("write mode", table.write_mode)
                .hint("write_mode: append-dedup"),
        )),
    }
}

fn lookback(section: &Section<SourceSpec>, table: &TablePlan) -> std::result::Result<(), Error> {
    if table.lookback == 0 {
        return Ok(());
    }
    let Some(cursor) = &table.cursor_field else {
        return Err(Error::config("`lookback` needs a cursor that it is the distance from")
            .context("table", table.name())
            .hint("cursor: updated_at"));
    };
    let field = table.source.schema.field_with_name(cursor);
    let Some(cursor_type) = field.ok().and_then(|field| LogicalType::of(field).ok()) else {
        return Ok(());
    };
    let lengths = section.spec.tables.iter().filter_map(|entry| entry.0.lookback);
    let mut lengths = lengths.filter(|lookback| lookback.length == table.lookback);
    let (all_durations, all_numbers) =
        (lengths.clone().all(|l| l.is_duration), lengths.all(|l| !l.is_duration));
    let (words, hint) = match cursor_type {
        LogicalType::Integer { .. }
        | LogicalType::Float { .. }
        | LogicalType::Decimal { .. }
        | LogicalType::Numeric
            if all_durations =>
        {
            ("`lookback` is a duration, and the cursor is a number", "a number: `lookback: 1000`")
        }
        LogicalType::Date | LogicalType::Time(_) | LogicalType::Timestamp { .. } if all_numbers => {
            ("`lookback` is a number, and the cursor is a time", "a duration: `lookback: 10m`")
        }
        _ => return Ok(()),
    };
    Err(Error::config(words).context("table", table.name()).context("column", cursor).hint(hint))
}
