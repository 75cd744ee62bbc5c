//! DuckDB as a destination: rows, schema changes and cursors in one transaction.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
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

use super::config::{Location, Spec};
use super::dialect::DuckDbDialect;
use super::file::File;
use super::key_digests::{DuckDbKeys, Side};
use super::store::{self, DuckDbStore};
use super::types::{Stored, stored_field};
use super::writer::DuckDbWriter;
use super::{catalog, rebuild, schema, upkeep, values};
use crate::session::Session;
use crate::source::{self, place};

/// The size of a batch of rows that are read back.
const READ_ROWS: usize = 8192;

/// A database file that rows are written to.
pub(crate) struct DuckDbDestination {
    file: File,
    store: DuckDbStore,
    begun: Begun,
}

impl DuckDbDestination {
    /// A destination as configured. Opens nothing yet.
    ///
    /// # Errors
    /// `Config` when no file is named.
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        let file = File::new(Location::parse(&spec.connection_string)?, spec.setup());
        Ok(Self { store: DuckDbStore::new(file.clone()), file, begun: Begun::default() })
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.file.clone();
        blocking(move || work(&file)).await
    }
}

#[async_trait]
impl Destination for DuckDbDestination {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            delivery: DestinationDelivery::Atomic,
            // Transactions that write take turns.
            writers_max: 1,
            case_sensitive_names: false,
            ..Capabilities::transactional(DuckDbDialect.identifier_bytes_max())
        }
    }

    async fn place(&self) -> Result<Option<String>> {
        Ok(place(&self.file.location))
    }

    async fn check(&self) -> Result<()> {
        self.blocking(check).await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        TableName::new(&source.name)
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        let names = names.to_vec();
        self.blocking(move |file| {
            let Some(mut session) = file.look()? else { return Ok(vec![None; names.len()]) };
            names.iter().map(|name| existing(&mut session, name)).collect()
        })
        .await
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        stored_field(field)
    }

    fn type_name(&self, field: &Field) -> String {
        Stored::of(field).map_or_else(|_| type_name(field), |stored| stored.sql)
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        ddl::change(&DuckDbDialect, plan, change, None)
            .unwrap_or_else(|error| vec![format!("-- {error}")])
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        let plan = plan.clone();
        self.blocking(move |file| {
            let mut transaction = file.begin()?;
            let mut ran = Vec::new();
            for table in plan.tables.values() {
                ran.extend(schema::prepare(&mut transaction.session, &plan, table)?);
            }
            transaction.commit()?;
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
            check_key(table)?;
        }
        Ok(Box::new(DuckDbWriter::new(
            self.file.clone(),
            Arc::new(plan.clone()),
            &partition.tables,
            partition.id.clone(),
            fence.clone(),
            self.begun.clone(),
        )?))
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        Some(Box::new(DuckDbKeys::new(Side::Destination(self.file.clone()), table)))
    }

    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let (plan, table, fence) = (plan.clone(), table.clone(), fence.clone());
        let made = self.begun.has(&plan, table.name());
        self.blocking(move |file| finish(file, &plan, &table, &fence, made)).await
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let wanted = table.clone();
        let read = |output: Output| async move {
            self.blocking(move |file| read_all(file, &wanted, &output)).await
        };
        read_back::send_as(table, &output, read).await
    }

    async fn compact_history(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<u64> {
        let (plan, table, fence) = (plan.clone(), table.clone(), fence.clone());
        self.blocking(move |file| {
            in_transaction(file, &plan, &fence, |session| upkeep::compact(session, &table))
        })
        .await
    }

    async fn clear(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let (plan, table, fence) = (plan.clone(), table.clone(), fence.clone());
        self.blocking(move |file| {
            in_transaction(file, &plan, &fence, |session| {
                upkeep::clear(session, &plan, &table, &fence)
            })
        })
        .await
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(&self.store)
    }

    async fn close(&self) -> Result<()> {
        self.blocking(|file| {
            file.close();
            Ok(())
        })
        .await
    }
}

/// Opens the file, and makes nothing that stays.
fn check(file: &File) -> Result<()> {
    let path = &file.location.path;
    let existed = path.exists();
    let writable = (|| {
        let mut transaction = file.begin()?;
        transaction.session.run("CREATE TABLE _highwater_check (a INTEGER)")?;
        let version = transaction.session.fetch("SELECT version()", &[])?;
        let version = catalog::text(&version, 0, 0).unwrap_or_default();
        tracing::info!(%version, path = %path.display(), "DuckDB");
        Ok(())
    })();
    if !existed {
        file.close();
        // DuckDB makes the file as soon as it looks.
        let _ = std::fs::remove_file(path);
        let mut log = path.clone().into_os_string();
        log.push(".wal");
        let _ = std::fs::remove_file(log);
    }
    writable
}

