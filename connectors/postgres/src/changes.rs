//! Schema changes at the destination, inside the transaction of the rows that need them: types
//! that users defined, tables, columns. Everything here changes nothing when it is repeated.

mod defined;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use highwater_core::{Error, Plan, Result, SchemaChange, Table, TableName, TablePlan, WriteMode};
use highwater_sql::{Dialect, belongings, ddl, derived};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::{self, Relation, RelationKind, Selection, UserTypes, get};
use crate::dialect::PostgresDialect;
use crate::fit;
use crate::keys;
use crate::names;
use crate::rebuild;
use crate::session::{Session, literal, quote};
use crate::stored;
use crate::typmod;

pub(crate) use defined::{add_labels, create_types};

/// The relation of that name, where it exists. A name without a namespace is in the first schema
/// of the search path.
pub(crate) async fn find(session: &Session, name: &TableName) -> Result<Option<Relation>> {
    let name = with_schema(session, name).await?;
    let (mut relations, _) =
        catalog::relations(session, Selection::Names(std::slice::from_ref(&name))).await?;
    Ok(relations.pop())
}

/// What tells the relation of that name from another one, where it exists: its object id.
pub(crate) async fn identity(session: &Session, name: &TableName) -> Result<Option<String>> {
    let name = with_schema(session, name).await?;
    let quoted = format!("{}.{}", quote(catalog::schema_of(&name)), quote(&name.name));
    let statement = format!(
        "SELECT c.oid::text FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass({}) \
         AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        literal(&quoted)
    );
    let rows = catalog::rows(session, &statement, &[]).await?;
    rows.first().map(|row| get(row, 0)).transpose()
}

/// Looks at the existing tables that the planned rows go into.
///
/// # Errors
/// `Schema` when one is no table, or has a column that would round values.
pub(crate) async fn check_existing(session: &Session, plan: &TablePlan) -> Result<()> {
    let mut names = Vec::new();
    for name in merged_tables(plan) {
        names.push(with_schema(session, &name).await?);
    }
    let (relations, types) = catalog::relations(session, Selection::Names(&names)).await?;
    relations.iter().try_for_each(|there| {
        check_kind(there)?;
        fit::check(plan, there, &types)
    })
}

/// The name with the schema that tables are created in.
///
/// # Errors
/// `Config` when no schema of the search path exists.
pub(crate) async fn with_schema(session: &Session, name: &TableName) -> Result<TableName> {
    if name.namespace.is_some() {
        return Ok(name.clone());
    }
    let schema = session.schema().await?.ok_or_else(|| {
        Error::config("No schema of the search path exists")
            .context("table", name)
            .hint("create the schema, or set `schema: NAME`, which creates it")
    })?;
    Ok(TableName::in_namespace(schema, &name.name))
}

/// The lock for schemas and types: number of an advisory lock.
const MAKING_LOCK: i64 = 0x6877_6d61_6b69_6e67;
/// The savepoint before that lock: going back to it gives the lock back.
const MAKING: &str = "highwater_making";

/// A lock for the changes of one table: number of an advisory lock.
fn lock_key(name: &TableName) -> i64 {
    xxh3_64(format!("highwater table {name}").as_bytes()).cast_signed()
}

/// Takes the right to change a table until the transaction ends; `false` when another writer has
/// it.
pub(crate) async fn try_lock(session: &Session, name: &TableName) -> Result<bool> {
    let statement = format!("SELECT pg_catalog.pg_try_advisory_xact_lock({})", lock_key(name));
    let rows = catalog::rows(session, &statement, &[]).await?;
    rows.first().map_or(Ok(false), |row| get(row, 0))
}

/// Waits for the right to change a table, as long as another writer loads it.
pub(crate) async fn lock(session: &Session, name: &TableName) -> Result<()> {
    let statements = format!(
        "SET LOCAL lock_timeout = 0; SELECT pg_catalog.pg_advisory_xact_lock({}); \
         SET LOCAL lock_timeout = '60s'",
        lock_key(name)
    );
    session.run("wait for another writer of the table", &statements).await
}

/// The tables that a run has dropped and made anew, by their object ids: that is done once in a
/// run, whoever comes first. One per run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recreated(Arc<Mutex<BTreeMap<(String, TableName), u32>>>);

impl Recreated {
    fn key(plan: &Plan, table: &TablePlan) -> (String, TableName) {
        (plan.sync_id.clone(), table.name().clone())
    }

