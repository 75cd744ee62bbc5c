//! The rows of one table on their way: gathered in memory, then given to DuckDB in one piece.
//!
//! There are three ways. Rows that are only added go straight into their table, inside the
//! transaction ([`Way::Straight`]). Rows with a key wait in a temporary table of the session and are
//! merged at the commit ([`Way::Staged`]). And in a table that this run has made, rows with a key
//! are put in straight too; at the commit the history of `append-dedup` is made of them, and the
//! older ones of equal keys go ([`Way::First`]).

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, SchemaRef};
use highwater_core::{Committed, Op, Result, SchemaChange, TablePlan, WriteMode};
use highwater_sql::{Dialect, ddl, derived, merge};

use super::catalog::{Relation, number};
use super::dialect::DuckDbDialect;
use super::types::Stored;
use super::values;
use crate::session::{Parameter, Session, Target};

/// How rows come into their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// They are added as they are.
    Straight,
    /// They are those of the first load of a table with a key.
    First,
    /// They are merged by their key.
    Staged,
}

impl Way {
    /// The way of the first rows of a table.
    pub(crate) fn of(table: &TablePlan, planned: &TablePlan) -> Self {
        let keyed = !table.target.primary_key.is_empty();
        let made = planned.rebuild
            || table
                .changes
                .iter()
                .any(|change| matches!(change, SchemaChange::CreateTable | SchemaChange::Recreate));
        match table.write_mode {
            WriteMode::Append | WriteMode::Replace => Self::Straight,
            WriteMode::AppendDedup if !keyed => Self::Staged,
            _ if !keyed => Self::Straight,
            _ if made && !derived::remembers_keys(table) => Self::First,
            _ => Self::Staged,
        }
    }
}

/// What waits for the commit of one table.
pub(crate) struct Load {
    pub(crate) way: Way,
    /// Rows that DuckDB has not got yet, in its types.
    pending: Vec<RecordBatch>,
    /// The schema of rows as the target has them, and as the temporary table has them.
    plain: SchemaRef,
    staged: SchemaRef,
    /// The temporary table, once it exists.
    pub(crate) staging: Option<String>,
    /// Whether the target was prepared in the open transaction; and then whether it has exactly
    /// the planned columns, so that rows are loaded without naming them.
    pub(crate) prepared: Option<bool>,
    /// The number of the last row that was in the table before those of the open transaction.
    pub(crate) last_row: i64,
    pub(crate) upserts: u64,
    pub(crate) deletes: u64,
    /// What is merged already: in the open transaction, not to be merged again.
    pub(crate) settled: Committed,
    pub(crate) settled_rows: u64,
}

impl Load {
    /// Of a table of which nothing has come yet.
    ///
    /// # Errors
    /// `Unsupported` when a column cannot be stored.
    pub(crate) fn new(table: &TablePlan, way: Way) -> Result<Self> {
        let fields = table.target.schema.fields();
        let staging = derived::staging_schema(table);
        Ok(Self {
            way,
            pending: Vec::new(),
            plain: values::schema(fields.iter().map(AsRef::as_ref))?,
            staged: values::schema(staging.fields().iter().map(AsRef::as_ref))?,
            staging: None,
            prepared: None,
            last_row: -1,
            upserts: 0,
            deletes: 0,
            settled: Committed::default(),
            settled_rows: 0,
        })
    }

    /// Forgets what was committed.
    pub(crate) fn committed(&mut self) {
        (self.upserts, self.deletes, self.settled_rows) = (0, 0, 0);
        (self.settled, self.prepared) = (Committed::default(), None);
    }

    /// Takes rows.
    ///
    /// # Errors
    /// `Data` for a value that DuckDB cannot hold.
    pub(crate) fn add(&mut self, table: &TablePlan, rows: &RecordBatch, op: Op) -> Result<()> {
        let rows = values::rows(table.name(), rows, &self.plain)?;
        let rows = match self.way {
            Way::Straight | Way::First => rows,
            Way::Staged => self.with_order(&rows, self.upserts + self.deletes, op)?,
        };
        match op {
            Op::Upsert => self.upserts += rows.num_rows() as u64,
            Op::Delete => self.deletes += rows.num_rows() as u64,
        }
        self.pending.push(rows);
        Ok(())
    }

