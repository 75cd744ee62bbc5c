//! Every flag, defined once: parsing, `--help` and defaults come from here.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use highwater_core::{NullCursor, ReadMode, WriteMode};
use uuid::Uuid;

use crate::commands;

/// Moves tables between databases and files: only what changed, nothing lost, nothing doubled.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, one file each in `commands/`.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Command {
    Sync(commands::sync::Sync),
    Plan(commands::plan::Plan),
    Refresh(commands::refresh::Refresh),
    Tables(commands::tables::Tables),
    Migrate(commands::migrate::Migrate),
    ValidateConfig(commands::validate_config::ValidateConfig),
    TestConnection(commands::test_connection::TestConnection),
    Init(commands::init::Init),
    State(commands::state::State),
    History(commands::history::History),
    Status(commands::status::Status),
    Example(commands::example::Example),
    Schema(commands::schema::Schema),
    Connector(commands::connector::Connector),
    Plugin(commands::plugin::Plugin),
    /// CloudQuery's older name of `plugin install`
    #[command(hide = true)]
    Install(commands::install::Install),
}

/// Flags of every command, accepted before and after its name.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// How progress and log lines look on stderr
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// The least important log lines to show: trace, debug, info, warn, error
    /// [default: info, and warn for those of plugins]
    #[arg(long, global = true, value_name = "LEVEL",
          value_parser = ["trace", "debug", "info", "warn", "error"], hide_possible_values = true)]
    pub log_level: Option<String>,
    /// The folder of downloaded plugins
    #[arg(long, global = true, value_name = "FOLDER", default_value = ".cq", alias = "data-dir")]
    pub cq_dir: PathBuf,
    /// A licence file for plugins
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub license: Option<PathBuf>,
    /// The id of this run, which plugins and summaries get; a UUID [default: a random one]
    #[arg(long, global = true, value_name = "UUID", hide_short_help = true)]
    pub invocation_id: Option<Uuid>,
    /// What CloudQuery has and highwater has no use for.
    #[command(flatten)]
    pub accepted: Accepted,
}

impl Global {
    /// The least important log lines of ours to show.
    pub fn level(&self) -> &str {
        self.log_level.as_deref().unwrap_or("info")
    }
}

/// Flags of CloudQuery that are accepted, so that its command lines run, and that do nothing:
/// log lines go to stderr and into no file, and there is no telemetry.
#[derive(Debug, Clone, Default, Args)]
pub struct Accepted {
    /// Logs go to stderr in any case
    #[arg(long, global = true, hide = true)]
    pub log_console: bool,
    /// No log file is ever written
    #[arg(long, global = true, hide = true)]
    pub no_log_file: bool,
    /// No log file is ever written
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub log_file_name: Option<PathBuf>,
    /// No log file is ever written
    #[arg(long, global = true, hide = true)]
    pub log_file_overwrite: bool,
    /// There is no telemetry
    #[arg(long, global = true, hide = true, value_parser = ["none", "errors", "stats", "all"])]
    pub telemetry_level: Option<String>,
    /// Colours depend on the terminal
    #[arg(long, global = true, hide = true, value_parser = ["on", "off", "auto"])]
    pub color: Option<String>,
}

/// How progress and log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Bars on a terminal, lines of text otherwise
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// What to sync: configuration files, or two URLs and what to do with their tables.
#[derive(Debug, Clone, Args)]
pub struct SyncArgs {
    /// Configuration files or folders; or a source and a destination, each a URL, a database file
    /// or data files
    #[arg(required = true, value_name = "CONFIG... | SOURCE DESTINATION", num_args = 1..)]
    pub what: Vec<String>,
    /// Settings of the URL form.
    #[command(flatten)]
    pub tables: TableArgs,
}

/// Systems, without anything about their tables.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Configuration files or folders; or a source and a destination, each a URL, a database file
    /// or data files
    #[arg(required = true, value_name = "CONFIG... | SOURCE DESTINATION", num_args = 1..)]
    pub what: Vec<String>,
    /// The name of the sync, where it is not made from the source's URL
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

impl PlaceArgs {
    /// The same, with nothing said about tables.
    pub fn to_sync_args(&self) -> SyncArgs {
        let tables = TableArgs { name: self.name.clone(), ..TableArgs::default() };
        SyncArgs { what: self.what.clone(), tables }
    }
}

