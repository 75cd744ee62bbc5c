//! Reaching the server: hosts in their order, the socket's settings, encryption, the log-in.
//!
//! What the driver does by itself is done here, because the stream has to come back from it
//! ([`super::stream::Lent`]); the log-in is the driver's.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use highwater_core::Error;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::stream::{AsItIs, Lent, Stream};
use crate::tls::{self, TlsLevel, TlsSettings};

/// Why there is no connection.
pub(crate) enum Failure {
    /// The server's words, or the driver's.
    Driver(tokio_postgres::Error),
    /// Nobody answers there.
    Unreachable(io::Error),
    /// There is no encryption, or none that can be trusted.
    Encryption(String),
    /// What was configured cannot be used.
    Setup(Error),
}

/// A connection whose stream can be taken back.
pub(crate) struct Dialled {
    pub client: Client,
    pub connection: Connection<Lent, Lent>,
    pub lent: Lent,
}

enum Place {
    Name(String),
    Address(IpAddr),
    Folder(PathBuf),
}

/// Connects to the first server that lets us in.
///
/// # Errors
/// Why the last one did not.
pub(crate) async fn dial(
    config: &Config,
    settings: &TlsSettings,
    encrypted: bool,
) -> Result<Dialled, Failure> {
    let mut tls = match encrypted && settings.level != TlsLevel::Disable {
        true => Some(tls::connector(settings).map_err(Failure::Setup)?),
        false => None,
    };
    let mut last = None;
    for (place, name, port) in places(config)? {
        let addresses = match place {
            Place::Folder(folder) => {
                match with_timeout(config, UnixStream::connect(socket_file(folder, port))).await {
                    Ok(socket) => match log_in(config, Stream::Unix(socket)).await {
                        Ok(dialled) => return Ok(dialled),
                        Err(failure) => last = Some(failure),
                    },
                    Err(error) => last = Some(Failure::Unreachable(error)),
                }
                continue;
            }
            Place::Address(address) => vec![address],
            Place::Name(host) => match resolve(config, &host, port).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = Some(Failure::Unreachable(error));
                    continue;
                }
            },
        };
        for address in addresses {
            let name = name.clone().unwrap_or_else(|| address.to_string());
            let level = settings.level;
            match over_tcp(config, address, port, tls.as_mut().map(|tls| (tls, level, name))).await
            {
                Ok(dialled) => return Ok(dialled),
                Err(failure) => last = Some(failure),
            }
        }
    }
    Err(last.unwrap_or_else(|| Failure::Unreachable(no_address())))
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "could not resolve any addresses")
}

fn socket_file(folder: PathBuf, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

/// Where to connect to, with the name that a certificate has to have, and the port.
fn places(config: &Config) -> Result<Vec<(Place, Option<String>, u16)>, Failure> {
    let (hosts, addresses, ports) =
        (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    let differ = |given: usize| given > 0 && given != count;
    if count == 0 || differ(hosts.len()) || differ(addresses.len()) {
        return Err(Failure::Setup(
            Error::config("The connection string has not one `host` for each `hostaddr`")
                .context("key", "connection_string"),
        ));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Failure::Setup(
            Error::config("The connection string has not one port for each host")
                .context("key", "connection_string"),
        ));
    }
    let mut places = Vec::with_capacity(count);
    for index in 0..count {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        let name = match hosts.get(index) {
            Some(Host::Tcp(name)) => Some(name.clone()),
            _ => None,
        };
        let place = match (addresses.get(index), hosts.get(index)) {
            (Some(address), _) => Place::Address(*address),
            (None, Some(Host::Tcp(name))) => Place::Name(name.clone()),
            (None, Some(Host::Unix(folder))) => Place::Folder(folder.clone()),
            (None, None) => continue,
        };
        places.push((place, name, port));
    }
    shuffle(config, &mut places);
    Ok(places)
}

async fn resolve(config: &Config, host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    shuffle(config, &mut addresses);
    if addresses.is_empty() { Err(no_address()) } else { Ok(addresses) }
}

/// Brings the items into a random order, where that is configured.
fn shuffle<T>(config: &Config, items: &mut [T]) {
    if config.get_load_balance_hosts() != LoadBalanceHosts::Random {
        return;
    }
    let random = RandomState::new();
    for index in (1..items.len()).rev() {
        let other = random.hash_one(index) % (index as u64 + 1);
        items.swap(index, other as usize);
    }
}

async fn with_timeout<T>(
    config: &Config,
    connect: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match config.get_connect_timeout() {
        Some(limit) => tokio::time::timeout(*limit, connect).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"))
        }),
        None => connect.await,
    }
}

