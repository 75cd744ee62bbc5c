//! Plugins as processes: found, started, connected, listened to and stopped.
//!
//! | module | what |
//! |---|---|
//! | [`local`] | a program on this machine |
//! | [`remote`] | a plugin that somebody else runs |
//! | [`docker`] | a plugin in a container |
//! | [`download`] | a program from CloudQuery's hub, kept in `.cq` |
//! | [`ready`] | the connection and the version of the protocol |
//! | [`words`] | what its statuses mean |
//!
//! The process itself, its lines and the secrets in them are `highwater-process`.

mod docker;
mod download;
mod local;
mod ready;
mod remote;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::secret::Secret;
use highwater_core::{Error, Result};
use serde_json::Value;
use tonic::Status;
use tonic::transport::Channel;

pub use download::{Hub, Installed, install};
pub use highwater_process::{LogCounts, said};
pub(crate) use ready::endpoint;

use crate::proto::plugin::plugin_client::PluginClient;
use highwater_process::{Kind, LogBook, Process};

/// The largest message that we send and take, as CloudQuery's own command does.
pub const MESSAGE_BYTES: usize = 200 << 20;

/// How long a plugin may take to answer after its start. Python plugins import for long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a plugin is used as. The protocol makes no difference; the hub's folders do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is read from.
    Source,
    /// It is written to.
    Destination,
    /// It changes rows on their way.
    Transformer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Transformer => "transformer",
        })
    }
}

/// Where a plugin comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    /// A program on this machine; the path names it.
    Local,
    /// It runs already; the path is `host:port` or `unix:///path`.
    Grpc,
    /// A container; the path is its image.
    Docker,
    /// CloudQuery's hub; the path is `team/name`.
    CloudQuery,
}

/// What it takes to have a plugin: one document of a configuration, and how to run it.
#[derive(Debug, Clone)]
pub struct PluginSpec {
    /// Its name in the configuration.
    pub name: String,
    /// What it is used as.
    pub kind: Role,
    /// Where it comes from.
    pub registry: Registry,
    /// Which one; what it says depends on the registry.
    pub path: String,
    /// Its version, `v1.2.3`; the hub needs it.
    pub version: Option<String>,
    /// Values that it must not show, whatever its settings are called.
    pub secrets: Vec<Secret>,
    /// A login for the registry of its image: base64 of `{"username": …, "password": …}`.
    pub docker_registry_auth_token: Option<Secret>,
    /// Where it sends its traces and metrics.
    pub otel_endpoint: Option<String>,
    /// Whether it sends them unencrypted.
    pub otel_endpoint_insecure: bool,
    /// A licence file for it.
    pub license: Option<PathBuf>,
    /// The folder of downloaded plugins.
    pub cq_dir: PathBuf,
    /// The level of its log lines: `trace`, `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// Variables for its process, beside all that highwater itself has.
    pub environment: Vec<(String, String)>,
    /// How long it may take to answer after its start.
    pub patience: Duration,
    /// The `docker` command.
    pub docker_command: PathBuf,
    /// CloudQuery's hub, and who we are there.
    pub hub: Hub,
}

impl PluginSpec {
    /// A plugin with everything else at its default; the hub as the environment says.
    pub fn new(
        name: impl Into<String>,
        kind: Role,
        registry: Registry,
        path: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            kind,
            registry,
            path: path.into(),
            version: None,
            secrets: Vec::new(),
            docker_registry_auth_token: None,
            otel_endpoint: None,
            otel_endpoint_insecure: false,
            license: None,
            cq_dir: PathBuf::from(".cq"),
            log_level: "info".to_owned(),
            environment: Vec::new(),
            patience: PATIENCE,
            docker_command: docker::default_command(),
            hub: Hub::from_environment(),
        }
    }

    /// The empty book of its lines.
    fn book(&self) -> LogBook {
        let book = LogBook::new(Kind::Plugin, &self.name);
        for secret in &self.secrets {
            book.hidden().add_text(secret);
        }
        book
    }
}

