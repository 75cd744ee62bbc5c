//! The log of a sync in use: taking it, adding to it, and being refused when a newer run has.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use highwater_core::crash::{self, CrashPoint};
use highwater_core::{Error, Fence, Instant, LeaseRequest, Owner, Result, State};

use super::entries::{Made, entry_path, heartbeat_path, make};
use super::{Action, Change, DataFile, Entry, Folded, Place, publish};
use crate::disk;

/// How often a run tries to open a log that others open at the same moment.
const OPEN_ATTEMPTS: u32 = 8;

/// All logs of one destination.
#[derive(Debug)]
pub(crate) struct Logs {
    place: Place,
    /// The logs that this instance has opened, by sync.
    open: Mutex<BTreeMap<String, Arc<SyncLog>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves the log as it is on disk: the next entry tells.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, open: Mutex::default() }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// What a log says, without opening it.
    pub(crate) fn look(&self, sync: &str) -> Result<State> {
        let mut tail = self.place.tail(sync)?;
        tail.folded.drop_unfinished();
        let lease = tail.lease(&self.place.folder(sync));
        Ok(State { lease, ..tail.folded.state() })
    }

    /// Opens the log of a sync. Without a request the lease is kept in another store, which has
    /// decided: the log is taken over from whoever had it.
    pub(crate) fn open(&self, sync: &str, request: Option<&LeaseRequest>) -> Result<Arc<SyncLog>> {
        let log = Arc::new(SyncLog::open(&self.place, sync, request)?);
        lock(&self.open).insert(sync.to_owned(), log.clone());
        Ok(log)
    }

    /// The open log under `fence`.
    pub(crate) fn held(&self, fence: &Fence) -> Result<Arc<SyncLog>> {
        let log = lock(&self.open).get(&fence.sync).cloned();
        log.filter(|log| log.epoch == fence.epoch).ok_or_else(|| fenced(&fence.sync))
    }

    /// Changes the log of a sync outside of a run: under the lease that this instance has, else
    /// under one that is taken and given back.
    ///
    /// # Errors
    /// `Fenced` when a run of this sync is at work.
    pub(crate) fn with_lease(
        &self,
        sync: &str,
        work: impl FnOnce(&SyncLog) -> Result<()>,
    ) -> Result<()> {
        let held = lock(&self.open).get(sync).cloned();
        if let Some(log) = held {
            return work(&log);
        }
        let request = LeaseRequest { owner: Owner::this_process(), take_over: false };
        let log = SyncLog::open(&self.place, sync, Some(&request))?;
        work(&log)?;
        log.release()
    }

    /// The open log of a sync whose lease is kept in another store.
    pub(crate) fn held_or_open(&self, sync: &str) -> Result<Arc<SyncLog>> {
        // Writers of several tables ask at once: one opens, under the lock.
        let mut open = lock(&self.open);
        if let Some(log) = open.get(sync) {
            return Ok(log.clone());
        }
        let log = Arc::new(SyncLog::open(&self.place, sync, None)?);
        open.insert(sync.to_owned(), log.clone());
        Ok(log)
    }
}

/// A log under a fence. Writers of one process add to it one after the other.
#[derive(Debug)]
pub(crate) struct SyncLog {
    place: Place,
    folder: PathBuf,
    sync: String,
    epoch: u64,
    inner: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    seq: u64,
    hash: String,
    folded: Folded,
    /// Committed files that could not be given their names yet.
    unpublished: Vec<DataFile>,
    fenced: bool,
}

fn fenced(sync: &str) -> Error {
    Error::fenced("A newer run of this sync has taken over")
        .context("sync", sync)
        .hint("run the same command again once the other run has ended")
}

/// Which kind of entry a change makes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Commit,
    Finish,
    State,
}

