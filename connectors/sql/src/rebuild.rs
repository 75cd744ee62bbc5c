//! What a rebuild leaves beside when its run ends early, and how the next run goes on with it.

use arrow_schema::Field;
use highwater_core::{
    CursorKey, Error, LogicalType, ReadMode, Result, SchemaChange, State, Table, TableName,
    TablePlan,
};
use xxhash_rust::xxh3::xxh3_64;

/// The mark of the tables that a run makes beside: the generation, the source table, and the run
/// that began them. A connector puts something in front that tells syncs apart, and keeps it with
/// each of them.
pub fn mark(sync_id: &str, table: &TablePlan) -> String {
    format!("{}{sync_id}", of_generation(table.name(), table.generation))
}

/// What a run does with the tables beside, before it writes to them or swaps them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// They are its own: it goes on.
    Keep,
    /// An earlier run has begun them: they may have to be altered for the rows of this one.
    Fit,
    /// What is there is of no use: it is dropped, and empty ones are made.
    Begin,
    /// Rows that were committed into them are not there any more ([`lost`]).
    Lost,
}

/// Decides by the mark of the tables beside: `None` where there are none. `begun` says that rows
/// were committed into them which nobody reads again: by this run, or by an earlier one whose
/// generation goes on ([`is_begun`]).
pub fn decide(mark: Option<&str>, sync_id: &str, table: &TablePlan, begun: bool) -> Beside {
    match mark {
        Some(mark) if mark == self::mark(sync_id, table) => Beside::Keep,
        Some(mark) if goes_on(mark, sync_id, table) => Beside::Fit,
        _ if begun => Beside::Lost,
        _ => Beside::Begin,
    }
}

/// Whether the state says that the plan's generation has begun to be rebuilt, and that rows of it
/// need not be read again: they have to be in the tables beside.
pub fn is_begun(table: &TablePlan, state: &State) -> bool {
    let goes_on = table.read_mode == ReadMode::Incremental || table.source.resumable;
    let unfinished = state.tables.get(table.name()).is_some_and(|record| {
        record.rebuild
            && record.generation == table.generation
            && record.finished_generation != Some(table.generation)
    });
    goes_on && unfinished && state.cursors.keys().any(|key| key.table() == Some(table.name()))
}

/// The error for [`Beside::Lost`]. `name` is the table that is missing.
pub fn lost(table: &TablePlan, name: &TableName) -> Error {
    Error::schema("The rows that were read so far are not there any more")
        .context("table", table.name())
        .context("table of these rows", name)
        .hint(format!("to begin again: `highwater refresh {}`", table.name()))
}

/// Whether tables with this mark are filled on by a run: they are its own, or those of an earlier
/// run with the same generation. A full refresh that cannot be resumed goes on with nothing.
pub fn goes_on(mark: &str, sync_id: &str, table: &TablePlan) -> bool {
    let anew = table.read_mode == ReadMode::FullRefresh && !table.source.resumable;
    match anew {
        true => mark == self::mark(sync_id, table),
        false => is_of(mark, table),
    }
}

/// Whether a table with this mark was made for the generation of the plan, by whatever run.
pub fn is_of(mark: &str, table: &TablePlan) -> bool {
    mark.starts_with(&of_generation(table.name(), table.generation))
}

/// Whether a table with this mark may be of use to the run that has just taken the lease and found
/// `state`: its generation is unfinished, and a cursor says that its rows need not be read again.
/// Others are dropped with the lease.
pub fn may_go_on(mark: &str, state: &State) -> bool {
    state.tables.iter().any(|(source, record)| {
        let unfinished = record.finished_generation.is_none_or(|done| done < record.generation);
        let covered = state.cursors.contains_key(&CursorKey::Global)
            || state.cursors.keys().any(|key| key.table() == Some(source));
        record.rebuild
            && unfinished
            && covered
            && mark.starts_with(&of_generation(source, record.generation))
    })
}

fn of_generation(source: &TableName, generation: u64) -> String {
    format!("g{generation}-{:016x}-", xxh3_64(source.to_string().as_bytes()))
}

/// What has to be changed at a table beside that an earlier run has made, so that the rows of this
/// run fit too. `stored` gives a field as the destination describes it.
///
/// # Errors
/// `Schema` where values would not be kept: the read has to begin anew.
pub fn changes(
    plan: &TablePlan,
    present: &Table,
    stored: impl Fn(&Field) -> Result<Field>,
) -> Result<Vec<SchemaChange>> {
    let mut changes = Vec::new();
    for field in plan.target.schema.fields() {
        let Some(there) = present.field(field.name()) else {
            changes.push(SchemaChange::AddColumn(field.as_ref().clone()));
            continue;
        };
        let (wanted, found) = (LogicalType::of(&stored(field)?)?, LogicalType::of(there)?);
        if wanted != found && !wanted.widens_to(&found) {
            if !found.widens_to(&wanted) {
                return Err(changed(plan, field));
            }
            let (from, to) = (there.clone(), field.as_ref().clone());
            changes.push(SchemaChange::WidenColumn { from, to });
        }
        let in_key = plan.target.primary_key.contains(field.name());
        if field.is_nullable() && !there.is_nullable() {
            if in_key {
                return Err(changed(plan, field));
            }
            changes.push(SchemaChange::DropNotNull(there.clone()));
        }
    }
    for there in present.schema.fields() {
        if plan.target.field(there.name()).is_none() && !there.is_nullable() {
            changes.push(SchemaChange::DropNotNull(there.as_ref().clone()));
        }
    }
    Ok(changes)
}

fn changed(plan: &TablePlan, field: &Field) -> Error {
    Error::schema("A column has changed while the table was being read anew")
        .context("table", plan.name())
        .context("column", field.name())
        .hint(format!("to begin again: `highwater refresh {}`", plan.name()))
}
