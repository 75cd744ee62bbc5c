//! `highwater sync`: moves what changed, and says what it did.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use highwater_core::{Error, Instant};
use highwater_engine::{Observer, RunOptions, StopSignal, Summary};
use serde_json::{Value, json};

use super::{at_job, lengths};
use crate::args::{Global, LogFormat, RunArgs, SyncArgs};
use crate::config::spec::SourceSpec;
use crate::config::{Config, Section};
use crate::exit::Exit;
use crate::failure::Result;
use crate::jobs::{self, Job};
use crate::plugins::Settings;
use crate::progress::Level;
use crate::{hints, inputs, output, progress, report, stop};

/// Move what changed from sources to destinations
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  highwater sync sync.yml
  highwater sync shop.db postgres://localhost/warehouse --table orders --cursor updated_at")]
pub struct Sync {
    /// What to sync.
    #[command(flatten)]
    pub what: SyncArgs,
    /// How the run goes.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Sync {
    /// Runs the syncs of all sources one after the other. One that fails does not stop the next,
    /// unless the configuration is wrong; the worst end counts.
    ///
    /// # Errors
    /// `Config` or `Unsupported` for what is wrong before or in one of them.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = inputs::config(&self.what)?;
        let settings = Settings::of_run(global, &self.run);
        let mut summary_file =
            self.run.summary_location.as_deref().map(open_summary).transpose()?;
        // What is wrong with the last source is found before the first one moves a row.
        let mut jobs = Vec::new();
        for section in &config.sources {
            let job = jobs::job(&config, section, &settings).await?;
            lengths::check(section, &job).await?;
            jobs.push((section, job));
        }
        let options = options(&self.run, global, stop::on_signals());
        let (mut exit, mut summaries) = (Exit::Success, Vec::new());
        let mut wrong = None;
        for (section, job) in jobs {
            if options.stop.is_stopping() {
                exit = exit.max(Exit::Interrupted);
                break;
            }
            match highwater_engine::sync(Arc::clone(&job.source), &job.request, &options).await {
                Ok(mut summary) => {
                    complete_hints(&mut summary);
                    if let Some(file) = &mut summary_file {
                        write_summary(file, &config, section, &summary)?;
                    }
                    exit = exit.max(show(&summary, &job, global).await?);
                    summaries.push(summary);
                }
                Err(error) => {
                    let end = Exit::of_error(error.kind());
                    exit = exit.max(end);
                    let failure = at_job(section, &job, error).await;
                    if end == Exit::Usage {
                        wrong = Some(failure);
                        break;
                    }
                    output::failure(&failure, global.log_format == LogFormat::Json);
                }
            }
        }
        if global.json {
            output::json(&json!({ "exit_code": exit.code(), "syncs": summaries }))?;
        }
        wrong.map_or(Ok(exit), Err)
    }
}

/// The engine's options.
fn options(run: &RunArgs, global: &Global, stop: StopSignal) -> RunOptions {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let observer: Arc<dyn Observer> = progress::observer(global);
    RunOptions {
        take_over: run.take_over,
        tasks_max: run.tasks.map_or(cpus, usize::from),
        stop,
        observer,
    }
}

/// Makes the hints of a summary such that they can be pasted.
fn complete_hints(summary: &mut Summary) {
    let has_several = summary.destinations.len() > 1;
    for destination in &mut summary.destinations {
        let name = has_several.then_some(destination.destination.as_str());
        for table in &mut destination.tables {
            let source = table.table.to_string();
            if let Some(hint) = table.error.as_mut().and_then(|error| error.hint.as_mut()) {
                *hint = hints::completed(hint, Some(&source), name);
            }
        }
        if let Some(hint) = destination.error.as_mut().and_then(|error| error.hint.as_mut()) {
            *hint = hints::completed(hint, None, name);
        }
    }
}

