//! What the system catalogs say of tables, columns and types. A few queries for all tables, not
//! one per table.

use std::collections::{BTreeMap, BTreeSet};

use highwater_core::{Error, Result, Table, TableName};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::session::pg_error;
use crate::types::field;

/// Object ids below this belong to PostgreSQL itself.
const FIRST_USER_OID: u32 = 16_384;

/// A table, view or the like.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub oid: u32,
    pub name: TableName,
    pub kind: RelationKind,
    /// Whether it stores row versions with a transaction id (`xmin`).
    pub has_row_versions: bool,
    /// Whether it has or had partitions or children.
    pub may_have_children: bool,
    /// Whether row security hides rows from this role.
    pub row_security: bool,
    /// The primary key; without one, the unique index that stands in for it where key columns
    /// may be NULL ([`highwater_sql::ddl::KEY_INDEX`]).
    pub primary_key: Vec<String>,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelationKind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
}

#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    pub not_null: bool,
    /// `format_type`, with the schema unless it is `pg_catalog` or `public`.
    pub declared: String,
    pub dimensions: i32,
}

impl Relation {
    /// The table as the engine sees it.
    pub(crate) fn table(&self, types: &UserTypes) -> Table {
        let fields = self.columns.iter().map(|column| field(column, types)).collect();
        Table::new(self.name.clone(), fields).with_primary_key(self.primary_key.iter().cloned())
    }
}

/// A type that is not PostgreSQL's own.
#[derive(Debug, Clone)]
pub(crate) struct UserType {
    /// Base type and modifier, for a domain.
    pub domain_base: Option<(u32, i32)>,
    definition: Option<Definition>,
    /// Types that have to exist first.
    needs: Vec<u32>,
}

/// What another PostgreSQL needs to create a type. Names and types are as `format_type` prints
/// them: quoted where needed, with the schema unless it is `public`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Definition {
    Enum {
        name: String,
        labels: Vec<String>,
    },
    Domain {
        name: String,
        base: String,
        not_null: bool,
        default: Option<String>,
        /// `CHECK (VALUE > 0)`
        checks: Vec<String>,
    },
    Composite {
        name: String,
        /// Name and type.
        attributes: Vec<(String, String)>,
    },
    Range {
        name: String,
        subtype: String,
    },
}

/// All user-defined types that the tables at hand use, by object id.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserTypes(BTreeMap<u32, UserType>);

impl UserTypes {
    pub(crate) fn get(&self, oid: u32) -> Option<&UserType> {
        self.0.get(&oid)
    }

    /// The type itself, or what a domain is over.
    pub(crate) fn base(&self, oid: u32) -> u32 {
        match self.get(oid).and_then(|user| user.domain_base) {
            Some((base, _)) => self.base(base),
            None => oid,
        }
    }

    /// The definitions of a type and of all that it needs, in the order of creation, as JSON;
    /// `None` when there is nothing to create.
    pub(crate) fn definition(&self, oid: u32) -> Option<String> {
        let mut ordered = Vec::new();
        self.collect(oid, &mut BTreeSet::new(), &mut ordered);
        (!ordered.is_empty()).then(|| serde_json::to_string(&ordered).ok()).flatten()
    }

    fn collect<'a>(&'a self, oid: u32, seen: &mut BTreeSet<u32>, out: &mut Vec<&'a Definition>) {
        let Some(user) = self.0.get(&oid) else { return };
        if !seen.insert(oid) {
            return;
        }
        for needed in &user.needs {
            self.collect(*needed, seen, out);
        }
        out.extend(&user.definition);
    }
}

/// Which relations to look at.
pub(crate) enum Selection<'a> {
    /// Those in these schemas (in all, if there is none) that this role may read.
    Schemas(&'a [String]),
    /// These, whether or not they may be read; a namespace is always given.
    Names(&'a [TableName]),
}

/// `public` has no namespace in table names.
pub(crate) fn table_name(schema: &str, name: &str) -> TableName {
    if schema == "public" { TableName::new(name) } else { TableName::in_namespace(schema, name) }
}

/// The schema of a table name.
pub(crate) fn schema_of(name: &TableName) -> &str {
    name.namespace.as_deref().unwrap_or("public")
}

/// Without any subquery: to plan those costs the server more than to answer.
const RELATIONS: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
       -- The number that `heap` has for ever.
       c.relam = 2, pg_catalog.row_security_active(c.oid), c.relhassubclass
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')";

const READABLE: &str = "
  AND NOT c.relispartition AND c.relpersistence <> 't' AND c.relname !~ '^_highwater_'
  AND n.nspname <> 'information_schema' AND n.nspname <> '_highwater' AND n.nspname !~ '^pg_'
  AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1::text[]))
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
  AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')";

/// As [`RELATIONS`], by the index of names. A name that is longer than one can be is none.
const NAMED: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
       c.relam = 2, pg_catalog.row_security_active(c.oid), c.relhassubclass
