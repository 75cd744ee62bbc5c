//! The lines of a connector: records become rows, states become checkpoints, statuses say which
//! tables are complete.
//!
//! All of it is work for a thread, not for a task: it decodes, and waits for the writers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use highwater_core::{Checkpoint, Cursor, CursorKey, Error, Output, Plan, Result, TableName};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::echo::Echo;
use super::lanes::Lane;
use super::order::{DISK_BYTES, MEMORY_BYTES, Order};
use super::request::global_cursor;
use super::streams::{Streams, table_name};
use super::way::Way;
use crate::host::{Ear, Failure};
use crate::protocol::{
    Message, Progress, State, StateMessage, Stats, StreamDescriptor, StreamState, StreamStatus,
    Trace,
};
use crate::records::{Line, Record, parse};

/// How many bytes of lines are gathered in columns that are not yet batches, over all tables.
const GATHERED_BYTES: usize = 8 << 20;

/// How the lines ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// There are no more.
    Ended,
    /// The run was asked to stop, and this is a good place.
    Stopped,
}

/// What is to be said of the tables at the end.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    pub(crate) notes: Vec<(TableName, String)>,
    pub(crate) failed: Vec<(TableName, Error)>,
    pub(crate) completed: Vec<TableName>,
    /// Whether rows were sent that no checkpoint may cover any more.
    pub(crate) has_loose_rows: bool,
}

/// The state of a read.
#[derive(Debug)]
pub(crate) struct Reading {
    connector: String,
    ear: Ear,
    lanes: Vec<Lane>,
    /// The lanes by the name of the stream, and its namespace.
    named: HashMap<String, Vec<(Option<String>, usize)>>,
    order: Order,
    way: Way,
    /// Whether the states are GLOBAL; `None` before the first.
    is_global: Option<bool>,
    /// Whether the read began with a position of the whole source. One that keeps a state per
    /// stream now has no use for it, and would be given it for ever.
    began_global: bool,
    /// Records of streams that were not asked for.
    strangers: BTreeMap<TableName, u64>,
    /// A complete table that its end covers. Its last state may still come and be counted.
    closing: Option<usize>,
    /// Why the last line, which had no end, could not be read.
    cut: Option<Error>,
    number: u64,
    has_records: bool,
    gathered: usize,
    /// Where the lines come from somebody who wants to hear what is durable.
    echo: Option<Echo>,
}

impl Reading {
    pub(crate) fn new(
        connector: &str,
        ear: Ear,
        plan: &Plan,
        streams: &Streams,
        output: Output,
    ) -> Result<Self> {
        let lanes = plan.tables.values();
        let lanes = lanes.map(|table| Lane::new(table, streams.get(table.name())?));
        let lanes = lanes.collect::<Result<Vec<_>>>()?;
        let mut named: HashMap<String, Vec<_>> = HashMap::new();
        for (index, lane) in lanes.iter().enumerate() {
            let TableName { namespace, name } = lane.name().clone();
            named.entry(name).or_default().push((namespace, index));
        }
        let traits = lanes.iter().map(|lane| lane.traits).collect();
        let tables = lanes.iter().map(|lane| Arc::clone(lane.planned())).collect();
        Ok(Self {
            connector: connector.to_owned(),
            ear,
            lanes,
            named,
            order: Order::new(traits, MEMORY_BYTES, DISK_BYTES),
            way: Way { output, tables },
            is_global: None,
            began_global: false,
            strangers: BTreeMap::new(),
            closing: None,
            cut: None,
            number: 0,
            has_records: false,
            gathered: 0,
            echo: None,
        })
    }

    /// As a destination reads: states are given back.
    pub(crate) fn echoing(self, echo: Echo) -> Self {
        Self { echo: Some(echo), ..self }
    }

    /// With what the read began.
    pub(super) fn after(mut self, state: &highwater_core::State) -> Self {
        let global = state.cursors.get(&CursorKey::Global);
        self.began_global = global.is_some_and(|cursor| !cursor.0.is_null());
        self
    }

    /// Takes all lines.
    pub(crate) fn run(mut self, mut pieces: mpsc::Receiver<Bytes>) -> (Self, Result<Lines>) {
        while let Some(piece) = pieces.blocking_recv() {
            match self.piece(&piece) {
                Ok(Lines::Ended) => {}
                other => return (self, other),
            }
        }
        (self, Ok(Lines::Ended))
    }

