//! The state proxy: what a source plugin takes for the backend that keeps its cursors.
//!
//! A plugin moves its cursor while its rows are still on their way: in its own queues, in ours, in
//! a destination's transaction. A backend that made the cursor durable at once would lose those
//! rows for good whenever something dies in between. So the plugin is given this server instead
//! of the backend. It answers from what was committed, holds what the plugin writes, and makes
//! nothing durable: the source asks for what is held when the plugin's stream has ended well, and
//! the engine commits it with the rows.
//!
//! | module | what |
//! |---|---|
//! | [`book`] | the rows: committed and held |
//! | [`service`] | the calls |

mod book;
mod service;

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::{Error, Result};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;

pub use book::{Received, StateRow, StateRows, received};

use crate::host::MESSAGE_BYTES;
use crate::proto::discovery::v1::discovery_server::DiscoveryServer;
use crate::proto::plugin::plugin_server::PluginServer;
use book::Book;
use service::{Service, Versions};

/// How long a plugin that asks for its cursors waits for the read to begin.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A Unix socket's path may not be longer than this, with its final NUL.
const SOCKET_PATH_BYTES: usize = 104;

/// Where the proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On a socket in a folder that only this user may enter.
    Unix,
    /// On a free port of this address, for plugins that cannot use a socket.
    Tcp(IpAddr),
}

/// A server that stands for the state table of one source, for one run. It ends when it is
/// dropped.
#[derive(Debug)]
pub struct StateProxy {
    connection: String,
    shared: Arc<Shared>,
    /// Ends the server when it is dropped.
    _end: oneshot::Sender<()>,
    /// Holds the socket.
    _folder: Option<TempDir>,
}

#[derive(Debug)]
struct Shared {
    table: String,
    patience: Duration,
    book: watch::Sender<Book>,
}

impl StateProxy {
    /// Starts the server for the state table of that name. A plugin that reads or writes before
    /// [`StateProxy::begin`] waits for it, at most `patience`.
    ///
    /// # Errors
    /// `Transient` when there is nowhere to listen.
    pub async fn start(table: &str, listen: Listen, patience: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            table: table.to_owned(),
            patience,
            book: watch::Sender::new(Book::default()),
        });
        let service = PluginServer::new(Service { shared: Arc::clone(&shared) })
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let router =
            Server::builder().add_service(service).add_service(DiscoveryServer::new(Versions));
        let (end, ended) = oneshot::channel();
        let folder = match listen {
            Listen::Unix => Some(folder()?),
            Listen::Tcp(_) => None,
        };
        let address = match listen {
            Listen::Tcp(address) => address,
            Listen::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let path = folder.as_ref().map(|folder| folder.path().join("state.sock"));
        let connection = match path.filter(|path| path.as_os_str().len() < SOCKET_PATH_BYTES) {
            Some(path) => {
                let listener = UnixListener::bind(&path).map_err(nowhere)?;
                tokio::spawn(serve(router, UnixListenerStream::new(listener), ended));
                format!("unix://{}", path.display())
            }
            None => {
                let listener = TcpListener::bind((address, 0)).await.map_err(nowhere)?;
                let address = listener.local_addr().map_err(nowhere)?;
                tokio::spawn(serve(router, TcpListenerStream::new(listener), ended));
                address.to_string()
            }
        };
        Ok(Self { connection, shared, _end: end, _folder: folder })
    }

    /// Where it listens, as plugins write it: `unix:///path` or `address:port`.
    pub fn connection(&self) -> &str {
        &self.connection
    }

    /// The read begins: `committed` is what the state table holds, and nothing is held yet.
    pub fn begin(&self, committed: StateRows) {
        self.shared.book.send_modify(|book| book.begin(committed));
    }

    /// The rows that the plugin has changed and that were not settled: what is not committed.
    pub fn held(&self) -> StateRows {
        self.shared.book.borrow().held()
    }

    /// Takes rows that came another way than through the server, and returns which of them are
    /// new. They are held until they are settled.
    pub fn hold(&self, rows: Vec<Received>) -> StateRows {
        let mut changed = StateRows::default();
        self.shared.book.send_modify(|book| changed = book.hold(rows));
        changed
    }

    /// The rows are on their way to their commit: they are held no longer.
    pub fn settle(&self, rows: &StateRows) {
        self.shared.book.send_modify(|book| book.settle(rows));
    }
}

fn folder() -> Result<TempDir> {
    let only_us = Permissions::from_mode(0o700);
    let mut folder = tempfile::Builder::new();
    folder.prefix("highwater-").permissions(only_us).tempdir().map_err(nowhere)
}

fn nowhere(error: std::io::Error) -> Error {
    Error::transient("There is nowhere to listen for a plugin that keeps its cursors")
        .caused_by(error)
}

async fn serve<L, C, E>(router: Router, listener: L, ended: oneshot::Receiver<()>)
where
    L: tokio_stream::Stream<Item = Result<C, E>>,
    C: tokio::io::AsyncRead
        + tokio::io::AsyncWrite
        + tonic::transport::server::Connected
        + Unpin
        + Send
        + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let end = async {
        // The other end is never used: it is dropped.
        let _ = ended.await;
    };
    if let Err(error) = router.serve_with_incoming_shutdown(listener, end).await {
        tracing::warn!(%error, "the server for a plugin's cursors ended");
    }
}
