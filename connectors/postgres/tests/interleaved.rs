//! Transactions of several writers in every order that a seed gives: each row version arrives
//! once, whatever its cursor is, and none is missing.

use std::collections::{BTreeMap, BTreeSet};

use highwater_testkit::postgres::Database;
use highwater_testkit::tables::Random;

use crate::server::{Open, Reader, database};

const WRITERS: usize = 4;
const STEPS: usize = 120;
const ROWS: u64 = 12;

/// What a writer is in the middle of.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Rest,
    Transaction,
    Savepoint,
    /// Two-phase: waits to be committed, under the number of the step.
    Prepared(usize),
}

/// The name of a prepared transaction: they are the server's, not the database's.
fn prepared(database: &Database, number: usize) -> String {
    format!("{}_{number}", database.name())
}

/// A cursor as applications write it: the transaction's time, the clock's, the statement's, one
/// from the future, none.
const CURSORS: [&str; 6] =
    ["now()", "clock_timestamp()", "statement_timestamp()", "'2999-01-01'", "NULL", "now()"];

async fn write(writer: &Open, random: &mut Random, version: &mut u64) {
    *version += 1;
    let id = random.below(ROWS);
    let cursor = CURSORS[random.below(CURSORS.len() as u64) as usize];
    // A row that another writer holds is passed by, so that no writer ever waits.
    writer
        .run(&format!(
            "WITH held AS (SELECT id FROM events WHERE id = {id} FOR UPDATE SKIP LOCKED)
             UPDATE events SET v = {version}, at = {cursor} WHERE id IN (SELECT id FROM held);
             INSERT INTO events VALUES ({}, {version}, {cursor})",
            1000 + *version
        ))
        .await;
}

async fn step(
    writer: &Open,
    at: At,
    random: &mut Random,
    version: &mut u64,
    database: &Database,
    number: usize,
) -> At {
    match (at, random.below(10)) {
        (At::Prepared(number), 0..=4) => {
            writer.run(&format!("COMMIT PREPARED '{}'", prepared(database, number))).await;
            At::Rest
        }
        (At::Prepared(_), _) => at,
        (At::Rest, 0..=2) => {
            write(writer, random, version).await;
            At::Rest
        }
        (At::Rest, 3..=4) => {
            writer.run("BEGIN; SELECT now()").await;
            At::Transaction
        }
        (At::Rest, _) => {
            writer.run("BEGIN").await;
            write(writer, random, version).await;
            At::Transaction
        }
        (_, 0..=2) => {
            write(writer, random, version).await;
            at
        }
        (At::Transaction, 3..=5) => {
            writer.run("SAVEPOINT a").await;
            write(writer, random, version).await;
            At::Savepoint
        }
        (At::Savepoint, 3..=4) => {
            writer.run("RELEASE a").await;
            At::Transaction
        }
        (At::Savepoint, 5) => {
            writer.run("ROLLBACK TO a; RELEASE a").await;
            At::Transaction
        }
        (_, 6) => {
            writer.run(&format!("PREPARE TRANSACTION '{}'", prepared(database, number))).await;
            At::Prepared(number)
        }
        (_, 7) => {
            writer.run("ROLLBACK").await;
            At::Rest
        }
        _ => {
            writer.run("COMMIT").await;
            At::Rest
        }
    }
}

/// What every sync has brought: the versions of each row, in their order.
#[derive(Default)]
struct Delivered {
    versions: BTreeSet<(String, String)>,
    last: BTreeMap<String, String>,
}

impl Delivered {
    fn take(&mut self, rows: Vec<String>, seed: u64) {
        for row in rows {
            let fields: Vec<&str> = row.split('|').collect();
            let (id, version) = (fields[0].to_owned(), fields[1].to_owned());
            let is_new = self.versions.insert((id.clone(), version.clone()));
            assert!(is_new, "seed {seed}: version {version} of row {id} came twice");
            self.last.insert(id, version);
        }
    }
}

fn there(database: &Database) -> BTreeMap<String, String> {
    let rows = database.rows("SELECT id, v FROM events");
    rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
}

async fn in_the_order_of(seed: u64, declared: &str) {
    let mut random = Random::new(seed);
    let database = database();
    database.execute(&format!(
        "CREATE TABLE events (id int PRIMARY KEY, v int, at {declared});
         CREATE INDEX ON events (at);
         INSERT INTO events SELECT i, 0, now() FROM generate_series(0, {ROWS} - 1) i"
    ));
    let mut reader = Reader::new(database.url(), "events", Some("at")).await;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push((Open::new(&database).await, At::Rest));
    }
    let (mut delivered, mut version) = (Delivered::default(), 0);
    for number in 0..STEPS {
        let chosen = random.below(WRITERS as u64) as usize;
        let (writer, at) = &mut writers[chosen];
        *at = step(writer, *at, &mut random, &mut version, &database, number).await;
        if random.below(4) == 0 {
            delivered.take(reader.sync().await, seed);
        }
    }
    for (writer, at) in &writers {
        match at {
            At::Rest => {}
            At::Prepared(number) => {
                writer.run(&format!("COMMIT PREPARED '{}'", prepared(&database, *number))).await;
            }
            At::Transaction | At::Savepoint => writer.run("COMMIT").await,
        }
    }
    delivered.take(reader.sync().await, seed);
    assert_eq!(delivered.last, there(&database), "seed {seed}");
    assert!(reader.sync().await.is_empty(), "seed {seed}: something came again");
}

#[tokio::test]
async fn every_version_arrives_once_in_any_order() {
    for seed in 0..8 {
        in_the_order_of(seed, ["timestamptz", "date", "timestamp"][seed as usize % 3]).await;
    }
}
