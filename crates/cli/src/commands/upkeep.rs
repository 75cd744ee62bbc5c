//! What commands have in common that do something to single tables of syncs: which tables are
//! meant, of which sync.

use highwater_core::{Error, TableName};
use highwater_engine::refresh::Upkeep;
use highwater_engine::selection;
use serde_json::json;

use super::at_table;
use crate::args::{Global, LogFormat};
use crate::config::de::one_of;
use crate::config::spec::SourceSpec;
use crate::config::{Config, Section};
use crate::failure::Result;
use crate::jobs::{self, Job};
use crate::output;
use crate::plugins::Settings;
use crate::progress::Level;

/// A sync, and what is needed to do something to its tables.
pub(super) type Sync<'a> = (&'a Section<SourceSpec>, Job);

/// A sync, and the tables of it that are meant.
pub(super) struct Chosen<'a> {
    pub(super) section: &'a Section<SourceSpec>,
    pub(super) job: &'a Job,
    pub(super) upkeep: Upkeep<'a>,
    pub(super) tables: Vec<TableName>,
}

/// The syncs of a configuration, or the one of that name.
///
/// # Errors
/// `Config` where there is none of that name, or its settings are wrong.
pub(super) async fn syncs<'a>(
    config: &'a Config,
    name: Option<&str>,
    settings: &Settings,
) -> Result<Vec<Sync<'a>>> {
    let is_meant = |section: &&Section<SourceSpec>| name.is_none_or(|n| section.spec.name == n);
    let mut syncs = Vec::new();
    for section in config.sources.iter().filter(is_meant) {
        syncs.push((section, jobs::job(config, section, settings).await?));
    }
    if let (true, Some(name)) = (syncs.is_empty(), name) {
        let names: Vec<String> = config.sources.iter().map(|s| s.spec.name.clone()).collect();
        return Err(Error::config(format!("There is no source `{name}`"))
            .hint(one_of(name, &names))
            .into());
    }
    Ok(syncs)
}

/// The tables that patterns name; without one, all. Syncs that have none of them are left out.
///
/// # Errors
/// `Config` for a pattern that names no table.
pub(super) async fn chosen<'a>(
    syncs: &'a [Sync<'_>],
    patterns: &[String],
) -> Result<Vec<Chosen<'a>>> {
    let mut all = Vec::new();
    for (section, job) in syncs {
        let upkeep = Upkeep::new(job.source.as_ref(), &job.request).await;
        let upkeep = upkeep.map_err(|error| at_table(section, error))?;
        let tables = upkeep.tables().map_err(|error| at_table(section, error))?;
        all.push(Chosen { section, job, upkeep, tables });
    }
    for pattern in patterns {
        let mut tables = all.iter().flat_map(|chosen| &chosen.tables);
        if !tables.any(|table| selection::matches(pattern, table)) {
            let names = all.iter().flat_map(|chosen| &chosen.tables);
            let names: Vec<String> = names.map(ToString::to_string).collect();
            return Err(Error::config("No sync has such a table")
                .context("table", pattern)
                .hint(one_of(pattern, &names))
                .into());
        }
    }
    if !patterns.is_empty() {
        for chosen in &mut all {
            chosen.tables.retain(|t| patterns.iter().any(|p| selection::matches(p, t)));
        }
    }
    all.retain(|chosen| !chosen.tables.is_empty());
    Ok(all)
}

/// Lets the plugins of the syncs end.
pub(super) async fn close(syncs: &[Sync<'_>]) {
    for (_, job) in syncs {
        job.plugins.close().await;
    }
}

/// Says something about a table at a destination, beside the result.
pub(super) fn note(global: &Global, table: &TableName, destination: &str, text: &str) {
    if Level::Info < Level::of(global.level()) {
        return;
    }
    match global.log_format {
        LogFormat::Text => output::note(&format!("note: {table} → {destination}: {text}")),
        LogFormat::Json => {
            let event = json!({
                "message": text, "event": "note",
                "table": table.to_string(), "destination": destination,
            });
            output::log(Level::Info.word(), "", event);
        }
    }
}

/// Says something about a sync, beside the result.
pub(super) fn note_of_sync(global: &Global, sync: &str, text: &str) {
    if Level::Info < Level::of(global.level()) {
        return;
    }
    match global.log_format {
        LogFormat::Text => output::note(&format!("note: {sync}: {text}")),
        LogFormat::Json => {
            let event = json!({ "message": text, "event": "note", "sync": sync });
            output::log(Level::Info.word(), "", event);
        }
    }
}

/// A plugin keeps its cursors itself: only it knows what they mean.
///
/// # Errors
/// `Unsupported` where the sync is a plugin's.
pub(super) fn no_plugin(section: &Section<SourceSpec>) -> Result<()> {
    if !section.driver.is_plugin() {
        return Ok(());
    }
    let error = Error::unsupported("A plugin keeps its cursors itself, as rows of a table")
        .context("sync", &section.spec.name)
        .hint("delete its rows of that table at the destination: the next sync begins anew");
    Err(section.failure("path", error))
}

/// A destination that was named is there.
///
/// # Errors
/// `Config` where it is not.
pub(super) fn known_destination(config: &Config, name: Option<&str>) -> Result<()> {
    let Some(name) = name.filter(|name| config.destination(name).is_none()) else { return Ok(()) };
    let names: Vec<String> = config.destinations.iter().map(|d| d.spec.name.clone()).collect();
    Err(Error::config(format!("There is no destination `{name}`"))
        .hint(one_of(name, &names))
        .into())
}
