//! Files as a destination: what the engine asks of it, and where its state is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::Field;
use async_trait::async_trait;
use highwater_core::state::TableRecord;
use highwater_core::types::type_name;
use highwater_core::{
    Capabilities, Checkpoint, Committed, Cursor, CursorKey, Destination, DestinationDelivery,
    Error, ExistingTable, Fence, LeaseRequest, LogicalType, Output, Partition, Plan, Result,
    SchemaChange, State, StateStore, Table, TableName, TablePlan, WriteMode, Writer,
};

use crate::disk::{self, blocking};
use crate::encode::stored_field;
use crate::log::{Change, Kind, Logs, Place, Position, SyncLog, TableChange, key_parts, positions};
use crate::source::read_back;
use crate::spec::DestinationSettings;
use crate::template::Template;
use crate::writer::{self, FileWriter, Target};

/// A folder of files and its commit logs.
pub(crate) struct FilesDestination {
    target: Arc<Target>,
    logs: Arc<Logs>,
}

impl FilesDestination {
    pub(crate) fn new(settings: DestinationSettings) -> Result<Self> {
        let template = Template::new(&settings.path, settings.format, settings.compression)?;
        let logs = Arc::new(Logs::new(Place::new(&template)));
        Ok(Self { target: Arc::new(Target { settings, template }), logs })
    }

    fn root(&self) -> PathBuf {
        self.target.template.root().to_owned()
    }

    /// The log that a run commits to.
    async fn log(&self, plan: &Plan, fence: &Fence) -> Result<Arc<SyncLog>> {
        let (logs, fence) = (self.logs.clone(), fence.clone());
        let with_data = plan.state_with_data;
        blocking(move || if with_data { logs.held(&fence) } else { logs.held_or_open(&fence.sync) })
            .await
    }

    async fn change(
        &self,
        fence: &Fence,
        make: impl FnOnce(&crate::log::Folded) -> Change + Send + 'static,
    ) -> Result<()> {
        let (logs, fence) = (self.logs.clone(), fence.clone());
        blocking(move || logs.held(&fence)?.change(Kind::State, |folded| Ok(Some(make(folded)))))
            .await
    }
}

#[async_trait]
impl Destination for FilesDestination {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            describes_tables: true,
            commits_later: false,
            takes_records: None,
            write_modes: &[WriteMode::Append, WriteMode::Replace],
            write_modes_note: "files are only ever added or replaced as a whole: they have no rows that could be updated by key",
            delivery: DestinationDelivery::Atomic,
            identifier_bytes_max: 128,
            writers_max: 16,
            case_sensitive_names: true,
        }
    }

    async fn check(&self) -> Result<()> {
        let root = self.root();
        blocking(move || {
            // The folders that would be made are made by the first sync, not here.
            let mut folder = root.as_path();
            while !folder.exists() {
                folder = match folder.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
            }
            let probe = folder.join(format!(".highwater-{}", uuid::Uuid::new_v4()));
            std::fs::File::create_new(&probe)
                .and_then(|_| std::fs::remove_file(&probe))
                .map_err(|e| disk::failed("The folder cannot be written", folder, e))
        })
        .await
    }

    fn target_name(&self, source: &TableName) -> TableName {
        TableName::new(source.name.clone())
    }

    async fn describe(&self, names: &[TableName]) -> Result<Vec<Option<ExistingTable>>> {
        let (logs, target, names) = (self.logs.clone(), self.target.clone(), names.to_vec());
        blocking(move || {
            let place = logs.place();
            let found = names.iter().map(|name| {
                if let Some(file) = target.template.fixed_name(name) {
                    place.check_free(&file).map_err(|e| e.context("table", name))?;
                }
                Ok(place.find_shape(name)?.map(|shape| ExistingTable {
                    table: shape.table,
                    identity: Some(shape.identity),
                }))
            });
            found.collect()
        })
        .await
    }

    /// The files of a rebuild go with the run that made them.
    fn keeps_unfinished(&self) -> bool {
        false
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        LogicalType::of(field)?;
        Ok(stored_field(field, self.target.settings.format))
    }

    fn ddl(&self, plan: &TablePlan, change: &SchemaChange) -> Vec<String> {
        let files = self.target.template.describe(&plan.target.name);
        vec![match change {
            SchemaChange::CreateTable => {
                let fields = plan.target.schema.fields().iter();
                let columns: Vec<_> =
                    fields.map(|f| format!("{} {}", f.name(), type_name(f))).collect();
                format!("new files {files} ({})", columns.join(", "))
            }
            SchemaChange::AddColumn(field) => {
                format!("new files {files} with column {} {}", field.name(), type_name(field))
            }
            SchemaChange::WidenColumn { from, to } => format!(
                "new files {files} with column {} {} instead of {}",
                to.name(),
                type_name(to),
                type_name(from)
            ),
            SchemaChange::DropNotNull(field) => {
                format!("new files {files} with column {} that may be NULL", field.name())
            }
            SchemaChange::Recreate => format!("new files {files} instead of all that are there"),
            SchemaChange::AddKey => {
                format!("new files {files}, with a primary key that nothing enforces")
            }
        }]
    }

    async fn migrate(&self, plan: &Plan) -> Result<Vec<String>> {
        let (target, logs, plan) = (self.target.clone(), self.logs.clone(), plan.clone());
        let changed: Vec<_> =
            plan.tables.values().filter(|table| !table.changes.is_empty()).cloned().collect();
        let statements = changed
            .iter()
            .flat_map(|table| table.changes.iter().flat_map(|change| self.ddl(table, change)))
            .collect();
        if !changed.is_empty() {
            blocking(move || {
                logs.with_lease(&plan.sync, |log| {
                    let mut tables = changed.iter();
                    tables.try_for_each(|t| writer::migrate(&target, log, &plan.sync_id, t))
                })
            })
            .await?;
        }
        Ok(statements)
    }

    async fn writer(
        &self,
        plan: &Plan,
        partition: &Partition,
        fence: &Fence,
    ) -> Result<Box<dyn Writer>> {
        let tables = writer::tables_of(plan, &partition.tables)?;
        for table in &tables {
            if !self.capabilities().write_modes.contains(&table.write_mode) {
                return Err(Error::unsupported("Files have no such write mode")
                    .context("table", table.name())
                    .context("write mode", table.write_mode)
                    .hint("write_mode: append"));
            }
        }
        if plan.tables.len() > 1 && !self.target.template.tells_tables_apart() {
            return Err(Error::config("Several tables cannot be written to files of one name")
                .context("key", "path")
                .context("path", &self.target.settings.path)
                .hint("put `{{TABLE}}` into `path`, or select one table"));
        }
        let log = self.log(plan, fence).await?;
        let (target, log_read, checked) = (self.target.clone(), log.clone(), tables.clone());
        blocking(move || {
            let mut names = checked.iter().map(|table| &table.target.name);
            names.try_for_each(|name| writer::check_name(&target, &log_read, name))
        })
        .await?;
        Ok(Box::new(FileWriter::new(self.target.clone(), log, plan, tables)))
    }

    async fn finish(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let log = self.log(plan, fence).await?;
        let table = table.clone();
        let (target, sync_id) = (self.target.clone(), plan.sync_id.clone());
        blocking(move || writer::finish(&target, &log, &sync_id, &table)).await
    }

    async fn read(&self, table: &Table, output: Output) -> Result<()> {
        let (logs, target, table) = (self.logs.clone(), self.target.clone(), table.clone());
        blocking(move || read_back::send(logs.place(), &target.settings, &table, &output)).await
    }

    async fn clear(&self, plan: &Plan, table: &TablePlan, fence: &Fence) -> Result<Committed> {
        let log = self.log(plan, fence).await?;
        let (target, table, sync_id) = (self.target.clone(), table.clone(), plan.sync_id.clone());
        blocking(move || writer::clear(&target, &log, &sync_id, &table)).await
    }

    fn state_store(&self) -> Option<&dyn StateStore> {
        Some(self)
    }
}

