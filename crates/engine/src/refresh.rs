//! What is done to tables between syncs, under the lease of the sync: a table is read again from
//! the beginning, emptied, or its history made smaller.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use highwater_core::state::LEASE_RENEWAL_SECONDS;
use highwater_core::{
    CursorKey, Error, ErrorKind, Fence, LeaseRequest, Owner, Plan, ReadMode, Result, SchemaChange,
    Source, State, StateStore, Table, TableName, TablePlan, WriteMode,
};

use crate::options::{SyncRequest, Target};
use crate::planning::{self, Selector, state_key, state_store};
use crate::selection;

/// The tables of a sync, to do something to them.
pub struct Upkeep<'a> {
    source: &'a dyn Source,
    request: &'a SyncRequest,
    run: planning::Run,
    discovered: Vec<Table>,
}

/// What it is done to, and how.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The tables, of those that [`Upkeep::tables`] names.
    pub tables: Vec<TableName>,
    /// The destination; `None`: all.
    pub destination: Option<String>,
    /// Take the leases from runs that seem alive.
    pub take_over: bool,
}

impl Choice {
    fn has(&self, table: &TableName) -> bool {
        self.tables.contains(table)
    }
}

/// A table at a destination to which something was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<T> {
    /// The name of the destination.
    pub destination: String,
    /// The table at the source.
    pub table: TableName,
    /// What was done.
    pub what: T,
}

/// What became of a table that is to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// The next sync reads it from the beginning.
    Begun,
    /// As `Begun`, of a table with a history, in the place of which one with the new rows comes.
    BegunWithHistory,
    /// Every sync does that.
    Always,
    /// No sync has read it yet.
    New,
}

impl<'a> Upkeep<'a> {
    /// Looks at the source.
    ///
    /// # Errors
    /// As [`crate::plan`].
    pub async fn new(source: &'a dyn Source, request: &'a SyncRequest) -> Result<Self> {
        let run = planning::new_run();
        let discovered = Selector::new(source, request, &run).await?.into_discovered();
        let upkeep = Self { source, request, run, discovered };
        selection::select(request, &upkeep.discovered)?;
        Ok(upkeep)
    }

    /// The tables that the sync has.
    ///
    /// # Errors
    /// `Config` when a pattern matches nothing.
    pub fn tables(&self) -> Result<Vec<TableName>> {
        let selected = selection::select(self.request, &self.discovered)?;
        Ok(selected.into_iter().map(|selected| selected.table.name.clone()).collect())
    }

    /// Lets tables be read again from the beginning by the next sync. `rebuild`: the rows that
    /// are there go when all new ones have come; else they stay, and the new ones are written
    /// over or beside them as in every sync. All leases are taken before anything is changed.
    ///
    /// # Errors
    /// `Fenced` when a run of the sync is at work, `Unsupported` when a store cannot do it.
    pub async fn refresh(&self, choice: &Choice, rebuild: bool) -> Result<Vec<Done<Refreshed>>> {
        if let Some(kept) = &self.request.state_table {
            // Its positions are not known by table: it would read what changed, and no more.
            return Err(Error::unsupported(
                "A plugin that keeps its cursors itself decides what it reads again",
            )
            .context("state table", &kept.table.name)
            .hint(format!(
                "delete the rows of `{}`: the next sync reads everything",
                kept.table.name
            )));
        }
        let seats = self.seats(choice).await?;
        let refreshed = async {
            let mut done = Vec::new();
            for seat in &seats {
                seat.check_source(choice)?;
                if rebuild {
                    seat.check_rebuild(choice)?;
                }
            }
            for seat in &seats {
                for draft in seat.drafts.iter().filter(|draft| choice.has(draft.name())) {
                    let what = seat.refresh(draft, rebuild).await?;
                    done.push(seat.done(draft, what));
                }
                seat.forget_source(choice).await?;
            }
            Ok(done)
        };
        let refreshed = refreshed.await;
        release(&seats).await;
        refreshed
    }

