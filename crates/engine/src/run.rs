//! A run: leases and plans at its begin, partitions in parallel, tables finished, leases back.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::crash::{self, CrashPoint};
use highwater_core::state::LEASE_RENEWAL_SECONDS;
use highwater_core::{
    Committed, Completion, Cursor, CursorKey, Error, ErrorKind, Fence, Instant, LeaseRequest,
    Owner, Partition, Plan, Reads, Result, Source, State, TableName, TablePlan,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use crate::events::Event;
use crate::groups;
use crate::lanes::{Lane, LaneOutcome, Site, save_record};
use crate::ledger::Ledger;
use crate::options::{RunOptions, SyncRequest, Target};
use crate::planning::{self, Selector, state_key, state_store};
use crate::reconcile;
use crate::summary::Summary;
use crate::sync::{Copied, copy_in_turn, task_ended};

/// More writers than this at one destination help nobody.
const WRITERS_LIMIT: usize = 1024;

/// A run of a sync, from the moment it holds its leases.
pub(crate) struct Run<'a> {
    source: Arc<dyn Source>,
    request: &'a SyncRequest,
    options: &'a RunOptions,
    /// By the index of the destination in the request; those out of reach have none.
    seats: BTreeMap<usize, Seat>,
    ledger: Ledger,
    /// What the source keeps in a table, read once under the first lease: one for all seats.
    kept: Option<Cursor>,
}

/// A destination's place in the run.
struct Seat {
    plan: Arc<Plan>,
    state: State,
    fence: Fence,
    /// One permit per writer that may be at work.
    writers: Arc<Semaphore>,
    /// Renews the lease; ended when the seat is dropped.
    renewal: JoinHandle<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// What the same lanes copy, and the seats that they belong to: one partition, or all of them one
/// after another where a destination takes all of a run through one writer.
struct Job {
    partitions: Vec<Partition>,
    site: Arc<Site>,
    seats: Vec<usize>,
}

/// How a job ended.
struct Done {
    partitions: Vec<Partition>,
    /// What became of each partition; fewer than there are when the run was stopped, none when
    /// no destination could be written to.
    copied: Vec<Copied>,
    lanes: Vec<(usize, LaneOutcome)>,
}

impl<'a> Run<'a> {
    /// Takes every lease and makes the plans. A destination that is out of reach is left out and
    /// keeps its older cursor, as long as there is another one.
    ///
    /// # Errors
    /// What concerns the source or the configuration, and what keeps every destination out.
    pub(crate) async fn begin(
        source: Arc<dyn Source>,
        request: &'a SyncRequest,
        options: &'a RunOptions,
        identity: &planning::Run,
    ) -> Result<Self> {
        let selector = Selector::new(source.as_ref(), request, identity).await?;
        let lease = LeaseRequest { owner: Owner::this_process(), take_over: options.take_over };
        let mut run = Self {
            source: Arc::clone(&source),
            request,
            options,
            seats: BTreeMap::new(),
            ledger: Ledger::new(request),
            kept: None,
        };
        // What cannot be done as asked is refused before any lease is taken.
        let mut drafts = Vec::new();
        for target in &request.targets {
            drafts.push(selector.drafts(target).await?);
        }
        let mut refusal = None;
        for (index, drafts) in drafts.into_iter().enumerate() {
            match run.take_seat(index, drafts, &lease, &selector).await {
                Ok(()) => {}
                Err(error) => {
                    let error = match &request.targets[..] {
                        [_] => error,
                        targets => error.context("destination", &targets[index].name),
                    };
                    run.ledger.destination_failed(index, &error);
                    refusal.get_or_insert(error);
                }
            }
        }
        match refusal {
            Some(error) if run.seats.is_empty() => Err(error),
            _ => Ok(run),
        }
    }

