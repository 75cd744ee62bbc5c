//! State in PostgreSQL: the tables of `connectors/sql` in the schema `_highwater`.
//!
//! Every method is one transaction. The lease row is the fence: a writer share-locks it from its
//! check to its COMMIT, so that a take-over waits for a commit in progress. A run that was stopped
//! in the middle of a commit would hold that lock for ever; whoever may take the lease over ends
//! the sessions of the older run first.

use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Cursor, CursorKey, Error, ErrorKind, Fence, Instant, Lease, LeaseRequest, Result,
    State, StateStore, TableName, TableRecord,
};
use highwater_sql::Dialect;
use highwater_sql::state::{StateSql, fenced, key_columns, key_from_columns};
use highwater_sql::state::{table_columns, table_from_columns};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::get;
use crate::changes;
use crate::dialect::{PostgresDialect, STATE_SCHEMA};
use crate::rebuild;
use crate::session::{Session, literal};
use crate::target::Connector;
use crate::writer::check_fence;

const SQL: StateSql<'static> = StateSql(&PostgresDialect);

/// Two runs that create the state tables at the same time do so one after the other.
const CREATION_LOCK: i64 = 0x6869_6768_7761_7465;

/// The clock of the server, which all runs share, in microseconds since 1970.
const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// A parameter with its type: so a statement need not be prepared first.
type Typed<'a> = (&'a (dyn ToSql + Sync), Type);

/// State in one database.
pub(crate) struct PostgresStore {
    connector: Connector,
}

/// An open transaction; dropping it without a commit closes the session.
struct Transaction {
    session: Session,
}

