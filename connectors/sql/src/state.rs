//! The tables of the commit protocol, and its statements.
//!
//! Four tables, in the database of the data (invariant I5):
//!
//! - `lease`: one row per sync. Its `epoch` is the fence: it grows with every run, and a commit
//!   is made only while the row still holds the run's epoch (I3).
//! - `cursor`: the committed positions.
//! - `commit_sequence`: per writer of the current run, how many commits it has made. It is written in
//!   the transaction of the data, so that after a lost COMMIT reply it tells whether the commit
//!   happened.
//! - `tables`: what is remembered of each destination table, by source table.
//!
//! A commit, in one transaction: [`StateSql::check_fence`] (no row: roll back, fenced), schema
//! changes, rows, [`StateSql::save_cursor`] for each cursor, [`StateSql::save_table`],
//! [`StateSql::save_sequence`], COMMIT. The end of a table, in one transaction: the fence, what
//! the mode does, [`StateSql::save_table`], [`StateSql::finish_table`], [`StateSql::forget_cursor`]
//! of the position of a full refresh, COMMIT.
//!
//! Instants are microseconds since 1970 in UTC, as integers; epochs and counts are integers;
//! everything else is text. A missing namespace is the empty text, and [`CursorKey::Global`] has
//! an empty table name.

use highwater_core::{CursorKey, Error, Fence, TableName};

use crate::dialect::Dialect;

/// Columns of `tables` that older versions did not make, in the order in which they are read.
const NEWER_COLUMNS: [(&str, &str); 4] = [
    ("generation", "BIGINT NOT NULL DEFAULT 0"),
    ("finished_generation", "BIGINT"),
    ("rebuild", "SMALLINT NOT NULL DEFAULT 0"),
    ("swept_at", "BIGINT"),
];

/// Builds the statements for one dialect. Parameters are in the order the method names them.
pub struct StateSql<'a>(pub &'a dyn Dialect);

