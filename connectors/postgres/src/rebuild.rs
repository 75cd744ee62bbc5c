//! Rebuilds (`replace`, `replace-dedup`, a refresh that removes old rows): rows are loaded into
//! tables beside the old ones, and these are swapped when the read is complete.
//!
//! The tables beside carry sync, generation and source table in their comment until they are
//! swapped in: an unfinished generation is filled on by the next run, and what another one has
//! left is told apart and thrown away. A table that others have attached something to (views,
//! foreign keys, grants, indexes, …) is not swapped: it would lose them. Its rows are exchanged
//! instead, in one transaction.

use std::sync::Arc;

use highwater_core::{
    Error, Fence, Plan, Result, SchemaChange, State, Table, TableName, TablePlan, WriteMode,
};
use highwater_sql::rebuild::Beside;
use highwater_sql::{Dialect, ddl, derived, rebuild};
use tokio_postgres::types::Type;
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::{self, Relation, Selection, get};
use crate::changes;
use crate::dialect::PostgresDialect;
use crate::keys;
use crate::names;
use crate::session::{Session, literal, quote};
use crate::store;
use crate::stored;
use crate::typmod;

/// What the comments of all tables begin with that the runs of a sync fill.
fn prefix(sync: &str) -> String {
    format!("highwater: being filled, {:016x}-", xxh3_64(sync.as_bytes()))
}

/// Marks a table of a sync until it is swapped in or dropped.
///
/// # Errors
/// As the server's.
pub(crate) async fn set_mark(
    session: &Session,
    sync: &str,
    table: &TableName,
    mark: &str,
) -> Result<()> {
    let comment = literal(&format!("{}{mark}", prefix(sync)));
    let statement = format!("COMMENT ON TABLE {} IS {comment}", PostgresDialect.table(table));
    session.run("mark a table", &statement).await
}

/// The mark of a table; `None` when there is no such table, or it is no table of the sync.
///
/// # Errors
/// As the server's.
pub(crate) async fn mark_of(
    session: &Session,
    sync: &str,
    table: &TableName,
) -> Result<Option<String>> {
    let quoted = PostgresDialect.table(table);
    let statement =
        "SELECT pg_catalog.obj_description(pg_catalog.to_regclass($1)::oid, 'pg_class')";
    let rows = catalog::rows(session, statement, &[(&quoted, Type::TEXT)]).await?;
    let comment = rows.first().map(|row| get::<Option<String>>(row, 0)).transpose()?.flatten();
    Ok(comment.and_then(|comment| comment.strip_prefix(&prefix(sync)).map(str::to_owned)))
}

/// The plan with the schema that the table is in.
///
/// # Errors
/// `Config` when no schema of the search path exists.
pub(crate) async fn in_schema(session: &Session, table: &TablePlan) -> Result<TablePlan> {
    let mut target = table.target.as_ref().clone();
    target.name = changes::with_schema(session, &target.name).await?;
    Ok(TablePlan { target: Arc::new(target), ..table.clone() })
}

/// The plan by which a rebuild of a sync writes its rows. The tables are there when a writer looks.
pub(crate) fn beside(table: &TablePlan, sync: &str) -> TablePlan {
    TablePlan { changes: Vec::new(), ..derived::beside(table, sync, &PostgresDialect) }
}

