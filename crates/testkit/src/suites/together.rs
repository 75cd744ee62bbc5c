//! Runs over several tables that are one partition, as a plugin sends them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::RecordBatch;
use highwater_core::{
    Batch, Checkpoint, CommittedTables, Deletion, Destination, Message, Op, Output, Table,
    TableName, Writer,
};

use crate::harness::Harness;
use crate::job::{Job, Run};

/// A run of several jobs of one sync: one plan, one partition.
pub(super) struct Together {
    pub(super) run: Run,
}

/// What is sent to a writer.
pub(super) enum Sent<'a> {
    Rows(&'a str, RecordBatch),
    Delete(&'a Deletion),
}

impl Together {
    /// Begins the run; takes the lease from any other.
    pub(super) async fn open(harness: &dyn Harness, jobs: &[Job]) -> Self {
        let mut run = Run::open(harness, &jobs[0]).await;
        for job in &jobs[1..] {
            let plan = job.plan_after(run.destination.as_ref(), &run.state).await;
            let plan = plan.unwrap_or_else(|e| panic!("{}", e.full_message()));
            run.plan.tables.extend(plan.tables);
            run.partition.tables.push(job.table.name.clone());
        }
        Self { run }
    }

    pub(super) async fn writer(&self) -> Box<dyn Writer> {
        self.run.writer().await
    }

    /// New rows of one of the tables.
    pub(super) fn batch(&self, table: &str, rows: RecordBatch) -> Batch {
        let table = Arc::clone(&self.run.plan.tables[&TableName::new(table)].source);
        Batch { table, op: Op::Upsert, rows }
    }

    /// Sends, in this order.
    pub(super) async fn send(&self, writer: &mut Box<dyn Writer>, all: Vec<Sent<'_>>) {
        for sent in all {
            let done = match sent {
                Sent::Rows(table, rows) => writer.write(self.batch(table, rows)).await,
                Sent::Delete(deletion) => writer.delete(deletion).await,
            };
            done.unwrap_or_else(|e| panic!("{}", e.full_message()));
        }
    }

    /// Sends and commits with a writer of its own.
    pub(super) async fn commit(&self, all: Vec<Sent<'_>>) -> CommittedTables {
        let mut writer = self.writer().await;
        self.send(&mut writer, all).await;
        let committed = writer.commit(&Checkpoint::default()).await;
        committed.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// Completes every table.
    pub(super) async fn finish(&self) {
        let run = &self.run;
        for table in run.plan.tables.values() {
            let finished = run.destination.finish(&run.plan, table, &run.fence).await;
            finished.unwrap_or_else(|e| panic!("{}", e.full_message()));
        }
    }
}

/// What `Destination::read` sends of a table, by its name at the source.
pub(super) async fn read_back(destination: &dyn Destination, table: &Table) -> Vec<RecordBatch> {
    let table = Table { name: destination.target_name(&table.name), ..table.clone() };
    let (output, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
    let collect = async {
        let mut batches = Vec::new();
        while let Some(message) = messages.recv().await {
            if let Message::Batch(batch) = message {
                batches.push(batch.rows);
            }
        }
        batches
    };
    let (read, batches) = tokio::join!(destination.read(&table, output), collect);
    read.unwrap_or_else(|e| panic!("{}", e.full_message()));
    batches
}
