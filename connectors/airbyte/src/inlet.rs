//! The input of a destination of ours that somebody else runs, as a source: RECORD lines are rows,
//! and a STATE line is a checkpoint, which is given back when its rows are durable.
//!
//! All streams are read incrementally, whatever their mode: what comes is what there is, and how
//! it is written, and which rows go when a stream is complete, is the plan's business.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use highwater_core::{
    Checkpoint, Completion, Error, ErrorKind, Output, Partition, Plan, Reads, Result, Source,
    SourceDelivery, State, Table, TableName, TablePlan,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::host::{Ear, LINE_BYTES};
use crate::protocol::{
    AirbyteStream, Catalog, ConfiguredCatalog, ConfiguredStream, DestinationSyncMode, SyncMode,
};
use crate::source::echo::{Echo, Ledger, Waiting};
use crate::source::reading::{Lines, Reading, Verdicts};
use crate::source::streams::{Streams, table_name};

/// How much is read before it is decoded, if it is there.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces of input on their way to the decoder.
const PIECES_IN_FLIGHT: usize = 2;
/// What the input is called in errors.
const NAME: &str = "stdin";

/// Whoever sent the states.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Takes a STATE line, without its end, whose rows are durable.
    ///
    /// # Errors
    /// `Interrupted` when nobody is there any more.
    async fn durable(&self, line: &str) -> Result<()>;
}

/// Lines of somebody else as a source, for one run.
pub struct Inlet {
    streams: Streams,
    /// The streams that are told in which generation they are. Whoever tells that also says which
    /// ones are complete.
    counted: BTreeSet<TableName>,
    input: Mutex<Option<Box<dyn Read + Send>>>,
    ledger: Arc<Ledger>,
    sender: Arc<dyn Sender>,
    /// Whether what was committed of an unfinished rebuild is still there in the next run.
    keeps_unfinished: bool,
    late: Mutex<Late>,
}

/// States of tables whose rows last only if the table is finished.
#[derive(Default)]
struct Late {
    tables: BTreeSet<TableName>,
    states: Vec<Waiting>,
}

impl Inlet {
    /// The streams of `catalog`, of which `input` has the lines. `keeps_unfinished` is
    /// [`highwater_core::Destination::keeps_unfinished`] of where the rows go.
    ///
    /// # Errors
    /// `Data` for a stream that is in the catalog twice.
    pub fn new(
        catalog: ConfiguredCatalog,
        input: Box<dyn Read + Send>,
        sender: Arc<dyn Sender>,
        keeps_unfinished: bool,
    ) -> Result<Self> {
        let is_counted = |stream: &&ConfiguredStream| stream.generation_id.is_some();
        let counted = catalog.streams.iter().filter(is_counted);
        let counted = counted.map(|stream| table_name(&stream.stream.descriptor())).collect();
        let streams = catalog.streams.into_iter().map(stream).collect();
        let streams = Streams::new(Catalog { streams }, &[])?;
        let input = Mutex::new(Some(input));
        let (ledger, late) = (Arc::default(), Mutex::default());
        Ok(Self { streams, counted, input, ledger, sender, keeps_unfinished, late })
    }

    /// Gives back the states that waited until their tables were finished. `complete` are those
    /// that are; call it after the run.
    ///
    /// # Errors
    /// As [`Sender::durable`].
    pub async fn finished(&self, complete: &BTreeSet<TableName>) -> Result<()> {
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        for state in late.states {
            let is_durable = match &state.stream {
                Some(table) => complete.contains(table),
                None => late.tables.is_subset(complete),
            };
            if is_durable {
                self.sender.durable(&state.line).await?;
            }
        }
        Ok(())
    }

    /// Keeps a state for later, if it has to wait; else it comes back.
    fn unless_late(&self, state: Waiting) -> Option<Waiting> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = match &state.stream {
            Some(table) => late.tables.contains(table),
            None => !late.tables.is_empty(),
        };
        if waits {
            late.states.push(state);
            return None;
        }
        Some(state)
    }
}

/// A configured stream with the key and the cursor that it is configured with.
fn stream(configured: ConfiguredStream) -> AirbyteStream {
    let mut stream = configured.stream;
    if !configured.primary_key.is_empty() {
        stream.source_defined_primary_key = configured.primary_key;
    }
    if configured.destination_sync_mode != DestinationSyncMode::AppendDedup {
        // Nothing is told apart by it.
        stream.source_defined_primary_key.clear();
    }
    if !configured.cursor_field.is_empty() {
        stream.default_cursor_field = configured.cursor_field;
    }
    stream.supported_sync_modes = vec![SyncMode::Incremental.word().to_owned()];
    stream.source_defined_cursor = Some(true);
    stream.is_resumable = Some(false);
    stream
}

