//! Destinations that confirm later what was committed: cursors are saved when they do and not
//! before, everything of a run goes through one writer, and the source is told last.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use highwater_core::plan::DELETED_AT;
use highwater_core::types::{RECORD, with_metadata};
use highwater_core::{
    Batch, Capabilities, Checkpoint, Committed, CommittedTables, Completion, CursorKey,
    Destination, DestinationDelivery, Error, ErrorKind, ExistingTable, Fence, Op, Output,
    Partition, Plan, Result, SchemaChange, Source, SourceDelivery, State, StateStore, Table,
    TableName, TablePlan, WriteMode, Writer,
};
use highwater_engine::{Outcome, Summary, Target, sync};
use highwater_testkit::memory::Memory;
use highwater_testkit::scripted::{Journal, Script, Step};
use highwater_testkit::tables::{item, item_table, items};
use serde_json::json;

use crate::bench::{Bench, ids, upsert};

/// When a commit is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirms {
    /// With the next question.
    AtOnce,
    /// When the next commit is there, the last at the end.
    OneBehind,
    /// At the end.
    AtEnd,
    /// Only the first, and the end is an error.
    First,
}

/// A destination that takes rows, and loses them after it has noted how many there were.
#[derive(Debug, Clone)]
struct Later {
    journal: Journal,
    confirms: Confirms,
    /// The write that fails, from 1.
    fails_at: Option<usize>,
}

struct LaterWriter {
    of: Later,
    writes: usize,
    waiting: VecDeque<Checkpoint>,
    confirmed: usize,
}

#[async_trait]
impl Destination for Later {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_modes: &[WriteMode::Append, WriteMode::Overwrite, WriteMode::Replace],
            delivery: DestinationDelivery::Separate,
            writers_max: 1,
            describes_tables: false,
            commits_later: true,
            takes_records: Some("test"),
            ..Capabilities::transactional(63)
        }
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn target_name(&self, source: &TableName) -> TableName {
        source.clone()
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        Ok(names.iter().map(|_| None).collect())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        Ok(field.clone())
    }

    fn ddl(&self, _plan: &TablePlan, _change: &SchemaChange) -> Vec<String> {
        Vec::new()
    }

    async fn migrate(&self, _plan: &Plan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        _fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        for table in plan.tables.values() {
            self.journal.note(format!("generation {} of {}", table.generation, table.name()));
        }
        let tables: Vec<_> = partition.tables.iter().map(ToString::to_string).collect();
        self.journal.note(format!("writer of {}", tables.join(", ")));
        let waiting = VecDeque::new();
        Ok(Box::new(LaterWriter { of: self.clone(), writes: 0, waiting, confirmed: 0 }))
    }

    async fn finish(&self, _plan: &Plan, table: &TablePlan, _fence: &Fence) -> Result<Committed> {
        self.journal.note(format!("finish {}", table.name()));
        Ok(Committed::default())
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        None
    }
}

impl LaterWriter {
    fn confirm(&mut self, keep: usize) -> Vec<Checkpoint> {
        let count = match self.of.confirms {
            Confirms::First => usize::from(self.confirmed == 0).min(self.waiting.len()),
            _ => self.waiting.len().saturating_sub(keep),
        };
        self.confirmed += count;
        self.waiting.drain(..count).collect()
    }
}

#[async_trait]
impl Writer for LaterWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        self.writes += 1;
        if Some(self.writes) == self.of.fails_at {
            return Err(Error::transient("The process died"));
        }
        self.of.journal.note(format!("write {} {}", batch.table.name, batch.rows.num_rows()));
        Ok(())
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        self.of.journal.note("hand over");
        self.waiting.push_back(checkpoint.clone());
        Ok(CommittedTables::new())
    }

    async fn durable(&mut self) -> Result<Vec<Checkpoint>> {
        let died = self.of.fails_at.is_some_and(|at| self.writes >= at);
        let keep = match self.of.confirms {
            Confirms::AtOnce | Confirms::First => 0,
            // The last words of a process that died.
            Confirms::OneBehind if died => 0,
            Confirms::OneBehind => 1,
            Confirms::AtEnd => usize::MAX,
        };
        Ok(self.confirm(keep))
    }

    async fn end(&mut self, complete: &[TableName]) -> Result<Vec<Checkpoint>> {
        let complete: Vec<_> = complete.iter().map(ToString::to_string).collect();
        self.of.journal.note(format!("end of {}", complete.join(", ")));
        if self.of.confirms == Confirms::First {
            return Err(Error::transient("Not everything was confirmed"));
        }
        Ok(self.confirm(0))
    }
}

/// Three rows in three positions to a destination that keeps its cursors in a memory.
fn bench(confirms: Confirms, fails_at: Option<usize>) -> (Bench, Memory) {
    let steps = (1..4).flat_map(|id| [upsert(id..id + 1), Step::Checkpoint]).collect();
    bench_of(steps, confirms, fails_at)
}

