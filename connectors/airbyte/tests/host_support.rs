//! What the tests of the host share: small programs, and what is true of processes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_airbyte::host::{Connector, ConnectorSpec, Role, Running};
use highwater_airbyte::protocol::{
    AirbyteStream, ConfiguredCatalog, ConfiguredStream, DestinationSyncMode, Message, SyncMode,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a program `connector`, and the settings for it.
pub struct Place {
    pub folder: TempDir,
    pub spec: ConnectorSpec,
}

/// Answers `spec` with a secret called `pin`, and for all else does `rest`; `$1` is the command,
/// `$3` the file of settings.
pub fn connector(rest: &str) -> Place {
    script(&format!(
        r#"[ "$1" != spec ] || {{ echo '{SPEC}'; exit 0; }}
{rest}"#
    ))
}

const SPEC: &str = r#"{"type":"SPEC","spec":{"connectionSpecification":{"type":"object","properties":{"pin":{"type":"string","airbyte_secret":true}}},"protocol_version":"0.18.0"}}"#;

/// A connector that is the shell script `body`.
pub fn script(body: &str) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let program = executable(folder.path(), "connector", &format!("#!/bin/sh\n{body}\n"));
    let mut spec = ConnectorSpec::new("shop", Role::Source, program.display().to_string());
    spec.cache_dir = folder.path().join("cache");
    spec.config = json!({"pin": "not-a-name-of-a-secret", "host": "example"});
    Place { folder, spec }
}

pub fn executable(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

impl Place {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn connector(&self) -> Connector {
        Connector::new(self.spec.clone()).unwrap()
    }

    pub async fn read(&self) -> Running {
        self.connector().read(&catalog(), &[]).await.unwrap()
    }
}

pub fn catalog() -> ConfiguredCatalog {
    let stream = AirbyteStream { name: "users".to_owned(), ..AirbyteStream::default() };
    let stream = ConfiguredStream::new(stream, SyncMode::FullRefresh, DestinationSyncMode::Append);
    ConfiguredCatalog { streams: vec![stream] }
}

/// Reads to the end: the number of records, the other messages.
pub async fn drain(running: &mut Running) -> (usize, Vec<Message>) {
    let (mut records, mut others) = (0, Vec::new());
    while let Some(piece) = running.lines().await.unwrap() {
        for line in piece.split(|&b| b == b'\n') {
            if line.starts_with(br#"{"type":"RECORD""#) {
                records += 1;
            } else {
                others.extend(running.other(line).unwrap());
            }
        }
    }
    (records, others)
}

pub fn is_alive(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A line of JSON as `echo` of a shell script can print it.
pub fn echo(line: &Value) -> String {
    let text = line.to_string();
    assert!(!text.contains('\''), "{text}");
    format!("printf '%s\\n' '{text}'\n")
}
