//! Sessions that are used again.
//!
//! To open a session costs both sides more than everything that a sync without new rows says in
//! it: a process of the server, a handshake, caches that fill. So what is needed one after the
//! other (the look at the tables, the lease, the rows, the end) is done in the same session.
//!
//! A session comes back by [`Session::give_back`] alone, between two transactions. One that is
//! dropped is closed, whatever state it is in.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_core::Result;
use tokio::time::Instant;

use crate::conninfo::Target;
use crate::session::Session;

/// After so long without use a session is closed: what lies between may have forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// After so short a time the session is taken as it is: to ask costs as much as what it is for.
const JUST_NOW: Duration = Duration::from_millis(20);

/// The sessions that wait for their next use, each with the time of its last one.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<(Session, Instant)>>);

impl Idle {
    pub(crate) fn put(&self, session: Session) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, since)| since.elapsed() < IDLE_MAX);
        waiting.push((session, Instant::now()));
    }

    fn take(&self) -> Option<(Session, Instant)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(session, since)| since.elapsed() < IDLE_MAX && !session.is_closed());
        waiting.pop()
    }

    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Sessions of one connector, which differ by their names only.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    target: Target,
    settings: Vec<(&'static str, String)>,
    idle: Arc<Idle>,
}

impl Pool {
    pub(crate) fn new(target: Target, settings: Vec<(&'static str, String)>) -> Self {
        Self(Arc::new(Inner { target, settings, idle: Arc::default() }))
    }

    /// A session with this `application_name`, or the one that the connection string gives.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn session(&self, name: Option<&str>) -> Result<Session> {
        while let Some((mut session, since)) = self.0.idle.take() {
            let is_fresh = session.has_name(name) && since.elapsed() < JUST_NOW;
            // The server may have ended it meanwhile: this tells.
            if is_fresh || session.set_name(name).await.is_ok() {
                session.belongs_to(&self.0.idle);
                return Ok(session);
            }
        }
        let settings: Vec<(&str, &str)> =
            self.0.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut session = Session::open(&self.0.target, &settings, name).await?;
        session.belongs_to(&self.0.idle);
        Ok(session)
    }

    /// Whether the sessions may be of several servers.
    pub(crate) fn has_several_hosts(&self) -> bool {
        let config = &self.0.target.config;
        config.get_hosts().len().max(config.get_hostaddrs().len()) > 1
    }

    /// Closes the sessions that nobody uses.
    pub(crate) fn close(&self) {
        self.0.idle.close();
    }
}
