//! One table and how a run treats it: the plan that an engine would make, and a run that follows
//! it step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_core::guarantee::guarantee;
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Batch, Checkpoint, Committed, CommittedTables, CursorKey, Destination, Error, Fence, Guarantee,
    Instant, LeaseRequest, LogicalType, NullCursor, Op, Owner, Partition, Plan, ReadMode, Result,
    SchemaChange, Source, SourceDelivery, State, Table, TableName, TablePlan, TableRecord,
    WriteMode, Writer,
};
use serde_json::{Value, json};

use crate::harness::Harness;

/// A table and what a run does with it.
#[derive(Debug, Clone)]
pub struct Job {
    /// The sync.
    pub sync: String,
    /// The table at the source; at the destination it has the name that the destination gives it.
    pub table: Table,
    /// How it is read.
    pub read_mode: ReadMode,
    /// How it is written.
    pub write_mode: WriteMode,
    /// What orders the versions of a row.
    pub cursor_field: Option<String>,
    /// What becomes of rows without a cursor value.
    pub null_cursor: NullCursor,
    /// How far back an incremental read starts.
    pub lookback: u64,
    /// How long the history is kept.
    pub history_retention_seconds: Option<u64>,
    /// When the run begins; `None`: now.
    pub started_at: Option<Instant>,
    /// What changes at the destination; `None`: what has to.
    pub changes: Option<Vec<SchemaChange>>,
    /// Whether everything is read although the read is incremental.
    pub sweep: bool,
    /// Whether such a read deletes what it did not bring.
    pub reconcile: bool,
    /// Whether a deletion of many rows is refused.
    pub guards_deletes: bool,
}

impl Job {
    /// A full refresh; `append-dedup` is incremental by `updated_at`, as it needs a cursor field.
    pub fn new(table: Table, write_mode: WriteMode) -> Self {
        let job = Self {
            sync: "suite".to_owned(),
            table,
            read_mode: ReadMode::FullRefresh,
            write_mode,
            cursor_field: None,
            null_cursor: NullCursor::Include,
            lookback: 0,
            history_retention_seconds: None,
            started_at: None,
            changes: None,
            sweep: false,
            reconcile: false,
            guards_deletes: false,
        };
        if write_mode == WriteMode::AppendDedup { job.by_cursor("updated_at") } else { job }
    }

    /// A full read of a table.
    pub fn reading(table: Table) -> Self {
        Self::new(table, WriteMode::Append)
    }

    /// Incremental, by this cursor field.
    #[must_use]
    pub fn by_cursor(self, field: &str) -> Self {
        Self { cursor_field: Some(field.to_owned()), read_mode: ReadMode::Incremental, ..self }
    }

    /// Versions of a row are ordered by this column; how it is read stays as it is.
    #[must_use]
    pub fn ordered_by(self, field: &str) -> Self {
        Self { cursor_field: Some(field.to_owned()), ..self }
    }

    /// Incremental by `updated_at`, and everything is read all the same; what is not brought is
    /// deleted.
    #[must_use]
    pub fn sweeping(self) -> Self {
        Self { sweep: true, reconcile: true, ..self.by_cursor("updated_at") }
    }

    /// Refuses a deletion of many rows.
    #[must_use]
    pub fn guarded(self) -> Self {
        Self { guards_deletes: true, ..self }
    }

    /// Of a table whose full refresh can go on where it was interrupted.
    #[must_use]
    pub fn resumable(mut self) -> Self {
        self.table.resumable = true;
        self
    }

    /// The key under which the position of a read is kept.
    pub fn position_key(&self) -> CursorKey {
        let table = self.table.name.clone();
        match self.read_mode == ReadMode::FullRefresh && self.table.resumable {
            true => CursorKey::Partition(table, FULL_REFRESH.to_owned()),
            false => CursorKey::Table(table),
        }
    }

    /// The same for another sync.
    #[must_use]
    pub fn of_sync(&self, sync: &str) -> Self {
        Self { sync: sync.to_owned(), ..self.clone() }
    }

    /// The same for another shape of the table.
    #[must_use]
    pub fn of_table(&self, table: Table) -> Self {
        Self { table, ..self.clone() }
    }

    /// The plan for reading: source and target are the same.
    pub fn source_plan(&self, source: &dyn Source) -> Plan {
        let mut table = self.table_plan(self.table.name.clone(), Vec::new());
        if let SourceDelivery::Again(reason) = source.delivery(&table) {
            table.guarantee = Guarantee::AtLeastOnce(reason);
        }
        self.plan_of(table, true)
    }

