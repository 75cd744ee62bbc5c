//! The messages of the protocol, and the catalogs and states that they carry.
//!
//! RECORD lines are not parsed here: they are the bulk, and go straight into Arrow. Fields that
//! we do not know are tolerated everywhere, and kept where something is passed on.

mod catalog;
mod exact;
mod messages;
mod state;

pub use catalog::{
    AirbyteStream, Catalog, ConfiguredCatalog, ConfiguredStream, DestinationSyncMode,
    StreamDescriptor, SyncMode,
};
pub use messages::{
    CheckStatus, ConnectionStatus, Control, Estimate, FailureType, Log, Message, Progress,
    SpecMessage, StreamStatus, Trace, TraceError,
};
pub(crate) use state::echo;
pub use state::{State, StateMessage, Stats, StreamState, input};
