//! The testkit's own tests: a fault that does not happen proves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod memory;
mod postgres;
mod proxy;
mod sdk;
