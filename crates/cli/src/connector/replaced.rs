//! Positions of tables whose rows are about to be replaced.
//!
//! A destination keeps a position beside its rows, and refuses to go on from it when the table is
//! gone or is another one. Where all rows come again there is nothing to go on from: whoever has
//! dropped a table gets it back by a refresh.

use highwater_core::process::Owner;
use highwater_core::{CursorKey, Error, LeaseRequest, Result, State, StateStore, TableName};
use highwater_engine::TableOptions;

/// Begins the newer generations that come, which forgets the positions of the older ones.
///
/// # Errors
/// `Fenced` while another run of the sync is at work.
pub(super) async fn begin(
    store: &dyn StateStore,
    sync: &str,
    state: &State,
    tables: &[(TableName, TableOptions)],
) -> Result<()> {
    let is_behind = |(name, options): &&(TableName, TableOptions)| {
        is_replaced(state, name, options) && !state.cursors_of(name).is_empty()
    };
    let behind: Vec<&TableName> = tables.iter().filter(is_behind).map(|(name, _)| name).collect();
    if behind.is_empty() {
        return Ok(());
    }
    let lease = LeaseRequest { owner: Owner::this_process(), take_over: false };
    let fence = store.open(sync, &lease).await?.fence;
    let fence = fence.ok_or_else(|| Error::internal("The state store gave no fence"))?;
    let mut begun = Ok(());
    for table in behind {
        if begun.is_ok() {
            begun = store.refresh(&fence, table, true).await;
        }
    }
    if begun.is_ok() && state.cursors.contains_key(&CursorKey::Global) {
        begun = store.set(&fence, &CursorKey::Global, None).await;
    }
    store.release(&fence).await?;
    begun
}

fn is_replaced(state: &State, name: &TableName, options: &TableOptions) -> bool {
    let before = state.tables.get(name).map_or(0, |record| record.generation);
    options.generation.is_some_and(|told| told.minimum == told.id && told.id > before)
}
