//! An inclusive cursor, and the rows at its boundary that were delivered already.
//!
//! A source without a change log reads `cursor >= saved maximum`, because rows with the very same
//! cursor may be added later. So that `append` gets no duplicate, the saved cursor also holds a
//! hash ([`RowHasher`]) of every row delivered at or after the place where the next read begins;
//! a row that is read again and has such a hash is not sent. Hashes are counted: of three equal
//! rows in a table without a key, two of which were delivered, one is sent.
//!
//! The saved cursor:
//!
//! ```json
//! {"v": 1, "field": "updated_at", "max": "2026-11-21 03:04:05.000000",
//!  "from": "2026-11-21 03:04:05.000000", "columns": ["id", "updated_at"],
//!  "boundary": "…", "nulls": "…"}
//! ```
//!
//! - `max`: the canonical text of the greatest cursor delivered, `null` before the first. For
//!   dates and timestamps, rows after the time of the read do not count: one from the year 2999
//!   would otherwise hide everything that follows. Such rows are known by their hashes until
//!   their time has come. `max` never goes back.
//! - `from`: where the boundary begins, `max - lookback`. A read never begins before it, so that a
//!   longer `lookback` sends nothing twice; it takes effect as `max` grows. A cursor set by hand
//!   may leave out everything but `v`, `field` and `max`.
//! - `boundary`: base64 of the sorted hashes (16 bytes each, little endian) of the delivered rows
//!   with `cursor >= from`; repeated for equal rows.
//! - `nulls`: the same for delivered rows without a cursor. They are read every time, because
//!   nothing tells when one appears or changes.
//! - `columns`: what the hashes were made of. A column that is added later is left out when rows
//!   are compared with the saved hashes: a row whose known columns are the same counts as
//!   delivered, so that the new column neither sends the boundary a second time nor hides a row.
//!   The next saved boundary includes the new column. When a column is gone, its part of the
//!   hashes is gone too: the rows at the boundary cannot be told apart and are sent again, because
//!   a doubled row can be seen and a lost one cannot; a warning says so.

mod hash;
mod position;

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use highwater_core::{Cursor, Error, Instant, NullCursor, Result, TableName, TablePlan};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use hash::RowHasher;
pub use position::Position;

/// The greatest number of hashes that a saved cursor may hold: 16 MB.
pub const HASHES_MAX: usize = 1_000_000;

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    v: u32,
    field: String,
    #[serde(default)]
    max: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    boundary: String,
    #[serde(default)]
    nulls: String,
}

/// One incremental read of one table: says where it begins, leaves out what was delivered, and
/// makes the cursor that covers it.
pub struct InclusiveCursor {
    table: TableName,
    schema: SchemaRef,
    field: Field,
    at: usize,
    lookback: u64,
    null_cursor: NullCursor,
    /// Nothing after it is saved as the maximum.
    cap: Option<Position>,
    /// Where this read begins: rows before it are not admitted.
    floor: Option<Position>,
    max: Option<Position>,
    /// Hashes over the columns known when the cursor was saved.
    known: Option<RowHasher>,
    /// Whether `known` hashes the same columns as `hasher`.
    same_columns: bool,
    hasher: RowHasher,
    delivered: Hashes,
    delivered_nulls: Hashes,
    /// `nulls` as they were saved, kept while NULL cursors are excluded.
    saved_nulls: String,
    boundary: Vec<(Position, u128)>,
    prune_at: usize,
    nulls: Vec<u128>,
    excluded: u64,
}

/// How often each hash was delivered and not met again.
type Hashes = HashMap<u128, u32>;