async fn over_tcp(
    config: &Config,
    address: IpAddr,
    port: u16,
    tls: Option<(&mut MakeRustlsConnect, TlsLevel, String)>,
) -> Result<Dialled, Failure> {
    let connect = async {
        let socket = with_timeout(config, TcpStream::connect((address, port))).await?;
        prepare(config, &socket)?;
        Ok(socket)
    };
    let socket = connect.await.map_err(Failure::Unreachable)?;
    let stream = match tls {
        Some((tls, level, name)) => {
            let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
            encrypt(socket, tls, level, &name, direct).await?
        }
        None => Stream::Tcp(socket),
    };
    log_in(config, stream).await
}

fn prepare(config: &Config, socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

/// Length and code of an SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

async fn encrypt(
    mut socket: TcpStream,
    tls: &mut MakeRustlsConnect,
    level: TlsLevel,
    name: &str,
    direct: bool,
) -> Result<Stream, Failure> {
    if !direct {
        let asked = async {
            socket.write_all(&SSL_REQUEST).await?;
            socket.read_u8().await
        };
        let answer = asked.await.map_err(Failure::Unreachable)?;
        if answer != b'S' {
            return match level {
                TlsLevel::Disable | TlsLevel::Prefer => Ok(Stream::Tcp(socket)),
                _ => Err(Failure::Encryption("server does not support TLS".to_owned())),
            };
        }
    }
    let Ok(connect) = MakeTlsConnect::<TcpStream>::make_tls_connect(tls, name);
    match connect.connect(socket).await {
        Ok(encrypted) => Ok(Stream::Tls(Box::new(encrypted))),
        Err(error) => Err(Failure::Encryption(error.to_string())),
    }
}

async fn log_in(config: &Config, stream: Stream) -> Result<Dialled, Failure> {
    // The driver is to ask for nothing: `AsItIs` gives it the stream at once.
    let mut config = config.clone();
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    let lent = Lent::new(stream);
    let (client, mut connection) =
        config.connect_raw(lent.clone(), AsItIs).await.map_err(Failure::Driver)?;
    lent.is_logged_in();
    let wanted = config.get_target_session_attrs();
    if wanted != TargetSessionAttrs::Any {
        let is_read_only = is_read_only(&client, &mut connection).await?;
        let refused = |what: &str| {
            Failure::Unreachable(io::Error::new(io::ErrorKind::PermissionDenied, what))
        };
        match wanted {
            TargetSessionAttrs::ReadWrite if is_read_only => {
                return Err(refused("database does not allow writes"));
            }
            TargetSessionAttrs::ReadOnly if !is_read_only => {
                return Err(refused("database is not read only"));
            }
            _ => {}
        }
    }
    Ok(Dialled { client, connection, lent })
}

async fn is_read_only(
    client: &Client,
    connection: &mut Connection<Lent, Lent>,
) -> Result<bool, Failure> {
    let messages = tokio::select! {
        messages = client.simple_query("SHOW transaction_read_only") => messages,
        ended = connection => {
            let closed = || io::Error::from(io::ErrorKind::ConnectionReset);
            return Err(match ended {
                Err(error) => Failure::Driver(error),
                Ok(()) => Failure::Unreachable(closed()),
            });
        }
    };
    let messages = messages.map_err(Failure::Driver)?;
    Ok(messages
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("on"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_have_their_own_addresses_and_ports() {
        let places = |text: &str| {
            let found = places(&config(text)).unwrap_or_else(|_| panic!("{text}"));
            let words = found.into_iter().map(|(place, name, port)| {
                let place = match place {
                    Place::Name(name) => name,
                    Place::Address(address) => format!("at {address}"),
                    Place::Folder(folder) => folder.display().to_string(),
                };
                format!("{place} {} {port}", name.unwrap_or_default())
            });
            words.collect::<Vec<_>>()
        };
        assert_eq!(places("host=a,/run port=1,2"), ["a a 1", "/run  2"]);
        assert_eq!(places("host=a,b port=7"), ["a a 7", "b b 7"]);
        assert_eq!(places("host=a hostaddr=10.0.0.1"), ["at 10.0.0.1 a 5432"]);
        assert_eq!(places("hostaddr=::1"), ["at ::1  5432"]);
    }

    #[test]
    fn numbers_that_differ_are_refused() {
        for text in ["host=a,b hostaddr=10.0.0.1", "host=a,b port=1,2,3", "user=me"] {
            assert!(matches!(places(&config(text)), Err(Failure::Setup(_))), "{text}");
        }
    }

    #[test]
    fn a_random_order_loses_nobody() {
        let mut items: Vec<u32> = (0..50).collect();
        shuffle(&config("host=a load_balance_hosts=random"), &mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
