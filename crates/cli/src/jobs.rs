//! From the configuration to what the engine takes: connectors made, requests filled in.

use std::sync::Arc;

use highwater_core::{Destination, Error, MetadataColumns, ReadMode, Source, WriteMode};
use highwater_engine::{
    ColumnOptions, Keeper, KeyChoice, StateTable, SyncRequest, TableOptions, Target, state_table,
};
use serde_json::Value;

use crate::config::driver::Driver;
use crate::config::spec::{DestinationSpec, MigrateMode, PkMode, SourceSpec, TableSettings};
use crate::config::tables::FieldPath;
use crate::config::{Config, Section, check};
use crate::failure::Result;
use crate::plugins::Settings;
use crate::running::Running;

/// One source with its destinations, ready for the engine. Serves one run.
pub struct Job {
    /// The source.
    pub source: Arc<dyn Source>,
    /// What to sync.
    pub request: SyncRequest,
    /// The plugins that take part in it.
    pub plugins: Running,
}

/// Makes the job of a source. Nothing is started or connected yet.
///
/// # Errors
/// `Config` where a connector's own settings are wrong.
pub async fn job(
    config: &Config,
    section: &Section<SourceSpec>,
    settings: &Settings,
) -> Result<Job> {
    if settings.shard.is_some() && !section.driver.is_plugin() {
        let error = Error::unsupported("`--shard` is for plugins: a built-in source has no parts")
            .hint("leave `--shard` out; `--tasks` says how many parts are read at once");
        return Err(section.failure("path", error));
    }
    let mut plugins = Running::default();
    let backend = check::backend(config, section)?;
    let mut targets = Vec::new();
    for name in &section.spec.destinations {
        let Some(destination) = config.destination(name) else {
            return Err(Error::config("There is no such destination").context("name", name).into());
        };
        let apart = backend.filter(|b| b.spec.name != *name && !section.driver.is_plugin());
        let backend = match apart {
            Some(backend) => Some(plugins.destination(backend, settings).await?),
            None => None,
        };
        let made = plugins.destination(destination, settings).await?;
        targets.push(target(config, section, destination, made, settings, &mut plugins)?);
        if let Some(target) = targets.last_mut() {
            target.backend = backend;
        }
    }
    let state_table = match backend.filter(|_| section.driver.is_plugin()) {
        Some(backend) => Some(self::state_table(section, backend, settings, &mut plugins).await?),
        None => None,
    };
    let source = plugins.source(config, section, settings).await?;
    let (tables, skip_tables) = tables(section);
    let request = SyncRequest {
        sync: settings.sync_name(&section.spec),
        tables,
        skip_tables,
        targets,
        state_table,
    };
    Ok(Job { source, request, plugins })
}

fn target(
    config: &Config,
    source: &Section<SourceSpec>,
    section: &Section<DestinationSpec>,
    made: Arc<dyn Destination>,
    settings: &Settings,
    plugins: &mut Running,
) -> Result<Target> {
    let spec = &section.spec;
    let write_mode = match section.origin {
        Some(_) => spec.write_mode,
        None => usual_mode(source, made.as_ref()),
    };
    let transformers = spec.transformers.iter().filter_map(|name| config.transformer(name));
    let transformers = transformers.map(|t| plugins.transformer(t, settings));
    Ok(Target {
        write_mode,
        metadata_columns: metadata_columns(source, section),
        sync_group_id: settings.sync_group(&spec.sync_group_id),
        key: match spec.pk_mode {
            PkMode::Default => KeyChoice::Source,
            PkMode::CqIdOnly => KeyChoice::RowId,
        },
        may_migrate: settings.may_migrate,
        may_recreate: spec.migrate_mode == MigrateMode::Forced,
        allow_mass_delete: settings.allow_mass_delete,
        transformers: transformers.collect::<Result<_>>()?,
        ..Target::new(&spec.name, made)
    })
}

/// Where a plugin keeps its cursors.
async fn state_table(
    source: &Section<SourceSpec>,
    backend: &Section<DestinationSpec>,
    settings: &Settings,
    plugins: &mut Running,
) -> Result<StateTable> {
    let name = source.spec.backend_options.as_ref().map_or("", |options| &options.table_name);
    let own = source.spec.destinations.iter().position(|name| *name == backend.spec.name);
    let keeper = match own {
        Some(index) => Keeper::Target(index),
        None => Keeper::Apart {
            name: backend.spec.name.clone(),
            destination: plugins.destination(backend, settings).await?,
        },
    };
    Ok(StateTable { table: state_table::table(name), keeper })
}

/// The entries of `tables` as the engine takes them. A plugin gets the patterns and answers with
/// the tables they mean, dependent ones and skipped ones considered: whatever it names is synced,
/// and the entries only say how.
fn tables(section: &Section<SourceSpec>) -> (Vec<TableOptions>, Vec<String>) {
    let spec = &section.spec;
    let entries = || spec.tables.iter().map(|entry| table_options(&entry.0));
    if !section.driver.is_plugin() {
        return (entries().collect(), spec.skip_tables.clone());
    }
    let all = TableOptions { name: "*".to_owned(), ..TableOptions::default() };
    let says_more = |options: &TableOptions| {
        *options != TableOptions { name: options.name.clone(), ..TableOptions::default() }
    };
    let mut tables: Vec<TableOptions> =
        if entries().any(|options| says_more(&options)) { entries().collect() } else { Vec::new() };
    if !tables.contains(&all) {
        tables.push(all);
    }
    (tables, Vec::new())
}

