//! A lane: what one destination does with the rows of one partition.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, CommittedTables, Completion, Deletion, Error, Fence, Op, Output, Partition,
    Plan, Result, Source, State, StateStore, TableName, TableRecord, Writer,
};
use tokio::task::JoinHandle;

use crate::deletions;
use crate::events::Event;
use crate::forwarding;
use crate::metadata;
use crate::options::{Keeper, RunOptions, StateTable, Target};
use crate::planning::state_store;
use crate::quarantine::Stage;
use crate::state_table;
use crate::sync::task_ended;
use crate::transforms::{Chain, Passed};

/// Where a partition is copied: what all its lanes share.
pub(crate) struct Site {
    /// The plan that the source reads by: of the first lane's destination.
    pub(crate) plan: Arc<Plan>,
    /// The state that the read resumes from: the same for all lanes.
    pub(crate) state: Arc<State>,
    pub(crate) options: RunOptions,
    /// How many destinations the sync has: what fewer lanes have committed is not acknowledged.
    pub(crate) targets: usize,
    /// Where the source keeps its cursors itself.
    pub(crate) state_table: Option<StateTable>,
    /// Whether every destination takes part in every incremental table: if not, a cursor that
    /// is one for all would run ahead of what one of them has.
    pub(crate) serves_all: bool,
}

