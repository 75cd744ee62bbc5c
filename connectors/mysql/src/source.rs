//! MySQL as a source: one consistent snapshot per read.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use highwater_core::types::declared_in;
use highwater_core::{
    Batch, Checkpoint, Completion, CrashPoint, Cursor, CursorKey, Error, Instant, LogicalType, Op,
    Output, Partition, Plan, ReadMode, Result, Source, SourceDelivery, State, Table, TablePlan,
    crash,
};
use highwater_sql::boundary::InclusiveCursor;
use highwater_sql::cursor_field;
use mysql_async::prelude::Queryable;
use mysql_async::{Opts, Row};

use crate::catalog::{self, Relation};
use crate::horizon::{self, Horizon};
use crate::reader::Reader;
use crate::session::{Session, Zone, literal, quote};
use crate::types::{self, SYSTEM};

/// A batch ends at so many rows, or as soon as it holds so many bytes.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;

/// One database that tables are read from.
pub(crate) struct MysqlSource {
    options: Opts,
}

impl MysqlSource {
    pub(crate) fn new(options: Opts) -> Self {
        Self { options }
    }

    async fn session(&self) -> Result<Session> {
        Session::open(&self.options).await
    }

    async fn table(
        &self,
        plan: &TablePlan,
        saved: Option<&Cursor>,
        output: &Output,
    ) -> Result<Completion> {
        let mut session = self.session().await?;
        // Before the snapshot: see `horizon::probe`.
        let cursor = match plan.read_mode {
            ReadMode::FullRefresh => None,
            ReadMode::Incremental => {
                let horizon = horizon::probe(&mut session).await?;
                Some(InclusiveCursor::new(plan, saved, cap(plan, &horizon, session.zone))?)
            }
        };
        let snapshot = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        session.run("take a snapshot", snapshot).await?;
        let snapshot = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        session.run("take a snapshot", snapshot).await?;
        let relation = catalog::relation(&mut session, plan.name()).await?;
        let statement = statement(plan, &relation, cursor.as_ref())?;
        crash::at(CrashPoint::ReadSnapshot);
        let mut reading = Reading::new(&plan.source, cursor, output)?;
        let done = reading.rows(&mut session, &statement).await;
        if done.map_err(|e| e.context("table", plan.name()))? == Completion::Stopped {
            return Ok(Completion::Stopped);
        }
        crash::at(CrashPoint::ReadRows);
        if let Some(cursor) = reading.cursor {
            if cursor.excluded() > 0 {
                tracing::info!(table = %plan.name(), rows = cursor.excluded(), "rows without a cursor left out");
            }
            let key = CursorKey::Table(plan.name().clone());
            output.checkpoint(Checkpoint::of(key, cursor.finish()?)).await?;
        }
        Ok(Completion::Complete)
    }
}

/// By how much a clock may go back when its zone changes: one hour in nearly all zones, two in one.
const CHANGE_SECONDS: i64 = 7200;

/// After what nothing is saved as the maximum of the planned cursor field.
fn cap(plan: &TablePlan, horizon: &Horizon, zone: Zone) -> Instant {
    let field = plan.cursor_field.as_deref().and_then(|name| plan.source.field(name));
    as_written(field, horizon.at, zone)
}

/// The horizon by the clock that writes the cursor field: `timestamp` is an instant, `date` and
/// `datetime` are in the time zone of the server. When that clock goes back it writes the same
/// hours again, so the horizon is always as far behind as it may go back.
fn as_written(field: Option<&Field>, horizon: Instant, zone: Zone) -> Instant {
    let is_instant =
        field.is_some_and(|field| matches!(field.data_type(), DataType::Timestamp(_, Some(_))));
    if is_instant {
        return horizon;
    }
    let back = if zone.is_fixed { 0 } else { CHANGE_SECONDS };
    Instant(horizon.0 + (zone.seconds - back) * 1_000_000)
}