    async fn take_seat(
        &mut self,
        index: usize,
        drafts: Vec<TablePlan>,
        lease: &LeaseRequest,
        selector: &Selector<'_>,
    ) -> Result<()> {
        let target = &self.request.targets[index];
        let store = state_store(target)?;
        let mut state = store.open(&state_key(self.request, target), lease).await?;
        crash::at(CrashPoint::LeaseTaken);
        let fence = state.fence.clone().ok_or_else(|| {
            Error::internal("The state store gave no fence").context("destination", &target.name)
        })?;
        if let Some(table) = &self.request.state_table {
            // The rows of the table are the truth, whatever else was remembered.
            let kept = match self.kept.take() {
                Some(kept) => Ok(kept),
                None => table.load(self.request, true).await,
            };
            match kept {
                Ok(cursor) => {
                    self.kept = Some(cursor.clone());
                    state.cursors.insert(CursorKey::Global, cursor);
                }
                Err(error) => {
                    release_quietly(store.release(&fence).await);
                    return Err(error);
                }
            }
        }
        let planned = match selector.fit(target, drafts, &state).await {
            Ok(planned) => planned,
            Err(error) => {
                release_quietly(store.release(&fence).await);
                return Err(error);
            }
        };
        self.ledger.open(index, &planned, self.options);
        let writers = target.destination.capabilities().writers_max.clamp(1, WRITERS_LIMIT);
        let renewal = tokio::spawn(renew(target.clone(), fence.clone(), self.options.clone()));
        let seat = Seat {
            state: planning::to_read_from(&planned.plan, state),
            plan: Arc::new(planned.plan),

            fence,
            writers: Arc::new(Semaphore::new(writers)),
            renewal,
        };
        self.seats.insert(index, seat);
        Ok(())
    }

    /// Copies every partition of every group, at most `tasks_max` at once, and finishes each
    /// table as soon as all its partitions are committed.
    pub(crate) async fn copy_all(&mut self) -> Result<()> {
        let mut waiting = self.jobs().await?.into_iter();
        let mut working = JoinSet::new();
        loop {
            while working.len() < self.options.tasks_max.max(1) && !self.options.stop.is_stopping()
            {
                let Some(job) = waiting.next() else { break };
                for table in job.partitions.iter().flat_map(|partition| &partition.tables) {
                    self.ledger.table_started(table, self.options);
                }
                working.spawn(self.start(job));
            }
            let Some(done) = working.join_next().await else { break };
            self.settle(done.map_err(task_ended)?).await;
        }
        Ok(())
    }

    /// The partitions of all groups. A table that no group reads any partition of is finished at
    /// once.
    async fn jobs(&mut self) -> Result<Vec<Job>> {
        let seats: Vec<_> =
            self.seats.iter().map(|(i, s)| (*i, Arc::clone(&s.plan), &s.state)).collect();
        let mut jobs = Vec::new();
        let grouped = match self.source.reads() {
            Reads::ByTable => groups::by_position,
            Reads::Together => groups::by_seat,
            Reads::Once => groups::as_one,
        };
        // A destination that takes all of a run through one writer shares no read, unless there
        // can be one only.
        let shared: Vec<Vec<_>> = match self.source.reads() {
            Reads::Once => vec![seats],
            _ => {
                let (alone, shared): (Vec<_>, Vec<_>) =
                    seats.into_iter().partition(|(index, ..)| self.commits_later(*index));
                alone.into_iter().map(|seat| vec![seat]).chain([shared]).collect()
            }
        };
        let groups: Vec<_> = shared.iter().flat_map(|seats| grouped(seats)).collect();
        for group in groups {
            let site = Arc::new(Site {
                plan: Arc::new(group.plan),
                state: Arc::new(group.state),
                options: self.options.clone(),
                targets: self.request.targets.len(),
                state_table: self.request.state_table.clone(),
                serves_all: group.serves_all,
            });
            let partitions = self.source.partitions(&site.plan, &site.state).await?;
            for partition in &partitions {
                self.ledger.expect(&partition.tables, &group.seats);
            }
            let in_turn = group.seats.iter().any(|&index| self.commits_later(index));
            let batches: Vec<Vec<Partition>> = match in_turn {
                true if !partitions.is_empty() => vec![partitions],
                _ => partitions.into_iter().map(|partition| vec![partition]).collect(),
            };
            for partitions in batches {
                let (site, seats) = (Arc::clone(&site), group.seats.clone());
                jobs.push(Job { partitions, site, seats });
            }
        }
        for (seat, table) in self.ledger.without_partitions() {
            self.finish(seat, &table).await;
        }
        Ok(jobs)
    }

