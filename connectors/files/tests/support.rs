//! A sync in a few lines: one source, one destination, every table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use highwater_core::text::TextColumn;
use highwater_core::types::type_name;
use highwater_core::*;
use highwater_files::FilesConnector;
use highwater_testkit::job::total;
use serde_json::{Value, json};

/// The rows of a table as texts, sorted; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

pub async fn source(spec: Value) -> Box<dyn Source> {
    FilesConnector.source(spec).await.unwrap()
}

pub async fn destination(spec: Value) -> Box<dyn Destination> {
    FilesConnector.destination(spec).await.unwrap()
}

pub fn request() -> LeaseRequest {
    LeaseRequest { owner: Owner::this_process(), take_over: true }
}

/// A plan that reads every table and writes it under its own name.
pub fn plan(tables: Vec<Table>, read_mode: ReadMode, write_mode: WriteMode) -> Plan {
    let table_plan = |table: Table| {
        let target = Table { source_defined_cursor: false, ..table.clone() };
        let plan = TablePlan::new(Arc::new(table), Arc::new(target), read_mode, write_mode);
        (plan.source.name.clone(), plan)
    };
    Plan {
        sync_group_id: None,
        sync: "s".into(),
        sync_id: "run1".into(),
        started_at: Instant(0),
        state_with_data: true,
        tables: tables.into_iter().map(table_plan).collect(),
    }
}

/// Everything that a read sends: batches, and how often a checkpoint.
pub async fn read(source: &dyn Source, plan: &Plan, state: &State) -> Result<Vec<Message>> {
    let mut all = Vec::new();
    for partition in source.partitions(plan, state).await? {
        let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
        let collect = async {
            let mut seen = Vec::new();
            while let Some(message) = messages.recv().await {
                seen.push(message);
            }
            seen
        };
        let (completion, seen) =
            tokio::join!(source.read(plan, &partition, state, output), collect);
        assert_eq!(completion?, Completion::Complete);
        all.extend(seen);
    }
    Ok(all)
}

/// What a sync did.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    pub rows_read: u64,
    pub committed: Committed,
}

/// One sync of everything; the run before is over, however it ended.
pub async fn sync(
    from: Value,
    to: Value,
    read_mode: ReadMode,
    write_mode: WriteMode,
) -> Result<Done> {
    let (source, destination) = (source(from).await, destination(to).await);
    let plan = plan(source.discover(None).await?, read_mode, write_mode);
    let store = destination.state_store().unwrap();
    let state = store.open(&plan.sync, &request()).await?;
    let fence = state.fence.clone().unwrap();
    let mut done = Done::default();
    for partition in source.partitions(&plan, &state).await? {
        let mut writer = destination.writer(&plan, &partition, &fence).await?;
        let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
        let write = async {
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Batch(batch) => {
                        done.rows_read += batch.rows.num_rows() as u64;
                        writer.write(batch).await?;
                    }
                    Message::Checkpoint(checkpoint) => {
                        let committed = writer.commit(&checkpoint).await?;
                        done.committed += total(&committed);
                    }
                    other => panic!("{other:?}"),
                }
            }
            Ok::<_, Error>(())
        };
        let (completion, written) =
            tokio::join!(source.read(&plan, &partition, &state, output), write);
        written?;
        assert_eq!(completion?, Completion::Complete);
        done.committed += total(&writer.commit(&Checkpoint::default()).await?);
    }
    for table in plan.tables.values() {
        done.committed += destination.finish(&plan, table, &fence).await?;
    }
    store.release(&fence).await?;
    Ok(done)
}

pub async fn append(from: Value, to: Value) -> Result<Done> {
    sync(from, to, ReadMode::Incremental, WriteMode::Append).await
}

fn texts(batch: &Batch) -> Rows {
    let schema = batch.rows.schema();
    let columns = schema.fields().iter().zip(batch.rows.columns());
    let columns: Vec<_> = columns.map(|(f, a)| TextColumn::new(f, a).unwrap()).collect();
    let row = |row: usize| {
        let value = |column: &TextColumn<'_>| {
            let mut text = String::new();
            column.write(row, &mut text);
            (!column.is_null(row)).then_some(text)
        };
        columns.iter().map(value).collect()
    };
    (0..batch.rows.num_rows()).map(row).collect()
}

/// The rows of every table that a source reads, in order.
pub fn rows_of(messages: &[Message]) -> BTreeMap<String, Rows> {
    let mut rows: BTreeMap<String, Rows> = BTreeMap::new();
    for message in messages {
        if let Message::Batch(batch) = message {
            rows.entry(batch.table.name.name.clone()).or_default().extend(texts(batch));
        }
    }
    rows
}

/// All rows of one source, by table.
pub async fn try_read_all(spec: Value) -> Result<BTreeMap<String, Rows>> {
    let source = source(spec).await;
    let tables = source.discover(None).await?;
    let plan = plan(tables, ReadMode::FullRefresh, WriteMode::Append);
    Ok(rows_of(&read(source.as_ref(), &plan, &State::default()).await?))
}

/// The rows of the only table.
pub async fn read_one(spec: Value) -> Rows {
    let mut all = try_read_all(spec).await.unwrap();
    assert!(all.len() <= 1, "{all:?}");
    all.pop_first().map(|(_, rows)| rows).unwrap_or_default()
}

/// Column names and types.
pub async fn columns(spec: Value) -> Vec<(String, String)> {
    let tables = source(spec).await.discover(None).await.unwrap();
    let [table] = &tables[..] else { panic!("{tables:?}") };
    table.schema.fields().iter().map(|f| (f.name().clone(), type_name(f))).collect()
}

pub fn row(values: &[Option<&str>]) -> Vec<Option<String>> {
    values.iter().map(|v| v.map(str::to_owned)).collect()
}

/// Names of the files below a folder that a reader of the data sees, sorted.
pub fn visible(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with(['.', '_']) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// A folder with files.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self::new();
        files.iter().for_each(|(name, text)| folder.put(name, text));
        folder
    }

    pub fn path(&self, below: &str) -> String {
        self.0.path().join(below).to_str().unwrap().to_owned()
    }

    pub fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn spec(&self) -> Value {
        json!({ "path": self.path("") })
    }
}
