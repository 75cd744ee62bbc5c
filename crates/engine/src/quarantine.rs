//! The quarantine: a table at the destination for rows to which a mapping could not be done.
//!
//! It is written by the lane of the rows, in their transaction: a position that is durable implies
//! that every row up to it is durable in its table, or here. It shows why the row is here and what
//! of it may be shown: nothing of a column that a mapping drops or hides.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::text::{TextColumn, push_json_string};
use highwater_core::types::{self, extension_field};
use highwater_core::{
    Batch, Deletion, Error, Op, Partition, Plan, ReadMode, Result, Table, TableName, TablePlan,
    WriteMode,
};

use crate::mappings::{self, Mapper, Refusal};
use crate::options::Target;
use crate::{schema, state_table};

/// The name of the table, in the destination's default namespace.
pub const TABLE: &str = "_highwater_quarantine";

/// The shape of the table.
pub fn table() -> Table {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
    let row = extension_field("row", DataType::Utf8, types::JSON);
    let fields = vec![
        text("sync"),
        text("source_table"),
        Field::new("synced_at", utc, true),
        Field::new("generation", DataType::Int64, true),
        text("column"),
        text("reason"),
        types::with_metadata(row, types::DECLARED, "postgresql:jsonb"),
    ];
    Table::new(TableName::new(TABLE), fields)
}

/// What a lane does to rows before anything else, and where rows go to which it cannot be done.
pub(crate) struct Stage {
    mappers: BTreeMap<TableName, Mapper>,
    /// The quarantine, where the destination can have one.
    quarantine: Option<TablePlan>,
}

/// What has become of a batch, and the batch for the quarantine.
pub(crate) struct Staged {
    pub(crate) batch: Batch,
    pub(crate) filtered: u64,
    pub(crate) quarantined: Option<Batch>,
}

impl Stage {
    /// Prepares the mappings of a partition's tables, and adds the quarantine to plan and
    /// partition where there are some.
    ///
    /// # Errors
    /// `Config` for a source table that has the quarantine's name, `Schema` when the quarantine
    /// was given other columns.
    pub(crate) async fn open(
        target: &Target,
        plan: &mut Arc<Plan>,
        partition: &mut Partition,
    ) -> Result<Self> {
        let mut mappers = BTreeMap::new();
        for table in partition.tables.iter().filter_map(|name| plan.tables.get(name)) {
            if !table.mappings.is_empty() {
                let mapper = Mapper::new(&table.mappings, &table.source)?;
                mappers.insert(table.name().clone(), mapper);
            }
        }
        let quarantine = match mappers.is_empty() {
            true => None,
            false => table_plan(target).await?,
        };
        if let Some(table) = &quarantine {
            if plan.tables.contains_key(table.name()) {
                return Err(Error::config("A source table has the name of the quarantine")
                    .context("table", table.name())
                    .hint(format!("skip_tables: [{TABLE}]")));
            }
            partition.tables.push(table.name().clone());
            Arc::make_mut(plan).tables.insert(table.name().clone(), table.clone());
        }
        Ok(Self { mappers, quarantine })
    }

    /// The name of the quarantine, if this lane writes one.
    pub(crate) fn table(&self) -> Option<&TableName> {
        self.quarantine.as_ref().map(TablePlan::name)
    }

    /// Does the table's mappings to rows; `None` where it has none.
    ///
    /// # Errors
    /// `Data` when a mapping fails for a row and there is no quarantine.
    pub(crate) fn apply(
        &self,
        batch: &Batch,
        plan: &Plan,
        table: &TablePlan,
    ) -> Result<Option<Staged>> {
        let Some(mapper) = self.mappers.get(table.name()) else { return Ok(None) };
        let mapped = mapper.apply(batch).map_err(|e| e.context("table", table.name()))?;
        let quarantined = match (&mapped.refusals[..], &self.quarantine) {
            ([], _) => None,
            ([first, ..], None) => {
                return Err(mappings::without_quarantine(table.name(), first));
            }
            (refusals, Some(quarantine)) => {
                let rows = refused(&batch.rows, mapper.shown(), refusals, plan, table)?;
                let source = Arc::clone(&quarantine.source);
                let batch = Batch { table: source, op: Op::Upsert, rows };
                Some(state_table::shaped(&batch, quarantine)?)
            }
        };
        Ok(Some(Staged { batch: mapped.batch, filtered: mapped.filtered, quarantined }))
    }

