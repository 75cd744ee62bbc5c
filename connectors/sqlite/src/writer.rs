//! The writer: takes batches, and commits them with schema changes and cursors in one
//! transaction.
//!
//! Nobody else can write while a transaction is open, so it is opened late. Rows that go straight
//! into their table (`append`, `replace`) wait in memory up to [`PENDING_BYTES`]; what is more
//! goes into the open transaction. Rows that are merged wait in a temporary table of this
//! connection, which goes with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Committed, CommittedTables, Deletion, Error, Fence, Op, Plan, Result,
    TableName, TablePlan, TableRecord, WriteMode, Writer,
};
use highwater_sql::blocking::Lent;
use highwater_sql::deletion::Removal;
use highwater_sql::merge::{self, Counts};
use highwater_sql::state::fenced;
use highwater_sql::sweep::Begun;
use highwater_sql::{Dialect, ddl, derived};
use rusqlite::{Connection, params};

use crate::bind::{self, Failure};
use crate::catalog;
use crate::config::Location;
use crate::connection::{explain, open_read_write};
use crate::dialect::SqliteDialect;
use crate::keyed;
use crate::schema::{self, insert_statement, instant_text};
use crate::{rebuild, removal, store, upkeep};

/// Rows that wait in memory for the commit, before the transaction is opened for them.
const PENDING_BYTES: usize = 32 << 20;

/// A writer of one partition, and what it works on.
pub(crate) struct SqliteWriter {
    worker: Lent<Worker>,
}

/// Opens a connection as writers and finishes need it.
///
/// # Errors
/// As [`open_read_write`].
pub(crate) fn open(location: &Location) -> Result<Connection> {
    let connection = open_read_write(location)?;
    store::prefer_wal(&connection);
    let settings = "PRAGMA temp_store = FILE; PRAGMA cache_size = -32768; \
                    PRAGMA foreign_keys = OFF";
    connection.execute_batch(settings).map_err(|error| explain(error, &location.path))?;
    Ok(connection)
}

impl SqliteWriter {
    /// A writer that has touched nothing yet.
    pub(crate) fn new(
        location: Location,
        plan: Arc<Plan>,
        tables: &[TableName],
        id: String,
        fence: Fence,
        begun: Begun,
    ) -> Self {
        let tables = tables.iter().map(|name| (name.clone(), Load::default())).collect();
        let worker = Worker {
            connection: None,
            location,
            written: written(&plan),
            plan,
            begun,
            id,
            fence,
            tables,
            removed: CommittedTables::new(),
            pending_bytes: 0,
            in_transaction: false,
        };
        Self { worker: Lent::new(worker) }
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        self.worker.blocking(move |worker| worker.write(batch)).await
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        let deletion = deletion.clone();
        self.worker.blocking(move |worker| worker.delete(&deletion)).await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let checkpoint = checkpoint.clone();
        self.worker.blocking(move |worker| worker.commit(&checkpoint)).await
    }
}

struct Worker {
    connection: Option<Connection>,
    location: Location,
    plan: Arc<Plan>,
    /// The plan by which rows are written: that of the table beside where it is a rebuild.
    written: Arc<Plan>,
    /// The tables for which the run has made tables of its own, and committed them.
    begun: Begun,
    /// The partition: tells this writer's sequence from others'.
    id: String,
    fence: Fence,
    tables: BTreeMap<TableName, Load>,
    /// What conditions have removed in the open transaction.
    removed: CommittedTables,
    pending_bytes: usize,
    in_transaction: bool,
}

/// What waits for the commit of one table.
#[derive(Default)]
struct Load {
    /// Rows that go straight into their table and are not in the transaction yet.
    pending: Vec<RecordBatch>,
    /// The temporary table for rows that are merged, once it exists.
    staging: Option<String>,
    /// Where rows go straight to, once that is prepared in the open transaction.
    direct: Option<String>,
    upserts: u64,
    deletes: u64,
    /// What a condition found merged already: in the open transaction, not to be merged again.
    settled: Committed,
    settled_rows: u64,
}

/// The plan by which rows are written.
fn written(plan: &Plan) -> Arc<Plan> {
    let mut written = plan.clone();
    for table in written.tables.values_mut().filter(|table| table.rebuild) {
        *table = derived::beside(table, &plan.sync, &SqliteDialect);
    }
    Arc::new(written)
}

