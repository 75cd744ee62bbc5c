//! A plugin in a container, run by the `docker` command: `registry: docker`.
//!
//! The container's output is that of `docker run`, and so is its exit code; a SIGINT is passed on
//! by it. So most of what is true for a program is true for a container. Two things differ: the
//! container outlives a `docker` command that is killed, and is then removed by its name; and a
//! port answers before the plugin behind it does, which is why readiness is an answered call.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use highwater_core::secret::Secret;
use highwater_core::{Error, Result};
use highwater_process::Container;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::PluginSpec;
use super::local::{Started, arguments, free_port, random_letters, start_container};
use super::said;

/// Where CloudQuery keeps the plugins that are images; pulling them needs an API key.
pub(super) const CLOUDQUERY_REGISTRY: &str = "docker.cloudquery.io";
/// Where a plugin listens inside its container.
const INNER_ADDRESS: &str = "0.0.0.0:7777";
/// How long the engine may take for a question that needs no network.
const ENGINE_ANSWER: Duration = Duration::from_secs(30);

/// Pulls the image of `spec` if it is missing, and runs it.
///
/// # Errors
/// `Config` when there is no `docker` command or no such image; `Transient` when the engine does
/// not run; and as for a program.
pub(super) async fn start(spec: &PluginSpec, image: &str) -> Result<Started> {
    ensure_image(spec, image).await?;
    let name = container_name(&spec.name);
    let port = free_port()?;
    let arguments = run_arguments(spec, image, &name, port);
    let container = Container {
        docker: spec.docker_command.clone(),
        name,
        environment: spec.environment.clone(),
    };
    start_container(spec, container, arguments, format!("127.0.0.1:{port}")).await
}

/// Pulls `image` unless the engine has it.
pub(super) async fn ensure_image(spec: &PluginSpec, image: &str) -> Result<()> {
    let words = ["image", "inspect", "--format", "{{.Id}}", image];
    let inspected = docker(spec, &words, &[]);
    let inspected = timeout(ENGINE_ANSWER, inspected).await.map_err(|_| {
        Error::transient("The Docker engine does not answer")
            .context("plugin", &spec.name)
            .hint("docker version")
    })??;
    if inspected.status.success() {
        return Ok(());
    }
    engine_is_there(spec, &inspected)?;
    tracing::info!(plugin = spec.name, image, "pulling the image");
    let folder = match auth_file(spec, image)? {
        Some(file) => Some((write_auth(&file)?, docker_host(spec).await)),
        None => None,
    };
    let path = folder.as_ref().map(|(folder, _)| folder.path().display().to_string());
    let mut words: Vec<&str> = Vec::new();
    if let Some(path) = &path {
        words.extend(["--config", path]);
    }
    words.extend(["pull", "--quiet", image]);
    let host = folder.as_ref().and_then(|(_, host)| host.clone());
    let environment: Vec<_> = host.into_iter().map(|host| ("DOCKER_HOST", host)).collect();
    let pulled = docker(spec, &words, &environment).await?;
    if pulled.status.success() {
        return Ok(());
    }
    engine_is_there(spec, &pulled)?;
    Err(Error::config("The image of the plugin cannot be pulled")
        .context("plugin", &spec.name)
        .context("image", image)
        .context("docker says", said(&String::from_utf8_lossy(&pulled.stderr), 500))
        .hint(format!("docker pull {image}")))
}

async fn docker(
    spec: &PluginSpec,
    words: &[&str],
    environment: &[(&str, String)],
) -> Result<Output> {
    Command::new(&spec.docker_command)
        .args(words)
        .envs(spec.environment.iter().map(|(key, value)| (key, value)))
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| {
            Error::config("The command `docker` cannot be run")
                .context("plugin", &spec.name)
                .hint(
                    "Install Docker, or run the plugin yourself and use `registry: grpc` with its \
                     address as path",
                )
                .caused_by(e)
        })
}

