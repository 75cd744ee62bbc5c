//! Starting plugins: networks, readiness, versions, log lines.

use std::time::Duration;

use highwater_cloudquery::host::{Plugin, PluginSpec, Registry, Role};
use highwater_cloudquery::proto::plugin::{get_name, get_version};
use highwater_core::ErrorKind;

use crate::scripted::{eventually, executable, is_alive, other_path, program, spec};

async fn arguments(plugin: &Plugin) -> String {
    let response = plugin.client().get_version(get_version::Request {}).await.unwrap();
    response.into_inner().version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_comes_first_and_is_gone_at_the_end() {
    let plugin = Plugin::start(&spec("")).await.unwrap();
    let socket = plugin.connection().strip_prefix("unix://").unwrap().to_owned();
    assert_eq!(
        arguments(&plugin).await,
        format!(
            "serve --log-level info --log-format json --network unix --address {socket} --no-sentry"
        )
    );
    let name = plugin.client().get_name(get_name::Request {}).await.unwrap();
    assert_eq!(name.into_inner().name, "scripted");
    assert!(plugin.died().is_none());
    plugin.stop().await.unwrap();
    plugin.stop().await.unwrap();
    assert!(plugin.died().is_none());
    drop(plugin);
    assert!(!std::path::Path::new(&socket).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_is_used_where_a_plugin_cannot_listen_on_a_socket_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let mut spec = spec(&format!("no-unix note={}", note.display()));
    spec.path = other_path(folder.path());
    for starts in [2, 3] {
        let plugin = Plugin::start(&spec).await.unwrap();
        assert!(plugin.connection().starts_with("127.0.0.1:"), "{}", plugin.connection());
        assert!(arguments(&plugin).await.contains("--network tcp --address 127.0.0.1:"));
        assert_eq!(std::fs::read_to_string(&note).unwrap().lines().count(), starts);
        // What it said about the socket is nobody's error.
        assert_eq!(plugin.logs().errors, 0);
        plugin.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_with_arguments_of_its_own_is_a_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.sh");
    // It does not replace itself by the plugin: the signal must reach what it started.
    executable(&path, &format!("#!/bin/sh\n{} \"$@\" --extra\n", program().display()));
    let mut spec = spec("");
    spec.path = path.display().to_string();
    spec.license = Some("/a/license".into());
    let plugin = Plugin::start(&spec).await.unwrap();
    assert!(arguments(&plugin).await.ends_with("--no-sentry --license /a/license --extra"));
    plugin.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin");
    let mut spec = spec("");
    spec.path = path.display().to_string();
    for (lines, hint) in
        [("#!/no/such/interpreter\n", "first line"), ("\u{1}\u{2}", "no program for this machine")]
    {
        executable(&path, lines);
        let error = Plugin::start(&spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint_text().unwrap().contains(hint), "{:?}", error.hint_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_at_the_start_shows_the_last_lines_without_passwords() {
    let error = Plugin::start(&spec("exit=3")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(text.contains("as soon as it was started (exit code 3)"), "{text}");
    assert!(text.contains("the reason: postgres://me:***@host/db is down"), "{text}");
    assert!(error.hint_text().unwrap().ends_with("scripted_plugin serve"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_by_lack_of_memory_is_called_that_and_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let script = format!("exit=137 note={}", note.display());
    let error = Plugin::start(&spec(&script)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("137: killed, most often because it was out of memory"));
    assert_eq!(std::fs::read_to_string(&note).unwrap().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_plugin_is_wrong_and_not_to_be_tried_later() {
    let mut no_plugin = spec("");
    for path in ["/bin/true", "/bin/false", "/bin/cat"] {
        path.clone_into(&mut no_plugin.path);
        let error = Plugin::start(&no_plugin).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.message().contains("as soon as it was started"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut http1 = spec("http1");
    http1.path = other_path(folder.path());
    let error = Plugin::start(&http1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.message().contains("does not speak gRPC"), "{error}");
}

async fn is_given_up_and_killed(word: &str) {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join(word);
    let mut spec = spec(&format!("{word} note={}", note.display()));
    spec.path = other_path(folder.path());
    // Long enough for its start on a busy machine; it is never answered anyway.
    spec.patience = Duration::from_secs(6);
    let error = Plugin::start(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.message().contains("does not answer"), "{error}");
    assert_eq!(error.context_value("waited_seconds"), Some("6"));
    let note = std::fs::read_to_string(note).unwrap();
    assert_eq!(note.lines().count(), 2, "both networks were tried: {note}");
    for line in note.lines() {
        let id = line.split(' ').next().unwrap();
        eventually("its end", || !is_alive(id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_never_listens_is_given_up_and_killed() {
    is_given_up_and_killed("hang").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_never_answers_is_given_up_and_killed() {
    is_given_up_and_killed("deaf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come_through() {
    let plugin = Plugin::start(&spec("size=50000000")).await.unwrap();
    let name = plugin.client().get_name(get_name::Request {}).await.unwrap();
    assert_eq!(name.into_inner().name.len(), 50_000_000);
    plugin.stop().await.unwrap();

    let plugin = Plugin::start(&spec("size=210000000")).await.unwrap();
    let status = plugin.client().get_name(get_name::Request {}).await.unwrap_err();
    let error = plugin.explain(status);
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("too large"), "{error}");
    plugin.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_protocols_are_named() {
    for (script, spoken) in [
        ("versions=0,1,2", "only protocol v0, v1, v2"),
        ("old-discovery=v1", "only protocol v1"),
        ("no-discovery", "only protocol v0, v1"),
    ] {
        let error = Plugin::start(&spec(script)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.message(), format!("The plugin speaks {spoken}; highwater runs v3"));
        assert!(error.hint_text().unwrap().contains("newer version"));
    }
    for script in ["versions=0,1,2,3", "old-discovery=v2,v3"] {
        Plugin::start(&spec(script)).await.unwrap().stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_counted_by_their_level_whatever_else_is_printed() {
    let plugin = Plugin::start(&spec("levels noise")).await.unwrap();
    eventually("the counts", || (plugin.logs().errors, plugin.logs().warnings) == (1, 1));
    plugin.client().get_name(get_name::Request {}).await.unwrap();
    plugin.stop().await.unwrap();
    assert_eq!((plugin.logs().errors, plugin.logs().warnings), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_runs_elsewhere_is_connected_to_and_left_alone() {
    let host = Plugin::start(&spec("")).await.unwrap();
    let remote = |path: &str| PluginSpec::new("r", Role::Destination, Registry::Grpc, path);
    let plugin = Plugin::start(&remote(host.connection())).await.unwrap();
    assert_eq!(plugin.connection(), host.connection());
    plugin.stop().await.unwrap();
    plugin.client().get_name(get_name::Request {}).await.unwrap();
    assert!(host.died().is_none());
    host.stop().await.unwrap();
    let status = plugin.client().get_name(get_name::Request {}).await.unwrap_err();
    assert_eq!(plugin.explain(status).kind(), ErrorKind::Transient);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nothing_listens_is_an_error_at_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let remote = |path: &str| PluginSpec::new("r", Role::Destination, Registry::Grpc, path);
    for path in [format!("127.0.0.1:{port}"), "unix:///no/such/socket".to_owned()] {
        let error = Plugin::start(&remote(&path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.message().contains("No plugin answers"), "{error}");
    }
    for path in ["", "localhost", "localhost:x", "a b:1", "http://", "/a/path:7"] {
        let error = Plugin::start(&remote(path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{path:?}: {error}");
    }
}
