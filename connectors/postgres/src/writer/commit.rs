//! The end of a transaction: schema changes, staged rows brought to where they belong, cursors,
//! COMMIT.

use std::collections::BTreeSet;

use highwater_core::crash::{self, CrashPoint};
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Committed, CommittedTables, CursorKey, Error, ErrorKind, Fence, Plan, ReadMode,
    Result, TableName, TablePlan, TableRecord, WriteMode,
};
use highwater_sql::merge::{self, Counts};
use highwater_sql::state::table_columns;
use highwater_sql::{Dialect, ddl, derived};
use tokio_postgres::types::{ToSql, Type};

use super::open::{Loaded, Open, Way};
use super::{PostgresWriter, SQL, instant, is_keyed, with_table};
use crate::catalog::{Relation, get};
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::fit;
use crate::keys;
use crate::outcome;
use crate::session::{Session, quote};
use crate::store::{self, epoch};
use crate::upkeep;

impl PostgresWriter {
    pub(super) async fn try_commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let mut open = self.open().await?;
        for name in open.waiting() {
            self.send_waiting(&mut open, &name).await?;
        }
        open.finish_load().await?;
        crash::at(CrashPoint::StageRows);
        let tables = self.tables()?;
        let gets_key =
            |table: &TablePlan| self.keyless.contains(table.name()) && is_last(checkpoint, table);
        let altered = |table: &&TablePlan| self.has_changes(&open, table) || gets_key(table);
        for table in tables.iter().filter(altered) {
            changes::lock(&open.session, &table.target.name).await?;
        }
        self.check_fence(&open.session).await?;
        crash::at(CrashPoint::CommitFence);
        for table in &tables {
            self.change(&mut open, table).await?;
        }
        crash::at(CrashPoint::CommitSchema);
        let mut committed = std::mem::take(&mut open.settled);
        let mut keyless = self.keyless.clone();
        for table in &tables {
            let settled = self.settle_all(&open, table, checkpoint, &mut keyless).await?;
            if let Some(settled) = settled {
                *committed.entry(table.name().clone()).or_default() += settled;
            }
        }
        for table in &tables {
            if let Some(beside) = open.beside.get(table.name()) {
                let (session, recreated) = (&open.session, &self.recreated);
                changes::take_place(session, &self.plan, table, beside, recreated).await?;
            }
        }
        crash::at(CrashPoint::CommitRows);
        self.save_state(&open, &tables, checkpoint).await?;
        crash::at(CrashPoint::CommitState);
        self.finish_commit(open).await?;
        self.keyless = keyless;
        crash::at(CrashPoint::CommitDone);
        Ok(committed)
    }

    /// Whether the planned changes of a table are still to be made.
    pub(super) fn has_changes(&self, open: &Open, table: &TablePlan) -> bool {
        !table.changes.is_empty()
            && !self.changed.contains(table.name())
            && !open.changed.contains(table.name())
    }

    /// Makes the planned changes of a table, unless that is done or the rows made the table.
    pub(super) async fn change(&self, open: &mut Open, table: &TablePlan) -> Result<()> {
        if open.loads.get(table.name()).is_some_and(|loaded| loaded.way == Way::New) {
            return Ok(());
        }
        let (session, plan) = (&open.session, &self.plan);
        if self.has_changes(open, table) {
            if let Some(beside) =
                changes::make_beside(session, plan, table, &self.recreated).await?
            {
                open.beside.insert(table.name().clone(), beside);
                return Ok(());
            }
            if self.make_keyless(open, table).await? {
                return Ok(());
            }
            changes::apply(session, plan, table, &self.recreated).await?;
        }
        if !self.changed.contains(table.name()) {
            changes::make_history(session, table).await?;
        }
        Ok(())
    }

    /// Makes the planned changes of a table before the commit, because its rows need them.
    pub(super) async fn change_early(&self, open: &mut Open, table: &TablePlan) -> Result<()> {
        if self.has_changes(open, table) {
            changes::lock(&open.session, &table.target.name).await?;
            self.change(open, table).await?;
            open.changed.insert(table.name().clone());
        }
        Ok(())
    }

    /// Brings the rows of a table to where they belong, and gives it its key when nothing more is
    /// to come: to keep an index up to date for every row costs much more than to build it. Rows
    /// that have to be merged need it before. `keyless` is what becomes of [`Self::keyless`].
    async fn settle_all(
        &self,
        open: &Open,
        table: &TablePlan,
        checkpoint: &Checkpoint,
        keyless: &mut BTreeSet<TableName>,
    ) -> Result<Option<Committed>> {
        let (name, session) = (table.name(), &open.session);
        let is_last = is_last(checkpoint, table);
        let loaded = open.loads.get(name);
        let merges = loaded.is_some_and(|loaded| loaded.way == Way::Staged);
        let mut folded = 0;
        if (is_last || merges) && keyless.remove(name) {
            folded = self.add_key(session, table).await?;
        }
        let Some(loaded) = loaded else {
            return Ok(
                (folded > 0).then_some(Committed { unchanged: folded, ..Committed::default() })
            );
        };
        if loaded.way == Way::New && is_keyed(table) && !is_last {
            keys::mark(session, &table.target.name).await?;
            keyless.insert(name.clone());
            return Ok(Some(Committed { written: loaded.rows, ..Committed::default() }));
        }
        let mut settled = self.settle_loaded(session, open.now(table), loaded).await?;
        settled.written = settled.written.saturating_sub(folded);
        settled.unchanged += folded;
        Ok(Some(settled))
    }

    /// Gives a loaded table its key; returns how many rows went that were older ones of a key.
    async fn add_key(&self, session: &Session, table: &TablePlan) -> Result<u64> {
        let there = changes::find(session, &table.target.name).await?;
        keys::forget(session, &table.target.name).await?;
        if there.is_none_or(|there| !there.primary_key.is_empty()) {
            return Ok(0);
        }
        let folded = keys::add(session, &table.target).await?;
        if derived::remembers_keys(table) {
            upkeep::remember_all(session, &self.plan, table).await?;
        }
        Ok(folded)
    }

    /// Brings the loaded rows to where they belong.
    pub(super) async fn settle_loaded(
        &self,
        session: &Session,
        table: &TablePlan,
        loaded: &Loaded,
    ) -> Result<Committed> {
        let there = self.check_staged(session, table, loaded).await?;
        let added = self.add_first(session, table, there.as_ref(), loaded).await;
        let settled = match added {
            Ok(None) => self.settle(session, table, loaded).await,
            added => added.map(Option::unwrap_or_default),
        };
        settled.map_err(|error| refused(error, table, there.as_ref()))
    }

    /// Cursors, what is remembered of the tables, and the number of this commit.
    async fn save_state(
        &self,
        open: &Open,
        tables: &[TablePlan],
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        if !self.plan.state_with_data {
            return Ok(());
        }
        let session = &open.session;
        for written in tables {
            let table = self.plan.tables.get(written.name()).unwrap_or(written);
            let identity = changes::identity(session, &table.target.name).await?;
            let rows = open.loads.get(table.name()).map_or(0, |loaded| loaded.rows)
                + open.settled_rows.get(table.name()).copied().unwrap_or(0);
            let record = TableRecord {
                rows_total: self.counted(session, written, rows).await?,
                ..TableRecord::begun(table, identity)
            };
            store::save_record(session, &self.fence, table.name(), &record).await?;
        }
        store::save_cursors(session, &self.fence, checkpoint).await?;
        let (epoch, sequence) = (epoch(&self.fence), self.sequence + 1);
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&self.fence.sync, Type::TEXT),
            (&self.name, Type::TEXT),
            (&epoch, Type::INT8),
            (&sequence, Type::INT8),
        ];
        let saved = session.execute_typed(&SQL.save_sequence(), &parameters).await;
        saved.map(drop).map_err(|e| session.error("save the number of the commit", e))
    }

    /// How many of the rows of this commit the state counts. Where it has forgotten what is in a
    /// history, or has never known, those count too: the numbers of the arrival order go on.
    async fn counted(&self, session: &Session, table: &TablePlan, rows: u64) -> Result<u64> {
        let is_first = table.write_mode == WriteMode::AppendDedup
            && self.sequence == 0
            && rows_total(session, &self.plan, table, &self.fence).await?.is_none();
        if !is_first {
            return Ok(rows);
        }
        let next = after_history(session, table).await?;
        Ok(rows.max(u64::try_from(next).unwrap_or(0)))
    }

    /// Commits, and finds out what happened if the reply is lost.
    async fn finish_commit(&mut self, open: Open) -> Result<()> {
        match open.session.batch_execute("COMMIT").await {
            Ok(()) => self.idle = Some((open.session, open.backend)),
            Err(error) if outcome::is_lost(&error) => {
                let error = open.session.error("commit", error);
                let backend = open.backend;
                drop(open);
                self.find_out(backend, error).await?;
            }
            Err(error) => return Err(open.session.error("commit", error)),
        }
        self.sequence += 1;
        self.changed.extend(self.tables.iter().cloned());
        Ok(())
    }

    async fn find_out(&self, backend: i32, lost: Error) -> Result<()> {
        if !self.plan.state_with_data {
            return Err(lost.context("commit", "whether it happened is not known"));
        }
        let session = self.connector.writer_session(&self.fence).await.map_err(|error| {
            error.context("commit", "whether the last one happened is not known; the cursor tells")
        })?;
        let wanted = self.sequence + 1;
        outcome::find_out(&session, backend, &self.fence, &self.name, wanted, lost).await
    }

    /// The table that staged rows are about to go into, once they are found to fit.
    async fn check_staged(
        &self,
        session: &Session,
        table: &TablePlan,
        loaded: &Loaded,
    ) -> Result<Option<Relation>> {
        if loaded.way != Way::Staged {
            return Ok(None);
        }
        let there = changes::find(session, &table.target.name).await?;
        if let Some(there) = &there {
            fit::check_lengths(session, table, there, &loaded.into).await?;
        }
        Ok(there)
    }

    async fn settle(
        &self,
        session: &Session,
        table: &TablePlan,
        loaded: &Loaded,
    ) -> Result<Committed> {
        let rows = loaded.rows;
        match loaded.way {
            Way::Direct => Ok(Committed { written: rows, ..Committed::default() }),
            Way::New => {
                let folded = keys::add(session, &table.target).await?;
                if derived::remembers_keys(table) {
                    upkeep::remember_all(session, &self.plan, table).await?;
                }
                let written = rows.saturating_sub(folded);
                Ok(Committed { written, unchanged: folded, deleted: 0 })
            }
            Way::Staged if is_keyed(table) => self.merge(session, table, loaded).await,
            Way::Staged => add_staged(session, table, loaded).await,
        }
    }

    async fn merge(
        &self,
        session: &Session,
        table: &TablePlan,
        loaded: &Loaded,
    ) -> Result<Committed> {
        const ANALYZED_ROWS: u64 = 1000;
        changes::lock_merged(session, table).await?;
        if loaded.rows >= ANALYZED_ROWS {
            // Only what the statements join and filter by: of all columns it costs as much as the
            // merge.
            let keys = table.target.primary_key.iter().map(String::as_str);
            let columns: Vec<String> = keys.chain([derived::OPERATION]).map(quote).collect();
            let count = format!("ANALYZE {} ({})", loaded.into, columns.join(", "));
            session.run("count staged rows", &count).await?;
        }
        let first = first_sequence(session, &self.plan, table, &self.fence).await?;
        let (mut written, mut deleted) = (0, 0);
        let table = &keys::as_they_are(session, table, &loaded.into, "true").await?;
        for step in merge::steps(&PostgresDialect, &self.plan.sync, table, &loaded.into, instant) {
            // Without a deletion there is no need to look through the whole table for its row.
            if step.counts == Counts::Deleted && !loaded.deletes {
                continue;
            }
            let parameters: &[&(dyn ToSql + Sync)] =
                if step.parameters { &[&first, &self.plan.started_at.0] } else { &[] };
            let affected = session.execute(step.sql.as_str(), parameters).await.map_err(|e| {
                session.error("merge the rows", e).context("table", &table.target.name)
            })?;
            match step.counts {
                Counts::Written => written += affected,
                Counts::Deleted => deleted += affected,
                Counts::Nothing => {}
            }
            if let Some(point) = step.passes.filter(|point| *point != CrashPoint::CommitRows) {
                crash::at(point);
            }
        }
        let unchanged = loaded.rows.saturating_sub(written + deleted);
        Ok(Committed { written, unchanged, deleted })
    }
}

