//! Work of databases in this process, which blocks the thread that asks.

use std::sync::mpsc;

use highwater_core::{Error, Result};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; `Internal` when its thread ended early.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(ended_early)?
}

fn ended_early(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("A thread ended early").caused_by(error)
}

/// What a writer works on, which is lent to a thread for each piece of work. It is dropped after an
/// error: what was not committed is gone then, and the writer is of no use any more.
#[derive(Debug)]
pub struct Lent<W>(State<W>);

#[derive(Debug)]
enum State<W> {
    Here(Box<W>),
    Away(Away<W>),
    Gone,
}

/// A thread has it, and gives it back.
#[derive(Debug)]
struct Away<W> {
    given_back: oneshot::Receiver<Result<Box<W>>>,
    /// Ends when it was given back.
    working: mpsc::Receiver<()>,
}

impl<W> Drop for Away<W> {
    /// Waits for the thread, and then for the end of what it gave back: a writer that is given up
    /// keeps nothing locked, and nobody works on while the program ends.
    fn drop(&mut self) {
        // Nothing is ever sent.
        let _ = self.working.recv();
    }
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
        let (give_back, given_back) = oneshot::channel();
        let (at_work, working) = mpsc::channel();
        spawn_blocking(move || {
            let _ = give_back.send(work(&mut worker).map(|()| worker));
            drop(at_work);
        });
        self.0 = State::Away(Away { given_back, working });
        Ok(())
    }

    /// The worker, once nobody has it any more.
    async fn back(&mut self) -> Result<Box<W>> {
        match std::mem::replace(&mut self.0, State::Gone) {
            State::Here(worker) => Ok(worker),
            State::Away(mut away) => (&mut away.given_back).await.map_err(ended_early)?,
            State::Gone => Err(Error::internal("The writer has failed before")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// Tells when it is dropped.
    struct Worker(Arc<AtomicBool>);

    impl Drop for Worker {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn slowly(_: &mut Worker) -> Result<()> {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    #[tokio::test]
    async fn a_writer_that_is_given_up_has_let_go_of_everything() {
        let gone = Arc::new(AtomicBool::new(false));
        let mut lent = Lent::new(Worker(Arc::clone(&gone)));
        lent.begin(slowly).await.unwrap();
        drop(lent);
        assert!(gone.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn what_went_wrong_is_told_once_and_nothing_works_after_it() {
        let gone = Arc::new(AtomicBool::new(false));
        let mut lent = Lent::new(Worker(Arc::clone(&gone)));
        lent.begin(slowly).await.unwrap();
        lent.begin(|_| Err(Error::data("no"))).await.unwrap();
        assert_eq!(lent.blocking(|_| Ok(())).await.unwrap_err().message(), "no");
        assert!(gone.load(Ordering::SeqCst));
        let failed = lent.begin(slowly).await.unwrap_err();
        assert_eq!(failed.message(), "The writer has failed before");
    }
}
