//! Work of databases in this process, which blocks the thread that asks.

use highwater_core::{Error, Result};

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; `Internal` when its thread ended early.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("A thread ended early").caused_by(error))?
}

/// What a writer works on, which is lent to a thread for each piece of work. It is dropped after an
/// error: what was not committed is gone then, and the writer is of no use any more.
#[derive(Debug)]
pub struct Lent<W>(Option<Box<W>>);

impl<W: Send + 'static> Lent<W> {
    /// Something that has not failed yet.
    pub fn new(worker: W) -> Self {
        Self(Some(Box::new(worker)))
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// As [`blocking`]; `Internal` after an earlier error.
    pub async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut W) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut worker =
            self.0.take().ok_or_else(|| Error::internal("The writer has failed before"))?;
        let done = blocking(move || work(&mut worker).map(|value| (worker, value)));
        let (worker, value) = done.await?;
        self.0 = Some(worker);
        Ok(value)
    }
}
