//! A source that follows a script, destinations in memory, and runs over them.

use std::sync::Arc;

use highwater_core::{Destination, Error, ReadMode, Table, TableName, WriteMode};
use highwater_engine::{
    RunOptions, Silent, StopSignal, Summary, SyncRequest, TableOptions, Target, sync,
};
use highwater_testkit::memory::Memory;
use highwater_testkit::rows;
use highwater_testkit::scripted::{Journal, Script, ScriptedSource, Step};
use highwater_testkit::tables::{item, item_table, items};

/// One table `t` (or several), its script, and where it goes.
pub(crate) struct Bench {
    pub(crate) journal: Journal,
    pub(crate) tables: Vec<Table>,
    pub(crate) scripts: Vec<Script>,
    pub(crate) request: SyncRequest,
    pub(crate) options: RunOptions,
}

impl Bench {
    /// An incremental append of table `t` to one destination `d`.
    pub(crate) fn new(steps: Vec<Step>) -> (Self, Memory) {
        let journal = Journal::default();
        let table = item_table("t");
        let memory = Memory::new("d", journal.clone());
        let request = SyncRequest {
            sync: "shop".into(),
            tables: vec![TableOptions {
                name: "*".into(),
                cursor: Some("updated_at".into()),
                ..TableOptions::default()
            }],
            skip_tables: vec![],
            targets: vec![target("d", &memory)],
            state_table: None,
        };
        let options = RunOptions {
            take_over: false,
            tasks_max: 2,
            stop: StopSignal::default(),
            observer: Arc::new(Silent),
        };
        let scripts = vec![Script::new(&table, steps)];
        (Self { journal, tables: vec![table], scripts, request, options }, memory)
    }

    /// Adds a destination.
    pub(crate) fn add_target(&mut self, name: &str) -> Memory {
        let memory = Memory::new(name, self.journal.clone());
        self.request.targets.push(target(name, &memory));
        memory
    }

    /// Reads everything every time.
    pub(crate) fn full_refresh(&mut self, write_mode: WriteMode) {
        self.request.tables[0].cursor = None;
        self.request.tables[0].read_mode = Some(ReadMode::FullRefresh);
        self.request.tables[0].write_mode = Some(write_mode);
    }

    pub(crate) fn source(&self) -> ScriptedSource {
        ScriptedSource::new(self.tables.clone(), self.scripts.clone(), self.journal.clone())
    }

    /// One run; a new process would do the same.
    pub(crate) async fn run(&self) -> Result<Summary, Error> {
        sync(Arc::new(self.source()), &self.request, &self.options).await
    }
}

pub(crate) fn target(name: &str, memory: &Memory) -> Target {
    let destination = Arc::new(memory.clone()) as Arc<dyn Destination>;
    Target { write_mode: WriteMode::Append, ..Target::new(name, destination) }
}

/// Rows `ids` of table `t`, whose cursor is their id.
pub(crate) fn upsert(ids: std::ops::Range<i64>) -> Step {
    let rows: Vec<_> = ids.map(|id| item(id, "v", id)).collect();
    Step::Upsert(items(&item_table("t"), &rows))
}

/// The ids that a reader sees in a table, sorted.
pub(crate) fn ids_of(memory: &Memory, name: &str) -> Vec<i64> {
    let table = item_table(name);
    let batches = memory.rows(&TableName::new(name)).unwrap_or_default();
    let at = table.schema.index_of("id").unwrap();
    let texts = rows::texts(&batches, &table.schema);
    let mut ids: Vec<i64> =
        texts.iter().map(|row| row[at].as_ref().unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

pub(crate) fn ids(memory: &Memory) -> Vec<i64> {
    ids_of(memory, "t")
}
