//! Rows that go by a condition, one comparison at a time.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use highwater_core::deletion::{Equal, Group, PARENT_ID, ROW_ID};
use highwater_core::text::{TextColumn, convert};
use highwater_core::{CommittedTables, Deletion, Error, Plan, Result, TableName, WriteMode};

use super::tables::{Contents, key};

/// Refuses modes in which rows are not removed by a condition.
pub(super) fn check(plan: &Plan, deletion: &Deletion) -> Result<()> {
    let children = deletion.relations.iter().map(|relation| &relation.table);
    for table in std::iter::once(&deletion.table).chain(children) {
        let mode = plan.tables.get(table).map(|table| table.write_mode);
        if matches!(
            mode,
            Some(WriteMode::AppendDedup | WriteMode::Replace | WriteMode::ReplaceDedup)
        ) {
            return Err(Error::unsupported("Rows are not removed by a condition in this mode")
                .context("table", table)
                .hint("write_mode: overwrite"));
        }
    }
    Ok(())
}

impl Contents {
    /// Removes the rows from the tables.
    pub(super) fn remove(&mut self, plan: &Plan, deletion: &Deletion) -> Result<CommittedTables> {
        let mut removed: BTreeMap<&TableName, BTreeSet<Option<String>>> = BTreeMap::new();
        let mut committed = CommittedTables::new();
        let mut groups = Vec::new();
        for group in &deletion.groups {
            groups.push(Wanted::new(plan, deletion, group)?);
        }
        let ids = self.take(plan, &deletion.table, &mut committed, |row| {
            groups.iter().try_fold(true, |all, group| Ok(all && group.holds(row)?))
        })?;
        removed.insert(&deletion.table, ids);
        for relation in &deletion.relations {
            let Some(parents) = removed.get(&relation.parent).cloned() else { continue };
            if !plan.tables.contains_key(&relation.table) {
                continue;
            }
            let ids = self.take(plan, &relation.table, &mut committed, |row| {
                let parent = key(row, &[PARENT_ID.to_owned()])?.pop().flatten();
                Ok(parent.is_some() && parents.contains(&parent))
            })?;
            removed.entry(&relation.table).or_default().extend(ids);
        }
        Ok(committed)
    }

    /// Takes the rows that `goes` says out of a table; returns their ids.
    fn take(
        &mut self,
        plan: &Plan,
        table: &TableName,
        committed: &mut CommittedTables,
        goes: impl Fn(&RecordBatch) -> Result<bool>,
    ) -> Result<BTreeSet<Option<String>>> {
        let mut ids = BTreeSet::new();
        let target = plan.tables.get(table).map(|table| &table.target.name);
        let Some(stored) = target.and_then(|name| self.tables.get_mut(name)) else {
            return Ok(ids);
        };
        let mut kept = Vec::new();
        for row in stored.rows.drain(..) {
            if !goes(&row)? {
                kept.push(row);
                continue;
            }
            committed.entry(table.clone()).or_default().deleted += 1;
            if row.column_by_name(ROW_ID).is_some() {
                ids.extend(key(&row, &[ROW_ID.to_owned()])?);
            }
        }
        stored.rows = kept;
        Ok(ids)
    }
}

/// A group with its values as text.
struct Wanted {
    any: bool,
    values: Vec<(String, Option<String>)>,
}

impl Wanted {
    fn new(plan: &Plan, deletion: &Deletion, group: &Group) -> Result<Self> {
        let target = plan.tables.get(&deletion.table).map(|table| &table.target);
        let value = |equal: &Equal| -> Result<(String, Option<String>)> {
            let field = target.and_then(|target| target.field(&equal.column));
            let field = field
                .ok_or_else(|| Error::schema("No such column").context("column", &equal.column))?;
            let value = convert(&equal.field, &equal.value, field)?;
            let column = TextColumn::new(field, value.as_ref())?;
            let mut text = String::new();
            column.write(0, &mut text);
            Ok((equal.column.clone(), (!column.is_null(0)).then_some(text)))
        };
        let values = group.equal.iter().map(value).collect::<Result<_>>()?;
        Ok(Self { any: group.any, values })
    }

    fn holds(&self, row: &RecordBatch) -> Result<bool> {
        let mut equal = Vec::new();
        for (column, wanted) in &self.values {
            let there = key(row, std::slice::from_ref(column))?.pop().flatten();
            equal.push(wanted.is_some() && there == *wanted);
        }
        Ok(if self.any { equal.contains(&true) } else { !equal.contains(&false) })
    }
}
