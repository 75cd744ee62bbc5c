//! Reading one table in one snapshot.

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, SchemaRef};
use highwater_core::text;
use highwater_core::types::type_name;
use highwater_core::{
    Batch, Checkpoint, Completion, CrashPoint, Cursor, CursorKey, Error, Instant, LogicalType, Op,
    Output, ReadMode, Result, TablePlan, crash,
};
use highwater_sql::boundary::InclusiveCursor;

use super::catalog::quoted;
use super::{carried, cursor, quote};
use crate::duckdb::catalog::{Column, Relation, relation};
use crate::duckdb::types::described;
use crate::session::Session;

/// A batch is sent when it has so many bytes, however few rows it has.
const BATCH_BYTES: usize = 8 << 20;

/// What to read.
pub(super) struct Job {
    pub(super) plan: TablePlan,
    pub(super) saved: Option<Cursor>,
    pub(super) batch_rows: usize,
}

/// Reads the table and sends its rows, and for an incremental read the cursor that covers them.
/// The session is used for this read only: its transaction ends with it.
///
/// # Errors
/// `Config` for a cursor field that is none, `Schema` when the table is another one than was
/// planned, otherwise what DuckDB says.
pub(super) fn table(session: &mut Session, job: &Job, output: &Output) -> Result<Completion> {
    // The catalog is read first: with that the snapshot is taken.
    session.run("BEGIN TRANSACTION READ ONLY")?;
    let plan = &job.plan;
    let relation = existing(session, plan)?;
    crash::at(CrashPoint::ReadSnapshot);
    let mut inclusive = None;
    let mut condition = String::new();
    if plan.read_mode == ReadMode::Incremental {
        cursor::check(plan)?;
        let boundary = InclusiveCursor::new(plan, job.saved.as_ref(), Instant::now())?;
        condition = cursor::condition(&boundary)?;
        inclusive = Some(boundary);
    }
    let mut reading = Reading { job, output, inclusive, sent: Vec::new() };
    if reading.rows(session, &relation, &condition)? == Completion::Stopped {
        return Ok(Completion::Stopped);
    }
    crash::at(CrashPoint::ReadRows);
    session.run("COMMIT")?;
    if let Some(boundary) = reading.inclusive {
        if boundary.excluded() > 0 {
            let rows = boundary.excluded();
            tracing::info!(table = %plan.name(), rows, "rows without a cursor left out");
        }
        let key = CursorKey::Table(plan.name().clone());
        output.blocking_checkpoint(Checkpoint::of(key, boundary.finish()?))?;
    }
    Ok(Completion::Complete)
}

/// Sends the rows of which `condition`, with its WHERE, is true, in the open transaction.
///
/// # Errors
/// As [`table`].
pub(super) fn rows_where(
    session: &mut Session,
    job: &Job,
    relation: &Relation,
    condition: &str,
    output: &Output,
) -> Result<Completion> {
    Reading { job, output, inclusive: None, sent: Vec::new() }.rows(session, relation, condition)
}

/// The relation that the plan reads.
///
/// # Errors
/// `Schema` when it is gone.
pub(super) fn existing(session: &mut Session, plan: &TablePlan) -> Result<Relation> {
    relation(session, plan.name())?.ok_or_else(|| {
        Error::schema("The table is not there any more").context("table", plan.name())
    })
}

/// A column of a query.
struct Selected {
    sql: String,
    /// The type in which its values come, which may be another than the plan's.
    sent: Field,
}

