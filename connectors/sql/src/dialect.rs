//! How one system spells SQL.

use arrow_schema::Field;
use highwater_core::{Result, Table, TableName};
use xxhash_rust::xxh3::xxh3_64;

/// How one system spells SQL. The defaults are what PostgreSQL and SQLite share: double quotes
/// around names, `INSERT … ON CONFLICT`, window functions, `IS [NOT] DISTINCT FROM`.
pub trait Dialect: Send + Sync {
    /// The name of the system in `highwater:declared` metadata: `postgresql`.
    fn system(&self) -> &'static str;

    /// The longest name, in bytes.
    fn identifier_bytes_max(&self) -> usize;

    /// The name of one of highwater's own tables, quoted: `"_highwater"."lease"`.
    fn internal(&self, name: &str) -> String;

    /// The SQL type in which values of the field are stored.
    ///
    /// # Errors
    /// `Unsupported` when values of this type cannot be stored without changing them.
    fn column_type(&self, field: &Field) -> Result<String>;

    /// The SQL type of the column in a staging table: [`Self::column_type`], or `text` where the
    /// loader cannot send the type itself.
    ///
    /// # Errors
    /// As [`Self::column_type`].
    fn staging_type(&self, field: &Field) -> Result<String> {
        self.column_type(field)
    }

    /// Turns a staged value into a stored one: the expression itself, or a cast of it.
    fn staged_as_stored(&self, expression: &str, field: &Field) -> String {
        let _ = field;
        expression.to_owned()
    }

    /// An expression that orders values as [`highwater_core::types`] says (text by its bytes).
    fn ordered(&self, expression: &str, field: &Field) -> String;

    /// Whether two expressions of the field's type differ, NULL being a value.
    fn distinct(&self, left: &str, right: &str, field: &Field) -> String {
        let _ = field;
        format!("{left} IS DISTINCT FROM {right}")
    }

    /// Whether two key expressions are the same, NULL being a value.
    fn same(&self, left: &str, right: &str) -> String {
        format!("{left} IS NOT DISTINCT FROM {right}")
    }

    /// Whether two expressions of a column of the key are the same. Where it cannot be NULL, a plain
    /// comparison does, which can use an index or be hashed.
    fn same_key(&self, left: &str, right: &str, field: Option<&Field>) -> String {
        match field.is_some_and(|field| !field.is_nullable()) {
            true => format!("{left} = {right}"),
            false => self.same(left, right),
        }
    }

    /// The n-th parameter of a statement, from 1.
    fn parameter(&self, n: usize) -> String;

    /// Whether a column equals the n-th parameter, which has the column's type; NULL equals nothing.
    fn equals_parameter(&self, column: &str, n: usize, field: &Field) -> String {
        let _ = field;
        format!("{column} = {}", self.parameter(n))
    }

    /// The clause that keeps a row from being changed by others until the transaction ends while
    /// others may still read and lock it so (`FOR SHARE`); empty where a transaction excludes
    /// all other writers anyway.
    fn lock_shared(&self) -> &'static str {
        ""
    }

    /// The clause that locks a row for a change (`FOR UPDATE`); empty as above.
    fn lock_exclusive(&self) -> &'static str {
        ""
    }

    /// What follows `CREATE TABLE name (columns` before the closing parenthesis: a mark that
    /// identifies the table for ever, where the system has no such identity itself.
    fn identity_mark(&self, identity: Option<&str>) -> String {
        let _ = identity;
        String::new()
    }

    /// What tells a row of a table from every other within a statement (`ctid`). `None`: rows of
    /// the history are told by their sequence, so the connector lets no two have the same.
    fn row_id(&self) -> Option<&'static str> {
        None
    }

    /// Whether the key of a table is an index, which refuses a second row of a key and finds the
    /// rows of an `ON CONFLICT`. Where not, a merge finds them by joins, and the key is kept where
    /// [`Self::table_annotations`] put it.
    fn indexes_keys(&self) -> bool {
        true
    }

    /// The statements that say of a table that was just made what its definition cannot: its
    /// identity, its key, what its columns mean.
    fn table_annotations(&self, table: &Table, identity: Option<&str>) -> Vec<String> {
        let _ = (table, identity);
        Vec::new()
    }

    /// The same for a column that was just added.
    fn column_annotations(&self, table: &TableName, field: &Field) -> Vec<String> {
        let _ = (table, field);
        Vec::new()
    }

    /// The statements that widen a column from its type to the field's.
    ///
    /// # Errors
    /// As [`Self::column_type`].
    fn widen_column(&self, table: &TableName, to: &Field) -> Result<Vec<String>>;

    /// The statements that take a column's NOT NULL away.
    fn drop_not_null(&self, table: &TableName, column: &str) -> Vec<String>;

    /// A name as an identifier.
    fn quote(&self, name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    /// A table as an identifier.
    fn table(&self, name: &TableName) -> String {
        match &name.namespace {
            Some(namespace) => format!("{}.{}", self.quote(namespace), self.quote(&name.name)),
            None => self.quote(&name.name),
        }
    }

    /// A name made of `name` and `suffix` that fits the system: where it would be too long, the
    /// end of `name` is replaced by its hash, so that two long names stay two names.
    fn derived_name(&self, name: &str, suffix: &str) -> String {
        let whole = format!("{name}{suffix}");
        if whole.len() <= self.identifier_bytes_max() {
            return whole;
        }
        let hash = format!("_{:016x}", xxh3_64(name.as_bytes()));
        let room = self.identifier_bytes_max().saturating_sub(hash.len() + suffix.len());
        let mut end = room.min(name.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{hash}{suffix}", &name[..end])
    }
}
