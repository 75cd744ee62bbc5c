//! Rebuilds (`replace`, `replace-dedup`, a refresh that removes old rows): the rows are kept in
//! tables beside the user's, and take their place when the read is complete.
//!
//! The tables beside are marked with sync, generation and source table. An unfinished generation
//! is filled on by the next run; what another has left is dropped.

use highwater_core::{Fence, Plan, Result, State, Table, TableName, TablePlan, WriteMode};
use highwater_sql::rebuild::Beside;
use highwater_sql::{Dialect, ddl, derived, rebuild};

use super::catalog::{self, number, text};
use super::dialect::DuckDbDialect;
use super::mark::Mark;
use super::schema::{self, identity_prefix};
use super::store;
use super::types::{MARK, stored_field};
use crate::session::{Session, parameters};

/// Makes the tables beside, empty unless this generation has begun them. `made` says that this
/// run has committed rows into them.
///
/// # Errors
/// `Schema` when the rows of this run do not fit what an earlier run has left, or that is gone.
pub(crate) fn ensure(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<()> {
    let beside = derived::beside(table, &plan.sync, &DuckDbDialect);
    let mark = mark_of(session, plan, &beside)?;
    let begun = made
        || (plan.state_with_data && rebuild::is_begun(table, &store::state(session, &fence.sync)?));
    match rebuild::decide(mark.as_deref(), &plan.sync_id, table, begun) {
        Beside::Lost => return Err(rebuild::lost(table, &beside.target.name)),
        Beside::Keep | Beside::Fit if made => return Ok(()),
        Beside::Keep | Beside::Fit => fit(session, &beside)?,
        Beside::Begin => drop_all(session, &beside)?,
    }
    if let Some(schema) = &beside.target.name.namespace {
        session.run(&format!("CREATE SCHEMA IF NOT EXISTS {}", DuckDbDialect.quote(schema)))?;
    }
    let token = format!("{}{}", identity_prefix(&plan.sync), rebuild::mark(&plan.sync_id, table));
    for mut made in derived::all(&beside, &DuckDbDialect) {
        if table.write_mode == WriteMode::Replace {
            // The key comes after the swap, where the rows have one.
            made.primary_key.clear();
        }
        // Those that are there stay; the write mode may need more than that of the run before.
        for statement in ddl::create_table(&DuckDbDialect, &made, Some(&token))? {
            session.run(&statement)?;
        }
    }
    Ok(())
}

/// The mark of the table beside, without what tells the sync; `None` for another sync's.
fn mark_of(session: &mut Session, plan: &Plan, table: &TablePlan) -> Result<Option<String>> {
    let identity = schema::identity(session, &table.target.name)?;
    let prefix = identity_prefix(&plan.sync);
    Ok(identity.and_then(|token| token.strip_prefix(&prefix).map(str::to_owned)))
}

/// Lets the rows of this run fit tables that an earlier run has made.
fn fit(session: &mut Session, beside: &TablePlan) -> Result<()> {
    let Some(found) = catalog::relation(session, &beside.target.name)? else { return Ok(()) };
    for change in rebuild::changes(beside, &found.table(), stored_field)? {
        for statement in ddl::change(&DuckDbDialect, beside, &change, None)? {
            session.run(&statement)?;
        }
    }
    Ok(())
}

fn drop_all(session: &mut Session, beside: &TablePlan) -> Result<()> {
    for made in derived::all(beside, &DuckDbDialect) {
        drop_table(session, &made.name)?;
    }
    Ok(())
}

fn drop_table(session: &mut Session, name: &TableName) -> Result<()> {
    session.run(&format!("DROP TABLE IF EXISTS {}", DuckDbDialect.table(name)))
}

/// Puts the tables beside in the place of the user's, with the user's indexes. Nothing if that has
/// been done; `finished` says that the state knows, `made` that this run has committed rows into
/// them. Returns how many old rows went.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn swap(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    finished: bool,
    made: bool,
) -> Result<u64> {
    let beside = derived::beside(table, &plan.sync, &DuckDbDialect);
    let done = if plan.state_with_data {
        finished
    } else {
        let is_there = mark_of(session, plan, &beside)?.is_some();
        let in_place = mark_of(session, plan, table)?;
        !is_there && in_place.is_some_and(|mark| rebuild::is_of(&mark, table))
    };
    if done {
        return Ok(0);
    }
    // A read without a row has made nothing yet.
    ensure(session, plan, table, fence, made)?;
    let removed = rows_of(session, &table.target.name)?;
    let pairs = derived::all(table, &DuckDbDialect).into_iter();
    for (at, (made, from)) in pairs.zip(derived::all(&beside, &DuckDbDialect)).enumerate() {
        if at > 0 && !derived::keeps_tombstones(table) {
            drop_table(session, &from.name)?;
            continue;
        }
        exchange(session, &made.name, &from.name)?;
        if table.write_mode == WriteMode::Replace {
            add_key_if_unique(session, &made)?;
        }
    }
    Ok(removed)
}

