//! highwater-sqlite
