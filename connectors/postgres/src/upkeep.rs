//! What is done to a table as a whole, in the open transaction: the end of a sweep, compaction of
//! the history, and removing everything.
//!
//! The keys that a sweep has seen are kept in a table that no log is written for: they are of use
//! to one run only. A server that crashes empties it while the run may go on; a row without a key,
//! which no other row can be taken for, tells that this has not happened.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use highwater_core::{
    Committed, Error, Fence, Plan, Result, Table, TableName, TablePlan, WriteMode,
};
use highwater_sql::merge::{self, Counts};
use highwater_sql::{Dialect, clear, ddl, derived, sweep};
use tokio_postgres::types::ToSql;

use crate::catalog::get;
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::keys;
use crate::rebuild;
use crate::session::{Session, quote};
use crate::store;
use crate::writer::{first_sequence, instant};

/// The keys that a sweep of the plan has seen.
struct Seen {
    table: Table,
    /// A column of the key that is never NULL in a row.
    complete: Option<String>,
}

impl Seen {
    /// The plan names the schema.
    fn of(plan: &TablePlan, sync: &str) -> Self {
        let mut table = derived::seen(plan, sync, &PostgresDialect);
        let fields = table.schema.fields();
        let complete = fields.iter().find(|field| !field.is_nullable());
        let complete = complete.map(|field| field.name().clone());
        let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
        table.schema = Arc::new(Schema::new(fields.iter().map(nullable).collect::<Vec<_>>()));
        Self { table, complete }
    }

    /// Makes the table, with nothing in it.
    async fn create(&self, session: &Session, run: &Plan, plan: &TablePlan) -> Result<()> {
        rebuild::drop_table(session, &self.table.name).await?;
        if let Some(schema) = &self.table.name.namespace {
            changes::make_schema(session, schema).await?;
        }
        changes::create_types(session, plan, &mut Vec::new()).await?;
        let mut statements = ddl::create_table(&PostgresDialect, &self.table, None)?;
        if self.complete.is_some() {
            for statement in &mut statements {
                *statement = statement.replacen("CREATE TABLE", "CREATE UNLOGGED TABLE", 1);
            }
            let name = PostgresDialect.table(&self.table.name);
            statements.push(format!("INSERT INTO {name} DEFAULT VALUES"));
        }
        for statement in &statements {
            changes::run(session, plan, statement).await?;
        }
        rebuild::set_mark(session, &run.sync, &self.table.name, &run.sync_id).await
    }

    /// Whether this run has made the table.
    async fn is_of(&self, session: &Session, run: &Plan) -> Result<bool> {
        let mark = rebuild::mark_of(session, &run.sync, &self.table.name).await?;
        Ok(mark.as_ref() == Some(&run.sync_id))
    }

    /// The plan for comparing with the keys in the table, by whether NULL is in one of them.
    async fn as_they_are(&self, session: &Session, plan: &TablePlan) -> Result<TablePlan> {
        let name = PostgresDialect.table(&self.table.name);
        let condition = self.complete.as_ref().map_or("true".to_owned(), |complete| {
            // Not the row that only tells that the table is as it was.
            format!("{} IS NOT NULL", quote(complete))
        });
        keys::as_they_are(session, plan, &name, &condition).await
    }

    /// # Errors
    /// `Transient` when the server has lost what was in the table.
    async fn check_kept(&self, session: &Session, plan: &TablePlan) -> Result<()> {
        let Some(complete) = &self.complete else { return Ok(()) };
        let statement = format!(
            "SELECT EXISTS (SELECT 1 FROM {} WHERE {} IS NULL)",
            PostgresDialect.table(&self.table.name),
            quote(complete)
        );
        let row = session.query_one(&statement, &[]).await;
        let row = row.map_err(|e| session.error("look for seen keys", e))?;
        if get(&row, 0)? {
            return Ok(());
        }
        Err(Error::transient("The database server has failed while the table was read as a whole")
            .context("table", plan.name())
            .hint("run the same sync again: nothing was deleted"))
    }
}

/// Makes the table of the keys that a sweep sees, empty unless this run has made it. `made` says
/// that it has.
///
/// # Errors
/// `Transient` when keys that were seen are gone; else as the server's.
pub(crate) async fn remember_keys(
    session: &Session,
    run: &Plan,
    plan: &TablePlan,
    made: bool,
) -> Result<()> {
    let plan = rebuild::in_schema(session, plan).await?;
    let seen = Seen::of(&plan, &run.sync);
    // Not that of the user's table: another writer of the run may be loading it for long.
    changes::lock(session, &seen.table.name).await?;
    if seen.is_of(session, run).await? {
        return Ok(());
    }
    if made {
        return Err(sweep::lost(&plan, &seen.table.name));
    }
    seen.create(session, run, &plan).await
}