impl Site {
    /// Starts the read as a task of its own, so that reading and writing use two cores. It ends
    /// when the returned future is dropped.
    pub(crate) fn spawn_read(
        &self,
        source: Arc<dyn Source>,
        partition: Partition,
        output: Output,
    ) -> impl Future<Output = Result<Completion>> + use<> {
        let (plan, state) = (Arc::clone(&self.plan), Arc::clone(&self.state));
        let task =
            tokio::spawn(async move { source.read(&plan, &partition, &state, output).await });
        let mut task = AbortOnDrop(task);
        async move { (&mut task.0).await.map_err(task_ended)? }
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What one destination does with the rows of one partition.
pub(crate) struct Lane {
    /// The index of the destination in the request.
    pub(crate) target_index: usize,
    /// Whether it writes the state table too.
    pub(crate) is_keeper: bool,
    target: Target,
    plan: Arc<Plan>,
    fence: Fence,
    /// The state that the read resumes from.
    state: Arc<State>,
    options: RunOptions,
    writer: Option<Box<dyn Writer>>,
    stage: Stage,
    chain: Option<Chain>,
    dirty: bool,
    outcome: LaneOutcome,
}

/// What a lane did.
#[derive(Default)]
pub(crate) struct LaneOutcome {
    /// Rows read, by source table.
    pub(crate) rows_read: BTreeMap<TableName, u64>,
    /// Rows left out by the filters of the user, by source table.
    pub(crate) rows_filtered: BTreeMap<TableName, u64>,
    /// Rows that went into the quarantine, by source table.
    pub(crate) rows_quarantined: BTreeMap<TableName, u64>,
    /// What its commits did to each table.
    pub(crate) committed: CommittedTables,
    /// Why it stopped.
    pub(crate) error: Option<Error>,
}

impl Lane {
    pub(crate) async fn open(
        target_index: usize,
        target: &Target,
        plan: Arc<Plan>,
        partition: &Partition,
        fence: &Fence,
        site: &Site,
    ) -> Result<Self> {
        let options = &site.options;
        let mut partition = partition.clone();
        partition.tables.retain(|table| plan.tables.contains_key(table));
        let mut plan = plan;
        let mut is_keeper = false;
        if let Some(state) = &site.state_table
            && matches!(state.keeper, Keeper::Target(index) if index == target_index)
        {
            // The state table is written by this lane, in the transaction of the data.
            let table = state.table_plan(target.destination.as_ref()).await?;
            partition.tables.push(table.name().clone());
            Arc::make_mut(&mut plan).tables.insert(table.name().clone(), table);
            is_keeper = true;
        }
        let stage = Stage::open(target, &mut plan, &mut partition).await?;
        let chain = Chain::new(&target.transformers, &plan).await?;
        let writer = target.destination.writer(&plan, &partition, fence).await?;
        if !plan.state_with_data {
            remember_generations(target, &plan, &partition, fence, &site.state).await?;
        }
        Ok(Self {
            target_index,
            is_keeper,
            target: target.clone(),
            plan,
            fence: fence.clone(),
            state: Arc::clone(&site.state),
            options: options.clone(),
            writer: Some(writer),
            stage,
            chain,
            // Also a partition without rows is committed once: its table has to exist.
            dirty: true,
            outcome: LaneOutcome::default(),
        })
    }

    /// Whether its commits only hand over; see [`highwater_core::Capabilities::commits_later`].
    pub(crate) fn commits_later(&self) -> bool {
        self.target.destination.capabilities().commits_later
    }

    /// The last call: waits until what was handed over is durable, and saves its cursors.
    /// `complete` are the tables that were read completely.
    pub(crate) async fn end(&mut self, complete: &[TableName]) {
        if self.has_failed() || !self.commits_later() {
            return;
        }
        let own = complete.iter().filter(|table| self.plan.tables.contains_key(table));
        // What is in the quarantine is complete as well.
        let own: Vec<_> = own.chain(self.stage.table()).cloned().collect();
        let ended = async {
            let Some(mut writer) = self.writer.take() else {
                return Err(Error::internal("The writer is gone"));
            };
            let durable = writer.end(&own).await;
            // Also of a writer that failed at its end: what it has confirmed is durable.
            let confirmed = writer.durable().await;
            for checkpoint in confirmed.iter().flatten().chain(durable.iter().flatten()) {
                save_apart(&self.target, &self.plan, &self.fence, &self.state, checkpoint).await?;
            }
            durable.map(drop)
        };
        if let Err(error) = ended.await {
            self.fail(error);
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.outcome.error.is_some()
    }

    /// Whether there is something that no commit has covered yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty && !self.has_failed()
    }

    pub(crate) fn into_outcome(self) -> LaneOutcome {
        self.outcome
    }

    pub(crate) async fn write(&mut self, batch: &Batch) {
        if self.has_failed() {
            return;
        }
        self.dirty = true;
        if let Err(error) = self.try_write(batch).await {
            self.fail_with_last_words(error).await;
        }
    }

    pub(crate) async fn commit(&mut self, checkpoint: &Checkpoint) {
        if self.has_failed() {
            return;
        }
        match self.try_commit(checkpoint).await {
            Ok(committed) => {
                self.dirty = false;
                for (table, committed) in committed {
                    *self.outcome.committed.entry(table).or_default() += committed;
                }
            }
            Err(error) => self.fail_with_last_words(error).await,
        }
    }

    /// Removes rows by a condition.
    pub(crate) async fn delete(&mut self, deletion: &Deletion) {
        if self.has_failed() || !self.plan.tables.contains_key(&deletion.table) {
            return;
        }
        self.dirty = true;
        if let Err(error) = self.try_delete(deletion).await {
            self.fail(error);
        }
    }

    /// Writes the rows of the state table, to be committed with everything before them.
    pub(crate) async fn keep(&mut self, batch: Batch) {
        if self.has_failed() {
            return;
        }
        self.dirty = true;
        let kept = async {
            let table = self.plan.tables.get(&batch.table.name);
            let table = table.ok_or_else(|| Error::internal("The state table is not planned"))?;
            self.hand_on(state_table::shaped(&batch, table)?).await
        };
        if let Err(error) = kept.await {
            self.fail(error);
        }
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    async fn try_write(&mut self, batch: &Batch) -> Result<()> {
        let name = &batch.table.name;
        let Some(table) = self.plan.tables.get(name) else {
            // One read serves destinations that plan different tables.
            return Ok(());
        };
        *self.outcome.rows_read.entry(name.clone()).or_default() += batch.rows.num_rows() as u64;
        match &table.deletion_column {
            None => self.pass(batch).await,
            Some(column) => {
                for part in deletions::split(batch, column)? {
                    self.pass(&part).await?;
                }
                Ok(())
            }
        }
    }

    /// Takes rows of one kind through all that is between the source and the writer.
    async fn pass(&mut self, batch: &Batch) -> Result<()> {
        let name = &batch.table.name;
        let Some(table) = self.plan.tables.get(name) else { return Ok(()) };
        if forwarding::is_forwarded(batch, table) {
            return self.hand_on(batch.clone()).await;
        }
        let staged = self.stage.apply(batch, &self.plan, table)?;
        if let Some(staged) = &staged {
            *self.outcome.rows_filtered.entry(name.clone()).or_default() += staged.filtered;
            if let Some(quarantined) = &staged.quarantined {
                let rows = quarantined.rows.num_rows() as u64;
                *self.outcome.rows_quarantined.entry(name.clone()).or_default() += rows;
                hand_on(&mut self.writer, quarantined.clone()).await?;
            }
            if staged.batch.rows.num_rows() == 0 {
                return Ok(());
            }
        }
        let batch = staged.as_ref().map_or(batch, |staged| &staged.batch);
        let first = table.untransformed.as_ref().unwrap_or(&table.target);
        let shaped = metadata::shape(batch, &self.plan, table, first)?;
        let Some(chain) = &mut self.chain else { return self.hand_on(shaped).await };
        if batch.op == Op::Delete {
            return Err(Error::unsupported("Deleted rows cannot go through transformers")
                .context("table", name)
                .context("destination", &self.target.name));
        }
        let passed = chain.send(&Arc::clone(first), shaped.rows).await?;
        self.hand_on_passed(passed).await
    }

    async fn try_delete(&mut self, deletion: &Deletion) -> Result<()> {
        // Rows on their way through the transformers were sent before it.
        if let Some(chain) = &mut self.chain {
            let passed = chain.drain().await?;
            self.hand_on_passed(passed).await?;
        }
        let mapped = self.stage.deletion(deletion)?;
        match &mut self.writer {
            Some(writer) => writer.delete(mapped.as_ref().unwrap_or(deletion)).await,
            None => Err(Error::internal("The writer is gone")),
        }
    }

    async fn hand_on_passed(&mut self, passed: Vec<Passed>) -> Result<()> {
        for (name, rows) in passed {
            let Some(chain) = &self.chain else { continue };
            let Some(table) = self.plan.tables.get(chain.source_of(&name)?) else { continue };
            let batch = Batch { table: Arc::clone(&table.source), op: Op::Upsert, rows };
            let shaped = metadata::shape(&batch, &self.plan, table, &table.target)?;
            self.hand_on(shaped).await?;
        }
        Ok(())
    }

    async fn hand_on(&mut self, batch: Batch) -> Result<()> {
        hand_on(&mut self.writer, batch).await
    }

    async fn try_commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        if let Some(chain) = &mut self.chain {
            let passed = chain.drain().await?;
            self.hand_on_passed(passed).await?;
        }
        let Some(writer) = &mut self.writer else {
            return Err(Error::internal("The writer is gone"));
        };
        let committed = writer.commit(checkpoint).await?;
        if self.target.destination.capabilities().commits_later {
            let durable = writer.durable().await?;
            for checkpoint in &durable {
                save_apart(&self.target, &self.plan, &self.fence, &self.state, checkpoint).await?;
            }
        } else if !self.plan.state_with_data {
            save_apart(&self.target, &self.plan, &self.fence, &self.state, checkpoint).await?;
        }
        for table in self.outcome.rows_read.keys() {
            let destination = &self.target.name;
            let committed = committed.get(table).copied().unwrap_or_default();
            self.options.observer.event(&Event::RowsCommitted { table, destination, committed });
        }
        Ok(committed)
    }

    /// Fails; but what a destination that confirms later has confirmed by now is durable.
    async fn fail_with_last_words(&mut self, error: Error) {
        if self.commits_later()
            && let Some(writer) = &mut self.writer
        {
            for checkpoint in writer.durable().await.iter().flatten() {
                let saved =
                    save_apart(&self.target, &self.plan, &self.fence, &self.state, checkpoint);
                if let Err(error) = saved.await {
                    tracing::warn!(%error, "A confirmed cursor could not be saved");
                    break;
                }
            }
        }
        self.fail(error);
    }

    /// Dropping the writer leaves nothing visible of what was not committed.
    fn fail(&mut self, error: Error) {
        self.writer = None;
        self.outcome.error = Some(error);
    }
}

async fn hand_on(writer: &mut Option<Box<dyn Writer>>, batch: Batch) -> Result<()> {
    match writer {
        Some(writer) => writer.write(batch).await,
        None => Err(Error::internal("The writer is gone")),
    }
}

/// Remembers which reading of each table begins, before the first of its rows goes out: where this
/// run ends before it could save anything, the next one must not add to what the destination has
/// of it.
async fn remember_generations(
    target: &Target,
    plan: &Plan,
    partition: &Partition,
    fence: &Fence,
    state: &State,
) -> Result<()> {
    for name in &partition.tables {
        let known = state.tables.get(name).map_or(0, |record| record.generation);
        if plan.tables.get(name).is_some_and(|table| table.generation > known) {
            save_record(target, plan, fence, state, name, None).await?;
        }
    }
    Ok(())
}

/// Data first, then the cursor in its other store: a crash in between repeats rows and loses none.
async fn save_apart(
    target: &Target,
    plan: &Plan,
    fence: &Fence,
    state: &State,
    checkpoint: &Checkpoint,
) -> Result<()> {
    crash::at(CrashPoint::StateSave);
    for table in checkpoint.cursors.keys().filter_map(|key| key.table()) {
        save_record(target, plan, fence, state, table, None).await?;
    }
    state_store(target)?.save(fence, checkpoint).await?;
    crash::at(CrashPoint::StateSaved);
    Ok(())
}

/// Remembers a destination table in a store that is kept apart from the data.
pub(crate) async fn save_record(
    target: &Target,
    plan: &Plan,
    fence: &Fence,
    state: &State,
    table: &TableName,
    finished_epoch: Option<u64>,
) -> Result<()> {
    let Some(table_plan) = plan.tables.get(table) else { return Ok(()) };
    let name = table_plan.target.name.clone();
    let existing = target.destination.describe(&[name]).await?;
    let known = state.tables.get(table).cloned().unwrap_or_default();
    let swept = (finished_epoch.is_some() && table_plan.sweep).then_some(plan.started_at);
    let record = TableRecord {
        identity: existing.into_iter().next().flatten().and_then(|t| t.identity),
        columns: table_plan.target.column_names().map(str::to_owned).collect(),
        rows_total: 0,
        finished_epoch,
        finished_at: finished_epoch.map(|_| plan.started_at),
        generation: table_plan.generation,
        finished_generation: match finished_epoch {
            Some(_) => Some(table_plan.generation),
            None => known.finished_generation,
        },
        rebuild: table_plan.rebuild && finished_epoch.is_none(),
        swept_at: swept.or(known.swept_at),
    };
    let store: &dyn StateStore = state_store(target)?;
    store.save_table(fence, table, &record).await
}
