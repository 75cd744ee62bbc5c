//! The nouns of highwater: what a table, a batch, a cursor, a plan, a source and a destination
//! are, and what each promises. No I/O to any system and no SQL.
//!
//! Read [`source`], [`destination`] and [`state`] to write a connector: the documentation of each
//! trait method is its contract.

pub mod batch;
pub mod clock;
pub mod connector;
pub mod crash;
pub mod deletion;
pub mod destination;
pub mod error;
pub mod guarantee;
pub mod key_digests;
pub mod mapping;
pub mod plan;
pub mod process;
pub mod secret;
pub mod source;
pub mod state;
pub mod table;
pub mod text;
pub mod transformer;
pub mod types;

pub use batch::{Batch, Op};
pub use clock::Instant;
pub use connector::{Connector, Role};
pub use crash::CrashPoint;
pub use deletion::Deletion;
pub use destination::{
    Capabilities, Committed, CommittedTables, Destination, ExistingTable, Writer,
};
pub use error::{Error, ErrorKind, Result};
pub use guarantee::{DestinationDelivery, Guarantee, SourceDelivery};
pub use key_digests::{KeyDigests, KeyTable};
pub use mapping::Mapping;
pub use plan::{MetadataColumns, NullCursor, Plan, ReadMode, TablePlan, WriteMode};
pub use process::Owner;
pub use secret::Secret;
pub use source::{Completion, Message, Output, Partition, Reads, Source};
pub use state::{
    Checkpoint, Cursor, CursorKey, Fence, Lease, LeaseRequest, State, StateStore, TableRecord,
};
pub use table::{SchemaChange, Table, TableName};
pub use transformer::Transformer;
pub use types::LogicalType;
