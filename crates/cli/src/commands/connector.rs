//! `highwater connector airbyte`: a built-in connector in Airbyte's protocol.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use highwater_core::Error;

use crate::connector::Spoken;
use crate::exit::Exit;
use crate::failure::Result;
use crate::registry;

/// Run a connector for somebody else, with messages on stdin and stdout
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Connector {
    /// In which protocol.
    #[command(subcommand)]
    pub protocol: Protocol,
}

/// The protocols that connectors are run by.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Protocol {
    Airbyte(Airbyte),
}

/// Run a connector as Airbyte and PyAirbyte run theirs
///
/// As a source and as a destination: messages go to stdout, a line each, and logs to stderr. The
/// configuration is that of the connector, with `table_options` for single tables (a cursor field,
/// for example) and, for a destination, `sync_name`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_long_help = PYAIRBYTE)]
pub struct Airbyte {
    /// The connector: adbc, duckdb, files, postgresql, sqlite; also as source-sqlite and destination-sqlite
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// How PyAirbyte gets at it.
const PYAIRBYTE: &str = "\
For PyAirbyte, an executable file `source-sqlite` with these two lines is its `local_executable`:

    #!/bin/sh
    exec highwater connector airbyte sqlite \"$@\"

Without anybody's platform, two of them are a sync:

    highwater connector airbyte sqlite read --config shop.json --catalog streams.json \\
      | highwater connector airbyte postgresql write --config copy.json --catalog streams.json";

/// What a connector is asked to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print what the configuration has to be like
    Spec,
    /// Say whether the system can be reached with a configuration
    Check {
        /// The configuration, as JSON
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the streams of the source
    Discover {
        /// The configuration, as JSON
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the rows and states of a source
    Read {
        /// The configuration, as JSON
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The streams to read, and how
        #[arg(long, value_name = "FILE")]
        catalog: PathBuf,
        /// Where the last read has ended
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
    },
    /// Write the rows of stdin to a destination, and print the states of what is durable
    Write {
        /// The configuration, as JSON
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The streams that come, and how they are written
        #[arg(long, value_name = "FILE")]
        catalog: PathBuf,
    },
}

impl Connector {
    /// Does it.
    ///
    /// # Errors
    /// `Config` for an unknown connector; else what went wrong is a message.
    pub async fn run(self) -> Result<Exit> {
        let Protocol::Airbyte(airbyte) = self.protocol;
        airbyte.run().await
    }
}

impl Airbyte {
    async fn run(self) -> Result<Exit> {
        // Airbyte's connectors say in their names what they are.
        let name = self.name.as_str();
        let bare = name.strip_prefix("source-").or_else(|| name.strip_prefix("destination-"));
        let Some(connector) = registry::by_path(bare.unwrap_or(name)) else {
            let error = Error::config("There is no such connector").context("name", name);
            let names = registry::kinds().join(", ");
            return Err(error.hint(format!("one of: {names}")).into());
        };
        let spoken = Spoken::new(connector);
        let done = match &self.verb {
            Verb::Spec => spoken.spec().await.map(|()| true),
            Verb::Check { config } => spoken.check(config).await.map(|()| true),
            Verb::Discover { config } => spoken.discover(config).await.map(|()| true),
            Verb::Read { config, catalog, state } => {
                spoken.read(config, catalog, state.as_deref()).await
            }
            Verb::Write { config, catalog } => spoken.write(config, catalog).await,
        };
        match done {
            Ok(true) => Ok(Exit::Success),
            Ok(false) => Ok(Exit::Failed),
            Err(error) => {
                // Whoever reads nothing any more wants to hear nothing either.
                drop(spoken.failed(&error).await);
                Ok(Exit::Failed)
            }
        }
    }
}
