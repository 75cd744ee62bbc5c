//! Takes the rows of one partition into data files, and commits them with an entry of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant as Elapsed;

use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use highwater_core::crash::{self, CrashPoint};
use highwater_core::state::{FULL_REFRESH, TableRecord};
use highwater_core::{
    Batch, Checkpoint, Committed, CommittedTables, CursorKey, Deletion, Error, Instant,
    LogicalType, Op, Plan, Result, SchemaChange, Table, TableName, TablePlan, Writer,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk;
use crate::encode::{Encoder, stored_field};
use crate::log::{
    Change, DataFile, Folded, Key, Kind, Position, Shape, SyncLog, TableChange, key_parts,
    positions, refuse_foreign,
};
use crate::spec::{DestinationSettings, Format};
use crate::template::Template;

/// What a writer needs to know of its destination.
pub(crate) struct Target {
    pub(crate) settings: DestinationSettings,
    pub(crate) template: Template,
}

/// So many files are open at once; a table whose file is closed for another gets a further one.
const OPEN_FILES_MAX: usize = 256;

/// The part of a writer that works on a thread of its own.
struct Files {
    target: Arc<Target>,
    log: Arc<SyncLog>,
    sync_id: String,
    /// The tables of the partition, by source table name.
    parts: BTreeMap<TableName, Part>,
}

/// The files of one table since the last commit.
struct Part {
    plan: TablePlan,
    open: Option<OpenFile>,
    /// Complete, durable, not named by any entry.
    complete: Vec<DataFile>,
}

struct OpenFile {
    encoder: Encoder,
    name: String,
    stage: String,
    rows: u64,
    bytes: u64,
    since: Elapsed,
}

impl OpenFile {
    /// A file in the stage for rows of a table.
    fn create(target: &Target, log: &SyncLog, sync_id: &str, plan: &TablePlan) -> Result<Self> {
        let stage = format!("{:020}-{}.part", log.epoch(), uuid::Uuid::new_v4());
        let name = target.template.fill(&plan.target.name, sync_id, Instant::now());
        let path = log.stage().join(&stage);
        let encoder = Encoder::create(path, &plan.target.schema, &target.settings)?;
        Ok(Self { encoder, name, stage, rows: 0, bytes: 0, since: Elapsed::now() })
    }

    /// Completes it, durably.
    fn finish(self, log: &SyncLog) -> Result<DataFile> {
        let encoded = self.encoder.finish().inspect_err(|_| {
            let _ = std::fs::remove_file(log.stage().join(&self.stage));
        })?;
        Ok(DataFile {
            name: self.name,
            stage: self.stage,
            replaces: false,
            size: encoded.size,
            rows: encoded.rows,
            crc32: encoded.crc32,
        })
    }
}

/// Writes one partition: its tables are committed by one entry of the log.
pub(crate) struct FileWriter {
    /// `None` while a thread works on it, and for ever after an error in it.
    files: Option<Files>,
    state_with_data: bool,
}

impl FileWriter {
    pub(crate) fn new(
        target: Arc<Target>,
        log: Arc<SyncLog>,
        plan: &Plan,
        tables: Vec<TablePlan>,
    ) -> Self {
        let part = |plan: TablePlan| {
            (plan.name().clone(), Part { plan, open: None, complete: Vec::new() })
        };
        let parts = tables.into_iter().map(part).collect();
        let files = Files { target, log, sync_id: plan.sync_id.clone(), parts };
        Self { files: Some(files), state_with_data: plan.state_with_data }
    }

    /// Runs `work` on the files, off the async threads.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut files = self
            .files
            .take()
            .ok_or_else(|| Error::internal("A writer was used again after an error"))?;
        let (files, done) = disk::blocking(move || {
            let done = work(&mut files).map_err(|error| files.log.explain(error))?;
            Ok((files, done))
        })
        .await?;
        self.files = Some(files);
        Ok(done)
    }
}

