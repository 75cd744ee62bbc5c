//! A process: started in a group of its own, watched, and never left behind.
//!
//! Whatever it starts stays in its process group, which is killed as a whole when the
//! process is stopped, dropped or ends by itself; for the case that highwater itself is killed, a
//! *guard* (`guard.rs`) stands by. What leaves its group on purpose, as a daemon does, is not
//! found.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::Kind;
use crate::guard::Guard;
use crate::logs::{LogBook, follow};

/// How long a process may take to end after it was asked to. CloudQuery's Python SDK itself gives
/// calls that are open five seconds.
const GRACE: Duration = Duration::from_secs(10);
/// How long what a process printed last may take to arrive once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What to start.
pub struct Launch {
    /// What it is to the user.
    pub kind: Kind,
    /// Its name in the configuration.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables, beside all that highwater itself has.
    pub environment: Vec<(String, String)>,
    /// Which of its standard streams the caller takes over.
    pub pipes: Pipes,
    /// The socket that it makes, to be removed at the end.
    pub socket: Option<PathBuf>,
    /// A folder of files for it, which is removed when it has ended.
    pub folder: Option<TempDir>,
    /// What `program` runs, if it is a container.
    pub container: Option<Container>,
}

/// Which standard streams of a process its starter takes over. Standard error is always logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pipes {
    /// Whether it can be written to; else it reads nothing.
    pub input: bool,
    /// Whether what it prints is the caller's to read; else it is logged.
    pub output: bool,
}

/// A container that outlives the `docker` command which runs it.
#[derive(Debug, Clone)]
pub struct Container {
    /// The `docker` command.
    pub docker: PathBuf,
    /// Its name, by which it is removed.
    pub name: String,
    /// Variables for that command, such as where the engine is.
    pub environment: Vec<(String, String)>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// It has ended; what it printed last may still be on its way.
    Ended(Exit),
    /// It has ended and everything it printed is in the book.
    Read(Exit),
}

/// A process that was started. Dropping it kills its group.
#[derive(Debug)]
pub struct Process {
    kind: Kind,
    name: String,
    group: Pid,
    stage: watch::Receiver<Stage>,
    /// The end as the kernel told it: between its being known there and in `stage` there is a
    /// moment in which neither tells it.
    peeked: OnceLock<Exit>,
    stopping: AtomicBool,
    book: Arc<LogBook>,
    /// What it logs into.
    pipes: Vec<OwnedFd>,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    socket: Option<PathBuf>,
    container: Option<Container>,
}

impl Exit {
    /// The code as a shell shows it: a signal is 128 and its number.
    fn number(self) -> i32 {
        self.code.or(self.signal.map(|s| 128 + s)).unwrap_or(-1)
    }

    /// Killed: no other way to start it would help.
    pub fn is_killed(self) -> bool {
        self.number() == 137
    }

    /// Ended by a signal, seen directly or as a shell tells it: not by its own decision.
    pub fn is_by_signal(self) -> bool {
        self.signal.is_some() || matches!(self.code, None | Some(129..=159))
    }

    /// For an error: the exit code as a shell shows it, and what it means.
    pub fn words(self) -> String {
        match self.number() {
            137 => "exit code 137: killed, most often because it was out of memory".to_owned(),
            139 => "exit code 139: it crashed".to_owned(),
            number => format!("exit code {number}"),
        }
    }

    /// Whether this is how a process ends that was asked to by SIGINT. Programs without a
    /// handler die of the signal; Go's runtime makes it exit code 2, shells make it 130.
    pub fn is_clean(self) -> bool {
        matches!(self.code, Some(0 | 2 | 130 | 143)) || self.signal.is_some()
    }
}

