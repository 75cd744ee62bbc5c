//! The write modes, one row at a time in the order of arrival.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use highwater_core::plan::SOURCE_NAME;
use highwater_core::{
    Batch, Committed, Fence, Instant, Op, Plan, ReadMode, Result, TablePlan, WriteMode,
};

use super::rebuild::beside;
use super::tables::{Contents, Key, key};
use crate::rows::TextRow;

/// Where a version of a row stands: its cursor, NULL lowest.
///
/// Integers count as numbers and everything else as text, which is enough for the cursors that
/// tests use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Position {
    Null,
    Number(i128),
    Text(String),
}

pub(super) fn position(row: &RecordBatch, plan: &TablePlan) -> Result<Position> {
    let Some(field) = &plan.order_by else { return Ok(Position::Null) };
    let text = key(row, std::slice::from_ref(field))?.pop().flatten();
    Ok(match text {
        None => Position::Null,
        Some(text) => match text.parse() {
            Ok(number) => Position::Number(number),
            Err(_) => Position::Text(text),
        },
    })
}

/// Whether rows are matched by key.
pub(super) fn is_keyed(plan: &TablePlan) -> bool {
    let by_key = matches!(
        plan.write_mode,
        WriteMode::Overwrite
            | WriteMode::OverwriteDeleteStale
            | WriteMode::AppendDedup
            | WriteMode::ReplaceDedup
    );
    by_key && !plan.target.primary_key.is_empty()
}

