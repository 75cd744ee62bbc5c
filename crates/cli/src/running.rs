//! The plugins of a job: made once each, asked afterwards what they have logged.

use std::sync::Arc;

use highwater_core::{Destination, Error, Source, Transformer};

use crate::config::driver::Driver;
use crate::config::spec::{DestinationSpec, SourceSpec, TransformerSpec};
use crate::config::{Config, Section};
use crate::failure::Result;
use crate::jobs;
use crate::plugins::Settings;

/// The plugins of a job.
#[derive(Default)]
pub struct Running {}

impl Running {
    /// Makes a source. Connects to nothing yet.
    ///
    /// # Errors
    /// `Config` where its settings are wrong, at the place of the key.
    pub async fn source(
        &mut self,
        _config: &Config,
        section: &Section<SourceSpec>,
        _settings: &Settings,
    ) -> Result<Arc<dyn Source>> {
        match section.driver {
            Driver::Builtin(_) => jobs::source(section).await,
            Driver::Plugin(_) => Err(Error::unsupported("Plugins are not supported yet").into()),
        }
    }

    /// Makes a destination. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub async fn destination(
        &mut self,
        section: &Section<DestinationSpec>,
        _settings: &Settings,
    ) -> Result<Arc<dyn Destination>> {
        match section.driver {
            Driver::Builtin(_) => jobs::destination(section).await,
            Driver::Plugin(_) => Err(Error::unsupported("Plugins are not supported yet").into()),
        }
    }

    /// Makes a transformer. Connects to nothing yet.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn transformer(
        &mut self,
        _section: &Section<TransformerSpec>,
        _settings: &Settings,
    ) -> Result<Arc<dyn Transformer>> {
        Err(Error::unsupported("Plugins are not supported yet").into())
    }
}
