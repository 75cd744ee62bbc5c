//! The rule, held against random interleavings: at every checkpoint, all rows sent so far are
//! covered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use highwater_core::{Checkpoint, CursorKey, Result, TableName};
use serde_json::json;

use super::{Exit, Order, Traits};

const STRICT: Traits = Traits { repeats: false, at_end: false };
const KEYED: Traits = Traits { repeats: true, at_end: false };
const WHOLE: Traits = Traits { repeats: false, at_end: true };

/// A destination: what was sent, and what is committed.
#[derive(Default)]
struct Sink {
    sent: BTreeMap<usize, Vec<i64>>,
    committed: BTreeMap<usize, usize>,
    cursors: BTreeMap<CursorKey, i64>,
    log: Vec<String>,
}

impl Exit for Sink {
    fn rows(&mut self, table: usize, rows: RecordBatch) -> Result<()> {
        let ids = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        self.log.push(format!("{table}:{}", ids.len()));
        self.sent.entry(table).or_default().extend(ids);
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.log.push("commit".to_owned());
        for (key, cursor) in checkpoint.cursors {
            self.cursors.insert(key, cursor.0.as_i64().unwrap());
        }
        for (table, rows) in &self.sent {
            self.committed.insert(*table, rows.len());
        }
        Ok(())
    }
}

impl Sink {
    fn committed(&self, table: usize) -> i64 {
        self.committed.get(&table).copied().unwrap_or(0) as i64
    }

    fn cursor(&self, table: usize) -> i64 {
        self.cursors.get(&key(table)).copied().unwrap_or(0)
    }
}

fn key(table: usize) -> CursorKey {
    CursorKey::Table(TableName::new(format!("t{table}")))
}

fn rows(from: i64, count: i64) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let ids: Int64Array = (from..from + count).collect();
    RecordBatch::try_new(schema, vec![Arc::new(ids)]).unwrap()
}

/// The connector: counts what it has sent of each table.
struct Script {
    order: Order,
    sink: Sink,
    sent: Vec<i64>,
}

impl Script {
    /// Nothing waits on disk before a table has gone ahead.
    fn new(traits: &[Traits], limit: usize) -> Self {
        Self::with_disk(traits, limit, 0)
    }

    fn with_disk(traits: &[Traits], limit: usize, disk: usize) -> Self {
        let order = Order::new(traits.to_vec(), limit, disk);
        Self { order, sink: Sink::default(), sent: vec![0; traits.len()] }
    }

    fn rows(&mut self, table: usize, count: i64) {
        let batch = rows(self.sent[table], count);
        self.sent[table] += count;
        self.order.rows(table, batch, &mut self.sink).unwrap();
    }

    fn state(&mut self, table: usize) {
        let state = Checkpoint::of(key(table), json!(self.sent[table]));
        self.order.state(table, state, &mut self.sink).unwrap();
    }

    fn end(&mut self, table: usize) {
        self.order.state(table, Checkpoint::default(), &mut self.sink).unwrap();
    }

    fn global(&mut self, tables: &[usize]) {
        let mut state = Checkpoint::of(CursorKey::Global, json!(0));
        for &table in tables {
            let of = Checkpoint::of(key(table), json!(self.sent[table]));
            state.cursors.extend(of.cursors);
        }
        self.order.global(state, &mut self.sink).unwrap();
    }

    fn finish(&mut self, failed: &[bool]) -> Vec<u64> {
        self.order.finish(failed, &mut self.sink).unwrap()
    }

    fn log(&self) -> String {
        self.sink.log.join(" ")
    }
}

#[test]
fn rows_go_on_with_their_state_and_not_before() {
    let mut script = Script::new(&[STRICT, STRICT], 1 << 20);
    script.rows(0, 2);
    script.rows(1, 3);
    assert_eq!(script.log(), "");
    script.state(1);
    script.state(0);
    assert_eq!(script.log(), "1:3 commit 0:2 commit");
    assert!(script.order.is_clean());
}

#[test]
fn one_table_goes_ahead_and_the_states_of_others_wait_for_its_own() {
    let mut script = Script::new(&[STRICT, STRICT], 1);
    script.rows(0, 2);
    script.rows(0, 2);
    script.rows(1, 3);
    script.state(1);
    script.rows(1, 1);
    script.state(1);
    assert_eq!(script.log(), "0:2 0:2");
    assert!(!script.order.is_covered(0) && !script.order.is_covered(1));
    script.state(0);
    assert_eq!(script.log(), "0:2 0:2 commit 1:3 commit 1:1 commit");
    assert!(script.order.is_covered(0) && script.order.is_covered(1));
}

