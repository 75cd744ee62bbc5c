//! From the configuration to what the engine takes: connectors made, requests filled in.

use std::sync::Arc;

use highwater_core::{Destination, Error, MetadataColumns, ReadMode, Source, WriteMode};
use highwater_engine::{ColumnOptions, SyncRequest, TableOptions, Target};
use serde_json::Value;

use crate::config::spec::{DestinationSpec, SourceSpec, TableSettings};
use crate::config::{Config, Section, check};
use crate::failure::Result;

/// One source with its destinations, ready for the engine. Serves one run.
pub struct Job {
    /// The source.
    pub source: Arc<dyn Source>,
    /// What to sync.
    pub request: SyncRequest,
}

/// Makes the job of a source.
///
/// # Errors
/// `Config` where a connector's own settings are wrong.
pub async fn job(config: &Config, section: &Section<SourceSpec>, may_migrate: bool) -> Result<Job> {
    let source = source(section).await?;
    let backend = check::backend(config, section)?;
    let mut targets = Vec::new();
    for name in &section.spec.destinations {
        let Some(destination) = config.destination(name) else {
            return Err(Error::config("There is no such destination").context("name", name).into());
        };
        let backend = match backend {
            Some(backend) if backend.spec.name != *name => Some(self::destination(backend).await?),
            _ => None,
        };
        let made = self::destination(destination).await?;
        let write_mode = match destination.origin {
            Some(_) => destination.spec.write_mode,
            None => usual_mode(section, made.as_ref()),
        };
        targets.push(Target {
            backend,
            write_mode,
            metadata_columns: metadata_columns(&section.spec, &destination.spec),
            may_migrate,
            ..Target::new(name, made)
        });
    }
    let request = SyncRequest {
        sync: section.spec.name.clone(),
        tables: section.spec.tables.iter().map(|entry| table_options(&entry.0)).collect(),
        skip_tables: section.spec.skip_tables.clone(),
        targets,
        state_table: None,
    };
    Ok(Job { source, request })
}

/// The write mode where nobody named one: `overwrite`, because nobody who names a database on the
/// command line expects rows to be deleted in it. A destination that cannot do that gets what
/// doubles no row: `append` of what is new, and `replace` by all rows.
pub fn usual_mode(source: &Section<SourceSpec>, destination: &dyn Destination) -> WriteMode {
    let supported = destination.capabilities().write_modes;
    // A file is read once: nobody has to name a cursor for that.
    let has_own_cursor = source.connector.kind() == "files";
    let is_incremental = source.spec.tables.iter().any(|entry| match entry.0.read_mode {
        Some(mode) => mode == ReadMode::Incremental,
        None => entry.0.cursor.is_some() || has_own_cursor,
    });
    let added = if is_incremental { WriteMode::Append } else { WriteMode::Replace };
    let wanted = [WriteMode::Overwrite, added, WriteMode::Append];
    let mode = wanted.into_iter().find(|mode| supported.contains(mode));
    mode.or(supported.first().copied()).unwrap_or(WriteMode::Overwrite)
}

/// Makes a source. Connects to nothing yet.
///
/// # Errors
/// `Config` where its settings are wrong, at the place of the key.
pub async fn source(section: &Section<SourceSpec>) -> Result<Arc<dyn Source>> {
    let spec = Value::Object(section.spec.spec.clone());
    let source = section.connector.source(spec).await;
    source.map(Arc::from).map_err(|error| section.connector_failure(error))
}

/// Makes a destination. Connects to nothing yet.
///
/// # Errors
/// As [`source`].
pub async fn destination(section: &Section<DestinationSpec>) -> Result<Arc<dyn Destination>> {
    let spec = Value::Object(section.spec.spec.clone());
    let destination = section.connector.destination(spec).await;
    destination.map(Arc::from).map_err(|error| section.connector_failure(error))
}

/// Stale rows are told by their source and the time of their sync: a destination that deletes
/// them has CloudQuery's columns, and others have them when they are asked for.
fn metadata_columns(source: &SourceSpec, destination: &DestinationSpec) -> MetadataColumns {
    let is_stale_deleted = destination.write_mode == WriteMode::OverwriteDeleteStale
        || source.tables.iter().any(|t| t.0.write_mode == Some(WriteMode::OverwriteDeleteStale));
    let default =
        if is_stale_deleted { MetadataColumns::CloudQuery } else { MetadataColumns::None };
    destination.metadata_columns.unwrap_or(default)
}

fn table_options(settings: &TableSettings) -> TableOptions {
    let column = |settings: &crate::config::spec::ColumnSettings| ColumnOptions {
        name: settings.name.clone(),
        as_type: settings.as_type.map(|t| format!("{t:?}").to_lowercase()),
    };
    TableOptions {
        name: settings.name.clone(),
        target: settings.target.clone(),
        primary_key: settings.primary_key.clone(),
        cursor: settings.cursor.clone(),
        read_mode: settings.read_mode,
        write_mode: settings.write_mode,
        columns: settings.columns.as_ref().map(|list| list.iter().map(|c| column(&c.0)).collect()),
        null_cursor: settings.null_cursor,
        lookback: settings.lookback.map(|l| l.length),
        history_retention_seconds: settings.history_retention.map(|p| p.0),
    }
}
