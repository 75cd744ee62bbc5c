//! `highwater validate-config`: checks everything that can be checked without a connection.

use clap::Args;
use serde_json::json;

use crate::args::{Global, PlaceArgs};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::count;
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
        let config = inputs::any_config(&self.what.to_sync_args())?;
        for section in &config.destinations {
            jobs::destination(section).await?;
        }
        for section in &config.sources {
            jobs::job(&config, section, true).await?;
        }
        let (sources, destinations) = (config.sources.len(), config.destinations.len());
        if global.json {
            output::json(&json!({
                "valid": true, "sources": sources, "destinations": destinations,
            }))?;
        } else {
            let plural = |n: usize| if n == 1 { "" } else { "s" };
            output::result(&format!(
                "The configuration is valid: {} source{}, {} destination{}.",
                count(sources as u64),
                plural(sources),
                count(destinations as u64),
                plural(destinations)
            ))?;
        }
        Ok(Exit::Success)
    }
}