/// What to do with the tables of the URL form; a configuration file has keys for this.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Tables (with URLs)")]
pub struct TableArgs {
    /// A table or a pattern with `*`; may be repeated [default: all tables]
    #[arg(long = "table", visible_alias = "tables", value_name = "NAME", value_delimiter = ',')]
    pub tables: Vec<String>,
    /// A table or a pattern to leave out; may be repeated
    #[arg(
        long = "skip-table",
        visible_alias = "skip-tables",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub skip_tables: Vec<String>,
    /// The column that grows with every change of a row
    #[arg(long, value_name = "COLUMN")]
    pub cursor: Option<String>,
    /// The columns that make a row unique, separated by commas
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub primary_key: Option<Vec<String>>,
    /// What a sync leaves behind in a table [default: overwrite; for files append with a cursor,
    /// replace without]
    #[arg(long, value_name = "MODE", value_parser = words(WriteMode::ALL, WriteMode::as_str))]
    pub write_mode: Option<WriteMode>,
    /// How a table is read [default: incremental where there is a cursor]
    #[arg(long, value_name = "MODE", value_parser = words(ReadMode::ALL, ReadMode::as_str))]
    pub read_mode: Option<ReadMode>,
    /// What happens to rows without a cursor value [default: include]
    #[arg(long, value_name = "WHAT", value_parser = words(NullCursor::ALL, NullCursor::as_str))]
    pub null_cursor: Option<NullCursor>,
    /// How far behind the last position to start again: a number, or a duration such as 10m
    #[arg(long, value_name = "LENGTH")]
    pub lookback: Option<String>,
    /// The columns to copy, separated by commas; `name:text` copies the source's own text
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// The table's name at the destination
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// How long the history of append-dedup keeps rows, such as 90d
    #[arg(long, value_name = "DURATION")]
    pub history_retention: Option<String>,
    /// The name of the sync, under which its state is kept [default: made from the source's URL]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// How a run goes.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Create and alter no table
    #[arg(long)]
    pub no_migrate: bool,
    /// Delete rows that the source has no more also where they are more than 30 % of a table, or
    /// all of it
    #[arg(long)]
    pub allow_mass_delete: bool,
    /// Take the lease from another run of the same sync, which then can commit nothing more
    #[arg(long)]
    pub take_over: bool,
    /// How many parts of tables are read at once [default: the number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub tasks: Option<u16>,
    /// Append a summary in CloudQuery's form to this file, a JSON line per destination
    #[arg(long, value_name = "FILE")]
    pub summary_location: Option<PathBuf>,
    /// Append what was done to each table to this file, a JSON line per table and destination
    #[arg(long, value_name = "FILE")]
    pub tables_metrics_location: Option<PathBuf>,
    /// Sync only this part of what plugins read, such as 2/5; each part is a sync of its own
    #[arg(long, value_name = "N/TOTAL")]
    pub shard: Option<Shard>,
}

/// A part of what a plugin reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1.
    pub num: u16,
    /// Of how many.
    pub total: u16,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shard = text.split_once('/').and_then(|(num, total)| {
            Some(Self { num: num.trim().parse().ok()?, total: total.trim().parse().ok()? })
        });
        match shard {
            Some(shard) if (1..=shard.total).contains(&shard.num) => Ok(shard),
            _ => Err("a part is written N/TOTAL with 1 ≤ N ≤ TOTAL, such as 2/5".to_owned()),
        }
    }
}

impl TableArgs {
    /// A flag that only the URL form has and that was given.
    pub fn any_given(&self) -> Option<&'static str> {
        let given = [
            ("--table", !self.tables.is_empty()),
            ("--skip-table", !self.skip_tables.is_empty()),
            ("--cursor", self.cursor.is_some()),
            ("--primary-key", self.primary_key.is_some()),
            ("--write-mode", self.write_mode.is_some()),
            ("--read-mode", self.read_mode.is_some()),
            ("--null-cursor", self.null_cursor.is_some()),
            ("--lookback", self.lookback.is_some()),
            ("--columns", self.columns.is_some()),
            ("--target", self.target.is_some()),
            ("--history-retention", self.history_retention.is_some()),
            ("--name", self.name.is_some()),
        ];
        given.iter().find(|(_, is_given)| *is_given).map(|(flag, _)| *flag)
    }
}

/// A parser of words that a core type knows.
fn words<T>(all: &'static [T], word: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static + FromStr<Err = highwater_core::Error>,
{
    PossibleValuesParser::new(all.iter().map(|value| word(*value)))
        .try_map(|text| text.parse::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_one_of_its_total() {
        assert_eq!("2/5".parse(), Ok(Shard { num: 2, total: 5 }));
        for wrong in ["0/5", "6/5", "1", "a/b", "-1/5", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
