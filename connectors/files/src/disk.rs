//! What the file system does, in the words of this project's errors.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use highwater_core::{Error, Result};

/// An error of the file system about `path`.
pub(crate) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    use io::ErrorKind as K;
    let made = match error.kind() {
        K::StorageFull | K::QuotaExceeded => Error::transient(format!("{what}: the disk is full"))
            .hint("free space on the disk and run the same command again; nothing of this commit was kept"),
        K::PermissionDenied | K::ReadOnlyFilesystem => {
            Error::config(format!("{what}: permission denied"))
        }
        K::NotFound => Error::config(format!("{what}: no such file or folder")),
        K::NotADirectory | K::IsADirectory => Error::config(what),
        _ => Error::transient(what),
    };
    made.context("path", path.display()).caused_by(error)
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| failed("A folder cannot be made durable", folder, e))
}

/// Makes a folder and those above it, durably.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("A folder cannot be made", folder, error)),
    }
}

/// Removes a file; it is fine when there is none.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("A file cannot be removed", path, error))
        }
        _ => Ok(()),
    }
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("A thread ended before its work").caused_by(e))?
}
