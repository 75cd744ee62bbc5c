//! The safe horizon: how an incremental read of a table loses no row that was committed late and
//! sends no row version twice.
//!
//! A cursor column such as `updated_at` is written before the transaction commits. A reader that
//! remembers the greatest value it saw loses every row of a transaction that began earlier and
//! committed later. Two bounds that do not depend on the rows replace it:
//!
//! - `lower_bound`, from the clock: nothing that was still invisible to the last snapshot has a
//!   cursor before it. It is the start of the oldest transaction that was open before the snapshot
//!   was taken, less some slack. It only narrows the range of the index that is read.
//! - `snapshot_xmin`: every row version that was invisible to the last snapshot was made by a
//!   transaction with this id or a greater one, sub-transactions included. It decides exactly what
//!   is new, together with `delivered`.
//!
//! `delivered` holds the ids, from `snapshot_xmin` on, of the transactions that had made a row
//! version of this table which the last snapshot saw. A transaction becomes visible as a whole,
//! so whatever else it made in this table was seen as well, and is not sent again.
//!
//! A position is saved only when the transactions that it calls finished are on the server's disk
//! ([`durable::wait`]): a server that crashes gives the ids of others out again.
//!
//! Where the start of some transaction cannot be known (a standby, a role that may not see other
//! sessions, a materialized view), and for cursors that no clock writes, there is no lower bound:
//! the whole table is scanned, and still only what is new is sent.

pub(crate) mod durable;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use highwater_core::{Cursor, Error, Instant, NullCursor, Result, TableName};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::catalog::{get, rows};
use crate::decode::{EPOCH_DAYS, EPOCH_MICROS};
use crate::session::quote;
use crate::storage::Files;

/// Covers the time between taking a transaction's start and publishing it, and small steps of the
/// clock.
const SLACK_MICROS: i64 = 5_000_000;
/// No time zone is further from UTC than this in PostgreSQL: wall-clock times and dates may be
/// that far behind.
const ZONE_MICROS: i64 = 16 * 3_600_000_000;
/// Transaction ids are compared modulo 2^32; this is as far as that can be trusted.
const XIDS_MAX: u64 = (1 << 31) - 10_000_000;
/// The year 1: an earlier bound has another notation, and leaves nothing out anyway.
const EARLIEST: i64 = -62_135_596_800_000_000;

/// What the probe found, before the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The clock of the server, or the start of the oldest open transaction, less the slack.
    pub horizon: Instant,
    /// When the oldest other transaction in this database began, if one is open.
    pub oldest_transaction: Option<Instant>,
    pub now: Instant,
    /// Some session's transaction cannot be seen.
    pub sessions_hidden: bool,
    /// The server is a standby: the transactions of the primary cannot be seen.
    pub standby: bool,
    /// Prepared transactions of this database.
    pub prepared: Vec<String>,
    /// `pg_control_system().system_identifier`, where it may be read.
    pub system: Option<String>,
    /// The timeline that the server writes: another one after a promotion or a restore. `None` on a
    /// standby.
    pub timeline: Option<String>,
}

/// By the functions behind the views: to plan these costs the server more than to answer.
const PROBE: &str = "
WITH seen AS (
  SELECT a.pid, a.xact_start, a.state, a.query
  FROM pg_catalog.pg_stat_get_activity(NULL) a
  WHERE a.datid = (SELECT d.oid FROM pg_catalog.pg_database d
                   WHERE d.datname = pg_catalog.current_database())
)
SELECT (extract(epoch FROM (SELECT min(xact_start) FROM seen
                            WHERE pid <> pg_catalog.pg_backend_pid())) * 1000000)::int8,
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8,
       -- A client whose state is not shown may have a transaction open.
       EXISTS (SELECT 1 FROM seen
               WHERE xact_start IS NULL
                 AND (state = 'disabled' OR query = '<insufficient privilege>')),
       pg_catalog.pg_is_in_recovery(),
       ARRAY(SELECT p.transaction::text FROM pg_catalog.pg_prepared_xact() p
             WHERE p.dbid = (SELECT d.oid FROM pg_catalog.pg_database d
                             WHERE d.datname = pg_catalog.current_database())),
       CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
            THEN (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) END,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
                 AND pg_catalog.has_function_privilege('pg_catalog.pg_current_wal_lsn()', 'EXECUTE')
            THEN substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END";

