//! The process of a sync: its lines, its input, its end.

use std::sync::Arc;

use bytes::Bytes;
use highwater_core::{Error, ErrorKind, Result};
use highwater_process::{Exit, Kind, Launch, LogBook, Process};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::heard::{Failure, Heard};
use super::lines::Lines;
use super::settings::Settings;
use super::{Connector, ConnectorSpec, Role, command};
use crate::protocol::{ConfiguredCatalog, Message};

/// How much is collected before it is written to a connector.
const INPUT_BYTES: usize = 256 << 10;
/// What it is when there is no image to run.
pub(super) const NO_IMAGE: &str = "The image of the connector cannot be run";

/// A connector that reads or writes. Dropping it kills its process group and its container, and
/// removes its files.
#[derive(Debug)]
pub struct Running {
    name: String,
    process: Process,
    lines: Lines<ChildStdout>,
    input: Option<Input>,
    heard: Arc<Heard>,
    end_patience: std::time::Duration,
}

/// Takes the lines of a connector that are no records; see [`Running::other`].
#[derive(Debug, Clone)]
pub struct Ear(Arc<Heard>);

impl Ear {
    /// For lines that come from no connector of ours.
    ///
    /// # Errors
    /// None that can happen: there are no settings to read.
    pub(crate) fn of_nobody(name: &str) -> Result<Self> {
        let book = Arc::new(LogBook::new(Kind::Connector, name));
        let spec = ConnectorSpec::new(name, Role::Source, "");
        let settings = Arc::new(Settings::read(&spec, Arc::clone(&book))?);
        Ok(Self(Arc::new(Heard::new(name, book, settings))))
    }

    /// As [`Running::other`].
    ///
    /// # Errors
    /// As for [`Running::other`].
    pub fn other(&self, line: &[u8]) -> Result<Option<Message>> {
        self.0.line(line)
    }

    /// Whether a message of a known type has come.
    pub(crate) fn has_spoken(&self) -> bool {
        self.0.has_spoken()
    }
}

/// How a connector ended.
#[derive(Debug)]
pub struct Ended {
    /// How; `None` when it did not end by itself and was stopped.
    pub exit: Option<Exit>,
    /// The failures that it told.
    pub failures: Vec<Failure>,
    error: Option<Error>,
}

impl Ended {
    /// It was not waited for any longer.
    pub(super) fn cut_off() -> Self {
        Self { exit: None, failures: Vec::new(), error: None }
    }

    /// `Ok` when it told no failure and its exit code is 0.
    ///
    /// # Errors
    /// Its first failure, with the kind that it has; else `Transient` when it was killed or did
    /// not end, and `Internal` for an exit code.
    pub fn result(self) -> Result<()> {
        match (self.failures.as_slice(), self.error) {
            ([], None) => Ok(()),
            ([], Some(error)) => Err(error),
            ([first], _) => Err(first.error()),
            ([first, more @ ..], _) => Err(first.error().context("further failures", more.len())),
        }
    }
}

impl Running {
    pub(super) async fn start(
        connector: &Connector,
        command: &str,
        catalog: &ConfiguredCatalog,
        state: Option<String>,
    ) -> Result<Self> {
        let catalog = serde_json::to_string(catalog)
            .map_err(|e| Error::internal("A catalog cannot be written").caused_by(e))?;
        let mut files =
            vec![("config", connector.settings.current().to_string()), ("catalog", catalog)];
        files.extend(state.map(|state| ("state", state)));
        Self::start_with(connector, command, &files).await
    }

    pub(super) async fn start_with(
        connector: &Connector,
        command: &str,
        files: &[(&str, String)],
    ) -> Result<Self> {
        let spec = &connector.spec;
        let pipes = highwater_process::Pipes { input: command == "write", output: true };
        let launch = command::launch(spec, &connector.launcher, command, files, pipes)?;
        connector.book.begin();
        tracing::debug!(connector = spec.name, command, program = %launch.program.display());
        let heard =
            Heard::new(&spec.name, Arc::clone(&connector.book), Arc::clone(&connector.settings));
        Self::launched(launch, connector, Arc::new(heard)).await
    }

    async fn launched(launch: Launch, connector: &Connector, heard: Arc<Heard>) -> Result<Self> {
        let mut process = Process::start(launch, Arc::clone(&connector.book)).await?;
        let output = process
            .take_output()
            .ok_or_else(|| Error::internal("A connector was started without its output"))?;
        let name = connector.spec.name.clone();
        let input = process.take_input().map(|to| Input::new(&name, to));
        Ok(Self {
            lines: Lines::new(output, connector.spec.line_bytes),
            end_patience: connector.spec.end_patience,
            name,
            process,
            input,
            heard,
        })
    }

    /// The next complete lines of its output, each with its `\n` (the very last may lack it);
    /// `None` when it has closed its output. A record is for the decoder, and every other line
    /// for [`Running::other`]. May be cancelled: nothing is lost.
    ///
    /// # Errors
    /// `Data` when a line is longer than the limit.
    pub async fn lines(&mut self) -> Result<Option<Bytes>> {
        self.lines.next().await.map_err(|e| e.context("connector", &self.name))
    }

    /// Takes a line that is no record. Lines of a log and settings to be kept are done with; all
    /// else comes back, and failures are also kept for the end.
    ///
    /// # Errors
    /// `Data` when a message is not what its type says.
    pub fn other(&self, line: &[u8]) -> Result<Option<Message>> {
        self.heard.line(line)
    }

