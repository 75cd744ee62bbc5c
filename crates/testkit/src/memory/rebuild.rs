//! Tables beside the visible ones, keys that a sweep has seen, and other work on whole tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_core::state::State;
use highwater_core::{
    Committed, CursorKey, Fence, Plan, ReadMode, Result, SchemaChange, TableName, TablePlan,
    WriteMode,
};

use super::merge::{is_of_sync, position};
use super::tables::{Contents, Key, key};

/// Whose rows are in the tables beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    sync: String,
    source: TableName,
    generation: u64,
    sync_id: String,
}

/// The plan by which a rebuild of a sync writes.
pub(super) fn beside(table: &TablePlan, sync: &str) -> TablePlan {
    let mut target = table.target.as_ref().clone();
    target.name = target.name.renamed(format!("_highwater_{}_{sync}_new", target.name.name));
    TablePlan {
        target: Arc::new(target),
        rebuild: false,
        changes: vec![SchemaChange::CreateTable],
        ..table.clone()
    }
}

impl Contents {
    /// Makes the tables beside, empty unless this generation has begun them.
    pub(super) fn begin_rebuild(&mut self, plan: &Plan, table: &TablePlan) -> Result<()> {
        let wanted = Mark {
            sync: plan.sync.clone(),
            source: table.name().clone(),
            generation: table.generation,
            sync_id: plan.sync_id.clone(),
        };
        let anew = table.read_mode == ReadMode::FullRefresh && !table.source.resumable;
        let beside = beside(table, &plan.sync);
        let goes_on = self.marks.get(&beside.target.name).is_some_and(|mark| {
            *mark == Mark { sync_id: mark.sync_id.clone(), ..wanted.clone() }
                && (!anew || mark.sync_id == wanted.sync_id)
        });
        if !goes_on {
            self.drop_beside(&beside);
            self.marks.insert(beside.target.name.clone(), wanted);
        }
        self.prepare(plan, &beside)?;
        for name in [beside.target.name.clone(), Self::history_name(&beside)] {
            let Some(stored) = self.tables.get_mut(&name) else { continue };
            for field in beside.target.schema.fields() {
                if stored.table.field(field.name()).is_none() {
                    stored.set_field(field.as_ref().clone().with_nullable(true))?;
                }
            }
        }
        Ok(())
    }

    fn drop_beside(&mut self, beside: &TablePlan) {
        self.marks.remove(&beside.target.name);
        self.tables.remove(&beside.target.name);
        self.tables.remove(&Self::history_name(beside));
        self.arrivals.remove(&Self::history_name(beside));
        self.tombstones.retain(|(table, _), _| *table != beside.target.name);
    }

    /// Puts the tables beside in the place of the visible ones; how many
    /// rows of these go.
    pub(super) fn swap(&mut self, plan: &Plan, table: &TablePlan) -> Result<u64> {
        self.begin_rebuild(plan, table)?;
        let removed = self.tables.get(&table.target.name).map_or(0, |old| old.rows.len());
        let beside = beside(table, &plan.sync);
        let pairs = [
            (table.target.name.clone(), beside.target.name.clone()),
            (Self::history_name(table), Self::history_name(&beside)),
        ];
        for (name, from) in pairs {
            let Some(mut stored) = self.tables.remove(&from) else { continue };
            stored.table.name = name.clone();
            self.tables.insert(name.clone(), stored);
            let arrivals = self.arrivals.remove(&from).unwrap_or_default();
            self.arrivals.insert(name, arrivals);
        }
        self.tombstones.retain(|(of, _), _| *of != table.target.name);
        if table.write_mode == WriteMode::AppendDedup {
            let of_beside = |of: &TableName| *of == beside.target.name;
            let kept: Vec<_> =
                self.tombstones.iter().filter(|((of, _), _)| of_beside(of)).collect();
            let kept: Vec<_> = kept
                .into_iter()
                .map(|((_, key), at)| ((table.target.name.clone(), key.clone()), at.clone()))
                .collect();
            self.tombstones.extend(kept);
        }
        self.drop_beside(&beside);
        Ok(removed as u64)
    }

