//! Plugins of the hub, with a stand-in for its API on the loopback.

use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use highwater_cloudquery::host::{Installed, Plugin, PluginSpec, Registry, Role, install};
use highwater_cloudquery::proto::plugin::get_name;
use highwater_core::secret::Secret;
use highwater_core::{Error, ErrorKind};
use sha2::{Digest, Sha256};

use crate::scripted::program;

const KEY: &str = "cqak_very-secret";

/// What the stand-in does with the three calls.
#[derive(Clone)]
struct Hub {
    version: Answer,
    asset: Answer,
    archive: Answer,
    requests: Arc<Mutex<Vec<String>>>,
    url: String,
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// Says that the body is longer than it is.
    truncated: bool,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, body: body.into(), ..Answer::default() }
}

fn machine() -> String {
    let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!("linux_{processor}")
}

fn archive(entry: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file::<_, ()>(entry, Default::default()).unwrap();
    write!(zip, "#!/bin/sh\nexec {} \"$@\"\n", program().display()).unwrap();
    zip.finish().unwrap().into_inner()
}

fn good_archive() -> Vec<u8> {
    archive(&format!("plugin-thing-v1.2.3-{}", machine().replace('_', "-")))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Starts a stand-in that serves `archive`; `change` says what is different from a good hub.
fn hub(archive: Vec<u8>, change: impl FnOnce(&mut Hub)) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asset = format!(
        r#"{{"location":"{url}/storage/x.zip?signature=very-secret","checksum":"{}"}}"#,
        sha256(&archive)
    );
    let mut hub = Hub {
        version: answer(200, r#"{"package_type":"native"}"#),
        asset: answer(200, asset),
        archive: answer(200, archive),
        requests: Arc::default(),
        url,
    };
    change(&mut hub);
    let served = hub.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(connection.try_clone().unwrap());
            while reader.read_line(&mut head).unwrap() > 2 {}
            let answer = if head.starts_with("GET /storage/") {
                &served.archive
            } else if head.lines().next().unwrap().contains("/assets/") {
                &served.asset
            } else {
                &served.version
            };
            served.requests.lock().unwrap().push(head);
            let length = answer.body.len() + if answer.truncated { 100 } else { 0 };
            let _ = write!(
                connection,
                "HTTP/1.1 {} X\r\nContent-Length: {length}\r\nConnection: close\r\n{}\r\n",
                answer.status, answer.headers
            );
            let _ = connection.write_all(&answer.body);
        }
    });
    hub
}

fn spec(folder: &Path, hub: &Hub) -> PluginSpec {
    let mut spec = PluginSpec::new("thing", Role::Source, Registry::CloudQuery, "acme/thing");
    spec.version = Some("v1.2.3".to_owned());
    spec.cq_dir = folder.join(".cq");
    spec.hub.url.clone_from(&hub.url);
    spec.hub.key = Some(Secret::new(KEY));
    spec.hub.team = None;
    spec
}

/// The files below `folder`, which is what a failed download leaves behind.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

async fn refused(archive: Vec<u8>, change: impl FnOnce(&mut Hub)) -> (Error, usize) {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(archive, change);
    let error = install(&spec(folder.path(), &hub)).await.unwrap_err();
    assert_eq!(files(folder.path()), Vec::<String>::new());
    let words = format!("{} {:?} {error:?}", error.full_message(), error.hint_text());
    assert!(!words.contains("very-secret"), "{words}");
    assert!(error.hint_text().is_some(), "{error}");
    let requests = hub.requests.lock().unwrap().len();
    (error, requests)
}