fn columns(plan: &TablePlan, relation: &Relation) -> Result<Vec<Selected>> {
    let again = "run the same command again: the tables are looked at first";
    let fields = plan.source.schema.fields().iter();
    let columns = fields.map(|field| {
        let Some(column) = relation.column(field.name()) else {
            return Err(Error::schema("A column is not there any more")
                .context("table", plan.name())
                .context("column", field.name())
                .hint(again));
        };
        if !is_planned(field, column) {
            return Err(Error::schema("A column is of another type than was planned")
                .context("table", plan.name())
                .context("column", field.name())
                .context("planned", type_name(field))
                .context("found", &column.declared)
                .hint(again));
        }
        let place = format!("t.{}", quote(&column.name));
        let sent = carried::field(field.name(), &column.declared, true);
        Ok(Selected { sql: carried::expression(&place, &column.declared), sent })
    });
    columns.collect()
}

/// Whether the column still is what the plan was made from, or is wanted as text.
fn is_planned(field: &Field, column: &Column) -> bool {
    let now = described(&column.name, &column.declared, column.meaning.as_ref(), true);
    let meaning = |field: &Field| LogicalType::of(field).ok();
    now.data_type() == field.data_type() && meaning(&now) == meaning(field)
        || meaning(field) == Some(LogicalType::Text)
}

struct Reading<'a> {
    job: &'a Job,
    output: &'a Output,
    inclusive: Option<InclusiveCursor>,
    /// The columns as they come.
    sent: Vec<Field>,
}

impl Reading<'_> {
    /// Hands the rows on as they come; DuckDB computes no more of them than are waited for.
    fn rows(
        &mut self,
        session: &mut Session,
        relation: &Relation,
        condition: &str,
    ) -> Result<Completion> {
        let columns = columns(&self.job.plan, relation)?;
        let selected: Vec<_> = columns.iter().map(|column| column.sql.as_str()).collect();
        // A table that is read for its number of rows only has no columns.
        let selected = if selected.is_empty() { "TRUE".to_owned() } else { selected.join(", ") };
        let from = quoted(self.job.plan.name());
        let sql = format!("SELECT {selected} FROM {from} AS t{condition}");
        self.sent = columns.into_iter().map(|column| column.sent).collect();
        let mut rows = session.query(&sql, &[])?;
        let schema = self.job.plan.source.schema.clone();
        let mut pending = Pending::default();
        while let Some(sent) = rows.next()? {
            if self.output.is_stopping() {
                return Ok(Completion::Stopped);
            }
            pending.push(adapted(&sent, &self.sent, &schema)?);
            if pending.rows >= self.job.batch_rows || pending.bytes >= BATCH_BYTES {
                self.send(pending.take(&schema)?)?;
            }
        }
        self.send(pending.take(&schema)?)?;
        Ok(Completion::Complete)
    }

    fn send(&mut self, rows: Option<RecordBatch>) -> Result<()> {
        let Some(mut rows) = rows else { return Ok(()) };
        if let Some(boundary) = &mut self.inclusive {
            rows = boundary.admit(rows)?;
        }
        let table = self.job.plan.source.clone();
        self.output.blocking_batch(Batch { table, op: Op::Upsert, rows })?;
        crash::at(CrashPoint::ReadBatch);
        Ok(())
    }
}

fn adapted(rows: &RecordBatch, sent: &[Field], schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = rows.columns().iter().zip(sent).zip(schema.fields());
    let columns = columns.map(|((values, sent), field)| {
        let values = carried::adapt(values, sent.data_type())
            .map_err(|error| error.context("column", field.name()))?;
        text::convert(sent, &values, field)
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// DuckDB sends 2048 rows at a time; they go on in larger batches.
#[derive(Default)]
struct Pending {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Pending {
    fn push(&mut self, batch: RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += batch.columns().iter().map(bytes_of).sum::<usize>();
        self.batches.push(batch);
    }

    fn take(&mut self, schema: &SchemaRef) -> Result<Option<RecordBatch>> {
        let pending = std::mem::take(self);
        Ok(match pending.batches.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(arrow_select::concat::concat_batches(schema, many)?),
        })
    }
}

fn bytes_of(values: &ArrayRef) -> usize {
    values.to_data().get_slice_memory_size().unwrap_or_default()
}
