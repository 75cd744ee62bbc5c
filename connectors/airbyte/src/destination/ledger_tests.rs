//! Which echo stands for which state, and when a checkpoint is durable.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::protocol::Message;

fn table(name: &str) -> TableName {
    TableName::new(name)
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    for name in ["a", "b"] {
        ledger.add(table(name), StreamDescriptor::new(None, name), true);
    }
    ledger
}

fn at(name: &str, position: i64) -> Checkpoint {
    Checkpoint::of(CursorKey::Table(table(name)), json!({"at": position}))
}

fn states(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
}

/// What a destination makes of a line, changed by `change`.
fn echo(line: &Value, change: impl FnOnce(&mut Value)) -> StateMessage {
    let mut line = line.clone();
    change(&mut line["state"]);
    match Message::parse(line.to_string().as_bytes()).unwrap().unwrap() {
        Message::State(state) => state,
        other => panic!("{other:?}"),
    }
}

fn without_id(state: &mut Value) {
    state.as_object_mut().unwrap().remove("id");
}

#[test]
fn a_checkpoint_is_durable_when_its_states_are_and_all_before() {
    let mut ledger = ledger();
    ledger.sent(&table("a"), 3);
    let first = states(&ledger.hand_over(&at("a", 1)));
    assert_eq!(
        first,
        [json!({"type": "STATE", "state": {
            "type": "STREAM",
            "stream": {"stream_descriptor": {"name": "a"}, "stream_state": {"at": 1}},
            "sourceStats": {"recordCount": 3.0}, "id": 1}})]
    );
    let second = states(&ledger.hand_over(&at("b", 1)));
    assert_eq!(second[0]["state"]["sourceStats"]["recordCount"], 0.0);
    ledger.echo(&echo(&second[0], |_| {})).unwrap();
    assert_eq!(ledger.take_durable(), [], "the first is not back");
    ledger.echo(&echo(&first[0], |_| {})).unwrap();
    assert_eq!(ledger.take_durable(), [at("a", 1), at("b", 1)]);
    assert_eq!(ledger.open(), 0);
}

#[test]
fn an_echo_stands_for_the_states_of_its_stream_before_it() {
    let mut ledger = ledger();
    let mut lines = Vec::new();
    for position in 1..=3 {
        lines.extend(states(&ledger.hand_over(&at("a", position))));
        lines.extend(states(&ledger.hand_over(&at("b", position))));
    }
    // The third of a; those of b are open.
    ledger.echo(&echo(&lines[4], without_id)).unwrap();
    assert_eq!(ledger.take_durable(), [at("a", 1)]);
    // A late one of a changes nothing.
    ledger.echo(&echo(&lines[0], |_| {})).unwrap();
    ledger.echo(&echo(&lines[1], |_| {})).unwrap();
    assert_eq!(ledger.take_durable(), [at("b", 1), at("a", 2)]);
    ledger.echo(&echo(&lines[5], |_| {})).unwrap();
    assert_eq!(ledger.take_durable(), [at("b", 2), at("a", 3), at("b", 3)]);
}

#[test]
fn without_number_and_content_the_order_tells() {
    let mut ledger = ledger();
    let first = states(&ledger.hand_over(&at("a", 1)));
    ledger.hand_over(&at("a", 2));
    let changed = |state: &mut Value| {
        without_id(state);
        state["stream"]["stream_state"] = json!({"wrapped": true});
    };
    ledger.echo(&echo(&first[0], changed)).unwrap();
    assert_eq!(ledger.take_durable(), [at("a", 1)]);
    ledger.echo(&echo(&first[0], changed)).unwrap();
    assert_eq!(ledger.take_durable(), [at("a", 2)]);
    ledger.echo(&echo(&first[0], changed)).unwrap();
}

#[test]
fn equal_states_are_confirmed_one_by_one() {
    // A source may send the same position again.
    let mut ledger = ledger();
    let line = states(&ledger.hand_over(&at("a", 1)));
    ledger.sent(&table("a"), 2);
    ledger.hand_over(&at("a", 1));
    ledger.echo(&echo(&line[0], without_id)).unwrap();
    assert_eq!(ledger.take_durable().len(), 1);
    assert_eq!(ledger.open(), 1);
}

#[test]
fn a_number_may_come_back_in_other_forms() {
    for id in [json!(1.0), json!("1")] {
        let mut ledger = ledger();
        let line = states(&ledger.hand_over(&at("a", 1)));
        let changed = |state: &mut Value| {
            state["id"] = id;
            state["stream"]["stream_state"] = json!({});
        };
        ledger.echo(&echo(&line[0], changed)).unwrap();
        assert_eq!(ledger.take_durable().len(), 1);
    }
}

