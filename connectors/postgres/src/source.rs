//! PostgreSQL as a source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    Checkpoint, Completion, CrashPoint, Cursor, CursorKey, Error, KeyDigests, KeyTable,
    LogicalType, NullCursor, Output, Partition, Plan, ReadMode, Result, Source, SourceDelivery,
    State, Table, TableName, TablePlan, WriteMode, crash,
};
use highwater_sql::boundary::InclusiveCursor;
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::begin::{SNAPSHOT, begin, missing};
use crate::catalog::{self, Relation, RelationKind, Selection, UserTypes, get};
use crate::conninfo::Target;
use crate::first_load::{self, FirstLoad, Pace};
use crate::horizon::{self, Clock, Probe, SavedVersions, TableNow, VersionRead, durable};
use crate::key_digests::{PostgresKeys, Side};
use crate::pool::Pool;
use crate::read::{self, Filter, VersionFields};
use crate::session::{ENCODING_OF_NONE, Session, literal, quote};
use crate::storage;
use crate::types::{COPY, Wire, wire};

/// One database that tables are read from.
pub(crate) struct PostgresSource {
    pool: Pool,
    schemas: Vec<String>,
    /// How large tables are read.
    pub(crate) pace: Pace,
    /// What kind of relation each table is, found by `discover` and `review`.
    kinds: Mutex<HashMap<TableName, (RelationKind, bool)>>,
    /// What `discover` found, for the first `review` of each table: the plan is made of that.
    found: Mutex<Found>,
}

type Found = (HashMap<TableName, Relation>, Arc<UserTypes>);

impl PostgresSource {
    pub(crate) fn new(target: Target, schemas: Vec<String>, pace: Pace) -> Self {
        let settings = vec![
            // Types of `public` are named without their schema, as its tables are.
            ("search_path", "public".to_owned()),
            // A database without an encoding may hold any bytes. They come as they are, so that a
            // text that is not UTF-8 is found with its column.
            (ENCODING_OF_NONE, "SQL_ASCII".to_owned()),
        ];
        let pool = Pool::new(target, settings);
        Self { pool, schemas, pace, kinds: Mutex::default(), found: Mutex::default() }
    }

    pub(crate) async fn session(&self) -> Result<Session> {
        self.pool.session(None).await
    }

    fn remember(&self, relations: &[Relation]) {
        if let Ok(mut kinds) = self.kinds.lock() {
            kinds.extend(relations.iter().map(|r| (r.name.clone(), (r.kind, r.has_row_versions))));
        }
    }

    fn take_found(&self, name: &TableName) -> Option<(Relation, Arc<UserTypes>)> {
        let mut found = self.found.lock().ok()?;
        let relation = found.0.remove(name)?;
        Some((relation, Arc::clone(&found.1)))
    }

    async fn full(&self, table: &TablePlan, output: &Output) -> Result<Completion> {
        let session = self.session().await?;
        begin(&session, table.name()).await?;
        let (relation, types) = describe(&session, table.name()).await?;
        let wires = read::wires(&table.source, &relation, &types)?;
        crash::at(CrashPoint::ReadSnapshot);
        let done = first_load::whole(self, session, table, relation, wires, output).await?;
        crash::at(CrashPoint::ReadRows);
        Ok(done)
    }

