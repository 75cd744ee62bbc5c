//! Takes the rows of one partition and commits them with the cursor.
//!
//! Between two commits everything happens in one transaction of one session. Rows that can only
//! be added are sent by COPY straight into their table; a new table gets its key after the load.
//! Rows that have to be merged, or need a cast, are sent into a temporary table first. The fence
//! is looked at when all rows are there, because its lock holds back the renewal of the lease.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Committed, CommittedTables, Error, ErrorKind, Fence, Instant, Op, Partition,
    Plan, Result, SchemaChange, TableName, TablePlan, TableRecord, WriteMode, Writer,
};
use highwater_sql::merge::{self, Counts};
use highwater_sql::state::{StateSql, fenced, table_columns};
use highwater_sql::{Dialect, ddl, derived};
use tokio_postgres::types::ToSql;

use crate::catalog::{Relation, get};
use crate::changes;
use crate::dialect::{PostgresDialect, is_cast};
use crate::encode::Staged;
use crate::fit;
use crate::keys;
use crate::load::Load;
use crate::outcome;
use crate::replace;
use crate::session::{Session, quote};
use crate::store::{self, epoch};
use crate::target::Connector;

const SQL: StateSql<'static> = StateSql(&PostgresDialect);

/// Writes one partition.
pub(crate) struct PostgresWriter {
    connector: Connector,
    plan: Plan,
    fence: Fence,
    /// The tables of the partition.
    tables: Vec<TableName>,
    /// What its commits are counted under.
    name: String,
    /// How many commits it has made.
    sequence: i64,
    open: Option<Open>,
    /// Between two transactions: the session and the number of its process. An open transaction
    /// would hold back the cleaning of the whole database.
    idle: Option<(Session, i32)>,
    /// Tables whose planned changes are committed.
    changed: BTreeSet<TableName>,
}

/// An open transaction and what was sent in it.
struct Open {
    session: Session,
    backend: i32,
    loads: BTreeMap<TableName, Loaded>,
    /// The COPY that is open, and the table whose rows it takes. One at a time on a session.
    load: Option<(TableName, Load)>,
}

/// The rows of one table since the last commit.
struct Loaded {
    /// Where they were sent, quoted.
    into: String,
    way: Way,
    rows: u64,
    deleted: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Straight into the table, which has been there.
    Direct,
    /// Straight into the table, which this transaction has made and which has no key yet.
    New,
    /// Into a temporary table.
    Staged,
}

impl PostgresWriter {
    pub(crate) fn new(
        connector: Connector,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Self {
        let names: Vec<String> = partition.tables.iter().map(ToString::to_string).collect();
        Self {
            connector,
            plan: plan.clone(),
            fence: fence.clone(),
            tables: partition.tables.clone(),
            name: format!("{}#{}", names.join(","), partition.id),
            sequence: 0,
            open: None,
            idle: None,
            changed: BTreeSet::new(),
        }
    }

    fn table(&self, name: &TableName) -> Result<&TablePlan> {
        self.plan.tables.get(name).ok_or_else(|| {
            Error::internal("Rows of a table that is not planned").context("table", name)
        })
    }

    /// The planned tables of the partition.
    fn planned(&self) -> Result<Vec<TablePlan>> {
        self.tables.iter().map(|name| self.table(name).cloned()).collect()
    }

    /// The open transaction; begins one if there is none.
    async fn open(&mut self) -> Result<Open> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let (session, backend) = match self.idle.take() {
            Some(idle) => idle,
            None => self.connect().await?,
        };
        session.run("begin", "BEGIN").await?;
        Ok(Open { session, backend, loads: BTreeMap::new(), load: None })
    }

    /// A session, with everything that has to be there before the first transaction.
    async fn connect(&self) -> Result<(Session, i32)> {
        let session = self.connector.writer_session(&self.fence).await?;
        for table in self.planned()? {
            changes::add_labels(&session, &table).await?;
            if table.write_mode != WriteMode::Replace {
                changes::check_existing(&session, &table).await?;
            } else {
                session.run("begin", "BEGIN").await?;
                self.check_fence(&session).await?;
                replace::prepare(&session, &self.plan, &table).await?;
                session.run("commit", "COMMIT").await?;
                crash::at(CrashPoint::StageCreated);
            }
        }
        let backend = outcome::backend(&session).await?;
        Ok((session, backend))
    }

    /// # Errors
    /// `Fenced` when a newer run has the lease.
    async fn check_fence(&self, session: &Session) -> Result<()> {
        if !self.plan.state_with_data {
            return Ok(());
        }
        check_fence(session, &self.fence).await
    }

