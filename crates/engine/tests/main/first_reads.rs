//! First incremental reads that are committed in rounds, and go on where they were interrupted.

use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Destination, Error, LeaseRequest, Op, Output, Owner,
    Partition, Plan, ReadMode, Result, Source, SourceDelivery, State, Table, TableName, TablePlan,
    WriteMode,
};
use highwater_engine::{
    Outcome, RunOptions, Silent, StopSignal, Summary, SyncRequest, TableOptions, Target, plan, sync,
};
use highwater_testkit::memory::Memory;
use highwater_testkit::scripted::Journal;
use serde_json::{Value, json};

fn name() -> TableName {
    TableName::new("numbers")
}

fn unfinished() -> CursorKey {
    CursorKey::Partition(name(), FULL_REFRESH.to_owned())
}

/// A source of the numbers 1 to 4. The first read commits each of them.
#[derive(Clone, Default)]
struct Numbers {
    /// The read ends with an error after so many checkpoints.
    breaks_after: Arc<Mutex<Option<usize>>>,
    /// What each read was told: the position in the first read, that of the table, and the plan.
    told: Arc<Mutex<Vec<(Value, Value, bool)>>>,
    resumable: bool,
}

#[async_trait]
impl Source for Numbers {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        let id = Field::new("id", DataType::Int64, false);
        let mut table = Table::new(name(), vec![id]).with_primary_key(["id"]);
        table.cursor_field = Some("id".into());
        table.resumable = self.resumable;
        Ok(vec![table])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
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
        let at = |key| state.cursors.get(&key).map_or(Value::Null, |cursor| cursor.0.clone());
        let (begun, done) = (at(unfinished()), at(CursorKey::Table(name())));
        let told = (begun.clone(), done.clone(), table.resumes_first_read);
        self.told.lock().unwrap().push(told);
        let from = begun.as_i64().or(done.as_i64()).unwrap_or(0);
        let breaks = self.breaks_after.lock().unwrap().take();
        for (sent, id) in (from + 1..=4).enumerate() {
            if breaks == Some(sent) {
                return Err(Error::transient("The line broke"));
            }
            let columns = vec![Arc::new(Int64Array::from(vec![id])) as _];
            let rows = RecordBatch::try_new(Arc::clone(&table.source.schema), columns)?;
            let source = Arc::clone(&table.source);
            output.batch(Batch { table: source, op: Op::Upsert, rows }).await?;
            let key = if id == 4 { CursorKey::Table(name()) } else { unfinished() };
            output.checkpoint(Checkpoint::of(key, json!(id))).await?;
        }
        match breaks {
            Some(_) => Err(Error::transient("The line broke at the end")),
            None => Ok(Completion::Complete),
        }
    }
}

struct Bench {
    source: Numbers,
    memory: Memory,
    request: SyncRequest,
}

impl Bench {
    fn new(write_mode: WriteMode) -> Self {
        let memory = Memory::new("d", Journal::default());
        let destination: Arc<dyn Destination> = Arc::new(memory.clone());
        let request = SyncRequest {
            sync: "numbers".into(),
            tables: vec![TableOptions {
                name: "*".into(),
                read_mode: Some(ReadMode::Incremental),
                ..TableOptions::default()
            }],
            skip_tables: vec![],
            targets: vec![Target { write_mode, ..Target::new("d", destination) }],
            state_table: None,
        };
        Self { source: Numbers::default(), memory, request }
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

    async fn breaks_after(&self, checkpoints: usize) {
        *self.source.breaks_after.lock().unwrap() = Some(checkpoints);
        assert_ne!(self.run().await.outcome(), Outcome::Complete);
    }

    /// What the last read was told.
    fn told(&self) -> (Value, Value, bool) {
        self.source.told.lock().unwrap().last().unwrap().clone()
    }

    fn ids(&self) -> Vec<i64> {
        let rows = self.memory.rows(&name()).unwrap_or_default();
        let ids = rows.iter().filter(|rows| rows.num_rows() > 0);
        let ids = ids.flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec());
        let mut ids: Vec<i64> = ids.collect();
        ids.sort_unstable();
        ids
    }
}

