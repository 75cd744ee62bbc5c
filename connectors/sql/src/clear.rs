//! Everything that a sync has in a table goes.

use highwater_core::plan::SOURCE_NAME;
use highwater_core::{Plan, TableName, TablePlan, WriteMode};

use crate::derived;
use crate::dialect::Dialect;
use crate::merge::same_key;

/// The statements that remove the rows of a sync from its tables, each with the table that it
/// empties, in the order in which they have to run; a statement is left out where `exists` says
/// that there is no such table.
///
/// Where the table says which sync a row came from, the rows of other syncs are left alone, and
/// with them the records of their history and the deletions of keys that the history knows from
/// another sync only.
pub fn statements(
    dialect: &dyn Dialect,
    run: &Plan,
    plan: &TablePlan,
    exists: impl Fn(&TableName) -> bool,
) -> Vec<(TableName, String)> {
    let tables = derived::all(plan, dialect);
    let is_shared = plan.target.field(SOURCE_NAME).is_some();
    let history = derived::history(plan, dialect).name;
    let with_history = plan.write_mode == WriteMode::AppendDedup && exists(&history);
    let source = dialect.quote(SOURCE_NAME);
    let sync = format!("'{}'", run.sync.replace('\'', "''"));
    let others = format!(
        "EXISTS (SELECT 1 FROM {} AS h WHERE {} AND h.{source} <> {sync})",
        dialect.table(&history),
        same_key(dialect, plan, "t", "h"),
    );
    let mut statements = Vec::new();
    // The target comes last: the others are told by what the history still has.
    for (at, table) in tables.iter().enumerate().rev().filter(|(_, table)| exists(&table.name)) {
        let delete = format!("DELETE FROM {} AS t", dialect.table(&table.name));
        let condition = match (is_shared, at, table.name == history) {
            (false, ..) => String::new(),
            (true, 0, _) => format!(" WHERE t.{source} = {sync}"),
            // The record of a deletion need not say where it came from.
            (true, _, true) => {
                format!(" WHERE t.{source} = {sync} OR (t.{source} IS NULL AND NOT {others})")
            }
            (true, ..) if with_history => format!(" WHERE NOT {others}"),
            (true, ..) => String::new(),
        };
        statements.push((table.name.clone(), format!("{delete}{condition}")));
    }
    statements
}
