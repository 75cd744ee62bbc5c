//! What a database file says of its tables: columns, keys, indexes, and the mark that tells a
//! table of ours from a later one of the same name.

use std::collections::BTreeSet;

use arrow_schema::Field;
use highwater_core::types::with_metadata;
use highwater_core::{Table, TableName};
use highwater_sql::ddl::KEY_INDEX;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use crate::types::{self, Classes, MIXED, Rule};

/// Names that begin so are SQLite's own, or highwater's.
const HIDDEN_PREFIXES: [&str; 2] = ["sqlite_", "_highwater_"];
/// What comes before the token of a table's identity in its definition.
const IDENTITY_MARK: &str = "CONSTRAINT \"highwater:";

/// A name as an identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table or view of the main database.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub(crate) name: String,
    /// Rows have a number of their own: not a view, not `WITHOUT ROWID`.
    has_rowid: bool,
    columns: Vec<Column>,
    indexes: Vec<Index>,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    declared: String,
    not_null: bool,
    /// Its place in the primary key, from 1; 0 when it is not in it.
    key: u32,
}

#[derive(Debug, Clone)]
struct Index {
    name: String,
    unique: bool,
    /// Made for the PRIMARY KEY clause.
    of_key: bool,
    partial: bool,
    columns: Vec<String>,
}

/// The names of all tables and views that a user may sync, sorted.
pub(crate) fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' \
         AND type IN ('table', 'view', 'virtual') ORDER BY name COLLATE BINARY",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let visible = |name: &String| !HIDDEN_PREFIXES.iter().any(|p| name.starts_with(p));
    names.filter(|name| name.as_ref().map_or(true, visible)).collect()
}

/// Looks at one table; `None` when there is none of that name.
pub(crate) fn relation(connection: &Connection, name: &str) -> rusqlite::Result<Option<Relation>> {
    let found = connection
        .query_row(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' \
             AND name = ?1 COLLATE NOCASE AND type <> 'shadow'",
            [name],
            |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?)),
        )
        .optional()?;
    let Some((name, kind, without_rowid)) = found else { return Ok(None) };
    let name: String = name;
    let mut statement = connection.prepare(
        "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1 \
         ORDER BY cid",
    )?;
    let columns = statement.query_map([&name], |row| {
        let (name, declared) = (row.get(0)?, row.get(1)?);
        Ok(Column { name, declared, not_null: row.get(2)?, key: row.get(3)? })
    })?;
    let columns = columns.collect::<rusqlite::Result<Vec<_>>>()?;
    let has_rowid = kind == "table" && !without_rowid;
    Ok(Some(Relation { indexes: indexes(connection, &name)?, name, has_rowid, columns }))
}

