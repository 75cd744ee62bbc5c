//! Operations that go wrong when a test says so.

use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::{Error, ErrorKind, Result};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What can go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Operation { $($(#[$doc])* $name,)* }

        impl Operation {
            /// The word in the journal.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

operations! {
    /// `Destination::check`.
    Check = "check",
    /// `Destination::migrate`.
    Migrate = "migrate",
    /// `Writer::write`.
    Write = "write",
    /// `Writer::commit`.
    Commit = "commit",
    /// `Destination::finish`.
    Finish = "finish",
    /// `Destination::close`.
    Close = "close",
    /// `StateStore::open`.
    Open = "open",
    /// `StateStore::renew`.
    Renew = "renew",
    /// `StateStore::save`.
    Save = "save",
    /// `StateStore::save_table`.
    SaveTable = "save_table",
    /// `StateStore::release`.
    Release = "release",
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; an error of this kind comes back.
    Reject(ErrorKind),
    /// It is done, and an error of this kind comes back all the same: the lost reply.
    FailAfter(ErrorKind),
    /// Nothing is done, and no answer ever comes.
    Hang,
}

#[derive(Debug)]
struct Armed {
    operation: Operation,
    left: u64,
    fault: Fault,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Vec<Armed>>>);

impl Faults {
    pub(super) fn inject(&self, operation: Operation, nth: u64, fault: Fault) {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push(Armed { operation, left: nth, fault });
    }

    fn due(&self, operation: Operation) -> Option<Fault> {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = None;
        armed.retain_mut(|armed| {
            if armed.operation != operation {
                return true;
            }
            armed.left = armed.left.saturating_sub(1);
            if armed.left == 0 {
                due = due.or(Some(armed.fault));
            }
            armed.left > 0
        });
        due
    }

    /// Does `work`, unless a fault is due.
    pub(super) async fn around<T>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let error = |kind| Error::new(kind, format!("`{}` fails in this test", operation.as_str()));
        match self.due(operation) {
            None => work(),
            Some(Fault::Reject(kind)) => Err(error(kind)),
            Some(Fault::FailAfter(kind)) => work().and(Err(error(kind))),
            Some(Fault::Hang) => {
                drop(work);
                std::future::pending().await
            }
        }
    }
}