/// Whether a checkpoint covers all that is read of a table: one that says where an unfinished
/// first read goes on does not. In a full refresh nothing tells the last one from the others.
fn is_last(checkpoint: &Checkpoint, table: &TablePlan) -> bool {
    let unfinished = CursorKey::Partition(table.name().clone(), FULL_REFRESH.to_owned());
    table.read_mode == ReadMode::FullRefresh || !checkpoint.cursors.contains_key(&unfinished)
}

/// The arrival order of the next row in the history.
///
/// # Errors
/// As the server's.
pub(crate) async fn first_sequence(
    session: &Session,
    run: &Plan,
    table: &TablePlan,
    fence: &Fence,
) -> Result<i64> {
    if table.write_mode != WriteMode::AppendDedup {
        return Ok(0);
    }
    match rows_total(session, run, table, fence).await? {
        Some(total) => Ok(total),
        None => after_history(session, table).await,
    }
}

/// How many rows of a table this sync has committed, as far as the state is here and knows.
async fn rows_total(
    session: &Session,
    run: &Plan,
    table: &TablePlan,
    fence: &Fence,
) -> Result<Option<i64>> {
    if !run.state_with_data {
        return Ok(None);
    }
    let (namespace, name) = table_columns(table.name());
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&fence.sync, Type::TEXT), (&namespace, Type::TEXT), (&name, Type::TEXT)];
    let rows = session.query_typed(&SQL.rows_total(), &parameters).await;
    let rows = rows.map_err(|e| session.error("read the arrival order", e))?;
    rows.first().map(|row| get(row, 0)).transpose()
}