    /// Whether the table that is there is the one that the run has made. One whose transaction was
    /// rolled back has another id.
    fn contains(&self, plan: &Plan, table: &TablePlan, there: Option<&Relation>) -> bool {
        let made = self.0.lock().ok().and_then(|made| made.get(&Self::key(plan, table)).copied());
        made.is_some() && made == there.map(|there| there.oid)
    }

    /// Remembers the table that is there now, before the transaction is committed.
    async fn remember(&self, session: &Session, plan: &Plan, table: &TablePlan) -> Result<()> {
        if let Some(new) = find(session, &table.target.name).await? {
            self.insert(plan, table, new.oid);
        }
        Ok(())
    }

    fn insert(&self, plan: &Plan, table: &TablePlan, oid: u32) {
        if let Ok(mut made) = self.0.lock() {
            made.insert(Self::key(plan, table), oid);
        }
    }
}

/// Makes the planned changes that are not made yet; returns what it ran. The caller has
/// [`lock`]ed the table.
///
/// # Errors
/// `Unsupported` when a column cannot be stored; `Schema` when something depends on a table that
/// is to be dropped; else as the server's.
pub(crate) async fn apply(
    session: &Session,
    plan: &Plan,
    table: &TablePlan,
    recreated: &Recreated,
) -> Result<Vec<String>> {
    let mut ran = Vec::new();
    if table.changes.is_empty() {
        return Ok(ran);
    }
    let there = find(session, &table.target.name).await?;
    create_types(session, table, &mut ran).await?;
    for change in &table.changes {
        let recreates = *change == SchemaChange::Recreate;
        let made = is_made(table, change, there.as_ref())?
            || recreates && recreated.contains(plan, table, there.as_ref());
        if *change == SchemaChange::AddKey
            && !made
            && let Some(done) = keys::add_late(session, &table.target).await?
        {
            ran.extend(done);
            continue;
        }
        let statements = match made {
            true => Vec::new(),
            false => statements(&belongings::to_change(table, change), change)?,
        };
        for statement in statements {
            let done = match &table.target.name.namespace {
                Some(schema) if statement == create_schema(schema) => make_schema(session, schema)
                    .await
                    .map_err(|e| e.context("table", &table.target.name))?,
                _ => run(session, table, &statement).await.map(|()| true)?,
            };
            if done {
                ran.push(statement);
            }
        }
        if recreates && !made {
            recreated.remember(session, plan, table).await?;
        }
    }
    Ok(ran)
}

/// Makes history and tombstones as the rows need them, whatever mode the table was written in;
/// returns what it ran. The changes of the table itself have been made.
///
/// # Errors
/// As [`apply`].
pub(crate) async fn make_history(session: &Session, table: &TablePlan) -> Result<Vec<String>> {
    let mut ran = Vec::new();
    let belongings = belongings::plans(table, &PostgresDialect);
    if belongings.is_empty() {
        return Ok(ran);
    }
    let mut names = vec![with_schema(session, &table.target.name).await?];
    for belonging in &belongings {
        names.push(with_schema(session, &belonging.target.name).await?);
    }
    // One look at all of them: mostly nothing is to be made.
    let (relations, types) = catalog::relations(session, Selection::Names(&names)).await?;
    let found = |name: &TableName| {
        let name = catalog::table_name(catalog::schema_of(name), &name.name);
        relations.iter().find(|relation| relation.name == name)
    };
    if found(&names[0]).is_none() {
        return Ok(ran);
    }
    for (belonging, name) in belongings.into_iter().zip(&names[1..]) {
        if missing(&belonging, found(name), &types)?.is_empty() {
            continue;
        }
        lock(session, &table.target.name).await?;
        create_types(session, table, &mut ran).await?;
        // Another writer may have done it meanwhile.
        for change in lacking(session, &belonging).await? {
            for statement in ddl::change(&PostgresDialect, &belonging, &change, None)? {
                run(session, table, &statement).await?;
                ran.push(statement);
            }
        }
    }
    Ok(ran)
}

async fn lacking(session: &Session, belonging: &TablePlan) -> Result<Vec<SchemaChange>> {
    let name = with_schema(session, &belonging.target.name).await?;
    let selection = Selection::Names(std::slice::from_ref(&name));
    let (relations, types) = catalog::relations(session, selection).await?;
    missing(belonging, relations.first(), &types)
}

fn missing(
    belonging: &TablePlan,
    there: Option<&Relation>,
    types: &UserTypes,
) -> Result<Vec<SchemaChange>> {
    let Some(there) = there else { return Ok(vec![SchemaChange::CreateTable]) };
    belongings::missing(belonging, &there.table(types), stored::stored_field, typmod::holds)
}

