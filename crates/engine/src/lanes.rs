//! A lane: what one destination does with the rows of one partition.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Committed, Completion, Error, Fence, Output, Partition, Plan, Result,
    Source, State, StateStore, TableName, TableRecord, Writer,
};
use tokio::task::JoinHandle;

use crate::events::Event;
use crate::metadata;
use crate::options::{RunOptions, Target};
use crate::planning::state_store;
use crate::sync::task_ended;

/// Where a partition is copied: what all its lanes share.
pub(crate) struct Site {
    /// The plan that the source reads by: of the first lane's destination.
    pub(crate) plan: Arc<Plan>,
    /// The state that the read resumes from: the same for all lanes.
    pub(crate) state: Arc<State>,
    pub(crate) options: RunOptions,
    /// Whether the lanes are all the destinations of the sync, so that what they have committed
    /// may be acknowledged.
    pub(crate) covers_every_target: bool,
}

impl Site {
    /// Returns when the run was asked to stop and `patience` has passed since.
    pub(crate) async fn stopped_for(&self, patience: Duration) {
        self.options.stop.stopped().await;
        tokio::time::sleep(patience).await;
    }

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
    target: Target,
    plan: Arc<Plan>,
    fence: Fence,
    options: RunOptions,
    writer: Option<Box<dyn Writer>>,
    dirty: bool,
    outcome: LaneOutcome,
}

/// What a lane did.
#[derive(Default)]
pub(crate) struct LaneOutcome {
    /// Rows read, by source table.
    pub(crate) rows_read: std::collections::BTreeMap<TableName, u64>,
    /// What its commits did, all tables of the partition together.
    pub(crate) committed: Committed,
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
        options: &RunOptions,
    ) -> Result<Self> {
        let writer = target.destination.writer(&plan, partition, fence).await?;
        Ok(Self {
            target_index,
            target: target.clone(),
            plan,
            fence: fence.clone(),
            options: options.clone(),
            writer: Some(writer),
            // Also a partition without rows is committed once: its table has to exist.
            dirty: true,
            outcome: LaneOutcome::default(),
        })
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
            self.fail(error);
        }
    }

    pub(crate) async fn commit(&mut self, checkpoint: &Checkpoint) {
        if self.has_failed() {
            return;
        }
        match self.try_commit(checkpoint).await {
            Ok(committed) => {
                self.dirty = false;
                self.outcome.committed += committed;
            }
            Err(error) => self.fail(error),
        }
    }

    async fn try_write(&mut self, batch: &Batch) -> Result<()> {
        let name = &batch.table.name;
        let table = self.plan.tables.get(name).ok_or_else(|| {
            Error::internal("The source sent rows of a table that is not in the plan")
                .context("table", name)
        })?;
        *self.outcome.rows_read.entry(name.clone()).or_default() += batch.rows.num_rows() as u64;
        let shaped = metadata::shape(batch, &self.plan, table)?;
        match &mut self.writer {
            Some(writer) => writer.write(shaped).await,
            None => Err(Error::internal("The writer is gone")),
        }
    }

    async fn try_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committed> {
        let Some(writer) = &mut self.writer else {
            return Err(Error::internal("The writer is gone"));
        };
        let committed = writer.commit(checkpoint).await?;
        if !self.plan.state_with_data {
            save_apart(&self.target, &self.plan, &self.fence, checkpoint).await?;
        }
        for table in self.outcome.rows_read.keys() {
            let destination = &self.target.name;
            self.options.observer.event(&Event::RowsCommitted { table, destination, committed });
        }
        Ok(committed)
    }

    /// Dropping the writer leaves nothing visible of what was not committed.
    fn fail(&mut self, error: Error) {
        self.writer = None;
        self.outcome.error = Some(error);
    }
}

/// Data first, then the cursor in its other store: a crash in between repeats rows and loses none.
async fn save_apart(
    target: &Target,
    plan: &Plan,
    fence: &Fence,
    checkpoint: &Checkpoint,
) -> Result<()> {
    crash::at(CrashPoint::StateSave);
    for table in checkpoint.cursors.keys().filter_map(|key| key.table()) {
        save_record(target, plan, fence, table, None).await?;
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
    table: &TableName,
    finished_epoch: Option<u64>,
) -> Result<()> {
    let Some(table_plan) = plan.tables.get(table) else { return Ok(()) };
    let name = table_plan.target.name.clone();
    let existing = target.destination.describe(&[name]).await?;
    let record = TableRecord {
        identity: existing.into_iter().next().flatten().and_then(|t| t.identity),
        columns: table_plan.target.column_names().map(str::to_owned).collect(),
        rows_total: 0,
        finished_epoch,
        finished_at: finished_epoch.map(|_| plan.started_at),
    };
    let store: &dyn StateStore = state_store(target)?;
    store.save_table(fence, table, &record).await
}
