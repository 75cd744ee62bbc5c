//! State in the same file as the data: the tables of `connectors/sql`, named `_highwater_*`.
//!
//! SQLite has one writer at a time, so a transaction that has begun to write holds off every
//! take-over until it ends; the lease row then tells whose turn it is. A run that is stopped in
//! the middle of a commit keeps the file locked until it goes on or ends: others get a
//! `Transient` error, never its place.

use std::time::Duration;

use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Cursor, CursorKey, ErrorKind, Fence, Instant, Lease, LeaseRequest, Result, State,
    StateStore, TableName, TableRecord,
};
use highwater_sql::Dialect;
use highwater_sql::blocking::blocking;
use highwater_sql::state::{
    StateSql, fenced, key_columns, key_from_columns, table_columns, table_from_columns,
};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::catalog;
use crate::config::Location;
use crate::connection::{explain, open_read_only, open_read_write};
use crate::dialect::SqliteDialect;
use crate::rebuild;

const SQL: StateSql<'static> = StateSql(&SqliteDialect);

/// A renewal does not wait long for a lock: the next one comes soon.
const RENEWAL_TIMEOUT: Duration = Duration::from_millis(200);

/// State in one database file. Every call opens the file anew.
pub(crate) struct SqliteStore {
    location: Location,
}

impl SqliteStore {
    pub(crate) fn new(location: Location) -> Self {
        Self { location }
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Location) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let location = self.location.clone();
        blocking(move || work(&location)).await
    }

    /// Runs `work` in a transaction that excludes all other writers, under the fence.
    async fn fenced<T: Send + 'static>(
        &self,
        fence: &Fence,
        work: impl FnOnce(&Connection, &Fence) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let fence = fence.clone();
        self.blocking(move |location| {
            let failed = |error| explain(error, &location.path);
            let mut connection = open_read_write(location)?;
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(failed)?;
            if !holds(&transaction, &fence).map_err(failed)? {
                return Err(fenced(&fence));
            }
            let result = work(&transaction, &fence).map_err(failed)?;
            transaction.commit().map_err(failed)?;
            Ok(result)
        })
        .await
    }

    /// Looks without changing anything; `None` where there is no state.
    async fn looking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        self.blocking(move |location| {
            if !location.path.exists() {
                return Ok(None);
            }
            let failed = |error| explain(error, &location.path);
            let connection = open_read_only(location)?;
            connection.execute_batch("BEGIN").map_err(failed)?;
            if !has_state(&connection).map_err(failed)? {
                return Ok(None);
            }
            work(&connection).map(Some).map_err(failed)
        })
        .await
    }
}

#[async_trait]
impl StateStore for SqliteStore {
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State> {
        let (sync, request) = (sync.to_owned(), request.clone());
        let state = self
            .blocking(move |location| {
                let failed = |error| explain(error, &location.path);
                let mut connection = open_read_write(location)?;
                prefer_wal(&connection);
                let transaction = connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .map_err(failed)?;
                for statement in SQL.create() {
                    transaction.execute_batch(&statement).map_err(failed)?;
                }
                upgrade(&transaction).map_err(failed)?;
                let now = Instant::now();
                let held = lease(&transaction, &sync).map_err(failed)?;
                request.may_take(&sync, held.as_ref(), now)?;
                let owner = json(&request.owner);
                let epoch: i64 = transaction
                    .query_row(&SQL.take_lease(), params![sync, owner, now.0], |row| row.get(0))
                    .map_err(failed)?;
                transaction
                    .execute(&SQL.forget_sequences(), params![sync, epoch])
                    .map_err(failed)?;
                let mut state = state(&transaction, &sync).map_err(failed)?;
                rebuild::drop_leftovers(&transaction, &sync, &state).map_err(failed)?;
                transaction.commit().map_err(failed)?;
                state.fence = Some(Fence { sync, epoch: epoch.unsigned_abs() });
                Ok(state)
            })
            .await?;
        crash::at(CrashPoint::LeaseTaken);
        Ok(state)
    }

