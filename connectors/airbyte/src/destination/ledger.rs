//! What was handed over, and what of it is durable: STATE messages out, their echoes back.
//!
//! Every checkpoint becomes STATE messages, and is durable when all of them have come back, and all
//! checkpoints before it are. A destination says with an echo that everything of the stream before
//! it is stored, so an echo stands for the earlier states of its stream too. Many destinations lose
//! the number of a state; then the same content tells it, and where that was changed, the order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use highwater_core::state::FULL_REFRESH;
use highwater_core::{Checkpoint, CursorKey, Error, Result, TableName};
use serde_json::{Map, Value, json};

use crate::protocol::{State, StateMessage, StreamDescriptor, StreamState, input};

/// The states of one `write`.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    streams: BTreeMap<TableName, Stream>,
    /// What belongs to no table; from then on all states are of the whole source.
    shared: Option<Value>,
    last_id: u64,
    /// States that have not come back, in the order in which they were sent.
    open: VecDeque<Sent>,
    /// Checkpoints that are not durable yet, in order.
    handed: VecDeque<Handed>,
    durable: Vec<Checkpoint>,
}

#[derive(Debug)]
struct Stream {
    descriptor: StreamDescriptor,
    /// What was last said of its position.
    state: Option<Value>,
    /// Rows since the last state.
    rows: u64,
    /// Whether cursors of an unfinished full refresh are of use to the next run.
    keeps_unfinished: bool,
    /// Rows that the destination has refused.
    rejected: u64,
}

#[derive(Debug)]
struct Sent {
    id: u64,
    /// `None`: of the whole source.
    table: Option<TableName>,
    content: State,
    rows: u64,
}

#[derive(Debug)]
struct Handed {
    checkpoint: Checkpoint,
    open: BTreeSet<u64>,
}

impl Ledger {
    /// Adds a table. Where it does not keep what is unfinished, a full refresh that was
    /// interrupted has to begin anew.
    pub(super) fn add(
        &mut self,
        table: TableName,
        descriptor: StreamDescriptor,
        keeps_unfinished: bool,
    ) {
        let stream = Stream { descriptor, state: None, rows: 0, keeps_unfinished, rejected: 0 };
        self.streams.insert(table, stream);
    }

    /// Notes rows that were sent.
    pub(super) fn sent(&mut self, table: &TableName, rows: u64) {
        if let Some(stream) = self.streams.get_mut(table) {
            stream.rows += rows;
        }
    }

    /// Takes a checkpoint, and returns the lines that have to be sent for it.
    pub(super) fn hand_over(&mut self, checkpoint: &Checkpoint) -> String {
        let mut moved = self.moved(checkpoint);
        let rows_are_open = self.streams.iter().filter(|(_, stream)| stream.rows > 0);
        moved.extend(rows_are_open.map(|(table, _)| table.clone()));
        let states = match self.shared.is_some() {
            true if moved.is_empty() && !checkpoint.cursors.contains_key(&CursorKey::Global) => {
                Vec::new()
            }
            true => vec![self.global()],
            false => moved.into_iter().filter_map(|table| self.of_table(table)).collect(),
        };
        let mut lines = String::new();
        let mut open = BTreeSet::new();
        for sent in states {
            lines.push_str(&line(&sent));
            open.insert(sent.id);
            self.open.push_back(sent);
        }
        self.handed.push_back(Handed { checkpoint: self.kept(checkpoint), open });
        self.settle();
        lines
    }

    /// Takes the positions of a checkpoint over; returns the tables that have one.
    fn moved(&mut self, checkpoint: &Checkpoint) -> BTreeSet<TableName> {
        let mut states: BTreeMap<&TableName, Map<String, Value>> = BTreeMap::new();
        let mut moved = BTreeSet::new();
        for (key, cursor) in &checkpoint.cursors {
            let cursor = &cursor.0;
            match key {
                CursorKey::Global => {
                    self.shared = Some(cursor.get("shared_state").unwrap_or(cursor).clone());
                }
                CursorKey::Table(table) => {
                    let state = states.entry(table).or_default();
                    match cursor {
                        Value::Object(object) => state.extend(object.clone()),
                        other => drop(state.insert("cursor".to_owned(), other.clone())),
                    }
                }
                CursorKey::Partition(table, part) => {
                    let state = states.entry(table).or_default();
                    match cursor {
                        Value::Object(object) if part == FULL_REFRESH => {
                            state.extend(object.clone());
                        }
                        other => drop(state.insert(part.clone(), other.clone())),
                    }
                }
            }
        }
        for (table, state) in states {
            if let Some(stream) = self.streams.get_mut(table) {
                stream.state = Some(Value::Object(state));
                moved.insert(table.clone());
            }
        }
        moved
    }

