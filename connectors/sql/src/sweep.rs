//! The end of a sweep: rows that the read did not bring are deleted.
//!
//! How to use it. Where [`derived::remembers_keys`], a writer makes the table [`derived::seen`] in
//! its first commit (also in one without rows), with the mark of the run; one with another run's
//! mark is dropped before. [`crate::merge::steps`] fills it. `finish` runs [`steps`] in its
//! transaction and drops the table. Without the table nothing is known of what was read, unless
//! the state says that this run has committed nothing and not finished the table yet: then an
//! empty one says that nothing was brought.

use highwater_core::plan::SOURCE_NAME;
use highwater_core::{Plan, TablePlan, WriteMode};

use crate::ddl::quoted;
use crate::derived::{self, OPERATION, SEQUENCE, SYNCED_AT};
use crate::dialect::Dialect;
use crate::merge::{Counts, Step};

/// The statements that delete the rows whose keys are not in [`derived::seen`]. In `append-dedup`
/// each leaves a record of its deletion in the history (with its key and its cursor) and a
/// tombstone at its own cursor. The parameters are those of [`crate::merge::steps`]; the deleted
/// rows take as many numbers of the arrival order.
///
/// Where the table says which sync a row came from, the rows of other syncs are left alone.
pub fn steps(
    dialect: &dyn Dialect,
    run: &Plan,
    plan: &TablePlan,
    instant: impl Fn(&str) -> String,
) -> Vec<Step> {
    let target = dialect.table(&plan.target.name);
    let seen = derived::seen(plan, dialect);
    let matches = same_key(dialect, plan, "t", "s");
    let mut unseen =
        format!("NOT EXISTS (SELECT 1 FROM {} AS s WHERE {matches})", dialect.table(&seen.name),);
    if plan.target.field(SOURCE_NAME).is_some() {
        let sync = run.sync.replace('\'', "''");
        unseen = format!("t.{} = '{sync}' AND {unseen}", dialect.quote(SOURCE_NAME));
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

/// Whether two rows with the stored types have the same key.
fn same_key(dialect: &dyn Dialect, plan: &TablePlan, left: &str, right: &str) -> String {
    let parts = plan.target.primary_key.iter().map(|name| {
        let column = dialect.quote(name);
        let (left, right) = (format!("{left}.{column}"), format!("{right}.{column}"));
        match plan.target.field(name).is_some_and(|field| !field.is_nullable()) {
            // A plain comparison can use the index.
            true => format!("{left} = {right}"),
            false => dialect.same(&left, &right),
        }
    });
    parts.collect::<Vec<_>>().join(" AND ")
}
