//! What is promised of streams: when rows are durable, when a call fails, and that cursors never
//! overtake rows.

use arrow_array::ArrayRef;
use arrow_schema::DataType;
use highwater_cloudquery::serve::CURSORS_AFTER_ROWS;
use std::sync::Arc;

use arrow_array::UInt64Array;
use tonic::Code;

use super::cases::{pairs, simple, texts};
use super::ipc::{PRIMARY_KEY, WireTable, field, ints, marked};
use super::plugin::{Plugin, WriteStream, insert, migrate};

pub async fn durable(plugin: &mut Plugin) {
    let table = simple("cq_durable", false);
    let stream = plugin.stream();
    stream.send(migrate(&table, false)).await;
    for id in 0..100 {
        stream.send(insert(table.rows(vec![ints([id]), texts(["a"])]))).await;
    }
    stream.end().await.unwrap();
    assert_eq!(plugin.count(&table).await, 100);
    // A caller that does not end its stream for hours has its rows all the same.
    let stream = plugin.stream();
    stream.send(insert(table.rows(vec![ints([100]), texts(["a"])]))).await;
    plugin.wait_for(&table, 101).await;
    stream.end().await.unwrap();
    assert_eq!(plugin.count(&table).await, 101);
    // Init comes twice, Close or not: both are normal.
    plugin.init().await.unwrap();
    plugin
        .client
        .clone()
        .close(highwater_cloudquery::proto::plugin::close::Request {})
        .await
        .unwrap();
    plugin.init().await.unwrap();
    assert_eq!(plugin.count(&table).await, 101);
}

/// Far more than the 4 MiB that a gRPC server takes by default.
pub async fn large(plugin: &mut Plugin) {
    let table = simple("cq_large", false);
    let text = "x".repeat(30 << 20);
    let rows = table.rows(vec![ints([1]), texts([text.as_str()])]);
    plugin.write(vec![migrate(&table, false), insert(rows)]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await[0].1.len(), 30 << 20);
}

pub async fn fails_at_once(plugin: &mut Plugin) {
    let table = simple("cq_fails", false);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    // A table that nobody ever sent.
    let unknown = simple("cq_unknown", false);
    let stream = plugin.stream();
    stream.send(insert(table.rows(vec![ints([1]), texts(["a"])]))).await;
    stream.send(insert(unknown.rows(vec![ints([1]), texts(["a"])]))).await;
    let status = stream.ended().await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("cq_unknown"), "{status}");
    assert_eq!(plugin.count(&table).await, 0);
    // Bytes that are nothing.
    let stream = plugin.stream();
    stream.send(insert(bytes::Bytes::from_static(b"garbage"))).await;
    let status = stream.ended().await;
    // The settings are not to blame: that would be another code.
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    // The next one is not touched by that.
    plugin.write(vec![insert(table.rows(vec![ints([2]), texts(["b"])]))]).await.unwrap();
    assert_eq!(plugin.count(&table).await, 1);
}

pub async fn given_up(plugin: &mut Plugin) {
    let table = simple("cq_given_up", false);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    sent(plugin, &table, 1).await.give_up();
    // Whatever the plugin made of it by then.
    plugin.restart().await;
    assert_eq!(plugin.count(&table).await, 0);
    // However the end of one meets the commit of another, that one keeps its rows.
    for round in 2..30 {
        sent(plugin, &table, 1).await.give_up();
        let rows = table.rows(vec![ints([round]), texts(["b"])]);
        plugin.write(vec![insert(rows)]).await.unwrap();
        let found = pairs(plugin, &table).await;
        assert!(found.contains(&(round, "b".to_owned())), "{round} in {found:?}");
    }
}

/// A stream with rows on their way; whether the plugin has them is not known.
async fn sent(plugin: &Plugin, table: &WireTable, id: i64) -> WriteStream {
    let stream = plugin.stream();
    for _ in 0..64 {
        stream.send(insert(table.rows(vec![ints([]), texts([])]))).await;
    }
    stream.send(insert(table.rows(vec![ints([id]), texts(["a"])]))).await;
    for _ in 0..64 {
        stream.send(insert(table.rows(vec![ints([]), texts([])]))).await;
    }
    stream
}

/// A stream whose row the plugin has received. Nothing is answered for it, so that it is followed
/// by more than all buffers on the way hold: a window of 8 MiB, 1 MiB before the connection, eight
/// messages before that. When the last of it is sent, the plugin has taken what came first.
async fn received(plugin: &Plugin, table: &WireTable, id: i64) -> WriteStream {
    const FILLERS: usize = 64;
    let stream = plugin.stream();
    stream.send(insert(table.rows(vec![ints([id]), texts(["a"])]))).await;
    let filler = insert(table.padded(512 << 10).rows(vec![ints([]), texts([])]));
    for _ in 0..FILLERS {
        stream.send(filler.clone()).await;
    }
    stream
}

fn cursors() -> WireTable {
    let key = marked(field("key", DataType::Utf8), &[PRIMARY_KEY]);
    WireTable::new(
        "cq_cursors",
        vec![key, field("value", DataType::Utf8), field("version", DataType::UInt64)],
    )
}

