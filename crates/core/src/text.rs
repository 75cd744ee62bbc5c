//! The canonical text of a value, and the value of a text.
//!
//! Used wherever a system stores text for a type that it does not have: SQLite, CSV, JSON lines.
