//! Many small batches become few large ones.
//!
//! A message of one row costs a destination as much as one of thousands. Rows of one table keep
//! their order; between tables there is none to keep until the caller asks for the rest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use highwater_core::{Error, Result, Table, TableName};

use super::size;

/// Rows at which a batch is large enough.
pub const ROWS_ENOUGH: usize = 8192;
/// Bytes at which a batch is large enough.
pub const BYTES_ENOUGH: usize = 4 << 20;
/// Rows of all tables together may wait until they take that many times what is enough for one.
pub const ALL_TABLES: usize = 16;
/// Batches of a table that are kept as they came.
const LOOSE_MAX: usize = 64;

/// Rows of one table, gathered.
#[derive(Debug, Clone)]
pub struct Coalesced {
    /// The table.
    pub table: Arc<Table>,
    /// The rows, with exactly the schema of the table.
    pub rows: RecordBatch,
}

#[derive(Debug)]
struct Gathering {
    table: Arc<Table>,
    packed: Vec<RecordBatch>,
    /// Batches as they came. Each holds on to the message that it came in, which is far larger
    /// than a row, so that there must not be many.
    loose: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

/// Gathers rows until there are enough of a table, or too many of all.
#[derive(Debug)]
pub struct Coalescer {
    rows_enough: usize,
    bytes_enough: usize,
    /// Bytes of the rows that wait.
    bytes: usize,
    /// Where the tables are in `tables`, which is in the order in which they came.
    places: HashMap<TableName, usize>,
    tables: Vec<Gathering>,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new(ROWS_ENOUGH, BYTES_ENOUGH)
    }
}

impl Coalescer {
    /// Gives out a table's rows as soon as there are that many, or they take that many bytes, or
    /// the rows of all tables take [`ALL_TABLES`] times as much.
    pub fn new(rows_enough: usize, bytes_enough: usize) -> Self {
        let (places, tables) = (HashMap::new(), Vec::new());
        Self { rows_enough, bytes_enough, bytes: 0, places, tables }
    }

    /// Takes rows, and gives out what is enough now: nothing, one batch, or two, where a large
    /// batch passes as it is after the rows that came before it.
    ///
    /// The table of the first rows says what the columns are, until it is forgotten.
    ///
    /// # Errors
    /// `Schema` with table and column if the rows have other columns than those before them;
    /// `Data` for a NULL where the first description promised a value.
    pub fn push(&mut self, table: &Arc<Table>, rows: RecordBatch) -> Result<Vec<Coalesced>> {
        let place = self.place(table);
        let gathering = &mut self.tables[place];
        let rows = gathering.fitted(rows)?;
        let mut ready = Vec::new();
        if rows.num_rows() == 0 {
            return Ok(ready);
        }
        let (count, bytes) = (rows.num_rows(), size::of_batch(&rows));
        if count >= self.rows_enough || bytes >= self.bytes_enough {
            let table = Arc::clone(&gathering.table);
            ready.extend(self.give(place)?);
            ready.push(Coalesced { table, rows });
            return Ok(ready);
        }
        gathering.add(rows, bytes)?;
        self.bytes += bytes;
        if gathering.rows >= self.rows_enough || gathering.bytes >= self.bytes_enough {
            ready.extend(self.give(place)?);
        } else if self.bytes >= self.bytes_enough.saturating_mul(ALL_TABLES) {
            let places = 0..self.tables.len();
            if let Some(largest) = places.max_by_key(|place| self.tables[*place].bytes) {
                ready.extend(self.give(largest)?);
            }
        }
        Ok(ready)
    }

    /// The rest of every table, in the order in which the tables first came.
    ///
    /// # Errors
    /// `Internal`, if Arrow cannot join what has one schema.
    pub fn flush(&mut self) -> Result<Vec<Coalesced>> {
        let mut ready = Vec::new();
        for place in 0..self.tables.len() {
            ready.extend(self.give(place)?);
        }
        Ok(ready)
    }

    /// The rest of one table, which is forgotten: it may come again with other columns.
    ///
    /// # Errors
    /// As [`Coalescer::flush`].
    pub fn forget(&mut self, table: &TableName) -> Result<Option<Coalesced>> {
        let Some(place) = self.places.remove(table) else { return Ok(None) };
        let rest = self.give(place);
        self.tables.remove(place);
        for other in self.places.values_mut().filter(|other| **other > place) {
            *other -= 1;
        }
        rest
    }

    /// Bytes of the rows that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&mut self, table: &Arc<Table>) -> usize {
        if let Some(place) = self.places.get(&table.name) {
            return *place;
        }
        let place = self.tables.len();
        self.places.insert(table.name.clone(), place);
        let (packed, loose, table) = (Vec::new(), Vec::new(), Arc::clone(table));
        self.tables.push(Gathering { table, packed, loose, rows: 0, bytes: 0 });
        place
    }

    fn give(&mut self, place: usize) -> Result<Option<Coalesced>> {
        self.bytes -= self.tables[place].bytes;
        self.tables[place].take()
    }
}

impl Gathering {
    /// The rows under the schema of the first ones.
    fn fitted(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let schema = &self.table.schema;
        if Arc::ptr_eq(schema, rows.schema_ref()) {
            return Ok(rows);
        }
        if let Some(column) = difference(schema, rows.schema_ref()) {
            return Err(Error::schema("A table came with other columns than before")
                .context("table", &self.table.name)
                .context("column", column));
        }
        let (_, columns, count) = rows.into_parts();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options).map_err(
            |e| {
                Error::data("Rows do not fit the columns of their table")
                    .context("table", &self.table.name)
                    .caused_by(e)
            },
        )
    }

    fn add(&mut self, rows: RecordBatch, bytes: usize) -> Result<()> {
        self.rows += rows.num_rows();
        self.bytes += bytes;
        self.loose.push(rows);
        if self.loose.len() >= LOOSE_MAX {
            let loose = std::mem::take(&mut self.loose);
            self.packed.push(concat_batches(&self.table.schema, &loose)?);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Coalesced>> {
        let mut batches = std::mem::take(&mut self.packed);
        batches.append(&mut self.loose);
        (self.rows, self.bytes) = (0, 0);
        let rows = match batches.len() {
            0 => return Ok(None),
            1 => batches.pop(),
            _ => Some(concat_batches(&self.table.schema, &batches)?),
        };
        Ok(rows.map(|rows| Coalesced { table: Arc::clone(&self.table), rows }))
    }
}

/// The first column that is not the same. Whether it may be NULL is seen with the values.
fn difference(before: &Schema, now: &Schema) -> Option<String> {
    let (before, now) = (before.fields(), now.fields());
    let length = before.len().max(now.len());
    (0..length).find_map(|i| match (before.get(i), now.get(i)) {
        (Some(a), Some(b)) if a.name() == b.name() && a.data_type() == b.data_type() => None,
        (_, Some(other)) | (Some(other), None) => Some(other.name().clone()),
        (None, None) => None,
    })
}
