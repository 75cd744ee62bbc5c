//! The key of a table that was loaded before it had one (faster than keeping an index up to date),
//! and keys that may be NULL but are not.
//!
//! A table that is without its key from one commit to another says so in its comment until it gets
//! it. Whatever becomes of the run that loads it, the versions of a row that it has left are told
//! from rows of other people's tables, which are never folded.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use highwater_core::{Result, Table, TableName, TablePlan};
use highwater_sql::{Dialect, ddl};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::{self, get};
use crate::dialect::PostgresDialect;
use crate::names;
use crate::session::{Session, literal, quote};

/// Gives a table that was created and loaded without its key, in this transaction or in several,
/// its key. Of several rows with one key the one that arrived last stays; returns how many went.
///
/// # Errors
/// As the server's.
pub(crate) async fn add(session: &Session, table: &Table) -> Result<u64> {
    let Some(statement) = ddl::add_key(&PostgresDialect, table) else { return Ok(0) };
    let nullable = |key: &String| table.field(key).is_none_or(Field::is_nullable);
    // An index takes two NULLs for different values; the rules of the merge do not.
    let mut removed =
        if table.primary_key.iter().any(nullable) { fold(session, table).await? } else { 0 };
    prepare(session, table).await?;
    let failed = match names::make(session, &statement).await {
        Ok(()) => return session.run("build the key", FORGET).await.map(|()| removed),
        Err(error) => error,
    };
    if failed.code() != Some(&SqlState::UNIQUE_VIOLATION) {
        return Err(session.error("build the key", failed).context("table", &table.name));
    }
    session.run("go back to a savepoint", UNDO).await?;
    removed += fold(session, table).await?;
    names::make(session, &statement)
        .await
        .map_err(|error| session.error("build the key", error).context("table", &table.name))?;
    Ok(removed)
}

/// The comment of a table that gets its key when all its rows are there.
const MARK: &str = "highwater: being loaded, its key comes with the last rows";

/// Says in the comment of a table that it is without its key, until [`add_late`] or [`forget`].
///
/// # Errors
/// As the server's.
pub(crate) async fn mark(session: &Session, table: &TableName) -> Result<()> {
    let (table, mark) = (PostgresDialect.table(table), literal(MARK));
    session.run("mark a table", &format!("COMMENT ON TABLE {table} IS {mark}")).await
}

/// Whether the table is marked, and of a role that this one may act as.
async fn is_marked(session: &Session, table: &TableName) -> Result<bool> {
    let statement = "
        SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c
                       WHERE c.oid = pg_catalog.to_regclass($1)
                         AND pg_catalog.obj_description(c.oid, 'pg_class') = $2
                         AND pg_catalog.pg_has_role(c.relowner, 'USAGE'))";
    let table = PostgresDialect.table(table);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&table, Type::TEXT), (&MARK, Type::TEXT)];
    let rows = catalog::rows(session, statement, &parameters).await?;
    rows.first().map_or(Ok(false), |row| get(row, 0))
}

/// Removes the mark of a table, if it has one: from now on it is a table like others. Returns
/// whether it had.
///
/// # Errors
/// As the server's.
pub(crate) async fn forget(session: &Session, table: &TableName) -> Result<bool> {
    if !is_marked(session, table).await? {
        return Ok(false);
    }
    let statement = format!("COMMENT ON TABLE {} IS NULL", PostgresDialect.table(table));
    session.run("unmark a table", &statement).await.map(|()| true)
}

/// Gives a table that is marked its key, as [`add`] does, and removes the mark; returns what it
/// ran. `None` where the table is not marked.
///
/// # Errors
/// As the server's.
pub(crate) async fn add_late(session: &Session, table: &Table) -> Result<Option<Vec<String>>> {
    if !forget(session, &table.name).await? {
        return Ok(None);
    }
    add(session, table).await?;
    Ok(Some(ddl::add_key(&PostgresDialect, table).into_iter().collect()))
}

