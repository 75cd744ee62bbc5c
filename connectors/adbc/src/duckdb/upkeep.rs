//! What is done to a table as a whole, in the open transaction: the end of a sweep, compaction of
//! the history, and removing everything.

use highwater_core::plan::{SOURCE_NAME, SYNC_TIME};
use highwater_core::{Committed, Error, Fence, Plan, Result, TableName, TablePlan, WriteMode};
use highwater_sql::merge::{self, Counts};
use highwater_sql::{Dialect, clear, ddl, derived, sweep};

use super::dialect::DuckDbDialect;
use super::schema::{self, identity_of, instant_in};
use super::{catalog, rebuild, store};
use crate::session::{Parameter, Session};

/// Makes the table of the keys that a sweep sees, empty unless this run has made it. `made` says
/// that it has, and that keys were committed into it.
///
/// # Errors
/// `Transient` when keys that were seen are gone.
pub(crate) fn remember_keys(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    made: bool,
) -> Result<()> {
    let seen = derived::seen(table, &plan.sync, &DuckDbDialect);
    let token = identity_of(plan);
    if schema::identity(session, &seen.name)?.as_deref() == Some(&token) {
        return Ok(());
    }
    if made {
        return Err(sweep::lost(table, &seen.name));
    }
    forget_keys(session, &plan.sync, table)?;
    for statement in ddl::create_table(&DuckDbDialect, &seen, Some(&token))? {
        session.run(&statement)?;
    }
    Ok(())
}

fn forget_keys(session: &mut Session, sync: &str, table: &TablePlan) -> Result<()> {
    let seen = DuckDbDialect.table(&derived::seen(table, sync, &DuckDbDialect).name);
    session.run(&format!("DROP TABLE IF EXISTS {seen}"))
}

/// The arrival order of the first staged row. Where the state is kept elsewhere the history
/// itself tells.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn first_sequence(
    session: &mut Session,
    table: &TablePlan,
    fence: Option<&Fence>,
) -> Result<i64> {
    if table.write_mode != WriteMode::AppendDedup {
        return Ok(0);
    }
    let from_state = match fence {
        Some(fence) => store::rows_total(session, fence, table.name())?,
        None => 0,
    };
    // Another sync, or this one before its state was reset, may have gone further.
    let history = derived::history(table, &DuckDbDialect);
    let sql = format!(
        "SELECT coalesce(max({}) + 1, 0) FROM {}",
        DuckDbDialect.quote(derived::SEQUENCE),
        DuckDbDialect.table(&history.name),
    );
    let from_history = session.fetch(&sql, &[])?;
    Ok(from_state.max(catalog::number(&from_history, 0, 0).unwrap_or(0)))
}

/// Deletes the rows that a sweep did not bring; returns how many. Called once per run. `made` is
/// that of [`remember_keys`].
///
/// # Errors
/// `Data` when so many rows may not go.
pub(crate) fn end_sweep(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<u64> {
    let seen = derived::seen(table, &plan.sync, &DuckDbDialect).name;
    if schema::identity(session, &seen)?.as_deref() != Some(&identity_of(plan)) {
        if !plan.state_with_data {
            // It may have been done already.
            return Ok(0);
        }
        // Where the run has committed nothing, nothing was brought.
        remember_keys(session, plan, table, made)?;
    }
    let first = first_sequence(session, table, plan.state_with_data.then_some(fence))?;
    let parameters = [Parameter::from(first), schema::instant(plan.started_at)];
    let mut deleted = 0;
    for step in sweep::steps(&DuckDbDialect, plan, table, str::to_owned) {
        let given = if step.parameters { &parameters[..] } else { &[] };
        let affected = session
            .change(&step.sql, given)
            .map_err(|error| error.context("table", table.name()))?;
        if step.counts == Counts::Deleted {
            deleted += affected;
        }
    }
    forget_keys(session, &plan.sync, table)?;
    check_deleted(session, plan, table, deleted)?;
    Ok(deleted)
}

/// Whether so many rows may have gone in the open transaction.
///
/// # Errors
/// `Data` where they may not: the transaction must not be committed.
pub(crate) fn check_deleted(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    deleted: u64,
) -> Result<()> {
    if deleted == 0 || !table.guards_deletes {
        return Ok(());
    }
    let left = session.fetch(&sweep::rows_left(&DuckDbDialect, plan, table), &[])?;
    table.check_deletes(deleted, catalog::number(&left, 0, 0).unwrap_or(0).unsigned_abs())
}

/// Deletes the rows of this source that this run did not bring.
///
/// # Errors
/// `Config` where they cannot be told, `Data` where so many may not go.
pub(crate) fn delete_stale(session: &mut Session, plan: &Plan, table: &TablePlan) -> Result<u64> {
    let target = &table.target;
    let now = target.field(SYNC_TIME).and_then(|field| instant_in(field, plan.started_at));
    let (Some(now), Some(_)) = (now, target.field(SOURCE_NAME)) else {
        return Err(Error::config(
            "Stale rows are told by the columns that say when and from where a row came",
        )
        .context("table", table.name())
        .context("columns", format!("{SYNC_TIME}, {SOURCE_NAME}"))
        .hint("metadata_columns: cloudquery"));
    };
    let sql = format!(
        "DELETE FROM {} WHERE {} = $1 AND ({time} IS NULL OR {time} < $2)",
        DuckDbDialect.table(&target.name),
        DuckDbDialect.quote(SOURCE_NAME),
        time = DuckDbDialect.quote(SYNC_TIME),
    );
    let deleted = session.change(&sql, &[Parameter::from(&plan.sync), now])?;
    check_deleted(session, plan, table, deleted)?;
    Ok(deleted)
}

/// Leaves the latest record of each key in the history; returns how many records went.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn compact(session: &mut Session, table: &TablePlan) -> Result<u64> {
    let history = derived::history(table, &DuckDbDialect).name;
    if table.write_mode != WriteMode::AppendDedup || catalog::relation(session, &history)?.is_none()
    {
        return Ok(0);
    }
    session.change(&merge::compact_history(&DuckDbDialect, table), &[])
}

/// Removes every row of the sync from a table and all that belongs to it; the state is forgotten
/// too where it is kept here.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn clear(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
) -> Result<Committed> {
    let mut committed = Committed::default();
    let mut there = Vec::new();
    for part in derived::all(table, &DuckDbDialect) {
        if catalog::relation(session, &part.name)?.is_some() {
            there.push(part.name);
        }
    }
    let exists = |name: &TableName| there.contains(name);
    for (name, statement) in clear::statements(&DuckDbDialect, plan, table, exists) {
        let rows = session.change(&statement, &[])?;
        committed.deleted += if name == table.target.name { rows } else { 0 };
    }
    rebuild::discard(session, &plan.sync, table)?;
    forget_keys(session, &plan.sync, table)?;
    if plan.state_with_data {
        store::forget(session, fence, table.name())?;
    }
    Ok(committed)
}
