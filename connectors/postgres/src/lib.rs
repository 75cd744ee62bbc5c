//! highwater-postgres
