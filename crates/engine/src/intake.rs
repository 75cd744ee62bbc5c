//! Takes in tables and rows that come from outside and not from a source: what others send to one
//! destination through us.
//!
//! Nobody plans here. A table is compared with what the destination has when it comes, under the
//! same rules as in a sync, and made to fit at once; rows are committed when the caller says so.
//! There are no cursors and no lease: whoever sends the rows keeps track of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::{Field, Schema};
use highwater_core::plan::{SOURCE_NAME, SYNC_TIME};
use highwater_core::{
    Batch, Checkpoint, CommittedTables, Deletion, Destination, Error, ErrorKind, Fence, Guarantee,
    Instant, Op, Partition, Plan, ReadMode, Result, SchemaChange, Table, TableName, TablePlan,
    WriteMode, Writer,
};
use serde_json::Value;

use crate::options::Target;
use crate::{adopt, schema, state_table};

/// What somebody sends to a destination: tables, rows, deletions, in the order of the calls.
///
/// Rows are visible and durable after [`Intake::commit`], all of them in one step where the
/// destination can. After an error rows that were not committed are gone; what was committed stays.
/// Dropping it forgets what was not committed.
pub struct Intake {
    destination: Arc<dyn Destination>,
    name: String,
    tables: BTreeMap<TableName, Known>,
    open: Option<Open>,
    /// Whether something waits for the commit.
    dirty: bool,
    changes: u64,
    started_at: Instant,
}

/// A table and how it is written.
struct Known {
    plan: TablePlan,
    /// Whether somebody said what its columns are; else they are as the destination has them.
    described: bool,
}

/// The writer that is open, and the tables that it knows.
struct Open {
    tables: BTreeSet<TableName>,
    writer: Box<dyn Writer>,
}

impl Intake {
    /// Takes in for the destination of `target`, of which nothing else counts but its name.
    /// Connects to nothing yet.
    pub fn new(target: Target) -> Self {
        Self {
            destination: target.destination,
            name: target.name,
            tables: BTreeMap::new(),
            open: None,
            dirty: false,
            changes: 0,
            started_at: Instant::now(),
        }
    }

    /// Makes the destination's table fit `table`, at once; what was written before is committed
    /// first if that takes a change. Without `forced` only changes are made that lose nothing; with
    /// it a table that would lose something is dropped with its rows and made anew.
    ///
    /// # Errors
    /// `Schema` naming the column when the change would lose something; `Unsupported` for a column
    /// that the destination cannot store.
    pub async fn migrate(&mut self, table: &Table, forced: bool) -> Result<()> {
        let existing = self.existing(&table.name).await?;
        let mut plan = self.plan_of(table.clone());
        schema::check_column_names(&plan.target, &self.destination.capabilities())?;
        if let Some(existing) = &existing {
            adopt::types(&mut plan, existing);
        }
        let changes = schema::changes(self.destination.as_ref(), &plan, existing.as_ref());
        let changes = changes.and_then(|changes| {
            existing.as_ref().map_or(Ok(()), |there| same_key(&plan, there)).map(|()| changes)
        });
        plan.changes = match changes {
            Err(error) if error.kind() == ErrorKind::Schema && forced => {
                vec![SchemaChange::Recreate]
            }
            Err(error) if error.kind() == ErrorKind::Schema => {
                return Err(error.hint(
                    "migrate_mode: forced (drops the table with its rows), or change it yourself",
                ));
            }
            changes => changes?,
        };
        if !plan.changes.is_empty() {
            self.commit().await?;
            self.open = None;
            self.changes += 1;
            let plan = self.plan([&plan]);
            self.destination.migrate(&plan).await?;
        }
        plan.changes.clear();
        self.know(plan, true).await
    }

    /// Takes rows: they replace those with their primary key, or are added where the table has
    /// none. A table that was not migrated here is taken as the destination has it. Columns are
    /// matched by name; one that is missing is NULL.
    ///
    /// # Errors
    /// `Schema` when the table does not exist or lacks a column, `Data` for a value that does not
    /// fit.
    pub async fn write(&mut self, table: &TableName, rows: RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if !self.tables.get(table).is_some_and(|known| known.described) {
            let plan = self.found(table, &rows).await?;
            self.know(plan, true).await?;
        }
        let Some(known) = self.tables.get(table) else { return Err(unknown(table)) };
        let rows = shape(&known.plan.target, &rows).map_err(|e| e.context("table", table))?;
        let batch = Batch { table: Arc::clone(&known.plan.source), op: Op::Upsert, rows };
        let writer = self.writer(&[table]).await?;
        let written = writer.write(batch).await;
        self.settled(written)
    }

