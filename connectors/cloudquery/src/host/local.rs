//! A plugin that is a program on this machine.
//!
//! It is asked to listen on a Unix socket first, as CloudQuery asks. Plugins of the Python SDK
//! cannot: they take the path for a host name and end. Those are started again with a TCP port of
//! the loopback; which way worked is remembered for the path as long as highwater runs.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use highwater_core::{Error, Result};
use highwater_process::{Container, Kind, Launch, LogBook, Pipes, Process};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::PluginSpec;
use super::ready::{NotReady, endpoint, patiently, wait_until_ready};

/// A Unix socket's path may not be longer than this, with its final NUL.
const SOCKET_PATH_BYTES: usize = 104;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Unix,
    Tcp,
}

/// A plugin that runs and answers.
pub(super) struct Started {
    pub process: Process,
    pub book: Arc<LogBook>,
    pub channel: Channel,
    pub connection: String,
}

/// Why a start failed, and whether another network may help.
struct Failure {
    error: Error,
    network_may_matter: bool,
}

/// Starts the program at `path` and waits until it answers.
///
/// # Errors
/// `Config` when there is no program at `path`, or it ends by itself at its start; `Transient` when
/// it is killed or does not answer within the patience of `spec`; `Unsupported` when it speaks
/// another protocol.
pub(super) async fn start(spec: &PluginSpec, path: &Path) -> Result<Started> {
    patiently(&spec.name, start_quietly(spec, path)).await
}

/// All attempts together take no longer than the patience of `spec`.
async fn start_quietly(spec: &PluginSpec, path: &Path) -> Result<Started> {
    let deadline = Instant::now() + spec.patience;
    let known = remembered().get(path).copied();
    let socket = socket_path();
    let unix = known != Some(Network::Tcp) && socket.as_os_str().len() < SOCKET_PATH_BYTES;
    if unix {
        // A plugin that can do this at all does it at once; what imports for a minute is Python.
        let part = Instant::now() + spec.patience / 3;
        match attempt(spec, path, Some(socket), part).await {
            Ok(started) => {
                remembered().insert(path.to_owned(), Network::Unix);
                return Ok(started);
            }
            Err(failure) if !failure.network_may_matter => return Err(failure.error),
            Err(failure) => tracing::debug!(
                plugin = spec.name,
                "no Unix socket, trying TCP: {}",
                failure.error.full_message()
            ),
        }
    }
    let started = match attempt(spec, path, None, deadline).await {
        // Another process took the port between our choice and its start.
        Err(failure) if failure.error.to_string().to_lowercase().contains("in use") => {
            attempt(spec, path, None, deadline).await
        }
        result => result,
    };
    let started = started.map_err(|failure| failure.error)?;
    remembered().insert(path.to_owned(), Network::Tcp);
    Ok(started)
}

fn remembered() -> std::sync::MutexGuard<'static, HashMap<PathBuf, Network>> {
    static NETWORKS: LazyLock<Mutex<HashMap<PathBuf, Network>>> = LazyLock::new(Mutex::default);
    NETWORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn attempt(
    spec: &PluginSpec,
    path: &Path,
    socket: Option<PathBuf>,
    deadline: Instant,
) -> Result<Started, Failure> {
    let is_unix = socket.is_some();
    let final_error = |error| Failure { error, network_may_matter: false };
    let (network, address, connection) = match &socket {
        Some(socket) => {
            let address = socket.display().to_string();
            let connection = format!("unix://{address}");
            ("unix", address, connection)
        }
        None => {
            let address = format!("127.0.0.1:{}", free_port().map_err(final_error)?);
            ("tcp", address.clone(), address)
        }
    };
    let launch = Launch {
        kind: Kind::Plugin,
        pipes: Pipes::default(),
        folder: None,
        name: spec.name.clone(),
        program: path.to_owned(),
        arguments: arguments(spec, network, &address),
        environment: spec.environment.clone(),
        socket,
        container: None,
    };
    let started = run(spec, launch, connection, deadline, is_unix).await;
    started.map_err(|mut failure| {
        failure.network_may_matter &= is_unix;
        failure
    })
}

