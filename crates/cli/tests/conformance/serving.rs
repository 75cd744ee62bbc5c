//! How a plugin is started and asked about itself.

use std::path::PathBuf;
use std::process::{Command, Output};

use highwater_cloudquery::host::{Plugin as Hosted, PluginSpec, Registry, Role};
use highwater_cloudquery::proto::discovery::v1::discovery_client::DiscoveryClient;
use highwater_cloudquery::proto::discovery::v1::get_versions;
use highwater_cloudquery::proto::plugin::{
    get_name, get_spec_schema, get_version, test_connection,
};
use highwater_testkit::postgres::Postgres;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Endpoint;

use super::cases::{pairs, simple, texts};
use super::ipc::ints;
use super::plugin::{Plugin, insert, interrupt, listening, migrate};
use super::systems::System;

/// The program under the name `highwater-NAME`.
fn named(system: &System, name: &str) -> PathBuf {
    let path = system.folder.path().join(format!("highwater-{name}"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_highwater"), &path).unwrap();
    path
}

fn highwater(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).output().unwrap()
}

#[tokio::test]
async fn it_says_what_it_is() {
    for system in [System::sqlite(), System::postgresql(), System::files()] {
        let name = system.name;
        let plugin = Plugin::start(system).await;
        let mut client = plugin.client.clone();
        let answer = client.get_name(get_name::Request {}).await.unwrap().into_inner();
        assert_eq!(answer.name, name);
        let answer = client.get_version(get_version::Request {}).await.unwrap().into_inner();
        assert_eq!(answer.version, concat!("v", env!("CARGO_PKG_VERSION")));
        let answer = client.get_spec_schema(get_spec_schema::Request {}).await.unwrap();
        let schema: Value = serde_json::from_str(answer.into_inner().json_schema()).unwrap();
        assert_eq!(schema["anyOf"].as_array().unwrap().len(), 2);
        assert!(schema["anyOf"][0]["properties"]["table_options"].is_object(), "{schema}");
        let channel = Endpoint::from_shared(format!("unix://{}", plugin.socket.display()));
        let channel = channel.unwrap().connect().await.unwrap();
        let versions = DiscoveryClient::new(channel).get_versions(get_versions::Request {}).await;
        assert_eq!(versions.unwrap().into_inner().versions, [3]);
        plugin.stop().await;
    }
}

#[tokio::test]
async fn a_program_of_its_name_is_the_plugin() {
    let system = System::sqlite();
    let program = named(&system, "sqlite");
    let plugin = Plugin::spawn(system, &program, &[]).await;
    plugin.init().await.unwrap();
    let table = simple("t", true);
    let rows = table.rows(vec![ints([1]), texts(["a"])]);
    plugin.write(vec![migrate(&table, false), insert(rows)]).await.unwrap();
    assert_eq!(pairs(&plugin, &table).await.len(), 1);
    plugin.stop().await;
}

#[tokio::test]
async fn our_own_host_runs_it() {
    let system = System::sqlite();
    let path = named(&system, "sqlite").display().to_string();
    let spec = PluginSpec::new("db", Role::Destination, Registry::Local, path);
    let hosted = Hosted::start(&spec).await.unwrap();
    let name = hosted.client().get_name(get_name::Request {}).await.unwrap().into_inner().name;
    assert_eq!(name, "sqlite");
    hosted.stop().await.unwrap();
}

#[tokio::test]
async fn it_listens_on_a_port_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(["plugin", "file", "serve", "--log-format", "json"]);
    command.args(["--address", "127.0.0.1:0"]);
    let (mut child, address) = listening(&mut command);
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await;
    let mut client =
        highwater_cloudquery::proto::plugin::plugin_client::PluginClient::new(channel.unwrap());
    let name = client.get_name(get_name::Request {}).await.unwrap().into_inner().name;
    assert_eq!(name, "files");
    assert!(interrupt(&mut child).success());
}