/// Whether rows are merged by their key, or just added.
fn is_merged(table: &TablePlan) -> bool {
    match table.write_mode {
        WriteMode::Append | WriteMode::Replace => false,
        WriteMode::AppendDedup => true,
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale | WriteMode::ReplaceDedup => {
            !table.target.primary_key.is_empty()
        }
    }
}

impl Worker {
    fn failed(&self, error: rusqlite::Error) -> Error {
        explain(error, &self.location.path)
    }

    fn connection(&mut self) -> Result<&Connection> {
        if self.connection.is_none() {
            self.connection = Some(open(&self.location)?);
        }
        self.connection.as_ref().ok_or_else(|| Error::internal("The connection is closed"))
    }

    /// How rows of a table are written.
    fn table(&self, name: &TableName) -> Result<TablePlan> {
        self.written.table(name).cloned()
    }

    /// A table as planned, whatever it is written to.
    fn planned(&self, name: &TableName) -> Result<TablePlan> {
        self.plan.table(name).cloned()
    }

    fn write(&mut self, batch: Batch) -> Result<()> {
        let name = batch.table.name.clone();
        let table = self.table(&name)?;
        if is_merged(&table) {
            self.stage(&table, &batch)?;
        } else {
            if batch.op == Op::Delete {
                return Err(Error::unsupported(format!(
                    "`{}` cannot take a deleted row away",
                    table.write_mode
                ))
                .context("table", &name)
                .hint("write_mode: overwrite, with a primary key"));
            }
            self.pending_bytes += batch.rows.get_array_memory_size();
            let load = self.tables.entry(name).or_default();
            load.upserts += batch.rows.num_rows() as u64;
            load.pending.push(batch.rows);
            if self.in_transaction || self.pending_bytes > PENDING_BYTES {
                self.begin()?;
                self.flush()?;
            }
        }
        crash::at(CrashPoint::StageBatch);
        Ok(())
    }

    /// Puts rows into the temporary table, which nobody else sees and no lock protects.
    fn stage(&mut self, table: &TablePlan, batch: &Batch) -> Result<()> {
        keyed::check_cursor(table, &batch.rows)?;
        let staging = self.staging(table)?;
        let in_transaction = self.in_transaction;
        let load = self.tables.entry(table.name().clone()).or_default();
        let ordinal = (load.upserts + load.deletes) as i64;
        let rows = batch.rows.num_rows() as u64;
        let operation = match batch.op {
            Op::Upsert => {
                load.upserts += rows;
                "u"
            }
            Op::Delete => {
                load.deletes += rows;
                "d"
            }
        };
        let schema = derived::staging_schema(table);
        let columns: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let sql = insert_statement(&staging, &columns);
        let connection = self.connection()?;
        let inserted = (|| {
            if !in_transaction {
                connection.execute_batch("BEGIN")?;
            }
            let mut statement = connection.prepare(&sql)?;
            let staged = Some((ordinal, operation));
            bind::insert(&mut statement, table.name(), &batch.rows, staged)?;
            if !in_transaction {
                connection.execute_batch("COMMIT")?;
            }
            Ok(())
        })();
        inserted.map_err(|failure| self.refused(failure, table))
    }

    /// The temporary table, made when the first row needs it.
    fn staging(&mut self, table: &TablePlan) -> Result<String> {
        let at = self.tables.keys().position(|name| name == table.name()).unwrap_or_default();
        let load = self.tables.entry(table.name().clone()).or_default();
        if let Some(staging) = &load.staging {
            return Ok(staging.clone());
        }
        let staging = format!("temp.\"_highwater_stage_{at}\"");
        load.staging = Some(staging.clone());
        let columns = ddl::staging_columns(&SqliteDialect, table)?;
        let connection = self.connection()?;
        let created = connection.execute_batch(&format!("CREATE TABLE {staging} ({columns})"));
        created.map_err(|error| self.failed(error))?;
        crash::at(CrashPoint::StageCreated);
        Ok(staging)
    }

