//! What the DuckDB connector promises, on real files.

// A broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
