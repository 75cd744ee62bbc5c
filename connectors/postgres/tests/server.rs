//! What the tests share: a source over a new database, a plan for one table, and a reader that
//! keeps the cursor from sync to sync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::RecordBatch;
use highwater_core::text::TextColumn;
use highwater_core::{
    Completion, Connector, CursorKey, Error, Instant, Message, Output, Plan, ReadMode, Result,
    Source, State, Table, TableName, TablePlan, WriteMode,
};
use highwater_postgres::PostgresConnector;
use highwater_testkit::postgres::{Database, Postgres};
use serde_json::json;

/// An empty database.
pub fn database() -> Database {
    Postgres::shared().create_database()
}

/// A source over a URL.
pub async fn source(url: &str) -> Box<dyn Source> {
    PostgresConnector.source(json!({"connection_string": url})).await.unwrap()
}

/// Finds a table by its name as people write it.
pub async fn table(source: &dyn Source, name: &str) -> Table {
    let tables = source.discover(None).await.unwrap();
    let found = tables.into_iter().find(|table| table.name.to_string() == name);
    found.unwrap_or_else(|| panic!("{name} is not discovered"))
}

/// A plan that reads `table` into a table of the same shape.
pub fn plan_of(table: Table, cursor: Option<&str>) -> TablePlan {
    let source = Arc::new(table);
    TablePlan {
        cursor_field: cursor.map(str::to_owned),
        order_by: cursor.map(str::to_owned),
        ..TablePlan::new(
            Arc::clone(&source),
            source,
            if cursor.is_some() { ReadMode::Incremental } else { ReadMode::FullRefresh },
            WriteMode::Append,
        )
    }
}

/// A run over some tables.
pub fn plan(tables: Vec<TablePlan>) -> Plan {
    Plan {
        sync_group_id: None,
        sync: "test".into(),
        sync_id: "1".into(),
        started_at: Instant::now(),
        state_with_data: true,
        tables: tables.into_iter().map(|t| (t.name().clone(), t)).collect(),
    }
}

/// What one read sent.
pub struct Sent {
    pub batches: Vec<RecordBatch>,
    pub completion: Completion,
}

impl Sent {
    /// Every row as text, `NULL` for NULL, columns joined with `|`, sorted.
    pub fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for batch in &self.batches {
            for row in 0..batch.num_rows() {
                let fields = batch.schema_ref().fields().iter();
                let values = fields.zip(batch.columns()).map(|(field, column)| {
                    let text = TextColumn::new(field, column.as_ref()).unwrap();
                    let mut value = String::new();
                    if text.is_null(row) {
                        value.push_str("NULL");
                    } else {
                        text.write(row, &mut value);
                    }
                    value
                });
                rows.push(values.collect::<Vec<_>>().join("|"));
            }
        }
        rows.sort();
        rows
    }
}

/// Reads one table over and over, as syncs that all succeed would.
pub struct Reader {
    pub source: Box<dyn Source>,
    pub plan: Plan,
    pub state: State,
}

impl Reader {
    pub async fn new(url: &str, name: &str, cursor: Option<&str>) -> Self {
        let source = source(url).await;
        let table = table(source.as_ref(), name).await;
        let plan = plan(vec![plan_of(table, cursor)]);
        Self { source, plan, state: State::default() }
    }

    /// The only table of the plan.
    pub fn table(&mut self) -> &mut TablePlan {
        self.plan.tables.values_mut().next().unwrap()
    }

    pub async fn try_sync(&mut self) -> Result<Sent> {
        let (output, mut messages) = Output::bounded(8, Arc::new(AtomicBool::new(false)));
        let partitions = self.source.partitions(&self.plan, &self.state).await?;
        let collect = async {
            let (mut batches, mut cursors) = (Vec::new(), BTreeMap::new());
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Batch(batch) => batches.push(batch.rows),
                    Message::Checkpoint(checkpoint) => cursors = checkpoint.cursors,
                    other => panic!("{other:?}"),
                }
            }
            (batches, cursors)
        };
        let read = self.source.read(&self.plan, &partitions[0], &self.state, output);
        let (completion, (batches, cursors)) = tokio::join!(read, collect);
        // Lets the task of the connection end, where the read was given up.
        tokio::task::yield_now().await;
        let completion = completion?;
        self.state.cursors.extend(cursors);
        Ok(Sent { batches, completion })
    }

    /// The rows of the next sync.
    pub async fn sync(&mut self) -> Vec<String> {
        let sent = self.try_sync().await.unwrap();
        assert_eq!(sent.completion, Completion::Complete);
        sent.rows()
    }

    /// The saved cursor.
    pub fn cursor(&self) -> serde_json::Value {
        let name: TableName = self.plan.tables.keys().next().unwrap().clone();
        self.state.cursors[&CursorKey::Table(name)].0.clone()
    }
}

/// The error of a result that has to be one.
pub fn error<T>(result: Result<T>) -> Error {
    result.err().expect("an error")
}

/// A connection that stays open, for transactions that overlap with syncs.
pub struct Open {
    client: tokio_postgres::Client,
}

impl Open {
    pub async fn new(database: &Database) -> Self {
        let (client, connection) =
            tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { client }
    }

    pub async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap();
    }
}
