//! What a sync is going to do: plain data, computed before anything is touched.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::guarantee::Guarantee;
use crate::mapping::Mapping;
use crate::table::{SchemaChange, Table, TableName};

macro_rules! named_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every value, in the order the documentation lists them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word used in configuration, output and documentation.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::Error;

            fn from_str(text: &str) -> crate::Result<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    crate::Error::config(format!("`{text}` is not one of {}", known.join(", ")))
                })
            }
        }
    };
}

named_enum! {
    /// How the source reads a table.
    ReadMode {
        /// Every row, every time.
        FullRefresh = "full_refresh",
        /// Only what changed since the committed cursor.
        Incremental = "incremental",
    }
}

named_enum! {
    /// What a sync leaves behind in the destination table.
    WriteMode {
        /// Old rows and every row read.
        Append = "append",
        /// One row per primary key; a row read replaces the row with its key.
        Overwrite = "overwrite",
        /// As overwrite; then rows of this source that this complete sync did not see go.
        OverwriteDeleteStale = "overwrite-delete-stale",
        /// History table with every row, final table with the newest row per key.
        AppendDedup = "append-dedup",
        /// Exactly the rows of this full read, swapped in at the end.
        Replace = "replace",
        /// As replace, with one row per primary key: the newest by cursor, then by arrival.
        ReplaceDedup = "replace-dedup",
    }
}

named_enum! {
    /// What happens to rows whose cursor field is NULL.
    NullCursor {
        /// They are read in the first sync, and again whenever they change or appear.
        Include = "include",
        /// They are left out, and the summary says how many.
        Exclude = "exclude",
        /// One such row stops the table.
        Fail = "fail",
    }
}

named_enum! {
    /// Columns that highwater adds to every row.
    MetadataColumns {
        /// None.
        None = "none",
        /// `_cq_sync_time`, `_cq_source_name` and, where one is configured, `_cq_sync_group_id`, as
        /// CloudQuery's command line adds them.
        CloudQuery = "cloudquery",
        /// `_airbyte_raw_id`, `_airbyte_extracted_at`, `_airbyte_meta` and
        /// `_airbyte_generation_id`, with Airbyte's meanings.
        Airbyte = "airbyte",
    }
}

/// Metadata column: when the sync began that brought the row.
pub const SYNC_TIME: &str = "_cq_sync_time";
/// Metadata column: the source that brought the row.
pub const SOURCE_NAME: &str = "_cq_source_name";

/// Metadata column: the group of syncs that the row belongs to; part of the primary key.
pub const SYNC_GROUP_ID: &str = "_cq_sync_group_id";

/// Metadata column: a random UUID (version 4) per row.
pub const RAW_ID: &str = "_airbyte_raw_id";
/// Metadata column: when the source read the row.
pub const EXTRACTED_AT: &str = "_airbyte_extracted_at";
/// Metadata column: JSON, `{"sync_id": N, "changes": [{"field", "change", "reason"}]}`; a change
/// is a value that could not be kept as it was.
pub const META: &str = "_airbyte_meta";
/// Metadata column: the [`TablePlan::generation`] of the row.
pub const GENERATION_ID: &str = "_airbyte_generation_id";
/// The column in which a source with change data capture says that a record is a deletion, where
/// the user names no other.
pub const DELETED_AT: &str = "_ab_cdc_deleted_at";

/// One run of one source, and what it will do to each table at one destination.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The sync: the name of its source. State is kept under this name.
    pub sync: String,
    /// A number for this run, unique among runs of this sync.
    pub sync_id: String,
    /// When the run began: one value for all its rows.
    pub started_at: Instant,
    /// Whether the cursors of this sync are committed with the data of this destination
    /// (`true`), or kept in another store and saved after the data is durable.
    pub state_with_data: bool,
    /// The value of [`SYNC_GROUP_ID`] for all rows of this run at this destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_group_id: Option<String>,
    /// The tables, by source table name.
    pub tables: BTreeMap<TableName, TablePlan>,
}

impl Plan {
    /// What will happen to a table of a partition, or of a batch.
    ///
    /// # Errors
    /// `Internal` for a table that is not planned.
    pub fn table(&self, name: &TableName) -> Result<&TablePlan> {
        self.tables
            .get(name)
            .ok_or_else(|| Error::internal("A table is not planned").context("table", name))
    }
}