    async fn renew(&self, fence: &Fence) -> Result<()> {
        let wanted = fence.clone();
        let renewed = self
            .blocking(move |location| {
                let failed = |error| explain(error, &location.path);
                let connection = open_read_write(location)?;
                connection.busy_timeout(RENEWAL_TIMEOUT).map_err(failed)?;
                let parameters = params![wanted.sync, signed(wanted.epoch), Instant::now().0];
                match connection.execute(&SQL.renew_lease(), parameters) {
                    Ok(0) => Err(fenced(&wanted)),
                    Ok(_) => Ok(()),
                    Err(error) => Err(failed(error)),
                }
            })
            .await;
        match renewed {
            // Most likely our own transaction, which is a sign of life itself: nobody can take
            // the lease while it lasts, and its commit renews it.
            Err(error) if error.kind() == ErrorKind::Transient => Ok(()),
            other => other,
        }
    }

    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let checkpoint = checkpoint.clone();
        self.fenced(fence, move |transaction, fence| save_cursors(transaction, fence, &checkpoint))
            .await
    }

    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()> {
        let (table, record) = (table.clone(), record.clone());
        self.fenced(fence, move |transaction, fence| {
            save_record(transaction, fence, &table, &record)
        })
        .await
    }

    async fn release(&self, fence: &Fence) -> Result<()> {
        let fence = fence.clone();
        self.blocking(move |location| {
            let connection = open_read_write(location)?;
            connection
                .execute(&SQL.release_lease(), params![fence.sync, signed(fence.epoch)])
                .map_err(|error| explain(error, &location.path))?;
            Ok(())
        })
        .await
    }

    async fn look(&self, sync: &str) -> Result<State> {
        let sync = sync.to_owned();
        let state = self.looking(move |connection| state(connection, &sync)).await?;
        Ok(state.unwrap_or_default())
    }

    async fn list(&self) -> Result<Vec<String>> {
        let names = self.looking(|connection| {
            let mut statement = connection.prepare(&SQL.list())?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
        });
        Ok(names.await?.unwrap_or_default())
    }

    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()> {
        let (key, cursor) = (key.clone(), cursor.cloned());
        self.fenced(fence, move |transaction, fence| {
            if let Some(Cursor(value)) = cursor {
                return save_cursors(transaction, fence, &Checkpoint::of(key, value));
            }
            let [namespace, name, partition] = key_columns(&key);
            let parameters = params![fence.sync, namespace, name, partition];
            transaction.execute(&SQL.forget_cursor(), parameters)?;
            transaction.execute(&SQL.forget_table(), params![fence.sync, namespace, name])?;
            Ok(())
        })
        .await
    }

    async fn refresh(&self, fence: &Fence, table: &TableName, rebuild: bool) -> Result<()> {
        let table = table.clone();
        self.fenced(fence, move |transaction, fence| {
            let (namespace, name) = table_columns(&table);
            let sync = &fence.sync;
            transaction.execute(&SQL.forget_cursors(), params![sync, namespace, name])?;
            let parameters = params![sync, namespace, name, rebuild];
            transaction.execute(&SQL.next_generation(), parameters)?;
            Ok(())
        })
        .await
    }
}

/// Readers go on while a commit is made in this mode. A file system that cannot, or a file that
/// others keep open, stays as it is: slower, not wrong.
pub(crate) fn prefer_wal(connection: &Connection) {
    if let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        tracing::debug!(%error, "the file stays in its journal mode");
    }
}

