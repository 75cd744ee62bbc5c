//! The nine migrations, safe and forced.
//!
//! Ten rows are written, the table comes again in another shape, ten rows more are written. A
//! change that loses nothing keeps all twenty, also where force was allowed. One that would lose
//! something is refused without force, and nothing has changed then; with force ten rows are left.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use tonic::Code;

use super::ipc::{
    PRIMARY_KEY, PRIMARY_KEY_COMPONENT, UNIQUE, WireTable, encode, field, ints, marked, uuid,
};
use super::plugin::{Plugin, insert, migrate};

/// Whether a change loses nothing, so that it is made without force.
enum Change {
    Safe,
    Loses,
}

/// Ten rows of any of these tables, the ids from `first` on.
fn rows(table: &WireTable, first: i64) -> bytes::Bytes {
    let ids = first..first + 10;
    let columns = table.schema.fields().iter().map(|field| -> ArrayRef {
        match field.data_type() {
            DataType::Int64 => ints(ids.clone()),
            DataType::Utf8 => {
                Arc::new(StringArray::from_iter_values(ids.clone().map(|id| id.to_string())))
            }
            DataType::Boolean => {
                Arc::new(ids.clone().map(|id| Some(id % 2 == 0)).collect::<BooleanArray>())
            }
            DataType::FixedSizeBinary(16) => {
                let values = ids.clone().map(|id| u128::try_from(id).unwrap().to_be_bytes());
                Arc::new(FixedSizeBinaryArray::try_from_iter(values).unwrap())
            }
            other => panic!("no values of {other}"),
        }
    });
    let columns = columns.collect();
    let batch = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
    encode(&table.schema, &[batch])
}

async fn change(plugin: &Plugin, from: Vec<Field>, to: Vec<Field>, change: Change, forced: bool) {
    let suffix = if forced { "force" } else { "safe" };
    let name = format!("cq_migrate_{suffix}");
    let (from, to) = (WireTable::new(&name, from), WireTable::new(&name, to));
    plugin.write(vec![migrate(&from, forced), insert(rows(&from, 1))]).await.unwrap();
    assert_eq!(plugin.count(&from).await, 10);
    let migrated = plugin.write(vec![migrate(&to, forced)]).await;
    match (change, forced) {
        (Change::Safe, _) => {
            migrated.unwrap();
            plugin.write(vec![insert(rows(&to, 11))]).await.unwrap();
            assert_eq!(plugin.count(&to).await, 20);
        }
        (Change::Loses, true) => {
            migrated.unwrap();
            plugin.write(vec![insert(rows(&to, 11))]).await.unwrap();
            assert_eq!(plugin.count(&to).await, 10);
        }
        (Change::Loses, false) => {
            let status = migrated.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            assert!(status.message().contains("forced"), "{status}");
            assert_eq!(plugin.count(&from).await, 10);
            plugin.write(vec![insert(rows(&from, 11))]).await.unwrap();
            assert_eq!(plugin.count(&from).await, 20);
        }
    }
}

/// A case for each mode.
macro_rules! both {
    ($($safe:ident, $force:ident: $change:expr, $from:expr => $to:expr;)*) => {
        $(
            pub async fn $safe(plugin: &mut Plugin) {
                change(plugin, $from, $to, $change, false).await;
            }

            pub async fn $force(plugin: &mut Plugin) {
                change(plugin, $from, $to, $change, true).await;
            }
        )*
    };
}

fn id() -> Field {
    uuid("id")
}

fn flag() -> Field {
    field("flag", DataType::Boolean)
}

fn not_null(field: Field) -> Field {
    field.with_nullable(false)
}

fn key(field: Field) -> Field {
    marked(field, &[PRIMARY_KEY])
}

fn row_id() -> Field {
    marked(uuid("_cq_id"), &[UNIQUE]).with_nullable(false)
}

both! {
    add_column_safe, add_column_force: Change::Safe,
        vec![id()] => vec![id(), flag()];
    // A column that promises values is added without the promise: older rows have none.
    add_column_not_null_safe, add_column_not_null_force: Change::Safe,
        vec![id()] => vec![id(), not_null(flag())];
    // The column stays, and new rows have NULL in it.
    remove_column_safe, remove_column_force: Change::Safe,
        vec![id(), flag()] => vec![id()];
    remove_column_not_null_safe, remove_column_not_null_force: Change::Safe,
        vec![id(), not_null(flag())] => vec![id()];
    // Uniqueness is not enforced here, so nothing has to change.
    remove_unique_safe, remove_unique_force: Change::Safe,
        vec![id(), marked(field("name", DataType::Utf8), &[UNIQUE])]
        => vec![id(), field("name", DataType::Utf8)];
    move_to_cq_id_safe, move_to_cq_id_force: Change::Loses,
        vec![row_id(), key(id())] => vec![key(uuid("_cq_id")), not_null(id())];
    move_to_cq_id_pkc_safe, move_to_cq_id_pkc_force: Change::Loses,
        vec![row_id(), key(id())]
        => vec![key(uuid("_cq_id")), not_null(marked(id(), &[PRIMARY_KEY_COMPONENT]))];
}

/// What files do with a column of another type, too: they take new files.
pub async fn change_column_safe(plugin: &mut Plugin) {
    let (from, to) = changed();
    change(plugin, from, to, Change::Loses, false).await;
}

pub async fn change_column_force(plugin: &mut Plugin) {
    let (from, to) = changed();
    change(plugin, from, to, Change::Loses, true).await;
}

fn changed() -> (Vec<Field>, Vec<Field>) {
    let text = not_null(field("flag", DataType::Utf8));
    (vec![id(), not_null(flag())], vec![id(), text])
}

async fn double(plugin: &Plugin, forced: bool) {
    let first = WireTable::new("cq_double_migration", vec![id(), flag()]);
    let second =
        WireTable::new("cq_double_migration", vec![id(), flag(), field("more", DataType::Utf8)]);
    // In one stream: the same shape again, then another one.
    plugin
        .write(vec![
            migrate(&first, forced),
            migrate(&first, forced),
            insert(rows(&first, 1)),
            migrate(&second, forced),
            migrate(&second, forced),
            insert(rows(&second, 11)),
        ])
        .await
        .unwrap();
    assert_eq!(plugin.count(&second).await, 20);
    assert_eq!(plugin.count(&first).await, 20);
}

pub async fn double_safe(plugin: &mut Plugin) {
    double(plugin, false).await;
}

pub async fn double_force(plugin: &mut Plugin) {
    double(plugin, true).await;
}