    fn commits_later(&self, index: usize) -> bool {
        self.request.targets[index].destination.capabilities().commits_later
    }

    /// The future that does a job. It borrows nothing of the run, so that jobs run on all cores.
    fn start(&self, job: Job) -> impl Future<Output = Done> + use<> {
        let source = Arc::clone(&self.source);
        let seats: Vec<_> = job
            .seats
            .iter()
            .map(|&index| {
                let seat = &self.seats[&index];
                let target = self.request.targets[index].clone();
                (
                    index,
                    target,
                    Arc::clone(&seat.plan),
                    seat.fence.clone(),
                    Arc::clone(&seat.writers),
                )
            })
            .collect();
        async move {
            let mut permits: Vec<OwnedSemaphorePermit> = Vec::new();
            let (mut lanes, mut failed) = (Vec::new(), Vec::new());
            // Always in the order of the request, so that two jobs never wait for each other.
            for (index, target, plan, fence, writers) in seats {
                permits.extend(writers.acquire_owned().await.ok());
                let whole = as_one(&job.partitions);
                let opened = Lane::open(index, &target, plan, &whole, &fence, &job.site);
                match opened.await {
                    Ok(lane) => lanes.push(lane),
                    Err(error) => failed.push((
                        index,
                        LaneOutcome { error: Some(error), ..LaneOutcome::default() },
                    )),
                }
            }
            let copied = match lanes.is_empty() {
                true => Vec::new(),
                false => copy_in_turn(&source, &job.partitions, &mut lanes, &job.site).await,
            };
            let done = lanes.into_iter().map(|lane| (lane.target_index, lane.into_outcome()));
            let lanes = done.chain(failed).collect();
            Done { partitions: job.partitions, copied, lanes }
        }
    }

    /// Books what a job did, and finishes the tables that are complete with it.
    async fn settle(&mut self, done: Done) {
        let tables: BTreeSet<_> = done.partitions.iter().flat_map(|p| &p.tables).collect();
        for (index, outcome) in &done.lanes {
            let index = *index;
            if outcome.error.as_ref().is_some_and(|e| e.kind() == ErrorKind::Fenced) {
                self.options.stop.stop();
            }
            for table in &tables {
                self.ledger.book(index, table, outcome);
            }
            for (at, partition) in done.partitions.iter().enumerate() {
                let copied = done.copied.get(at);
                self.settle_partition(index, partition, copied, outcome).await;
            }
        }
    }

    async fn settle_partition(
        &mut self,
        index: usize,
        partition: &Partition,
        copied: Option<&Copied>,
        outcome: &LaneOutcome,
    ) {
        let options = self.options;
        for (table, text) in copied.iter().flat_map(|copied| &copied.notes) {
            self.ledger.note(index, table, text);
        }
        for (table, error) in copied.iter().flat_map(|copied| &copied.failed) {
            self.ledger.table_unread(index, table, error, options);
        }
        for table in &partition.tables {
            let ended = copied.and_then(|copied| copied.ended.as_ref());
            if let Some(error) = &outcome.error {
                self.ledger.table_failed(index, table, error, options);
            } else if copied.is_some_and(|copied| copied.has_all_of(table)) {
                if self.ledger.partition_done(index, table) {
                    self.finish(index, table).await;
                }
            } else if let Some(Err(error)) = ended {
                self.ledger.table_unread(index, table, error, options);
            } else if let Some(Ok(Completion::Complete)) = ended {
                self.ledger.table_unread(index, table, &said_nothing(table), options);
            }
        }
        // A source that failed although it had said of every table that it is complete: what is
        // complete stays so, and the run is no success.
        if let Some(copied) = copied
            && let Some(Err(error)) = &copied.ended
            && outcome.error.is_none()
            && partition.tables.iter().all(|table| copied.has_all_of(table))
        {
            self.ledger.destination_failed(index, error);
        }
    }

