//! States that are given back to whoever sent them, when their rows are durable.
//!
//! Every state gets a number when it comes. Its cursor holds the number, so that a checkpoint
//! that comes back says which states it covers, whatever was held back or put together meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use highwater_core::{Checkpoint, CursorKey, Result, TableName};
use serde_json::{Value, json};

use crate::protocol::echo;

/// Key in a cursor: the number of the state.
const NUMBER: &str = "number";
/// Key in a cursor: the state, for people who look at it.
const STATE: &str = "state";

/// States whose rows are not known to be durable.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    states: VecDeque<Waiting>,
}

/// A state that waits until its rows are durable.
#[derive(Debug)]
pub(crate) struct Waiting {
    number: u64,
    /// `None`: all of them.
    pub(crate) stream: Option<TableName>,
    pub(crate) line: String,
}

impl Ledger {
    /// A state of a stream, or of all, came as `line`, after `records` of its records. The answer
    /// is its cursor.
    ///
    /// # Errors
    /// `Data` for a line that is no state.
    fn came(
        &self,
        line: &[u8],
        stream: Option<TableName>,
        records: u64,
        state: Value,
    ) -> Result<Value> {
        let line = echo(line, records)?;
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.last += 1;
        let number = open.last;
        open.states.push_back(Waiting { number, stream, line });
        Ok(json!({ NUMBER: number, STATE: state }))
    }

    /// Takes out the states that a checkpoint covers, in the order in which they came.
    pub(crate) fn take_covered(&self, checkpoint: &Checkpoint) -> Vec<Waiting> {
        let number = |value: &Value| value.get(NUMBER).and_then(Value::as_u64);
        let global = checkpoint.cursors.get(&CursorKey::Global);
        let is_covered = |waiting: &Waiting| match global {
            // It covers every stream.
            Some(cursor) => number(&cursor.0).is_some_and(|last| waiting.number <= last),
            None => checkpoint.cursors.iter().any(|(key, cursor)| {
                key.table() == waiting.stream.as_ref()
                    && number(&cursor.0).is_some_and(|last| waiting.number <= last)
            }),
        };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let states = std::mem::take(&mut open.states).into_iter();
        let (covered, rest): (Vec<_>, Vec<_>) = states.partition(is_covered);
        open.states = rest.into();
        covered
    }
}

/// What a read needs to give states back.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) ledger: std::sync::Arc<Ledger>,
    /// The tables that are complete only when they are said to be.
    pub(crate) needs_word: BTreeSet<TableName>,
    /// The line that was read last.
    pub(super) line: Vec<u8>,
}

impl Echo {
    pub(crate) fn new(ledger: std::sync::Arc<Ledger>, needs_word: BTreeSet<TableName>) -> Self {
        Self { ledger, needs_word, line: Vec::new() }
    }

    /// As [`Ledger::came`], of the last line.
    pub(super) fn came(
        &mut self,
        stream: Option<TableName>,
        records: u64,
        state: Value,
    ) -> Result<Value> {
        self.ledger.came(&std::mem::take(&mut self.line), stream, records, state)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use highwater_core::Cursor;

    use super::*;

    fn line(stream: &str, id: u64) -> String {
        json!({"type": "STATE", "state": {"type": "STREAM", "id": id, "stream": {
            "stream_descriptor": {"name": stream}, "stream_state": {"at": 1}}}})
        .to_string()
    }

    fn ids(states: &[Waiting]) -> Vec<u64> {
        let id = |state: &Waiting| {
            serde_json::from_str::<Value>(&state.line).unwrap()["state"]["id"].as_u64().unwrap()
        };
        states.iter().map(id).collect()
    }

    #[test]
    fn a_checkpoint_gives_back_the_states_of_its_stream_up_to_it_once() {
        let ledger = Ledger::default();
        let table = TableName::new;
        let mut came = Vec::new();
        for (id, stream) in [(1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "b")] {
            // The values of the states are all the same: they must not tell them apart.
            let cursor =
                ledger.came(line(stream, id).as_bytes(), Some(table(stream)), 1, json!({}));
            came.push(Checkpoint::of(CursorKey::Table(table(stream)), cursor.unwrap()));
        }
        assert_eq!(ids(&ledger.take_covered(&came[4])), [2, 5]);
        assert_eq!(ids(&ledger.take_covered(&came[2])), [1, 3]);
        assert!(ledger.take_covered(&came[0]).is_empty());
        assert!(ledger.take_covered(&Checkpoint::default()).is_empty());
        assert_eq!(ids(&ledger.take_covered(&came[3])), [4]);
    }

    #[test]
    fn a_global_state_covers_all_before_it() {
        let ledger = Ledger::default();
        let mut came = Vec::new();
        for id in [1, 2, 3] {
            let cursor = ledger.came(line("a", id).as_bytes(), None, 1, json!({})).unwrap();
            // The states of streams in it may have any form.
            let own = Cursor(json!({ NUMBER: 99 }));
            let cursors =
                [(CursorKey::Global, Cursor(cursor)), (CursorKey::Table(TableName::new("a")), own)];
            came.push(Checkpoint { cursors: cursors.into() });
        }
        assert_eq!(ids(&ledger.take_covered(&came[1])), [1, 2]);
        assert_eq!(ids(&ledger.take_covered(&came[2])), [3]);
    }
}
