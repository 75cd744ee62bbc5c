//! Several streams of rows at once, and one order for their commits.
//!
//! A sync's rows and its cursors come on different streams. A cursor that became durable before
//! rows that were received before it would be a gap, so a commit of one stream is preceded by
//! those of all others, as far as they have been received. Where rows were lost, because a stream
//! failed or was given up, cursors are refused until a new sync begins; except from a caller that
//! says that it sends them only when the rows that they cover were answered for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use futures::future::BoxFuture;
use highwater_core::{Error, Result, Table};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Notify};
use tokio::time::Instant;

use super::{COMMIT_BYTES, COMMIT_ROWS, COMMIT_SECONDS, ServedWriter};
use crate::wire::{Coalesced, Coalescer};

/// Rows of all tables of a stream that may wait to become larger batches.
const GATHERED_BYTES_MAX: usize = 32 << 20;

/// What all streams of a plugin share.
#[derive(Default)]
pub(super) struct Gate {
    /// Held by whoever commits or changes tables, and by every writer where only one may hold
    /// rows. Only its holder waits for more than one stream.
    turn: AsyncMutex<()>,
    streams: Mutex<Vec<Arc<Stream>>>,
    /// Orders what streams received.
    clock: AtomicU64,
    /// Whether rows were received that will never be durable.
    lost: AtomicBool,
}

/// One stream.
struct Stream {
    state: AsyncMutex<State>,
    /// Whether it has received something that is not committed.
    dirty: AtomicBool,
    /// Told when it has failed in a commit for another stream.
    failed: Notify,
}

struct State {
    writer: Box<dyn ServedWriter>,
    gathered: Coalescer,
    /// When the first row came that is not committed: for the order among streams, and by the
    /// clock.
    since: Option<(u64, Instant)>,
    rows: usize,
    bytes: usize,
    /// Whether cursors are among them.
    cursors: bool,
    /// Whether they cover nothing that another stream may have lost.
    after_rows: bool,
    failure: Option<Error>,
}

/// A stream's place at the gate, which it leaves when this is dropped.
pub(super) struct Seat {
    gate: Arc<Gate>,
    stream: Arc<Stream>,
    alone: bool,
}

type Exclusive<'a> = BoxFuture<'a, Result<()>>;

impl Gate {
    /// A new sync begins: what was lost before is the business of the one before.
    pub(super) fn begin(&self) {
        self.lost.store(false, Ordering::SeqCst);
    }

    /// Lets a stream in. `alone`: only one stream may hold rows that are not committed.
    /// `after_rows`: its cursors cover nothing that another stream may have lost.
    pub(super) fn enter(
        self: &Arc<Self>,
        writer: Box<dyn ServedWriter>,
        alone: bool,
        after_rows: bool,
    ) -> Seat {
        let stream = Arc::new(Stream {
            state: AsyncMutex::new(State {
                writer,
                gathered: Coalescer::default(),
                since: None,
                rows: 0,
                bytes: 0,
                cursors: false,
                after_rows,
                failure: None,
            }),
            dirty: AtomicBool::new(false),
            failed: Notify::new(),
        });
        self.streams().push(Arc::clone(&stream));
        Seat { gate: Arc::clone(self), stream, alone }
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits every stream but `but`, in the order of what they received, and keeps them waiting.
    /// The caller holds the turn.
    async fn commit_others<'a>(
        &self,
        streams: &'a [Arc<Stream>],
        but: &Arc<Stream>,
    ) -> Vec<MutexGuard<'a, State>> {
        let mut held = Vec::with_capacity(streams.len());
        for stream in streams.iter().filter(|stream| !Arc::ptr_eq(stream, but)) {
            held.push((stream.state.lock().await, stream));
        }
        held.sort_by_key(|(state, _)| state.since.map(|(order, _)| order));
        for (state, stream) in &mut held {
            if state.since.is_none() || state.failure.is_some() {
                continue;
            }
            let committed = match self.may_commit(state) {
                Ok(()) => state.commit().await,
                refused => refused,
            };
            match committed {
                Ok(()) => stream.dirty.store(false, Ordering::SeqCst),
                Err(error) => {
                    self.lost.store(true, Ordering::SeqCst);
                    state.failure = Some(error);
                    stream.failed.notify_one();
                }
            }
        }
        held.into_iter().map(|(state, _)| state).collect()
    }

    /// # Errors
    /// `Data` when the stream has cursors and rows were lost that they may cover.
    fn may_commit(&self, state: &State) -> Result<()> {
        if state.cursors && !state.after_rows && self.lost.load(Ordering::SeqCst) {
            return Err(Error::data(
                "Rows of this sync were lost on another stream: a cursor that may cover them is not kept",
            )
            .hint("run the sync again, it goes on at the last cursor that was kept"));
        }
        Ok(())
    }
}

