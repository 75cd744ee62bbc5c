//! What the tests of highwater share: throw-away systems, faults, sample tables, and the suites
//! that every connector has to pass.
//!
//! A dev-dependency only. A missing tool is a failure with the command that installs it, never a
//! silent skip.

// This crate is test code: a broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod crash;
pub mod harness;
pub mod job;
pub mod lineitem;
pub mod memory;
pub mod postgres;
pub mod proxy;
pub mod rows;
pub mod scripted;
pub mod sdk;
pub mod suites;
pub mod tables;