    async fn try_write(&mut self, batch: &Batch) -> Result<()> {
        let mut open = self.open().await?;
        self.take(&mut open, batch).await?;
        self.open = Some(open);
        Ok(())
    }

    /// A newer run ends the sessions of an older one: then that is what the error means.
    async fn explain(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Transient || !self.plan.state_with_data {
            return error;
        }
        let Ok(session) = self.connector.session().await else { return error };
        match check_fence(&session, &self.fence).await {
            Err(fenced) if fenced.kind() == ErrorKind::Fenced => fenced,
            _ => error,
        }
    }

    async fn take(&mut self, open: &mut Open, batch: &Batch) -> Result<()> {
        let name = &batch.table.name;
        let table = self.table(name)?.clone();
        if batch.op == Op::Delete && !is_keyed(&table) {
            return Err(Error::unsupported("Without a key rows can only be added, not removed")
                .context("write_mode", table.write_mode)
                .hint("write_mode: overwrite, with a primary key"));
        }
        if !open.loads.contains_key(name) {
            open.finish_load().await?;
            let loaded = self.prepare(&open.session, &table, open.loads.len()).await?;
            open.loads.insert(name.clone(), loaded);
            crash::at(CrashPoint::StageCreated);
        }
        open.write(&table, batch).await?;
        crash::at(CrashPoint::StageBatch);
        Ok(())
    }

    /// Decides where the rows of a table go, and makes the table that they go to.
    async fn prepare(&self, session: &Session, table: &TablePlan, number: usize) -> Result<Loaded> {
        if let Some((into, way)) = self.direct(session, table).await? {
            return Ok(Loaded { into, way, rows: 0, deleted: 0 });
        }
        let into = format!("\"pg_temp\".\"_highwater_stage_{number}\"");
        let columns = ddl::staging_columns(&PostgresDialect, table)?;
        // Types that are missing here are missing in the staging table too.
        let missing = table
            .changes
            .iter()
            .any(|change| matches!(change, SchemaChange::CreateTable | SchemaChange::AddColumn(_)));
        if missing && !self.changed.contains(table.name()) {
            changes::lock(session, &table.target.name).await?;
            changes::create_types(session, table, &mut Vec::new()).await?;
        }
        let statement = format!("CREATE TEMP TABLE {into} ({columns}) ON COMMIT DROP");
        session.run("make a staging table", &statement.replace("\"pg_temp\".", "")).await?;
        Ok(Loaded { into, way: Way::Staged, rows: 0, deleted: 0 })
    }

    /// The table itself, where rows may be sent straight into it.
    async fn direct(&self, session: &Session, table: &TablePlan) -> Result<Option<(String, Way)>> {
        if table.target.schema.fields().iter().any(|field| is_cast(field)) {
            return Ok(None);
        }
        if table.write_mode == WriteMode::Replace {
            let name = replace::new_table(session, table).await?;
            return Ok(Some((PostgresDialect.table(&name), Way::Direct)));
        }
        if table.write_mode == WriteMode::AppendDedup {
            return Ok(None);
        }
        let into = PostgresDialect.table(&table.target.name);
        let there = changes::find(session, &table.target.name).await?;
        let pending = !table.changes.is_empty() && !self.changed.contains(table.name());
        if let Some(there) = there {
            let fits = !pending && !is_keyed(table);
            return Ok((fits && changes::takes_rows_as_planned(table, &there)?)
                .then_some((into, Way::Direct)));
        }
        let creates = pending && table.changes.contains(&SchemaChange::CreateTable);
        // Another writer of this run may be loading the table that it makes.
        if !creates || !changes::try_lock(session, &table.target.name).await? {
            return Ok(None);
        }
        changes::create_without_key(session, table, &table.target.name).await?;
        Ok(Some((into, Way::New)))
    }