#[async_trait]
impl Writer for FileWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        self.run(move |files| files.write(&batch)).await
    }

    async fn delete(&mut self, deletion: &Deletion) -> Result<()> {
        Err(Error::unsupported("Rows cannot be removed from files by a condition")
            .context("table", &deletion.table)
            .hint("write into a database, with write_mode: overwrite"))
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        let checkpoint =
            if self.state_with_data { checkpoint.clone() } else { Checkpoint::default() };
        self.run(move |files| files.commit(&checkpoint)).await
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What was not committed goes; what cannot be removed is removed by the next run.
        for part in self.parts.values_mut() {
            let open = part.open.take().map(|file| file.stage);
            for stage in open.into_iter().chain(part.complete.drain(..).map(|file| file.stage)) {
                let _ = std::fs::remove_file(self.log.stage().join(stage));
            }
        }
    }
}

impl Files {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let name = &batch.table.name;
        if batch.op == Op::Delete {
            return Err(Error::unsupported("Rows cannot be deleted from files")
                .context("table", name)
                .hint("write into a database, with write_mode: overwrite and a primary key"));
        }
        let (target, log, sync_id) = (self.target.clone(), self.log.clone(), self.sync_id.clone());
        if self.part(name)?.open.is_none() {
            self.make_room()?;
        }
        let part = self.part(name)?;
        let limits = &target.settings;
        let full = part.open.as_ref().is_some_and(|file| {
            file.rows >= limits.file_rows_max
                || file.bytes >= limits.file_bytes_max
                || limits.file_age_max.is_some_and(|age| file.since.elapsed() >= age)
        });
        if full {
            part.close(&log)?;
        }
        // A batch is cut where the file is full, so that no file has more rows than wanted.
        let mut rows = batch.rows.clone();
        while rows.num_rows() > 0 {
            let file = part.open_file(&target, &log, &sync_id)?;
            let room = usize::try_from(limits.file_rows_max - file.rows).unwrap_or(usize::MAX);
            let taken = rows.slice(0, rows.num_rows().min(room));
            rows = rows.slice(taken.num_rows(), rows.num_rows() - taken.num_rows());
            file.encoder.write(&taken)?;
            file.rows += taken.num_rows() as u64;
            file.bytes += taken.get_array_memory_size() as u64;
            if rows.num_rows() > 0 {
                part.close(&log)?;
            }
        }
        crash::at(CrashPoint::StageBatch);
        Ok(())
    }

    fn part(&mut self, name: &TableName) -> Result<&mut Part> {
        self.parts.get_mut(name).ok_or_else(|| {
            Error::internal("Rows of a table that is not in the partition").context("table", name)
        })
    }

    /// Closes the largest open file where there are too many.
    fn make_room(&mut self) -> Result<()> {
        let size = |part: &Part| part.open.as_ref().map(|file| file.bytes);
        if self.parts.values().filter_map(size).count() < OPEN_FILES_MAX {
            return Ok(());
        }
        match self.parts.values_mut().max_by_key(|part| size(part)) {
            Some(part) => part.close(&self.log),
            None => Ok(()),
        }
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<CommittedTables> {
        crash::at(CrashPoint::StageRows);
        for part in self.parts.values_mut() {
            part.close(&self.log)?;
        }
        if self.parts.values().any(|part| !part.complete.is_empty()) {
            disk::sync_folder(&self.log.stage())?;
            crash::at(CrashPoint::FileWritten);
        }
        let log = self.log.clone();
        log.change(Kind::Commit, |folded| self.change(folded, checkpoint).map(Some))?;
        let committed = self.parts.iter_mut().map(|(name, part)| {
            let written = part.complete.drain(..).map(|file| file.rows).sum();
            (name.clone(), Committed { written, ..Committed::default() })
        });
        let committed = committed.collect();
        crash::at(CrashPoint::CommitDone);
        Ok(committed)
    }

    fn change(&self, folded: &Folded, checkpoint: &Checkpoint) -> Result<Change> {
        let mut taken = BTreeSet::new();
        let tables = self.parts.values().map(|part| self.change_of(part, folded, &mut taken));
        let tables = tables.filter_map(Result::transpose).collect::<Result<_>>()?;
        Ok(Change { cursors: positions(checkpoint), tables })
    }

    /// What a commit changes about a table; `None` when that is nothing.
    fn change_of(
        &self,
        part: &Part,
        folded: &Folded,
        taken: &mut BTreeSet<String>,
    ) -> Result<Option<TableChange>> {
        let plan = &part.plan;
        let mut table = TableChange { source: Some(plan.name().clone()), ..TableChange::default() };
        let known = folded.tables.get(plan.name());
        if plan.rebuild {
            table.staged.clone_from(&part.complete);
            let record = known.and_then(|t| t.record.clone()).unwrap_or_default();
            let (generation, rebuild) = (plan.generation, true);
            table.record = Some(Some(TableRecord { generation, rebuild, ..record }));
            return Ok(Some(table));
        }
        let Shaped { shape, removed } =
            shape(&self.log, folded, plan, self.target.settings.format, &self.sync_id)?;
        let record = known.and_then(|t| t.record.clone()).unwrap_or_default();
        let new = TableRecord {
            identity: Some(shape.identity.clone()),
            columns: column_names(plan),
            rows_total: record.rows_total + part.complete.iter().map(|file| file.rows).sum::<u64>(),
            generation: plan.generation,
            rebuild: false,
            ..record
        };
        let as_known = known.is_some_and(|known| {
            known.record.as_ref() == Some(&new) && known.shape.as_ref() == Some(&shape)
        });
        if as_known && part.complete.is_empty() {
            return Ok(None);
        }
        table.record = Some(Some(new));
        if known.and_then(|t| t.shape.as_ref()) != Some(&shape) {
            table.shape = Some(shape);
        }
        table.added.clone_from(&part.complete);
        table.removed = removed;
        let root = self.log.place().root();
        give_names(&self.target, root, folded, &mut table.added, &table.removed, taken)?;
        Ok(Some(table))
    }
}