fn rows_of(session: &mut Session, table: &TableName) -> Result<u64> {
    if catalog::relation(session, table)?.is_none() {
        return Ok(0);
    }
    let count =
        session.fetch(&format!("SELECT count(*) FROM {}", DuckDbDialect.table(table)), &[])?;
    Ok(number(&count, 0, 0).unwrap_or(0).unsigned_abs())
}

/// The table has exactly the rows of the read: where several have one key it stays without.
fn add_key_if_unique(session: &mut Session, table: &Table) -> Result<()> {
    if table.primary_key.is_empty() {
        return Ok(());
    }
    if !schema::is_unique(session, table)? {
        tracing::warn!(table = %table.name, "several rows have one key: the table is without its key");
        return Ok(());
    }
    let Some(there) = catalog::relation(session, &table.name)? else { return Ok(()) };
    let mark = Mark { key: table.primary_key.clone(), ..there.mark() };
    session.run(&mark.statement(&table.name, there.comment.as_deref()))
}

/// One table takes the place of another, which goes.
fn exchange(session: &mut Session, table: &TableName, beside: &TableName) -> Result<()> {
    let before = catalog::relation(session, table)?.and_then(|relation| relation.comment);
    let words = before.as_deref().and_then(|comment| comment.split(MARK).next());
    let indexes = indexes(session, table)?;
    drop_table(session, table)?;
    session.run(&format!(
        "ALTER TABLE {} RENAME TO {}",
        DuckDbDialect.table(beside),
        DuckDbDialect.quote(&table.name),
    ))?;
    if let Some(words) = words.filter(|words| !words.is_empty()) {
        let mark = catalog::relation(session, table)?.map(|there| there.mark()).unwrap_or_default();
        session.run(&mark.statement(table, Some(words)))?;
    }
    for (name, sql) in indexes {
        // Whether it can be made is looked at first: an error would end the transaction.
        match fits(session, &sql) {
            true => session.run(&sql)?,
            false => tracing::warn!(%table, name, "not carried over to the new table"),
        }
    }
    Ok(())
}

/// Whether a statement is one that can be made now. One that makes an index of unique values may
/// fail all the same: then the rows break a rule that the user has made.
fn fits(session: &mut Session, sql: &str) -> bool {
    !sql.to_ascii_uppercase().contains("UNIQUE") && session.prepares(sql)
}

/// Indexes that a user made for a table: names and definitions.
fn indexes(session: &mut Session, table: &TableName) -> Result<Vec<(String, String)>> {
    let schema = table.namespace.as_deref().unwrap_or(catalog::MAIN);
    let rows = session.fetch(
        "SELECT index_name, sql FROM duckdb_indexes() WHERE database_name = current_database() \
         AND lower(schema_name) = lower($1) AND lower(table_name) = lower($2) AND sql IS NOT NULL",
        parameters![schema, &table.name],
    )?;
    let row = |at| Some((text(&rows, 0, at)?, text(&rows, 1, at)?));
    Ok((0..rows.num_rows()).filter_map(row).collect())
}

/// Removes what earlier runs of the sync have left beside, and what nobody can go on with.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn drop_leftovers(session: &mut Session, sync: &str, state: &State) -> Result<()> {
    let prefix = identity_prefix(sync);
    let rows = session.fetch(
        "SELECT schema_name, table_name, comment FROM duckdb_tables() \
         WHERE database_name = current_database() AND comment IS NOT NULL \
         AND (table_name GLOB '_highwater_*_new' OR table_name GLOB '_highwater_*_new_history' \
         OR table_name GLOB '_highwater__highwater_*_new_tombstones' \
         OR table_name GLOB '_highwater_*_seen')",
        &[],
    )?;
    for row in 0..rows.num_rows() {
        let (Some(schema), Some(name)) = (text(&rows, 0, row), text(&rows, 1, row)) else {
            continue;
        };
        let token = Mark::parse(text(&rows, 2, row).as_deref()).identity;
        let Some(mark) = token.as_deref().and_then(|token| token.strip_prefix(&prefix)) else {
            continue;
        };
        if !rebuild::may_go_on(mark, state) {
            drop_table(session, &TableName::in_namespace(schema, name))?;
        }
    }
    Ok(())
}

/// Removes what a sync has beside a table, for good.
///
/// # Errors
/// What DuckDB says.
pub(crate) fn discard(session: &mut Session, sync: &str, table: &TablePlan) -> Result<()> {
    drop_all(session, &derived::beside(table, sync, &DuckDbDialect))
}
