//! What a connector gives to the suites: one system, fresh and empty, seen from both sides.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_core::{
    Batch, Checkpoint, Completion, Destination, Error, Message, Output, Partition, Plan, Result,
    Source, State, Table, TableName, WriteMode,
};

use crate::job::{Change, Job, sync_at};

/// One system (a database, a folder) for one case. Made empty for every case.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new source over the system: one instance serves one run.
    async fn source(&self) -> Box<dyn Source>;

    /// A new destination over the same system: one instance serves one run.
    async fn destination(&self) -> Box<dyn Destination>;

    /// Puts rows into a table of the source: made if it is not there, replaced by key if it has
    /// one, added if not. By default through the destination of the same system.
    async fn fill(&self, table: &Table, change: &Change) {
        let keyed = !table.primary_key.is_empty();
        let write_mode = if keyed { WriteMode::Overwrite } else { WriteMode::Append };
        let job = Job::new(table.clone(), write_mode).of_sync("fill");
        let filled = sync_at(self.destination().await, &job, std::slice::from_ref(change)).await;
        filled.unwrap_or_else(|e| panic!("{}", e.full_message()));
    }

    /// Takes a table away, as a user would behind highwater's back.
    async fn drop_table(&self, table: &TableName);

    /// What a reader sees now in a table, by the name it has at the destination; `None` when it
    /// is not there. Override it where the system has a reader of its own.
    async fn rows(&self, table: &TableName) -> Option<Vec<RecordBatch>> {
        let source = self.source().await;
        let found = find_table(source.as_ref(), table).await?;
        let reading = read(source.as_ref(), &Job::reading(found), &State::default()).await;
        Some(reading.unwrap_or_else(|e| panic!("{}", e.full_message())).upserts())
    }
}

/// The table of that name as a source describes it; a name without a namespace fits any.
pub async fn find_table(source: &dyn Source, name: &TableName) -> Option<Table> {
    let tables = source.discover(None).await.unwrap_or_else(|e| panic!("{}", e.full_message()));
    tables.into_iter().find(|table| {
        let namespaces = (&table.name.namespace, &name.namespace);
        let same = matches!(namespaces, (Some(a), Some(b)) if a == b)
            || matches!(namespaces, (None, _) | (_, None));
        table.name.name == name.name && same
    })
}

/// What a source sent in one run.
#[derive(Debug, Default)]
pub struct Reading {
    /// The messages of all partitions, one partition after the other.
    pub messages: Vec<Message>,
    /// The end of each partition.
    pub completions: Vec<Completion>,
}

impl Reading {
    /// The rows that are there.
    pub fn upserts(&self) -> Vec<RecordBatch> {
        self.batches()
            .filter(|b| b.op == highwater_core::Op::Upsert)
            .map(|b| b.rows.clone())
            .collect()
    }

    /// All batches.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.messages.iter().filter_map(|message| match message {
            Message::Batch(batch) => Some(batch),
            _ => None,
        })
    }

    /// All checkpoints.
    pub fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.messages.iter().filter_map(|message| match message {
            Message::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        })
    }

    /// The state after everything sent was committed.
    pub fn state_after(&self, before: &State) -> State {
        let mut state = before.clone();
        for checkpoint in self.checkpoints() {
            let cursors = checkpoint.cursors.iter();
            state.cursors.extend(cursors.map(|(key, cursor)| (key.clone(), cursor.clone())));
        }
        state
    }
}

/// Reads a table to its end.
///
/// # Errors
/// What the source says.
pub async fn read(source: &dyn Source, job: &Job, state: &State) -> Result<Reading> {
    let plan = job.source_plan(source);
    let mut reading = Reading::default();
    for partition in source.partitions(&plan, state).await? {
        let (messages, completion) = read_partition(source, &plan, &partition, state).await?;
        reading.messages.extend(messages);
        reading.completions.push(completion);
    }
    Ok(reading)
}

/// Reads one partition to its end.
///
/// # Errors
/// What the source says.
pub async fn read_partition(
    source: &dyn Source,
    plan: &Plan,
    partition: &Partition,
    state: &State,
) -> Result<(Vec<Message>, Completion), Error> {
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
    let collect = async {
        let mut all = Vec::new();
        while let Some(message) = messages.recv().await {
            all.push(message);
        }
        all
    };
    let (completion, all) = tokio::join!(source.read(plan, partition, state, output), collect);
    Ok((all, completion?))
}
