//! A built-in connector in Airbyte's protocol: what Airbyte, PyAirbyte or anybody else runs as a
//! source or a destination, with messages on stdin and stdout.
//!
//! | module | what |
//! |---|---|
//! | [`catalog`] | tables as the streams of a catalog, and what a configured catalog asks for |
//! | [`lines`] | the lines that we print |
//! | [`outlet`] | as a source: rows and positions of the engine as messages |
//! | [`replaced`] | as a destination: positions of tables whose rows are replaced |

mod catalog;
mod lines;
mod outlet;
mod replaced;

use std::path::Path;
use std::sync::Arc;

use highwater_airbyte::inlet::{self, Inlet};
use highwater_airbyte::protocol::{Catalog, ConfiguredStream};
use highwater_core::{Connector, Error, MetadataColumns, Result, WriteMode};
use highwater_engine::{
    DestinationSummary, Failure, RunOptions, Silent, StopSignal, Summary, SyncRequest, Target,
};
use serde_json::{Map, Value, json};

use crate::served::settings::{self, Settings};
use lines::Lines;
use outlet::Outlet;

/// The key of a configuration that is ours: under which name a destination keeps the state.
const SYNC_NAME: &str = "sync_name";
const DEFAULT_SYNC_NAME: &str = "airbyte";
/// Keys of connectors whose values may hold a password.
const SECRETS: &[&str] = &["connection_string"];

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
            "connectionSpecification": specification(self.connector),
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
            let settings = self.settings(config)?;
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
        let settings = self.settings(config)?;
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
        let settings = self.settings(config)?;
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
                write_mode: WriteMode::Append,
                ..Target::new("the caller", Arc::clone(&outlet) as Arc<_>)
            }],
            state_table: None,
        };
        let summary = highwater_engine::sync(source, &request, &run_options()).await?;
        self.tell_failures(&summary).await?;
        Ok(is_complete(&summary))
    }

    /// `write`: the records of stdin, as `catalog` wants them. A state is printed when its rows are
    /// durable. Returns whether every stream is complete.
    ///
    /// # Errors
    /// What concerns the destination as a whole.
    pub async fn write(&self, config: &Path, catalog: &Path) -> Result<bool> {
        let (settings, sync) = self.named_settings(config)?;
        let asked = catalog::parse(read_json(catalog, "catalog")?)?;
        let destination = settings.destination().await?;
        let store = destination.state_store().ok_or_else(|| {
            Error::unsupported("The destination cannot keep which generation its tables are of")
        })?;
        let state = store.look(&sync).await?;
        let record =
            |asked: &ConfiguredStream| state.tables.get(&catalog::table_name(&asked.stream));
        let tables = asked.streams.iter().map(|asked| {
            let options = catalog::write_options(asked, &settings, record(asked))?;
            Ok((catalog::table_name(&asked.stream), options))
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        if tables.is_empty() {
            return Ok(true);
        }
        replaced::begin(store, &sync, &state, &tables).await?;
        let tables = tables.into_iter().map(|(_, options)| options).collect();
        let sender = Arc::clone(&self.lines) as Arc<dyn inlet::Sender>;
        let keeps_unfinished = destination.keeps_unfinished();
        let inlet = Inlet::new(asked, Box::new(std::io::stdin()), sender, keeps_unfinished)?;
        let inlet = Arc::new(inlet);
        let request = SyncRequest {
            sync,
            tables,
            skip_tables: Vec::new(),
            targets: vec![Target {
                write_mode: WriteMode::Append,
                metadata_columns: MetadataColumns::Airbyte,
                ..Target::new(self.connector.kind(), destination)
            }],
            state_table: None,
        };
        let source = Arc::clone(&inlet) as Arc<_>;
        let summary = highwater_engine::sync(source, &request, &run_options()).await?;
        let tables = summary.destinations.iter().flat_map(|destination| &destination.tables);
        let complete = tables.filter(|table| table.complete).map(|table| table.table.clone());
        inlet.finished(&complete.collect()).await?;
        for destination in &summary.destinations {
            self.tell_errors(destination).await?;
        }
        Ok(is_complete(&summary))
    }

    /// Says why streams were not read completely, and that they were not.
    async fn tell_failures(&self, summary: &Summary) -> Result<()> {
        for destination in &summary.destinations {
            self.tell_errors(destination).await?;
            for table in destination.tables.iter().filter(|table| !table.complete) {
                self.lines.status(&table.table, "INCOMPLETE").await?;
            }
        }
        Ok(())
    }

    async fn tell_errors(&self, destination: &DestinationSummary) -> Result<()> {
        if let Some(failure) = &destination.error {
            self.lines.error(&text(failure), lines::failure_type(failure.kind), None).await?;
        }
        for table in &destination.tables {
            if let Some(failure) = &table.error {
                let kind = lines::failure_type(failure.kind);
                self.lines.error(&text(failure), kind, Some(&table.table)).await?;
            }
        }
        Ok(())
    }

    fn settings(&self, config: &Path) -> Result<Settings> {
        self.named_settings(config).map(|(settings, _)| settings)
    }

    /// The settings, and the name under which a destination keeps the state.
    fn named_settings(&self, config: &Path) -> Result<(Settings, String)> {
        let mut config = read_json(config, "config")?;
        let sync = match config.as_object_mut().and_then(|config| config.remove(SYNC_NAME)) {
            None | Some(Value::Null) => DEFAULT_SYNC_NAME.to_owned(),
            Some(Value::String(name)) if !name.trim().is_empty() => name,
            Some(_) => {
                return Err(Error::config("`sync_name` is no name")
                    .context("key", SYNC_NAME)
                    .hint("sync_name: shop"));
            }
        };
        Ok((Settings::new(self.connector, config)?, sync))
    }

    /// Says that all failed.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn failed(&self, error: &Error) -> Result<()> {
        self.lines.error(&words(error), lines::failure_type(error.kind()), None).await
    }
}

