//! Values of every type go in and come out as themselves, or in the form that
//! [`highwater_core::types`] documents for the system. What a system cannot keep it refuses.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Date32Array, Decimal128Array, DurationNanosecondArray, Float32Array, Float64Array,
    IntervalMonthDayNanoArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow_buffer::IntervalMonthDayNano;
use arrow_schema::{DataType, Field, Fields};
use highwater_core::{ErrorKind, LogicalType, Table, TableName, WriteMode};

use crate::harness::Harness;
use crate::job::{Job, Run, sync, try_sync, upsert, visible};
use crate::rows::{assert_same, count, difference};
use crate::tables::every_type;

/// Enough rows for all extremes and some that the seed makes.
const ROWS: usize = 60;

/// Every value of every type comes back with its meaning.
pub async fn every_type_comes_back(harness: &dyn Harness) {
    let sample = every_type(ROWS, 1);
    let job = Job::new(sample.table, WriteMode::Append);
    // In two commits, so that a second one into the same table works for every type too.
    for half in 0..2 {
        sync(harness, &job, &[upsert(&sample.rows.slice(half * ROWS / 2, ROWS / 2))]).await;
    }
    assert_same(&visible(harness, &job).await, &[sample.rows]);
}

/// The destination says of a column before it exists what it says of it afterwards, and that is
/// stored as itself.
pub async fn columns_are_described_as_announced(harness: &dyn Harness) {
    let sample = every_type(1, 1);
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    sync(harness, &job, &[upsert(&sample.rows)]).await;
    let run = Run::open(harness, &job).await;
    assert_eq!(run.table().changes, [], "the next sync has nothing to change");
    let target = run.table().target.name.clone();
    let described = run.destination.describe(&[target]).await.expect("described");
    let table = &described[0].as_ref().expect("the table exists").table;
    let logical = |field: &Field| LogicalType::of(field).unwrap_or_else(|e| panic!("{e}"));
    for field in sample.table.schema.fields() {
        let stored = run.destination.stored_field(field).unwrap_or_else(|e| panic!("{e}"));
        let there = table.field(field.name()).unwrap_or_else(|| panic!("no {}", field.name()));
        assert_same_type(&logical(&stored), &logical(there), field);
        assert_eq!(stored.is_nullable(), there.is_nullable(), "{}", field.name());
        let again = run.destination.stored_field(&stored).unwrap_or_else(|e| panic!("{e}"));
        assert_same_type(&logical(&again), &logical(&stored), field);
    }
}

/// Lists are compared by what they hold; the name of the item does not matter.
fn assert_same_type(a: &LogicalType, b: &LogicalType, field: &Field) {
    match (a, b) {
        (LogicalType::List(a), LogicalType::List(b)) => {
            let logical = |field: &Field| LogicalType::of(field).unwrap_or_else(|e| panic!("{e}"));
            assert_same_type(&logical(a), &logical(b), field);
        }
        _ => assert_eq!(a, b, "{}", field.name()),
    }
}

/// Values that some systems cannot keep are kept as they are, or refused with an error that names
/// the column; never changed, never left out.
pub async fn hard_values_are_kept_or_refused(harness: &dyn Harness) {
    for (name, column) in hard_values() {
        let field = Field::new("v", column.data_type().clone(), true);
        let table = Table::new(TableName::new(name), vec![field]);
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), vec![column]);
        let rows = rows.expect("rows fit their table");
        let job = Job::new(table, WriteMode::Append);
        match try_sync(harness, &job, &[upsert(&rows)]).await {
            Ok(_) => {
                let there = visible(harness, &job).await;
                if let Some(difference) = difference(&there, &[rows]) {
                    panic!("{name} was changed: {difference}");
                }
            }
            Err(error) => {
                let kind = error.kind();
                let refused = matches!(kind, ErrorKind::Data | ErrorKind::Unsupported);
                assert!(refused, "{name}: {kind:?}: {}", error.full_message());
                assert_eq!(error.context_value("column"), Some("v"), "{name}: {error}");
                assert_eq!(count(&visible(harness, &job).await), 0, "{name}");
            }
        }
    }
}

fn hard_values() -> Vec<(&'static str, ArrayRef)> {
    let decimal = Decimal128Array::from(vec![12_345]).with_precision_and_scale(5, -2);
    let interval = IntervalMonthDayNano { months: 1, days: -1, nanoseconds: 1 };
    vec![
        ("nan_double", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("nan_single", Arc::new(Float32Array::from(vec![f32::NAN]))),
        ("minus_zero", Arc::new(Float64Array::from(vec![-0.0]))),
        ("text_with_nul", Arc::new(StringArray::from(vec!["a\0b"]))),
        ("thousands", Arc::new(decimal.expect("digits that fit"))),
        ("last_day_of_arrow", Arc::new(Date32Array::from(vec![i32::MAX - 1, i32::MIN + 1]))),
        ("last_second_of_arrow", Arc::new(TimestampSecondArray::from(vec![i64::MAX - 1]))),
        ("last_microsecond", Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX - 1]))),
        ("first_nanosecond", Arc::new(TimestampNanosecondArray::from(vec![i64::MIN + 1]))),
        ("nanoseconds", Arc::new(TimestampNanosecondArray::from(vec![1, -1, i64::MAX - 1]))),
        ("one_nanosecond", Arc::new(DurationNanosecondArray::from(vec![1]))),
        ("interval_nanosecond", Arc::new(IntervalMonthDayNanoArray::from(vec![interval]))),
    ]
}

/// A column of a type that no system stores is refused before anything is touched, by name.
pub async fn a_type_that_nothing_stores_is_refused(harness: &dyn Harness) {
    let fields = Fields::from(vec![Field::new("a", DataType::Int32, true)]);
    let union = arrow_schema::UnionFields::try_new([0], fields.iter().cloned());
    let union = DataType::Union(union.expect("one member"), arrow_schema::UnionMode::Sparse);
    let destination = harness.destination().await;
    let error = destination.stored_field(&Field::new("odd", union, true)).expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context_value("column"), Some("odd"));
}