/// Shows what a sync did; how it ended.
async fn show(summary: &Summary, job: &Job, global: &Global) -> Result<Exit> {
    let exit = Exit::of_sync(summary);
    for remark in report::remarks(summary) {
        let level = if remark.is_error { Level::Error } else { Level::Info };
        match (global.log_format, remark.event) {
            _ if level < Level::of(&global.log_level) => {}
            (LogFormat::Text, _) => output::note(&remark.text),
            (LogFormat::Json, Some(event)) => output::log(level.word(), "", event),
            (LogFormat::Json, None) => {}
        }
    }
    if !global.json {
        output::result(&report::summary(summary))?;
    }
    if summary.interrupted {
        for line in reached(job).await {
            output::note(&line);
        }
    }
    Ok(exit)
}

/// After an interruption: where the next sync goes on, a line per cursor.
async fn reached(job: &Job) -> Vec<String> {
    let mut lines = Vec::new();
    for target in &job.request.targets {
        let keeper = target.backend.as_ref().unwrap_or(&target.destination);
        let Some(store) = keeper.state_store() else { continue };
        match store.look(&job.request.sync).await {
            Ok(state) => {
                lines.extend(report::cursors(&state).into_iter().map(|(key, position)| {
                    format!("Reached at {}: {key}: {position}", target.name)
                }))
            }
            Err(error) => tracing::warn!(%error, "The cursors that were reached cannot be read"),
        }
    }
    if lines.is_empty() {
        lines.push(
            "No cursor was committed: the next sync reads the tables from the beginning.".into(),
        );
    }
    lines
}

fn open_summary(path: &Path) -> Result<File> {
    std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
        Error::config("The summary file cannot be written")
            .context("file", path.display())
            .caused_by(error)
            .into()
    })
}

/// A line per destination with CloudQuery's field names.
fn write_summary(
    file: &mut File,
    config: &Config,
    source: &Section<SourceSpec>,
    summary: &Summary,
) -> Result<()> {
    let mut lines = String::new();
    for destination in &summary.destinations {
        let Some(section) = config.destination(&destination.destination) else { continue };
        let per_table = |value: &dyn Fn(&highwater_engine::TableSummary) -> u64| -> Value {
            let entries = destination.tables.iter();
            Value::Object(entries.map(|t| (t.table.to_string(), value(t).into())).collect())
        };
        // What a failed table sent and did not commit is no resource that was synced.
        let committed = |t: &highwater_engine::TableSummary| match t.complete {
            true => t.rows_read,
            false => t.rows_read.min(t.rows_written + t.rows_unchanged + t.rows_deleted),
        };
        let failed = destination.tables.iter().filter(|t| t.error.is_some()).count();
        let line = json!({
            "cli_version": env!("CARGO_PKG_VERSION"),
            "sync_id": summary.sync_id,
            "sync_time": summary.started_at.to_rfc3339(),
            "sync_duration_ms": summary.duration_ms,
            "resources": destination.tables.iter().map(committed).sum::<u64>(),
            "source_name": source.spec.name,
            "source_path": source.spec.path,
            "source_version": source.spec.version.as_deref().unwrap_or_default(),
            "source_errors": 0,
            "source_warnings": 0,
            "source_tables": source.spec.tables.iter().map(|t| &t.0.name).collect::<Vec<_>>(),
            "destination_name": section.spec.name,
            "destination_path": section.spec.path,
            "destination_version": section.spec.version.as_deref().unwrap_or_default(),
            "destination_errors": failed + usize::from(destination.error.is_some()),
            "destination_warnings": 0,
            "resources_per_table": per_table(&committed),
            "errors_per_table": per_table(&|t| u64::from(t.error.is_some())),
            "durations_per_table_ms": per_table(&|t| t.duration_ms),
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    file.write_all(lines.as_bytes()).map_err(|error| {
        Error::internal("The summary file cannot be written")
            .context("at", Instant::now().to_rfc3339())
            .caused_by(error)
            .into()
    })
}
