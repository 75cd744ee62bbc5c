//! What `path` leads to: a manifest, an image, a program, or a package of Python.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use highwater_core::{Error, Result};
use serde_json::{Value, json};

use super::ConnectorSpec;
use crate::protocol::SpecMessage;

/// The command that runs low-code manifests, and the package that has it.
const MANIFEST_RUNNER: &str = "source-declarative-manifest";
const MANIFEST_PACKAGE: &str = "airbyte-cdk";
/// A Python, or a virtual environment, whose commands are used too.
const PYTHON: &str = "HIGHWATER_AIRBYTE_PYTHON";

/// How a connector is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launcher {
    /// A program on this machine.
    Program(PathBuf),
    /// A command of a Python package, by a tool that installs it where it keeps such things.
    Package {
        /// `uvx` or `pipx`.
        tool: PathBuf,
        /// The package, with its version if one was asked for: `airbyte-source-faker==7.2.1`.
        package: String,
        /// The command: `source-faker`.
        command: String,
    },
    /// A low-code manifest.
    Manifest {
        /// What runs it.
        runner: Box<Launcher>,
        /// The manifest.
        file: PathBuf,
    },
    /// A container.
    Image {
        /// The `docker` command.
        docker: PathBuf,
        /// The image, with its tag.
        image: String,
    },
}

impl Launcher {
    /// What the path of `spec` leads to. The first of these that fits:
    ///
    /// 1. the file name of a manifest, `….yaml` or `….yml`: it is run by
    ///    `source-declarative-manifest`, with the `components.py` beside it, if there is one;
    /// 2. a file, or a command in `PATH` or beside `HIGHWATER_AIRBYTE_PYTHON` (a Python, or the
    ///    folder of a virtual environment): that program;
    /// 3. the name of an image, `airbyte/source-faker`, or with a registry or a `:tag`: it is run
    ///    by `docker`;
    /// 4. the name of a Python package, `airbyte-source-faker`, or of its command,
    ///    `source-faker`: that command if it is there, else by `uvx`, else by `pipx`.
    ///
    /// # Errors
    /// `Config` when there is no such thing, or nothing to run it with; the hint has a command.
    pub fn find(spec: &ConnectorSpec) -> Result<Self> {
        let path = spec.path.trim();
        if path.is_empty() {
            return Err(refused(spec, "The connector has no path").hint("path: source-faker"));
        }
        let file = Path::new(path);
        if file.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            return manifest(spec, file);
        }
        if path.contains('/') {
            return match std::fs::metadata(file) {
                Ok(metadata) => program(spec, file, &metadata).map(Self::Program),
                Err(_) if is_image(path) => image(spec, path),
                Err(_) => Err(missing_file(spec)),
            };
        }
        if let Some(program) = in_path(spec, path) {
            return Ok(Self::Program(program));
        }
        if path.contains(':') {
            return image(spec, path);
        }
        package(spec, path)
    }

    /// What stands for the version of the connector: what `spec` and `discover` say is known for
    /// as long as this does not change.
    pub(super) fn identity(&self, spec: &ConnectorSpec) -> Value {
        match self {
            Self::Program(path) => json!({ "program": stamp(path), "version": spec.version }),
            Self::Package { package, command, .. } => {
                json!({ "package": package, "command": command })
            }
            Self::Manifest { runner, file } => {
                let components = self.components().map(|file| stamp(&file));
                json!({
                    "manifest": stamp(file), "components": components,
                    "runner": runner.identity(spec),
                })
            }
            Self::Image { image, .. } => json!({ "image": image }),
        }
    }

    /// Whether the identity says all: a package without a version, and an image without a fixed
    /// tag, may be another one tomorrow.
    pub(super) fn is_pinned(&self) -> bool {
        match self {
            Self::Program(_) => true,
            Self::Package { package, .. } => package.contains("=="),
            Self::Manifest { runner, .. } => runner.is_pinned(),
            Self::Image { image, .. } => {
                image.contains('@') || tag(image).is_some_and(|t| t != "latest" && t != "dev")
            }
        }
    }

    /// The program to start, and what stands before the command of the protocol.
    pub(super) fn words(&self) -> (PathBuf, Vec<OsString>) {
        match self {
            Self::Program(path) => (path.clone(), Vec::new()),
            Self::Package { tool, package, command } => {
                let is_uvx = tool.file_name().is_some_and(|name| name == "uvx");
                let words: &[&str] = if is_uvx {
                    &["--quiet", "--from", package, command]
                } else {
                    &["run", "--quiet", "--spec", package, command]
                };
                (tool.clone(), words.iter().map(OsString::from).collect())
            }
            Self::Manifest { runner, .. } => runner.words(),
            Self::Image { docker, .. } => (docker.clone(), Vec::new()),
        }
    }

    /// The settings that a manifest names. What runs manifests says the same of all of them, and
    /// would not tell which settings are secrets.
    pub(super) fn written_spec(&self) -> Option<SpecMessage> {
        let Self::Manifest { file, .. } = self else { return None };
        let text = std::fs::read_to_string(file).ok()?;
        let mut manifest: Value = serde_saphyr::from_str(&text).ok()?;
        let mut spec = manifest.get_mut("spec")?.take();
        let schema = spec.get_mut("connection_specification")?.take();
        let url = spec.get("documentation_url").and_then(Value::as_str).map(str::to_owned);
        schema.is_object().then_some(SpecMessage {
            connection_specification: schema,
            supported_destination_sync_modes: Vec::new(),
            protocol_version: None,
            documentation_url: url,
            rest: serde_json::Map::new(),
        })
    }

    /// The Python file of a manifest's own components, beside it.
    pub(super) fn components(&self) -> Option<PathBuf> {
        let Self::Manifest { file, .. } = self else { return None };
        let components = file.with_file_name("components.py");
        components.is_file().then_some(components)
    }

    /// Whether it is installed when it is run.
    pub(super) fn installs(&self) -> bool {
        match self {
            Self::Package { .. } => true,
            Self::Manifest { runner, .. } => runner.installs(),
            Self::Program(_) | Self::Image { .. } => false,
        }
    }

    /// Whether it is known to be written with the SDK for Python, which knows more flags.
    pub(super) fn is_python(&self) -> bool {
        matches!(self, Self::Package { .. } | Self::Manifest { .. })
    }
}