    /// The checkpoint without the cursors that the next run must not go on from.
    fn kept(&self, checkpoint: &Checkpoint) -> Checkpoint {
        let mut kept = checkpoint.clone();
        kept.cursors.retain(|key, _| match key {
            CursorKey::Partition(table, part) if part == FULL_REFRESH => {
                self.streams.get(table).is_none_or(|stream| stream.keeps_unfinished)
            }
            _ => true,
        });
        kept
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn of_table(&mut self, table: TableName) -> Option<Sent> {
        let id = self.next_id();
        let stream = self.streams.get_mut(&table)?;
        let state = stream.state.clone().unwrap_or_else(|| json!({}));
        let content = State::Stream(StreamState {
            descriptor: stream.descriptor.clone(),
            state: Some(state),
        });
        let rows = std::mem::take(&mut stream.rows);
        Some(Sent { id, table: Some(table), content, rows })
    }

    fn global(&mut self) -> Sent {
        let id = self.next_id();
        let streams =
            self.streams.values().filter(|stream| stream.state.is_some() || stream.rows > 0);
        let streams = streams.map(|stream| StreamState {
            descriptor: stream.descriptor.clone(),
            state: Some(stream.state.clone().unwrap_or_else(|| json!({}))),
        });
        let content = State::Global { shared: self.shared.clone(), streams: streams.collect() };
        let rows = self.streams.values_mut().map(|stream| std::mem::take(&mut stream.rows)).sum();
        Sent { id, table: None, content, rows }
    }

    /// Takes an echo. One that belongs to nothing open is ignored: it was covered by a later one.
    ///
    /// # Errors
    /// `Data` when the destination has counted other rows than were sent.
    pub(super) fn echo(&mut self, echo: &StateMessage) -> Result<()> {
        let Some((table, at)) = self.place(echo) else {
            tracing::debug!("a destination has confirmed a state that is not open");
            return Ok(());
        };
        let (mut rows, mut own, mut covered) = (0, 0, BTreeSet::new());
        let mut place = 0;
        self.open.retain(|sent| {
            let is_covered = place <= at && sent.table == table;
            place += 1;
            if is_covered {
                rows += sent.rows;
                own = sent.rows;
                covered.insert(sent.id);
            }
            !is_covered
        });
        self.check_counts(table.as_ref(), echo, rows, own)?;
        for handed in &mut self.handed {
            handed.open.retain(|id| !covered.contains(id));
        }
        self.settle();
        Ok(())
    }

    /// The stream of an echo, and which open state it is of.
    fn place(&self, echo: &StateMessage) -> Option<(Option<TableName>, usize)> {
        let table = match &echo.state {
            State::Stream(state) => {
                let mut streams = self.streams.iter();
                let found = streams.find(|(_, stream)| stream.descriptor == state.descriptor);
                Some(found?.0.clone())
            }
            State::Global { .. } | State::Legacy(_) => None,
        };
        let own = || self.open.iter().enumerate().filter(|(_, sent)| sent.table == table);
        let id = echo.id.as_ref().and_then(number);
        let by_id = own().find(|(_, sent)| Some(sent.id) == id);
        let by_content = || own().find(|(_, sent)| sent.content == echo.state);
        // A number that is not open, with what it says, is old; without any number the order tells.
        let by_order = || own().next().filter(|_| id.is_none());
        let at = by_id.or_else(by_content).or_else(by_order)?.0;
        Some((table, at))
    }

    fn check_counts(
        &mut self,
        table: Option<&TableName>,
        echo: &StateMessage,
        rows: u64,
        own: u64,
    ) -> Result<()> {
        let Some(stats) = echo.destination_stats else { return Ok(()) };
        let rejected = stats.rejected_record_count.unwrap_or(0.0);
        if let Some(stored) = stats.record_count {
            let counted = stored + rejected;
            // One that stands for several may count since the last echo, or for itself.
            if counted != rows as f64 && counted != own as f64 {
                let error = Error::data("The destination has counted other rows than it was sent")
                    .context("sent", rows)
                    .context("stored", stored)
                    .context("refused", rejected)
                    .hint("Look at the destination's log; the rows are sent again by the next run");
                return Err(match table {
                    Some(table) => error.context("table", table),
                    None => error,
                });
            }
        }
        if rejected > 0.0 {
            let of_table = |name: &TableName| table.is_none_or(|table| table == name);
            // Of a state of the whole source nobody knows whose they are.
            let streams = self.streams.iter_mut().filter(|(name, _)| of_table(name));
            streams.for_each(|(_, stream)| stream.rejected += rejected as u64);
        }
        Ok(())
    }

    fn settle(&mut self) {
        while self.handed.front().is_some_and(|handed| handed.open.is_empty()) {
            self.durable.extend(self.handed.pop_front().map(|handed| handed.checkpoint));
        }
    }

    /// The checkpoints that have become durable since the last call.
    pub(super) fn take_durable(&mut self) -> Vec<Checkpoint> {
        std::mem::take(&mut self.durable)
    }

    /// How many states have not come back.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// The rows that the destination has refused, by table.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (&TableName, u64)> {
        let rejected = self.streams.iter().map(|(table, stream)| (table, stream.rejected));
        rejected.filter(|(_, rows)| *rows > 0)
    }
}

/// A number that may have become a fraction on its way.
fn number(id: &Value) -> Option<u64> {
    let whole = |value: f64| (value.fract() == 0.0 && value >= 0.0).then_some(value as u64);
    id.as_u64().or_else(|| id.as_f64().and_then(whole)).or_else(|| id.as_str()?.parse().ok())
}

fn line(sent: &Sent) -> String {
    // The list of one state, opened at its end for what else belongs to it.
    let list = input(std::slice::from_ref(&sent.content));
    let state = list.trim_start_matches('[').trim_end_matches(']');
    let state = state.strip_suffix('}').unwrap_or(state);
    format!(
        "{{\"type\":\"STATE\",\"state\":{state},\"sourceStats\":{{\"recordCount\":{}.0}},\"id\":{}}}}}\n",
        sent.rows, sent.id
    )
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
