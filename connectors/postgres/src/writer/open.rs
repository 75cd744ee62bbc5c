//! An open transaction: where the rows of each table go, and the COPY that takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{BinaryArray, RecordBatch, RecordBatchOptions};
use arrow_schema::Schema;
use highwater_core::types::record_form;
use highwater_core::{Batch, CommittedTables, Error, Op, Result, Table, TableName, TablePlan};
use highwater_sql::{Dialect, ddl, derived, merge};

use crate::dialect::PostgresDialect;
use crate::encode::Staged;
use crate::keys;
use crate::load::Load;
use crate::session::{Session, literal, quote};

/// So many bytes of a table wait for the end of another table's COPY.
const WAITING_BYTES: usize = 1 << 20;
/// So many bytes of all tables wait.
const WAITING_BYTES_ALL: usize = 32 << 20;

/// An open transaction and what was sent in it.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) backend: i32,
    pub(super) loads: BTreeMap<TableName, Loaded>,
    /// How many staging tables were made.
    pub(super) stagings: usize,
    /// Tables whose planned changes this transaction has made.
    pub(super) changed: BTreeSet<TableName>,
    /// Tables that are made anew beside the old ones, whose place they take with the commit.
    pub(super) beside: BTreeMap<TableName, TablePlan>,
    /// What was done before the commit, because a condition had to find it in its table.
    pub(super) settled: CommittedTables,
    pub(super) settled_rows: BTreeMap<TableName, u64>,
    /// The COPY that is open, the table whose rows it takes, and whether it takes their place in
    /// the staging table with them. One at a time on a session.
    load: Option<(TableName, bool, Load)>,
    /// Rows of other tables than the one that is loaded: to end a COPY for every batch would make
    /// many small ones of it.
    waiting: BTreeMap<TableName, Waiting>,
}

/// Rows that wait, in the order of their arrival.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) batches: Vec<Batch>,
    bytes: usize,
}

/// The rows of one table since the last commit.
pub(super) struct Loaded {
    /// Where they were sent, quoted.
    pub(super) into: String,
    pub(super) way: Way,
    /// Whether this transaction has made or emptied what they were sent to.
    pub(super) is_new: bool,
    pub(super) rows: u64,
    /// Whether some of them are deletions.
    pub(super) deletes: bool,
}

