//! The data path: source → batches → checkpoint → destination → commit → acknowledge.
//!
//! Read [`sync`] for a run and [`copy`] for one partition of it; the rest of the engine prepares
//! what these two do. The order inside `copy` is the promise of the project: rows and cursor are
//! committed first (together, or rows before cursor), and only then the source is told.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Completion, Error, Message, Output, Partition, Result, Source,
};

use crate::events::Event;
use crate::lanes::{Lane, Site};
use crate::options::{RunOptions, SyncRequest};
use crate::planning;
use crate::run::Run;
use crate::summary::Summary;

/// Messages between a source and its writers: enough to keep both busy, few enough to keep
/// memory small.
const MESSAGES_IN_FLIGHT: usize = 4;

/// How long a source that was asked to stop may go on to its next checkpoint.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a sync to its end: takes the leases, makes the plan, copies every partition, finishes
/// every table that is complete, gives the leases back.
///
/// # Errors
/// What concerns one table or one destination is in the summary. An `Err` means that the run
/// could not begin: the plan was refused, the source is out of reach, a lease is held.
pub async fn sync(
    source: Arc<dyn Source>,
    request: &SyncRequest,
    options: &RunOptions,
) -> Result<Summary> {
    let identity = planning::new_run();
    let mut run = Run::begin(source, request, options, &identity).await?;
    let result = run.copy_all().await;
    run.release().await;
    result?;
    Ok(run.into_summary(&identity))
}

/// Copies one partition: reads it once and writes it to every lane.
///
/// A lane is a destination's part in it. A lane that fails is left behind with its error and its
/// older cursor; the others go on. The returned completion is the source's.
pub(crate) async fn copy(
    source: &Arc<dyn Source>,
    partition: &Partition,
    lanes: &mut [Lane],
    site: &Site,
) -> Result<Completion> {
    let (output, mut messages) =
        Output::bounded(MESSAGES_IN_FLIGHT, Arc::clone(&site.options.stop.flag));
    let reading = site.spawn_read(Arc::clone(source), partition.clone(), output);
    let mut out_of_patience = pin!(site.stopped_for(STOP_PATIENCE));
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = &mut out_of_patience => return Ok(Completion::Stopped),
        };
        match message {
            Some(Message::Batch(batch)) => write(lanes, &batch, site).await,
            Some(Message::Checkpoint(checkpoint)) => {
                commit(source, lanes, &checkpoint, site).await?;
            }
            None => break,
        }
        if lanes.iter().all(Lane::has_failed) {
            // Nobody is left to write to. Dropping the receiver ends the read.
            return Ok(Completion::Stopped);
        }
    }
    let completion = reading.await?;
    if completion == Completion::Complete && lanes.iter().any(Lane::is_dirty) {
        // A full refresh has no cursor; its rows are covered because the read is complete.
        commit(source, lanes, &Checkpoint::default(), site).await?;
    }
    Ok(completion)
}

async fn write(lanes: &mut [Lane], batch: &Batch, site: &Site) {
    site.options
        .observer
        .event(&Event::RowsRead { table: &batch.table.name, rows: batch.rows.num_rows() as u64 });
    join_all(lanes.iter_mut().map(|lane| lane.write(batch))).await;
}

/// Commits rows and cursors in every lane, saves cursors that are kept apart from the data, and
/// then tells the source, if every destination of the sync has them (invariant I4).
async fn commit(
    source: &Arc<dyn Source>,
    lanes: &mut [Lane],
    checkpoint: &Checkpoint,
    site: &Site,
) -> Result<()> {
    join_all(lanes.iter_mut().map(|lane| lane.commit(checkpoint))).await;
    if site.covers_every_target && !lanes.iter().any(Lane::has_failed) {
        crash::at(CrashPoint::Acknowledge);
        source.acknowledge(checkpoint).await?;
        crash::at(CrashPoint::Acknowledged);
    }
    Ok(())
}

/// The error of a task that panicked or was cancelled.
pub(crate) fn task_ended(error: tokio::task::JoinError) -> Error {
    Error::internal("A task of the sync ended unexpectedly").caused_by(error)
}
