//! The state proxy, as state clients see it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use highwater_cloudquery::proto::plugin::plugin_client::PluginClient;
use highwater_cloudquery::proto::plugin::write::request::Message;
use highwater_cloudquery::proto::plugin::{close, init, read, write};
use highwater_cloudquery::proxy::{Listen, PATIENCE, StateProxy, StateRow, StateRows};
use highwater_cloudquery::wire::{Decoder, Encoder, encode_table};
use highwater_core::{Table, TableName};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const LOOPBACK: Listen = Listen::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));

fn table(name: &str, columns: &[&str]) -> Table {
    let fields = columns.iter().map(|column| match *column {
        "version" => Field::new("version", DataType::UInt64, true),
        other => Field::new(other, DataType::Utf8, true),
    });
    Table::new(TableName::new(name), fields.collect())
}

fn state_table() -> Table {
    table("cq_state", &["key", "value", "version"])
}

fn migrate(table: &Table) -> write::Request {
    let table = encode_table(table).unwrap();
    let migrate = write::MessageMigrateTable { table, migrate_force: false };
    write::Request { message: Some(Message::MigrateTable(migrate)) }
}

fn record(table: &Table, columns: Vec<ArrayRef>) -> Bytes {
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
    let mut encoder = Encoder::new(&Arc::new(table.clone()), usize::MAX).unwrap();
    encoder.encode(&rows).unwrap().remove(0)
}

fn insert(rows: &[(&str, &str, u64)]) -> write::Request {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.2))),
    ];
    let insert = write::MessageInsert { record: record(&state_table(), columns) };
    write::Request { message: Some(Message::Insert(insert)) }
}

async fn client(proxy: &StateProxy) -> PluginClient<Channel> {
    let connection = proxy.connection();
    let address = match connection.starts_with("unix:") {
        true => connection.to_owned(),
        false => format!("http://{connection}"),
    };
    PluginClient::new(Endpoint::from_shared(address).unwrap().connect().await.unwrap())
}

async fn send(proxy: &StateProxy, requests: Vec<write::Request>) -> Result<(), Status> {
    client(proxy).await.write(tokio_stream::iter(requests)).await.map(drop)
}

async fn get(proxy: &StateProxy, table: &Table) -> Result<Vec<RecordBatch>, Status> {
    let request = read::Request { table: encode_table(table).unwrap() };
    let mut answers = client(proxy).await.read(request).await?.into_inner();
    let mut batches = Vec::new();
    while let Some(answer) = answers.message().await? {
        batches.extend(Decoder::new().decode(&answer.record).unwrap().batches);
    }
    Ok(batches)
}

fn rows(of: &[(&str, &str, u64)]) -> StateRows {
    let row = |(key, value, version): &(&str, &str, u64)| {
        ((*key).to_owned(), StateRow { value: (*value).to_owned(), version: *version })
    };
    StateRows { rows: of.iter().map(row).collect() }
}

async fn begun(listen: Listen) -> StateProxy {
    let proxy = StateProxy::start("cq_state", listen, PATIENCE).await.unwrap();
    proxy.begin(StateRows::default());
    proxy
}

#[tokio::test]
async fn the_columns_come_as_they_are_asked_for() {
    for listen in [Listen::Unix, LOOPBACK] {
        let proxy = begun(listen).await;
        assert!(get(&proxy, &state_table()).await.unwrap().is_empty(), "nothing is no record");
        send(&proxy, vec![migrate(&state_table()), insert(&[("k", "v", 3)])]).await.unwrap();
        let found = get(&proxy, &table("cq_state", &["version", "key", "value"])).await.unwrap();
        let types: Vec<_> =
            found[0].schema().fields().iter().map(|f| f.data_type().clone()).collect();
        assert_eq!(types, [DataType::UInt64, DataType::Utf8, DataType::Utf8]);
        assert_eq!(found[0].column(1).as_string::<i32>().value(0), "k");
        // Whatever types were asked for.
        let mut large = state_table();
        large.schema = Schema::new(vec![Field::new("key", DataType::LargeUtf8, false)]).into();
        let found = get(&proxy, &large).await.unwrap();
        assert_eq!(found[0].schema().field(0).data_type(), &DataType::Utf8);
    }
}

#[tokio::test]
async fn several_streams_write_at_once_and_all_is_held() {
    let proxy = begun(Listen::Unix).await;
    let many = (0..20).map(|n| {
        let proxy = &proxy;
        async move {
            let key = format!("k{n}");
            let requests = vec![
                migrate(&state_table()),
                insert(&[(&key, "old", 1)]),
                insert(&[(&key, "new", 2), ("all", &key, 1)]),
            ];
            send(proxy, requests).await.unwrap();
        }
    });
    futures::future::join_all(many).await;
    let held = proxy.held();
    assert_eq!(held.rows.len(), 21);
    assert!((0..20).all(|n| held.rows[&format!("k{n}")].value == "new"));
}

