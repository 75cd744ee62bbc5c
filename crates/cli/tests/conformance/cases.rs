//! Upserts, inserts and deletions, basic and with every type.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_cloudquery::proto::plugin::predicate::Operator;
use highwater_cloudquery::proto::plugin::predicates_group::GroupingType;
use highwater_cloudquery::proto::plugin::write::request::Message;
use highwater_cloudquery::proto::plugin::{Predicate, PredicatesGroup, TableRelation, write};
use tonic::Code;

use super::all_types;
use super::ipc::{WireTable, extension, field, id, ints, marked, uuid};
use super::plugin::{Plugin, insert, migrate};

/// `id` (the key, if `keyed`) and `value`.
pub fn simple(name: &str, keyed: bool) -> WireTable {
    let id = if keyed { id() } else { field("id", DataType::Int64) };
    WireTable::new(name, vec![id, field("value", DataType::Utf8)])
}

pub fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// The pairs of a [`simple`] table, sorted.
pub async fn pairs(plugin: &Plugin, table: &WireTable) -> Vec<(i64, String)> {
    let mut pairs = Vec::new();
    for rows in plugin.read(table).await {
        let ids = rows.column(0).as_primitive::<Int64Type>();
        let values = rows.column(1).as_string::<i32>();
        pairs.extend((0..rows.num_rows()).map(|i| (ids.value(i), values.value(i).to_owned())));
    }
    pairs.sort();
    pairs
}

fn pair(id: i64, value: &str) -> (i64, String) {
    (id, value.to_owned())
}

pub async fn upsert_basic(plugin: &mut Plugin) {
    let table = simple("cq_upsert_basic", true);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    let rows = table.rows(vec![ints([1]), texts(["first"])]);
    plugin.write(vec![insert(rows)]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(1, "first")]);
    let rows = table.rows(vec![ints([1]), texts(["second"])]);
    plugin.write(vec![insert(rows)]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(1, "second")]);
}

pub async fn upsert_all(plugin: &mut Plugin) {
    let table = all_types::table("cq_upsert_all", true);
    let rows = all_types::rows(&table, 1);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    plugin.write(vec![insert(all_types::bytes(&rows))]).await.unwrap();
    all_types::same(plugin, &table, std::slice::from_ref(&rows)).await;
    // The same keys with NULL in every other column, and back again.
    let nulls = all_types::nulls(&table, 1);
    plugin.write(vec![insert(all_types::bytes(&nulls))]).await.unwrap();
    all_types::same(plugin, &table, std::slice::from_ref(&nulls)).await;
    plugin.write(vec![insert(all_types::bytes(&rows))]).await.unwrap();
    all_types::same(plugin, &table, std::slice::from_ref(&rows)).await;
}

pub async fn upsert_duplicate_keys(plugin: &mut Plugin) {
    let table = simple("cq_upsert_duplicates", true);
    let rows = table.rows(vec![ints([1, 1, 2, 1]), texts(["a", "b", "c", "d"])]);
    plugin.write(vec![migrate(&table, false), insert(rows)]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(1, "d"), pair(2, "c")]);
    let rows = |value| table.rows(vec![ints([3]), texts([value])]);
    plugin.write(vec![insert(rows("e")), insert(rows("f"))]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(1, "d"), pair(2, "c"), pair(3, "f")]);
}

pub async fn insert_basic(plugin: &mut Plugin) {
    let table = simple("cq_insert_basic", false);
    let rows = || insert(table.rows(vec![ints([1]), texts(["a"])]));
    plugin.write(vec![migrate(&table, false), rows()]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(1, "a")]);
    plugin.write(vec![rows()]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(1, "a"), pair(1, "a")]);
    // No rows are normal.
    let none = table.rows(vec![ints([]), texts([])]);
    plugin.write(vec![migrate(&table, false), insert(none)]).await.unwrap();
    plugin.write(vec![]).await.unwrap();
    assert_eq!(plugin.count(&table).await, 2);
}

pub async fn insert_all(plugin: &mut Plugin) {
    let table = all_types::table("cq_insert_all", false);
    let (first, second) = (all_types::rows(&table, 1), all_types::nulls(&table, 11));
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    plugin.write(vec![insert(all_types::bytes(&first))]).await.unwrap();
    all_types::same(plugin, &table, std::slice::from_ref(&first)).await;
    plugin.write(vec![insert(all_types::bytes(&second))]).await.unwrap();
    all_types::same(plugin, &table, &[first, second]).await;
}

fn sync_time() -> Field {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    field("_cq_sync_time", utc)
}

fn stamped(name: &str) -> WireTable {
    let source = field("_cq_source_name", DataType::Utf8);
    WireTable::new(name, vec![id(), field("value", DataType::Utf8), sync_time(), source])
}

fn stamp(times: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))
}

