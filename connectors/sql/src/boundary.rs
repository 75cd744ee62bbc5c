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
//!   The next saved boundary includes the new column.
//! - `boundary_cells`, `nulls_cells`: for a boundary of few rows, base64 of the hashes (8 bytes) of
//!   every single value, row by row in the order of `columns`. When a column is gone, rows are
//!   compared by the values that are left. Without them the rows at the boundary cannot be told
//!   apart any more and are sent again, because a doubled row can be seen and a lost one cannot;
//!   a warning says so.

mod hash;
mod position;
mod saved;

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use highwater_core::{Cursor, Error, Instant, NullCursor, Result, TableName, TablePlan};
use serde_json::Value;

pub use hash::RowHasher;
pub use position::Position;
use saved::{CELLS_MAX, Hashes, Mark, Saved, reset_hint};

/// The greatest number of hashes that a saved cursor may hold: 16 MB.
pub const HASHES_MAX: usize = 1_000_000;

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
    /// How rows are compared with what was delivered; `None`: as `hasher` hashes them.
    known: Option<Known>,
    hasher: RowHasher,
    delivered: Hashes,
    delivered_nulls: Hashes,
    /// `nulls` and `nulls_cells` as they were saved, kept while NULL cursors are excluded.
    saved_nulls: (String, String),
    boundary: Vec<(Position, Mark)>,
    prune_at: usize,
    nulls: Vec<Mark>,
    /// Whether there are few enough marks to keep the hashes of their values.
    keeps_cells: bool,
    excluded: u64,
}

/// How rows are hashed so that they can be compared with what was saved over other columns.
enum Known {
    /// As whole rows over the columns known then, all of which are still there.
    Rows(RowHasher),
    /// By the values of the columns known then that are still there.
    Cells(RowHasher),
}

impl Known {
    fn hash(&self, rows: &RecordBatch, needed: &[usize]) -> Result<Vec<u128>> {
        Ok(match self {
            Self::Rows(hasher) => hasher.hash(rows, needed.iter().copied())?,
            Self::Cells(hasher) => {
                let cells = hasher.cells(rows, needed.iter().copied())?;
                cells.iter().map(|cells| saved::of_cells(cells)).collect()
            }
        })
    }
}