#[test]
fn rows_that_may_come_twice_do_not_wait_but_their_state_does() {
    let mut script = Script::new(&[STRICT, KEYED], 1);
    script.rows(0, 1);
    script.rows(1, 3);
    script.state(1);
    script.rows(1, 2);
    assert_eq!(script.log(), "0:1 1:3 1:2");
    script.state(0);
    assert_eq!(script.log(), "0:1 1:3 1:2 commit");
    assert_eq!((script.sink.cursor(0), script.sink.cursor(1)), (1, 3));
}

#[test]
fn a_global_state_covers_all_but_what_only_its_end_covers() {
    let mut script = Script::new(&[STRICT, STRICT, WHOLE], 1 << 20);
    for table in 0..3 {
        script.rows(table, 2);
    }
    script.global(&[0, 1]);
    assert_eq!(script.log(), "0:2 1:2 commit");
    script.rows(1, 1);
    script.end(2);
    assert_eq!(script.log(), "0:2 1:2 commit 2:2 commit");
    script.global(&[0, 1]);
    assert!(script.order.is_clean());
}

#[test]
fn a_whole_table_that_went_ahead_holds_global_states_back() {
    let mut script = Script::new(&[STRICT, WHOLE], 1);
    script.rows(1, 2);
    script.rows(0, 1);
    script.global(&[0]);
    assert_eq!(script.log(), "1:2");
    script.end(1);
    assert_eq!(script.log(), "1:2 commit 0:1 commit");
}

#[test]
fn rows_of_a_failed_table_that_no_state_covers_are_dropped() {
    let mut script = Script::new(&[STRICT, STRICT], 1 << 20);
    script.rows(0, 2);
    script.state(0);
    script.rows(0, 5);
    script.rows(1, 1);
    assert_eq!(script.finish(&[true, false]), [0, 0]);
    assert_eq!(script.log(), "0:2 commit 1:1 commit");

    // Unless they had gone ahead: then it says how many.
    let mut script = Script::new(&[STRICT, STRICT], 1);
    script.rows(0, 5);
    script.rows(1, 1);
    script.state(1);
    assert_eq!(script.finish(&[true, false]), [5, 0]);
    assert_eq!(script.log(), "0:5 1:1 commit");

    // And nothing of it is committed where nothing else is.
    let mut script = Script::new(&[STRICT], 1);
    script.rows(0, 5);
    assert_eq!(script.finish(&[true]), [5]);
    assert_eq!(script.log(), "0:5");
}

#[test]
fn what_no_state_covers_at_a_good_end_is_committed_once() {
    let mut script = Script::new(&[STRICT, KEYED, WHOLE], 1 << 20);
    for table in 0..3 {
        script.rows(table, 1);
    }
    script.finish(&[false; 3]);
    assert!(script.order.is_clean(), "{}", script.log());
    assert_eq!(script.sink.committed.len(), 3);
    script.finish(&[false; 3]);
    assert!(!script.log().ends_with("commit commit"));
}

#[test]
fn rows_wait_on_disk_where_another_table_could_commit_them() {
    let mut script = Script::with_disk(&[STRICT, STRICT], 1, 1 << 20);
    script.rows(0, 5);
    script.rows(1, 1);
    script.state(1);
    assert_eq!(script.log(), "1:1 commit");
    script.rows(1, 2);
    assert_eq!(script.finish(&[true, false]), [0, 0]);
    assert_eq!(script.log(), "1:1 commit 1:2 commit");

    // When there is no more room there, the one with the most goes ahead.
    let mut script = Script::with_disk(&[STRICT, STRICT], 1, 1_000);
    script.rows(1, 1);
    let mut steps = 0;
    while script.log().is_empty() && steps < 100 {
        script.rows(0, 10);
        steps += 1;
    }
    assert!((1..100).contains(&steps) && script.log().starts_with("0:10"), "{}", script.log());
    script.state(1);
    assert!(!script.log().contains("commit"));
    script.state(0);
    assert!(script.log().ends_with("commit 1:1 commit"), "{}", script.log());
    in_order(&script);

    // Of a single table there is nobody else whose state commits them.
    let mut script = Script::with_disk(&[STRICT], 1, 1 << 20);
    script.rows(0, 5);
    assert_eq!(script.log(), "0:5");
}

/// SplitMix64: the same numbers at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// At each step: what is committed of a strict table is what its cursor says, of a whole table
/// nothing or all, of a table whose rows may come twice at least what its cursor says.
fn holds(script: &Script, traits: &[Traits], ended: &[bool]) {
    for (table, traits) in traits.iter().enumerate() {
        let committed = script.sink.committed(table);
        match (traits.repeats, traits.at_end) {
            (true, _) => assert!(committed >= script.sink.cursor(table)),
            (false, true) => {
                assert!(committed == 0 || (ended[table] && committed == script.sent[table]));
            }
            (false, false) => assert_eq!(committed, script.sink.cursor(table), "{}", script.log()),
        }
    }
}