    /// Does what [`Running::other`] does, on whatever thread the lines are decoded.
    pub fn ear(&self) -> Ear {
        Ear(Arc::clone(&self.heard))
    }

    /// What it reads, once; only for a destination. Dropping that closes it.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    /// The failures that it told so far.
    pub fn failures(&self) -> Vec<Failure> {
        self.heard.failures()
    }

    /// Whether it has said anything in the protocol.
    pub(super) fn has_spoken(&self) -> bool {
        self.heard.has_spoken()
    }

    /// Its last lines, for an error.
    pub fn last_lines(&self) -> String {
        self.heard.book().last_lines()
    }

    /// Waits for its end, once it has closed its output. What it still prints is read, and kept if
    /// it is a log or a failure. Its input must be closed; when it does not end in time it is
    /// stopped.
    pub async fn end(mut self) -> Ended {
        drop(self.input.take());
        let heard = Arc::clone(&self.heard);
        let lines = &mut self.lines;
        let process = &self.process;
        let by_itself = timeout(self.end_patience, async {
            while let Ok(Some(piece)) = lines.next().await {
                for line in piece.split(|&b| b == b'\n') {
                    let _ = heard.line(line);
                }
            }
            process.ended().await
        });
        let (exit, error) = match by_itself.await {
            Ok(exit) => (Some(exit), self.bad_exit(exit)),
            Err(_) => {
                let waited = self.end_patience.as_secs();
                let _ = self.process.stop().await;
                let error = Error::transient("The connector did not end and was stopped")
                    .context("connector", &self.name)
                    .context("waited_seconds", waited);
                (None, Some(error))
            }
        };
        Ended { exit, failures: self.heard.failures(), error }
    }

    fn bad_exit(&self, exit: Exit) -> Option<Error> {
        if exit.code == Some(0) {
            return None;
        }
        let words = exit.words();
        // What `docker run` ends with when it never came to start the container.
        if self.process.is_container() && exit.code == Some(125) {
            return Some(self.no_container());
        }
        if exit.is_by_signal() {
            let message = format!("The connector ended in the middle of the work ({words})");
            let error = self.process.death(ErrorKind::Transient, message);
            return Some(error.hint(if exit.is_killed() {
                "Give it more memory, or let it read fewer tables at a time"
            } else {
                "Run again; if it ends again, its own log lines say why"
            }));
        }
        let message = format!("The connector failed, and did not say why ({words})");
        let error = self.process.death(ErrorKind::Internal, message);
        Some(error.hint("Run with `--log-level debug` to see all that it says"))
    }

    fn no_container(&self) -> Error {
        let lines = self.last_lines().to_lowercase();
        let silent = ["docker daemon", "daemon running", "docker.sock"];
        if silent.iter().any(|sign| lines.contains(sign)) {
            let error = self
                .process
                .death(ErrorKind::Transient, "The Docker engine cannot be reached".to_owned());
            return error.hint("Start it and see that `docker version` shows a server");
        }
        self.process
            .death(ErrorKind::Config, NO_IMAGE.to_owned())
            .hint("Look at its name and tag, and try `docker pull`")
    }

    /// Asks it to end, and kills it after ten seconds. How it ends does not matter.
    pub async fn stop(mut self) {
        drop(self.input.take());
        let _ = self.process.stop().await;
    }
}

/// What a connector reads: lines, collected and written in large pieces.
#[derive(Debug)]
pub struct Input {
    name: String,
    to: ChildStdin,
    buffer: Vec<u8>,
}

impl Input {
    fn new(name: &str, to: ChildStdin) -> Self {
        Self { name: name.to_owned(), to, buffer: Vec::with_capacity(INPUT_BYTES) }
    }

    /// Writes one line, with or without its `\n`. It waits while the connector does not read, so
    /// its output must be read at the same time.
    ///
    /// # Errors
    /// `Transient` when the connector reads no more; how it ended says why.
    pub async fn line(&mut self, line: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(line);
        if line.last() != Some(&b'\n') {
            self.buffer.push(b'\n');
        }
        self.flush_if(INPUT_BYTES).await
    }

    /// Writes complete lines, each with its `\n`, as [`Running::lines`] gives them.
    ///
    /// # Errors
    /// As for [`Input::line`].
    pub async fn lines(&mut self, lines: &[u8]) -> Result<()> {
        if lines.len() < INPUT_BYTES / 2 {
            self.buffer.extend_from_slice(lines);
            return self.flush_if(INPUT_BYTES).await;
        }
        self.flush_if(1).await?;
        self.to.write_all(lines).await.map_err(|e| closed(&self.name, e))
    }

    /// Writes what was collected.
    ///
    /// # Errors
    /// As for [`Input::line`].
    pub async fn flush(&mut self) -> Result<()> {
        self.flush_if(1).await
    }

    /// Writes what was collected, and tells the connector that this was all.
    ///
    /// # Errors
    /// As for [`Input::line`].
    pub async fn close(mut self) -> Result<()> {
        self.flush().await?;
        self.to.shutdown().await.map_err(|e| closed(&self.name, e))
    }

    async fn flush_if(&mut self, at_least: usize) -> Result<()> {
        if self.buffer.len() < at_least {
            return Ok(());
        }
        let written = self.to.write_all(&self.buffer).await;
        self.buffer.clear();
        // A long line is no reason to keep so much.
        self.buffer.shrink_to(2 * INPUT_BYTES);
        written.map_err(|e| closed(&self.name, e))
    }
}

fn closed(name: &str, error: std::io::Error) -> Error {
    Error::transient("The connector reads no more").context("connector", name).caused_by(error)
}
