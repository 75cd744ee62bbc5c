//! What the SQLite connector promises, on real files.

mod destination;
mod source;
mod support;