/// The schema of the configuration: that of a plugin, and the name of the sync.
fn specification(connector: &dyn Connector) -> Value {
    let mut schema = settings::schema(connector);
    schema["type"] = json!("object");
    let table_options = schema["anyOf"][0]["properties"][settings::TABLE_OPTIONS].clone();
    for role in schema["anyOf"].as_array_mut().into_iter().flatten() {
        let properties = &mut role["properties"];
        for key in SECRETS {
            if let Some(secret) = properties.get_mut(key) {
                secret["airbyte_secret"] = json!(true);
            }
        }
        properties[settings::TABLE_OPTIONS] = table_options.clone();
        properties[SYNC_NAME] = json!({
            "type": "string",
            "default": DEFAULT_SYNC_NAME,
            "description": "As a destination: the name under which it is kept which rows its \
                            tables have. Two writes into one database at the same time need two \
                            names.",
        });
    }
    schema["properties"] = Value::Object(of_both(&schema["anyOf"]));
    schema
}

/// The settings of both roles, for those who look for them, and for secrets, only at the root.
fn of_both(roles: &Value) -> Map<String, Value> {
    let mut all: Map<String, Value> = Map::new();
    let roles = roles.as_array().into_iter().flatten();
    for (key, setting) in roles.filter_map(|role| role["properties"].as_object()).flatten() {
        match all.get_mut(key).and_then(Value::as_object_mut) {
            None => drop(all.insert(key.clone(), setting.clone())),
            // What it must be like differs from role to role; what it is does not.
            Some(known) => known.retain(|part, value| {
                setting.get(part) == Some(value)
                    || ["description", "airbyte_secret"].contains(&part.as_str())
            }),
        }
    }
    all
}

/// Nothing is shown, and nothing but the end of the process stops it.
fn run_options() -> RunOptions {
    RunOptions {
        take_over: false,
        tasks_max: std::thread::available_parallelism().map_or(4, |n| n.get()),
        stop: StopSignal::default(),
        observer: Arc::new(Silent),
    }
}

fn is_complete(summary: &Summary) -> bool {
    summary.destinations.iter().all(|destination| {
        destination.error.is_none() && destination.tables.iter().all(|table| table.complete)
    })
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
    match failure.hint.as_deref() {
        // Positions are the caller's, and so is the way to begin anew.
        Some(hint) if hint.contains("state reset") => {
            format!("{}; hint: refresh the stream, or choose another `sync_name`", failure.message)
        }
        Some(hint) => format!("{}; hint: {hint}", failure.message),
        None => failure.message.clone(),
    }
}
