//! What the SQLite connector promises, on real files.

// A broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destination;
mod generations;
mod source;
mod suites;
mod support;
