//! What the next run makes of each state in which a run can have died.

use std::fs;
use std::path::{Path, PathBuf};

use highwater_core::{ErrorKind, LeaseRequest, Owner};

use super::entries::{Made, make};
use super::*;
use crate::spec::{Compression, Format};
use crate::template::Template;

struct Site {
    root: tempfile::TempDir,
}

fn request() -> LeaseRequest {
    LeaseRequest { owner: Owner::this_process(), take_over: true }
}

fn file(epoch: u64, name: &str) -> DataFile {
    DataFile {
        name: name.into(),
        stage: format!("{epoch:020}-{}.part", name.replace('/', "-")),
        replaces: false,
        size: 1,
        rows: 1,
        crc32: 0,
    }
}

fn change(added: Vec<DataFile>, removed: &[&str]) -> Change {
    let table = TableChange {
        source: Some(TableName::new("t")),
        added,
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..TableChange::default()
    };
    Change { cursors: Vec::new(), tables: vec![table] }
}

impl Site {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn place(&self) -> Place {
        let path = format!("{}/{{{{TABLE}}}}/{{{{UUID}}}}.csv", self.path().display());
        Place::new(&Template::new(&path, Format::Csv, Compression::None).unwrap())
    }

    fn folder(&self) -> PathBuf {
        self.place().folder("s")
    }

    fn stage(&self) -> PathBuf {
        self.folder().join("stage")
    }

    fn open(&self) -> highwater_core::Result<std::sync::Arc<SyncLog>> {
        Logs::new(self.place()).open("s", Some(&request()))
    }

    fn put_staged(&self, file: &DataFile) {
        fs::write(self.stage().join(&file.stage), "rows").unwrap();
    }

    /// The next entry, as a run makes it that dies right after.
    fn make_entry(&self, change: Change) {
        let tail = entries::Tail::read(&self.folder()).unwrap();
        let entry = Entry {
            seq: tail.seq + 1,
            prev_hash: tail.hash,
            epoch: tail.epoch,
            at: Instant(0),
            action: Action::Commit(change),
        };
        assert!(matches!(make(&self.folder(), &self.stage(), &entry).unwrap(), Made::Yes(_)));
    }

    fn has(&self, name: &str) -> bool {
        self.path().join(name).exists()
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.stage()).unwrap().count()
    }
}

#[test]
fn files_that_no_entry_names_are_removed() {
    let site = Site::new();
    let epoch = site.open().unwrap().epoch();
    site.put_staged(&file(epoch, "t/a"));
    fs::write(site.stage().join(format!("{epoch:020}-x.entry")), "{").unwrap();
    // Another sync of the same destination is none of our business.
    let other = site.path().join(FOLDER).join("other/stage");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join(format!("{epoch:020}-x.part")), "rows").unwrap();
    site.open().unwrap();
    assert_eq!(site.staged(), 0);
    assert_eq!(fs::read_dir(other).unwrap().count(), 1);
    assert!(!site.has("t/a"));
}

#[test]
fn files_that_an_entry_names_get_their_names() {
    let site = Site::new();
    let epoch = site.open().unwrap().epoch();
    let (a, b) = (file(epoch, "t/a"), file(epoch, "t/2026/b"));
    site.put_staged(&a);
    site.put_staged(&b);
    site.make_entry(change(vec![a.clone(), b], &[]));
    // One of them has its name already, and still the staged one too.
    fs::create_dir_all(site.path().join("t")).unwrap();
    fs::hard_link(site.stage().join(&a.stage), site.path().join("t/a")).unwrap();
    let log = site.open().unwrap();
    assert!(site.has("t/a") && site.has("t/2026/b"));
    assert_eq!(site.staged(), 0);
    assert_eq!(log.epoch(), epoch + 1);
    // The state is complete, and nothing is done twice.
    drop(site.open().unwrap());
    let folded = site.place().folded("s").unwrap();
    assert_eq!(folded.tables[&TableName::new("t")].files.len(), 2);
}

#[test]
fn files_that_were_removed_go_unless_their_name_is_in_use_again() {
    let site = Site::new();
    let log = site.open().unwrap();
    let old = [file(log.epoch(), "t/a"), file(log.epoch(), "t/b")];
    old.iter().for_each(|file| site.put_staged(file));
    log.change(Kind::Commit, |_| Ok(Some(change(old.to_vec(), &[])))).unwrap();
    assert!(site.has("t/a") && site.has("t/b"));
    let mut new = DataFile { stage: format!("{:020}-new.part", log.epoch()), ..old[0].clone() };
    new.replaces = true;
    fs::write(site.stage().join(&new.stage), "new rows").unwrap();
    site.make_entry(change(vec![new], &["t/a", "t/b"]));
    site.open().unwrap();
    assert_eq!(fs::read_to_string(site.path().join("t/a")).unwrap(), "new rows");
    assert!(!site.has("t/b"));
    site.open().unwrap();
    assert!(site.has("t/a"));
}

#[test]
fn a_file_of_somebody_else_is_never_overwritten() {
    let site = Site::new();
    let epoch = site.open().unwrap().epoch();
    let a = file(epoch, "t/a");
    site.put_staged(&a);
    site.make_entry(change(vec![a], &[]));
    fs::create_dir_all(site.path().join("t")).unwrap();
    fs::write(site.path().join("t/a"), "precious").unwrap();
    for _ in 0..2 {
        let error = site.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
    }
    assert_eq!(fs::read_to_string(site.path().join("t/a")).unwrap(), "precious");
    fs::rename(site.path().join("t/a"), site.path().join("t/moved")).unwrap();
    site.open().unwrap();
    assert_eq!(fs::read_to_string(site.path().join("t/a")).unwrap(), "rows");
}

#[test]
fn an_entry_is_made_once() {
    let site = Site::new();
    let (first, second) = (site.open().unwrap(), site.open().unwrap());
    let refused = first.change(Kind::State, |_| Ok(Some(Change::default()))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    // Once refused, always refused, also where the number would be free.
    let refused = first.change(Kind::State, |_| Ok(Some(Change::default()))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    second.change(Kind::State, |_| Ok(Some(Change::default()))).unwrap();
    assert_eq!(site.staged(), 0);
}
