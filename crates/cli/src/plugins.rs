//! From documents to plugins: which program, with which arguments and settings.

use std::path::PathBuf;

use highwater_cloudquery::host::{PluginSpec, Registry, Role};
use highwater_core::secret::Secret;
use highwater_core::{Error, Instant};
use uuid::Uuid;

use crate::args::{Global, RunArgs, Shard};
use crate::config::Section;
use crate::config::driver::Driver;
use crate::config::spec::{Document, SourceSpec};

/// What may stand in `{{…}}` in a `sync_group_id`.
pub const GROUP_PLACEHOLDERS: [&str; 6] = ["SYNC_ID", "YEAR", "MONTH", "DAY", "HOUR", "MINUTE"];

/// What the command line says that plugins have to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of downloaded plugins.
    pub cq_dir: PathBuf,
    /// A licence file for them.
    pub license: Option<PathBuf>,
    /// The level of their log lines.
    pub log_level: String,
    /// The id of this run.
    pub invocation_id: Uuid,
    /// The time of this run.
    pub now: Instant,
    /// Whether tables may be created and altered.
    pub may_migrate: bool,
    /// Whether many rows may be deleted at once.
    pub allow_mass_delete: bool,
    /// The part of the sources that is read.
    pub shard: Option<Shard>,
    /// Whether plugins are only asked for their tables, and reach no system for that.
    pub no_connection: bool,
    /// Whether they are asked for all tables, whatever the configuration chooses.
    pub all_tables: bool,
    /// Whether rows are copied: then a list of columns from a few minutes ago would do harm.
    pub copies: bool,
}

impl Settings {
    /// What the flags of every command say.
    pub fn new(global: &Global) -> Self {
        Self {
            cq_dir: global.cq_dir.clone(),
            license: global.license.clone(),
            log_level: global.level().to_owned(),
            invocation_id: global.invocation_id.unwrap_or_else(Uuid::new_v4),
            now: Instant::now(),
            may_migrate: true,
            allow_mass_delete: false,
            shard: None,
            no_connection: false,
            all_tables: false,
            copies: false,
        }
    }

    /// What the flags of a run say.
    pub fn of_run(global: &Global, run: &RunArgs) -> Self {
        Self {
            may_migrate: !run.no_migrate,
            allow_mass_delete: run.allow_mass_delete,
            shard: run.shard,
            copies: true,
            ..Self::new(global)
        }
    }

    /// The name under which a source's state and rows are kept: a part has its own.
    pub fn sync_name(&self, source: &SourceSpec) -> String {
        match self.shard {
            None => source.name.clone(),
            Some(Shard { num, total }) => format!("{}_{num}_{total}", source.name),
        }
    }

    /// The plugin of a document.
    ///
    /// # Errors
    /// `Internal` when the document names none.
    pub fn plugin<S: Document>(
        &self,
        section: &Section<S>,
        kind: Role,
    ) -> Result<PluginSpec, Error> {
        let Driver::Plugin(registry) = section.driver else {
            return Err(Error::internal("What is no plugin was taken for one")
                .context("name", section.spec.name()));
        };
        let spec = &section.spec;
        let mut plugin = PluginSpec::new(spec.name(), kind, registry, spec.path());
        if registry == Registry::CloudQuery {
            plugin.version = spec.version().map(str::to_owned);
        }
        plugin.docker_registry_auth_token = spec.docker_registry_auth_token().map(Secret::new);
        plugin.secrets = section.secrets();
        plugin.license = self.license.clone();
        plugin.cq_dir = self.cq_dir.clone();
        plugin.log_level = self.log_level.clone();
        Ok(plugin)
    }

    /// The plugin of a source.
    ///
    /// # Errors
    /// As [`Self::plugin`].
    pub fn source_plugin(&self, section: &Section<SourceSpec>) -> Result<PluginSpec, Error> {
        let mut plugin = self.plugin(section, Role::Source)?;
        let endpoint = &section.spec.otel_endpoint;
        plugin.otel_endpoint = (!endpoint.is_empty()).then(|| endpoint.clone());
        plugin.otel_endpoint_insecure = section.spec.otel_endpoint_insecure;
        Ok(plugin)
    }

    /// The value of `_cq_sync_group_id`: the placeholders are replaced.
    pub fn sync_group(&self, text: &str) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let time = chrono::DateTime::from_timestamp_micros(self.now.0).unwrap_or_default();
        let mut out = text.replace("{{SYNC_ID}}", &self.invocation_id.to_string());
        for (name, form) in
            [("YEAR", "%Y"), ("MONTH", "%m"), ("DAY", "%d"), ("HOUR", "%H"), ("MINUTE", "%M")]
        {
            out = out.replace(&format!("{{{{{name}}}}}"), &time.format(form).to_string());
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn the_group_of_a_sync_holds_its_time_and_id() {
        let id = "5ca1ab1e-0000-4000-8000-000000000001";
        let cli = Cli::try_parse_from(["highwater", "schema", "--invocation-id", id]).unwrap();
        let settings =
            Settings { now: Instant(1_790_000_000_000_000), ..Settings::new(&cli.global) };
        assert_eq!(
            settings.sync_group("{{YEAR}}-{{MONTH}}-{{DAY}}/{{HOUR}}:{{MINUTE}} {{SYNC_ID}} {{X}}"),
            Some(format!("2026-09-21/14:13 {id} {{{{X}}}}"))
        );
        assert_eq!(settings.sync_group(""), None);
    }
}