/// Looks at the open transactions. Has to run before the snapshot is taken: a transaction that
/// ends in between is visible to the snapshot, one that begins in between is later than the
/// horizon.
///
/// # Errors
/// As the server's.
pub(crate) async fn probe(client: &Client) -> Result<Probe> {
    let found = rows(client, PROBE, &[]).await?;
    let row = found.first().ok_or_else(|| Error::internal("The probe returned nothing"))?;
    let oldest = get::<Option<i64>>(row, 0)?.map(Instant);
    let now = Instant(get(row, 1)?);
    let earliest = oldest.map_or(now, |oldest| oldest.min(now));
    Ok(Probe {
        horizon: Instant(earliest.0 - SLACK_MICROS),
        oldest_transaction: oldest,
        now,
        sessions_hidden: get(row, 2)?,
        standby: get(row, 3)?,
        prepared: get(row, 4)?,
        system: get(row, 5)?,
        timeline: get(row, 6)?,
    })
}

/// A snapshot by its bounds: ids below `xmin` are finished, ids from `xmax` on are unknown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub xmin: u64,
    pub xmax: u64,
}

/// The snapshot of the open transaction. Has to be its first statement.
///
/// # Errors
/// As the server's.
pub(crate) async fn snapshot(client: &Client) -> Result<Snapshot> {
    let statement = "SELECT pg_catalog.txid_snapshot_xmin(s), pg_catalog.txid_snapshot_xmax(s) \
                     FROM pg_catalog.txid_current_snapshot() s";
    let found = rows(client, statement, &[]).await?;
    let row = found.first().ok_or_else(|| Error::internal("The snapshot returned nothing"))?;
    let id = |column| Ok::<_, Error>(get::<i64>(row, column)?.cast_unsigned());
    Ok(Snapshot { xmin: id(0)?, xmax: id(1)? })
}

impl Snapshot {
    /// The full id of a transaction that made a visible row version, if it is not before `xmin`. A
    /// row that was frozen long ago shows an id that looks like one to come: no such is visible.
    pub(crate) fn recent(&self, xid: u32) -> Option<u64> {
        let distance = xid.wrapping_sub(self.xmin as u32).cast_signed();
        let id =
            (xid >= 3 && distance >= 0).then(|| self.xmin + u64::from(distance.cast_unsigned()));
        id.filter(|id| *id < self.xmax)
    }
}

/// The saved position of a table with row versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedVersions {
    v: u32,
    kind: String,
    /// The server that the transaction ids belong to, where it could be read.
    system: Option<String>,
    /// The timeline that they were given out in, where it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeline: Option<String>,
    /// The table: a table of the same name made later is another one.
    table: u32,
    /// The column that `greatest` is of.
    cursor_field: String,
    /// The greatest cursor delivered, as microseconds of its own clock.
    greatest: Option<Instant>,
    pub lower_bound: Option<Instant>,
    pub snapshot_xmin: u64,
    pub snapshot_xmax: u64,
    /// `5000-5003,5010`
    delivered: String,
    /// The partitions and children that were read, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    partitions: Vec<u32>,
    /// Prepared transactions, and the lower bound that each of them holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    prepared: BTreeMap<String, Option<Instant>>,
    /// What the table was stored in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: Files,
    /// Whether rows without a cursor were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_nulls: bool,
}

const KIND: &str = "row_versions";

impl SavedVersions {
    /// Reads a saved position.
    ///
    /// # Errors
    /// `Config` when it has a form that this version does not know.
    pub(crate) fn parse(cursor: &Cursor, table: &TableName) -> Result<Self> {
        Self::deserialize(&cursor.0)
            .ok()
            .filter(|saved| saved.v == 1 && saved.kind == KIND)
            .ok_or_else(|| {
                Error::config("The saved cursor has a form that this version does not know")
                    .context("table", table)
                    .hint(reset_hint(table))
            })
    }

    /// The transactions whose row versions were delivered, as rows show them.
    ///
    /// # Errors
    /// `Config` when they cannot be read.
    pub(crate) fn delivered(&self, table: &TableName) -> Result<impl Iterator<Item = u32>> {
        Ok(self.delivered_ids(table)?.into_iter().map(|xid| xid as u32))
    }

