//! A hot standby of a cluster: a copy that follows it and can only be read.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{PATIENCE, Postgres, SUPERUSER};

impl Postgres {
    /// A standby of this cluster, as another cluster: it has all databases as they are now, and
    /// follows. Databases are the primary's, under the same names.
    ///
    /// # Panics
    /// When the copy cannot be made or does not start.
    pub fn start_standby(&self) -> Self {
        let mut standby = Self::unmade();
        let output = standby
            .command("pg_basebackup")
            .args(["--checkpoint=fast", "--no-sync", "--wal-method=stream"])
            .args(["--write-recovery-conf", "--host=127.0.0.1", "--username", SUPERUSER])
            .args(["--port", &self.port.to_string(), "--pgdata"])
            .arg(standby.data())
            .output()
            .expect("pg_basebackup runs");
        assert!(
            output.status.success(),
            "pg_basebackup failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        standby.start_on_a_free_port();
        standby
    }

    /// Waits until this standby has replayed everything that its primary has written.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn catch_up(&self, primary: &Self) {
        let written = primary.database(SUPERUSER).value("SELECT pg_current_wal_insert_lsn()");
        let written = written.expect("a position");
        // Nothing else makes a primary write down what no commit has asked for.
        primary.database(SUPERUSER).execute("SELECT pg_switch_wal()");
        let look = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn");
        let since = Instant::now();
        while self.database(SUPERUSER).value(&look).as_deref() != Some("t") {
            assert!(since.elapsed() < PATIENCE, "the standby does not follow:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Lets this standby replay nothing more, as one that lags behind.
    pub fn pause_replay(&self) {
        self.database(SUPERUSER).execute("SELECT pg_wal_replay_pause()");
    }

    /// Lets this standby follow again.
    pub fn resume_replay(&self) {
        self.database(SUPERUSER).execute("SELECT pg_wal_replay_resume()");
    }
}
