//! `spec`, `check` and `discover`: a process each, which answers with one message and ends.

use highwater_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::cache::{CATALOG_LIVES, Entry};
use super::running::NO_IMAGE;
use super::running::{Ended, Running};
use super::{Connector, find};
use crate::protocol::{Catalog, CheckStatus, Message, SpecMessage};

/// How much of a connector's own message an error shows, in characters.
const MESSAGE_CHARACTERS: usize = 500;
/// What it is when there is no package to run.
const NO_PACKAGE: &str = "There is no such connector, or its package cannot be installed";

impl Connector {
    /// What its settings are; known from before, as long as it is the same version.
    ///
    /// # Errors
    /// `Config` when it cannot be started or ends by itself; `Transient` when it does not answer;
    /// else as it says.
    pub async fn spec(&self) -> Result<SpecMessage> {
        let entry = self.spec_entry();
        let known = entry.load::<SpecMessage>();
        let spec = match known {
            Some(spec) => spec,
            None => {
                let spec = match self.launcher.written_spec() {
                    Some(spec) => spec,
                    None => self.ask_for_spec().await?,
                };
                entry.store(&spec);
                spec
            }
        };
        self.settings.hide_by(&spec.connection_specification);
        Ok(spec)
    }

    async fn ask_for_spec(&self) -> Result<SpecMessage> {
        self.ask("spec", &[], |message| match message {
            Message::Spec(spec) => Some(spec),
            _ => None,
        })
        .await
    }

    /// Whether its settings work.
    ///
    /// # Errors
    /// `Config` with its words when they do not; else as for [`Connector::spec`].
    pub async fn check(&self) -> Result<()> {
        self.learn_secrets().await?;
        let status = self
            .ask("check", &self.config_file(), |message| match message {
                Message::ConnectionStatus(status) => Some(status),
                _ => None,
            })
            .await?;
        if status.status == CheckStatus::Succeeded {
            return Ok(());
        }
        let words = self.said(status.message.as_deref().unwrap_or_default(), MESSAGE_CHARACTERS);
        let words = if words.is_empty() { "its settings do not work".to_owned() } else { words };
        Err(Error::config(format!("The connector says: {words}"))
            .context("connector", &self.spec.name))
    }

    /// What it offers; known from before as long as
    /// [`catalog_lives`](super::ConnectorSpec::catalog_lives) says, and neither its version nor its
    /// settings change.
    ///
    /// # Errors
    /// As for [`Connector::spec`].
    pub async fn discover(&self) -> Result<Catalog> {
        let entry = self.catalog_entry();
        if let Some(catalog) = entry.load() {
            return Ok(catalog);
        }
        self.learn_secrets().await?;
        let catalog = self
            .ask("discover", &self.config_file(), |message| match message {
                Message::Catalog(catalog) => Some(catalog),
                _ => None,
            })
            .await?;
        // The connector may have renewed its settings while it was asked.
        self.catalog_entry().store(&catalog);
        Ok(catalog)
    }

    /// The next [`Connector::discover`] asks the connector itself.
    pub fn forget_catalog(&self) {
        self.catalog_entry().forget();
    }

