//! `highwater history`: makes the histories of `append-dedup` smaller.

use clap::{Args, Subcommand};
use highwater_core::Error;
use highwater_engine::refresh::{Choice, Done};
use serde_json::json;

use super::{at_table, upkeep};
use crate::args::Global;
use crate::config::Config;
use crate::config::expand::Surroundings;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::{self, count};
use crate::plugins::Settings;

/// Make the histories of append-dedup smaller
#[derive(Debug, Args)]
pub struct History {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with histories.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Remove every record but the latest of each primary key
    Compact(Compact),
}

/// What is compacted.
#[derive(Debug, Args)]
pub struct Compact {
    /// A configuration file or folder
    #[arg(value_name = "CONFIG")]
    pub config: String,
    /// A table or a pattern with `*`; may be repeated [default: all tables]
    #[arg(long = "table", value_name = "NAME")]
    pub tables: Vec<String>,
    /// The sync, where there are several
    #[arg(long, value_name = "NAME")]
    pub sync: Option<String>,
    /// The destination, where there are several
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// Take the lease from a run that is at work
    #[arg(long)]
    pub take_over: bool,
}

impl History {
    /// Does it.
    ///
    /// # Errors
    /// `Config` for a table that is not there or has no history, `Fenced` when a run of the sync
    /// is at work.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let Action::Compact(compact) = self.action;
        let config = Config::read(&[&compact.config], &Surroundings::of_process())?;
        crate::config::check::complete(&config)?;
        let settings = Settings::new(global);
        let syncs = upkeep::syncs(&config, compact.sync.as_deref(), &settings).await?;
        let compacted = compact.run(&config, &syncs).await;
        upkeep::close(&syncs).await;
        let all = compacted?;
        if global.json {
            let values = all.iter().map(|(sync, done)| {
                json!({
                    "sync": sync, "destination": done.destination,
                    "table": done.table.to_string(), "rows_removed": done.what,
                })
            });
            output::json(&values.collect::<Vec<_>>())?;
            return Ok(Exit::Success);
        }
        if all.is_empty() {
            output::result("No table has a history: it is kept with `write_mode: append-dedup`.")?;
            return Ok(Exit::Success);
        }
        let row = |(sync, done): &(String, Done<u64>)| {
            vec![sync.clone(), done.destination.clone(), done.table.to_string(), count(done.what)]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        output::result(&output::table(&["SYNC", "DESTINATION", "TABLE", "REMOVED"], &rows))?;
        Ok(Exit::Success)
    }
}

impl Compact {
    async fn run(
        &self,
        config: &Config,
        syncs: &[upkeep::Sync<'_>],
    ) -> Result<Vec<(String, Done<u64>)>> {
        upkeep::known_destination(config, self.destination.as_deref())?;
        let mut all = Vec::new();
        for chosen in upkeep::chosen(syncs, &self.tables).await? {
            let choice = Choice {
                tables: chosen.tables.clone(),
                destination: self.destination.clone(),
                take_over: self.take_over,
            };
            let done = chosen.upkeep.compact_history(&choice).await;
            let done = done.map_err(|error| at_table(chosen.section, error))?;
            let idle = chosen.tables.iter().find(|t| done.iter().all(|d| d.table != **t));
            if let (Some(table), false) = (idle, self.tables.is_empty()) {
                return Err(Error::config("The table has no history")
                    .context("table", table)
                    .hint("write_mode: append-dedup   # keeps one from then on")
                    .into());
            }
            all.extend(done.into_iter().map(|done| (chosen.section.spec.name.clone(), done)));
        }
        Ok(all)
    }
}
