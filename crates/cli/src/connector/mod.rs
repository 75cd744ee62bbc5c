//! A built-in connector in Airbyte's protocol: what Airbyte, PyAirbyte or anybody else runs as a
//! source or a destination, with messages on stdin and stdout.
//!
//! | module | what |
//! |---|---|
//! | [`catalog`] | tables as the streams of a catalog, and what a configured catalog asks for |
//! | [`lines`] | the lines that we print |
//! | [`outlet`] | as a source: rows and positions of the engine as messages |

mod catalog;
mod lines;
mod outlet;

use std::path::Path;
use std::sync::Arc;

use highwater_airbyte::protocol::Catalog;
use highwater_core::{Connector, Error, Result};
use highwater_engine::{Failure, RunOptions, Silent, StopSignal, Summary, SyncRequest, Target};
use serde_json::{Value, json};

use crate::served::settings::{self, Settings};
use lines::Lines;
use outlet::Outlet;

/// A connector as somebody else runs it, and where its messages go.
pub struct Spoken {
    connector: &'static dyn Connector,
    lines: Arc<Lines>,
}

impl Spoken {
    /// Speaks on stdout.
    pub fn new(connector: &'static dyn Connector) -> Self {
        Self { connector, lines: Arc::new(Lines::stdout()) }
    }

    /// `spec`: what the configuration has to be like.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn spec(&self) -> Result<()> {
        let spec = json!({
            "connectionSpecification": settings::schema(self.connector),
            "protocol_version": "0.2.0",
            "supportsIncremental": true,
            "supported_destination_sync_modes": ["append", "overwrite", "append_dedup"],
        });
        self.lines.say(&json!({"type": "SPEC", "spec": spec})).await
    }

    /// `check`: whether the system can be worked with. What is wrong is a message and no error.
    ///
    /// # Errors
    /// When the configuration cannot be read or nobody listens.
    pub async fn check(&self, config: &Path) -> Result<()> {
        let checked = async {
            let settings = Settings::new(self.connector, read_json(config, "config")?)?;
            settings.check().await?;
            settings.reach().await
        };
        let status = match checked.await {
            Ok(()) => json!({"status": "SUCCEEDED"}),
            Err(error) => json!({"status": "FAILED", "message": words(&error)}),
        };
        self.lines.say(&json!({"type": "CONNECTION_STATUS", "connectionStatus": status})).await
    }

    /// `discover`: the tables as streams.
    ///
    /// # Errors
    /// What the source says.
    pub async fn discover(&self, config: &Path) -> Result<()> {
        let settings = Settings::new(self.connector, read_json(config, "config")?)?;
        let source = settings.source().await?;
        let tables = source.discover(None).await?;
        let streams = tables.iter().map(|table| catalog::stream(table, &settings));
        let catalog = Catalog { streams: streams.collect::<Result<_>>()? };
        self.lines.say(&json!({"type": "CATALOG", "catalog": catalog})).await
    }

    /// `read`: rows and states of the streams of `catalog`, from where `state` says. Returns
    /// whether every stream was read completely.
    ///
    /// # Errors
    /// What concerns the source as a whole.
    pub async fn read(&self, config: &Path, catalog: &Path, state: Option<&Path>) -> Result<bool> {
        let settings = Settings::new(self.connector, read_json(config, "config")?)?;
        let source = settings.source().await?;
        let discovered = source.discover(None).await?;
        let asked = catalog::parse(read_json(catalog, "catalog")?)?;
        let tables = asked.streams.iter();
        let tables = tables.map(|asked| catalog::read_options(asked, &discovered, &settings));
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let state = match state {
            Some(state) => outlet::positions(&read_json(state, "state")?)?,
            None => outlet::Positions::default(),
        };
        if tables.is_empty() {
            return Ok(true);
        }
        let outlet = Arc::new(Outlet::new(Arc::clone(&self.lines), state));
        let request = SyncRequest {
            sync: "connector".to_owned(),
            tables,
            skip_tables: Vec::new(),
            targets: vec![Target {
                write_mode: highwater_core::WriteMode::Append,
                ..Target::new("the caller", Arc::clone(&outlet) as Arc<_>)
            }],
            state_table: None,
        };
        let run = RunOptions {
            take_over: false,
            tasks_max: std::thread::available_parallelism().map_or(4, |n| n.get()),
            stop: StopSignal::default(),
            observer: Arc::new(Silent),
        };
        let summary = highwater_engine::sync(source, &request, &run).await?;
        self.tell_failures(&summary).await?;
        Ok(summary.destinations.iter().all(|d| d.tables.iter().all(|table| table.complete)))
    }

    /// `write`: the records of stdin.
    ///
    /// # Errors
    /// What concerns the destination as a whole.
    pub async fn write(&self, config: &Path, catalog: &Path) -> Result<bool> {
        let _ = (config, catalog);
        Err(Error::unsupported("Destinations cannot be run by others yet"))
    }

    async fn tell_failures(&self, summary: &Summary) -> Result<()> {
        for destination in &summary.destinations {
            if let Some(failure) = &destination.error {
                self.lines.error(&text(failure), lines::failure_type(failure.kind), None).await?;
            }
            for table in destination.tables.iter().filter(|table| !table.complete) {
                if let Some(failure) = &table.error {
                    let kind = lines::failure_type(failure.kind);
                    self.lines.error(&text(failure), kind, Some(&table.table)).await?;
                }
                self.lines.status(&table.table, "INCOMPLETE").await?;
            }
        }
        Ok(())
    }

    /// Says that all failed.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn failed(&self, error: &Error) -> Result<()> {
        self.lines.error(&words(error), lines::failure_type(error.kind()), None).await
    }
}

/// A file of those that a connector is started with.
fn read_json(path: &Path, what: &str) -> Result<Value> {
    let failed = |error: String| {
        Error::config(format!("The file of `--{what}` cannot be read: {error}"))
            .context("file", path.display())
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    // The message of a parser may hold what it read, which may be a password.
    serde_json::from_str(&text)
        .map_err(|e| failed(format!("line {}, column {}: no JSON", e.line(), e.column())))
}

fn words(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{}; hint: {hint}", error.full_message()),
        None => error.full_message(),
    }
}

fn text(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{}; hint: {hint}", failure.message),
        None => failure.message.clone(),
    }
}
