//! A destination connector as a destination.
//!
//! One `write` process takes all rows of a run. A checkpoint goes to it as STATE messages, and its
//! cursors are saved when these have come back: the connector says with them that the rows before
//! are stored. It does not say what tables it has, and takes no rows out again.
//!
//! | module | what |
//! |---|---|
//! | `catalog` | what it is told before the first record |
//! | `writer` | one `write` |
//! | `ledger` | checkpoints out, echoes back |
//! | `pipe` | the process at work |

mod catalog;
mod ledger;
mod pipe;
mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_core::{
    Capabilities, Committed, Destination, DestinationDelivery, Error, ExistingTable, Fence,
    Partition, Plan, Result, SchemaChange, StateStore, TableName, TablePlan, WriteMode, Writer,
};

use crate::host::{Connector, ConnectorSpec};
use crate::records::json_schema;
use crate::records::schema::SYSTEM;
use writer::RecordWriter;

/// What every destination can do.
const MODES: &[WriteMode] =
    &[WriteMode::Append, WriteMode::Overwrite, WriteMode::AppendDedup, WriteMode::Replace];
/// What one can do that knows generations.
const MODES_WITH_REFRESHES: &[WriteMode] = &[
    WriteMode::Append,
    WriteMode::Overwrite,
    WriteMode::AppendDedup,
    WriteMode::Replace,
    WriteMode::ReplaceDedup,
];

/// How to have a destination.
#[derive(Debug, Clone)]
pub struct AirbyteDestinationConfig {
    /// The connector.
    pub connector: ConnectorSpec,
    /// Whether it keeps rows of different generations apart and waits for the end of a stream, as
    /// those do that Airbyte lists with `supportsRefreshes`; nothing that it says tells. `None`:
    /// it is told everything in the form that both kinds understand.
    pub supports_refreshes: Option<bool>,
}

/// A destination connector.
#[derive(Debug)]
pub struct AirbyteDestination {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    supports_refreshes: Option<bool>,
    outcome: Mutex<Outcome>,
}

/// What is known of the run when tables are finished.
#[derive(Debug, Default)]
struct Outcome {
    /// Rows that were refused, by table.
    refused: BTreeMap<TableName, u64>,
    /// How it ended, if not well.
    doubt: Option<String>,
}

impl Shared {
    fn refuse(&self, table: &TableName, rows: u64) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        *outcome.refused.entry(table.clone()).or_default() += rows;
    }

    fn doubt(&self, error: &Error) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.doubt.get_or_insert_with(|| error.full_message());
    }
}

impl AirbyteDestination {
    /// Finds the connector and reads its settings; nothing runs yet.
    ///
    /// # Errors
    /// `Config` when nothing is found, or its file of settings is none.
    pub fn new(config: AirbyteDestinationConfig) -> Result<Self> {
        let shared = Shared {
            connector: Connector::new(config.connector)?,
            supports_refreshes: config.supports_refreshes,
            outcome: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Destination for AirbyteDestination {
    fn capabilities(&self) -> Capabilities {
        let (write_modes, write_modes_note) = match self.shared.supports_refreshes {
            Some(true) => (MODES_WITH_REFRESHES, "stale rows cannot be removed"),
            _ => (
                MODES,
                "stale rows cannot be removed, and `replace-dedup` needs a destination that supports refreshes (`supports_refreshes: true`)",
            ),
        };
        Capabilities {
            write_modes,
            write_modes_note,
            delivery: DestinationDelivery::Separate,
            identifier_bytes_max: usize::MAX,
            writers_max: 1,
            case_sensitive_names: true,
            describes_tables: false,
            commits_later: true,
            takes_records: Some(SYSTEM),
        }
    }

    fn check_rebuild(&self, table: &TablePlan) -> Result<()> {
        catalog::check_rebuild(table, self.shared.supports_refreshes)
    }

    async fn check(&self) -> Result<()> {
        self.shared.connector.check().await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        source.clone()
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        Ok(names.iter().map(|_| None).collect())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        json_schema::of_field(field).map(|_| field.clone())
    }

    fn ddl(&self, _plan: &TablePlan, _change: &SchemaChange) -> Vec<String> {
        Vec::new()
    }

    async fn migrate(&self, _plan: &Plan) -> Result<Vec<String>> {
        Err(Error::unsupported("The destination makes its tables itself, with the rows of a sync")
            .context("connector", self.shared.connector.name())
            .hint("highwater sync"))
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        _fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        Ok(Box::new(RecordWriter::new(&self.shared, plan, partition)?))
    }

    /// The connector has completed the table when its process ended; what is left is to say where
    /// that did not go well.
    async fn finish(&self, _plan: &Plan, table: &TablePlan, _fence: &Fence) -> Result<Committed> {
        let outcome = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let name = table.name();
        if let Some(rows) = outcome.refused.get(name) {
            return Err(Error::data("The destination has refused rows")
                .context("table", name)
                .context("rows", rows)
                .hint("Its own log lines say which and why"));
        }
        let is_swapped = table.rebuild || table.write_mode == WriteMode::Replace;
        if let Some(words) = outcome.doubt.as_ref().filter(|_| is_swapped) {
            return Err(Error::transient(
                "The destination ended with an error, so the new rows may not have taken the place of the old ones",
            )
            .context("table", name)
            .context("error", words)
            .hint("Run again"));
        }
        Ok(Committed::default())
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        None
    }
}
