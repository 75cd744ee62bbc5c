//! The files connector from outside: what is read, what is left behind, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod commit;
mod paths;
mod read;
mod rebuild;
mod suites;
mod support;
mod write;
