//! Points at which a test ends or stops this process, to prove that nothing is lost there.
//!
//! Every step of the data path and of every commit protocol has a [`CrashPoint`]. The crash suite
//! walks [`CrashPoint::ALL`] and fails if a point is never reached, so a new point cannot be
//! forgotten, and a point that is no longer passed cannot stay. In release builds [`at`] is empty.

macro_rules! crash_points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A place in the data path or a commit protocol where a process may die.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CrashPoint { $($(#[$doc])* $name,)* }

        impl CrashPoint {
            /// Every point there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name that `HIGHWATER_CRASH` takes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

crash_points! {
    /// The lease was taken: older runs are fenced, nothing is read yet.
    LeaseTaken = "lease.taken",
    /// All is committed, the lease is still ours.
    LeaseRelease = "lease.release",
    /// The source holds its snapshot and has sent no row.
    ReadSnapshot = "read.snapshot",
    /// The source has sent a batch.
    ReadBatch = "read.batch",
    /// The source has sent its last row and no checkpoint.
    ReadRows = "read.rows",
    /// A staging table exists and is empty.
    StageCreated = "stage.created",
    /// A batch was written and is not committed.
    StageBatch = "stage.batch",
    /// All rows of the checkpoint are staged or written, the commit has not begun.
    StageRows = "stage.rows",
    /// The fence row was checked inside the transaction.
    CommitFence = "commit.fence",
    /// The schema changes were made inside the transaction.
    CommitSchema = "commit.schema",
    /// The history rows were added inside the transaction.
    CommitHistory = "commit.history",
    /// The rows were merged inside the transaction.
    CommitRows = "commit.rows",
    /// The cursors and the sequence number were written inside the transaction.
    CommitState = "commit.state",
    /// The transaction is durable; nobody has been told.
    CommitDone = "commit.done",
    /// A data file is complete and durable, and no manifest names it.
    FileWritten = "file.written",
    /// The manifest's content is durable under a temporary name.
    FileManifestStaged = "file.manifest_staged",
    /// The manifest exists; the files still have their hidden names.
    FileManifest = "file.manifest",
    /// Some of the committed files have their final names.
    FilePublished = "file.published",
    /// A plugin has handed over its cursor while it reads: it is held, and durable nowhere.
    PluginFlushed = "plugin.flushed",
    /// A plugin has sent everything; the rows wait for their commit, the cursor is not sent yet.
    PluginEnded = "plugin.ended",
    /// A plugin has answered that the rows are written; the cursors are not sent yet.
    PluginWriteClosed = "plugin.write_closed",
    /// Data is durable, the cursor (kept elsewhere) is not saved yet.
    StateSave = "state.save",
    /// The cursor (kept elsewhere) is saved.
    StateSaved = "state.saved",
    /// Rows and cursor are durable, the source does not know.
    Acknowledge = "acknowledge.before",
    /// The source knows.
    Acknowledged = "acknowledge.after",
    /// All partitions of a table are committed, the table is not finished.
    FinishBegin = "finish.begin",
    /// Stale rows were deleted or the new table swapped in, inside the transaction.
    FinishApplied = "finish.applied",
    /// The finishing transaction is durable.
    FinishDone = "finish.done",
}

/// Ends or stops this process here if `HIGHWATER_CRASH` names `point`.
///
/// `HIGHWATER_CRASH=NAME[:NTH][:stop]` acts when the point is passed for the NTH time (from 1):
/// the process ends with status 137 without running any destructor, or, with `:stop`, stops
/// itself with SIGSTOP and goes on when it is continued. `HIGHWATER_CRASH_TRACE=FILE` appends the
/// name of every point that is passed to a file, a line each.
#[inline]
pub fn at(point: CrashPoint) {
    #[cfg(debug_assertions)]
    armed::at(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(debug_assertions)]
mod armed {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::CrashPoint;

    struct Armed {
        name: String,
        left: AtomicU64,
        stop: bool,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static TRACE: OnceLock<Option<File>> = OnceLock::new();

    fn open_trace() -> Option<File> {
        let path = std::env::var_os("HIGHWATER_CRASH_TRACE")?;
        OpenOptions::new().create(true).append(true).open(path).ok()
    }

    fn parse() -> Option<Armed> {
        let text = std::env::var("HIGHWATER_CRASH").ok()?;
        let mut parts = text.split(':');
        let name = parts.next()?.to_owned();
        let (mut nth, mut stop) = (1, false);
        for part in parts {
            match part.parse() {
                Ok(n) => nth = n,
                Err(_) => stop = part == "stop",
            }
        }
        Some(Armed { name, left: AtomicU64::new(nth), stop })
    }

    pub(super) fn at(point: CrashPoint) {
        if let Some(mut trace) = TRACE.get_or_init(open_trace).as_ref() {
            // One write per line: lines of several threads do not mix.
            let _ = trace.write_all(format!("{}\n", point.name()).as_bytes());
        }
        let Some(armed) = ARMED.get_or_init(parse) else { return };
        if armed.name != point.name() || armed.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        if armed.stop {
            crate::process::stop_self();
        } else {
            crate::process::exit_now(137);
        }
    }
}
