//! PostgreSQL as a destination: what the engine asks of it outside of a commit.

use std::collections::BTreeSet;
use std::sync::Mutex;

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::plan::{SOURCE_NAME, SYNC_TIME};
use highwater_core::types::type_name;
use highwater_core::{
    Capabilities, Committed, Destination, DestinationDelivery, Error, ExistingTable, Fence,
    KeyDigests, KeyTable, Output, Partition, Plan, ReadMode, Result, SchemaChange, StateStore,
    Table, TableName, TablePlan, TableRecord, WriteMode, Writer,
};
use highwater_sql::sweep::Begun;
use highwater_sql::{Dialect, derived, merge};
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::{self, Selection, get};
use crate::changes::{self, Recreated};
use crate::conninfo::Target;
use crate::dialect::{self, PostgresDialect, STATE_SCHEMA};
use crate::key_digests::{PostgresKeys, Side};
use crate::outcome;
use crate::read_back;
use crate::rebuild;
use crate::session::{Session, quote};
use crate::store::{self, PostgresStore};
use crate::stored;
use crate::target::Connector;
use crate::typmod;
use crate::upkeep;
use crate::writer::{PostgresWriter, check_fence, instant, seconds_before};

/// What a sync needs, as one row: whether the session is read-only; what is lacking for the state
/// and for the tables (nothing, the right to create a schema in the `database`, or rights in the
/// `schema`); role, database and the schema that tables are created in.
const RIGHTS: &str = "
    SELECT pg_catalog.current_setting('transaction_read_only') = 'on',
           CASE
             WHEN s.oid IS NULL THEN CASE WHEN d.may THEN '' ELSE 'database' END
             WHEN NOT pg_catalog.has_schema_privilege(s.oid, 'USAGE') THEN 'schema'
             WHEN NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c
                              WHERE c.relnamespace = s.oid AND c.relkind = 'r')
               THEN CASE WHEN pg_catalog.has_schema_privilege(s.oid, 'CREATE')
                         THEN '' ELSE 'schema' END
             WHEN (SELECT bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                               AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
                               AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                               AND pg_catalog.has_table_privilege(c.oid, 'DELETE'))
                   FROM pg_catalog.pg_class c WHERE c.relnamespace = s.oid AND c.relkind = 'r')
               THEN '' ELSE 'schema' END,
           CASE
             WHEN t.oid IS NULL THEN CASE WHEN d.may AND w.name IS NOT NULL THEN '' ELSE 'database' END
             WHEN pg_catalog.has_schema_privilege(t.oid, 'CREATE')
              AND pg_catalog.has_schema_privilege(t.oid, 'USAGE') THEN '' ELSE 'schema' END,
           current_user::text, pg_catalog.current_database()::text, w.name
    FROM (SELECT coalesce($2, pg_catalog.current_schema()::text) AS name) w
    CROSS JOIN (SELECT pg_catalog.has_database_privilege(
                         pg_catalog.current_database(), 'CREATE') AS may) d
    LEFT JOIN pg_catalog.pg_namespace s ON s.nspname = $1
    LEFT JOIN pg_catalog.pg_namespace t ON t.nspname = w.name";

/// One database that tables are written into.
pub(crate) struct PostgresDestination {
    connector: Connector,
    store: PostgresStore,
    /// Tables that this run has finished.
    finished: Mutex<BTreeSet<TableName>>,
    recreated: Recreated,
    begun: Begun,
}

impl PostgresDestination {
    pub(crate) fn new(target: Target, schema: Option<String>) -> Self {
        let target = Target { writes: true, ..target };
        let connector = Connector::new(target, schema);
        Self {
            store: PostgresStore::new(connector.clone()),
            connector,
            finished: Mutex::default(),
            recreated: Recreated::default(),
            begun: Begun::default(),
        }
    }

    /// Whether this run has finished the table: another time there is nothing to swap or sweep.
    async fn was_finished(
        &self,
        session: &Session,
        plan: &Plan,
        table: &TablePlan,
        fence: &Fence,
    ) -> Result<bool> {
        if self.finished.lock().is_ok_and(|finished| finished.contains(table.name())) {
            return Ok(true);
        }
        if !plan.state_with_data {
            return Ok(false);
        }
        Ok(store::finished_epoch(session, fence, table.name()).await? == Some(fence.epoch))
    }

    /// Whether a finish whose reply was lost has happened.
    async fn is_finished(&self, backend: i32, fence: &Fence, table: &TablePlan) -> Result<bool> {
        let session = self.connector.writer_session(fence).await?;
        outcome::is_finished(&session, backend, fence, table.name()).await
    }

