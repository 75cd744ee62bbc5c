//! The plugins of a job: made once each, asked afterwards what they have logged.

use std::sync::Arc;

use highwater_airbyte::source::AirbyteSource;
use highwater_cloudquery::destination::{DestinationConfig, DestinationPlugin};
use highwater_cloudquery::host::{LogCounts, Role};
use highwater_cloudquery::source::{SourceConfig, SourcePlugin};
use highwater_cloudquery::transformer::{TransformerConfig, TransformerPlugin};
use highwater_core::{Destination, Source, Transformer};
use serde_json::Value;

use crate::config::driver::Driver;
use crate::config::spec::{DestinationSpec, SourceSpec, TransformerSpec};
use crate::config::{Config, Section, check, references};
use crate::failure::Result;
use crate::plugins::Settings;
use crate::{airbyte, jobs};

/// The plugins of a job. A plugin that has two parts in it, as destination and as backend, is one
/// process, as in CloudQuery: what it keeps in memory is there for both.
#[derive(Default)]
pub struct Running {
    source: Option<Arc<SourcePlugin>>,
    /// A source that is a connector of Airbyte. It ends by itself after each question.
    connector: Option<Arc<AirbyteSource>>,
    source_name: String,
    destinations: Vec<(String, Arc<DestinationPlugin>)>,
    transformers: Vec<(String, Arc<TransformerPlugin>)>,
}

impl Running {
    /// Makes a source. Connects to nothing yet.
    ///
    /// # Errors
    /// `Config` where its settings are wrong, at the place of the key.
    pub async fn source(
        &mut self,
        config: &Config,
        section: &Section<SourceSpec>,
        settings: &Settings,
    ) -> Result<Arc<dyn Source>> {
        match section.driver {
            Driver::Builtin(_) => return jobs::source(section).await,
            Driver::Airbyte => {
                let source = Arc::new(airbyte::source(section, settings)?);
                self.connector = Some(Arc::clone(&source));
                self.source_name = section.spec.name.clone();
                return Ok(source);
            }
            Driver::Plugin(_) => {}
        }
        let spec = &section.spec;
        let mut made =
            SourceConfig::new(settings.source_plugin(section)?, Value::Object(spec.spec.clone()));
        made.tables = spec.tables.iter().map(|entry| entry.0.name.clone()).collect();
        made.skip_tables = spec.skip_tables.clone();
        made.skip_dependent_tables = spec.skip_dependent_tables;
        if settings.all_tables {
            made.tables = vec!["*".to_owned()];
            made.skip_tables = Vec::new();
            made.skip_dependent_tables = false;
        }
        made.no_connection = settings.no_connection;
        made.deterministic_cq_id = spec.deterministic_cq_id;
        made.shard = settings.shard.map(|shard| (shard.num.into(), shard.total.into()));
        made.invocation_id = settings.invocation_id.to_string();
        if let (Some(options), Some(backend)) =
            (&spec.backend_options, check::backend(config, section)?)
        {
            made.state_table = Some(options.table_name.clone());
            made.state_placeholder = Some(placeholder(&backend.spec.name));
        }
        made.connections = self.connections(config, section, settings).await?;
        let source = Arc::new(SourcePlugin::new(made));
        self.source = Some(Arc::clone(&source));
        self.source_name = spec.name.clone();
        Ok(source)
    }

    /// Where the destinations listen that a source's settings name. They are started for that.
    async fn connections(
        &mut self,
        config: &Config,
        section: &Section<SourceSpec>,
        settings: &Settings,
    ) -> Result<Vec<(String, String)>> {
        let backend = check::backend(config, section)?.map(|b| b.spec.name.as_str());
        let mut found: Vec<(String, String)> = Vec::new();
        let spec = Value::Object(section.spec.spec.clone());
        for reference in references::all(&spec, "spec") {
            let name = placeholder(&reference.name);
            let is_known = found.iter().any(|(known, _)| *known == name);
            let Some(destination) = config.destination(&reference.name) else { continue };
            if is_known || backend == Some(reference.name.as_str()) {
                continue;
            }
            if destination.driver.is_plugin() {
                let plugin = self.plugin(destination, settings)?;
                let connection = plugin.connection().await;
                found.push((name, connection.map_err(|e| destination.connector_failure(e))?));
            }
        }
        Ok(found)
    }

