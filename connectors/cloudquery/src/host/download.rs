//! Plugins of CloudQuery's hub: kept where CloudQuery keeps them, so that an existing `.cq` is
//! used, and downloaded when they are missing.
//!
//! A program has its final name only after its archive had the right checksum and the whole of it
//! was written; so what is there can be run, whenever a download was cut off.

mod hub;

use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use highwater_core::secret::Secret;
use highwater_core::{Error, Result};
use tempfile::NamedTempFile;

use super::{PluginSpec, Registry, docker, local};

/// CloudQuery's hub: where it is, and who we are there.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The address of its API.
    pub url: String,
    /// The API key.
    pub key: Option<Secret>,
    /// The team on whose behalf plugins are downloaded.
    pub team: Option<String>,
}

impl Hub {
    /// As `CLOUDQUERY_API_URL`, `CLOUDQUERY_API_KEY` and `CLOUDQUERY_TEAM_NAME` say.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            url: variable("CLOUDQUERY_API_URL")
                .unwrap_or_else(|| "https://api.cloudquery.io".to_owned()),
            key: variable("CLOUDQUERY_API_KEY").map(Secret::new),
            team: variable("CLOUDQUERY_TEAM_NAME"),
        }
    }
}

/// What it took to have a plugin on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// Nothing: it is a local program or runs elsewhere.
    Nothing,
    /// A program from the hub.
    Program {
        /// Where it is.
        path: PathBuf,
        /// Whether it was downloaded just now.
        downloaded: bool,
    },
    /// An image that the Docker engine has.
    Image(String),
}

/// Has the plugin of `spec` ready to be started; needs no network if it is here already.
///
/// # Errors
/// `Config` when there is no such plugin, or the hub does not give it to us; `Transient` when the
/// hub cannot be reached or is busy; `Data` when what it sends has another checksum than it says.
pub async fn install(spec: &PluginSpec) -> Result<Installed> {
    match spec.registry {
        Registry::Grpc => Ok(Installed::Nothing),
        Registry::Local => local::program(&spec.name, &spec.path).map(|_| Installed::Nothing),
        Registry::Docker => {
            docker::ensure_image(spec, &spec.path).await?;
            Ok(Installed::Image(spec.path.clone()))
        }
        Registry::CloudQuery => {
            let mine = spec.clone();
            let task = tokio::task::spawn_blocking(move || from_hub(&mine));
            let found = task.await.map_err(|e| {
                Error::internal("The download of a plugin was broken off").caused_by(e)
            })??;
            if let Installed::Image(image) = &found {
                docker::ensure_image(spec, image).await?;
            }
            Ok(found)
        }
    }
}

/// A plugin of the hub, by all that identifies it.
#[derive(Debug, Clone)]
struct Coordinates {
    team: String,
    kind: String,
    name: String,
    version: String,
}

impl Coordinates {
    fn of(spec: &PluginSpec) -> Result<Self> {
        let refused = |message: &str| {
            Error::config(message).context("plugin", &spec.name).context("path", &spec.path)
        };
        let (team, name) = spec
            .path
            .split_once('/')
            .filter(|(team, name)| is_plain(team) && is_plain(name))
            .ok_or_else(|| {
                refused("The path of a plugin of CloudQuery's hub is not `team/name`")
                    .hint("path: cloudquery/postgresql")
            })?;
        let version = spec.version.as_deref().filter(|v| v.starts_with('v') && is_plain(v));
        let version = version.ok_or_else(|| {
            refused("A plugin of CloudQuery's hub needs a version that starts with `v`")
                .hint("version: v1.2.3")
        })?;
        Ok(Self {
            team: team.to_owned(),
            kind: spec.kind.to_string(),
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }

    /// Where the program is kept, and where older versions of CloudQuery kept it.
    fn places(&self, folder: &Path) -> [PathBuf; 2] {
        let base = folder
            .join("plugins")
            .join(&self.kind)
            .join(&self.team)
            .join(&self.name)
            .join(&self.version);
        [base.join(target()).join("plugin"), base.join("plugin")]
    }

    fn image(&self) -> String {
        let Self { team, kind, name, version } = self;
        format!("{}/{team}/{kind}-{name}:{version}", docker::CLOUDQUERY_REGISTRY)
    }

    fn file_in_archive(&self) -> String {
        format!("plugin-{}-{}-{}", self.name, self.version, target().replace('_', "-"))
    }
}

/// The parts become parts of paths: no separators, and nothing that climbs.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
}

/// This machine, as Go calls it: `linux_amd64`.
pub(super) fn target() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    format!("{system}_{}", processor())
}

fn processor() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn from_hub(spec: &PluginSpec) -> Result<Installed> {
    let plugin = Coordinates::of(spec)?;
    let places = plugin.places(&spec.cq_dir);
    for place in &places {
        if is_for_this_machine(place) {
            return Ok(Installed::Program { path: absolute(place)?, downloaded: false });
        }
    }
    let key = spec.hub.key.as_ref().ok_or_else(|| no_key(spec))?;
    let hub = hub::Client::new(spec, &plugin, key)?;
    if hub.is_image()? {
        return Ok(Installed::Image(plugin.image()));
    }
    let asset = hub.asset()?;
    let [place, _] = places;
    let folder = place.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| disk_error(folder, e))?;
    let archive = temporary(folder)?;
    tracing::info!(plugin = spec.name, path = spec.path, version = plugin.version, "downloading");
    hub.download(&asset, &archive)?;
    unpack(spec, &plugin, archive, &place)?;
    Ok(Installed::Program { path: absolute(&place)?, downloaded: true })
}