/// What will happen to one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TablePlan {
    /// The table as it is read: its name at the source, the selected columns.
    pub source: Arc<Table>,
    /// The table as it is written: its name at the destination, all columns including metadata
    /// columns, and the primary key that decides which rows are the same row.
    pub target: Arc<Table>,
    /// The rows before the destination's transformers, where it has some: metadata columns are
    /// there, the rest is the source's. `None`: [`Self::target`] is their shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untransformed: Option<Arc<Table>>,
    /// How it is read.
    pub read_mode: ReadMode,
    /// How it is written.
    pub write_mode: WriteMode,
    /// The column of [`Self::source`] that orders versions of a row, and by which an incremental
    /// read resumes.
    pub cursor_field: Option<String>,
    /// The column of [`Self::target`] that orders versions of a row: the cursor field under the
    /// name it has there. `None`: the arrival orders them.
    #[serde(default)]
    pub order_by: Option<String>,
    /// The column of [`Self::source`] that is not NULL in a record which says that its row was
    /// deleted. Such records become batches of [`crate::Op::Delete`] before they are written.
    #[serde(default)]
    pub deletion_column: Option<String>,
    /// What is done to rows, in order, before anything else of the destination sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mappings: Vec<Mapping>,
    /// Which reading of the table the rows belong to: grows with each full refresh that begins
    /// anew and with each `refresh`, and stays the same while an unfinished one goes on.
    #[serde(default)]
    pub generation: u64,
    /// Whether rows go into a table beside the present one (with a history and tombstones of its
    /// own, where the mode has them), which takes its place in [`crate::Destination::finish`].
    /// Readers see the old rows until then. What an unfinished run of the same generation has
    /// left beside is filled on; what another generation has left is dropped. Always with
    /// `replace` and `replace-dedup`.
    #[serde(default)]
    pub rebuild: bool,
    /// Whether the first incremental read goes on that an earlier run has begun: there is a cursor
    /// `Partition(table, FULL_REFRESH)` and none of the table. A destination that makes the key of
    /// a new table after its load may find the table still without one, with several rows of a key.
    #[serde(default)]
    pub resumes_first_read: bool,
    /// Whether everything is read although the table is incremental, and what the read did not
    /// bring is deleted in [`crate::Destination::finish`] where [`Self::reconcile`]. Only in the
    /// keyed modes. In `append-dedup` a row that is as it was adds nothing to the history.
    #[serde(default)]
    pub sweep: bool,
    /// Whether a sweep deletes the rows that it did not bring, with a record in the history and a
    /// tombstone where the mode has them. Without a sweep: whether the keys of both sides are
    /// compared after the read ([`crate::KeyDigests`]), and those that the source has not any more
    /// are deleted.
    #[serde(default)]
    pub reconcile: bool,
    /// What happens to rows without a cursor value.
    pub null_cursor: NullCursor,
    /// How far behind the last position an incremental read starts again: seconds for dates and
    /// times, units for numbers. Rows already delivered are recognised and not sent again. It acts
    /// from the first sync that has it: rows that earlier syncs have passed over stay unread.
    pub lookback: u64,
    /// How long rows stay in the history table of `append-dedup`, in seconds; `None`: for ever.
    pub history_retention_seconds: Option<u64>,
    /// Whether a full read may be cut into parts that are committed one by one. Only where doing
    /// a part twice changes nothing.
    pub divisible: bool,
    /// Whether a deletion of many rows at once is refused ([`Self::check_deletes`]). Holds for what
    /// a full read or a comparison of keys did not find any more, not for deletions that the source
    /// reports.
    #[serde(default)]
    pub guards_deletes: bool,
    /// The wire form in which the source sends its rows and the destination takes them, where
    /// nothing has to look at them in between. A batch of upserts then has one Binary column,
    /// whose field says so ([`crate::types::RECORD`]: `line:FORM`): a row's value is the row as
    /// the source system sent it. What else is said of batches does not hold for these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// Whether its rows are cursors that cover the rows of the plan's other tables. A destination
    /// without transactions makes them durable after those, never before.
    #[serde(default)]
    pub is_state: bool,
    /// What has to change at the destination before the rows fit.
    pub changes: Vec<SchemaChange>,
    /// The delivery guarantee, computed.
    pub guarantee: Guarantee,
    /// What the user should know about this table: shown by `plan` and in the summary.
    pub notes: Vec<String>,
}