impl InclusiveCursor {
    /// Prepares a read of the planned table from what was saved, at the time `now`.
    ///
    /// # Errors
    /// `Config` when the cursor field is missing or is another one than was saved, or when
    /// `lookback` is given for a type that knows no distance.
    pub fn new(plan: &TablePlan, saved: Option<&Cursor>, now: Instant) -> Result<Self> {
        let table = plan.source.name.clone();
        let name = plan.cursor_field.as_deref().ok_or_else(|| {
            Error::config("An incremental read needs a cursor field").context("table", &table)
        })?;
        let schema = plan.source.schema.clone();
        let (at, field) = schema.column_with_name(name).ok_or_else(|| {
            Error::config("The cursor field is not a column of the table")
                .context("table", &table)
                .context("column", name)
        })?;
        if plan.lookback > 0 && !position::knows_distance(field) {
            return Err(Error::config("`lookback` has no meaning for this cursor field")
                .context("table", &table)
                .context("column", name)
                .hint("leave `lookback` out, or choose a number, date or timestamp"));
        }
        let (field, saved) = (field.clone(), parse(saved, name, &table)?);
        let damaged = |error: Error| error.context("table", &table).hint(reset_hint(&table));
        let place = |text: &Option<String>| {
            text.as_ref().map(|text| position::from_text(&field, text)).transpose()
        };
        let max = place(&saved.max).map_err(damaged)?;
        let from = place(&saved.from).map_err(damaged)?;
        let columns: Vec<_> = plan.source.column_names().collect();
        let hasher = RowHasher::new(&schema, &columns)
            .ok_or_else(|| Error::internal("A table lacks its own column"))?;
        let known = RowHasher::new(&schema, &saved.columns);
        if known.is_none() {
            tracing::warn!(
                table = %table,
                "a column is gone since the cursor was saved: rows at the boundary are sent again"
            );
        }
        let comparable = known.is_some();
        let hashes = |text: &str| if comparable { decode(text) } else { Ok(Hashes::new()) };
        let mut cursor = Self {
            cap: position::of_instant(&field, now),
            same_columns: saved.columns.iter().map(String::as_str).eq(columns.iter().copied()),
            delivered: hashes(&saved.boundary).map_err(damaged)?,
            delivered_nulls: hashes(&saved.nulls).map_err(damaged)?,
            saved_nulls: saved.nulls,
            table: table.clone(),
            schema: schema.clone(),
            field,
            at,
            lookback: plan.lookback,
            null_cursor: plan.null_cursor,
            floor: from,
            max,
            known,
            hasher,
            boundary: Vec::new(),
            prune_at: 4096,
            nulls: Vec::new(),
            excluded: 0,
        };
        cursor.floor = cursor.next_floor()?;
        Ok(cursor)
    }

    /// Where the read begins: rows with `cursor >= this` have to be read, rows before it may be
    /// (they are dropped). `None`: every row.
    pub fn floor(&self) -> Option<&Position> {
        self.floor.as_ref()
    }

    /// The canonical text of [`Self::floor`], moved back by `margin` (as `lookback`: seconds or
    /// units).
    ///
    /// # Errors
    /// `Internal` when the type knows no distance and `margin` is not 0.
    pub fn floor_text(&self, margin: u64) -> Result<Option<String>> {
        let Some(floor) = &self.floor else { return Ok(None) };
        let place = position::before(&self.field, floor, margin)
            .ok_or_else(|| Error::internal("A cursor field knows no distance"))?;
        position::to_text(&self.field, &place).map(Some)
    }

    /// The cursor field.
    pub fn field(&self) -> &Field {
        &self.field
    }

    /// Whether rows without a cursor have to be read. With `fail` they have to, to be found.
    pub fn reads_nulls(&self) -> bool {
        self.null_cursor != NullCursor::Exclude
    }

    /// How many rows without a cursor were left out so far.
    pub fn excluded(&self) -> u64 {
        self.excluded
    }

