//! Full refreshes that go on where they were interrupted, refreshes of incremental tables, sweeps.

use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use highwater_core::plan::GENERATION_ID;
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Destination, Error, MetadataColumns, Op, Output,
    Partition, Plan, ReadMode, Reads, Result, Source, SourceDelivery, State, Table, TableName,
    TablePlan, WriteMode,
};
use highwater_engine::{
    Deletes, Generation, Outcome, RunOptions, Silent, StopSignal, Summary, SyncRequest,
    TableOptions, Target, sync,
};
use highwater_testkit::memory::Memory;
use highwater_testkit::scripted::Journal;
use serde_json::json;

/// A source of one table of numbers, each with the version at which it last changed. A read is
/// interrupted after as many rows as it is told.
#[derive(Clone, Default)]
struct Numbers {
    rows: Arc<Mutex<Vec<(i64, i64)>>>,
    breaks_after: Arc<Mutex<Option<usize>>>,
    /// From where each read began, and of which generation it was.
    began: Arc<Mutex<Vec<(i64, u64)>>>,
    resumable: bool,
}

fn name() -> TableName {
    TableName::new("numbers")
}

#[async_trait]
impl Source for Numbers {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        let fields = ["id", "version"].map(|name| Field::new(name, DataType::Int64, false));
        let mut table = Table::new(name(), fields.to_vec()).with_primary_key(["id"]);
        table.cursor_field = Some("version".into());
        table.resumable = self.resumable;
        Ok(vec![table])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn reads(&self) -> Reads {
        Reads::Together
    }

    async fn partitions(&self, _plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(vec![Partition::whole(&name())])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let table = &plan.tables[&name()];
        let key = match table.read_mode {
            ReadMode::Incremental => CursorKey::Table(name()),
            ReadMode::FullRefresh => CursorKey::Partition(name(), FULL_REFRESH.into()),
        };
        let from = state.cursors.get(&key).map_or(0, |cursor| cursor.0.as_i64().unwrap());
        self.began.lock().unwrap().push((from, table.generation));
        let mut rows = self.rows.lock().unwrap().clone();
        rows.retain(|(_, version)| *version > from);
        rows.sort_by_key(|(_, version)| *version);
        let breaks = self.breaks_after.lock().unwrap().take();
        for (at, (id, version)) in rows.into_iter().enumerate() {
            if breaks == Some(at) {
                return Err(Error::transient("The line broke"));
            }
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![id])),
                Arc::new(Int64Array::from(vec![version])),
            ];
            let rows = RecordBatch::try_new(Arc::clone(&table.source.schema), columns)?;
            let source = Arc::clone(&table.source);
            output.batch(Batch { table: source, op: Op::Upsert, rows }).await?;
            if table.read_mode == ReadMode::Incremental || self.resumable {
                output.checkpoint(Checkpoint::of(key.clone(), json!(version))).await?;
            }
        }
        Ok(Completion::Complete)
    }
}

struct Bench {
    source: Numbers,
    memory: Memory,
    request: SyncRequest,
}

impl Bench {
    fn new(read_mode: ReadMode, write_mode: WriteMode, rows: &[(i64, i64)]) -> Self {
        let memory = Memory::new("d", Journal::default());
        let destination: Arc<dyn Destination> = Arc::new(memory.clone());
        let request = SyncRequest {
            sync: "numbers".into(),
            tables: vec![TableOptions {
                name: "*".into(),
                read_mode: Some(read_mode),
                ..TableOptions::default()
            }],
            skip_tables: vec![],
            targets: vec![Target {
                write_mode,
                metadata_columns: MetadataColumns::Airbyte,
                ..Target::new("d", destination)
            }],
            state_table: None,
        };
        let source = Numbers { resumable: true, ..Numbers::default() };
        *source.rows.lock().unwrap() = rows.to_vec();
        Self { source, memory, request }
    }

