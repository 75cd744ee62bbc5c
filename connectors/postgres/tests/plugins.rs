//! Tables as plugins describe them: declared types of PostgreSQL that come from elsewhere, and
//! tables that are made anew.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Fields};
use highwater_core::deletion::{Equal, Group};
use highwater_core::types::{DECLARED, JSON, UUID, extension_field, with_metadata};
use highwater_core::{
    Committed, Connector, Deletion, Destination, ErrorKind, Message, Output, SchemaChange, Table,
    TableName, WriteMode,
};
use highwater_postgres::PostgresConnector;
use highwater_testkit::job::{Job, Run, sync_at, upsert};
use highwater_testkit::postgres::Database;
use highwater_testkit::rows::assert_same;
use highwater_testkit::tables::{item, item_table, items};
use serde_json::json;

use crate::server::{database, error};
use crate::suites::System;

async fn destination(database: &Database) -> Box<dyn Destination> {
    PostgresConnector.destination(json!({"connection_string": database.url()})).await.unwrap()
}

fn declared(field: Field, as_type: &str) -> Field {
    with_metadata(field, DECLARED, format!("postgresql:{as_type}"))
}

/// A table with the types of a plugin, and two rows: values, and NULL.
fn plugin_table() -> (Table, RecordBatch) {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let texts = |value: &str| Arc::new(StringArray::from(vec![Some(value), None])) as ArrayRef;
    let mut jsons = ListBuilder::new(StringBuilder::new())
        .with_field(declared(extension_field("item", DataType::Utf8, JSON), "jsonb"));
    jsons.append_value([Some("{\"a\": 1}"), None]);
    jsons.append_null();
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("k");
    map.values().append_value(1);
    map.append(true).unwrap();
    map.append(false).unwrap();
    let members = Fields::from(vec![Field::new("n", DataType::Int64, true)]);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None]));
    let nulls = arrow_buffer::NullBuffer::from(vec![true, false]);
    let record = StructArray::new(members, vec![numbers], Some(nulls));
    let ids = [Some([1_u8; 16]), Some([2_u8; 16])].into_iter();
    let ids = FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, 16).unwrap();
    let columns: Vec<(Field, ArrayRef)> = vec![
        (
            extension_field("_cq_id", DataType::FixedSizeBinary(16), UUID).with_nullable(false),
            Arc::new(ids),
        ),
        (
            declared(extension_field("data", DataType::Utf8, JSON), "jsonb"),
            texts("{\"b\": [1, 2]}"),
        ),
        (declared(text("net"), "inet"), texts("10.0.0.0/8")),
        (declared(text("mac"), "macaddr"), texts("aa:bb:cc:dd:ee:ff")),
        (
            Field::new("u8", DataType::UInt8, true),
            Arc::new(UInt8Array::from(vec![Some(255), None])),
        ),
        (
            Field::new("u16", DataType::UInt16, true),
            Arc::new(UInt16Array::from(vec![Some(u16::MAX), None])),
        ),
        (
            Field::new("u32", DataType::UInt32, true),
            Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])),
        ),
        (
            Field::new("u64", DataType::UInt64, true),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
        ),
        (
            Field::new("ns", DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, None), true),
            Arc::new(TimestampNanosecondArray::from(vec![Some(1), None])),
        ),
        (Field::new("record", record.data_type().clone(), true), Arc::new(record)),
        {
            let map = map.finish();
            (Field::new("map", map.data_type().clone(), true), Arc::new(map))
        },
        {
            let jsons = jsons.finish();
            let data_type = jsons.data_type().clone();
            (Field::new("jsons", data_type, true), Arc::new(jsons))
        },
    ];
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let table = Table::new(TableName::new("plugin"), fields).with_primary_key(["_cq_id"]);
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), arrays).unwrap();
    (table, rows)
}

