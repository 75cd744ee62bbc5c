//! highwater-files
