//! What holds for every source: it finds its tables, a full read sends every row once, and it
//! stops when it is told to.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_schema::{DataType, Field, Schema};
use highwater_core::{Completion, ErrorKind, Message, Op, Output, State, Table};

use crate::harness::{Harness, find_table, read, read_partition};
use crate::job::{Job, upsert};
use crate::rows::{assert_same, count};
use crate::tables::{item, item_table, items, orders};

async fn table(harness: &dyn Harness, name: &str) -> Table {
    let source = harness.source().await;
    let found = find_table(source.as_ref(), &highwater_core::TableName::new(name)).await;
    found.unwrap_or_else(|| panic!("{name} is not found"))
}

/// A check passes on a system that is there.
pub async fn a_check_passes(harness: &dyn Harness) {
    harness.source().await.check().await.expect("the system is there");
}

/// Tables are found with their columns, sorted by name; highwater's own are not among them.
pub async fn tables_are_found_sorted_by_name(harness: &dyn Harness) {
    for name in ["zebra", "items", "antelope"] {
        let rows = items(&item_table(name), &[item(1, "a", 1)]);
        harness.fill(&item_table(name), &upsert(&rows)).await;
    }
    let tables = harness.source().await.discover(None).await.expect("tables");
    let names: Vec<_> = tables.iter().map(|t| t.name.name.as_str()).collect();
    assert_eq!(names, ["antelope", "items", "zebra"]);
    for column in ["id", "region", "value", "updated_at"] {
        assert!(tables[1].field(column).is_some(), "no {column}");
    }
    let patterns = ["*ebr*".to_owned(), "items".to_owned()];
    let tables = harness.source().await.discover(Some(&patterns)).await.expect("tables");
    for wanted in ["items", "zebra"] {
        assert!(tables.iter().any(|t| t.name.name == wanted), "no {wanted}");
    }
}

/// A full read sends every row once and no checkpoint, and says that it is complete.
pub async fn a_full_read_sends_every_row_once(harness: &dyn Harness) {
    let sample = orders(2_500);
    harness.fill(&sample.table, &upsert(&sample.rows)).await;
    let job = Job::reading(table(harness, "orders").await);
    let source = harness.source().await;
    let reading = read(source.as_ref(), &job, &State::default()).await.expect("a reading");
    assert_same(&reading.upserts(), &[sample.rows]);
    assert_eq!(reading.checkpoints().count(), 0);
    assert!(reading.completions.iter().all(|c| *c == Completion::Complete));
    for batch in reading.batches() {
        assert_eq!(batch.op, Op::Upsert);
        assert_eq!(batch.rows.schema_ref().fields(), batch.table.schema.fields());
    }
}

/// The parts of a table that may be read apart have every row once, together.
pub async fn the_parts_of_a_table_have_every_row_once(harness: &dyn Harness) {
    let sample = orders(5_000);
    harness.fill(&sample.table, &upsert(&sample.rows)).await;
    let source = harness.source().await;
    let mut plan = Job::reading(table(harness, "orders").await).source_plan(source.as_ref());
    plan.tables.values_mut().for_each(|table| table.divisible = true);
    let state = State::default();
    let partitions = source.partitions(&plan, &state).await.expect("partitions");
    let mut ids: Vec<_> = partitions.iter().map(|p| p.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), partitions.len(), "every partition has an id of its own");
    let mut rows = Vec::new();
    for partition in &partitions {
        let reading = read_partition(source.as_ref(), &plan, partition, &state).await;
        let (messages, completion) = reading.expect("a reading");
        assert_eq!(completion, Completion::Complete);
        rows.extend(messages.into_iter().filter_map(|message| match message {
            Message::Batch(batch) => Some(batch.rows),
            _ => None,
        }));
    }
    assert_same(&rows, &[sample.rows]);
}

/// Only the columns of the plan are read, in its order.
pub async fn only_the_planned_columns_are_read(harness: &dyn Harness) {
    let rows = items(&item_table("items"), &[item(1, "a", 7)]);
    harness.fill(&item_table("items"), &upsert(&rows)).await;
    let mut found = table(harness, "items").await;
    let picked: Vec<Field> = ["updated_at", "id"]
        .map(|name| found.field(name).expect("the column is there").clone())
        .into();
    found.schema = Arc::new(Schema::new(picked));
    let source = harness.source().await;
    let reading = read(source.as_ref(), &Job::reading(found), &State::default()).await;
    let batches = reading.expect("a reading").upserts();
    let names: Vec<_> = batches[0].schema_ref().fields().iter().map(|f| f.name()).collect();
    assert_eq!(names, ["updated_at", "id"]);
    assert_same(&batches, &[rows.project(&[3, 0]).expect("two columns")]);
}

/// A source that is told to stop does so and says it, long before the end of a large table.
pub async fn a_source_stops_when_it_is_told_to(harness: &dyn Harness) {
    let sample = orders(20_000);
    harness.fill(&sample.table, &upsert(&sample.rows)).await;
    let source = harness.source().await;
    let plan = Job::reading(table(harness, "orders").await).source_plan(source.as_ref());
    let state = State::default();
    let partitions = source.partitions(&plan, &state).await.expect("partitions");
    let (output, mut messages) = Output::bounded(1, Arc::new(AtomicBool::new(true)));
    let reading = source.read(&plan, &partitions[0], &state, output);
    let drain = async { while messages.recv().await.is_some() {} };
    let (completion, ()) = tokio::join!(reading, drain);
    assert_eq!(completion.expect("no error"), Completion::Stopped);
}

/// A source whose reader is gone ends with `Interrupted`.
pub async fn a_source_without_a_reader_ends(harness: &dyn Harness) {
    let sample = orders(20_000);
    harness.fill(&sample.table, &upsert(&sample.rows)).await;
    let source = harness.source().await;
    let plan = Job::reading(table(harness, "orders").await).source_plan(source.as_ref());
    let state = State::default();
    let partitions = source.partitions(&plan, &state).await.expect("partitions");
    let (output, messages) = Output::bounded(1, Arc::new(AtomicBool::new(false)));
    drop(messages);
    let error = source.read(&plan, &partitions[0], &state, output).await.expect_err("an end");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

/// A table without rows is found, and its read sends nothing.
pub async fn an_empty_table_sends_nothing(harness: &dyn Harness) {
    let empty = items(&item_table("items"), &[]);
    harness.fill(&item_table("items"), &upsert(&empty)).await;
    let found = table(harness, "items").await;
    assert!(matches!(found.field("id").map(Field::data_type), Some(DataType::Int64)));
    let source = harness.source().await;
    let reading = read(source.as_ref(), &Job::reading(found), &State::default()).await;
    let reading = reading.expect("a reading");
    assert_eq!((count(&reading.upserts()), reading.checkpoints().count()), (0, 0));
    assert!(reading.completions.iter().all(|c| *c == Completion::Complete));
}