/// Starts `launch` and waits until it answers at `connection`.
async fn run(
    spec: &PluginSpec,
    launch: Launch,
    connection: String,
    deadline: Instant,
    may_be_tried_again: bool,
) -> Result<Started, Failure> {
    let final_error = |error| Failure { error, network_may_matter: false };
    let endpoint = endpoint(&connection).map_err(final_error)?;
    let by_hand = format!("Run it by hand to see why: {} serve", launch.program.display());
    let book = Arc::new(spec.book());
    // The complaints of a plugin that cannot listen on a socket would only alarm the user.
    if may_be_tried_again {
        book.hold();
    }
    let process = Process::start(launch, Arc::clone(&book)).await.map_err(final_error)?;
    let outcome = tokio::select! {
        biased;
        exit = process.ended() => {
            let error = process.died_at_start(exit).hint(by_hand);
            return Err(Failure { error, network_may_matter: !exit.is_killed() });
        }
        outcome = wait_until_ready(&spec.name, &endpoint, deadline) => outcome,
    };
    match outcome {
        Ok(channel) => {
            book.release();
            Ok(Started { process, book, channel, connection })
        }
        Err(NotReady::Refused(error)) => Err(final_error(error)),
        Err(NotReady::Silent(words)) => {
            let lines = book.last_lines();
            drop(process);
            let mut error = Error::transient("The plugin was started and does not answer")
                .context("plugin", &spec.name)
                .context("waited_seconds", spec.patience.as_secs())
                .context("last attempt", words)
                .hint(by_hand);
            if !lines.is_empty() {
                error = error.context("its last lines", lines);
            }
            Err(Failure { error, network_may_matter: true })
        }
    }
}

/// Runs a container: as a program, but it is the `docker` command that we start.
pub(super) async fn start_container(
    spec: &PluginSpec,
    container: Container,
    arguments: Vec<OsString>,
    connection: String,
) -> Result<Started> {
    let launch = Launch {
        kind: Kind::Plugin,
        pipes: Pipes::default(),
        folder: None,
        name: spec.name.clone(),
        program: container.docker.clone(),
        arguments,
        environment: spec.environment.clone(),
        socket: None,
        container: Some(container),
    };
    let deadline = Instant::now() + spec.patience;
    let started = patiently(&spec.name, run(spec, launch, connection, deadline, false)).await;
    started.map_err(|failure| failure.error)
}

/// The arguments that CloudQuery gives to a plugin.
pub(super) fn arguments(spec: &PluginSpec, network: &str, address: &str) -> Vec<OsString> {
    let mut list: Vec<OsString> = vec!["serve".into()];
    let mut pair = |flag: &str, value: &std::ffi::OsStr| list.extend([flag.into(), value.into()]);
    pair("--log-level", spec.log_level.as_ref());
    pair("--log-format", "json".as_ref());
    pair("--network", network.as_ref());
    pair("--address", address.as_ref());
    // Plugins report their crashes to their makers unless told not to; highwater never calls home.
    list.push("--no-sentry".into());
    let mut pair = |flag: &str, value: &std::ffi::OsStr| list.extend([flag.into(), value.into()]);
    if let Some(license) = &spec.license {
        pair("--license", license.as_ref());
    }
    if let Some(endpoint) = &spec.otel_endpoint {
        pair("--otel-endpoint", endpoint.as_ref());
    }
    if spec.otel_endpoint_insecure {
        list.push("--otel-endpoint-insecure".into());
    }
    list
}

fn socket_path() -> PathBuf {
    let letters = random_letters(16);
    std::env::temp_dir().join(format!("cq-{letters}.sock"))
}