#[tokio::test]
async fn a_first_read_goes_on_where_it_was_interrupted() {
    for mode in [WriteMode::Append, WriteMode::Overwrite, WriteMode::AppendDedup] {
        let bench = Bench::new(mode);
        bench.breaks_after(2).await;
        assert_eq!(bench.ids(), [1, 2], "{mode}: what was committed is there");
        let planned = plan(&bench.source, &bench.request).await.unwrap().remove(0).plan;
        assert!(planned.tables[&name()].resumes_first_read);
        assert!(planned.tables[&name()].notes.iter().any(|note| note.contains("goes on")));
        bench.breaks_after(1).await;
        assert_eq!(bench.told(), (json!(2), Value::Null, true), "{mode}");
        bench.complete().await;
        assert_eq!(bench.told(), (json!(3), Value::Null, true), "{mode}");
        assert_eq!(bench.ids(), [1, 2, 3, 4], "{mode}");
        // Then it is over, and forgotten.
        bench.complete().await;
        assert_eq!(bench.told(), (Value::Null, json!(4), false), "{mode}");
    }
}

#[tokio::test]
async fn a_first_read_that_is_complete_does_not_go_on() {
    let bench = Bench::new(WriteMode::Append);
    // All is committed, but the table was not finished.
    bench.breaks_after(9).await;
    bench.complete().await;
    assert_eq!(bench.told(), (Value::Null, json!(4), false));
    assert_eq!(bench.ids(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_refresh_begins_anew() {
    for rebuild in [false, true] {
        let bench = Bench::new(WriteMode::Overwrite);
        bench.breaks_after(2).await;
        let store = bench.memory.state_store().unwrap();
        let request = LeaseRequest { owner: Owner::this_process(), take_over: false };
        let fence = store.open("numbers", &request).await.unwrap().fence.unwrap();
        store.refresh(&fence, &name(), rebuild).await.unwrap();
        store.release(&fence).await.unwrap();
        bench.breaks_after(1).await;
        assert_eq!(bench.told(), (Value::Null, Value::Null, false), "{rebuild}");
        bench.complete().await;
        assert_eq!(bench.told(), (json!(1), Value::Null, true), "{rebuild}");
        assert_eq!(bench.ids(), [1, 2, 3, 4], "{rebuild}");
    }
}

#[tokio::test]
async fn a_sweep_begins_anew() {
    let mut bench = Bench::new(WriteMode::Overwrite);
    bench.breaks_after(2).await;
    bench.request.tables[0].sweep_seconds = Some(0);
    bench.complete().await;
    assert_eq!(bench.told(), (Value::Null, Value::Null, false));
    assert_eq!(bench.ids(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn the_position_of_a_full_refresh_is_none_of_a_first_read() {
    let mut bench = Bench::new(WriteMode::Overwrite);
    bench.source.resumable = true;
    bench.request.tables[0].read_mode = Some(ReadMode::FullRefresh);
    bench.breaks_after(2).await;
    bench.request.tables[0].read_mode = Some(ReadMode::Incremental);
    bench.complete().await;
    assert_eq!(bench.told(), (Value::Null, Value::Null, false));
}

#[tokio::test]
async fn a_table_that_is_gone_is_no_table_to_go_on_with() {
    let bench = Bench::new(WriteMode::Append);
    bench.breaks_after(2).await;
    bench.memory.drop_table(&name());
    let planned = plan(&bench.source, &bench.request).await.unwrap().remove(0);
    let error = &planned.refused[0].error;
    assert!(error.message().contains("is gone"), "{error}");
    assert!(error.hint_text().unwrap().contains("state reset"), "{error}");
}