    /// Only its schema says which settings are secrets, so it is asked for that before it gets
    /// them. One that cannot tell is run all the same; names then say what is a secret.
    ///
    /// # Errors
    /// `Config` where there is nothing to run.
    pub(super) async fn learn_secrets(&self) -> Result<()> {
        match Box::pin(self.spec()).await {
            // Another try would be as long, and end in the same way.
            Err(error) if [NO_PACKAGE, NO_IMAGE].contains(&error.message()) => Err(error),
            Err(error) => {
                tracing::debug!(connector = self.spec.name, "no spec: {}", error.full_message());
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn config_file(&self) -> Vec<(&'static str, String)> {
        vec![("config", self.settings.current().to_string())]
    }

    fn spec_entry(&self) -> Entry {
        let lives = (!self.launcher.is_pinned()).then_some(CATALOG_LIVES);
        let identity = self.launcher.identity(&self.spec);
        Entry::new(self.spec.cache_dir.clone(), "spec", identity, &Value::Null, lives)
    }

    fn catalog_entry(&self) -> Entry {
        let identity = self.launcher.identity(&self.spec);
        let secrets = json!([self.settings.current(), self.spec.environment]);
        let lives = Some(self.spec.catalog_lives);
        Entry::new(self.spec.cache_dir.clone(), "discover", identity, &secrets, lives)
    }

    /// Runs `command` to its end; the first message that `pick` takes is the answer.
    async fn ask<T>(
        &self,
        command: &str,
        files: &[(&str, String)],
        pick: impl Fn(Message) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + self.spec.patience;
        let mut running = Running::start_with(self, command, files).await?;
        let mut answer = None;
        loop {
            let piece = match timeout_at(deadline, running.lines()).await {
                Ok(piece) => piece?,
                Err(_) => return Err(self.silent(command, &running)),
            };
            let Some(piece) = piece else { break };
            for line in piece.split(|&b| b == b'\n') {
                if let Some(message) = running.other(line)? {
                    answer = answer.or_else(|| pick(message));
                }
            }
        }
        let has_spoken = running.has_spoken();
        let ended = match timeout_at(deadline, running.end()).await {
            Ok(ended) => ended,
            Err(_) => Ended::cut_off(),
        };
        // All that it has printed is there now.
        let last_lines = self.book.last_lines();
        // An answer counts even if the process fails to end; what it says of a failure counts more.
        let is_well =
            ended.failures.is_empty() && ended.exit.is_none_or(|exit| exit.code == Some(0));
        match (answer, is_well) {
            (Some(answer), true) => Ok(answer),
            (Some(answer), false) if command == "check" => Ok(answer),
            (None, true) => Err(self.no_answer(command, &last_lines)),
            (None, false) if !has_spoken && self.is_no_package(&ended, &last_lines) => {
                Err(self.no_package(&last_lines))
            }
            (_, false) => Err(self.bad_answer(command, ended)),
        }
    }

    fn silent(&self, command: &str, running: &Running) -> Error {
        let error = Error::transient(format!("The connector did not answer `{command}` in time"))
            .context("connector", &self.spec.name)
            .context("waited_seconds", self.spec.patience.as_secs());
        with_lines(error, &running.last_lines()).hint(self.by_hand(command))
    }

    fn no_answer(&self, command: &str, last_lines: &str) -> Error {
        let error = Error::config(format!("The connector ended without an answer to `{command}`"))
            .context("connector", &self.spec.name)
            .context("path", &self.spec.path);
        with_lines(error, last_lines).hint(self.by_hand(command))
    }

    /// What ends by itself before it did anything will do so again, so that is `Config`.
    fn bad_answer(&self, command: &str, ended: Ended) -> Error {
        let told = !ended.failures.is_empty();
        match ended.result() {
            Err(error) if told => error,
            Err(error) if error.kind() != ErrorKind::Internal => error,
            Err(error) => error.with_kind(ErrorKind::Config).hint(self.by_hand(command)),
            Ok(()) => self.no_answer(command, ""),
        }
    }

    /// Whether the tool that installs packages has ended instead of the connector: that would have
    /// said something, or left the trace of its own end.
    fn is_no_package(&self, ended: &Ended, last_lines: &str) -> bool {
        let is_end = ended.exit.is_some_and(|exit| !exit.is_by_signal());
        self.launcher.installs() && is_end && !last_lines.contains("Traceback")
    }

    fn no_package(&self, last_lines: &str) -> Error {
        let error = Error::config(NO_PACKAGE)
            .context("connector", &self.spec.name)
            .context("path", &self.spec.path);
        let error = match &self.spec.version {
            Some(version) => error.context("version", version),
            None => error,
        };
        with_lines(error, last_lines).hint(match find::near(&self.spec) {
            Some(near) => format!("path: {near}   # is in PATH"),
            None => "is the name right? A connector of your own has a path: ./my-connector".into(),
        })
    }

    fn by_hand(&self, command: &str) -> String {
        let (program, words) = self.launcher.words();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        format!(
            "Run it by hand to see why: {} {}",
            program.display(),
            words.iter().map(AsRef::as_ref).chain([command]).collect::<Vec<_>>().join(" ")
        )
    }
}

fn with_lines(error: Error, lines: &str) -> Error {
    if lines.is_empty() { error } else { error.context("its last lines", lines) }
}
