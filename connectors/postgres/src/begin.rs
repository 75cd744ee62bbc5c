//! The begin of a read: one snapshot for everything, and a table that stays as it is.
//!
//! A table that is rewritten (most of `ALTER TABLE`, `TRUNCATE`, `CLUSTER`) looks empty to every
//! snapshot that is older. So the lock that keeps the table from that comes before the snapshot:
//! a rewrite that is under way is waited for, and none begins until the read is over.

use highwater_core::{Error, Result, TableName};

use crate::catalog::schema_of;
use crate::session::{Session, quote};

/// A transaction with one snapshot, which its first query takes.
pub(crate) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Begins the transaction in which a table is read.
///
/// # Errors
/// `Schema` when there is no such table, `Transient` when somebody keeps it locked; else as the
/// server's.
pub(crate) async fn begin(session: &Session, table: &TableName) -> Result<()> {
    let name = format!("{}.{}", quote(schema_of(table)), quote(&table.name));
    // A utility statement takes no snapshot.
    let locked = format!("{SNAPSHOT}; LOCK TABLE {name} IN ACCESS SHARE MODE");
    let Err(error) = session.batch_execute(&locked).await else { return Ok(()) };
    match error.code().map(tokio_postgres::error::SqlState::code) {
        // Neither foreign tables nor materialized views can be locked, nor what only some columns
        // of may be read.
        Some("42809" | "42501" | "0A000") => {
            session.run("begin", &format!("ROLLBACK; {SNAPSHOT}")).await
        }
        Some("42P01" | "3F000") => Err(missing(table)),
        _ => Err(session.error("lock the table", error).context("table", table)),
    }
}

/// The error of a table that is not there.
pub(crate) fn missing(table: &TableName) -> Error {
    Error::schema("The table does not exist")
        .context("table", table)
        .hint("`highwater tables` lists what can be read")
}