/// Refuses key columns in which equal values have several forms: they would become two rows, or
/// two rows would become one.
fn check_key(table: &TablePlan) -> Result<()> {
    if matches!(table.write_mode, WriteMode::Append | WriteMode::Replace) {
        return Ok(());
    }
    for name in &table.target.primary_key {
        if table.target.field(name).is_some_and(values::has_several_forms) {
            return Err(Error::unsupported(
                "DuckDB cannot tell the keys of this table apart: equal values have several forms",
            )
            .context("table", table.name())
            .context("column", name)
            .hint("name another key, or give the column a fixed number of digits at the source"));
        }
    }
    Ok(())
}

fn existing(session: &mut Session, name: &TableName) -> Result<Option<ExistingTable>> {
    let Some(relation) = catalog::relation(session, name)? else { return Ok(None) };
    let mut table = relation.table();
    table.name = name.clone();
    Ok(Some(ExistingTable { table, identity: relation.mark().identity }))
}

/// Sends the rows of a table as a source over the file would; nothing where there is none.
fn read_all(file: &File, wanted: &Table, output: &Output) -> Result<Completion> {
    let Some(mut session) = file.look()? else { return Ok(Completion::Complete) };
    let Some(relation) = catalog::relation(&mut session, &wanted.name)? else {
        return Ok(Completion::Complete);
    };
    let plan = read_back::full_read(stored_as_asked(&relation, wanted));
    source::read_whole(&mut session, plan, READ_ROWS, output)
}

/// The columns of a table that are wanted, in the types that it has: the case of a name does not
/// matter here.
pub(crate) fn stored_as_asked(relation: &catalog::Relation, wanted: &Table) -> Table {
    let mut found = relation.table();
    let fields = found.schema.fields().iter().map(|field| {
        let mut asked =
            wanted.column_names().filter(|name| name.eq_ignore_ascii_case(field.name()));
        asked
            .next()
            .map_or_else(|| field.as_ref().clone(), |name| field.as_ref().clone().with_name(name))
    });
    found.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    read_back::selected(&found, wanted)
}

/// Does `work` in one transaction, under the fence.
fn in_transaction<T>(
    file: &File,
    plan: &Plan,
    fence: &Fence,
    work: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<T> {
    let mut transaction = file.begin()?;
    if plan.state_with_data && !store::holds(&mut transaction.session, fence)? {
        return Err(fenced(fence));
    }
    let done = work(&mut transaction.session)?;
    transaction.commit()?;
    Ok(done)
}

/// Completes a table in one transaction; `made` says that the run has committed something of it.
fn finish(
    file: &File,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<Committed> {
    in_transaction(file, plan, fence, |session| {
        let mut committed = Committed::default();
        let finished = plan.state_with_data
            && store::finished_epoch(session, fence, table.name())? == Some(fence.epoch);
        if table.rebuild {
            committed.deleted = rebuild::swap(session, plan, table, fence, finished, made)?;
        } else {
            schema::prepare(session, plan, table)?;
        }
        if table.write_mode == WriteMode::OverwriteDeleteStale
            && table.read_mode == ReadMode::FullRefresh
        {
            committed.deleted = upkeep::delete_stale(session, plan, table)?;
        }
        if derived::remembers_keys(table) && !finished {
            committed.deleted += upkeep::end_sweep(session, plan, table, fence, made)?;
        }
        if let (WriteMode::AppendDedup, Some(seconds)) =
            (table.write_mode, table.history_retention_seconds)
        {
            let kept = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            let until = Instant(plan.started_at.0.saturating_sub(kept));
            let sql = merge::prune_history(&DuckDbDialect, table, str::to_owned);
            session.change(&sql, &[schema::instant(until)])?;
        }
        crash::at(CrashPoint::FinishApplied);
        if plan.state_with_data {
            let record = record(session, plan, table, fence, committed.deleted)?;
            store::save_record(session, fence, table.name(), &record)?;
        }
        Ok(committed)
    })
}

/// What is remembered of a table that is complete.
fn record(
    session: &mut Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    deleted: u64,
) -> Result<TableRecord> {
    Ok(TableRecord {
        identity: schema::identity(session, &table.target.name)?,
        columns: table.target.column_names().map(str::to_owned).collect(),
        // Records of deletions have taken numbers of the arrival order.
        rows_total: match (derived::remembers_keys(table), table.write_mode) {
            (true, WriteMode::AppendDedup) => deleted,
            _ => 0,
        },
        finished_epoch: Some(fence.epoch),
        finished_at: Some(plan.started_at),
        generation: table.generation,
        finished_generation: Some(table.generation),
        rebuild: false,
        swept_at: table.sweep.then_some(plan.started_at),
    })
}
