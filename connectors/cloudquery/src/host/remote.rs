//! A plugin that somebody else runs: `registry: grpc`.

use std::time::Duration;

use highwater_core::{Error, Result};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::PluginSpec;
use super::ready::{NotReady, connect, endpoint, patiently};

/// How long a plugin that runs already may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Connects to `path`: `host:port` or `unix:///path`. The connection comes back by itself if it
/// breaks between two calls.
///
/// # Errors
/// `Config` when `path` is no address or what answers there does not speak gRPC; `Transient` when
/// nothing answers there; `Unsupported` when what answers is no plugin of our protocol.
pub(super) async fn start(spec: &PluginSpec) -> Result<(Channel, String)> {
    let path = spec.path.trim_start_matches("http://").trim_end_matches('/');
    let endpoint = endpoint(path)?;
    let is_address = path.starts_with("unix:")
        || path.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        });
    if !is_address {
        return Err(Error::config("The path of a gRPC plugin is not `host:port`")
            .context("plugin", &spec.name)
            .context("path", &spec.path)
            .hint("path: localhost:7777"));
    }
    let silent = |words: String| {
        Error::transient("No plugin answers at this address")
            .context("plugin", &spec.name)
            .context("path", &spec.path)
            .context("last attempt", words)
            .hint("Start the plugin first, for example: ./my-plugin serve --address localhost:7777")
    };
    match patiently(&spec.name, timeout(ANSWER, connect(&spec.name, &endpoint))).await {
        Ok(Ok(channel)) => Ok((channel, path.to_owned())),
        Ok(Err(NotReady::Refused(error))) => Err(error),
        Ok(Err(NotReady::Silent(words))) => Err(silent(words)),
        Err(_) => Err(silent(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}
