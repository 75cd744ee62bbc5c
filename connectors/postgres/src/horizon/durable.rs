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

/// What is written of the server's log, and whether it is on the disk. A standby has only what is.
const WRITTEN: &str = "
SELECT log::text, CASE WHEN log IS NULL THEN true
                       ELSE pg_catalog.pg_current_wal_flush_lsn() >= log END
FROM (SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
                   AND pg_catalog.has_function_privilege(
                         'pg_catalog.pg_current_wal_insert_lsn()', 'EXECUTE')
                   AND pg_catalog.has_function_privilege(
                         'pg_catalog.pg_current_wal_flush_lsn()', 'EXECUTE')
              THEN pg_catalog.pg_current_wal_insert_lsn() END AS log OFFSET 0) AS written";

const IS_FLUSHED: &str =
    "SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::text::pg_catalog.pg_lsn";

/// Waits until everything that was visible before this call is on the server's disk.
/// `in_transaction`: one is open in `client`, and it may last longer.
///
/// # Errors
/// `Transient` when the server does not write its log; else as its own.
pub(crate) async fn wait(client: &Client, in_transaction: bool) -> Result<()> {
    let found = rows(client, WRITTEN, &[]).await?;
    let row = found.first().ok_or_else(|| Error::internal("The server's log is nowhere"))?;
    if get(row, 1)? {
        return Ok(());
    }
    let written: String = get(row, 0)?;
    if !in_transaction {
        // The server brings its log to the disk up to the last end of a transaction, in 0.2 s with
        // its defaults; what queries write behind that waits for the next one, which is this.
        rows(client, "SELECT pg_catalog.txid_current()", &[]).await?;
    }
    let flushed = async {
        loop {
            let found = rows(client, IS_FLUSHED, &[(&written, Type::TEXT)]).await?;
            if found.first().map_or(Ok(true), |row| get(row, 0))? {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, flushed).await.unwrap_or_else(|_| {
        Err(Error::transient("The server does not write its log to its disk")
            .hint("run the same command again; look at the server's log"))
    })
}
