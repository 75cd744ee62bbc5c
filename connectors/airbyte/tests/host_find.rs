//! What a path leads to: every kind, with stand-ins for the tools.

use std::path::Path;

use highwater_airbyte::host::{Connector, ConnectorSpec, Launcher, Role};
use highwater_core::ErrorKind;
use serde_json::json;

use crate::host_support::{catalog, connector, drain, eventually, executable, is_alive};

const ANSWER: &str = r#"#!/bin/sh
echo "$0 $@" >> "$NOTES"
case " $* " in *" spec "*) echo '{"type":"SPEC","spec":{"connectionSpecification":{}}}';;
*) echo '{"type":"RECORD"}';; esac
"#;

/// A folder that is all of PATH, with stand-ins called `names`.
fn tools(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        executable(folder.path(), name, ANSWER);
    }
    folder
}

fn spec(tools: &Path, path: &str) -> ConnectorSpec {
    let mut spec = ConnectorSpec::new("my shop", Role::Source, path);
    spec.cache_dir = tools.join("cache");
    spec.environment = vec![
        ("PATH".to_owned(), tools.display().to_string()),
        ("NOTES".to_owned(), tools.join("notes").display().to_string()),
        ("HIGHWATER_AIRBYTE_PYTHON".to_owned(), String::new()),
        ("API_KEY".to_owned(), "hush-hush".to_owned()),
    ];
    spec
}