impl Transaction {
    async fn rows(&self, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>> {
        let rows = self.session.query_typed(sql, parameters).await;
        rows.map_err(|e| self.session.error("read the state", e))
    }

    async fn run(&self, sql: &str, parameters: &[Typed<'_>]) -> Result<u64> {
        let changed = self.session.execute_typed(sql, parameters).await;
        changed.map_err(|e| self.session.error("write the state", e))
    }

    /// # Errors
    /// `Fenced` when a newer run holds the lease.
    async fn check_fence(&self, fence: &Fence) -> Result<()> {
        check_fence(&self.session, fence).await
    }

    async fn now(&self) -> Result<Instant> {
        now(&self.session).await
    }

    async fn commit(self) -> Result<()> {
        self.session.run("commit the state", "COMMIT").await?;
        self.session.give_back();
        Ok(())
    }
}

impl PostgresStore {
    pub(crate) fn new(connector: Connector) -> Self {
        Self { connector }
    }

    async fn begin(&self) -> Result<Transaction> {
        let session = self.connector.session().await?;
        session.run("begin", "BEGIN").await?;
        Ok(Transaction { session })
    }

    /// The columns of `tables`, as they are: an older version made fewer. `None` when there is no
    /// state in this database.
    async fn columns(session: &Session) -> Result<Option<Vec<String>>> {
        let of = |table| literal(&PostgresDialect.internal(table));
        let statement = format!(
            "SELECT pg_catalog.to_regclass({}) IS NOT NULL, \
             ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute \
                   WHERE attrelid = pg_catalog.to_regclass({}) AND attnum > 0 AND NOT attisdropped)",
            of("lease"),
            of("tables"),
        );
        let rows = session.query_typed(&statement, &[]).await;
        let rows = rows.map_err(|e| session.error("read the state", e))?;
        let Some(row) = rows.first() else { return Ok(None) };
        if get(row, 0)? { get(row, 1).map(Some) } else { Ok(None) }
    }

    /// A transaction, or `None` when there is no state in this database.
    async fn begin_if_exists(&self) -> Result<Option<Transaction>> {
        let transaction = self.begin().await?;
        let lease = literal(&PostgresDialect.internal("lease"));
        let rows =
            transaction.rows(&format!("SELECT to_regclass({lease}) IS NOT NULL"), &[]).await?;
        let exists = rows.first().map_or(Ok(false), |row| get(row, 0))?;
        if exists {
            return Ok(Some(transaction));
        }
        transaction.commit().await?;
        Ok(None)
    }

    /// Makes the state tables, or gives those of an older version what they lack.
    async fn create(&self, session: &Session) -> Result<()> {
        if let Some(present) = Self::columns(session).await? {
            return if is_complete(&present) { Ok(()) } else { self.upgrade().await };
        }
        let transaction = self.begin_creation().await?;
        changes::make_schema(&transaction.session, STATE_SCHEMA).await?;
        let statements = SQL.create().join("; ");
        transaction.session.run("create the state tables", &statements).await?;
        transaction.commit().await
    }

    /// A transaction in which nobody else creates or upgrades the state tables.
    async fn begin_creation(&self) -> Result<Transaction> {
        let transaction = self.begin().await?;
        let lock = format!("SELECT pg_advisory_xact_lock({CREATION_LOCK})");
        transaction.session.run("create the state tables", &lock).await?;
        Ok(transaction)
    }

    async fn upgrade(&self) -> Result<()> {
        let transaction = self.begin_creation().await?;
        let present = Self::columns(&transaction.session).await?.unwrap_or_default();
        let missing = SQL.upgrade().into_iter().filter(|(column, _)| !has(&present, column));
        let statements = missing.map(|(_, statement)| statement).collect::<Vec<_>>().join("; ");
        let upgraded = transaction.session.run("upgrade the state tables", &statements).await;
        upgraded.map_err(|error| match error.kind() {
            ErrorKind::Config => error.hint(format!("as their owner: {statements}")),
            _ => error,
        })?;
        transaction.commit().await
    }

    /// Refuses to take the place of a run that is in the middle of a commit: its lease cannot be
    /// renewed while that lasts. A session that waits for its client is none: that may be stopped.
    ///
    /// # Errors
    /// `Fenced` when the server is at work for an older run.
    async fn check_idle(session: &Session, sync: &str, held: &Lease) -> Result<()> {
        let pattern = format!("{}%", writer_name_prefix(sync));
        let sql = "SELECT 1 FROM pg_stat_activity \
                   WHERE application_name LIKE $1 AND pid <> pg_backend_pid() \
                   AND datname = current_database() AND usename = current_user \
                   AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Client' LIMIT 1";
        let rows = session.query_typed(sql, &[(&pattern, Type::TEXT)]).await;
        if rows.map_err(|e| session.error("look for the other run", e))?.is_empty() {
            return Ok(());
        }
        Err(Error::fenced("Another run of this sync is in the middle of a commit")
            .context("sync", sync)
            .context("host", &held.owner.host)
            .context("pid", held.owner.pid)
            .hint("wait until it has ended; `--take-over` ends its right to commit now"))
    }

    /// Ends the sessions of older runs: the lease may be taken, so they may not commit any more.
    /// Where this role may not, their locks time out.
    async fn end_older_sessions(session: &Session, sync: &str) -> Result<()> {
        let pattern = format!("{}%", writer_name_prefix(sync));
        // By the function behind `pg_stat_activity`: to plan the view costs more than to look.
        let sql = "SELECT pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_get_activity(NULL) a \
                   WHERE a.application_name LIKE $1 AND a.pid <> pg_backend_pid() \
                   AND a.datid = (SELECT oid FROM pg_catalog.pg_database \
                                  WHERE datname = current_database()) \
                   AND a.usesysid = (SELECT oid FROM pg_catalog.pg_roles \
                                     WHERE rolname = current_user)";
        let ended = session.query_typed(sql, &[(&pattern, Type::TEXT)]).await;
        ended.map(drop).map_err(|e| session.error("end older sessions", e))
    }
}

#[async_trait]
impl StateStore for PostgresStore {
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State> {
        let session = self.connector.session().await?;
        self.create(&session).await?;
        // First without a lock: a commit of the run that holds the lease may go on for long.
        if let (Some(held), now) = lease_at(&session, sync, false).await? {
            request.may_take(sync, Some(&held), now)?;
            let is_over = held.released || held.owner.is_alive() == Some(false);
            if !is_over && !request.take_over {
                Self::check_idle(&session, sync, &held).await?;
            }
            Self::end_older_sessions(&session, sync).await?;
        }
        let transaction = Transaction { session };
        // Both on the way at once, in this order.
        let ((), (held, now)) = tokio::try_join!(
            biased;
            transaction.session.run("begin", "BEGIN"),
            lease_at(&transaction.session, sync, true),
        )?;
        request.may_take(sync, held.as_ref(), now)?;
        let owner = text(&request.owner)?;
        let taken: [Typed<'_>; 3] =
            [(&sync, Type::TEXT), (&owner, Type::TEXT), (&now.0, Type::INT8)];
        let rows = transaction.rows(&SQL.take_lease(), &taken).await?;
        let Some(row) = rows.first() else {
            return Err(Error::internal("Taking the lease returned no row").context("sync", sync));
        };
        let epoch: i64 = get(row, 0)?;
        let older: [Typed<'_>; 2] = [(&sync, Type::TEXT), (&epoch, Type::INT8)];
        let forget = SQL.forget_sequences();
        // Every column is there: see `create`.
        let (_, mut state) = tokio::try_join!(
            biased;
            transaction.run(&forget, &older),
            state_of(&transaction.session, sync, |_| true),
        )?;
        state.lease =
            Some(Lease { owner: request.owner.clone(), renewed_at: now, released: false });
        rebuild::drop_leftovers(&transaction.session, sync, &state).await?;
        transaction.commit().await?;
        crash::at(CrashPoint::LeaseTaken);
        state.fence = Some(Fence { sync: sync.to_owned(), epoch: unsigned(epoch) });
        Ok(state)
    }

    async fn renew(&self, fence: &Fence) -> Result<()> {
        let transaction = self.begin().await?;
        let now = transaction.now().await?;
        let epoch = epoch(fence);
        let renewed: [Typed<'_>; 3] =
            [(&fence.sync, Type::TEXT), (&epoch, Type::INT8), (&now.0, Type::INT8)];
        let changed = transaction.session.execute_typed(&SQL.renew_lease(), &renewed).await;
        match changed {
            Ok(0) => Err(fenced(fence)),
            Ok(_) => transaction.commit().await,
            // Our own commit holds the row: a sign of life comes with it.
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(()),
            Err(error) => Err(transaction.session.error("renew the lease", error)),
        }
    }

    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let transaction = self.begin().await?;
        transaction.check_fence(fence).await?;
        save_cursors(&transaction.session, fence, checkpoint).await?;
        transaction.commit().await
    }

    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()> {
        let transaction = self.begin().await?;
        transaction.check_fence(fence).await?;
        save_record(&transaction.session, fence, table, record).await?;
        transaction.commit().await
    }

    async fn release(&self, fence: &Fence) -> Result<()> {
        let session = self.connector.session().await?;
        let epoch = epoch(fence);
        let own: [Typed<'_>; 2] = [(&fence.sync, Type::TEXT), (&epoch, Type::INT8)];
        // One statement is a transaction.
        let released = session.execute_typed(&SQL.release_lease(), &own).await;
        released.map_err(|e| session.error("give the lease back", e))?;
        session.give_back();
        Ok(())
    }

    async fn look(&self, sync: &str) -> Result<State> {
        let Some(transaction) = self.begin_if_exists().await? else {
            return Ok(State::default());
        };
        let state = state(&transaction.session, sync).await?;
        transaction.commit().await?;
        Ok(state)
    }

    async fn list(&self) -> Result<Vec<String>> {
        let Some(transaction) = self.begin_if_exists().await? else { return Ok(Vec::new()) };
        let rows = transaction.rows(&SQL.list(), &[]).await?;
        let names = rows.iter().map(|row| get(row, 0)).collect::<Result<_>>()?;
        transaction.commit().await?;
        Ok(names)
    }

    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()> {
        let transaction = self.begin().await?;
        transaction.check_fence(fence).await?;
        if let Some(cursor) = cursor {
            let checkpoint = Checkpoint::of(key.clone(), cursor.0.clone());
            save_cursors(&transaction.session, fence, &checkpoint).await?;
        } else {
            let [namespace, name, partition] = key_columns(key);
            let cursor = texts([&fence.sync, &namespace, &name, &partition]);
            transaction.run(&SQL.forget_cursor(), &cursor).await?;
            let table = texts([&fence.sync, &namespace, &name]);
            transaction.run(&SQL.forget_table(), &table).await?;
        }
        transaction.commit().await
    }

    async fn refresh(&self, fence: &Fence, table: &TableName, rebuild: bool) -> Result<()> {
        let transaction = self.begin().await?;
        transaction.check_fence(fence).await?;
        let (namespace, name) = table_columns(table);
        let rebuild = i16::from(rebuild);
        let [sync, namespace, name] = texts([&fence.sync, &namespace, &name]);
        let table = [sync.clone(), namespace.clone(), name.clone()];
        transaction.run(&SQL.forget_cursors(), &table).await?;
        let anew: [Typed<'_>; 4] = [sync, namespace, name, (&rebuild, Type::INT2)];
        transaction.run(&SQL.next_generation(), &anew).await?;
        transaction.commit().await
    }
}

/// Writes cursors in the session's open transaction.
pub(crate) async fn save_cursors(
    session: &Session,
    fence: &Fence,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let sql = SQL.save_cursor();
    let (now, epoch) = (Instant::now().0, epoch(fence));
    for (key, cursor) in &checkpoint.cursors {
        let [namespace, name, partition] = key_columns(key);
        let position = cursor.0.to_string();
        let [p1, p2, p3, p4, p5] = texts([&fence.sync, &namespace, &name, &partition, &position]);
        let parameters: [Typed<'_>; 7] =
            [p1, p2, p3, p4, p5, (&epoch, Type::INT8), (&now, Type::INT8)];
        session
            .execute_typed(&sql, &parameters)
            .await
            .map_err(|e| session.error("save the cursor", e))?;
    }
    Ok(())
}

/// Writes what is remembered of a table in the session's open transaction; `rows_total` is added
/// to what is there. A table that is finished has no position of a full refresh any more.
pub(crate) async fn save_record(
    session: &Session,
    fence: &Fence,
    table: &TableName,
    record: &TableRecord,
) -> Result<()> {
    let (namespace, name) = table_columns(table);
    let columns = text(&record.columns)?;
    let (rows, generation) = (signed(record.rows_total), signed(record.generation));
    let rebuild = i16::from(record.rebuild);
    let failed = |e| session.error("save the table's record", e);
    let [sync, space, table, identity, columns] =
        texts([&fence.sync, &namespace, &name, &record.identity, &columns]);
    let saved: [Typed<'_>; 8] = [
        sync.clone(),
        space.clone(),
        table.clone(),
        identity,
        columns,
        (&rows, Type::INT8),
        (&generation, Type::INT8),
        (&rebuild, Type::INT2),
    ];
    let save = SQL.save_table();
    let save = session.execute_typed(&save, &saved);
    let (Some(epoch), Some(at)) = (record.finished_epoch, record.finished_at) else {
        return save.await.map(drop).map_err(failed);
    };
    let (epoch, swept) = (signed(epoch), record.swept_at.map(|at| at.0));
    let generation = record.finished_generation.map(signed);
    let finished: [Typed<'_>; 7] = [
        sync.clone(),
        space.clone(),
        table.clone(),
        (&epoch, Type::INT8),
        (&at.0, Type::INT8),
        (&generation, Type::INT8),
        (&swept, Type::INT8),
    ];
    let position: [Typed<'_>; 4] = [sync, space, table, (&FULL_REFRESH, Type::TEXT)];
    let (finish, forget) = (SQL.finish_table(), SQL.forget_cursor());
    // All on the way at once, in this order.
    let sent = tokio::try_join!(
        biased;
        save,
        session.execute_typed(&finish, &finished),
        session.execute_typed(&forget, &position),
    );
    sent.map(drop).map_err(failed)
}

/// Forgets the cursors and the record of a table in the session's open transaction.
pub(crate) async fn forget(session: &Session, fence: &Fence, table: &TableName) -> Result<()> {
    let (namespace, name) = table_columns(table);
    let parameters = texts([&fence.sync, &namespace, &name]);
    for statement in [SQL.forget_cursors(), SQL.forget_table()] {
        let forgotten = session.execute_typed(&statement, &parameters).await;
        forgotten.map_err(|e| session.error("forget the table", e))?;
    }
    Ok(())
}

/// The run that last finished a table, seen in the session's open transaction.
pub(crate) async fn finished_epoch(
    session: &Session,
    fence: &Fence,
    table: &TableName,
) -> Result<Option<u64>> {
    let (namespace, name) = table_columns(table);
    let parameters = texts([&fence.sync, &namespace, &name]);
    let rows = session.query_typed(&SQL.finished_epoch(), &parameters).await;
    let rows = rows.map_err(|e| session.error("read the table's record", e))?;
    let found = rows.first().map(|row| get::<Option<i64>>(row, 0)).transpose()?.flatten();
    Ok(found.map(unsigned))
}

/// The state of a sync, without its fence.
///
/// # Errors
/// As the server's.
pub(crate) async fn state(session: &Session, sync: &str) -> Result<State> {
    let lease = lease_of(session, sync).await?;
    let present = PostgresStore::columns(session).await?.unwrap_or_default();
    let state = state_of(session, sync, |column| has(&present, column)).await?;
    Ok(State { lease, ..state })
}

/// Cursors and records of a sync; `present` says which columns of [`StateSql::upgrade`] are there.
async fn state_of(session: &Session, sync: &str, present: impl Fn(&str) -> bool) -> Result<State> {
    let failed = |error| session.error("read the state", error);
    let mut state = State::default();
    let named: [Typed<'_>; 1] = [(&sync, Type::TEXT)];
    let (cursors, tables) = (SQL.cursors(), SQL.tables(present));
    let found = tokio::try_join!(
        biased;
        session.query_typed(&cursors, &named),
        session.query_typed(&tables, &named),
    );
    let (cursors, tables) = found.map_err(failed)?;
    for row in cursors {
        let (namespace, name, partition, position): (String, String, String, String) =
            (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?, get(&row, 3)?);
        let key = key_from_columns(&namespace, &name, &partition);
        state.cursors.insert(key, Cursor(parse(&position)?));
    }
    for row in tables {
        let (table, record) = record(&row)?;
        state.tables.insert(table, record);
    }
    Ok(state)
}

/// Who holds the lease, looked at without a lock.
async fn lease_of(session: &Session, sync: &str) -> Result<Option<Lease>> {
    let rows = session.query_typed(&SQL.look_at_lease(false), &[(&sync, Type::TEXT)]).await;
    let rows = rows.map_err(|e| session.error("read the state", e))?;
    rows.first().map(lease).transpose()
}

/// Who holds the lease, and the time at which that was found. `locked`: nobody else may take it
/// until the transaction ends.
async fn lease_at(session: &Session, sync: &str, locked: bool) -> Result<(Option<Lease>, Instant)> {
    let statement = format!("SELECT l.*, {CLOCK} FROM ({}) AS l", SQL.look_at_lease(locked));
    let rows = session.query_typed(&statement, &[(&sync, Type::TEXT)]).await;
    let rows = rows.map_err(|e| session.error("read the state", e))?;
    match rows.first() {
        Some(row) => Ok((Some(lease(row)?), Instant(get(row, 4)?))),
        None => Ok((None, now(session).await?)),
    }
}

/// The time by the clock of the server, which all runs share.
async fn now(session: &Session) -> Result<Instant> {
    let rows = session.query_typed(&format!("SELECT {CLOCK}"), &[]).await;
    let rows = rows.map_err(|e| session.error("read the clock", e))?;
    rows.first().map_or(Ok(Instant::now()), |row| Ok(Instant(get(row, 0)?)))
}

/// Parameters that are texts.
fn texts<'a, const N: usize>(values: [&'a (dyn ToSql + Sync); N]) -> [Typed<'a>; N] {
    values.map(|value| (value, Type::TEXT))
}

/// Whether the state tables have all columns.
fn is_complete(present: &[String]) -> bool {
    SQL.upgrade().iter().all(|(column, _)| has(present, column))
}

fn has(columns: &[String], column: &str) -> bool {
    columns.iter().any(|present| present == column)
}

/// A row of `tables`.
fn record(row: &Row) -> Result<(TableName, TableRecord)> {
    let columns: &str = get(row, 3)?;
    let record = TableRecord {
        identity: get(row, 2)?,
        columns: parse(columns)?,
        rows_total: unsigned(get(row, 4)?),
        finished_epoch: get::<Option<i64>>(row, 5)?.map(unsigned),
        finished_at: get::<Option<i64>>(row, 6)?.map(Instant),
        generation: unsigned(get(row, 7)?),
        finished_generation: get::<Option<i64>>(row, 8)?.map(unsigned),
        rebuild: get::<i16>(row, 9)? != 0,
        swept_at: get::<Option<i64>>(row, 10)?.map(Instant),
    };
    Ok((table_from_columns(get(row, 0)?, get(row, 1)?), record))
}

/// The `application_name` of a session that writes under this fence: a newer run finds it by the
/// prefix and ends it.
pub(crate) fn writer_name(fence: &Fence) -> String {
    format!("{}{}", writer_name_prefix(&fence.sync), fence.epoch)
}

/// At most 63 bytes are kept of an application name, so the sync is in it as a hash.
fn writer_name_prefix(sync: &str) -> String {
    format!("highwater {:016x} ", xxhash_rust::xxh3::xxh3_64(sync.as_bytes()))
}

/// The epoch as PostgreSQL stores it.
pub(crate) fn epoch(fence: &Fence) -> i64 {
    signed(fence.epoch)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::internal("The state cannot be written as JSON").caused_by(e))
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| {
        Error::internal("The state tables hold something that is no state").caused_by(e)
    })
}

fn lease(row: &Row) -> Result<Lease> {
    Ok(Lease {
        owner: parse(&get::<String>(row, 1)?)?,
        renewed_at: Instant(get(row, 2)?),
        released: get::<i16>(row, 3)? != 0,
    })
}
