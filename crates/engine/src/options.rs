//! What the user asked for: the input of a plan and of a sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_core::{
    Destination, Error, Mapping, MetadataColumns, NullCursor, ReadMode, Result, Table, Transformer,
    WriteMode,
};
use serde::Serialize;
use tokio::sync::watch;

use crate::events::Observer;
use crate::state_table::StateRows;

/// One entry of `tables`: a pattern and what the user wants for the tables that match it.
///
/// `None` means "as the source and the other settings say". When several entries match a table,
/// the first one with an exact name counts, else the first one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TableOptions {
    /// A name, or a pattern in which `*` matches any text. Compared with `namespace.name` and,
    /// for tables in the source's default namespace, with the name alone.
    pub name: String,
    /// The name of the table at the destination; `namespace.name` or a name.
    pub target: Option<String>,
    /// The primary key, where the source defines none or another one is wanted.
    pub primary_key: Option<Vec<String>>,
    /// The cursor field.
    pub cursor: Option<String>,
    /// How the table is read. By default incremental where there is a cursor (given by the user or
    /// defined by the source), else full refresh.
    pub read_mode: Option<ReadMode>,
    /// How it is written; by default as the destination says.
    pub write_mode: Option<WriteMode>,
    /// The columns to copy, in this order; all by default.
    pub columns: Option<Vec<ColumnOptions>>,
    /// What happens to rows without a cursor value; [`NullCursor::Include`] by default.
    pub null_cursor: Option<NullCursor>,
    /// See [`highwater_core::TablePlan::lookback`].
    pub lookback: Option<u64>,
    /// How long the history table keeps rows, in seconds.
    pub history_retention_seconds: Option<u64>,
    /// What is done to its rows before they are written, in order.
    pub mappings: Vec<Mapping>,
    /// What becomes of rows that the source has deleted; [`Deletes::Hard`] by default.
    pub deletes: Option<Deletes>,
    /// The column that says that a record is a deletion, where it is not
    /// [`highwater_core::plan::DELETED_AT`].
    pub deletion_column: Option<String>,
    /// How long after the last complete read an incremental table is read as a whole again, in
    /// seconds; 0: every time. `None`: never; with [`Deletes::Reconcile`] keys are compared in
    /// every sync, and where that cannot be done the table is read as a whole every time.
    pub sweep_seconds: Option<u64>,
    /// Whether many rows may be deleted at once, see [`highwater_core::TablePlan::check_deletes`].
    pub allow_mass_delete: bool,
    /// Which generation the rows belong to, where somebody else counts them.
    pub generation: Option<Generation>,
}

/// The generation of rows, as whoever runs us as a destination counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// That of the rows that come.
    pub id: u64,
    /// The oldest whose rows stay when the read is complete.
    pub minimum: u64,
}

/// What becomes of rows that the source has deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deletes {
    /// A record that says so removes its row, in the write modes that have keys.
    Hard,
    /// Such a record is a row like others.
    Soft,
    /// As hard; and what the source has no more is removed: by every sweep, or without sweeps by
    /// a comparison of keys in every sync.
    Reconcile,
}

/// A column to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnOptions {
    /// Its name.
    pub name: String,
    /// `Some("text")` reads it as the source's own text, whatever its type.
    pub as_type: Option<String>,
}

/// A destination of the sync.
#[derive(Clone)]
pub struct Target {
    /// Its name in the configuration.
    pub name: String,
    /// Where rows go.
    pub destination: Arc<dyn Destination>,
    /// The destination that keeps the cursors, when it is not the one that gets the rows
    /// (`backend_options`).
    pub backend: Option<Arc<dyn Destination>>,
    /// The write mode of tables that name none.
    pub write_mode: WriteMode,
    /// Columns that are added to every row.
    pub metadata_columns: MetadataColumns,
    /// The value of `_cq_sync_group_id`, where there is one.
    pub sync_group_id: Option<String>,
    /// Which primary key the tables get.
    pub key: KeyChoice,
    /// Whether tables and columns may be created and altered (`false`: `--no-migrate`).
    pub may_migrate: bool,
    /// Whether a table that cannot be altered may be dropped and made anew
    /// (`migrate_mode: forced`).
    pub may_recreate: bool,
    /// Whether many rows may be deleted at once, in every table; see
    /// [`highwater_core::TablePlan::check_deletes`].
    pub allow_mass_delete: bool,
    /// What rows go through before they are written, in order.
    pub transformers: Vec<Arc<dyn Transformer>>,
}

