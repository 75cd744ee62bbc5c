//! Plugins in containers, with a stand-in for the `docker` command that runs the scripted plugin.

use std::path::Path;

use highwater_cloudquery::host::{Installed, Plugin, PluginSpec, Registry, install};
use highwater_cloudquery::proto::plugin::get_version;
use highwater_core::ErrorKind;
use highwater_core::secret::Secret;

use crate::scripted::{eventually, executable, program, spec};

/// A `docker` that knows the images in `folder`, notes its arguments in `calls`, keeps the login
/// it was given in `login`, and runs the scripted plugin for whatever image.
pub fn docker(folder: &Path, script: &str) -> PluginSpec {
    let command = folder.join("docker");
    let lines = r#"#!/bin/sh
cd FOLDER
echo "$DOCKER_HOST: $*" >> calls
case "$1" in
image) [ -e image ] || { echo "Error response from daemon: No such image" >&2; exit 1; } ;;
context) echo unix:///engine.sock ;;
--config) cat "$2/config.json" > login; touch image ;;
pull) [ ! -e refuse ] || { echo "pull access denied" >&2; exit 1; }; touch image ;;
run)
  while [ "$1" != serve ]; do
    [ "$1" = -p ] && port=$(echo "$2" | cut -d: -f2)
    shift
  done
  for word; do
    shift
    [ "$word" = 0.0.0.0:7777 ] && word=127.0.0.1:$port
    set -- "$@" "$word"
  done
  exec PROGRAM "$@" ;;
esac
"#;
    let lines = lines.replace("FOLDER", &folder.display().to_string());
    executable(&command, &lines.replace("PROGRAM", &program().display().to_string()));
    let mut spec = spec(script);
    spec.registry = Registry::Docker;
    spec.path = "registry.example.com/org/image:v1".to_owned();
    spec.docker_command = command;
    spec
}

fn calls(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("calls")).unwrap();
    text.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_once_run_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let spec = docker(folder.path(), "levels");
    for run in 0..2 {
        let plugin = Plugin::start(&spec).await.unwrap();
        let port = plugin.connection().strip_prefix("127.0.0.1:").unwrap();
        let version = plugin.client().get_version(get_version::Request {}).await.unwrap();
        assert!(version.into_inner().version.contains("--network tcp"));
        assert_eq!(plugin.logs().errors, 1);
        let calls = calls(folder.path());
        if run == 0 {
            assert_eq!(calls[1], "pull --quiet registry.example.com/org/image:v1");
            assert_eq!(calls.len(), 3, "{calls:?}");
        } else {
            assert_eq!(calls.len(), 5, "{calls:?}");
        }
        let call = calls.last().unwrap();
        assert!(call.starts_with("run --rm --name highwater-scripted-"), "{call}");
        assert!(
            call.contains(&format!("-p 127.0.0.1:{port}:7777 --add-host host.docker.internal"))
        );
        plugin.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_removed_by_its_name_when_it_is_dropped_or_stubborn() {
    let folder = tempfile::tempdir().unwrap();
    let spec = docker(folder.path(), "stubborn");
    let removed = |count: usize| {
        eventually("the removal", || {
            let calls = calls(folder.path());
            calls.iter().filter(|c| c.starts_with("rm --force highwater-scripted-")).count()
                == count
        });
    };
    drop(Plugin::start(&spec).await.unwrap());
    removed(1);
    Plugin::start(&spec).await.unwrap().stop().await.unwrap();
    removed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_given_to_docker_for_the_pull_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = docker(folder.path(), "");
    // base64 of {"username":"me","password":"pw"}
    spec.docker_registry_auth_token =
        Some(Secret::new("eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJwdyJ9"));
    let found = install(&spec).await.unwrap();
    assert_eq!(found, Installed::Image(spec.path.clone()));
    let login = std::fs::read_to_string(folder.path().join("login")).unwrap();
    assert_eq!(login, r#"{"auths":{"registry.example.com":{"auth":"bWU6cHc="}}}"#);
    let text = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    let pull = text.lines().find(|line| line.contains("pull")).unwrap();
    let config = pull.split(' ').nth(2).unwrap();
    assert!(!Path::new(config).exists(), "the login was left behind in {config}");
    // The settings that name the engine are not in that folder.
    if std::env::var_os("DOCKER_HOST").is_none() {
        assert!(pull.starts_with("unix:///engine.sock: "), "{pull}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_docker_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = docker(folder.path(), "exit=137");

    let error = Plugin::start(&spec).await.unwrap_err();
    assert!(error.message().contains("out of memory"), "{error}");

    std::fs::remove_file(folder.path().join("image")).unwrap();
    std::fs::write(folder.path().join("refuse"), "").unwrap();
    let error = Plugin::start(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("docker says: pull access denied"), "{error}");

    spec.docker_command = folder.path().join("no-engine");
    executable(
        &spec.docker_command,
        "#!/bin/sh\necho 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is \
         the docker daemon running?' >&2\nexit 1\n",
    );
    let error = Plugin::start(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.message().contains("engine cannot be reached"), "{error}");

    spec.docker_command = folder.path().join("nothing");
    let error = Plugin::start(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint_text().unwrap().contains("Install Docker"));
}
