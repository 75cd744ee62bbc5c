//! The writer: takes batches, and commits them with schema changes and cursors in one
//! transaction.
//!
//! Rows are gathered in memory up to [`GATHERED_BYTES`]. What is more goes to DuckDB: into a
//! temporary table of this session, or into the open transaction (see [`super::load`]), while the
//! next rows are gathered. DuckDB keeps what does not fit into its `memory_limit` in a folder
//! beside the file.

use std::collections::BTreeMap;
use std::sync::Arc;

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

use super::database::{PATIENCE, WriteLock};
use super::dialect::DuckDbDialect;
use super::file::File;
use super::load::{Load, Way, is_as_planned};
use super::schema;
use super::{catalog, rebuild, removal, store, upkeep};
use crate::session::{Parameter, Session};

/// Rows that wait in memory before DuckDB gets them; while it does, so many wait again.
const GATHERED_BYTES: usize = 8 << 20;

/// A writer of one partition, and what it works on.
pub(crate) struct DuckDbWriter {
    worker: Lent<Worker>,
    /// Rows that the worker has not got yet.
    gathered: Vec<Batch>,
    gathered_bytes: usize,
}

impl DuckDbWriter {
    /// A writer that has touched nothing yet.
    pub(crate) fn new(
        file: File,
        plan: Arc<Plan>,
        tables: &[TableName],
        id: String,
        fence: Fence,
        begun: Begun,
    ) -> Result<Self> {
        let mut worker = Worker {
            session: None,
            lock: None,
            file,
            written: written(&plan),
            plan,
            begun,
            id,
            fence,
            tables: BTreeMap::new(),
            removed: CommittedTables::new(),
            threads: Threads::All,
        };
        for name in tables {
            worker.load(name)?;
        }
        Ok(Self { worker: Lent::new(worker), gathered: Vec::new(), gathered_bytes: 0 })
    }

    fn take_gathered(&mut self) -> Vec<Batch> {
        self.gathered_bytes = 0;
        std::mem::take(&mut self.gathered)
    }
}

#[async_trait]
impl Writer for DuckDbWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        self.gathered_bytes += batch.rows.get_array_memory_size();
        self.gathered.push(batch);
        if self.gathered_bytes < GATHERED_BYTES {
            return Ok(());
        }
        let gathered = self.take_gathered();
        let load = move |worker: &mut Worker| {
            worker.write(&gathered)?;
            worker.relieve()
        };
        self.worker.begin(load).await
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        let (gathered, deletion) = (self.take_gathered(), deletion.clone());
        let delete = move |worker: &mut Worker| {
            worker.write(&gathered)?;
            worker.delete(&deletion)
        };
        self.worker.blocking(delete).await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let (gathered, checkpoint) = (self.take_gathered(), checkpoint.clone());
        let commit = move |worker: &mut Worker| {
            worker.write(&gathered)?;
            worker.commit(&checkpoint)
        };
        self.worker.blocking(commit).await
    }
}

struct Worker {
    /// Closed before others may write: an open transaction goes with it.
    session: Option<Session>,
    /// The right to write, while the transaction is open.
    lock: Option<WriteLock>,
    file: File,
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
    threads: Threads,
}

/// How many threads DuckDB uses. While one of them waits for rows that another one loads, it does
/// not sleep but looks for work all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Threads {
    /// One per processor.
    All,
    /// Half of them: the rest of the machine reads the source meanwhile.
    Few,
}

/// The plan by which rows are written.
fn written(plan: &Plan) -> Arc<Plan> {
    let mut written = plan.clone();
    for table in written.tables.values_mut().filter(|table| table.rebuild) {
        *table = derived::beside(table, &plan.sync, &DuckDbDialect);
    }
    Arc::new(written)
}

impl Worker {
    /// The session, opened when it is needed.
    fn session(&mut self) -> Result<&mut Session> {
        if self.session.is_none() {
            self.session = Some(self.file.connect()?);
        }
        self.session.as_mut().ok_or_else(|| Error::internal("The session is closed"))
    }