impl Target {
    /// A destination with the settings that most have: `overwrite`, no columns added, no
    /// transformers, schema changes that lose nothing.
    pub fn new(name: impl Into<String>, destination: Arc<dyn Destination>) -> Self {
        Self {
            name: name.into(),
            destination,
            backend: None,
            write_mode: WriteMode::Overwrite,
            metadata_columns: MetadataColumns::None,
            sync_group_id: None,
            key: KeyChoice::Source,
            may_migrate: true,
            may_recreate: false,
            allow_mass_delete: false,
            transformers: Vec::new(),
        }
    }
}

/// Which primary key a destination's tables get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyChoice {
    /// The source's, or the one that the user names.
    #[default]
    Source,
    /// `_cq_id` alone (`pk_mode: cq-id-only`); none where a table has no such column.
    RowId,
}

/// Cursors that the source keeps as rows of a table (CloudQuery's `backend_options`).
#[derive(Clone)]
pub struct StateTable {
    /// The table, by [`crate::state_table::table`].
    pub table: Table,
    /// Where it is.
    pub keeper: Keeper,
}

impl StateTable {
    /// What the source keeps there now, without making the table; nothing where a destination
    /// cannot tell whether it is there.
    ///
    /// # Errors
    /// What the keeper says.
    pub async fn rows(&self, request: &SyncRequest) -> Result<StateRows> {
        match self.load(request, false).await?.0 {
            serde_json::Value::Null => Ok(StateRows::default()),
            rows => serde_json::from_value(rows)
                .map_err(|e| Error::internal("State rows are no JSON").caused_by(e)),
        }
    }
}

/// The destination that keeps a [`StateTable`].
#[derive(Clone)]
pub enum Keeper {
    /// One of the sync's own destinations, by its index: rows and cursors are committed together
    /// where it can.
    Target(usize),
    /// Another one.
    Apart {
        /// Its name in the configuration.
        name: String,
        /// The destination.
        destination: Arc<dyn Destination>,
    },
}

/// What to sync.
#[derive(Clone)]
pub struct SyncRequest {
    /// The name of the source: state is kept under it.
    pub sync: String,
    /// The tables, at least one entry. A pattern that matches no table is an error.
    pub tables: Vec<TableOptions>,
    /// Patterns of tables that are left out. One that matches no table is an error.
    pub skip_tables: Vec<String>,
    /// The destinations, at least one.
    pub targets: Vec<Target>,
    /// Where the source keeps its cursors, if it does that itself.
    pub state_table: Option<StateTable>,
}

/// How to run it.
#[derive(Clone)]
pub struct RunOptions {
    /// Take the lease from a run that seems alive.
    pub take_over: bool,
    /// How many partitions are read at once, at least 1.
    pub tasks_max: usize,
    /// Set when the run shall end early: what is complete is committed.
    pub stop: StopSignal,
    /// Told what happens.
    pub observer: Arc<dyn Observer>,
}

/// Asks a run to stop. Clones share the signal.
#[derive(Clone)]
pub struct StopSignal {
    /// What sources look at between batches.
    pub(crate) flag: Arc<AtomicBool>,
    asked: Arc<watch::Sender<bool>>,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self { flag: Arc::default(), asked: Arc::new(watch::channel(false).0) }
    }
}

impl StopSignal {
    /// Asks for the stop.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.asked.send_replace(true);
    }

    /// Whether the stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Returns when the stop is asked for; at once when it was.
    pub async fn stopped(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }
}
