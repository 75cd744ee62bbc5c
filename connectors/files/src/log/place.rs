//! Where the logs of a destination are: one folder for each sync and path template.
//!
//! Destinations may share a folder (`out/monday.csv`, `out/tuesday.csv`). What a sync has done at
//! one of them says nothing of the others: none sees, replaces or removes another's files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use highwater_core::{Error, Result, TableName};
use xxhash_rust::xxh3::xxh3_64;

use super::entries::Tail;
use super::{FOLDER, Folded, Shape, TableState};
use crate::disk;
use crate::template::{Template, decode, encode};

/// The logs of all syncs at one destination.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    root: PathBuf,
    /// What tells this destination from others below the same root.
    template: String,
    /// The end of its folders' names: a hash of the template.
    suffix: String,
}

impl Place {
    pub(crate) fn new(template: &Template) -> Self {
        let (root, template) = (template.root().to_owned(), template.identity());
        let suffix = format!("-{:08x}", xxh3_64(template.as_bytes()) >> 32);
        Self { root, template, suffix }
    }

    /// The root of the data.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The template that is kept in each `open` entry.
    pub(super) fn template(&self) -> &str {
        &self.template
    }

    /// The folder of a sync's log.
    pub(super) fn folder(&self, sync: &str) -> PathBuf {
        self.root.join(FOLDER).join(format!("{}{}", encode(sync), self.suffix))
    }

    /// The names of all syncs that have a log here, sorted.
    pub(crate) fn syncs(&self) -> Result<Vec<String>> {
        let folder = self.root.join(FOLDER);
        let failed = |e| disk::failed("The commit logs cannot be listed", &folder, e);
        let mut names = Vec::new();
        let listing = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
            other => other.map_err(failed)?,
        };
        for entry in listing {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let sync = name.to_str().and_then(|name| name.strip_suffix(&self.suffix));
            if let (Some(sync), true) = (sync, entry.file_type().map_err(failed)?.is_dir()) {
                names.push(decode(sync));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The last entries of a sync's log.
    pub(super) fn tail(&self, sync: &str) -> Result<Tail> {
        let folder = self.folder(sync);
        let tail = Tail::read(&folder)?;
        match &tail.kept_for {
            Some((other, template)) if other != sync || *template != self.template => {
                Err(Error::config("The commit log belongs to another sync or another path")
                    .context("path", folder.display())
                    .context("sync", other)
                    .context("files", template)
                    .hint("choose another `path`, or give the sync another name"))
            }
            _ => Ok(tail),
        }
    }

    /// What a log adds up to, without opening it.
    pub(crate) fn folded(&self, sync: &str) -> Result<Folded> {
        Ok(self.tail(sync)?.folded)
    }

    /// The table of that name, if any sync has written it here and its files are still there.
    ///
    /// The identity is a random text made with the table and kept in the log. It counts as long
    /// as one of the committed files exists (or none was ever written): a folder that was
    /// deleted, or deleted and filled by somebody else, has none of them. Single files may be
    /// moved away.
    pub(crate) fn find_shape(&self, name: &TableName) -> Result<Option<Shape>> {
        let mut newest: Option<TableState> = None;
        let mut identity = None;
        for sync in self.syncs()? {
            for (_, state) in self.folded(&sync)?.tables {
                let Some(shape) = state.shape.as_ref().filter(|s| s.table.name == *name) else {
                    continue;
                };
                let mut files = state.files.iter().rev();
                if !state.files.is_empty() && !files.any(|f| self.root.join(&f.name).exists()) {
                    continue;
                }
                // Syncs that share a table share its identity: the first name decides.
                identity.get_or_insert_with(|| shape.identity.clone());
                if newest.as_ref().is_none_or(|n| n.changed_at < state.changed_at) {
                    newest = Some(state);
                }
            }
        }
        let shape = newest.and_then(|state| state.shape);
        Ok(shape.zip(identity).map(|(shape, identity)| Shape { identity, ..shape }))
    }

    /// The names of the files that hold the rows of a table, of all syncs that write it.
    pub(crate) fn files_of(&self, name: &TableName) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for sync in self.syncs()? {
            for (_, state) in self.folded(&sync)?.tables {
                if state.shape.as_ref().is_some_and(|shape| shape.table.name == *name) {
                    files.extend(state.files.into_iter().map(|file| file.name));
                }
            }
        }
        Ok(files)
    }

    /// Refuses to make a table anew that another sync writes too: its files would stay.
    ///
    /// # Errors
    /// `Schema`, naming the other sync.
    pub(crate) fn check_alone(&self, name: &TableName, sync: &str) -> Result<()> {
        for other in self.syncs()?.into_iter().filter(|other| other != sync) {
            let tables = self.folded(&other)?.tables;
            let shares = tables.values().any(|state| {
                !state.files.is_empty()
                    && state.shape.as_ref().is_some_and(|shape| shape.table.name == *name)
            });
            if shares {
                return Err(Error::schema(
                    "Another sync writes the table, so it cannot be made anew",
                )
                .context("table", name)
                .context("other sync", other)
                .hint("give the table another name: `target: …`"));
            }
        }
        Ok(())
    }

    /// Refuses a file that is there and that no sync here has written.
    ///
    /// # Errors
    /// `Config`, as [`refuse_foreign`].
    pub(crate) fn check_free(&self, name: &str) -> Result<()> {
        if !self.root.join(name).exists() {
            return Ok(());
        }
        for sync in self.syncs()? {
            if self.folded(&sync)?.file_names().contains(name) {
                return Ok(());
            }
        }
        refuse_foreign(&self.root, name, &BTreeSet::new())
    }
}

/// Refuses a file that is there and not among `known`: it is never overwritten, and rows that go
/// to another file than the one that was asked for would be a surprise.
///
/// # Errors
/// `Config`, naming the file.
pub(crate) fn refuse_foreign(root: &Path, name: &str, known: &BTreeSet<&str>) -> Result<()> {
    let path = root.join(name);
    if known.contains(name) || !path.exists() {
        return Ok(());
    }
    Err(Error::config("The file exists and is not one of this sync")
        .context("file", path.display())
        .context("key", "path")
        .hint("remove the file, or choose another `path`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Compression, Format};

    #[test]
    fn each_template_has_folders_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let place = |below: &str, format| {
            let path = format!("{}/{below}", root.path().display());
            Place::new(&Template::new(&path, format, Compression::None).unwrap())
        };
        let all = [
            place("a.csv", Format::Csv),
            place("b.csv", Format::Csv),
            place("a.csv", Format::Json),
            place("{{TABLE}}.csv", Format::Csv),
        ];
        for (at, one) in all.iter().enumerate() {
            let sync = format!("sync/{at}-0123abcd");
            fs::create_dir_all(one.folder(&sync)).unwrap();
            assert_eq!(one.syncs().unwrap(), [sync]);
        }
        // Two ways to say the same.
        let same = place("{{TABLE}}.{{FORMAT}}", Format::Csv);
        assert_eq!(same.folder("s"), all[3].folder("s"));
    }
}