/// The write mode where nobody named one: `overwrite`, because nobody who names a database on the
/// command line expects rows to be deleted in it. A destination that cannot do that gets what
/// doubles no row: `append` of what is new, and `replace` by all rows.
pub fn usual_mode(source: &Section<SourceSpec>, destination: &dyn Destination) -> WriteMode {
    let supported = destination.capabilities().write_modes;
    // A file is read once: nobody has to name a cursor for that.
    let has_own_cursor = source.driver.connector().is_some_and(|c| c.kind() == "files");
    let is_incremental = source.spec.tables.iter().any(|entry| match entry.0.read_mode {
        Some(mode) => mode == ReadMode::Incremental,
        None => entry.0.cursor.is_some() || has_own_cursor,
    });
    let added = if is_incremental { WriteMode::Append } else { WriteMode::Replace };
    let wanted = [WriteMode::Overwrite, added, WriteMode::Append];
    let mode = wanted.into_iter().find(|mode| supported.contains(mode));
    mode.or(supported.first().copied()).unwrap_or(WriteMode::Overwrite)
}

/// Makes a built-in source. Connects to nothing yet.
///
/// # Errors
/// `Config` where its settings are wrong, at the place of the key.
pub async fn source(section: &Section<SourceSpec>) -> Result<Arc<dyn Source>> {
    let Driver::Builtin(connector) = section.driver else {
        return Err(not_builtin(&section.spec.name).into());
    };
    let source = connector.source(Value::Object(section.spec.spec.clone())).await;
    source.map(Arc::from).map_err(|error| section.connector_failure(error))
}

/// Makes a built-in destination. Connects to nothing yet.
///
/// # Errors
/// As [`source`].
pub async fn destination(section: &Section<DestinationSpec>) -> Result<Arc<dyn Destination>> {
    let Driver::Builtin(connector) = section.driver else {
        return Err(not_builtin(&section.spec.name).into());
    };
    let destination = connector.destination(Value::Object(section.spec.spec.clone())).await;
    destination.map(Arc::from).map_err(|error| section.connector_failure(error))
}

fn not_builtin(name: &str) -> Error {
    Error::internal("Another program was taken for a built-in connector").context("name", name)
}

/// Stale rows are told by their source and the time of their sync: a destination that deletes
/// them has CloudQuery's columns, and so has all that a plugin sends or gets. What a connector of
/// Airbyte sends has Airbyte's, else; a destination of Airbyte makes its own. Others have them when
/// they are asked for.
fn metadata_columns(
    source: &Section<SourceSpec>,
    destination: &Section<DestinationSpec>,
) -> MetadataColumns {
    let stale = WriteMode::OverwriteDeleteStale;
    let own_modes = || source.spec.tables.iter().map(|entry| entry.0.write_mode);
    let deletes_stale =
        destination.spec.write_mode == stale || own_modes().any(|m| m == Some(stale));
    let default = match (source.driver, destination.driver) {
        (_, Driver::Airbyte) => MetadataColumns::None,
        (Driver::Plugin(_), _) | (_, Driver::Plugin(_)) => MetadataColumns::CloudQuery,
        // What an entry says counts: where each names its mode, the destination's is nobody's.
        (Driver::Airbyte, _) => {
            let is_stale =
                |mode: Option<WriteMode>| mode.unwrap_or(destination.spec.write_mode) == stale;
            match own_modes().any(is_stale) {
                true => MetadataColumns::CloudQuery,
                false => MetadataColumns::Airbyte,
            }
        }
        _ if deletes_stale => MetadataColumns::CloudQuery,
        _ => MetadataColumns::None,
    };
    destination.spec.metadata_columns.unwrap_or(default)
}

pub(crate) fn table_options(settings: &TableSettings) -> TableOptions {
    let column = |settings: &crate::config::spec::ColumnSettings| ColumnOptions {
        name: settings.name.clone(),
        as_type: settings.as_type.map(|t| format!("{t:?}").to_lowercase()),
    };
    TableOptions {
        name: settings.name.clone(),
        target: settings.target.clone(),
        primary_key: settings
            .primary_key
            .as_ref()
            .map(|key| key.iter().map(FieldPath::column_name).collect()),
        cursor: settings.cursor.as_ref().map(FieldPath::column_name),
        read_mode: settings.read_mode,
        write_mode: settings.write_mode,
        columns: settings.columns.as_ref().map(|list| list.iter().map(|c| column(&c.0)).collect()),
        null_cursor: settings.null_cursor,
        lookback: settings.lookback.map(|l| l.length),
        history_retention_seconds: settings.history_retention.map(|p| p.0),
        mappings: settings.mappings.iter().map(|entry| entry.0.clone()).collect(),
        deletes: settings.deletes.map(Into::into),
        deletion_column: settings.deletion_column.clone(),
        sweep_seconds: settings.sweep.and_then(|sweep| sweep.0),
        allow_mass_delete: settings.allow_mass_delete,
        ..TableOptions::default()
    }
}