impl Part {
    fn open_file(
        &mut self,
        target: &Target,
        log: &SyncLog,
        sync_id: &str,
    ) -> Result<&mut OpenFile> {
        let file = match self.open.take() {
            Some(file) => file,
            None => {
                let file = OpenFile::create(target, log, sync_id, &self.plan)?;
                crash::at(CrashPoint::StageCreated);
                file
            }
        };
        Ok(self.open.insert(file))
    }

    /// Completes the open file.
    fn close(&mut self, log: &SyncLog) -> Result<()> {
        if let Some(file) = self.open.take() {
            self.complete.push(file.finish(log)?);
        }
        Ok(())
    }
}

/// Completes a table: what was staged takes the place of what was there. A table without rows
/// becomes a file without rows, so that readers find it.
pub(crate) fn finish(
    target: &Target,
    log: &SyncLog,
    sync_id: &str,
    table: &TablePlan,
) -> Result<Committed> {
    let mut committed = Committed::default();
    let format = target.settings.format;
    log.change(Kind::Finish, |folded| {
        let known = folded.tables.get(table.name()).cloned().unwrap_or_default();
        let record = known.record.unwrap_or_default();
        if record.finished_epoch == Some(log.epoch()) {
            return Ok(None);
        }
        let mut change =
            TableChange { source: Some(table.name().clone()), ..TableChange::default() };
        let Shaped { shape, removed } = shape(log, folded, table, format, sync_id)?;
        let mut rows_total = record.rows_total;
        let mut is_empty = known.files.is_empty();
        if table.rebuild {
            committed.deleted = known.files.iter().map(|file| file.rows).sum();
            change.removed = known.files.into_iter().map(|file| file.name).collect();
            rows_total += known.staged.iter().map(|file| file.rows).sum::<u64>();
            is_empty = known.staged.is_empty();
            change.added = known.staged;
        } else if !removed.is_empty() {
            is_empty = true;
            change.removed = removed;
        }
        if is_empty {
            change.added.extend(empty_file(target, log, sync_id, table)?);
        }
        let (root, mut taken) = (log.place().root(), BTreeSet::new());
        give_names(target, root, folded, &mut change.added, &change.removed, &mut taken)?;
        change.record = Some(Some(TableRecord {
            identity: Some(shape.identity.clone()),
            columns: column_names(table),
            rows_total,
            finished_epoch: Some(log.epoch()),
            finished_at: Some(Instant::now()),
            generation: table.generation,
            finished_generation: Some(table.generation),
            rebuild: false,
            swept_at: record.swept_at,
        }));
        if known.shape.as_ref() != Some(&shape) {
            change.shape = Some(shape);
        }
        let cursors = vec![refresh_is_over(table.name())];
        Ok(Some(Change { cursors, tables: vec![change] }))
    })?;
    crash::at(CrashPoint::FinishApplied);
    log.publish()?;
    Ok(committed)
}