fn single_rows<'a>(batches: &'a [&'a Batch]) -> impl Iterator<Item = (Op, RecordBatch)> + 'a {
    batches.iter().flat_map(|b| (0..b.rows.num_rows()).map(move |row| (b.op, b.rows.slice(row, 1))))
}

fn values(row: &RecordBatch) -> Result<TextRow> {
    let names: Vec<_> = row.schema().fields().iter().map(|f| f.name().clone()).collect();
    key(row, &names)
}

impl Contents {
    /// Takes the rows of a commit.
    pub(super) fn merge(
        &mut self,
        plan: &Plan,
        table: &TablePlan,
        batches: &[&Batch],
    ) -> Result<Committed> {
        if table.rebuild {
            self.begin_rebuild(plan, table)?;
            return self.merge(plan, &beside(table, &plan.sync), batches);
        }
        self.prepare(plan, table)?;
        if is_keyed(table) {
            return self.merge_by_key(plan, table, batches);
        }
        let Some(stored) = self.tables.get_mut(&table.target.name) else {
            return Ok(Committed::default());
        };
        let before = stored.rows.len();
        for (_, row) in single_rows(batches) {
            let row = stored.shape(&row)?;
            stored.rows.push(row);
        }
        Ok(Committed { written: (stored.rows.len() - before) as u64, ..Committed::default() })
    }

    fn merge_by_key(
        &mut self,
        plan: &Plan,
        table: &TablePlan,
        batches: &[&Batch],
    ) -> Result<Committed> {
        let (target, columns) = (&table.target.name, &table.target.primary_key);
        let dedup = table.write_mode == WriteMode::AppendDedup;
        let ordered = dedup || table.write_mode == WriteMode::ReplaceDedup;
        let mut by_key: BTreeMap<Key, RecordBatch> = BTreeMap::new();
        for row in self.tables.get(target).map_or(&[][..], |stored| &stored.rows) {
            by_key.insert(key(row, columns)?, row.clone());
        }
        let mut seen = BTreeSet::new();
        let mut before: BTreeMap<Key, Option<RecordBatch>> = BTreeMap::new();
        for (op, row) in single_rows(batches) {
            let row_key = key(&row, columns)?;
            before.entry(row_key.clone()).or_insert_with(|| by_key.get(&row_key).cloned());
            if op == Op::Upsert {
                seen.insert(row_key.clone());
            }
            if dedup && !(table.sweep && self.is_there(table, by_key.get(&row_key), op, &row)?) {
                self.append_history(plan, table, &row)?;
            }
            if ordered && !self.is_newest(table, &row_key, by_key.get(&row_key), op, &row)? {
                continue;
            }
            let tombstone = (target.clone(), row_key.clone());
            match op {
                Op::Upsert => {
                    // A column that only the table has keeps its value.
                    let kept = by_key.get(&row_key).cloned();
                    let row = self.overlay(table, kept.as_ref(), &row)?;
                    by_key.insert(row_key, row);
                    self.tombstones.remove(&tombstone);
                }
                Op::Delete => {
                    by_key.remove(&row_key);
                    if ordered {
                        self.tombstones.insert(tombstone, position(&row, table)?);
                    }
                }
            }
        }
        let mut committed = Committed::default();
        for (row_key, before) in &before {
            match (before, by_key.get(row_key)) {
                (Some(_), None) => committed.deleted += 1,
                (None, None) => {}
                (Some(old), Some(new)) if values(old)? == values(new)? => committed.unchanged += 1,
                (_, Some(_)) => committed.written += 1,
            }
        }
        if let Some(stored) = self.tables.get_mut(target) {
            stored.rows = by_key.into_values().collect();
        }
        if table.sweep && table.reconcile {
            self.see(plan, table, seen);
        }
        Ok(committed)
    }

    /// The new version of a row, with the old values of columns that it does not bring.
    fn overlay(
        &self,
        table: &TablePlan,
        old: Option<&RecordBatch>,
        new: &RecordBatch,
    ) -> Result<RecordBatch> {
        let stored = &self.tables[&table.target.name];
        let shaped = stored.shape(new)?;
        let Some(old) = old else { return Ok(shaped) };
        let columns = stored.table.column_names().enumerate().map(|(index, name)| {
            let kept = new.column_by_name(name).is_none();
            (if kept { old.column(index) } else { shaped.column(index) }).clone()
        });
        Ok(RecordBatch::try_new(stored.table.schema.clone(), columns.collect())?)
    }

    fn is_newest(
        &self,
        table: &TablePlan,
        row_key: &Key,
        current: Option<&RecordBatch>,
        op: Op,
        row: &RecordBatch,
    ) -> Result<bool> {
        let mine = position(row, table)?;
        if op == Op::Delete && mine == Position::Null && current.is_some() {
            // It goes by its arrival.
            return Ok(true);
        }
        let tombstone = self.tombstones.get(&(table.target.name.clone(), row_key.clone()));
        let current = current.map(|current| position(current, table)).transpose()?;
        Ok(tombstone.is_none_or(|t| mine >= *t) && current.is_none_or(|c| mine >= c))
    }

    /// Whether a row is as the table has it.
    fn is_there(
        &self,
        table: &TablePlan,
        current: Option<&RecordBatch>,
        op: Op,
        row: &RecordBatch,
    ) -> Result<bool> {
        let Some(current) = current.filter(|_| op == Op::Upsert) else { return Ok(false) };
        Ok(values(current)? == values(&self.overlay(table, Some(current), row)?)?)
    }

    pub(super) fn append_history(
        &mut self,
        plan: &Plan,
        table: &TablePlan,
        row: &RecordBatch,
    ) -> Result<()> {
        let history = Self::history_name(table);
        if let Some(stored) = self.tables.get_mut(&history) {
            let row = stored.shape(row)?;
            stored.rows.push(row);
            self.arrivals.entry(history).or_default().push(plan.started_at);
        }
        Ok(())
    }

    /// Completes a table; a second time in one run it changes nothing.
    pub(super) fn finish(
        &mut self,
        plan: &Plan,
        table: &TablePlan,
        fence: &Fence,
    ) -> Result<Committed> {
        if plan.state_with_data && self.is_finished(table, fence) {
            return Ok(Committed::default());
        }
        if table.rebuild {
            let deleted = self.swap(plan, table)?;
            return Ok(Committed { deleted, ..Committed::default() });
        }
        self.prepare(plan, table)?;
        if let Some(seconds) = table.history_retention_seconds {
            let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            self.prune(table, Instant(plan.started_at.0.saturating_sub(micros)));
        }
        if table.sweep && table.reconcile {
            return self.end_sweep(plan, table);
        }
        let stale = table.write_mode == WriteMode::OverwriteDeleteStale
            && table.read_mode == ReadMode::FullRefresh;
        if stale { self.delete_stale(plan, table) } else { Ok(Committed::default()) }
    }

    fn prune(&mut self, table: &TablePlan, oldest: Instant) {
        let history = Self::history_name(table);
        let arrivals = self.arrivals.entry(history.clone()).or_default();
        let Some(stored) = self.tables.get_mut(&history) else { return };
        let mut kept = arrivals.iter().map(|at| *at >= oldest);
        stored.rows.retain(|_| kept.next().unwrap_or(true));
        arrivals.retain(|at| *at >= oldest);
    }

    fn delete_stale(&mut self, plan: &Plan, table: &TablePlan) -> Result<Committed> {
        let Some(stored) = self.tables.get_mut(&table.target.name) else {
            return Ok(Committed::default());
        };
        let columns = ["_cq_source_name", "_cq_sync_time"].map(str::to_owned);
        let before = stored.rows.len();
        // All rows of a run carry the time at which it began, in the same text.
        let started = plan.started_at.to_rfc3339().replace('T', " ");
        let mut kept = Vec::new();
        for row in stored.rows.drain(..) {
            let mine = key(&row, &columns)?;
            let seen = mine[1].as_deref() == Some(started.as_str());
            if mine[0].as_deref() != Some(&plan.sync) || seen {
                kept.push(row);
            }
        }
        stored.rows = kept;
        let deleted = (before - stored.rows.len()) as u64;
        self.check_deletes(plan, table, deleted)?;
        Ok(Committed { deleted, ..Committed::default() })
    }

    /// Whether so many rows of the sync may have gone.
    pub(super) fn check_deletes(&self, plan: &Plan, table: &TablePlan, gone: u64) -> Result<()> {
        let mut left = 0;
        for row in self.tables.get(&table.target.name).map_or(&[][..], |stored| &stored.rows) {
            left += u64::from(is_of_sync(row, &plan.sync)?);
        }
        table.check_deletes(gone, left)
    }
}

/// Whether a row came from a sync, as far as it says.
pub(super) fn is_of_sync(row: &RecordBatch, sync: &str) -> Result<bool> {
    if row.column_by_name(SOURCE_NAME).is_none() {
        return Ok(true);
    }
    Ok(key(row, &[SOURCE_NAME.to_owned()])?.pop().flatten().as_deref() == Some(sync))
}
