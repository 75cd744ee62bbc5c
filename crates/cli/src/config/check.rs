//! What the documents of a configuration say of each other: names are unique, every reference
//! leads somewhere.

use std::collections::BTreeMap;

use highwater_core::plan::{SOURCE_NAME, SYNC_TIME};
use highwater_core::{Error, MetadataColumns, ReadMode, WriteMode};
use serde_json::Value;

use super::mappings;
use super::references::{self, Reference};
use super::spec::{DestinationSpec, Document, Registry, SourceSpec, TableSettings};
use super::{Config, Section, de};
use crate::failure::Result;
use crate::plugins::GROUP_PLACEHOLDERS;

/// Checks a configuration that was read from files.
///
/// # Errors
/// `Config` or `Unsupported` at the first name or reference that is wrong.
pub fn check(config: &Config) -> Result<()> {
    unique(&config.sources, "source")?;
    unique(&config.destinations, "destination")?;
    unique(&config.transformers, "transformer")?;
    for destination in &config.destinations {
        self::destination(config, destination)?;
    }
    let mut versions = BTreeMap::new();
    for source in &config.sources {
        not_empty(config, source)?;
        for (i, name) in source.spec.destinations.iter().enumerate() {
            let destination = known(config, source, &format!("destinations.{i}"), name)?;
            group_of_stale(source, destination)?;
            stamps_of_stale(source, destination)?;
            let version = hub_version(&source.spec);
            let before = versions.insert((name, &source.spec.path), version);
            if before.is_some_and(|before| before != version) {
                let error = Error::config(
                    "Two sources of this path with different versions use the same destination",
                )
                .context("destination", name)
                .hint(format!("version: {}", before.unwrap_or_default()));
                return Err(source.failure("version", error));
            }
        }
        backend(config, source)?;
        mappings::check(source)?;
        settings(config, source)?;
    }
    Ok(())
}

/// The version, where it says which program runs.
fn hub_version(spec: &SourceSpec) -> &str {
    match spec.registry {
        None | Some(Registry::Cloudquery) => spec.version().unwrap_or_default(),
        _ => "",
    }
}

fn not_empty(config: &Config, source: &Section<SourceSpec>) -> Result<()> {
    if source.spec.tables.is_empty() {
        let error = Error::config("No table is named").hint("tables: [\"*\"]");
        return Err(source.failure("tables", error));
    }
    if source.spec.destinations.is_empty() {
        let known = config.destinations.first().map_or("NAME", |d| &d.spec.name);
        let error =
            Error::config("No destination is named").hint(format!("destinations: [\"{known}\"]"));
        return Err(source.failure("destinations", error));
    }
    Ok(())
}

/// What a destination says of transformers and of groups.
fn destination(config: &Config, section: &Section<DestinationSpec>) -> Result<()> {
    for (i, name) in section.spec.transformers.iter().enumerate() {
        if config.transformer(name).is_some() {
            continue;
        }
        let names: Vec<String> = config.transformers.iter().map(|t| t.spec.name.clone()).collect();
        let hint = if names.is_empty() {
            "add a document with `kind: transformer`".to_owned()
        } else {
            de::one_of(name, &names)
        };
        let error = Error::config(format!("There is no transformer `{name}`")).hint(hint);
        return Err(section.failure(&format!("transformers.{i}"), error));
    }
    if let Some(unknown) = unknown_placeholder(&section.spec.sync_group_id) {
        let known: Vec<String> =
            GROUP_PLACEHOLDERS.iter().map(|name| format!("{{{{{name}}}}}")).collect();
        let error = Error::config(format!("There is no placeholder `{unknown}`"))
            .hint(format!("one of: {}", known.join(", ")));
        return Err(section.failure("sync_group_id", error));
    }
    if !section.spec.sync_group_id.is_empty()
        && section.spec.write_mode == WriteMode::OverwriteDeleteStale
    {
        return Err(section.failure("sync_group_id", stale_group()));
    }
    Ok(())
}

/// The first `{{…}}` that nothing is known to stand for.
fn unknown_placeholder(text: &str) -> Option<String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}")?;
        if !GROUP_PLACEHOLDERS.contains(&name) {
            return Some(format!("{{{{{name}}}}}"));
        }
        rest = after;
    }
    None
}

/// A table's own mode may be the one that does not go with groups.
fn group_of_stale(
    source: &Section<SourceSpec>,
    destination: &Section<DestinationSpec>,
) -> Result<()> {
    if destination.spec.sync_group_id.is_empty() {
        return Ok(());
    }
    let stale = Some(WriteMode::OverwriteDeleteStale);
    match source.spec.tables.iter().position(|entry| entry.0.write_mode == stale) {
        None => Ok(()),
        Some(i) => {
            let error = stale_group().context("destination", &destination.spec.name);
            Err(source.failure(&format!("tables.{i}.write_mode"), error))
        }
    }
}

fn stale_group() -> Error {
    Error::config(
        "`sync_group_id` does not go with `overwrite-delete-stale`: rows of older groups would be \
         deleted",
    )
    .hint("write_mode: append")
}