    /// Drops what earlier runs of a sync left beside and nobody can go on with.
    pub(super) fn drop_leftovers(&mut self, sync: &str, state: &State) {
        let useless = |mark: &Mark| {
            let covered = state.cursors.contains_key(&CursorKey::Global)
                || state.cursors.keys().any(|key| key.table() == Some(&mark.source));
            let goes_on = state.tables.get(&mark.source).is_some_and(|record| {
                record.rebuild
                    && record.generation == mark.generation
                    && record.finished_generation.is_none_or(|done| done < record.generation)
            });
            mark.sync == sync && !(covered && goes_on)
        };
        let dropped: Vec<_> = self.marks.iter().filter(|(_, mark)| useless(mark)).collect();
        let dropped: Vec<_> = dropped.into_iter().map(|(beside, _)| beside.clone()).collect();
        for beside in dropped {
            for name in [beside.clone(), beside.renamed(format!("{}_history", beside.name))] {
                self.tables.remove(&name);
                self.arrivals.remove(&name);
                self.tombstones.retain(|(table, _), _| *table != name);
            }
            self.marks.remove(&beside);
        }
    }

    /// Remembers that the sweep of a run has begun, and the keys that it sees.
    pub(super) fn see(&mut self, plan: &Plan, table: &TablePlan, keys: BTreeSet<Key>) {
        let target = &table.target.name;
        let seen = self.seen.entry((target.clone(), plan.sync.clone())).or_default();
        if seen.0 != plan.sync_id {
            *seen = (plan.sync_id.clone(), BTreeSet::new());
        }
        seen.1.extend(keys);
    }

    /// Deletes the rows that a sweep did not bring.
    pub(super) fn end_sweep(&mut self, plan: &Plan, table: &TablePlan) -> Result<Committed> {
        let (target, columns) = (table.target.name.clone(), &table.target.primary_key);
        let seen = self
            .seen
            .remove(&(target.clone(), plan.sync.clone()))
            .filter(|(run, _)| *run == plan.sync_id);
        let seen = seen.map(|(_, keys)| keys).unwrap_or_default();
        let rows = self.tables.get(&target).map_or_else(Vec::new, |stored| stored.rows.clone());
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for row in rows {
            match seen.contains(&key(&row, columns)?) || !is_of_sync(&row, &plan.sync)? {
                true => kept.push(row),
                false => gone.push(row),
            }
        }
        for row in &gone {
            if table.write_mode != WriteMode::AppendDedup {
                continue;
            }
            let tombstone = (target.clone(), key(row, columns)?);
            self.tombstones.insert(tombstone, position(row, table)?);
            // The record has the key and what orders it.
            let fields = row.schema();
            let in_record =
                |name: &String| columns.contains(name) || table.order_by.as_ref() == Some(name);
            let picked: Vec<usize> = (0..fields.fields().len())
                .filter(|at| in_record(fields.field(*at).name()))
                .collect();
            self.append_history(plan, table, &row.project(&picked)?)?;
        }
        if let Some(stored) = self.tables.get_mut(&target) {
            stored.rows = kept;
        }
        self.check_deletes(plan, table, gone.len() as u64)?;
        Ok(Committed { deleted: gone.len() as u64, ..Committed::default() })
    }

    /// Leaves the latest record of each key in the history.
    pub(super) fn compact(&mut self, table: &TablePlan) -> Result<u64> {
        let history = Self::history_name(table);
        let Some(stored) = self.tables.get_mut(&history) else { return Ok(0) };
        let mut latest = BTreeMap::new();
        for (at, row) in stored.rows.iter().enumerate() {
            let place = (position(row, table)?, at);
            let best = latest.entry(key(row, &table.target.primary_key)?).or_insert(place.clone());
            *best = best.clone().max(place);
        }
        let kept: BTreeSet<usize> = latest.into_values().map(|(_, at)| at).collect();
        let before = stored.rows.len();
        let mut at = 0..;
        stored.rows.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
        let removed = (before - stored.rows.len()) as u64;
        if let Some(arrivals) = self.arrivals.get_mut(&history) {
            let mut at = 0..;
            arrivals.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
        }
        Ok(removed)
    }

    /// Removes every row of a table and all that belongs to it.
    pub(super) fn clear(&mut self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Committed {
        let target = &table.target.name;
        let mut committed = Committed::default();
        if let Some(stored) = self.tables.get_mut(target) {
            committed.deleted = stored.rows.drain(..).count() as u64;
        }
        if table.write_mode == WriteMode::AppendDedup {
            if let Some(stored) = self.tables.get_mut(&Self::history_name(table)) {
                stored.rows.clear();
            }
            self.arrivals.remove(&Self::history_name(table));
            self.tombstones.retain(|(of, _), _| of != target);
        }
        self.drop_beside(&beside(table, &plan.sync));
        self.seen.remove(&(target.clone(), plan.sync.clone()));
        self.forget(plan, table, fence);
        committed
    }
}
