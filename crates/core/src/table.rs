//! A table, on either side, and how two descriptions of one differ.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

/// The name of a table: a namespace (schema, database, folder) where the system has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The namespace, `None` for the system's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name inside the namespace.
    pub name: String,
}

impl TableName {
    /// A table in the default namespace.
    pub fn new(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// A table in a namespace.
    pub fn in_namespace(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }

    /// The same namespace, another name.
    #[must_use]
    pub fn renamed(&self, name: impl Into<String>) -> Self {
        Self { namespace: self.namespace.clone(), name: name.into() }
    }
}

/// `namespace.name`, or the name alone. For people; use the fields to build statements.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The unit that is synced: a name, typed columns, and what the system says of its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name in the system it was found in.
    pub name: TableName,
    /// Its columns, in order. Field metadata may carry what [`crate::types`] defines.
    pub schema: SchemaRef,
    /// The columns of its primary key, in key order; empty when there is none.
    pub primary_key: Vec<String>,
    /// The cursor field that the source defines, if it does.
    pub cursor_field: Option<String>,
    /// Whether the source itself knows what changed (files by time and size, a change log), so
    /// that no cursor field is needed for an incremental read.
    pub source_defined_cursor: bool,
    /// Whether a full refresh that was interrupted can go on where it was: the source then sends
    /// checkpoints in it, whose cursors have the key `Partition(table, FULL_REFRESH)`.
    #[serde(default)]
    pub resumable: bool,
    /// The table that this one depends on: its rows belong to rows of that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TableName>,
    /// What it holds, in the source's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Table {
    /// A table without keys.
    pub fn new(name: TableName, fields: Vec<Field>) -> Self {
        Self {
            name,
            schema: Arc::new(Schema::new(fields)),
            primary_key: Vec::new(),
            cursor_field: None,
            source_defined_cursor: false,
            resumable: false,
            parent: None,
            description: None,
        }
    }

    /// Sets the primary key.
    #[must_use]
    pub fn with_primary_key<S: Into<String>>(
        mut self,
        columns: impl IntoIterator<Item = S>,
    ) -> Self {
        self.primary_key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// The column of that exact name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.schema.fields().iter().find(|f| f.name() == name).map(AsRef::as_ref)
    }

    /// The names of all columns, in order.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.schema.fields().iter().map(|f| f.name().as_str())
    }
}

/// What a destination has to do to a table before rows of a new shape fit.
///
/// Computed by the engine (`engine/src/schema.rs`), executed by the destination inside the
/// transaction of the rows that need it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaChange {
    /// The table does not exist.
    CreateTable,
    /// The table exists, and nothing keeps its rows unique by the planned primary key.
    AddKey,
    /// A column that the destination does not have yet; existing rows get NULL.
    AddColumn(Field),
    /// The column holds every old value in a wider type.
    WidenColumn {
        /// The column as it is now.
        from: Field,
        /// The column as it has to become.
        to: Field,
    },
    /// The source no longer promises a value: the column's NOT NULL is taken away.
    DropNotNull(Field),
    /// The table is dropped with its rows and made anew, because the user allows it
    /// (`migrate_mode: forced`) and nothing less would do. Always the only change.
    Recreate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_serialisation_with_its_metadata() {
        let field = Field::new("id", arrow_schema::DataType::Int64, false).with_metadata(
            [("highwater:declared".to_owned(), "postgresql:bigint".to_owned())].into(),
        );
        let table = Table::new(TableName::in_namespace("public", "orders"), vec![field])
            .with_primary_key(["id"]);
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table);
    }
}
