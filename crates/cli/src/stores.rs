//! The places where the state of syncs is kept, for `state` and `status`.

use std::sync::Arc;

use highwater_core::{Destination, Error, State, StateStore};
use highwater_engine::planning::state_key;
use highwater_engine::state_table::StateRows;
use highwater_engine::{StateTable, SyncRequest};

use crate::args::{Global, PlaceArgs};
use crate::config::{Config, endpoints};
use crate::failure::Result;
use crate::plugins::Settings;
use crate::{inputs, jobs};

/// One state store, and the syncs whose state is looked for in it.
pub struct Store {
    /// The name of the destination that keeps the state.
    pub name: String,
    /// The destination.
    pub keeper: Arc<dyn Destination>,
    /// The names under which the configured syncs have their state; empty when a destination
    /// alone was given.
    pub syncs: Vec<String>,
    /// Plugins that keep their cursors themselves: the sync, the table, the destination.
    pub plugins: Vec<PluginCursors>,
    /// The syncs of plugins that have no place for cursors.
    pub without_cursors: Vec<String>,
}

/// Where a plugin keeps its cursors.
#[derive(Clone)]
pub struct PluginCursors {
    /// The name of its sync.
    pub sync: String,
    /// The table whose rows they are.
    pub table: String,
    /// The destination that has it.
    pub destination: String,
    kept: StateTable,
    request: Arc<SyncRequest>,
}

impl PluginCursors {
    /// Where they are, in words.
    pub fn place(&self) -> String {
        format!("kept by the plugin as rows of `{}` at `{}`", self.table, self.destination)
    }

    /// The rows; none where a destination plugin has them.
    ///
    /// # Errors
    /// What the destination says.
    pub async fn rows(&self) -> Result<StateRows> {
        Ok(self.kept.rows(&self.request).await?)
    }
}

impl Store {
    /// The store itself.
    ///
    /// # Errors
    /// `Unsupported` when the destination keeps no state.
    pub fn store(&self) -> Result<&dyn StateStore> {
        Ok(self.keeper.state_store().ok_or_else(|| {
            Error::unsupported("This destination keeps no state").context("destination", &self.name)
        })?)
    }

    /// The states of the configured syncs; of all syncs when a destination alone was given.
    ///
    /// # Errors
    /// `Transient` when the store cannot be reached.
    pub async fn states(&self) -> Result<Vec<(String, State)>> {
        let store = self.store()?;
        let names = if self.syncs.is_empty() { store.list().await? } else { self.syncs.clone() };
        let mut states = Vec::new();
        for name in names {
            let state = store.look(&name).await?;
            states.push((name, state));
        }
        Ok(states)
    }
}

/// The stores that configuration files, two URLs, or the URL of a destination alone mean.
///
/// # Errors
/// `Config` or `Unsupported` for what is wrong there.
pub async fn stores(args: &PlaceArgs, global: &Global) -> Result<Vec<Store>> {
    if let [one] = args.what.as_slice()
        && endpoints::is_endpoint(one)
    {
        let section = endpoints::destination_section(one)?;
        let keeper = jobs::destination(&section).await?;
        let syncs = args.name.iter().cloned().collect();
        let plugins = Vec::new();
        let without_cursors = Vec::new();
        let name = section.spec.name;
        return Ok(vec![Store { name, keeper, syncs, plugins, without_cursors }]);
    }
    of_config(&inputs::config(&args.to_sync_args())?, &Settings::new(global)).await
}

async fn of_config(config: &Config, settings: &Settings) -> Result<Vec<Store>> {
    let mut stores: Vec<Store> = Vec::new();
    for section in &config.sources {
        let job = jobs::job(config, section, settings).await?;
        let backend = crate::config::check::backend(config, section)?;
        for target in &job.request.targets {
            let key = state_key(&job.request, target);
            let (name, keeper) = match (&target.backend, backend) {
                (Some(keeper), Some(backend)) => (&backend.spec.name, keeper),
                _ => (&target.name, &target.destination),
            };
            match stores.iter_mut().find(|s| s.name == *name) {
                Some(store) => store.syncs.push(key),
                None => stores.push(Store {
                    name: name.clone(),
                    keeper: Arc::clone(keeper),
                    syncs: vec![key],
                    plugins: Vec::new(),
                    without_cursors: Vec::new(),
                }),
            }
        }
        let sync = section.spec.name.clone();
        match (&section.spec.backend_options, backend, &job.request.state_table) {
            (Some(options), Some(backend), Some(kept)) => {
                let cursors = PluginCursors {
                    sync,
                    table: options.table_name.clone(),
                    destination: backend.spec.name.clone(),
                    kept: kept.clone(),
                    request: Arc::new(job.request.clone()),
                };
                stores.iter_mut().for_each(|store| store.plugins.push(cursors.clone()));
            }
            _ if section.driver.is_plugin() => {
                stores.iter_mut().for_each(|store| store.without_cursors.push(sync.clone()));
            }
            _ => {}
        }
    }
    Ok(stores)
}
