//! `highwater plugin`: a built-in connector as a plugin for others, in CloudQuery's protocol.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use highwater_cloudquery::serve::{Address, serve};
use highwater_core::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Result;
use crate::registry;
use crate::served::ServedConnector;

/// Serve a connector as a plugin of CloudQuery
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Plugin {
    /// The connector: adbc, duckdb, files, postgresql, sqlite
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be done with plugins.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Verb {
    Serve(Serve),
    Install(super::install::Install),
}

/// Serve the connector NAME until Ctrl-C or SIGTERM; rows that are not committed then, are not
#[derive(Debug, Args)]
pub struct Serve {
    /// What the address is of: tcp or unix
    #[arg(long, value_name = "NETWORK", default_value = "tcp", value_parser = ["tcp", "unix"])]
    pub network: String,
    /// Where to listen: host:port, or the path of a socket
    #[arg(long, value_name = "ADDRESS", default_value = "localhost:7777")]
    pub address: String,
    /// What CloudQuery says to its plugins and highwater has no use for.
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Flags that CloudQuery gives to plugins: nothing is ever sent to anybody here.
#[derive(Debug, Clone, Default, Args)]
pub struct Accepted {
    /// There is no error reporting
    #[arg(long, hide = true)]
    pub no_sentry: bool,
    /// There is no tracing
    #[arg(long, hide = true, value_name = "ENDPOINT")]
    pub otel_endpoint: Option<String>,
    /// There is no tracing
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub otel_endpoint_insecure: Option<String>,
    /// There is no profiling
    #[arg(long, hide = true, value_name = "FILE")]
    pub memprofile: Option<PathBuf>,
    /// There is no profiling
    #[arg(long, hide = true, value_name = "FILE")]
    pub cpuprofile: Option<PathBuf>,
}

impl Plugin {
    /// Whether stdout is for log lines, as whoever starts a plugin expects.
    pub fn logs_to_stdout(&self) -> bool {
        matches!(self.verb, Verb::Serve(_))
    }

    /// Does it.
    ///
    /// # Errors
    /// `Config` for an unknown connector or an address that cannot be listened on.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        match self.verb {
            Verb::Serve(serve) => serve.run(self.name).await,
            Verb::Install(install) => install.run(global).await,
        }
    }
}

impl Serve {
    async fn run(self, name: Option<String>) -> Result<Exit> {
        let names = registry::kinds().join(", ");
        let known = format!("one of: {names}");
        let Some(name) = name else {
            let error = Error::config("Which connector to serve is not said");
            return Err(error.hint(format!("highwater plugin NAME serve, with {known}")).into());
        };
        let Some(connector) = registry::by_path(&name) else {
            let error = Error::config("There is no such connector").context("name", name);
            return Err(error.hint(known).into());
        };
        let address = Address::parse(&self.network, &self.address)?;
        let served = Arc::new(ServedConnector::new(connector));
        serve(served, &address, stop_on_signals()?).await?;
        tracing::info!("plugin has ended");
        Ok(Exit::Success)
    }
}

/// Set by the first Ctrl-C or SIGTERM; the second one ends the process at once.
fn stop_on_signals() -> Result<watch::Receiver<bool>> {
    let failed = |e| Error::internal("Signals cannot be handled").caused_by(e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked {
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
            asked = true;
            stop.send_replace(true);
        }
    });
    Ok(stopped)
}
