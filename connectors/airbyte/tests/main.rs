//! The connector against real processes: our own small ones, and the genuine SDK's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod destination;
mod destination_sdk;
mod destination_support;
mod host;
mod host_asked;
mod host_find;
mod host_sdk;
mod host_support;
mod records;
mod records_random;
mod source;
mod source_faults;
mod source_killed;
mod source_sdk;
mod source_support;
