//! The process of a read: started, listened to, stopped.
//!
//! A task reads its output, a thread decodes it, and the writers' task writes: the three overlap,
//! and the channels between them are short.

use std::time::Duration;

use bytes::Bytes;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{Completion, Error, ErrorKind, Output, Plan, Result, State};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::AirbyteSource;
use super::reading::{Lines, Reading, Verdicts};
use super::request;
use crate::host::{Failure, Running};

/// Pieces of output on their way to the decoder.
const PIECES_IN_FLIGHT: usize = 2;
/// How often a read that waits looks whether it has to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long a connector that is to stop may go on to its next state.
const STATE_PATIENCE: Duration = Duration::from_secs(3);
/// How long it may be silent meanwhile.
const SILENCE: Duration = Duration::from_millis(500);

/// Why nothing more is read.
enum Pumped {
    /// The connector has closed its output.
    Closed,
    /// The run is to stop, and no state came in time.
    Stopped,
    /// The decoder takes no more; it says why.
    Refused,
}

/// Runs the connector's `read` for the tables of the plan.
pub(super) async fn read(
    source: &AirbyteSource,
    plan: &Plan,
    state: &State,
    output: Output,
) -> Result<Completion> {
    let streams = source.streams().await?;
    let catalog = request::catalog(plan, streams)?;
    let begin = state;
    let state = request::state(plan, begin, streams);
    let mut running = tokio::select! {
        running = source.connector.read(&catalog, &state) => running?,
        () = stopping(&output) => return Ok(Completion::Stopped),
    };
    crash::at(CrashPoint::ReadSnapshot);
    let name = source.connector.name();
    let reading = Reading::new(name, running.ear(), plan, streams, output.clone())?.after(begin);
    let (pieces, taken) = mpsc::channel(PIECES_IN_FLIGHT);
    let decoding = spawn_blocking(move || reading.run(taken));
    let pumped = pump(&mut running, pieces, &output).await;
    let (reading, lines) = decoding.await.map_err(thread_ended)?;
    let end = End { source, reading: Some(reading), output };
    match (pumped, lines) {
        (_, Err(error)) | (Err(error), _) => end.failed(running, error).await,
        (Ok(Pumped::Stopped), _) | (_, Ok(Lines::Stopped)) => end.stopped(running).await,
        (Ok(Pumped::Closed | Pumped::Refused), Ok(Lines::Ended)) => end.ended(running).await,
    }
}

/// Hands the output on to the decoder.
async fn pump(
    running: &mut Running,
    pieces: mpsc::Sender<Bytes>,
    output: &Output,
) -> Result<Pumped> {
    let mut clock = interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deadline = None;
    let mut heard_at = Instant::now();
    loop {
        tokio::select! {
            piece = running.lines() => {
                let Some(piece) = piece? else { return Ok(Pumped::Closed) };
                heard_at = Instant::now();
                if pieces.send(piece).await.is_err() {
                    return Ok(Pumped::Refused);
                }
            }
            () = pieces.closed() => return Ok(Pumped::Refused),
            _ = clock.tick() => {}
        }
        if output.is_stopping() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + STATE_PATIENCE);
            if Instant::now() >= deadline || heard_at.elapsed() >= SILENCE {
                return Ok(Pumped::Stopped);
            }
        }
    }
}

/// Returns when the run was asked to stop.
async fn stopping(output: &Output) {
    while !output.is_stopping() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The end of a read.
struct End<'a> {
    source: &'a AirbyteSource,
    /// Away while it is on its thread.
    reading: Option<Reading>,
    output: Output,
}

impl End<'_> {
    /// The connector has closed its output: how it ended decides.
    async fn ended(mut self, running: Running) -> Result<Completion> {
        let ended = tokio::select! {
            ended = running.end() => ended,
            () = stopping(&self.output) => return self.left().await,
        };
        let failures = ended.failures.clone();
        let general = failures.iter().find(|failure| failure.stream.is_none());
        let is_well = general.is_none() && ended.exit.is_some_and(|exit| exit.code == Some(0));
        if is_well {
            return match self.finish(move |reading| reading.end_well(&failures)).await {
                Ok(verdicts) => self.tell_all(verdicts).await,
                Err(error) => self.give_up(&[], error).await,
            };
        }
        let error = match general {
            Some(failure) => failure.error(),
            None => ended.result().err().unwrap_or_else(|| {
                Error::internal("The connector failed")
                    .context("connector", self.source.connector.name())
            }),
        };
        self.give_up(&failures, error).await
    }

    /// What the connector sent cannot be gone on with.
    async fn failed(self, running: Running, error: Error) -> Result<Completion> {
        let failures = running.failures();
        running.stop().await;
        if error.kind() == ErrorKind::Interrupted {
            return Err(error);
        }
        self.give_up(&failures, error).await
    }

    async fn stopped(mut self, running: Running) -> Result<Completion> {
        running.stop().await;
        self.left().await
    }

    /// The run is to stop: nothing but what is covered counts.
    async fn left(&mut self) -> Result<Completion> {
        let verdicts = self.finish(|reading| reading.end_badly(&[])).await?;
        self.tell(verdicts).await?;
        Ok(Completion::Stopped)
    }

    /// Tables that were complete before stay complete.
    async fn give_up(mut self, failures: &[Failure], error: Error) -> Result<Completion> {
        let failures = failures.to_vec();
        let verdicts = self.finish(move |reading| reading.end_badly(&failures)).await?;
        self.tell(verdicts).await?;
        Err(error)
    }

    /// Does what may have to wait for the writers on a thread.
    async fn finish(
        &mut self,
        work: impl FnOnce(&mut Reading) -> Result<Verdicts> + Send + 'static,
    ) -> Result<Verdicts> {
        let Some(mut reading) = self.reading.take() else {
            return Err(Error::internal("A read has ended twice"));
        };
        let done = spawn_blocking(move || {
            let verdicts = work(&mut reading);
            (reading, verdicts)
        });
        let (reading, verdicts) = done.await.map_err(thread_ended)?;
        self.reading = Some(reading);
        verdicts
    }

    async fn tell_all(&self, verdicts: Verdicts) -> Result<Completion> {
        // After `Complete` the engine commits what was sent last, unless a table is complete.
        let is_void = verdicts.completed.is_empty() && verdicts.has_loose_rows;
        self.tell(verdicts).await?;
        Ok(if is_void { Completion::Stopped } else { Completion::Complete })
    }

    async fn tell(&self, verdicts: Verdicts) -> Result<()> {
        for (table, text) in verdicts.notes {
            self.output.note(table, text).await?;
        }
        for (table, error) in verdicts.failed {
            self.output.failed(table, error).await?;
        }
        for table in verdicts.completed {
            self.output.completed(table).await?;
        }
        if self.reading.as_ref().is_some_and(Reading::has_unknown) {
            self.source.connector.forget_catalog();
        }
        Ok(())
    }
}

fn thread_ended(error: tokio::task::JoinError) -> Error {
    Error::internal("The thread that decodes records ended unexpectedly").caused_by(error)
}
