//! PostgreSQL against a real server.

mod horizon;
mod server;
mod source;