/// The SELECT of a table. Every planned column has to be there with the planned type.
fn statement(
    plan: &TablePlan,
    relation: &Relation,
    cursor: Option<&InclusiveCursor>,
) -> Result<String> {
    let mut columns = Vec::new();
    for planned in plan.source.schema.fields() {
        let changed = |what: &str| {
            Error::schema(format!("A column {what} since the plan was made"))
                .context("table", plan.name())
                .context("column", planned.name())
                .hint("run the command again")
        };
        let column = relation.column(planned.name()).ok_or_else(|| changed("was dropped"))?;
        let is_text_asked_for = *planned.data_type() == DataType::Utf8;
        if *planned.data_type() != *types::field(column).data_type() && !is_text_asked_for {
            return Err(changed("changed its type"));
        }
        columns.push(types::select(&quote(planned.name()), planned, column));
    }
    let mut sql = format!("SELECT {} FROM {}", columns.join(", "), quote(&relation.name));
    if let Some(cursor) = cursor {
        let name = quote(cursor.field().name());
        match (condition(cursor, &name)?, cursor.reads_nulls()) {
            (Some(condition), true) => sql += &format!(" WHERE ({condition} OR {name} IS NULL)"),
            (Some(condition), false) => sql += &format!(" WHERE {condition}"),
            (None, true) => {}
            (None, false) => sql += &format!(" WHERE {name} IS NOT NULL"),
        }
    }
    Ok(sql)
}

/// Finds every row from the position on; `None` where there is none yet.
fn condition(cursor: &InclusiveCursor, column: &str) -> Result<Option<String>> {
    let Some(floor) = cursor.floor_text(0)? else { return Ok(None) };
    Ok(Some(match LogicalType::of(cursor.field())? {
        // By its bytes, as the position is.
        LogicalType::Text => format!(
            "CAST(CONVERT({column} USING utf8mb4) AS BINARY) >= CAST({} AS BINARY)",
            literal(&floor)
        ),
        LogicalType::Integer { .. } | LogicalType::Decimal { .. } => format!("{column} >= {floor}"),
        _ => format!("{column} >= {}", literal(floor.trim_end_matches('Z'))),
    }))
}

/// Rows on their way into batches.
struct Reading<'a> {
    table: Arc<Table>,
    readers: Vec<Reader>,
    cursor: Option<InclusiveCursor>,
    output: &'a Output,
    rows: usize,
    bytes: usize,
}

impl<'a> Reading<'a> {
    fn new(
        table: &Arc<Table>,
        cursor: Option<InclusiveCursor>,
        output: &'a Output,
    ) -> Result<Self> {
        let readers = table.schema.fields().iter().map(|field| Reader::new(field));
        let readers = readers.collect::<Result<_>>()?;
        Ok(Self { table: Arc::clone(table), readers, cursor, output, rows: 0, bytes: 0 })
    }

    async fn rows(&mut self, session: &mut Session, statement: &str) -> Result<Completion> {
        let place = session.place().to_owned();
        let failed = |error| crate::session::explain("read the table", error, &place);
        let mut result = session.begin()?.query_iter(statement).await.map_err(failed)?;
        while let Some(row) = result.next().await.map_err(failed)? {
            self.append(&row)?;
            if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
                if self.output.is_stopping() {
                    return Ok(Completion::Stopped);
                }
                self.send().await?;
            }
        }
        drop(result);
        session.ended();
        self.send().await?;
        if self.output.is_stopping() { Ok(Completion::Stopped) } else { Ok(Completion::Complete) }
    }

    fn append(&mut self, row: &Row) -> Result<()> {
        for (at, reader) in self.readers.iter_mut().enumerate() {
            let value = row.as_ref(at).ok_or_else(|| Error::internal("A row lacks a column"))?;
            self.bytes += reader.append(value, &self.table.name)?;
        }
        self.rows += 1;
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let columns = self.readers.iter_mut().map(Reader::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let schema = Arc::clone(&self.table.schema);
        let mut rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        (self.rows, self.bytes) = (0, 0);
        if let Some(cursor) = &mut self.cursor {
            rows = cursor.admit(rows)?;
        }
        let batch = Batch { table: Arc::clone(&self.table), op: Op::Upsert, rows };
        self.output.batch(batch).await?;
        crash::at(CrashPoint::ReadBatch);
        Ok(())
    }
}