    async fn incremental(
        &self,
        table: &TablePlan,
        state: &State,
        output: &Output,
    ) -> Result<Completion> {
        let saved = state.table_cursor(table.name());
        let session = self.session().await?;
        // Before the snapshot: see `horizon::probe`.
        let probe = horizon::probe(&session).await?;
        begin(&session, table.name()).await?;
        // All on the way at once, in this order.
        let (snapshot, written, (relation, types)) = tokio::try_join!(
            biased;
            horizon::snapshot(&session),
            durable::written(&session),
            describe(&session, table.name()),
        )?;
        let wires = read::wires(&table.source, &relation, &types)?;
        let cursor = CursorColumn::find(table, &relation, &types)?;
        if saved.is_none() && relation.has_row_versions {
            let key = CursorKey::Partition(table.name().clone(), FULL_REFRESH.to_owned());
            let source = self;
            let load =
                FirstLoad { source, table, relation, wires, cursor, probe, snapshot, written };
            return load.read(session, state.cursors.get(&key), output).await;
        }
        let (hidden, condition, mut filter) = if relation.has_row_versions {
            let saved = saved.map(|saved| SavedVersions::parse(saved, table.name())).transpose()?;
            let partitions = children(&session, &relation).await?;
            let oids: Vec<u32> = partitions.iter().copied().chain([relation.oid]).collect();
            let files = match relation.kind {
                // A refresh makes every row new, and the label says so.
                RelationKind::MaterializedView => storage::Files::new(),
                _ => storage::files(&session, &oids).await?,
            };
            if let Some(saved) = &saved {
                let quoted = read::quoted_name(&relation);
                storage::check_not_rewritten(&session, table, &quoted, saved, &files).await?;
            }
            let now = TableNow {
                oid: relation.oid,
                partitions,
                files,
                nulls: table.null_cursor,
                cursor_field: cursor.name.clone(),
                clock: cursor.clock,
            };
            let read = VersionRead::new(table.name(), saved, &probe, snapshot, now)?;
            versions(table, &cursor, read)?
        } else {
            contents(table, &cursor, saved, &probe)?
        };
        crash::at(CrashPoint::ReadSnapshot);
        let statement =
            read::copy_statement(&table.source, &wires, &hidden, &relation, condition.as_deref());
        let hidden = hidden.len();
        let done =
            read::copy(&session, &statement, table, &wires, hidden, &mut filter, output).await?;
        crash::at(CrashPoint::ReadRows);
        if done == Completion::Complete {
            session.run("end the read", "COMMIT").await?;
            if matches!(&filter, Filter::Versions { read, .. } if read.has_moved()) {
                durable::wait(&session, &written, false).await?;
            }
            session.give_back();
            let position = position(filter, table)?;
            let key = CursorKey::Table(table.name().clone());
            output.checkpoint(Checkpoint::of(key, position)).await?;
        }
        Ok(done)
    }
}

/// Ends the transaction of a read that is complete, and leaves the session for the next use.
pub(crate) async fn end(session: Session) -> Result<()> {
    session.run("end the read", "COMMIT").await?;
    session.give_back();
    Ok(())
}

/// A table as it is in this transaction.
async fn describe(session: &Session, name: &TableName) -> Result<(Relation, UserTypes)> {
    let (mut relations, types) =
        catalog::relations(session, Selection::Names(std::slice::from_ref(name))).await?;
    match relations.pop() {
        Some(relation) => Ok((relation, types)),
        None => Err(missing(name)),
    }
}

/// The partitions and inheriting tables below a table, in the order of their ids.
pub(crate) async fn children(session: &Session, relation: &Relation) -> Result<Vec<u32>> {
    if !relation.may_have_children {
        return Ok(Vec::new());
    }
    let statement = "
        WITH RECURSIVE below AS (
          SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1
          UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below b ON i.inhparent = b.inhrelid
        ) SELECT inhrelid FROM below ORDER BY 1";
    let rows = catalog::rows(session, statement, &[(&relation.oid, Type::OID)]).await?;
    rows.iter().map(|row| get(row, 0)).collect()
}

/// The cursor column as SQL sees it.
pub(crate) struct CursorColumn {
    pub(crate) name: String,
    wire: Wire,
    pub(crate) clock: Clock,
}