FROM unnest($1::text[], $2::text[]) AS k(schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = k.schema::name AND n.nspname::text = k.schema
JOIN pg_catalog.pg_class c
  ON c.relnamespace = n.oid AND c.relname = k.name::name AND c.relname::text = k.name
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')";

const COLUMNS: &str = "
SELECT a.attrelid, a.attname::text, a.atttypid, a.atttypmod, a.attnotnull,
       pg_catalog.format_type(a.atttypid, a.atttypmod), a.attndims::int4, a.attnum
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum";

/// The first of a relation is its key. The name of an index may be quoted.
const KEYS: &str = r#"
SELECT i.indrelid, i.indkey::int2[]
FROM pg_catalog.pg_index i
WHERE i.indrelid = ANY ($1)
  AND (i.indisprimary
       OR i.indisunique AND i.indexrelid::pg_catalog.regclass::text ~ '_highwater_key"?$')
ORDER BY i.indisprimary DESC, i.indexrelid"#;

const WITH_FOREIGN_CHILDREN: &str = "
SELECT DISTINCT h.inhparent
FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class l ON l.oid = h.inhrelid
WHERE h.inhparent = ANY ($1) AND l.relkind = 'f'";

/// Reads relations with their columns and the types that these use.
///
/// # Errors
/// As the server's.
pub(crate) async fn relations(
    client: &Client,
    selection: Selection<'_>,
) -> Result<(Vec<Relation>, UserTypes)> {
    let rows = match selection {
        Selection::Schemas(schemas) => {
            let statement = format!("{RELATIONS}{READABLE}");
            rows(client, &statement, &[(&schemas, Type::TEXT_ARRAY)]).await?
        }
        Selection::Names(names) => {
            let schemas: Vec<&str> = names.iter().map(schema_of).collect();
            let tables: Vec<&str> = names.iter().map(|n| n.name.as_str()).collect();
            let parameters: [(&(dyn ToSql + Sync), Type); 2] =
                [(&schemas, Type::TEXT_ARRAY), (&tables, Type::TEXT_ARRAY)];
            rows(client, NAMED, &parameters).await?
        }
    };
    let mut relations: Vec<Relation> = rows.iter().map(relation).collect::<Result<_>>()?;
    relations.sort_by(|a, b| a.name.cmp(&b.name));
    relations.dedup_by_key(|relation| relation.oid);
    look_at_children(client, &mut relations).await?;
    add_columns(client, &mut relations).await?;
    let used = relations.iter().flat_map(|r| &r.columns).map(|c| c.type_oid).collect();
    let types = user_types(client, used).await?;
    Ok((relations, types))
}

/// Runs a query without leaving a prepared statement behind.
pub(crate) async fn rows(
    client: &Client,
    statement: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>> {
    client
        .query_typed(statement, parameters)
        .await
        .map_err(|e| pg_error("read the system catalog", &e))
}

/// A column of a catalog row.
pub(crate) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: usize,
) -> Result<T> {
    row.try_get(column).map_err(|e| {
        Error::internal("A system catalog has another shape than expected").caused_by(e)
    })
}

fn relation(row: &Row) -> Result<Relation> {
    let kind = match get::<&str>(row, 3)? {
        "p" => RelationKind::Partitioned,
        "v" => RelationKind::View,
        "m" => RelationKind::MaterializedView,
        "f" => RelationKind::Foreign,
        _ => RelationKind::Table,
    };
    let has_row_versions = match kind {
        RelationKind::Table | RelationKind::MaterializedView => get(row, 4)?,
        RelationKind::Partitioned => true,
        RelationKind::View | RelationKind::Foreign => false,
    };
    Ok(Relation {
        oid: get(row, 0)?,
        name: table_name(get(row, 1)?, get(row, 2)?),
        kind,
        has_row_versions,
        may_have_children: get(row, 6)?,
        row_security: get(row, 5)?,
        primary_key: Vec::new(),
        columns: Vec::new(),
    })
}

/// What is stored in another server has no row versions here.
async fn look_at_children(client: &Client, relations: &mut [Relation]) -> Result<()> {
    let parents = relations.iter().filter(|relation| relation.may_have_children);
    let parents: Vec<u32> = parents.map(|relation| relation.oid).collect();
    if parents.is_empty() {
        return Ok(());
    }
    let found = rows(client, WITH_FOREIGN_CHILDREN, &[(&parents, Type::OID_ARRAY)]).await?;
    for row in found {
        let parent: u32 = get(&row, 0)?;
        for relation in relations.iter_mut().filter(|relation| relation.oid == parent) {
            relation.has_row_versions = false;
        }
    }
    Ok(())
}

async fn add_columns(client: &Client, relations: &mut [Relation]) -> Result<()> {
    if relations.is_empty() {
        return Ok(());
    }
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let of: [(&(dyn ToSql + Sync), Type); 1] = [(&oids, Type::OID_ARRAY)];
    // Both on the way at once.
    let (found, indexes) = tokio::try_join!(rows(client, COLUMNS, &of), rows(client, KEYS, &of))?;
    let mut columns: BTreeMap<u32, Vec<(i16, Column)>> = BTreeMap::new();
    for row in found {
        let column = Column {
            name: get(&row, 1)?,
            type_oid: get(&row, 2)?,
            type_modifier: get(&row, 3)?,
            not_null: get(&row, 4)?,
            declared: get(&row, 5)?,
            dimensions: get(&row, 6)?,
        };
        columns.entry(get(&row, 0)?).or_default().push((get(&row, 7)?, column));
    }
    let mut keys: BTreeMap<u32, Vec<i16>> = BTreeMap::new();
    for row in indexes {
        let key = get(&row, 1)?;
        keys.entry(get(&row, 0)?).or_insert(key);
    }
    for relation in relations {
        let columns = columns.remove(&relation.oid).unwrap_or_default();
        let named = |number: &i16| columns.iter().find(|(known, _)| known == number);
        let key = keys.remove(&relation.oid).unwrap_or_default();
        relation.primary_key =
            key.iter().filter_map(named).map(|(_, column)| column.name.clone()).collect();
        relation.columns = columns.into_iter().map(|(_, column)| column).collect();
    }
    Ok(())
}

/// Loads the types in `wanted` that are not PostgreSQL's own, and those that they need.
async fn user_types(client: &Client, mut wanted: BTreeSet<u32>) -> Result<UserTypes> {
    let statement = "
        SELECT t.oid, pg_catalog.format_type(t.oid, NULL), t.typtype::text,
               t.typbasetype, t.typtypmod, pg_catalog.format_type(t.typbasetype, t.typtypmod),
               t.typnotnull, t.typdefault, t.typelem,
               ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e
                     WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder),
               ARRAY(SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
                     WHERE k.contypid = t.oid AND k.contype = 'c' ORDER BY k.conname),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                     ORDER BY a.attnum),
               ARRAY(SELECT pg_catalog.format_type(a.atttypid, a.atttypmod)
                     FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                     ORDER BY a.attnum),
               ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                     ORDER BY a.attnum),
               r.rngsubtype, pg_catalog.format_type(r.rngsubtype, NULL)
        FROM pg_catalog.pg_type t
        LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
        WHERE t.oid = ANY ($1)";
    let mut types = UserTypes::default();
    loop {
        wanted.retain(|oid| *oid >= FIRST_USER_OID && !types.0.contains_key(oid));
        if wanted.is_empty() {
            return Ok(types);
        }
        let oids: Vec<u32> = std::mem::take(&mut wanted).into_iter().collect();
        let found = rows(client, statement, &[(&oids, Type::OID_ARRAY)]).await?;
        if found.is_empty() {
            return Ok(types);
        }
        for row in &found {
            let user = user_type(row)?;
            wanted.extend(&user.needs);
            types.0.insert(get(row, 0)?, user);
        }
    }
}

