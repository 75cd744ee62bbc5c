//! Connecting to a plugin, and finding out whether it is one that we can run.

use std::time::Duration;

use highwater_core::{Error, Result};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::words::{is_broken_connection, status_error};
use crate::proto::discovery::{v0, v1};

/// The only version of the protocol that we speak.
const VERSION: i32 = 3;
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);
/// After how long the user is told what we wait for.
const MENTION: Duration = Duration::from_secs(10);

/// Why a plugin could not be talked to.
pub(super) enum NotReady {
    /// Nothing answered in time; the words of the last attempt.
    Silent(String),
    /// It answered, and we cannot work with it.
    Refused(Error),
}

/// Where a plugin listens: `unix:///path` or `host:port`.
///
/// # Errors
/// `Config` when `connection` is neither.
pub(crate) fn endpoint(connection: &str) -> Result<Endpoint> {
    let address = if connection.starts_with("unix:") {
        connection.to_owned()
    } else {
        format!("http://{connection}")
    };
    let endpoint = Endpoint::from_shared(address).map_err(|e| {
        Error::config("The address of the plugin is not `host:port` or `unix:///path`")
            .context("path", connection)
            .hint("path: localhost:7777")
            .caused_by(e)
    })?;
    // The windows are for messages of many MiB: with the default of 64 KiB each would need
    // hundreds of round trips. An error's text travels in a header, hence the larger limit.
    Ok(endpoint
        .connect_timeout(CONNECT)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_max_header_list_size(1 << 20)
        .tcp_keepalive(Some(Duration::from_secs(30))))
}

/// Tries until a plugin answers that speaks our version, at the latest until `deadline`.
pub(super) async fn wait_until_ready(
    name: &str,
    endpoint: &Endpoint,
    deadline: Instant,
) -> Result<Channel, NotReady> {
    let mut pause = Duration::from_millis(5);
    let mut last = String::from("it did not answer");
    loop {
        match timeout_at(deadline, connect(name, endpoint)).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(NotReady::Silent(words))) => last = words,
            Ok(Err(refused)) => return Err(refused),
            Err(_) => return Err(NotReady::Silent(last)),
        }
        if Instant::now() + pause >= deadline {
            return Err(NotReady::Silent(last));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// One attempt.
pub(super) async fn connect(name: &str, endpoint: &Endpoint) -> Result<Channel, NotReady> {
    let silent = |words: String| {
        if is_no_grpc(&words) { NotReady::Refused(no_grpc(name)) } else { NotReady::Silent(words) }
    };
    let channel = endpoint.connect().await.map_err(|e| silent(chain(&e)))?;
    let versions = versions(&channel).await.map_err(|status| {
        if is_broken_connection(&status) {
            silent(chain(&status))
        } else {
            NotReady::Refused(status_error(name, &status, str::to_owned))
        }
    })?;
    if versions.contains(&VERSION) {
        return Ok(channel);
    }
    Err(NotReady::Refused(too_old(name, &versions)))
}

/// Whether what was answered is not HTTP/2: text of an HTTP/1 server, a database or a shell, read
/// as a frame, has a length that none may have.
fn is_no_grpc(words: &str) -> bool {
    ["frame with invalid size", "FRAME_SIZE_ERROR"].iter().any(|sign| words.contains(sign))
}

fn no_grpc(name: &str) -> Error {
    Error::config("What answers is no plugin: it does not speak gRPC")
        .context("plugin", name)
        .hint("See that `path` names a plugin of CloudQuery's protocol v3, or where one listens")
}

/// Runs the start of plugin `name`, and says once that it takes long.
pub(super) async fn patiently<T>(name: &str, start: impl Future<Output = T>) -> T {
    mentioned(name, MENTION, start).await
}

async fn mentioned<T>(name: &str, after: Duration, start: impl Future<Output = T>) -> T {
    let mut start = std::pin::pin!(start);
    if let Ok(outcome) = timeout(after, &mut start).await {
        return outcome;
    }
    tracing::warn!(plugin = name, "waiting for the plugin to answer");
    start.await
}

async fn versions(channel: &Channel) -> Result<Vec<i32>, tonic::Status> {
    let mut new = v1::discovery_client::DiscoveryClient::new(channel.clone());
    match new.get_versions(v1::get_versions::Request {}).await {
        Ok(response) => return Ok(response.into_inner().versions),
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => return Err(status),
    }
    let mut old = v0::discovery_client::DiscoveryClient::new(channel.clone());
    match old.get_versions(v0::get_versions::Request {}).await {
        Ok(response) => {
            let words = response.into_inner().versions;
            Ok(words.iter().filter_map(|v| v.trim_start_matches('v').parse().ok()).collect())
        }
        // Before discovery there were only the versions 0 and 1.
        Err(status) if status.code() == Code::Unimplemented => Ok(vec![0, 1]),
        Err(status) => Err(status),
    }
}

fn too_old(name: &str, versions: &[i32]) -> Error {
    let spoken = match versions {
        [] => "no protocol that it names".to_owned(),
        list => {
            let list: Vec<String> = list.iter().map(|v| format!("v{v}")).collect();
            format!("only protocol {}", list.join(", "))
        }
    };
    Error::unsupported(format!("The plugin speaks {spoken}; highwater runs v{VERSION}"))
        .context("plugin", name)
        .hint("Take a newer version of the plugin: every one made since 2023 speaks v3")
}

/// The words of an error and its causes: the outermost says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    super::said(&words, 300)
}

#[cfg(test)]
#[path = "../../../process/src/heard.rs"]
mod heard;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::heard::heard;
    use super::*;

    #[test]
    fn a_start_that_takes_long_is_mentioned_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ((), seen) = heard(|| {
            let short = mentioned("short", Duration::from_secs(100), async { 1 });
            assert_eq!(runtime.block_on(short), 1);
            let (_sender, receiver) = tokio::sync::oneshot::channel::<()>();
            let long = async {
                let _ = timeout(Duration::from_millis(20), receiver).await;
                2
            };
            assert_eq!(runtime.block_on(mentioned("long", Duration::ZERO, long)), 2);
        });
        assert_eq!(
            seen,
            ["highwater_cloudquery::host::ready WARN message=waiting for the plugin to answer \
              plugin=\"long\""]
        );
    }

    #[test]
    fn only_what_is_no_http2_is_no_grpc() {
        assert!(is_no_grpc("transport error: http2 error: frame with invalid size"));
        assert!(!is_no_grpc("transport error: connection refused"));
    }
}