fn indexes(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Index>> {
    let mut statement = connection
        .prepare("SELECT name, \"unique\", origin = 'pk', partial FROM pragma_index_list(?1)")?;
    let indexes = statement.query_map([table], |row| {
        let (name, unique) = (row.get(0)?, row.get(1)?);
        let columns = Vec::new();
        Ok(Index { name, unique, of_key: row.get(2)?, partial: row.get(3)?, columns })
    })?;
    let mut indexes = indexes.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut statement = connection.prepare(
        "SELECT coalesce(name, '') FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno",
    )?;
    for index in &mut indexes {
        let columns = statement.query_map([&index.name], |row| row.get(0))?;
        index.columns = columns.collect::<rusqlite::Result<_>>()?;
    }
    Ok(indexes)
}

impl Relation {
    /// The table as the engine sees it, with the types that [`crate::types`] documents.
    pub(crate) fn table(&self, connection: &Connection) -> rusqlite::Result<Table> {
        let by_values: BTreeSet<usize> = (0..self.columns.len())
            .filter(|at| types::rule(&self.columns[*at].declared) == Rule::AllValues)
            .collect();
        let classes = self.classes(connection, &by_values)?;
        let key = self.primary_key();
        let mut fields = Vec::with_capacity(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            let nullable = !(column.not_null || self.is_key_without_null(column));
            let meaning = match types::rule(&column.declared) {
                Rule::Known(meaning) => Ok(meaning),
                Rule::FirstValue(named) => {
                    let value = self.first_value(connection, &column.name)?;
                    Ok(types::of_first_value(&value, &named))
                }
                Rule::AllValues => {
                    let place = by_values.iter().position(|known| *known == at);
                    place.map_or(Classes::default(), |place| classes[place]).meaning()
                }
            };
            fields.push(match meaning {
                Ok(meaning) => meaning.field(&column.name, &column.declared, nullable),
                Err(mixture) => {
                    let field = Field::new(&column.name, arrow_schema::DataType::Utf8, nullable);
                    with_metadata(field, MIXED, mixture)
                }
            });
        }
        Ok(Table::new(TableName::new(&self.name), fields).with_primary_key(key))
    }

    /// The primary key in key order, or what our destination has in its place.
    fn primary_key(&self) -> Vec<String> {
        let mut key: Vec<_> = self.columns.iter().filter(|c| c.key > 0).collect();
        key.sort_by_key(|column| column.key);
        if !key.is_empty() {
            return key.into_iter().map(|column| column.name.clone()).collect();
        }
        let stand_in =
            self.indexes.iter().find(|i| i.unique && !i.partial && i.name.ends_with(KEY_INDEX));
        stand_in.map_or_else(Vec::new, |index| index.columns.clone())
    }

    /// SQLite allows NULL in primary keys, except where the key is the row's own address.
    fn is_key_without_null(&self, column: &Column) -> bool {
        column.key > 0 && (!self.has_rowid || self.is_rowid(&column.name))
    }

    /// Whether the column is another name of the row's number (`INTEGER PRIMARY KEY`), which can
    /// hold integers only and needs no index.
    pub(crate) fn is_rowid(&self, name: &str) -> bool {
        let mut key = self.columns.iter().filter(|c| c.key > 0);
        let (Some(only), None) = (key.next(), key.next()) else { return false };
        self.has_rowid
            && only.name == name
            && only.declared.eq_ignore_ascii_case("INTEGER")
            && !self.indexes.iter().any(|i| i.of_key)
    }

    /// Whether rows can be found by the column without looking at all of them.
    pub(crate) fn is_indexed(&self, name: &str) -> bool {
        let leads = |index: &Index| index.columns.first().is_some_and(|first| first == name);
        self.is_rowid(name) || self.indexes.iter().any(|i| !i.partial && leads(i))
    }

    /// The declared type of a column, empty when there is none; `None` when there is no column.
    pub(crate) fn declared(&self, name: &str) -> Option<&str> {
        let column = self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))?;
        Some(&column.declared)
    }

    /// Whether the column promises a value.
    pub(crate) fn is_not_null(&self, name: &str) -> bool {
        self.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name) && c.not_null)
    }

    fn first_value(&self, connection: &Connection, column: &str) -> rusqlite::Result<Value> {
        let order = if self.has_rowid { " ORDER BY t.rowid" } else { "" };
        let (table, column) = (quote(&self.name), quote(column));
        let sql = format!(
            "SELECT t.{column} FROM {table} AS t WHERE t.{column} IS NOT NULL{order} LIMIT 1"
        );
        let value = connection.query_row(&sql, [], |row| row.get(0)).optional()?;
        Ok(value.unwrap_or(Value::Null))
    }

    /// Looks through the whole table once for all columns whose values decide.
    fn classes(
        &self,
        connection: &Connection,
        columns: &BTreeSet<usize>,
    ) -> rusqlite::Result<Vec<Classes>> {
        let mut classes = vec![Classes::default(); columns.len()];
        if columns.is_empty() {
            return Ok(classes);
        }
        let names: Vec<_> =
            columns.iter().map(|at| format!("t.{}", quote(&self.columns[*at].name))).collect();
        let sql = format!("SELECT {} FROM {} AS t", names.join(", "), quote(&self.name));
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for (at, classes) in classes.iter_mut().enumerate() {
                use rusqlite::types::Type;
                match row.get_ref(at)?.data_type() {
                    Type::Null => {}
                    Type::Integer => classes.integer = true,
                    Type::Real => classes.real = true,
                    Type::Text => classes.text = true,
                    Type::Blob => classes.blob = true,
                }
            }
        }
        Ok(classes)
    }
}

/// The mark that a destination puts into the definition of a table it creates.
pub(crate) fn identity_mark(token: &str) -> String {
    format!(", {IDENTITY_MARK}{}\" CHECK (1)", token.replace('"', ""))
}

/// The token in the definition of a table; `None` for tables that others made.
pub(crate) fn identity(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let sql: Option<String> = connection
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
            [name],
            |row| row.get(0),
        )
        .optional()?
        .flatten();
    Ok(sql.as_deref().and_then(|sql| {
        let (_, rest) = sql.rsplit_once(IDENTITY_MARK)?;
        let (token, _) = rest.split_once('"')?;
        Some(token.to_owned())
    }))
}

