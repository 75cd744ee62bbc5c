//! A destination plugin of CloudQuery's, written to by any source.
//!
//! What can be promised is what the protocol has: the plugin's answer to the end of a `Write`
//! stream. So a commit ends the stream and waits for that answer; cursors are sent only then, in
//! a stream of their own. A crash in between repeats rows and loses none.
//!
//! An answer that all is well is not believed when the plugin has logged an error while the stream
//! was open: the writers of CloudQuery's own SDK that gather batches log a batch that they could
//! not write, drop it, and go on. Such a commit has failed: the cursor stays, no stale row is
//! deleted, the run is no success. (A plugin that somebody else runs, `registry: grpc`, has a log
//! that we do not see.)
//!
//! | module | what |
//! |---|---|
//! | [`connection`] | the plugin: started when needed, initialised, closed |
//! | [`stream`] | one `Write` call |
//! | [`tables`] | the tables of a plan on the wire |
//! | [`writer`] | one partition |
//! | [`reading`] | the `Read` call |
//! | [`store`] | cursors of our own sources, kept as rows of a table at the plugin |

mod connection;
mod reading;
mod store;
mod stream;
mod tables;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::{
    Batch, Capabilities, Committed, Destination, DestinationDelivery, ExistingTable, Fence, Op,
    Output, Partition, Plan, ReadMode, Result, SchemaChange, StateStore, Table, TableName,
    TablePlan, WriteMode, Writer,
};
use serde_json::Value;

use crate::host::{LogCounts, PluginSpec};
use crate::proto::plugin::write;
use crate::proto::plugin::write::request::Message;
use crate::wire::types::Column;
use crate::wire::wire_name;
use connection::Connection;
use reading::Reading;
use store::PluginStore;
use stream::WriteStream;
use tables::{Migrated, Migration, parents_first, send_all, words};
use writer::PluginWriter;

/// How long a plugin may take until it sends the first rows that it is asked for.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// What it takes to write to a plugin.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// The plugin.
    pub plugin: PluginSpec,
    /// The plugin's own settings: its `spec`.
    pub spec: Value,
    /// Tells this run from others in the plugin's own records.
    pub invocation_id: String,
    /// How long it may take until it sends the first rows that it is asked for. Some never do.
    pub read_patience: Duration,
}

impl DestinationConfig {
    /// A plugin that may alter tables only where no row is lost.
    pub fn new(plugin: PluginSpec, spec: Value, invocation_id: impl Into<String>) -> Self {
        Self { plugin, spec, invocation_id: invocation_id.into(), read_patience: READ_PATIENCE }
    }
}

/// A destination plugin. Its process is started by the first call that needs it, and ends with
/// [`Destination::close`], or is killed when this is dropped.
#[derive(Debug)]
pub struct DestinationPlugin {
    shared: Arc<Shared>,
}

/// What the writers and the store have in common.
#[derive(Debug)]
struct Shared {
    connection: Arc<Connection>,
    migrated: Arc<Migrated>,
    store: PluginStore,
}

impl DestinationPlugin {
    /// A plugin that is not started yet.
    pub fn new(config: DestinationConfig) -> Self {
        let connection = Arc::new(Connection::new(config));
        let migrated = Arc::<Migrated>::default();
        let store = PluginStore::new(&connection, &migrated);
        Self { shared: Arc::new(Shared { connection, migrated, store }) }
    }

    /// Where it listens, for other plugins: `unix:///path` or `host:port`. It is started and
    /// initialised for that.
    ///
    /// # Errors
    /// What its start and its `Init` say.
    pub async fn connection(&self) -> Result<String> {
        Ok(self.shared.connection.ready().await?.connection().to_owned())
    }

    /// How many errors and warnings the plugin has logged, also after it was closed.
    pub fn logs(&self) -> LogCounts {
        self.shared.connection.logs()
    }
}