impl SyncLog {
    fn open(place: &Place, sync: &str, request: Option<&LeaseRequest>) -> Result<Self> {
        let (root, folder) = (place.root(), place.folder(sync));
        let stage = folder.join("stage");
        disk::make_folder(&stage)?;
        for _ in 0..OPEN_ATTEMPTS {
            let mut tail = place.tail(sync)?;
            if let Some(request) = request {
                request.may_take(sync, tail.lease(&folder).as_ref(), Instant::now())?;
            }
            tail.folded.drop_unfinished();
            // Whatever is committed is completed, for whoever committed it, before a new `open`
            // entry ends the part of the log that is read.
            publish::publish(root, &stage, &tail.unpublished)?;
            publish::remove(root, &tail.unremoved())?;
            let owner = request.map_or_else(Owner::this_process, |r| r.owner.clone());
            let entry = Entry {
                seq: tail.seq + 1,
                prev_hash: tail.hash.clone(),
                epoch: tail.epoch + 1,
                at: Instant::now(),
                action: Action::Open {
                    owner,
                    sync: sync.to_owned(),
                    template: place.template().to_owned(),
                    state: tail.folded.clone(),
                },
            };
            let Made::Yes(hash) = make(&folder, &stage, &entry)? else { continue };
            // From here no older run can commit.
            publish::clean(&stage, entry.epoch)?;
            crash::at(CrashPoint::LeaseTaken);
            return Ok(Self {
                place: place.clone(),
                sync: sync.to_owned(),
                epoch: entry.epoch,
                inner: Mutex::new(Held {
                    seq: entry.seq,
                    hash,
                    folded: tail.folded,
                    unpublished: Vec::new(),
                    fenced: false,
                }),
                folder,
            });
        }
        Err(Error::transient("Other runs keep opening the commit log").context("sync", sync))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn sync(&self) -> &str {
        &self.sync
    }

    pub(crate) fn stage(&self) -> PathBuf {
        self.folder.join("stage")
    }

    /// Looks at what the log adds up to.
    pub(crate) fn with_folded<T>(&self, look: impl FnOnce(&Folded) -> T) -> T {
        look(&lock(&self.inner).folded)
    }

    /// The state with its fence and lease.
    pub(crate) fn state(&self) -> State {
        let held = lock(&self.inner);
        State {
            fence: Some(Fence { sync: self.sync.clone(), epoch: self.epoch }),
            ..held.folded.state()
        }
    }

    /// Adds an entry with the change that `change` makes of the state; none when it makes none.
    /// Committed files have their names and removed ones are gone when this returns.
    ///
    /// # Errors
    /// `Fenced` when a newer run has taken over; nothing has changed then.
    pub(crate) fn change(
        &self,
        kind: Kind,
        change: impl FnOnce(&Folded) -> Result<Option<Change>>,
    ) -> Result<()> {
        let mut held = lock(&self.inner);
        let Some(change) = change(&held.folded)? else { return Ok(()) };
        let action = match kind {
            Kind::Commit => Action::Commit(change),
            Kind::Finish => Action::Finish(change),
            Kind::State => Action::State(change),
        };
        let entry = self.next(&held, action);
        self.make(&mut held, &entry)?;
        if let Action::Commit(change) | Action::Finish(change) | Action::State(change) =
            &entry.action
        {
            held.folded.apply(change, entry.at);
            for table in &change.tables {
                held.unpublished.extend(table.added.iter().cloned());
            }
            self.tidy(&mut held, change);
        }
        Ok(())
    }

    fn next(&self, held: &Held, action: Action) -> Entry {
        Entry {
            seq: held.seq + 1,
            prev_hash: held.hash.clone(),
            epoch: self.epoch,
            at: Instant::now(),
            action,
        }
    }

    fn make(&self, held: &mut Held, entry: &Entry) -> Result<()> {
        if held.fenced {
            return Err(fenced(&self.sync));
        }
        match make(&self.folder, &self.stage(), entry) {
            Ok(Made::Yes(hash)) => {
                held.seq = entry.seq;
                held.hash = hash;
                Ok(())
            }
            Ok(Made::Taken) => {
                held.fenced = true;
                Err(fenced(&self.sync))
            }
            // A newer run removes what older ones staged, the entry in the making too.
            Err(error) if entry_path(&self.folder, entry.seq).exists() => {
                held.fenced = true;
                Err(fenced(&self.sync).caused_by(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Completes a commit that has happened. What cannot be done now is done by the next commit,
    /// by `finish`, or when the next run opens the log: it is no reason to say that the commit
    /// has failed.
    fn tidy(&self, held: &mut Held, change: &Change) {
        if let Err(error) = publish::publish(self.place.root(), &self.stage(), &held.unpublished) {
            tracing::warn!(%error, "committed files are not visible yet");
            return;
        }
        held.unpublished.clear();
        for table in &change.tables {
            let kept = |name: &&String| !table.added.iter().any(|f| f.name == **name);
            let names: Vec<String> = table.removed.iter().filter(kept).cloned().collect();
            if let Err(error) = publish::remove(self.place.root(), &names) {
                tracing::warn!(%error, "replaced files are still there");
            }
        }
    }

    /// Why work on staged files failed: a newer run that took over removes them, and then that is
    /// the reason.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let held = lock(&self.inner);
        if held.fenced || entry_path(&self.folder, held.seq + 1).exists() {
            return fenced(&self.sync).caused_by(error);
        }
        error
    }

    /// Gives all committed files their names.
    ///
    /// # Errors
    /// Why that is not possible; they are committed all the same.
    pub(crate) fn publish(&self) -> Result<()> {
        let mut held = lock(&self.inner);
        publish::publish(self.place.root(), &self.stage(), &held.unpublished)?;
        held.unpublished.clear();
        Ok(())
    }

    /// Shows that this run is alive.
    pub(crate) fn renew(&self) -> Result<()> {
        // A busy log is a living one: the commit that holds the lock is the sign.
        let Ok(mut held) = self.inner.try_lock() else { return Ok(()) };
        if held.fenced || entry_path(&self.folder, held.seq + 1).exists() {
            held.fenced = true;
            return Err(fenced(&self.sync));
        }
        let path = heartbeat_path(&self.folder);
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .map_err(|e| disk::failed("The lease cannot be renewed", &path, e))
    }

    /// Gives the lease back.
    pub(crate) fn release(&self) -> Result<()> {
        let mut held = lock(&self.inner);
        let entry = self.next(&held, Action::Release);
        self.make(&mut held, &entry)
    }
}
