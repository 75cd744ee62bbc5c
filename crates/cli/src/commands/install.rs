//! `highwater plugin install`: has the plugins of a configuration on this machine, so that a sync
//! needs no network but the systems that it reads and writes.

use clap::Args;
use highwater_cloudquery::host::{self, Installed, Role};
use serde_json::{Value, json};

use crate::args::{Global, PlaceArgs};
use crate::config::Section;
use crate::config::spec::Document;
use crate::exit::Exit;
use crate::failure::Result;
use crate::plugins::Settings;
use crate::{inputs, output};

/// Download the plugins of a configuration into the folder of `--cq-dir`
#[derive(Debug, Args)]
pub struct Install {
    /// Whose plugins.
    #[command(flatten)]
    pub what: PlaceArgs,
}

impl Install {
    /// Downloads what is missing. Local programs and plugins that run elsewhere are left alone.
    ///
    /// # Errors
    /// The first plugin that cannot be had.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = inputs::any_config(&self.what.to_sync_args())?;
        let settings = Settings::new(global);
        let mut done = Done::default();
        for section in &config.sources {
            done.install(section, Role::Source, &settings).await?;
        }
        for section in &config.destinations {
            done.install(section, Role::Destination, &settings).await?;
        }
        for section in &config.transformers {
            done.install(section, Role::Transformer, &settings).await?;
        }
        if global.json {
            output::json(&done.values)?;
        } else {
            output::result(&output::table(&["KIND", "NAME", "PLUGIN", "RESULT"], &done.rows))?;
        }
        Ok(Exit::Success)
    }
}

#[derive(Default)]
struct Done {
    rows: Vec<Vec<String>>,
    values: Vec<Value>,
}

impl Done {
    async fn install<S: Document>(
        &mut self,
        section: &Section<S>,
        kind: Role,
        settings: &Settings,
    ) -> Result<()> {
        let spec = &section.spec;
        let installed = if section.driver.is_plugin() {
            let plugin = settings.plugin(section, kind)?;
            let installed = host::install(&plugin).await;
            Some(installed.map_err(|error| section.connector_failure(error))?)
        } else {
            None
        };
        let (result, place) = match installed {
            None if section.driver.is_airbyte() => ("found when it runs", None),
            None => ("built in", None),
            Some(Installed::Nothing) => ("nothing to download", None),
            Some(Installed::Program { path, downloaded: true }) => {
                ("downloaded", Some(path.display().to_string()))
            }
            Some(Installed::Program { path, downloaded: false }) => {
                ("there already", Some(path.display().to_string()))
            }
            Some(Installed::Image(image)) => ("there", Some(image)),
        };
        let (kind, name) = (kind.to_string(), spec.name().to_owned());
        let version = spec.version().filter(|_| section.driver.is_plugin());
        let plugin = [Some(spec.path()), version].into_iter().flatten().collect::<Vec<_>>();
        self.values.push(json!({
            "kind": kind, "name": name, "plugin": spec.path(), "version": version,
            "result": result, "place": place,
        }));
        self.rows.push(vec![kind, name, plugin.join(" "), result.to_owned()]);
        Ok(())
    }
}