    /// What [`Destination::finish`] does to a table in its transaction.
    async fn apply(
        &self,
        session: &Session,
        plan: &Plan,
        table: &TablePlan,
        fence: &Fence,
    ) -> Result<Committed> {
        let made = self.begun.has(plan, table.name());
        let finished = self.was_finished(session, plan, table, fence).await?;
        let mut committed = Committed::default();
        if table.rebuild {
            if !finished {
                committed.deleted = rebuild::swap(session, plan, table, fence, made).await?;
            }
        } else {
            if !table.changes.is_empty() {
                changes::lock(session, &table.target.name).await?;
            }
            // A table that no partition was read of has no writer that would have made it.
            changes::apply(session, plan, table, &self.recreated).await?;
            changes::make_history(session, table).await?;
        }
        if table.write_mode == WriteMode::OverwriteDeleteStale
            && table.read_mode == ReadMode::FullRefresh
        {
            committed += delete_stale(session, plan, table).await?;
        }
        if derived::remembers_keys(table) && !finished {
            committed.deleted += upkeep::end_sweep(session, plan, table, fence, made).await?;
        }
        if let (WriteMode::AppendDedup, Some(seconds)) =
            (table.write_mode, table.history_retention_seconds)
        {
            let before = seconds_before(plan.started_at, seconds);
            let statement = merge::prune_history(&PostgresDialect, table, instant);
            let pruned = session.execute(&statement, &[&before]).await;
            pruned.map_err(|e| session.error("prune the history", e))?;
        }
        Ok(committed)
    }

    /// Does `work` in one transaction, under the fence.
    async fn in_transaction<T>(
        &self,
        plan: &Plan,
        fence: &Fence,
        work: impl AsyncFnOnce(&Session) -> Result<T>,
    ) -> Result<T> {
        let session = self.connector.writer_session(fence).await?;
        session.run("begin", "BEGIN").await?;
        if plan.state_with_data {
            check_fence(&session, fence).await?;
        }
        let done = work(&session).await?;
        session.run("commit", "COMMIT").await?;
        session.give_back();
        Ok(done)
    }
}

/// Whether a column is made with the type that PostgreSQL declared at the source, and loaded in
/// that type's own binary form.
fn is_loaded_as_sent(field: &Field) -> bool {
    let declared = dialect::declared(field);
    let made = PostgresDialect.column_type(field);
    declared.is_some() && made.is_ok_and(|made| declared == Some(&made)) && !dialect::is_cast(field)
}

/// Removes the rows of this source that this run has not brought.
async fn delete_stale(session: &Session, plan: &Plan, table: &TablePlan) -> Result<Committed> {
    let (time, source) = (quote(SYNC_TIME), quote(SOURCE_NAME));
    let statement = format!(
        "DELETE FROM {} WHERE {source} = $1 AND {time} < {}",
        PostgresDialect.table(&table.target.name),
        instant("$2"),
    );
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&plan.sync, Type::TEXT), (&plan.started_at.0, Type::INT8)];
    let removed = session.execute_typed(&statement, &parameters).await;
    let deleted = removed
        .map_err(|e| session.error("remove stale rows", e).context("table", &table.target.name))?;
    upkeep::check_deleted(session, plan, table, deleted).await?;
    Ok(Committed { written: 0, unchanged: 0, deleted })
}