    /// Takes rows in the order they were read and returns those that have not been delivered.
    ///
    /// # Errors
    /// `Data` for a row without a cursor where that is forbidden; `Config` when the boundary grows
    /// beyond [`HASHES_MAX`].
    pub fn admit(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        let place = position::positions(&self.field, rows.column(self.at))?;
        let places: Vec<_> = (0..rows.num_rows()).map(place).collect();
        self.advance(&places);
        let floor = self.next_floor()?;
        // Only rows that the next read may meet again, or that were delivered, need a hash.
        let comparing = !self.delivered.is_empty() || !self.delivered_nulls.is_empty();
        let needed: Vec<usize> = (0..places.len())
            .filter(|row| comparing || reaches(places[*row].as_ref(), floor.as_ref()))
            .collect();
        let hashes = self.hasher.hash(&rows, needed.iter().copied())?;
        let known = match &self.known {
            Some(known) if comparing && !self.same_columns => {
                Some(known.hash(&rows, needed.iter().copied())?)
            }
            _ => None,
        };
        let mut keep = vec![true; places.len()];
        for (row, place) in places.iter().enumerate() {
            keep[row] = match place {
                None => self.admits_null()?,
                Some(place) => !self.is_before_floor(place),
            };
        }
        for (i, row) in needed.into_iter().enumerate() {
            if !keep[row] {
                continue;
            }
            let place = places[row].clone();
            let counts = match place {
                Some(_) => &mut self.delivered,
                None => &mut self.delivered_nulls,
            };
            if comparing && take(counts, known.as_ref().map_or(hashes[i], |known| known[i])) {
                keep[row] = false;
            }
            match place {
                None => self.nulls.push(hashes[i]),
                Some(place) if reaches(Some(&place), floor.as_ref()) => {
                    self.boundary.push((place, hashes[i]));
                }
                Some(_) => {}
            }
        }
        self.prune(floor.as_ref())?;
        if keep.iter().all(|kept| *kept) {
            return Ok(rows);
        }
        Ok(arrow_select::filter::filter_record_batch(&rows, &BooleanArray::from(keep))?)
    }

    /// The cursor that covers every row admitted so far.
    ///
    /// # Errors
    /// `Config` when the boundary is larger than [`HASHES_MAX`].
    pub fn finish(mut self) -> Result<Value> {
        let floor = self.next_floor()?;
        self.prune_at = 0;
        self.prune(floor.as_ref())?;
        let boundary = self.boundary.iter().map(|(_, hash)| *hash).collect();
        let nulls = if self.null_cursor == NullCursor::Exclude {
            // Should they be included again later, what was delivered is still known.
            self.saved_nulls.clone()
        } else {
            encode(std::mem::take(&mut self.nulls))
        };
        let text = |place: &Position| position::to_text(&self.field, place);
        let saved = Saved {
            v: 1,
            field: self.field.name().clone(),
            max: self.max.as_ref().map(text).transpose()?,
            from: floor.as_ref().map(text).transpose()?,
            columns: self.schema.fields().iter().map(|f| f.name().clone()).collect(),
            boundary: encode(boundary),
            nulls,
        };
        serde_json::to_value(saved)
            .map_err(|error| Error::internal("A cursor has no JSON form").caused_by(error))
    }

    /// Moves the maximum to the greatest place, up to the cap.
    fn advance(&mut self, places: &[Option<Position>]) {
        let honest = places
            .iter()
            .flatten()
            .filter(|place| self.cap.as_ref().is_none_or(|cap| place.compare(cap).is_le()));
        let Some(reached) = honest.max_by(|a, b| a.compare(b)) else { return };
        if self.max.as_ref().is_none_or(|max| reached.compare(max).is_gt()) {
            self.max = Some(reached.clone());
        }
    }

    /// Where the next read begins if this one ended now: never before this one began, because
    /// what lies there was not looked at.
    fn next_floor(&self) -> Result<Option<Position>> {
        let Some(max) = &self.max else { return Ok(None) };
        let from = position::before(&self.field, max, self.lookback)
            .ok_or_else(|| Error::internal("A cursor field knows no distance"))?;
        Ok(Some(match &self.floor {
            Some(floor) if floor.compare(&from).is_gt() => floor.clone(),
            _ => from,
        }))
    }

    fn is_before_floor(&self, place: &Position) -> bool {
        self.floor.as_ref().is_some_and(|floor| place.compare(floor).is_lt())
    }

