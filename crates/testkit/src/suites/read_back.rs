//! A destination reads back what is visible in its tables, in the columns and types that are
//! asked for.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use highwater_core::{Op, Table, TableName, WriteMode};

use super::together::read_back;
use crate::harness::Harness;
use crate::job::{Job, Run, sync, upsert};
use crate::rows::{assert_same, count};
use crate::tables::{every_type, item, item_table, items, orders};

/// Enough rows for all extremes and some that the seed makes.
const ROWS: usize = 60;

/// Every type of the table of types comes back as that very type, value for value.
pub async fn every_type_comes_back(harness: &dyn Harness) {
    let sample = every_type(ROWS, 3);
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    sync(harness, &job, &[upsert(&sample.rows)]).await;
    let rows = read_back(harness.destination().await.as_ref(), &sample.table).await;
    for batch in &rows {
        let types = |schema: &Schema| -> Vec<(String, DataType)> {
            let fields = schema.fields().iter();
            fields.map(|f| (f.name().clone(), f.data_type().clone())).collect()
        };
        assert_eq!(types(batch.schema_ref()), types(&sample.table.schema));
    }
    assert_same(&rows, &[sample.rows]);
}

/// Columns come in the order asked for, without those that are not asked for; one that the table
/// does not have is NULL.
pub async fn columns_come_as_they_are_asked_for(harness: &dyn Harness) {
    let table = item_table("items");
    let rows = items(&table, &[item(1, "a", 10), item(2, "b", 20)]);
    sync(harness, &Job::new(table.clone(), WriteMode::Append), &[upsert(&rows)]).await;
    let wanted = Table::new(
        table.name.clone(),
        vec![
            Field::new("value", DataType::Utf8, true),
            Field::new("nobody_has_it", DataType::Date32, false),
            Field::new("updated_at", DataType::UInt32, true),
            Field::new("id", DataType::Utf8, false),
        ],
    );
    let found = read_back(harness.destination().await.as_ref(), &wanted).await;
    assert_eq!(count(&found), 2);
    for batch in &found {
        let names: Vec<_> = batch.schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["value", "nobody_has_it", "updated_at", "id"]);
        assert_eq!(batch.column(1).data_type(), &DataType::Date32);
        assert_eq!(batch.column(1).null_count(), batch.num_rows());
        assert_eq!(batch.column(2).data_type(), &DataType::UInt32);
    }
    let picked: Vec<ArrayRef> = vec![
        Arc::clone(rows.column(2)),
        Arc::clone(rows.column(3)),
        Arc::new(StringArray::from(vec!["1", "2"])),
    ];
    let expected =
        RecordBatch::try_from_iter(["value", "updated_at", "id"].into_iter().zip(picked));
    assert_same(&found, &[expected.expect("rows")]);
}

/// None of the columns asked for is there: the rows are, with NULL.
pub async fn rows_are_counted_without_columns(harness: &dyn Harness) {
    let table = item_table("items");
    let rows = items(&table, &[item(1, "a", 10), item(2, "b", 20)]);
    sync(harness, &Job::new(table.clone(), WriteMode::Append), &[upsert(&rows)]).await;
    let wanted = Table::new(table.name, vec![Field::new("other", DataType::Int64, true)]);
    let found = read_back(harness.destination().await.as_ref(), &wanted).await;
    assert_eq!(count(&found), 2);
}

/// A table that is not there has no rows; it is no error.
pub async fn a_missing_table_is_nothing(harness: &dyn Harness) {
    let destination = harness.destination().await;
    assert_eq!(count(&read_back(destination.as_ref(), &item_table("missing")).await), 0);
    let rows = items(&item_table("items"), &[item(1, "a", 10)]);
    sync(harness, &Job::new(item_table("items"), WriteMode::Append), &[upsert(&rows)]).await;
    assert_eq!(count(&read_back(destination.as_ref(), &item_table("missing")).await), 0);
}

/// What is not committed is not read, what is committed is, in the same run.
pub async fn only_committed_rows_are_read(harness: &dyn Harness) {
    let sample = orders(3_000);
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    let run = Run::open(harness, &job).await;
    let mut writer = run.writer().await;
    writer.write(run.batch(Op::Upsert, &sample.rows)).await.expect("rows are taken");
    assert_eq!(count(&read_back(run.destination.as_ref(), &sample.table).await), 0);
    writer.commit(&run.checkpoint(1)).await.expect("a commit");
    let rows = read_back(run.destination.as_ref(), &sample.table).await;
    assert_same(&rows, std::slice::from_ref(&sample.rows));
    let rows = read_back(harness.destination().await.as_ref(), &sample.table).await;
    assert_same(&rows, &[sample.rows]);
}

/// The rows in which plugins keep their cursors: text and unsigned numbers, to the last one.
pub async fn cursors_of_plugins_come_back(harness: &dyn Harness) {
    let fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
        Field::new("version", DataType::UInt64, true),
    ];
    let table = Table::new(TableName::new("cq_state"), fields).with_primary_key(["key"]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["a", "b", ""])),
        Arc::new(StringArray::from(vec![Some("{\"since\": 1.0}"), None, Some("007")])),
        Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), None])),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("rows");
    let modes = harness.destination().await.capabilities().write_modes;
    let overwrites = modes.contains(&WriteMode::Overwrite);
    let mode = if overwrites { WriteMode::Overwrite } else { WriteMode::Append };
    sync(harness, &Job::new(table.clone(), mode), &[upsert(&rows)]).await;
    let found = read_back(harness.destination().await.as_ref(), &table).await;
    assert!(found.iter().all(|batch| batch.column(2).data_type() == &DataType::UInt64));
    assert_same(&found, &[rows]);
}
