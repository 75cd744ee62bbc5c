//! `highwater validate-config`: checks everything that can be checked without a connection.

use std::path::Path;

use clap::Args;
use highwater_core::Error;
use serde_json::json;

use crate::args::{Global, PlaceArgs};
use crate::config::Config;
use crate::config::expand::Surroundings;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::count;
use crate::plugins::Settings;
use crate::running::Running;
use crate::{inputs, jobs, output};

/// Check a configuration without connecting to anything
#[derive(Debug, Args)]
pub struct ValidateConfig {
    /// What to check.
    #[command(flatten)]
    pub what: PlaceArgs,
}

impl ValidateConfig {
    /// Reads the configuration and lets every connector read its part.
    ///
    /// # Errors
    /// `Config` or `Unsupported` at the first thing that is wrong.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        match self.checked(&Settings::new(global)).await {
            Ok((sources, destinations)) => say(sources, destinations, global.json)?,
            Err(failure) => {
                if global.json {
                    output::json(&json!({ "valid": false, "error": output::value(&failure) }))?;
                }
                return Err(failure);
            }
        }
        Ok(Exit::Success)
    }

    /// The number of sources and destinations.
    async fn checked(&self, settings: &Settings) -> Result<(usize, usize)> {
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
            Running::default().destination(section, settings).await?;
        }
        for section in &config.sources {
            jobs::job(&config, section, settings).await?;
        }
        Ok((config.sources.len(), config.destinations.len()))
    }
}

fn say(sources: usize, destinations: usize, as_json: bool) -> Result<()> {
    if as_json {
        return output::json(&json!({
            "valid": true, "sources": sources, "destinations": destinations,
        }));
    }
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    output::result(&format!(
        "The configuration is valid: {} source{}, {} destination{}.",
        count(sources as u64),
        plural(sources),
        count(destinations as u64),
        plural(destinations)
    ))
}
