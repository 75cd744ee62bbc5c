//! The plugin behind a destination: started when it is first needed, initialised once, read one
//! call at a time, closed at the end.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use highwater_core::{Error, Result};
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tonic::Code;

use super::DestinationConfig;
use crate::host::{LogCounts, Plugin};
use crate::proto::plugin::{close, init, test_connection};

/// How long `Close` may take: what it has to write is small, and some plugins never answer.
const CLOSE: Duration = Duration::from_secs(30);

/// A plugin that may not have been started yet.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) config: DestinationConfig,
    live: Mutex<Live>,
    /// Go plugins refuse a call while another one of `Init`, `Read` and `Close` is at work.
    one_by_one: Arc<Mutex<()>>,
    counts: std::sync::Mutex<LogCounts>,
}

#[derive(Debug, Default)]
struct Live {
    plugin: Option<Arc<Plugin>>,
    initialised: bool,
}

impl Connection {
    pub(super) fn new(config: DestinationConfig) -> Self {
        Self {
            config,
            live: Mutex::default(),
            one_by_one: Arc::default(),
            counts: std::sync::Mutex::default(),
        }
    }

    /// The plugin, started and initialised. One that has died stays dead: what it kept in memory
    /// is gone, and only a new run knows what has to be written again.
    ///
    /// # Errors
    /// What its start and its `Init` say.
    pub(super) async fn ready(&self) -> Result<Arc<Plugin>> {
        let mut live = self.live.lock().await;
        let plugin = self.started(&mut live).await?;
        if !live.initialised {
            let _alone = self.one_by_one.lock().await;
            let request = init::Request {
                spec: self.spec().into(),
                no_connection: false,
                invocation_id: self.config.invocation_id.clone(),
            };
            plugin.client().init(request).await.map_err(|status| plugin.explain(status))?;
            live.initialised = true;
        }
        Ok(plugin)
    }

    async fn started(&self, live: &mut Live) -> Result<Arc<Plugin>> {
        if let Some(plugin) = &live.plugin {
            return match plugin.died() {
                Some(error) => Err(error),
                None => Ok(Arc::clone(plugin)),
            };
        }
        let plugin = Arc::new(Plugin::start(&self.config.plugin).await?);
        plugin.hide(&self.config.spec);
        live.plugin = Some(Arc::clone(&plugin));
        Ok(plugin)
    }

    /// The plugin's own settings. No settings are `{}`: some plugins cannot read nothing.
    fn spec(&self) -> String {
        match &self.config.spec {
            Value::Null => "{}".to_owned(),
            spec => spec.to_string(),
        }
    }

    /// Asks the plugin to test its connection.
    ///
    /// # Errors
    /// `Config` with the plugin's words, `Unsupported` where it has no such test.
    pub(super) async fn test(&self) -> Result<()> {
        let plugin = self.started(&mut *self.live.lock().await).await?;
        let request = test_connection::Request { spec: self.spec().into() };
        let answer = match plugin.client().test_connection(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                return Err(Error::unsupported("The plugin has no test of its connection")
                    .context("plugin", plugin.name())
                    .caused_by(status));
            }
            Err(status) => return Err(plugin.explain(status)),
        };
        if answer.success {
            return Ok(());
        }
        let words = plugin.said(&answer.failure_description, 500);
        Err(Error::config(format!("The plugin cannot connect: {words}"))
            .context("plugin", plugin.name())
            .context("code", plugin.said(&answer.failure_code, 100)))
    }

    /// The right to be the only one that reads.
    pub(super) async fn alone(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.one_by_one).lock_owned().await
    }

    /// How many errors and warnings the plugin has logged, also before it was closed.
    pub(super) fn logs(&self) -> LogCounts {
        let earlier = *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // While it is being started it has said nothing that counts.
        let live = self.live.try_lock().ok();
        let now = live.and_then(|live| live.plugin.as_ref().map(|plugin| plugin.logs()));
        let now = now.unwrap_or_default();
        LogCounts { errors: earlier.errors + now.errors, warnings: earlier.warnings + now.warnings }
    }

    /// Closes the plugin and stops its process, if it was started. It is started anew if it is
    /// needed again.
    ///
    /// # Errors
    /// When the process did not end well. One that had died before is no news.
    pub(super) async fn close(&self) -> Result<()> {
        let mut live = self.live.lock().await;
        let Live { plugin: Some(plugin), initialised } = std::mem::take(&mut *live) else {
            return Ok(());
        };
        let had_died = plugin.died().is_some();
        if initialised && !had_died {
            let _alone = self.one_by_one.lock().await;
            let closed = timeout(CLOSE, async {
                plugin.client().close(close::Request {}).await.map(|_| ())
            });
            // The SDKs' own default is an error.
            match closed.await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => tracing::debug!(plugin = plugin.name(), %status, "Close"),
                Err(_) => tracing::debug!(plugin = plugin.name(), "Close was not answered"),
            }
        }
        let stopped = plugin.stop().await;
        let last = plugin.logs_now().await.0;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.errors += last.errors;
        counts.warnings += last.warnings;
        if had_died { Ok(()) } else { stopped }
    }
}