#[tokio::test]
async fn rows_count_only_when_their_stream_has_ended() {
    let proxy = begun(Listen::Unix).await;
    let (requests, stream) = mpsc::channel(4);
    let mut client = client(&proxy).await;
    let call = tokio::spawn(async move { client.write(ReceiverStream::new(stream)).await });
    requests.send(insert(&[("k", "v", 1)])).await.unwrap();
    assert_eq!(proxy.held(), StateRows::default());
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    drop(requests);
    // Another stream comes to its end after it: the broken one had its time.
    send(&proxy, vec![insert(&[("other", "v", 1)])]).await.unwrap();
    assert_eq!(proxy.held(), rows(&[("other", "v", 1)]));
}

#[tokio::test]
async fn a_plugin_that_comes_early_waits_until_the_read_begins() {
    let proxy = StateProxy::start("cq_state", Listen::Unix, PATIENCE).await.unwrap();
    // Making the table needs no waiting.
    send(&proxy, vec![migrate(&state_table())]).await.unwrap();
    let table = state_table();
    let begin = async {
        tokio::task::yield_now().await;
        proxy.begin(rows(&[("k", "committed", 4)]));
    };
    let write = send(&proxy, vec![insert(&[("k", "late", 3), ("n", "v", 1)])]);
    let (found, written, ()) = tokio::join!(get(&proxy, &table), write, begin);
    assert!(found.unwrap()[0].num_rows() >= 1);
    written.unwrap();
    assert_eq!(proxy.held(), rows(&[("n", "v", 1)]), "an older version changes nothing");

    let never = StateProxy::start("cq_state", LOOPBACK, Duration::from_millis(1)).await.unwrap();
    assert_eq!(get(&never, &table).await.unwrap_err().code(), Code::Unavailable);
    let refused = send(&never, vec![insert(&[("k", "v", 1)])]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn what_is_no_state_is_refused_with_its_name() {
    let proxy = begun(Listen::Unix).await;
    let status = get(&proxy, &table("orders", &["key"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("`orders`") && status.message().contains("`cq_state`"));
    let status = get(&proxy, &table("cq_state", &["key", "other"])).await.unwrap_err();
    assert!(status.message().contains("`other`"), "{status}");
    let garbage = read::Request { table: Bytes::from_static(b"garbage") };
    let status = client(&proxy).await.read(garbage).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    for (wrong, word) in [
        (table("orders", &["key", "value"]), "`orders`"),
        (table("cq_state", &["key"]), "`value`"),
        (table("cq_state", &["key", "value", "id"]), "`id`"),
    ] {
        let status = send(&proxy, vec![migrate(&wrong)]).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(word), "{status}");
    }
    let mut numbers = table("cq_state", &["key"]);
    let fields = vec![numbers.schema.field(0).clone(), Field::new("value", DataType::Int64, true)];
    numbers.schema = Schema::new(fields).into();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec!["k"])), Arc::new(Int64Array::from(vec![7]))];
    let insert = write::MessageInsert { record: record(&numbers, columns) };
    let request = write::Request { message: Some(Message::Insert(insert)) };
    // A number has a text; a client that writes one is not turned away.
    send(&proxy, vec![request]).await.unwrap();
    assert_eq!(proxy.held(), rows(&[("k", "7", 1)]));

    let delete = Message::DeleteRecord(write::MessageDeleteRecord {
        table_name: "cq_state".to_owned(),
        ..write::MessageDeleteRecord::default()
    });
    let status = send(&proxy, vec![write::Request { message: Some(delete) }]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn odd_clients_are_served() {
    let proxy = begun(Listen::Unix).await;
    let mut client = client(&proxy).await;
    client.init(init::Request::default()).await.unwrap();
    client.close(close::Request {}).await.unwrap();
    let nothing = write::Request { message: None };
    let flush = Message::Flush(write::MessageFlush { id: 1 });
    let flush = write::Request { message: Some(flush) };
    // Rows before the table, a row without a value, messages without content.
    let empty = {
        let table = table("cq_state", &["key", "value"]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("k"), None, Some("l")])),
            Arc::new(StringArray::from(vec![None, Some("v"), Some("w")])),
        ];
        let insert = write::MessageInsert { record: record(&table, columns) };
        write::Request { message: Some(Message::Insert(insert)) }
    };
    send(&proxy, vec![nothing, flush, empty, migrate(&state_table())]).await.unwrap();
    assert_eq!(proxy.held(), rows(&[("l", "w", 1)]));
}

#[tokio::test]
async fn the_server_ends_with_the_proxy_and_leaves_nothing() {
    let proxy = begun(Listen::Unix).await;
    let path = std::path::PathBuf::from(proxy.connection().strip_prefix("unix://").unwrap());
    let folder = path.parent().unwrap().to_path_buf();
    let mode = std::os::unix::fs::PermissionsExt::mode(&folder.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "nobody else gets in");
    drop(proxy);
    assert!(!folder.exists());
}