    /// What waits of a table.
    fn load(&mut self, name: &TableName) -> Result<&mut Load> {
        if !self.tables.contains_key(name) {
            let (table, planned) =
                (self.written.table(name)?.clone(), self.plan.table(name)?.clone());
            let load = Load::new(&table, Way::of(&table, &planned))?;
            self.tables.insert(name.clone(), load);
        }
        self.tables.get_mut(name).ok_or_else(|| Error::internal("A table is gone"))
    }

    fn write(&mut self, batches: &[Batch]) -> Result<()> {
        batches.iter().try_for_each(|batch| self.add(batch))
    }

    fn add(&mut self, batch: &Batch) -> Result<()> {
        let name = &batch.table.name;
        let table = self.written.table(name)?.clone();
        let way = self.load(name)?.way;
        if batch.op == Op::Delete && way == Way::Straight {
            return Err(Error::unsupported(format!(
                "`{}` cannot take a deleted row away",
                table.write_mode
            ))
            .context("table", name)
            .hint("write_mode: overwrite, with a primary key"));
        }
        if batch.op == Op::Delete && way == Way::First {
            // What came before is folded; this and what comes after is merged into it.
            self.begin()?;
            self.flush()?;
            self.settle(name)?;
            self.load(name)?.way = Way::Staged;
        }
        self.stage(&table)?;
        self.load(name)?.add(&table, &batch.rows, batch.op)?;
        crash::at(CrashPoint::StageBatch);
        Ok(())
    }

    /// Makes the temporary table when the first row needs it.
    fn stage(&mut self, table: &TablePlan) -> Result<()> {
        let at = self.tables.keys().position(|name| name == table.name()).unwrap_or_default();
        let load = self.load(table.name())?;
        if load.way != Way::Staged || load.staging.is_some() {
            return Ok(());
        }
        let staging = format!("_highwater_stage_{at}");
        load.staging = Some(staging.clone());
        let columns = ddl::staging_columns(&DuckDbDialect, table)?;
        self.session()?.run(&format!("CREATE TEMP TABLE {staging} ({columns})"))?;
        crash::at(CrashPoint::StageCreated);
        Ok(())
    }

    /// Gives DuckDB what waits in memory. Only rows that go straight into their table need the
    /// transaction for that.
    fn relieve(&mut self) -> Result<()> {
        if self.tables.values().any(|load| load.way != Way::Staged && load.is_waiting()) {
            self.begin()?;
            return self.flush();
        }
        self.flush_all()
    }

