//! A built-in connector as a plugin: what the server asks for, done with the connector and the
//! engine.
//!
//! A plugin is not told whether it is a source or a destination: the settings are tried as both.

mod outlet;
mod selected;
pub(crate) mod settings;

use std::sync::{Arc, PoisonError, RwLock};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_cloudquery::serve::{
    Selection, Served, ServedWriter, SyncOutput, SyncRequest, TestFailure,
};
use highwater_core::{
    Connector, Deletion, Error, ErrorKind, Instant, Output, Result, Table, TableName,
};
use highwater_engine::{Intake, Target};
use serde_json::Value;

use settings::Settings;

/// A connector, and the settings that it was given last.
pub struct ServedConnector {
    connector: &'static dyn Connector,
    settings: RwLock<Option<Arc<Settings>>>,
}

impl ServedConnector {
    /// A plugin that was told nothing yet.
    pub fn new(connector: &'static dyn Connector) -> Self {
        Self { connector, settings: RwLock::default() }
    }

    fn settings(&self) -> Result<Arc<Settings>> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner).clone();
        settings
            .ok_or_else(|| Error::config("The plugin has no settings yet").hint("call Init first"))
    }
}

#[async_trait]
impl Served for ServedConnector {
    fn name(&self) -> &str {
        self.connector.kind()
    }

    fn version(&self) -> &str {
        concat!("v", env!("CARGO_PKG_VERSION"))
    }

    fn spec_schema(&self) -> Value {
        settings::schema(self.connector)
    }

    async fn init(&self, spec: Value) -> Result<()> {
        let settings = Settings::new(self.connector, spec)?;
        settings.check().await?;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(settings));
        Ok(())
    }

    async fn tables(&self, selection: &Selection) -> Result<Vec<Table>> {
        selected::tables(self.settings()?.as_ref(), selection).await
    }

    async fn sync(&self, request: SyncRequest, output: SyncOutput) -> Result<()> {
        selected::sync(self.settings()?.as_ref(), request, output).await
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let destination = self.settings()?.destination().await?;
        let mut table = table.clone();
        table.name = destination.target_name(&table.name);
        destination.read(&table, output).await
    }

    async fn takes_one_stream(&self) -> Result<bool> {
        Ok(self.settings()?.destination().await?.capabilities().writers_max == 1)
    }

    async fn writer(&self) -> Result<Box<dyn ServedWriter>> {
        let destination = self.settings()?.destination().await?;
        let name = format!("plugin-{}", self.connector.kind());
        Ok(Box::new(Taking(Intake::new(Target::new(name, destination)))))
    }

    async fn test_connection(&self, spec: Value) -> Result<(), TestFailure> {
        let invalid = |error| TestFailure { code: "INVALID_SPEC", error };
        let settings = Settings::new(self.connector, spec).map_err(invalid)?;
        settings.check().await.map_err(invalid)?;
        settings.reach().await.map_err(|error| {
            let unreachable = error.kind() == ErrorKind::Transient;
            TestFailure { code: if unreachable { "UNREACHABLE" } else { "FAILED" }, error }
        })
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// One stream of rows, through the engine.
struct Taking(Intake);

#[async_trait]
impl ServedWriter for Taking {
    async fn migrate(&mut self, table: &Table, forced: bool) -> Result<()> {
        self.0.migrate(table, forced).await
    }

    async fn write(&mut self, table: &TableName, rows: RecordBatch) -> Result<()> {
        self.0.write(table, rows).await
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        self.0.delete(deletion).await
    }

    async fn delete_stale(
        &mut self,
        table: &TableName,
        source_name: &str,
        before: Instant,
    ) -> Result<()> {
        self.0.delete_stale(table, source_name, before).await
    }

    async fn commit(&mut self) -> Result<()> {
        self.0.commit().await.map(drop)
    }
}
