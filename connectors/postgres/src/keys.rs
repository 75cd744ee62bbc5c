//! The key of a table that was loaded before it had one: faster than keeping an index up to date.

use highwater_core::{Result, Table};
use highwater_sql::{Dialect, ddl};
use tokio_postgres::error::SqlState;

use crate::dialect::PostgresDialect;
use crate::session::{Session, quote};

/// Gives a table that this transaction has created and loaded its key. Of several rows with one
/// key the one that arrived last stays; returns how many went.
///
/// # Errors
/// As the server's.
pub(crate) async fn add(session: &Session, table: &Table) -> Result<u64> {
    let Some(statement) = ddl::add_key(&PostgresDialect, table) else { return Ok(0) };
    let nullable = |key: &String| table.field(key).is_none_or(arrow_schema::Field::is_nullable);
    // An index takes two NULLs for different values; the rules of the merge do not.
    let mut removed =
        if table.primary_key.iter().any(nullable) { fold(session, table).await? } else { 0 };
    session.run("make a savepoint", "SAVEPOINT key").await?;
    let failed = match session.batch_execute(&statement).await {
        Ok(()) => return Ok(removed),
        Err(error) => error,
    };
    if failed.code() != Some(&SqlState::UNIQUE_VIOLATION) {
        return Err(session.error("build the key", failed).context("table", &table.name));
    }
    session.run("go back to a savepoint", "ROLLBACK TO SAVEPOINT key").await?;
    removed += fold(session, table).await?;
    session
        .run("build the key", &statement)
        .await
        .map_err(|error| error.context("table", &table.name))?;
    Ok(removed)
}

/// Removes all but the last row of each key. In a table that was filled by COPY in the
/// transaction that made it, rows lie in the order of their arrival.
async fn fold(session: &Session, table: &Table) -> Result<u64> {
    let key: Vec<String> = table.primary_key.iter().map(|key| quote(key)).collect();
    let (name, key) = (PostgresDialect.table(&table.name), key.join(", "));
    let statement = format!(
        "DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM (SELECT ctid, \
         row_number() OVER (PARTITION BY {key} ORDER BY ctid DESC) AS place FROM {name}) AS placed \
         WHERE place > 1)"
    );
    let removed = session.execute_typed(&statement, &[]).await;
    removed.map_err(|e| session.error("fold equal keys", e).context("table", &table.name))
}
