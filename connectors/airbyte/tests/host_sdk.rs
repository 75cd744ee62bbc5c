//! The host with connectors of the genuine SDK: source-faker, and a low-code manifest.

use std::path::{Path, PathBuf};

use highwater_airbyte::host::{Connector, ConnectorSpec, Launcher, Role};
use highwater_airbyte::protocol::{
    ConfiguredCatalog, ConfiguredStream, DestinationSyncMode, Message, Progress, State, SyncMode,
    Trace,
};
use highwater_core::ErrorKind;
use highwater_testkit::sdk;
use serde_json::json;

use crate::host_support::drain;

/// The virtual environment that `scripts/install-sdks` makes, or why there is none.
pub fn environment() -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let folder = workspace.join(target).join("sdk/airbyte");
    let wanted = std::fs::read(files().join("requirements.txt")).unwrap();
    match std::fs::read(folder.join("installed")) {
        Ok(found) if found == wanted => Ok(folder),
        _ => Err(format!(
            "{} does not hold Airbyte's connectors: run scripts/install-sdks",
            folder.display()
        )),
    }
}

pub fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/connectors")
}

pub fn spec(environment: &Path, cache: &Path, path: &str) -> ConnectorSpec {
    let mut spec = ConnectorSpec::new("genuine", Role::Source, path);
    spec.cache_dir = cache.to_owned();
    let python = environment.display().to_string();
    spec.environment.push(("HIGHWATER_AIRBYTE_PYTHON".to_owned(), python));
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn source_faker_is_asked_and_read() {
    let Some(python) = sdk::or_skip("source_faker_is_asked_and_read", environment()) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let mut spec = spec(&python, cache.path(), "airbyte-source-faker");
    spec.config = json!({"count": 50, "records_per_slice": 20, "parallelism": 1});
    let connector = Connector::new(spec.clone()).unwrap();
    assert_eq!(connector.launcher(), &Launcher::Program(python.join("bin/source-faker")));
    connector.check().await.unwrap();
    let catalog = connector.discover().await.unwrap();
    let users = catalog.streams.iter().find(|stream| stream.name == "users").unwrap();
    assert_eq!(users.source_defined_primary_key, [["id"]]);
    let mut configured = ConfiguredStream::new(
        users.clone(),
        SyncMode::Incremental,
        DestinationSyncMode::AppendDedup,
    );
    configured.cursor_field.clone_from(&users.default_cursor_field);
    configured.generation_id = Some(1);
    let catalog = ConfiguredCatalog { streams: vec![configured] };

    let mut running = connector.read(&catalog, &[]).await.unwrap();
    let (records, others) = drain(&mut running).await;
    assert_eq!(records, 50);
    running.end().await.result().unwrap();
    let states: Vec<State> = others
        .iter()
        .filter_map(|m| match m {
            Message::State(state) => Some(state.state.clone()),
            _ => None,
        })
        .collect();
    let complete = others.iter().any(
        |m| matches!(m, Message::Trace(Trace::StreamStatus(s)) if s.status == Progress::Complete),
    );
    assert!(complete && !states.is_empty());

    // It takes its own state back in the form that we write.
    let mut running = connector.read(&catalog, &states[states.len() - 1..]).await.unwrap();
    drain(&mut running).await;
    running.end().await.result().unwrap();

    spec.config = json!({"count": "many"});
    let error = Connector::new(spec).unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().starts_with("The connector says: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_run_by_the_genuine_sdk() {
    let name = "a_manifest_is_run_by_the_genuine_sdk";
    let Some(python) = sdk::or_skip(name, environment()) else { return };
    let cache = tempfile::tempdir().unwrap();
    let manifest = files().join("declarative/manifest.yaml");
    let mut spec = spec(&python, cache.path(), &manifest.display().to_string());
    spec.config = json!({"base_url": "http://127.0.0.1:1", "start_date": "2024-01-01T00:00:00Z"});
    let connector = Connector::new(spec.clone()).unwrap();
    let schema = connector.spec().await.unwrap().connection_specification;
    assert_eq!(schema["properties"]["api_key"]["airbyte_secret"], true);
    let catalog = connector.discover().await.unwrap();
    assert!(catalog.streams.iter().any(|stream| stream.name == "events"));

    // Without what it needs, it says so.
    spec.config = json!({});
    let error = Connector::new(spec).unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("base_url"), "{error}");
}