    /// Removes from the histories of `append-dedup` every record but the latest of each key;
    /// tables in another write mode are passed over. How many records went.
    ///
    /// # Errors
    /// As [`Self::refresh`]; `Schema` when a table has to be looked at first.
    pub async fn compact_history(&self, choice: &Choice) -> Result<Vec<Done<u64>>> {
        let seats = self.seats(choice).await?;
        let compacted = async {
            let mut done = Vec::new();
            for seat in &seats {
                let (plan, refused) = self.plan(seat).await?;
                let wanted = |table: &&TablePlan| {
                    choice.has(table.name()) && table.write_mode == WriteMode::AppendDedup
                };
                if let Some(refused) = refused.into_iter().find(|r| wanted(&&r.table)) {
                    return Err(refused.error.context("destination", &seat.target.name));
                }
                for table in plan.tables.values().filter(wanted) {
                    let work = seat.target.destination.compact_history(&plan, table, &seat.fence);
                    let removed = match seat.has(table) {
                        true => seat.working(work).await?,
                        false => 0,
                    };
                    done.push(seat.done(table, removed));
                }
            }
            Ok(done)
        };
        let compacted = compacted.await;
        release(&seats).await;
        compacted
    }

    /// Removes all rows that syncs have written, and forgets all positions: the next sync starts
    /// as the first did. The tables stay. How many rows went.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn clear(&self, choice: &Choice) -> Result<Vec<Done<u64>>> {
        let seats = self.seats(choice).await?;
        let cleared = async {
            let mut done = Vec::new();
            for seat in &seats {
                seat.check_source(choice)?;
            }
            for seat in &seats {
                let (mut plan, refused) = self.plan(seat).await?;
                // What keeps a table from being synced is no reason to keep its rows.
                let refused = refused.into_iter().map(|r| (r.table.name().clone(), r.table));
                plan.tables.extend(refused);
                for table in plan.tables.values().filter(|table| choice.has(table.name())) {
                    let removed = seat.clear(&plan, table).await?;
                    done.push(seat.done(table, removed));
                }
                seat.forget_source(choice).await?;
            }
            Ok(done)
        };
        let cleared = cleared.await;
        release(&seats).await;
        cleared
    }

    fn selector(&self) -> Selector<'_> {
        Selector::of(self.source, self.request, &self.run, self.discovered.clone())
    }

    /// Takes the lease of every destination that is meant. What cannot be done as asked is
    /// refused before the first one.
    async fn seats(&self, choice: &Choice) -> Result<Vec<Seat<'_>>> {
        let selector = self.selector();
        let is_meant = |target: &&Target| {
            choice.destination.as_ref().is_none_or(|wanted| *wanted == target.name)
        };
        let mut drafted = Vec::new();
        for target in self.request.targets.iter().filter(is_meant) {
            drafted.push((target, state_store(target)?, selector.drafts(target).await?));
        }
        let lease = LeaseRequest { owner: Owner::this_process(), take_over: choice.take_over };
        let mut seats = Vec::new();
        for (target, store, drafts) in drafted {
            let opened = store.open(&state_key(self.request, target), &lease).await;
            let opened = opened.and_then(|state| match state.fence.clone() {
                Some(fence) => Ok((state, fence)),
                None => Err(Error::internal("The state store gave no fence")),
            });
            match opened {
                Ok((state, fence)) => seats.push(Seat { target, store, drafts, state, fence }),
                Err(error) => {
                    release(&seats).await;
                    return Err(error.context("destination", &target.name));
                }
            }
        }
        Ok(seats)
    }

    async fn plan(&self, seat: &Seat<'_>) -> Result<(Plan, Vec<planning::Refused>)> {
        let planned = self.selector().fit(seat.target, seat.drafts.clone(), &seat.state).await?;
        Ok((planned.plan, planned.refused))
    }
}

/// A destination whose lease is held.
struct Seat<'a> {
    target: &'a Target,
    store: &'a dyn StateStore,
    drafts: Vec<TablePlan>,
    state: State,
    fence: Fence,
}