#[async_trait]
impl StateStore for FilesDestination {
    async fn open(&self, sync: &str, request: &LeaseRequest) -> Result<State> {
        let (logs, sync, request) = (self.logs.clone(), sync.to_owned(), request.clone());
        blocking(move || Ok(logs.open(&sync, Some(&request))?.state())).await
    }

    async fn renew(&self, fence: &Fence) -> Result<()> {
        let (logs, fence) = (self.logs.clone(), fence.clone());
        blocking(move || logs.held(&fence)?.renew()).await
    }

    async fn save(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let cursors = positions(checkpoint);
        self.change(fence, move |_| Change { cursors, tables: Vec::new() }).await
    }

    async fn save_table(
        &self,
        fence: &Fence,
        table: &TableName,
        record: &TableRecord,
    ) -> Result<()> {
        let change = TableChange {
            source: Some(table.clone()),
            record: Some(Some(record.clone())),
            ..TableChange::default()
        };
        let over = record.finished_epoch.map(|_| writer::refresh_is_over(table));
        let cursors = over.into_iter().collect();
        self.change(fence, move |_| Change { cursors, tables: vec![change] }).await
    }

    async fn release(&self, fence: &Fence) -> Result<()> {
        let (logs, fence) = (self.logs.clone(), fence.clone());
        blocking(move || logs.held(&fence)?.release()).await
    }

    async fn look(&self, sync: &str) -> Result<State> {
        let (logs, sync) = (self.logs.clone(), sync.to_owned());
        blocking(move || logs.look(&sync)).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        let logs = self.logs.clone();
        blocking(move || logs.place().syncs()).await
    }

    async fn set(&self, fence: &Fence, key: &CursorKey, cursor: Option<&Cursor>) -> Result<()> {
        let forgotten = key.table().filter(|_| cursor.is_none()).cloned();
        let position = cursor.cloned().map_or(Position::Forgotten, Position::At);
        let moved = (key_parts(key), position);
        self.change(fence, move |folded| {
            let known = forgotten.filter(|table| folded.tables.contains_key(table));
            let tables = known.map(|table| TableChange {
                source: Some(table),
                record: Some(None),
                ..TableChange::default()
            });
            Change { cursors: vec![moved], tables: tables.into_iter().collect() }
        })
        .await
    }

    async fn refresh(&self, fence: &Fence, table: &TableName, rebuild: bool) -> Result<()> {
        let table = table.clone();
        self.change(fence, move |folded| {
            let cursors = folded.cursors_of(&table).into_iter();
            let known = folded.tables.get(&table).and_then(|known| known.record.clone());
            let tables = known.map(|record| TableChange {
                source: Some(table.clone()),
                record: Some(Some(TableRecord {
                    generation: record.generation + 1,
                    rebuild,
                    ..record
                })),
                ..TableChange::default()
            });
            Change {
                cursors: cursors.map(|key| (key, Position::Forgotten)).collect(),
                tables: tables.into_iter().collect(),
            }
        })
        .await
    }
}