    async fn finish(&mut self, index: usize, table: &TableName) {
        match self.try_finish(index, table).await {
            Ok(committed) => self.ledger.table_finished(index, table, committed, self.options),
            Err(error) => self.ledger.table_unfinished(index, table, &error, self.options),
        }
    }

    async fn try_finish(&self, index: usize, table: &TableName) -> Result<Committed> {
        let (seat, target) = (&self.seats[&index], &self.request.targets[index]);
        let Some(table_plan) = seat.plan.tables.get(table) else {
            return Err(Error::internal("A table to finish is not in the plan"));
        };
        crash::at(CrashPoint::FinishBegin);
        let mut committed = Committed::default();
        if table_plan.reconcile && !table_plan.sweep {
            let _permit = seat.writers.acquire().await;
            let (source, plan, fence) = (self.source.as_ref(), &seat.plan, &seat.fence);
            let site = reconcile::Site { source, target, plan, fence };
            committed += reconcile::reconcile(&site, table_plan).await?;
        }
        committed += target.destination.finish(&seat.plan, table_plan, &seat.fence).await?;
        if !seat.plan.state_with_data {
            let epoch = Some(seat.fence.epoch);
            save_record(target, &seat.plan, &seat.fence, &seat.state, table, epoch).await?;
        }
        crash::at(CrashPoint::FinishDone);
        Ok(committed)
    }

    /// Gives every lease back. A lease that cannot be given back runs out by itself.
    pub(crate) async fn release(&mut self) {
        crash::at(CrashPoint::LeaseRelease);
        for (&index, seat) in &self.seats {
            seat.renewal.abort();
            if let Ok(store) = state_store(&self.request.targets[index]) {
                release_quietly(store.release(&seat.fence).await);
            }
        }
    }

    pub(crate) fn into_summary(self, identity: &planning::Run) -> Summary {
        let stopped = self.options.stop.is_stopping();
        let sync_ended = Instant::now();
        self.ledger.into_summary(
            self.request.sync.clone(),
            identity.id.clone(),
            identity.started_at,
            sync_ended.micros_since(identity.started_at) / 1000,
            stopped,
        )
    }
}

/// Several partitions as what one writer takes.
fn as_one(partitions: &[Partition]) -> Partition {
    let mut parts = partitions.iter();
    let mut whole = parts.next().cloned().unwrap_or_else(|| Partition {
        tables: Vec::new(),
        id: String::new(),
        bounds: serde_json::Value::Null,
    });
    for part in parts {
        let new = part.tables.iter().filter(|table| !whole.tables.contains(table));
        let new: Vec<_> = new.cloned().collect();
        whole.tables.extend(new);
    }
    whole
}

fn said_nothing(table: &TableName) -> Error {
    Error::data("The source ended without saying that it has read the table completely")
        .context("table", table)
}

/// Shows signs of life until the run ends, and stops the run when a newer one has taken over.
async fn renew(target: Target, fence: Fence, options: RunOptions) {
    let mut clock = tokio::time::interval(Duration::from_secs(LEASE_RENEWAL_SECONDS));
    clock.tick().await;
    loop {
        clock.tick().await;
        let Ok(store) = state_store(&target) else { return };
        match store.renew(&fence).await {
            Err(error) if error.kind() == ErrorKind::Fenced => {
                options.observer.event(&Event::Notice {
                    message: "A newer run of this sync has taken over; this one stops.",
                });
                options.stop.stop();
                return;
            }
            Err(error) => tracing::warn!(%error, "The lease could not be renewed"),
            Ok(()) => {}
        }
    }
}

fn release_quietly(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "The lease could not be given back; it runs out by itself");
    }
}
