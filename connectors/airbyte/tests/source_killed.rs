//! A connector that is killed again and again, and a destination that commits what it is told:
//! in the end every row is there once, but for those that an inclusive cursor brings again.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use highwater_core::{Completion, CursorKey, Message, State};
use serde_json::{Value, json};

use crate::source_support::*;

/// A destination that commits rows and cursors at each checkpoint.
#[derive(Default)]
struct Model {
    rows: BTreeMap<String, Vec<i64>>,
    state: State,
}

impl Model {
    fn take(&mut self, heard: &Heard) {
        let mut staged: Vec<(String, i64)> = Vec::new();
        for message in &heard.messages {
            match message {
                Message::Batch(batch) => {
                    let ids = batch.rows.column_by_name("id").unwrap().as_primitive::<Int64Type>();
                    let table = batch.table.name.to_string();
                    staged.extend(ids.values().iter().map(|id| (table.clone(), *id)));
                }
                Message::Checkpoint(checkpoint) => {
                    for (table, id) in staged.drain(..) {
                        self.rows.entry(table).or_default().push(id);
                    }
                    self.state.cursors.extend(checkpoint.cursors.clone());
                }
                _ => {}
            }
        }
        // As the engine does, what follows the last checkpoint is committed after a good end only
        // when no table was called complete.
        assert!(staged.is_empty() || heard.result.is_err(), "{:?}", heard.log());
    }

    fn position(&self, table: &str) -> Option<i64> {
        self.state.cursors.get(&key(table))?.0["updated_at"].as_i64()
    }
}

fn rows(table: &str, count: i64) -> impl Iterator<Item = Value> {
    (0..count).map(move |id| json!({"stream": table, "data": {"id": id, "updated_at": id}}))
}

async fn killed_until_it_is_done(settings: Value, seed: u64) {
    let all: Vec<Value> = rows("a", 30).chain(rows("b", 45)).collect();
    let mut model = Model::default();
    let mut again: BTreeSet<(&str, i64)> = BTreeSet::new();
    let wanted = [("a", Incremental, Append), ("b", Incremental, Append)];
    let mut random = seed;
    for round in 0.. {
        assert!(round < 60, "it gets nowhere");
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut settings = settings.clone();
        settings["state_every"] = json!(7);
        if round < 8 {
            settings["die_after"] = json!(1 + (random >> 33) % 40);
        }
        for table in ["a", "b"] {
            again.extend(model.position(table).map(|position| (table, position)));
        }
        let shop = rows_shop(&all, settings);
        let heard = shop.read_from(&wanted, &model.state).await;
        model.take(&heard);
        if matches!(heard.result, Ok(Completion::Complete)) {
            break;
        }
    }
    for (table, count) in [("a", 30), ("b", 45)] {
        let mut ids = model.rows[table].clone();
        ids.sort_unstable();
        let twice: Vec<i64> =
            ids.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        ids.dedup();
        assert_eq!(ids, (0..count).collect::<Vec<_>>(), "seed {seed}");
        // A row comes again only where a committed position is, and once for each time.
        assert!(twice.iter().all(|id| again.contains(&(table, *id))), "seed {seed}: {twice:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_killed_at_random_and_no_row_is_lost_or_comes_without_reason() {
    for seed in 0..6 {
        killed_until_it_is_done(json!({}), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_killed_at_random_with_states_of_the_whole_source() {
    for seed in 10..14 {
        killed_until_it_is_done(json!({"global": true}), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_table_that_was_not_read_for_a_while_are_not_missed() {
    // The shared state has moved on without `b`: its own state is of no use any more.
    let all: Vec<Value> = rows("a", 3).chain(rows("b", 3)).collect();
    let shop = rows_shop(&all, json!({"global": true}));
    let both = [("a", Incremental, Append), ("b", Incremental, Append)];
    let mut model = Model::default();
    model.take(&shop.read(&both).await);
    model.take(&shop.read_from(&both[..1], &model.state).await);
    assert!(model.state.cursors.contains_key(&CursorKey::Global));
    let heard = shop.read_from(&both, &model.state).await;
    assert_eq!((heard.ids("a"), heard.ids("b")), (vec![2], vec![0, 1, 2]));
}
