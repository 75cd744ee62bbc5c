//! State in the same file as the data: the tables of `connectors/sql` in the schema `_highwater`.
//!
//! A DuckDB file has one writing process, and inside it transactions that write take turns
//! ([`super::database`]), so the lease that was looked at in a transaction is held until its end. A
//! run that is stopped keeps the file: other processes get a `Transient` error, never its place.

use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Cursor, CursorKey, Error, ErrorKind, Fence, Instant, Lease, LeaseRequest, Result,
    State, StateStore, TableName, TableRecord,
};
use highwater_sql::Dialect;
use highwater_sql::blocking::blocking;
use highwater_sql::state::{
    StateSql, fenced, key_columns, key_from_columns, table_columns, table_from_columns,
};

use super::catalog::{self, number, text};
use super::dialect::{DuckDbDialect, STATE_SCHEMA};
use super::file::File;
use super::rebuild;
use crate::session::{Session, parameters};

const SQL: StateSql<'static> = StateSql(&DuckDbDialect);

/// A renewal does not wait long for its turn: the next one comes soon.
const RENEWAL_PATIENCE: Duration = Duration::from_millis(200);

/// State in one database file.
pub(crate) struct DuckDbStore {
    file: File,
}

impl DuckDbStore {
    pub(crate) fn new(file: File) -> Self {
        Self { file }
    }

    /// Runs `work` in a transaction that excludes all other writers, under the fence.
    async fn fenced<T: Send + 'static>(
        &self,
        fence: &Fence,
        work: impl FnOnce(&mut Session, &Fence) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (fence, file) = (fence.clone(), self.file.clone());
        blocking(move || {
            let mut transaction = file.begin()?;
            if !holds(&mut transaction.session, &fence)? {
                return Err(fenced(&fence));
            }
            let result = work(&mut transaction.session, &fence)?;
            transaction.commit()?;
            Ok(result)
        })
        .await
    }

    /// Looks without changing anything; `None` where there is no state.
    async fn looking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let file = self.file.clone();
        blocking(move || {
            let Some(mut session) = file.look()? else { return Ok(None) };
            session.run("BEGIN TRANSACTION")?;
            if state_table(&mut session, "lease")?.is_none() {
                return Ok(None);
            }
            work(&mut session).map(Some)
        })
        .await
    }
}

#[async_trait]
impl StateStore for DuckDbStore {
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State> {
        let (sync, request, file) = (sync.to_owned(), request.clone(), self.file.clone());
        let state = blocking(move || {
            let mut transaction = file.begin()?;
            let session = &mut transaction.session;
            let schema = DuckDbDialect.quote(STATE_SCHEMA);
            session.run(&format!("CREATE SCHEMA IF NOT EXISTS {schema}"))?;
            for statement in SQL.create() {
                session.run(&statement)?;
            }
            upgrade(session)?;
            let now = Instant::now();
            let held = lease(session, &sync)?;
            request.may_take(&sync, held.as_ref(), now)?;
            let owner = json(&request.owner);
            let taken = session.fetch(&SQL.take_lease(), parameters![&sync, owner, now.0])?;
            let epoch = number(&taken, 0, 0)
                .ok_or_else(|| Error::internal("The lease was taken without a number"))?;
            session.change(&SQL.forget_sequences(), parameters![&sync, epoch])?;
            let mut state = state(session, &sync)?;
            rebuild::drop_leftovers(session, &sync, &state)?;
            transaction.commit()?;
            state.fence = Some(Fence { sync, epoch: epoch.unsigned_abs() });
            Ok(state)
        })
        .await?;
        crash::at(CrashPoint::LeaseTaken);
        Ok(state)
    }

