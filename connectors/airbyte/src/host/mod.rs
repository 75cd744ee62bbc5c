//! A connector as a process: found, run with its files, listened to, stopped.
//!
//! [`Connector`] is one connector with its settings; it runs a process for each question and one
//! for a sync. [`Running`] is that of a sync: its lines, its input, its end.
//!
//! | module | what |
//! |---|---|
//! | `find` | what `path` leads to: a manifest, an image, a program, a Python package |
//! | `command` | the command line for it, and the private folder of its files |
//! | `lines` | its output, cut into lines |
//! | `running` | the process of a sync: lines, input, end |
//! | `heard` | lines that are no records: logs, errors, settings to be kept |
//! | `asked` | `spec`, `check` and `discover` |
//! | `cache` | what `spec` and `discover` said, kept in files |
//! | `settings` | the settings: read, merged, kept, and their secrets |

mod asked;
mod cache;
mod command;
mod find;
mod heard;
mod lines;
mod running;
mod settings;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::Result;
use highwater_core::secret::Secret;
pub use highwater_process::{Exit, LogCounts};
use highwater_process::{Kind, LogBook, said};
use serde_json::Value;

pub use cache::CATALOG_LIVES;
pub use find::Launcher;
pub use heard::Failure;
pub use running::{Ear, Ended, Input, Running};

use crate::protocol::{ConfiguredCatalog, State};
use settings::Settings;

/// How long `spec`, `check` and `discover` may take.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long a connector may take to end after it has closed its output.
pub const END_PATIENCE: Duration = Duration::from_secs(60);
/// The longest line that a connector may print.
pub const LINE_BYTES: usize = 128 << 20;

/// What a connector is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is read from.
    Source,
    /// It is written to.
    Destination,
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What it takes to have a connector: one document of a configuration, and how to run it.
#[derive(Clone)]
pub struct ConnectorSpec {
    /// Its name in the configuration.
    pub name: String,
    /// What it is used as.
    pub role: Role,
    /// Which one; see [`Launcher::find`].
    pub path: String,
    /// The version of its package, or the tag of its image.
    pub version: Option<String>,
    /// Its settings.
    pub config: Value,
    /// Values that it must not show, whatever its settings are called.
    pub secrets: Vec<Secret>,
    /// A file of settings that win over `config`, and in which settings are kept that the
    /// connector renews itself.
    pub config_file: Option<PathBuf>,
    /// How old an answer to `discover` may be that is used again; zero: it is asked each time.
    pub catalog_lives: Duration,
    /// Where is kept what `spec` and `discover` said.
    pub cache_dir: PathBuf,
    /// The level of its log lines: `trace`, `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// Variables for its process, beside all that highwater itself has. `PATH` and
    /// `HIGHWATER_AIRBYTE_PYTHON` are also heeded when the program is looked for.
    pub environment: Vec<(String, String)>,
    /// How long `spec`, `check` and `discover` may take.
    pub patience: Duration,
    /// How long it may take to end after it has closed its output.
    pub end_patience: Duration,
    /// The longest line that it may print.
    pub line_bytes: usize,
}

/// Without settings and variables: they hold secrets.
impl fmt::Debug for ConnectorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorSpec")
            .field("name", &self.name)
            .field("role", &self.role)
            .field("path", &self.path)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl ConnectorSpec {
    /// A connector with everything else at its default.
    pub fn new(name: impl Into<String>, role: Role, path: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            role,
            path: path.into(),
            version: None,
            config: Value::Object(serde_json::Map::new()),
            secrets: Vec::new(),
            config_file: None,
            catalog_lives: CATALOG_LIVES,
            cache_dir: PathBuf::from(".highwater/airbyte"),
            log_level: "info".to_owned(),
            environment: Vec::new(),
            patience: PATIENCE,
            end_patience: END_PATIENCE,
            line_bytes: LINE_BYTES,
        }
    }

    /// The variable `name` as its process has it.
    fn variable(&self, name: &str) -> Option<std::ffi::OsString> {
        let own = self.environment.iter().rev().find(|(key, _)| key == name);
        own.map(|(_, value)| value.into()).or_else(|| std::env::var_os(name))
    }

    fn is_verbose(&self) -> bool {
        matches!(self.log_level.as_str(), "debug" | "trace")
    }
}

/// A connector and its settings. Nothing runs until it is asked something.
#[derive(Debug)]
pub struct Connector {
    spec: ConnectorSpec,
    launcher: Launcher,
    settings: Arc<Settings>,
    book: Arc<LogBook>,
}

impl Connector {
    /// Finds the connector and reads its settings.
    ///
    /// # Errors
    /// `Config` when nothing is found, or `config_file` is no file of settings.
    pub fn new(spec: ConnectorSpec) -> Result<Self> {
        let launcher = Launcher::find(&spec)?;
        let book = Arc::new(LogBook::new(Kind::Connector, &spec.name));
        let settings = Arc::new(Settings::read(&spec, Arc::clone(&book))?);
        Ok(Self { spec, launcher, settings, book })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its settings as they are now, with those of its file.
    pub fn config(&self) -> Value {
        self.settings.current()
    }

    /// What its path led to.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// How many errors and warnings it has logged so far, in all of its processes.
    pub fn logs(&self) -> LogCounts {
        self.book.counts()
    }

    /// Its words, made fit for an error: on one line, cut, and without the secrets of its settings.
    pub fn said(&self, text: &str, limit: usize) -> String {
        said(&self.book.hidden().mask(text), limit)
    }

    /// Starts reading; `state` is all that was saved, and nothing starts over.
    ///
    /// # Errors
    /// `Config` when there is no such connector or its process cannot be started; `Transient` when
    /// its files cannot be written.
    pub async fn read(&self, catalog: &ConfiguredCatalog, state: &[State]) -> Result<Running> {
        self.learn_secrets().await?;
        let state = (!state.is_empty()).then(|| crate::protocol::input(state));
        Running::start(self, "read", catalog, state).await
    }

    /// Starts writing; the messages go into [`Running::take_input`].
    ///
    /// # Errors
    /// As for [`Connector::read`].
    pub async fn write(&self, catalog: &ConfiguredCatalog) -> Result<Running> {
        self.learn_secrets().await?;
        Running::start(self, "write", catalog, None).await
    }
}
