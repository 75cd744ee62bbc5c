//! Cursors that a source keeps as rows of a table at a destination: CloudQuery's state backend.
//!
//! The rows of that table are the truth, so that a person who looks at it, edits it or drops it
//! is right about what happens. They are read when a run begins and become the source's
//! [`CursorKey::Global`] cursor; when the source moves it, they are written with the data (the
//! destination keeps them itself) or after the data of every destination is durable (another one
//! keeps them).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Cursor, CursorKey, Destination, Error, Fence, LogicalType, Message, Op,
    Output, Partition, Plan, ReadMode, Result, Table, TableName, TablePlan, WriteMode, text,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::options::{Keeper, StateTable, SyncRequest};
use crate::schema;

/// The content of a state table, as the source's [`CursorKey::Global`] cursor carries it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StateRows {
    /// By key.
    pub rows: BTreeMap<String, StateRow>,
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRow {
    /// The plugin's own text.
    pub value: String,
    /// Grows with every change.
    pub version: u64,
}

/// The shape of a state table: `key, value, version`.
pub fn table(name: &str) -> Table {
    let fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
        Field::new(VERSION, DataType::UInt64, true),
    ];
    Table::new(TableName::new(name), fields).with_primary_key(["key"])
}

const VERSION: &str = "version";

/// The table with versions of the type that `there` has for them: CloudQuery's SQLite destination
/// makes whole numbers of them.
fn as_there(mut table: Table, there: &Table) -> Table {
    let version = there.field(VERSION).and_then(|field| LogicalType::of(field).ok());
    if !matches!(version, Some(LogicalType::Integer { signed: true, .. })) {
        return table;
    }
    let fields = table.schema.fields().iter().map(|field| match field.name().as_str() {
        VERSION => Arc::new(Field::new(VERSION, DataType::Int64, true)),
        _ => Arc::clone(field),
    });
    table.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    table
}

/// Whether a table looks like one that cursors are kept in, by whatever plugin.
pub fn is_one(table: &Table) -> bool {
    let mut names: Vec<&str> =
        table.column_names().filter(|name| !name.starts_with("_cq_")).collect();
    names.sort_unstable();
    matches!(names[..], ["key", "value"] | ["key", "value", "version"])
}

impl StateTable {
    fn destination<'a>(&'a self, request: &'a SyncRequest) -> &'a dyn Destination {
        match &self.keeper {
            Keeper::Target(index) => request.targets[*index].destination.as_ref(),
            Keeper::Apart { destination, .. } => destination.as_ref(),
        }
    }

    /// Reads the table; nothing when it is not there. With `prepare` a keeper that cannot tell
    /// whether it is there makes it first, as CloudQuery's own client does.
    ///
    /// # Errors
    /// What the keeper says.
    pub(crate) async fn load(&self, request: &SyncRequest, prepare: bool) -> Result<Cursor> {
        let keeper = self.destination(request);
        let mut table = self.table.clone();
        table.name = keeper.target_name(&table.name);
        if keeper.capabilities().describes_tables {
            if keeper.describe(std::slice::from_ref(&table.name)).await?.iter().all(Option::is_none)
            {
                return Ok(Cursor(Value::Null));
            }
        } else if prepare {
            let plan = self.plan(keeper, "state").await?;
            keeper.migrate(&plan).await?;
        } else {
            return Ok(Cursor(Value::Null));
        }
        let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
        let collect = async {
            let mut rows = StateRows::default();
            while let Some(message) = messages.recv().await {
                if let Message::Batch(batch) = message {
                    rows.take(&batch.rows)?;
                }
            }
            Ok::<_, Error>(rows)
        };
        let (read, rows) = tokio::join!(keeper.read(&table, output), collect);
        read.map_err(|e| e.context("state table", &self.table.name))?;
        let rows = rows?;
        if rows.rows.is_empty() {
            return Ok(Cursor(Value::Null));
        }
        let value = serde_json::to_value(&rows);
        Ok(Cursor(value.map_err(|e| Error::internal("State rows are no JSON").caused_by(e))?))
    }

    /// A plan of this table alone, with what has to change before its rows fit.
    async fn plan(&self, keeper: &dyn Destination, sync: &str) -> Result<Plan> {
        let table = self.table_plan(keeper).await?;
        Ok(Plan {
            sync: sync.to_owned(),
            sync_id: "state".to_owned(),
            started_at: highwater_core::Instant::now(),
            state_with_data: false,
            sync_group_id: None,
            tables: BTreeMap::from([(table.name().clone(), table)]),
        })
    }

    /// How the table is written at its keeper.
    ///
    /// # Errors
    /// `Schema` when a table of that name has other columns.
    pub(crate) async fn table_plan(&self, keeper: &dyn Destination) -> Result<TablePlan> {
        let capabilities = keeper.capabilities();
        let overwrites = capabilities.write_modes.contains(&WriteMode::Overwrite);
        let name = keeper.target_name(&self.table.name);
        let there = if capabilities.describes_tables {
            let described = keeper.describe(std::slice::from_ref(&name)).await?;
            described.into_iter().next().flatten().map(|there| there.table)
        } else {
            None
        };
        let source = match &there {
            Some(there) => as_there(self.table.clone(), there),
            None => self.table.clone(),
        };
        let mut target = source.clone();
        target.name = name;
        if !overwrites {
            // The newest version of a key counts.
            target.primary_key.clear();
        }
        let mut plan = TablePlan {
            is_state: true,
            ..TablePlan::new(
                Arc::new(source),
                Arc::new(target),
                ReadMode::Incremental,
                if overwrites { WriteMode::Overwrite } else { WriteMode::Append },
            )
        };
        plan.changes = schema::changes(keeper, &plan, there.as_ref())
            .map_err(|e| e.context("state table", &self.table.name))?;
        Ok(plan)
    }