#[async_trait]
impl Destination for DestinationPlugin {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_modes: &[
                WriteMode::Append,
                WriteMode::Overwrite,
                WriteMode::OverwriteDeleteStale,
            ],
            write_modes_note: "A CloudQuery plugin adds rows, replaces rows by their key and \
                               deletes stale rows; it knows nothing else.",
            delivery: DestinationDelivery::Separate,
            // What a plugin cannot take it refuses itself: nobody can ask it.
            identifier_bytes_max: 1024,
            // Errors in its log are those of the stream that is open.
            writers_max: 1,
            case_sensitive_names: true,
            describes_tables: false,
            commits_later: false,
            takes_records: None,
        }
    }

    async fn check(&self) -> Result<()> {
        self.shared.connection.test().await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        tables::target_name(source)
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        Ok(names.iter().map(|_| None).collect())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        Column::outward(field)?;
        Ok(field.clone())
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        vec![words(plan, *change == SchemaChange::Recreate)]
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        let (mut migrations, mut ran) = (Vec::new(), Vec::new());
        for table in parents_first(plan.tables.values()) {
            if let Some(migration) = Migration::of(plan, table)? {
                ran.push(words(table, migration.force));
                migrations.push(migration);
            }
        }
        if !migrations.is_empty() {
            let mut stream = WriteStream::open(&self.shared.connection).await?;
            send_all(&mut stream, &migrations).await?;
            stream.close().await?;
            self.shared.migrated.add(migrations);
        }
        Ok(ran)
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        let cursors_are_ours = |table: &TablePlan| {
            plan.state_with_data
                && table.read_mode == ReadMode::Incremental
                && !table.is_state
                && !table.source.source_defined_cursor
        };
        let mut tables = partition.tables.iter().filter_map(|name| plan.tables.get(name));
        if tables.any(cursors_are_ours) {
            // Before anything is copied, not when its cursor has to be saved.
            self.shared.store.require_memory().await?;
        }
        Ok(Box::new(PluginWriter::new(&self.shared, plan, partition, fence)?))
    }

    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let shared = &self.shared;
        if plan.state_with_data {
            shared.store.check(fence).await?;
        }
        let deletes = table.write_mode == WriteMode::OverwriteDeleteStale
            && table.read_mode == ReadMode::FullRefresh;
        if deletes {
            // A table that no partition was read of has to be there all the same.
            let migration = Migration::of(plan, table)?;
            let migrations = shared.migrated.left(&migration);
            let mut stream = WriteStream::open(&shared.connection).await?;
            send_all(&mut stream, &migrations).await?;
            stream.send(Message::Delete(stale(plan, table))).await?;
            stream.close().await?;
            shared.migrated.add(migrations);
            crash::at(CrashPoint::FinishApplied);
        }
        if plan.state_with_data {
            shared.store.finished(fence, plan, table).await?;
        }
        // How many rows went the plugin does not say.
        Ok(Committed::default())
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let Some(mut reading) = Reading::open(&self.shared.connection, table).await? else {
            return Ok(());
        };
        let table = Arc::new(table.clone());
        while let Some(batches) = reading.next().await? {
            for rows in batches {
                output.batch(Batch { table: Arc::clone(&table), op: Op::Upsert, rows }).await?;
            }
        }
        Ok(())
    }

    /// See [`store`]: best effort, since the protocol has no transactions.
    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(&self.shared.store)
    }

    async fn close(&self) -> Result<()> {
        // A plugin that keeps its tables in memory has to be told of them again.
        self.shared.migrated.clear();
        self.shared.connection.close().await
    }
}

fn stale(plan: &Plan, table: &TablePlan) -> write::MessageDeleteStale {
    let micros = plan.started_at.0;
    write::MessageDeleteStale {
        source_name: plan.sync.clone(),
        sync_time: Some(prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
        }),
        table_name: wire_name(&table.target.name).into_owned(),
        ..write::MessageDeleteStale::default()
    }
}
