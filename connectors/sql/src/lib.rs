//! highwater-sql