#[test]
fn a_name_that_is_none_is_refused_with_those_there_are() {
    for (arguments, words) in [
        (&["plugin", "sqlit", "serve"][..], "adbc, duckdb, files, mysql, postgresql, sqlite"),
        (&["plugin", "serve"], "highwater plugin NAME serve"),
        (&["plugin", "sqlite", "serve", "--network", "udp"], "udp"),
        (
            &["plugin", "sqlite", "serve", "--network", "unix", "--address", "/nowhere/x"],
            "/nowhere",
        ),
    ] {
        let output = highwater(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn settings_that_are_wrong_are_refused_by_their_key() {
    let plugin = Plugin::start(System::sqlite()).await;
    // Without settings there is nothing to be done.
    let status = plugin.try_read(&simple("t", true)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    for (spec, words) in [
        (json!({"connection_strin": "x.db"}), "connection_strin"),
        (
            json!({"connection_string": "x.db", "table_options": {"t": {"cursr": "a"}}}),
            "table_options.t",
        ),
        (json!([1]), ""),
    ] {
        let status = plugin.init_with(&spec).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(words), "{status}");
    }
    plugin.stop().await;
}

#[tokio::test]
async fn a_connection_is_tested() {
    let plugin = Plugin::start(System::postgresql()).await;
    let good = plugin.system.spec.clone();
    let port = highwater_testkit::postgres::free_port();
    let unreachable = json!({"connection_string": format!("postgres://nobody@127.0.0.1:{port}/x")});
    let url = good["connection_string"].as_str().unwrap();
    let missing = json!({"connection_string": format!("{url}_missing")});
    for (spec, success, code) in [
        (good.clone(), true, ""),
        (json!({"connection_strng": "x"}), false, "INVALID_SPEC"),
        (unreachable, false, "UNREACHABLE"),
        (missing, false, "FAILED"),
    ] {
        let request = test_connection::Request { spec: spec.to_string().into() };
        let answer = plugin.client.clone().test_connection(request).await.unwrap().into_inner();
        assert_eq!((answer.success, answer.failure_code.as_str()), (success, code), "{answer:?}");
        assert_eq!(answer.failure_description.is_empty(), success);
    }
    plugin.stop().await;
}

/// A value that the destination has no place for ends its own table and nothing else: the other
/// tables' cursors are kept, the lease is given back, and the settings are not blamed.
#[test]
fn a_table_that_fails_harms_no_other_one() {
    let database = Postgres::shared().create_database();
    database.execute(
        "CREATE TABLE broken (id int PRIMARY KEY, x float8); INSERT INTO broken VALUES (1, 'NaN');
         CREATE TABLE fine (id int PRIMARY KEY, x float8);
         INSERT INTO fine SELECT i, 1 FROM generate_series(1, 100) i",
    );
    let system = System::sqlite();
    let program = named(&system, "sqlite").display().to_string();
    let copy = system.folder.path().join("data.db").display().to_string();
    let (file, url) = (system.folder.path().join("sync.yml"), database.url());
    let run = |tables: &str| {
        let text = format!(
            "kind: source
spec:
  name: shop
  path: postgresql
  tables: {tables}
  destinations: [copy]
  spec:
    connection_string: {url}
---
kind: destination
spec:
  name: copy
  path: {program}
  registry: local
  write_mode: overwrite
  spec:
    connection_string: {copy}
"
        );
        std::fs::write(&file, text).unwrap();
        let output = highwater(&["sync", &file.display().to_string()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), text)
    };
    let rows = || {
        let connection = rusqlite::Connection::open(&copy).unwrap();
        connection.query_row("SELECT count(*) FROM fine", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let both = "[{name: broken}, {name: fine, cursor: id}]";
    for _ in 0..2 {
        let (code, text) = run(both);
        assert_eq!(code, 3, "{text}");
        assert!(!text.contains("were lost"), "{text}");
        assert!(!text.contains("lease"), "{text}");
        assert_eq!(rows(), 100, "{text}");
    }
    // Its cursor was kept: what is gone at the destination is not read again.
    rusqlite::Connection::open(&copy).unwrap().execute("DELETE FROM fine", []).unwrap();
    database.execute("INSERT INTO fine VALUES (101, 1)");
    let (code, text) = run(both);
    assert_eq!((code, rows()), (3, 1), "{text}");
}