    async fn run(&self) -> Summary {
        let options = RunOptions {
            take_over: false,
            tasks_max: 1,
            stop: StopSignal::default(),
            observer: Arc::new(Silent),
        };
        sync(Arc::new(self.source.clone()), &self.request, &options).await.unwrap()
    }

    async fn complete(&self) {
        let summary = self.run().await;
        assert_eq!(summary.outcome(), Outcome::Complete, "{summary:?}");
    }

    async fn breaks_after(&self, rows: usize) {
        *self.source.breaks_after.lock().unwrap() = Some(rows);
        assert_ne!(self.run().await.outcome(), Outcome::Complete);
    }

    fn began(&self) -> Vec<(i64, u64)> {
        std::mem::take(&mut self.source.began.lock().unwrap())
    }

    fn column(&self, column: &str) -> Vec<i64> {
        let rows = self.memory.rows(&name()).unwrap_or_default();
        let rows = rows.iter().filter(|rows| rows.num_rows() > 0);
        let mut all: Vec<i64> = rows
            .flat_map(|rows| {
                let column = rows.column_by_name(column).unwrap();
                column.as_primitive::<Int64Type>().values().to_vec()
            })
            .collect();
        all.sort_unstable();
        all
    }

    fn ids(&self) -> Vec<i64> {
        self.column("id")
    }

    /// Asks for everything again.
    async fn refresh(&self, rebuild: bool) {
        let store = self.memory.state_store().unwrap();
        let request = highwater_core::LeaseRequest {
            owner: highwater_core::Owner::this_process(),
            take_over: false,
        };
        let fence = store.open("numbers", &request).await.unwrap().fence.unwrap();
        store.refresh(&fence, &name(), rebuild).await.unwrap();
        store.release(&fence).await.unwrap();
    }
}

const THREE: [(i64, i64); 3] = [(1, 1), (2, 2), (3, 3)];

#[tokio::test]
async fn a_full_refresh_goes_on_where_it_was_interrupted() {
    for mode in [WriteMode::Replace, WriteMode::ReplaceDedup, WriteMode::Append] {
        let bench = Bench::new(ReadMode::FullRefresh, mode, &THREE);
        bench.breaks_after(2).await;
        if mode != WriteMode::Append {
            assert_eq!(bench.ids(), [0_i64; 0], "{mode}: nothing half-filled is visible");
        }
        bench.complete().await;
        assert_eq!(bench.began(), [(0, 1), (2, 1)], "{mode}");
        assert_eq!(bench.ids(), [1, 2, 3], "{mode}");
        // The next one begins anew, and is of another generation.
        bench.complete().await;
        assert_eq!(bench.began(), [(0, 2)], "{mode}");
        let expected: &[i64] =
            if mode == WriteMode::Append { &[1, 1, 2, 2, 3, 3] } else { &[1, 2, 3] };
        assert_eq!(bench.ids(), expected, "{mode}");
    }
}

#[tokio::test]
async fn readers_see_the_old_rows_until_a_full_refresh_is_complete() {
    let bench = Bench::new(ReadMode::FullRefresh, WriteMode::Replace, &THREE);
    bench.complete().await;
    *bench.source.rows.lock().unwrap() = vec![(7, 7), (8, 8)];
    bench.breaks_after(1).await;
    assert_eq!(bench.ids(), [1, 2, 3]);
    bench.complete().await;
    assert_eq!(bench.ids(), [7, 8]);
    assert_eq!(bench.column(GENERATION_ID), [2, 2]);
}