#[tokio::test]
async fn the_types_of_a_plugin_are_the_types_of_the_table() {
    let (table, rows) = plugin_table();
    for mode in [WriteMode::Append, WriteMode::Overwrite, WriteMode::Replace] {
        let database = database();
        let job = Job::new(table.clone(), mode);
        // Twice: into a new table, and into one that is there.
        for _ in 0..2 {
            let synced = sync_at(destination(&database).await, &job, &[upsert(&rows)]).await;
            synced.unwrap_or_else(|e| panic!("{mode}: {}", e.full_message()));
        }
        let types = database.value(
            "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum)
             FROM pg_attribute WHERE attrelid = 'plugin'::regclass AND attnum > 0",
        );
        assert_eq!(
            types.as_deref(),
            Some(
                "uuid jsonb inet macaddr smallint integer bigint numeric(20,0) text jsonb jsonb jsonb[]"
            )
        );
        let shown = database.value(
            "SELECT concat_ws(' ', data->'b'->1, network(net), mac, u8, u16, u32, u64, record->'n',
                    jsons[1]->'a') FROM plugin WHERE data IS NOT NULL LIMIT 1",
        );
        assert_eq!(
            shown.as_deref(),
            Some("2 10.0.0.0/8 aa:bb:cc:dd:ee:ff 255 65535 4294967295 18446744073709551615 7 1")
        );
        let destination = destination(&database).await;
        // The engine finds nothing to change.
        let there = destination.describe(&[destination.target_name(&table.name)]).await.unwrap();
        let there = there[0].as_ref().unwrap();
        for field in table.schema.fields() {
            let stored = destination.stored_field(field).unwrap();
            let found = there.table.field(field.name()).unwrap();
            assert_eq!(stored.data_type(), found.data_type(), "{}", field.name());
        }
        if mode == WriteMode::Overwrite {
            assert_same(&read(destination.as_ref(), &table).await, std::slice::from_ref(&rows));
        }
    }
}

async fn read(destination: &dyn Destination, table: &Table) -> Vec<RecordBatch> {
    let (output, mut messages) = Output::bounded(64, Arc::new(AtomicBool::new(false)));
    destination.read(table, output).await.unwrap();
    let mut batches = Vec::new();
    while let Some(message) = messages.recv().await {
        if let Message::Batch(batch) = message {
            batches.push(batch.rows);
        }
    }
    batches
}

/// `item_table` with another type of a column: only to be had by making the table anew.
fn changed_table() -> Table {
    let mut table = item_table("items");
    let fields = table.schema.fields().iter().map(|field| match field.name().as_str() {
        "value" => Field::new("value", DataType::Int64, true),
        _ => field.as_ref().clone(),
    });
    table.schema = Arc::new(arrow_schema::Schema::new(fields.collect::<Vec<_>>()));
    table
}

fn changed_rows(id: i64) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![id])),
        Arc::new(StringArray::from(vec![None::<&str>])),
        Arc::new(Int64Array::from(vec![id * 10])),
        Arc::new(Int64Array::from(vec![1])),
    ];
    RecordBatch::try_new(changed_table().schema, columns).unwrap()
}

fn anew(mode: WriteMode) -> Job {
    Job { changes: Some(vec![SchemaChange::Recreate]), ..Job::new(changed_table(), mode) }
}

#[tokio::test]
async fn a_table_with_a_view_is_not_made_anew_and_nothing_is_lost() {
    let database = database();
    let old = Job::new(item_table("items"), WriteMode::Overwrite);
    let rows = items(&item_table("items"), &[item(1, "a", 1)]);
    sync_at(destination(&database).await, &old, &[upsert(&rows)]).await.unwrap();
    database.execute("CREATE VIEW seen AS SELECT id FROM items");
    let (job, changes) = (anew(WriteMode::Overwrite), [upsert(&changed_rows(2))]);
    let refused = error(sync_at(destination(&database).await, &job, &changes).await);
    assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
    assert_eq!(refused.context_value("table"), Some("items"));
    assert!(refused.context_value("depends on it").unwrap().contains("view seen"), "{refused}");
    assert!(refused.hint_text().is_some());
    assert_eq!(database.value("SELECT string_agg(id::text, ',') FROM seen").as_deref(), Some("1"));
    database.execute("DROP VIEW seen");
    sync_at(destination(&database).await, &job, &changes).await.unwrap();
    assert_eq!(database.value("SELECT value FROM items").as_deref(), Some("20"));
    let key =
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype = 'p'";
    assert_eq!(database.value(key).as_deref(), Some("1"));
}

