//! Takes the rows of one partition and commits them with the cursor.
//!
//! Between two commits everything happens in one transaction of one session. Rows that can only
//! be added are sent by COPY straight into their table; a new table gets its key after the load.
//! Rows that have to be merged, or need a cast, are sent into a temporary table first. The fence
//! is looked at when all rows are there, because its lock holds back the renewal of the lease.

mod commit;
mod first;
mod open;
mod removal;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, CommittedTables, Deletion, Error, ErrorKind, Fence, Instant, Op, Partition,
    Plan, Result, SchemaChange, TableName, TablePlan, WriteMode, Writer,
};
use highwater_sql::state::{StateSql, fenced};
use highwater_sql::sweep::Begun;
use highwater_sql::{Dialect, ddl, derived};
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::{self, get};
use crate::changes::{self, Recreated};
use crate::dialect::{PostgresDialect, is_cast};
use crate::keys;
use crate::rebuild;
use crate::session::{Session, literal};
use crate::store::epoch;
use crate::target::Connector;
use crate::upkeep;
use open::{Loaded, Open, Way};

pub(crate) use commit::first_sequence;

const SQL: StateSql<'static> = StateSql(&PostgresDialect);

/// Writes one partition.
pub(crate) struct PostgresWriter {
    connector: Connector,
    plan: Arc<Plan>,
    /// The plan by which rows are written: that of the tables beside where it is a rebuild.
    written: Arc<Plan>,
    fence: Fence,
    /// Tables that the run has made anew.
    recreated: Recreated,
    /// Tables for which the run has made tables of its own, and committed them.
    begun: Begun,
    /// The tables of the partition.
    tables: Vec<TableName>,
    /// Whether the partition is a whole table, and nothing else.
    is_alone: bool,
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
    /// Tables of which not all was read in one commit, and that get their key with the last one.
    keyless: BTreeSet<TableName>,
}

impl Drop for PostgresWriter {
    fn drop(&mut self) {
        if let Some((session, _)) = self.idle.take() {
            session.give_back();
        }
    }
}

impl PostgresWriter {
    pub(crate) fn new(
        connector: Connector,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
        recreated: Recreated,
        begun: Begun,
    ) -> Self {
        let written = written(plan);
        let keyless = partition
            .tables
            .iter()
            .filter(|name| written.tables.get(*name).is_some_and(may_lack_key));
        let names: Vec<String> = partition.tables.iter().map(ToString::to_string).collect();
        Self {
            connector,
            plan: Arc::new(plan.clone()),
            keyless: keyless.cloned().collect(),
            written: Arc::new(written),
            fence: fence.clone(),
            recreated,
            begun,
            tables: partition.tables.clone(),
            is_alone: *names == [partition.id.as_str()],
            name: format!("{}#{}", names.join(","), partition.id),
            sequence: 0,
            open: None,
            idle: None,
            changed: BTreeSet::new(),
        }
    }

    /// How rows of a table are written.
    fn table(&self, name: &TableName) -> Result<&TablePlan> {
        self.written.table(name)
    }

    /// How the tables of the partition are written.
    fn tables(&self) -> Result<Vec<TablePlan>> {
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
        Ok(Open::new(session, backend))
    }

    /// A session, with everything that has to be there before the first transaction.
    async fn connect(&self) -> Result<(Session, i32)> {
        let session = self.connector.writer_session(&self.fence).await?;
        for table in self.tables()? {
            changes::add_labels(&session, &table).await?;
            let planned = self.plan.tables.get(table.name()).unwrap_or(&table);
            let made = self.begun.has(&self.plan, table.name());
            if planned.rebuild {
                self.begin_fenced(&session).await?;
                rebuild::ensure(&session, &self.plan, planned, &self.fence, made).await?;
                session.run("commit", "COMMIT").await?;
                crash::at(CrashPoint::StageCreated);
            } else if !table.changes.contains(&SchemaChange::Recreate) {
                // A table that is dropped need not fit.
                changes::check_existing(&session, &table).await?;
            }
            if derived::remembers_keys(&table) {
                self.begin_fenced(&session).await?;
                upkeep::remember_keys(&session, &self.plan, &table, made).await?;
                session.run("commit", "COMMIT").await?;
            }
            self.begun.add(&self.plan, table.name());
        }
        let backend = session.backend().await?;
        Ok((session, backend))
    }

    async fn begin_fenced(&self, session: &Session) -> Result<()> {
        session.run("begin", "BEGIN").await?;
        self.check_fence(session).await
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
        if open.takes(name) {
            self.send(open, &table, batch).await?;
        } else if let Some(full) = open.wait(batch.clone()) {
            self.send_waiting(open, &full).await?;
        }
        crash::at(CrashPoint::StageBatch);
        Ok(())
    }

    /// Sends the rows of a table that wait for the end of another one's COPY.
    async fn send_waiting(&self, open: &mut Open, name: &TableName) -> Result<()> {
        for batch in open.take_waiting(name) {
            let table = self.table(name)?;
            let sent = self.send(open, table, &batch).await;
            sent.map_err(|error| with_table(error, name))?;
        }
        Ok(())
    }

    async fn send(&self, open: &mut Open, table: &TablePlan, batch: &Batch) -> Result<()> {
        let now = open.now(table).clone();
        if !open.loads.contains_key(table.name()) {
            open.finish_load().await?;
            let loaded = self.prepare(open, &now).await?;
            open.loads.insert(table.name().clone(), loaded);
            crash::at(CrashPoint::StageCreated);
        }
        open.write(&now, batch).await
    }

