//! The commands, one file each.

mod clear;
pub mod connector;
pub mod example;
mod exported;
pub mod history;
pub mod init;
pub mod install;
mod lengths;
pub mod migrate;
pub mod plan;
pub mod plugin;
pub mod refresh;
pub mod schema;
pub mod state;
pub mod status;
pub mod sync;
pub mod tables;
pub mod test_connection;
mod upkeep;
pub mod validate_config;

use highwater_core::{Error, ErrorKind};

use crate::args::{Cli, Command, Global};
use crate::config::Section;
use crate::config::de::one_of;
use crate::config::mappings;
use crate::config::spec::SourceSpec;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::jobs::Job;

/// Runs a command to its end.
///
/// # Errors
/// What kept it from doing its work.
pub async fn run(cli: Cli) -> Result<Exit> {
    crate::hints::remember(&cli.command);
    let global: &Global = &cli.global;
    licence(global)?;
    match cli.command {
        Command::Sync(command) => Box::pin(command.run(global)).await,
        Command::Plan(command) => Box::pin(command.run(global)).await,
        Command::Tables(command) => command.run(global).await,
        Command::Migrate(command) => Box::pin(command.run(global)).await,
        Command::ValidateConfig(command) => command.run(global).await,
        Command::TestConnection(command) => command.run(global).await,
        Command::Refresh(command) => Box::pin(command.run(global)).await,
        Command::History(command) => command.run(global).await,
        Command::Init(command) => command.run(global).await,
        Command::Connector(command) => Box::pin(command.run()).await,
        Command::State(command) => Box::pin(command.run(global)).await,
        Command::Status(command) => command.run(global).await,
        Command::Example(command) => Box::pin(command.run(global)).await,
        Command::Schema(command) => command.run(),
        Command::Plugin(command) => command.run(global).await,
        Command::Install(command) => command.run(global).await,
    }
}

/// A licence file that was named is there: plugins would only say that they have none.
fn licence(global: &Global) -> Result<()> {
    let Some(file) = global.license.as_ref().filter(|file| !file.is_file()) else { return Ok(()) };
    Err(Error::config("The licence file does not exist").context("file", file.display()).into())
}

/// An error of the engine about a job, at the entry of `tables` that it is about. For a table that
/// the source does not have, the hint is chosen from those that it has.
async fn at_job(section: &Section<SourceSpec>, job: &Job, error: Error) -> Failure {
    let is_unknown = matches!(error.context_value("key"), Some("tables" | "skip_tables"));
    let is_unknown = is_unknown && !section.driver.is_plugin();
    let pattern = error.context_value("table").filter(|_| is_unknown).map(str::to_owned);
    let Some(pattern) = pattern else { return at_table(section, error) };
    let Ok(tables) = job.source.discover(None).await else { return at_table(section, error) };
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let hint = match names.len() {
        0 => "the source has no table".to_owned(),
        _ => one_of(&pattern, &names),
    };
    at_table(section, error.hint(hint))
}

/// As [`at_job`], where the source has been asked already.
fn at_table(section: &Section<SourceSpec>, error: Error) -> Failure {
    if !matches!(error.kind(), ErrorKind::Config | ErrorKind::Unsupported) {
        return error.into();
    }
    let Some(table) = error.context_value("table").map(str::to_owned) else {
        // A plugin names the pattern that it has nothing for in its own words only; those of
        // CloudQuery's SDKs begin with the key.
        let is_pattern = section.driver.is_plugin() && error.context_value("tables").is_some();
        let is_skipped = error.full_message().contains("skip_tables include");
        return match is_pattern {
            true if is_skipped => section.failure("skip_tables", error),
            true => section.failure("tables", error),
            false => section.connector_failure(error),
        };
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
        (_, Some(i)) => {
            let within = mappings::place(&spec.tables[i].0.mappings, &error);
            section.failure(&format!("tables.{i}{within}"), error)
        }
        _ => section.failure("tables", error),
    }
}
