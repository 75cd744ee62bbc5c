//! Values of every type can be compared: rows are matched by keys of many types, and told from
//! their older versions by every column.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Int16Array, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};
use highwater_core::types::{EXTENSION, UUID};
use highwater_core::{Committed, Table, TableName, WriteMode};

use crate::harness::Harness;
use crate::job::{Job, sync, upsert, visible};
use crate::rows::assert_same;
use crate::tables::every_type;

/// Enough rows for all extremes and some that the seed makes.
const ROWS: usize = 60;

/// Values of every type can be compared: a row that is the same is counted as unchanged, one that
/// differs in any column is replaced.
pub async fn every_type_is_overwritten(harness: &dyn Harness) {
    let (first, second) = (every_type(ROWS, 1), every_type(ROWS, 2));
    let job = Job::new(first.table, WriteMode::Overwrite);
    sync(harness, &job, &[upsert(&first.rows)]).await;
    let committed = sync(harness, &job, &[upsert(&first.rows)]).await;
    assert_eq!(committed, Committed { written: 0, unchanged: ROWS as u64, deleted: 0 });
    assert_same(&visible(harness, &job).await, std::slice::from_ref(&first.rows));
    // The first rows are the extremes, the same for every seed.
    let changed = second.rows.slice(30, ROWS - 30);
    let committed = sync(harness, &job, &[upsert(&changed)]).await;
    assert_eq!(committed.written, ROWS as u64 - 30);
    let expected = [first.rows.slice(0, 30), changed];
    assert_same(&visible(harness, &job).await, &expected);
}

/// A primary key may be of any type that databases take for one.
pub async fn keys_of_many_types_tell_rows_apart(harness: &dyn Harness) {
    let uuid = [(EXTENSION.to_owned(), UUID.to_owned())].into();
    let uuids = FixedSizeBinaryArray::try_from_iter([[1_u8; 16], [0xff; 16]].iter());
    let keys: Vec<(&str, ArrayRef)> = vec![
        ("smallint", Arc::new(Int16Array::from(vec![i16::MIN, i16::MAX]))),
        ("text", Arc::new(StringArray::from(vec!["a", "A "]))),
        ("boolean", Arc::new(BooleanArray::from(vec![true, false]))),
        ("date", Arc::new(Date32Array::from(vec![0, -1]))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(vec![1, 2]))),
        ("timestamptz", Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC"))),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from(vec![150, 151])
                    .with_precision_and_scale(12, 2)
                    .expect("digits that fit"),
            ),
        ),
        ("binary", Arc::new(BinaryArray::from(vec![&b"\0a"[..], &b"\0b"[..]]))),
        ("uuid", Arc::new(uuids.expect("sixteen bytes each"))),
    ];
    for (name, key) in keys {
        let mut key_field = Field::new("k", key.data_type().clone(), false);
        if name == "uuid" {
            key_field = key_field.with_metadata(Clone::clone(&uuid));
        }
        let fields = vec![key_field, Field::new("v", DataType::Int32, true)];
        let table =
            Table::new(TableName::new(format!("key_{name}")), fields).with_primary_key(["k"]);
        let rows = |key: ArrayRef, values: Vec<i32>| {
            let columns = vec![key, Arc::new(Int32Array::from(values)) as ArrayRef];
            RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("rows fit their table")
        };
        let job = Job::new(table.clone(), WriteMode::Overwrite);
        sync(harness, &job, &[upsert(&rows(Arc::clone(&key), vec![1, 2]))]).await;
        sync(harness, &job, &[upsert(&rows(key.slice(1, 1), vec![3]))]).await;
        assert_same(&visible(harness, &job).await, &[rows(key, vec![1, 3])]);
    }
}
