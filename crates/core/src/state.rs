//! Cursors, checkpoints, the state they add up to, and the store that keeps it.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Instant;
use crate::error::Result;
use crate::plan::TablePlan;
use crate::process::Owner;
use crate::table::TableName;

/// A position that a source has reached. Opaque to all but the source that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub Value);

/// What a cursor is the position of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CursorKey {
    /// The whole source (a change log's position).
    Global,
    /// A table.
    Table(TableName),
    /// A part of a table that moves on its own: a file, a slice of an API.
    Partition(TableName, String),
}

impl CursorKey {
    /// The table it belongs to, `None` for [`CursorKey::Global`].
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Global => None,
            Self::Table(table) | Self::Partition(table, _) => Some(table),
        }
    }

    /// The part of the table, empty for a whole table and for [`CursorKey::Global`].
    pub fn partition(&self) -> &str {
        match self {
            Self::Global | Self::Table(_) => "",
            Self::Partition(_, partition) => partition,
        }
    }

    /// Rebuilds the key that [`Self::table`] and [`Self::partition`] came from.
    pub fn from_parts(table: Option<TableName>, partition: &str) -> Self {
        match table {
            None => Self::Global,
            Some(table) if partition.is_empty() => Self::Table(table),
            Some(table) => Self::Partition(table, partition.to_owned()),
        }
    }
}

impl fmt::Display for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("(source)"),
            Self::Table(table) => write!(f, "{table}"),
            Self::Partition(table, partition) => write!(f, "{table} / {partition}"),
        }
    }
}

/// A message in the data path: every row sent before it is covered by these cursors.
///
/// Committing it makes the rows durable and the cursors the place where the next sync resumes.
/// An empty checkpoint is valid: it makes rows durable and moves no cursor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// The positions reached, by what they are positions of.
    pub cursors: BTreeMap<CursorKey, Cursor>,
}

impl Checkpoint {
    /// A checkpoint of one cursor.
    pub fn of(key: CursorKey, cursor: Value) -> Self {
        Self { cursors: BTreeMap::from([(key, Cursor(cursor))]) }
    }
}

/// The right to commit for one sync: a number that grows with every run that takes it.
///
/// A commit under a fence that is no longer the newest is refused with
/// [`crate::ErrorKind::Fenced`] and changes nothing (invariant I3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The sync, by the name of its source.
    pub sync: String,
    /// Grows by one with every run.
    pub epoch: u64,
}

/// What a destination remembers of a table that a sync has filled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    /// The identity of the destination table when rows were first committed (`pg_class.oid`, a
    /// token in the table's definition). Another identity means that the table was dropped and
    /// recreated (invariant I5).
    pub identity: Option<String>,
    /// The columns that this sync has written: one of them that the source no longer has is
    /// written as NULL, while columns that somebody else added are left alone.
    pub columns: Vec<String>,
    /// Rows that this sync has ever committed into it; the arrival order of the next row.
    pub rows_total: u64,
    /// The run that last finished the table completely.
    pub finished_epoch: Option<u64>,
    /// When it was finished.
    pub finished_at: Option<Instant>,
    /// The generation of the rows that were committed last; see
    /// [`crate::TablePlan::generation`].
    #[serde(default)]
    pub generation: u64,
    /// The generation that was last finished; a smaller one than [`Self::generation`] means that
    /// a reading is unfinished.
    #[serde(default)]
    pub finished_generation: Option<u64>,
    /// Whether the unfinished generation goes into tables beside the present ones.
    #[serde(default)]
    pub rebuild: bool,
    /// When the table was last read as a whole.
    #[serde(default)]
    pub swept_at: Option<Instant>,
}

impl TableRecord {
    /// What a commit of a table's rows is remembered by. `rows_total` is not set.
    pub fn begun(table: &TablePlan, identity: Option<String>) -> Self {
        Self {
            identity,
            columns: table.target.column_names().map(str::to_owned).collect(),
            generation: table.generation,
            rebuild: table.rebuild,
            ..Self::default()
        }
    }

