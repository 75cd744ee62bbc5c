//! What the wire promises: every type there and back, nothing dropped, nothing believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod coalesce;
mod fixtures;
mod garbage;
mod predicate;
mod rows;
mod table;
mod types;