    fn delivered_ids(&self, table: &TableName) -> Result<BTreeSet<u64>> {
        parse_ranges(&self.delivered).ok_or_else(|| {
            Error::config("The saved cursor is damaged")
                .context("table", table)
                .hint(reset_hint(table))
        })
    }
}

pub(crate) fn reset_hint(table: &TableName) -> String {
    format!("highwater state reset --table {table}")
}

/// Of what kind the cursor column is: how the lower bound is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// `timestamptz`: an instant.
    Instant,
    /// `timestamp`: in whatever zone its writers are.
    Local,
    /// `date`: the same, by days.
    Day,
    /// No clock writes it.
    None,
}

/// One incremental read of a table with row versions.
#[derive(Clone)]
pub(crate) struct VersionRead {
    table: TableName,
    saved: Option<SavedVersions>,
    snapshot: Snapshot,
    lower_bound: Option<Instant>,
    cursor_field: String,
    greatest: Option<Instant>,
    clock_went_back: bool,
    prepared: BTreeMap<String, Option<Instant>>,
    system: Option<String>,
    timeline: Option<String>,
    oid: u32,
    partitions: Vec<u32>,
    files: Files,
    without_nulls: bool,
    /// Transactions whose row versions were delivered, by the 32 bits that a row shows.
    known: HashSet<u32>,
    seen: BTreeSet<u64>,
    last_seen: Option<u32>,
}

/// What the table is now.
pub(crate) struct TableNow {
    pub oid: u32,
    pub partitions: Vec<u32>,
    /// What it is stored in.
    pub files: Files,
    /// What becomes of rows without a cursor.
    pub nulls: NullCursor,
    pub cursor_field: String,
    /// Whether the start of every transaction that may still write is known and cursors follow it.
    pub clock: Clock,
}

impl VersionRead {
    /// Prepares a read from what was saved.
    ///
    /// # Errors
    /// `Schema` when the server or the table is another one than the position belongs to, or went
    /// back in time; `Transient` when a standby has not replayed that far yet.
    pub(crate) fn new(
        name: &TableName,
        saved: Option<SavedVersions>,
        probe: &Probe,
        snapshot: Snapshot,
        now: TableNow,
    ) -> Result<Self> {
        if let Some(saved) = &saved {
            check_same_source(name, saved, probe, snapshot, now.oid)?;
            if saved.without_nulls && now.nulls == NullCursor::Include {
                return Err(Error::config(
                    "Rows without a cursor were left out so far, and would be missed for ever",
                )
                .context("table", name)
                .hint(format!("keep `null_cursor: exclude`, or copy all: {}", reset_hint(name))));
            }
        }
        let held = saved.as_ref().and_then(|saved| saved.lower_bound);
        // A prepared transaction shows when it was prepared, not when it began. It had begun
        // after the bound of the sync before the one that first met it.
        let prepared: BTreeMap<String, Option<Instant>> = probe
            .prepared
            .iter()
            .map(|xid| {
                let known = saved.as_ref().and_then(|saved| saved.prepared.get(xid));
                (xid.clone(), known.copied().unwrap_or(held))
            })
            .collect();
        let unknown = probe.sessions_hidden || probe.standby || now.clock == Clock::None;
        let lower_bound = if unknown {
            held
        } else {
            prepared.values().try_fold(probe.horizon, |bound, held| Some(bound.min((*held)?)))
        };
        let known = match &saved {
            Some(saved) => saved.delivered_ids(name)?,
            None => BTreeSet::new(),
        };
        let mut read = Self {
            table: name.clone(),
            snapshot,
            lower_bound,
            greatest: saved
                .as_ref()
                .filter(|saved| saved.cursor_field == now.cursor_field)
                .and_then(|saved| saved.greatest),
            cursor_field: now.cursor_field,
            // Whatever was written since may carry an earlier time than the bound.
            clock_went_back: held.is_some_and(|held| probe.now < held),
            prepared,
            system: probe.system.clone(),
            timeline: probe.timeline.clone(),
            oid: now.oid,
            partitions: now.partitions,
            files: now.files,
            without_nulls: match now.nulls {
                NullCursor::Include => false,
                NullCursor::Exclude => true,
                NullCursor::Fail => saved.as_ref().is_some_and(|saved| saved.without_nulls),
            },
            seen: known.range(snapshot.xmin..).copied().collect(),
            known: known.iter().map(|xid| *xid as u32).collect(),
            last_seen: None,
            saved,
        };
        if read.is_wrapped() {
            // These 32 bits may by now be another transaction's.
            read.known.clear();
        }
        Ok(read)
    }