/// Makes the tables beside in the open transaction, unless this generation has begun them. What
/// another one has left is dropped. `made` says that this run has made them.
///
/// # Errors
/// `Schema` when the rows of this run do not fit what an earlier run has left, or that is gone;
/// else as the server's.
pub(crate) async fn ensure(
    session: &Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<()> {
    let beside = beside(&in_schema(session, table).await?, &plan.sync);
    let name = &beside.target.name;
    changes::lock(session, name).await?;
    let found = mark_of(session, &plan.sync, name).await?;
    let own = rebuild::mark(&plan.sync_id, table);
    let begun = made
        || (plan.state_with_data
            && rebuild::is_begun(table, &store::state(session, &fence.sync).await?));
    match rebuild::decide(found.as_deref(), &plan.sync_id, table, begun) {
        Beside::Keep => return Ok(()),
        Beside::Fit => return fit(session, &beside).await,
        Beside::Lost => return Err(rebuild::lost(table, name)),
        Beside::Begin => {}
    }
    drop_all(session, &beside).await?;
    if let Some(schema) = &name.namespace {
        let made = changes::make_schema(session, schema).await;
        made.map_err(|error| error.context("table", &table.target.name))?;
    }
    changes::create_types(session, table, &mut Vec::new()).await?;
    for made in derived::all(&beside, &PostgresDialect) {
        // Where rows are only added, the key comes after the load.
        let statements = match table.write_mode {
            WriteMode::Replace => {
                vec![ddl::create_table_without_key(&PostgresDialect, &made, None)?]
            }
            _ => ddl::create_table(&PostgresDialect, &made, None)?,
        };
        for statement in statements {
            changes::run(session, table, &statement).await?;
        }
        set_mark(session, &plan.sync, &made.name, &own).await?;
    }
    Ok(())
}

/// Lets the rows of this run fit tables that an earlier run has made.
async fn fit(session: &Session, beside: &TablePlan) -> Result<()> {
    let names = std::slice::from_ref(&beside.target.name);
    let (relations, types) = catalog::relations(session, Selection::Names(names)).await?;
    let Some(there) = relations.first() else { return Ok(()) };
    let present = there.table(&types);
    let mut wanted = rebuild::changes(beside, &present, stored::stored_field)?;
    for field in beside.target.schema.fields() {
        let stored = stored::stored_field(field)?;
        let is_named = |change: &SchemaChange| matches!(change, SchemaChange::WidenColumn { to, .. } if to.name() == field.name());
        if let Some(there) = present.field(field.name())
            && !wanted.iter().any(is_named)
            && !typmod::holds(&stored, there)
            && typmod::holds(there, &stored)
        {
            let (from, to) = (there.clone(), field.as_ref().clone());
            wanted.push(SchemaChange::WidenColumn { from, to });
        }
    }
    changes::create_types(session, beside, &mut Vec::new()).await?;
    for change in &wanted {
        for statement in ddl::change(&PostgresDialect, beside, change, None)? {
            changes::run(session, beside, &statement).await?;
        }
    }
    changes::check_existing(session, beside).await
}

/// Drops the tables of a plan of [`beside`], in whatever mode they were made.
async fn drop_all(session: &Session, beside: &TablePlan) -> Result<()> {
    let target = &beside.target.name;
    let history = derived::history(beside, &PostgresDialect).name;
    let tombstones = derived::tombstones(beside, &PostgresDialect).name;
    for name in [target, &history, &tombstones] {
        drop_table(session, name).await?;
    }
    Ok(())
}

/// Drops a table of highwater's own, if it is there.
///
/// # Errors
/// As the server's.
pub(crate) async fn drop_table(session: &Session, name: &TableName) -> Result<()> {
    let statement = format!("DROP TABLE IF EXISTS {}", PostgresDialect.table(name));
    session.run("drop a table that is of no use any more", &statement).await
}

/// Removes what a sync has beside a table, for good.
///
/// # Errors
/// As the server's.
pub(crate) async fn discard(session: &Session, sync: &str, table: &TablePlan) -> Result<()> {
    drop_all(session, &beside(&in_schema(session, table).await?, sync)).await
}

/// Removes what earlier runs of the sync have left and nobody can go on with, in the open
/// transaction. Tables of another role stay: the run that needs their place says so.
///
/// # Errors
/// As the server's.
pub(crate) async fn drop_leftovers(session: &Session, sync: &str, state: &State) -> Result<()> {
    let prefix = prefix(sync);
    let statement = "
        SELECT n.nspname::text, c.relname::text, pg_catalog.obj_description(c.oid, 'pg_class')
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        -- The names that begin with `_highwater_`, by the index.
        WHERE c.relname >= '_highwater_' AND c.relname < '_highwater`' AND c.relkind = 'r'
          AND pg_catalog.starts_with(pg_catalog.obj_description(c.oid, 'pg_class'), $1)
          AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
        ORDER BY 1, 2";
    for row in catalog::rows(session, statement, &[(&prefix, Type::TEXT)]).await? {
        let (schema, name): (String, String) = (get(&row, 0)?, get(&row, 1)?);
        let comment: &str = get(&row, 2)?;
        let mark = comment.strip_prefix(&prefix).unwrap_or_default();
        if !rebuild::may_go_on(mark, state) {
            drop_table(session, &TableName::in_namespace(schema, name)).await?;
        }
    }
    Ok(())
}

/// Puts the tables beside in the place of the old ones, in the open transaction. Returns how many
/// old rows went.
///
/// # Errors
/// `Schema` when others depend on an old table and its columns are not those of the read; else
/// as the server's.
pub(crate) async fn swap(
    session: &Session,
    plan: &Plan,
    table: &TablePlan,
    fence: &Fence,
    made: bool,
) -> Result<u64> {
    // Without a partition there was no writer, and the new table is empty.
    ensure(session, plan, table, fence, made).await?;
    let table = in_schema(session, table).await?;
    let beside = beside(&table, &plan.sync);
    if table.write_mode == WriteMode::Replace {
        keys::add_if_unique(session, &beside.target).await?;
    }
    let removed = rows_of(session, &table.target.name).await?;
    let pairs = derived::all(&table, &PostgresDialect).into_iter();
    for (at, (to, from)) in pairs.zip(derived::all(&beside, &PostgresDialect)).enumerate() {
        if at > 0 && !derived::keeps_tombstones(&table) {
            drop_table(session, &from.name).await?;
        } else {
            take_place(session, &table, &to, &from.name).await?;
        }
    }
    Ok(removed)
}

/// How many rows a table has; 0 where there is none.
async fn rows_of(session: &Session, table: &TableName) -> Result<u64> {
    if changes::find(session, table).await?.is_none() {
        return Ok(0);
    }
    let statement = format!("SELECT pg_catalog.count(*) FROM {}", PostgresDialect.table(table));
    let rows = catalog::rows(session, &statement, &[]).await?;
    let rows: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
    Ok(u64::try_from(rows).unwrap_or_default())
}

/// Puts one table in the place of another.
async fn take_place(
    session: &Session,
    plan: &TablePlan,
    table: &Table,
    new: &TableName,
) -> Result<()> {
    let Some(old) = changes::find(session, &table.name).await? else {
        return rename(session, new, &table.name).await;
    };
    keys::forget(session, &table.name).await?;
    if is_free(session, &old).await? {
        let drop = format!("DROP TABLE {}", PostgresDialect.table(&table.name));
        session.run("drop the old table", &drop).await?;
        return rename(session, new, &table.name).await;
    }
    exchange(session, plan, table, &old, new).await
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
    let renamed = names::make(session, &statements.join("; ")).await;
    renamed.map_err(|error| session.error("swap the new table in", error))
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

/// Refuses a table with whose rows the server would delete or change rows of others: to exchange
/// rows is to delete them first.
async fn refuse_followers(
    session: &Session,
    plan: &TablePlan,
    table: &Table,
    old: &Relation,
) -> Result<()> {
    let statement = "
        SELECT k.conname::text, k.conrelid::regclass::text FROM pg_catalog.pg_constraint k
        WHERE k.confrelid = $1 AND k.contype = 'f' AND k.confdeltype NOT IN ('a', 'r')
        ORDER BY 1, 2 LIMIT 1";
    let rows = catalog::rows(session, statement, &[(&old.oid, Type::OID)]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (constraint, follower): (String, String) = (get(row, 0)?, get(row, 1)?);
    Err(Error::schema("The rows cannot be replaced: rows of another table go or change with them")
        .context("table", &plan.target.name)
        .context("referenced table", &table.name)
        .context("foreign key", &constraint)
        .context("of the table", &follower)
        .hint(format!(
            "make it one that deletes nothing: `ALTER TABLE {follower} DROP CONSTRAINT {}` and add \
             it again with `DEFERRABLE INITIALLY DEFERRED`, without `ON DELETE`",
            quote(&constraint)
        )))
}

/// Exchanges the rows and keeps the old table with all that belongs to it.
async fn exchange(
    session: &Session,
    plan: &TablePlan,
    table: &Table,
    old: &Relation,
    new: &TableName,
) -> Result<()> {
    changes::check_kind(old)?;
    if !changes::takes_rows_as_planned(table, old)? {
        return Err(Error::schema("The columns have changed, and the table cannot be replaced because something depends on it or was granted on it")
            .context("table", &plan.target.name)
            .context("with columns that have changed", &table.name)
            .hint("drop the views, foreign keys, indexes or grants on it, or change its columns by hand"));
    }
    refuse_followers(session, plan, table, old).await?;
    let columns: Vec<_> = table.column_names().collect();
    let columns = ddl::quoted(&PostgresDialect, &columns);
    let (old, new) = (PostgresDialect.table(&table.name), PostgresDialect.table(new));
    let statements = format!(
        "DELETE FROM {old}; INSERT INTO {old} ({columns}) SELECT {columns} FROM {new}; DROP TABLE {new}"
    );
    session.run("exchange the rows", &statements).await
}
