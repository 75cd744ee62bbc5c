//! What reading CSV and writing Parquet, CSV and JSON files costs, through the connector as a sync
//! uses it: from files to batches, and from batches in memory to durable files.
//!
//! `cargo bench -p highwater-files --bench files` prints time, CPU seconds of all threads and the
//! memory that was added; the best of three rounds. `LINEITEM_ROWS` says how many rows (1000000),
//! `BENCH=csv,zstd` which measurements. Without `--bench` (as a test) it runs over a few rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use highwater_core::*;
use highwater_files::FilesConnector;
use highwater_testkit::lineitem::{self, TYPES, measure};
use serde_json::{Map, Value, json};

fn main() {
    let (rows, rounds) = lineitem::size();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lineitem.csv");
    lineitem::csv(&file, rows);

    measure("csv to batches, found types", rows, rounds, || {
        runtime.block_on(read(json!({ "path": file }), |_| ()))
    });
    let columns: Map<String, Value> =
        TYPES.iter().map(|(name, word)| ((*name).to_owned(), json!(word))).collect();
    let typed = json!({ "path": file, "columns": columns });
    measure("csv to batches, given types", rows, rounds, || {
        runtime.block_on(read(typed.clone(), |_| ()))
    });
    for (name, spec) in [
        ("csv to zstd parquet, streamed", json!({ "format": "parquet" })),
        ("csv to csv, streamed", json!({ "format": "csv" })),
    ] {
        measure(name, rows, rounds, || {
            runtime.block_on(streamed(typed.clone(), to(folder.path(), spec.clone())))
        });
    }
    let mut batches = Vec::new();
    runtime.block_on(read(typed, |batch| batches.push(batch)));
    let snappy = json!({ "compression": "snappy" });
    let plain = json!({ "compression": "uncompressed" });
    for (name, spec) in [
        ("batches to zstd parquet", json!({ "format": "parquet" })),
        ("batches to snappy parquet", json!({ "format": "parquet", "format_spec": snappy })),
        ("batches to plain parquet", json!({ "format": "parquet", "format_spec": plain })),
        ("batches to csv", json!({ "format": "csv" })),
        ("batches to jsonl", json!({ "format": "jsonl" })),
    ] {
        measure(name, rows, rounds, || {
            runtime.block_on(write(&batches, to(folder.path(), spec.clone())))
        });
    }
}

/// The spec of a destination in a folder of its own.
fn to(folder: &Path, mut spec: Value) -> Value {
    let path = folder.join(format!("out-{}/{{{{TABLE}}}}", spec["format"].as_str().unwrap()));
    let _ = std::fs::remove_dir_all(path.parent().unwrap());
    spec["path"] = json!(path);
    spec
}

fn plan(table: Table) -> Plan {
    let target = Table { source_defined_cursor: false, ..table.clone() };
    let plan =
        TablePlan::new(Arc::new(table), Arc::new(target), ReadMode::FullRefresh, WriteMode::Append);
    Plan {
        sync_group_id: None,
        sync: "s".into(),
        sync_id: "run1".into(),
        started_at: Instant(0),
        state_with_data: true,
        tables: [(plan.source.name.clone(), plan)].into(),
    }
}

/// Reads the only table; returns how many rows it has.
async fn read(spec: Value, mut each: impl FnMut(Batch)) -> u64 {
    let source = FilesConnector.source(spec).await.unwrap();
    let plan = plan(source.discover(None).await.unwrap().remove(0));
    let state = State::default();
    let partition = source.partitions(&plan, &state).await.unwrap().remove(0);
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
    let collect = async {
        let mut rows = 0;
        while let Some(message) = messages.recv().await {
            if let Message::Batch(batch) = message {
                rows += batch.rows.num_rows() as u64;
                each(batch);
            }
        }
        rows
    };
    let (completion, rows) = tokio::join!(source.read(&plan, &partition, &state, output), collect);
    assert_eq!(completion.unwrap(), Completion::Complete);
    rows
}

/// A destination's writer of one table, and what it takes to complete it.
struct Writing {
    destination: Box<dyn Destination>,
    writer: Box<dyn Writer>,
    plan: Plan,
    fence: Fence,
}

impl Writing {
    async fn begin(spec: Value, plan: Plan) -> Self {
        let destination = FilesConnector.destination(spec).await.unwrap();
        let request = LeaseRequest { owner: Owner::this_process(), take_over: true };
        let store = destination.state_store().unwrap();
        let fence = store.open(&plan.sync, &request).await.unwrap().fence.unwrap();
        let partition = Partition::whole(plan.tables.keys().next().unwrap());
        let writer = destination.writer(&plan, &partition, &fence).await.unwrap();
        Self { destination, writer, plan, fence }
    }

    async fn end(mut self) -> u64 {
        let committed = self.writer.commit(&Checkpoint::default()).await.unwrap();
        for table in self.plan.tables.values() {
            self.destination.finish(&self.plan, table, &self.fence).await.unwrap();
        }
        committed.values().map(|committed| committed.written).sum()
    }
}

async fn write(batches: &[Batch], spec: Value) -> u64 {
    let mut writing = Writing::begin(spec, plan(batches[0].table.as_ref().clone())).await;
    for batch in batches {
        writing.writer.write(batch.clone()).await.unwrap();
    }
    writing.end().await
}

async fn streamed(from: Value, spec: Value) -> u64 {
    let source = FilesConnector.source(from).await.unwrap();
    let plan = plan(source.discover(None).await.unwrap().remove(0));
    let state = State::default();
    let partition = source.partitions(&plan, &state).await.unwrap().remove(0);
    let mut writing = Writing::begin(spec, plan.clone()).await;
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
    let work = async {
        while let Some(message) = messages.recv().await {
            if let Message::Batch(batch) = message {
                writing.writer.write(batch).await.unwrap();
            }
        }
        writing.end().await
    };
    tokio::join!(source.read(&plan, &partition, &state, output), work).1
}
