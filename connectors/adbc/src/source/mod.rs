//! DuckDB as a source.