fn stale(table: &WireTable, source: &str, micros: i64) -> Message {
    Message::Delete(write::MessageDeleteStale {
        table_name: table.name(),
        source_name: source.to_owned(),
        sync_time: Some(prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: i32::try_from(micros.rem_euclid(1_000_000)).unwrap() * 1000,
        }),
        ..write::MessageDeleteStale::default()
    })
}

const NOW: i64 = 1_700_000_000_000_000;

pub async fn delete_stale_basic(plugin: &mut Plugin) {
    let table = stamped("cq_delete_stale_basic");
    // A microsecond is enough, and other sources are left alone.
    let rows = table.rows(vec![
        ints([1, 2, 3]),
        texts(["a", "b", "c"]),
        stamp(&[NOW - 1, NOW, NOW - 1]),
        texts(["test", "test", "other"]),
    ]);
    // The rows came before it in the same stream.
    plugin
        .write(vec![migrate(&table, false), insert(rows), stale(&table, "test", NOW)])
        .await
        .unwrap();
    let left = simple(&table.name(), true);
    assert_eq!(pairs(plugin, &left).await, [pair(2, "b"), pair(3, "c")]);
    let rows = table.rows(vec![ints([4]), texts(["d"]), stamp(&[NOW + 5]), texts(["test"])]);
    plugin.write(vec![insert(rows), stale(&table, "test", NOW + 5)]).await.unwrap();
    assert_eq!(pairs(plugin, &left).await, [pair(3, "c"), pair(4, "d")]);
}

pub async fn delete_stale_all(plugin: &mut Plugin) {
    let plain = all_types::table("cq_delete_stale_all", true);
    let mut fields: Vec<Field> = plain.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend([sync_time(), field("_cq_source_name", DataType::Utf8)]);
    let table = WireTable::new("cq_delete_stale_all", fields);
    let with_stamps = |rows: &arrow_array::RecordBatch, time: i64| {
        let mut columns = rows.columns().to_vec();
        columns.push(stamp(&vec![time; rows.num_rows()]));
        columns.push(texts(vec!["test"; rows.num_rows()]));
        table.rows(columns)
    };
    let (old, new) = (all_types::rows(&plain, 1), all_types::rows(&plain, 11));
    plugin.write(vec![migrate(&table, false), insert(with_stamps(&old, NOW))]).await.unwrap();
    plugin.write(vec![stale(&table, "test", NOW)]).await.unwrap();
    all_types::same(plugin, &plain, std::slice::from_ref(&old)).await;
    plugin
        .write(vec![insert(with_stamps(&new, NOW + 1)), stale(&table, "test", NOW + 1)])
        .await
        .unwrap();
    all_types::same(plugin, &plain, &[new]).await;
}

fn equals(column: &str, value: ArrayRef, field: Field) -> Predicate {
    let record = WireTable::new("predicate", vec![field]).rows(vec![value]);
    Predicate { operator: Operator::Eq.into(), column: column.to_owned(), record }
}

fn delete(table: &WireTable, groups: Vec<PredicatesGroup>, children: &[(&str, &str)]) -> Message {
    let relation = |(table_name, parent_table): &(&str, &str)| TableRelation {
        table_name: (*table_name).to_owned(),
        parent_table: (*parent_table).to_owned(),
    };
    Message::DeleteRecord(write::MessageDeleteRecord {
        table_name: table.name(),
        where_clause: groups,
        table_relations: children.iter().map(relation).collect(),
    })
}

fn group(any: bool, predicates: Vec<Predicate>) -> PredicatesGroup {
    let grouping_type = if any { GroupingType::Or } else { GroupingType::And };
    PredicatesGroup { grouping_type: grouping_type.into(), predicates }
}

pub async fn delete_record_basic(plugin: &mut Plugin) {
    let table = simple("cq_delete_record_basic", true);
    let rows = table.rows(vec![ints(1..=5), texts(["a", "b", "c", "d", "e"])]);
    plugin.write(vec![migrate(&table, false), insert(rows)]).await.unwrap();
    let id_is = |id: i64| equals("id", ints([id]), field("id", DataType::Int64));
    let value_is = |value| equals("value", texts([value]), field("value", DataType::Utf8));
    // No row has both.
    let neither = delete(&table, vec![group(false, vec![id_is(1), value_is("b")])], &[]);
    let one = delete(&table, vec![group(false, vec![id_is(1), value_is("a")])], &[]);
    let any = delete(&table, vec![group(true, vec![id_is(2), value_is("c")])], &[]);
    // Groups have to hold together.
    let both = delete(
        &table,
        vec![group(true, vec![id_is(4), id_is(5)]), group(true, vec![value_is("d")])],
        &[],
    );
    plugin.write(vec![neither, one, any, both]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(5, "e")]);
    // It acts on what came before it in the stream, and not on what comes after it.
    let before = insert(table.rows(vec![ints([6]), texts(["x"])]));
    let after = insert(table.rows(vec![ints([6]), texts(["y"])]));
    let six = delete(&table, vec![group(false, vec![id_is(6)])], &[]);
    plugin.write(vec![before, six, after]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(5, "e"), pair(6, "y")]);
    // Where there is no table there is no row.
    let nowhere = simple("cq_nowhere", true);
    plugin.write(vec![delete(&nowhere, vec![group(false, vec![id_is(1)])], &[])]).await.unwrap();
}

