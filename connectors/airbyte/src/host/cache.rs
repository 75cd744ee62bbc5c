//! What `spec` and `discover` said, kept in files: each costs seconds, as most connectors are
//! written in Python.
//!
//! An entry belongs to one version of a connector and, for a catalog, to its settings, of which
//! only a hash is in its name. Whatever is wrong with an entry, it is as if it were not there.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long a catalog is believed: tables come and go.
pub const CATALOG_LIVES: Duration = Duration::from_secs(15 * 60);
/// The form of entries.
const FORM: u64 = 1;

/// One entry, whether it is there or not.
#[derive(Debug)]
pub(super) struct Entry {
    folder: PathBuf,
    name: String,
    identity: Value,
    lives: Option<Duration>,
}

impl Entry {
    /// The entry of `question` for a connector of `identity`, and of what else `secrets` says;
    /// only the hash of that is kept. It is believed as long as it `lives`.
    pub(super) fn new(
        folder: PathBuf,
        question: &str,
        identity: Value,
        secrets: &Value,
        lives: Option<Duration>,
    ) -> Self {
        let mut hash = Sha256::new();
        for part in [FORM.to_string(), identity.to_string(), secrets.to_string()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hex: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
        Self { folder, name: format!("{question}-{hex}.json"), identity, lives }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What it says, if it is there and young enough.
    pub(super) fn load<T: DeserializeOwned>(&self) -> Option<T> {
        let path = self.path();
        if self.lives.is_some_and(|lives| age(&path).is_none_or(|age| age >= lives)) {
            return None;
        }
        let mut entry: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        if entry.get("form") != Some(&json!(FORM)) || entry.get("identity") != Some(&self.identity)
        {
            return None;
        }
        serde_json::from_value(entry.get_mut("answer")?.take()).ok()
    }

    /// Keeps `answer`. That it cannot be kept is no error: the next run asks again.
    pub(super) fn store(&self, answer: &impl Serialize) {
        if let Err(e) = self.try_store(answer) {
            tracing::debug!("an answer of a connector cannot be kept: {e}");
        }
    }

    fn try_store(&self, answer: &impl Serialize) -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.remove_old();
        let entry = json!({
            "form": FORM, "identity": self.identity, "answer": serde_json::to_value(answer)?,
        });
        // Such a file is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(entry.to_string().as_bytes())?;
        file.persist(self.path()).map_err(|e| e.error)?;
        Ok(())
    }

    /// Removes it.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(self.path());
    }

    /// Entries of the same question that nobody will believe again.
    fn remove_old(&self) {
        let Some(lives) = self.lives else { return };
        let start = self.name.split('-').next().unwrap_or_default();
        for file in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = file.file_name();
            let same = name.to_string_lossy().starts_with(&format!("{start}-"));
            if same && age(&file.path()).is_some_and(|age| age >= lives) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// How old a file is; `None` for one that is not there or of the future.
fn age(path: &std::path::Path) -> Option<Duration> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    SystemTime::now().duration_since(modified).ok()
}
