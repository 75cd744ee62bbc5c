//! Makes the plan: which tables, read and written how, with which guarantee, and what has to be
//! altered. Everything that cannot be done as asked is refused here, before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use highwater_core::state::FULL_REFRESH;
use highwater_core::{
    CursorKey, Destination, Error, ErrorKind, ExistingTable, Instant, Plan, ReadMode, Result,
    SchemaChange, Source, State, StateStore, Table, TableName, TablePlan, TableRecord, WriteMode,
};

use crate::adopt;
use crate::draft::Drafter;
use crate::forwarding;
use crate::metadata;
use crate::options::{Deletes, Generation, SyncRequest, Target};
use crate::quarantine;
use crate::reconcile;
use crate::schema;
use crate::selection;

/// What would be done at one destination.
#[derive(Debug)]
pub struct Planned {
    /// The tables that can be synced.
    pub plan: Plan,
    /// The tables that cannot: the schemas of both sides disagree, and a person has to decide.
    pub refused: Vec<Refused>,
    /// The table for rows whose mapping fails, where tables have mappings and the destination can
    /// have it. It is not part of the plan: each writer of such a table writes it as well.
    pub quarantine: Option<TablePlan>,
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
    let kept = match &request.state_table {
        Some(table) => Some(table.load(request, false).await?),
        None => None,
    };
    let mut plans = Vec::new();
    for target in &request.targets {
        let drafts = selector.drafts(target).await?;
        let mut state = state_store(target)?.look(&state_key(request, target)).await?;
        if let Some(kept) = &kept {
            state.cursors.insert(CursorKey::Global, kept.clone());
        }
        let mut planned = selector.fit(target, drafts, &state).await?;
        planned.quarantine = quarantine::of_plan(target, &planned.plan).await?;
        plans.push(planned);
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

    /// As [`Self::new`], of tables that were discovered before.
    pub(crate) fn of(
        source: &'a dyn Source,
        request: &'a SyncRequest,
        run: &'a Run,
        discovered: Vec<Table>,
    ) -> Self {
        Self { source, request, run, discovered }
    }

    /// What was discovered.
    pub(crate) fn into_discovered(self) -> Vec<Table> {
        self.discovered
    }

    /// What is asked for at one destination. Looks at the source only.
    pub(crate) async fn drafts(&self, target: &Target) -> Result<Vec<TablePlan>> {
        let selected = selection::select(self.request, &self.discovered)?;
        Drafter { source: self.source, target }.drafts(&selected).await
    }

    /// The plan for one destination: the drafts, fitted to its tables as they are and to the
    /// state of the sync there.
    pub(crate) async fn fit(
        &self,
        target: &Target,
        mut drafts: Vec<TablePlan>,
        state: &State,
    ) -> Result<Planned> {
        let names: Vec<_> = drafts.iter().map(|d| d.target.name.clone()).collect();
        let existing = target.destination.describe(&names).await?;
        note_new_histories(target, &mut drafts, &existing).await?;
        let mut tables = BTreeMap::new();
        let mut refused = Vec::new();
        let behind = self.is_behind(target, state, &drafts, &existing);
        for (mut draft, existing) in drafts.into_iter().zip(existing) {
            let fits = match behind && draft.read_mode == ReadMode::Incremental {
                true => Err(self.cursor_is_ahead(&draft)),
                false => self.fit_table(target, state, &mut draft, existing),
            };
            match fits {
                Ok(()) => drop(tables.insert(draft.name().clone(), draft)),
                Err(error) => refused.push(Refused { table: draft, error }),
            }
        }
        let plan = Plan {
            sync: self.request.sync.clone(),
            sync_id: self.run.id.clone(),
            started_at: self.started_at(state),
            state_with_data: target.backend.is_none(),
            sync_group_id: target.sync_group_id.clone(),
            tables,
        };
        Ok(Planned { plan, refused, quarantine: None })
    }

    /// Whether a cursor that the source keeps itself says that rows were delivered, while the
    /// destination has no table that they could be in: it is new, or was emptied. Where only some
    /// tables are missing they may be new ones, of which the source has no position yet.
    fn is_behind(
        &self,
        target: &Target,
        state: &State,
        drafts: &[TablePlan],
        existing: &[Option<ExistingTable>],
    ) -> bool {
        let mut incremental = drafts
            .iter()
            .zip(existing)
            .filter(|(draft, _)| draft.read_mode == ReadMode::Incremental)
            .peekable();
        target.destination.capabilities().describes_tables
            && self.request.state_table.is_some()
            && kept_by_source(state)
            && incremental.peek().is_some()
            && incremental
                .all(|(draft, there)| there.is_none() && !state.tables.contains_key(draft.name()))
    }

    fn cursor_is_ahead(&self, draft: &TablePlan) -> Error {
        let table = self.request.state_table.as_ref().map(|state| &state.table.name);
        let table = table.map_or_else(String::new, ToString::to_string);
        Error::schema(
            "The destination has none of the tables, and the cursor of the source says that rows were delivered",
        )
        .context("table", draft.name())
        .context("destination table", &draft.target.name)
        .context("state table", &table)
        .hint(format!(
            "to read everything again: delete the rows of `{table}`, or name another `backend_options.table_name`"
        ))
    }

    /// After how many seconds the table is read as a whole again; `None`: never. Where only its
    /// deletions are wanted, its keys are compared instead, if that can be done.
    fn sweep_seconds(
        &self,
        target: &Target,
        draft: &mut TablePlan,
        existing: Option<&ExistingTable>,
    ) -> Option<u64> {
        let options = selection::options_of(self.request, draft.name())?;
        if options.sweep_seconds.is_some() || options.deletes != Some(Deletes::Reconcile) {
            draft.reconcile &= options.sweep_seconds.is_some();
            return options.sweep_seconds;
        }
        let mut written = draft.clone();
        if let Some(existing) = existing {
            adopt::types(&mut written, &existing.table);
        }
        let existing = existing.map(|existing| &existing.table);
        let comparable =
            reconcile::comparable(self.source, target, &written, existing, &self.request.sync);
        let why = comparable.err()?;
        draft.notes.push(reconcile::note(why));
        Some(0)
    }

    /// The time of the run, later than that of any run before even when the clock went back:
    /// stale rows are told by it.
    fn started_at(&self, state: &State) -> Instant {
        let finished = state.tables.values().filter_map(|t| t.finished_at).max();
        finished.map_or(self.run.started_at, |f| self.run.started_at.max(Instant(f.0 + 1)))
    }

    /// Compares the plan with the destination's table as it is.
    fn fit_table(
        &self,
        target: &Target,
        state: &State,
        draft: &mut TablePlan,
        existing: Option<ExistingTable>,
    ) -> Result<()> {
        let record = state.tables.get(draft.name());
        let knows = target.destination.capabilities().describes_tables;
        let counted = selection::options_of(self.request, draft.name());
        match counted.and_then(|options| options.generation) {
            Some(generation) => reading_as_told(draft, generation, record),
            None => {
                let now = self.run.started_at;
                let sweep_seconds = self.sweep_seconds(target, draft, existing.as_ref());
                reading(draft, sweep_seconds, state, target.backend.is_none(), now);
            }
        }
        draft.resumes_first_read = goes_on_with_first_read(draft, state);
        if draft.resumes_first_read {
            draft.notes.push("The first read goes on where it was interrupted.".to_owned());
        }
        let resumes = resumes(draft, state);
        if resumes && knows {
            schema::check_identity(draft, record, existing.as_ref())?;
        }
        if let Some(existing) = &existing {
            let known = record.map_or(&[][..], |r| r.columns.as_slice());
            keep_dropped_columns(draft, &existing.table, known);
        }
        let destination: &dyn Destination = target.destination.as_ref();
        if let Some(existing) = &existing {
            adopt::types(draft, &existing.table);
        }
        metadata::check_stale(draft)?;
        let existing = existing.map(|e| e.table);
        if draft.rebuild && knows && draft.write_mode == WriteMode::AppendDedup {
            draft.notes.push(HISTORY_NOTE.to_owned());
        }
        if draft.rebuild && existing.is_some() && record.is_none() {
            // It may be the user's own: that is told before its rows are gone.
            draft.notes.push(REPLACED_NOTE.to_owned());
        }
        draft.changes = match schema::changes(destination, draft, existing.as_ref()) {
            Err(error) if error.kind() == ErrorKind::Schema && target.may_recreate => {
                if resumes {
                    return Err(recreate_would_lose(draft, error));
                }
                draft.notes.push(format!("The table is dropped and made anew: {error}."));
                vec![SchemaChange::Recreate]
            }
            changes => changes?,
        };
        if !draft.sweep && draft.changes.iter().any(makes_it_anew) {
            // Nothing is there yet that could have been deleted.
            draft.reconcile = false;
        }
        note_new_columns(draft);
        if !knows {
            // The destination compares by itself. It must not drop what no read brings again.
            let may_lose = kept_by_source(state) || !state.cursors_of(draft.name()).is_empty();
            let keeps = draft.read_mode == ReadMode::Incremental && may_lose;
            draft.changes = match (target.may_migrate, target.may_recreate && !keeps) {
                (false, _) => Vec::new(),
                (true, false) => vec![SchemaChange::CreateTable],
                (true, true) => vec![SchemaChange::Recreate],
            };
        }
        if !draft.changes.is_empty() && !target.may_migrate {
            return Err(Error::schema(
                "The destination table would have to be changed, and --no-migrate forbids it",
            )
            .context("table", draft.name())
            .context("destination table", &draft.target.name)
            .hint("run `highwater migrate` first, or leave --no-migrate out"));
        }
        if draft.reconcile && !draft.sweep {
            draft.notes.push(reconcile::NOTE.to_owned());
        }
        draft.forwarded = forwarding::form(self.source, self.request, target, draft);
        Ok(())
    }
}

const REPLACED_NOTE: &str = "The destination has this table already, and no earlier sync is \
                             remembered for it: all of its rows are replaced.";

const HISTORY_NOTE: &str =
    "The history goes with the old rows: the new one begins with the rows of this read.";

/// Settles which reading of the table this is: a new one, or an unfinished one that goes on; and
/// whether it is a sweep.
///
/// What goes into a table beside goes on only where it is known to be of this reading: its
/// position has to be committed with it (`with_data`). A store apart may say that it is unfinished
/// when it was swapped in a moment ago, and what came after it would take the place of all.
fn reading(
    draft: &mut TablePlan,
    sweep_seconds: Option<u64>,
    state: &State,
    with_data: bool,
    now: Instant,
) {
    let record = state.tables.get(draft.name());
    let generation = record.map_or(0, |record| record.generation);
    let unfinished =
        record.is_some_and(|r| r.finished_generation.is_none_or(|done| done < r.generation));
    if draft.read_mode == ReadMode::FullRefresh {
        let position = CursorKey::Partition(draft.name().clone(), FULL_REFRESH.to_owned());
        // Stale rows are told by the run that brought the others: it has to bring all of them.
        let goes_on = record.is_some_and(|r| r.rebuild == draft.rebuild)
            && draft.write_mode != WriteMode::OverwriteDeleteStale
            && (!draft.rebuild || (with_data && is_shaped_alike(draft, record)));
        let resumes = draft.source.resumable
            && unfinished
            && goes_on
            && state.cursors.get(&position).is_some_and(|cursor| !cursor.0.is_null());
        draft.generation = if resumes { generation } else { generation + 1 };
        return;
    }
    draft.rebuild = unfinished && record.is_some_and(|record| record.rebuild);
    let begins_anew = draft.rebuild && !(with_data && is_shaped_alike(draft, record));
    draft.generation = generation + u64::from(begins_anew);
    let due = |after: u64| {
        let swept = record.and_then(|record| record.swept_at);
        swept.is_none_or(|swept| now.micros_since(swept) / 1_000_000 >= after)
    };
    // A source that keeps one position for all tables would go on from it.
    let is_told_by_all = kept_by_source(state) && state.cursors_of(draft.name()).is_empty();
    let can_sweep = !is_told_by_all || record.is_none();
    draft.sweep = !draft.rebuild && can_sweep && sweep_seconds.is_some_and(due);
    if !can_sweep && sweep_seconds.is_some() {
        draft.notes.push(
            "No sweep: the source keeps one position for all tables, and none of this one."
                .to_owned(),
        );
    }
    // Without sweeps the keys are compared, unless everything is read anew.
    draft.reconcile &= draft.sweep || (sweep_seconds.is_none() && !draft.rebuild);
    if draft.rebuild {
        draft.notes.push(
            "Read again from the beginning; readers see the old rows until it is complete."
                .to_owned(),
        );
    } else if draft.sweep {
        draft.notes.push("A sweep: the table is read as a whole.".to_owned());
    }
}

/// Whether the rows that wait beside the table are like those that would be added to them. What a
/// mapping does cannot be seen in them: it may be newer than they are.
fn is_shaped_alike(draft: &TablePlan, record: Option<&TableRecord>) -> bool {
    let columns: BTreeSet<&str> = draft.target.column_names().collect();
    let same = |record: &TableRecord| {
        record.columns.iter().map(String::as_str).collect::<BTreeSet<_>>() == columns
    };
    draft.mappings.is_empty() && record.is_none_or(|r| r.columns.is_empty() || same(r))
}

/// As [`reading`], where somebody else counts generations. Nothing is thrown away that belongs to
/// the same generation already: some count one and the same for ever.
fn reading_as_told(draft: &mut TablePlan, told: Generation, record: Option<&TableRecord>) {
    draft.generation = told.id;
    draft.reconcile = false;
    // That of the rows which readers see.
    let visible = record.map(|record| match record.rebuild {
        true => record.finished_generation.unwrap_or(0),
        false => record.generation,
    });
    let older_go = told.minimum == told.id && visible.is_some_and(|there| there < told.minimum);
    draft.rebuild |= older_go;
}

/// The state as the source may use it: without the positions of tables that are read anew. Where
/// all are, nothing is left that a position of the whole source could be shared by.
pub(crate) fn to_read_from(plan: &Plan, mut state: State) -> State {
    let is_anew = |table: &TablePlan| {
        let record = state.tables.get(table.name());
        let is_same = record.is_none_or(|record| record.generation == table.generation);
        table.sweep || (table.rebuild && !is_same)
    };
    let mut incremental =
        plan.tables.values().filter(|table| table.read_mode == ReadMode::Incremental).peekable();
    let all_anew = incremental.peek().is_some() && incremental.all(is_anew);
    let goes_on = plan.tables.values().filter(|table| goes_on_with_first_read(table, &state));
    let unfinished: BTreeSet<TableName> = goes_on.map(|table| table.name().clone()).collect();
    let tables = std::mem::take(&mut state.tables);
    state.cursors.retain(|key, _| {
        let Some(table) = key.table().and_then(|table| plan.tables.get(table)) else {
            return *key != CursorKey::Global || !all_anew;
        };
        let is_of_refresh = key.partition() == FULL_REFRESH;
        let record = tables.get(table.name());
        let is_same = record.is_none_or(|record| record.generation == table.generation);
        match table.read_mode {
            ReadMode::Incremental if is_of_refresh => unfinished.contains(table.name()),
            ReadMode::Incremental => !table.sweep && (is_same || !table.rebuild),
            ReadMode::FullRefresh => !is_of_refresh || (is_same && record.is_some()),
        }
    });
    state.tables = tables;
    state
}

/// Whether a table is read incrementally, and an earlier run has begun and not ended its first
/// read: there is a position in that, of this generation, and none of the whole table.
fn goes_on_with_first_read(draft: &TablePlan, state: &State) -> bool {
    let position = CursorKey::Partition(draft.name().clone(), FULL_REFRESH.to_owned());
    let record = state.tables.get(draft.name());
    draft.read_mode == ReadMode::Incremental
        && !draft.sweep
        && !draft.source.resumable
        && record.is_some_and(|record| record.generation == draft.generation)
        && state.table_cursor(draft.name()).is_none()
        && state.cursors.get(&position).is_some_and(|cursor| !cursor.0.is_null())
}

/// Whether the read of a table goes on where an earlier sync ended.
fn resumes(draft: &TablePlan, state: &State) -> bool {
    let kept_by_source = kept_by_source(state) && state.tables.contains_key(draft.name());
    draft.read_mode == ReadMode::Incremental
        && (kept_by_source || !state.cursors_of(draft.name()).is_empty())
}

/// Whether the source has a cursor of its own keeping.
fn kept_by_source(state: &State) -> bool {
    state.cursors.get(&CursorKey::Global).is_some_and(|cursor| !cursor.0.is_null())
}

fn makes_it_anew(change: &SchemaChange) -> bool {
    matches!(change, SchemaChange::CreateTable | SchemaChange::Recreate)
}

/// A table that is dropped loses rows that the cursor says were delivered.
fn recreate_would_lose(draft: &TablePlan, error: Error) -> Error {
    Error::schema(
        "The table would have to be made anew, and the cursor says that its rows were delivered",
    )
    .context("table", draft.name())
    .context("because", error)
    .hint(format!(
        "to copy the table again from the beginning: `highwater state reset … --table {}`",
        draft.name()
    ))
}

/// A table that was written in another mode before gets a history that knows nothing of that.
async fn note_new_histories(
    target: &Target,
    drafts: &mut [TablePlan],
    existing: &[Option<ExistingTable>],
) -> Result<()> {
    let longest = target.destination.capabilities().identifier_bytes_max;
    let mut filled: Vec<&mut TablePlan> = drafts
        .iter_mut()
        .zip(existing)
        .filter(|(draft, there)| {
            // Destinations shorten a name that is too long in ways of their own.
            there.is_some()
                && draft.write_mode == WriteMode::AppendDedup
                && draft.history_name().name.len() <= longest
        })
        .map(|(draft, _)| draft)
        .collect();
    if filled.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = filled.iter().map(|draft| draft.history_name()).collect();
    let histories = target.destination.describe(&names).await?;
    for (draft, _) in filled.iter_mut().zip(histories).filter(|(_, there)| there.is_none()) {
        draft.notes.push(
            "The history begins with this sync: rows that are in the table already have no \
             record in it until they change."
                .to_owned(),
        );
    }
    Ok(())
}

/// Rows that were delivered before a column came have no value in it.
fn note_new_columns(draft: &mut TablePlan) {
    let new: Vec<_> = draft
        .changes
        .iter()
        .filter_map(|change| match change {
            SchemaChange::AddColumn(field) => Some(field.name().as_str()),
            _ => None,
        })
        .collect();
    if !new.is_empty() && draft.read_mode == ReadMode::Incremental {
        let note = format!(
            "New at the destination: {}. Rows that were delivered before have NULL there until \
             they change; a `state reset` copies them again.",
            new.join(", ")
        );
        draft.notes.push(note);
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
    let is_replaced = matches!(draft.write_mode, WriteMode::Replace | WriteMode::ReplaceDedup);
    if dropped.is_empty() || is_replaced {
        return;
    }
    let names = |stamps: bool| {
        let names = dropped.iter().map(|f| f.name().as_str());
        names.filter(|name| metadata::is_stamp(name) == stamps).collect::<BTreeSet<_>>()
    };
    let (gone, stamps) = (names(false), names(true));
    if !gone.is_empty() {
        let names = gone.into_iter().collect::<Vec<_>>().join(", ");
        draft.notes.push(format!("Not at the source any more, NULL from now on: {names}."));
    }
    if !stamps.is_empty() {
        let names = stamps.into_iter().collect::<Vec<_>>().join(", ");
        draft.notes.push(format!("In the table from earlier syncs, and filled on: {names}."));
    }
    let target = Arc::make_mut(&mut draft.target);
    let mut fields: Vec<_> = target.schema.fields().iter().cloned().collect();
    fields.extend(dropped.into_iter().map(Arc::new));
    target.schema = Arc::new(Schema::new(fields));
}