    fn piece(&mut self, piece: &[u8]) -> Result<Lines> {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            let was_state = self.line(&piece[start..end])?;
            start = end + 1;
            if was_state && self.way.output.is_stopping() {
                return Ok(Lines::Stopped);
            }
        }
        if start < piece.len() {
            // Only the very last line has no end: the connector may have died in it.
            self.cut = self.line(&piece[start..]).err();
        }
        let is_stopping = self.way.output.is_stopping() && self.order.is_clean();
        Ok(if is_stopping { Lines::Stopped } else { Lines::Ended })
    }

    /// Takes a line; whether it was a state.
    fn line(&mut self, line: &[u8]) -> Result<bool> {
        self.number += 1;
        match parse(line, self.number).map_err(|e| e.context("connector", &self.connector))? {
            Line::Record(mut record) => {
                if self.echo.is_some() {
                    record.read_as_seconds();
                }
                self.record(&record).map(|()| false)
            }
            Line::Other | Line::NotJson => match self.ear.other(line)? {
                Some(Message::State(state)) => {
                    if let Some(echo) = &mut self.echo {
                        echo.line = line.to_vec();
                    }
                    self.state(state).map(|()| true)
                }
                Some(Message::Trace(Trace::StreamStatus(status))) => {
                    self.status(&status).map(|()| false)
                }
                Some(Message::Trace(Trace::Error(error))) => {
                    let stream = error.stream_descriptor.as_ref();
                    if let Some(lane) = stream.and_then(|stream| self.of(stream)) {
                        self.fails(lane);
                    }
                    Ok(false)
                }
                _ => Ok(false),
            },
        }
    }

    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        self.has_records = true;
        let Some(lane) = self.find(&record.stream, record.namespace.as_deref()) else {
            let namespace = record.namespace.as_deref();
            let stream = StreamDescriptor::new(namespace, record.stream.as_ref());
            *self.strangers.entry(table_name(&stream)).or_default() += 1;
            return Ok(());
        };
        self.close_unless(lane)?;
        if self.lanes[lane].progress == Progress::Complete {
            return Err(self.error("A record came after its stream was said to be complete", lane));
        }
        self.gathered -= self.lanes[lane].gathered();
        let is_full = self.lanes[lane].append(record);
        self.gathered += self.lanes[lane].gathered();
        if is_full.map_err(|e| e.context("connector", &self.connector))? {
            self.send(lane)?;
        }
        if self.gathered > GATHERED_BYTES {
            self.send_all()?;
        }
        Ok(())
    }

    fn find(&self, name: &str, namespace: Option<&str>) -> Option<usize> {
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let lanes = self.named.get(name)?.iter();
        let mut own = lanes.filter(|(of, _)| of.as_deref() == namespace);
        own.next().map(|(_, lane)| *lane)
    }

    fn of(&self, stream: &StreamDescriptor) -> Option<usize> {
        self.find(&stream.name, stream.namespace.as_deref())
    }

    /// Sends on what was gathered of a table.
    fn send(&mut self, lane: usize) -> Result<()> {
        self.gathered -= self.lanes[lane].gathered();
        match self.lanes[lane].take()? {
            Some(rows) => self.order.rows(lane, rows, &mut self.way),
            None => Ok(()),
        }
    }

    fn send_all(&mut self) -> Result<()> {
        (0..self.lanes.len()).try_for_each(|lane| self.send(lane))
    }

    fn state(&mut self, message: StateMessage) -> Result<()> {
        let is_global = match &message.state {
            State::Stream(_) => false,
            State::Global { .. } => true,
            State::Legacy(_) => {
                return Err(Error::unsupported(
                    "The connector keeps one state for all of its streams in the old form (LEGACY)",
                )
                .context("connector", &self.connector)
                .hint("Take a version of the connector that keeps a state per stream"));
            }
        };
        if *self.is_global.get_or_insert(is_global) != is_global {
            return Err(Error::data("The connector mixes STREAM and GLOBAL states in one read")
                .context("connector", &self.connector)
                .hint("Take another version of the connector"));
        }
        match message.state {
            State::Stream(stream) => self.stream_state(stream, message.source_stats),
            State::Global { shared, streams } => {
                self.global_state(shared, streams, message.source_stats)
            }
            State::Legacy(_) => Ok(()),
        }
    }

    fn stream_state(&mut self, state: StreamState, stats: Option<Stats>) -> Result<()> {
        let Some(lane) = self.of(&state.descriptor) else {
            let stream = state.descriptor.to_string();
            tracing::warn!(stream, "A state of a stream that was not asked for is ignored");
            return Ok(());
        };
        self.close_unless(lane)?;
        if self.comes_too_late(&[lane]) {
            return Ok(());
        }
        let counted = std::mem::take(&mut self.lanes[lane].since_state);
        if let Some(said) = miscounted(stats, &[counted]) {
            let error = self.miscount(counted, said).context("stream", &state.descriptor);
            self.refuse_or_warn(error)?;
        }
        self.send(lane)?;
        let traits = self.lanes[lane].traits;
        if !traits.at_end {
            let stream = Some(self.lanes[lane].name().clone());
            let value = self.echoed(stream, counted, value_of(state.state))?;
            let mut cursor = Checkpoint::of(self.lanes[lane].cursor_key.clone(), value);
            if self.began_global {
                cursor.cursors.insert(CursorKey::Global, Cursor(Value::Null));
            }
            return self.order.state(lane, cursor, &mut self.way);
        }
        if self.closing == Some(lane) {
            return self.close();
        }
        if traits.repeats {
            return self.order.state(lane, Checkpoint::default(), &mut self.way);
        }
        Ok(())
    }

    fn global_state(
        &mut self,
        shared: Option<Value>,
        streams: Vec<StreamState>,
        stats: Option<Stats>,
    ) -> Result<()> {
        let named = streams.iter().filter_map(|stream| self.of(&stream.descriptor));
        let named: Vec<usize> = named.collect();
        // The shared position is that of all streams that are read by it, also where a state of
        // their own is left out.
        let moves = |lane: &usize| self.lanes[*lane].is_incremental || named.contains(lane);
        let covered: Vec<usize> = (0..self.lanes.len()).filter(moves).collect();
        if self.comes_too_late(&covered) {
            // Of the others nothing is covered either: they go on where they were.
            for lane in covered {
                let lane = &mut self.lanes[lane];
                if lane.since_state > 0 && lane.is_incremental && !lane.traits.repeats {
                    lane.progress = Progress::Incomplete;
                }
            }
            return Ok(());
        }
        let of_named: u64 = named.iter().map(|&lane| self.lanes[lane].since_state).sum();
        let all: u64 = self.lanes.iter().map(|lane| lane.since_state).sum();
        // Whether streams that it does not name are counted is not settled.
        if let Some(said) = miscounted(stats, &[all, of_named]) {
            let error = self.miscount(all, said);
            self.refuse_or_warn(error)?;
        }
        self.lanes.iter_mut().for_each(|lane| lane.since_state = 0);
        if self.closing.is_some() {
            self.close()?;
        }
        self.send_all()?;
        let mut cursors = BTreeMap::new();
        let mut others = Vec::new();
        for stream in streams {
            match self.of(&stream.descriptor).map(|lane| &self.lanes[lane]) {
                None => others.push(stream),
                Some(lane) if lane.traits.at_end => {}
                Some(lane) => {
                    cursors.insert(lane.cursor_key.clone(), Cursor(value_of(stream.state)));
                }
            }
        }
        // What a state leaves out has none any more: an older one is not given back with it.
        let read = named.iter().map(|&lane| &self.lanes[lane]);
        let read = read.filter(|lane| lane.is_incremental).map(Lane::name);
        let global = global_cursor(shared, read, &others);
        let global = self.echoed(None, all, global)?;
        for (index, lane) in self.lanes.iter().enumerate() {
            // A full refresh that failed: this state does not cover it.
            if lane.progress == Progress::Incomplete {
                self.order.forget(index);
            }
        }
        cursors.insert(CursorKey::Global, Cursor(global));
        self.order.global(Checkpoint { cursors }, &mut self.way)
    }

    /// Whether a state covers a stream whose failure was told before. Connectors have sent the state
    /// of a good end after one (airbyte#34869): were it kept, what they did not read were never read.
    /// Without it the next sync begins where the failure was not yet.
    fn comes_too_late(&self, covered: &[usize]) -> bool {
        let failed = |lane: &&usize| {
            let lane = &self.lanes[**lane];
            lane.progress == Progress::Incomplete && !lane.traits.at_end
        };
        let Some(lane) = covered.iter().find(failed) else { return false };
        let stream = self.lanes[*lane].name().to_string();
        tracing::warn!(stream, "A state that came after the failure of its stream is ignored");
        true
    }

    fn status(&mut self, status: &StreamStatus) -> Result<()> {
        let Some(lane) = self.of(&status.stream_descriptor) else {
            let stream = status.stream_descriptor.to_string();
            tracing::debug!(stream, "A status of a stream that was not asked for is ignored");
            return Ok(());
        };
        let before = self.lanes[lane].progress;
        match (before, status.status) {
            (_, Progress::Unknown) | (Progress::Incomplete | Progress::Complete, _)
                if status.status != Progress::Incomplete => {}
            (_, Progress::Incomplete) => self.fails(lane),
            (_, now) => self.lanes[lane].progress = now,
        }
        let completes = self.lanes[lane].progress == Progress::Complete;
        if completes && before != Progress::Complete {
            self.close_unless(lane)?;
            self.send(lane)?;
            if self.lanes[lane].traits.at_end {
                self.closing = Some(lane);
            }
        }
        Ok(())
    }

    /// A table is not complete, whatever was said of it before.
    fn fails(&mut self, lane: usize) {
        self.lanes[lane].progress = Progress::Incomplete;
        if self.closing == Some(lane) {
            self.closing = None;
        }
    }

    /// Something of this table came: another one that was complete gets no state any more.
    fn close_unless(&mut self, lane: usize) -> Result<()> {
        match self.closing {
            Some(closing) if closing != lane => self.close(),
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<()> {
        match self.closing.take() {
            Some(lane) => self.order.state(lane, Checkpoint::default(), &mut self.way),
            None => Ok(()),
        }
    }

    /// The end of a connector that has ended well, and told no failure but those of single
    /// streams: what waits goes on.
    ///
    /// # Errors
    /// `Data` when the last line is not complete.
    pub(crate) fn end_well(&mut self, failures: &[Failure]) -> Result<Verdicts> {
        if let Some(error) = self.cut.take() {
            return Err(error);
        }
        self.has_spoken()?;
        self.close()?;
        self.send_all()?;
        let errors = self.errors(failures);
        let failed: Vec<bool> = errors.iter().map(Option::is_some).collect();
        let told = self.order.finish(&failed, &mut self.way)?;
        let mut verdicts = self.verdicts(errors);
        for (lane, rows) in self.lanes.iter().zip(&told).filter(|(_, rows)| **rows > 0) {
            verdicts.has_loose_rows = true;
            let text = format!(
                "{rows} rows were sent on that no state covers: the next sync reads them again."
            );
            verdicts.notes.push((lane.name().clone(), text));
        }
        Ok(verdicts)
    }

    /// The end of a read that failed or was stopped: what waits is dropped.
    ///
    /// # Errors
    /// `Interrupted` when the writers are gone.
    pub(crate) fn end_badly(&mut self, failures: &[Failure]) -> Result<Verdicts> {
        self.close()?;
        let mut errors = self.errors(failures);
        for (lane, error) in self.lanes.iter().zip(&mut errors) {
            // Of what the connector could not go on with, its end says why.
            let told =
                lane.misfit().is_some() || failures.iter().any(|failure| is_of(failure, lane));
            if lane.progress != Progress::Incomplete && !told {
                *error = None;
            }
        }
        let mut verdicts = self.verdicts(errors);
        let is_complete = |name: &TableName| {
            self.lanes.iter().enumerate().any(|(index, lane)| {
                lane.name() == name
                    && lane.progress == Progress::Complete
                    && self.order.is_covered(index)
            })
        };
        verdicts.completed.retain(is_complete);
        Ok(verdicts)
    }

    /// One that never said anything has not read empty tables: it has not read.
    fn has_spoken(&self) -> Result<()> {
        if self.echo.is_some() || self.has_records || self.ear.has_spoken() {
            return Ok(());
        }
        Err(Error::data("The connector said nothing: no record, no state, no line of a log")
            .context("connector", &self.connector)
            .hint("See that `path` leads to the connector itself; `--log-level debug` shows what it prints"))
    }

    /// Why a table is not complete, for each.
    fn errors(&self, failures: &[Failure]) -> Vec<Option<Error>> {
        let is_silent = self.lanes.iter().all(|lane| lane.progress == Progress::Unknown);
        let error = |lane: &Lane| {
            if let Some(error) = lane.misfit() {
                return Some(error.context("connector", &self.connector));
            }
            if let Some(failure) = failures.iter().find(|failure| is_of(failure, lane)) {
                return Some(failure.error());
            }
            let message = match lane.progress {
                Progress::Complete => return None,
                _ if is_silent && !self.needs_word(lane) => return None,
                Progress::Incomplete => "The connector could not read the stream completely",
                _ => "The connector ended without saying that the stream is complete",
            };
            let error = Error::data(message).context("connector", &self.connector);
            Some(error.hint("Run again; its own log lines may say why"))
        };
        self.lanes.iter().map(error).collect()
    }

    fn verdicts(&self, errors: Vec<Option<Error>>) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for (lane, error) in self.lanes.iter().zip(errors) {
            let name = lane.name().clone();
            verdicts.notes.extend(lane.note().map(|text| (name.clone(), text)));
            match error {
                Some(error) => verdicts.failed.push((name, error)),
                None => verdicts.completed.push(name),
            }
        }
        for (stream, records) in &self.strangers {
            let error = Error::data("The connector sent records of a stream it was not asked for")
                .context("connector", &self.connector)
                .context("stream", stream)
                .context("records", records)
                .hint(format!(
                    "add the table `{stream}`, or take another version of the connector"
                ));
            verdicts.failed.push((stream.clone(), error));
        }
        verdicts
    }

    /// Whether records brought fields that the catalog does not have.
    pub(super) fn has_unknown(&self) -> bool {
        self.lanes.iter().any(Lane::has_unknown)
    }

    /// Whether it is complete only when somebody says so.
    fn needs_word(&self, lane: &Lane) -> bool {
        self.echo.as_ref().is_some_and(|echo| echo.needs_word.contains(lane.name()))
    }

    /// The cursor for a state that came in the last line.
    fn echoed(&mut self, stream: Option<TableName>, records: u64, state: Value) -> Result<Value> {
        match &mut self.echo {
            Some(echo) => echo.came(stream, records, state),
            None => Ok(state),
        }
    }

    /// A host may miscount what a source has counted; PyAirbyte does.
    fn refuse_or_warn(&self, error: Error) -> Result<()> {
        if self.echo.is_none() {
            return Err(error);
        }
        tracing::warn!(error = %error.message(), "The counts of a state are another's");
        Ok(())
    }

    fn error(&self, message: &str, lane: usize) -> Error {
        Error::data(message)
            .context("connector", &self.connector)
            .context("stream", self.lanes[lane].name())
            .context("line", self.number)
    }

    fn miscount(&mut self, counted: u64, said: f64) -> Error {
        // Not even what is complete, when it is the one.
        self.closing = None;
        Error::data("The connector says that it sent another number of records than came")
            .context("connector", &self.connector)
            .context("sent", said)
            .context("came", counted)
            .context("line", self.number)
            .hint("Run again: nothing of it was committed; a connector that always miscounts needs another version")
    }
}

/// What the connector counted, if it is none of `counted`.
fn miscounted(stats: Option<Stats>, counted: &[u64]) -> Option<f64> {
    let said = stats?.record_count?;
    let agrees = counted.iter().any(|counted| (*counted as f64 - said).abs() < 0.5);
    (!agrees).then_some(said)
}

/// A state that says nothing is kept as an empty one: it is given back, and starts over.
fn value_of(state: Option<Value>) -> Value {
    state.filter(|state| !state.is_null()).unwrap_or_else(|| json!({}))
}

fn is_of(failure: &Failure, lane: &Lane) -> bool {
    failure.stream.as_ref().is_some_and(|stream| table_name(stream) == *lane.name())
}