impl Loaded {
    pub(super) fn new(into: String, way: Way) -> Self {
        Self { into, way, is_new: false, rows: 0, deletes: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Straight into the table, which has been there.
    Direct,
    /// Straight into the table, which this transaction has made and which has no key yet.
    New,
    /// Into a temporary table.
    Staged,
}

impl Open {
    pub(super) fn new(session: Session, backend: i32) -> Self {
        Self {
            session,
            backend,
            loads: BTreeMap::new(),
            stagings: 0,
            changed: BTreeSet::new(),
            beside: BTreeMap::new(),
            settled: CommittedTables::new(),
            settled_rows: BTreeMap::new(),
            load: None,
            waiting: BTreeMap::new(),
        }
    }

    /// Where the rows of a table go in this transaction.
    pub(super) fn now<'a>(&'a self, table: &'a TablePlan) -> &'a TablePlan {
        self.beside.get(table.name()).unwrap_or(table)
    }

    /// Whether rows of the table can be sent at once: its COPY is open, or none is.
    pub(super) fn takes(&self, name: &TableName) -> bool {
        match &self.load {
            Some((loading, ..)) => loading == name,
            None => self.waiting.is_empty(),
        }
    }

    /// Lets rows wait; returns a table whose rows should wait no longer.
    pub(super) fn wait(&mut self, batch: Batch) -> Option<TableName> {
        let name = batch.table.name.clone();
        let waiting = self.waiting.entry(name.clone()).or_default();
        waiting.bytes += batch.rows.get_array_memory_size();
        waiting.batches.push(batch);
        if waiting.bytes >= WAITING_BYTES {
            return Some(name);
        }
        let all: usize = self.waiting.values().map(|waiting| waiting.bytes).sum();
        if all < WAITING_BYTES_ALL {
            return None;
        }
        let most = self.waiting.iter().max_by_key(|(_, waiting)| waiting.bytes);
        most.map(|(name, _)| name.clone())
    }

    /// The tables whose rows wait.
    pub(super) fn waiting(&self) -> Vec<TableName> {
        self.waiting.keys().cloned().collect()
    }

    /// Takes the rows of a table that wait.
    pub(super) fn take_waiting(&mut self, name: &TableName) -> Vec<Batch> {
        self.waiting.remove(name).map(|waiting| waiting.batches).unwrap_or_default()
    }

    /// Sends rows of a table that was prepared.
    pub(super) async fn write(&mut self, table: &TablePlan, batch: &Batch) -> Result<()> {
        let name = table.name();
        let Some(loaded) = self.loads.get_mut(name) else {
            return Err(Error::internal("Rows of a table that was not prepared"));
        };
        let rows = batch.rows.num_rows() as u64;
        if batch.op == Op::Delete && loaded.way != Way::Staged {
            return self.delete(table, batch).await;
        }
        let staged = (loaded.way == Way::Staged).then(|| Staged {
            first_ordinal: i64::try_from(loaded.rows).unwrap_or(i64::MAX),
            operation: if batch.op == Op::Delete { "d" } else { "u" },
        });
        loaded.rows += rows;
        loaded.deletes |= batch.op == Op::Delete;
        let (into, is_new) = (loaded.into.clone(), loaded.is_new);
        let forwarded = forwarded(batch, table)?;
        // Rows that are forwarded into a staging table get their places there from its defaults.
        let is_numbered = staged.is_some() && forwarded.is_none();
        let fits = |open: &(TableName, bool, Load)| open.0 == *name && open.1 == is_numbered;
        if !self.load.as_ref().is_some_and(fits) {
            self.finish_load().await?;
            if let (Some(staged), Some(_)) = (&staged, forwarded) {
                number_from(&self.session, &into, staged).await?;
            }
            let staging = [derived::ORDINAL, derived::OPERATION];
            let extra = if is_numbered { &staging[..] } else { &[] };
            let columns = table.target.column_names().chain(extra.iter().copied());
            let load = Load::begin(&self.session, &into, columns, is_new).await?;
            self.load = Some((name.clone(), is_numbered, load));
        }
        match (&mut self.load, forwarded) {
            (Some((_, _, load)), Some(rows)) => load.forward(&self.session, rows).await,
            (Some((_, _, load)), None) => {
                load.write(&self.session, &as_planned(&batch.rows, &table.target), staged).await
            }
            (None, _) => Err(Error::internal("A COPY that was begun is not there")),
        }
    }

    /// Ends the COPY that is open.
    pub(super) async fn finish_load(&mut self) -> Result<()> {
        let Some((name, _, load)) = self.load.take() else { return Ok(()) };
        load.finish(&self.session).await.map_err(|error| error.context("table", name))
    }

    /// Removes rows from a table that this transaction has made: everything that was sent before
    /// is there already.
    async fn delete(&mut self, table: &TablePlan, batch: &Batch) -> Result<()> {
        self.finish_load().await?;
        let staging = "\"_highwater_deleted\"";
        let columns = ddl::staging_columns(&PostgresDialect, table)?;
        let create = format!("CREATE TEMP TABLE {staging} ({columns})");
        self.session.run("make a staging table", &create).await?;
        let extra = [derived::ORDINAL, derived::OPERATION];
        let names = table.target.column_names().chain(extra);
        let mut load = Load::begin(&self.session, staging, names, false).await?;
        let staged = Staged { first_ordinal: 0, operation: "d" };
        load.write(&self.session, &batch.rows, Some(staged)).await?;
        load.finish(&self.session).await?;
        let by_key = keys::as_they_are(&self.session, table, staging, "true").await?;
        let statement = format!(
            "DELETE FROM {} AS t USING {staging} AS s WHERE {}",
            PostgresDialect.table(&table.target.name),
            merge::same_key(&PostgresDialect, &by_key, "t", "s"),
        );
        let removed = self.session.execute_typed(&statement, &[]).await;
        let removed = removed.map_err(|e| self.session.error("remove rows", e))?;
        if let Some(loaded) = self.loads.get_mut(table.name()) {
            // They were counted when they came, and are not there any more.
            loaded.rows = loaded.rows.saturating_sub(removed);
        }
        self.session.run("drop a staging table", &format!("DROP TABLE {staging}")).await
    }
}

/// The rows of a batch that are forwarded, if they are.
fn forwarded<'a>(batch: &'a Batch, table: &TablePlan) -> Result<Option<&'a BinaryArray>> {
    if batch.op == Op::Delete || table.forwarded.is_none() {
        return Ok(None);
    }
    let schema = batch.rows.schema_ref();
    match schema.fields().first() {
        Some(field) if record_form(field) == table.forwarded.as_deref() => {
            let rows = batch.rows.column(0).as_binary_opt();
            rows.map(Some).ok_or_else(|| Error::internal("Forwarded rows have another type"))
        }
        _ => Ok(None),
    }
}

/// Lets a staging table number the rows that come without a place, from that of the first one on.
async fn number_from(session: &Session, staging: &str, first: &Staged) -> Result<()> {
    let (ordinal, operation) = (quote(derived::ORDINAL), quote(derived::OPERATION));
    let (from, named) = (first.first_ordinal, literal(first.operation));
    let statements = format!(
        "CREATE TEMP SEQUENCE IF NOT EXISTS \"_highwater_places\" MINVALUE 0;
         ALTER SEQUENCE pg_temp.\"_highwater_places\" RESTART WITH {from};
         ALTER TABLE {staging}
           ALTER COLUMN {ordinal} SET DEFAULT nextval('pg_temp.\"_highwater_places\"'),
           ALTER COLUMN {operation} SET DEFAULT {named}"
    );
    session.run("number staged rows", &statements).await
}

/// The rows under the fields of the plan: these say what was declared, and what was declared says
/// how a value is sent.
fn as_planned(rows: &RecordBatch, target: &Table) -> RecordBatch {
    if rows.schema_ref() == &target.schema {
        return rows.clone();
    }
    let fields = target.schema.fields().iter().zip(rows.schema_ref().fields());
    let fields = fields.map(|(planned, sent)| {
        planned.as_ref().clone().with_nullable(planned.is_nullable() || sent.is_nullable())
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let planned = RecordBatch::try_new_with_options(schema, rows.columns().to_vec(), &options);
    // Rows of other types are refused where they are encoded.
    planned.unwrap_or_else(|_| rows.clone())
}
