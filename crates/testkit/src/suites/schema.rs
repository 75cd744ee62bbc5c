//! Schema changes at the source, carried to a table that has rows: in the commit that first
//! needs them.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow_schema::{DataType, Field};
use highwater_core::types::{NUMERIC, extension_field};
use highwater_core::{Op, SchemaChange, Table, TableName, WriteMode};

use crate::harness::Harness;
use crate::job::{Job, Run, sync, upsert, visible};
use crate::rows::assert_same;
use crate::tables::{Item, TableChanges, item, item_table, items};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Append)
}

/// The items table with one more column, in front of others.
pub(super) fn wider() -> Table {
    let mut fields: Vec<Field> =
        item_table("items").schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.insert(1, Field::new("extra", DataType::Utf8, true));
    Table::new(TableName::new("items"), fields).with_primary_key(["id"])
}

pub(super) fn wider_rows(rows: &[(Item, Option<&str>)]) -> RecordBatch {
    let plain: Vec<_> = rows.iter().map(|(item, _)| item.clone()).collect();
    let mut columns = items(&wider(), &plain).columns().to_vec();
    columns[1] = Arc::new(rows.iter().map(|(_, extra)| *extra).collect::<StringArray>());
    RecordBatch::try_new(wider().schema, columns).expect("rows fit their table")
}

async fn columns(harness: &dyn Harness, job: &Job) -> Vec<String> {
    let destination = harness.destination().await;
    let name = destination.target_name(&job.table.name);
    let described = destination.describe(&[name]).await.expect("described");
    let table = described.into_iter().next().flatten().expect("the table exists").table;
    table.column_names().map(str::to_owned).collect()
}

/// A new column is added in the commit of the first rows that have it; older rows have NULL.
pub async fn a_new_column_comes_with_its_first_rows(harness: &dyn Harness) {
    sync(harness, &job(), &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let job = job().of_table(wider());
    let run = Run::open(harness, &job).await;
    assert!(matches!(run.table().changes[..], [SchemaChange::AddColumn(_)]));
    let mut writer = run.writer().await;
    let second = wider_rows(&[(item(2, "b", 2), Some("x"))]);
    writer.write(run.batch(Op::Upsert, &second)).await.expect("rows are taken");
    assert_eq!(columns(harness, &job).await.len(), 4);
    writer.commit(&run.checkpoint(2)).await.expect("a commit");
    assert_eq!(columns(harness, &job).await.len(), 5);
    let all = wider_rows(&[(item(1, "a", 1), None), (item(2, "b", 2), Some("x"))]);
    assert_same(&visible(harness, &job).await, &[all]);
    // The same writer goes on, and the next run has nothing to change.
    let third = wider_rows(&[(item(3, "c", 3), Some("y"))]);
    writer.write(run.batch(Op::Upsert, &third)).await.expect("rows are taken");
    writer.commit(&run.checkpoint(3)).await.expect("a commit");
    assert_eq!(Run::open(harness, &job).await.table().changes, []);
}

/// A run that is abandoned before its commit leaves the table as it was.
pub async fn an_abandoned_run_leaves_the_columns(harness: &dyn Harness) {
    sync(harness, &job(), &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let job = job().of_table(wider());
    let run = Run::open(harness, &job).await;
    let mut writer = run.writer().await;
    let rows = wider_rows(&[(item(2, "b", 2), Some("x"))]);
    writer.write(run.batch(Op::Upsert, &rows)).await.expect("rows are taken");
    drop((writer, run));
    assert_eq!(columns(harness, &job).await.len(), 4);
    let run = Run::open(harness, &job).await;
    run.commit(&[upsert(&rows)], 2).await;
    let all = wider_rows(&[(item(1, "a", 1), None), (item(2, "b", 2), Some("x"))]);
    assert_same(&visible(harness, &job).await, &[all]);
}

/// NOT NULL is taken away when the source no longer promises a value.
pub async fn not_null_is_taken_away(harness: &dyn Harness) {
    let strict = job().of_table(item_table("items").not_null("value"));
    let rows = |table: &Table, item| items(table, &[item]);
    sync(harness, &strict, &[upsert(&rows(&strict.table, item(1, "a", 1)))]).await;
    let without = Item { value: None, ..item(2, "", 2) };
    sync(harness, &job(), &[upsert(&rows(&job().table, without.clone()))]).await;
    let all = items(&job().table, &[item(1, "a", 1), without]);
    assert_same(&visible(harness, &job()).await, &[all]);
}

/// `migrate` makes the changes without rows; the rows stay.
pub async fn a_migration_adds_a_column(harness: &dyn Harness) {
    sync(harness, &job(), &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let job = job().of_table(wider());
    let run = Run::open(harness, &job).await;
    let ran = run.destination.migrate(&run.plan).await.expect("a migration");
    assert!(ran.join(";").contains("extra"), "{ran:?}");
    assert_eq!(columns(harness, &job).await.len(), 5);
    assert_same(&visible(harness, &job).await, &[wider_rows(&[(item(1, "a", 1), None)])]);
}

/// A wider type takes the old values and the new ones.
pub async fn a_type_is_widened_where_nothing_is_lost(harness: &dyn Harness) {
    let decimal = |values: Vec<i128>, precision, scale| -> ArrayRef {
        let array = Decimal128Array::from(values).with_precision_and_scale(precision, scale);
        Arc::new(array.expect("digits that fit"))
    };
    let field = |data_type| Field::new("v", data_type, true);
    let numeric = || extension_field("v", DataType::Utf8, NUMERIC);
    let text = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    type Side = (Field, ArrayRef);
    let cases: Vec<(&str, Side, Side, ArrayRef)> = vec![
        (
            "integer",
            (field(DataType::Int32), Arc::new(Int32Array::from(vec![i32::MIN]))),
            (field(DataType::Int64), Arc::new(Int64Array::from(vec![i64::MAX]))),
            Arc::new(Int64Array::from(vec![i64::from(i32::MIN), i64::MAX])),
        ),
        (
            "float",
            (field(DataType::Float32), Arc::new(Float32Array::from(vec![0.5]))),
            (field(DataType::Float64), Arc::new(Float64Array::from(vec![0.1]))),
            Arc::new(Float64Array::from(vec![0.5, 0.1])),
        ),
        (
            "decimal",
            (field(DataType::Decimal128(10, 2)), decimal(vec![-150], 10, 2)),
            (field(DataType::Decimal128(14, 4)), decimal(vec![12_345], 14, 4)),
            decimal(vec![-15_000, 12_345], 14, 4),
        ),
        (
            "numeric",
            (field(DataType::Int64), Arc::new(Int64Array::from(vec![i64::MAX]))),
            (numeric(), text(vec!["0.00000000000000000001"])),
            text(vec!["9223372036854775807", "0.00000000000000000001"]),
        ),
    ];
    for (name, (old, old_rows), (new, new_rows), both) in cases {
        let table = |field: &Field| Table::new(TableName::new(name), vec![field.clone()]);
        let rows = |field: &Field, column: ArrayRef| {
            RecordBatch::try_new(table(field).schema, vec![column]).expect("rows fit their table")
        };
        let job = Job::new(table(&old), WriteMode::Append);
        sync(harness, &job, &[upsert(&rows(&old, old_rows))]).await;
        let job = job.of_table(table(&new));
        sync(harness, &job, &[upsert(&rows(&new, new_rows))]).await;
        assert_same(&visible(harness, &job).await, &[rows(&new, both)]);
        assert_eq!(Run::open(harness, &job).await.table().changes, [], "{name}");
    }
}
