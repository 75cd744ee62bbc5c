//! The tables that a plugin lists, and whether what it sends later is still the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_schema::{Field, Schema};
use highwater_core::deletion::ROW_ID;
use highwater_core::types::{DECLARED, EXTENSION};
use highwater_core::{Error, Result, Table, TableName};

/// What the plugin listed before anything was read.
#[derive(Debug, Default)]
pub(super) struct Listed {
    tables: BTreeMap<TableName, Arc<Table>>,
    /// The keys that the plugin listed where ours are others.
    plugins_keys: BTreeMap<TableName, Vec<String>>,
    /// The tables whose rows a cursor of the plugin may cover.
    covered: BTreeSet<TableName>,
}

/// How the plugin is asked to read, as far as it changes its tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// It keeps its cursors.
    pub(super) keeps_state: bool,
    /// `_cq_id` is to be computed from the key and takes its place.
    pub(super) deterministic_cq_id: bool,
}

impl Listed {
    /// What `tables` are for this read.
    ///
    /// # Errors
    /// `Schema` when one name stands for two different tables.
    pub(super) fn new(tables: Vec<Table>, asked: Asked) -> Result<Self> {
        let mut listed = Self::default();
        let says: BTreeMap<TableName, bool> =
            tables.iter().map(|t| (t.name.clone(), t.source_defined_cursor)).collect();
        let parents: BTreeMap<TableName, TableName> =
            tables.iter().filter_map(|t| Some((t.name.clone(), t.parent.clone()?))).collect();
        let moving: BTreeSet<TableName> = tables
            .iter()
            .filter(|table| table.source_defined_cursor)
            .map(|table| root(&table.name, &parents).clone())
            .collect();
        for mut table in tables {
            if moving.contains(root(&table.name, &parents)) {
                listed.covered.insert(table.name.clone());
            }
            // Rows of a table come with rows of the table that it depends on, and only with them.
            table.source_defined_cursor = asked.keeps_state
                && ancestors(&table.name, &parents).any(|name| says.get(name) == Some(&true));
            if !table.source_defined_cursor {
                table.cursor_field = None;
            }
            if asked.deterministic_cq_id && table.field(ROW_ID).is_some() {
                let key = std::mem::replace(&mut table.primary_key, vec![ROW_ID.to_owned()]);
                listed.plugins_keys.insert(table.name.clone(), key);
            }
            if let Some(other) = listed.tables.get(&table.name) {
                same_columns(other, &table)?;
                continue;
            }
            listed.tables.insert(table.name.clone(), Arc::new(table));
        }
        Ok(listed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(super) fn get(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        self.tables.values().map(AsRef::as_ref)
    }

    /// Whether a cursor of the plugin may cover rows of the table: it, one that it depends on or
    /// one that depends on it is read incrementally.
    pub(super) fn is_covered(&self, name: &TableName) -> bool {
        self.covered.contains(name)
    }

    /// Whether the table being incomplete means that no cursor may move: it is covered, or nobody
    /// can tell.
    pub(super) fn may_be_covered(&self, name: &TableName) -> bool {
        self.is_covered(name) || self.covered.is_empty() || !self.tables.contains_key(name)
    }

    /// Whether it was listed, or is what a listed table depends on.
    pub(super) fn is_known(&self, name: &TableName) -> bool {
        self.tables.contains_key(name) || self.iter().any(|t| t.parent.as_ref() == Some(name))
    }

    /// The tables that depend on a table, or on one that does; it need not be listed itself.
    pub(super) fn dependents(&self, name: &TableName) -> BTreeSet<&TableName> {
        let mut found: BTreeSet<&TableName> = BTreeSet::new();
        loop {
            let before = found.len();
            for table in self.iter() {
                if table.parent.as_ref().is_some_and(|p| p == name || found.contains(p)) {
                    found.insert(&table.name);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Whether a table that is sent is the one that was listed.
    ///
    /// # Errors
    /// `Schema`, naming the column or the key that is not the same.
    pub(super) fn check(&self, sent: &Table) -> Result<()> {
        let Some(listed) = self.get(&sent.name) else { return Err(unlisted(&sent.name)) };
        same_columns(listed, sent)?;
        let sorted = |key: &[String]| key.iter().cloned().collect::<BTreeSet<_>>();
        let key = sorted(&sent.primary_key);
        let plugins = self.plugins_keys.get(&sent.name).unwrap_or(&listed.primary_key);
        if key == sorted(&listed.primary_key) || key == sorted(plugins) {
            return Ok(());
        }
        let words = |key: &[String]| if key.is_empty() { "none".into() } else { key.join(", ") };
        Err(changed(&sent.name)
            .context("primary key", words(&sent.primary_key))
            .context("listed", words(plugins)))
    }

    /// Where the columns of `planned` are in a table that is sent.
    ///
    /// # Errors
    /// `Schema` as [`Listed::check`], but keys are not looked at: rows need not say them.
    pub(super) fn columns(&self, sent: &Table, planned: &Table) -> Result<Vec<usize>> {
        let listed = self.get(&sent.name).ok_or_else(|| unlisted(&sent.name))?;
        same_columns(listed, sent)?;
        planned
            .column_names()
            .map(|name| {
                sent.schema
                    .index_of(name)
                    .map_err(|_| changed(&sent.name).context("missing column", name))
            })
            .collect()
    }
}

/// The table itself, its parent, and so on.
fn ancestors<'a>(
    name: &'a TableName,
    parents: &'a BTreeMap<TableName, TableName>,
) -> impl Iterator<Item = &'a TableName> {
    // As many steps as there are tables: a circle must not go on for ever.
    std::iter::successors(Some(name), |name| parents.get(*name)).take(parents.len() + 1)
}

fn root<'a>(name: &'a TableName, parents: &'a BTreeMap<TableName, TableName>) -> &'a TableName {
    ancestors(name, parents).last().unwrap_or(name)
}

fn unlisted(name: &TableName) -> Error {
    Error::schema("The plugin sends a table that it did not list").context("table", name).hint(
        "This is a defect of the plugin: take another version of it, or leave the table out with \
         `skip_tables`",
    )
}

fn changed(name: &TableName) -> Error {
    Error::schema("The plugin sends a table otherwise than it listed it")
        .context("table", name)
        .hint("Run again; if it stays so, it is a defect of the plugin")
}

/// The columns of both are the same, in whatever order.
fn same_columns(listed: &Table, sent: &Table) -> Result<()> {
    let (listed_schema, sent_schema): (&Schema, &Schema) = (&listed.schema, &sent.schema);
    for field in sent_schema.fields() {
        match find(listed_schema, field.name()) {
            None => return Err(changed(&sent.name).context("new column", field.name())),
            Some(as_listed) if !same_type(as_listed, field) => {
                return Err(changed(&sent.name)
                    .context("column", field.name())
                    .context("type", field.data_type())
                    .context("listed", as_listed.data_type()));
            }
            Some(_) => {}
        }
    }
    match listed_schema.fields().iter().find(|f| find(sent_schema, f.name()).is_none()) {
        Some(missing) => Err(changed(&sent.name).context("missing column", missing.name())),
        None => Ok(()),
    }
}

fn find<'a>(schema: &'a Schema, name: &str) -> Option<&'a Field> {
    schema.fields().iter().find(|f| f.name() == name).map(AsRef::as_ref)
}

fn same_type(a: &Field, b: &Field) -> bool {
    let meaning = |field: &Field| {
        let of = |key: &str| field.metadata().get(key).cloned();
        (of(EXTENSION), of(DECLARED))
    };
    a.data_type().equals_datatype(b.data_type()) && meaning(a) == meaning(b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow_schema::DataType;

    const STATE: Asked = Asked { keeps_state: true, deterministic_cq_id: false };

    fn table(name: &str, parent: Option<&str>, incremental: bool) -> Table {
        let fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
            Field::new(ROW_ID, DataType::Utf8, true),
        ];
        let mut table = Table::new(TableName::new(name), fields).with_primary_key(["id"]);
        table.parent = parent.map(TableName::new);
        table.source_defined_cursor = incremental;
        table.cursor_field = incremental.then(|| "id".to_owned());
        table
    }

    fn family() -> Vec<Table> {
        vec![
            table("top", None, false),
            table("mid", Some("top"), true),
            table("leaf", Some("mid"), false),
            table("other", None, false),
            table("stray", Some("not listed"), false),
        ]
    }

    #[test]
    fn what_depends_on_an_incremental_table_is_incremental_where_state_is_kept() {
        let of = |asked| {
            let listed = Listed::new(family(), asked).unwrap();
            let incremental = listed.iter().filter(|t| t.source_defined_cursor);
            incremental.map(|t| t.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(STATE), ["leaf", "mid"]);
        let none: Vec<String> = Vec::new();
        assert_eq!(of(Asked { keeps_state: false, ..STATE }), none);
        let listed = Listed::new(family(), Asked { keeps_state: false, ..STATE }).unwrap();
        assert!(listed.iter().all(|t| t.cursor_field.is_none()));
    }

    #[test]
    fn a_cursor_covers_the_whole_family_and_perhaps_what_nobody_knows() {
        let listed = Listed::new(family(), STATE).unwrap();
        let covered = |name: &str| listed.is_covered(&TableName::new(name));
        assert!(covered("top") && covered("mid") && covered("leaf"));
        assert!(!covered("other") && !covered("stray"));
        assert!(listed.may_be_covered(&TableName::new("never heard of")));
        assert!(!listed.may_be_covered(&TableName::new("other")));
        let unmarked = Listed::new(vec![table("a", None, false)], STATE).unwrap();
        assert!(unmarked.may_be_covered(&TableName::new("a")), "it may keep cursors all the same");
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let circle = vec![table("a", Some("b"), true), table("b", Some("a"), false)];
        let listed = Listed::new(circle, STATE).unwrap();
        assert_eq!(listed.iter().count(), 2);
        assert_eq!(listed.dependents(&TableName::new("a")).len(), 2);
    }

    #[test]
    fn what_depends_on_a_table_is_found_through_every_generation() {
        let listed = Listed::new(family(), STATE).unwrap();
        let of = |name: &str| {
            let found = listed.dependents(&TableName::new(name));
            found.into_iter().map(|name| name.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(of("top"), ["leaf", "mid"]);
        assert_eq!(of("mid"), ["leaf"]);
        assert_eq!(of("not listed"), ["stray"]);
        assert_eq!(of("other"), [""; 0]);
        let known = |name: &str| listed.is_known(&TableName::new(name));
        assert!(known("leaf") && known("not listed") && !known("never heard of"));
    }

    #[test]
    fn the_row_id_takes_the_place_of_the_key_if_it_is_computed() {
        let asked = Asked { deterministic_cq_id: true, ..STATE };
        let mut without = table("without", None, false);
        without.schema = Schema::new(without.schema.fields()[..2].to_vec()).into();
        let listed = Listed::new(vec![table("t", None, false), without], asked).unwrap();
        let key = |name: &str| listed.get(&TableName::new(name)).unwrap().primary_key.clone();
        assert_eq!(key("t"), [ROW_ID]);
        assert_eq!(key("without"), ["id"]);
        // A plugin says so when it sends the table, or knows nothing of it.
        listed.check(&table("t", None, false)).unwrap();
        listed.check(&table("t", None, false).with_primary_key([ROW_ID])).unwrap();
        listed.check(&table("t", None, false).with_primary_key(["name"])).unwrap_err();
    }

    #[test]
    fn a_table_that_is_not_as_listed_is_an_error_that_names_the_column() {
        let listed = Listed::new(family(), STATE).unwrap();
        let says = |change: &dyn Fn(&mut Vec<Field>)| {
            let mut sent = table("other", None, false);
            let mut fields: Vec<Field> =
                sent.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
            change(&mut fields);
            sent.schema = Schema::new(fields).into();
            listed.check(&sent).map_err(|e| e.context_pairs()[1..].to_vec())
        };
        let pair = |key, value: &str| vec![(key, value.to_owned())];
        assert_eq!(says(&|fields| fields.reverse()), Ok(()));
        assert_eq!(says(&|fields| drop(fields.remove(1))), Err(pair("missing column", "name")));
        assert_eq!(
            says(&|fields| fields.push(Field::new("x", DataType::Null, true))),
            Err(pair("new column", "x"))
        );
        let wrong = says(&|fields| fields[1] = Field::new("name", DataType::Int64, true));
        assert_eq!(wrong.unwrap_err()[0], ("column", "name".to_owned()));
        let json = [(EXTENSION.to_owned(), "arrow.json".to_owned())];
        let wrong = says(&|fields| fields[1].set_metadata(json.clone().into()));
        assert_eq!(wrong.unwrap_err()[0], ("column", "name".to_owned()));
        let unknown = listed.check(&table("new", None, false)).unwrap_err();
        assert_eq!(unknown.context_value("table"), Some("new"));
    }

    #[test]
    fn columns_are_found_by_name() {
        let listed = Listed::new(family(), STATE).unwrap();
        let mut planned = table("top", None, false);
        planned.schema =
            Schema::new(vec![planned.schema.field(1).clone(), planned.schema.field(0).clone()])
                .into();
        let sent = table("top", None, false);
        assert_eq!(listed.columns(&sent, &planned).unwrap(), [1, 0]);
    }
}
