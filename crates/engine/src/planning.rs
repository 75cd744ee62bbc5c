//! Makes the plan: which tables, read and written how, with which guarantee, and what has to be
//! altered. Everything that cannot be done as asked is refused here, before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use highwater_core::guarantee::guarantee;
use highwater_core::{
    Destination, Error, Instant, NullCursor, Plan, ReadMode, Result, Source, State, StateStore,
    Table, TableName, TablePlan, WriteMode,
};

use crate::metadata;
use crate::options::{SyncRequest, TableOptions, Target};
use crate::schema;
use crate::selection::{self, Selected};

/// What would be done at one destination.
#[derive(Debug)]
pub struct Planned {
    /// The tables that can be synced.
    pub plan: Plan,
    /// The tables that cannot: the schemas of both sides disagree, and a person has to decide.
    pub refused: Vec<Refused>,
}

/// A table that cannot be synced as things are.
#[derive(Debug)]
pub struct Refused {
    /// What was planned.
    pub table: TablePlan,
    /// Why it cannot be done.
    pub error: Error,
}

/// What a sync would do, per destination in the order of the request. Touches nothing.
///
/// # Errors
/// `Config` and `Unsupported` for what cannot be done as asked; `Transient` when a system is out
/// of reach. Disagreements about a single table are in [`Planned::refused`].
pub async fn plan(source: &dyn Source, request: &SyncRequest) -> Result<Vec<Planned>> {
    let run = new_run();
    let selector = Selector::new(source, request, &run).await?;
    let mut plans = Vec::new();
    for target in &request.targets {
        let state = state_store(target)?.look(&state_key(request, target)).await?;
        plans.push(selector.plan(target, &state).await?);
    }
    Ok(plans)
}

/// The identity of a run: what all its plans share.
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) started_at: Instant,
}

pub(crate) fn new_run() -> Run {
    let started_at = Instant::now();
    Run { id: format!("{:016x}-{:08x}", started_at.0, std::process::id()), started_at }
}

/// The store that keeps the cursors of a target.
pub(crate) fn state_store(target: &Target) -> Result<&dyn StateStore> {
    let keeper = target.backend.as_ref().unwrap_or(&target.destination);
    keeper.state_store().ok_or_else(|| {
        Error::unsupported("A destination cannot keep cursors")
            .context("destination", &target.name)
            .hint("keep them in another destination: `backend_options: {table_name: …, connection: \"@@plugins.NAME.connection\"}`")
    })
}

/// The name under which the state of the sync at this target is kept. Cursors kept apart from the
/// data are told apart by the destination that they belong to.
pub fn state_key(request: &SyncRequest, target: &Target) -> String {
    match target.backend {
        None => request.sync.clone(),
        Some(_) => format!("{}/{}", request.sync, target.name),
    }
}

/// The tables that the source has, from which each destination's plan is made.
pub(crate) struct Selector<'a> {
    source: &'a dyn Source,
    request: &'a SyncRequest,
    run: &'a Run,
    discovered: Vec<Table>,
}

impl<'a> Selector<'a> {
    pub(crate) async fn new(
        source: &'a dyn Source,
        request: &'a SyncRequest,
        run: &'a Run,
    ) -> Result<Self> {
        let patterns: Vec<String> = request.tables.iter().map(|t| t.name.clone()).collect();
        let discovered = source.discover(Some(&patterns)).await?;
        Ok(Self { source, request, run, discovered })
    }

    /// The plan for one destination, whose state is `state`.
    pub(crate) async fn plan(&self, target: &Target, state: &State) -> Result<Planned> {
        let selected = selection::select(self.request, &self.discovered)?;
        let planner =
            Planner { source: self.source, request: self.request, target, state, run: self.run };
        planner.plan(&selected).await
    }
}

/// Plans the tables of one destination.
struct Planner<'a> {
    source: &'a dyn Source,
    request: &'a SyncRequest,
    target: &'a Target,
    state: &'a State,
    run: &'a Run,
}