    async fn renew(&self, fence: &Fence) -> Result<()> {
        let (wanted, file) = (fence.clone(), self.file.clone());
        let renewed = blocking(move || {
            let mut transaction = file.begin_within(RENEWAL_PATIENCE)?;
            let parameters = parameters![&wanted.sync, signed(wanted.epoch), Instant::now().0];
            match transaction.session.change(&SQL.renew_lease(), parameters)? {
                0 => Err(fenced(&wanted)),
                _ => transaction.commit(),
            }
        });
        match renewed.await {
            // Our own transaction, which is a sign of life itself: nobody can take the lease while
            // it lasts, and its commit renews it.
            Err(error) if error.kind() == ErrorKind::Transient => Ok(()),
            other => other,
        }
    }

    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let checkpoint = checkpoint.clone();
        self.fenced(fence, move |session, fence| save_cursors(session, fence, &checkpoint)).await
    }

    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()> {
        let (table, record) = (table.clone(), record.clone());
        self.fenced(fence, move |session, fence| save_record(session, fence, &table, &record)).await
    }

    async fn release(&self, fence: &Fence) -> Result<()> {
        let (fence, file) = (fence.clone(), self.file.clone());
        blocking(move || {
            let mut transaction = file.begin()?;
            let parameters = parameters![&fence.sync, signed(fence.epoch)];
            transaction.session.change(&SQL.release_lease(), parameters)?;
            transaction.commit()
        })
        .await
    }

    async fn look(&self, sync: &str) -> Result<State> {
        let sync = sync.to_owned();
        let state = self.looking(move |session| state(session, &sync)).await?;
        Ok(state.unwrap_or_default())
    }

    async fn list(&self) -> Result<Vec<String>> {
        let names = self.looking(|session| {
            let rows = session.fetch(&SQL.list(), &[])?;
            Ok((0..rows.num_rows()).filter_map(|row| text(&rows, 0, row)).collect())
        });
        Ok(names.await?.unwrap_or_default())
    }

    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()> {
        let (key, cursor) = (key.clone(), cursor.cloned());
        self.fenced(fence, move |session, fence| {
            if let Some(Cursor(value)) = cursor {
                return save_cursors(session, fence, &Checkpoint::of(key, value));
            }
            let [namespace, name, partition] = key_columns(&key);
            let parameters = parameters![&fence.sync, namespace, name, partition];
            session.change(&SQL.forget_cursor(), parameters)?;
            session.change(&SQL.forget_table(), parameters![&fence.sync, namespace, name])?;
            Ok(())
        })
        .await
    }

    async fn refresh(&self, fence: &Fence, table: &TableName, rebuild: bool) -> Result<()> {
        let table = table.clone();
        self.fenced(fence, move |session, fence| {
            let (namespace, name) = table_columns(&table);
            let sync = &fence.sync;
            session.change(&SQL.forget_cursors(), parameters![sync, namespace, name])?;
            let parameters = parameters![sync, namespace, name, i64::from(rebuild)];
            session.change(&SQL.next_generation(), parameters)?;
            Ok(())
        })
        .await
    }
}

