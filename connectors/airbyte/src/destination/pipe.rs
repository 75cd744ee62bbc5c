//! A destination's process at work: lines in, echoes out, each on a task of its own, so that
//! neither side ever waits for the other to be read.

use std::time::Duration;

use highwater_core::{Error, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::host::{Ended, Input, Running};
use crate::protocol::{Message, StateMessage};

/// Pieces of lines on their way: enough to keep both sides busy, few enough to keep memory small.
const PIECES_IN_FLIGHT: usize = 2;
/// How long a process that reads no more may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Dropping it ends the process at once.
pub(super) struct Pipe {
    lines: Option<mpsc::Sender<String>>,
    echoes: mpsc::UnboundedReceiver<Result<StateMessage>>,
    feeder: JoinHandle<()>,
    reader: Option<JoinHandle<Ended>>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.feeder.abort();
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Pipe {
    /// # Errors
    /// `Internal` when the process has no input.
    pub(super) fn new(mut running: Running) -> Result<Self> {
        let input = running
            .take_input()
            .ok_or_else(|| Error::internal("A destination was started without its input"))?;
        let (lines, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        let (echo, echoes) = mpsc::unbounded_channel();
        Ok(Self {
            lines: Some(lines),
            echoes,
            feeder: tokio::spawn(feed(input, pieces)),
            reader: Some(tokio::spawn(listen(running, echo))),
        })
    }

    /// Sends complete lines; waits while the destination is behind.
    ///
    /// # Errors
    /// Why the process reads no more.
    pub(super) async fn send(&mut self, lines: String) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let sent = match &self.lines {
            Some(to) => to.send(lines).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(self.died().await) }
    }

    /// An echo that is there already.
    pub(super) fn echo_now(&mut self) -> Option<Result<StateMessage>> {
        self.echoes.try_recv().ok()
    }

    /// Tells the process that this was all.
    pub(super) fn close_input(&mut self) {
        self.lines = None;
    }

    /// The next echo; `None` when there will be no more.
    pub(super) async fn echo(&mut self) -> Option<Result<StateMessage>> {
        self.echoes.recv().await
    }

    /// How the process has ended. After the last echo.
    ///
    /// # Errors
    /// What it told or how it ended, if that was not well.
    pub(super) async fn ended(&mut self) -> Result<()> {
        match self.reader.take() {
            Some(reader) => reader.await.map_err(task_ended)?.result(),
            None => Ok(()),
        }
    }

    /// Why it reads no more.
    async fn died(&mut self) -> Error {
        self.close_input();
        match timeout(LAST_WORDS, self.ended()).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => {
                Error::transient("The destination stopped to read before it had all rows")
                    .hint("Run again; if it ends again, its own log lines say why")
            }
        }
    }
}

fn task_ended(error: tokio::task::JoinError) -> Error {
    Error::internal("A task of the destination ended unexpectedly").caused_by(error)
}

async fn feed(mut input: Input, mut pieces: mpsc::Receiver<String>) {
    while let Some(piece) = pieces.recv().await {
        let written = input.lines(piece.as_bytes()).await;
        // What comes next may take long, and a state has to be heard before.
        let flushed = if pieces.is_empty() { input.flush().await } else { Ok(()) };
        if written.and(flushed).is_err() {
            // How the process ends says why.
            return;
        }
    }
    let _ = input.close().await;
}

async fn listen(mut running: Running, echo: mpsc::UnboundedSender<Result<StateMessage>>) -> Ended {
    loop {
        let piece = match running.lines().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                let _ = echo.send(Err(error));
                break;
            }
        };
        for line in piece.split(|byte| *byte == b'\n') {
            match running.other(line) {
                Ok(Some(Message::State(state))) => drop(echo.send(Ok(state))),
                Ok(_) => {}
                Err(error) => drop(echo.send(Err(error))),
            }
        }
    }
    drop(echo);
    running.end().await
}
