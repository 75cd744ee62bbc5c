//! Work of databases in this process, which blocks the thread that asks.

use highwater_core::{Error, Result};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; `Internal` when its thread ended early.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(ended_early)?
}

fn ended_early(error: JoinError) -> Error {
    Error::internal("A thread ended early").caused_by(error)
}

/// What a writer works on, which is lent to a thread for each piece of work. It is dropped after an
/// error: what was not committed is gone then, and the writer is of no use any more.
#[derive(Debug)]
pub struct Lent<W>(State<W>);

#[derive(Debug)]
enum State<W> {
    Here(Box<W>),
    /// A thread has it, and gives it back.
    Away(JoinHandle<Result<Box<W>>>),
    Gone,
}

impl<W: Send + 'static> Lent<W> {
    /// Something that has not failed yet.
    pub fn new(worker: W) -> Self {
        Self(State::Here(Box::new(worker)))
    }

    /// Runs `work` on a thread that may block, after everything that was begun before.
    ///
    /// # Errors
    /// As [`blocking`], also those of work that was begun before; `Internal` after an earlier error.
    pub async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut W) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut worker = self.back().await?;
        let (worker, value) =
            blocking(move || work(&mut worker).map(|value| (worker, value))).await?;
        self.0 = State::Here(worker);
        Ok(value)
    }

    /// Begins `work` on a thread that may block, and does not wait for it. What goes wrong with it
    /// is told by the next call.
    ///
    /// # Errors
    /// Those of work that was begun before; `Internal` after an earlier error.
    pub async fn begin(
        &mut self,
        work: impl FnOnce(&mut W) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let mut worker = self.back().await?;
        self.0 = State::Away(spawn_blocking(move || work(&mut worker).map(|()| worker)));
        Ok(())
    }

    /// The worker, once nobody has it any more.
    async fn back(&mut self) -> Result<Box<W>> {
        match std::mem::replace(&mut self.0, State::Gone) {
            State::Here(worker) => Ok(worker),
            State::Away(work) => work.await.map_err(ended_early)?,
            State::Gone => Err(Error::internal("The writer has failed before")),
        }
    }
}