/// A plugin that runs, or one that somebody else runs and we are connected to.
///
/// Dropping it kills its process group at once; [`Plugin::stop`] lets it end by itself first.
#[derive(Debug)]
pub struct Plugin {
    name: String,
    connection: String,
    channel: Channel,
    book: Arc<LogBook>,
    process: Option<Process>,
}

impl Plugin {
    /// Finds, starts and connects the plugin; it has answered and speaks our protocol when this
    /// returns. Nothing is left running when it fails or is cancelled.
    ///
    /// # Errors
    /// `Config` when it cannot be found or started, ends by itself at its start or does not speak
    /// gRPC; `Transient` when it is killed at its start or does not answer; `Unsupported` when it
    /// speaks another version of the protocol.
    pub async fn start(spec: &PluginSpec) -> Result<Self> {
        let started = match spec.registry {
            Registry::Grpc => {
                let (channel, connection) = remote::start(spec).await?;
                return Ok(Self {
                    name: spec.name.clone(),
                    connection,
                    channel,
                    book: Arc::new(spec.book()),
                    process: None,
                });
            }
            Registry::Local => local::start(spec, &local::program(&spec.name, &spec.path)?).await,
            Registry::Docker => docker::start(spec, &spec.path).await,
            Registry::CloudQuery => match install(spec).await? {
                Installed::Image(image) => docker::start(spec, &image).await,
                Installed::Program { path, .. } => local::start(spec, &path).await,
                Installed::Nothing => {
                    Err(Error::internal("A plugin of the hub was installed nowhere"))
                }
            },
        }?;
        tracing::debug!(plugin = spec.name, connection = started.connection, "plugin started");
        Ok(Self {
            name: spec.name.clone(),
            connection: started.connection,
            channel: started.channel,
            book: started.book,
            process: Some(started.process),
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hides the secrets of its settings in everything that it says from now on; called before it
    /// gets them.
    pub fn hide(&self, spec: &Value) {
        self.book.hidden().add(spec);
    }

    /// Its words, made fit for an error: as [`said`], and without the secrets of its settings.
    pub fn said(&self, text: &str, limit: usize) -> String {
        said(&self.book.hidden().mask(text), limit)
    }

    /// A client for its calls. Clients are cheap and share one connection.
    pub fn client(&self) -> PluginClient<Channel> {
        PluginClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    /// What `@@plugins.NAME.connection` stands for: `unix:///path` or `host:port`.
    pub fn connection(&self) -> &str {
        &self.connection
    }

    /// Whether it runs in a container, for which this machine has another name.
    pub fn in_container(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_container)
    }

    /// How many errors and warnings it has logged so far.
    pub fn logs(&self) -> LogCounts {
        self.book.counts()
    }

    /// As [`Plugin::logs`], once every line is counted that its process had printed when this was
    /// called, and the last line of level error. A plugin that somebody else runs has no lines, and
    /// those of a container may come late.
    pub async fn logs_now(&self) -> (LogCounts, Option<String>) {
        if let Some(process) = &self.process {
            process.heard().await;
        }
        (self.book.counts(), self.book.last_error())
    }

    /// The error that says so if its process has ended without being asked to.
    pub fn died(&self) -> Option<Error> {
        self.process.as_ref()?.died()
    }

    /// What a failed call means: that the process died, if it did, else what the status says. For
    /// a broken connection it waits, at most 200 ms, for the end of the process to be seen.
    pub fn explain(&self, status: Status) -> Error {
        let died = match &self.process {
            Some(process) if words::is_broken_connection(&status) => process.died_just_now(),
            Some(process) => process.died(),
            None => None,
        };
        match died {
            Some(error) => error,
            None => words::status_error(&self.name, &status, |text| self.book.hidden().mask(text)),
        }
    }

    /// Asks it to end and waits for that; after ten seconds it is killed. A plugin that somebody
    /// else runs is left alone. A second call does nothing.
    ///
    /// # Errors
    /// `Transient` when it had ended by itself before, or its exit code says that its end was bad.
    pub async fn stop(&self) -> Result<()> {
        match &self.process {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }
}