impl CursorColumn {
    /// # Errors
    /// `Config` when there is none, or its type has no order.
    fn find(table: &TablePlan, relation: &Relation, types: &UserTypes) -> Result<Self> {
        let name = table.cursor_field.as_deref().ok_or_else(|| {
            Error::config("An incremental read of a PostgreSQL table needs a cursor field")
                .context("table", table.name())
                .hint("cursor: updated_at")
        })?;
        let column = relation.columns.iter().find(|c| c.name == name).ok_or_else(|| {
            Error::config("The cursor field is not a column of the table")
                .context("table", table.name())
                .context("column", name)
        })?;
        let wire = wire(column, types);
        let field = crate::types::field(column, types);
        if matches!(wire, Wire::Cast | Wire::Inet) || !LogicalType::of(&field)?.has_order() {
            return Err(Error::config("The cursor field has a type without an order")
                .context("table", table.name())
                .context("column", name)
                .context("type", &column.declared)
                .hint(
                    "choose a date, a time stamp, a number or a text, or `read_mode: full_refresh`",
                ));
        }
        let clock = match (&wire, relation.kind) {
            // Its rows appear when it is refreshed, not when they are written.
            (_, RelationKind::MaterializedView) => Clock::None,
            (Wire::TimestampTz, _) => Clock::Instant,
            (Wire::Timestamp, _) => Clock::Local,
            (Wire::Date, _) => Clock::Day,
            _ => Clock::None,
        };
        Ok(Self { name: name.to_owned(), wire, clock })
    }
}

type Prepared = (Vec<String>, Option<String>, Filter);

/// Whether rows are matched by a key, so that sending them again changes nothing.
pub(crate) fn is_keyed(table: &TablePlan) -> bool {
    matches!(table.write_mode, WriteMode::Overwrite) && !table.target.primary_key.is_empty()
}

/// The condition that a row is in one of these relations; `None` where there are none.
pub(crate) fn in_relations(oids: &[u32]) -> Option<String> {
    let list: Vec<String> = oids.iter().map(u32::to_string).collect();
    let list = list.join(",");
    (!oids.is_empty()).then(|| format!("tableoid = ANY ('{{{list}}}'::pg_catalog.oid[])"))
}

/// The condition that leaves a partition that is attached right now to the next sync as a whole.
pub(crate) fn in_known_partitions(read: &VersionRead) -> Option<String> {
    if read.partitions().is_empty() {
        return None;
    }
    let known: Vec<u32> = read.partitions().iter().copied().chain([read.oid()]).collect();
    in_relations(&known)
}

/// What a read by row versions has after the columns; `fresh` are partitions in which everything
/// is new.
pub(crate) fn hidden_fields(
    table: &TablePlan,
    cursor: &CursorColumn,
    fresh: &[u32],
) -> (Vec<String>, VersionFields) {
    let column = quote(&cursor.name);
    let mut hidden = vec!["xmin".to_owned()];
    let mut fields = VersionFields::default();
    if let Some(in_fresh) = in_relations(fresh) {
        fields.in_new_partition = Some(hidden.len());
        hidden.push(in_fresh);
    }
    if table.null_cursor != NullCursor::Include {
        fields.is_null = Some(hidden.len());
        hidden.push(format!("({column} IS NULL)"));
    }
    if cursor.clock != Clock::None {
        fields.cursor = Some(hidden.len());
        hidden.push(column);
    }
    (hidden, fields)
}

/// Columns, condition and filter of a read by row versions.
fn versions(table: &TablePlan, cursor: &CursorColumn, read: VersionRead) -> Result<Prepared> {
    let mut conditions = Vec::new();
    if read.is_wrapped() {
        if !is_keyed(table) {
            return Err(Error::schema(
                "The last sync is so long ago that transaction ids cannot be compared",
            )
            .context("table", table.name())
            .hint(horizon::reset_hint(table.name())));
        }
    } else {
        conditions.extend(read.version_condition());
    }
    conditions.extend(read.cursor_condition(&cursor.name, cursor.clock, table.lookback));
    let fresh = read.new_partitions();
    let (hidden, fields) = hidden_fields(table, cursor, &fresh);
    if let Some(in_fresh) = in_relations(&fresh) {
        conditions = vec![format!("({} OR {in_fresh})", all(&conditions))];
    }
    conditions.extend(in_known_partitions(&read));
    let condition = (!conditions.is_empty()).then(|| all(&conditions));
    let filter = Filter::Versions {
        read: Box::new(read),
        fields,
        null_cursor: table.null_cursor,
        cursor_field: cursor.name.clone(),
        nulls_left_out: 0,
    };
    Ok((hidden, condition, filter))
}

