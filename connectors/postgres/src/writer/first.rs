//! The first commit of an `append-dedup` table: nothing is there that rows could be merged with. They
//! are added to the history and to the final table, and the key is built at the end. Only where two
//! rows have one key they are merged like others.

use highwater_core::crash;
use highwater_core::{Committed, Result, SchemaChange, TablePlan, WriteMode};
use highwater_sql::merge::{self, Counts};
use highwater_sql::{Dialect, ddl, derived};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::commit::first_sequence;
use super::open::{Loaded, Open, Way};
use super::{PostgresWriter, instant};
use crate::catalog::{self, Relation, get};
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::keys;
use crate::names;
use crate::session::Session;

impl PostgresWriter {
    /// Makes the final table without its key, where this commit brings its first rows. Says whether
    /// it did.
    pub(super) async fn make_keyless(&self, open: &Open, table: &TablePlan) -> Result<bool> {
        let brings_rows = open
            .loads
            .get(table.name())
            .is_some_and(|loaded| loaded.way == Way::Staged && !loaded.deletes);
        let name = &table.target.name;
        if !is_made_keyless(table)
            || !brings_rows
            || changes::find(&open.session, name).await?.is_some()
        {
            return Ok(false);
        }
        changes::create_without_key(&open.session, table).await?;
        changes::make_history(&open.session, table).await?;
        Ok(true)
    }

    /// Adds the rows to a table of [`Self::make_keyless`], and gives it its key. `None`: they have
    /// to be merged, and the table has its key and no row.
    pub(super) async fn add_first(
        &self,
        session: &Session,
        table: &TablePlan,
        there: Option<&Relation>,
        loaded: &Loaded,
    ) -> Result<Option<Committed>> {
        let is_keyless = there.is_some_and(|there| there.primary_key.is_empty());
        let Some(add_key) = ddl::add_key(&PostgresDialect, &table.target) else { return Ok(None) };
        if !is_made_keyless(table) || !is_keyless {
            return Ok(None);
        }
        if has_tombstones(session, table).await? {
            session.run("build the key", &add_key).await?;
            return Ok(None);
        }
        let first = first_sequence(session, &self.plan, table, &self.fence).await?;
        let failed = |e| session.error("add the rows", e).context("table", &table.target.name);
        let mut written = 0;
        keys::prepare(session, &table.target).await?;
        let steps =
            merge::first_steps(&PostgresDialect, &self.plan.sync, table, &loaded.into, instant);
        for step in steps {
            let parameters: &[&(dyn ToSql + Sync)] =
                if step.parameters { &[&first, &self.plan.started_at.0] } else { &[] };
            let affected = session.execute(step.sql.as_str(), parameters).await.map_err(failed)?;
            written += if step.counts == Counts::Written { affected } else { 0 };
            if let Some(point) = step.passes {
                crash::at(point);
            }
        }
        match names::make(session, &add_key).await {
            Ok(()) => {
                session.run("build the key", keys::FORGET).await?;
                Ok(Some(Committed { written, ..Committed::default() }))
            }
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                let again = format!("{}; {add_key}", keys::UNDO);
                session.run("build the key", &again).await?;
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether the table is made in this run, in the mode and for the keys that [`PostgresWriter::add_first`]
/// is for: an index would not tell two NULLs apart.
fn is_made_keyless(table: &TablePlan) -> bool {
    let key = &table.target.primary_key;
    table.write_mode == WriteMode::AppendDedup
        && table.changes == [SchemaChange::CreateTable]
        && !derived::remembers_keys(table)
        && key.iter().all(|key| table.target.field(key).is_some_and(|field| !field.is_nullable()))
}

/// Whether deletions from before are remembered: the final table was dropped, and nothing else.
async fn has_tombstones(session: &Session, table: &TablePlan) -> Result<bool> {
    let tombstones = derived::tombstones(table, &PostgresDialect);
    let statement =
        format!("SELECT EXISTS (SELECT 1 FROM {})", PostgresDialect.table(&tombstones.name));
    let rows = catalog::rows(session, &statement, &[]).await?;
    rows.first().map_or(Ok(true), |row| get(row, 0))
}