    fn table_plan(&self, target: TableName, changes: Vec<SchemaChange>) -> TablePlan {
        let source = Arc::new(self.table.clone());
        let mut target = Table { name: target, ..self.table.clone() };
        if self.write_mode == WriteMode::OverwriteDeleteStale {
            let fields = metadata_fields().into_iter().map(Arc::new);
            let fields: Vec<_> = fields.chain(source.schema.fields().iter().cloned()).collect();
            target.schema = Arc::new(Schema::new(fields));
        }
        if self.write_mode == WriteMode::Append {
            // Several versions of a row stand side by side: nothing is unique.
            target.primary_key.clear();
        }
        TablePlan {
            cursor_field: self.cursor_field.clone(),
            order_by: self.cursor_field.clone(),
            null_cursor: self.null_cursor,
            lookback: self.lookback,
            history_retention_seconds: self.history_retention_seconds,
            changes,
            sweep: self.sweep,
            reconcile: self.reconcile,
            guards_deletes: self.guards_deletes,
            ..TablePlan::new(source, Arc::new(target), self.read_mode, self.write_mode)
        }
    }

    fn plan_of(&self, table: TablePlan, state_with_data: bool) -> Plan {
        static RUNS: AtomicU64 = AtomicU64::new(1);
        Plan {
            sync_group_id: None,
            sync: self.sync.clone(),
            sync_id: format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed)),
            started_at: self.started_at.unwrap_or_else(Instant::now),
            state_with_data,
            tables: BTreeMap::from([(table.name().clone(), table)]),
        }
    }

    /// The plan for writing of a first sync, from what the destination has now.
    ///
    /// # Errors
    /// What the destination says.
    pub async fn plan(&self, destination: &dyn Destination) -> Result<Plan> {
        self.plan_after(destination, &State::default()).await
    }

    /// The plan for writing, from what the destination has now and what the state remembers.
    ///
    /// # Errors
    /// What the destination says.
    pub async fn plan_after(&self, destination: &dyn Destination, state: &State) -> Result<Plan> {
        let target = destination.target_name(&self.table.name);
        let mut table = self.table_plan(target, Vec::new());
        self.settle_generation(&mut table, state);
        table.changes = match &self.changes {
            Some(changes) => changes.clone(),
            None => changes(destination, &table).await?,
        };
        let with_data = destination.state_store().is_some();
        table.guarantee = guarantee(
            &SourceDelivery::Once,
            destination.capabilities().delivery,
            with_data,
            self.write_mode,
            &table.target.primary_key,
        );
        Ok(self.plan_of(table, with_data))
    }
}

impl Job {
    /// The generation as the engine counts it: a full refresh that does not go on begins a new
    /// one; an incremental read goes on with that of the record, beside where a refresh said so.
    fn settle_generation(&self, table: &mut TablePlan, state: &State) {
        let record = state.tables.get(table.name()).cloned().unwrap_or_default();
        let unfinished = record.finished_generation.is_none_or(|done| done < record.generation);
        table.generation = record.generation;
        match self.read_mode {
            ReadMode::Incremental => {
                table.rebuild = unfinished && record.rebuild;
                table.sweep &= !table.rebuild;
                table.reconcile &= table.sweep;
                let unfinished = CursorKey::Partition(table.name().clone(), FULL_REFRESH.into());
                table.resumes_first_read = state.cursors.contains_key(&unfinished)
                    && state.table_cursor(table.name()).is_none();
            }
            ReadMode::FullRefresh => {
                let has_position = state.cursors.contains_key(&self.position_key());
                if !(self.table.resumable && unfinished && has_position) {
                    table.generation += 1;
                }
            }
        }
    }
}

/// The columns that `overwrite-delete-stale` needs to tell which rows a sync has seen.
const SYNC_TIME: &str = "_cq_sync_time";
const SOURCE_NAME: &str = "_cq_source_name";

fn metadata_fields() -> [Field; 2] {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    [Field::new(SYNC_TIME, instant, true), Field::new(SOURCE_NAME, DataType::Utf8, true)]
}

/// What has to change before rows fit: as the engine computes it, without its refusals.
async fn changes(destination: &dyn Destination, plan: &TablePlan) -> Result<Vec<SchemaChange>> {
    let described = destination.describe(std::slice::from_ref(&plan.target.name)).await?;
    let Some(existing) = described.into_iter().next().flatten() else {
        return Ok(vec![SchemaChange::CreateTable]);
    };
    if plan.rebuild {
        return Ok(Vec::new());
    }
    let (existing, key) = (existing.table, &plan.target.primary_key);
    let mut changes = Vec::new();
    for field in plan.target.schema.fields() {
        let Some(there) = existing.field(field.name()) else {
            changes.push(SchemaChange::AddColumn(field.as_ref().clone()));
            continue;
        };
        let wanted = LogicalType::of(&destination.stored_field(field)?)?;
        let present = LogicalType::of(there)?;
        if !wanted.widens_to(&present) && present.widens_to(&wanted) {
            let (from, to) = (there.clone(), field.as_ref().clone());
            changes.push(SchemaChange::WidenColumn { from, to });
        }
        if field.is_nullable() && !there.is_nullable() && !key.contains(field.name()) {
            changes.push(SchemaChange::DropNotNull(there.clone()));
        }
    }
    if existing.primary_key.is_empty() && !key.is_empty() {
        changes.push(SchemaChange::AddKey);
    }
    Ok(changes)
}

