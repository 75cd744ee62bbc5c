//! What a position covers is on the server's disk before the position is saved. A crash undoes what
//! is not, and the server gives the ids of those transactions out again: rows that get them would be
//! taken for old.

use std::time::Duration;

use highwater_core::{Error, Result};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalog::{get, rows};

/// Longer than the server needs without our help.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far the server's log is written. A standby has only what is on a disk.
const WRITTEN: &str = "
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
             AND pg_catalog.has_function_privilege(
                   'pg_catalog.pg_current_wal_insert_lsn()', 'EXECUTE')
             AND pg_catalog.has_function_privilege(
                   'pg_catalog.pg_current_wal_flush_lsn()', 'EXECUTE')
        THEN pg_catalog.pg_current_wal_insert_lsn()::text END";

const IS_FLUSHED: &str =
    "SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::text::pg_catalog.pg_lsn";

/// A place in the server's log; `None` where it has none that can be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Written(Option<String>);

/// How far the log is written: everything is that was visible before this call.
///
/// # Errors
/// As the server's.
pub(crate) async fn written(client: &Client) -> Result<Written> {
    let found = rows(client, WRITTEN, &[]).await?;
    found.first().map_or(Ok(Written(None)), |row| get(row, 0).map(Written))
}

/// Waits until the log up to there is on the server's disk. `in_transaction`: one is open in
/// `client`, and it may last longer.
///
/// # Errors
/// `Transient` when the server does not write its log; else as its own.
pub(crate) async fn wait(client: &Client, written: &Written, in_transaction: bool) -> Result<()> {
    if is_flushed(client, written).await? {
        return Ok(());
    }
    if !in_transaction {
        // The server brings its log to the disk up to the last end of a transaction, in 0.2 s with
        // its defaults; what queries write behind that waits for the next one, which is this.
        rows(client, "SELECT pg_catalog.txid_current()", &[]).await?;
    }
    let flushed = async {
        while !is_flushed(client, written).await? {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, flushed).await.unwrap_or_else(|_| {
        Err(Error::transient("The server does not write its log to its disk")
            .hint("run the same command again; look at the server's log"))
    })
}

/// Whether the log up to there is on the server's disk.
///
/// # Errors
/// As the server's.
pub(crate) async fn is_flushed(client: &Client, written: &Written) -> Result<bool> {
    let Written(Some(written)) = written else { return Ok(true) };
    let found = rows(client, IS_FLUSHED, &[(written, Type::TEXT)]).await?;
    found.first().map_or(Ok(true), |row| get(row, 0))
}
