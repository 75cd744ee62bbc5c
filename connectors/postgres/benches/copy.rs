//! What reading and writing rows as COPY costs this process: per type without a server, and a whole
//! table of `lineitem` from a real one, as columns, forwarded, and by the driver's own reader.
//!
//! `cargo bench -p highwater-postgres --bench copy` prints the best of five rounds. `LINEITEM_ROWS`
//! (1,000,000) is the size of the table. Without `--bench` (as a test) it reads a few rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use futures::{StreamExt, pin_mut};
use highwater_core::{Connector, Message, Output, Plan, ReadMode, State, TablePlan, WriteMode};
use highwater_postgres::{PostgresConnector, measured};
use highwater_testkit::postgres::{Database, Postgres};
use serde_json::json;

const ROUNDS: usize = 5;

/// As the scripts make it that measure other programs.
const LINEITEM: &str = "
CREATE TABLE lineitem (
  l_orderkey bigint NOT NULL, l_linenumber int NOT NULL, l_partkey bigint NOT NULL, l_suppkey int NOT NULL,
  l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL,
  l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL,
  l_shipdate date NOT NULL, l_commitdate date, l_shipinstruct char(25) NOT NULL, l_shipmode varchar(10) NOT NULL,
  l_comment varchar(44), updated_at timestamptz NOT NULL);
INSERT INTO lineitem SELECT 1+(i-1)/4, 1+(i-1)%4, 1+(i*7919)%200000, 1+(i*104729)%10000,
  1+(i*31)%50, (90000+(i*7919)%1000000)/100.0, (i%11)/100.0, (i%9)/100.0,
  substr('RAN',1+(i%3)::int,1), substr('OF',1+(i%2)::int,1), date '1992-01-02'+(i*37%2526)::int,
  CASE WHEN i%50=0 THEN NULL ELSE date '1992-01-31'+(i*41%2466)::int END,
  (array['DELIVER IN PERSON','COLLECT COD','NONE','TAKE BACK RETURN'])[1+i%4],
  (array['REG AIR','AIR','RAIL','SHIP','TRUCK','MAIL','FOB'])[1+i%7],
  CASE WHEN i%97=0 THEN NULL ELSE 'comment '||substr(md5(i::text),1,(8+i%24)::int) END,
  timestamptz '2024-01-01 00:00:00+00' + i*interval '1.000001 second'
FROM generate_series(1, ROWS::bigint) i;
VACUUM (ANALYZE, FREEZE) lineitem";

const ROW: [&str; 16] = [
    "int8",
    "int4",
    "int8",
    "int4",
    "numeric(15,2)",
    "numeric(15,2)",
    "numeric(15,2)",
    "numeric(15,2)",
    "text",
    "text",
    "date",
    "date",
    "text",
    "text",
    "text",
    "timestamptz",
];

/// A type, and an expression of it over `i`.
const TYPES: [(&str, &str); 11] = [
    ("bool", "i % 2 = 0"),
    ("int4", "i::int4"),
    ("int8", "i::int8"),
    ("float8", "i / 7.0::float8"),
    ("numeric(15,2)", "(i / 100.0)::numeric(15,2)"),
    ("numeric(38,10)", "(i * 12345678901234567.0123456789)::numeric(38,10)"),
    ("text", "md5(i::text)"),
    ("text", "'größer' || i"),
    ("date", "date '2000-01-01' + (i % 9000)::int"),
    ("timestamptz", "timestamptz '2024-01-01' + i * interval '1 second'"),
    ("uuid", "md5(i::text)::uuid"),
];

/// What this process has used, in ticks of 10 ms as Linux counts them.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Prints the best of the rounds.
fn measure(what: &str, rounds: usize, mut work: impl FnMut() -> usize) {
    let mut best = (Duration::MAX, Duration::MAX, 0);
    for _ in 0..rounds {
        let (wall, before) = (Instant::now(), cpu());
        let rows = work();
        let used = cpu() - before;
        best = best.min((used, wall.elapsed(), rows));
    }
    let (used, wall, rows) = best;
    let per_row = used.max(Duration::from_millis(1)).as_nanos() / rows.max(1) as u128;
    println!(
        "{what:40} {rows:>9} rows  CPU {:6.2} s  wall {:6.2} s  {per_row:>6} ns CPU/row",
        used.as_secs_f64(),
        wall.as_secs_f64()
    );
}

