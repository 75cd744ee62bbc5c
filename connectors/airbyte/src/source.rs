//! A source connector as a source of ours: one process and one `read` for all tables.
//!
//! | module | what |
//! |---|---|
//! | `streams` | a stream as a table |
//! | `request` | the configured catalog and the state that the connector begins with |
//! | `run` | the process of a read: started, listened to, stopped |
//! | `echo` | states that are given back to whoever sent them |
//! | `reading` | its lines: records, states, statuses |
//! | `lanes` | a table under way |
//! | `order` | rows and states in an order in which nothing uncovered is committed |
//! | `spill` | rows that wait on disk |
//! | `way` | from the decoding thread to the writers |

pub(crate) mod echo;
mod lanes;
mod order;
pub(crate) mod reading;
mod request;
mod run;
mod spill;
pub(crate) mod streams;
mod way;

use async_trait::async_trait;
use highwater_core::{
    Completion, Error, NullCursor, Output, Partition, Plan, ReadMode, Reads, Result, Source,
    SourceDelivery, State, Table, TableName, TablePlan,
};
use highwater_process::LogCounts;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::host::{Connector, ConnectorSpec};
use crate::protocol::SyncMode;
pub use streams::{LINE, STREAM};
use streams::{Offered, Streams};

/// What a run asks of a source connector.
#[derive(Debug, Clone)]
pub struct AirbyteSourceConfig {
    /// The connector.
    pub connector: ConnectorSpec,
    /// What the user named inside of fields. Each path becomes a column.
    pub tables: Vec<TablePaths>,
}

/// Nested fields that are keys or cursor fields of some tables.
#[derive(Debug, Clone)]
pub struct TablePaths {
    /// The tables, by name; `*` stands for any text.
    pub pattern: String,
    /// The paths, each from the outermost field.
    pub paths: Vec<Vec<String>>,
}

/// A source connector, for one run. A process is started for each question and one for each read;
/// none outlives the future that needs it.
#[derive(Debug)]
pub struct AirbyteSource {
    connector: Connector,
    tables: Vec<TablePaths>,
    streams: OnceCell<Streams>,
}

impl AirbyteSource {
    /// Finds the connector; nothing is started yet.
    ///
    /// # Errors
    /// `Config` when nothing is found, or its settings cannot be read.
    pub fn new(config: AirbyteSourceConfig) -> Result<Self> {
        let connector = Connector::new(config.connector)?;
        Ok(Self { connector, tables: config.tables, streams: OnceCell::new() })
    }

    /// How many errors and warnings the connector has logged so far.
    pub fn log_counts(&self) -> LogCounts {
        self.connector.logs()
    }

    async fn streams(&self) -> Result<&Streams> {
        let discovered = || async {
            let catalog = self.connector.discover().await?;
            Streams::new(catalog, &self.tables)
                .map_err(|e| e.context("connector", self.connector.name()))
        };
        self.streams.get_or_try_init(discovered).await
    }

    fn unsupported(&self, message: &str, table: &TablePlan) -> Error {
        Error::unsupported(message)
            .context("connector", self.connector.name())
            .context("table", table.name())
    }

    /// Whether the connector can read it in this mode.
    fn check_mode(&self, table: &TablePlan, offered: &Offered) -> Result<()> {
        let (mode, other) = match table.read_mode {
            ReadMode::FullRefresh => (SyncMode::FullRefresh, "incremental"),
            ReadMode::Incremental => (SyncMode::Incremental, "full_refresh"),
        };
        if !offered.stream.supports(mode) {
            let message = match mode {
                SyncMode::FullRefresh => "The connector cannot read this stream in full",
                SyncMode::Incremental => "The connector cannot read this stream incrementally",
            };
            return Err(self
                .unsupported(message, table)
                .hint(format!("set `read_mode: {other}` in the table's entry")));
        }
        if offered.stream.is_file_based == Some(true) {
            return Err(self
                .unsupported("The stream brings files, which are not copied", table)
                .hint("let the connector deliver records: its setting `delivery_method`"));
        }
        Ok(())
    }

    /// What the user asked of an incremental read, and what the connector makes of it.
    fn cursor_notes(&self, table: &TablePlan, offered: &Offered) -> Result<Vec<String>> {
        if table.read_mode == ReadMode::FullRefresh {
            return Ok(Vec::new());
        }
        if table.lookback > 0 || table.null_cursor != NullCursor::Include {
            return Err(self
                .unsupported("The connector decides itself from where it reads", table)
                .hint("leave `lookback` and `null_cursor` out of the table's entry"));
        }
        let own = &offered.table;
        match &table.cursor_field {
            None if !own.source_defined_cursor => Err(Error::config(
                "An incremental read needs a cursor field",
            )
            .context("connector", self.connector.name())
            .context("table", table.name())
            .hint("name it: `--cursor updated_at`, or `cursor: updated_at` in the table's entry")),
            Some(cursor)
                if own.source_defined_cursor && own.cursor_field.as_ref() != Some(cursor) =>
            {
                Ok(vec![format!(
                    "The connector reads by a cursor of its own; `{cursor}` only says which row is newer."
                )])
            }
            _ => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Source for AirbyteSource {
    async fn check(&self) -> Result<()> {
        self.connector.check().await
    }

    /// The connector tells all of its streams, so `only` is not looked at.
    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(self.streams().await?.tables().cloned().collect())
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Again("the connector decides what it sends again".to_owned())
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        let offered = self.streams().await?.get(table.name())?;
        self.check_mode(table, offered)?;
        lanes::Lane::new(table, offered)?;
        let mut notes = offered.notes(&table.source);
        notes.extend(self.cursor_notes(table, offered)?);
        Ok(notes)
    }

    /// One: the connector sends all tables in one stream.
    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        let tables: Vec<TableName> = plan.tables.keys().cloned().collect();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Partition { tables, id: "read".to_owned(), bounds: Value::Null }])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        Box::pin(run::read(self, plan, state, output)).await
    }

    fn reads(&self) -> Reads {
        Reads::Together
    }
}