/// Makes the new table beside the old one, where the run is still to make the table anew: readers
/// go on with the old one while rows come into the new one. `None` where that is done, or where
/// it is made in place because tables belong to it (a history, the keys that a sweep sees).
///
/// # Errors
/// As [`apply`].
pub(crate) async fn make_beside(
    session: &Session,
    plan: &Plan,
    table: &TablePlan,
    recreated: &Recreated,
) -> Result<Option<TablePlan>> {
    let belongs = table.write_mode == WriteMode::AppendDedup || derived::remembers_keys(table);
    if table.changes != [SchemaChange::Recreate] || belongs {
        return Ok(None);
    }
    let there = find(session, &table.target.name).await?;
    if recreated.contains(plan, table, there.as_ref()) {
        return Ok(None);
    }
    let name =
        with_schema(session, &derived::replacement(table, &plan.sync, &PostgresDialect)).await?;
    let mut beside = table.clone();
    let mut target = (*table.target).clone();
    target.name = name;
    create_types(session, table, &mut Vec::new()).await?;
    // What an abandoned run has left.
    let drop = format!("DROP TABLE IF EXISTS {}", PostgresDialect.table(&target.name));
    for statement in
        std::iter::once(drop).chain(ddl::create_table(&PostgresDialect, &target, None)?)
    {
        run(session, table, &statement).await?;
    }
    beside.target = Arc::new(target);
    Ok(Some(beside))
}

/// Puts the table that was made beside in the place of the old one.
///
/// # Errors
/// As [`apply`].
pub(crate) async fn take_place(
    session: &Session,
    plan: &Plan,
    table: &TablePlan,
    beside: &TablePlan,
    recreated: &Recreated,
) -> Result<()> {
    let name = with_schema(session, &table.target.name).await?;
    let drop = format!("DROP TABLE IF EXISTS {}", PostgresDialect.table(&name));
    run(session, table, &drop).await?;
    rebuild::rename(session, &beside.target.name, &name).await?;
    recreated.remember(session, plan, table).await
}

/// Makes the table of the plan without its key, and the schema and types that it needs.
///
/// # Errors
/// As [`apply`].
pub(crate) async fn create_without_key(session: &Session, plan: &TablePlan) -> Result<()> {
    if let Some(schema) = &plan.target.name.namespace {
        make_schema(session, schema).await.map_err(|e| e.context("table", &plan.target.name))?;
    }
    create_types(session, plan, &mut Vec::new()).await?;
    let statement = ddl::create_table_without_key(&PostgresDialect, &plan.target, None)?;
    run(session, plan, &statement).await
}

/// The statements of a change, for people and for [`apply`].
///
/// # Errors
/// `Unsupported` when a column cannot be stored.
pub(crate) fn statements(plan: &TablePlan, change: &SchemaChange) -> Result<Vec<String>> {
    let mut statements = Vec::new();
    if let (SchemaChange::CreateTable, Some(schema)) = (change, &plan.target.name.namespace) {
        statements.push(create_schema(schema));
    }
    statements.extend(ddl::change(&PostgresDialect, plan, change, None)?);
    Ok(statements)
}

/// Runs a statement that changes a table of the plan.
///
/// # Errors
/// `Schema` when something depends on a table that is to be dropped; else as the server's.
pub(crate) async fn run(session: &Session, plan: &TablePlan, statement: &str) -> Result<()> {
    let Err(error) = names::make(session, statement).await else { return Ok(()) };
    let database = error.as_db_error();
    if database.is_some_and(|error| *error.code() == SqlState::DEPENDENT_OBJECTS_STILL_EXIST) {
        // Names of objects and nothing else.
        let what =
            database.and_then(|error| error.detail()).unwrap_or_default().replace('\n', "; ");
        return Err(Error::schema("Something depends on the table, so it cannot be made anew")
            .context("table", &plan.target.name)
            .context("depends on it", what)
            .hint("drop what depends on the table (views, foreign keys), run the sync, and make it again after that"));
    }
    Err(session.error("change the table", error).context("table", &plan.target.name))
}

/// Creates the schema, if it does not exist: `IF NOT EXISTS` asks for the right to create one also
/// where there is nothing to create, and fails where another session is about to create it.
/// Returns whether there was none.
///
/// # Errors
/// As the server's.
pub(crate) async fn make_schema(session: &Session, schema: &str) -> Result<bool> {
    if has_schema(session, schema).await? {
        return Ok(false);
    }
    begin_making(session).await?;
    let is_made = has_schema(session, schema).await?;
    if !is_made {
        session.run("create the schema", &create_schema(schema)).await?;
    }
    end_making(session, !is_made).await?;
    Ok(!is_made)
}