/// A run of a [`Job`] at the destination of a harness: lease taken, plan made.
pub struct Run {
    /// The destination of this run.
    pub destination: Box<dyn Destination>,
    /// The plan.
    pub plan: Plan,
    /// The only partition.
    pub partition: Partition,
    /// The right to commit.
    pub fence: Fence,
    /// What was committed before.
    pub state: State,
    /// The key of its checkpoints.
    position_key: CursorKey,
}

impl Run {
    /// Begins a run.
    ///
    /// # Errors
    /// `Fenced` when another run holds the lease; else what the destination says.
    pub async fn try_open(
        harness: &dyn Harness,
        job: &Job,
        request: &LeaseRequest,
    ) -> Result<Self> {
        Self::try_open_at(harness.destination().await, job, request).await
    }

    async fn try_open_at(
        destination: Box<dyn Destination>,
        job: &Job,
        request: &LeaseRequest,
    ) -> Result<Self> {
        let state = match destination.state_store() {
            Some(store) => store.open(&job.sync, request).await?,
            None => State {
                fence: Some(Fence { sync: job.sync.clone(), epoch: 1 }),
                ..State::default()
            },
        };
        let fence = state.fence.clone();
        let fence = fence.ok_or_else(|| Error::internal("The store gave no fence"))?;
        let plan = job.plan_after(destination.as_ref(), &state).await?;
        let tables = vec![job.table.name.clone()];
        let partition = Partition { tables, id: "all".to_owned(), bounds: Value::Null };
        let position_key = job.position_key();
        Ok(Self { destination, plan, partition, fence, state, position_key })
    }

    /// Begins a run that takes the lease from any other.
    pub async fn open(harness: &dyn Harness, job: &Job) -> Self {
        let request = LeaseRequest { owner: Owner::this_process(), take_over: true };
        let opened = Self::try_open(harness, job, &request).await;
        opened.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// The plan of the table.
    pub fn table(&self) -> &TablePlan {
        self.plan.tables.values().next().expect("a job has one table")
    }

    /// A writer for the only partition.
    pub async fn writer(&self) -> Box<dyn Writer> {
        let writer = self.destination.writer(&self.plan, &self.partition, &self.fence).await;
        writer.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// A writer for a partition of another id.
    pub async fn writer_of(&self, partition: &str) -> Box<dyn Writer> {
        let partition = Partition { id: partition.to_owned(), ..self.partition.clone() };
        let writer = self.destination.writer(&self.plan, &partition, &self.fence).await;
        writer.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// A batch of the table as the engine hands it to a writer: with the target's columns, and
    /// all of them nullable for deletions.
    pub fn batch(&self, op: Op, rows: &RecordBatch) -> Batch {
        let target = &self.table().target.schema;
        let columns = target.fields().iter().map(|field| self.column(field, rows)).collect();
        let schema = match op {
            Op::Upsert => Arc::clone(target),
            Op::Delete => {
                let fields = target.fields().iter();
                let fields = fields.map(|f| f.as_ref().clone().with_nullable(true));
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            }
        };
        let rows = RecordBatch::try_new(schema, columns).expect("rows fit their table");
        Batch { table: Arc::clone(&self.table().source), op, rows }
    }

    fn column(&self, field: &Field, rows: &RecordBatch) -> ArrayRef {
        if let Some(column) = rows.column_by_name(field.name()) {
            return Arc::clone(column);
        }
        let (plan, count) = (&self.plan, rows.num_rows());
        match field.name().as_str() {
            SYNC_TIME => Arc::new(
                TimestampMicrosecondArray::from_value(plan.started_at.0, count)
                    .with_timezone("UTC"),
            ),
            SOURCE_NAME => {
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&plan.sync, count)))
            }
            _ => new_null_array(field.data_type(), count),
        }
    }

    /// A checkpoint at this position of the table.
    pub fn checkpoint(&self, position: i64) -> Checkpoint {
        Checkpoint::of(self.position_key.clone(), json!(position))
    }