#[async_trait]
impl Destination for PostgresDestination {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            describes_tables: true,
            commits_later: false,
            takes_records: None,
            write_modes: WriteMode::ALL,
            write_modes_note: "",
            delivery: DestinationDelivery::Atomic,
            identifier_bytes_max: PostgresDialect.identifier_bytes_max(),
            writers_max: 16,
            case_sensitive_names: true,
        }
    }

    async fn check(&self) -> Result<()> {
        let session = self.connector.session().await?;
        let schema = self.connector.schema();
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&STATE_SCHEMA, Type::TEXT), (&schema, Type::TEXT)];
        let rows = catalog::rows(&session, RIGHTS, &parameters).await?;
        session.give_back();
        let Some(row) = rows.first() else {
            return Err(Error::internal("A look-up of rights returned nothing"));
        };
        if get(row, 0)? {
            return Err(Error::config("The database can only be read")
                .hint("connect to the primary server, as a role that may write"));
        }
        let user = quote(get(row, 3)?);
        let database: &str = get(row, 4)?;
        match get::<&str>(row, 1)? {
            "" => {}
            "database" => return Err(Error::config("The role may not create the schema that keeps the state")
                .context("schema", STATE_SCHEMA)
                .hint(format!("GRANT CREATE ON DATABASE {} TO {user}", quote(database)))),
            _ => return Err(Error::config("The role may not use the schema that keeps the state")
                .context("schema", STATE_SCHEMA)
                .hint(format!(
                    "GRANT USAGE, CREATE ON SCHEMA {STATE_SCHEMA} TO {user}; \
                     GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {STATE_SCHEMA} TO {user}"
                ))),
        }
        let schema: Option<&str> = get(row, 5)?;
        match (get::<&str>(row, 2)?, schema) {
            ("", _) => Ok(()),
            ("database", Some(schema)) => Err(Error::config("The role may not create the schema")
                .context("schema", schema)
                .hint(format!("GRANT CREATE ON DATABASE {} TO {user}", quote(database)))),
            (_, Some(schema)) => Err(Error::config("The role may not create tables in the schema")
                .context("schema", schema)
                .hint(format!(
                    "GRANT USAGE, CREATE ON SCHEMA {} TO {user}, or set `schema: NAME`",
                    quote(schema)
                ))),
            (_, None) => Err(Error::config("No schema of the role's search_path exists")
                .hint("set `schema: NAME`: it is created if it does not exist")),
        }
    }

    fn target_name(&self, source: &TableName) -> TableName {
        TableName {
            namespace: self.connector.schema().map(str::to_owned),
            name: source.name.clone(),
        }
    }

    fn takes_wire_form(&self, form: &str, table: &TablePlan) -> bool {
        form == crate::types::COPY
            && table.target.schema.fields().iter().all(|f| is_loaded_as_sent(f))
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        let session = self.connector.session().await?;
        let mut wanted = Vec::with_capacity(names.len());
        for name in names {
            // Without any schema to create tables in there is no table either; the commit says so.
            wanted
                .push(changes::with_schema(&session, name).await.unwrap_or_else(|_| name.clone()));
        }
        let (relations, types) = catalog::relations(&session, Selection::Names(&wanted)).await?;
        session.give_back();
        let described = names.iter().zip(&wanted).map(|(name, wanted)| {
            let found = catalog::table_name(catalog::schema_of(wanted), &wanted.name);
            let Some(relation) = relations.iter().find(|relation| relation.name == found) else {
                return Ok(None);
            };
            changes::check_kind(relation)?;
            let mut table = relation.table(&types);
            table.name = name.clone();
            Ok(Some(ExistingTable { table, identity: Some(relation.oid.to_string()) }))
        });
        described.collect()
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        stored::stored_field(field)
    }

    fn holds(&self, wanted: &Field, present: &Field) -> bool {
        typmod::holds(wanted, present)
    }

    async fn place(&self) -> Result<Option<String>> {
        let session = self.connector.session().await?;
        let place = session.place().await?;
        session.give_back();
        Ok(Some(place))
    }

    fn type_name(&self, field: &Field) -> String {
        PostgresDialect.column_type(field).unwrap_or_else(|_| type_name(field))
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        changes::statements(plan, change).unwrap_or_default()
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        let session = self.connector.session().await?;
        let mut ran = Vec::new();
        for table in plan.tables.values() {
            changes::add_labels(&session, table).await?;
            session.run("begin", "BEGIN").await?;
            changes::lock(&session, &table.target.name).await?;
            ran.extend(changes::apply(&session, plan, table, &self.recreated).await?);
            if !table.rebuild {
                ran.extend(changes::make_history(&session, table).await?);
            }
            session.run("commit", "COMMIT").await?;
        }
        session.give_back();
        Ok(ran)
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        let (connector, recreated) = (self.connector.clone(), self.recreated.clone());
        let begun = self.begun.clone();
        Ok(Box::new(PostgresWriter::new(connector, plan, partition, fence, recreated, begun)))
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        Some(Box::new(PostgresKeys::new(Side::Destination(self.connector.clone()), table)))
    }

    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let session = self.connector.writer_session(fence).await?;
        let backend = session.backend().await?;
        if plan.state_with_data {
            // Both on the way at once, in this order.
            tokio::try_join!(
                biased;
                session.run("begin", "BEGIN"),
                check_fence(&session, fence),
            )?;
        } else {
            session.run("begin", "BEGIN").await?;
        }
        let committed = self.apply(&session, plan, table, fence).await?;
        if plan.state_with_data {
            let identity = changes::identity(&session, &table.target.name).await?;
            let record = TableRecord {
                // Records of deletions have taken numbers of the arrival order.
                rows_total: if derived::remembers_keys(table) { committed.deleted } else { 0 },
                ..TableRecord::finished(table, identity, fence.epoch, plan.started_at)
            };
            store::save_record(&session, fence, table.name(), &record).await?;
        }
        crash::at(CrashPoint::FinishApplied);
        if let Err(error) = session.batch_execute("COMMIT").await {
            let is_lost = plan.state_with_data && outcome::is_lost(&error);
            let error = session.error("commit", error);
            drop(session);
            if !is_lost || !self.is_finished(backend, fence, table).await? {
                return Err(error);
            }
        } else {
            session.give_back();
        }
        if let Ok(mut finished) = self.finished.lock() {
            finished.insert(table.name().clone());
        }
        Ok(committed)
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let session = self.connector.session().await?;
        let read = |output| read_back::all(session, table, output);
        highwater_sql::read_back::send_as(table, &output, read).await
    }

    async fn compact_history(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<u64> {
        self.in_transaction(plan, fence, async |session| upkeep::compact(session, table).await)
            .await
    }

    async fn clear(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        self.in_transaction(plan, fence, async |session| {
            upkeep::clear(session, plan, table, fence).await
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        self.connector.close();
        Ok(())
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(&self.store)
    }
}