/// `count` random letters, at most 16.
pub(super) fn random_letters(count: usize) -> String {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    bytes.iter().take(count).map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// A port of the loopback that nothing listens on, and that no other plugin was given.
pub(super) fn free_port() -> Result<u16> {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let cause = |e| Error::transient("There is no free port for a plugin").caused_by(e);
    loop {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(cause)?;
        let port = listener.local_addr().map_err(cause)?.port();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        // Plugins come and go: after many of them, a used port is as good as any.
        if given.len() > 10_000 {
            given.clear();
        }
        if given.insert(port) {
            return Ok(port);
        }
    }
}

/// The program that `path` of `registry: local` names.
///
/// # Errors
/// `Config` when it is missing, a directory or not executable, with what to do.
pub(super) fn program(name: &str, path: &str) -> Result<PathBuf> {
    let given = Path::new(path);
    let refused = |message: &str| {
        Error::config(message).context("plugin", name).context("path", given.display())
    };
    if path.is_empty() {
        return Err(refused("The plugin has no path").hint("path: ./my-plugin"));
    }
    // Without a directory the operating system would search PATH; CloudQuery does not.
    let absolute = std::path::absolute(given)
        .map_err(|e| refused("The path of the plugin cannot be resolved").caused_by(e))?;
    let Ok(metadata) = std::fs::metadata(&absolute) else {
        return found_for_this_machine(&absolute).ok_or_else(|| missing(path, refused));
    };
    if metadata.is_dir() {
        return Err(refused("The path of the plugin is a directory")
            .hint("Name the program itself, for example `path: ./my-plugin/main`"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        let hint = if absolute.extension().is_some_and(|e| e == "py" || e == "js" || e == "mjs") {
            let runs = if path.ends_with("py") { "python3" } else { "node" };
            format!(
                "Make an executable file with the two lines `#!/bin/sh` and \
                 `exec {runs} {} \"$@\"`, and name that file",
                absolute.display()
            )
        } else {
            format!("chmod +x {}", absolute.display())
        };
        return Err(refused("The plugin is not executable").hint(hint));
    }
    Ok(absolute)
}

/// In a cache that machines of several kinds share, the program lies one directory deeper.
fn found_for_this_machine(path: &Path) -> Option<PathBuf> {
    let deeper = path.parent()?.join(super::download::target()).join(path.file_name()?);
    deeper.is_file().then_some(deeper)
}

fn missing(path: &str, refused: impl Fn(&str) -> Error) -> Error {
    let with_arguments =
        path.split_once(' ').is_some_and(|(program, _)| Path::new(program).is_file());
    refused("There is no plugin at this path").hint(if with_arguments {
        "A path cannot hold arguments: put the whole command into an executable script".to_owned()
    } else {
        match std::env::current_dir() {
            Ok(current) => format!("Relative paths start at {}", current.display()),
            Err(_) => "Give an absolute path".to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::{Registry, Role};

    #[test]
    fn the_arguments_are_cloudquerys() {
        let mut spec = PluginSpec::new("p", Role::Source, Registry::Local, "./p");
        let words = |spec: &PluginSpec| {
            let list = arguments(spec, "unix", "/tmp/cq-x.sock");
            list.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let start =
            "serve --log-level info --log-format json --network unix --address /tmp/cq-x.sock";
        assert_eq!(words(&spec), format!("{start} --no-sentry"));
        spec.license = Some("l.lic".into());
        spec.otel_endpoint = Some("localhost:4318".to_owned());
        spec.otel_endpoint_insecure = true;
        assert_eq!(
            words(&spec),
            format!(
                "{start} --no-sentry --license l.lic --otel-endpoint localhost:4318 \
                 --otel-endpoint-insecure"
            )
        );
    }

    #[test]
    fn a_path_must_name_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("main.py"), "").unwrap();
        std::fs::write(at("binary"), "").unwrap();
        let hint = |path: &str| {
            let error = program("p", path).unwrap_err();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Config);
            (error.message().to_owned(), error.hint_text().unwrap().to_owned())
        };
        assert!(hint("").0.contains("no path"));
        assert!(hint(&at("nothing")).1.starts_with("Relative paths start at /"));
        assert!(hint(&at("")).0.contains("is a directory"));
        assert!(hint(&at("main.py")).1.contains("exec python3"));
        assert_eq!(hint(&at("binary")).1, format!("chmod +x {}", at("binary")));
        assert!(hint(&format!("{} serve", at("binary"))).1.contains("cannot hold arguments"));

        // A relative path is resolved, and PATH is not searched.
        assert!(hint("sh").0.contains("There is no plugin"));
        std::fs::set_permissions(at("binary"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(program("p", &at("binary")).unwrap(), Path::new(&at("binary")));

        let deep = folder.path().join(crate::host::download::target());
        std::fs::create_dir(&deep).unwrap();
        std::fs::write(deep.join("plugin"), "").unwrap();
        assert_eq!(program("p", &at("plugin")).unwrap(), deep.join("plugin"));
    }

    #[test]
    fn ports_and_names_do_not_repeat() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        let name = socket_path();
        let name = name.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("cq-") && name.ends_with(".sock") && name.len() == 24, "{name}");
        assert_ne!(socket_path(), socket_path());
    }
}