/// The arrival order that the history says comes next.
async fn after_history(session: &Session, table: &TablePlan) -> Result<i64> {
    let history = derived::history(table, &PostgresDialect);
    let statement = format!(
        "SELECT coalesce(max({}) + 1, 0)::int8 FROM {}",
        quote(derived::SEQUENCE),
        PostgresDialect.table(&history.name)
    );
    let row = session.query_one(&statement, &[]).await;
    get(&row.map_err(|e| session.error("read the arrival order", e))?, 0)
}

/// Adds to an error about values the table, and its columns that are not as planned.
fn refused(error: Error, plan: &TablePlan, there: Option<&Relation>) -> Error {
    let is_data = error.kind() == ErrorKind::Data;
    let error = with_table(error, &plan.target.name);
    match there.filter(|_| is_data).and_then(|there| fit::different(plan, there)) {
        Some(columns) => error.context("columns that differ", columns),
        None => error,
    }
}

/// Adds staged rows in the order of their arrival.
async fn add_staged(session: &Session, table: &TablePlan, loaded: &Loaded) -> Result<Committed> {
    let names: Vec<_> = table.target.column_names().collect();
    let values: Vec<String> = table
        .target
        .schema
        .fields()
        .iter()
        .map(|field| PostgresDialect.staged_as_stored(&quote(field.name()), field))
        .collect();
    let statement = format!(
        "INSERT INTO {} ({}) SELECT {} FROM {} ORDER BY {}",
        PostgresDialect.table(&table.target.name),
        ddl::quoted(&PostgresDialect, &names),
        values.join(", "),
        loaded.into,
        quote(derived::ORDINAL)
    );
    let added = session.execute_typed(&statement, &[]).await;
    let written = added.map_err(|e| session.error("add the rows", e))?;
    Ok(Committed { written, unchanged: 0, deleted: 0 })
}