/// Forgets the position of a full refresh.
pub(crate) fn refresh_is_over(table: &TableName) -> (Key, Position) {
    let position = CursorKey::Partition(table.clone(), FULL_REFRESH.to_owned());
    (key_parts(&position), Position::Forgotten)
}

/// Gives a table the shape of the plan with a file that has no rows.
pub(crate) fn migrate(
    target: &Target,
    log: &SyncLog,
    sync_id: &str,
    table: &TablePlan,
) -> Result<()> {
    log.change(Kind::State, |folded| {
        let Shaped { shape, removed } = shape(log, folded, table, target.settings.format, sync_id)?;
        let mut change = TableChange {
            source: Some(table.name().clone()),
            shape: Some(shape),
            added: empty_file(target, log, sync_id, table)?.into_iter().collect(),
            removed,
            ..TableChange::default()
        };
        let (root, mut taken) = (log.place().root(), BTreeSet::new());
        give_names(target, root, folded, &mut change.added, &change.removed, &mut taken)?;
        Ok(Some(Change { cursors: Vec::new(), tables: vec![change] }))
    })?;
    log.publish()
}

/// Removes every row of a table, and forgets what is remembered of it.
pub(crate) fn clear(
    target: &Target,
    log: &SyncLog,
    sync_id: &str,
    table: &TablePlan,
) -> Result<Committed> {
    let mut committed = Committed::default();
    log.change(Kind::State, |folded| {
        let Some(known) = folded.tables.get(table.name()) else { return Ok(None) };
        committed.deleted = known.files.iter().map(|file| file.rows).sum();
        let Shaped { shape, .. } = shape(log, folded, table, target.settings.format, sync_id)?;
        let mut change = TableChange {
            source: Some(table.name().clone()),
            record: Some(None),
            shape: Some(shape),
            added: empty_file(target, log, sync_id, table)?.into_iter().collect(),
            removed: known.files.iter().map(|file| file.name.clone()).collect(),
            ..TableChange::default()
        };
        let (root, mut taken) = (log.place().root(), BTreeSet::new());
        give_names(target, root, folded, &mut change.added, &change.removed, &mut taken)?;
        let cursors = folded.cursors_of(table.name()).into_iter();
        let cursors = cursors.map(|key| (key, Position::Forgotten)).collect();
        Ok(Some(Change { cursors, tables: vec![change] }))
    })?;
    log.publish()?;
    Ok(committed)
}

/// A file with columns and no rows; `None` for JSON, where columns come with rows only.
fn empty_file(
    target: &Target,
    log: &SyncLog,
    sync_id: &str,
    table: &TablePlan,
) -> Result<Option<DataFile>> {
    if matches!(target.settings.format, Format::Json | Format::Jsonl) {
        return Ok(None);
    }
    let file = OpenFile::create(target, log, sync_id, table)?.finish(log)?;
    disk::sync_folder(&log.stage())?;
    Ok(Some(file))
}

fn column_names(plan: &TablePlan) -> Vec<String> {
    plan.target.column_names().map(str::to_owned).collect()
}

/// A table as it is once rows of a plan are in it.
struct Shaped {
    shape: Shape,
    /// The files of the table that it takes the place of.
    removed: Vec<String>,
}

/// What the identity of a table begins with that a run has made anew.
fn recreated_by(sync_id: &str) -> String {
    format!("{:032x}-", xxh3_128(sync_id.as_bytes()))
}

