//! The files of a log: reading the tail, and making the next one only if it does not exist.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use highwater_core::crash::{self, CrashPoint};
use highwater_core::{Error, Instant, Lease, Owner, Result};
use xxhash_rust::xxh3::xxh3_128;

use super::{Action, DataFile, Entry, Folded};
use crate::disk;

/// What the last entries of a log say.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) seq: u64,
    pub(super) hash: String,
    pub(super) epoch: u64,
    pub(super) folded: Folded,
    /// The sync and the template that it was opened for; `None` in an empty log.
    pub(super) kept_for: Option<(String, String)>,
    /// Who opened it last and when; `None` in an empty log.
    pub(super) opened: Option<(Owner, Instant)>,
    pub(super) released: bool,
    /// Files that were committed since the last `open`: they may still be in the stage.
    pub(super) unpublished: Vec<DataFile>,
    /// Names of files that were removed since the last `open`.
    removed: Vec<String>,
}

pub(super) fn entry_path(folder: &Path, seq: u64) -> PathBuf {
    folder.join(format!("{seq:020}.json"))
}

/// The file whose modification time is the last sign of life of a run.
pub(super) fn heartbeat_path(folder: &Path) -> PathBuf {
    folder.join("heartbeat")
}

/// The number of the last entry, 0 when there is none.
fn last_seq(folder: &Path) -> Result<u64> {
    let failed = |e| disk::failed("The commit log cannot be listed", folder, e);
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(failed)?,
    };
    let mut last = 0;
    for entry in listing {
        let name = entry.map_err(failed)?.file_name();
        let seq = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(|n| n.parse().ok());
        last = last.max(seq.unwrap_or(0));
    }
    Ok(last)
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::data(format!("The commit log is damaged: {what}"))
        .context("path", path.display())
        .hint("restore the folder `_highwater` together with the data from one backup")
}

impl Tail {
    /// Reads the entries since the last `open`, and checks that each follows from the one before.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut chain = Vec::new();
        let mut seq = last_seq(folder)?;
        while seq > 0 {
            let path = entry_path(folder, seq);
            let bytes = fs::read(&path)
                .map_err(|e| disk::failed("An entry of the commit log cannot be read", &path, e))?;
            let entry: Entry = serde_json::from_slice(&bytes)
                .map_err(|e| damaged(&path, "an entry is not readable").caused_by(e))?;
            if entry.seq != seq {
                return Err(damaged(&path, "an entry has another number than its file"));
            }
            let opens = matches!(entry.action, Action::Open { .. });
            chain.push((entry, hash(&bytes)));
            if opens {
                break;
            }
            seq -= 1;
            if seq == 0 {
                return Err(damaged(&path, "its beginning is missing"));
            }
        }
        let mut tail = Self::default();
        for (entry, hash) in chain.into_iter().rev() {
            if tail.seq > 0 && entry.prev_hash != tail.hash {
                let path = entry_path(folder, entry.seq);
                return Err(damaged(&path, "an entry does not follow from the one before"));
            }
            tail.take(entry, hash);
        }
        Ok(tail)
    }

    fn take(&mut self, entry: Entry, hash: String) {
        self.seq = entry.seq;
        self.hash = hash;
        self.epoch = entry.epoch;
        match entry.action {
            Action::Open { owner, sync, template, state } => {
                self.kept_for = Some((sync, template));
                self.opened = Some((owner, entry.at));
                self.folded = state;
            }
            Action::Commit(change) | Action::Finish(change) | Action::State(change) => {
                self.folded.apply(&change, entry.at);
                for table in change.tables {
                    self.removed.extend(table.removed);
                    self.unpublished.extend(table.added);
                }
            }
            Action::Release => self.released = true,
        }
    }

    /// The removed files that may still be there. A name may have been given to a newer file.
    pub(super) fn unremoved(&self) -> Vec<String> {
        if self.removed.is_empty() {
            return Vec::new();
        }
        let in_use = self.folded.file_names();
        self.removed.iter().filter(|name| !in_use.contains(name.as_str())).cloned().collect()
    }

    /// Who holds or held the lease; a sign of life is the `open` entry or the heartbeat.
    pub(super) fn lease(&self, folder: &Path) -> Option<Lease> {
        let (owner, opened_at) = self.opened.clone()?;
        let heartbeat = fs::metadata(heartbeat_path(folder)).and_then(|m| m.modified()).ok();
        let micros = heartbeat
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_micros()).ok());
        let renewed_at = opened_at.max(Instant(micros.unwrap_or(i64::MIN)));
        Some(Lease { owner, renewed_at, released: self.released })
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// Whether an entry was made.
pub(super) enum Made {
    /// It was; this is its hash.
    Yes(String),
    /// Another one of that number was there before.
    Taken,
}

/// Makes an entry: complete and durable under a name of its own first, then under its number,
/// which succeeds for one of all who try.
pub(super) fn make(folder: &Path, stage: &Path, entry: &Entry) -> Result<Made> {
    let bytes = serde_json::to_vec(entry)
        .map_err(|e| Error::internal("A log entry cannot be written as JSON").caused_by(e))?;
    let staged = stage.join(format!("{:020}-{}.entry", entry.epoch, uuid::Uuid::new_v4()));
    let failed = |e| disk::failed("An entry of the commit log cannot be written", &staged, e);
    let written = File::create_new(&staged)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .map_err(failed);
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    crash::at(CrashPoint::FileManifestStaged);
    let path = entry_path(folder, entry.seq);
    let made = match fs::hard_link(&staged, &path) {
        Ok(()) => Ok(Made::Yes(hash(&bytes))),
        // Another run has made it, and one that is newer still may have removed what was staged.
        // Or this one has: on network file systems the reply to a link can be lost.
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists
                || error.kind() == io::ErrorKind::NotFound && path.exists() =>
        {
            Ok(if fs::read(&path).is_ok_and(|there| there == bytes) {
                Made::Yes(hash(&bytes))
            } else {
                Made::Taken
            })
        }
        Err(error) => Err(disk::failed("An entry of the commit log cannot be made", &path, error)
            .hint("the destination's file system has to support hard links")),
    };
    let _ = fs::remove_file(&staged);
    if let Ok(Made::Yes(_)) = &made {
        disk::sync_folder(folder)?;
        crash::at(CrashPoint::FileManifest);
    }
    made
}
