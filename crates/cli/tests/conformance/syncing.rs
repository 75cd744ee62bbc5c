//! Our sources as plugins: tables, rows, cursors in somebody's state table.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use highwater_cloudquery::proto::plugin::sync::response::Message;
use highwater_cloudquery::proto::plugin::{get_tables, sync};
use rusqlite::Connection;
use serde_json::json;
use tonic::{Code, Status};

use super::ipc;
use super::plugin::Plugin;
use super::systems::System;

/// A database with tables: `orders`, which has a key and grows, `notes` without a key, `empty`.
async fn shop() -> Plugin {
    let mut system = System::sqlite();
    sql(
        &system,
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT);
         INSERT INTO orders WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
            SELECT i, 'note ' || i FROM n;
         CREATE TABLE notes (text TEXT);
         INSERT INTO notes VALUES ('a'), ('b');
         CREATE TABLE empty (id INTEGER PRIMARY KEY);",
    );
    system.spec["table_options"] = json!({"orders": {"cursor": "id"}});
    Plugin::of(system).await
}

fn sql(system: &System, statements: &str) {
    let path = system.folder.path().join("data.db");
    Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

/// What a sync sent.
#[derive(Default)]
struct Sent {
    tables: Vec<String>,
    incremental: Vec<String>,
    rows: BTreeMap<String, Vec<RecordBatch>>,
    errors: Vec<(String, String)>,
    checkpoints: usize,
}

impl Sent {
    fn count(&self, table: &str) -> usize {
        self.rows.get(table).map_or(0, |rows| rows.iter().map(RecordBatch::num_rows).sum())
    }
}

fn all() -> sync::Request {
    sync::Request {
        tables: vec!["*".to_owned()],
        with_error_messages: true,
        ..sync::Request::default()
    }
}

async fn synced(plugin: &Plugin, request: sync::Request) -> Result<Sent, Status> {
    let mut responses = plugin.client.clone().sync(request).await?.into_inner();
    let mut sent = Sent::default();
    while let Some(response) = responses.message().await? {
        match response.message.unwrap() {
            Message::MigrateTable(message) => {
                assert!(sent.rows.is_empty(), "tables come before rows");
                let schema = ipc::decode_schema(&message.table);
                let metadata = schema.metadata();
                let name = metadata[ipc::NAME].clone();
                if metadata.get("cq:extension:incremental").is_some_and(|v| v == "true") {
                    sent.incremental.push(name.clone());
                }
                assert!(schema.fields().iter().all(|f| !f.name().starts_with("_cq_")));
                sent.tables.push(name);
            }
            Message::Insert(message) => {
                assert!(message.record.len() < 4 << 20);
                let rows = ipc::decode(&message.record);
                let name = rows.schema().metadata()[ipc::NAME].clone();
                assert!(sent.tables.contains(&name));
                sent.rows.entry(name).or_default().push(rows);
            }
            Message::Error(message) => sent.errors.push((message.table_name, message.error)),
            Message::Checkpoint(_) => sent.checkpoints += 1,
            Message::DeleteRecord(_) => panic!("nothing was deleted"),
        }
    }
    Ok(sent)
}

#[tokio::test]
async fn tables_come_first_and_then_their_rows() {
    let plugin = shop().await;
    let sent = synced(&plugin, all()).await.unwrap();
    assert_eq!(sent.tables, ["empty", "notes", "orders"]);
    assert_eq!((sent.count("orders"), sent.count("notes"), sent.count("empty")), (100, 2, 0));
    assert!(sent.errors.is_empty());
    // Without a backend every row is sent, every time.
    assert!(sent.incremental.is_empty());
    assert_eq!(synced(&plugin, all()).await.unwrap().count("orders"), 100);
    plugin.stop().await;
}

#[tokio::test]
async fn tables_are_chosen_by_patterns() {
    let plugin = shop().await;
    let request = |tables: &[&str], skip: &[&str]| sync::Request {
        tables: tables.iter().map(|t| (*t).to_owned()).collect(),
        skip_tables: skip.iter().map(|t| (*t).to_owned()).collect(),
        ..all()
    };
    let sent = synced(&plugin, request(&["*e*"], &["em*"])).await.unwrap();
    assert_eq!(sent.tables, ["notes", "orders"]);
    for (tables, skip) in [(&["order"][..], &[][..]), (&["*"], &["nothing*"])] {
        let status = synced(&plugin, request(tables, skip)).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut client = plugin.client.clone();
    let answer = client.get_tables(get_tables::Request {
        tables: vec!["orders".to_owned()],
        ..get_tables::Request::default()
    });
    let tables = answer.await.unwrap().into_inner().tables;
    assert_eq!(tables.len(), 1);
    let schema = ipc::decode_schema(&tables[0]);
    assert_eq!(schema.metadata()[ipc::NAME], "orders");
    assert_eq!(schema.field(0).metadata()[ipc::PRIMARY_KEY], "true");
    plugin.stop().await;
}

#[tokio::test]
async fn shards_share_the_tables() {
    let plugin = shop().await;
    let mut tables = Vec::new();
    for num in 1..=2 {
        let shard = Some(sync::request::Shard { num, total: 2 });
        tables.extend(synced(&plugin, sync::Request { shard, ..all() }).await.unwrap().tables);
    }
    tables.sort();
    assert_eq!(tables, ["empty", "notes", "orders"]);
    let shard = Some(sync::request::Shard { num: 3, total: 2 });
    let status = synced(&plugin, sync::Request { shard, ..all() }).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    plugin.stop().await;
}

#[tokio::test]
async fn a_table_that_fails_is_named() {
    let plugin = shop().await;
    // A value that is not what its column says.
    sql(&plugin.system, "CREATE TABLE broken (n INTEGER); INSERT INTO broken VALUES ('soon');");
    let sent = synced(&plugin, all()).await.unwrap();
    assert_eq!(sent.errors.len(), 1, "{:?}", sent.errors);
    assert_eq!(sent.errors[0].0, "broken");
    assert_eq!(sent.count("orders"), 100);
    let request = sync::Request { with_error_messages: false, ..all() };
    let status = synced(&plugin, request).await.err().unwrap();
    assert!(status.message().contains("broken"), "{status}");
    plugin.stop().await;
}

async fn backend() -> (Plugin, Option<sync::BackendOptions>) {
    let backend = Plugin::of(System::sqlite()).await;
    let options = sync::BackendOptions {
        table_name: "cq_state".to_owned(),
        connection: format!("unix://{}", backend.socket.display()),
    };
    (backend, Some(options))
}

#[tokio::test]
async fn cursors_are_kept_at_the_backend() {
    let plugin = shop().await;
    let (keeper, backend) = backend().await;
    let request = || sync::Request { backend: backend.clone(), ..all() };
    let sent = synced(&plugin, request()).await.unwrap();
    assert_eq!(sent.count("orders"), 100);
    assert_eq!(sent.incremental, ["orders"], "its rows must not be taken for stale");
    sql(&plugin.system, "INSERT INTO orders VALUES (101, 'new'), (102, 'new')");
    let sent = synced(&plugin, request()).await.unwrap();
    assert_eq!((sent.count("orders"), sent.count("notes")), (2, 2));
    assert_eq!(synced(&plugin, request()).await.unwrap().count("orders"), 0);
    let [key] = &keys(&keeper)[..] else { panic!("one cursor") };
    let system = key.strip_prefix("highwater/").and_then(|key| key.strip_suffix("/orders"));
    let system = system.unwrap_or_else(|| panic!("{key}"));
    assert!(system.len() == 8 && system.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    keeper.stop().await;
    // Cursors that cannot be read are no reason to send everything.
    let status = synced(&plugin, request()).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    plugin.stop().await;
}

/// The keys of the state table.
fn keys(keeper: &Plugin) -> Vec<String> {
    let path = keeper.system.folder.path().join("data.db");
    let connection = Connection::open(path).unwrap();
    let mut keys = connection.prepare("SELECT key FROM cq_state ORDER BY key").unwrap();
    keys.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn sources_that_share_a_state_table_have_cursors_of_their_own() {
    let (mut first, second) = (shop().await, shop().await);
    let (keeper, backend) = backend().await;
    let request = || sync::Request { backend: backend.clone(), ..all() };
    for plugin in [&first, &second] {
        assert_eq!(synced(plugin, request()).await.unwrap().count("orders"), 100);
    }
    assert_eq!(keys(&keeper).len(), 2);
    // The same system is known again, in another process and with other settings of its tables.
    first.system.spec["table_options"]["notes"] = json!({"primary_key": ["text"]});
    first.restart().await;
    for plugin in [&first, &second] {
        assert_eq!(synced(plugin, request()).await.unwrap().count("orders"), 0);
    }
    assert_eq!(keys(&keeper).len(), 2);
    for plugin in [keeper, first, second] {
        plugin.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_moves_no_cursor() {
    let plugin = shop().await;
    let (keeper, backend) = backend().await;
    let request = || sync::Request { backend: backend.clone(), ..all() };
    // More than fits between the two.
    sql(
        &plugin.system,
        "INSERT INTO orders WITH RECURSIVE n(i) AS (SELECT 101 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
            SELECT i, hex(randomblob(10000)) FROM n;",
    );
    let mut responses = plugin.client.clone().sync(request()).await.unwrap().into_inner();
    responses.message().await.unwrap().unwrap();
    drop(responses);
    assert_eq!(synced(&plugin, request()).await.unwrap().count("orders"), 1000);
    keeper.stop().await;
    plugin.stop().await;
}

#[tokio::test]
async fn checkpoints_come_among_the_rows_for_those_who_know_them() {
    let plugin = shop().await;
    let (keeper, backend) = backend().await;
    let request = sync::Request { backend, supports_checkpoints: true, ..all() };
    let sent = synced(&plugin, request.clone()).await.unwrap();
    assert_eq!((sent.count("orders"), sent.checkpoints), (100, 1));
    // The caller keeps them; nothing went to the backend.
    assert_eq!(synced(&plugin, request).await.unwrap().count("orders"), 100);
    keeper.stop().await;
    plugin.stop().await;
}