impl Seat {
    /// Takes rows.
    pub(super) async fn insert(
        &self,
        table: &Arc<Table>,
        batches: Vec<RecordBatch>,
        bytes: usize,
        is_state: bool,
    ) -> Result<()> {
        if batches.iter().all(|rows| rows.num_rows() == 0) {
            return Ok(());
        }
        let _turn = if self.alone { Some(self.gate.turn.lock().await) } else { None };
        let streams = if self.alone { self.gate.streams().clone() } else { Vec::new() };
        let _others = self.gate.commit_others(&streams, &self.stream).await;
        let mut state = self.stream.state.lock().await;
        state.check()?;
        self.received(&mut state);
        state.cursors |= is_state;
        state.bytes += bytes;
        for rows in batches {
            state.rows += rows.num_rows();
            state.take(table, rows).await?;
        }
        if state.gathered.bytes() > GATHERED_BYTES_MAX {
            state.flush().await?;
        }
        Ok(())
    }

    /// Gives the writer what waits to become a larger batch.
    pub(super) async fn flush(&self) -> Result<()> {
        let _turn = if self.alone { Some(self.gate.turn.lock().await) } else { None };
        let mut state = self.stream.state.lock().await;
        state.check()?;
        state.flush().await
    }

    /// Does something that nobody else may do at the same time, after everything that was received
    /// before it, here and elsewhere. It is durable with the next commit.
    pub(super) async fn exclusively(
        &self,
        work: impl for<'a> FnOnce(&'a mut dyn ServedWriter) -> Exclusive<'a> + Send,
    ) -> Result<()> {
        let _turn = self.gate.turn.lock().await;
        let streams = self.gate.streams().clone();
        let _others = self.gate.commit_others(&streams, &self.stream).await;
        let mut state = self.stream.state.lock().await;
        state.check()?;
        state.flush().await?;
        self.received(&mut state);
        work(state.writer.as_mut()).await
    }

    /// Makes a table fit. Its rows may look otherwise from now on.
    pub(super) async fn migrate(&self, table: &Table, forced: bool) -> Result<()> {
        let _turn = self.gate.turn.lock().await;
        let streams = self.gate.streams().clone();
        let _others = self.gate.commit_others(&streams, &self.stream).await;
        let mut state = self.stream.state.lock().await;
        state.check()?;
        state.flush().await?;
        state.gathered.forget(&table.name)?;
        state.writer.migrate(table, forced).await
    }

    /// Commits everything that was received, here and elsewhere.
    pub(super) async fn commit(&self) -> Result<()> {
        let _turn = self.gate.turn.lock().await;
        let streams = self.gate.streams().clone();
        let _others = self.gate.commit_others(&streams, &self.stream).await;
        let mut state = self.stream.state.lock().await;
        state.check()?;
        self.gate.may_commit(&state)?;
        state.commit().await?;
        self.stream.dirty.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Whether there is enough for a commit.
    pub(super) async fn is_full(&self) -> bool {
        let state = self.stream.state.lock().await;
        state.rows >= COMMIT_ROWS || state.bytes >= COMMIT_BYTES || state.is_due()
    }

    /// When the rows that were received have to be committed.
    pub(super) async fn due(&self) -> Option<Instant> {
        let state = self.stream.state.lock().await;
        state.since.map(|(_, since)| since + Duration::from_secs(COMMIT_SECONDS))
    }

    /// Returns when the stream has failed in a commit for another one.
    pub(super) async fn failed(&self) {
        self.stream.failed.notified().await;
    }

    /// # Errors
    /// Why it failed.
    pub(super) async fn check(&self) -> Result<()> {
        self.stream.state.lock().await.check()
    }

    fn received(&self, state: &mut State) {
        self.stream.dirty.store(true, Ordering::SeqCst);
        if state.since.is_none() {
            let order = self.gate.clock.fetch_add(1, Ordering::SeqCst);
            state.since = Some((order, Instant::now()));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.streams().retain(|stream| !Arc::ptr_eq(stream, &self.stream));
        if self.stream.dirty.load(Ordering::SeqCst) {
            self.gate.lost.store(true, Ordering::SeqCst);
        }
    }
}

impl State {
    fn check(&mut self) -> Result<()> {
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn is_due(&self) -> bool {
        let lasts = Duration::from_secs(COMMIT_SECONDS);
        self.since.is_some_and(|(_, since)| since.elapsed() >= lasts)
    }

    async fn take(&mut self, table: &Arc<Table>, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let ready = match self.gathered.push(table, rows.clone()) {
            Ok(ready) => ready,
            // The same table in another shape: as it is, after what came before it.
            Err(_) => {
                self.flush().await?;
                self.gathered.forget(&table.name)?;
                self.gathered.push(table, rows)?
            }
        };
        self.write(ready).await
    }

    async fn flush(&mut self) -> Result<()> {
        let ready = self.gathered.flush()?;
        self.write(ready).await
    }

    async fn write(&mut self, ready: Vec<Coalesced>) -> Result<()> {
        for Coalesced { table, rows } in ready {
            self.writer.write(&table.name, rows).await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.flush().await?;
        self.writer.commit().await?;
        (self.since, self.rows, self.bytes, self.cursors) = (None, 0, 0, false);
        Ok(())
    }
}
