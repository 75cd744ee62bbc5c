//! SQLite as a destination: rows, schema changes and cursors in one transaction.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::plan::{SOURCE_NAME, SYNC_TIME};
use highwater_core::types::type_name;
use highwater_core::{
    Capabilities, Committed, Completion, Destination, DestinationDelivery, Error, ExistingTable,
    Fence, Instant, KeyDigests, KeyTable, Output, Partition, Plan, ReadMode, Result, SchemaChange,
    StateStore, Table, TableName, TablePlan, TableRecord, WriteMode, Writer,
};
use highwater_sql::blocking::blocking;
use highwater_sql::state::fenced;
use highwater_sql::sweep::Begun;
use highwater_sql::{Dialect, ddl, derived, merge, read_back};
use rusqlite::{Connection, params};

use crate::catalog;
use crate::config::{Location, Spec};
use crate::connection::{explain, open_read_only, open_read_write};
use crate::dialect::SqliteDialect;
use crate::key_digests::SqliteKeys;
use crate::keyed;
use crate::read::{self, Job};
use crate::schema::{self, instant_in, instant_text};
use crate::source::{described, refuse_mixtures};
use crate::store::{self, SqliteStore};
use crate::writer::{self, SqliteWriter};
use crate::{rebuild, types, upkeep};

/// The size of a batch of rows that are read back.
const READ_ROWS: usize = 8192;
const READ_BYTES: usize = 4 << 20;

/// A database file that rows are written to.
pub(crate) struct SqliteDestination {
    location: Location,
    store: SqliteStore,
    begun: Begun,
}

impl SqliteDestination {
    /// A destination as configured. Opens nothing yet.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        let location = Location::parse(&spec.connection_string)?;
        let store = SqliteStore::new(location.clone());
        Ok(Self { store, location, begun: Begun::default() })
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Location) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let location = self.location.clone();
        blocking(move || work(&location)).await
    }
}

#[async_trait]
impl Destination for SqliteDestination {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            describes_tables: true,
            commits_later: false,
            takes_records: None,
            write_modes: WriteMode::ALL,
            write_modes_note: "",
            delivery: DestinationDelivery::Atomic,
            identifier_bytes_max: SqliteDialect.identifier_bytes_max(),
            // SQLite has one writer at a time.
            writers_max: 1,
            case_sensitive_names: false,
        }
    }

    async fn place(&self) -> Result<Option<String>> {
        Ok(self.location.place())
    }

    async fn check(&self) -> Result<()> {
        self.blocking(|location| {
            let existed = location.path.exists();
            let connection = open_read_write(location)?;
            let writable = connection
                // A table makes SQLite write its journal, which needs the folder.
                .execute_batch("BEGIN IMMEDIATE; CREATE TABLE _highwater_check (a); ROLLBACK")
                .map_err(|error| explain(error, &location.path));
            drop(connection);
            if !existed {
                // SQLite makes an empty file as soon as it looks.
                let _ = std::fs::remove_file(&location.path);
            }
            writable
        })
        .await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        TableName::new(&source.name)
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        let names = names.to_vec();
        self.blocking(move |location| {
            for name in &names {
                refuse_namespace(name)?;
            }
            if !location.path.exists() {
                return Ok(vec![None; names.len()]);
            }
            let connection = open_read_only(location)?;
            let existing = names.iter().map(|name| existing(&connection, name));
            existing.collect::<rusqlite::Result<_>>().map_err(|e| explain(e, &location.path))
        })
        .await
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        types::stored_field(field)
    }

    fn type_name(&self, field: &Field) -> String {
        types::declared_type(field).unwrap_or_else(|_| type_name(field))
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        ddl::change(&SqliteDialect, plan, change, None)
            .unwrap_or_else(|error| vec![format!("-- {error}")])
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        let plan = plan.clone();
        self.blocking(move |location| {
            let connection = writer::open(location)?;
            let failed = |error| explain(error, &location.path);
            connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
            let mut ran = Vec::new();
            for table in plan.tables.values() {
                ran.extend(schema::prepare(&connection, location, &plan, table)?);
            }
            connection.execute_batch("COMMIT").map_err(failed)?;
            Ok(ran)
        })
        .await
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        for table in partition.tables.iter().filter_map(|name| plan.tables.get(name)) {
            schema::check_columns(table)?;
            keyed::check_key(table)?;
        }
        Ok(Box::new(SqliteWriter::new(
            self.location.clone(),
            Arc::new(plan.clone()),
            &partition.tables,
            partition.id.clone(),
            fence.clone(),
            self.begun.clone(),
        )))
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        Some(Box::new(SqliteKeys::of_destination(&self.location, table)))
    }

    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let (plan, table, fence) = (plan.clone(), table.clone(), fence.clone());
        let made = self.begun.has(&plan, table.name());
        self.blocking(move |location| finish(location, &plan, &table, &fence, made)).await
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        refuse_namespace(&table.name)?;
        let wanted = table.clone();
        let read = |output: Output| async move {
            self.blocking(move |location| read_all(location, &wanted, &output)).await
        };
        read_back::send_as(table, &output, read).await
    }

    async fn compact_history(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<u64> {
        let (plan, table, fence) = (plan.clone(), table.clone(), fence.clone());
        self.blocking(move |location| {
            in_transaction(location, &plan, &fence, |connection| {
                upkeep::compact(connection, &table)
            })
        })
        .await
    }

    async fn clear(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let (plan, table, fence) = (plan.clone(), table.clone(), fence.clone());
        self.blocking(move |location| {
            in_transaction(location, &plan, &fence, |connection| {
                upkeep::clear(connection, &plan, &table, &fence)
            })
        })
        .await
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(&self.store)
    }
}

