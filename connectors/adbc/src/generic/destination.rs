//! Any system as a destination: rows are loaded in bulk, tables are made where there are none.
//!
//! The standard can add rows to a table and make one. It cannot alter one, has no statement that
//! every system understands for replacing rows, and no place for cursors that would be committed
//! with the rows: these are kept at another destination.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_core::types::type_name;
use highwater_core::{
    Batch, Capabilities, Checkpoint, Committed, CommittedTables, Destination, DestinationDelivery,
    Error, ExistingTable, Fence, LogicalType, Op, Output, Partition, Plan, Result, SchemaChange,
    StateStore, Table, TableName, TablePlan, WriteMode, Writer,
};

use super::config::Spec;
use super::ingest::{Ingest, Target};
use super::source::{adapted, blocking, select};
use super::system::Remote;
use super::{catalog, types};

const MODES_NOTE: &str = "the standard of ADBC adds rows and makes tables; it has nothing that \
                          replaces or removes rows in every system";

/// A system that rows are loaded into.
pub(crate) struct AdbcDestination {
    remote: Arc<Remote>,
}

impl AdbcDestination {
    /// A destination as configured. Loads and connects nothing yet.
    pub(crate) fn new(spec: Spec) -> Self {
        Self { remote: Arc::new(Remote::new(spec)) }
    }
}

fn refused(table: &TablePlan) -> Error {
    Error::unsupported("A system behind a driver has no such write mode")
        .context("table", table.name())
        .context("write mode", table.write_mode)
        .hint("write_mode: append")
}

/// The tables of a plan as they are written.
fn target(table: &TablePlan) -> Target {
    Target { name: table.target.name.clone(), schema: table.target.schema.clone() }
}

#[async_trait]
impl Destination for AdbcDestination {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_modes: &[WriteMode::Append],
            write_modes_note: MODES_NOTE,
            delivery: DestinationDelivery::Separate,
            // The least that is known of systems with drivers (PostgreSQL).
            identifier_bytes_max: 63,
            // Whether a system lets two connections write at a time the standard does not say.
            writers_max: 1,
            case_sensitive_names: true,
            describes_tables: false,
            commits_later: false,
            takes_records: None,
        }
    }

    async fn check(&self) -> Result<()> {
        blocking(&self.remote, |_, _| Ok(())).await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        TableName { namespace: self.remote.spec.schema.clone(), name: source.name.clone() }
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        // A driver tells what it would send, not what a column was made for.
        Ok(names.iter().map(|_| None).collect())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        LogicalType::of(field)?;
        Ok(field.clone())
    }

    fn check_rebuild(&self, table: &TablePlan) -> Result<()> {
        Err(Error::unsupported("The standard of ADBC cannot make a table anew beside the old one")
            .context("table", table.name())
            .hint("DROP TABLE there by hand, then `highwater state reset`"))
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        let fields = plan.target.schema.fields().iter();
        let columns: Vec<_> = fields.map(|f| format!("{} {}", f.name(), type_name(f))).collect();
        match change {
            SchemaChange::CreateTable => vec![format!(
                "bulk ingest into {} ({}), made if it is not there",
                plan.target.name,
                columns.join(", ")
            )],
            _ => Vec::new(),
        }
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        let tables = plan.tables.values().filter(|table| !table.changes.is_empty());
        let tables: Vec<_> = tables.collect();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let targets = tables.iter().map(|table| target(table)).collect();
        Ingest::start(Arc::clone(&self.remote), targets).commit().await?;
        let ran = tables.iter().flat_map(|table| table.changes.iter().map(|c| (*table, c)));
        Ok(ran.flat_map(|(table, change)| self.ddl(table, change)).collect())
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        _fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        let (mut targets, mut places) = (Vec::new(), BTreeMap::new());
        for name in &partition.tables {
            let table = plan.table(name)?;
            if table.write_mode != WriteMode::Append {
                return Err(refused(table));
            }
            places.insert(name.clone(), targets.len());
            targets.push(target(table));
        }
        let ingest = Ingest::start(Arc::clone(&self.remote), targets);
        Ok(Box::new(AdbcWriter { ingest, places, written: CommittedTables::new() }))
    }

    async fn finish(&self, _plan: &Plan, table: &TablePlan, _fence: &Fence) -> Result<Committed> {
        match table.write_mode {
            WriteMode::Append => Ok(Committed::default()),
            _ => Err(refused(table)),
        }
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let table = Arc::new(table.clone());
        blocking(&self.remote, move |session, remote| {
            let Some(there) = catalog::schema(session, &remote.spec, &table.name)? else {
                return Ok(());
            };
            // A column that the table does not have is NULL.
            let found = there.fields().iter().filter(|field| table.field(field.name()).is_some());
            let found = found.map(|field| types::field(field)).collect();
            let found = Table::new(table.name.clone(), found);
            let manner = remote.manner(session);
            let sql = select(&found, &table.name, &manner, remote.spec.catalog.as_deref());
            let mut rows = session.query(&sql, &[])?;
            while let Some(sent) = rows.next()? {
                let rows = highwater_core::text::convert_rows(&adapted(&sent, &found)?, &table)?;
                let table = Arc::clone(&table);
                output.blocking_batch(Batch { table, op: Op::Upsert, rows })?;
            }
            Ok(())
        })
        .await
    }

    /// None: rows and cursors would not be committed together.
    fn state_store(&self) -> Option<&dyn StateStore> {
        None
    }
}

struct AdbcWriter {
    ingest: Ingest,
    places: BTreeMap<TableName, usize>,
    written: CommittedTables,
}

#[async_trait]
impl Writer for AdbcWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let name = &batch.table.name;
        if batch.op == Op::Delete {
            return Err(Error::unsupported("Rows that are only added cannot be deleted")
                .context("table", name));
        }
        let place = *self.places.get(name).ok_or_else(|| {
            Error::internal("A batch is of a table that is not planned").context("table", name)
        })?;
        self.written.entry(name.clone()).or_default().written += batch.rows.num_rows() as u64;
        self.ingest.rows(place, batch.rows).await
    }

    async fn commit(&mut self, _checkpoint: &Checkpoint) -> Result<CommittedTables> {
        self.ingest.commit().await?;
        Ok(std::mem::take(&mut self.written))
    }
}