impl Process {
    /// Starts `launch`. Needs a running tokio runtime.
    ///
    /// # Errors
    /// `Config` when the operating system cannot start the program.
    pub async fn start(mut launch: Launch, book: Arc<LogBook>) -> Result<Self> {
        let mut child = spawn(&launch).await?;
        let group =
            child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).ok_or_else(
                || Error::internal("A process that was just started has no process id"),
            )?;
        let guard = Guard::stand_by(group, &launch);
        let input = child.stdin.take();
        let output = if launch.pipes.output { child.stdout.take() } else { None };
        let pipes = [
            child.stdout.as_ref().map(|out| out.as_fd().try_clone_to_owned()),
            child.stderr.as_ref().map(|err| err.as_fd().try_clone_to_owned()),
        ];
        let readers = (
            child.stdout.take().map(|from| tokio::spawn(reader(from, Arc::clone(&book)))),
            child.stderr.take().map(|from| tokio::spawn(reader(from, Arc::clone(&book)))),
        );
        let folder = launch.folder.take();
        let (stage, receiver) = watch::channel(Stage::Running);
        tokio::spawn(async move {
            let exit = match child.wait().await {
                Ok(status) => Exit { code: status.code(), signal: status.signal() },
                Err(_) => Exit { code: None, signal: None },
            };
            stage.send_replace(Stage::Ended(exit));
            // Helpers that it started and left behind.
            let _ = kill_process_group(group, Signal::KILL);
            // The guard would remove the folder, if we were killed before we have.
            drop(folder);
            drop(guard);
            let everything = async {
                for reader in [readers.0, readers.1].into_iter().flatten() {
                    let _ = reader.await;
                }
            };
            let _ = timeout(LAST_WORDS, everything).await;
            stage.send_replace(Stage::Read(exit));
        });
        Ok(Self {
            kind: launch.kind,
            name: launch.name,
            group,
            stage: receiver,
            peeked: OnceLock::new(),
            stopping: AtomicBool::new(false),
            book,
            pipes: pipes.into_iter().flatten().filter_map(Result::ok).collect(),
            input,
            output,
            socket: launch.socket,
            container: launch.container,
        })
    }

    /// What it reads, once; only if [`Pipes::input`] was asked for.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// What it prints, once; only if [`Pipes::output`] was asked for.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.output.take()
    }

    /// Returns when the process has ended and everything it printed has been read.
    pub async fn ended(&self) -> Exit {
        let mut stage = self.stage.clone();
        let last = stage.wait_for(|stage| matches!(stage, Stage::Read(_))).await.map(|s| *s);
        match last {
            Ok(Stage::Read(exit) | Stage::Ended(exit)) => exit,
            _ => Exit { code: None, signal: None },
        }
    }

    /// Returns when everything that it has printed until now is in the book.
    pub async fn heard(&self) {
        self.book.caught_up(&self.pipes).await;
    }

    /// How the process ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        match *self.stage.borrow() {
            Stage::Ended(exit) | Stage::Read(exit) => Some(exit),
            // The kernel may know it before our task was scheduled.
            Stage::Running => self.peek(),
        }
    }

    fn peek(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Ok(Some(status)) = waitid(WaitId::Pid(self.group), options) {
            let exit = Exit { code: status.exit_status(), signal: status.terminating_signal() };
            let _ = self.peeked.set(exit);
        }
        self.peeked.get().copied()
    }

    /// Whether what was started is a command that runs a container.
    pub fn is_container(&self) -> bool {
        self.container.is_some()
    }

    /// What the user is told if the process ended without being asked to.
    pub fn died(&self) -> Option<Error> {
        let exit = self.exit()?;
        (!self.stopping.load(Ordering::Acquire)).then(|| {
            let words = exit.words();
            let message =
                format!("The {} ended in the middle of the work ({words})", self.kind.noun());
            self.death(ErrorKind::Transient, message).hint(if exit.is_killed() {
                "Give it more memory, or let it read fewer tables at a time"
            } else {
                "Run again; if it ends again, its own log lines say why"
            })
        })
    }

    /// As [`Process::died`], but gives an end that has just begun a moment to be seen: a broken
    /// connection is noticed before the end of the process that broke it. Waits at most 200 ms.
    pub fn died_just_now(&self) -> Option<Error> {
        for _ in 0..20 {
            if let Some(error) = self.died() {
                return Some(error);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.died()
    }

    /// What the user is told if the process ended before it could be used. One that ends by
    /// itself will do so again, so that is `Config`; a signal came from outside.
    pub fn died_at_start(&self, exit: Exit) -> Error {
        let kind = if exit.is_by_signal() { ErrorKind::Transient } else { ErrorKind::Config };
        let words = exit.words();
        let noun = self.kind.noun();
        self.death(kind, format!("The {noun} ended as soon as it was started ({words})"))
    }

    /// An error about its end, with its name and what it printed last.
    pub fn death(&self, kind: ErrorKind, message: String) -> Error {
        let error = Error::new(kind, message).context(self.kind.noun(), &self.name);
        match self.book.last_lines() {
            lines if lines.is_empty() => error,
            lines => error.context("its last lines", lines),
        }
    }

    /// Asks the process to end, and kills it after ten seconds.
    ///
    /// # Errors
    /// `Transient` when it had ended before it was asked to, or ends with an exit code that says
    /// that something went wrong.
    pub async fn stop(&self) -> Result<()> {
        if let Some(error) = self.died() {
            self.stopping.store(true, Ordering::Release);
            self.ended().await;
            return Err(error);
        }
        if self.stopping.swap(true, Ordering::AcqRel) {
            self.ended().await;
            return Ok(());
        }
        let _ = kill_process_group(self.group, asking(self.kind));
        if let Ok(exit) = timeout(GRACE, self.ended()).await {
            return if exit.is_clean() { Ok(()) } else { Err(self.bad_end(exit)) };
        }
        match self.kind {
            Kind::Plugin => {
                tracing::warn!(plugin = %self.name, "the plugin did not end within 10 s and was killed");
            }
            Kind::Connector => tracing::warn!(
                connector = %self.name,
                "the connector did not end within 10 s and was killed"
            ),
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        if let Some(container) = &self.container {
            container.remove().await;
        }
        let _ = timeout(GRACE, self.ended()).await;
        Ok(())
    }

    fn bad_end(&self, exit: Exit) -> Error {
        let words = exit.words();
        let message = format!("The {} ended badly when it was stopped ({words})", self.kind.noun());
        self.death(ErrorKind::Transient, message)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(*self.stage.borrow(), Stage::Running) {
            let _ = kill_process_group(self.group, Signal::KILL);
            if let Some(container) = &self.container {
                container.remove_in_background();
            }
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Container {
    fn removal(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.docker);
        command.args(["rm", "--force", &self.name]);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    async fn remove(&self) {
        let _ = timeout(GRACE, Command::from(self.removal()).status()).await;
    }

    fn remove_in_background(&self) {
        if let Ok(mut child) = self.removal().spawn() {
            std::thread::spawn(move || child.wait());
        }
    }
}

/// The signal that a process of `kind` takes as a wish: CloudQuery's own command sends SIGINT, and
/// what Airbyte runs in containers is stopped by SIGTERM.
fn asking(kind: Kind) -> Signal {
    match kind {
        Kind::Plugin => Signal::INT,
        Kind::Connector => Signal::TERM,
    }
}

async fn reader(from: impl tokio::io::AsyncRead + Unpin, book: Arc<LogBook>) {
    follow(from, &book).await;
}

async fn spawn(launch: &Launch) -> Result<Child> {
    heed_signals();
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .envs(launch.environment.iter().map(|(key, value)| (key, value)))
        .stdin(if launch.pipes.input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // A file that was written a moment ago may still be open for writing in a child that some
    // other thread is just about to start.
    let mut busy = 0;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && busy < 20 => {
                busy += 1;
                sleep(Duration::from_millis(50)).await;
            }
            result => return result.map_err(|e| spawn_error(launch, e)),
        }
    }
}

/// Lets processes end by the signal that asks them to. A shell ignores SIGINT for what it runs in its
/// background; a process inherits that, and Python, for one, then never takes it. What this process
/// handles is back at its default in those that it starts; to handle it and do nothing is to ignore
/// it. (To change it in the child would need its `execvp`, which runs anything as a shell script.)
fn heed_signals() {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        if is_ignored(kind.as_raw_value())
            && let Err(error) = signal(kind)
        {
            tracing::debug!(%error, "a signal cannot be handled");
        }
    }
}

#[allow(unsafe_code)]
fn is_ignored(signal: libc::c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action `sigaction` only writes the present one into `now`, for which
    // zeros are a valid value too.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

fn spawn_error(launch: &Launch, error: std::io::Error) -> Error {
    let hint = match error.raw_os_error() {
        // ENOENT for a file that is there: the interpreter of its first line is not.
        Some(2) => "Look at its first line: the program after `#!` is missing on this machine",
        // ENOEXEC
        Some(8) => {
            "It is no program for this machine: take the build for this operating system and \
             processor, or give a script a first line such as `#!/usr/bin/env python3`"
        }
        _ => "Run it by hand to see what is wrong with it",
    };
    Error::config(format!("The {} cannot be started", launch.kind.noun()))
        .context(launch.kind.noun(), &launch.name)
        .context("path", launch.program.display())
        .hint(hint)
        .caused_by(error)
}
