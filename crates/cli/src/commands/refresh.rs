//! `highwater refresh`: reads tables again from the beginning.

use clap::Args;
use highwater_core::{CursorKey, Error};
use highwater_engine::refresh::{Choice, Refreshed};

use super::sync::Part;
use super::{at_table, sync, upkeep};
use crate::args::{Global, RunArgs};
use crate::config::Config;
use crate::config::expand::Surroundings;
use crate::exit::Exit;
use crate::failure::Result;
use crate::jobs::Job;
use crate::plugins::Settings;

/// Read tables again from the beginning, and sync them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  highwater refresh sync.yml orders
  highwater refresh sync.yml orders customers --remove")]
pub struct Refresh {
    /// A configuration file or folder
    #[arg(value_name = "CONFIG")]
    pub config: String,
    /// The tables at the source, or patterns with `*`
    #[arg(required = true, value_name = "TABLE", num_args = 1..)]
    pub tables: Vec<String>,
    /// Keep the rows that are there; those that are read are written as in every sync [default]
    #[arg(long, conflicts_with = "remove")]
    pub keep: bool,
    /// Remove the rows that are there when all new ones have come; readers see them until then.
    /// With `append-dedup` the history goes too: the new one begins with the rows of this read
    #[arg(long)]
    pub remove: bool,
    /// The sync, where several have such tables
    #[arg(long, value_name = "NAME")]
    pub sync: Option<String>,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Whether a position of the source is about all tables at once: one of them alone cannot be read
/// without moving it past what the others have not got.
async fn has_one_state(job: &Job) -> std::result::Result<bool, Error> {
    for target in &job.request.targets {
        let keeper = target.backend.as_ref().unwrap_or(&target.destination);
        let Some(store) = keeper.state_store() else { continue };
        let state = store.look(&job.request.sync).await?;
        if state.cursors.get(&CursorKey::Global).is_some_and(|cursor| !cursor.0.is_null()) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Refresh {
    /// Forgets the positions of the tables at every destination, and runs their syncs.
    ///
    /// # Errors
    /// `Config` for a table that is not there, `Unsupported` where it cannot be done, `Fenced`
    /// when a run of the sync is at work; and as `sync`.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = Config::read(&[&self.config], &Surroundings::of_process())?;
        crate::config::check::complete(&config)?;
        // The sync looks anew; what is known of the source is enough to find the tables.
        let settings = Settings::new(global);
        let syncs = upkeep::syncs(&config, self.sync.as_deref(), &settings).await?;
        let begun = self.begin(&syncs, global).await;
        upkeep::close(&syncs).await;
        let parts = begun?;
        drop(syncs);
        Box::pin(sync::sync_all(&config, Some(&parts), &self.run, global)).await
    }

    /// Forgets the positions; the parts of the syncs that have the tables.
    async fn begin(&self, syncs: &[upkeep::Sync<'_>], global: &Global) -> Result<Vec<Part>> {
        let all = upkeep::chosen(syncs, &self.tables).await?;
        for chosen in &all {
            upkeep::no_plugin(chosen.section)?;
        }
        let mut parts = Vec::new();
        for upkeep::Chosen { section, job, upkeep, tables } in all {
            let has_one_state = has_one_state(job).await.map_err(|e| at_table(section, e))?;
            let named = (!has_one_state).then(|| tables.clone());
            let choice = Choice { tables, destination: None, take_over: self.run.take_over };
            let done = upkeep.refresh(&choice, self.remove).await;
            for done in done.map_err(|error| at_table(section, error))? {
                let text = self.words(done.what);
                upkeep::note(global, &done.table, &done.destination, text);
            }
            let sync = section.spec.name.clone();
            if has_one_state {
                let text = "The source keeps one state for all of its tables: all are synced.";
                upkeep::note_of_sync(global, &sync, text);
            }
            parts.push(Part { sync, tables: named });
        }
        Ok(parts)
    }

    fn words(&self, what: Refreshed) -> &'static str {
        match what {
            Refreshed::Begun if self.remove => {
                "It is read from the beginning. The rows that are there go when all have come."
            }
            Refreshed::BegunWithHistory => {
                "It is read from the beginning. The rows that are there go when all have come, and \
                 all of its history with them."
            }
            Refreshed::Begun => "It is read from the beginning. The rows that are there stay.",
            Refreshed::Always => {
                "Every sync reads it from the beginning: there is nothing to refresh."
            }
            Refreshed::New => "Nothing is remembered of it: the sync begins at the beginning.",
        }
    }
}
