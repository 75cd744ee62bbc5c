//! What tables a database has.

use std::collections::BTreeMap;

use highwater_core::{Error, Result, Table, TableName};
use mysql_async::prelude::Queryable;

use crate::session::{Session, literal};
use crate::types::{self, Column};

/// A table or view.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    primary_key: Vec<String>,
    /// Columns that some index begins with.
    indexed: Vec<String>,
    /// The storage engine; none for a view.
    engine: Option<String>,
    comment: String,
}

impl Relation {
    /// Whether a read of it sees one moment, and transactions as a whole.
    pub(crate) fn is_transactional(&self) -> bool {
        self.engine.as_deref().is_none_or(|engine| engine.eq_ignore_ascii_case("innodb"))
    }

    pub(crate) fn engine(&self) -> &str {
        self.engine.as_deref().unwrap_or("view")
    }

    pub(crate) fn is_view(&self) -> bool {
        self.engine.is_none()
    }

    pub(crate) fn is_indexed(&self, column: &str) -> bool {
        self.indexed.iter().any(|indexed| indexed == column)
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn table(&self) -> Table {
        let fields = self.columns.iter().map(types::field).collect();
        let mut table = Table::new(TableName::new(&self.name), fields)
            .with_primary_key(self.primary_key.iter().cloned());
        table.description = (!self.comment.is_empty()).then(|| self.comment.clone());
        table
    }
}

/// The tables and views of the connection's database, sorted by name; only one, where it is named.
///
/// # Errors
/// As the server's.
pub(crate) async fn relations(session: &mut Session, only: Option<&str>) -> Result<Vec<Relation>> {
    let condition = |column: &str| match only {
        Some(name) => format!("table_schema = DATABASE() AND {column} = BINARY {}", literal(name)),
        None => "table_schema = DATABASE()".to_owned(),
    };
    let tables = format!(
        "SELECT table_name, IF(table_type = 'VIEW', NULL, engine), table_type, table_comment \
         FROM information_schema.tables WHERE {} AND table_type IN ('BASE TABLE', 'VIEW')",
        condition("table_name")
    );
    let tables: Vec<(String, Option<String>, String, Option<String>)> =
        query(session, &tables).await?;
    let mut found: BTreeMap<String, Relation> = BTreeMap::new();
    for (name, engine, kind, comment) in tables {
        let comment = comment.filter(|comment| kind != "VIEW" || comment != "VIEW");
        let relation = Relation {
            name: name.clone(),
            columns: Vec::new(),
            primary_key: Vec::new(),
            indexed: Vec::new(),
            engine,
            comment: comment.unwrap_or_default(),
        };
        found.insert(name, relation);
    }
    let columns = format!(
        "SELECT table_name, column_name, LOWER(data_type), column_type, is_nullable = 'YES', \
                COALESCE(numeric_precision, 0), COALESCE(numeric_scale, 0) \
         FROM information_schema.columns WHERE {} ORDER BY table_name, ordinal_position",
        condition("table_name")
    );
    type Row = (String, String, String, String, bool, u64, u64);
    for (table, name, data_type, declared, is_nullable, precision, scale) in
        query::<Row>(session, &columns).await?
    {
        let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
        let (precision, scale) = (small(precision), small(scale));
        if let Some(relation) = found.get_mut(&table) {
            relation.columns.push(Column {
                name,
                data_type,
                declared,
                is_nullable,
                precision,
                scale,
            });
        }
    }
    let indexes = format!(
        "SELECT table_name, index_name, seq_in_index, column_name \
         FROM information_schema.statistics WHERE {} AND column_name IS NOT NULL \
         ORDER BY table_name, index_name, seq_in_index",
        condition("table_name")
    );
    for (table, index, place, column) in
        query::<(String, String, u64, String)>(session, &indexes).await?
    {
        let Some(relation) = found.get_mut(&table) else { continue };
        if place == 1 {
            relation.indexed.push(column.clone());
        }
        if index == "PRIMARY" {
            relation.primary_key.push(column);
        }
    }
    Ok(found.into_values().collect())
}

/// The table as it is now.
///
/// # Errors
/// `Schema` when it is not there.
pub(crate) async fn relation(session: &mut Session, name: &TableName) -> Result<Relation> {
    relations(session, Some(&name.name)).await?.pop().ok_or_else(|| {
        Error::schema("The table does not exist")
            .context("table", name)
            .hint("`highwater tables` lists what can be read")
    })
}

async fn query<T>(session: &mut Session, statement: &str) -> Result<Vec<T>>
where
    T: mysql_async::prelude::FromRow + Send + 'static,
{
    let rows = session.begin()?.query(statement).await;
    session.ended();
    rows.map_err(|e| session.error("look at the tables", e))
}
