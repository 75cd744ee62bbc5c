//! The places where the state of syncs is kept, for `state` and `status`.

use std::sync::Arc;

use highwater_core::{Destination, Error, State, StateStore};
use highwater_engine::planning::state_key;

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
}

/// Where a plugin keeps its cursors.
#[derive(Debug, Clone)]
pub struct PluginCursors {
    /// The name of its sync.
    pub sync: String,
    /// The table whose rows they are.
    pub table: String,
    /// The destination that has it.
    pub destination: String,
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
        return Ok(vec![Store { name: section.spec.name, keeper, syncs, plugins }]);
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
                }),
            }
        }
        let own = section.spec.backend_options.as_ref().filter(|_| section.driver.is_plugin());
        if let (Some(options), Some(backend)) = (own, backend) {
            let cursors = PluginCursors {
                sync: section.spec.name.clone(),
                table: options.table_name.clone(),
                destination: backend.spec.name.clone(),
            };
            stores.iter_mut().for_each(|store| store.plugins.push(cursors.clone()));
        }
    }
    Ok(stores)
}
