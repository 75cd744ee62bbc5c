//! MySQL as a source, against a real server.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cursor;
mod server;
mod values;