    /// What a finished table is remembered by. `rows_total` is not set.
    pub fn finished(
        table: &TablePlan,
        identity: Option<String>,
        epoch: u64,
        started_at: Instant,
    ) -> Self {
        Self {
            finished_epoch: Some(epoch),
            finished_at: Some(started_at),
            finished_generation: Some(table.generation),
            rebuild: false,
            swept_at: table.sweep.then_some(started_at),
            ..Self::begun(table, identity)
        }
    }
}

/// All committed cursors of one sync at one destination, and the fence under which they move.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// The right to commit; `None` when the state was only looked at.
    pub fence: Option<Fence>,
    /// The committed positions.
    pub cursors: BTreeMap<CursorKey, Cursor>,
    /// The destination tables that hold rows of this sync, by *source* table name.
    pub tables: BTreeMap<TableName, TableRecord>,
    /// Who holds or last held the lease, and when the lease was last renewed.
    pub lease: Option<Lease>,
}

impl State {
    /// The position of a whole table.
    pub fn table_cursor(&self, table: &TableName) -> Option<&Cursor> {
        self.cursors.get(&CursorKey::Table(table.clone()))
    }

    /// The positions of the parts of a table.
    pub fn partition_cursors<'a>(
        &'a self,
        table: &'a TableName,
    ) -> impl Iterator<Item = (&'a str, &'a Cursor)> {
        self.cursors.iter().filter_map(move |(key, cursor)| match key {
            CursorKey::Partition(t, partition) if t == table => Some((partition.as_str(), cursor)),
            _ => None,
        })
    }

    /// Every cursor of a table, whole and parts.
    pub fn cursors_of(&self, table: &TableName) -> BTreeMap<CursorKey, Cursor> {
        self.cursors
            .iter()
            .filter(|(key, _)| key.table() == Some(table))
            .map(|(key, cursor)| (key.clone(), cursor.clone()))
            .collect()
    }
}

/// Who works on a sync.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The run's process.
    pub owner: Owner,
    /// The last sign of life, by the store's clock.
    pub renewed_at: Instant,
    /// Whether the run gave the lease back at its end.
    pub released: bool,
}

/// The part of a table under which the position of an unfinished reading of all its rows is kept:
/// a full refresh, or the first incremental read. It is of no use when that is finished, and says
/// nothing to a later incremental read. A checkpoint that carries it is not the last one.
pub const FULL_REFRESH: &str = "full_refresh";

/// A lease without a sign of life for this long may be taken over.
pub const LEASE_SECONDS: u64 = 30;
/// How often a run renews its lease.
pub const LEASE_RENEWAL_SECONDS: u64 = 5;

/// How to take a fence.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// The run that asks.
    pub owner: Owner,
    /// Take the lease even from a run that seems alive (`--take-over`).
    pub take_over: bool,
}

impl LeaseRequest {
    /// Decides whether `held` may be taken over at time `now` (the store's clock).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Fenced`] when another run holds it and is, or may be, alive.
    pub fn may_take(&self, sync: &str, held: Option<&Lease>, now: Instant) -> Result<()> {
        let Some(lease) = held else { return Ok(()) };
        let age_seconds = now.micros_since(lease.renewed_at) / 1_000_000;
        let expired = age_seconds >= LEASE_SECONDS;
        if lease.released || self.take_over || expired || lease.owner.is_alive() == Some(false) {
            return Ok(());
        }
        Err(crate::Error::fenced("Another run of this sync is at work")
            .context("sync", sync)
            .context("host", &lease.owner.host)
            .context("pid", lease.owner.pid)
            .hint(format!(
                "wait until it has ended, or {} seconds after its last sign of life; `--take-over` ends its right to commit now",
                LEASE_SECONDS.saturating_sub(age_seconds)
            )))
    }
}