    /// The deletion as it reads after the mappings of its table.
    ///
    /// # Errors
    /// `Unsupported` where it cannot.
    pub(crate) fn deletion(&self, deletion: &Deletion) -> Result<Option<Deletion>> {
        self.mappers.get(&deletion.table).map(|mapper| mapper.deletion(deletion)).transpose()
    }
}

/// The quarantine of a plan, if a table of it may need one.
///
/// # Errors
/// As [`Stage::open`].
pub(crate) async fn of_plan(target: &Target, plan: &Plan) -> Result<Option<TablePlan>> {
    match plan.tables.values().any(|table| !table.mappings.is_empty()) {
        true => table_plan(target).await,
        false => Ok(None),
    }
}

/// How the quarantine is written; `None` where the destination cannot add rows to a table, or must
/// not make one.
async fn table_plan(target: &Target) -> Result<Option<TablePlan>> {
    let destination = target.destination.as_ref();
    let capabilities = destination.capabilities();
    if !capabilities.write_modes.contains(&WriteMode::Append) {
        return Ok(None);
    }
    let source = table();
    let mut into = source.clone();
    into.name = destination.target_name(&source.name);
    let there = match capabilities.describes_tables {
        true => destination.describe(std::slice::from_ref(&into.name)).await?,
        false => Vec::new(),
    };
    let there = there.into_iter().next().flatten().map(|there| there.table);
    let (source, into) = (Arc::new(source), Arc::new(into));
    let mut plan = TablePlan::new(source, into, ReadMode::Incremental, WriteMode::Append);
    plan.changes = schema::changes(destination, &plan, there.as_ref())
        .map_err(|error| error.context("quarantine", &plan.target.name))?;
    Ok(Some(plan).filter(|plan| target.may_migrate || plan.changes.is_empty()))
}

/// The rows of the quarantine.
fn refused(
    rows: &RecordBatch,
    shown: &[String],
    refusals: &[Refusal],
    plan: &Plan,
    table: &TablePlan,
) -> Result<RecordBatch> {
    let schema = rows.schema_ref();
    let mut columns = Vec::new();
    for name in shown {
        let Ok(at) = schema.index_of(name) else { continue };
        columns.push((name, TextColumn::new(schema.field(at), rows.column(at).as_ref())?));
    }
    let row = |refusal: &Refusal| {
        let mut json = String::from("{");
        let mut text = String::new();
        for (at, (name, column)) in columns.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            push_json_string(&mut json, name);
            json.push(':');
            if column.is_null(refusal.row) {
                json.push_str("null");
                continue;
            }
            text.clear();
            column.write(refusal.row, &mut text);
            push_json_string(&mut json, &text);
        }
        json.push('}');
        json
    };
    let count = refusals.len();
    let every = |text: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, count)))
    };
    let generation = i64::try_from(table.generation).unwrap_or(i64::MAX);
    let synced_at = TimestampMicrosecondArray::from_value(plan.started_at.0, count);
    let of = |values: &mut dyn Iterator<Item = &str>| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    };
    let columns: Vec<ArrayRef> = vec![
        every(&plan.sync),
        every(&table.name().to_string()),
        Arc::new(synced_at.with_timezone("UTC")),
        Arc::new(Int64Array::from_value(generation, count)),
        of(&mut refusals.iter().map(|refusal| refusal.column.as_str())),
        of(&mut refusals.iter().map(|refusal| refusal.reason.as_str())),
        Arc::new(StringArray::from_iter_values(refusals.iter().map(row))),
    ];
    Ok(RecordBatch::try_new(self::table().schema, columns)?)
}
