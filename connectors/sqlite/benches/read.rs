//! What reading a SQLite table into batches costs, through the connector as a sync uses it.
//!
//! `cargo bench -p highwater-sqlite --bench read` prints time, CPU seconds of all threads and the
//! memory that was added; the best of three rounds. `LINEITEM_ROWS` says how many rows (1000000).
//! Without `--bench` (as a test) it runs over a few rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use highwater_core::*;
use highwater_sqlite::SqliteConnector;
use highwater_testkit::lineitem::{self, measure};
use rusqlite::Connection;
use serde_json::json;

fn main() {
    let (rows, rounds) = lineitem::size();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lineitem.db");
    fill(&path, rows);
    measure("sqlite, step only", rows, rounds, || stepped(&path));
    let spec = json!({ "connection_string": path });
    measure("sqlite to batches", rows, rounds, || runtime.block_on(read(spec.clone())));
}

/// The table as SQLite's own shell imports it from CSV.
fn fill(path: &Path, rows: u64) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE lineitem (l_orderkey integer NOT NULL, l_linenumber integer NOT NULL,
             l_partkey integer, l_suppkey integer, l_quantity numeric(15,2),
             l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
             l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date,
             l_shipinstruct char(25), l_shipmode varchar(10), l_comment varchar(44),
             updated_at timestamp NOT NULL, PRIMARY KEY (l_orderkey, l_linenumber)); BEGIN",
        )
        .unwrap();
    {
        let places = ["?"; 16].join(",");
        let sql = format!("INSERT INTO lineitem VALUES ({places})");
        let mut insert = connection.prepare(&sql).unwrap();
        let mut line = String::new();
        for i in 1..=rows {
            line.clear();
            lineitem::line(&mut line, i);
            let fields = line.trim_end_matches('\n').split(',');
            let values = fields.map(|field| (!field.is_empty()).then_some(field));
            insert.execute(rusqlite::params_from_iter(values)).unwrap();
        }
    }
    connection.execute_batch("COMMIT").unwrap();
}

/// The floor: SQLite reads the rows, and nobody takes the values.
fn stepped(path: &Path) -> u64 {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare("SELECT * FROM lineitem").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut count = 0;
    while rows.next().unwrap().is_some() {
        count += 1;
    }
    count
}

async fn read(spec: serde_json::Value) -> u64 {
    let source = SqliteConnector.source(spec).await.unwrap();
    let table = Arc::new(source.discover(None).await.unwrap().remove(0));
    let plan = TablePlan::new(table.clone(), table, ReadMode::FullRefresh, WriteMode::Append);
    let plan = Plan {
        sync_group_id: None,
        sync: "s".into(),
        sync_id: "1".into(),
        started_at: Instant(0),
        state_with_data: true,
        tables: [(plan.source.name.clone(), plan)].into(),
    };
    let state = State::default();
    let partition = source.partitions(&plan, &state).await.unwrap().remove(0);
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
    let collect = async {
        let mut rows = 0;
        while let Some(message) = messages.recv().await {
            if let Message::Batch(batch) = message {
                rows += batch.rows.num_rows() as u64;
            }
        }
        rows
    };
    let (completion, rows) = tokio::join!(source.read(&plan, &partition, &state, output), collect);
    assert_eq!(completion.unwrap(), Completion::Complete);
    rows
}
