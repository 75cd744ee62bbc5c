//! Giving up work in a thread: what waits for it has gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use adbc_core::CancelHandle;
use highwater_core::{Error, Result};

/// Interrupts the thread behind a future that is dropped.
#[derive(Default)]
pub(crate) struct Abandon(pub(crate) Arc<Watched>);

/// What a thread is at.
#[derive(Default)]
pub(crate) struct Watched {
    abandoned: AtomicBool,
    handle: Mutex<Option<Box<dyn CancelHandle>>>,
}

impl Watched {
    /// Tells what is to be interrupted.
    ///
    /// # Errors
    /// `Interrupted` when the future is gone already.
    pub(crate) fn watch(&self, handle: Box<dyn CancelHandle>) -> Result<()> {
        if let Ok(mut place) = self.handle.lock() {
            *place = Some(handle);
        }
        if self.abandoned.load(Ordering::SeqCst) {
            return Err(Error::interrupted("The read was given up"));
        }
        Ok(())
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::SeqCst);
        if let Ok(handle) = self.0.handle.lock()
            && let Some(handle) = handle.as_ref()
            && let Err(error) = handle.try_cancel()
        {
            tracing::debug!(%error, "a read that was given up goes on to its next batch");
        }
    }
}