    /// The partitions that were not there at the last read: everything in them is new.
    pub(crate) fn new_partitions(&self) -> Vec<u32> {
        let Some(saved) = &self.saved else { return Vec::new() };
        self.partitions.iter().filter(|oid| !saved.partitions.contains(oid)).copied().collect()
    }

    /// The object id of the table.
    pub(crate) fn oid(&self) -> u32 {
        self.oid
    }

    /// All partitions and children, empty for a plain table.
    pub(crate) fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    /// Whether ids have grown so far since the last read that they cannot be compared.
    pub(crate) fn is_wrapped(&self) -> bool {
        self.saved
            .as_ref()
            .is_some_and(|s| self.snapshot.xmax.saturating_sub(s.snapshot_xmin) >= XIDS_MAX)
    }

    /// The condition on the transaction id: `None` in a first read.
    pub(crate) fn version_condition(&self) -> Option<String> {
        let saved = self.saved.as_ref()?;
        // Beyond half of the ids an age turns negative: then it is of a row that was frozen long ago.
        Some(format!(
            "pg_catalog.age(xmin) BETWEEN 0 AND pg_catalog.age('{}'::pg_catalog.xid)",
            saved.snapshot_xmin as u32
        ))
    }

    /// The condition on the cursor column, where there is a lower bound: not before it, nor before
    /// the greatest cursor delivered, whichever is earlier. So rows are also found whose cursor
    /// lags behind the clock, and a cursor from the future hides nothing.
    pub(crate) fn cursor_condition(
        &self,
        column: &str,
        clock: Clock,
        lookback: u64,
    ) -> Option<String> {
        let saved = self.saved.as_ref().filter(|saved| saved.cursor_field == self.cursor_field)?;
        let bound = saved.lower_bound.filter(|_| !self.clock_went_back)?.0;
        let (bound, cast) = match clock {
            Clock::Instant => (bound, "pg_catalog.timestamptz"),
            Clock::Local => (bound.saturating_sub(ZONE_MICROS), "pg_catalog.timestamp"),
            Clock::Day => {
                (bound.saturating_sub(ZONE_MICROS), "pg_catalog.timestamp::pg_catalog.date")
            }
            Clock::None => return None,
        };
        let lookback = i64::try_from(lookback).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let from = Instant(bound.min(saved.greatest?.0).saturating_sub(lookback));
        if from.0 < EARLIEST {
            return None;
        }
        let (column, from) = (quote(column), from.to_rfc3339());
        Some(format!("({column} >= '{from}'::{cast} OR {column} IS NULL)"))
    }

    /// Takes the cursor of a row, in its binary form: a timestamp or a date.
    #[inline]
    pub(crate) fn reach(&mut self, cursor: &[u8]) {
        let micros = if let Ok(micros) = <[u8; 8]>::try_from(cursor) {
            i64::from_be_bytes(micros).checked_add(EPOCH_MICROS)
        } else if let Ok(days) = <[u8; 4]>::try_from(cursor) {
            const DAY_MICROS: i64 = 86_400_000_000;
            (i64::from(i32::from_be_bytes(days)) + i64::from(EPOCH_DAYS)).checked_mul(DAY_MICROS)
        } else {
            None
        };
        // What does not fit is `infinity`, or so late that the clock's bound is the earlier one.
        if let Some(micros) = micros.map(Instant) {
            self.greatest = Some(self.greatest.map_or(micros, |greatest| greatest.max(micros)));
        }
    }

    /// Takes a row version by the transaction that made it; says whether it has to be sent.
    #[inline]
    pub(crate) fn admit(&mut self, xid: u32, in_new_partition: bool) -> bool {
        if self.last_seen != Some(xid) {
            self.last_seen = Some(xid);
            self.seen.extend(self.snapshot.recent(xid));
        }
        in_new_partition || self.known.is_empty() || !self.known.contains(&xid)
    }

