//! A TCP proxy in front of a PostgreSQL server that breaks connections on request.
//!
//! It reads the protocol far enough to know a COMMIT from other messages, so that it can do what
//! finds most defects of a commit protocol: let the server commit and keep the reply
//! ([`Fault::LoseCommitReply`]).
//!
//! ```no_run
//! use highwater_testkit::{postgres::Postgres, proxy::{Fault, Proxy}};
//!
//! let database = Postgres::shared().create_database();
//! let proxy = Proxy::start(Postgres::shared().port());
//! proxy.inject(Fault::LoseCommitReply { nth: 2 });
//! let url = proxy.url(database.name()); // give this to the client
//! assert_eq!(proxy.fired(), 0);
//! ```
//!
//! TLS is refused (a client with `sslmode=prefer` goes on without). The proxy has a thread of its
//! own and works with blocking tests and child processes too.

mod connection;
mod protocol;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::postgres::SUPERUSER;

/// Something that goes wrong once. Connections of the proxy share the counts; they start when the
/// fault is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The `nth` COMMIT (from 1) is carried out by the server; then both sides are cut before the
    /// client hears of it.
    LoseCommitReply {
        /// Which one, from 1.
        nth: u64,
    },
    /// Both sides are cut when the client sends its `nth` COMMIT; the server never sees it.
    LoseCommit {
        /// Which one, from 1.
        nth: u64,
    },
    /// The connection is reset once this many bytes from the server were passed on.
    CutAfterServerBytes(u64),
    /// The connection is reset once this many bytes from the client were passed on.
    CutAfterClientBytes(u64),
}

/// A running proxy. Dropping it cuts all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    control: Arc<Control>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 in front of `server_port` of 127.0.0.1.
    pub fn start(server_port: u16) -> Self {
        let control = Arc::new(Control::default());
        let (stop, stopped) = oneshot::channel();
        let (port_sender, port_receiver) = std::sync::mpsc::channel();
        let shared = Arc::clone(&control);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the proxy");
            runtime.block_on(async {
                let listener =
                    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
                let address = listener.local_addr().expect("a bound address");
                port_sender.send(address.port()).expect("the starter waits for the port");
                let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server_port));
                tokio::select! {
                    () = accept(&listener, server, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        let port = port_receiver.recv().expect("the proxy listens");
        Self { port, control, stop: Some(stop), thread: Some(thread) }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database behind the proxy, for the superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Lets something go wrong, once.
    pub fn inject(&self, fault: Fault) {
        self.control.faults().push(Armed { fault, seen: 0 });
    }

    /// How many injected faults have happened. Zero at the end of a test means that it has shown
    /// nothing.
    pub fn fired(&self) -> u64 {
        self.control.fired.load(Ordering::SeqCst)
    }

    /// How many COMMITs clients have sent.
    pub fn commits(&self) -> u64 {
        self.control.commits.load(Ordering::SeqCst)
    }

    /// Resets every open connection now.
    pub fn cut(&self) {
        self.control.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.control.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Holds back every message for this long, in both directions.
    pub fn delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).expect("a delay of a test is short");
        self.control.delay_micros.store(micros, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &TcpListener, server: SocketAddr, control: &Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        if control.refusing.load(Ordering::SeqCst) {
            continue;
        }
        tokio::spawn(connection::serve(client, server, Arc::clone(control)));
    }
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
}

/// What the test and the connections share.
#[derive(Debug, Default)]
struct Control {
    faults: Mutex<Vec<Armed>>,
    fired: AtomicU64,
    commits: AtomicU64,
    cuts: watch::Sender<u64>,
    refusing: AtomicBool,
    delay_micros: AtomicU64,
}

/// What becomes of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommitFate {
    Forward,
    LoseReply,
    Lose,
}

impl Control {
    fn faults(&self) -> std::sync::MutexGuard<'_, Vec<Armed>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a COMMIT and says what becomes of it.
    fn commit(&self) -> CommitFate {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut fate = CommitFate::Forward;
        self.faults().retain_mut(|armed| {
            let (nth, then) = match armed.fault {
                Fault::LoseCommitReply { nth } => (nth, CommitFate::LoseReply),
                Fault::LoseCommit { nth } => (nth, CommitFate::Lose),
                _ => return true,
            };
            armed.seen += 1;
            if armed.seen == nth {
                fate = then;
            }
            armed.seen < nth
        });
        if fate == CommitFate::Lose {
            self.fire();
        }
        fate
    }

    /// How many of the next `bytes` may pass; fewer than asked for: cut after them.
    fn allowance(&self, bytes: usize, from_server: bool) -> usize {
        let mut allowed = bytes;
        self.faults().retain_mut(|armed| {
            let limit = match armed.fault {
                Fault::CutAfterServerBytes(limit) if from_server => limit,
                Fault::CutAfterClientBytes(limit) if !from_server => limit,
                _ => return true,
            };
            let left = limit - armed.seen;
            armed.seen = limit.min(armed.seen + bytes as u64);
            if left > bytes as u64 {
                return true;
            }
            allowed = allowed.min(left as usize);
            self.fire();
            false
        });
        allowed
    }

    fn fire(&self) {
        self.fired.fetch_add(1, Ordering::SeqCst);
    }

    async fn wait_delay(&self) {
        let micros = self.delay_micros.load(Ordering::SeqCst);
        if micros > 0 {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}