    fn refused(&self, failure: Failure, table: &TablePlan) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Sqlite(error) => self.failed(error).context("table", table.name()),
        }
    }

    /// Opens the transaction, excludes all other writers and checks that this run may commit.
    fn begin(&mut self) -> Result<()> {
        if self.in_transaction {
            return Ok(());
        }
        let (with_state, fence) = (self.plan.state_with_data, self.fence.clone());
        let connection = self.connection()?;
        let begun = connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| if with_state { store::holds(connection, &fence) } else { Ok(true) });
        if !begun.map_err(|error| self.failed(error))? {
            return Err(fenced(&self.fence));
        }
        self.in_transaction = true;
        crash::at(CrashPoint::CommitFence);
        Ok(())
    }

    /// Makes the tables of this partition as the rows need them, in the open transaction.
    fn prepare(&mut self) -> Result<()> {
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            if self.tables.get(&name).is_some_and(|load| load.direct.is_some()) {
                continue;
            }
            let (table, plan, location) =
                (self.table(&name)?, Arc::clone(&self.plan), self.location.clone());
            let (planned, made) = (self.planned(&name)?, self.begun.has(&plan, &name));
            let fence = self.fence.clone();
            let connection = self.connection()?;
            match planned.rebuild {
                true => {
                    rebuild::ensure(connection, &location, &plan, &planned, &fence, made)?;
                    crash::at(CrashPoint::StageCreated);
                }
                false => drop(schema::prepare(connection, &location, &plan, &table)?),
            }
            if derived::remembers_keys(&table) {
                upkeep::remember_keys(connection, &location, &plan, &table, made)?;
            }
            let direct = SqliteDialect.table(&table.target.name);
            self.tables.entry(name).or_default().direct = Some(direct);
        }
        crash::at(CrashPoint::CommitSchema);
        Ok(())
    }

    /// Puts the rows that wait in memory into their tables, in the open transaction.
    fn flush(&mut self) -> Result<()> {
        self.prepare()?;
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            let table = self.table(&name)?;
            let Some(load) = self.tables.get_mut(&name) else { continue };
            let pending = std::mem::take(&mut load.pending);
            let Some(direct) = load.direct.clone().filter(|_| !pending.is_empty()) else {
                continue;
            };
            let columns: Vec<_> = table.target.column_names().collect();
            let sql = insert_statement(&direct, &columns);
            let connection = self.connection()?;
            let inserted = (|| {
                let mut statement = connection.prepare(&sql)?;
                for rows in &pending {
                    bind::insert(&mut statement, &name, rows, None)?;
                }
                Ok(())
            })();
            inserted.map_err(|failure| self.refused(failure, &table))?;
        }
        self.pending_bytes = 0;
        Ok(())
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        crash::at(CrashPoint::StageRows);
        self.begin()?;
        self.flush()?;
        let mut committed = CommittedTables::new();
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in &names {
            let mut done = self.tables.get(name).map(|load| load.settled).unwrap_or_default();
            done += self.apply(name)?;
            committed.insert(name.clone(), done);
        }
        for (name, removed) in std::mem::take(&mut self.removed) {
            *committed.entry(name).or_default() += removed;
        }
        if self.plan.state_with_data {
            self.save_state(&names, checkpoint)?;
            crash::at(CrashPoint::CommitState);
        }
        let done = self.connection()?.execute_batch("COMMIT");
        done.map_err(|error| self.failed(error))?;
        self.in_transaction = false;
        for name in &names {
            self.begun.add(&self.plan, name);
        }
        crash::at(CrashPoint::CommitDone);
        self.clear()?;
        Ok(committed)
    }

    /// Merges what is staged; rows that went straight into their table are only counted.
    fn apply(&mut self, name: &TableName) -> Result<Committed> {
        let table = self.table(name)?;
        let load = self.tables.entry(name.clone()).or_default();
        let (upserts, deletes) = (load.upserts, load.deletes);
        let Some(staging) = load.staging.clone().filter(|_| upserts + deletes > 0) else {
            crash::at(CrashPoint::CommitRows);
            return Ok(Committed { written: upserts, ..Committed::default() });
        };
        let now = instant_text(self.plan.started_at)?;
        let (fence, with_state) = (self.fence.clone(), self.plan.state_with_data);
        let sync = self.plan.sync.clone();
        let connection = self.connection()?;
        let mut committed = Committed::default();
        let merged = (|| {
            if deletes > 0 || needs_index(&table) {
                connection.execute_batch(&key_index(&table, &staging))?;
            }
            let first = first_sequence(connection, &table, with_state.then_some(&fence))?;
            for step in merge::steps(&SqliteDialect, &sync, &table, &staging, str::to_owned) {
                // Without a deletion there is no need to look through the whole table for its row.
                let needed = step.counts != Counts::Deleted || deletes > 0;
                let affected = match (needed, step.parameters) {
                    (false, _) => 0,
                    (true, true) => connection.execute(&step.sql, params![first, now])?,
                    (true, false) => connection.execute(&step.sql, [])?,
                };
                match step.counts {
                    Counts::Written => committed.written += affected as u64,
                    Counts::Deleted => committed.deleted += affected as u64,
                    Counts::Nothing => {}
                }
                if let Some(point) = step.passes {
                    crash::at(point);
                }
            }
            Ok(())
        })();
        merged.map_err(|error| self.failed(error).context("table", name))?;
        committed.unchanged = upserts.saturating_sub(committed.written);
        Ok(committed)
    }

    /// Removes rows by a condition. What was sent before is put into its tables first.
    fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        let plan = Arc::clone(&self.written);
        let removal = Removal::new(&SqliteDialect, &plan, deletion)?;
        self.begin()?;
        self.flush()?;
        for name in removal.tables() {
            if self.tables.contains_key(name) {
                self.settle(name)?;
            }
        }
        let location = self.location.clone();
        let connection = self.connection()?;
        let target = |name: &TableName| Ok(plan.table(name)?.target.name.name.clone());
        for (name, deleted) in removal::run(connection, &location, &removal, target)? {
            self.removed.entry(name).or_default().deleted += deleted;
        }
        Ok(())
    }

    /// Merges what is staged of a table before the commit; what comes later is staged anew.
    fn settle(&mut self, name: &TableName) -> Result<()> {
        let done = self.apply(name)?;
        let Some(load) = self.tables.get_mut(name) else { return Ok(()) };
        load.settled += done;
        load.settled_rows += load.upserts + load.deletes;
        (load.upserts, load.deletes) = (0, 0);
        let Some(staging) = load.staging.take() else { return Ok(()) };
        let dropped = self.connection()?.execute_batch(&format!("DROP TABLE {staging}"));
        dropped.map_err(|error| self.failed(error))
    }

    fn save_state(&mut self, names: &[TableName], checkpoint: &Checkpoint) -> Result<()> {
        let (fence, id) = (self.fence.clone(), self.id.clone());
        let mut records = Vec::new();
        for name in names {
            let (table, load) = (self.planned(name)?, self.tables.get(name));
            let rows_total = load.map_or(0, |load| load.upserts + load.deletes + load.settled_rows);
            let record = TableRecord { rows_total, ..TableRecord::begun(&table, None) };
            records.push((name, table.target.name.name.clone(), record));
        }
        let connection = self.connection()?;
        let saved = (|| {
            for (name, target, mut record) in records {
                record.identity = catalog::identity(connection, &target)?;
                store::save_record(connection, &fence, name, &record)?;
            }
            store::save_cursors(connection, &fence, checkpoint)?;
            store::next_sequence(connection, &fence, &id)?;
            store::renew(connection, &fence)
        })();
        saved.map_err(|error| self.failed(error))
    }

    /// Forgets what was committed.
    fn clear(&mut self) -> Result<()> {
        let mut statements = Vec::new();
        for load in self.tables.values_mut() {
            if let Some(staging) = load.staging.take() {
                statements.push(format!("DROP TABLE {staging};"));
            }
            *load = Load::default();
        }
        if statements.is_empty() {
            return Ok(());
        }
        let dropped = self.connection()?.execute_batch(&statements.concat());
        dropped.map_err(|error| self.failed(error))
    }
}

