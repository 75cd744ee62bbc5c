//! The tables of a plan as the plugin gets them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Schema;
use bytes::Bytes;
use highwater_core::deletion::Relation;
use highwater_core::types::type_name;
use highwater_core::{
    Deletion, Plan, Result, SchemaChange, Table, TableName, TablePlan, WriteMode,
};

use super::stream::WriteStream;
use crate::wire::types::{UNIQUE, unmarked};
use crate::wire::{encode_table, wire_name};

/// The name of a table where there are no namespaces: a default one is dropped, any other becomes
/// a prefix.
pub(super) fn target_name(source: &TableName) -> TableName {
    TableName::new(wire_name(source))
}

/// The table as it is sent: its parent by the name that it has at the destination, and in `append`
/// without keys, so that the plugin adds rows and replaces none.
pub(super) fn wire_table(plan: &Plan, table: &TablePlan) -> Table {
    let mut wire = table.target.as_ref().clone();
    wire.parent = wire.parent.map(|parent| name_of(plan, &parent));
    if table.write_mode == WriteMode::Append {
        wire.primary_key.clear();
        let fields = wire.schema.fields().iter();
        let fields: Vec<_> = fields.map(|f| unmarked(f.as_ref().clone(), UNIQUE)).collect();
        let metadata = wire.schema.metadata().clone();
        wire.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    }
    wire
}

/// The name that a table of the source has at the destination.
fn name_of(plan: &Plan, table: &TableName) -> TableName {
    plan.tables.get(table).map_or_else(|| target_name(table), |found| found.target.name.clone())
}

/// The deletion by the names at the destination. Dependent tables that are not synced are not
/// there.
pub(super) fn wire_deletion(plan: &Plan, deletion: &Deletion) -> Deletion {
    let relations = deletion.relations.iter();
    let relations = relations.filter(|relation| plan.tables.contains_key(&relation.table));
    Deletion {
        table: name_of(plan, &deletion.table),
        groups: deletion.groups.clone(),
        relations: relations
            .map(|relation| Relation {
                table: name_of(plan, &relation.table),
                parent: name_of(plan, &relation.parent),
            })
            .collect(),
    }
}

/// The tables in an order in which a table comes after the one that it depends on.
pub(super) fn parents_first<'a>(
    tables: impl IntoIterator<Item = &'a TablePlan>,
) -> Vec<&'a TablePlan> {
    let mut waiting: Vec<_> = tables.into_iter().collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let names: BTreeSet<_> = waiting.iter().map(|table| table.name().clone()).collect();
        let is_ready = |table: &&TablePlan| {
            let parent = table.source.parent.as_ref();
            parent.is_none_or(|parent| parent == table.name() || !names.contains(parent))
        };
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_ready);
        if ready.is_empty() {
            // Tables that depend on each other: any order is as good.
            ordered.extend(rest);
            break;
        }
        ordered.extend(ready);
        waiting = rest;
    }
    ordered
}

/// What a migration does, for people.
pub(super) fn words(table: &TablePlan, migrate_force: bool) -> String {
    let columns = table.target.schema.fields().iter().map(|field| {
        let key = if table.target.primary_key.contains(field.name()) { " PRIMARY KEY" } else { "" };
        format!("{} {}{key}", field.name(), type_name(field))
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let force = if migrate_force { " WITH migrate_force" } else { "" };
    format!("MigrateTable {} ({columns}){force}", wire_name(&table.target.name))
}

/// Which tables the plugin has been told of in this run: once is enough.
#[derive(Debug, Default)]
pub(super) struct Migrated(Mutex<BTreeSet<Bytes>>);

/// A table that has to be made or altered.
#[derive(Debug, Clone)]
pub(super) struct Migration {
    /// The table as a message.
    pub(super) table: Bytes,
    /// Whether it may be made anew, if the plugin finds that it cannot be altered.
    pub(super) force: bool,
}

impl Migration {
    /// `None` where nothing may be changed (`--no-migrate`).
    ///
    /// # Errors
    /// `Unsupported` for a column that cannot be carried.
    pub(super) fn of(plan: &Plan, table: &TablePlan) -> Result<Option<Self>> {
        if table.changes.is_empty() {
            return Ok(None);
        }
        let force = table.changes.contains(&SchemaChange::Recreate);
        Ok(Some(Self { table: encode_table(&wire_table(plan, table))?, force }))
    }
}

impl Migrated {
    /// Those that the plugin has not been told of.
    pub(super) fn left<'a>(
        &self,
        migrations: impl IntoIterator<Item = &'a Migration>,
    ) -> Vec<Migration> {
        let done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        migrations.into_iter().filter(|m| !done.contains(&m.table)).cloned().collect()
    }

    /// Forgets all: the plugin is started anew if it is needed again.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Remembers those of a stream that ended well.
    pub(super) fn add(&self, migrations: Vec<Migration>) {
        let mut done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        done.extend(migrations.into_iter().map(|m| m.table));
    }
}

/// Sends migrations.
///
/// # Errors
/// As [`WriteStream::send`].
pub(super) async fn send_all(stream: &mut WriteStream, migrations: &[Migration]) -> Result<()> {
    for migration in migrations {
        stream.migrate(migration.table.clone(), migration.force).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::destination::{DestinationConfig, DestinationPlugin};
    use crate::host::{PluginSpec, Registry, Role};
    use highwater_testkit::job::Job;
    use highwater_testkit::tables::item_table;

    async fn ordered(parents: &[(&str, Option<&str>)]) -> Vec<String> {
        let spec = PluginSpec::new("d", Role::Destination, Registry::Local, "/nowhere");
        let config = DestinationConfig::new(spec, serde_json::Value::Null, "");
        let plugin = DestinationPlugin::new(config);
        let mut tables = Vec::new();
        for (name, parent) in parents {
            let table = Table { parent: parent.map(TableName::new), ..item_table(name) };
            let plan = Job::new(table, WriteMode::Overwrite).plan(&plugin).await.unwrap();
            tables.extend(plan.tables.into_values());
        }
        parents_first(&tables).iter().map(|table| table.name().name.clone()).collect()
    }

    #[tokio::test]
    async fn every_table_comes_once_and_after_its_parent_where_that_is_possible() {
        let chain = [("c", Some("b")), ("a", None), ("b", Some("a")), ("x", Some("elsewhere"))];
        assert_eq!(ordered(&chain).await, ["a", "x", "b", "c"]);
        let circle = [("c", Some("b")), ("b", Some("c")), ("own", Some("own"))];
        assert_eq!(ordered(&circle).await, ["own", "c", "b"]);
    }
}