fn in_order(script: &Script) {
    for rows in script.sink.sent.values() {
        assert!(rows.iter().enumerate().all(|(at, id)| at as i64 == *id));
    }
}

#[test]
fn any_interleaving_of_stream_states_keeps_the_rule() {
    for seed in 0..600 {
        let mut random = Random(seed);
        let traits: Vec<Traits> = (0..1 + random.below(5))
            .map(|_| [STRICT, STRICT, KEYED, WHOLE][random.below(4) as usize])
            .collect();
        let limit = [1, 3_000, 20_000, 1 << 20][random.below(4) as usize];
        let disk = [0, 20_000, 1 << 20][random.below(3) as usize];
        let mut script = Script::with_disk(&traits, limit, disk);
        let mut ended = vec![false; traits.len()];
        for _ in 0..random.below(120) {
            let table = random.below(traits.len() as u64) as usize;
            match random.below(10) {
                _ if ended[table] => {}
                0 | 1 if !traits[table].at_end => script.state(table),
                0 if traits[table].at_end => {
                    ended[table] = true;
                    script.end(table);
                }
                _ => script.rows(table, 1 + random.below(200) as i64),
            }
            holds(&script, &traits, &ended);
            let unit = if limit > 4_000 { limit } else { 4_000 };
            assert!(script.order.memory <= unit, "{} of {limit}", script.order.memory);
        }
        for table in 0..traits.len() {
            match (ended[table], traits[table].at_end) {
                (true, _) => continue,
                (false, true) => script.end(table),
                (false, false) => script.state(table),
            }
            ended[table] = true;
            holds(&script, &traits, &ended);
        }
        assert!(script.order.is_clean(), "seed {seed}: {}", script.log());
        assert_eq!(script.order.memory, 0);
        in_order(&script);
        for (table, sent) in script.sent.iter().enumerate() {
            assert_eq!(script.sink.committed(table), *sent, "seed {seed}");
        }
    }
}

#[test]
fn any_interleaving_of_global_states_keeps_the_rule() {
    for seed in 1_000..1_300 {
        let mut random = Random(seed);
        let traits: Vec<Traits> = (0..1 + random.below(5))
            .map(|_| [STRICT, STRICT, STRICT, KEYED, WHOLE][random.below(5) as usize])
            .collect();
        let limit = [1, 3_000, 20_000, 1 << 20][random.below(4) as usize];
        let covered: Vec<usize> = (0..traits.len()).filter(|&t| !traits[t].at_end).collect();
        let disk = [0, 20_000, 1 << 20][random.below(3) as usize];
        let mut script = Script::with_disk(&traits, limit, disk);
        let mut ended = vec![false; traits.len()];
        for _ in 0..random.below(120) {
            let table = random.below(traits.len() as u64) as usize;
            match random.below(10) {
                0 | 1 => script.global(&covered),
                2 if traits[table].at_end && !ended[table] => {
                    ended[table] = true;
                    script.end(table);
                }
                _ if ended[table] => {}
                _ => script.rows(table, 1 + random.below(200) as i64),
            }
            holds(&script, &traits, &ended);
        }
        script.global(&covered);
        for table in 0..traits.len() {
            if traits[table].at_end && !ended[table] {
                script.end(table);
                ended[table] = true;
            }
        }
        holds(&script, &traits, &ended);
        assert!(script.order.is_clean(), "seed {seed}: {}", script.log());
        in_order(&script);
    }
}

#[test]
fn after_any_interleaving_a_good_end_sends_all_and_a_failed_table_keeps_to_its_state() {
    for seed in 2_000..2_400 {
        let mut random = Random(seed);
        let traits = vec![STRICT; 1 + random.below(4) as usize];
        let limit = [1, 3_000, 1 << 20][random.below(3) as usize];
        let disk = [0, 20_000, 1 << 20][random.below(3) as usize];
        let mut script = Script::with_disk(&traits, limit, disk);
        for _ in 0..random.below(80) {
            let table = random.below(traits.len() as u64) as usize;
            match random.below(6) {
                0 => script.state(table),
                _ => script.rows(table, 1 + random.below(200) as i64),
            }
        }
        let failed: Vec<bool> = traits.iter().map(|_| random.below(3) == 0).collect();
        let told = script.finish(&failed);
        in_order(&script);
        for (table, failed) in failed.iter().enumerate() {
            if *failed {
                let waited = disk == 1 << 20 && traits.len() > 1;
                assert!(!waited || told[table] == 0, "seed {seed}");
                let extra = script.sink.committed(table) - script.sink.cursor(table);
                assert!(extra == 0 || extra as u64 == told[table], "seed {seed}");
            } else {
                assert_eq!(script.sink.committed(table), script.sent[table], "seed {seed}");
                assert!(script.order.is_covered(table));
            }
        }
    }
}