    fn admits_null(&mut self) -> Result<bool> {
        match self.null_cursor {
            NullCursor::Include => Ok(true),
            NullCursor::Exclude => {
                self.excluded += 1;
                Ok(false)
            }
            NullCursor::Fail => Err(Error::data("A row has no cursor value")
                .context("table", &self.table)
                .context("column", self.field.name())
                .hint("null_cursor: include")),
        }
    }

    /// Forgets rows that the maximum has left behind, now and then.
    fn prune(&mut self, floor: Option<&Position>) -> Result<()> {
        if self.boundary.len() >= self.prune_at {
            self.boundary.retain(|(place, _)| reaches(Some(place), floor));
            self.prune_at = (self.boundary.len() * 2).clamp(4096, HASHES_MAX.max(4096));
        }
        if self.boundary.len() + self.nulls.len() <= HASHES_MAX {
            return Ok(());
        }
        let hint = if self.nulls.len() > self.boundary.len() {
            "null_cursor: exclude"
        } else if self.lookback > 0 {
            "give a shorter `lookback`"
        } else {
            "choose a cursor field with more distinct values, or read_mode: full_refresh"
        };
        Err(Error::config("Too many rows would have to be recognised in the next sync")
            .context("table", &self.table)
            .context("column", self.field.name())
            .context("rows_max", HASHES_MAX)
            .hint(hint))
    }
}

/// Whether the next read, beginning at `floor`, meets a row at this place again.
fn reaches(place: Option<&Position>, floor: Option<&Position>) -> bool {
    match (place, floor) {
        (Some(place), Some(floor)) => place.compare(floor) != Ordering::Less,
        _ => true,
    }
}

/// Takes one occurrence of a hash out.
fn take(counts: &mut Hashes, hash: u128) -> bool {
    let Some(count) = counts.get_mut(&hash) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(&hash);
    }
    true
}

fn parse(saved: Option<&Cursor>, field: &str, table: &TableName) -> Result<Saved> {
    let Some(Cursor(value)) = saved else {
        return Ok(Saved {
            v: 1,
            field: field.to_owned(),
            max: None,
            from: None,
            columns: Vec::new(),
            boundary: String::new(),
            nulls: String::new(),
        });
    };
    let saved = Saved::deserialize(value).ok().filter(|saved| saved.v == 1).ok_or_else(|| {
        Error::config("The saved cursor has a form that this version does not know")
            .context("table", table)
            .hint(reset_hint(table))
    })?;
    if saved.field != field {
        return Err(Error::config("The saved cursor belongs to another cursor field")
            .context("table", table)
            .context("saved", &saved.field)
            .context("configured", field)
            .hint(format!("cursor: {}", saved.field)));
    }
    Ok(saved)
}

fn reset_hint(table: &TableName) -> String {
    format!("highwater state reset --table {table}")
}

fn encode(mut hashes: Vec<u128>) -> String {
    hashes.sort_unstable();
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Result<Hashes> {
    let damaged = || Error::config("The saved cursor is damaged");
    let bytes = STANDARD.decode(text).map_err(|_| damaged())?;
    let (hashes, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(damaged());
    }
    let mut counts = Hashes::with_capacity(hashes.len());
    for hash in hashes {
        *counts.entry(u128::from_le_bytes(*hash)).or_insert(0) += 1;
    }
    Ok(counts)
}

/// The raw integers of a time or timestamp column.
fn ticks(array: &dyn Array) -> Result<Box<dyn Fn(usize) -> i64 + '_>> {
    macro_rules! read {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>();
            Box::new(move |row| i64::from(values.value(row)))
        }};
    }
    Ok(match array.data_type() {
        DataType::Time32(TimeUnit::Second) => read!(Time32SecondType),
        DataType::Time32(_) => read!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => read!(Time64MicrosecondType),
        DataType::Time64(_) => read!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => read!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => read!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => read!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => read!(TimestampNanosecondType),
        other => {
            return Err(Error::internal("A column is no time").context("type", other));
        }
    })
}

#[cfg(test)]
mod tests;
