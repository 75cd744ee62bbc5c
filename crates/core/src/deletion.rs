//! Rows that a source asks to be removed by a condition, not by their key.

use arrow_array::ArrayRef;
use arrow_schema::Field;

use crate::table::TableName;

/// Metadata column of plugins: what tells a row from every other.
pub const ROW_ID: &str = "_cq_id";
/// Metadata column of plugins: the [`ROW_ID`] of the row that this one depends on.
pub const PARENT_ID: &str = "_cq_parent_id";

/// The rows of a table that satisfy every group leave it, and with them the rows that depend on
/// them: for each relation, in order, the rows of its table whose [`PARENT_ID`] is the [`ROW_ID`]
/// of a row removed from its parent.
///
/// It acts on everything sent before it, in this sync and earlier ones, and on nothing sent after.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// The table at the source.
    pub table: TableName,
    /// All of them have to hold. Without a group every row goes.
    pub groups: Vec<Group>,
    /// Dependent tables, parents first.
    pub relations: Vec<Relation>,
}

/// Comparisons of which all, or any, have to hold.
#[derive(Debug, Clone)]
pub struct Group {
    /// Whether one comparison is enough.
    pub any: bool,
    /// The comparisons.
    pub equal: Vec<Equal>,
}

/// A column that has to equal a value. NULL equals nothing.
#[derive(Debug, Clone)]
pub struct Equal {
    /// The column at the source.
    pub column: String,
    /// The type of the value.
    pub field: Field,
    /// The value: an array of one element.
    pub value: ArrayRef,
}

/// A table whose rows go with those of its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The dependent table at the source.
    pub table: TableName,
    /// What it depends on.
    pub parent: TableName,
}
