//! The command line for a connector, and the private folder of its files.
//!
//! Settings hold secrets, so they are never arguments. They lie in a folder that only we may
//! enter, which is removed when the process ends, also when highwater is killed.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use highwater_core::{Error, Result};
use highwater_process::{Container, Kind, Launch, Pipes};
use tempfile::TempDir;

use super::{ConnectorSpec, Launcher};

/// Where a container has the folder.
const INSIDE: &str = "/data";
/// Variables that are meant for us, not for what runs in a container.
const OURS: [&str; 2] = ["PATH", "HIGHWATER_AIRBYTE_PYTHON"];

/// What to start for `command`; each of `files` is an option and the text of the file that it
/// names: `("config", "{…}")`.
///
/// # Errors
/// `Transient` when the files cannot be written.
pub(super) fn launch(
    spec: &ConnectorSpec,
    launcher: &Launcher,
    command: &str,
    files: &[(&str, String)],
    pipes: Pipes,
) -> Result<Launch> {
    let failed = |e: std::io::Error| {
        Error::transient("The files for the connector cannot be written")
            .context("connector", &spec.name)
            .context("folder", std::env::temp_dir().display())
            .hint("export TMPDIR=/a/folder/with/room")
            .caused_by(e)
    };
    let is_image = matches!(launcher, Launcher::Image { .. });
    let folder = private_folder().map_err(failed)?;
    let written = write_files(folder.path(), files, is_image).map_err(failed)?;
    let (program, mut arguments) = launcher.words();
    let mut container = None;
    if let Launcher::Image { docker, image } = launcher {
        let name = container_name(&spec.name);
        arguments = container_arguments(spec, image, &name, &written);
        let environment = spec.environment.clone();
        container = Some(Container { docker: docker.clone(), name, environment });
    }
    arguments.push(command.into());
    if let Launcher::Manifest { file, .. } = launcher {
        arguments.extend(["--manifest-path".into(), file.into()]);
        let components = launcher.components();
        arguments.extend(
            components.into_iter().flat_map(|file| ["--components-path".into(), file.into()]),
        );
    }
    let seen = if is_image { PathBuf::from(INSIDE) } else { written };
    for (option, _) in files {
        arguments.push(format!("--{option}").into());
        arguments.push(seen.join(format!("{option}.json")).into());
    }
    if launcher.is_python() && spec.is_verbose() {
        arguments.push("--debug".into());
    }
    Ok(Launch {
        kind: Kind::Connector,
        name: spec.name.clone(),
        program,
        arguments,
        environment: spec.environment.clone(),
        pipes,
        socket: None,
        folder: Some(folder),
        container,
    })
}

fn private_folder() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("highwater-airbyte-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
}

/// Writes the files; the folder that they are in. The user in a container is not ours, so there
/// they can be read by everybody who can enter the outer folder: on this machine, only us.
fn write_files(
    folder: &Path,
    files: &[(&str, String)],
    is_image: bool,
) -> std::io::Result<PathBuf> {
    let (folder, mode) = if is_image {
        let inner = folder.join("data");
        std::fs::DirBuilder::new().mode(0o755).create(&inner)?;
        // The mask of this process may have taken rights away.
        std::fs::set_permissions(&inner, Permissions::from_mode(0o755))?;
        (inner, 0o644)
    } else {
        (folder.to_owned(), 0o600)
    };
    for (option, text) in files {
        let path = folder.join(format!("{option}.json"));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(folder)
}

/// A name that Docker allows and nobody else has.
fn container_name(connector: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let name: String = connector.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    format!("highwater-{name}-{}", uuid::Uuid::new_v4().simple())
}

/// Everything between `docker` and the command of the protocol.
fn container_arguments(
    spec: &ConnectorSpec,
    image: &str,
    name: &str,
    folder: &Path,
) -> Vec<OsString> {
    let mut list: Vec<OsString> = ["run", "--rm", "-i", "--name", name].map(OsString::from).into();
    // On Linux the name does not exist by itself; settings use it for what runs on this machine.
    list.extend(["--add-host".into(), "host.docker.internal:host-gateway".into()]);
    let mut volume = folder.as_os_str().to_owned();
    volume.push(format!(":{INSIDE}"));
    list.extend(["-v".into(), volume]);
    // Only the names: docker has the values in its own environment.
    for (key, _) in &spec.environment {
        if !OURS.contains(&key.as_str()) && !key.starts_with("DOCKER_") {
            list.extend(["-e".into(), key.into()]);
        }
    }
    list.push(image.into());
    list
}
