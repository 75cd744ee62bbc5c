//! The end of a sweep: rows that the read did not bring are deleted.
//!
//! How to use it. Where [`derived::remembers_keys`], a writer makes the table [`derived::seen`] in
//! its first commit (also in one without rows), with the mark of the run; one with another run's
//! mark is dropped before. [`crate::merge::steps`] fills it. `finish` runs [`steps`] in its
//! transaction and drops the table. Without the table nothing is known of what was read, unless
//! this run has made none ([`Begun`]) and the state says that it has not finished the table yet:
//! then an empty one says that nothing was brought. A table that was made and is gone is [`lost`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_core::plan::SOURCE_NAME;
use highwater_core::{Error, Plan, TableName, TablePlan, WriteMode};

use crate::ddl::quoted;
use crate::derived::{self, OPERATION, SEQUENCE, SYNCED_AT};
use crate::dialect::Dialect;
use crate::merge::{Counts, Step, same_key};

/// Which tables of its own a run has made: rows were committed into them, so one that is not
/// there any more was taken away. All writers of a destination, and what finishes its tables,
/// share one.
#[derive(Debug, Clone, Default)]
pub struct Begun(Arc<Mutex<BTreeSet<(String, TableName)>>>);

impl Begun {
    /// Remembers that the run has committed the making of `name`.
    pub fn add(&self, run: &Plan, name: &TableName) {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.insert((run.sync_id.clone(), name.clone()));
    }

    /// Whether the run has made `name`.
    pub fn has(&self, run: &Plan, name: &TableName) -> bool {
        let begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.contains(&(run.sync_id.clone(), name.clone()))
    }
}

/// The error for keys that were seen and are not there any more: what was read cannot be told
/// from what was not.
pub fn lost(plan: &TablePlan, seen: &TableName) -> Error {
    Error::transient("The keys of the rows that were read are not there any more")
        .context("table", plan.name())
        .context("table of these keys", seen)
        .hint("run the same sync again: nothing was deleted")
}

/// The statement that counts the rows of the sync in the target: where the table says which sync
/// a row came from, those of this one. Run after a deletion, it says how many are left
/// ([`TablePlan::check_deletes`]).
pub fn rows_left(dialect: &dyn Dialect, run: &Plan, plan: &TablePlan) -> String {
    let count = format!("SELECT count(*) FROM {} AS t", dialect.table(&plan.target.name));
    match of_sync(dialect, run, plan) {
        Some(own) => format!("{count} WHERE {own}"),
        None => count,
    }
}

/// The condition that a row `t` came from the sync, where the table says so.
fn of_sync(dialect: &dyn Dialect, run: &Plan, plan: &TablePlan) -> Option<String> {
    plan.target.field(SOURCE_NAME)?;
    let sync = run.sync.replace('\'', "''");
    Some(format!("t.{} = '{sync}'", dialect.quote(SOURCE_NAME)))
}

/// The statements that delete the rows whose keys are not in [`derived::seen`]. In `append-dedup`
/// each leaves a record of its deletion in the history (with its key and its cursor) and a
/// tombstone at its own cursor. The parameters are those of [`crate::merge::steps`]; the deleted
/// rows take as many numbers of the arrival order.
///
/// Where the table says which sync a row came from, the rows of other syncs are left alone. How many
/// rows may go is for the caller to check, with [`rows_left`] in the same transaction.
pub fn steps(
    dialect: &dyn Dialect,
    run: &Plan,
    plan: &TablePlan,
    instant: impl Fn(&str) -> String,
) -> Vec<Step> {
    let target = dialect.table(&plan.target.name);
    let seen = derived::seen(plan, &run.sync, dialect);
    let matches = same_key(dialect, plan, "t", "s");
    let mut unseen =
        format!("NOT EXISTS (SELECT 1 FROM {} AS s WHERE {matches})", dialect.table(&seen.name),);
    if let Some(own) = of_sync(dialect, run, plan) {
        unseen = format!("{own} AND {unseen}");
    }
    let step = |sql, counts, parameters| Step { sql, parameters, counts, passes: None };
    let mut steps = Vec::new();
    if plan.write_mode == WriteMode::AppendDedup {
        let tombstones = derived::tombstones(plan, dialect);
        let kept: Vec<_> = tombstones.column_names().collect();
        let columns = quoted(dialect, &kept);
        let key = quoted(dialect, &plan.target.primary_key);
        let history = format!(
            "INSERT INTO {} ({columns}, {}, {}, {}) SELECT {columns}, \
             {} + row_number() OVER (ORDER BY {key}) - 1, 'd', {} FROM {target} AS t WHERE {unseen}",
            dialect.table(&derived::history(plan, dialect).name),
            dialect.quote(SEQUENCE),
            dialect.quote(OPERATION),
            dialect.quote(SYNCED_AT),
            dialect.parameter(1),
            instant(&dialect.parameter(2)),
        );
        steps.push(step(history, Counts::Nothing, true));
        let name = dialect.table(&tombstones.name);
        let older = format!(
            "DELETE FROM {name} AS d WHERE EXISTS (SELECT 1 FROM {target} AS t WHERE {} \
             AND {unseen})",
            same_key(dialect, plan, "t", "d"),
        );
        steps.push(step(older, Counts::Nothing, false));
        let tombstones = format!(
            "INSERT INTO {name} ({columns}) SELECT {columns} FROM {target} AS t WHERE {unseen}"
        );
        steps.push(step(tombstones, Counts::Nothing, false));
    }
    let delete = format!("DELETE FROM {target} AS t WHERE {unseen}");
    steps.push(step(delete, Counts::Deleted, false));
    steps
}