impl Planner<'_> {
    async fn plan(&self, selected: &[Selected<'_>]) -> Result<Planned> {
        let mut drafts = Vec::new();
        for table in selected {
            drafts.push(self.draft(table)?);
        }
        self.check_names(&drafts)?;
        let names: Vec<_> = drafts.iter().map(|d| d.target.name.clone()).collect();
        let existing = self.target.destination.describe(&names).await?;
        let mut tables = BTreeMap::new();
        let mut refused = Vec::new();
        for (mut draft, existing) in drafts.into_iter().zip(existing) {
            draft.notes.extend(self.source.review(&draft).await?);
            match self.fit(&mut draft, existing) {
                Ok(()) => drop(tables.insert(draft.name().clone(), draft)),
                Err(error) => refused.push(Refused { table: draft, error }),
            }
        }
        let plan = Plan {
            sync: self.request.sync.clone(),
            sync_id: self.run.id.clone(),
            started_at: self.started_at(),
            state_with_data: self.target.backend.is_none(),
            tables,
        };
        Ok(Planned { plan, refused })
    }

    /// The time of the run, later than that of any run before even when the clock went back:
    /// stale rows are told by it.
    fn started_at(&self) -> Instant {
        let finished = self.state.tables.values().filter_map(|t| t.finished_at).max();
        finished.map_or(self.run.started_at, |f| self.run.started_at.max(Instant(f.0 + 1)))
    }

    /// Settles modes, keys and columns of a table, without looking at the destination's table.
    fn draft(&self, selected: &Selected<'_>) -> Result<TablePlan> {
        let (table, options) = (selected.table, selected.options);
        let source = Arc::new(selection::project(table, options)?);
        let write_mode = options.write_mode.unwrap_or(self.target.write_mode);
        let read_mode = read_mode(table, options, write_mode)?;
        let primary_key = options.primary_key.clone().unwrap_or_else(|| table.primary_key.clone());
        let cursor_field = options.cursor.clone().or_else(|| table.cursor_field.clone());
        for column in primary_key.iter().chain(&cursor_field) {
            selection::require_column(&source, column)?;
        }
        self.check_mode(table, write_mode, &primary_key, cursor_field.as_ref())?;
        let mut notes = Vec::new();
        if let Some(note) = mode_note(read_mode, write_mode, &primary_key) {
            notes.push(note);
        }
        // Rows of an append are versions: the key of the source is not unique among them.
        let target_key = if write_mode == WriteMode::Append { Vec::new() } else { primary_key };
        let name = self.target_name(table, options);
        let mut fields = metadata::fields(self.target.metadata_columns, &source);
        fields.extend(source.schema.fields().iter().map(|f| f.as_ref().clone()));
        let target = Table::new(name, fields).with_primary_key(target_key);
        let mut plan = TablePlan {
            divisible: is_divisible(read_mode, write_mode, &target.primary_key),
            target: Arc::new(target),
            source,
            read_mode,
            write_mode,
            cursor_field,
            null_cursor: options.null_cursor.unwrap_or(NullCursor::Include),
            lookback: options.lookback.unwrap_or(0),
            history_retention_seconds: options.history_retention_seconds,
            changes: Vec::new(),
            guarantee: highwater_core::Guarantee::ExactlyOnce,
            notes,
        };
        plan.guarantee = guarantee(
            &self.source.delivery(&plan),
            self.target.destination.capabilities().delivery,
            self.target.backend.is_none(),
            write_mode,
            &plan.target.primary_key,
        );
        Ok(plan)
    }

    fn target_name(&self, table: &Table, options: &TableOptions) -> TableName {
        let default = self.target.destination.target_name(&table.name);
        match options.target.as_deref().map(|t| t.split_once('.').ok_or(t)) {
            None => default,
            Some(Ok((namespace, name))) => TableName::in_namespace(namespace, name),
            Some(Err(name)) => default.renamed(name),
        }
    }

    fn check_mode(
        &self,
        table: &Table,
        write_mode: WriteMode,
        primary_key: &[String],
        cursor_field: Option<&String>,
    ) -> Result<()> {
        let capabilities = self.target.destination.capabilities();
        if !capabilities.write_modes.contains(&write_mode) {
            let known: Vec<_> = capabilities.write_modes.iter().map(|m| m.as_str()).collect();
            return Err(Error::unsupported(format!(
                "The destination cannot write in mode `{write_mode}`: {}",
                capabilities.write_modes_note
            ))
            .context("table", &table.name)
            .context("destination", &self.target.name)
            .hint(format!("write_mode: {}", known.join(" | "))));
        }
        if write_mode == WriteMode::AppendDedup && primary_key.is_empty() {
            return Err(Error::config(
                "`append-dedup` needs a primary key, and the source defines none",
            )
            .context("table", &table.name)
            .hint(
                "name its columns: `--primary-key id`, or `primary_key: [id]` in the table's entry",
            ));
        }
        if write_mode == WriteMode::AppendDedup && cursor_field.is_none() {
            return Err(Error::config(
                "`append-dedup` needs a cursor field to tell which row is newer",
            )
            .context("table", &table.name)
            .hint("name it: `--cursor updated_at`, or `cursor: updated_at` in the table's entry"));
        }
        Ok(())
    }

    /// Two tables must not meet in one, and names must fit the system.
    fn check_names(&self, drafts: &[TablePlan]) -> Result<()> {
        let capabilities = self.target.destination.capabilities();
        let folded = |name: &TableName| {
            let text = name.to_string();
            if capabilities.case_sensitive_names { text } else { text.to_lowercase() }
        };
        let mut seen: BTreeMap<String, &TableName> = BTreeMap::new();
        for draft in drafts {
            let mut names = vec![draft.target.name.clone()];
            if draft.write_mode == WriteMode::AppendDedup {
                names.push(draft.history_name());
            }
            for name in names {
                if name.name.len() > capabilities.identifier_bytes_max {
                    return Err(too_long(&name.name, draft.name()));
                }
                if let Some(other) = seen.insert(folded(&name), draft.name()) {
                    return Err(Error::config("Two source tables would be written into one table")
                        .context("table", draft.name())
                        .context("other table", other)
                        .context("destination table", &name)
                        .hint("give one of them another name: `target: …` in its entry"));
                }
            }
            schema::check_column_names(&draft.target, &capabilities)?;
        }
        Ok(())
    }

    /// Compares the plan with the destination's table as it is.
    fn fit(
        &self,
        draft: &mut TablePlan,
        existing: Option<highwater_core::ExistingTable>,
    ) -> Result<()> {
        let record = self.state.tables.get(draft.name());
        let resumes = draft.read_mode == ReadMode::Incremental
            && !self.state.cursors_of(draft.name()).is_empty();
        if resumes {
            schema::check_identity(draft, record, existing.as_ref())?;
        }
        if let Some(existing) = &existing {
            let known = record.map_or(&[][..], |r| r.columns.as_slice());
            keep_dropped_columns(draft, &existing.table, known);
        }
        let destination: &dyn Destination = self.target.destination.as_ref();
        draft.changes = schema::changes(destination, draft, existing.map(|e| e.table).as_ref())?;
        if !draft.changes.is_empty() && !self.target.may_migrate {
            return Err(Error::schema(
                "The destination table would have to be changed, and --no-migrate forbids it",
            )
            .context("table", draft.name())
            .context("destination table", &draft.target.name)
            .hint("run `highwater migrate` first, or leave --no-migrate out"));
        }
        Ok(())
    }
}

