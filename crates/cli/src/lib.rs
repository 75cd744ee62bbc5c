//! The command line of highwater: reads the configuration, runs the engine, shows the result.
//!
//! `main.rs` reads top to bottom; [`commands`] has one file per command, [`args`] every flag,
//! [`config`] every key.

mod airbyte;
pub mod args;
pub mod commands;
pub mod config;
mod connector;
mod described;
pub mod exit;
pub mod failure;
mod hints;
mod inputs;
pub mod jobs;
mod json_schema;
pub mod logging;
pub mod not_here;
pub mod output;
pub mod plugin_log;
pub mod plugins;
mod progress;
pub mod registry;
mod report;
pub mod running;
pub mod served;
pub mod stop;
mod stores;
mod summaries;
