//! DuckDB as a destination: one file, everything in one transaction.
//!
//! `config.rs` is what the user says, `database.rs` the open file, `file.rs` a destination's hold on
//! it. `types.rs` and `values.rs` say what is stored as what. `destination.rs`, `writer.rs` with
//! `load.rs`, `key_digests.rs` and `store.rs` do what the contracts of the engine ask for.

pub(crate) mod catalog;
pub(crate) mod config;
pub(crate) mod database;
pub(crate) mod destination;
mod dialect;
mod file;
pub(crate) mod key_digests;
mod load;
mod mark;
mod rebuild;
mod removal;
mod schema;
mod store;
pub(crate) mod types;
mod upkeep;
mod values;
mod writer;
