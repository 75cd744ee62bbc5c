//! `highwater schema`: the JSON Schema of configuration files, for editors.

use clap::Args;

use crate::config::reference;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output;

/// Print the JSON Schema of configuration files, for editors
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    /// Prints the schema of one document.
    ///
    /// # Errors
    /// `Internal` when stdout cannot be written.
    pub fn run(self) -> Result<Exit> {
        output::json(&reference::schema())?;
        Ok(Exit::Success)
    }
}