    /// The rows with their arrival order and what they are.
    fn with_order(&self, rows: &RecordBatch, first: u64, op: Op) -> Result<RecordBatch> {
        let (first, count) = (first as i64, rows.num_rows());
        let order = Int64Array::from_iter_values(first..first + count as i64);
        let op = if op == Op::Upsert { "u" } else { "d" };
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(order) as ArrayRef);
        columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(op, count))));
        Ok(RecordBatch::try_new(Arc::clone(&self.staged), columns)?)
    }

    /// Lets the rows that wait be merged: the table has rows already.
    ///
    /// # Errors
    /// `Internal` never, as long as rows fit their schema.
    pub(crate) fn stage_pending(&mut self) -> Result<()> {
        self.way = Way::Staged;
        let waiting: usize = self.pending.iter().map(RecordBatch::num_rows).sum();
        let mut first = self.upserts - waiting as u64;
        for rows in std::mem::take(&mut self.pending) {
            let count = rows.num_rows() as u64;
            self.pending.push(self.with_order(&rows, first, Op::Upsert)?);
            first += count;
        }
        Ok(())
    }

    /// Whether rows wait in memory.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Gives the rows that wait to DuckDB: into the temporary table, or the target where that was
    /// prepared.
    ///
    /// # Errors
    /// What DuckDB says.
    pub(crate) fn flush(&mut self, session: &mut Session, table: &TablePlan) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let loaded = match (self.way, &self.staging, self.prepared) {
            (Way::Staged, Some(staging), _) => {
                let target = Target { namespace: None, table: staging, temporary: true };
                session.ingest(&target, Arc::clone(&self.staged), pending)
            }
            (Way::Straight | Way::First, _, Some(true)) => {
                let name = &table.target.name;
                let namespace = name.namespace.as_deref();
                let target = Target { namespace, table: &name.name, temporary: false };
                session.ingest(&target, Arc::clone(&self.plain), pending)
            }
            _ => self.by_name(session, table, pending),
        };
        loaded.map_err(|error| error.context("table", table.name()))
    }

    /// Loads into a table that has other columns, or in another order: drivers go by the place.
    fn by_name(
        &self,
        session: &mut Session,
        table: &TablePlan,
        rows: Vec<RecordBatch>,
    ) -> Result<()> {
        const PASSING: &str = "_highwater_load";
        let fields = table.target.schema.fields().iter();
        let nullable = fields.map(|field| field.as_ref().clone().with_nullable(true));
        let columns =
            nullable.map(|field| column_definition(&field)).collect::<Result<Vec<_>>>()?;
        session.run(&format!("CREATE TEMP TABLE {PASSING} ({})", columns.join(", ")))?;
        let target = Target { namespace: None, table: PASSING, temporary: true };
        session.ingest(&target, Arc::clone(&self.plain), rows)?;
        let names: Vec<_> = table.target.column_names().collect();
        let names = ddl::quoted(&DuckDbDialect, &names);
        session.run(&format!(
            "INSERT INTO {} ({names}) SELECT {names} FROM temp.{PASSING}",
            DuckDbDialect.table(&table.target.name),
        ))?;
        session.run(&format!("DROP TABLE temp.{PASSING}"))
    }

    /// Makes history rows of the new rows of a table, those behind `last_row`, before they are
    /// folded. `first` is the arrival order of the first, `now` the time of the run.
    ///
    /// # Errors
    /// What DuckDB says.
    pub(crate) fn add_history(
        session: &mut Session,
        table: &TablePlan,
        last_row: i64,
        first: i64,
        now: Parameter,
    ) -> Result<()> {
        let from = DuckDbDialect.table(&table.target.name);
        let names: Vec<_> = table.target.column_names().collect();
        let names = ddl::quoted(&DuckDbDialect, &names);
        let own = ddl::quoted(
            &DuckDbDialect,
            &[derived::SEQUENCE, derived::OPERATION, derived::SYNCED_AT],
        );
        // Rows are numbered as they have come, without a gap while none of them is deleted.
        let sql = format!(
            "INSERT INTO {} ({names}, {own}) SELECT {names}, \
             $1 + rowid - (SELECT min(rowid) FROM {from} WHERE rowid > {last_row}), 'u', $2 \
             FROM {from} WHERE rowid > {last_row}",
            DuckDbDialect.table(&derived::history(table, &DuckDbDialect).name),
        );
        session.change(&sql, &[Parameter::from(first), now]).map(drop)
    }

    /// Leaves the newest row of each key in a table that has got new rows behind `last_row`; returns
    /// how many of these are left.
    ///
    /// # Errors
    /// What DuckDB says.
    pub(crate) fn fold_first(
        session: &mut Session,
        table: &TablePlan,
        last_row: i64,
    ) -> Result<u64> {
        let target = &table.target;
        let name = DuckDbDialect.table(&target.name);
        let key = ddl::quoted(&DuckDbDialect, &target.primary_key);
        if last_row >= 0 || !super::schema::is_unique(session, target)? {
            let ordered =
                table.order_by.as_deref().filter(|_| derived::is_ordered(table.write_mode));
            let order = match ordered.and_then(|column| target.field(column)) {
                Some(field) => {
                    let column = DuckDbDialect.quote(field.name());
                    format!("{} DESC NULLS LAST, ", DuckDbDialect.ordered(&column, field))
                }
                None => String::new(),
            };
            let same = merge::same_key(&DuckDbDialect, table, "n", "t");
            // Rows are numbered as they have come.
            session.run(&format!(
                "DELETE FROM {name} WHERE rowid IN (SELECT row FROM (SELECT t.rowid AS row, \
                 row_number() OVER (PARTITION BY {key} ORDER BY {order}t.rowid DESC) AS place \
                 FROM {name} AS t WHERE EXISTS (SELECT 1 FROM {name} AS n \
                 WHERE n.rowid > {last_row} AND {same})) WHERE place > 1)"
            ))?;
        }
        let left =
            session.fetch(&format!("SELECT count(*) FROM {name} WHERE rowid > {last_row}"), &[])?;
        Ok(number(&left, 0, 0).unwrap_or(0).unsigned_abs())
    }
}

fn column_definition(field: &Field) -> Result<String> {
    Ok(format!("{} {}", DuckDbDialect.quote(field.name()), Stored::of(field)?.sql))
}

/// Whether a table has exactly the planned columns in the planned order and types.
pub(crate) fn is_as_planned(there: &Relation, table: &TablePlan) -> bool {
    let fields = table.target.schema.fields();
    fields.len() == there.columns.len()
        && fields.iter().zip(&there.columns).all(|(field, column)| {
            column.name.eq_ignore_ascii_case(field.name())
                && Stored::of(field).is_ok_and(|stored| stored.sql == column.declared)
        })
}
