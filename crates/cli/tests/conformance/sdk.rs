//! The genuine SDK on the other side: a Python source whose rows and whose cursors go to one
//! plugin of ours, as CloudQuery's command would have it.

use highwater_cloudquery::host::{Plugin as Hosted, PluginSpec, Registry, Role};
use highwater_cloudquery::proto::plugin::sync::response::Message as Sent;
use highwater_cloudquery::proto::plugin::write::request::Message;
use highwater_cloudquery::proto::plugin::{init, sync, write};
use highwater_testkit::sdk;
use serde_json::json;

use super::ipc::{PRIMARY_KEY, WireTable, field, marked};
use super::plugin::{Plugin, migrate};
use super::systems::System;

const EVENTS: usize = 40;

/// One sync, the messages handed on one by one.
async fn synced(source: &Hosted, plugin: &Plugin) {
    let backend = sync::BackendOptions {
        table_name: "cq_state".to_owned(),
        connection: plugin.address.clone(),
    };
    let request = sync::Request {
        tables: vec!["*".to_owned()],
        with_error_messages: true,
        backend: Some(backend),
        ..sync::Request::default()
    };
    let mut responses = source.client().sync(request).await.unwrap().into_inner();
    let stream = plugin.stream();
    while let Some(response) = responses.message().await.unwrap() {
        stream
            .send(match response.message.unwrap() {
                Sent::MigrateTable(message) => Message::MigrateTable(write::MessageMigrateTable {
                    table: message.table,
                    migrate_force: false,
                }),
                Sent::Insert(message) => {
                    Message::Insert(write::MessageInsert { record: message.record })
                }
                other => panic!("{other:?}"),
            })
            .await;
    }
    stream.end().await.unwrap();
}

async fn as_destination_and_backend(system: System) {
    let folder = tempfile::tempdir().unwrap();
    let program = sdk::executable(folder.path(), "incremental.py");
    let (data, requests) = (folder.path().join("data.json"), folder.path().join("requests"));
    let events: Vec<_> = (0..EVENTS)
        .map(|n| {
            json!({"id": n, "at": format!("2026-01-01T00:00:{n:02}Z"), "payload": "p",
                        "lines": [{"line": 1, "text": "l"}]})
        })
        .collect();
    std::fs::write(&data, json!({"events": events, "accounts": []}).to_string()).unwrap();
    // The Python gRPC library names a socket in a way that HTTP/2 has no place for.
    let plugin = Plugin::on_a_port(system).await;
    let path = program.display().to_string();
    let spec = PluginSpec::new("events", Role::Source, Registry::Local, path);
    for _ in 0..2 {
        let source = Hosted::start(&spec).await.unwrap();
        let settings = json!({"data": data, "requests": requests, "flush_every": 10});
        let init = init::Request { spec: settings.to_string().into(), ..init::Request::default() };
        source.client().init(init).await.unwrap();
        synced(&source, &plugin).await;
        source.stop().await.unwrap();
    }
    let id = |name: &str| WireTable::new(name, vec![field("id", arrow_schema::DataType::Int64)]);
    assert_eq!(plugin.count(&id("events")).await, EVENTS);
    let text = |name| field(name, arrow_schema::DataType::Utf8);
    let key = marked(text("key"), &[PRIMARY_KEY]);
    let state = WireTable::new("cq_state", vec![key, text("value")]);
    let rows = plugin.read(&state).await;
    assert_eq!(rows.iter().map(|rows| rows.num_rows()).sum::<usize>(), 1);
    // The second sync went on where the first one ended.
    let asked = std::fs::read_to_string(&requests).unwrap();
    assert!(asked.contains(&format!("2026-01-01T00:00:{:02}Z", EVENTS - 1)), "{asked}");
    // One on the Go SDK keeps a version too.
    let version = field("version", arrow_schema::DataType::UInt64);
    let fields = state.schema.fields().iter().map(|f| f.as_ref().clone()).chain([version]);
    let state = WireTable::new("cq_state", fields.collect());
    plugin.write(vec![migrate(&state, false)]).await.unwrap();
    assert_eq!(plugin.count(&state).await, 1);
    plugin.stop().await;
}

#[tokio::test]
async fn a_python_source_keeps_rows_and_cursors_in_sqlite() {
    let name = "a_python_source_keeps_rows_and_cursors_in_sqlite";
    if sdk::or_skip(name, sdk::python()).is_some() {
        as_destination_and_backend(System::sqlite()).await;
    }
}

#[tokio::test]
async fn a_python_source_keeps_rows_and_cursors_in_postgresql() {
    let name = "a_python_source_keeps_rows_and_cursors_in_postgresql";
    if sdk::or_skip(name, sdk::python()).is_some() {
        as_destination_and_backend(System::postgresql()).await;
    }
}
