//! What a document's `path` and `registry` lead to: a connector of this binary, a plugin of
//! CloudQuery, or a connector of Airbyte.

use std::fmt;
use std::path::Path;

use highwater_cloudquery::host;
use highwater_core::{Connector, Error};
use highwater_engine::selection::closest;

use super::document::Origin;
use super::spec::{Document, Registry};
use crate::failure::Result;
use crate::registry;

/// What does the work of a document.
#[derive(Clone, Copy)]
pub enum Driver {
    /// A connector of this binary.
    Builtin(&'static dyn Connector),
    /// A plugin from there.
    Plugin(host::Registry),
    /// A connector of Airbyte.
    Airbyte,
}

impl Driver {
    /// The connector, if it is one.
    pub fn connector(self) -> Option<&'static dyn Connector> {
        match self {
            Self::Builtin(connector) => Some(connector),
            Self::Plugin(_) | Self::Airbyte => None,
        }
    }

    /// Whether it is a plugin.
    pub fn is_plugin(self) -> bool {
        matches!(self, Self::Plugin(_))
    }

    /// Whether it is a connector of Airbyte.
    pub fn is_airbyte(self) -> bool {
        matches!(self, Self::Airbyte)
    }

    /// What a source's or destination's document leads to.
    ///
    /// # Errors
    /// `Config` or `Unsupported` at the key that is wrong.
    pub(super) fn of(origin: &Origin, spec: &impl Document) -> Result<Self> {
        let path = required(origin, "path", spec.path())?;
        if spec.registry() == Some(Registry::Airbyte) {
            return Ok(Self::Airbyte);
        }
        let (config_file, supports_refreshes) = spec.of_airbyte();
        let keys = [
            ("config_file", config_file.is_some()),
            ("supports_refreshes", supports_refreshes.is_some()),
        ];
        for (key, is_set) in keys {
            if is_set {
                let error = Error::config(format!("`{key}` is for connectors of Airbyte"))
                    .hint("registry: airbyte");
                return Err(origin.failure(key, error));
            }
        }
        let builtin = registry::by_path(path);
        match (spec.registry(), builtin) {
            (None | Some(Registry::Builtin), Some(connector)) => Ok(Self::Builtin(connector)),
            (Some(Registry::Cloudquery), Some(connector)) if path.starts_with("cloudquery/") => {
                Ok(Self::Builtin(connector))
            }
            (Some(Registry::Builtin), None) => Err(no_connector(origin, path)),
            // Nobody's default registry has names without a slash: this is a misspelt connector.
            (None, None) if !path.contains(['/', ':']) => Err(no_connector(origin, path)),
            _ => Self::plugin(origin, spec),
        }
    }

    /// The plugin that a document names.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(super) fn plugin(origin: &Origin, spec: &impl Document) -> Result<Self> {
        let path = required(origin, "path", spec.path())?;
        Ok(Self::Plugin(match spec.registry().unwrap_or(Registry::Cloudquery) {
            Registry::Local => local(origin, path)?,
            Registry::Grpc => host::Registry::Grpc,
            Registry::Docker => host::Registry::Docker,
            Registry::Cloudquery => hub(origin, path, spec.version())?,
            Registry::Builtin => {
                let error = Error::config("No transformer is built in")
                    .hint("registry: local, with the path of a plugin's program");
                return Err(origin.failure("registry", error));
            }
            Registry::Github => {
                let error = Error::config("The registry `github` exists no more")
                    .hint("registry: cloudquery");
                return Err(origin.failure("registry", error));
            }
            Registry::Airbyte => {
                let error = Error::unsupported("Airbyte has no transformers")
                    .hint("`mappings` of an entry of `tables` change rows");
                return Err(origin.failure("registry", error));
            }
        }))
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(connector) => f.debug_tuple("Builtin").field(&connector.kind()).finish(),
            Self::Plugin(from) => f.debug_tuple("Plugin").field(from).finish(),
            Self::Airbyte => f.write_str("Airbyte"),
        }
    }
}

/// The value of a key that must have one.
///
/// # Errors
/// `Config` at the key where it is empty.
pub(super) fn required<'a>(origin: &Origin, key: &str, value: &'a str) -> Result<&'a str> {
    if value.is_empty() {
        let error = Error::config(format!("The key `{key}` is empty"))
            .hint(format!("{key}: {}", key.to_uppercase()));
        return Err(origin.failure(key, error));
    }
    Ok(value)
}

fn local(origin: &Origin, path: &str) -> Result<host::Registry> {
    if Path::new(path).is_dir() {
        let error = Error::config("The path of a local plugin is a folder, and not its program")
            .hint(format!("path: {}/plugin", path.trim_end_matches('/')));
        return Err(origin.failure("path", error));
    }
    Ok(host::Registry::Local)
}

/// The hub's rules: `team/name`, and a version that starts with `v`.
fn hub(origin: &Origin, path: &str, version: Option<&str>) -> Result<host::Registry> {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_plugin = path.split_once('/').is_some_and(|(team, name)| is_word(team) && is_word(name));
    if !is_plugin {
        let hint = match registry::by_path(path) {
            Some(connector) => format!("path: cloudquery/{}", connector.kind()),
            None if path.starts_with(['/', '.']) => "registry: local".to_owned(),
            None if path.contains(':') => "registry: grpc".to_owned(),
            None => "path: TEAM/NAME".to_owned(),
        };
        let error =
            Error::config("The path of a plugin of CloudQuery's hub is its team and its name");
        return Err(origin.failure("path", error.hint(hint)));
    }
    match version {
        None => {
            let error = Error::config("A plugin of CloudQuery's hub needs a `version`")
                .hint("version: v1.2.3");
            Err(origin.failure("version", error))
        }
        Some(version) if !version.starts_with('v') => {
            let error = Error::config("The version of a plugin starts with `v`")
                .hint(format!("version: v{version}"));
            Err(origin.failure("version", error))
        }
        Some(_) => Ok(host::Registry::CloudQuery),
    }
}

fn no_connector(origin: &Origin, path: &str) -> crate::failure::Failure {
    let name = path.rsplit('/').next().unwrap_or(path);
    let names: Vec<String> = registry::CONNECTORS
        .iter()
        .flat_map(|c| c.aliases().iter().copied().chain([c.kind()]))
        .map(str::to_owned)
        .collect();
    let hint = match closest(name, &names) {
        Some(known) => format!("path: {known}"),
        None => format!(
            "built in are `{}`; a plugin is `registry: local`, `grpc`, `docker` or `cloudquery`, a connector of Airbyte `registry: airbyte`",
            registry::kinds().join("`, `")
        ),
    };
    origin.failure("path", Error::config(format!("There is no connector `{path}`")).hint(hint))
}