    async fn try_commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let mut open = self.open().await?;
        open.finish_load().await?;
        crash::at(CrashPoint::StageRows);
        let tables = self.planned()?;
        for table in &tables {
            if !table.changes.is_empty() && !self.changed.contains(table.name()) {
                changes::lock(&open.session, &table.target.name).await?;
            }
        }
        self.check_fence(&open.session).await?;
        crash::at(CrashPoint::CommitFence);
        let mut committed = CommittedTables::new();
        for table in &tables {
            let new = open.loads.get(table.name()).is_some_and(|loaded| loaded.way == Way::New);
            let changes_it = table.write_mode != WriteMode::Replace && !new;
            if changes_it && !self.changed.contains(table.name()) {
                changes::apply(&open.session, table).await?;
            }
        }
        crash::at(CrashPoint::CommitSchema);
        for table in &tables {
            if let Some(loaded) = open.loads.get(table.name()) {
                let there = self.check_staged(&open.session, table, loaded).await?;
                let settled = self.settle(&open.session, table, loaded).await;
                let settled = settled.map_err(|error| refused(error, table, there.as_ref()))?;
                committed.insert(table.name().clone(), settled);
            }
        }
        crash::at(CrashPoint::CommitRows);
        self.save_state(&open, &tables, checkpoint).await?;
        crash::at(CrashPoint::CommitState);
        self.finish_commit(open).await?;
        crash::at(CrashPoint::CommitDone);
        Ok(committed)
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
        for table in tables {
            let there = changes::find(session, &table.target.name).await?;
            let record = TableRecord {
                identity: there.map(|there| there.oid.to_string()),
                columns: table.target.column_names().map(str::to_owned).collect(),
                rows_total: open.loads.get(table.name()).map_or(0, |loaded| loaded.rows),
                finished_epoch: None,
                finished_at: None,
            };
            store::save_record(session, &self.fence, table.name(), &record).await?;
        }
        store::save_cursors(session, &self.fence, checkpoint).await?;
        let (epoch, sequence) = (epoch(&self.fence), self.sequence + 1);
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&self.fence.sync, &self.name, &epoch, &sequence];
        let saved = session.execute(&SQL.save_sequence(), &parameters).await;
        saved.map(drop).map_err(|e| session.error("save the number of the commit", e))
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
        if loaded.way != Way::Staged || table.write_mode == WriteMode::Replace {
            return Ok(None);
        }
        let there = changes::find(session, &table.target.name).await?;
        if let Some(there) = &there {
            fit::check_lengths(session, table, there, &loaded.into).await?;
        }
        Ok(there)
    }

    /// Brings the loaded rows to where they belong.
    async fn settle(
        &self,
        session: &Session,
        table: &TablePlan,
        loaded: &Loaded,
    ) -> Result<Committed> {
        let (rows, deleted) = (loaded.rows, loaded.deleted);
        match loaded.way {
            Way::Direct => Ok(Committed { written: rows, unchanged: 0, deleted }),
            Way::New => {
                let folded = keys::add(session, &table.target).await?;
                Ok(Committed { written: rows.saturating_sub(folded), unchanged: folded, deleted })
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
        let names = changes::merged_tables(table);
        let names: Vec<String> = names.iter().map(|name| PostgresDialect.table(name)).collect();
        let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", names.join(", "));
        session.run("lock the table", &lock).await?;
        if loaded.rows >= ANALYZED_ROWS {
            session.run("count staged rows", &format!("ANALYZE {}", loaded.into)).await?;
        }
        let first = self.first_sequence(session, table).await?;
        let (mut written, mut deleted) = (0, 0);
        for step in merge::steps(&PostgresDialect, table, &loaded.into, instant) {
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

    /// The arrival order of the first row of this commit in the history.
    async fn first_sequence(&self, session: &Session, table: &TablePlan) -> Result<i64> {
        if table.write_mode != WriteMode::AppendDedup {
            return Ok(0);
        }
        let failed = |e| session.error("read the arrival order", e);
        if self.plan.state_with_data {
            let (namespace, name) = table_columns(table.name());
            let parameters: [&(dyn ToSql + Sync); 3] = [&self.fence.sync, &namespace, &name];
            let rows = session.query(&SQL.rows_total(), &parameters).await.map_err(failed)?;
            if let Some(row) = rows.first() {
                return get(row, 0);
            }
        }
        let history = derived::history(table, &PostgresDialect);
        let statement = format!(
            "SELECT coalesce(max({}) + 1, 0)::int8 FROM {}",
            quote(derived::SEQUENCE),
            PostgresDialect.table(&history.name)
        );
        let row = session.query_one(&statement, &[]).await.map_err(failed)?;
        get(&row, 0)
    }
}

impl Open {
    async fn write(&mut self, table: &TablePlan, batch: &Batch) -> Result<()> {
        let name = table.name();
        let Some(loaded) = self.loads.get_mut(name) else {
            return Err(Error::internal("Rows of a table that was not prepared"));
        };
        let rows = batch.rows.num_rows() as u64;
        if batch.op == Op::Delete && loaded.way != Way::Staged {
            return self.delete(table, batch).await;
        }
        let staged = (loaded.way == Way::Staged).then(|| Staged {
            first_ordinal: i64::try_from(loaded.rows).unwrap_or(i64::MAX),
            operation: if batch.op == Op::Delete { "d" } else { "u" },
        });
        loaded.rows += rows;
        let into = loaded.into.clone();
        if self.load.as_ref().is_none_or(|(loading, _)| loading != name) {
            self.finish_load().await?;
            let staging = [derived::ORDINAL, derived::OPERATION];
            let extra = if staged.is_some() { &staging[..] } else { &[] };
            let columns = table.target.column_names().chain(extra.iter().copied());
            let load = Load::begin(&self.session, &into, columns).await?;
            self.load = Some((name.clone(), load));
        }
        match &mut self.load {
            Some((_, load)) => load.write(&self.session, &batch.rows, staged).await,
            None => Err(Error::internal("A COPY that was begun is not there")),
        }
    }

    /// Ends the COPY that is open.
    async fn finish_load(&mut self) -> Result<()> {
        let Some((name, load)) = self.load.take() else { return Ok(()) };
        load.finish(&self.session).await.map_err(|error| error.context("table", name))
    }

    /// Removes rows from a table that this transaction has made: everything that was sent before
    /// is there already.
    async fn delete(&mut self, table: &TablePlan, batch: &Batch) -> Result<()> {
        self.finish_load().await?;
        let staging = "\"_highwater_deleted\"";
        let columns = ddl::staging_columns(&PostgresDialect, table)?;
        let create = format!("CREATE TEMP TABLE {staging} ({columns})");
        self.session.run("make a staging table", &create).await?;
        let extra = [derived::ORDINAL, derived::OPERATION];
        let names = table.target.column_names().chain(extra);
        let mut load = Load::begin(&self.session, staging, names).await?;
        let staged = Staged { first_ordinal: 0, operation: "d" };
        load.write(&self.session, &batch.rows, Some(staged)).await?;
        load.finish(&self.session).await?;
        let same: Vec<String> = table
            .target
            .primary_key
            .iter()
            .map(|key| {
                PostgresDialect.same(&format!("t.{}", quote(key)), &format!("s.{}", quote(key)))
            })
            .collect();
        let statement = format!(
            "DELETE FROM {} AS t USING {staging} AS s WHERE {}",
            PostgresDialect.table(&table.target.name),
            same.join(" AND ")
        );
        let removed = self.session.execute_typed(&statement, &[]).await;
        let removed = removed.map_err(|e| self.session.error("remove rows", e))?;
        if let Some(loaded) = self.loads.get_mut(table.name()) {
            // They were counted when they came, and are not there any more.
            loaded.rows = loaded.rows.saturating_sub(removed);
        }
        self.session.run("drop a staging table", &format!("DROP TABLE {staging}")).await
    }
}

#[async_trait]
impl Writer for PostgresWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        // An error loses the session, and with it everything that is not committed.
        match self.try_write(&batch).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(with_table(error, &batch.table.name)).await),
        }
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        match self.try_commit(checkpoint).await {
            Ok(committed) => Ok(committed),
            Err(error) => Err(self.explain(error).await),
        }
    }
}

