//! Many small batches become few large ones.
//!
//! A message of one row costs a destination as much as one of thousands. Rows of one table keep
//! their order; between tables there is none to keep until the caller asks for the rest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use highwater_core::{Error, Result, Table, TableName};

use super::size;

/// Rows at which a batch is large enough.
pub const ROWS_ENOUGH: usize = 8192;
/// Bytes at which a batch is large enough.
pub const BYTES_ENOUGH: usize = 4 << 20;

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
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

/// Gathers rows until there are enough of a table.
#[derive(Debug)]
pub struct Coalescer {
    rows_enough: usize,
    bytes_enough: usize,
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
    /// Gives out a table's rows as soon as there are that many, or they take that many bytes.
    pub fn new(rows_enough: usize, bytes_enough: usize) -> Self {
        Self { rows_enough, bytes_enough, places: HashMap::new(), tables: Vec::new() }
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
        let (rows_enough, bytes_enough) = (self.rows_enough, self.bytes_enough);
        let gathering = self.gathering(table);
        let rows = gathering.fitted(rows)?;
        let mut ready = Vec::new();
        if rows.num_rows() == 0 {
            return Ok(ready);
        }
        let (count, bytes) = (rows.num_rows(), size::of_batch(&rows));
        if count >= rows_enough || bytes >= bytes_enough {
            ready.extend(gathering.take()?);
            ready.push(Coalesced { table: Arc::clone(&gathering.table), rows });
            return Ok(ready);
        }
        gathering.batches.push(rows);
        gathering.rows += count;
        gathering.bytes += bytes;
        if gathering.rows >= rows_enough || gathering.bytes >= bytes_enough {
            ready.extend(gathering.take()?);
        }
        Ok(ready)
    }

    /// The rest of every table, in the order in which the tables first came.
    ///
    /// # Errors
    /// `Internal`, if Arrow cannot join what has one schema.
    pub fn flush(&mut self) -> Result<Vec<Coalesced>> {
        let mut ready = Vec::new();
        for gathering in &mut self.tables {
            ready.extend(gathering.take()?);
        }
        Ok(ready)
    }

    /// The rest of one table, which is forgotten: it may come again with other columns.
    ///
    /// # Errors
    /// As [`Coalescer::flush`].
    pub fn forget(&mut self, table: &TableName) -> Result<Option<Coalesced>> {
        let Some(place) = self.places.remove(table) else { return Ok(None) };
        let rest = self.tables[place].take();
        self.tables.remove(place);
        for other in self.places.values_mut().filter(|other| **other > place) {
            *other -= 1;
        }
        rest
    }

    /// Bytes of the rows that wait.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|gathering| gathering.bytes).sum()
    }

    fn gathering(&mut self, table: &Arc<Table>) -> &mut Gathering {
        let place = match self.places.get(&table.name) {
            Some(place) => *place,
            None => {
                let place = self.tables.len();
                self.places.insert(table.name.clone(), place);
                let table = Arc::clone(table);
                self.tables.push(Gathering { table, batches: Vec::new(), rows: 0, bytes: 0 });
                place
            }
        };
        &mut self.tables[place]
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

    fn take(&mut self) -> Result<Option<Coalesced>> {
        let batches = std::mem::take(&mut self.batches);
        (self.rows, self.bytes) = (0, 0);
        let rows = match batches.len() {
            0 => return Ok(None),
            1 => batches.into_iter().next(),
            _ => Some(arrow_select::concat::concat_batches(&self.table.schema, &batches)?),
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