#[async_trait]
impl Source for Inlet {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(self.streams.tables().cloned().collect())
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Again("whoever sends the rows keeps the position".to_owned())
    }

    async fn review(&self, _table: &TablePlan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        let tables: Vec<TableName> = plan.tables.keys().cloned().collect();
        Ok(vec![Partition { tables, id: NAME.to_owned(), bounds: Value::Null }])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        _state: &State,
        output: Output,
    ) -> Result<Completion> {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        let input = input.ok_or_else(|| Error::internal("The input is read twice"))?;
        let rebuilt = plan.tables.values().filter(|table| table.rebuild).map(TablePlan::name);
        if !self.keeps_unfinished {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            late.tables = rebuilt.clone().cloned().collect();
        }
        let needs_word = rebuilt.filter(|name| self.counted.contains(name)).cloned().collect();
        let echo = Echo::new(Arc::clone(&self.ledger), needs_word);
        let ear = Ear::of_nobody(NAME)?;
        let reading = Reading::new(NAME, ear, plan, &self.streams, output.clone())?.echoing(echo);
        let (pieces, taken) = mpsc::channel(PIECES_IN_FLIGHT);
        // A thread of its own: nothing waits for it when the run ends before the input does.
        let read = thread::spawn(move || pump(input, &pieces));
        let decoding = spawn_blocking(move || {
            let (reading, lines) = reading.run(taken);
            let lines = lines.and_then(|lines| match lines {
                Lines::Ended => read.join().map_err(|_| thread_ended())?.map(|()| lines),
                Lines::Stopped => Ok(lines),
            });
            end(reading, lines)
        });
        let (verdicts, ended) = decoding.await.map_err(|_| thread_ended())?;
        let is_void = verdicts.completed.is_empty() && verdicts.has_loose_rows;
        tell(&output, verdicts).await?;
        match ended? {
            // After `Complete` the engine commits what was sent last.
            Completion::Complete if is_void => Ok(Completion::Stopped),
            completion => Ok(completion),
        }
    }

    fn reads(&self) -> Reads {
        Reads::Together
    }

    async fn acknowledge(&self, checkpoint: &Checkpoint) -> Result<()> {
        for state in self.ledger.take_covered(checkpoint) {
            if let Some(state) = self.unless_late(state) {
                self.sender.durable(&state.line).await?;
            }
        }
        Ok(())
    }
}

/// What is to be said at the end, and how the read ended.
fn end(mut reading: Reading, lines: Result<Lines>) -> (Verdicts, Result<Completion>) {
    let ended = match lines {
        Ok(Lines::Ended) => match reading.end_well(&[]) {
            Ok(verdicts) => return (verdicts, Ok(Completion::Complete)),
            Err(error) => Err(error),
        },
        Ok(Lines::Stopped) => Ok(Completion::Stopped),
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            return (Verdicts::default(), Err(error));
        }
        Err(error) => Err(error),
    };
    match reading.end_badly(&[]) {
        Ok(verdicts) => (verdicts, ended),
        Err(error) => (Verdicts::default(), ended.and(Err(error))),
    }
}

async fn tell(output: &Output, verdicts: Verdicts) -> Result<()> {
    for (table, text) in verdicts.notes {
        tracing::warn!(stream = %table, "{text}");
        output.note(table, text).await?;
    }
    for (table, error) in verdicts.failed {
        output.failed(table, error).await?;
    }
    for table in verdicts.completed {
        output.completed(table).await?;
    }
    Ok(())
}

/// Hands on pieces of complete lines; only the very last may lack its end.
fn pump(mut input: Box<dyn Read + Send>, pieces: &mpsc::Sender<Bytes>) -> Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let start = buffer.len();
        buffer.resize(start + PIECE_BYTES, 0);
        let count = match input.read(&mut buffer[start..]) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                buffer.truncate(start);
                continue;
            }
            Err(error) => {
                return Err(Error::data("The input cannot be read").caused_by(error.to_string()));
            }
        };
        buffer.truncate(start + count);
        let piece = match memchr::memrchr(b'\n', &buffer[start..]) {
            Some(end) => buffer.split_to(start + end + 1),
            None if count == 0 => std::mem::take(&mut buffer),
            None if buffer.len() > LINE_BYTES => {
                return Err(Error::data("A line is longer than the limit")
                    .context("limit_bytes", LINE_BYTES)
                    .hint("exclude the column that holds very large values"));
            }
            None => continue,
        };
        if !piece.is_empty() && pieces.blocking_send(piece.freeze()).is_err() {
            return Ok(());
        }
        if count == 0 {
            return Ok(());
        }
    }
}

fn thread_ended() -> Error {
    Error::internal("The thread that reads the input ended unexpectedly")
}
