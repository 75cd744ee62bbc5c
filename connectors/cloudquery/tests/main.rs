//! Plugins as real processes, and ourselves as one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arrow_check;
mod destination;
mod destination_sdk;
mod destination_state;
mod host;
mod host_docker;
mod host_download;
mod host_end;
mod host_sdk;
mod proxy;
mod reading;
mod scripted;
mod source;
mod source_failures;
mod source_sdk;
mod source_state;
mod transformer;