    /// Removes rows by a condition: what was written before, here and earlier, and nothing that is
    /// written afterwards. Tables that do not exist have no rows to remove.
    ///
    /// # Errors
    /// `Unsupported` where rows cannot be removed.
    pub async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        let relations = deletion.relations.iter().map(|relation| &relation.table);
        let mut there = BTreeSet::new();
        for table in [&deletion.table].into_iter().chain(relations) {
            if self.knows(table).await? {
                there.insert(table.clone());
            }
        }
        if !there.contains(&deletion.table) {
            return Ok(());
        }
        let mut deletion = deletion.clone();
        deletion.relations.retain(|relation| there.contains(&relation.table));
        let tables: Vec<_> = there.iter().collect();
        let writer = self.writer(&tables).await?;
        let deleted = writer.delete(&deletion).await;
        self.settled(deleted)
    }

    /// Commits, and removes the rows of a table that a source brought before `before`.
    ///
    /// # Errors
    /// `Unsupported` where rows cannot be removed; `Config` when the table does not say when and
    /// from where its rows came.
    pub async fn delete_stale(
        &mut self,
        table: &TableName,
        source_name: &str,
        before: Instant,
    ) -> Result<()> {
        self.commit().await?;
        let capabilities = self.destination.capabilities();
        if !capabilities.write_modes.contains(&WriteMode::OverwriteDeleteStale) {
            return Err(Error::unsupported("Stale rows cannot be removed at this destination")
                .context("table", table)
                .hint("write_mode: append"));
        }
        if !self.knows(table).await? {
            return Ok(());
        }
        let Some(known) = self.tables.get(table) else { return Ok(()) };
        let mut stale = known.plan.clone();
        let columns = [SYNC_TIME, SOURCE_NAME];
        if let Some(missing) = columns.into_iter().find(|name| stale.target.field(name).is_none()) {
            return Err(Error::config("Stale rows cannot be told: the table lacks a column")
                .context("table", table)
                .context("column", missing));
        }
        stale.read_mode = ReadMode::FullRefresh;
        stale.write_mode = WriteMode::OverwriteDeleteStale;
        let mut plan = self.plan([&stale]);
        (plan.sync, plan.started_at) = (source_name.to_owned(), before);
        let fence = Fence { sync: source_name.to_owned(), epoch: 0 };
        self.destination.finish(&plan, &stale, &fence).await.map(drop)
    }

    /// Makes everything visible and durable that was taken since the last commit.
    ///
    /// # Errors
    /// What the destination says; nothing of it is committed then.
    pub async fn commit(&mut self) -> Result<CommittedTables> {
        let mut committed = CommittedTables::new();
        if !self.dirty {
            return Ok(committed);
        }
        if let Some(open) = &mut self.open {
            let done = open.writer.commit(&Checkpoint::default()).await;
            committed = self.settled(done)?;
        }
        self.dirty = false;
        Ok(committed)
    }

    /// After an error a writer is of no use any more.
    fn settled<T>(&mut self, result: Result<T>) -> Result<T> {
        self.dirty = true;
        if result.is_err() {
            self.open = None;
            self.dirty = false;
        }
        result
    }

    /// The table as the destination has it.
    async fn existing(&mut self, table: &TableName) -> Result<Option<Table>> {
        if !self.destination.capabilities().describes_tables {
            return Ok(None);
        }
        let name = self.destination.target_name(table);
        let mut existing = self.destination.describe(&[name]).await?;
        Ok(existing.pop().flatten().map(|existing| existing.table))
    }

    /// Whether the table is known, or there.
    async fn knows(&mut self, table: &TableName) -> Result<bool> {
        if self.tables.contains_key(table) {
            return Ok(true);
        }
        let Some(mut there) = self.existing(table).await? else { return Ok(false) };
        there.name = table.clone();
        let plan = self.plan_of(there);
        self.know(plan, false).await?;
        Ok(true)
    }

    /// A table of which only rows have come.
    async fn found(&mut self, table: &TableName, rows: &RecordBatch) -> Result<TablePlan> {
        let there = self.existing(table).await?.ok_or_else(|| unknown(table))?;
        // Rows that say that they may have NULL and have none fit a column that takes none.
        let fields =
            rows.schema_ref().fields().iter().zip(rows.columns()).map(|(field, values)| {
                let takes_null = there.field(field.name()).is_none_or(|f| f.is_nullable());
                let may_be_null = field.is_nullable() && (takes_null || values.null_count() > 0);
                field.as_ref().clone().with_nullable(may_be_null)
            });
        let fields: Vec<Field> = fields.collect();
        let wanted = Table::new(table.clone(), fields).with_primary_key(&there.primary_key);
        if let Some(missing) = there.primary_key.iter().find(|key| wanted.field(key).is_none()) {
            return Err(Error::schema("Rows lack a column of their table's primary key")
                .context("table", table)
                .context("column", missing));
        }
        let mut plan = self.plan_of(wanted);
        adopt::types(&mut plan, &there);
        match schema::changes(self.destination.as_ref(), &plan, Some(&there))?.first() {
            None => Ok(plan),
            Some(change) => Err(Error::schema("Rows do not fit their table as it is")
                .context("table", table)
                .context("needed", needed(change))
                .hint("send the table before its rows, so that it can be changed")),
        }
    }

    /// Remembers a table. A writer that knows it otherwise is committed and given up.
    async fn know(&mut self, plan: TablePlan, described: bool) -> Result<()> {
        let name = plan.name().clone();
        let same = self.tables.get(&name).is_some_and(|known| known.plan.target == plan.target);
        if !same && self.open.as_ref().is_some_and(|open| open.tables.contains(&name)) {
            self.commit().await?;
            self.open = None;
        }
        self.tables.insert(name, Known { plan, described });
        Ok(())
    }

    fn plan_of(&self, source: Table) -> TablePlan {
        let can_overwrite =
            self.destination.capabilities().write_modes.contains(&WriteMode::Overwrite);
        let mut target = source.clone();
        target.name = self.destination.target_name(&source.name);
        if !can_overwrite {
            target.primary_key.clear();
        }
        let write_mode = match target.primary_key.is_empty() {
            true => WriteMode::Append,
            false => WriteMode::Overwrite,
        };
        TablePlan {
            is_state: state_table::is_one(&source),
            guarantee: Guarantee::AtLeastOnce("others keep track of what was sent".to_owned()),
            ..TablePlan::new(Arc::new(source), Arc::new(target), ReadMode::Incremental, write_mode)
        }
    }

    fn plan<'a>(&self, tables: impl IntoIterator<Item = &'a TablePlan>) -> Plan {
        let tables = tables.into_iter().map(|table| (table.name().clone(), table.clone()));
        Plan {
            sync: self.name.clone(),
            // Two changes of one table are never taken for the same one.
            sync_id: format!(
                "{:016x}-{:08x}-{}",
                Instant::now().0,
                std::process::id(),
                self.changes
            ),
            started_at: self.started_at,
            state_with_data: false,
            sync_group_id: None,
            tables: tables.collect(),
        }
    }

    /// The writer, which has all tables that are known, so that they are committed together. One
    /// that lacks some of `tables` is committed and given up for one that has them.
    async fn writer(&mut self, tables: &[&TableName]) -> Result<&mut Box<dyn Writer>> {
        let has_all = |open: &Open| tables.iter().all(|table| open.tables.contains(*table));
        if !self.open.as_ref().is_some_and(has_all) {
            self.commit().await?;
            self.open = None;
            self.open = Some(self.opened().await?);
        }
        let writer = self.open.as_mut().map(|open| &mut open.writer);
        writer.ok_or_else(|| Error::internal("A writer that was opened is gone"))
    }

    async fn opened(&mut self) -> Result<Open> {
        let plan = self.plan(self.tables.values().map(|known| &known.plan));
        let tables: BTreeSet<TableName> = self.tables.keys().cloned().collect();
        let partition = Partition {
            tables: tables.iter().cloned().collect(),
            id: "intake".to_owned(),
            bounds: Value::Null,
        };
        let fence = Fence { sync: self.name.clone(), epoch: 0 };
        let writer = self.destination.writer(&plan, &partition, &fence).await?;
        Ok(Open { tables, writer })
    }
}