/// Whether the run may still commit, seen from inside a transaction that excludes other writers.
pub(crate) fn holds(session: &mut Session, fence: &Fence) -> Result<bool> {
    let parameters = parameters![&fence.sync, signed(fence.epoch)];
    match session.fetch(&SQL.check_fence(), parameters) {
        Ok(found) => Ok(found.num_rows() > 0),
        // Somebody removed the state: nobody has the right to commit any more.
        Err(error) if error.kind() == ErrorKind::Schema => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renews the lease inside the transaction of a commit.
pub(crate) fn renew(session: &mut Session, fence: &Fence) -> Result<()> {
    let parameters = parameters![&fence.sync, signed(fence.epoch), Instant::now().0];
    session.change(&SQL.renew_lease(), parameters).map(drop)
}

/// Writes cursors in the open transaction.
pub(crate) fn save_cursors(
    session: &mut Session,
    fence: &Fence,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let (epoch, now) = (signed(fence.epoch), Instant::now().0);
    for (key, Cursor(position)) in &checkpoint.cursors {
        let [namespace, name, partition] = key_columns(key);
        let position = position.to_string();
        let parameters = parameters![&fence.sync, namespace, name, partition, position, epoch, now];
        session.change(&SQL.save_cursor(), parameters)?;
    }
    Ok(())
}

/// Writes what is remembered of a table in the open transaction; `rows_total` is added to what is
/// there.
pub(crate) fn save_record(
    session: &mut Session,
    fence: &Fence,
    table: &TableName,
    record: &TableRecord,
) -> Result<()> {
    let (namespace, name) = table_columns(table);
    let columns = json(&record.columns);
    let (rows, generation) = (signed(record.rows_total), signed(record.generation));
    let (sync, identity) = (&fence.sync, record.identity.as_deref());
    let rebuild = i64::from(record.rebuild);
    let parameters =
        parameters![sync, namespace, name, identity, columns, rows, generation, rebuild];
    session.change(&SQL.save_table(), parameters)?;
    if let (Some(epoch), Some(at)) = (record.finished_epoch, record.finished_at) {
        let generation = record.finished_generation.map(signed);
        let swept = record.swept_at.map(|at| at.0);
        let parameters = parameters![sync, namespace, name, signed(epoch), at.0, generation, swept];
        session.change(&SQL.finish_table(), parameters)?;
        let position = parameters![sync, namespace, name, FULL_REFRESH];
        session.change(&SQL.forget_cursor(), position)?;
    }
    Ok(())
}

/// The run that finished a table last.
pub(crate) fn finished_epoch(
    session: &mut Session,
    fence: &Fence,
    table: &TableName,
) -> Result<Option<u64>> {
    let (namespace, name) = table_columns(table);
    let parameters = parameters![&fence.sync, namespace, name];
    let found = session.fetch(&SQL.finished_epoch(), parameters)?;
    Ok((found.num_rows() > 0).then(|| number(&found, 0, 0)).flatten().map(i64::unsigned_abs))
}

/// Forgets the cursors and the record of a table in the open transaction.
pub(crate) fn forget(session: &mut Session, fence: &Fence, table: &TableName) -> Result<()> {
    let (namespace, name) = table_columns(table);
    session.change(&SQL.forget_cursors(), parameters![&fence.sync, namespace, name])?;
    session.change(&SQL.forget_table(), parameters![&fence.sync, namespace, name])?;
    Ok(())
}

/// How many rows of a table this sync has committed: the arrival order of the next one.
pub(crate) fn rows_total(session: &mut Session, fence: &Fence, table: &TableName) -> Result<i64> {
    let (namespace, name) = table_columns(table);
    let total = session.fetch(&SQL.rows_total(), parameters![&fence.sync, namespace, name])?;
    Ok((total.num_rows() > 0).then(|| number(&total, 0, 0)).flatten().unwrap_or(0))
}

/// Writes the next number of a writer's dense sequence.
pub(crate) fn next_sequence(session: &mut Session, fence: &Fence, writer: &str) -> Result<()> {
    let epoch = signed(fence.epoch);
    let before = session.fetch(&SQL.sequence(), parameters![&fence.sync, writer])?;
    let of_run = before.num_rows() > 0 && number(&before, 0, 0) == Some(epoch);
    let next = if of_run { number(&before, 1, 0).unwrap_or(0) + 1 } else { 1 };
    session.change(&SQL.save_sequence(), parameters![&fence.sync, writer, epoch, next]).map(drop)
}

fn state_table(session: &mut Session, name: &str) -> Result<Option<catalog::Relation>> {
    catalog::relation(session, &TableName::in_namespace(STATE_SCHEMA, name))
}

/// Gives a state that an older version made the columns of this one.
fn upgrade(session: &mut Session) -> Result<()> {
    let Some(present) = state_table(session, "tables")? else { return Ok(()) };
    for (column, statement) in SQL.upgrade() {
        if present.column(column).is_none() {
            session.run(&statement)?;
        }
    }
    Ok(())
}

fn lease(session: &mut Session, sync: &str) -> Result<Option<Lease>> {
    let found = session.fetch(&SQL.look_at_lease(true), parameters![sync])?;
    if found.num_rows() == 0 {
        return Ok(None);
    }
    Ok(Some(Lease {
        owner: parsed(&found, 1, 0)?,
        renewed_at: Instant(number(&found, 2, 0).unwrap_or(0)),
        released: number(&found, 3, 0).unwrap_or(0) != 0,
    }))
}

/// The state of a sync.
pub(crate) fn state(session: &mut Session, sync: &str) -> Result<State> {
    let mut state = State { lease: lease(session, sync)?, ..State::default() };
    let cursors = session.fetch(&SQL.cursors(), parameters![sync])?;
    let word = |rows: &RecordBatch, at, row| text(rows, at, row).unwrap_or_default();
    for row in 0..cursors.num_rows() {
        let (namespace, name) = (word(&cursors, 0, row), word(&cursors, 1, row));
        let key = key_from_columns(&namespace, &name, &word(&cursors, 2, row));
        state.cursors.insert(key, Cursor(parsed(&cursors, 3, row)?));
    }
    let present = state_table(session, "tables")?;
    let has = |column: &str| present.as_ref().is_some_and(|p| p.column(column).is_some());
    let tables = session.fetch(&SQL.tables(has), parameters![sync])?;
    for row in 0..tables.num_rows() {
        let count = |at| number(&tables, at, row).map(i64::unsigned_abs);
        let record = TableRecord {
            identity: text(&tables, 2, row),
            columns: parsed(&tables, 3, row)?,
            rows_total: count(4).unwrap_or(0),
            finished_epoch: count(5),
            finished_at: number(&tables, 6, row).map(Instant),
            generation: count(7).unwrap_or(0),
            finished_generation: count(8),
            rebuild: count(9).unwrap_or(0) != 0,
            swept_at: number(&tables, 10, row).map(Instant),
        };
        let table = table_from_columns(&word(&tables, 0, row), &word(&tables, 1, row));
        state.tables.insert(table, record);
    }
    Ok(state)
}

/// JSON kept as text.
fn parsed<T: serde::de::DeserializeOwned>(
    rows: &RecordBatch,
    column: usize,
    row: usize,
) -> Result<T> {
    let text = text(rows, column, row).unwrap_or_default();
    serde_json::from_str(&text).map_err(|error| {
        Error::internal("The state has a value that cannot be read").caused_by(error)
    })
}

/// Names and owners: plain data that always has a JSON form.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