async fn driver(database: &Database, statement: &str, mut each: impl FnMut(&[u8])) -> usize {
    let (client, connection) =
        tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let stream = client.copy_out(statement).await.unwrap();
    pin_mut!(stream);
    let mut pieces = 0;
    while let Some(piece) = stream.next().await {
        each(&piece.unwrap());
        pieces += 1;
    }
    connection.abort();
    pieces
}

async fn read(database: &Database, forwarded: bool, mut each: impl FnMut(RecordBatch)) -> usize {
    let spec = json!({"connection_string": database.url(), "readers": 1});
    let source = PostgresConnector.source(spec).await.unwrap();
    let table = source.discover(None).await.unwrap().into_iter().next().unwrap();
    let table = Arc::new(table);
    let mut planned =
        TablePlan::new(Arc::clone(&table), table, ReadMode::FullRefresh, WriteMode::Append);
    planned.forwarded = forwarded.then(|| "postgresql-copy".to_owned());
    let plan = Plan {
        sync: "bench".into(),
        sync_id: "1".into(),
        started_at: highwater_core::Instant::now(),
        state_with_data: true,
        sync_group_id: None,
        tables: [(planned.name().clone(), planned)].into(),
    };
    let state = State::default();
    let partitions = source.partitions(&plan, &state).await.unwrap();
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
    let count = async {
        let mut rows = 0;
        while let Some(message) = messages.recv().await {
            if let Message::Batch(batch) = message {
                rows += batch.rows.num_rows();
                each(batch.rows);
            }
        }
        rows
    };
    let (done, rows) = tokio::join!(source.read(&plan, &partitions[0], &state, output), count);
    done.unwrap();
    rows
}

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let wanted = std::env::var("LINEITEM_ROWS").ok().and_then(|rows| rows.parse().ok());
    let rows = if measured { wanted.unwrap_or(1_000_000) } else { 1000 };
    let rounds = if measured { ROUNDS } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = Postgres::shared().create_database();
    let statements = LINEITEM.replace("ROWS", &rows.to_string());
    statements.split(";\n").for_each(|statement| database.execute(statement));

    println!("from a server, CPU of this process:");
    measure("lineitem, as columns", rounds, || {
        runtime.block_on(read(&database, false, |batch| drop(black_box(batch))))
    });
    measure("lineitem, forwarded", rounds, || {
        runtime.block_on(read(&database, true, |batch| drop(black_box(batch))))
    });
    measure("lineitem, the driver's COPY, bytes only", rounds, || {
        let copy = "COPY lineitem TO STDOUT (FORMAT binary)";
        runtime.block_on(driver(&database, copy, |piece| {
            black_box(piece);
        }))
    });

    println!("without a server:");
    let bytes = |statement: &str| {
        let mut bytes = Vec::new();
        runtime.block_on(driver(&database, statement, |piece| bytes.extend_from_slice(piece)));
        bytes
    };
    let copy = bytes("COPY lineitem TO STDOUT (FORMAT binary)");
    measure("decode a row of lineitem", rounds, || measured::decode(&copy, &ROW).unwrap());
    let mut batches = Vec::new();
    runtime.block_on(read(&database, false, |batch| batches.push(batch)));
    measure("encode a row of lineitem", rounds, || {
        let bytes: usize = batches.iter().map(|batch| measured::encode(batch).unwrap()).sum();
        black_box(bytes);
        rows
    });
    drop(batches);
    for (name, expression) in TYPES {
        let copy = bytes(&format!(
            "COPY (SELECT {expression} FROM generate_series(1, {rows}::bigint) i) \
             TO STDOUT (FORMAT binary)"
        ));
        measure(&format!("decode {name}: {expression}"), rounds, || {
            measured::decode(&copy, &[name]).unwrap()
        });
    }
}
