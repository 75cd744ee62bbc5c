//! Reading one table in one snapshot.

use arrow_array::RecordBatch;
use highwater_core::{
    Batch, Checkpoint, Completion, CrashPoint, Cursor, CursorKey, Instant, Op, Output, ReadMode,
    Result, TablePlan, crash,
};
use highwater_sql::boundary::InclusiveCursor;
use rusqlite::types::Value;
use rusqlite::{Connection, Statement};

use crate::catalog::{Relation, quote};
use crate::config::Location;
use crate::connection::explain;
use crate::cursor;
use crate::reader::Reader;

/// What to read.
pub(crate) struct Job {
    pub(crate) plan: TablePlan,
    pub(crate) saved: Option<Cursor>,
    pub(crate) batch_rows: usize,
    pub(crate) batch_bytes: usize,
}

/// Reads the table and sends its rows, and for an incremental read the cursor that covers them.
/// The caller's connection is used for this read only.
///
/// # Errors
/// `Data` for a value that does not fit, `Config` for a cursor that does not, `Transient` when the
/// file is locked.
pub(crate) fn table(
    connection: &Connection,
    location: &Location,
    relation: &Relation,
    job: &Job,
    output: &Output,
) -> Result<Completion> {
    let failed = |error| explain(error, &location.path);
    // The first statement of the transaction takes the snapshot.
    connection.execute_batch("BEGIN").map_err(failed)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
    crash::at(CrashPoint::ReadSnapshot);
    let plan = &job.plan;
    let mut inclusive = None;
    let mut condition = (String::new(), None);
    if plan.read_mode == ReadMode::Incremental {
        let field = cursor::check(plan)?;
        cursor::check_classes(connection, relation, &plan.source, &field)?.map_err(failed)?;
        let cursor = InclusiveCursor::new(plan, job.saved.as_ref(), Instant::now())?;
        condition = where_clause(&cursor)?;
        inclusive = Some(cursor);
    }
    let columns: Vec<_> =
        plan.source.column_names().map(|name| format!("t.{}", quote(name))).collect();
    // A qualified name is never taken for a text, as SQLite does with an unknown plain one.
    let sql =
        format!("SELECT {} FROM {} AS t{}", columns.join(", "), quote(&relation.name), condition.0);
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let parameter = condition.1;
    let mut reading = Reading { job, location, output, inclusive };
    if reading.rows(&mut statement, parameter)? == Completion::Stopped {
        return Ok(Completion::Stopped);
    }
    crash::at(CrashPoint::ReadRows);
    if let Some(cursor) = reading.inclusive {
        if cursor.excluded() > 0 {
            tracing::info!(table = %plan.name(), rows = cursor.excluded(), "rows without a cursor left out");
        }
        let key = CursorKey::Table(plan.name().clone());
        output.blocking_checkpoint(Checkpoint::of(key, cursor.finish()?))?;
    }
    Ok(Completion::Complete)
}

fn where_clause(cursor: &InclusiveCursor) -> Result<(String, Option<Value>)> {
    let column = format!("t.{}", quote(cursor.field().name()));
    Ok(match (cursor::condition(cursor)?, cursor.reads_nulls()) {
        (Some((sql, value)), true) => (format!(" WHERE {sql} OR {column} IS NULL"), Some(value)),
        (Some((sql, value)), false) => (format!(" WHERE {sql}"), Some(value)),
        (None, true) => (String::new(), None),
        (None, false) => (format!(" WHERE {column} IS NOT NULL"), None),
    })
}

struct Reading<'a> {
    job: &'a Job,
    location: &'a Location,
    output: &'a Output,
    inclusive: Option<InclusiveCursor>,
}

impl Reading<'_> {
    /// Steps through the rows straight into the columns of a batch.
    fn rows(
        &mut self,
        statement: &mut Statement<'_>,
        parameter: Option<Value>,
    ) -> Result<Completion> {
        let failed = |error| explain(error, &self.location.path);
        let table = self.job.plan.source.clone();
        let fields = table.schema.fields().iter();
        let mut readers = fields.map(|field| Reader::new(field)).collect::<Result<Vec<_>>>()?;
        let mut rows = statement.query(rusqlite::params_from_iter(parameter)).map_err(failed)?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next().map_err(failed)? {
            for (at, reader) in readers.iter_mut().enumerate() {
                let value = row.get_ref(at).map_err(failed)?;
                bytes += reader.append(value, &table.name)?;
            }
            count += 1;
            if count >= self.job.batch_rows || bytes >= self.job.batch_bytes {
                self.send(&mut readers, count)?;
                (count, bytes) = (0, 0);
                if self.output.is_stopping() {
                    return Ok(Completion::Stopped);
                }
            }
        }
        self.send(&mut readers, count)?;
        Ok(Completion::Complete)
    }

    fn send(&mut self, readers: &mut [Reader], count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let table = &self.job.plan.source;
        let columns = readers.iter_mut().map(Reader::finish).collect();
        let mut rows = RecordBatch::try_new(table.schema.clone(), columns)?;
        if let Some(cursor) = &mut self.inclusive {
            rows = cursor.admit(rows)?;
        }
        self.output.blocking_batch(Batch { table: table.clone(), op: Op::Upsert, rows })?;
        crash::at(CrashPoint::ReadBatch);
        Ok(())
    }
}