fn unknown(table: &TableName) -> Error {
    Error::schema("The table does not exist, and nothing said what its columns are")
        .context("table", table)
        .hint("send the table before its rows (CloudQuery: without --no-migrate)")
}

fn needed(change: &SchemaChange) -> String {
    match change {
        SchemaChange::AddColumn(field) => format!("a column {}", field.name()),
        SchemaChange::WidenColumn { to, .. } => format!("a wider column {}", to.name()),
        SchemaChange::DropNotNull(field) => format!("NULL in the column {}", field.name()),
        SchemaChange::AddKey => "a primary key".to_owned(),
        SchemaChange::CreateTable | SchemaChange::Recreate => "a new table".to_owned(),
    }
}

/// Rows without a key do not fit a table that has one: the second of a key would be refused.
fn same_key(plan: &TablePlan, existing: &Table) -> Result<()> {
    if !plan.target.primary_key.is_empty() || existing.primary_key.is_empty() {
        return Ok(());
    }
    Err(Error::schema("The table has a primary key at the destination, and its rows have none")
        .context("table", plan.name())
        .context("primary key at the destination", existing.primary_key.join(", ")))
}

/// The rows with the columns of the table, by name.
fn shape(table: &Table, rows: &RecordBatch) -> Result<RecordBatch> {
    let given = rows.schema_ref().fields();
    if let Some(extra) = given.iter().find(|field| table.field(field.name()).is_none()) {
        return Err(Error::schema("Rows have a column that their table does not have")
            .context("column", extra.name())
            .hint("send the table with this column before its rows"));
    }
    let columns =
        table.schema.fields().iter().map(|field| match given.find(field.name()) {
            Some((at, from)) => adopt::column(from, rows.column(at), field),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows.num_rows())),
            None => Err(Error::data("Rows lack a column that cannot be NULL")
                .context("column", field.name())),
        });
    let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
    let misfit = columns.iter().zip(table.schema.fields()).find(|(values, field)| {
        values.data_type() != field.data_type() || !field.is_nullable() && values.null_count() > 0
    });
    if let Some((_, field)) = misfit {
        return Err(Error::data("Values do not fit their column").context("column", field.name()));
    }
    let schema = Arc::new(Schema::new(table.schema.fields().clone()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