fn user_type(row: &Row) -> Result<UserType> {
    let name: String = get(row, 1)?;
    let base: u32 = get(row, 3)?;
    let (mut domain_base, mut needs) = (None, Vec::new());
    let definition = match get::<&str>(row, 2)? {
        "e" => Some(Definition::Enum { name, labels: get(row, 9)? }),
        "d" => {
            domain_base = Some((base, get(row, 4)?));
            needs.push(base);
            Some(Definition::Domain {
                name,
                base: get(row, 5)?,
                not_null: get(row, 6)?,
                default: get(row, 7)?,
                checks: get(row, 10)?,
            })
        }
        "c" => {
            needs = get(row, 13)?;
            let names: Vec<String> = get(row, 11)?;
            let declared: Vec<String> = get(row, 12)?;
            Some(Definition::Composite {
                name,
                attributes: names.into_iter().zip(declared).collect(),
            })
        }
        "r" => {
            needs.extend(get::<Option<u32>>(row, 14)?);
            let subtype: Option<String> = get(row, 15)?;
            subtype.map(|subtype| Definition::Range { name, subtype })
        }
        // Arrays come with their elements, base types with extensions.
        _ => {
            needs.push(get(row, 8)?);
            None
        }
    };
    Ok(UserType { domain_base, definition, needs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_lists_what_it_needs_first() {
        let mood = Definition::Enum { name: "mood".into(), labels: vec!["ok".into()] };
        let domain = Definition::Domain {
            name: "good".into(),
            base: "mood".into(),
            not_null: false,
            default: None,
            checks: vec![],
        };
        let types = UserTypes(
            [
                (
                    20_000,
                    UserType { domain_base: None, definition: Some(mood.clone()), needs: vec![] },
                ),
                (
                    20_001,
                    UserType {
                        domain_base: Some((20_000, -1)),
                        definition: Some(domain.clone()),
                        needs: vec![20_000],
                    },
                ),
                (20_002, UserType { domain_base: None, definition: None, needs: vec![20_001] }),
            ]
            .into(),
        );
        let read =
            |oid| serde_json::from_str::<Vec<Definition>>(&types.definition(oid).unwrap()).unwrap();
        assert_eq!(read(20_002), [mood, domain]);
        assert_eq!(types.definition(23), None);
    }
}