    /// Writes and commits in one go, with a cursor.
    ///
    /// # Errors
    /// What the destination says.
    pub async fn try_commit(&self, changes: &[Change], position: i64) -> Result<Committed> {
        let partition = &self.partition;
        let mut writer = self.destination.writer(&self.plan, partition, &self.fence).await?;
        for Change(op, rows) in changes {
            writer.write(self.batch(*op, rows)).await?;
        }
        Ok(total(&writer.commit(&self.checkpoint(position)).await?))
    }

    /// As [`Self::try_commit`].
    pub async fn commit(&self, changes: &[Change], position: i64) -> Committed {
        let committed = self.try_commit(changes, position).await;
        committed.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// Completes the table.
    ///
    /// # Errors
    /// What the destination says.
    pub async fn try_finish(&self) -> Result<Committed> {
        self.destination.finish(&self.plan, self.table(), &self.fence).await
    }

    /// As [`Self::try_finish`].
    pub async fn finish(&self) -> Committed {
        self.try_finish().await.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// Gives the lease back.
    pub async fn release(self) {
        if let Some(store) = self.destination.state_store() {
            store.release(&self.fence).await.unwrap_or_else(|e| panic!("{}", e.full_message()));
        }
    }
}

/// What a commit did, all tables together.
pub fn total(committed: &CommittedTables) -> Committed {
    committed.values().fold(Committed::default(), |mut sum, table| {
        sum += *table;
        sum
    })
}

/// Rows on their way to a writer.
#[derive(Debug, Clone)]
pub struct Change(pub Op, pub RecordBatch);

/// New versions of rows.
pub fn upsert(rows: &RecordBatch) -> Change {
    Change(Op::Upsert, rows.clone())
}

/// Rows that the source no longer has.
pub fn delete(rows: &RecordBatch) -> Change {
    Change(Op::Delete, rows.clone())
}

/// A whole run: opened, all changes in one commit, finished, released.
///
/// # Errors
/// What the destination says; the run is abandoned then, as by a crash.
pub async fn try_sync(harness: &dyn Harness, job: &Job, changes: &[Change]) -> Result<Committed> {
    sync_at(harness.destination().await, job, changes).await
}

/// As [`try_sync`], at this destination.
///
/// # Errors
/// As [`try_sync`].
pub async fn sync_at(
    destination: Box<dyn Destination>,
    job: &Job,
    changes: &[Change],
) -> Result<Committed> {
    let request = LeaseRequest { owner: Owner::this_process(), take_over: true };
    let run = Run::try_open_at(destination, job, &request).await?;
    let position = run.state.table_cursor(&job.table.name).and_then(|c| c.0.as_i64());
    let mut committed = run.try_commit(changes, position.unwrap_or(0) + 1).await?;
    committed += run.try_finish().await?;
    run.release().await;
    Ok(committed)
}

/// As [`try_sync`].
pub async fn sync(harness: &dyn Harness, job: &Job, changes: &[Change]) -> Committed {
    let committed = try_sync(harness, job, changes).await;
    committed.unwrap_or_else(|e| panic!("{}", e.full_message()))
}

/// What a reader sees of the table of a job; nothing when it does not exist.
pub async fn visible(harness: &dyn Harness, job: &Job) -> Vec<RecordBatch> {
    let name = harness.destination().await.target_name(&job.table.name);
    harness.rows(&name).await.unwrap_or_default()
}

/// What a reader sees of the history of a job in `append-dedup`.
pub async fn visible_history(harness: &dyn Harness, job: &Job) -> Vec<RecordBatch> {
    let name = harness.destination().await.target_name(&job.table.name);
    let history = name.renamed(format!("{}_history", name.name));
    harness.rows(&history).await.unwrap_or_default()
}

/// Lets the table of a job be read again from the beginning, as `highwater refresh` does.
pub async fn refresh(harness: &dyn Harness, job: &Job, rebuild: bool) {
    let destination = harness.destination().await;
    let store = destination.state_store().expect("a destination with state");
    let request = LeaseRequest { owner: Owner::this_process(), take_over: true };
    let state = store.open(&job.sync, &request).await;
    let fence = state.unwrap_or_else(|e| panic!("{}", e.full_message())).fence.expect("a fence");
    let refreshed = store.refresh(&fence, &job.table.name, rebuild).await;
    refreshed.unwrap_or_else(|e| panic!("{}", e.full_message()));
    store.release(&fence).await.unwrap_or_else(|e| panic!("{}", e.full_message()));
}

/// What the state says of the table of a job.
pub async fn record(harness: &dyn Harness, job: &Job) -> Option<TableRecord> {
    let destination = harness.destination().await;
    let store = destination.state_store()?;
    let state = store.look(&job.sync).await.unwrap_or_else(|e| panic!("{}", e.full_message()));
    state.tables.get(&job.table.name).cloned()
}