fn all(conditions: &[String]) -> String {
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// Columns, condition and filter of a read that compares contents.
fn contents(
    table: &TablePlan,
    cursor: &CursorColumn,
    saved: Option<&Cursor>,
    probe: &Probe,
) -> Result<Prepared> {
    let inclusive = InclusiveCursor::new(table, saved, probe.horizon)?;
    let column = match cursor.wire {
        Wire::Text => format!("{} COLLATE pg_catalog.\"C\"", quote(&cursor.name)),
        _ => quote(&cursor.name),
    };
    let nulls = format!("{} IS NULL", quote(&cursor.name));
    let condition = match inclusive.floor_text(0)? {
        Some(floor) if inclusive.reads_nulls() => {
            Some(format!("({column} >= {} OR {nulls})", literal(&floor)))
        }
        Some(floor) => Some(format!("{column} >= {}", literal(&floor))),
        None => None,
    };
    Ok((Vec::new(), condition, Filter::Contents(Box::new(inclusive))))
}

/// The position after a complete read.
fn position(filter: Filter, table: &TablePlan) -> Result<Value> {
    let left_out = match &filter {
        Filter::Versions { nulls_left_out, .. } => *nulls_left_out,
        Filter::Contents(cursor) => cursor.excluded(),
        Filter::All => 0,
    };
    say_left_out(left_out, table);
    match filter {
        Filter::Versions { read, .. } => read.finish(),
        Filter::Contents(cursor) => cursor.finish(),
        Filter::All => Ok(Value::Null),
    }
}

/// Says how many rows a read has left out.
pub(crate) fn say_left_out(rows: u64, table: &TablePlan) {
    if rows > 0 {
        tracing::info!(table = %table.name(), rows, "rows without a cursor were left out");
    }
}

#[async_trait]
impl Source for PostgresSource {
    async fn check(&self) -> Result<()> {
        let session = self.session().await?;
        session.run("read", "SELECT 1").await?;
        session.give_back();
        Ok(())
    }

    async fn place(&self) -> Result<Option<String>> {
        let session = self.session().await?;
        let place = session.place().await?;
        session.give_back();
        Ok(Some(place))
    }

    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        let session = self.session().await?;
        // One snapshot for all catalogs.
        session.run("begin", SNAPSHOT).await?;
        let (relations, types) =
            catalog::relations(&session, Selection::Schemas(&self.schemas)).await?;
        session.run("end the look", "COMMIT").await?;
        session.give_back();
        self.remember(&relations);
        let tables = relations.iter().map(|relation| relation.table(&types)).collect();
        if let Ok(mut found) = self.found.lock() {
            let named = relations.into_iter().map(|relation| (relation.name.clone(), relation));
            *found = (named.collect(), Arc::new(types));
        }
        Ok(tables)
    }

    fn delivery(&self, table: &TablePlan) -> SourceDelivery {
        if table.read_mode == ReadMode::FullRefresh {
            return SourceDelivery::Once;
        }
        let kind = self.kinds.lock().ok().and_then(|kinds| kinds.get(table.name()).copied());
        match kind {
            Some((RelationKind::MaterializedView, true)) => SourceDelivery::Again(
                "a refresh of the materialized view makes every row new".to_owned(),
            ),
            Some((_, true)) => SourceDelivery::Once,
            Some((RelationKind::View, _)) => SourceDelivery::Again(
                "a view has no row versions, rows are recognised by their content".to_owned(),
            ),
            Some(_) => SourceDelivery::Again(
                "the table has no row versions, rows are recognised by their content".to_owned(),
            ),
            None => SourceDelivery::Again("the table has not been looked at".to_owned()),
        }
    }

    fn wire_form(&self, table: &TablePlan) -> Option<&'static str> {
        let kind = self.kinds.lock().ok().and_then(|kinds| kinds.get(table.name()).copied());
        // Where contents decide what is new, rows have to be columns.
        let by_versions = kind.is_some_and(|(_, has_row_versions)| has_row_versions);
        let is_whole = table.read_mode == ReadMode::FullRefresh;
        let as_sent = table.source.schema.fields().iter().all(|f| read::is_read_as_sent(f));
        ((is_whole || by_versions) && as_sent).then_some(COPY)
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        let session = self.session().await?;
        let (relation, types) = match self.take_found(table.name()) {
            Some(found) => found,
            None => {
                let (relation, types) = describe(&session, table.name()).await?;
                (relation, Arc::new(types))
            }
        };
        self.remember(std::slice::from_ref(&relation));
        read::wires(&table.source, &relation, &types)?;
        let mut notes = Vec::new();
        if relation.row_security {
            notes.push(
                "Row security is active for this role: rows that it hides are not read".to_owned(),
            );
        }
        if table.read_mode == ReadMode::FullRefresh {
            session.give_back();
            return Ok(notes);
        }
        let cursor = CursorColumn::find(table, &relation, &types)?;
        let probe = horizon::probe(&session).await?;
        session.give_back();
        notes.extend(horizon_notes(&relation, &cursor, &probe, table.lookback));
        Ok(notes)
    }

    async fn close(&self) -> Result<()> {
        self.pool.close();
        Ok(())
    }

    fn key_digests(&self, table: &KeyTable) -> Option<Box<dyn KeyDigests>> {
        Some(Box::new(PostgresKeys::new(Side::Source(self.pool.clone()), table)))
    }

    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        Ok(plan.tables.keys().map(Partition::whole).collect())
    }

    async fn read(
        &self,
        plan: &Plan,
        partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        for name in &partition.tables {
            let table = plan.table(name)?;
            let done = match table.read_mode {
                ReadMode::FullRefresh => self.full(table, &output).await?,
                ReadMode::Incremental => self.incremental(table, state, &output).await?,
            };
            if done == Completion::Stopped {
                return Ok(done);
            }
        }
        Ok(Completion::Complete)
    }
}

