//! How plugins end: stopped, dropped, dead by themselves, and orphaned.

use std::path::Path;

use highwater_cloudquery::destination::{DestinationConfig, DestinationPlugin};
use highwater_cloudquery::host::Plugin;
use highwater_cloudquery::proto::plugin::{get_name, init};
use highwater_cloudquery::source::{SourceConfig, SourcePlugin};
use highwater_cloudquery::transformer::{TransformerConfig, TransformerPlugin};
use highwater_core::{ErrorKind, Source, Table, TableName, Transformer};
use serde_json::json;

use crate::scripted::{eventually, is_alive, spec};

/// A plugin that has started a process of its own, and the ids of both.
async fn family(folder: &Path, script: &str) -> (Plugin, [String; 2]) {
    let (note, child) = (folder.join("note"), folder.join("child"));
    let script = format!("{script} note={} child={}", note.display(), child.display());
    let plugin = Plugin::start(&spec(&script)).await.unwrap();
    let id = std::fs::read_to_string(note).unwrap();
    let id = id.split(' ').next().unwrap().to_owned();
    let child = std::fs::read_to_string(child).unwrap();
    assert!(is_alive(&id) && is_alive(&child));
    (plugin, [id, child])
}

fn are_gone(family: &[String; 2]) {
    for id in family {
        eventually("the end of the group", || !is_alive(id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_plugin_that_was_stopped_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (plugin, ids) = family(folder.path(), "").await;
    plugin.stop().await.unwrap();
    are_gone(&ids);

    let folder = tempfile::tempdir().unwrap();
    let (plugin, ids) = family(folder.path(), "stubborn").await;
    drop(plugin);
    are_gone(&ids);
}

#[test]
fn nothing_is_left_of_a_plugin_that_is_dropped_after_its_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (plugin, ids) = runtime.block_on(family(folder.path(), "stubborn"));
    drop(runtime);
    drop(plugin);
    are_gone(&ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_heed_the_signal_is_killed_and_that_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let (plugin, ids) = family(folder.path(), "stubborn").await;
    plugin.stop().await.unwrap();
    are_gone(&ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_exit_code_at_the_end_is_an_error() {
    let plugin = Plugin::start(&spec("end=7")).await.unwrap();
    let error = plugin.stop().await.unwrap_err();
    assert!(error.message().contains("(exit code 7)"), "{error}");
    let plugin = Plugin::start(&spec("end=130")).await.unwrap();
    plugin.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_call_is_explained_by_the_death_of_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let (plugin, ids) = family(folder.path(), "die=137").await;
    let status = plugin.client().get_name(get_name::Request {}).await.unwrap_err();
    let error = plugin.explain(status);
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(
        error.message().contains("ended in the middle of the work (exit code 137: killed, most"),
        "{error}"
    );
    assert_eq!(error.context_value("plugin"), Some("scripted"));
    // The transport's own words say less than the exit code.
    assert!(std::error::Error::source(&error).is_none(), "{error:?}");
    assert!(error.hint_text().unwrap().contains("memory"));
    assert!(plugin.died().is_some());
    // Its own processes do not outlive it either.
    are_gone(&ids);
    let error = plugin.stop().await.unwrap_err();
    assert!(error.to_string().contains("its last lines: about to die"), "{error}");
    plugin.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_of_a_living_plugin_is_passed_on_without_passwords() {
    for (code, kind) in [
        (14, ErrorKind::Transient),
        (8, ErrorKind::Data),
        (12, ErrorKind::Unsupported),
        (9, ErrorKind::Config),
        (2, ErrorKind::Internal),
    ] {
        let plugin = Plugin::start(&spec(&format!("status={code}"))).await.unwrap();
        let status = plugin.client().get_name(get_name::Request {}).await.unwrap_err();
        let error = plugin.explain(status);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().ends_with("at postgres://me:***@host/db"), "{error}");
        plugin.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_of_the_settings_are_in_no_error() {
    let settings = json!({"password": "swordfish", "api_key": "k"});
    let mut errors = Vec::new();

    let plugin = Plugin::start(&spec("leak die=3")).await.unwrap();
    plugin.hide(&settings);
    let init = init::Request { spec: settings.to_string().into(), ..Default::default() };
    let status = plugin.client().init(init).await.unwrap_err();
    errors.push(plugin.explain(status));
    let (counts, last) = plugin.logs_now().await;
    assert_eq!((counts.errors, last.as_deref()), (1, Some("*** is wrong")));
    let status = plugin.client().get_name(get_name::Request {}).await.unwrap_err();
    let dead = plugin.explain(status);
    assert!(dead.message().contains("exit code 3"), "{dead}");
    errors.push(plugin.stop().await.unwrap_err());
    let lines = errors[1].context_value("its last lines").unwrap();
    assert!(lines.starts_with("*** is wrong | as text: {"), "{lines}");
    errors.push(dead);

    let source = SourceConfig::new(spec("leak"), settings.clone());
    errors.push(SourcePlugin::new(source).discover(None).await.unwrap_err());
    let destination = DestinationConfig::new(spec("leak"), settings.clone(), "this-run");
    let destination = DestinationPlugin::new(destination);
    errors.push(destination.connection().await.unwrap_err());
    let transformer = TransformerPlugin::new(TransformerConfig {
        plugin: spec("leak"),
        spec: settings,
        invocation_id: "this-run".to_owned(),
    });
    errors.push(transformer.table(&Table::new(TableName::new("a"), Vec::new())).await.unwrap_err());

    for error in errors {
        let text = format!("{error} {error:?} {}", error.full_message());
        assert!(!text.contains("swordfish") && !text.contains("\"k\""), "{text}");
        assert!(text.contains("***") || text.contains("exit code 3"), "{text}");
    }
}

/// Started by the test below as a process of its own, which is then killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by `a_killed_host_leaves_no_plugin_behind`"]
async fn start_a_plugin_and_wait_to_be_killed() {
    let folder = std::env::var("FAMILY_FOLDER").unwrap();
    let _family = family(Path::new(&folder), "stubborn").await;
    std::fs::write(Path::new(&folder).join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_host_leaves_no_plugin_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "host_end::start_a_plugin_and_wait_to_be_killed"])
        .env("FAMILY_FOLDER", folder.path())
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the start of the plugin", || folder.path().join("ready").exists());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let ids = [read("note").split(' ').next().unwrap().to_owned(), read("child")];
    assert!(ids.iter().all(|id| is_alive(id)));
    let sockets = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".sock")).count()
    };
    assert_eq!(sockets(), 1);
    host.kill().unwrap();
    host.wait().unwrap();
    are_gone(&ids);
    eventually("the end of the socket", || sockets() == 0);
}