    /// One reader's part of the read. What it admits is not covered before [`Self::absorb`] has
    /// taken it back.
    pub(crate) fn part(&self) -> Self {
        Self { seen: BTreeSet::new(), last_seen: None, ..self.clone() }
    }

    /// Takes a part back.
    pub(crate) fn absorb(&mut self, part: Self) {
        self.seen.extend(part.seen);
        self.greatest = self.greatest.max(part.greatest);
    }

    /// Whether the position calls transactions finished or delivered that the saved one does not:
    /// these have to be on the server's disk before it is saved.
    pub(crate) fn has_moved(&self) -> bool {
        self.saved.as_ref().is_none_or(|saved| {
            saved.snapshot_xmin != self.snapshot.xmin
                || saved.delivered != format_ranges(&self.seen)
        })
    }

    /// From now on everything is new: what follows was not read before.
    pub(crate) fn forget_known(&mut self) {
        self.known.clear();
    }

    /// What covers everything admitted so far.
    pub(crate) fn reached(&self) -> SavedVersions {
        let system = self.system.as_ref();
        SavedVersions {
            v: 1,
            kind: KIND.to_owned(),
            system: system.or(self.saved.as_ref().and_then(|s| s.system.as_ref())).cloned(),
            // A standby knows none: what the primary said before holds on.
            timeline: self.timeline.clone().or_else(|| self.saved.as_ref()?.timeline.clone()),
            table: self.oid,
            cursor_field: self.cursor_field.clone(),
            greatest: self.greatest,
            lower_bound: self.lower_bound,
            snapshot_xmin: self.snapshot.xmin,
            snapshot_xmax: self.snapshot.xmax,
            delivered: format_ranges(&self.seen),
            partitions: self.partitions.clone(),
            prepared: self.prepared.clone(),
            files: self.files.clone(),
            without_nulls: self.without_nulls,
        }
    }

    /// The position that covers everything admitted.
    ///
    /// # Errors
    /// `Internal` when it has no JSON form.
    pub(crate) fn finish(self) -> Result<serde_json::Value> {
        as_json(&self.reached(), &self.table)
    }
}

/// The JSON form of a position.
///
/// # Errors
/// `Internal` when it has none.
pub(crate) fn as_json(position: &impl Serialize, table: &TableName) -> Result<serde_json::Value> {
    serde_json::to_value(position).map_err(|error| {
        Error::internal("A cursor has no JSON form").context("table", table).caused_by(error)
    })
}

fn check_same_source(
    name: &TableName,
    saved: &SavedVersions,
    probe: &Probe,
    snapshot: Snapshot,
    oid: u32,
) -> Result<()> {
    if let (Some(then), Some(now)) = (&saved.system, &probe.system)
        && then != now
    {
        return Err(Error::schema(
            "The source is another PostgreSQL server than the one the cursor belongs to",
        )
        .context("table", name)
        .hint(reset_hint(name)));
    }
    if let (Some(then), Some(now)) = (&saved.timeline, &probe.timeline)
        && then != now
    {
        return Err(Error::schema(
            "The source was promoted or restored since it was last read: transactions that were \
             delivered may be missing there, and their ids belong to others",
        )
        .context("table", name)
        .hint(reset_hint(name)));
    }
    if snapshot.xmax < saved.snapshot_xmax {
        if probe.standby {
            return Err(Error::transient("The standby has not yet replayed what was read before")
                .context("table", name));
        }
        return Err(Error::schema(
            "The source went back in time: its transaction ids are older than the cursor's",
        )
        .context("table", name)
        .hint(reset_hint(name)));
    }
    if oid != saved.table {
        return Err(Error::schema("The table was dropped and made again since it was last read")
            .context("table", name)
            .hint(reset_hint(name)));
    }
    Ok(())
}

/// `1-3,7`
fn format_ranges(ids: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *id => *last = *id,
            _ => ranges.push((*id, *id)),
        }
    }
    let words: Vec<String> = ranges
        .into_iter()
        .map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    words.join(",")
}

fn parse_ranges(text: &str) -> Option<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > XIDS_MAX {
            return None;
        }
        ids.extend(first..=last);
    }
    Some(ids)
}

#[cfg(test)]
mod tests;