#[tokio::test]
async fn a_plugin_is_downloaded_once_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(good_archive(), |_| {});
    let spec = spec(folder.path(), &hub);
    let place = format!(".cq/plugins/source/acme/thing/v1.2.3/{}/plugin", machine());
    let path = folder.path().join(place);
    for downloaded in [true, false] {
        let found = install(&spec).await.unwrap();
        assert_eq!(found, Installed::Program { path: path.clone(), downloaded });
        assert_eq!(files(folder.path()), [path.display().to_string()]);
    }
    let plugin = Plugin::start(&spec).await.unwrap();
    plugin.client().get_name(get_name::Request {}).await.unwrap();
    plugin.stop().await.unwrap();

    let requests = hub.requests.lock().unwrap();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[0].starts_with("GET /plugins/acme/source/thing/versions/v1.2.3 HTTP"));
    let asset = format!("GET /plugins/acme/source/thing/versions/v1.2.3/assets/{} ", machine());
    assert!(requests[1].starts_with(&asset), "{}", requests[1]);
    let key = |request: &String| request.to_lowercase().contains("authorization: bearer cqak_");
    // The storage is not the hub: it does not get the key.
    assert_eq!(requests.iter().map(key).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn what_cloudquery_has_downloaded_is_used_without_key_and_network() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(good_archive(), |_| {});
    let mut spec = spec(folder.path(), &hub);
    spec.hub.key = None;
    let path = folder.path().join(".cq/plugins/source/acme/thing/v1.2.3/plugin");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    let found = install(&spec).await.unwrap();
    assert_eq!(found, Installed::Program { path, downloaded: false });
    assert!(hub.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_team_downloads_on_its_own_behalf_and_redirects_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let archive = good_archive();
    let checksum = sha256(&archive).to_uppercase();
    let hub = hub(archive, |hub| {
        hub.version = answer(404, "");
        hub.asset = answer(302, "");
        hub.asset.headers =
            format!("Location: {}/storage/x.zip\r\nX-Checksum: {checksum}\r\n", hub.url);
    });
    let mut spec = spec(folder.path(), &hub);
    spec.hub.team = Some("us".to_owned());
    assert!(matches!(install(&spec).await.unwrap(), Installed::Program { downloaded: true, .. }));
    let requests = hub.requests.lock().unwrap();
    assert!(requests[1].starts_with("GET /teams/us/plugins/acme/source/"), "{}", requests[1]);
    assert!(!requests[2].to_lowercase().contains("authorization"));
}

#[tokio::test]
async fn nothing_is_kept_of_an_archive_with_another_checksum() {
    let (error, _) = refused(good_archive(), |hub| hub.archive.body.push(0)).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("another checksum"), "{error}");
    let (error, _) = refused(good_archive(), |hub| {
        hub.asset = answer(200, format!(r#"{{"location":"{}/storage/x.zip"}}"#, hub.url));
    })
    .await;
    assert!(error.message().contains("what its checksum is"), "{error}");
}

#[tokio::test]
async fn an_archive_must_hold_the_program() {
    let (error, _) = refused(archive("something-else"), |_| {}).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("file: plugin-thing-v1.2.3-linux-"), "{error}");
    let (error, _) = refused(b"no archive".to_vec(), |_| {}).await;
    assert!(error.message().contains("no archive"), "{error}");
}

#[tokio::test]
async fn a_download_that_breaks_off_is_tried_again_and_then_given_up() {
    let (error, requests) = refused(good_archive(), |hub| hub.archive.truncated = true).await;
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.message().contains("broke off"), "{error}");
    assert_eq!(requests, 2 + 3);
}

#[tokio::test]
async fn each_refusal_of_the_hub_says_what_to_do() {
    for (status, kind, words, hint) in [
        (401, ErrorKind::Config, "does not accept the API key", "CLOUDQUERY_API_KEY"),
        (403, ErrorKind::Config, "does not accept the API key", "registry: local"),
        (404, ErrorKind::Config, "no such plugin", "version"),
        (429, ErrorKind::Transient, "too often", "minutes"),
        (503, ErrorKind::Transient, "out of order", "registry: local"),
        (418, ErrorKind::Internal, "not expected", "registry: local"),
    ] {
        let (error, requests) =
            refused(good_archive(), |hub| hub.asset = answer(status, "very-secret")).await;
        assert_eq!(error.kind(), kind, "{status}");
        assert!(error.message().contains(words), "{error}");
        assert!(error.hint_text().unwrap().contains(hint), "{error}");
        assert_eq!(requests, 2, "{status}");
    }
    let (error, _) = refused(good_archive(), |hub| hub.asset = answer(200, "<html>")).await;
    assert!(error.message().contains("not its API"), "{error}");
}

#[tokio::test]
async fn offline_or_without_key_it_fails_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(good_archive(), |_| {});
    let mut spec = spec(folder.path(), &hub);
    spec.hub.key = None;
    let error = install(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint_text().unwrap().contains("export CLOUDQUERY_API_KEY"));
    assert!(hub.requests.lock().unwrap().is_empty());

    spec.hub.key = Some(Secret::new(KEY));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    spec.hub.url = format!("http://127.0.0.1:{port}");
    let error = install(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.message().contains("cannot be reached"), "{error}");
    assert!(error.hint_text().unwrap().contains("registry: local"));

    spec.hub.url = "http://hub.example.com".to_owned();
    let error = install(&spec).await.unwrap_err();
    assert!(error.message().contains("not https"), "the key is not sent in the clear: {error}");
}

#[tokio::test]
async fn a_plugin_that_is_an_image_is_run_by_docker() {
    let folder = tempfile::tempdir().unwrap();
    let docker = folder.path().join("docker");
    crate::scripted::executable(
        &docker,
        &format!("#!/bin/sh\necho \"$*\" >> {}/calls\n", folder.path().display()),
    );
    let hub = hub(good_archive(), |hub| hub.version = answer(200, r#"{"package_type":"docker"}"#));
    let mut spec = spec(folder.path(), &hub);
    spec.docker_command = docker;
    let image = "docker.cloudquery.io/acme/source-thing:v1.2.3";
    assert_eq!(install(&spec).await.unwrap(), Installed::Image(image.to_owned()));
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(calls.contains(&format!("image inspect --format {{{{.Id}}}} {image}")), "{calls}");
}
