//! Databases that a test has given back, emptied for the next one: much quicker than new ones.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::query;

/// The databases of a cluster.
#[derive(Debug, Default)]
pub(super) struct Pool {
    made: AtomicU32,
    idle: Mutex<Vec<String>>,
}

/// The right to use a database. Dropping it gives the database back, unless the test has failed.
#[derive(Debug)]
pub(super) struct Loan {
    name: String,
    pool: Arc<Pool>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.pool.idle().push(std::mem::take(&mut self.name));
        }
    }
}

/// Ends the sessions that are left, and takes everything away that a test usually makes.
const EMPTY: &str = "
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE s text;
BEGIN
  FOR s IN SELECT nspname FROM pg_namespace
           WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', s);
  END LOOP;
END $$;
CREATE SCHEMA public;
GRANT USAGE ON SCHEMA public TO PUBLIC";

/// What a test may have made besides: such a database is not used again.
const UNUSUAL: &str = "
SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())
     + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
     + (SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
        WHERE d.datname = current_database())
     + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_event_trigger)
     + (SELECT count(*) FROM pg_largeobject_metadata)";

impl Pool {
    /// An empty database: one that was given back, else a new one. `url` is that of a name.
    pub(super) fn lend(self: &Arc<Self>, url: impl Fn(&str) -> String, superuser: &str) -> Loan {
        while let Some(name) = self.take() {
            if empty(&url(&name)) {
                return Loan { name, pool: Arc::clone(self) };
            }
        }
        let name = format!("test_{}", self.made.fetch_add(1, Ordering::Relaxed));
        let made = query::run(&url(superuser), &format!("CREATE DATABASE {name}"));
        made.unwrap_or_else(|e| panic!("a new database: {e}"));
        Loan { name, pool: Arc::clone(self) }
    }

    fn take(&self) -> Option<String> {
        self.idle().pop()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn empty(url: &str) -> bool {
    let usual = query::run(url, UNUSUAL).is_ok_and(|rows| rows == [vec![Some("0".to_owned())]]);
    usual && query::run(url, EMPTY).is_ok()
}