/// Whether the schema of the table is there or can be made now, without waiting for another writer.
pub(crate) async fn try_schema(session: &Session, name: &TableName) -> Result<bool> {
    let Some(schema) = &name.namespace else { return Ok(true) };
    if has_schema(session, schema).await? {
        return Ok(true);
    }
    let statement = format!("SELECT pg_catalog.pg_try_advisory_xact_lock({MAKING_LOCK})");
    let rows = catalog::rows(session, &statement, &[]).await?;
    rows.first().map_or(Ok(false), |row| get(row, 0))
}

/// Waits for the right to make what tables share: a schema, a type. One right for all of them, so
/// that no two writers wait for each other. What it is for may be there when this returns.
async fn begin_making(session: &Session) -> Result<()> {
    let statements = format!(
        "SAVEPOINT {MAKING}; SET LOCAL lock_timeout = 0; \
         SELECT pg_catalog.pg_advisory_xact_lock({MAKING_LOCK}); SET LOCAL lock_timeout = '60s'"
    );
    session.run("wait for another writer of the schema", &statements).await
}

/// Keeps the right until the transaction ends, because something was made that others cannot see
/// before; or gives it back, so that those who found everything made do not wait for each other.
async fn end_making(session: &Session, made: bool) -> Result<()> {
    let back = if made { String::new() } else { format!("ROLLBACK TO SAVEPOINT {MAKING}; ") };
    session.run("make the schema", &format!("{back}RELEASE SAVEPOINT {MAKING}")).await
}

async fn has_schema(session: &Session, schema: &str) -> Result<bool> {
    let statement = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    let rows = catalog::rows(session, statement, &[(&schema, Type::TEXT)]).await?;
    rows.first().map_or(Ok(false), |row| get(row, 0))
}

/// # Errors
/// `Schema` when the relation is none that rows are written into with the state in one
/// transaction: a view, or a table of another server.
pub(crate) fn check_kind(there: &Relation) -> Result<()> {
    let kind = match there.kind {
        RelationKind::Table | RelationKind::Partitioned => return Ok(()),
        RelationKind::View => "view",
        RelationKind::MaterializedView => "materialized view",
        RelationKind::Foreign => "foreign table",
    };
    Err(Error::schema(format!("The destination is a {kind}, not a table"))
        .context("table", &there.name)
        .hint(format!("write into another table, or rename the {kind}")))
}

fn create_schema(schema: &str) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {}", quote(schema))
}

/// Whether another writer of this run, or an earlier run, has made the change. To make it twice
/// may change nothing, but it locks tables in another order than a merge does.
fn is_made(table: &TablePlan, change: &SchemaChange, there: Option<&Relation>) -> Result<bool> {
    let Some(there) = there else { return Ok(false) };
    let column = |name: &str| there.columns.iter().find(|column| column.name == name);
    Ok(match change {
        SchemaChange::CreateTable | SchemaChange::AddKey => {
            let key = &table.target.primary_key;
            key.is_empty() || there.primary_key == *key
        }
        SchemaChange::DropNotNull(_) | SchemaChange::Recreate => false,
        SchemaChange::AddColumn(field) => column(field.name()).is_some(),
        SchemaChange::WidenColumn { to, .. } => {
            let wanted = PostgresDialect.column_type(to)?;
            column(to.name()).is_some_and(|column| column.declared == wanted)
        }
    })
}

/// Whether rows can be sent straight into the table: no value needs a cast, and the columns have
/// exactly the planned types.
///
/// # Errors
/// `Unsupported` when a column cannot be stored.
pub(crate) fn takes_rows_as_planned(planned: &Table, there: &Relation) -> Result<bool> {
    for field in planned.schema.fields() {
        let wanted = PostgresDialect.column_type(field)?;
        let column = there.columns.iter().find(|column| column.name == *field.name());
        if column.is_none_or(|column| column.declared != wanted) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Locks what a commit merges rows into against other writers, until the transaction ends.
///
/// # Errors
/// As the server's.
pub(crate) async fn lock_merged(session: &Session, plan: &TablePlan) -> Result<()> {
    let names = merged_tables(plan);
    let names: Vec<String> = names.iter().map(|name| PostgresDialect.table(name)).collect();
    let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", names.join(", "));
    session.run("lock the table", &lock).await
}

/// The tables that belong to a planned table and that a commit locks against other writers.
fn merged_tables(plan: &TablePlan) -> Vec<TableName> {
    let mut names = vec![plan.target.name.clone()];
    if plan.write_mode == WriteMode::AppendDedup {
        names.push(derived::history(plan, &PostgresDialect).name);
    }
    names
}