impl Seat<'_> {
    fn done<T>(&self, table: &TablePlan, what: T) -> Done<T> {
        Done { destination: self.target.name.clone(), table: table.name().clone(), what }
    }

    async fn refresh(&self, draft: &TablePlan, rebuild: bool) -> Result<Refreshed> {
        let table = draft.name();
        if draft.read_mode == ReadMode::FullRefresh {
            return Ok(Refreshed::Always);
        }
        let is_new =
            !self.state.tables.contains_key(table) && self.state.cursors_of(table).is_empty();
        if is_new {
            return Ok(Refreshed::New);
        }
        let refreshed = self.store.refresh(&self.fence, table, rebuild).await;
        refreshed.map_err(|error| error.context("destination", &self.target.name))?;
        // Who cannot describe its tables keeps no history of ours.
        let has_history = draft.write_mode == WriteMode::AppendDedup
            && self.target.destination.capabilities().describes_tables;
        match rebuild && has_history {
            true => Ok(Refreshed::BegunWithHistory),
            false => Ok(Refreshed::Begun),
        }
    }

    fn check_rebuild(&self, choice: &Choice) -> Result<()> {
        let is_meant = |draft: &&TablePlan| {
            choice.has(draft.name()) && draft.read_mode == ReadMode::Incremental
        };
        for draft in self.drafts.iter().filter(is_meant) {
            let checked = self.target.destination.check_rebuild(draft);
            checked.map_err(|error| error.context("destination", &self.target.name))?;
        }
        Ok(())
    }

    async fn clear(&self, plan: &Plan, table: &TablePlan) -> Result<u64> {
        let removed = match self.has(table) {
            true => {
                let work = self.target.destination.clear(plan, table, &self.fence);
                self.working(work).await?.deleted
            }
            false => 0,
        };
        if !plan.state_with_data || !self.has(table) {
            let cursors = self.state.cursors_of(table.name()).into_keys();
            // The record goes with the cursor of the whole table, also where there is none.
            let whole = CursorKey::Table(table.name().clone());
            for key in cursors.chain([whole]).collect::<BTreeSet<_>>() {
                self.store.set(&self.fence, &key, None).await?;
            }
        }
        Ok(removed)
    }

    /// Forgets the position of the whole source where no table is left that it is one for.
    /// A source that keeps one position for all tables, and none of a table, goes on from it
    /// whatever is forgotten of that table.
    fn check_source(&self, choice: &Choice) -> Result<()> {
        let global = self.state.cursors.get(&CursorKey::Global);
        let known = || self.state.tables.keys();
        if global.is_none_or(|cursor| cursor.0.is_null()) || known().all(|t| choice.has(t)) {
            return Ok(());
        }
        let untold = known().find(|t| choice.has(t) && self.state.cursors_of(t).is_empty());
        match untold {
            None => Ok(()),
            Some(table) => Err(Error::unsupported(
                "The source keeps one position for all tables, and none of this one",
            )
            .context("table", table)
            .context("destination", &self.target.name)
            .hint("refresh all tables of the sync together: `highwater refresh FILE \"*\"`")),
        }
    }

    async fn forget_source(&self, choice: &Choice) -> Result<()> {
        let with_cursors = self.state.cursors.keys().filter_map(CursorKey::table);
        let mut known = self.state.tables.keys().chain(with_cursors);
        if self.state.cursors.contains_key(&CursorKey::Global) && known.all(|t| choice.has(t)) {
            self.store.set(&self.fence, &CursorKey::Global, None).await?;
        }
        Ok(())
    }

    /// Whether the destination has the table.
    fn has(&self, table: &TablePlan) -> bool {
        let describes = self.target.destination.capabilities().describes_tables;
        !describes || !table.changes.contains(&SchemaChange::CreateTable)
    }

    /// Does long work, and shows signs of life meanwhile.
    async fn working<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let renewals = async {
            let mut clock = tokio::time::interval(Duration::from_secs(LEASE_RENEWAL_SECONDS));
            clock.tick().await;
            loop {
                clock.tick().await;
                match self.store.renew(&self.fence).await {
                    Err(error) if error.kind() == ErrorKind::Fenced => return error,
                    Err(error) => tracing::warn!(%error, "The lease could not be renewed"),
                    Ok(()) => {}
                }
            }
        };
        let done = tokio::select! {
            done = work => done,
            fenced = renewals => Err(fenced),
        };
        done.map_err(|error| error.context("destination", &self.target.name))
    }
}

/// Gives the leases back. One that cannot be given back runs out by itself.
async fn release(seats: &[Seat<'_>]) {
    for seat in seats {
        if let Err(error) = seat.store.release(&seat.fence).await {
            tracing::warn!(%error, "The lease could not be given back; it runs out by itself");
        }
    }
}
