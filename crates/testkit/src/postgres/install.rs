//! Where PostgreSQL's programs are, and as whom they run.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALL: &str = "apt-get update && apt-get install -y --no-install-recommends postgresql";

/// A folder with `initdb`, `pg_ctl` and `postgres`.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    programs: PathBuf,
}

impl Installation {
    /// The newest one under `/usr/lib/postgresql`, else what `PATH` or `pg_config` knows.
    ///
    /// # Panics
    /// When there is none; the message holds the command that installs it.
    pub(super) fn find() -> Self {
        let programs = debian_folders()
            .into_iter()
            .chain(folders_of_path())
            .chain(pg_config_folder())
            .find(|folder| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file());
        match programs {
            Some(programs) => Self { programs },
            None => panic!(
                "these tests need a PostgreSQL server (initdb, pg_ctl); install it with\n    {INSTALL}"
            ),
        }
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// Debian's folders, newest version first; they are not in `PATH` there.
fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut versions: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin"))).collect()
}

fn folders_of_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn pg_config_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// A user without rights, for the server that refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerUser {
    uid: u32,
    gid: u32,
}

impl ServerUser {
    /// `None` when this process is not root. `folder` was made by this process.
    pub(super) fn when_root(folder: &Path) -> Option<Self> {
        let uid = fs::metadata(folder).expect("the new folder is there").uid();
        if uid != 0 {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let user = |name: &str| {
            let line = users.lines().find(|l| l.split(':').next() == Some(name))?;
            let mut ids = line.split(':').skip(2);
            Some(Self { uid: ids.next()?.parse().ok()?, gid: ids.next()?.parse().ok()? })
        };
        let user = user("postgres").or_else(|| user("nobody"));
        Some(user.expect("a user `postgres` or `nobody`: PostgreSQL does not run as root"))
    }

    /// Gives a file or folder to the user.
    pub(super) fn own(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).expect("root may give files away");
    }

    /// Lets `command` run as the user.
    pub(super) fn run(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}