/// Stale rows are told by the columns that say when and from where a row came. What is read
/// incrementally has none, and what the source says of its tables is seen by the plan only: here
/// is refused what cannot be otherwise.
fn stamps_of_stale(
    source: &Section<SourceSpec>,
    destination: &Section<DestinationSpec>,
) -> Result<()> {
    let Some(columns @ (MetadataColumns::None | MetadataColumns::Airbyte)) =
        destination.spec.metadata_columns
    else {
        return Ok(());
    };
    // It has columns of its own, and refuses the mode by itself.
    if destination.driver.is_airbyte() {
        return Ok(());
    }
    let may_define_cursors = source.driver.connector().is_none_or(|c| c.defines_cursors());
    let is_read_in_full = |table: &TableSettings| match table.read_mode {
        Some(read_mode) => read_mode == ReadMode::FullRefresh,
        None => table.cursor.is_none() && !may_define_cursors,
    };
    let stale = WriteMode::OverwriteDeleteStale;
    let is_stale = |table: &TableSettings| {
        table.write_mode.unwrap_or(destination.spec.write_mode) == stale && is_read_in_full(table)
    };
    let Some(entry) = source.spec.tables.iter().find(|entry| is_stale(&entry.0)) else {
        return Ok(());
    };
    let error = Error::config(format!(
        "`metadata_columns: {columns}` does not go with the write mode `overwrite-delete-stale` \
         (the default of `write_mode`): stale rows are told by `{SYNC_TIME}` and `{SOURCE_NAME}`",
    ))
    .context("source", &source.spec.name)
    .context("table", &entry.0.name)
    .hint(
        "leave `metadata_columns` out, or name another write mode; with `write_mode: overwrite` \
         rows that are gone at the source stay",
    );
    Err(destination.failure("metadata_columns", error))
}

fn unique<S: Document>(sections: &[Section<S>], what: &str) -> Result<()> {
    for (i, section) in sections.iter().enumerate() {
        let name = section.spec.name();
        if sections[..i].iter().any(|s| s.spec.name() == name) {
            let error = Error::config(format!("There are two {what}s with the name `{name}`"))
                .hint(format!("name: {name}-2"));
            return Err(section.failure("name", error));
        }
    }
    Ok(())
}

fn known<'a>(
    config: &'a Config,
    source: &Section<SourceSpec>,
    path: &str,
    name: &str,
) -> Result<&'a Section<DestinationSpec>> {
    config.destination(name).ok_or_else(|| {
        let names: Vec<String> = config.destinations.iter().map(|d| d.spec.name.clone()).collect();
        let hint = if names.is_empty() {
            "add a document with `kind: destination`".to_owned()
        } else {
            de::one_of(name, &names)
        };
        let error = Error::config(format!("There is no destination `{name}`")).hint(hint);
        source.failure(path, error)
    })
}

/// The destination that keeps the cursors of a source, where the source says.
///
/// # Errors
/// `Config` when the reference leads nowhere, `Unsupported` when it is no reference.
pub fn backend<'a>(
    config: &'a Config,
    source: &Section<SourceSpec>,
) -> Result<Option<&'a Section<DestinationSpec>>> {
    let Some(options) = &source.spec.backend_options else { return Ok(None) };
    for (key, value) in [("table_name", &options.table_name), ("connection", &options.connection)] {
        if value.is_empty() {
            let error = Error::config(format!("The key `{key}` is empty"))
                .hint(format!("{key}: {}", de::example(key)));
            return Err(source.failure(&format!("backend_options.{key}"), error));
        }
    }
    let path = "backend_options.connection";
    let text = Value::String(options.connection.clone());
    let found = references::all(&text, path);
    let whole = |r: &&Reference| {
        options.connection == format!("@@plugins.{}.{}", r.name, r.property)
            || options.connection == format!("@@plugins.{}", r.name)
    };
    let Some(reference) = found.first().filter(whole) else {
        let example = config.destinations.first().map_or("NAME", |d| &d.spec.name);
        let error =
            Error::unsupported("The connection of a state backend has to name a destination")
                .hint(format!("connection: \"@@plugins.{example}.connection\""));
        return Err(source.failure(path, error));
    };
    resolved(config, source, reference).map(Some)
}

/// The references in a plugin's own settings lead to destinations that have an address.
fn settings(config: &Config, source: &Section<SourceSpec>) -> Result<()> {
    if !source.driver.is_plugin() {
        return Ok(());
    }
    let backend = backend(config, source)?.map(|b| &b.spec.name);
    let settings = Value::Object(source.spec.spec.clone());
    for reference in references::all(&settings, "spec") {
        let destination = resolved(config, source, &reference)?;
        if Some(&destination.spec.name) != backend && !destination.driver.is_plugin() {
            let error = Error::config("A built-in destination has no address for a plugin")
                .context("destination", &destination.spec.name)
                .hint("as the state backend of this source it has one: `backend_options`");
            return Err(source.failure(&reference.path, error));
        }
    }
    Ok(())
}

fn resolved<'a>(
    config: &'a Config,
    source: &Section<SourceSpec>,
    reference: &Reference,
) -> Result<&'a Section<DestinationSpec>> {
    if reference.property != "connection" {
        let error = Error::config("A destination has the property `connection` only")
            .hint("connection: \"@@plugins.NAME.connection\"");
        return Err(source.failure(&reference.path, error));
    }
    known(config, source, &reference.path, &reference.name)
}

/// What a sync needs beyond valid documents.
///
/// # Errors
/// `Config` when there is no source or no destination.
pub fn complete(config: &Config) -> Result<()> {
    for (what, is_empty) in
        [("source", config.sources.is_empty()), ("destination", config.destinations.is_empty())]
    {
        if is_empty {
            return Err(Error::config(format!("The configuration has no {what}"))
                .hint(format!("add a document with `kind: {what}`"))
                .into());
        }
    }
    Ok(())
}