/// Whether the merge looks staged rows up by their key even without deletions.
fn needs_index(table: &TablePlan) -> bool {
    let nullable = |key: &String| table.target.field(key).is_none_or(|f| f.is_nullable());
    derived::is_ordered(table.write_mode) || table.target.primary_key.iter().any(nullable)
}

fn key_index(table: &TablePlan, staging: &str) -> String {
    let name = staging.replace("_stage_", "_stage_key_");
    let plain = staging.trim_start_matches("temp.");
    let key = ddl::quoted(&SqliteDialect, &table.target.primary_key);
    format!("CREATE INDEX {name} ON {plain} ({key})")
}

/// The arrival order of the first staged row. Where the state is kept elsewhere the history
/// itself tells.
pub(crate) fn first_sequence(
    connection: &Connection,
    table: &TablePlan,
    fence: Option<&Fence>,
) -> rusqlite::Result<i64> {
    if table.write_mode != WriteMode::AppendDedup {
        return Ok(0);
    }
    let from_state = fence.map_or(Ok(0), |f| store::rows_total(connection, f, table.name()))?;
    // Another sync, or this one before its state was reset, may have gone further.
    let history = derived::history(table, &SqliteDialect);
    let sql = format!(
        "SELECT coalesce(max({}) + 1, 0) FROM {}",
        SqliteDialect.quote(derived::SEQUENCE),
        SqliteDialect.table(&history.name),
    );
    let from_history: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
    Ok(from_state.max(from_history))
}
