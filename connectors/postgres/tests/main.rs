//! PostgreSQL against a real server.

// This crate is test code: a broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clock;
mod destination;
mod faults;
mod first_load;
mod fit;
mod generations;
mod horizon;
mod interleaved;
mod key_comparison;
mod late_keys;
mod plugins;
mod server;
mod source;
mod standby;
mod suites;
mod wire;