fn bench_of(steps: Vec<Step>, confirms: Confirms, fails_at: Option<usize>) -> (Bench, Memory) {
    let (mut bench, memory) = Bench::new(steps);
    bench.request.targets = vec![target(&bench, &memory, confirms, fails_at)];
    (bench, memory)
}

fn target(bench: &Bench, store: &Memory, confirms: Confirms, fails_at: Option<usize>) -> Target {
    let later = Later { journal: bench.journal.clone(), confirms, fails_at };
    let store: Arc<dyn Destination> = Arc::new(store.clone());
    Target {
        backend: Some(store),
        write_mode: WriteMode::Append,
        ..Target::new("later", Arc::new(later) as Arc<dyn Destination>)
    }
}

/// The committed position of a table at the destination `later`.
async fn position(store: &Memory, table: &str) -> Option<u64> {
    let state = StateStore::look(store, "shop/later").await.unwrap();
    let cursor = state.cursors.get(&CursorKey::Table(TableName::new(table)));
    cursor.and_then(|cursor| cursor.0.as_u64())
}

fn lines(bench: &Bench, start: &str) -> Vec<String> {
    bench.journal.lines().into_iter().filter(|line| line.starts_with(start)).collect()
}

fn error(summary: &Summary) -> Option<ErrorKind> {
    summary.destinations[0].tables[0].error.as_ref().map(|error| error.kind)
}

#[tokio::test]
async fn cursors_are_saved_when_they_are_confirmed() {
    for confirms in [Confirms::AtOnce, Confirms::OneBehind, Confirms::AtEnd] {
        let (bench, store) = bench(confirms, None);
        let summary = bench.run().await.unwrap();
        assert_eq!(summary.outcome(), Outcome::Complete, "{confirms:?}: {summary:?}");
        assert_eq!(position(&store, "t").await, Some(3), "{confirms:?}");
        let journal: Vec<_> = bench.journal.lines();
        let order = |line: &String| match line.split(' ').next().unwrap_or_default() {
            "hand" => Some('h'),
            "save" => Some('s'),
            "end" => Some('e'),
            "acknowledge" => Some('a'),
            "finish" => Some('f'),
            _ => None,
        };
        let order: String = journal.iter().filter_map(order).collect();
        let expected = match confirms {
            Confirms::AtOnce => "hshshseaf",
            Confirms::OneBehind => "hhshsesaf",
            _ => "hhhesssaf",
        };
        assert_eq!(order, expected, "{confirms:?}: {journal:#?}");
        assert_eq!(lines(&bench, "acknowledge"), ["acknowledge t=3"]);
        assert_eq!(lines(&bench, "end of"), ["end of t"]);
    }
}

#[tokio::test]
async fn what_was_not_confirmed_is_sent_again() {
    let (mut bench, store) = bench(Confirms::First, None);
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::TryLater, "{summary:?}");
    assert_eq!(error(&summary), Some(ErrorKind::Transient));
    assert_eq!(position(&store, "t").await, Some(1));
    assert_eq!(lines(&bench, "acknowledge"), Vec::<String>::new());
    assert_eq!(lines(&bench, "finish"), Vec::<String>::new());

    bench.request.targets = vec![target(&bench, &store, Confirms::AtOnce, None)];
    bench.run().await.unwrap();
    assert_eq!(lines(&bench, "read").last().unwrap(), "read t all from 1");
    assert_eq!(position(&store, "t").await, Some(3));
}

#[tokio::test]
async fn what_a_destination_confirmed_before_it_died_is_saved() {
    let (bench, store) = bench(Confirms::OneBehind, Some(3));
    let summary = bench.run().await.unwrap();
    assert_eq!(error(&summary), Some(ErrorKind::Transient));
    assert_eq!(position(&store, "t").await, Some(2), "its last words count");
    assert_eq!(lines(&bench, "acknowledge"), Vec::<String>::new());
    assert_eq!(lines(&bench, "end of"), Vec::<String>::new());
}

#[tokio::test]
async fn all_partitions_go_through_one_writer() {
    let (mut bench, store) = bench(Confirms::OneBehind, None);
    let rows = |table: &str| Step::Upsert(items(&item_table(table), &[item(1, "v", 1)]));
    for table in ["u", "v"] {
        bench.tables.push(item_table(table));
        bench.scripts.push(Script::new(&item_table(table), vec![rows(table), Step::Checkpoint]));
    }
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Complete, "{summary:?}");
    assert_eq!(lines(&bench, "writer"), ["writer of t, u, v"]);
    assert_eq!(lines(&bench, "end of"), ["end of t, u, v"]);
    for (table, expected) in [("t", 3), ("u", 1), ("v", 1)] {
        assert_eq!(position(&store, table).await, Some(expected), "{table}");
    }
    let finished = lines(&bench, "finish");
    assert_eq!(finished.len(), 3, "{finished:?}");
}

