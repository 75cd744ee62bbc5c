//! The commands, one file each.

pub mod example;
pub mod init;
pub mod migrate;
pub mod plan;
pub mod schema;
pub mod state;
pub mod status;
pub mod sync;
pub mod tables;
pub mod test_connection;
pub mod validate_config;

use highwater_core::{Error, ErrorKind};

use crate::args::{Cli, Command, Global};
use crate::config::Section;
use crate::config::spec::SourceSpec;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Runs a command to its end.
///
/// # Errors
/// What kept it from doing its work.
pub async fn run(cli: Cli) -> Result<Exit> {
    let global: &Global = &cli.global;
    match cli.command {
        Command::Sync(command) => command.run(global).await,
        Command::Plan(command) => command.run(global).await,
        Command::Tables(command) => command.run(global).await,
        Command::Migrate(command) => command.run(global).await,
        Command::ValidateConfig(command) => command.run(global).await,
        Command::TestConnection(command) => command.run(global).await,
        Command::Init(command) => command.run(global).await,
        Command::State(command) => command.run(global).await,
        Command::Status(command) => command.run(global).await,
        Command::Example(command) => command.run(global),
        Command::Schema(command) => command.run(),
    }
}

/// An error of the engine about a source's tables, at the entry of `tables` that it is about.
fn at_table(section: &Section<SourceSpec>, error: Error) -> Failure {
    if !matches!(error.kind(), ErrorKind::Config | ErrorKind::Unsupported) {
        return error.into();
    }
    let Some(table) = error.context_value("table").map(str::to_owned) else {
        return section.connector_failure(error);
    };
    let spec = &section.spec;
    let last = table.rsplit('.').next().unwrap_or(&table);
    let skipped = spec.skip_tables.iter().position(|name| *name == table);
    let entry = spec.tables.iter().position(|entry| entry.0.name == table);
    let entry = entry.or_else(|| spec.tables.iter().position(|entry| entry.0.name == last));
    match (skipped, entry) {
        (Some(i), _) if error.context_value("key") == Some("skip_tables") => {
            section.failure(&format!("skip_tables.{i}"), error)
        }
        (_, Some(i)) => section.failure(&format!("tables.{i}"), error),
        _ => section.failure("tables", error),
    }
}
