//! What the DuckDB connector promises, on real files, with the library that
//! `scripts/install-sdks` installs.

// A broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destination;
mod drivers;
mod duckdb_source;
mod reading;
mod suites;
mod support;
