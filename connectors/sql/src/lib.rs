//! What the SQL connectors share: definitions of tables, the merge of staged rows, and the state
//! tables of the commit protocol, written once and spelled by each system's [`Dialect`].
//!
//! Nothing here connects to anything. A connector runs the statements in its own transaction, in
//! the order that [`merge`] and [`state`] document.

pub mod belongings;
pub mod blocking;
pub mod boundary;
pub mod clear;
mod conditions;
pub mod cursor_field;
pub mod ddl;
pub mod deletion;
pub mod derived;
pub mod dialect;
pub mod key_digests;
pub mod merge;
pub mod read_back;
pub mod rebuild;
pub mod state;
pub mod sweep;

pub use dialect::Dialect;
