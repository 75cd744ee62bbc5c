//! Giving committed files their own names, and taking removed ones away: may be repeated.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use highwater_core::crash::{self, CrashPoint};
use highwater_core::{Error, Result};

use super::DataFile;
use crate::disk;

/// Moves files from the stage to their names. A file that is no longer in the stage has been
/// moved before, by this run or another.
pub(super) fn publish(root: &Path, stage: &Path, files: &[DataFile]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in files {
        let (from, to) = (stage.join(&file.stage), root.join(&file.name));
        if !from.exists() {
            continue;
        }
        let folder = to.parent().unwrap_or(root).to_owned();
        disk::make_folder(&folder)?;
        folders.insert(folder);
        move_file(&from, &to, file.replaces)?;
        crash::at(CrashPoint::FilePublished);
    }
    folders.iter().try_for_each(|folder| disk::sync_folder(folder))
}

/// Takes removed files away.
pub(super) fn remove(root: &Path, names: &[String]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for name in names {
        let path = root.join(name);
        disk::remove_file(&path)?;
        folders.extend(path.parent().filter(|folder| folder.is_dir()).map(Path::to_owned));
    }
    folders.iter().try_for_each(|folder| disk::sync_folder(folder))
}

fn move_file(from: &Path, to: &Path, replaces: bool) -> Result<()> {
    let failed = |e| disk::failed("A committed file cannot be given its name", to, e);
    let moved = if replaces {
        fs::rename(from, to)
    } else {
        // A link never takes the place of a file that is there.
        match fs::hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !same_file(from, to) {
                    return Err(Error::schema("Another file has the name of a committed file")
                        .context("path", to.display())
                        .hint("move that file away and run the same command again"));
                }
                fs::remove_file(from)
            }
            other => other.and_then(|()| fs::remove_file(from)),
        }
    };
    match moved {
        // Another run that completes the same commit was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, to).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(a).is_some() && id(a) == id(b)
}

/// For a folder that is on another file system: a hidden copy, then its name.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let hidden: PathBuf = to.with_file_name(format!(".{name}.part"));
    fs::copy(from, &hidden)?;
    File::open(&hidden)?.sync_all()?;
    fs::rename(&hidden, to)?;
    fs::remove_file(from)
}

/// Removes what older runs left in the stage. Everything that was committed has left it already;
/// newer runs are none of our business.
pub(super) fn clean(stage: &Path, epoch: u64) -> Result<()> {
    let failed = |e| disk::failed("The stage cannot be listed", stage, e);
    for entry in fs::read_dir(stage).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let made_by = name.to_str().and_then(|n| n.get(..20)).and_then(|n| n.parse::<u64>().ok());
        if made_by.is_some_and(|made_by| made_by < epoch) {
            disk::remove_file(&entry.path())?;
        }
    }
    Ok(())
}
