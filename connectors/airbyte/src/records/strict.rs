//! Columns in which nothing may stand for a value that does not fit: keys, and what orders rows.

/// A value that does not fit a column in which no other may stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The name of the column.
    pub column: String,
    /// The number of the record's line.
    pub line: u64,
}

/// What a column does with a value that is not its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strictness {
    /// It is NULL, or cut, and the row's meta says so.
    #[default]
    Lenient,
    /// It may be cut, but not be NULL.
    NoNull,
    /// It is a misfit.
    Exact,
}