impl TablePlan {
    /// See [`Self::check_deletes`].
    pub const MASS_DELETE_SHARE: f64 = 0.3;
    /// See [`Self::check_deletes`].
    pub const MASS_DELETE_ROWS: u64 = 10;

    /// Whether `gone` rows may go at once, and `left` rows of the sync stay in the table. Where
    /// [`Self::guards_deletes`], never all rows, and no more than [`Self::MASS_DELETE_SHARE`] of
    /// them; the share counts from [`Self::MASS_DELETE_ROWS`] rows on, so that a small table stops
    /// no sync.
    ///
    /// # Errors
    /// `Data`, with the numbers. Nothing is to be deleted then.
    pub fn check_deletes(&self, gone: u64, left: u64) -> crate::Result<()> {
        let all = gone.saturating_add(left);
        let is_much =
            gone >= Self::MASS_DELETE_ROWS && gone as f64 > all as f64 * Self::MASS_DELETE_SHARE;
        if !self.guards_deletes || gone == 0 || (left > 0 && !is_much) {
            return Ok(());
        }
        Err(crate::Error::data(format!(
            "{gone} of {all} rows would be deleted, because the source has them no more"
        ))
        .context("table", self.name())
        .context("destination table", &self.target.name)
        .hint("if that is so, run the sync once with --allow-mass-delete"))
    }

    /// A table that is read and written in a mode, with everything else at its default.
    pub fn new(
        source: Arc<Table>,
        target: Arc<Table>,
        read_mode: ReadMode,
        write_mode: WriteMode,
    ) -> Self {
        Self {
            source,
            target,
            untransformed: None,
            read_mode,
            write_mode,
            cursor_field: None,
            order_by: None,
            deletion_column: None,
            mappings: Vec::new(),
            generation: 0,
            rebuild: matches!(write_mode, WriteMode::Replace | WriteMode::ReplaceDedup),
            resumes_first_read: false,
            sweep: false,
            reconcile: false,
            null_cursor: NullCursor::Include,
            lookback: 0,
            history_retention_seconds: None,
            divisible: false,
            guards_deletes: false,
            forwarded: None,
            is_state: false,
            changes: Vec::new(),
            guarantee: Guarantee::ExactlyOnce,
            notes: Vec::new(),
        }
    }

    /// Sets the cursor field, which has the same name in the target.
    #[must_use]
    pub fn ordered_by(mut self, column: impl Into<String>) -> Self {
        let column = column.into();
        self.cursor_field = Some(column.clone());
        self.order_by = Some(column);
        self
    }

    /// The name of the table at the source: what state and summaries call it.
    pub fn name(&self) -> &TableName {
        &self.source.name
    }

    /// The name of the history table of `append-dedup`.
    pub fn history_name(&self) -> TableName {
        self.target.name.renamed(format!("{}_history", self.target.name.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mass_deletion_is_all_rows_or_many_of_many() {
        let table = Arc::new(Table::new(TableName::new("t"), Vec::new()));
        let mode = WriteMode::OverwriteDeleteStale;
        let mut plan = TablePlan::new(Arc::clone(&table), table, ReadMode::FullRefresh, mode);
        for (gone, left) in [(1, 0), (9, 0), (10, 0), (10, 23), (31, 69), (1_000_000, 1)] {
            plan.guards_deletes = false;
            plan.check_deletes(gone, left).unwrap();
            plan.guards_deletes = true;
            let error = plan.check_deletes(gone, left).unwrap_err();
            assert!(error.message().starts_with(&format!("{gone} of {} rows", gone + left)));
        }
        for (gone, left) in [(0, 0), (0, 5), (1, 1), (9, 1), (10, 24), (30, 70)] {
            plan.check_deletes(gone, left).unwrap();
        }
    }
}