/// What was delivered, and how to compare with it.
fn delivered(
    saved: &Saved,
    schema: &SchemaRef,
    table: &TableName,
) -> Result<(Option<Known>, Hashes, Hashes)> {
    let now = schema.fields().iter().map(|field| field.name());
    if let Some(hasher) = RowHasher::new(schema, &saved.columns) {
        let known = (!now.eq(saved.columns.iter())).then_some(Known::Rows(hasher));
        let nulls = saved::decode_rows(&saved.nulls)?;
        return Ok((known, saved::decode_rows(&saved.boundary)?, nulls));
    }
    let columns = &saved.columns;
    let kept: Vec<usize> =
        (0..columns.len()).filter(|at| schema.column_with_name(&columns[*at]).is_some()).collect();
    let names: Vec<&str> = kept.iter().map(|at| columns[*at].as_str()).collect();
    let hashes = |cells: &str, rows: &str| {
        if cells.is_empty() && !rows.is_empty() {
            tracing::warn!(
                table = %table,
                "a column is gone since the cursor was saved: rows at the boundary are sent again"
            );
        }
        saved::decode_cells(cells, columns.len(), &kept)
    };
    let boundary = hashes(&saved.boundary_cells, &saved.boundary)?;
    let nulls = hashes(&saved.nulls_cells, &saved.nulls)?;
    Ok((RowHasher::new(schema, &names).map(Known::Cells), boundary, nulls))
}

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
        let (field, saved) = (field.clone(), saved::parse(saved, name, &table)?);
        let damaged = |error: Error| error.context("table", &table).hint(reset_hint(&table));
        let place = |text: &Option<String>| {
            text.as_ref().map(|text| position::from_text(&field, text)).transpose()
        };
        let max = place(&saved.max).map_err(damaged)?;
        let from = place(&saved.from).map_err(damaged)?;
        let columns: Vec<_> = plan.source.column_names().collect();
        let hasher = RowHasher::new(&schema, &columns)
            .ok_or_else(|| Error::internal("A table lacks its own column"))?;
        let (known, delivered, delivered_nulls) =
            delivered(&saved, &schema, &table).map_err(damaged)?;
        let mut cursor = Self {
            cap: position::greatest(&field, now),
            delivered,
            delivered_nulls,
            saved_nulls: (saved.nulls, saved.nulls_cells),
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
            keeps_cells: true,
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
            Some(known) if comparing => Some(known.hash(&rows, &needed)?),
            _ => None,
        };
        let mut keep = vec![true; places.len()];
        for (row, place) in places.iter().enumerate() {
            keep[row] = match place {
                None => self.admits_null()?,
                Some(place) => !self.is_before_floor(place),
            };
        }
        let mut marked = Vec::new();
        for (i, row) in needed.into_iter().enumerate() {
            if !keep[row] {
                continue;
            }
            let counts = match places[row] {
                Some(_) => &mut self.delivered,
                None => &mut self.delivered_nulls,
            };
            if comparing && take(counts, known.as_ref().map_or(hashes[i], |known| known[i])) {
                keep[row] = false;
            }
            if reaches(places[row].as_ref(), floor.as_ref()) {
                marked.push((row, hashes[i]));
            }
        }
        self.mark(&rows, places, marked)?;
        self.prune(floor.as_ref())?;
        if keep.iter().all(|kept| *kept) {
            return Ok(rows);
        }
        Ok(arrow_select::filter::filter_record_batch(&rows, &BooleanArray::from(keep))?)
    }

    /// Keeps what the next read has to recognise.
    fn mark(
        &mut self,
        rows: &RecordBatch,
        mut places: Vec<Option<Position>>,
        marked: Vec<(usize, u128)>,
    ) -> Result<()> {
        if marked.len() * self.schema.fields().len() > CELLS_MAX {
            self.forget_cells();
        }
        let cells = if self.keeps_cells {
            self.hasher.cells(rows, marked.iter().map(|(row, _)| *row))?
        } else {
            vec![Vec::new(); marked.len()]
        };
        for ((row, hash), cells) in marked.into_iter().zip(cells) {
            match places[row].take() {
                Some(place) => self.boundary.push((place, Mark { hash, cells })),
                None => self.nulls.push(Mark { hash, cells }),
            }
        }
        Ok(())
    }

    /// The cursor that covers every row admitted so far.
    ///
    /// # Errors
    /// `Config` when the boundary is larger than [`HASHES_MAX`].
    pub fn finish(mut self) -> Result<Value> {
        let floor = self.next_floor()?;
        self.prune_at = 0;
        self.prune(floor.as_ref())?;
        let marks = std::mem::take(&mut self.boundary).into_iter().map(|(_, mark)| mark);
        let (boundary, boundary_cells) = saved::encode(marks.collect());
        let (nulls, nulls_cells) = if self.null_cursor == NullCursor::Exclude {
            // Should they be included again later, what was delivered is still known.
            std::mem::take(&mut self.saved_nulls)
        } else {
            saved::encode(std::mem::take(&mut self.nulls))
        };
        let text = |place: &Position| position::to_text(&self.field, place);
        let saved = Saved {
            v: 1,
            field: self.field.name().clone(),
            max: self.max.as_ref().map(text).transpose()?,
            from: floor.as_ref().map(text).transpose()?,
            columns: self.schema.fields().iter().map(|f| f.name().clone()).collect(),
            boundary,
            boundary_cells,
            nulls,
            nulls_cells,
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

    fn forget_cells(&mut self) {
        if std::mem::take(&mut self.keeps_cells) {
            let boundary = self.boundary.iter_mut().map(|(_, mark)| mark);
            boundary.chain(&mut self.nulls).for_each(|mark| mark.cells = Vec::new());
        }
    }

    /// Forgets rows that the maximum has left behind, now and then.
    fn prune(&mut self, floor: Option<&Position>) -> Result<()> {
        let columns = self.schema.fields().len();
        let cells = |cursor: &Self| (cursor.boundary.len() + cursor.nulls.len()) * columns;
        let too_many_cells = self.keeps_cells && cells(self) > CELLS_MAX;
        if self.boundary.len() >= self.prune_at || too_many_cells {
            self.boundary.retain(|(place, _)| reaches(Some(place), floor));
            self.prune_at = (self.boundary.len() * 2).clamp(4096, HASHES_MAX.max(4096));
        }
        if too_many_cells && cells(self) > CELLS_MAX {
            self.forget_cells();
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
