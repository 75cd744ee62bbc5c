//! The socket that a plugin listens on, and its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::{Error, Result};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};
use tower::util::MapRequestLayer;

use super::given_up::watched;
use super::service::Service;
use super::{Served, stopped};
use crate::host::MESSAGE_BYTES;
use crate::proto::discovery::v1;
use crate::proto::plugin::plugin_server::PluginServer;

/// How long calls may take to notice that the server ends.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`; port 0 takes a free one.
    Tcp(String),
    /// A socket file, which is made and removed.
    Unix(PathBuf),
}

impl Address {
    /// `--network` and `--address`. A socket is a bare path, as CloudQuery writes it, or
    /// `unix:path` and `unix:///path`.
    ///
    /// # Errors
    /// `Config` when they do not say where.
    pub fn parse(network: &str, address: &str) -> Result<Self> {
        let path =
            address.strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path));
        let path = path.or_else(|| (network == "unix").then_some(address));
        match path {
            // The default address of TCP would become a file in the working directory.
            Some("localhost:7777") => Err(Error::config("--network unix needs --address PATH")
                .hint("--network unix --address /tmp/plugin.sock")),
            Some("") => Err(Error::config("No socket is named").hint("--address /tmp/plugin.sock")),
            Some(path) => Ok(Self::Unix(path.into())),
            None if network == "tcp" => Ok(Self::Tcp(address.to_owned())),
            None => Err(Error::config("There is no such network")
                .context("network", network)
                .hint("--network tcp or --network unix")),
        }
    }
}

/// Serves until `stop` is set. What streams have sent by then and is not committed, is not.
///
/// # Errors
/// `Config` when the address cannot be listened on; `Internal` when the server breaks.
pub async fn serve(
    served: Arc<dyn Served>,
    address: &Address,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut ended = stop.clone();
    let signal = async move { stopped(&mut ended).await };
    let router = router(served, stop.clone());
    let serving = async {
        match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(|e| refused(address, e))?;
                let port = listener.local_addr().map_err(|e| refused(address, e))?;
                tracing::info!(address = %port, "plugin is listening");
                router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), signal).await
            }
            Address::Unix(path) => {
                let (listener, _file) = bind(path).await?;
                tracing::info!(address = %path.display(), "plugin is listening");
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), signal).await
            }
        }
        .map_err(|e| Error::internal("The server broke").caused_by(e))
    };
    let mut ended = stop;
    let too_late = async {
        stopped(&mut ended).await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        served = serving => served,
        () = too_late => Ok(()),
    }
}

type Watch = fn(Request<Body>) -> Request<Body>;

fn router(
    served: Arc<dyn Served>,
    stop: watch::Receiver<bool>,
) -> Router<Stack<MapRequestLayer<Watch>, Identity>> {
    let service = PluginServer::new(Service::new(served, stop))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true)
        .layer(MapRequestLayer::new(watched as Watch))
        .add_service(service)
        .add_service(v1::discovery_server::DiscoveryServer::new(Discovery))
}

/// The socket, and the guard that removes its file. A file that nobody listens on is of a plugin
/// that was killed.
async fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let refused = |e| refused(&path.display().to_string(), e);
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let is_dead = UnixStream::connect(path)
                .await
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
            if !is_dead {
                return Err(refused(error));
            }
            std::fs::remove_file(path).map_err(refused)?;
            UnixListener::bind(path).map_err(refused)?
        }
        bound => bound.map_err(refused)?,
    };
    Ok((listener, SocketFile(path.to_owned())))
}

fn refused(address: &str, error: std::io::Error) -> Error {
    Error::config("The plugin cannot listen at its address")
        .context("address", address)
        .hint("--address localhost:0 takes any free port")
        .caused_by(error)
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Discovery;

#[tonic::async_trait]
impl v1::discovery_server::Discovery for Discovery {
    async fn get_versions(
        &self,
        _: tonic::Request<v1::get_versions::Request>,
    ) -> Result<tonic::Response<v1::get_versions::Response>, tonic::Status> {
        Ok(tonic::Response::new(v1::get_versions::Response { versions: vec![3] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_written_in_three_ways() {
        let unix = |path: &str| Address::Unix(path.into());
        for (network, address, wanted) in [
            ("unix", "/tmp/a.sock", unix("/tmp/a.sock")),
            ("unix", "unix:/tmp/a.sock", unix("/tmp/a.sock")),
            ("tcp", "unix:///tmp/a.sock", unix("/tmp/a.sock")),
            ("tcp", "localhost:7777", Address::Tcp("localhost:7777".into())),
        ] {
            assert_eq!(Address::parse(network, address).unwrap(), wanted);
        }
        assert!(Address::parse("udp", "localhost:1").is_err());
        assert!(Address::parse("unix", "").is_err());
        assert!(Address::parse("unix", "localhost:7777").is_err());
    }
}