/// Sends the rows of a table as a source over the file would; nothing where there is none.
fn read_all(location: &Location, wanted: &Table, output: &Output) -> Result<Completion> {
    if !location.path.exists() {
        return Ok(Completion::Complete);
    }
    let connection = open_read_only(location)?;
    let found = described(&connection, &wanted.name.name)
        .map_err(|error| explain(error, &location.path).context("table", &wanted.name))?;
    let Some((relation, mut found)) = found else { return Ok(Completion::Complete) };
    // The case of a name does not matter here.
    let fields = found.schema.fields().iter().map(|field| {
        let mut asked =
            wanted.column_names().filter(|name| name.eq_ignore_ascii_case(field.name()));
        asked
            .next()
            .map_or_else(|| field.as_ref().clone(), |name| field.as_ref().clone().with_name(name))
    });
    found.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let plan = read_back::full_read(read_back::selected(&found, wanted));
    refuse_mixtures(&plan)?;
    let job = Job { plan, saved: None, batch_rows: READ_ROWS, batch_bytes: READ_BYTES };
    read::table(&connection, location, &relation, &job, output)
}

fn refuse_namespace(name: &TableName) -> Result<()> {
    match &name.namespace {
        None => Ok(()),
        Some(namespace) => Err(Error::config("SQLite has no schemas: a table has one name")
            .context("table", name)
            .context("schema", namespace)
            .hint(format!("target: {}_{}", namespace, name.name))),
    }
}

fn existing(connection: &Connection, name: &TableName) -> rusqlite::Result<Option<ExistingTable>> {
    let Some((_, mut table)) = described(connection, &name.name)? else { return Ok(None) };
    table.name = name.clone();
    Ok(Some(ExistingTable { table, identity: catalog::identity(connection, &name.name)? }))
}

/// Does `work` in one transaction, under the fence. Dropping the connection on an error rolls it
/// back.
fn in_transaction<T>(
    location: &Location,
    plan: &Plan,
    fence: &Fence,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T> {
    let connection = writer::open(location)?;
    let failed = |error| explain(error, &location.path);
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    if plan.state_with_data && !store::holds(&connection, fence).map_err(failed)? {
        return Err(fenced(fence));
    }
    let done = work(&connection).map_err(failed)?;
    connection.execute_batch("COMMIT").map_err(failed)?;
    Ok(done)
}

/// Completes a table in one transaction; `made` says that the run has committed something of it.
/// Dropping the connection on an error rolls it back.
fn finish(
    location: &Location,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<Committed> {
    let connection = writer::open(location)?;
    let failed = |error| explain(error, &location.path);
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    if plan.state_with_data && !store::holds(&connection, fence).map_err(failed)? {
        return Err(fenced(fence));
    }
    let mut committed = Committed::default();
    let finished = plan.state_with_data
        && store::finished_epoch(&connection, fence, table.name()).map_err(failed)?
            == Some(fence.epoch);
    if table.rebuild {
        committed.deleted =
            rebuild::swap(&connection, location, plan, table, fence, finished, made)?;
    } else {
        schema::prepare(&connection, location, plan, table)?;
    }
    if table.write_mode == WriteMode::OverwriteDeleteStale
        && table.read_mode == ReadMode::FullRefresh
    {
        committed.deleted = delete_stale(&connection, plan, table)?.map_err(failed)?;
        upkeep::check_deleted(&connection, location, plan, table, committed.deleted)?;
    }
    if derived::remembers_keys(table) && !finished {
        committed.deleted += upkeep::end_sweep(&connection, location, plan, table, fence, made)?;
    }
    if let (WriteMode::AppendDedup, Some(seconds)) =
        (table.write_mode, table.history_retention_seconds)
    {
        let kept = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let until = instant_text(Instant(plan.started_at.0.saturating_sub(kept)))?;
        let sql = merge::prune_history(&SqliteDialect, table, str::to_owned);
        connection.execute(&sql, [until]).map_err(failed)?;
    }
    crash::at(CrashPoint::FinishApplied);
    if plan.state_with_data {
        let identity = catalog::identity(&connection, &table.target.name.name).map_err(failed)?;
        let record = TableRecord {
            // Records of deletions have taken numbers of the arrival order.
            rows_total: match (derived::remembers_keys(table), table.write_mode) {
                (true, WriteMode::AppendDedup) => committed.deleted,
                _ => 0,
            },
            ..TableRecord::finished(table, identity, fence.epoch, plan.started_at)
        };
        store::save_record(&connection, fence, table.name(), &record).map_err(failed)?;
    }
    connection.execute_batch("COMMIT").map_err(failed)?;
    Ok(committed)
}

/// Deletes the rows of this source that this run did not bring.
fn delete_stale(
    connection: &Connection,
    plan: &Plan,
    table: &TablePlan,
) -> Result<rusqlite::Result<u64>> {
    let target = &table.target;
    let time =
        target.field(SYNC_TIME).map(|field| instant_in(field, plan.started_at)).transpose()?;
    let (Some(now), Some(_)) = (time.flatten(), target.field(SOURCE_NAME)) else {
        return Err(Error::config(
            "Stale rows are told by the columns that say when and from where a row came",
        )
        .context("table", table.name())
        .context("columns", format!("{SYNC_TIME}, {SOURCE_NAME}"))
        .hint("metadata_columns: cloudquery"));
    };
    let sql = format!(
        "DELETE FROM {} WHERE {} = ?1 AND ({time} IS NULL OR {time} < ?2)",
        SqliteDialect.table(&target.name),
        SqliteDialect.quote(SOURCE_NAME),
        time = SqliteDialect.quote(SYNC_TIME),
    );
    Ok(connection.execute(&sql, params![plan.sync, now]).map(|rows| rows as u64))
}
