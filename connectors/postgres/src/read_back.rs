//! The rows of a destination's table, by the way that they are read as a source.

use std::sync::Arc;

use highwater_core::{Completion, Output, Result, Table};
use highwater_sql::read_back::selected;

use crate::catalog::{self, Selection};
use crate::changes;
use crate::read::{self, Filter};
use crate::session::Session;

/// Sends the rows of a table in one snapshot, with those of the wanted columns that it has and of
/// the types that they have; nothing when there is no such table.
///
/// # Errors
/// As the server's.
pub(crate) async fn all(session: Session, wanted: &Table, output: Output) -> Result<Completion> {
    session.run("begin", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // Without any schema to create tables in there is no table either.
    let name = changes::with_schema(&session, &wanted.name).await;
    let name = name.unwrap_or_else(|_| wanted.name.clone());
    let (mut relations, types) =
        catalog::relations(&session, Selection::Names(std::slice::from_ref(&name))).await?;
    let Some(relation) = relations.pop() else { return Ok(Completion::Complete) };
    let table = Arc::new(selected(&relation.table(&types), wanted));
    let wires = read::wires(&table, &relation, &types)?;
    let statement = read::copy_statement(&table, &wires, &[], &relation, None);
    read::copy_columns(&session, &statement, &table, &wires, 0, &mut Filter::All, &output).await
}