fn engine_is_there(spec: &PluginSpec, output: &Output) -> Result<()> {
    let words = String::from_utf8_lossy(&output.stderr).to_lowercase();
    let known = ["cannot connect to the docker daemon", "daemon running", "docker.sock"];
    if !known.iter().any(|sign| words.contains(sign)) {
        return Ok(());
    }
    Err(Error::transient("The Docker engine cannot be reached")
        .context("plugin", &spec.name)
        .context("docker says", said(&words, 300))
        .hint("Start it and see that `docker version` shows a server"))
}

/// The engine that the user's own settings name: a settings folder of ours does not hold them.
async fn docker_host(spec: &PluginSpec) -> Option<String> {
    if std::env::var_os("DOCKER_HOST").is_some() {
        return None;
    }
    let words = ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"];
    let output = timeout(ENGINE_ANSWER, docker(spec, &words, &[])).await.ok()?.ok()?;
    let host = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && host.contains("://")).then_some(host)
}

/// Everything after `docker`.
fn run_arguments(spec: &PluginSpec, image: &str, name: &str, port: u16) -> Vec<OsString> {
    let mut inner = spec.clone();
    let mut list: Vec<OsString> = vec!["run".into(), "--rm".into(), "--name".into(), name.into()];
    list.extend(["-p".into(), format!("127.0.0.1:{port}:7777").into()]);
    // On Linux the name does not exist by itself; plugins reach our state endpoint by it.
    list.extend(["--add-host".into(), "host.docker.internal:host-gateway".into()]);
    if let Some(license) = &spec.license {
        let license = std::path::absolute(license).unwrap_or_else(|_| license.clone());
        let mut volume = license.clone().into_os_string();
        volume.push(":");
        volume.push(&license);
        volume.push(":ro");
        list.extend(["-v".into(), volume]);
        inner.license = Some(license);
    }
    list.push(image.into());
    list.extend(arguments(&inner, "tcp", INNER_ADDRESS));
    list
}

/// A name that Docker allows and nobody else has.
fn container_name(plugin: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let plugin: String = plugin.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    format!("highwater-{plugin}-{}", random_letters(12))
}

/// What a settings file for pulling `image` says; `None` when the user's own will do.
fn auth_file(spec: &PluginSpec, image: &str) -> Result<Option<Value>> {
    let registry = registry_of(image);
    if registry == CLOUDQUERY_REGISTRY {
        return cloudquery_auth(spec, image).map(Some);
    }
    let Some(token) = &spec.docker_registry_auth_token else { return Ok(None) };
    let entry = entry_of(token).ok_or_else(|| {
        Error::config("`docker_registry_auth_token` is not what Docker takes for a login")
            .context("plugin", &spec.name)
            .hint("echo -n '{\"username\":\"me\",\"password\":\"TOKEN\"}' | base64 -w0")
    })?;
    Ok(Some(json!({ "auths": { registry: entry } })))
}

/// One entry of `auths` for a token as Docker's API takes it: base64 of a JSON object.
fn entry_of(token: &Secret) -> Option<Value> {
    let text = token.expose().trim();
    let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()?;
    let object: Value = serde_json::from_slice(&bytes).ok()?;
    let field = |name: &str| object.get(name).and_then(Value::as_str).filter(|v| !v.is_empty());
    if let Some(token) = field("identitytoken") {
        return Some(json!({ "auth": STANDARD.encode("<token>:"), "identitytoken": token }));
    }
    if let Some(auth) = field("auth") {
        return Some(json!({ "auth": auth }));
    }
    let pair = format!("{}:{}", field("username")?, field("password")?);
    Some(json!({ "auth": STANDARD.encode(pair) }))
}

/// CloudQuery's own registry wants the API key as password, and the engine to pass on for whom.
fn cloudquery_auth(spec: &PluginSpec, image: &str) -> Result<Value> {
    let Some(key) = &spec.hub.key else { return Err(super::download::no_key(spec)) };
    let team = spec.hub.team.as_deref().ok_or_else(|| {
        Error::config("Plugins that are images of CloudQuery need the name of your team")
            .context("plugin", &spec.name)
            .hint("export CLOUDQUERY_TEAM_NAME=my-team")
    })?;
    let tag = image.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let auth = STANDARD.encode(format!("managedplugin:{}", key.expose()));
    Ok(json!({
        "auths": { CLOUDQUERY_REGISTRY: { "auth": auth } },
        "HttpHeaders": { "X-Meta-Plugin-Version": tag, "X-Meta-User-Team-Name": team },
    }))
}

