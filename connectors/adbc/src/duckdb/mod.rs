//! DuckDB: one file, loaded library, everything in one transaction.
//!
//! `config.rs` is what the user says, `database.rs` the open file. `types.rs` and `values.rs` say
//! what is stored as what.

pub(crate) mod config;
pub(crate) mod database;