    /// The rows of a cursor, as a batch of the table; `None` when there is no row.
    ///
    /// # Errors
    /// `Internal` when the cursor is none of a state table.
    pub(crate) fn batch(&self, cursor: &Cursor) -> Result<Option<Batch>> {
        let rows: StateRows = match &cursor.0 {
            Value::Null => StateRows::default(),
            value => serde_json::from_value(value.clone()).map_err(|e| {
                Error::internal("A cursor is no content of a state table").caused_by(e)
            })?,
        };
        if rows.rows.is_empty() {
            return Ok(None);
        }
        let table = Arc::new(self.table.clone());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.rows.keys())),
            Arc::new(StringArray::from_iter_values(rows.rows.values().map(|r| &r.value))),
            Arc::new(UInt64Array::from_iter_values(rows.rows.values().map(|r| r.version))),
        ];
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns)?;
        Ok(Some(Batch { table, op: Op::Upsert, rows }))
    }

    /// Writes the rows at a keeper that gets none of the data. Called only after the data is
    /// durable everywhere.
    ///
    /// # Errors
    /// What the keeper says.
    pub(crate) async fn save_apart(
        &self,
        keeper: &dyn Destination,
        fence: &Fence,
        cursor: &Cursor,
    ) -> Result<()> {
        let Some(batch) = self.batch(cursor)? else { return Ok(()) };
        crash::at(CrashPoint::StateSave);
        let plan = self.plan(keeper, &fence.sync).await?;
        let tables = vec![self.table.name.clone()];
        let partition = Partition { tables, id: "state".to_owned(), bounds: Value::Null };
        let mut writer = keeper.writer(&plan, &partition, fence).await?;
        for table in plan.tables.values() {
            writer.write(shaped(&batch, table)?).await?;
        }
        writer.commit(&Checkpoint::default()).await?;
        crash::at(CrashPoint::StateSaved);
        Ok(())
    }
}

impl StateRows {
    /// Takes rows in; of several with one key the highest version counts, of equal ones the last.
    fn take(&mut self, rows: &RecordBatch) -> Result<()> {
        let column = |name: &str| {
            rows.column_by_name(name).ok_or_else(|| {
                Error::schema("The state table lacks a column").context("column", name)
            })
        };
        let keys = column("key")?.as_string_opt::<i32>();
        let values = column("value")?.as_string_opt::<i32>();
        let versions = column("version")?.as_primitive_opt::<UInt64Type>();
        let (Some(keys), Some(values), Some(versions)) = (keys, values, versions) else {
            return Err(Error::schema("The state table has columns of other types")
                .hint("it must be `key` and `value` of text and `version` of whole numbers; give another `backend_options.table_name`"));
        };
        for row in 0..rows.num_rows() {
            if keys.is_null(row) || values.is_null(row) {
                continue;
            }
            let version = if versions.is_null(row) { 0 } else { versions.value(row) };
            let new = StateRow { value: values.value(row).to_owned(), version };
            match self.rows.get(keys.value(row)) {
                Some(old) if old.version > version => {}
                _ => drop(self.rows.insert(keys.value(row).to_owned(), new)),
            }
        }
        Ok(())
    }
}

/// Rows of a state table as its keeper stores them.
///
/// # Errors
/// `Data` when a version is beyond what the keeper can store.
pub(crate) fn shaped(batch: &Batch, table: &TablePlan) -> Result<Batch> {
    let rows = text::convert_rows(&batch.rows, &table.target)?;
    Ok(Batch { table: Arc::clone(&table.source), op: batch.op, rows })
}

/// Splits a checkpoint: what the destinations keep by themselves, and what is kept in the table.
pub(crate) fn split(checkpoint: &Checkpoint) -> (Checkpoint, Option<Cursor>) {
    let mut plain = checkpoint.clone();
    let kept = plain.cursors.remove(&CursorKey::Global);
    (plain, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(of: &[(&str, &str, Option<u64>)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(of.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter_values(of.iter().map(|r| r.1))),
            Arc::new(UInt64Array::from_iter(of.iter().map(|r| r.2))),
        ];
        RecordBatch::try_new(table("s").schema, columns).unwrap()
    }

    #[test]
    fn of_several_rows_with_one_key_the_highest_version_counts() {
        let mut state = StateRows::default();
        state
            .take(&rows(&[("a", "old", Some(1)), ("a", "new", Some(3)), ("b", "x", None)]))
            .unwrap();
        state.take(&rows(&[("a", "older", Some(2)), ("b", "y", None)])).unwrap();
        let found: Vec<_> =
            state.rows.iter().map(|(k, r)| (k.as_str(), r.value.as_str())).collect();
        assert_eq!(found, [("a", "new"), ("b", "y")]);
    }

    #[test]
    fn a_cursor_becomes_rows_and_no_cursor_none() {
        let state = StateTable { table: table("cq_state"), keeper: Keeper::Target(0) };
        assert!(state.batch(&Cursor(Value::Null)).unwrap().is_none());
        let cursor = Cursor(json!({"rows": {"k": {"value": "v", "version": 7}}}));
        let batch = state.batch(&cursor).unwrap().unwrap();
        assert_eq!(batch.rows, rows(&[("k", "v", Some(7))]));
        assert!(state.batch(&Cursor(json!([1]))).is_err());
    }
}