/// The registry that an image's name names: its first part, if that looks like a host.
fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_owned(),
        _ => "https://index.docker.io/v1/".to_owned(),
    }
}

/// The file in a folder that only we can read, gone when it is dropped.
fn write_auth(file: &Value) -> Result<tempfile::TempDir> {
    let failed = |e| Error::transient("A login for Docker cannot be written").caused_by(e);
    let folder = tempfile::Builder::new().prefix("highwater-docker-").tempdir().map_err(failed)?;
    std::fs::write(folder.path().join("config.json"), file.to_string()).map_err(failed)?;
    Ok(folder)
}

/// The `docker` that PATH finds.
pub(super) fn default_command() -> PathBuf {
    Path::new("docker").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::{Registry, Role};

    fn spec() -> PluginSpec {
        let mut spec = PluginSpec::new("my plugin", Role::Source, Registry::Docker, "org/img:v1");
        spec.hub.key = None;
        spec.hub.team = None;
        spec
    }

    #[test]
    fn a_container_is_run_with_a_port_of_the_loopback_only() {
        let words = |spec: &PluginSpec| {
            let list = run_arguments(spec, "org/img:v1", "highwater-x", 4711);
            list.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let mut spec = spec();
        let start = "run --rm --name highwater-x -p 127.0.0.1:4711:7777 \
                     --add-host host.docker.internal:host-gateway";
        let end = "org/img:v1 serve --log-level info --log-format json --network tcp \
                   --address 0.0.0.0:7777 --no-sentry";
        assert_eq!(words(&spec), format!("{start} {end}"));
        spec.license = Some("/l.lic".into());
        assert_eq!(words(&spec), format!("{start} -v /l.lic:/l.lic:ro {end} --license /l.lic"));
    }

    #[test]
    fn names_are_allowed_by_docker() {
        let name = container_name("my plugin/ü");
        assert!(name.starts_with("highwater-my-plugin---"), "{name}");
        assert_ne!(name, container_name("my plugin/ü"));
    }

    #[test]
    fn a_token_becomes_a_login_for_its_registry() {
        let mut spec = spec();
        assert_eq!(auth_file(&spec, "org/img").unwrap(), None);
        let token = STANDARD.encode(r#"{"username":"me","password":"pw"}"#);
        spec.docker_registry_auth_token = Some(Secret::new(token));
        let file = auth_file(&spec, "ghcr.io/org/img:v1").unwrap().unwrap();
        assert_eq!(file, json!({"auths": {"ghcr.io": {"auth": STANDARD.encode("me:pw")}}}));
        let file = auth_file(&spec, "org/img:v1").unwrap().unwrap();
        assert!(file["auths"].get("https://index.docker.io/v1/").is_some());

        for wrong in ["", "not base64!", "bm8gSlNPTg=="] {
            spec.docker_registry_auth_token = Some(Secret::new(wrong));
            assert!(auth_file(&spec, "org/img").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn cloudquerys_images_need_a_key_and_a_team() {
        let image = "docker.cloudquery.io/acme/source-x:v1.2.3";
        let mut spec = spec();
        assert!(auth_file(&spec, image).unwrap_err().hint_text().unwrap().contains("API_KEY"));
        spec.hub.key = Some(Secret::new("k"));
        assert!(auth_file(&spec, image).unwrap_err().hint_text().unwrap().contains("TEAM_NAME"));
        spec.hub.team = Some("us".to_owned());
        let file = auth_file(&spec, image).unwrap().unwrap();
        assert_eq!(file["HttpHeaders"]["X-Meta-Plugin-Version"], "v1.2.3");
        assert_eq!(file["auths"][CLOUDQUERY_REGISTRY]["auth"], STANDARD.encode("managedplugin:k"));
    }
}