/// Adds the table, unless the error names it.
fn with_table(error: Error, name: &TableName) -> Error {
    if error.context_value("table").is_some() { error } else { error.context("table", name) }
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

/// Checks the fence in the open transaction, and keeps it from moving until the end of it.
///
/// # Errors
/// `Fenced` when a newer run has the lease.
pub(crate) async fn check_fence(session: &Session, fence: &Fence) -> Result<()> {
    let rows = session
        .query(&SQL.check_fence(), &[&fence.sync, &epoch(fence)])
        .await
        .map_err(|e| session.error("check the fence", e))?;
    if rows.is_empty() { Err(fenced(fence)) } else { Ok(()) }
}

/// An instant from a parameter of microseconds since 1970.
pub(crate) fn instant(parameter: &str) -> String {
    format!("('epoch'::timestamptz + {parameter}::int8 * interval '1 microsecond')")
}

/// The run's time as such a parameter, some seconds earlier.
pub(crate) fn seconds_before(instant: Instant, seconds: u64) -> i64 {
    let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    instant.0.saturating_sub(micros)
}

/// Whether rows are matched by a key.
fn is_keyed(table: &TablePlan) -> bool {
    match table.write_mode {
        WriteMode::AppendDedup => true,
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale => {
            !table.target.primary_key.is_empty()
        }
        WriteMode::Append | WriteMode::Replace => false,
    }
}

/// Adds staged rows in the order of their arrival.
async fn add_staged(session: &Session, table: &TablePlan, loaded: &Loaded) -> Result<Committed> {
    let target = match table.write_mode {
        WriteMode::Replace => replace::new_table(session, table).await?,
        _ => table.target.name.clone(),
    };
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
        PostgresDialect.table(&target),
        ddl::quoted(&PostgresDialect, &names),
        values.join(", "),
        loaded.into,
        quote(derived::ORDINAL)
    );
    let added = session.execute_typed(&statement, &[]).await;
    let written = added.map_err(|e| session.error("add the rows", e))?;
    Ok(Committed { written, unchanged: 0, deleted: 0 })
}