#[test]
fn a_checkpoint_without_cursors_is_a_state_of_each_table_with_rows() {
    let mut ledger = ledger();
    assert_eq!(ledger.hand_over(&Checkpoint::default()), "");
    assert_eq!(ledger.take_durable().len(), 1, "there was nothing to wait for");
    ledger.sent(&table("b"), 5);
    let lines = states(&ledger.hand_over(&Checkpoint::default()));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["state"]["stream"]["stream_descriptor"]["name"], "b");
    assert_eq!(lines[0]["state"]["stream"]["stream_state"], json!({}));
    assert_eq!(ledger.take_durable(), []);
    ledger.echo(&echo(&lines[0], |_| {})).unwrap();
    assert_eq!(ledger.take_durable().len(), 1);
}

#[test]
fn rows_of_other_tables_get_a_state_of_their_own() {
    let mut ledger = ledger();
    ledger.sent(&table("b"), 5);
    let lines = states(&ledger.hand_over(&at("a", 1)));
    let counts: Vec<_> = lines.iter().map(|l| &l["state"]["sourceStats"]["recordCount"]).collect();
    assert_eq!(counts, [0.0, 5.0]);
}

#[test]
fn cursors_that_are_no_objects_are_wrapped() {
    let mut ledger = ledger();
    let plain = Checkpoint::of(CursorKey::Table(table("a")), json!("2026-11-21"));
    let lines = states(&ledger.hand_over(&plain));
    assert_eq!(lines[0]["state"]["stream"]["stream_state"], json!({"cursor": "2026-11-21"}));
    let parts = ["x", "y"].map(|part| {
        (CursorKey::Partition(table("b"), part.to_owned()), highwater_core::Cursor(json!(1)))
    });
    let lines = states(&ledger.hand_over(&Checkpoint { cursors: parts.into() }));
    assert_eq!(lines[0]["state"]["stream"]["stream_state"], json!({"x": 1, "y": 1}));
}

#[test]
fn a_position_of_the_whole_source_is_one_state() {
    let mut ledger = ledger();
    ledger.sent(&table("a"), 2);
    ledger.sent(&table("b"), 1);
    let mut global = at("a", 1);
    let shared = highwater_core::Cursor(json!({"shared_state": {"lsn": 5}}));
    global.cursors.insert(CursorKey::Global, shared);
    let foreign = highwater_core::Cursor(json!({"x": 1}));
    global.cursors.insert(CursorKey::Table(table("not in the catalog")), foreign);
    let lines = states(&ledger.hand_over(&global));
    assert_eq!(
        lines,
        [json!({"type": "STATE", "state": {"type": "GLOBAL", "global": {
            "shared_state": {"lsn": 5},
            "stream_states": [
                {"stream_descriptor": {"name": "a"}, "stream_state": {"at": 1}},
                {"stream_descriptor": {"name": "b"}, "stream_state": {}},
            ]},
            "sourceStats": {"recordCount": 3.0}, "id": 1}})]
    );
    // Kinds of states must not be mixed, so later ones are of the whole source too.
    ledger.sent(&table("b"), 1);
    let last = states(&ledger.hand_over(&Checkpoint::default()));
    assert_eq!(last[0]["state"]["type"], "GLOBAL");
    ledger.echo(&echo(&last[0], |_| {})).unwrap();
    assert_eq!(ledger.take_durable().len(), 2);
}

#[test]
fn counts_that_differ_are_an_error_and_nothing_is_durable() {
    let mut ledger = ledger();
    ledger.sent(&table("a"), 3);
    let line = states(&ledger.hand_over(&at("a", 1)));
    let stats =
        |count: f64, rejected: f64| json!({"recordCount": count, "rejectedRecordCount": rejected});
    let fewer = echo(&line[0], |state| state["destinationStats"] = stats(2.0, 0.0));
    let error = ledger.echo(&fewer).unwrap_err();
    assert_eq!(error.context_value("sent"), Some("3"));
    assert_eq!(error.context_value("table"), Some("a"));
    assert_eq!(ledger.take_durable(), []);
}

