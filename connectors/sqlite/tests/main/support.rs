//! A file to work on, and the part of the engine that the tests need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{Array, RecordBatch};
use highwater_core::text::TextColumn;
use highwater_core::{
    Checkpoint, Completion, Connector, CursorKey, Destination, Instant, Message, Output, Plan,
    ReadMode, Result, Role, Source, State, Table, TableName, TablePlan, WriteMode,
};
use highwater_sqlite::SqliteConnector;
use rusqlite::Connection;

/// A database file that goes when the test ends.
pub struct File {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
}

impl File {
    pub fn new(sql: &str) -> Self {
        // In memory where that is possible: what a power cut does is not tested here.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("test.db");
        let file = Self { _folder: folder, path };
        file.run(sql);
        file
    }

    pub fn run(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    pub fn connection(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    /// The rows of a query as texts, `NULL` for NULL.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        use rusqlite::types::ValueRef;
        let connection = self.connection();
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let values = (0..columns).map(|at| match row.get_ref(at).unwrap() {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(value) => value.to_string(),
                ValueRef::Real(value) => format!("{value:?}"),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Blob(bytes) => format!("{bytes:02x?}"),
            });
            Ok(values.collect::<Vec<_>>().join("|"))
        });
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
    }

    pub fn spec(&self) -> serde_json::Value {
        SqliteConnector.spec_from_url(self.path.to_str().unwrap(), Role::Source).unwrap()
    }

    pub async fn source(&self) -> Box<dyn Source> {
        SqliteConnector.source(self.spec()).await.unwrap()
    }

    pub async fn destination(&self) -> Box<dyn Destination> {
        SqliteConnector.destination(self.spec()).await.unwrap()
    }

    pub async fn table(&self, name: &str) -> Table {
        let only = [name.to_owned()];
        let mut tables = self.source().await.discover(Some(&only)).await.unwrap();
        assert_eq!(tables.len(), 1, "{name}");
        tables.remove(0)
    }
}

/// A plan for one table: full refresh without a cursor, incremental with one.
pub fn planned(table: Table, cursor: Option<&str>) -> TablePlan {
    let table = Arc::new(table);
    TablePlan {
        cursor_field: cursor.map(str::to_owned),
        order_by: cursor.map(str::to_owned),
        ..TablePlan::new(
            table.clone(),
            table,
            if cursor.is_some() { ReadMode::Incremental } else { ReadMode::FullRefresh },
            WriteMode::Append,
        )
    }
}

pub fn plan_of(table: TablePlan) -> Plan {
    Plan {
        sync_group_id: None,
        sync: "shop".into(),
        sync_id: "1".into(),
        started_at: Instant(1_000_000),
        state_with_data: true,
        tables: BTreeMap::from([(table.name().clone(), table)]),
    }
}

/// Reads one table to its end: its batches and the last checkpoint.
pub async fn read(
    file: &File,
    table: &TablePlan,
    state: &State,
) -> Result<(Vec<RecordBatch>, Checkpoint)> {
    let (source, plan) = (file.source().await, plan_of(table.clone()));
    let partitions = source.partitions(&plan, state).await?;
    assert_eq!(partitions.len(), 1);
    let (output, mut messages) = Output::bounded(64, Arc::new(AtomicBool::new(false)));
    let collect = async {
        let (mut batches, mut last) = (Vec::new(), Checkpoint::default());
        while let Some(message) = messages.recv().await {
            match message {
                Message::Batch(batch) => batches.push(batch.rows),
                Message::Checkpoint(checkpoint) => last = checkpoint,
                other => panic!("{other:?}"),
            }
        }
        (batches, last)
    };
    let (completion, collected) =
        tokio::join!(source.read(&plan, &partitions[0], state, output), collect);
    assert_eq!(completion?, Completion::Complete);
    Ok(collected)
}

/// Reads, and moves the state as a commit would: the rows as texts, `NULL` for NULL.
pub async fn sync(file: &File, table: &TablePlan, state: &mut State) -> Result<Vec<String>> {
    let (batches, checkpoint) = read(file, table, state).await?;
    state.cursors.extend(checkpoint.cursors);
    Ok(texts(&batches))
}

/// The rows of batches as texts.
pub fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let columns: Vec<_> = schema.fields().iter().zip(batch.columns()).collect();
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|(field, array)| {
                if array.is_null(row) {
                    return "NULL".to_owned();
                }
                let mut text = String::new();
                TextColumn::new(field, array).unwrap().write(row, &mut text);
                text
            });
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows
}

/// The saved cursor of a table.
pub fn saved<'a>(state: &'a State, table: &str) -> &'a serde_json::Value {
    &state.cursors[&CursorKey::Table(TableName::new(table))].0
}