/// The error that tells what to do without an API key.
pub(super) fn no_key(spec: &PluginSpec) -> Error {
    Error::config("Downloading a plugin from CloudQuery's hub needs an API key")
        .context("plugin", &spec.name)
        .context("path", &spec.path)
        .hint(
            "export CLOUDQUERY_API_KEY=… or download the program by hand and use \
             `registry: local` with its path",
        )
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| disk_error(path, e))
}

fn disk_error(path: &Path, error: std::io::Error) -> Error {
    Error::config("The folder of plugins cannot be used")
        .context("path", path.display())
        .hint("Name a folder that can be written: --cq-dir DIR")
        .caused_by(error)
}

fn temporary(folder: &Path) -> Result<NamedTempFile> {
    let builder = &mut tempfile::Builder::new();
    builder.prefix(".plugin-").tempfile_in(folder).map_err(|e| disk_error(folder, e))
}

/// Whether there is a program that this machine can run. A folder may be shared by machines of
/// several kinds, and older versions of CloudQuery did not keep their programs apart.
fn is_for_this_machine(path: &Path) -> bool {
    let mut head = [0_u8; 20];
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    if !file.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
        return false;
    }
    if file.read_exact(&mut head).is_err() || !head.starts_with(b"\x7fELF") {
        return true;
    }
    let machine = u16::from_le_bytes([head[18], head[19]]);
    match processor() {
        "amd64" => machine == 62,
        "arm64" => machine == 183,
        _ => true,
    }
}

/// Takes the program out of the archive and gives it its name, last of all.
fn unpack(
    spec: &PluginSpec,
    plugin: &Coordinates,
    mut archive: NamedTempFile,
    place: &Path,
) -> Result<()> {
    let wrong = |message: &str| {
        let error = Error::data(message).context("plugin", &spec.name);
        error.context("version", &plugin.version).hint(hub::BY_HAND)
    };
    archive.rewind().map_err(|e| disk_error(place, e))?;
    let mut zip = zip::ZipArchive::new(archive.as_file())
        .map_err(|e| wrong("What the hub sent is no archive").caused_by(e))?;
    let name = plugin.file_in_archive();
    let mut file = zip.by_name(&name).map_err(|e| {
        wrong("The archive of the hub does not hold the program")
            .context("file", &name)
            .caused_by(e)
    })?;
    let mut program = temporary(place.parent().unwrap_or(Path::new(".")))?;
    std::io::copy(&mut file, &mut program)
        .map_err(|e| wrong("The program cannot be taken out of its archive").caused_by(e))?;
    program
        .as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o755))
        .and_then(|()| program.as_file().sync_all())
        .map_err(|e| disk_error(place, e))?;
    program.persist(place).map_err(|e| disk_error(place, e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::Role;

    fn spec(path: &str, version: Option<&str>) -> PluginSpec {
        let mut spec = PluginSpec::new("p", Role::Destination, Registry::CloudQuery, path);
        spec.version = version.map(str::to_owned);
        spec
    }

    #[test]
    fn a_plugin_is_kept_where_cloudquery_keeps_it() {
        let plugin = Coordinates::of(&spec("acme/sqlite", Some("v1.2.3"))).unwrap();
        let [place, older] = plugin.places(Path::new(".cq"));
        let base = ".cq/plugins/destination/acme/sqlite/v1.2.3";
        assert_eq!(place, Path::new(&format!("{base}/{}/plugin", target())));
        assert_eq!(older, Path::new(&format!("{base}/plugin")));
        assert_eq!(plugin.image(), "docker.cloudquery.io/acme/destination-sqlite:v1.2.3");
        let file = plugin.file_in_archive();
        assert!(file.starts_with("plugin-sqlite-v1.2.3-") && !file.contains('_'), "{file}");
    }

    #[test]
    fn nothing_climbs_out_of_the_folder() {
        for (path, version) in [
            ("sqlite", Some("v1")),
            ("../sqlite", Some("v1")),
            ("acme/..", Some("v1")),
            ("acme/a/b", Some("v1")),
            ("acme/", Some("v1")),
            ("acme/x?y", Some("v1")),
            ("acme/sqlite", None),
            ("acme/sqlite", Some("1.2.3")),
            ("acme/sqlite", Some("v/../../x")),
        ] {
            let error = Coordinates::of(&spec(path, version)).unwrap_err();
            assert_eq!(error.kind(), highwater_core::ErrorKind::Config, "{path} {version:?}");
        }
    }

    #[test]
    fn a_program_for_another_machine_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let at = |bytes: &[u8]| {
            let path = folder.path().join("plugin");
            std::fs::write(&path, bytes).unwrap();
            is_for_this_machine(&path)
        };
        let ours = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut foreign = ours[..64].to_vec();
        if foreign.starts_with(b"\x7fELF") {
            foreign[18] = 8;
            assert!(!at(&foreign));
        }
        assert!(at(&ours[..64]));
        assert!(at(b"#!/bin/sh\n"));
        assert!(!at(b""));
        assert!(!is_for_this_machine(folder.path()));
        assert!(!is_for_this_machine(&folder.path().join("nothing")));
    }
}