/// Remembers the keys of a table that the open transaction has made: all of them were seen.
///
/// # Errors
/// As the server's.
pub(crate) async fn remember_all(session: &Session, run: &Plan, plan: &TablePlan) -> Result<()> {
    let key = ddl::quoted(&PostgresDialect, &plan.target.primary_key);
    let statement = format!(
        "INSERT INTO {} ({key}) SELECT {key} FROM {} ON CONFLICT DO NOTHING",
        PostgresDialect.table(&derived::seen(plan, &run.sync, &PostgresDialect).name),
        PostgresDialect.table(&plan.target.name),
    );
    session.run("remember keys", &statement).await
}

/// Deletes the rows that a sweep did not bring; returns how many. Called once per run. `made` is
/// that of [`remember_keys`].
///
/// # Errors
/// `Transient` when the server has lost the keys that were seen; else as the server's.
pub(crate) async fn end_sweep(
    session: &Session,
    run: &Plan,
    plan: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<u64> {
    let plan = &rebuild::in_schema(session, plan).await?;
    let seen = Seen::of(plan, &run.sync);
    if !seen.is_of(session, run).await? {
        if !run.state_with_data {
            // It may have been done already.
            return Ok(0);
        }
        if made {
            return Err(sweep::lost(plan, &seen.table.name));
        }
        // The run has committed nothing: nothing was brought.
        seen.create(session, run, plan).await?;
    }
    seen.check_kept(session, plan).await?;
    changes::lock_merged(session, plan).await?;
    let analyze = format!("ANALYZE {}", PostgresDialect.table(&seen.table.name));
    session.run("count seen keys", &analyze).await?;
    let first = first_sequence(session, run, plan, fence).await?;
    let plan = &seen.as_they_are(session, plan).await?;
    let mut deleted = 0;
    for step in sweep::steps(&PostgresDialect, run, plan, instant) {
        let parameters: &[&(dyn ToSql + Sync)] =
            if step.parameters { &[&first, &run.started_at.0] } else { &[] };
        let affected = session.execute(&step.sql, parameters).await.map_err(|e| {
            session.error("delete rows that were not read", e).context("table", plan.name())
        })?;
        if step.counts == Counts::Deleted {
            deleted += affected;
        }
    }
    check_deleted(session, run, plan, deleted).await?;
    rebuild::drop_table(session, &seen.table.name).await?;
    Ok(deleted)
}

/// Whether so many rows may have gone in the open transaction.
///
/// # Errors
/// `Data` where they may not: the transaction must not be committed. Else as the server's.
pub(crate) async fn check_deleted(
    session: &Session,
    run: &Plan,
    plan: &TablePlan,
    deleted: u64,
) -> Result<()> {
    if deleted == 0 || !plan.guards_deletes {
        return Ok(());
    }
    let row = session.query_one(&sweep::rows_left(&PostgresDialect, run, plan), &[]).await;
    let left: i64 = get(&row.map_err(|e| session.error("count the rows", e))?, 0)?;
    plan.check_deletes(deleted, left.unsigned_abs())
}

/// Leaves the latest record of each key in the history; returns how many records went.
///
/// # Errors
/// As the server's.
pub(crate) async fn compact(session: &Session, plan: &TablePlan) -> Result<u64> {
    let plan = rebuild::in_schema(session, plan).await?;
    let history = derived::history(&plan, &PostgresDialect);
    if plan.write_mode != WriteMode::AppendDedup
        || changes::find(session, &history.name).await?.is_none()
    {
        return Ok(0);
    }
    let removed = session.execute(&merge::compact_history(&PostgresDialect, &plan), &[]).await;
    removed.map_err(|e| session.error("compact the history", e).context("table", plan.name()))
}

/// Removes every row of the sync from a table and all that belongs to it; the state is forgotten too where it
/// is kept here.
///
/// # Errors
/// As the server's.
pub(crate) async fn clear(
    session: &Session,
    run: &Plan,
    plan: &TablePlan,
    fence: &Fence,
) -> Result<Committed> {
    let table = rebuild::in_schema(session, plan).await?;
    let mut committed = Committed::default();
    let mut parts = Vec::new();
    for part in derived::all(&table, &PostgresDialect) {
        let Some(there) = changes::find(session, &part.name).await? else { continue };
        changes::check_kind(&there)?;
        parts.push(part.name);
    }
    let exists = |name: &TableName| parts.contains(name);
    for (name, statement) in clear::statements(&PostgresDialect, run, &table, exists) {
        let removed = session.execute_typed(&statement, &[]).await;
        let removed =
            removed.map_err(|e| session.error("remove rows", e).context("table", &name))?;
        committed.deleted += if name == table.target.name { removed } else { 0 };
    }
    rebuild::discard(session, &run.sync, &table).await?;
    let seen = derived::seen(&table, &run.sync, &PostgresDialect);
    rebuild::drop_table(session, &seen.name).await?;
    if run.state_with_data {
        store::forget(session, fence, plan.name()).await?;
    }
    Ok(committed)
}