/// Gives a loaded table that is to have exactly the rows of a read its key. Where several rows have
/// one key it stays without.
///
/// # Errors
/// As the server's.
pub(crate) async fn add_if_unique(session: &Session, table: &Table) -> Result<()> {
    let Some(statement) = ddl::add_key(&PostgresDialect, table) else { return Ok(()) };
    prepare(session, table).await?;
    let Err(failed) = names::make(session, &statement).await else {
        return session.run("build the key", FORGET).await;
    };
    if failed.code() != Some(&SqlState::UNIQUE_VIOLATION) {
        return Err(session.error("build the key", failed).context("table", &table.name));
    }
    session.run("go back to a savepoint", UNDO).await?;
    tracing::warn!(table = %table.name, "several rows have one key: the table is without its key");
    Ok(())
}

/// Ends the savepoint. Within it the server freezes no rows of a table that was made before it.
pub(crate) const FORGET: &str = "RELEASE SAVEPOINT key";
/// Goes back to the savepoint, and ends it.
pub(crate) const UNDO: &str = "ROLLBACK TO SAVEPOINT key; RELEASE SAVEPOINT key";

/// A savepoint to come back to, and two processes to build the index of a table that is not large: a
/// tenth more work than one has, and a third less time. A third process makes it no sooner.
///
/// # Errors
/// As the server's.
pub(crate) async fn prepare(session: &Session, table: &Table) -> Result<()> {
    let name = literal(&PostgresDialect.table(&table.name));
    let statements = format!(
        "SELECT set_config('max_parallel_maintenance_workers', '1', true)
         WHERE pg_catalog.pg_relation_size({name}) < 1073741824; SAVEPOINT key"
    );
    session.run("make a savepoint", &statements).await
}

/// Removes all but the last row of each key. The transactions of a read follow one another, and
/// rows that one of them has added by COPY lie in the order of their arrival.
async fn fold(session: &Session, table: &Table) -> Result<u64> {
    let key: Vec<String> = table.primary_key.iter().map(|key| quote(key)).collect();
    let (name, key) = (PostgresDialect.table(&table.name), key.join(", "));
    let statement = format!(
        "DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM (SELECT ctid, \
         row_number() OVER (PARTITION BY {key} ORDER BY pg_catalog.age(xmin), ctid DESC) AS place \
         FROM {name}) AS placed \
         WHERE place > 1)"
    );
    let removed = session.execute_typed(&statement, &[]).await;
    removed.map_err(|e| session.error("fold equal keys", e).context("table", &table.name))
}

/// The plan for merging the rows of `from` (an identifier, quoted) by their keys. `IS NOT DISTINCT
/// FROM` takes every pair of rows, `=` a hash or an index: where no row of `from` that fulfils
/// `condition` has NULL in its key, the columns of the key count as NOT NULL.
///
/// # Errors
/// As the server's.
pub(crate) async fn as_they_are(
    session: &Session,
    plan: &TablePlan,
    from: &str,
    condition: &str,
) -> Result<TablePlan> {
    let key = &plan.target.primary_key;
    let is_nullable = |name: &&String| plan.target.field(name).is_some_and(Field::is_nullable);
    let nulls: Vec<String> =
        key.iter().filter(is_nullable).map(|name| format!("{} IS NULL", quote(name))).collect();
    if nulls.is_empty() {
        return Ok(plan.clone());
    }
    let nulls = nulls.join(" OR ");
    let statement = format!("SELECT EXISTS (SELECT 1 FROM {from} WHERE ({nulls}) AND {condition})");
    let rows = catalog::rows(session, &statement, &[]).await?;
    if rows.first().map_or(Ok(true), |row| get(row, 0))? {
        return Ok(plan.clone());
    }
    let mut target = plan.target.as_ref().clone();
    let fields = target.schema.fields().iter().map(|field| {
        let nullable = field.is_nullable() && !key.contains(field.name());
        field.as_ref().clone().with_nullable(nullable)
    });
    target.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(TablePlan { target: Arc::new(target), ..plan.clone() })
}
