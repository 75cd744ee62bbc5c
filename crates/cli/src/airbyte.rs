//! From documents to connectors of Airbyte: which program, with which settings.

use std::path::Path;
use std::time::Duration;

use highwater_airbyte::destination::{AirbyteDestination, AirbyteDestinationConfig};
use highwater_airbyte::host::{Connector, ConnectorSpec, Launcher, Role};
use highwater_airbyte::source::{AirbyteSource, AirbyteSourceConfig, TablePaths};
use highwater_core::Error;
use serde_json::Value;

use crate::config::Section;
use crate::config::spec::{DestinationSpec, Document, SourceSpec, TableSettings};
use crate::failure::Result;
use crate::json_schema;
use crate::plugins::Settings;

/// Makes a source. Starts nothing yet.
///
/// # Errors
/// `Config` where the connector is not found or its settings are wrong, at the place of the key.
pub fn source(section: &Section<SourceSpec>, settings: &Settings) -> Result<AirbyteSource> {
    let nested = |table: &TableSettings| TablePaths {
        pattern: table.name.clone(),
        paths: table
            .cursor
            .iter()
            .chain(table.primary_key.iter().flatten())
            .filter(|path| path.is_nested())
            .map(|path| path.parts().to_vec())
            .collect(),
    };
    let mut connector = spec(section, Role::Source, settings);
    if settings.copies {
        // A column that is new at the source must not be passed over.
        let seconds = section.spec.discover_every.map_or(0, |period| period.0);
        connector.catalog_lives = Duration::from_secs(seconds);
    }
    let made = AirbyteSource::new(AirbyteSourceConfig {
        connector,
        tables: section.spec.tables.iter().map(|entry| nested(&entry.0)).collect(),
    });
    made.map_err(|error| section.connector_failure(error))
}

/// Makes a destination. Starts nothing yet.
///
/// # Errors
/// As [`source`].
pub fn destination(
    section: &Section<DestinationSpec>,
    settings: &Settings,
) -> Result<AirbyteDestination> {
    let made = AirbyteDestination::new(AirbyteDestinationConfig {
        connector: spec(section, Role::Destination, settings),
        supports_refreshes: section.spec.supports_refreshes,
    });
    made.map_err(|error| section.connector_failure(error))
}

/// The connector of a document.
fn spec<S: Document>(section: &Section<S>, role: Role, settings: &Settings) -> ConnectorSpec {
    let document = &section.spec;
    ConnectorSpec {
        version: document.version().map(str::to_owned),
        config: Value::Object(document.settings().clone()),
        secrets: section.secrets(),
        config_file: document.of_airbyte().0.map(ToOwned::to_owned),
        log_level: settings.log_level.clone(),
        ..ConnectorSpec::new(document.name(), role, document.path())
    }
}

/// The schema of its settings that a manifest gives; without one nothing is forbidden.
fn of_manifest(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut manifest: Value = serde_saphyr::from_str(&text).unwrap_or_default();
    manifest["spec"]["connection_specification"].take()
}

/// Checks settings against the schema that the connector gives. It is started for that, where it
/// was not asked before.
///
/// # Errors
/// `Config` at the key that is wrong, and what the connector says.
pub async fn check_settings<S: Document>(
    section: &Section<S>,
    role: Role,
    settings: &Settings,
) -> Result<()> {
    let at_place = |error| section.connector_failure(error);
    let connector = Connector::new(spec(section, role, settings)).map_err(at_place)?;
    let schema = match connector.launcher() {
        // What runs manifests answers with its own settings; the manifest has those that it asks.
        Launcher::Manifest { file, .. } => of_manifest(file),
        _ => connector.spec().await.map_err(at_place)?.connection_specification,
    };
    let wrong = json_schema::violations(&connector.config(), &schema, "spec");
    let Some(first) = wrong.first() else { return Ok(()) };
    let mut error = Error::config(&first.message).context("connector", section.spec.name());
    if wrong.len() > 1 {
        error = error.context("more that is wrong", wrong.len() - 1);
    }
    let hint = "the connector's own documentation says what stands in its `spec`";
    let error = error.hint(first.hint.as_deref().unwrap_or(hint));
    Err(section.failure(&first.path, error))
}