fn refused(spec: &ConnectorSpec, message: &str) -> Error {
    Error::config(message).context("connector", &spec.name).context("path", &spec.path)
}

fn manifest(spec: &ConnectorSpec, file: &Path) -> Result<Launcher> {
    if !file.is_file() {
        return Err(refused(spec, "There is no manifest at this path").hint(relative_hint()));
    }
    let file = std::path::absolute(file)
        .map_err(|e| refused(spec, "The path of the manifest cannot be resolved").caused_by(e))?;
    let wanted = with_version(MANIFEST_PACKAGE, spec);
    let runner = match in_path(spec, MANIFEST_RUNNER) {
        Some(runner) => Launcher::Program(runner),
        None => by_tool(spec, &wanted, MANIFEST_RUNNER).ok_or_else(|| {
            refused(
                spec,
                "The command `source-declarative-manifest` runs manifests, and is not here",
            )
            .hint(format!(
                "python3 -m venv airbyte && airbyte/bin/pip install {MANIFEST_PACKAGE} && \
                     export {PYTHON}=$PWD/airbyte"
            ))
        })?,
    };
    Ok(Launcher::Manifest { runner: Box::new(runner), file })
}

fn program(spec: &ConnectorSpec, file: &Path, metadata: &std::fs::Metadata) -> Result<PathBuf> {
    if metadata.is_dir() {
        return Err(refused(spec, "The path of the connector is a directory")
            .hint("Name the program itself, for example `path: ./my-connector/main`"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(refused(spec, "The connector is not executable")
            .hint(format!("chmod +x {}", file.display())));
    }
    std::path::absolute(file)
        .map_err(|e| refused(spec, "The path of the connector cannot be resolved").caused_by(e))
}

/// Whether a path that is no file can be an image: it is neither absolute nor relative to a folder
/// by its looks, and has a registry, an organisation or a tag.
fn is_image(path: &str) -> bool {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '@');
    !path.starts_with(['/', '.', '~']) && path.chars().all(allowed) && !path.ends_with('/')
}

/// The tag of an image's name; a registry may have a port.
fn tag(image: &str) -> Option<&str> {
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    name.split_once(':').map(|(_, tag)| tag)
}

fn image(spec: &ConnectorSpec, path: &str) -> Result<Launcher> {
    let docker = in_path(spec, "docker").ok_or_else(|| {
        refused(spec, "The connector is an image, and there is no command `docker`")
            .hint("Install Docker, or use the Python package: path: airbyte-source-faker")
    })?;
    let image = match &spec.version {
        Some(version) if tag(path).is_none() && !path.contains('@') => format!("{path}:{version}"),
        _ => path.to_owned(),
    };
    Ok(Launcher::Image { docker, image })
}

fn package(spec: &ConnectorSpec, path: &str) -> Result<Launcher> {
    let (package, command) = match path.strip_prefix("airbyte-") {
        Some(command) => (path.to_owned(), command.to_owned()),
        None => (format!("airbyte-{path}"), path.to_owned()),
    };
    if let Some(program) = in_path(spec, &command) {
        return Ok(Launcher::Program(program));
    }
    let install = format!(
        "python3 -m venv airbyte && airbyte/bin/pip install {package} && \
         export {PYTHON}=$PWD/airbyte"
    );
    let known = ["source-", "destination-"].iter().any(|start| command.starts_with(start));
    if !known {
        return Err(refused(spec, "There is no such command, and it is no name of a connector")
            .hint("path: ./my-connector, airbyte-source-faker or airbyte/source-faker:7.2.1"));
    }
    by_tool(spec, &with_version(&package, spec), &command).ok_or_else(|| {
        refused(spec, "The connector is not installed, and neither is `uvx` or `pipx` to run it")
            .hint(install)
    })
}

fn with_version(package: &str, spec: &ConnectorSpec) -> String {
    match &spec.version {
        Some(version) => format!("{package}=={version}"),
        None => package.to_owned(),
    }
}

fn by_tool(spec: &ConnectorSpec, package: &str, command: &str) -> Option<Launcher> {
    let tool = in_path(spec, "uvx").or_else(|| in_path(spec, "pipx"))?;
    Some(Launcher::Package { tool, package: package.to_owned(), command: command.to_owned() })
}

/// The executable `name` beside the Python that was named, or in `PATH`.
fn in_path(spec: &ConnectorSpec, name: &str) -> Option<PathBuf> {
    folders(spec).into_iter().map(|folder| folder.join(name)).find_map(|file| {
        let metadata = std::fs::metadata(&file).ok()?;
        let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        if runs { std::path::absolute(file).ok() } else { None }
    })
}

/// Where commands are looked for.
fn folders(spec: &ConnectorSpec) -> Vec<PathBuf> {
    let python = spec.variable(PYTHON).filter(|python| !python.is_empty()).map(PathBuf::from);
    let beside = python.map(|python| {
        if python.is_dir() {
            python.join("bin")
        } else {
            python.parent().map(Path::to_owned).unwrap_or_default()
        }
    });
    let path = spec.variable("PATH").unwrap_or_default();
    beside.into_iter().chain(std::env::split_paths(&path)).collect()
}

/// The command among those that are called like connectors of this role whose name is nearest to
/// the path, if one is near: at most a third of it differs.
pub(super) fn near(spec: &ConnectorSpec) -> Option<String> {
    let path = spec.path.trim();
    let wanted = path.strip_prefix("airbyte-").unwrap_or(path);
    let start = format!("{}-", spec.role.word());
    let files = folders(spec).into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let names = files.flatten().flatten().filter_map(|file| file.file_name().into_string().ok());
    let own = names.filter(|name| name.starts_with(&start));
    let nearest = own.map(|name| (distance(wanted, &name), name)).min()?;
    let limit = (wanted.trim_start_matches(&start).chars().count() / 3).max(1);
    (nearest.0 <= limit).then_some(nearest.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Path, size and time of a file: another version of a program differs in one of them.
fn stamp(file: &Path) -> Value {
    let metadata = std::fs::metadata(file).ok();
    let time = metadata.as_ref().and_then(|m| m.modified().ok());
    let time = time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    json!({
        "path": file.display().to_string(),
        "size": metadata.map(|m| m.len()),
        "nanoseconds": time.map(|t| t.as_nanos().to_string()),
    })
}

fn missing_file(spec: &ConnectorSpec) -> Error {
    refused(spec, "There is no connector at this path").hint(relative_hint())
}

fn relative_hint() -> String {
    match std::env::current_dir() {
        Ok(current) => format!("Relative paths start at {}", current.display()),
        Err(_) => "Give an absolute path".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_an_image_is_one() {
        for path in ["airbyte/source-faker", "ghcr.io/me/x:1", "localhost:5000/x", "a/b@sha256:0"] {
            assert!(is_image(path), "{path}");
        }
        for path in ["./a/b", "/a/b", "../a", "~/a", "a/b c", "a/"] {
            assert!(!is_image(path), "{path}");
        }
        assert_eq!(tag("localhost:5000/x"), None);
        assert_eq!(tag("localhost:5000/x:1"), Some("1"));
    }
}