#[tokio::test]
async fn only_tables_that_were_read_completely_are_called_complete() {
    let (mut bench, store) = bench(Confirms::AtEnd, None);
    bench.tables.push(item_table("u"));
    let broken = vec![Step::Checkpoint, Step::Fail(ErrorKind::Data)];
    bench.scripts.push(Script::new(&item_table("u"), broken));
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Partial, "{summary:?}");
    assert_eq!(lines(&bench, "end of"), ["end of t"]);
    assert_eq!(lines(&bench, "finish"), ["finish t"]);
    assert_eq!(position(&store, "t").await, Some(3));
    assert_eq!(position(&store, "u").await, Some(1), "it was confirmed");
}

#[tokio::test]
async fn a_full_refresh_is_handed_over_at_its_end() {
    let (mut bench, store) = bench_of(vec![upsert(1..3)], Confirms::AtEnd, None);
    bench.full_refresh(WriteMode::Append);
    let summary = bench.run().await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Complete, "{summary:?}");
    assert_eq!(lines(&bench, "hand over").len(), 1);
    assert_eq!(position(&store, "t").await, None);
}

#[tokio::test]
async fn others_are_not_kept_waiting_and_do_not_fail_with_it() {
    let (mut bench, store) = bench(Confirms::First, None);
    let other = bench.add_target("other");
    let summary = bench.run().await.unwrap();
    assert_eq!(ids(&other), [1, 2, 3]);
    let state = StateStore::look(&other, "shop").await.unwrap();
    let cursor = &state.cursors[&CursorKey::Table(TableName::new("t"))];
    assert_eq!(cursor.0, json!(3));
    assert_eq!(position(&store, "t").await, Some(1));
    assert!(summary.destinations[1].tables[0].complete, "{summary:?}");
    assert_eq!(lines(&bench, "read").len(), 2, "each has a read of its own");
    assert_eq!(lines(&bench, "acknowledge"), Vec::<String>::new(), "one has not got it");
}

#[tokio::test]
async fn each_attempt_at_a_full_refresh_is_a_generation_of_its_own() {
    let steps = vec![upsert(1..3), Step::FailOnce(ErrorKind::Transient), upsert(3..4)];
    let (mut bench, _store) = bench_of(steps, Confirms::AtOnce, None);
    bench.full_refresh(WriteMode::Replace);
    let source = Arc::new(bench.source());
    for expected in [Outcome::TryLater, Outcome::Complete] {
        let source: Arc<dyn Source> = source.clone();
        let summary = sync(source, &bench.request, &bench.options).await.unwrap();
        assert_eq!(summary.outcome(), expected, "{summary:?}");
    }
    // Else the rows of the first would be among those of the second.
    assert_eq!(lines(&bench, "generation"), ["generation 1 of t", "generation 2 of t"]);
}

/// A source whose records come as they are, in tables with a key and a word for deletions.
struct Lines;

#[async_trait]
impl Source for Lines {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let line = with_metadata(text("_line"), RECORD, "line:test");
        let fields = vec![text("id"), text("updated_at"), text(DELETED_AT), line];
        let mut table = Table::new(TableName::new("t"), fields).with_primary_key(["id"]);
        table.source_defined_cursor = true;
        Ok(vec![table])
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(plan.tables.keys().map(Partition::whole).collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        _state: &State,
        output: Output,
    ) -> Result<Completion> {
        let table = &plan.tables[&TableName::new("t")];
        assert_eq!(table.source.column_names().collect::<Vec<_>>(), ["_line"]);
        let lines: ArrayRef = Arc::new(StringArray::from(vec!["{}", "{}"]));
        let rows = RecordBatch::try_new(Arc::clone(&table.source.schema), vec![lines]).unwrap();
        output.batch(Batch { table: Arc::clone(&table.source), op: Op::Upsert, rows }).await?;
        let key = CursorKey::Table(table.name().clone());
        output.checkpoint(Checkpoint::of(key, json!(1))).await?;
        Ok(Completion::Complete)
    }
}

#[tokio::test]
async fn records_pass_as_they_came_also_where_rows_have_keys_and_are_deleted() {
    let (mut bench, store) = bench(Confirms::AtOnce, None);
    bench.request.targets[0].write_mode = WriteMode::Overwrite;
    let summary = sync(Arc::new(Lines), &bench.request, &bench.options).await.unwrap();
    assert_eq!(summary.outcome(), Outcome::Complete, "{summary:?}");
    assert_eq!(lines(&bench, "write "), ["write t 2"]);
    assert_eq!(position(&store, "t").await, Some(1));
}