fn cursor(value: &str, version: u64) -> bytes::Bytes {
    let version: ArrayRef = Arc::new(UInt64Array::from(vec![version]));
    cursors().rows(vec![texts(["k"]), texts([value]), version])
}

pub async fn cursors_wait(plugin: &mut Plugin) {
    let table = simple("cq_rows", true);
    plugin.write(vec![migrate(&table, false), migrate(&cursors(), false)]).await.unwrap();
    // Rows on a stream that stays open, then their cursor on a stream of its own.
    let stream = received(plugin, &table, 1).await;
    plugin.write(vec![insert(cursor("one", 1))]).await.unwrap();
    assert_eq!(plugin.count(&cursors()).await, 1);
    assert_eq!(pairs(plugin, &table).await, [(1, "a".to_owned())]);
    stream.send(insert(table.rows(vec![ints([2]), texts(["b"])]))).await;
    stream.end().await.unwrap();
    assert_eq!(plugin.count(&table).await, 2);
}

pub async fn cursors_of_lost_rows(plugin: &mut Plugin) {
    let table = simple("cq_lost", false);
    plugin.write(vec![migrate(&table, false), migrate(&cursors(), false)]).await.unwrap();
    let stream = plugin.stream();
    stream.send(insert(table.rows(vec![ints([1]), texts(["a"])]))).await;
    let unknown = simple("cq_lost_unknown", false);
    stream.send(insert(unknown.rows(vec![ints([1]), texts(["a"])]))).await;
    stream.ended().await;
    // The source does not know yet, and says that it has come so far.
    let status = plugin.write(vec![insert(cursor("one", 1))]).await.unwrap_err();
    assert!(status.message().contains("lost"), "{status}");
    assert_eq!(plugin.count(&cursors()).await, 0);
    // A caller that sends cursors only when their own rows were answered for says so.
    let stream = plugin.stream_with(Some(CURSORS_AFTER_ROWS));
    stream.send(insert(cursor("other", 1))).await;
    stream.end().await.unwrap();
    assert_eq!(plugin.count(&cursors()).await, 1);
    // Those that do not are refused as before.
    plugin.write(vec![insert(cursor("one", 2))]).await.unwrap_err();
    // The next sync begins with Init.
    plugin.init().await.unwrap();
    plugin.write(vec![insert(cursor("two", 1))]).await.unwrap();
    // Files keep the older one too.
    let kept = if plugin.system.name == "files" { 2 } else { 1 };
    assert_eq!(plugin.count(&cursors()).await, kept);
}

pub async fn several(plugin: &mut Plugin) {
    let tables: Vec<_> = (0..4).map(|n| simple(&format!("cq_several_{n}"), n % 2 == 0)).collect();
    let streams: Vec<_> = tables.iter().map(|_| plugin.stream()).collect();
    for (stream, table) in streams.iter().zip(&tables) {
        stream.send(migrate(table, false)).await;
    }
    for id in 0..50 {
        for (stream, table) in streams.iter().zip(&tables) {
            stream.send(insert(table.rows(vec![ints([id]), texts(["a"])]))).await;
        }
    }
    for stream in streams {
        stream.end().await.unwrap();
    }
    for table in &tables {
        assert_eq!(plugin.count(table).await, 50);
    }
}

pub async fn not_migrated(plugin: &mut Plugin) {
    let table = simple("cq_not_migrated", true);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    // Rows alone, with less than the table has, and in another order.
    let less = WireTable::new("cq_not_migrated", vec![field("id", DataType::Int64)]);
    let turned = WireTable::new(
        "cq_not_migrated",
        vec![field("value", DataType::Utf8), field("id", DataType::Int64)],
    );
    plugin.write(vec![insert(turned.rows(vec![texts(["x"]), ints([2])]))]).await.unwrap();
    plugin.write(vec![insert(less.rows(vec![ints([1])]))]).await.unwrap();
    assert_eq!(pairs(plugin, &table).await, [(1, String::new()), (2, "x".to_owned())]);
    let more = WireTable::new(
        "cq_not_migrated",
        vec![field("id", DataType::Int64), field("more", DataType::Utf8)],
    );
    let rows = more.rows(vec![ints([3]), texts(["x"])]);
    let status = plugin.write(vec![insert(rows)]).await.unwrap_err();
    assert!(status.message().contains("more"), "{status}");
}

/// The plugin is stopped in the middle of a stream and started again.
pub async fn signal(plugin: &mut Plugin) {
    let table = simple("cq_signal", false);
    plugin.write(vec![migrate(&table, false)]).await.unwrap();
    let stream = sent(plugin, &table, 1).await;
    plugin.restart().await;
    let status = stream.ended().await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(plugin.count(&table).await, 0);
    plugin.write(vec![insert(table.rows(vec![ints([2]), texts(["b"])]))]).await.unwrap();
    assert_eq!(plugin.count(&table).await, 1);
}