/// What the user should know about how new rows are found.
fn horizon_notes(
    relation: &Relation,
    cursor: &CursorColumn,
    probe: &Probe,
    lookback: u64,
) -> Vec<String> {
    const LONG_MICROS: u64 = 60_000_000;
    let name = &cursor.name;
    let mut notes = Vec::new();
    if !relation.has_row_versions {
        notes.push(format!(
            "Nothing tells when a row of this relation was committed: a row that is committed after a sync that already saw a greater `{name}` is missed; give `lookback` longer than your longest transaction"
        ));
        return notes;
    }
    if relation.kind == RelationKind::MaterializedView {
        notes.push(
            "Every refresh of the materialized view makes all its rows new; they are sent again"
                .to_owned(),
        );
        return notes;
    }
    if cursor.clock == Clock::None {
        notes.push(format!(
            "No clock writes `{name}`, so every sync scans the whole table; only new row versions are sent"
        ));
        return notes;
    }
    if probe.standby {
        notes.push("The source is a standby, where open transactions of the primary cannot be seen: every sync scans the whole table, and only new row versions are sent".to_owned());
        return notes;
    }
    if probe.sessions_hidden {
        notes.push("This role may not see the transactions of other roles: every sync scans the whole table, and only new row versions are sent; `GRANT pg_read_all_stats` to it makes syncs cheaper".to_owned());
        return notes;
    }
    if let Some(oldest) = probe.oldest_transaction
        && probe.now.micros_since(oldest) > LONG_MICROS
    {
        notes.push(format!(
            "A transaction is open since {}: nothing is lost, and syncs read again from there until it ends",
            oldest.to_rfc3339()
        ));
    }
    if lookback == 0 {
        notes.push(format!(
            "A row is found if its `{name}` is not before the greatest one delivered, or not before the start of the transaction that writes it (now(), a trigger); if it may be, give `lookback`"
        ));
    }
    notes
}
