//! `highwater migrate`: makes the schema changes that a sync would make, without rows.

use clap::Args;
use serde_json::json;

use super::{at_job, at_table};
use crate::args::{Global, SyncArgs};
use crate::config::spec::SourceSpec;
use crate::config::{Config, Section};
use crate::exit::Exit;
use crate::failure::Result;
use crate::jobs::Job;
use crate::plugins::Settings;
use crate::{inputs, jobs, output};

/// Create and alter the destination tables that a sync needs, without rows
#[derive(Debug, Args)]
pub struct Migrate {
    /// What to migrate for.
    #[command(flatten)]
    pub what: SyncArgs,
}

impl Migrate {
    /// Migrates every destination of every source, and prints the statements that were run.
    ///
    /// # Errors
    /// The first thing that cannot be done; what was done before stays.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = inputs::config(&self.what)?;
        let settings = Settings { no_connection: true, ..Settings::new(global) };
        let (mut text, mut done) = (String::new(), Vec::new());
        for section in &config.sources {
            let job = jobs::job(&config, section, &settings).await?;
            let migrated = migrate(&config, section, &job).await;
            job.plugins.close().await;
            for Migrated { sync, destination, statements } in migrated? {
                text.push_str(&format!("{sync} → {destination}\n"));
                if is_airbyte(&config, &destination) {
                    text.push_str("A connector of Airbyte makes its tables itself.\n");
                } else if statements.is_empty() {
                    text.push_str("Nothing to change.\n");
                }
                statements.iter().for_each(|s| text.push_str(&format!("{s}\n")));
                done.push(json!({
                    "sync": sync,
                    "destination": destination,
                    "statements": statements,
                }));
            }
        }
        if global.json {
            output::json(&done)?;
        } else {
            output::result(&text)?;
        }
        Ok(Exit::Success)
    }
}

/// What was changed at a destination.
struct Migrated {
    sync: String,
    destination: String,
    statements: Vec<String>,
}

/// Whether the destination is a connector of Airbyte: it has no other way to make a table than to
/// write rows to it.
fn is_airbyte(config: &Config, destination: &str) -> bool {
    config.destination(destination).is_some_and(|section| section.driver.is_airbyte())
}

async fn migrate(
    config: &Config,
    section: &Section<SourceSpec>,
    job: &Job,
) -> Result<Vec<Migrated>> {
    let plans = match highwater_engine::plan(job.source.as_ref(), &job.request).await {
        Ok(plans) => plans,
        Err(error) => return Err(at_job(section, job, error).await),
    };
    let mut done = Vec::new();
    for (target, planned) in job.request.targets.iter().zip(plans) {
        if let Some(refused) = planned.refused.into_iter().next() {
            return Err(at_table(section, refused.error));
        }
        let mut plan = planned.plan;
        if let Some(quarantine) = planned.quarantine {
            plan.tables.insert(quarantine.name().clone(), quarantine);
        }
        let statements = match is_airbyte(config, &target.name) {
            true => Vec::new(),
            false => target.destination.migrate(&plan).await?,
        };
        done.push(Migrated { sync: plan.sync, destination: target.name.clone(), statements });
    }
    Ok(done)
}
