//! The part of the engine that tests of sources need.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{Array, RecordBatch};
use highwater_core::text::TextColumn;
use highwater_core::{
    Checkpoint, Completion, Instant, Message, Output, Plan, ReadMode, Result, Source, State, Table,
    TablePlan, WriteMode,
};

/// The table of that name, as the source describes it.
pub async fn table(source: &dyn Source, name: &str) -> Table {
    let only = [name.to_owned()];
    let tables = source.discover(Some(&only)).await;
    let tables = tables.unwrap_or_else(|e| panic!("{}", e.full_message()));
    let found = tables.into_iter().find(|table| table.name.to_string() == name);
    found.unwrap_or_else(|| panic!("no table {name}"))
}

/// A plan for one table: full refresh without a cursor, incremental with one.
pub fn planned(table: Table, cursor: Option<&str>) -> TablePlan {
    let table = Arc::new(table);
    let read_mode = if cursor.is_some() { ReadMode::Incremental } else { ReadMode::FullRefresh };
    TablePlan {
        cursor_field: cursor.map(str::to_owned),
        order_by: cursor.map(str::to_owned),
        ..TablePlan::new(table.clone(), table, read_mode, WriteMode::Append)
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
    source: &dyn Source,
    table: &TablePlan,
    state: &State,
) -> Result<(Vec<RecordBatch>, Checkpoint)> {
    let plan = plan_of(table.clone());
    let partitions = source.partitions(&plan, state).await?;
    assert_eq!(partitions.len(), 1);
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
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
pub async fn sync(source: &dyn Source, table: &TablePlan, state: &mut State) -> Vec<String> {
    let done = read(source, table, state).await;
    let (batches, checkpoint) = done.unwrap_or_else(|e| panic!("{}", e.full_message()));
    state.cursors.extend(checkpoint.cursors);
    let mut rows = texts(&batches);
    rows.sort();
    rows
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