/// A column that this sync has written before and that the source no longer has stays in the
/// target: its values are NULL from now on.
fn keep_dropped_columns(draft: &mut TablePlan, existing: &Table, known: &[String]) {
    let dropped: Vec<Field> = existing
        .schema
        .fields()
        .iter()
        .filter(|f| known.contains(f.name()) && draft.target.field(f.name()).is_none())
        .map(|f| f.as_ref().clone().with_nullable(true))
        .collect();
    if dropped.is_empty() || draft.write_mode == WriteMode::Replace {
        return;
    }
    let names: BTreeSet<_> = dropped.iter().map(|f| f.name().as_str()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    draft.notes.push(format!("Not at the source any more, NULL from now on: {names}."));
    let target = Arc::make_mut(&mut draft.target);
    let mut fields: Vec<_> = target.schema.fields().iter().cloned().collect();
    fields.extend(dropped.into_iter().map(Arc::new));
    target.schema = Arc::new(Schema::new(fields));
}

fn read_mode(table: &Table, options: &TableOptions, write_mode: WriteMode) -> Result<ReadMode> {
    let has_cursor =
        options.cursor.is_some() || table.cursor_field.is_some() || table.source_defined_cursor;
    match options.read_mode {
        Some(ReadMode::Incremental) if write_mode == WriteMode::Replace => {
            Err(Error::config("`replace` needs a full refresh: an incremental read has not all rows")
                .context("table", &table.name)
                .hint("leave `read_mode: incremental` out, or use another write mode"))
        }
        Some(ReadMode::Incremental) if !has_cursor => {
            Err(Error::config("An incremental read needs a cursor field, and the source defines none")
                .context("table", &table.name)
                .hint("name a column that grows with every change: `--cursor updated_at`, or `cursor: updated_at` in the table's entry"))
        }
        Some(mode) => Ok(mode),
        None if write_mode == WriteMode::Replace || !has_cursor => Ok(ReadMode::FullRefresh),
        None => Ok(ReadMode::Incremental),
    }
}

/// Whether doing a part of the read twice changes nothing.
fn is_divisible(read_mode: ReadMode, write_mode: WriteMode, target_key: &[String]) -> bool {
    match write_mode {
        WriteMode::Replace => true,
        WriteMode::Overwrite | WriteMode::OverwriteDeleteStale => !target_key.is_empty(),
        WriteMode::Append | WriteMode::AppendDedup => read_mode == ReadMode::Incremental,
    }
}

fn mode_note(read_mode: ReadMode, write_mode: WriteMode, key: &[String]) -> Option<String> {
    match (write_mode, read_mode) {
        (WriteMode::Overwrite | WriteMode::OverwriteDeleteStale, _) if key.is_empty() => {
            Some("No primary key: rows are added, none is overwritten.".to_owned())
        }
        (WriteMode::OverwriteDeleteStale, ReadMode::Incremental) => Some(
            "Read incrementally: rows deleted at the source stay at the destination.".to_owned(),
        ),
        (WriteMode::Append, ReadMode::FullRefresh) => {
            Some("Full refresh with append: every sync adds all rows again.".to_owned())
        }
        _ => None,
    }
}

fn too_long(name: &str, table: &TableName) -> Error {
    Error::config("A name is too long for the destination")
        .context("table", table)
        .context("name", name)
        .hint("give it a shorter name: `target: …` in the table's entry")
}
