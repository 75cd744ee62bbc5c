//! The verbs of highwater: plan, sync, commit, compare schemas. Knows no connector.
//!
//! [`sync()`](sync::sync) in `sync.rs` is the data path; read it first.

mod adopt;
mod deletions;
mod draft;
pub mod events;
mod forwarding;
mod groups;
pub mod intake;
mod lanes;
mod ledger;
pub mod mappings;
pub mod metadata;
pub mod options;
pub mod planning;
pub mod quarantine;
mod reconcile;
pub mod refresh;
mod run;
mod schema;
pub mod selection;
pub mod state_table;
pub mod summary;
pub mod sync;
mod transforms;

pub use events::{Event, Observer, Silent};
pub use intake::Intake;
pub use options::{
    ColumnOptions, Deletes, Generation, Keeper, KeyChoice, RunOptions, StateTable, StopSignal,
    SyncRequest, TableOptions, Target,
};
pub use planning::{Planned, Refused, plan};
pub use summary::{DestinationSummary, Failure, Outcome, Summary, TableSummary};
pub use sync::sync;