/// Whether the run may still commit, seen from inside a transaction that excludes other writers.
pub(crate) fn holds(connection: &Connection, fence: &Fence) -> rusqlite::Result<bool> {
    let parameters = params![fence.sync, signed(fence.epoch)];
    let found = connection.query_row(&SQL.check_fence(), parameters, |_| Ok(())).optional();
    match found {
        Ok(found) => Ok(found.is_some()),
        // Somebody removed the state: nobody has the right to commit any more.
        Err(error) if error.to_string().contains("no such table") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renews the lease inside the transaction of a commit.
pub(crate) fn renew(connection: &Connection, fence: &Fence) -> rusqlite::Result<()> {
    let parameters = params![fence.sync, signed(fence.epoch), Instant::now().0];
    connection.execute(&SQL.renew_lease(), parameters)?;
    Ok(())
}

/// Writes cursors in the open transaction.
pub(crate) fn save_cursors(
    connection: &Connection,
    fence: &Fence,
    checkpoint: &Checkpoint,
) -> rusqlite::Result<()> {
    let (epoch, now) = (signed(fence.epoch), Instant::now().0);
    for (key, Cursor(position)) in &checkpoint.cursors {
        let [namespace, name, partition] = key_columns(key);
        let position = position.to_string();
        let parameters = params![fence.sync, namespace, name, partition, position, epoch, now];
        connection.execute(&SQL.save_cursor(), parameters)?;
    }
    Ok(())
}

/// Writes what is remembered of a table in the open transaction; `rows_total` is added to what is
/// there.
pub(crate) fn save_record(
    connection: &Connection,
    fence: &Fence,
    table: &TableName,
    record: &TableRecord,
) -> rusqlite::Result<()> {
    let (namespace, name) = table_columns(table);
    let columns = json(&record.columns);
    let (rows, generation) = (signed(record.rows_total), signed(record.generation));
    let (sync, identity, rebuild) = (&fence.sync, &record.identity, record.rebuild);
    let parameters = params![sync, namespace, name, identity, columns, rows, generation, rebuild];
    connection.execute(&SQL.save_table(), parameters)?;
    if let (Some(epoch), Some(at)) = (record.finished_epoch, record.finished_at) {
        let generation = record.finished_generation.map(signed);
        let swept = record.swept_at.map(|at| at.0);
        let parameters = params![sync, namespace, name, signed(epoch), at.0, generation, swept];
        connection.execute(&SQL.finish_table(), parameters)?;
        let position = params![sync, namespace, name, FULL_REFRESH];
        connection.execute(&SQL.forget_cursor(), position)?;
    }
    Ok(())
}

/// The run that finished a table last.
pub(crate) fn finished_epoch(
    connection: &Connection,
    fence: &Fence,
    table: &TableName,
) -> rusqlite::Result<Option<u64>> {
    let (namespace, name) = table_columns(table);
    let parameters = params![fence.sync, namespace, name];
    let found: Option<Option<i64>> =
        connection.query_row(&SQL.finished_epoch(), parameters, |row| row.get(0)).optional()?;
    Ok(found.flatten().map(i64::unsigned_abs))
}

/// Forgets the cursors and the record of a table in the open transaction.
pub(crate) fn forget(
    connection: &Connection,
    fence: &Fence,
    table: &TableName,
) -> rusqlite::Result<()> {
    let (namespace, name) = table_columns(table);
    connection.execute(&SQL.forget_cursors(), params![fence.sync, namespace, name])?;
    connection.execute(&SQL.forget_table(), params![fence.sync, namespace, name])?;
    Ok(())
}

/// How many rows of a table this sync has committed: the arrival order of the next one.
pub(crate) fn rows_total(
    connection: &Connection,
    fence: &Fence,
    table: &TableName,
) -> rusqlite::Result<i64> {
    let (namespace, name) = table_columns(table);
    let parameters = params![fence.sync, namespace, name];
    let total = connection.query_row(&SQL.rows_total(), parameters, |row| row.get(0)).optional()?;
    Ok(total.unwrap_or(0))
}

/// Writes the next number of a writer's dense sequence.
pub(crate) fn next_sequence(
    connection: &Connection,
    fence: &Fence,
    writer: &str,
) -> rusqlite::Result<()> {
    let epoch = signed(fence.epoch);
    let before: Option<(i64, i64)> = connection
        .query_row(&SQL.sequence(), params![fence.sync, writer], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let next = match before {
        Some((of, sequence)) if of == epoch => sequence + 1,
        _ => 1,
    };
    connection.execute(&SQL.save_sequence(), params![fence.sync, writer, epoch, next])?;
    Ok(())
}

fn has_state(connection: &Connection) -> rusqlite::Result<bool> {
    let name = SqliteDialect.internal("lease");
    let name = name.trim_matches('"');
    Ok(catalog::relation(connection, name)?.is_some())
}

/// Gives a state that an older version made the columns of this one.
fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    let Some(present) = tables_relation(connection)? else { return Ok(()) };
    for (column, statement) in SQL.upgrade() {
        if present.declared(column).is_none() {
            connection.execute_batch(&statement)?;
        }
    }
    Ok(())
}

fn tables_relation(connection: &Connection) -> rusqlite::Result<Option<catalog::Relation>> {
    let name = SqliteDialect.internal("tables");
    catalog::relation(connection, name.trim_matches('"'))
}

fn lease(connection: &Connection, sync: &str) -> rusqlite::Result<Option<Lease>> {
    connection.query_row(&SQL.look_at_lease(true), [sync], lease_of).optional()
}

fn lease_of(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease { owner: parsed(row, 1)?, renewed_at: Instant(row.get(2)?), released: row.get(3)? })
}

/// The state of a sync.
pub(crate) fn state(connection: &Connection, sync: &str) -> rusqlite::Result<State> {
    let mut state = State { lease: lease(connection, sync)?, ..State::default() };
    let mut statement = connection.prepare(&SQL.cursors())?;
    let mut rows = statement.query([sync])?;
    while let Some(row) = rows.next()? {
        let (namespace, name): (String, String) = (row.get(0)?, row.get(1)?);
        let partition: String = row.get(2)?;
        let key = key_from_columns(&namespace, &name, &partition);
        state.cursors.insert(key, Cursor(parsed(row, 3)?));
    }
    let present = tables_relation(connection)?;
    let has = |column: &str| present.as_ref().is_some_and(|p| p.declared(column).is_some());
    let mut statement = connection.prepare(&SQL.tables(has))?;
    let mut rows = statement.query([sync])?;
    while let Some(row) = rows.next()? {
        let (namespace, name): (String, String) = (row.get(0)?, row.get(1)?);
        let record = TableRecord {
            identity: row.get(2)?,
            columns: parsed(row, 3)?,
            rows_total: row.get::<_, i64>(4)?.unsigned_abs(),
            finished_epoch: row.get::<_, Option<i64>>(5)?.map(i64::unsigned_abs),
            finished_at: row.get::<_, Option<i64>>(6)?.map(Instant),
            generation: row.get::<_, i64>(7)?.unsigned_abs(),
            finished_generation: row.get::<_, Option<i64>>(8)?.map(i64::unsigned_abs),
            rebuild: row.get(9)?,
            swept_at: row.get::<_, Option<i64>>(10)?.map(Instant),
        };
        state.tables.insert(table_from_columns(&namespace, &name), record);
    }
    Ok(state)
}

/// JSON kept as text.
fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(at, kind, Box::new(error))
    })
}

/// Names and owners: plain data that always has a JSON form.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