    /// Decides where the rows of a table go, and makes the table that they go to.
    async fn prepare(&self, open: &mut Open, table: &TablePlan) -> Result<Loaded> {
        if self.keyless.contains(table.name()) {
            self.change_early(open, table).await?;
        }
        if !is_keyed(table) {
            // From now on its rows are not versions of each other.
            keys::forget(&open.session, &table.target.name).await?;
        }
        if let Some((into, way)) = self.direct(open, table).await? {
            let is_new = way == Way::New || self.emptied(open, table).await?;
            return Ok(Loaded { is_new, ..Loaded::new(into, way) });
        }
        let into = format!("\"pg_temp\".\"_highwater_stage_{}\"", open.stagings);
        open.stagings += 1;
        let columns = ddl::staging_columns(&PostgresDialect, table)?;
        // Types that are missing here are missing in the staging table too.
        let missing = table.changes.iter().any(|change| {
            use SchemaChange as S;
            matches!(change, S::CreateTable | S::AddColumn(_) | S::Recreate)
        });
        let session = &open.session;
        if missing && self.has_changes(open, table) {
            changes::lock(session, &table.target.name).await?;
            changes::create_types(session, table, &mut Vec::new()).await?;
        }
        let statement = format!("CREATE TEMP TABLE {into} ({columns}) ON COMMIT DROP");
        session.run("make a staging table", &statement.replace("\"pg_temp\".", "")).await?;
        Ok(Loaded::new(into, Way::Staged))
    }

    /// Empties a table beside that has no row yet, so that this transaction may freeze its rows as
    /// if it had made the table. Others of the run would have to wait for that: only where this
    /// writer has the whole table, and no other.
    async fn emptied(&self, open: &Open, table: &TablePlan) -> Result<bool> {
        let is_beside = self.plan.tables.get(table.name()).is_some_and(|planned| planned.rebuild);
        if !self.is_alone || !is_beside {
            return Ok(false);
        }
        let name = PostgresDialect.table(&table.target.name);
        let statement = format!("SELECT pg_catalog.pg_relation_size({}) = 0", literal(&name));
        let rows = catalog::rows(&open.session, &statement, &[]).await?;
        let is_empty = rows.first().map_or(Ok(false), |row| get(row, 0))?;
        if is_empty {
            open.session.run("begin a table", &format!("TRUNCATE ONLY {name}")).await?;
        }
        Ok(is_empty)
    }

    /// The table itself, where rows may be sent straight into it.
    async fn direct(&self, open: &Open, table: &TablePlan) -> Result<Option<(String, Way)>> {
        let session = &open.session;
        if table.target.schema.fields().iter().any(|field| is_cast(field)) {
            return Ok(None);
        }
        if derived::is_ordered(table.write_mode) {
            return Ok(None);
        }
        let into = PostgresDialect.table(&table.target.name);
        let there = changes::find(session, &table.target.name).await?;
        let pending = self.has_changes(open, table);
        if let Some(there) = there {
            let is_loaded = self.keyless.contains(table.name()) && there.primary_key.is_empty();
            let fits = !pending && (!is_keyed(table) || is_loaded);
            return Ok((fits && changes::takes_rows_as_planned(&table.target, &there)?)
                .then_some((into, Way::Direct)));
        }
        let creates = pending && table.changes.contains(&SchemaChange::CreateTable);
        // Another writer of this run may be loading the table that it makes.
        if !creates || !changes::try_lock(session, &table.target.name).await? {
            return Ok(None);
        }
        // The same of one that makes the schema.
        if !changes::try_schema(session, &table.target.name).await? {
            return Ok(None);
        }
        // It may have made the table since we looked.
        if changes::find(session, &table.target.name).await?.is_some() {
            return Ok(None);
        }
        changes::create_without_key(session, table).await?;
        Ok(Some((into, Way::New)))
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

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        match self.try_delete(deletion).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(with_table(error, &deletion.table)).await),
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

/// Checks the fence in the open transaction, and keeps it from moving until the end of it.
///
/// # Errors
/// `Fenced` when a newer run has the lease.
pub(crate) async fn check_fence(session: &Session, fence: &Fence) -> Result<()> {
    let epoch = epoch(fence);
    let held: [(&(dyn ToSql + Sync), Type); 2] = [(&fence.sync, Type::TEXT), (&epoch, Type::INT8)];
    let rows = session.query_typed(&SQL.check_fence(), &held).await;
    let rows = rows.map_err(|e| session.error("check the fence", e))?;
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

/// The plan by which rows are written.
fn written(plan: &Plan) -> Plan {
    let mut written = plan.clone();
    for table in written.tables.values_mut().filter(|table| table.rebuild) {
        *table = rebuild::beside(table, &plan.sync);
    }
    for table in written.tables.values_mut().filter(|table| may_lack_key(table)) {
        table.changes.retain(|change| *change != SchemaChange::AddKey);
    }
    written
}

/// Whether an earlier run may have left the table without its key, which comes with the last
/// commit of the first read.
fn may_lack_key(table: &TablePlan) -> bool {
    let is_ordered = derived::is_ordered(table.write_mode);
    table.resumes_first_read && !table.rebuild && is_keyed(table) && !is_ordered
}

/// Whether rows are matched by a key.
fn is_keyed(table: &TablePlan) -> bool {
    match table.write_mode {
        WriteMode::AppendDedup | WriteMode::ReplaceDedup => true,
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale => {
            !table.target.primary_key.is_empty()
        }
        WriteMode::Append | WriteMode::Replace => false,
    }
}
