//! The state store in memory.

use async_trait::async_trait;
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Cursor, CursorKey, Error, Fence, Instant, Lease, LeaseRequest, Plan, Result, State,
    StateStore, TableName, TablePlan, TableRecord,
};

use super::tables::Contents;
use super::{Memory, Operation};

/// What is kept of one sync.
#[derive(Debug, Clone, Default)]
pub(super) struct Sync {
    epoch: u64,
    state: State,
}

impl Contents {
    pub(super) fn check_fence(&self, plan: &Plan, fence: &Fence) -> Result<()> {
        if plan.state_with_data { self.holder(fence).map(drop) } else { Ok(()) }
    }

    fn holder(&self, fence: &Fence) -> Result<&Sync> {
        let sync = self.syncs.get(&fence.sync).filter(|sync| sync.epoch == fence.epoch);
        sync.ok_or_else(|| Error::fenced("A newer run has taken over").context("sync", &fence.sync))
    }

    fn holder_mut(&mut self, fence: &Fence) -> Result<&mut Sync> {
        self.holder(fence)?;
        Ok(self.syncs.entry(fence.sync.clone()).or_default())
    }

    /// The cursors of a commit.
    pub(super) fn save(&mut self, plan: &Plan, checkpoint: &Checkpoint) {
        if plan.state_with_data {
            let sync = self.syncs.entry(plan.sync.clone()).or_default();
            sync.state.cursors.extend(checkpoint.cursors.clone());
        }
    }

    /// What is remembered of a table with a commit of `rows` rows.
    pub(super) fn record(&mut self, plan: &Plan, table: &TablePlan, fence: &Fence, rows: u64) {
        if !plan.state_with_data {
            return;
        }
        let identity = self.tables.get(&table.target.name).map(|t| t.identity.to_string());
        let sync = self.syncs.entry(fence.sync.clone()).or_default();
        let record = sync.state.tables.entry(table.name().clone()).or_default();
        record.identity = identity;
        record.columns = table.target.column_names().map(str::to_owned).collect();
        record.rows_total += rows;
        record.generation = table.generation;
        record.rebuild = table.rebuild;
    }

    pub(super) fn record_finished(&mut self, plan: &Plan, table: &TablePlan, fence: &Fence) {
        if !plan.state_with_data {
            return;
        }
        let sync = self.syncs.entry(fence.sync.clone()).or_default();
        let record = sync.state.tables.entry(table.name().clone()).or_default();
        record.finished_epoch = Some(fence.epoch);
        record.finished_at = Some(Instant::now());
        record.finished_generation = Some(table.generation);
        record.rebuild = false;
        if table.sweep {
            record.swept_at = Some(plan.started_at);
        }
        sync.state.cursors.remove(&refresh_position(table.name()));
    }

    /// Forgets the cursors and the record of a table.
    pub(super) fn forget(&mut self, plan: &Plan, table: &TablePlan, fence: &Fence) {
        if plan.state_with_data {
            let state = &mut self.syncs.entry(fence.sync.clone()).or_default().state;
            state.cursors.retain(|key, _| key.table() != Some(table.name()));
            state.tables.remove(table.name());
        }
    }

    /// Whether this run has finished the table before.
    pub(super) fn is_finished(&self, table: &TablePlan, fence: &Fence) -> bool {
        let record = self.syncs.get(&fence.sync).and_then(|s| s.state.tables.get(table.name()));
        record.is_some_and(|record| record.finished_epoch == Some(fence.epoch))
    }
}

fn refresh_position(table: &TableName) -> CursorKey {
    CursorKey::Partition(table.clone(), FULL_REFRESH.to_owned())
}

#[async_trait]
impl StateStore for Memory {
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State> {
        self.atomically(Operation::Open, sync, |contents| {
            let held = contents.syncs.entry(sync.to_owned()).or_default();
            let now = Instant::now();
            request.may_take(sync, held.state.lease.as_ref(), now)?;
            held.epoch += 1;
            held.state.lease =
                Some(Lease { owner: request.owner.clone(), renewed_at: now, released: false });
            let fence = Fence { sync: sync.to_owned(), epoch: held.epoch };
            let state = State { fence: Some(fence), ..held.state.clone() };
            contents.drop_leftovers(sync, &state);
            Ok(state)
        })
        .await
    }

    async fn renew(&self, fence: &Fence) -> Result<()> {
        self.atomically(Operation::Renew, &fence.sync, |contents| {
            if let Some(lease) = &mut contents.holder_mut(fence)?.state.lease {
                lease.renewed_at = Instant::now();
            }
            Ok(())
        })
        .await
    }

    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        self.atomically(Operation::Save, &fence.sync, |contents| {
            let cursors = checkpoint.cursors.clone();
            contents.holder_mut(fence)?.state.cursors.extend(cursors);
            Ok(())
        })
        .await
    }

    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()> {
        self.atomically(Operation::SaveTable, &fence.sync, |contents| {
            let state = &mut contents.holder_mut(fence)?.state;
            state.tables.insert(table.clone(), record.clone());
            if record.finished_epoch.is_some() {
                state.cursors.remove(&refresh_position(table));
            }
            Ok(())
        })
        .await
    }

    async fn release(&self, fence: &Fence) -> Result<()> {
        self.atomically(Operation::Release, &fence.sync, |contents| {
            if let Some(lease) = &mut contents.holder_mut(fence)?.state.lease {
                lease.released = true;
            }
            Ok(())
        })
        .await
    }

    async fn look(&self, sync: &str) -> Result<State> {
        let contents = self.contents();
        Ok(contents.syncs.get(sync).map(|sync| sync.state.clone()).unwrap_or_default())
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.contents().syncs.keys().cloned().collect())
    }

    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()> {
        self.atomically(Operation::Save, &fence.sync, |contents| {
            let state = &mut contents.holder_mut(fence)?.state;
            match cursor {
                Some(cursor) => drop(state.cursors.insert(key.clone(), cursor.clone())),
                None => {
                    state.cursors.remove(key);
                    if let CursorKey::Table(table) = key {
                        state.tables.remove(table);
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn refresh(&self, fence: &Fence, table: &TableName, rebuild: bool) -> Result<()> {
        self.atomically(Operation::Save, &fence.sync, |contents| {
            let state = &mut contents.holder_mut(fence)?.state;
            state.cursors.retain(|key, _| key.table() != Some(table));
            if let Some(record) = state.tables.get_mut(table) {
                record.generation += 1;
                record.rebuild = rebuild;
            }
            Ok(())
        })
        .await
    }
}
