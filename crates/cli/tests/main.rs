//! What the user sees: every command as a transcript of stdout, stderr and exit code, compared
//! with a file in `tests/transcripts`.

// A broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod airbyte;
mod commands;
mod configuration;
mod conformance;
mod connector;
mod crash;
mod data;
mod deletes;
mod mappings;
mod not_here;
mod plugin_configuration;
mod plugins;
mod seen;
mod shapes;
mod silent;
mod transcript;
mod wide_rows;
