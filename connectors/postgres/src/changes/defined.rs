//! Types that users of the source defined (enums, domains, composites, ranges), made at the
//! destination before the columns that have them.

use highwater_core::types::DEFINITION;
use highwater_core::{Error, Result, TablePlan};
use tokio_postgres::types::Type;

use super::{begin_making, end_making};
use crate::catalog::{self, Definition, get};
use crate::dialect::{declared, is_type_name};
use crate::session::{Session, literal, quote};

/// The user-defined types of the planned columns, what they need first.
fn definitions(plan: &TablePlan) -> Result<Vec<(String, Definition)>> {
    let mut all = Vec::new();
    for field in plan.target.schema.fields() {
        let Some(text) = field.metadata().get(DEFINITION).filter(|_| declared(field).is_some())
        else {
            continue;
        };
        let found: Vec<Definition> = serde_json::from_str(text).map_err(|e| {
            Error::data("The definition of a column's type cannot be read")
                .context("table", &plan.target.name)
                .context("column", field.name())
                .caused_by(e)
        })?;
        all.extend(found.into_iter().map(|definition| (field.name().clone(), definition)));
    }
    Ok(all)
}

/// Creates the types that users of the source defined and that are missing here.
pub(crate) async fn create_types(
    session: &Session,
    plan: &TablePlan,
    ran: &mut Vec<String>,
) -> Result<()> {
    for (column, definition) in definitions(plan)? {
        if labels(session, name_of(&definition)).await?.is_some() {
            continue;
        }
        begin_making(session).await?;
        if labels(session, name_of(&definition)).await?.is_some() {
            end_making(session, false).await?;
            continue;
        }
        let schema = schema_of_type(name_of(&definition));
        let schema = schema.map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
        for statement in schema.into_iter().chain(create_type(&definition)) {
            execute(session, &column, &statement).await?;
            ran.push(statement);
        }
        end_making(session, true).await?;
    }
    Ok(())
}

/// Adds the labels that an enum has gained at the source. Not inside a transaction: a label that
/// is added in one cannot be used before its end. Labels that no row has yet harm nobody.
///
/// # Errors
/// As the server's.
pub(crate) async fn add_labels(session: &Session, plan: &TablePlan) -> Result<()> {
    for (column, definition) in definitions(plan)? {
        let Definition::Enum { name, labels: wanted } = &definition else { continue };
        let Some(present) = labels(session, name).await? else { continue };
        for label in wanted.iter().filter(|label| !present.contains(label)) {
            let label = literal(label);
            let statement = format!("ALTER TYPE {name} ADD VALUE IF NOT EXISTS {label}");
            execute(session, &column, &statement).await?;
        }
    }
    Ok(())
}

/// One statement at a time: a definition comes from outside.
async fn execute(session: &Session, column: &str, statement: &str) -> Result<()> {
    let done = session.execute_typed(statement, &[]).await;
    done.map(drop).map_err(|e| session.error("create a type", e).context("column", column))
}

/// The labels of a type (none, if it is no enum); `None` when there is no such type.
async fn labels(session: &Session, name: &str) -> Result<Option<Vec<String>>> {
    if !is_type_name(name) {
        return Err(Error::data("A column's type has a name that is none"));
    }
    let statement = "SELECT pg_catalog.to_regtype($1)::oid, \
                     ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e \
                           WHERE e.enumtypid = pg_catalog.to_regtype($1))";
    let rows = catalog::rows(session, statement, &[(&name, Type::TEXT)]).await?;
    let row =
        rows.first().ok_or_else(|| Error::internal("A look-up of a type returned nothing"))?;
    Ok(if get::<Option<u32>>(row, 0)?.is_some() { Some(get(row, 1)?) } else { None })
}

fn name_of(definition: &Definition) -> &str {
    match definition {
        Definition::Enum { name, .. }
        | Definition::Domain { name, .. }
        | Definition::Composite { name, .. }
        | Definition::Range { name, .. } => name,
    }
}

/// The schema of a type's name, as it is written: `shop` of `shop."Odd"`.
fn schema_of_type(name: &str) -> Option<&str> {
    let mut quoted = false;
    let dot = name.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '.' && !quoted
    });
    dot.map(|(at, _)| &name[..at])
}

/// Creates a type; `None` where a part of it is no type name.
fn create_type(definition: &Definition) -> Option<String> {
    Some(match definition {
        Definition::Enum { name, labels } => {
            let labels: Vec<String> = labels.iter().map(|label| literal(label)).collect();
            format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", "))
        }
        // The default is the source's business: every value arrives.
        Definition::Domain { name, base, not_null, checks, .. } => {
            let not_null = if *not_null { " NOT NULL" } else { "" };
            let checks: String = checks.iter().map(|check| format!(" {check}")).collect();
            is_type_name(base)
                .then(|| format!("CREATE DOMAIN {name} AS {base}{not_null}{checks}"))?
        }
        Definition::Composite { name, attributes } => {
            let attributes = attributes
                .iter()
                .map(|(attribute, declared)| {
                    is_type_name(declared).then(|| format!("{} {declared}", quote(attribute)))
                })
                .collect::<Option<Vec<_>>>()?;
            format!("CREATE TYPE {name} AS ({})", attributes.join(", "))
        }
        Definition::Range { name, subtype } => is_type_name(subtype)
            .then(|| format!("CREATE TYPE {name} AS RANGE (SUBTYPE = {subtype})"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_created_from_their_definition() {
        let label = Definition::Enum { name: "mood".into(), labels: vec!["it's".into()] };
        assert_eq!(create_type(&label).unwrap(), "CREATE TYPE mood AS ENUM ('it''s')");
        let domain = Definition::Domain {
            name: "shop.positive".into(),
            base: "integer".into(),
            not_null: true,
            default: Some("1".into()),
            checks: vec!["CHECK ((VALUE > 0))".into()],
        };
        assert_eq!(
            create_type(&domain).unwrap(),
            "CREATE DOMAIN shop.positive AS integer NOT NULL CHECK ((VALUE > 0))"
        );
        let pair = Definition::Composite {
            name: "pair".into(),
            attributes: vec![("a b".into(), "integer".into())],
        };
        assert_eq!(create_type(&pair).unwrap(), "CREATE TYPE pair AS (\"a b\" integer)");
        let hostile = Definition::Range { name: "r".into(), subtype: "int); DROP TABLE t".into() };
        assert_eq!(create_type(&hostile), None);
    }

    #[test]
    fn the_schema_of_a_type_is_found_outside_of_quotes() {
        assert_eq!(schema_of_type("shop.\"a.b\""), Some("shop"));
        assert_eq!(schema_of_type("\"a.b\""), None);
        assert_eq!(schema_of_type("\"S h\".t"), Some("\"S h\""));
    }
}
