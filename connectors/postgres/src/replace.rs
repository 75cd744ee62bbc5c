//! `replace`: rows are loaded into a new table beside the old one, and the two are swapped when
//! the read is complete.
//!
//! The new table carries the run's id as its comment until it is swapped in, so that what an
//! abandoned run has left is told apart and thrown away. A table that others have attached
//! something to (views, foreign keys, grants, indexes, …) is not swapped: it would lose them.
//! Its rows are exchanged instead, in one transaction.

use highwater_core::{Error, Plan, Result, TableName, TablePlan};
use highwater_sql::{Dialect, ddl, derived};
use tokio_postgres::types::Type;

use crate::catalog::{self, Relation, get};
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::keys;
use crate::session::{Session, literal, quote};

/// The comment of a table that a run is filling.
fn mark(plan: &Plan) -> String {
    format!("highwater: being filled by run {} of {}", plan.sync_id, plan.sync)
}

/// The name of the new table, with its schema.
pub(crate) async fn new_table(session: &Session, table: &TablePlan) -> Result<TableName> {
    changes::with_schema(session, &derived::replacement(table, &PostgresDialect)).await
}

/// Makes the new table of this run in the open transaction, unless another writer of the run has
/// made it. What an abandoned run has left is dropped.
///
/// # Errors
/// As the server's.
pub(crate) async fn prepare(session: &Session, plan: &Plan, table: &TablePlan) -> Result<()> {
    let name = new_table(session, table).await?;
    changes::lock(session, &name).await?;
    if is_ours(session, plan, &name).await? {
        return Ok(());
    }
    let quoted = PostgresDialect.table(&name);
    session.run("drop an old table", &format!("DROP TABLE IF EXISTS {quoted}")).await?;
    changes::create_without_key(session, table, &name).await?;
    let comment = format!("COMMENT ON TABLE {quoted} IS {}", literal(&mark(plan)));
    session.run("mark the new table", &comment).await
}

async fn is_ours(session: &Session, plan: &Plan, name: &TableName) -> Result<bool> {
    let quoted = PostgresDialect.table(name);
    let statement =
        "SELECT pg_catalog.obj_description(pg_catalog.to_regclass($1)::oid, 'pg_class')";
    let rows = catalog::rows(session, statement, &[(&quoted, Type::TEXT)]).await?;
    let comment = rows.first().map(|row| get::<Option<String>>(row, 0)).transpose()?.flatten();
    Ok(comment == Some(mark(plan)))
}

/// Puts the new table in the place of the old one, in the open transaction.
///
/// # Errors
/// `Schema` when others depend on the old table and its columns are not those of the read; else
/// as the server's.
pub(crate) async fn swap(session: &Session, plan: &Plan, table: &TablePlan) -> Result<()> {
    // Without a partition there was no writer, and the new table is empty.
    prepare(session, plan, table).await?;
    let new = new_table(session, table).await?;
    let name = changes::with_schema(session, &table.target.name).await?;
    let mut keyed = (*table.target).clone();
    keyed.name = new.clone();
    keys::add(session, &keyed).await?;
    let Some(old) = changes::find(session, &name).await? else {
        return rename(session, &new, &name).await;
    };
    if is_free(session, &old).await? {
        let drop = format!("DROP TABLE {}", PostgresDialect.table(&name));
        session.run("drop the old table", &drop).await?;
        return rename(session, &new, &name).await;
    }
    exchange(session, table, &old, &new, &name).await
}

/// Gives the new table and what belongs to it the names of the old one.
pub(crate) async fn rename(session: &Session, new: &TableName, name: &TableName) -> Result<()> {
    let quoted = PostgresDialect.table(name);
    let mut statements = vec![
        format!("ALTER TABLE {} RENAME TO {}", PostgresDialect.table(new), quote(&name.name)),
        format!("COMMENT ON TABLE {quoted} IS NULL"),
    ];
    let indexes = "SELECT c.relname::text, i.indisprimary
                   FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
                   WHERE i.indrelid = pg_catalog.to_regclass($1)";
    let found =
        catalog::rows(session, indexes, &[(&PostgresDialect.table(new), Type::TEXT)]).await?;
    for row in &found {
        let index = TableName { namespace: name.namespace.clone(), name: get(row, 0)? };
        let suffix = if get(row, 1)? { "_pkey" } else { ddl::KEY_INDEX };
        let wanted = PostgresDialect.derived_name(&name.name, suffix);
        statements.push(format!(
            "ALTER INDEX {} RENAME TO {}",
            PostgresDialect.table(&index),
            quote(&wanted)
        ));
    }
    session.run("swap the new table in", &statements.join("; ")).await
}

/// Whether nothing but highwater's own key belongs to the table, so that dropping it takes
/// nothing from anybody.
async fn is_free(session: &Session, old: &Relation) -> Result<bool> {
    let statement = "
        SELECT c.relkind = 'r' AND c.relacl IS NULL AND NOT c.relrowsecurity
           AND pg_catalog.pg_has_role(c.relowner, 'USAGE') AND c.relowner = (
             SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                           JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
                           WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
                             AND d.refobjid = c.oid AND r.ev_class <> c.oid)
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k
                           WHERE k.confrelid = c.oid OR k.conrelid = c.oid
                             AND k.contype NOT IN ('p', 'n'))
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_index i
                           JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
                           WHERE i.indrelid = c.oid AND NOT i.indisprimary
                             AND ic.relname !~ '_highwater_key$')
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid)
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits h
                           WHERE h.inhparent = c.oid OR h.inhrelid = c.oid)
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_publication_rel p WHERE p.prrelid = c.oid)
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_description x
                           WHERE x.objoid = c.oid AND x.classoid = 'pg_catalog.pg_class'::regclass)
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a
                           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                             AND (a.atthasdef OR a.attidentity <> '' OR a.attacl IS NOT NULL))
        FROM pg_catalog.pg_class c WHERE c.oid = $1";
    let rows = catalog::rows(session, statement, &[(&old.oid, Type::OID)]).await?;
    Ok(rows.first().map(|row| get::<Option<bool>>(row, 0)).transpose()?.flatten() == Some(true))
}

/// Exchanges the rows and keeps the old table with all that belongs to it.
async fn exchange(
    session: &Session,
    table: &TablePlan,
    old: &Relation,
    new: &TableName,
    name: &TableName,
) -> Result<()> {
    if !changes::takes_rows_as_planned(table, old)? {
        return Err(Error::schema("The columns have changed, and the table cannot be replaced because something depends on it or was granted on it")
            .context("table", &table.target.name)
            .hint("drop the views, foreign keys, indexes or grants on it, or change its columns by hand"));
    }
    let columns: Vec<_> = table.target.column_names().collect();
    let columns = ddl::quoted(&PostgresDialect, &columns);
    let (old, new) = (PostgresDialect.table(name), PostgresDialect.table(new));
    let statements = format!(
        "DELETE FROM {old}; INSERT INTO {old} ({columns}) SELECT {columns} FROM {new}; DROP TABLE {new}"
    );
    session.run("exchange the rows", &statements).await
}