/// Whether a name matches a pattern in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;

    use super::*;

    fn open(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    fn table(connection: &Connection, name: &str) -> Table {
        relation(connection, name).unwrap().unwrap().table(connection).unwrap()
    }

    #[test]
    fn keys_not_null_and_generated_columns_are_found() {
        let connection = open(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, n TEXT NOT NULL, g INT AS (id * 2) STORED);
             CREATE TABLE b (x TEXT, y INT, PRIMARY KEY (y, x)) WITHOUT ROWID;
             CREATE TABLE c (x TEXT PRIMARY KEY);
             CREATE TABLE d (x BIGINT, y TEXT); CREATE UNIQUE INDEX d_highwater_key ON d (y, x);
             CREATE VIEW v AS SELECT id, n FROM a;
             CREATE TABLE _highwater_lease (a); CREATE TABLE _highwater_t_tombstones (a);",
        );
        assert_eq!(names(&connection).unwrap(), ["a", "b", "c", "d", "v"]);
        let a = table(&connection, "a");
        assert_eq!(a.primary_key, ["id"]);
        assert_eq!(a.column_names().collect::<Vec<_>>(), ["id", "n", "g"]);
        let not_null = |t: &Table| -> Vec<bool> {
            t.schema.fields().iter().map(|f| !f.is_nullable()).collect()
        };
        assert_eq!(not_null(&a), [true, true, false]);
        let b = table(&connection, "b");
        assert_eq!(
            (b.primary_key.clone(), not_null(&b)),
            (vec!["y".into(), "x".into()], vec![true, true])
        );
        assert_eq!(not_null(&table(&connection, "c")), [false], "SQLite lets NULL into such a key");
        assert_eq!(table(&connection, "d").primary_key, ["y", "x"]);
        assert_eq!(table(&connection, "v").field("id").unwrap().data_type(), &DataType::Int64);
        assert!(relation(&connection, "none").unwrap().is_none());
    }

    #[test]
    fn columns_without_a_type_are_what_their_values_are() {
        let connection = open(
            "CREATE TABLE t (i, r, n, s, b, e, mixed, kind STRING);
             INSERT INTO t VALUES (NULL, 0.5, 1, 'x', x'00', NULL, 1, 'a');
             INSERT INTO t VALUES (1, 1.5, 1.5, NULL, NULL, NULL, 'one', 'b');",
        );
        let t = table(&connection, "t");
        let types: Vec<_> = t.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        use DataType::{Binary, Float64, Int64, Utf8};
        assert_eq!(types, [Int64, Float64, Utf8, Utf8, Binary, Utf8, Utf8, Utf8]);
        assert_eq!(t.field("mixed").unwrap().metadata()[MIXED], "integer, text");
    }

    #[test]
    fn indexes_are_known() {
        let connection = open(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT);
             CREATE INDEX i ON t (a, b); CREATE INDEX p ON t (b) WHERE a IS NULL;",
        );
        let t = relation(&connection, "t").unwrap().unwrap();
        assert!(t.is_rowid("id") && t.is_indexed("id") && t.is_indexed("a") && !t.is_indexed("b"));
    }

    #[test]
    fn an_identity_survives_every_change_of_columns() {
        let mark = identity_mark("7f3a");
        let connection = open(&format!(
            "CREATE TABLE t (k TEXT NOT NULL, a TEXT NOT NULL{mark}); CREATE TABLE u (a);
             ALTER TABLE t ADD COLUMN b TEXT;
             ALTER TABLE t ALTER COLUMN a DROP NOT NULL;
             ALTER TABLE t DROP COLUMN a;
             ALTER TABLE t RENAME COLUMN b TO a;
             ALTER TABLE t RENAME TO v;"
        ));
        assert_eq!(identity(&connection, "v").unwrap().as_deref(), Some("7f3a"));
        assert_eq!(identity(&connection, "u").unwrap(), None);
        connection.execute("INSERT INTO v VALUES ('k', 'a')", []).unwrap();
    }

    #[test]
    fn patterns_match_names() {
        for (pattern, name) in
            [("*", "x"), ("a*", "ab"), ("*b", "ab"), ("a*c*e", "abcde"), ("t", "t")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*b", "a"), ("*ab*ab", "ab"), ("", "x")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