    /// Makes a destination. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub async fn destination(
        &mut self,
        section: &Section<DestinationSpec>,
        settings: &Settings,
    ) -> Result<Arc<dyn Destination>> {
        match section.driver {
            Driver::Builtin(_) => jobs::destination(section).await,
            Driver::Airbyte => Ok(Arc::new(airbyte::destination(section, settings)?)),
            Driver::Plugin(_) => Ok(self.plugin(section, settings)?),
        }
    }

    fn plugin(
        &mut self,
        section: &Section<DestinationSpec>,
        settings: &Settings,
    ) -> Result<Arc<DestinationPlugin>> {
        let name = &section.spec.name;
        if let Some((_, known)) = self.destinations.iter().find(|(known, _)| known == name) {
            return Ok(Arc::clone(known));
        }
        let plugin = settings.plugin(section, Role::Destination)?;
        let spec = Value::Object(section.spec.spec.clone());
        let made = DestinationConfig::new(plugin, spec, settings.invocation_id.to_string());
        let made = Arc::new(DestinationPlugin::new(made));
        self.destinations.push((name.clone(), Arc::clone(&made)));
        Ok(made)
    }

    /// Makes a transformer. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn transformer(
        &mut self,
        section: &Section<TransformerSpec>,
        settings: &Settings,
    ) -> Result<Arc<dyn Transformer>> {
        let name = &section.spec.name;
        if let Some((_, known)) = self.transformers.iter().find(|(known, _)| known == name) {
            return Ok(Arc::clone(known) as Arc<dyn Transformer>);
        }
        let made = Arc::new(TransformerPlugin::new(TransformerConfig {
            plugin: settings.plugin(section, Role::Transformer)?,
            spec: Value::Object(section.spec.spec.clone()),
            invocation_id: settings.invocation_id.to_string(),
        }));
        self.transformers.push((name.clone(), Arc::clone(&made)));
        Ok(made)
    }

    /// Lets all plugins end in good order, where they have not. What was committed is safe.
    pub async fn close(&self) {
        let mut ended = Vec::new();
        if let Some(source) = &self.source {
            ended.push(source.close().await);
        }
        for (_, destination) in &self.destinations {
            ended.push(destination.close().await);
        }
        for (_, transformer) in &self.transformers {
            ended.push(transformer.close().await);
        }
        for error in ended.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %error.full_message(), "A plugin did not end in good order");
        }
    }

    /// What each plugin has logged so far: its kind, its name, its counts.
    pub fn logs(&self) -> Vec<(Role, &str, LogCounts)> {
        let source =
            self.source.iter().map(|s| (Role::Source, self.source_name.as_str(), s.log_counts()));
        let destinations =
            self.destinations.iter().map(|(name, d)| (Role::Destination, name.as_str(), d.logs()));
        let transformers = self
            .transformers
            .iter()
            .map(|(name, t)| (Role::Transformer, name.as_str(), t.log_counts()));
        let connector = self.connector.iter();
        let connector =
            connector.map(|s| (Role::Source, self.source_name.as_str(), s.log_counts()));
        source.chain(connector).chain(destinations).chain(transformers).collect()
    }

    /// The source, where it is a plugin.
    pub fn source_plugin(&self) -> Option<&SourcePlugin> {
        self.source.as_deref()
    }

    /// What the source has logged so far.
    pub fn source_logs(&self) -> LogCounts {
        let connector = self.connector.as_ref().map(|source| source.log_counts());
        self.source.as_ref().map(|source| source.log_counts()).or(connector).unwrap_or_default()
    }

    /// What the destination of that name has logged so far.
    pub fn destination_logs(&self, name: &str) -> LogCounts {
        let found = self.destinations.iter().find(|(known, _)| known == name);
        found.map(|(_, destination)| destination.logs()).unwrap_or_default()
    }
}

/// How a source's settings name a destination.
fn placeholder(name: &str) -> String {
    format!("@@plugins.{name}.connection")
}
