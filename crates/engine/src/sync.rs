//! The data path: source → batches → checkpoint → destination → commit → acknowledge.
//!
//! Read [`sync`] for a run and [`copy`] for one partition of it; the rest of the engine prepares
//! what these two do. The order inside `copy` is the promise of the project: rows and cursor are
//! committed first (together, or rows before cursor), and only then the source is told.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Checkpoint, Completion, Cursor, Error, Fence, Message, Output, Partition, Result,
    Source, TableName,
};
use tokio::time::timeout;

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
#[derive(Default)]
pub(crate) struct Copied {
    /// How the read ended; `None`: nobody was left to write to.
    pub(crate) ended: Option<Result<Completion>>,
    /// The tables that the source could not read completely.
    pub(crate) failed: Vec<(TableName, Arc<Error>)>,
    /// The tables that it said were read completely, if it says that of single tables.
    pub(crate) completed: BTreeSet<TableName>,
    /// What it said about tables.
    pub(crate) notes: Vec<(TableName, String)>,
}

impl Copied {
    /// Whether everything of the table was read.
    pub(crate) fn has_all_of(&self, table: &TableName) -> bool {
        let is_complete = matches!(self.ended, Some(Ok(Completion::Complete)));
        self.completed.contains(table)
            || (self.completed.is_empty()
                && is_complete
                && self.failed.iter().all(|(failed, _)| failed != table))
    }
}

/// Copies partitions one after another through the same lanes, and lets these end.
pub(crate) async fn copy_in_turn(
    source: &Arc<dyn Source>,
    partitions: &[Partition],
    lanes: &mut [Lane],
    site: &Site,
) -> Vec<Copied> {
    let mut copied = Vec::new();
    let mut last = None;
    for partition in partitions {
        if !copied.is_empty() && site.options.stop.is_stopping() {
            break;
        }
        copied.push(copy(source, partition, lanes, &mut last, site).await);
    }
    if lanes.iter().any(Lane::commits_later) {
        let complete = complete_tables(partitions, &copied);
        if let Err(error) = end(source, lanes, &complete, last, site).await
            && let Some(copied) = copied.last_mut()
        {
            copied.ended = Some(Err(error));
        }
    }
    copied
}

/// The tables of which every partition was read completely.
fn complete_tables(partitions: &[Partition], copied: &[Copied]) -> Vec<TableName> {
    let tables: BTreeSet<_> = partitions.iter().flat_map(|p| &p.tables).collect();
    let is_complete = |table: &TableName| {
        let mut own = partitions.iter().enumerate().filter(|(_, p)| p.tables.contains(table));
        own.all(|(at, _)| copied.get(at).is_some_and(|copied| copied.has_all_of(table)))
    };
    tables.into_iter().filter(|table| is_complete(table)).cloned().collect()
}

/// Waits until what lanes have handed over is durable, saves its cursors, and tells the source.
async fn end(
    source: &Arc<dyn Source>,
    lanes: &mut [Lane],
    complete: &[TableName],
    last: Option<Checkpoint>,
    site: &Site,
) -> Result<()> {
    let ends = join_all(lanes.iter_mut().map(|lane| lane.end(complete)));
    if site.options.stop.is_stopping() {
        // What was not confirmed by then is sent again by the next run.
        if timeout(STOP_PATIENCE, ends).await.is_err() {
            return Ok(());
        }
    } else {
        ends.await;
    }
    let (Some(last), true) = (last, all_have_it(lanes, site)) else { return Ok(()) };
    if let Some(table) = &site.state_table {
        let (_, kept) = state_table::split(&last);
        let fence = lanes.first().map(|lane| lane.fence().clone());
        save_kept(fence.filter(|_| site.serves_all), table, kept.as_ref()).await?;
    }
    acknowledge(source, &last).await
}