/// Keeps the state of syncs durably. One instance serves one run.
///
/// All methods may be called concurrently, and every one that changes something is atomic.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Takes the lease of `sync` and returns its state with a new fence, one higher than any
    /// before: from the moment this returns no older holder can commit or save. Creates what the
    /// store needs. Staging left behind by older runs of this sync is removed.
    ///
    /// # Errors
    /// `Fenced` when another run is alive ([`LeaseRequest::may_take`]); `Transient` when the
    /// store cannot be reached or is locked.
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State>;

    /// Renews the lease. Called every [`LEASE_RENEWAL_SECONDS`]. A store that is busy with this
    /// run's own commit may skip a renewal and return `Ok`.
    ///
    /// # Errors
    /// `Fenced` when a newer run has taken over.
    async fn renew(&self, fence: &Fence) -> Result<()>;

    /// Saves cursors that are kept apart from the data; called only after the data is durable.
    /// Destinations that commit cursors with the data do so in [`crate::Writer::commit`] instead.
    ///
    /// # Errors
    /// `Fenced` when a newer run has taken over; nothing is saved then.
    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()>;

    /// Records for `table` what [`crate::Writer`] records when state lives with the data.
    /// Called only where cursors are kept apart from the data.
    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()>;

    /// Gives the lease back. An error here loses nothing: the lease runs out.
    async fn release(&self, fence: &Fence) -> Result<()>;

    /// The state of `sync` without taking its lease; `State::default()` when there is none, also
    /// when the store itself does not exist yet. Changes nothing.
    async fn look(&self, sync: &str) -> Result<State>;

    /// The names of all syncs that have state here. Changes nothing.
    async fn list(&self) -> Result<Vec<String>>;

    /// Sets a cursor by hand (`state set`), or forgets it (`None`, `state reset`). Forgetting the
    /// cursor of a table also forgets its record, so that the next sync starts as the first did.
    /// The caller holds the lease.
    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()>;

    /// Lets a table be read again from the beginning, in one atomic step: all its cursors are
    /// forgotten, and a new generation begins ([`TableRecord::generation`] grows by one,
    /// [`TableRecord::rebuild`] is `rebuild`). What else is remembered of the table stays. Does
    /// nothing for a table of which nothing is remembered. The caller holds the lease.
    ///
    /// # Errors
    /// `Unsupported` where the store does not know generations.
    async fn refresh(&self, fence: &Fence, table: &TableName, rebuild: bool) -> Result<()> {
        let _ = (fence, rebuild);
        Err(crate::Error::unsupported("The destination's store cannot start a refresh")
            .context("table", table)
            .hint("`highwater state reset` lets the next sync start as the first did"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(renewed_at: i64) -> Lease {
        let owner = Owner { host: "elsewhere".into(), ..Owner::this_process() };
        Lease { owner, renewed_at: Instant(renewed_at), released: false }
    }

    #[test]
    fn a_lease_is_taken_only_when_its_holder_is_gone() {
        let request = LeaseRequest { owner: Owner::this_process(), take_over: false };
        let now = Instant(100_000_000);
        assert!(request.may_take("s", None, now).is_ok());
        let held = lease(95_000_000);
        let refused = request.may_take("s", Some(&held), now).unwrap_err();
        assert_eq!(refused.kind(), crate::ErrorKind::Fenced);
        assert!(refused.hint_text().unwrap().contains("25 seconds"));
        assert!(request.may_take("s", Some(&lease(60_000_000)), now).is_ok());
        assert!(
            request.may_take("s", Some(&Lease { released: true, ..held.clone() }), now).is_ok()
        );
        let dead = Owner { start_ticks: 1, ..Owner::this_process() };
        assert!(request.may_take("s", Some(&Lease { owner: dead, ..held.clone() }), now).is_ok());
        let forced = LeaseRequest { take_over: true, ..request };
        assert!(forced.may_take("s", Some(&held), now).is_ok());
    }

    #[test]
    fn a_cursor_key_is_rebuilt_from_its_parts() {
        let table = TableName::in_namespace("public", "t");
        for key in [
            CursorKey::Global,
            CursorKey::Table(table.clone()),
            CursorKey::Partition(table, "a/b.csv".into()),
        ] {
            assert_eq!(CursorKey::from_parts(key.table().cloned(), key.partition()), key);
        }
    }
}
