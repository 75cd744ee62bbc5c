//! What the documents of a configuration say of each other: names are unique, every reference
//! leads somewhere.

use std::collections::BTreeMap;

use highwater_core::Error;

use super::spec::{DestinationSpec, SourceSpec};
use super::{Config, Section, de};
use crate::failure::Result;

/// Checks a configuration that was read from files.
///
/// # Errors
/// `Config` or `Unsupported` at the first name or reference that is wrong.
pub fn check(config: &Config) -> Result<()> {
    unique(&config.sources, "source", |s| &s.name)?;
    unique(&config.destinations, "destination", |d| &d.name)?;
    let mut versions = BTreeMap::new();
    for source in &config.sources {
        if source.spec.tables.is_empty() {
            let error = Error::config("No table is named").hint("tables: [\"*\"]");
            return Err(source.failure("tables", error));
        }
        if source.spec.destinations.is_empty() {
            let known = config.destinations.first().map_or("NAME", |d| &d.spec.name);
            let error = Error::config("No destination is named")
                .hint(format!("destinations: [\"{known}\"]"));
            return Err(source.failure("destinations", error));
        }
        for (i, name) in source.spec.destinations.iter().enumerate() {
            known(config, source, &format!("destinations.{i}"), name)?;
            let version = source.spec.version.as_deref().unwrap_or_default();
            let before = versions.insert((name, &source.spec.path), version);
            if before.is_some_and(|before| before != version) {
                let error = Error::config(
                    "Two sources of this path with different versions use the same destination",
                )
                .context("destination", name);
                return Err(source.failure("version", error));
            }
        }
        backend(config, source)?;
    }
    Ok(())
}

fn unique<S>(sections: &[Section<S>], what: &str, name: fn(&S) -> &String) -> Result<()> {
    for (i, section) in sections.iter().enumerate() {
        let name_here = name(&section.spec);
        if sections[..i].iter().any(|s| name(&s.spec) == name_here) {
            let error = Error::config(format!("There are two {what}s with the name `{name_here}`"));
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

/// The destination that keeps the cursors of a source, where it is not the one with the rows.
///
/// # Errors
/// `Config` when the reference leads nowhere, `Unsupported` when it is no reference.
pub fn backend<'a>(
    config: &'a Config,
    source: &Section<SourceSpec>,
) -> Result<Option<&'a Section<DestinationSpec>>> {
    let Some(options) = &source.spec.backend_options else { return Ok(None) };
    if options.table_name.is_empty() {
        let error = Error::config("The key `table_name` is empty");
        return Err(source.failure("backend_options.table_name", error));
    }
    let path = "backend_options.connection";
    let reference = options.connection.strip_prefix("@@plugins.");
    let Some(reference) = reference else {
        let example = config.destinations.first().map_or("NAME", |d| &d.spec.name);
        let error =
            Error::unsupported("The connection of a state backend has to name a destination")
                .hint(format!("connection: \"@@plugins.{example}.connection\""));
        return Err(source.failure(path, error));
    };
    let Some(name) = reference.strip_suffix(".connection") else {
        let error = Error::config("A destination has the property `connection` only")
            .hint("connection: \"@@plugins.NAME.connection\"");
        return Err(source.failure(path, error));
    };
    known(config, source, path, name).map(Some)
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