impl StateSql<'_> {
    /// Creates the tables that do not exist yet.
    pub fn create(&self) -> Vec<String> {
        let tables = [
            (
                "lease",
                "sync TEXT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, owner TEXT NOT NULL, \
                 renewed_at BIGINT NOT NULL, released SMALLINT NOT NULL",
            ),
            (
                "cursor",
                "sync TEXT NOT NULL, table_namespace TEXT NOT NULL, table_name TEXT NOT NULL, \
                 partition_id TEXT NOT NULL, position TEXT NOT NULL, epoch BIGINT NOT NULL, \
                 saved_at BIGINT NOT NULL, \
                 PRIMARY KEY (sync, table_namespace, table_name, partition_id)",
            ),
            (
                "commit_sequence",
                "sync TEXT NOT NULL, writer TEXT NOT NULL, epoch BIGINT NOT NULL, \
                 sequence BIGINT NOT NULL, PRIMARY KEY (sync, writer)",
            ),
            (
                "tables",
                "sync TEXT NOT NULL, table_namespace TEXT NOT NULL, table_name TEXT NOT NULL, \
                 identity TEXT, columns TEXT NOT NULL, rows_total BIGINT NOT NULL, \
                 finished_epoch BIGINT, finished_at BIGINT, \
                 generation BIGINT NOT NULL DEFAULT 0, finished_generation BIGINT, \
                 rebuild SMALLINT NOT NULL DEFAULT 0, swept_at BIGINT, \
                 PRIMARY KEY (sync, table_namespace, table_name)",
            ),
        ];
        tables
            .iter()
            .map(|(name, columns)| {
                format!("CREATE TABLE IF NOT EXISTS {} ({columns})", self.0.internal(name))
            })
            .collect()
    }

    /// What `tables` needs that a state made by an older version does not have: column, statement.
    /// Run those whose column is missing, when the state is opened for writing.
    pub fn upgrade(&self) -> Vec<(&'static str, String)> {
        NEWER_COLUMNS
            .iter()
            .map(|(column, definition)| {
                let table = self.0.internal("tables");
                (*column, format!("ALTER TABLE {table} ADD COLUMN {column} {definition}"))
            })
            .collect()
    }

    /// `(sync)` → `epoch, owner, renewed_at, released`. `locked`: nobody else may take the lease
    /// until the transaction ends.
    pub fn look_at_lease(&self, locked: bool) -> String {
        format!(
            "SELECT epoch, owner, renewed_at, released FROM {} WHERE sync = {}{}",
            self.0.internal("lease"),
            self.0.parameter(1),
            if locked { self.0.lock_exclusive() } else { "" },
        )
    }

    /// `(sync, owner, now)` → `epoch`: takes the lease with the next epoch.
    pub fn take_lease(&self) -> String {
        let lease = self.0.internal("lease");
        let [p1, p2, p3] = self.parameters();
        format!(
            "INSERT INTO {lease} AS held (sync, epoch, owner, renewed_at, released) \
             VALUES ({p1}, 1, {p2}, {p3}, 0) \
             ON CONFLICT (sync) DO UPDATE SET epoch = held.epoch + 1, owner = excluded.owner, \
             renewed_at = excluded.renewed_at, released = 0 RETURNING epoch"
        )
    }

    /// `(sync, epoch, now)`: renews the lease; no row changed means fenced.
    pub fn renew_lease(&self) -> String {
        let [p1, p2, p3] = self.parameters();
        format!(
            "UPDATE {} SET renewed_at = {p3} WHERE sync = {p1} AND epoch = {p2}",
            self.0.internal("lease"),
        )
    }

    /// `(sync, epoch)`: gives the lease back.
    pub fn release_lease(&self) -> String {
        let [p1, p2] = self.parameters();
        format!(
            "UPDATE {} SET released = 1 WHERE sync = {p1} AND epoch = {p2}",
            self.0.internal("lease"),
        )
    }

    /// `(sync, epoch)` → one row while the run may commit; none: fenced. Holds off a take-over
    /// until the transaction ends.
    pub fn check_fence(&self) -> String {
        let [p1, p2] = self.parameters();
        format!(
            "SELECT epoch FROM {} WHERE sync = {p1} AND epoch = {p2}{}",
            self.0.internal("lease"),
            self.0.lock_shared(),
        )
    }

    /// `()` → `sync`: every sync that has state here, sorted.
    pub fn list(&self) -> String {
        format!("SELECT sync FROM {} ORDER BY sync", self.0.internal("lease"))
    }

    /// `(sync)` → `table_namespace, table_name, partition_id, position`.
    pub fn cursors(&self) -> String {
        format!(
            "SELECT table_namespace, table_name, partition_id, position FROM {} WHERE sync = {}",
            self.0.internal("cursor"),
            self.0.parameter(1),
        )
    }

    /// `(sync, table_namespace, table_name, partition_id, position, epoch, now)`.
    pub fn save_cursor(&self) -> String {
        let p: [String; 7] = self.parameters();
        format!(
            "INSERT INTO {} (sync, table_namespace, table_name, partition_id, position, epoch, \
             saved_at) VALUES ({}) ON CONFLICT (sync, table_namespace, table_name, partition_id) \
             DO UPDATE SET position = excluded.position, epoch = excluded.epoch, \
             saved_at = excluded.saved_at",
            self.0.internal("cursor"),
            p.join(", "),
        )
    }

    /// `(sync, table_namespace, table_name, partition_id)`: forgets one cursor.
    pub fn forget_cursor(&self) -> String {
        let [p1, p2, p3, p4] = self.parameters();
        format!(
            "DELETE FROM {} WHERE sync = {p1} AND table_namespace = {p2} AND table_name = {p3} \
             AND partition_id = {p4}",
            self.0.internal("cursor"),
        )
    }

    /// `(sync, table_namespace, table_name)`: forgets all cursors of a table.
    pub fn forget_cursors(&self) -> String {
        let [p1, p2, p3] = self.parameters();
        format!(
            "DELETE FROM {} WHERE sync = {p1} AND table_namespace = {p2} AND table_name = {p3}",
            self.0.internal("cursor"),
        )
    }

    /// `(sync, table_namespace, table_name, rebuild)`: begins a new generation of a table. With
    /// [`Self::forget_cursors`] in one transaction it is a refresh.
    pub fn next_generation(&self) -> String {
        let [p1, p2, p3, p4] = self.parameters();
        format!(
            "UPDATE {} SET generation = generation + 1, rebuild = {p4} WHERE sync = {p1} \
             AND table_namespace = {p2} AND table_name = {p3}",
            self.0.internal("tables"),
        )
    }

    /// `(sync, table_namespace, table_name)`: forgets what is remembered of a table.
    pub fn forget_table(&self) -> String {
        let [p1, p2, p3] = self.parameters();
        format!(
            "DELETE FROM {} WHERE sync = {p1} AND table_namespace = {p2} AND table_name = {p3}",
            self.0.internal("tables"),
        )
    }

    /// `(sync)` → `table_namespace, table_name, identity, columns, rows_total, finished_epoch,
    /// finished_at, generation, finished_generation, rebuild, swept_at`. `columns` is a JSON list
    /// of names. `has` says whether a column of [`Self::upgrade`] is there: of a state that was
    /// made by an older version what is missing comes as its default.
    pub fn tables(&self, has: impl Fn(&str) -> bool) -> String {
        let newer = NEWER_COLUMNS.map(|(column, definition)| {
            let default = if definition.ends_with("DEFAULT 0") { "0" } else { "NULL" };
            // A literal would have another type than the column.
            let column_type = definition.split(' ').next().unwrap_or(definition);
            match has(column) {
                true => column.to_owned(),
                false => format!("CAST({default} AS {column_type}) AS {column}"),
            }
        });
        format!(
            "SELECT table_namespace, table_name, identity, columns, rows_total, finished_epoch, \
             finished_at, {} FROM {} WHERE sync = {}",
            newer.join(", "),
            self.0.internal("tables"),
            self.0.parameter(1),
        )
    }

    /// `(sync, table_namespace, table_name)` → `rows_total`, locked until the transaction ends;
    /// no row before the first commit.
    pub fn rows_total(&self) -> String {
        let [p1, p2, p3] = self.parameters();
        format!(
            "SELECT rows_total FROM {} WHERE sync = {p1} AND table_namespace = {p2} \
             AND table_name = {p3}{}",
            self.0.internal("tables"),
            self.0.lock_exclusive(),
        )
    }

    /// `(sync, table_namespace, table_name, identity, columns, rows_added, generation, rebuild)`:
    /// remembers the table and adds to its rows.
    pub fn save_table(&self) -> String {
        let p: [String; 8] = self.parameters();
        format!(
            "INSERT INTO {} AS known (sync, table_namespace, table_name, identity, columns, \
             rows_total, generation, rebuild) VALUES ({}) \
             ON CONFLICT (sync, table_namespace, table_name) \
             DO UPDATE SET identity = excluded.identity, columns = excluded.columns, \
             rows_total = known.rows_total + excluded.rows_total, \
             generation = excluded.generation, rebuild = excluded.rebuild",
            self.0.internal("tables"),
            p.join(", "),
        )
    }

    /// `(sync, table_namespace, table_name, finished_epoch, finished_at, finished_generation,
    /// swept_at)`: after [`Self::save_table`], remembers that the table is complete. `swept_at` is
    /// NULL where it was not read as a whole. Belongs together with [`Self::forget_cursor`] of the
    /// part [`highwater_core::state::FULL_REFRESH`].
    pub fn finish_table(&self) -> String {
        let [p1, p2, p3, p4, p5, p6, p7] = self.parameters();
        format!(
            "UPDATE {} SET finished_epoch = {p4}, finished_at = {p5}, \
             finished_generation = {p6}, rebuild = 0, swept_at = coalesce({p7}, swept_at) \
             WHERE sync = {p1} AND table_namespace = {p2} AND table_name = {p3}",
            self.0.internal("tables"),
        )
    }

    /// `(sync, table_namespace, table_name)` → `finished_epoch`; no row before the first commit.
    pub fn finished_epoch(&self) -> String {
        let [p1, p2, p3] = self.parameters();
        format!(
            "SELECT finished_epoch FROM {} WHERE sync = {p1} AND table_namespace = {p2} \
             AND table_name = {p3}",
            self.0.internal("tables"),
        )
    }

    /// `(sync, writer)` → `epoch, sequence`; no row before the writer's first commit.
    pub fn sequence(&self) -> String {
        let [p1, p2] = self.parameters();
        format!(
            "SELECT epoch, sequence FROM {} WHERE sync = {p1} AND writer = {p2}",
            self.0.internal("commit_sequence"),
        )
    }

    /// `(sync, writer, epoch, sequence)`.
    pub fn save_sequence(&self) -> String {
        let [p1, p2, p3, p4] = self.parameters();
        format!(
            "INSERT INTO {} (sync, writer, epoch, sequence) VALUES ({p1}, {p2}, {p3}, {p4}) \
             ON CONFLICT (sync, writer) \
             DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence",
            self.0.internal("commit_sequence"),
        )
    }

    /// `(sync, epoch)`: forgets the sequence numbers of runs before `epoch`.
    pub fn forget_sequences(&self) -> String {
        let [p1, p2] = self.parameters();
        format!(
            "DELETE FROM {} WHERE sync = {p1} AND epoch < {p2}",
            self.0.internal("commit_sequence"),
        )
    }

    fn parameters<const N: usize>(&self) -> [String; N] {
        std::array::from_fn(|i| self.0.parameter(i + 1))
    }
}

/// The error of a run that may not commit any more.
pub fn fenced(fence: &Fence) -> Error {
    Error::fenced("A newer run of this sync has taken over; nothing of this one was committed")
        .context("sync", &fence.sync)
        .context("epoch", fence.epoch)
        .hint("if two schedules start the same sync, keep one; otherwise run it again")
}

/// The columns `table_namespace, table_name, partition_id` of a cursor.
pub fn key_columns(key: &CursorKey) -> [&str; 3] {
    let (namespace, name) = key.table().map_or(("", ""), table_columns);
    [namespace, name, key.partition()]
}

/// The columns `table_namespace, table_name` of a table.
pub fn table_columns(table: &TableName) -> (&str, &str) {
    (table.namespace.as_deref().unwrap_or(""), &table.name)
}

/// The cursor key that [`key_columns`] came from.
pub fn key_from_columns(namespace: &str, name: &str, partition: &str) -> CursorKey {
    let table = (!name.is_empty()).then(|| table_from_columns(namespace, name));
    CursorKey::from_parts(table, partition)
}

/// The table name that [`table_columns`] came from.
pub fn table_from_columns(namespace: &str, name: &str) -> TableName {
    let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    TableName { namespace, name: name.to_owned() }
}
