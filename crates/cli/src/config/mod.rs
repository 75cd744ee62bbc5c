//! The configuration: CloudQuery's YAML documents with highwater's additions, or the same thing
//! made from two URLs.
//!
//! A file goes through [`text`] (cut into documents), [`node`] (a tree that knows its places),
//! [`expand`] (variables), [`de`] into the types of [`spec`], [`driver`] (connector or plugin), and
//! [`check`] (what the documents say of each other, [`references`] included). [`endpoints`] makes the same [`Config`] from URLs.

pub mod check;
pub mod de;
pub mod document;
pub mod driver;
pub mod endpoints;
pub mod expand;
pub mod libpq;
pub mod mappings;
pub mod moment;
pub mod node;
pub mod reference;
pub mod references;
pub mod spec;
pub mod tables;
pub mod text;

use std::path::{Path, PathBuf};

use highwater_core::secret::Secret;
use highwater_core::{Error, ErrorKind};

use self::document::Origin;
use self::driver::Driver;
use self::expand::Surroundings;
use self::spec::{DestinationSpec, SourceSpec, TransformerSpec};
use self::text::FileText;
use crate::failure::{Failure, Result};

/// What the user configured, in the order of the files.
#[derive(Default)]
pub struct Config {
    /// Where rows come from.
    pub sources: Vec<Section<SourceSpec>>,
    /// Where rows go.
    pub destinations: Vec<Section<DestinationSpec>>,
    /// What rows go through.
    pub transformers: Vec<Section<TransformerSpec>>,
}

/// A document, what does its work, and where it is written.
pub struct Section<S> {
    /// Its keys.
    pub spec: S,
    /// Its connector or plugin.
    pub driver: Driver,
    /// The document it was read from; `None` when it came from the command line.
    pub origin: Option<Origin>,
}

impl<S> Section<S> {
    /// What the connector or plugin must not show, whatever its settings are called.
    pub fn secrets(&self) -> Vec<Secret> {
        self.origin.as_ref().map(Origin::secrets).unwrap_or_default()
    }

    /// An error about the key at a dotted path of the document's `spec`.
    pub fn failure(&self, path: &str, error: Error) -> Failure {
        match &self.origin {
            Some(origin) => origin.failure(path, error),
            None => error.into(),
        }
    }

    /// An error of the connector, at the key that it names.
    pub fn connector_failure(&self, error: Error) -> Failure {
        match error.context_value("key") {
            Some(key) => {
                let path = format!("spec.{key}");
                self.failure(&path, error)
            }
            None if error.kind() == ErrorKind::Unsupported => self.failure("path", error),
            // A plugin or connector that cannot be found or had.
            None if self.driver.connector().is_none()
                && error.kind() == ErrorKind::Config
                && error.context_value("path").is_some() =>
            {
                self.failure("path", error)
            }
            None if error.context_value("config_file").is_some() => {
                self.failure("config_file", error)
            }
            None => error.into(),
        }
    }
}

impl Config {
    /// Reads files and folders (their `*.yml` and `*.yaml` files, by name).
    ///
    /// # Errors
    /// `Config` or `Unsupported` at the place of the first thing that is wrong.
    pub fn read<P: AsRef<Path>>(paths: &[P], around: &Surroundings<'_>) -> Result<Self> {
        let mut config = Self::default();
        for path in paths {
            for file in files_at(path.as_ref())? {
                for document in FileText::read(&file)?.documents() {
                    document::read(&document, around, &mut config)?;
                }
            }
        }
        check::check(&config)?;
        Ok(config)
    }

    /// The transformer of that name.
    pub fn transformer(&self, name: &str) -> Option<&Section<TransformerSpec>> {
        self.transformers.iter().find(|t| t.spec.name == name)
    }

    /// The destination of that name.
    pub fn destination(&self, name: &str) -> Option<&Section<DestinationSpec>> {
        self.destinations.iter().find(|d| d.spec.name == name)
    }
}

/// The files that an argument stands for.
fn files_at(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error| {
        Error::config("The configuration folder cannot be read")
            .context("folder", path.display())
            .caused_by(error)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if is_config_file(&file) && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::config("There is no *.yml or *.yaml in this folder")
            .context("folder", path.display())
            .into());
    }
    Ok(files)
}

/// Whether a path is a configuration file's by its name.
pub fn is_config_file(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|e| e == "yml" || e == "yaml")
}