#[tokio::test]
async fn writers_side_by_side_make_a_table_anew_once() {
    for mode in [WriteMode::Append, WriteMode::Overwrite] {
        let database = database();
        let old = Job::new(item_table("items"), mode);
        let rows = items(&item_table("items"), &[item(1, "a", 1)]);
        sync_at(destination(&database).await, &old, &[upsert(&rows)]).await.unwrap();
        let run = Run::open(&System::at(&database, database.url().to_owned()), &anew(mode)).await;
        let mut tasks = Vec::new();
        for id in 1..=6 {
            let mut writer = run.writer_of(&format!("part-{id}")).await;
            let batch = run.batch(highwater_core::Op::Upsert, &changed_rows(id));
            tasks.push(tokio::spawn(async move {
                writer.write(batch).await?;
                writer.commit(&highwater_core::Checkpoint::default()).await
            }));
        }
        for task in tasks {
            task.await.unwrap().unwrap_or_else(|e| panic!("{}", e.full_message()));
        }
        run.finish().await;
        let ids = "SELECT string_agg(id::text, ',' ORDER BY id) FROM items";
        assert_eq!(database.value(ids).as_deref(), Some("1,2,3,4,5,6"), "{mode}");
    }
}

#[tokio::test]
async fn readers_go_on_with_the_old_table_until_the_commit() {
    let database = database();
    let old = Job::new(item_table("items"), WriteMode::Overwrite);
    let rows = items(&item_table("items"), &[item(1, "old", 1)]);
    sync_at(destination(&database).await, &old, &[upsert(&rows)]).await.unwrap();
    let job = anew(WriteMode::Overwrite);
    let run = Run::open(&System::at(&database, database.url().to_owned()), &job).await;
    let mut writer = run.writer().await;
    let batch = |id| run.batch(highwater_core::Op::Upsert, &changed_rows(id));
    let condition = Deletion {
        table: TableName::new("items"),
        groups: vec![Group {
            any: false,
            equal: vec![Equal {
                column: "value".into(),
                field: Field::new("value", DataType::Int64, true),
                value: Arc::new(Int64Array::from(vec![70])),
            }],
        }],
        relations: Vec::new(),
    };
    // What is sent is brought to the new table for the condition, long before the commit.
    for id in [7, 8] {
        writer.write(batch(id)).await.unwrap();
    }
    writer.delete(&condition).await.unwrap();
    let read =
        || database.value("SET lock_timeout = '5s'; SELECT string_agg(value, ',') FROM items");
    assert_eq!(read().as_deref(), Some("old"));
    writer.write(batch(7)).await.unwrap();
    let committed = writer.commit(&run.checkpoint(1)).await.unwrap();
    let expected = Committed { written: 3, unchanged: 0, deleted: 1 };
    assert_eq!(committed[&TableName::new("items")], expected);
    let new = "SELECT string_agg(value::text, ',' ORDER BY id) FROM items";
    assert_eq!(database.value(new).as_deref(), Some("70,80"));
    // The key has the name that it would have in a table made in place.
    let key =
        "SELECT conname FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype = 'p'";
    assert_eq!(database.value(key).as_deref(), Some("items_pkey"));
    assert_eq!(database.value("SELECT to_regclass('_highwater_items_new')"), None);
}