/// How `read` was called, with the random parts of names replaced.
async fn called(spec: ConnectorSpec, tools: &Path) -> String {
    let mut running = Connector::new(spec).unwrap().read(&catalog(), &[]).await.unwrap();
    assert_eq!(drain(&mut running).await.0, 1);
    running.end().await.result().unwrap();
    let notes = std::fs::read_to_string(tools.join("notes")).unwrap();
    let last = notes.lines().last().unwrap().replace(&tools.display().to_string(), "BIN");
    let words = last.split(' ').map(|word| {
        let parts = word.split('/').map(|part| match part.strip_prefix("highwater-airbyte-") {
            Some(_) => "PRIVATE",
            None => part,
        });
        parts.collect::<Vec<_>>().join("/")
    });
    let temp = std::env::temp_dir().display().to_string();
    words.collect::<Vec<_>>().join(" ").replace(&format!("{temp}/PRIVATE"), "PRIVATE")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_or_a_package_is_found() {
    let files = "read --config PRIVATE/config.json --catalog PRIVATE/catalog.json";
    let bin = tools(&["source-faker", "uvx", "pipx"]);
    for path in
        ["source-faker", "airbyte-source-faker", &format!("{}/source-faker", bin.path().display())]
    {
        let call = called(spec(bin.path(), path), bin.path()).await;
        assert_eq!(call, format!("BIN/source-faker {files}"), "{path}");
    }
    let bin = tools(&["uvx", "pipx"]);
    let call = called(spec(bin.path(), "source-faker"), bin.path()).await;
    let uvx = "BIN/uvx --quiet --from airbyte-source-faker";
    assert_eq!(call, format!("{uvx} source-faker {files}"));
    let mut with_version = spec(bin.path(), "airbyte-source-faker");
    with_version.version = Some("7.2.1".to_owned());
    with_version.log_level = "debug".to_owned();
    let call = called(with_version.clone(), bin.path()).await;
    assert_eq!(call, format!("{uvx}==7.2.1 source-faker {files} --debug"));
    std::fs::remove_file(bin.path().join("uvx")).unwrap();
    let call = called(with_version, bin.path()).await;
    assert_eq!(
        call,
        format!(
            "BIN/pipx run --quiet --spec airbyte-source-faker==7.2.1 source-faker {files} --debug"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_run_by_the_sdk() {
    let files = "--config PRIVATE/config.json --catalog PRIVATE/catalog.json";
    let bin = tools(&["source-declarative-manifest"]);
    let manifest = bin.path().join("m.yaml");
    std::fs::write(&manifest, "version: 1").unwrap();
    let path = manifest.display().to_string();
    let call = called(spec(bin.path(), &path), bin.path()).await;
    let rest = format!("read --manifest-path BIN/m.yaml {files}");
    assert_eq!(call, format!("BIN/source-declarative-manifest {rest}"));

    std::fs::write(bin.path().join("components.py"), "").unwrap();
    let call = called(spec(bin.path(), &path), bin.path()).await;
    assert!(call.contains(" --manifest-path BIN/m.yaml --components-path BIN/components.py --con"));
    std::fs::remove_file(bin.path().join("components.py")).unwrap();

    // A virtual environment, named by its folder or by its Python.
    let other = tools(&["uvx"]);
    let env = tempfile::tempdir().unwrap();
    std::fs::create_dir(env.path().join("bin")).unwrap();
    let there = executable(&env.path().join("bin"), "source-declarative-manifest", ANSWER);
    for python in [env.path().to_owned(), env.path().join("bin/python3")] {
        let mut spec = spec(other.path(), &path);
        spec.environment.push(("HIGHWATER_AIRBYTE_PYTHON".into(), python.display().to_string()));
        let Launcher::Manifest { runner, .. } = Launcher::find(&spec).unwrap() else { panic!() };
        assert_eq!(*runner, Launcher::Program(there.clone()));
    }
    let call = called(spec(other.path(), &path), other.path()).await;
    assert!(
        call.starts_with("BIN/uvx --quiet --from airbyte-cdk source-declarative-manifest read")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_run_by_docker_and_no_secret_is_an_argument() {
    let bin = tools(&["docker"]);
    for (path, version, image) in [
        ("airbyte/source-faker", None, "airbyte/source-faker"),
        ("airbyte/source-faker", Some("7.2.1"), "airbyte/source-faker:7.2.1"),
        ("source-faker:dev", Some("7.2.1"), "source-faker:dev"),
    ] {
        let mut spec = spec(bin.path(), path);
        spec.version = version.map(str::to_owned);
        let call = called(spec, bin.path()).await;
        let (start, rest) = call.split_once(" --name highwater-my-shop-").unwrap();
        assert_eq!(start, "BIN/docker run --rm -i");
        let (_, rest) = rest.split_once(' ').unwrap();
        assert_eq!(
            rest,
            format!(
                "--add-host host.docker.internal:host-gateway -v PRIVATE/data:/data -e NOTES \
                 -e API_KEY {image} read --config /data/config.json --catalog /data/catalog.json"
            )
        );
        assert!(!call.contains("hush"), "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_removed_by_its_name() {
    let place = connector("");
    executable(
        place.folder.path(),
        "docker",
        r#"#!/bin/sh
case "$* " in
rm*) echo "$@" >> "$NOTES";;
*" spec "*) echo '{"type":"SPEC","spec":{"connectionSpecification":{}}}';;
*) stat -c %a "$(echo "$@" | sed 's/.* -v \([^:]*\):.*/\1/')"/config.json > "$NOTES.mode"; echo $$ > "$NOTES.id"; echo "$5"; exec sleep 1000;;
esac
"#,
    );
    let mut spec = spec(place.folder.path(), "airbyte/source-faker");
    let path = std::env::var("PATH").unwrap();
    spec.environment.push(("PATH".to_owned(), format!("{}:{path}", place.folder.path().display())));
    spec.config = json!({"a": 1});
    let mut running = Connector::new(spec).unwrap().read(&catalog(), &[]).await.unwrap();
    let name = running.lines().await.unwrap().unwrap();
    let name = String::from_utf8_lossy(&name).trim().to_owned();
    // The user of the container is another; the outer folder keeps everybody else away.
    assert_eq!(place.text("notes.mode"), "644\n");
    drop(running);
    eventually("the removal", || place.text("notes") == format!("rm --force {name}\n"));
    eventually("the end", || !is_alive(&place.text("notes.id")));
}

#[test]
fn what_is_not_found_is_explained_with_a_command() {
    let bin = tools(&[]);
    std::fs::write(bin.path().join("data"), "").unwrap();
    let at = |name: &str| bin.path().join(name).display().to_string();
    for (path, message, hint) in [
        ("", "no path", "path: source-faker"),
        ("source-faker", "is not installed", "bin/pip install airbyte-source-faker"),
        ("nonsense", "no such command", "path: "),
        ("airbyte/source-faker", "there is no command `docker`", "Install Docker"),
        ("./nothing", "no connector at this path", "Relative paths start at /"),
        (&at("data"), "is not executable", "chmod +x /"),
        (&at(""), "is a directory", "./my-connector/main"),
        ("m.yaml", "no manifest at this path", "Relative paths"),
    ] {
        let error = Launcher::find(&spec(bin.path(), path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(message), "{path}: {error}");
        assert!(error.hint_text().unwrap().contains(hint), "{path}: {:?}", error.hint_text());
    }
    std::fs::write(at("m.yaml"), "version: 1").unwrap();
    let error = Launcher::find(&spec(bin.path(), &at("m.yaml"))).unwrap_err();
    assert!(error.hint_text().unwrap().contains("pip install airbyte-cdk"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_cannot_start_is_explained() {
    for (words, kind, message) in [
        (
            "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            ErrorKind::Transient,
            "The Docker engine cannot be reached",
        ),
        (
            "docker: Error response from daemon: manifest for airbyte/x:1 not found.",
            ErrorKind::Config,
            "The image of the connector cannot be run",
        ),
    ] {
        let bin = tempfile::tempdir().unwrap();
        executable(bin.path(), "docker", &format!("#!/bin/sh\necho '{words}' >&2; exit 125\n"));
        let connector = Connector::new(spec(bin.path(), "airbyte/x:1")).unwrap();
        let error = connector.discover().await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (kind, message));
        assert!(error.context_value("its last lines").unwrap().contains(words), "{error}");
    }
}

/// The tool says that there is no such package, once, and is not asked a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_is_not_there() {
    let bin = tools(&["source-faker", "destination-fakir"]);
    let refusal = "#!/bin/sh\necho \"$@\" >> \"$NOTES\"; echo 'no such package' >&2; exit 2\n";
    executable(bin.path(), "uvx", refusal);
    for (path, hint) in [
        ("source-fakir", "path: source-faker   # is in PATH"),
        ("source-nix", "is the name right?"),
    ] {
        let connector = Connector::new(spec(bin.path(), path)).unwrap();
        let error = connector.discover().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().starts_with("There is no such connector, or"), "{error}");
        assert_eq!(error.context_value("path"), Some(path));
        assert_eq!(error.context_value("its last lines"), Some("no such package"));
        assert!(error.hint_text().unwrap().starts_with(hint), "{:?}", error.hint_text());
    }
    assert_eq!(std::fs::read_to_string(bin.path().join("notes")).unwrap().lines().count(), 2);
}