pub async fn delete_record_delete_all(plugin: &mut Plugin) {
    let table = simple("cq_delete_record_all", true);
    let rows = table.rows(vec![ints(1..=10), texts(["v"; 10])]);
    plugin.write(vec![migrate(&table, false), insert(rows)]).await.unwrap();
    assert_eq!(plugin.count(&table).await, 10);
    let rows = table.rows(vec![ints([11]), texts(["w"])]);
    plugin.write(vec![delete(&table, vec![], &[]), insert(rows)]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [pair(11, "w")]);
}

fn uuids(of: &[u8]) -> ArrayRef {
    let values = of.iter().map(|byte| [*byte; 16]);
    Arc::new(FixedSizeBinaryArray::try_from_iter(values).unwrap())
}

pub async fn delete_record_with_children(plugin: &mut Plugin) {
    let tables: Vec<WireTable> = ["cq_grandparent", "cq_parent", "cq_child"]
        .iter()
        .map(|name| {
            let id = marked(uuid("_cq_id"), &[super::ipc::PRIMARY_KEY]);
            let fields = vec![id, uuid("_cq_parent_id"), field("value", DataType::Int64)];
            WireTable::new(name, fields)
        })
        .collect();
    let tables =
        [tables[0].clone(), tables[1].child_of("cq_grandparent"), tables[2].child_of("cq_parent")];
    let mut messages: Vec<Message> = tables.iter().map(|table| migrate(table, false)).collect();
    // Two families; children follow their parents' ids.
    for (table, (ids, parents)) in
        tables.iter().zip([([1, 2], [0, 0]), ([11, 12], [1, 2]), ([21, 22], [11, 12])])
    {
        messages.push(insert(table.rows(vec![uuids(&ids), uuids(&parents), ints([1, 2])])));
    }
    plugin.write(messages).await.unwrap();
    let first = equals("value", ints([1]), field("value", DataType::Int64));
    let relations = [("cq_parent", "cq_grandparent"), ("cq_child", "cq_parent")];
    let gone = delete(&tables[0], vec![group(false, vec![first])], &relations);
    plugin.write(vec![gone]).await.unwrap();
    for table in &tables {
        let rows = plugin.read(table).await;
        let left: Vec<i64> = rows
            .iter()
            .flat_map(|rows| rows.column(2).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!(left, [2], "{}", table.name());
    }
}

/// Cursors of plugins: utf8, utf8, uint64, whatever the system makes of them.
pub async fn state_table(plugin: &mut Plugin) {
    let key = marked(field("key", DataType::Utf8), &[super::ipc::PRIMARY_KEY]);
    let fields = vec![key, field("value", DataType::Utf8), field("version", DataType::UInt64)];
    let table = WireTable::new("cq_state", fields);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    assert_eq!(plugin.count(&table).await, 0);
    let rows = |value, version: u64| {
        let version: ArrayRef = Arc::new(UInt64Array::from(vec![version]));
        insert(table.rows(vec![texts(["k"]), texts([value]), version]))
    };
    plugin.write(vec![rows("one", 1)]).await.unwrap();
    plugin.write(vec![rows("two", u64::MAX)]).await.unwrap();
    // The newest version counts where rows are only added.
    let mut newest = None;
    for batch in plugin.read(&table).await {
        let versions = batch.column(2).as_primitive::<UInt64Type>();
        for row in 0..batch.num_rows() {
            let value = batch.column(1).as_string::<i32>().value(row).to_owned();
            newest = newest.max(Some((versions.value(row), value)));
        }
    }
    assert_eq!(newest, Some((u64::MAX, "two".to_owned())));
    // Columns in another order, one that is not there, and a table that is not there.
    let other = WireTable::new(
        "cq_state",
        vec![field("version", DataType::UInt64), extension("more", "json", DataType::Binary)],
    );
    let batches = plugin.read(&other).await;
    let nulls: usize = batches.iter().map(|rows| rows.column(1).null_count()).sum();
    let rows: usize = batches.iter().map(arrow_array::RecordBatch::num_rows).sum();
    assert_eq!(nulls, rows);
    assert_eq!(plugin.count(&simple("cq_not_there", true)).await, 0);
}

/// What files cannot do ends with a status that says so.
pub async fn refused_without_keys(plugin: &mut Plugin) {
    let table = stamped("cq_refused");
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    let rows = table.rows(vec![ints([1]), texts(["a"]), stamp(&[NOW]), texts(["test"])]);
    plugin.write(vec![insert(rows)]).await.unwrap();
    for refused in [stale(&table, "test", NOW), delete(&table, vec![], &[])] {
        let status = plugin.write(vec![refused]).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("cq_refused"), "{status}");
    }
    assert_eq!(plugin.count(&table).await, 1);
}
