//! The source with connectors of the genuine SDK: source-faker, and a low-code manifest against a
//! web service of ours.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use highwater_airbyte::host::{ConnectorSpec, Role};
use highwater_core::Completion;
use highwater_testkit::sdk;
use serde_json::json;

use crate::host_sdk::{environment, files};
use crate::source_support::*;

fn genuine(python: &Path, path: &str) -> Shop {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = ConnectorSpec::new("genuine", Role::Source, path);
    spec.cache_dir = folder.path().join("cache");
    let python = python.display().to_string();
    spec.environment.push(("HIGHWATER_AIRBYTE_PYTHON".to_owned(), python));
    Shop { folder, spec, paths: Vec::new() }
}

/// The web service; it ends with the test.
struct Service {
    process: Child,
    port: u16,
}

impl Service {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new("python3")
            .arg(files().join("declarative/server.py"))
            .arg(folder.join("requests.log"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, port: line.trim().parse().unwrap() }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_source_faker_arrive_with_their_states() {
    let name = "streams_of_source_faker_arrive_with_their_states";
    let Some(python) = sdk::or_skip(name, environment()) else { return };
    let mut shop = genuine(&python, "source-faker");
    shop.spec.config =
        json!({"count": 250, "records_per_slice": 100, "parallelism": 1, "always_updated": true});
    let wanted = ["users", "products", "purchases"].map(|table| (table, Incremental, Append));
    let heard = shop.read(&wanted).await;
    assert!(matches!(heard.result, Ok(Completion::Complete)), "{:?}", heard.result);
    assert_eq!((heard.rows("users"), heard.rows("products")), (250, 100));
    assert!(heard.rows("purchases") > 0);
    let ids = heard.ids("users");
    assert_eq!(ids, (1..=250).collect::<Vec<_>>());
    let state = heard.state();
    assert!(wanted.iter().all(|(table, ..)| state.cursors.contains_key(&key(table))));
    let log = heard.log();
    assert_eq!(log[log.len() - 3..], ["done products", "done purchases", "done users"]);
    // Every value was read as the type that the schema says, offset or not.
    assert!(wanted.iter().all(|(table, ..)| heard.notes(table).is_empty()), "{:?}", heard.messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_streams_of_a_manifest_are_committed_each_with_its_own_state() {
    let name = "concurrent_streams_of_a_manifest_are_committed_each_with_its_own_state";
    let Some(python) = sdk::or_skip(name, environment()) else { return };
    let manifest = files().join("declarative/manifest.yaml");
    let mut shop = genuine(&python, &manifest.display().to_string());
    let service = Service::start(shop.folder.path());
    let address = format!("http://127.0.0.1:{}", service.port);
    shop.spec.config = json!({"base_url": address, "start_date": "2024-01-01T00:00:00Z"});
    let wanted = [("events", Incremental, Append), ("all_events", FullRefresh, Append)];
    let first = shop.read(&wanted).await;
    assert!(matches!(first.result, Ok(Completion::Complete)), "{:?}", first.result);
    for table in ["events", "all_events"] {
        let mut ids = first.ids(table);
        ids.sort_unstable();
        assert_eq!(ids, (1..=250).collect::<Vec<_>>(), "{table}");
    }
    let log = first.log();
    assert_eq!(log[log.len() - 2..], ["done all_events", "done events"]);
    // What is committed of the full refresh is all of it, in one piece.
    let whole = log.iter().filter(|entry| entry.starts_with("all_events:"));
    assert_eq!(whole.collect::<Vec<_>>(), ["all_events:250"], "{log:?}");
    // The cursor of the service is inclusive: its last row comes again.
    let second = shop.read_from(&wanted[..1], &first.state()).await;
    assert_eq!(second.ids("events"), [250]);
}
