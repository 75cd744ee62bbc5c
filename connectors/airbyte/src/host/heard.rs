//! Lines that are no records: logs, errors, settings to be kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::{Error, ErrorKind, Result};
use highwater_process::{Level, LogBook, said};

use super::settings::Settings;
use crate::protocol::{Control, FailureType, Log, Message, StreamDescriptor, Trace, TraceError};

/// How much of a connector's own message an error shows, in characters.
const MESSAGE_CHARACTERS: usize = 500;
/// How many failures are kept; a connector may tell one for each of thousands of streams.
const KEPT_FAILURES: usize = 200;

/// A failure that a connector told. Its words hold no secret of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The name of the connector.
    pub connector: String,
    /// The stream that failed, if it is one.
    pub stream: Option<StreamDescriptor>,
    /// What the user can do about it.
    pub kind: ErrorKind,
    /// For the user.
    pub message: String,
    /// For those who know the connector.
    pub internal_message: Option<String>,
}

impl Failure {
    /// The error for it.
    pub fn error(&self) -> Error {
        let error = Error::new(self.kind, format!("The connector says: {}", self.message))
            .context("connector", &self.connector);
        let error = match &self.stream {
            Some(stream) => error.context("stream", stream),
            None => error,
        };
        match &self.internal_message {
            Some(words) => error.context("its own words", words),
            None => error,
        }
    }
}

/// What one process has said beside records.
#[derive(Debug)]
pub(super) struct Heard {
    name: String,
    book: Arc<LogBook>,
    settings: Arc<Settings>,
    failures: Mutex<Vec<Failure>>,
    has_spoken: AtomicBool,
}

impl Heard {
    pub(super) fn new(name: &str, book: Arc<LogBook>, settings: Arc<Settings>) -> Self {
        Self {
            name: name.to_owned(),
            book,
            settings,
            failures: Mutex::default(),
            has_spoken: AtomicBool::default(),
        }
    }

    /// Takes a line: what is a log or settings to be kept is done with, and the rest comes back.
    ///
    /// # Errors
    /// `Data` when a message is not what its type says.
    pub(super) fn line(&self, line: &[u8]) -> Result<Option<Message>> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let message = Message::parse(line).map_err(|e| e.context("connector", &self.name))?;
        if !matches!(message, None | Some(Message::Unknown(_))) {
            self.has_spoken.store(true, Ordering::Relaxed);
        }
        match message {
            None => self.book.line(line),
            Some(Message::Log(log)) => self.log(&log),
            Some(Message::Control(Control::ConnectorConfig(config))) => self.settings.keep(config),
            Some(Message::Control(Control::Unknown(kind)) | Message::Unknown(kind)) => {
                let kind = said(&kind, 50);
                tracing::debug!(connector = self.name, kind, "a message of an unknown type");
            }
            Some(Message::Trace(Trace::Error(error))) => {
                self.failed(&error);
                return Ok(Some(Message::Trace(Trace::Error(error))));
            }
            Some(message) => return Ok(Some(message)),
        }
        Ok(None)
    }

    /// Whether a message of a known type has come.
    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Relaxed)
    }

    /// The failures that were told so far.
    pub(super) fn failures(&self) -> Vec<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn book(&self) -> &LogBook {
        &self.book
    }

    fn log(&self, log: &Log) {
        self.book.say(Level::named(&log.level), &log.message);
        self.trace_of_code(log.stack_trace.as_deref());
    }

    fn trace_of_code(&self, text: Option<&str>) {
        if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
            self.book.say(Level::Debug, text);
        }
    }

    fn failed(&self, error: &TraceError) {
        self.trace_of_code(error.stack_trace.as_deref());
        let words = |text: &str| said(&self.book.hidden().mask(text), MESSAGE_CHARACTERS);
        let message = match words(&error.message) {
            empty if empty.is_empty() => "it failed, and did not say why".to_owned(),
            message => message,
        };
        let internal = error.internal_message.as_deref().map(words);
        let failure = Failure {
            connector: self.name.clone(),
            stream: error.stream_descriptor.clone(),
            kind: match error.failure_type {
                FailureType::ConfigError => ErrorKind::Config,
                FailureType::TransientError => ErrorKind::Transient,
                FailureType::SystemError => ErrorKind::Internal,
            },
            internal_message: internal.filter(|words| !words.is_empty() && *words != message),
            message,
        };
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < KEPT_FAILURES {
            failures.push(failure);
        }
    }
}
