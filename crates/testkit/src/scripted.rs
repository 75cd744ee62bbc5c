//! A source that follows a script, and what a run did, in order: for tests of the engine.
//!
//! Its counterpart is [`crate::memory::Memory`], a destination with faults.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_core::{
    Batch, Checkpoint, Completion, CursorKey, Error, ErrorKind, Op, Output, Partition, Plan,
    ReadMode, Result, Source, SourceDelivery, State, Table, TableName, TablePlan,
};
use serde_json::{Value, json};

/// What happened, in order, one line each. Clones share the lines; give one journal to a source
/// and its destinations to see what came first.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    /// Adds a line.
    pub fn note(&self, line: impl Into<String>) {
        self.lock().push(line.into());
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// The place of the first line that starts so.
    ///
    /// # Panics
    /// When there is none.
    pub fn position(&self, start: &str) -> usize {
        let lines = self.lines();
        let found = lines.iter().position(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no line starts with {start:?} in {lines:#?}"))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing that a [`ScriptedSource`] does while it reads.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends rows.
    Upsert(RecordBatch),
    /// Sends records of deletions.
    Delete(RecordBatch),
    /// Sends a checkpoint, in an incremental read. Its cursor is the number of checkpoints from
    /// the beginning of the script: a later read goes on after it.
    Checkpoint,
    /// Ends the read with an error of this kind, every time.
    Fail(ErrorKind),
    /// Ends the read with an error of this kind, the first time only.
    FailOnce(ErrorKind),
    /// Waits for ever; the read ends when its future is dropped.
    Hang,
    /// Waits until the run is asked to stop, and stops.
    WaitForStop,
}

/// The script of one partition.
#[derive(Debug, Clone)]
pub struct Script {
    /// The table it reads.
    pub table: TableName,
    /// Tells the partitions of the table apart.
    pub partition: String,
    /// What it does. The script of an incremental read ends with [`Step::Checkpoint`].
    pub steps: Vec<Step>,
}

impl Script {
    /// The script of a table that is one partition.
    pub fn new(table: &Table, steps: Vec<Step>) -> Self {
        Self { table: table.name.clone(), partition: "all".to_owned(), steps }
    }
}

/// A source that sends what it is told to. Its cursor is a number of checkpoints.
#[derive(Debug)]
pub struct ScriptedSource {
    tables: Vec<Table>,
    scripts: Vec<Script>,
    journal: Journal,
    failures: AtomicU64,
}

impl ScriptedSource {
    /// A source of these tables. Of several scripts for one table each is a partition.
    pub fn new(tables: Vec<Table>, scripts: Vec<Script>, journal: Journal) -> Self {
        Self { tables, scripts, journal, failures: AtomicU64::new(0) }
    }

    fn script(&self, partition: &Partition) -> Result<&Script> {
        let found = self.scripts.iter().find(|script| {
            partition.tables.contains(&script.table) && script.partition == partition.id
        });
        found.ok_or_else(|| Error::internal("A partition has no script"))
    }

    fn cursor_key(&self, script: &Script) -> CursorKey {
        if self.scripts.iter().filter(|other| other.table == script.table).count() == 1 {
            CursorKey::Table(script.table.clone())
        } else {
            CursorKey::Partition(script.table.clone(), script.partition.clone())
        }
    }

    async fn step(&self, step: &Step, table: &TablePlan, output: &Output) -> Result<Completion> {
        let batch = |op, rows: &RecordBatch| Batch {
            table: Arc::clone(&table.source),
            op,
            rows: rows.clone(),
        };
        match step {
            Step::Upsert(rows) => output.batch(batch(Op::Upsert, rows)).await?,
            Step::Delete(rows) => output.batch(batch(Op::Delete, rows)).await?,
            Step::Checkpoint => {}
            Step::Fail(kind) => return Err(scripted(*kind)),
            Step::FailOnce(kind) => {
                if self.failures.fetch_add(1, Ordering::SeqCst) == 0 {
                    return Err(scripted(*kind));
                }
            }
            Step::Hang => std::future::pending().await,
            Step::WaitForStop => {
                while !output.is_stopping() {
                    tokio::task::yield_now().await;
                }
                return Ok(Completion::Stopped);
            }
        }
        Ok(Completion::Complete)
    }
}

fn scripted(kind: ErrorKind) -> Error {
    Error::new(kind, "The script says so")
}

/// How many checkpoints of the script are committed.
fn position(state: &State, key: &CursorKey) -> u64 {
    state.cursors.get(key).and_then(|cursor| cursor.0.as_u64()).unwrap_or(0)
}

#[async_trait]
impl Source for ScriptedSource {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        let mut tables = self.tables.clone();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        let planned = self.scripts.iter().filter(|s| plan.tables.contains_key(&s.table));
        Ok(planned
            .map(|script| Partition {
                tables: vec![script.table.clone()],
                id: script.partition.clone(),
                bounds: Value::Null,
            })
            .collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let script = self.script(partition)?;
        let table = plan.tables.get(&script.table);
        let table = table.ok_or_else(|| Error::internal("The table is not planned"))?;
        let key = self.cursor_key(script);
        let incremental = table.read_mode == ReadMode::Incremental;
        let committed = if incremental { position(state, &key) } else { 0 };
        self.journal.note(format!("read {} {} from {committed}", script.table, script.partition));
        let mut passed = 0;
        for step in &script.steps {
            if passed >= committed && self.step(step, table, &output).await? == Completion::Stopped
            {
                return Ok(Completion::Stopped);
            }
            if matches!(step, Step::Checkpoint) {
                passed += 1;
                // The last one is sent again when there is nothing new.
                if incremental && passed > committed {
                    output.checkpoint(Checkpoint::of(key.clone(), json!(passed))).await?;
                }
                if output.is_stopping() {
                    return Ok(Completion::Stopped);
                }
            }
        }
        if incremental && passed == committed {
            output.checkpoint(Checkpoint::of(key, json!(passed))).await?;
        }
        Ok(Completion::Complete)
    }

    async fn acknowledge(&self, checkpoint: &Checkpoint) -> Result<()> {
        let cursors: Vec<_> =
            checkpoint.cursors.iter().map(|(key, cursor)| format!("{key}={}", cursor.0)).collect();
        self.journal.note(format!("acknowledge {}", cursors.join(", ")));
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.journal.note("close source");
        Ok(())
    }
}