#[test]
fn refused_rows_are_counted_and_what_is_skipped_is_summed() {
    let mut ledger = ledger();
    let mut lines = Vec::new();
    for position in 1..=2 {
        ledger.sent(&table("a"), 3);
        lines.extend(states(&ledger.hand_over(&at("a", position))));
    }
    let both = json!({"recordCount": 4.0, "rejectedRecordCount": 2.0});
    ledger.echo(&echo(&lines[1], |state| state["destinationStats"] = both)).unwrap();
    assert_eq!(ledger.take_durable().len(), 2);
    assert_eq!(ledger.rejected().collect::<Vec<_>>(), [(&table("a"), 2)]);
}

#[test]
fn where_nothing_unfinished_is_kept_its_position_is_not_saved() {
    let mut ledger = Ledger::default();
    ledger.add(table("a"), StreamDescriptor::new(None, "a"), false);
    ledger.sent(&table("a"), 1);
    let key = CursorKey::Partition(table("a"), FULL_REFRESH.to_owned());
    let lines = states(&ledger.hand_over(&Checkpoint::of(key, json!({"page": 2}))));
    assert_eq!(lines[0]["state"]["stream"]["stream_state"], json!({"page": 2}));
    ledger.echo(&echo(&lines[0], |_| {})).unwrap();
    assert_eq!(ledger.take_durable(), [Checkpoint::default()]);
}

#[test]
fn numbers_of_states_are_sent_as_they_came() {
    let source = r#"{"type":"STATE","state":{"type":"STREAM","stream":{"stream_descriptor":{"name":"a"},"stream_state":{"lsn":123456789012345678901234567890}}}}"#;
    let Some(Message::State(state)) = Message::parse(source.as_bytes()).unwrap() else { panic!() };
    let State::Stream(StreamState { state: Some(state), .. }) = state.state else { panic!() };
    let mut ledger = ledger();
    let lines = ledger.hand_over(&Checkpoint::of(CursorKey::Table(table("a")), state));
    assert!(lines.contains(r#"{"lsn":123456789012345678901234567890}"#), "{lines}");
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// A destination that stores states of a stream in their order, and says so as it likes.
struct Whimsical {
    keeps_id: bool,
    changes: bool,
    skips: bool,
    /// What it has read of each stream and not stored: the number of the checkpoint, the line.
    read: BTreeMap<&'static str, VecDeque<(usize, Value)>>,
    stored: BTreeSet<usize>,
}

impl Whimsical {
    fn store(&mut self, count: usize, stream: &str, ledger: &mut Ledger) {
        let Some(waiting) = self.read.get_mut(stream) else { return };
        let now: Vec<_> = waiting.drain(..count.min(waiting.len())).collect();
        self.stored.extend(now.iter().map(|(checkpoint, _)| *checkpoint));
        let skipped = if self.skips { now.len().saturating_sub(1) } else { 0 };
        for (_, line) in &now[skipped..] {
            let changed = |state: &mut Value| {
                if !self.keeps_id {
                    without_id(state);
                }
                if self.changes {
                    state["stream"]["stream_state"] = json!({"mine": 1});
                }
            };
            ledger.echo(&echo(line, changed)).unwrap();
        }
    }
}

/// Whatever a destination does with its echoes (late, skipped, without number, changed), a
/// checkpoint is durable only if its rows are stored; and with numbers, all are at the end.
#[test]
fn nothing_counts_that_is_not_stored() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut destination = Whimsical {
            keeps_id: dice.below(2) == 0,
            changes: dice.below(4) == 0,
            skips: dice.below(2) == 0,
            read: BTreeMap::new(),
            stored: BTreeSet::new(),
        };
        let mut ledger = ledger();
        let mut durable = 0;
        for checkpoint in 0..30 {
            let name = if dice.below(2) == 0 { "a" } else { "b" };
            // Positions repeat.
            let lines = states(&ledger.hand_over(&at(name, dice.below(3) as i64)));
            let read = destination.read.entry(name).or_default();
            read.extend(lines.into_iter().map(|line| (checkpoint, line)));
            for stream in ["a", "b"] {
                let count = dice.below(4) as usize;
                destination.store(count, stream, &mut ledger);
            }
            durable += ledger.take_durable().len();
            assert!((0..durable).all(|at| destination.stored.contains(&at)), "seed {seed}");
        }
        for stream in ["a", "b"] {
            destination.store(usize::MAX, stream, &mut ledger);
        }
        durable += ledger.take_durable().len();
        if destination.keeps_id || !destination.skips {
            assert_eq!((durable, ledger.open()), (30, 0), "seed {seed}");
        }
    }
}
