//! A COMMIT whose reply was lost: did it happen?
//!
//! The number of the commit is written in the transaction of the data. To read it, the older
//! session has to be over: it is ended, and the lease row that it may still hold is waited for.

use highwater_core::{Error, Fence, Result, TableName};
use highwater_sql::state::StateSql;
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::{self, get};
use crate::dialect::PostgresDialect;
use crate::session::Session;
use crate::store::{self, epoch};

const SQL: StateSql<'static> = StateSql(&PostgresDialect);

/// Whether an error of COMMIT leaves open what happened.
pub(crate) fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        None => true,
        // The server ended the session: before or after it committed.
        Some(db) => db.code().code().starts_with("57P"),
    }
}

/// Returns if the commit happened, else the error that it ended with.
///
/// # Errors
/// `lost` when the commit did not happen or cannot be found any more.
pub(crate) async fn find_out(
    session: &Session,
    backend: i32,
    fence: &Fence,
    writer: &str,
    sequence: i64,
    lost: Error,
) -> Result<()> {
    after(session, backend, fence).await?;
    let named: [(&(dyn ToSql + Sync), Type); 2] =
        [(&fence.sync, Type::TEXT), (&writer, Type::TEXT)];
    let rows = session.query_typed(&SQL.sequence(), &named).await;
    let rows = rows.map_err(|e| session.error("read the number of the commit", e))?;
    session.run("end the look-up", "COMMIT").await?;
    let found = match rows.first() {
        Some(row) => Some((get::<i64>(row, 0)?, get::<i64>(row, 1)?)),
        None => None,
    };
    if found == Some((epoch(fence), sequence)) { Ok(()) } else { Err(lost) }
}

/// Whether this run has finished the table: as [`find_out`], for the transaction of `finish`.
pub(crate) async fn is_finished(
    session: &Session,
    backend: i32,
    fence: &Fence,
    table: &TableName,
) -> Result<bool> {
    after(session, backend, fence).await?;
    let finished = store::finished_epoch(session, fence, table).await?;
    session.run("end the look-up", "COMMIT").await?;
    Ok(finished == Some(fence.epoch))
}

/// Opens a transaction that sees what became of the lost session's.
async fn after(session: &Session, backend: i32, fence: &Fence) -> Result<()> {
    let end = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
               WHERE pid = $1 AND application_name = pg_catalog.current_setting('application_name') \
               AND usename = current_user";
    catalog::rows(session, end, &[(&backend, Type::INT4)]).await?;
    session.run("begin", "BEGIN").await?;
    let named: [(&(dyn ToSql + Sync), Type); 1] = [(&fence.sync, Type::TEXT)];
    let held = session.query_typed(&SQL.look_at_lease(true), &named).await;
    held.map_err(|e| session.error("wait for the lost session", e))?;
    Ok(())
}
