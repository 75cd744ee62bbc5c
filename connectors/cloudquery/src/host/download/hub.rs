//! The calls of the hub's API: what a plugin is, where its archive lies, and the archive itself.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use highwater_core::secret::Secret;
use highwater_core::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::{Coordinates, no_key, target};
use crate::host::PluginSpec;
use crate::host::said;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// How often an archive is asked for whose download broke off or whose server is busy.
const ATTEMPTS: u32 = 3;
/// An answer of the API is a few hundred bytes.
const ANSWER_BYTES: u64 = 4 << 20;

/// Asks the hub about one plugin.
pub(super) struct Client<'a> {
    spec: &'a PluginSpec,
    plugin: &'a Coordinates,
    key: &'a Secret,
    agent: Agent,
    base: String,
}

/// Where an archive lies, and its checksum.
#[derive(Debug, Deserialize)]
pub(super) struct Asset {
    #[serde(default)]
    location: String,
    #[serde(default)]
    checksum: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    #[serde(default)]
    package_type: String,
}

/// Why one attempt at the archive failed, and whether another makes sense.
struct Broken {
    error: Error,
    again: bool,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        spec: &'a PluginSpec,
        plugin: &'a Coordinates,
        key: &'a Secret,
    ) -> Result<Self> {
        let base = spec.hub.url.trim_end_matches('/').to_owned();
        let is_here = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"]
            .iter()
            .any(|start| base.starts_with(start));
        if !base.starts_with("https://") && !is_here {
            return Err(Error::config("The address of the hub is not https")
                .context("plugin", &spec.name)
                .hint("export CLOUDQUERY_API_URL=https://api.cloudquery.io"));
        }
        Ok(Self { spec, plugin, key, agent: agent(is_here)?, base })
    }

    /// Whether the plugin is an image instead of a program. When the hub does not say, the call
    /// for the archive will tell what is wrong.
    pub(super) fn is_image(&self) -> Result<bool> {
        let Coordinates { team, kind, name, version } = self.plugin;
        let path = format!("/plugins/{team}/{kind}/{name}/versions/{version}");
        let response = self.ask(&path)?;
        if response.status() != StatusCode::OK {
            return Ok(false);
        }
        let version: Version = self.json(response)?;
        Ok(version.package_type == "docker")
    }

    /// Where the archive for this machine lies.
    pub(super) fn asset(&self) -> Result<Asset> {
        let Coordinates { team, kind, name, version } = self.plugin;
        let on_behalf = match &self.spec.hub.team {
            Some(us) => format!("/teams/{us}"),
            None => String::new(),
        };
        let path = format!(
            "{on_behalf}/plugins/{team}/{kind}/{name}/versions/{version}/assets/{}",
            target()
        );
        let response = self.ask(&path)?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let asset = if response.status().is_redirection() {
            Asset {
                location: header("location").unwrap_or_default(),
                checksum: header("x-checksum").unwrap_or_default(),
            }
        } else if response.status() == StatusCode::OK {
            self.json(response)?
        } else {
            return Err(self.refusal(response.status()));
        };
        if asset.location.is_empty() || asset.checksum.is_empty() {
            return Err(
                self.failed("The hub does not say where the plugin lies or what its checksum is")
            );
        }
        Ok(asset)
    }

    /// Downloads the archive; it has the right checksum when this returns.
    pub(super) fn download(&self, asset: &Asset, into: &NamedTempFile) -> Result<()> {
        let mut attempt = 1;
        let found = loop {
            match self.download_once(&asset.location, into) {
                Ok(found) => break found,
                Err(broken) if broken.again && attempt < ATTEMPTS => {
                    tracing::debug!("downloading again: {}", broken.error.full_message());
                    std::thread::sleep(Duration::from_millis(300) * attempt);
                    attempt += 1;
                }
                Err(broken) => return Err(broken.error),
            }
        };
        if found.eq_ignore_ascii_case(asset.checksum.trim()) {
            return Ok(());
        }
        Err(Error::data(
            "What was downloaded has another checksum than the hub says; it was removed",
        )
        .context("plugin", &self.spec.name)
        .context("expected", said(&asset.checksum, 100))
        .context("found", found)
        .hint("Try again; if it stays so, do not use this plugin"))
    }

    fn download_once(&self, location: &str, into: &NamedTempFile) -> Result<String, Broken> {
        // The location is signed for everybody who knows it: no key is sent, and it is not shown.
        let unreachable = |e: ureq::Error| Broken { error: self.unreachable(&e), again: false };
        let config = self.agent.get(location).config().max_redirects(5).build();
        let mut response = config.call().map_err(unreachable)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(Broken { error: self.refusal(status), again: status.is_server_error() });
        }
        let cut_off =
            |e: std::io::Error| Broken { error: self.cut_off().caused_by(e), again: true };
        let here =
            |e: std::io::Error| Broken { error: super::disk_error(into.path(), e), again: false };
        let mut file = into.as_file();
        file.set_len(0).map_err(here)?;
        std::io::Seek::rewind(&mut file).map_err(here)?;
        let expected = response.body().content_length();
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        let (mut hash, mut buffer, mut written) = (Sha256::new(), vec![0_u8; 64 << 10], 0_u64);
        loop {
            let count = body.read(&mut buffer).map_err(cut_off)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(here)?;
            written += count as u64;
        }
        if expected.is_some_and(|expected| expected != written) {
            return Err(Broken { error: self.cut_off(), again: true });
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn ask(&self, path: &str) -> Result<Response<Body>> {
        self.agent
            .get(format!("{}{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.key.expose()))
            .header("Accept", "application/json")
            .config()
            // The key must not follow a redirect to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .call()
            .map_err(|e| self.unreachable(&e))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T> {
        let wrong = || self.failed("The hub answers something that is not its API");
        let text = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_string();
        let text = text.map_err(|e| self.unreachable(&e))?;
        serde_json::from_str(&text).map_err(|e| wrong().caused_by(e))
    }

    fn failed(&self, message: &str) -> Error {
        self.about(Error::internal(message)).hint(BY_HAND)
    }

    fn about(&self, error: Error) -> Error {
        error
            .context("plugin", &self.spec.name)
            .context("path", &self.spec.path)
            .context("version", &self.plugin.version)
    }

    fn cut_off(&self) -> Error {
        self.about(Error::transient("The download of the plugin broke off")).hint("Try again")
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        self.about(Error::transient("CloudQuery's hub cannot be reached"))
            .context("hub", said(&self.base, 200))
            .context("reason", said(&error.to_string(), 200))
            .hint(BY_HAND)
    }

    fn refusal(&self, status: StatusCode) -> Error {
        match status.as_u16() {
            401 | 403 => self
                .about(Error::config("CloudQuery's hub does not accept the API key"))
                .context("status", status.as_u16())
                .hint(no_key(self.spec).hint_text().unwrap_or(BY_HAND)),
            404 => self
                .about(Error::config("CloudQuery's hub has no such plugin for this machine"))
                .context("machine", target())
                .hint(
                    "Look up name and version at https://www.cloudquery.io/hub; a plugin of your \
                     own team needs CLOUDQUERY_TEAM_NAME",
                ),
            429 => self
                .about(Error::transient("CloudQuery's hub was asked too often"))
                .hint("Try again in some minutes"),
            500.. => self
                .about(Error::transient("CloudQuery's hub is out of order"))
                .context("status", status.as_u16())
                .hint(BY_HAND),
            code => self
                .failed("CloudQuery's hub gives an answer that was not expected")
                .context("status", code),
        }
    }
}

pub(super) const BY_HAND: &str =
    "Without the hub: download the program by hand and use `registry: local` with its path";

fn agent(is_here: bool) -> Result<Agent> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(ANSWER))
        .user_agent(concat!("highwater/", env!("CARGO_PKG_VERSION")))
        .tls_config(
            TlsConfig::builder()
                .root_certs(authorities())
                .unversioned_rustls_crypto_provider(provider)
                .build(),
        );
    if is_here {
        config = config.proxy(None);
    }
    Ok(config.build().into())
}

/// The authorities that the operating system trusts.
fn authorities() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    found.certs.iter().map(|c| Certificate::from_der(c.as_ref()).to_owned()).into()
}
