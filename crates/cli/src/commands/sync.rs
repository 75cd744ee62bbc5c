//! `highwater sync`: moves what changed, and says what it did.

use std::sync::Arc;

use clap::Args;
use highwater_core::{Error, TableName};
use highwater_engine::selection::matches;
use highwater_engine::{Observer, RunOptions, StopSignal, Summary, TableOptions};
use serde_json::{Value, json};

use super::{at_job, lengths};
use crate::args::{Global, LogFormat, RunArgs, SyncArgs};
use crate::config::Config;
use crate::exit::Exit;
use crate::failure::Result;
use crate::jobs::{self, Job};
use crate::plugins::Settings;
use crate::progress::Level;
use crate::summaries::{self, Files, Line};
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
        Box::pin(sync_all(&config, None, &self.run, global)).await
    }
}

/// A sync, and the tables of it that are meant; `None`: all.
pub(super) struct Part {
    pub(super) sync: String,
    pub(super) tables: Option<Vec<TableName>>,
}

/// Runs the syncs of all sources, or these parts of them; see [`Sync::run`].
///
/// # Errors
/// As [`Sync::run`].
pub(super) async fn sync_all(
    config: &Config,
    only: Option<&[Part]>,
    run: &RunArgs,
    global: &Global,
) -> Result<Exit> {
    let settings = Settings::of_run(global, run);
    let (summaries, metrics) =
        (run.summary_location.as_deref(), run.tables_metrics_location.as_deref());
    let mut files = Files::open(summaries, metrics)?;
    // What is wrong with the last source is found before the first one moves a row.
    let mut jobs = Vec::new();
    for section in &config.sources {
        let part = only.map(|parts| parts.iter().find(|part| part.sync == section.spec.name));
        if part.is_some_and(|part| part.is_none()) {
            continue;
        }
        let mut job = jobs::job(config, section, &settings).await?;
        if let Some(tables) = part.flatten().and_then(|part| part.tables.as_deref()) {
            job.request.tables = narrowed(&job.request.tables, tables);
        }
        lengths::check(section, &job).await?;
        jobs.push((section, job));
    }
    let options = options(run, global, stop::on_signals());
    let (mut exit, mut values) = (Exit::Success, Vec::new());
    let mut wrong = None;
    for (section, job) in jobs {
        if options.stop.is_stopping() {
            exit = exit.max(Exit::Interrupted);
            break;
        }
        let ended = highwater_engine::sync(Arc::clone(&job.source), &job.request, &options).await;
        job.plugins.close().await;
        match ended {
            Ok(mut summary) => {
                complete_hints(&mut summary);
                let lines = summaries::lines(config, section, &job, &summary, &settings);
                files.add(&lines)?;
                exit = exit.max(send(&lines, &job, global).await);
                exit = exit.max(show(&summary, &job, global).await?);
                values.push(value(&summary, &job)?);
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
        output::json(&json!({ "exit_code": exit.code(), "syncs": values }))?;
    }
    wrong.map_or(Ok(exit), Err)
}

/// The entries for these tables alone: each with what counts for it.
fn narrowed(entries: &[TableOptions], tables: &[TableName]) -> Vec<TableOptions> {
    let own = |table: &TableName| {
        let mut entries = entries.iter().filter(|entry| matches(&entry.name, table));
        let exact = entries.clone().find(|entry| !entry.name.contains('*'));
        let options = exact.or_else(|| entries.next()).cloned().unwrap_or_default();
        TableOptions { name: table.to_string(), ..options }
    };
    tables.iter().map(own).collect()
}

/// Adds the summaries that destinations ask for. A sync without the row that it should have left
/// is no success.
async fn send(lines: &[Line<'_>], job: &Job, global: &Global) -> Exit {
    let mut exit = Exit::Success;
    for (line, target) in lines.iter().zip(&job.request.targets) {
        if let Err(error) = line.send(target).await {
            output::failure(&error.into(), global.log_format == LogFormat::Json);
            exit = Exit::Partial;
        }
    }
    exit
}

/// A summary as JSON, with what the plugins have logged.
fn value(summary: &Summary, job: &Job) -> Result<Value> {
    let mut value = serde_json::to_value(summary)
        .map_err(|e| Error::internal("The summary is not JSON").caused_by(e))?;
    let plugins = job.plugins.logs();
    if let (false, Value::Object(value)) = (plugins.is_empty(), &mut value) {
        let plugins = plugins.into_iter().map(|(kind, name, logs)| {
            json!({ "kind": kind.to_string(), "name": name, "errors": logs.errors, "warnings": logs.warnings })
        });
        value.insert("plugins".to_owned(), plugins.collect());
    }
    Ok(value)
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
            _ if level < Level::of(global.level()) => {}
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