    /// Opens the transaction, excludes all other writers and checks that this run may commit.
    fn begin(&mut self) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        self.lock = Some(self.file.lock(PATIENCE)?);
        let (with_state, fence) = (self.plan.state_with_data, self.fence.clone());
        let session = self.session()?;
        session.run("BEGIN TRANSACTION")?;
        if with_state && !store::holds(session, &fence)? {
            return Err(fenced(&fence));
        }
        crash::at(CrashPoint::CommitFence);
        Ok(())
    }

    /// Makes the tables of this partition as the rows need them, in the open transaction.
    fn prepare(&mut self) -> Result<()> {
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in names {
            if self.load(&name)?.prepared.is_some() {
                continue;
            }
            let (table, plan) = (self.written.table(&name)?.clone(), Arc::clone(&self.plan));
            let (whole, made) = (plan.table(&name)?.clone(), self.begun.has(&plan, &name));
            let fence = self.fence.clone();
            let session = self.session()?;
            match whole.rebuild {
                true => {
                    rebuild::ensure(session, &plan, &whole, &fence, made)?;
                    crash::at(CrashPoint::StageCreated);
                }
                false => drop(schema::prepare(session, &plan, &table)?),
            }
            if derived::remembers_keys(&table) {
                upkeep::remember_keys(session, &plan, &table, made)?;
            }
            let there = catalog::relation(session, &table.target.name)?;
            let as_planned = there.is_some_and(|there| is_as_planned(&there, &table));
            self.load(&name)?.prepared = Some(as_planned);
            if self.load(&name)?.way == Way::First {
                self.continue_first(&table, made)?;
            }
        }
        crash::at(CrashPoint::CommitSchema);
        Ok(())
    }

    /// A first load goes on as it began while all rows are of this run, and no deletion is
    /// remembered that has to be looked up for each row. Otherwise rows are merged.
    fn continue_first(&mut self, table: &TablePlan, made: bool) -> Result<()> {
        let last_row = self.last_row(&table.target.name)?;
        let mut goes_on = last_row < 0 || made;
        if goes_on && derived::is_ordered(table.write_mode) {
            // There may be deletions without a row.
            let tombstones = derived::tombstones(table, &DuckDbDialect).name;
            goes_on = self.last_row(&tombstones)? < 0;
        }
        let load = self.load(table.name())?;
        load.last_row = last_row;
        if goes_on {
            return Ok(());
        }
        load.stage_pending()?;
        self.stage(table)
    }

    /// The number of the last row of a table, -1 where it is empty.
    fn last_row(&mut self, table: &TableName) -> Result<i64> {
        let sql = format!("SELECT coalesce(max(rowid), -1) FROM {}", DuckDbDialect.table(table));
        let found = self.session()?.fetch(&sql, &[])?;
        Ok(catalog::number(&found, 0, 0).unwrap_or(-1))
    }

    /// Gives DuckDB the rows that wait in memory, in the open transaction.
    fn flush(&mut self) -> Result<()> {
        self.prepare()?;
        self.flush_all()
    }

    fn flush_all(&mut self) -> Result<()> {
        let written = Arc::clone(&self.written);
        if self.tables.values().any(Load::is_waiting) {
            self.use_threads(Threads::Few)?;
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        for (name, load) in &mut self.tables {
            load.flush(session, written.table(name)?)?;
        }
        Ok(())
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        crash::at(CrashPoint::StageRows);
        self.begin()?;
        self.flush()?;
        let mut committed = CommittedTables::new();
        let names: Vec<_> = self.tables.keys().cloned().collect();
        for name in &names {
            let mut done = self.load(name)?.settled;
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
        // The rest of the rows is compressed now.
        self.use_threads(Threads::All)?;
        self.session()?.run("COMMIT")?;
        self.lock = None;
        for name in &names {
            self.begun.add(&self.plan, name);
        }
        crash::at(CrashPoint::CommitDone);
        self.clear()?;
        Ok(committed)
    }

    /// Merges what is staged; rows that went straight into their table are counted, and folded
    /// where they have a key.
    fn apply(&mut self, name: &TableName) -> Result<Committed> {
        let table = self.written.table(name)?.clone();
        let load = self.load(name)?;
        let (upserts, deletes) = (load.upserts, load.deletes);
        let (way, staging, last_row) = (load.way, load.staging.clone(), load.last_row);
        let at = |error: Error| error.context("table", name);
        let mut committed = Committed { written: upserts, ..Committed::default() };
        match (way, staging) {
            (Way::Staged, Some(staging)) if upserts + deletes > 0 => {
                committed = self.merge(&table, &staging, deletes > 0).map_err(at)?;
            }
            (Way::First, _) if upserts > 0 => {
                self.use_threads(Threads::All)?;
                if table.write_mode == WriteMode::AppendDedup {
                    self.add_history(&table, last_row).map_err(at)?;
                }
                let left = Load::fold_first(self.session()?, &table, last_row);
                committed.written = left.map_err(at)?;
                crash::at(CrashPoint::CommitRows);
            }
            _ => crash::at(CrashPoint::CommitRows),
        }
        committed.unchanged = upserts.saturating_sub(committed.written);
        Ok(committed)
    }

    fn add_history(&mut self, table: &TablePlan, last_row: i64) -> Result<()> {
        let fence = self.plan.state_with_data.then(|| self.fence.clone());
        let now = schema::instant(self.plan.started_at);
        let session = self.session()?;
        let first = upkeep::first_sequence(session, table, fence.as_ref())?;
        Load::add_history(session, table, last_row, first, now)?;
        crash::at(CrashPoint::CommitHistory);
        Ok(())
    }

    /// Sets how many threads the next statements have, unless the user says how many.
    fn use_threads(&mut self, threads: Threads) -> Result<()> {
        let Some(few) = self.file.loading_threads().filter(|_| self.threads != threads) else {
            return Ok(());
        };
        self.threads = threads;
        self.session()?.run(&match threads {
            Threads::All => "RESET GLOBAL threads".to_owned(),
            Threads::Few => format!("SET GLOBAL threads = {few}"),
        })
    }

    fn merge(&mut self, table: &TablePlan, staging: &str, any_deleted: bool) -> Result<Committed> {
        self.use_threads(Threads::All)?;
        let (fence, sync) = (self.fence.clone(), self.plan.sync.clone());
        let with_state = self.plan.state_with_data;
        let now = schema::instant(self.plan.started_at);
        let session = self.session()?;
        let first = upkeep::first_sequence(session, table, with_state.then_some(&fence))?;
        let parameters = [Parameter::from(first), now];
        let mut committed = Committed::default();
        let staging = format!("temp.{staging}");
        for step in merge::steps(&DuckDbDialect, &sync, table, &staging, str::to_owned) {
            // Without a deletion there is no need to look through the whole table for its row.
            if step.counts != Counts::Deleted || any_deleted {
                let given = if step.parameters { &parameters[..] } else { &[] };
                let affected = session.change(&step.sql, given)?;
                match step.counts {
                    Counts::Written => committed.written += affected,
                    Counts::Deleted => committed.deleted += affected,
                    Counts::Nothing => {}
                }
            }
            if let Some(point) = step.passes {
                crash::at(point);
            }
        }
        Ok(committed)
    }

    /// Removes rows by a condition. What was sent before is put into its tables first.
    fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        let plan = Arc::clone(&self.written);
        let removal = Removal::new(&DuckDbDialect, &plan, deletion)?;
        self.begin()?;
        self.flush()?;
        for name in removal.tables() {
            if self.tables.contains_key(name) && self.load(name)?.way != Way::Straight {
                self.settle(name)?;
            }
        }
        let target = |name: &TableName| Ok(plan.table(name)?.target.name.clone());
        for (name, deleted) in removal::run(self.session()?, &removal, target)? {
            self.removed.entry(name).or_default().deleted += deleted;
        }
        Ok(())
    }

    /// Merges what has come of a table before the commit; what comes later is staged anew.
    fn settle(&mut self, name: &TableName) -> Result<()> {
        let done = self.apply(name)?;
        let load = self.load(name)?;
        load.way = Way::Staged;
        load.settled += done;
        load.settled_rows += load.upserts + load.deletes;
        (load.upserts, load.deletes) = (0, 0);
        match load.staging.take() {
            Some(staging) => self.session()?.run(&format!("DROP TABLE temp.{staging}")),
            None => Ok(()),
        }
    }

    fn save_state(&mut self, names: &[TableName], checkpoint: &Checkpoint) -> Result<()> {
        let (fence, id) = (self.fence.clone(), self.id.clone());
        let mut records = Vec::new();
        for name in names {
            let table = self.plan.table(name)?.clone();
            let load = self.load(name)?;
            let rows_total = load.upserts + load.deletes + load.settled_rows;
            let columns = table.target.column_names().map(str::to_owned).collect();
            let (generation, rebuild) = (table.generation, table.rebuild);
            let record =
                TableRecord { columns, rows_total, generation, rebuild, ..TableRecord::default() };
            records.push((name, table.target.name.clone(), record));
        }
        let session = self.session()?;
        for (name, target, mut record) in records {
            record.identity = schema::identity(session, &target)?;
            store::save_record(session, &fence, name, &record)?;
        }
        store::save_cursors(session, &fence, checkpoint)?;
        store::next_sequence(session, &fence, &id)?;
        store::renew(session, &fence)
    }

    /// Forgets what was committed.
    fn clear(&mut self) -> Result<()> {
        let mut staged = Vec::new();
        for load in self.tables.values_mut() {
            staged.extend(load.staging.take());
            load.committed();
        }
        for staging in staged {
            self.session()?.run(&format!("DROP TABLE temp.{staging}"))?;
        }
        Ok(())
    }
}