#[tokio::test]
async fn a_source_that_cannot_resume_begins_anew_and_nothing_is_doubled() {
    let mut bench = Bench::new(ReadMode::FullRefresh, WriteMode::Replace, &THREE);
    bench.source.resumable = false;
    bench.breaks_after(2).await;
    bench.complete().await;
    // Nothing was committed, so the generation never was.
    assert_eq!(bench.began(), [(0, 1), (0, 1)]);
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[tokio::test]
async fn the_position_of_a_full_refresh_says_nothing_to_an_incremental_read() {
    let mut bench = Bench::new(ReadMode::FullRefresh, WriteMode::Overwrite, &THREE);
    bench.breaks_after(2).await;
    bench.request.tables[0].read_mode = Some(ReadMode::Incremental);
    bench.complete().await;
    assert_eq!(bench.began().last(), Some(&(0, 1)));
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[tokio::test]
async fn a_refresh_that_keeps_rows_reads_everything_again_into_the_table() {
    let bench = Bench::new(ReadMode::Incremental, WriteMode::AppendDedup, &THREE);
    bench.complete().await;
    *bench.source.rows.lock().unwrap() = vec![(2, 2), (4, 4)];
    bench.refresh(false).await;
    bench.complete().await;
    assert_eq!(bench.began(), [(0, 0), (0, 1)]);
    assert_eq!(bench.ids(), [1, 2, 3, 4]);
    assert_eq!(bench.column(GENERATION_ID), [0, 0, 1, 1]);
    bench.complete().await;
    assert_eq!(bench.began(), [(4, 1)]);
}

#[tokio::test]
async fn a_refresh_that_removes_rows_swaps_them_in_when_it_is_complete() {
    for mode in [WriteMode::AppendDedup, WriteMode::Append, WriteMode::Overwrite] {
        let bench = Bench::new(ReadMode::Incremental, mode, &THREE);
        bench.complete().await;
        *bench.source.rows.lock().unwrap() = vec![(2, 2), (4, 4)];
        bench.refresh(true).await;
        bench.breaks_after(1).await;
        assert_eq!(bench.ids(), [1, 2, 3], "{mode}: not half-filled");
        bench.complete().await;
        assert_eq!(bench.began(), [(0, 0), (0, 1), (2, 1)], "{mode}: it went on");
        assert_eq!(bench.ids(), [2, 4], "{mode}");
        // What comes later goes into the table itself.
        bench.source.rows.lock().unwrap().push((5, 5));
        bench.complete().await;
        assert_eq!((bench.began(), bench.ids()), (vec![(4, 1)], vec![2, 4, 5]), "{mode}");
    }
}

#[tokio::test]
async fn a_sweep_finds_what_the_cursor_cannot() {
    for mode in [WriteMode::AppendDedup, WriteMode::Overwrite] {
        let mut bench = Bench::new(ReadMode::Incremental, mode, &THREE);
        bench.request.tables[0].deletes = Some(Deletes::Reconcile);
        bench.request.tables[0].sweep_seconds = Some(3600);
        bench.complete().await;
        bench.complete().await;
        assert_eq!(bench.began(), [(0, 0), (3, 0)], "{mode}: the first read was one");
        // A row is deleted, and another one comes back to life with an old version.
        *bench.source.rows.lock().unwrap() = vec![(1, 1), (3, 3), (9, 2)];
        bench.complete().await;
        assert_eq!(bench.ids(), [1, 2, 3], "{mode}: the cursor does not tell");
        bench.request.tables[0].sweep_seconds = Some(0);
        bench.complete().await;
        assert_eq!(bench.ids(), [1, 3, 9], "{mode}");
        assert_eq!(bench.began().last(), Some(&(0, 0)));
        bench.request.tables[0].sweep_seconds = Some(3600);
        bench.complete().await;
        assert_eq!(bench.began(), [(3, 0)], "{mode}: not due again");
    }
}

#[tokio::test]
async fn a_sweep_that_was_interrupted_removes_nothing_and_is_done_again() {
    let mut bench = Bench::new(ReadMode::Incremental, WriteMode::AppendDedup, &THREE);
    bench.request.tables[0].deletes = Some(Deletes::Reconcile);
    bench.complete().await;
    bench.source.rows.lock().unwrap().remove(0);
    bench.breaks_after(1).await;
    assert_eq!(bench.ids(), [1, 2, 3]);
    bench.complete().await;
    assert_eq!(bench.ids(), [2, 3]);
}

#[tokio::test]
async fn generations_that_somebody_else_counts_replace_older_ones_only() {
    let mut bench = Bench::new(ReadMode::Incremental, WriteMode::Append, &[(1, 1)]);
    bench.request.tables[0].generation = Some(Generation { id: 1, minimum: 1 });
    bench.complete().await;
    bench.source.rows.lock().unwrap().push((2, 2));
    bench.complete().await;
    assert_eq!(bench.ids(), [1, 2], "the same generation is added to");
    bench.request.tables[0].generation = Some(Generation { id: 2, minimum: 2 });
    *bench.source.rows.lock().unwrap() = vec![(3, 3)];
    bench.complete().await;
    assert_eq!(bench.ids(), [3], "an older one goes");
    bench.request.tables[0].generation = Some(Generation { id: 3, minimum: 0 });
    bench.source.rows.lock().unwrap().push((4, 4));
    bench.complete().await;
    assert_eq!(bench.column(GENERATION_ID), [2, 3]);
}

#[tokio::test]
async fn a_reading_goes_on_only_in_the_way_in_which_it_began() {
    // Appended rows are in the table already; a replacement must have all rows.
    let mut bench = Bench::new(ReadMode::FullRefresh, WriteMode::Append, &THREE);
    bench.breaks_after(2).await;
    bench.request.targets[0].write_mode = WriteMode::Replace;
    bench.complete().await;
    assert_eq!(bench.began(), [(0, 1), (0, 2)]);
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[tokio::test]
async fn where_positions_are_kept_apart_what_is_rebuilt_begins_anew() {
    for (read, write) in
        [(ReadMode::FullRefresh, WriteMode::Replace), (ReadMode::Incremental, WriteMode::Append)]
    {
        let mut bench = Bench::new(read, write, &THREE);
        let keeper = Memory::new("keeper", Journal::default());
        bench.request.targets[0].backend = Some(Arc::new(keeper.clone()));
        bench.complete().await;
        if read == ReadMode::Incremental {
            let store = keeper.state_store().unwrap();
            let request = highwater_core::LeaseRequest {
                owner: highwater_core::Owner::this_process(),
                take_over: false,
            };
            let fence = store.open("numbers/d", &request).await.unwrap().fence.unwrap();
            store.refresh(&fence, &name(), true).await.unwrap();
            store.release(&fence).await.unwrap();
        }
        *bench.source.rows.lock().unwrap() = vec![(7, 7), (8, 8), (9, 9)];
        bench.breaks_after(2).await;
        assert_eq!(bench.ids(), [1, 2, 3], "{read} {write}");
        bench.complete().await;
        assert_eq!(bench.ids(), [7, 8, 9], "{read} {write}");
        let began = bench.began();
        assert!(began.iter().all(|(from, _)| *from == 0), "{read} {write}: {began:?}");
    }
}

#[tokio::test]
async fn stale_rows_are_told_only_by_a_read_that_brought_all_others() {
    let bench = Bench::new(ReadMode::FullRefresh, WriteMode::OverwriteDeleteStale, &THREE);
    let mut bench = bench;
    bench.request.targets[0].metadata_columns = MetadataColumns::CloudQuery;
    bench.breaks_after(2).await;
    bench.complete().await;
    assert_eq!(bench.began(), [(0, 1), (0, 2)]);
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[tokio::test]
async fn rows_of_other_settings_do_not_wait_beside_those_of_these() {
    let mut bench = Bench::new(ReadMode::FullRefresh, WriteMode::Replace, &THREE);
    bench.breaks_after(2).await;
    let hash = highwater_core::Mapping::Hash {
        column: "version".into(),
        to: "version".into(),
        method: highwater_core::mapping::HashMethod::Sha256,
    };
    bench.request.tables[0].mappings = vec![hash];
    bench.complete().await;
    assert_eq!(bench.began(), [(0, 1), (0, 2)]);
    bench.breaks_after(2).await;
    bench.request.tables[0].mappings.clear();
    bench.complete().await;
    assert_eq!(bench.ids(), [1, 2, 3]);
}
