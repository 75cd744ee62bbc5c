//! The tables in memory, and how their shape changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{Field, Schema};
use highwater_core::text::TextColumn;
use highwater_core::{Instant, Plan, Result, SchemaChange, Table, TableName, TablePlan, WriteMode};

use super::merge::Position;
use super::rebuild::Mark;
use super::store::Sync;

/// The values of some columns of a row as text.
pub(super) type Key = Vec<Option<String>>;

/// Everything in the system.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    pub(super) tables: BTreeMap<TableName, Stored>,
    /// By target table and key: the position of the newest deletion.
    pub(super) tombstones: BTreeMap<(TableName, Key), Position>,
    /// By target table: what the tables beside are marked with.
    pub(super) marks: BTreeMap<TableName, Mark>,
    /// By target table and sync: the run whose sweep it is, and the keys that it has seen.
    pub(super) seen: BTreeMap<(TableName, String), (String, BTreeSet<Key>)>,
    /// By history table: when the run began that brought each row.
    pub(super) arrivals: BTreeMap<TableName, Vec<Instant>>,
    pub(super) syncs: BTreeMap<String, Sync>,
    /// By run and target table: what was made anew.
    recreated: BTreeSet<(String, TableName)>,
    identities: u64,
}

/// A table: its rows one by one, in the order they came.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) table: Table,
    pub(super) identity: u64,
    pub(super) rows: Vec<RecordBatch>,
}

impl Stored {
    /// Its rows, one empty batch when there are none.
    pub(super) fn batches(&self) -> Vec<RecordBatch> {
        let empty = RecordBatch::new_empty(Arc::clone(&self.table.schema));
        std::iter::once(empty).chain(self.rows.iter().cloned()).collect()
    }

    /// Gives a row the table's columns, in the table's types.
    pub(super) fn shape(&self, row: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.table.schema.fields().iter().map(|field| -> Result<ArrayRef> {
            Ok(match row.column_by_name(field.name()) {
                None => new_null_array(field.data_type(), row.num_rows()),
                Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
                Some(column) => arrow_cast::cast(column, field.data_type())?,
            })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.table.schema), columns)?)
    }

    pub(super) fn set_field(&mut self, field: Field) -> Result<()> {
        let mut fields: Vec<_> = self.table.schema.fields().iter().cloned().collect();
        match fields.iter_mut().find(|f| f.name() == field.name()) {
            Some(found) => *found = Arc::new(field),
            None => fields.push(Arc::new(field)),
        }
        self.table.schema = Arc::new(Schema::new(fields));
        self.rows = self.rows.iter().map(|row| self.shape(row)).collect::<Result<_>>()?;
        Ok(())
    }

    fn change(&mut self, change: &SchemaChange, key: &[String]) -> Result<()> {
        match change {
            SchemaChange::CreateTable | SchemaChange::Recreate => Ok(()),
            SchemaChange::AddKey => {
                self.table.primary_key = key.to_vec();
                Ok(())
            }
            SchemaChange::AddColumn(field) => match self.table.field(field.name()) {
                Some(_) => Ok(()),
                None => self.set_field(field.clone().with_nullable(true)),
            },
            SchemaChange::WidenColumn { to, .. } => self.set_field(to.clone()),
            SchemaChange::DropNotNull(field) => {
                let there = self.table.field(field.name()).cloned();
                there.map_or(Ok(()), |there| self.set_field(there.with_nullable(true)))
            }
        }
    }
}

/// The values of the named columns of a one-row batch.
pub(super) fn key(row: &RecordBatch, columns: &[String]) -> Result<Key> {
    let schema = row.schema();
    columns
        .iter()
        .map(|name| {
            let index = schema.index_of(name)?;
            let column = TextColumn::new(schema.field(index), row.column(index))?;
            let mut text = String::new();
            column.write(0, &mut text);
            Ok((!column.is_null(0)).then_some(text))
        })
        .collect()
}

impl Contents {
    /// The name of the table that holds the history.
    pub(super) fn history_name(plan: &TablePlan) -> TableName {
        plan.history_name()
    }

    /// Makes or changes the tables as planned. Repeating it changes nothing.
    pub(super) fn prepare(&mut self, run: &Plan, plan: &TablePlan) -> Result<()> {
        if plan.changes.contains(&SchemaChange::Recreate)
            && self.recreated.insert((run.sync_id.clone(), plan.target.name.clone()))
        {
            self.tables.remove(&plan.target.name);
            self.tables.remove(&Self::history_name(plan));
            self.tombstones.retain(|(table, _), _| *table != plan.target.name);
        }
        self.create(plan.target.as_ref().clone());
        if plan.write_mode == WriteMode::AppendDedup {
            let fields = plan.target.schema.fields().iter();
            let fields = fields.map(|f| f.as_ref().clone().with_nullable(true)).collect();
            self.create(Table::new(Self::history_name(plan), fields));
        }
        if let (WriteMode::AppendDedup, Some(history)) =
            (plan.write_mode, self.tables.get_mut(&Self::history_name(plan)))
        {
            // It may have been without the columns that came while the mode was another one.
            for field in plan.target.schema.fields() {
                let key = &plan.target.primary_key;
                history.change(&SchemaChange::AddColumn(field.as_ref().clone()), key)?;
            }
        }
        for name in [plan.target.name.clone(), Self::history_name(plan)] {
            let Some(stored) = self.tables.get_mut(&name) else { continue };
            let history = name != plan.target.name;
            for change in &plan.changes {
                let skipped = history && matches!(change, SchemaChange::AddKey);
                if !skipped {
                    stored.change(change, &plan.target.primary_key)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn create(&mut self, table: Table) {
        if !self.tables.contains_key(&table.name) {
            self.identities += 1;
            let identity = self.identities;
            let name = table.name.clone();
            self.tables.insert(name, Stored { table, identity, rows: Vec::new() });
        }
    }
}
