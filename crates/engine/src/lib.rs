//! The verbs of highwater: plan, sync, commit, compare schemas. Knows no connector.
//!
//! [`sync()`](sync::sync) in `sync.rs` is the data path; read it first.

pub mod events;
pub mod options;
pub mod planning;
pub mod summary;
pub mod sync;

pub use events::{Event, Observer, Silent};
pub use options::{ColumnOptions, RunOptions, StopSignal, SyncRequest, TableOptions, Target};
pub use planning::plan;
pub use summary::{DestinationSummary, Failure, Outcome, Summary, TableSummary};
pub use sync::sync;
