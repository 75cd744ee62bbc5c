//! Running the real program as a child that dies, stops or is killed at a chosen place, and
//! knowing what has to be at the destination afterwards.

mod shop;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use highwater_core::CrashPoint;
use serde_json::Value;

pub use shop::{Deliveries, Expected, Shop};

/// The status with which a child ends at a crash point.
pub const CRASHED: i32 = 137;

/// No child of a test takes this long; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(2);

/// Where a child crashes or stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashAt {
    /// The point.
    pub point: CrashPoint,
    /// When it is passed for this time, from 1.
    pub nth: u64,
}

impl CrashAt {
    /// The value of `HIGHWATER_CRASH`.
    pub fn to_variable(self) -> String {
        format!("{}:{}", self.point.name(), self.nth)
    }
}

/// The program under test.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    folder: PathBuf,
}

impl Program {
    /// The program at `path`; its children work in `folder`.
    pub fn new(path: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), folder: folder.into() }
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[String]) -> Ended {
        self.start(arguments, None).wait()
    }

    /// Runs it to its end, and says how often it passed each crash point, by name.
    pub fn run_and_trace(&self, arguments: &[String]) -> (Ended, BTreeMap<String, u64>) {
        let trace = tempfile::NamedTempFile::new().expect("a temporary file");
        let variable = ("HIGHWATER_CRASH_TRACE", trace.path().as_os_str());
        let ended = self.start_with(arguments, &[variable]).wait();
        let mut passed = BTreeMap::new();
        for line in std::fs::read_to_string(trace.path()).expect("our own file").lines() {
            *passed.entry(line.to_owned()).or_default() += 1;
        }
        (ended, passed)
    }

    /// Runs it until it crashes, or to its end when it never gets there.
    pub fn run_and_crash(&self, arguments: &[String], at: CrashAt) -> Ended {
        self.start(arguments, Some(&at.to_variable())).wait()
    }

    /// Starts it; `crash` is the value of `HIGHWATER_CRASH`.
    pub fn start(&self, arguments: &[String], crash: Option<&str>) -> Running {
        let variable = crash.map(|crash| ("HIGHWATER_CRASH", OsStr::new(crash)));
        self.start_with(arguments, variable.as_slice())
    }

    fn start_with(&self, arguments: &[String], variables: &[(&str, &OsStr)]) -> Running {
        let stdout = tempfile::tempfile().expect("a temporary file");
        let stderr = tempfile::tempfile().expect("a temporary file");
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env_remove("HIGHWATER_CRASH")
            .env_remove("HIGHWATER_CRASH_TRACE")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().expect("a second handle"))
            .stderr(stderr.try_clone().expect("a second handle"));
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
        let shown = format!("{variables:?} {}", arguments.join(" "));
        Running { child, stdout, stderr, shown, since: Instant::now() }
    }
}

/// A child at work. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    shown: String,
    since: Instant,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn wait(mut self) -> Ended {
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Ended {
                    code: status.code(),
                    signal: status.signal(),
                    stdout: text(&mut self.stdout),
                    stderr: text(&mut self.stderr),
                };
            }
            self.look_at_the_clock("ends");
        }
    }

    /// Waits until it has stopped itself (`HIGHWATER_CRASH=POINT:NTH:stop`); `false` when it
    /// ended without getting there.
    pub fn wait_until_stopped(&mut self) -> bool {
        loop {
            if self.child.try_wait().expect("our own child").is_some() {
                return false;
            }
            let stat = Path::new("/proc").join(self.child.id().to_string()).join("stat");
            let stat = std::fs::read_to_string(stat).unwrap_or_default();
            let state =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            if state == Some('T') {
                return true;
            }
            self.look_at_the_clock("stops");
        }
    }

    /// Sends it a signal by name, for example `CONT`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {id}");
    }

    fn look_at_the_clock(&mut self, what: &str) {
        if self.since.elapsed() > PATIENCE {
            let _ = self.child.kill();
            let said = text(&mut self.stderr);
            panic!("a child never {what}: {}\n{said}", self.shown);
        }
        std::thread::sleep(GLANCE);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a file can be read from its start");
    file.read_to_end(&mut bytes).expect("our own file");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a child ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, if it was not ended by a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed as a result.
    pub stdout: String,
    /// What it printed beside.
    pub stderr: String,
}

impl Ended {
    /// The end of a child that did everything.
    ///
    /// # Errors
    /// Everything that is known of another end.
    pub fn expect(self, code: i32) -> Result<Self, String> {
        if self.code == Some(code) {
            return Ok(self);
        }
        Err(format!(
            "ended with code {:?}, signal {:?}, expected {code}\n{}\n{}",
            self.code, self.signal, self.stdout, self.stderr
        ))
    }

    /// The numbers of the tables of a `sync --json`, of all destinations.
    pub fn tables(&self) -> Vec<Value> {
        let Ok(report) = serde_json::from_str::<Value>(&self.stdout) else { return Vec::new() };
        let lists = report["syncs"].as_array().into_iter().flatten();
        let lists = lists.flat_map(|sync| sync["destinations"].as_array().into_iter().flatten());
        lists.flat_map(|d| d["tables"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// The sum of a number over all tables: `rows_written`.
    pub fn sum(&self, number: &str) -> u64 {
        self.tables().iter().filter_map(|table| table[number].as_u64()).sum()
    }

    /// The guarantee that was shown for the tables, without its reason: `exactly_once`.
    ///
    /// # Panics
    /// When the output holds none, or different ones.
    pub fn guarantee(&self) -> String {
        let shown: BTreeSet<String> = self
            .tables()
            .iter()
            .filter_map(|table| Some(table["guarantee"].as_str()?.split('(').next()?.to_owned()))
            .collect();
        match shown.len() {
            1 => shown.into_iter().next().unwrap_or_default(),
            _ => panic!("not one guarantee but {shown:?}: {}{}", self.stdout, self.stderr),
        }
    }
}