fn shape(
    log: &SyncLog,
    folded: &Folded,
    plan: &TablePlan,
    format: Format,
    sync_id: &str,
) -> Result<Shaped> {
    let place = log.place();
    let state = folded.tables.get(plan.name());
    let known = state.and_then(|t| t.shape.clone());
    let known = known.filter(|shape| shape.table.name == plan.target.name);
    let mut existing = match known {
        Some(shape) => Some(shape),
        None => place.find_shape(&plan.target.name)?,
    };
    let mut table = plan.target.as_ref().clone();
    table.cursor_field = None;
    table.source_defined_cursor = false;
    let stored = table.schema.fields().iter().map(|field| stored_field(field, format));
    table.schema = Arc::new(Schema::new(stored.collect::<Vec<Field>>()));
    let (mut removed, mut identity) = (Vec::new(), uuid::Uuid::new_v4().to_string());
    let mark = recreated_by(sync_id);
    if plan.changes.contains(&SchemaChange::Recreate)
        && existing.as_ref().is_none_or(|shape| !shape.identity.starts_with(&mark))
    {
        place.check_alone(&plan.target.name, log.sync())?;
        removed.extend(state.iter().flat_map(|t| &t.files).map(|file| file.name.clone()));
        identity = format!("{mark}{identity}");
        existing = None;
    }
    if let (Some(existing), false) = (&existing, plan.rebuild) {
        table.schema = Arc::new(merge(&existing.table, &table)?);
    }
    let identity = existing.map_or(identity, |e| e.identity);
    Ok(Shaped { shape: Shape { table, identity }, removed })
}

/// The columns that were there, as they are now, and the new ones after them.
fn merge(there: &Table, now: &Table) -> Result<Schema> {
    let mut fields: Vec<Field> = Vec::new();
    for field in there.schema.fields() {
        fields.push(match now.field(field.name()) {
            Some(now) => {
                let nullable = now.is_nullable() || field.is_nullable();
                let still_fits = LogicalType::of(now)?.widens_to(&LogicalType::of(field)?);
                let wider = if still_fits { field.as_ref() } else { now };
                wider.clone().with_nullable(nullable)
            }
            // Newer files do not have it.
            None => field.as_ref().clone().with_nullable(true),
        });
    }
    for field in now.schema.fields() {
        if there.field(field.name()).is_none() {
            // Older files do not have it.
            fields.push(field.as_ref().clone().with_nullable(true));
        }
    }
    Ok(Schema::new(fields))
}

/// Refuses a run whose rows would go to a file that this sync has not written: before it has
/// read them.
///
/// # Errors
/// `Config`, naming the file.
pub(crate) fn check_name(target: &Target, log: &SyncLog, table: &TableName) -> Result<()> {
    let Some(name) = target.template.fixed_name(table) else { return Ok(()) };
    log.with_folded(|folded| refuse_foreign(log.place().root(), &name, &folded.file_names()))
        .map_err(|error| error.context("table", table))
}

/// Gives files another name where theirs is taken by an older one of this sync, or by one of the
/// same commit (`taken`). `removed` are names that become free: the new file takes the place of
/// the old one.
///
/// # Errors
/// `Config` when a file of somebody else has the name, which came after [`check_name`].
fn give_names(
    target: &Target,
    root: &Path,
    folded: &Folded,
    files: &mut [DataFile],
    removed: &[String],
    taken: &mut BTreeSet<String>,
) -> Result<()> {
    let known = folded.file_names();
    for file in files {
        if !target.template.tells_files_apart() && !taken.contains(&file.name) {
            refuse_foreign(root, &file.name, &known)?;
        }
        if taken.contains(&file.name)
            || (!removed.contains(&file.name) && root.join(&file.name).exists())
        {
            let at = file.name.rfind('/').map_or(0, |at| at + 1);
            let dot = file.name[at..].find('.').map_or(file.name.len(), |dot| at + dot);
            file.name.insert_str(dot, &format!("-{}", uuid::Uuid::now_v7()));
        }
        file.replaces = removed.contains(&file.name);
        taken.insert(file.name.clone());
    }
    Ok(())
}

/// The planned tables of a partition.
///
/// # Errors
/// `Internal` for a table that is not planned.
pub(crate) fn tables_of(plan: &Plan, tables: &[TableName]) -> Result<Vec<TablePlan>> {
    tables.iter().map(|name| plan.table(name).cloned()).collect()
}