/// Whether the order of a column's values is the one in which MySQL compares them.
fn qualifies(field: &Field) -> bool {
    let declared = declared_in(field, SYSTEM).unwrap_or_default();
    // A `time` and labels are text here, and their texts have another order.
    let is_another = ["time(", "enum", "set"].iter().any(|word| declared.starts_with(word));
    declared != "time" && !is_another && LogicalType::of(field).is_ok_and(|l| l.has_order())
}

fn is_clock(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Timestamp(..) | DataType::Date32)
}

#[async_trait]
impl Source for MysqlSource {
    async fn check(&self) -> Result<()> {
        self.session().await?.run("read", "SELECT 1").await
    }

    async fn place(&self) -> Result<Option<String>> {
        let mut session = self.session().await?;
        let place = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@datadir, '/', DATABASE())";
        session.one(place).await
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        let mut session = self.session().await?;
        Ok(catalog::relations(&mut session, None).await?.iter().map(Relation::table).collect())
    }

    /// Once: what was sent is known by its hash at the boundary of the inclusive cursor. That
    /// nothing is missed is a matter of the horizon, and `review` says where it is not known.
    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Once
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        let mut session = self.session().await?;
        let relation = catalog::relation(&mut session, table.name()).await?;
        statement(table, &relation, None)?;
        let mut notes = Vec::new();
        if !relation.is_transactional() {
            notes.push(format!(
                "The engine {} has no transactions: rows that change while the table is read may be seen half",
                relation.engine()
            ));
        }
        if table.read_mode == ReadMode::FullRefresh {
            return Ok(notes);
        }
        let refusal = "The cursor field has a type without an order";
        let field = &cursor_field::find(table, qualifies, refusal)?;
        let name = field.name();
        InclusiveCursor::new(table, None, Instant::now())?;
        if !relation.is_view() && !relation.is_indexed(name) {
            notes.push(format!("`{name}` has no index: every sync reads the whole table"));
        }
        let late = "a row that is committed after a sync that already saw a greater value is missed; give `lookback` longer than your longest transaction";
        let horizon = horizon::probe(&mut session).await?;
        if !is_clock(field) {
            notes.push(format!("No clock writes `{name}`: {late}"));
        } else if !horizon.is_known {
            notes.push(format!(
                "This user may not see the transactions of others (`GRANT PROCESS ON *.*`): {late}"
            ));
        } else if table.lookback == 0 {
            notes.push(format!(
                "`{name}` has to be written by the server's clock (`CURRENT_TIMESTAMP`); for values that the application sets give a `lookback`"
            ));
        }
        Ok(notes)
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(plan.tables.keys().map(Partition::whole).collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        for name in &partition.tables {
            let table = plan.table(name)?;
            if self.table(table, state.table_cursor(name), &output).await? == Completion::Stopped {
                return Ok(Completion::Stopped);
            }
        }
        Ok(Completion::Complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clock_writes_after_it_went_back_is_not_before_the_cap() {
        const HOUR: i64 = 3_600_000_000;
        let horizon = Instant(1_000 * HOUR);
        let field = |zone: Option<&str>| {
            let unit = arrow_schema::TimeUnit::Microsecond;
            Field::new("at", DataType::Timestamp(unit, zone.map(Into::into)), true)
        };
        let summer = Zone { seconds: 7200, is_fixed: false };
        let written = as_written(Some(&field(None)), horizon, summer);
        // One moment later it is winter.
        assert!(written.0 <= horizon.0 + HOUR);
        assert_eq!(written.0, 1_000 * HOUR);
        let date = Field::new("at", DataType::Date32, true);
        assert_eq!(as_written(Some(&date), horizon, summer), written);
        assert_eq!(as_written(Some(&field(Some("UTC"))), horizon, summer), horizon);
        let fixed = Zone { seconds: -18_000, is_fixed: true };
        assert_eq!(as_written(Some(&field(None)), horizon, fixed).0, 995 * HOUR);
    }
}
