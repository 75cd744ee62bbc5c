//! `highwater validate-config`: checks everything that can be checked without a connection.

use std::path::Path;

use clap::Args;
use highwater_airbyte::host::Role as Connects;
use highwater_cloudquery::host::{Plugin, Role};
use highwater_cloudquery::proto::plugin::get_spec_schema;
use highwater_core::Error;
use serde_json::{Value, json};

use crate::args::{Global, PlaceArgs};
use crate::config::driver::Driver;
use crate::config::expand::Surroundings;
use crate::config::spec::Document;
use crate::config::{Config, Section};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::count;
use crate::plugins::Settings;
use crate::{airbyte, inputs, jobs, json_schema, output};

/// gRPC's status of a call that a server does not have.
const UNIMPLEMENTED: i32 = 12;

/// Check a configuration without connecting to any system; plugins and Airbyte's connectors are
/// started and asked for the schema of their settings
#[derive(Debug, Args)]
pub struct ValidateConfig {
    /// What to check.
    #[command(flatten)]
    pub what: PlaceArgs,
}

impl ValidateConfig {
    /// Reads the configuration and lets every connector and plugin check its part.
    ///
    /// # Errors
    /// `Config` or `Unsupported` at the first thing that is wrong.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        match self.checked(&Settings::new(global)).await {
            Ok(config) => say(&config, global.json)?,
            Err(failure) => {
                if global.json {
                    output::json(&json!({ "valid": false, "error": output::value(&failure) }))?;
                }
                return Err(failure);
            }
        }
        Ok(Exit::Success)
    }

    async fn checked(&self, settings: &Settings) -> Result<Config> {
        let config = match self.what.what.as_slice() {
            // A folder is one of configuration files here, and data for nobody.
            [folder] if Path::new(folder).is_dir() => {
                Config::read(&[folder], &Surroundings::of_process())?
            }
            _ => inputs::any_config(&self.what.to_sync_args())?,
        };
        if config.sources.is_empty() && config.destinations.is_empty() {
            return Err(Error::config("The configuration has no source and no destination")
                .hint("`highwater init` writes one")
                .into());
        }
        for section in &config.destinations {
            match section.driver {
                Driver::Plugin(_) => plugin(section, Role::Destination, settings).await?,
                Driver::Builtin(_) => drop(jobs::destination(section).await?),
                Driver::Airbyte => {
                    airbyte::check_settings(section, Connects::Destination, settings).await?;
                }
            }
        }
        for section in &config.transformers {
            plugin(section, Role::Transformer, settings).await?;
        }
        for section in &config.sources {
            match section.driver {
                Driver::Plugin(_) => plugin(section, Role::Source, settings).await?,
                Driver::Builtin(_) => drop(jobs::job(&config, section, settings).await?),
                Driver::Airbyte => {
                    airbyte::check_settings(section, Connects::Source, settings).await?;
                    drop(jobs::job(&config, section, settings).await?);
                }
            }
        }
        Ok(config)
    }
}

/// Checks a plugin's settings against the schema that it gives; one without a schema takes all.
async fn plugin<S: Document>(section: &Section<S>, kind: Role, settings: &Settings) -> Result<()> {
    let schema = async {
        let plugin = Plugin::start(&settings.plugin(section, kind)?).await?;
        let answer = plugin.client().get_spec_schema(get_spec_schema::Request {}).await;
        let schema = match answer {
            Ok(answer) => answer.into_inner().json_schema.unwrap_or_default(),
            Err(status) if i32::from(status.code()) == UNIMPLEMENTED => String::new(),
            Err(status) => return Err(plugin.explain(status)),
        };
        // What is to be known is known; how it ends changes nothing.
        let _ = plugin.stop().await;
        Ok(schema)
    };
    let schema = schema.await.map_err(|error| section.connector_failure(error))?;
    if schema.trim().is_empty() {
        return Ok(());
    }
    let schema: Value = serde_json::from_str(&schema).map_err(|error| {
        Error::internal("The schema of a plugin's settings is not JSON")
            .context("plugin", section.spec.name())
            .caused_by(error)
    })?;
    let settings = Value::Object(section.spec.settings().clone());
    let wrong = json_schema::violations(&settings, &schema, "spec");
    let Some(first) = wrong.first() else { return Ok(()) };
    let mut error = Error::config(&first.message).context("plugin", section.spec.name());
    if wrong.len() > 1 {
        error = error.context("more that is wrong", wrong.len() - 1);
    }
    let hint = "the plugin's own documentation says what stands in its `spec`";
    let error = error.hint(first.hint.as_deref().unwrap_or(hint));
    Err(section.failure(&first.path, error))
}

fn say(config: &Config, as_json: bool) -> Result<()> {
    let (sources, destinations) = (config.sources.len(), config.destinations.len());
    if as_json {
        return output::json(&json!({
            "valid": true, "sources": sources, "destinations": destinations,
            "transformers": config.transformers.len(),
        }));
    }
    let several = |n: usize, what: &str| {
        format!("{} {what}{}", count(n as u64), if n == 1 { "" } else { "s" })
    };
    let mut parts = vec![several(sources, "source"), several(destinations, "destination")];
    if !config.transformers.is_empty() {
        parts.push(several(config.transformers.len(), "transformer"));
    }
    output::result(&format!("The configuration is valid: {}.", parts.join(", ")))
}