/// Copies one partition: reads it once and writes it to every lane.
///
/// A lane is a destination's part in it. A lane that fails is left behind with its error and its
/// older cursor; the others go on. `last` is the checkpoint that was committed last.
async fn copy(
    source: &Arc<dyn Source>,
    partition: &Partition,
    lanes: &mut [Lane],
    last: &mut Option<Checkpoint>,
    site: &Site,
) -> Copied {
    let mut copied = Copied::default();
    let ended = read_and_write(source, partition, lanes, &mut copied, last, site).await;
    copied.ended = ended.transpose();
    copied
}

async fn read_and_write(
    source: &Arc<dyn Source>,
    partition: &Partition,
    lanes: &mut [Lane],
    copied: &mut Copied,
    last: &mut Option<Checkpoint>,
    site: &Site,
) -> Result<Option<Completion>> {
    let (output, mut messages) =
        Output::bounded(MESSAGES_IN_FLIGHT, Arc::clone(&site.options.stop.flag));
    let reading = site.spawn_read(Arc::clone(source), partition.clone(), output);
    let mut out_of_patience = pin!(stopped_for(&site.options, STOP_PATIENCE));
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = &mut out_of_patience => return Ok(Some(Completion::Stopped)),
        };
        match message {
            Some(Message::Batch(batch)) => write(lanes, &batch, site).await?,
            Some(Message::Delete(deletion)) => {
                join_all(lanes.iter_mut().map(|lane| lane.delete(&deletion))).await;
            }
            Some(Message::Checkpoint(checkpoint)) => {
                commit(source, lanes, &checkpoint, site).await?;
                *last = Some(checkpoint);
            }
            Some(Message::Failed { table, error }) => copied.failed.push((table, error)),
            Some(Message::Completed(table)) => drop(copied.completed.insert(table)),
            Some(Message::Note { table, text }) => copied.notes.push((table, text)),
            None => break,
        }
        if lanes.iter().all(Lane::has_failed) {
            // Nobody is left to write to. Dropping the receiver ends the read.
            return Ok(None);
        }
    }
    let completion = reading.await?;
    // A source that speaks of single tables has covered what it calls complete.
    let is_covered = !copied.completed.is_empty();
    if completion == Completion::Complete && !is_covered && lanes.iter().any(Lane::is_dirty) {
        // A full refresh has no cursor; its rows are covered because the read is complete.
        commit(source, lanes, &Checkpoint::default(), site).await?;
    }
    Ok(Some(completion))
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
    if all_have_it(lanes, site) && !lanes.iter().any(Lane::commits_later) {
        acknowledge(source, checkpoint).await?;
    }
    Ok(())
}

/// Whether every destination of the sync has what was committed.
fn all_have_it(lanes: &[Lane], site: &Site) -> bool {
    lanes.len() == site.targets && !lanes.iter().any(Lane::has_failed)
}

async fn acknowledge(source: &Arc<dyn Source>, checkpoint: &Checkpoint) -> Result<()> {
    crash::at(CrashPoint::Acknowledge);
    source.acknowledge(checkpoint).await?;
    crash::at(CrashPoint::Acknowledged);
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
    } else if !lanes.iter().any(Lane::commits_later) {
        let fence = lanes.first().map(|lane| lane.fence().clone());
        save_kept(fence.filter(|_| others_have_it), table, kept.as_ref()).await?;
    }
    Ok(())
}

/// Saves a cursor of the state table elsewhere. There is a fence when every destination has the
/// rows.
async fn save_kept(fence: Option<Fence>, table: &StateTable, kept: Option<&Cursor>) -> Result<()> {
    if let (Keeper::Apart { destination, .. }, Some(cursor)) = (&table.keeper, kept)
        && let Some(fence) = fence
    {
        table.save_apart(destination.as_ref(), &fence, cursor).await?;
    }
    Ok(())
}

/// The error of a task that panicked or was cancelled.
pub(crate) fn task_ended(error: tokio::task::JoinError) -> Error {
    Error::internal("A task of the sync ended unexpectedly").caused_by(error)
}
