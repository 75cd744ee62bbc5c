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
    Batch, Checkpoint, Completion, Error, Message, Output, Partition, Result, Source, TableName,
};

use crate::events::Event;
use crate::lanes::{Lane, Site};
use crate::options::{Keeper, RunOptions, StateTable, SyncRequest};
use crate::planning;
use crate::run::Run;
use crate::state_table;
use crate::summary::Summary;

/// Messages between a source and its writers: enough to keep both busy, few enough to keep
/// memory small.
const MESSAGES_IN_FLIGHT: usize = 4;

/// How long a run that was asked to stop may go on to its begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(2);

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
    let result = run(Arc::clone(&source), request, options).await;
    close(source.as_ref(), request).await;
    result
}

async fn run(
    source: Arc<dyn Source>,
    request: &SyncRequest,
    options: &RunOptions,
) -> Result<Summary> {
    let identity = planning::new_run();
    let mut run = tokio::select! {
        run = Run::begin(source, request, options, &identity) => run?,
        () = stopped_for(options, BEGIN_PATIENCE) => {
            return Err(Error::interrupted("The run was stopped before it began"));
        }
    };
    let result = run.copy_all().await;
    run.release().await;
    result?;
    Ok(run.into_summary(&identity))
}

/// Lets all systems of the run end in good order. What was committed is safe already.
async fn close(source: &dyn Source, request: &SyncRequest) {
    let targets = request.targets.iter();
    let apart = request.state_table.iter().filter_map(|table| match &table.keeper {
        Keeper::Apart { destination, .. } => Some(destination),
        Keeper::Target(_) => None,
    });
    let destinations: Vec<_> = targets
        .flat_map(|t| [Some(&t.destination), t.backend.as_ref()])
        .flatten()
        .chain(apart)
        .collect();
    let closed = join_all(destinations.iter().map(|destination| destination.close()));
    let (read, written) = tokio::join!(source.close(), closed);
    for error in written.into_iter().chain([read]).filter_map(Result::err) {
        tracing::warn!(error = %error.full_message(), "A system did not end in good order");
    }
}

/// Returns when the run was asked to stop and `patience` has passed since.
async fn stopped_for(options: &RunOptions, patience: Duration) {
    options.stop.stopped().await;
    tokio::time::sleep(patience).await;
}

/// How the copy of a partition ended.
pub(crate) struct Copied {
    /// How the read ended.
    pub(crate) completion: Completion,
    /// The tables that the source could not read completely.
    pub(crate) failed: Vec<(TableName, Arc<Error>)>,
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
) -> Result<Copied> {
    let (output, mut messages) =
        Output::bounded(MESSAGES_IN_FLIGHT, Arc::clone(&site.options.stop.flag));
    let reading = site.spawn_read(Arc::clone(source), partition.clone(), output);
    let mut out_of_patience = pin!(stopped_for(&site.options, STOP_PATIENCE));
    let mut failed = Vec::new();
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = &mut out_of_patience => {
                return Ok(Copied { completion: Completion::Stopped, failed });
            }
        };
        match message {
            Some(Message::Batch(batch)) => write(lanes, &batch, site).await?,
            Some(Message::Delete(deletion)) => {
                join_all(lanes.iter_mut().map(|lane| lane.delete(&deletion))).await;
            }
            Some(Message::Checkpoint(checkpoint)) => {
                commit(source, lanes, &checkpoint, site).await?;
            }
            Some(Message::Failed { table, error }) => failed.push((table, error)),
            None => break,
        }
        if lanes.iter().all(Lane::has_failed) {
            // Nobody is left to write to. Dropping the receiver ends the read.
            return Ok(Copied { completion: Completion::Stopped, failed });
        }
    }
    let completion = reading.await?;
    if completion == Completion::Complete && lanes.iter().any(Lane::is_dirty) {
        // A full refresh has no cursor; its rows are covered because the read is complete.
        commit(source, lanes, &Checkpoint::default(), site).await?;
    }
    Ok(Copied { completion, failed })
}

async fn write(lanes: &mut [Lane], batch: &Batch, site: &Site) -> Result<()> {
    let table = &batch.table.name;
    if !site.plan.tables.contains_key(table) {
        return Err(Error::internal("The source sent rows of a table that is not in the plan")
            .context("table", table));
    }
    let rows = batch.rows.num_rows() as u64;
    site.options.observer.event(&Event::RowsRead { table, rows });
    join_all(lanes.iter_mut().map(|lane| lane.write(batch))).await;
    Ok(())
}

/// Commits rows and cursors in every lane, saves cursors that are kept apart from the data, and
/// then tells the source, if every destination of the sync has them (invariant I4).
async fn commit(
    source: &Arc<dyn Source>,
    lanes: &mut [Lane],
    checkpoint: &Checkpoint,
    site: &Site,
) -> Result<()> {
    match &site.state_table {
        None => drop(join_all(lanes.iter_mut().map(|lane| lane.commit(checkpoint))).await),
        Some(table) => commit_with_table(lanes, checkpoint, table, site).await?,
    }
    if lanes.len() == site.targets && !lanes.iter().any(Lane::has_failed) {
        crash::at(CrashPoint::Acknowledge);
        source.acknowledge(checkpoint).await?;
        crash::at(CrashPoint::Acknowledged);
    }
    Ok(())
}

/// Commits where the source keeps its cursors as rows of a table: one position for all
/// destinations. The destination that has the table is last, and the cursor goes into its
/// transaction if all others have the rows; a table elsewhere is written after all of them.
async fn commit_with_table(
    lanes: &mut [Lane],
    checkpoint: &Checkpoint,
    table: &StateTable,
    site: &Site,
) -> Result<()> {
    let (plain, kept) = state_table::split(checkpoint);
    let others = lanes.iter_mut().filter(|lane| !lane.is_keeper);
    join_all(others.map(|lane| lane.commit(&plain))).await;
    let others_have_it = site.serves_all
        && lanes.len() == site.targets
        && lanes.iter().all(|lane| lane.is_keeper || !lane.has_failed());
    if let Some(keeper) = lanes.iter_mut().find(|lane| lane.is_keeper) {
        let batch = kept.as_ref().map(|cursor| table.batch(cursor)).transpose()?.flatten();
        if let (true, Some(batch)) = (others_have_it, batch) {
            keeper.keep(batch).await;
        }
        keeper.commit(&plain).await;
    } else if let (Keeper::Apart { destination, .. }, Some(cursor)) = (&table.keeper, &kept)
        && others_have_it
        && let Some(lane) = lanes.first()
    {
        table.save_apart(destination.as_ref(), lane.fence(), cursor).await?;
    }
    Ok(())
}

/// The error of a task that panicked or was cancelled.
pub(crate) fn task_ended(error: tokio::task::JoinError) -> Error {
    Error::internal("A task of the sync ended unexpectedly").caused_by(error)
}
