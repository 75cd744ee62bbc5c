//! From the words on the command line to a [`Config`]: files, or two URLs.

use std::path::Path;

use highwater_core::Error;

use crate::args::{SyncArgs, TableArgs};
use crate::config::endpoints::{self, UrlTables};
use crate::config::expand::Surroundings;
use crate::config::spec::{
    ColumnEntry, ColumnSettings, ColumnType, Lookback, Period, TableSettings,
};
use crate::config::tables::FieldPath;
use crate::config::{Config, check, moment};
use crate::failure::Result;

/// The configuration of a sync: at least one source and one destination.
///
/// # Errors
/// `Config` or `Unsupported` for what is wrong in files, URLs or flags.
pub fn config(args: &SyncArgs) -> Result<Config> {
    if let [one] = args.what.as_slice()
        && endpoints::is_endpoint(one)
    {
        return Err(Error::config("A destination is missing behind the source")
            .hint("highwater sync SOURCE_URL DESTINATION_URL")
            .into());
    }
    let config = any_config(args)?;
    check::complete(&config)?;
    Ok(config)
}

/// As [`config`], for commands that look at sources or destinations alone: one URL is a source.
///
/// # Errors
/// As [`config`].
pub fn any_config(args: &SyncArgs) -> Result<Config> {
    for word in &args.what {
        endpoints::not_mistyped(word)?;
    }
    if !args.what.iter().any(|word| endpoints::is_endpoint(word)) {
        if let Some(flag) = args.tables.any_given() {
            return Err(Error::config(format!("`{flag}` goes with URLs"))
                .hint(match flag {
                    "--name" => "in a configuration file it is the source's key `name`",
                    "--table" => "in a configuration file it is the source's key `tables`",
                    "--skip-table" => "in a configuration file it is the source's key `skip_tables`",
                    "--write-mode" => {
                        "in a configuration file it is the destination's key `write_mode`, or one of an entry of `tables`"
                    }
                    _ => "in a configuration file it is a key of an entry of `tables`",
                })
                .into());
        }
        return Config::read(&args.what, &Surroundings::of_process());
    }
    match args.what.as_slice() {
        [source, destination] => {
            for word in [source, destination] {
                not_a_config_file(word)?;
            }
            endpoints::config(source, destination, &url_tables(&args.tables)?)
        }
        [source] => endpoints::source_config(source, &url_tables(&args.tables)?),
        _ => Err(Error::config("One source and one destination can be given as URLs")
            .hint("several go into a configuration file; `highwater init` writes one")
            .into()),
    }
}

fn not_a_config_file(word: &str) -> Result<()> {
    if crate::config::is_config_file(Path::new(word)) && !endpoints::is_endpoint(word) {
        return Err(Error::config("URLs and configuration files cannot be given together")
            .context("file", word)
            .into());
    }
    Ok(())
}

fn url_tables(args: &TableArgs) -> Result<UrlTables> {
    let wrong = |flag: &str, example: &str| {
        Error::config(format!("The value of `{flag}` is no duration")).hint(example.to_owned())
    };
    let lookback = args
        .lookback
        .as_deref()
        .map(|text| Lookback::parse(text).ok_or_else(|| wrong("--lookback", "--lookback 10m")));
    let retention = args.history_retention.as_deref().map(|text| {
        let length = moment::seconds(text).map(Period);
        length.ok_or_else(|| wrong("--history-retention", "--history-retention 90d"))
    });
    let settings = TableSettings {
        name: String::new(),
        target: args.target.clone(),
        primary_key: args
            .primary_key
            .as_ref()
            .map(|key| key.iter().map(|c| FieldPath::column(c)).collect()),
        cursor: args.cursor.as_deref().map(FieldPath::column),
        read_mode: args.read_mode,
        write_mode: args.write_mode,
        columns: args.columns.as_ref().map(|list| list.iter().map(|c| column(c)).collect()),
        null_cursor: args.null_cursor,
        lookback: lookback.transpose()?,
        history_retention: retention.transpose()?,
        ..TableSettings::default()
    };
    Ok(UrlTables {
        names: args.tables.clone(),
        skip: args.skip_tables.clone(),
        settings,
        sync: args.name.clone(),
    })
}

fn column(text: &str) -> ColumnEntry {
    let (name, as_type) = match text.strip_suffix(":text") {
        Some(name) => (name, Some(ColumnType::Text)),
        None => (text, None),
    };
    ColumnEntry(ColumnSettings { name: name.to_owned(), as_type })
}
