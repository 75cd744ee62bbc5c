//! Plugins as real processes, and ourselves as one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod host;
mod host_docker;
mod host_download;
mod host_end;
mod host_sdk;
mod scripted;
