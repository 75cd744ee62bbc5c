//! `highwater tables`: what tables a source has, as files in CloudQuery's form or on stdout.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::Schema;
use clap::{Args, ValueEnum};
use highwater_core::types::record_part;
use highwater_core::{Error, Table};
use highwater_engine::selection;
use serde_json::json;

use crate::args::{Global, PlaceArgs};
use crate::config::spec::SourceSpec;
use crate::described::Described;
use crate::exit::Exit;
use crate::failure::Result;
use crate::plugins::Settings;
use crate::running::Running;
use crate::{inputs, output};

/// Describe the tables of the sources, in files or with --json on stdout
#[derive(Debug, Args)]
pub struct Tables {
    /// Whose tables.
    #[command(flatten)]
    pub what: PlaceArgs,
    /// The folder for the files; each source gets a folder in it
    #[arg(long, value_name = "FOLDER", default_value = "cq-docs")]
    pub output_dir: PathBuf,
    /// The form of the files
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// All tables, or those that the source's `tables` and `skip_tables` choose
    #[arg(long, value_enum, default_value_t)]
    pub filter: Filter,
}

/// The form of the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One file `__tables.json`
    #[default]
    Json,
    /// `README.md` and a file per table
    Markdown,
}

/// Which tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Filter {
    /// Every table of the source
    #[default]
    All,
    /// Those that would be synced
    Spec,
}

impl Tables {
    /// Asks every source for its tables.
    ///
    /// # Errors
    /// The first source that does not answer, or a file that cannot be written.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = inputs::any_config(&self.what.to_sync_args())?;
        let settings = Settings {
            no_connection: true,
            all_tables: self.filter == Filter::All,
            ..Settings::new(global)
        };
        let mut described = Vec::new();
        for section in &config.sources {
            let mut plugins = Running::default();
            let source = plugins.source(&config, section, &settings).await?;
            let discovered = source.discover(None).await;
            plugins.close().await;
            let mut tables = discovered.map_err(|error| section.connector_failure(error))?;
            // A plugin has chosen by itself.
            if self.filter == Filter::Spec && !section.driver.is_plugin() {
                tables.retain(|table| is_chosen(&section.spec, table));
            }
            tables.iter_mut().for_each(without_parts);
            let tables = Described::new(&tables);
            if global.json {
                let tables = tables.json();
                described.push(json!({ "source": section.spec.name, "tables": tables }));
            } else {
                let folder = self.output_dir.join(&section.spec.name);
                self.write(&folder, &section.spec.name, &tables)?;
                output::result(&format!(
                    "{} tables of {} are described in {}",
                    tables.0.len(),
                    section.spec.name,
                    folder.display()
                ))?;
            }
        }
        if global.json {
            output::json(&described)?;
        }
        Ok(Exit::Success)
    }

    fn write(&self, folder: &Path, source: &str, tables: &Described<'_>) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| unwritable(&path, error))
        };
        match self.format {
            Format::Json => {
                let text = serde_json::to_string_pretty(&tables.json())
                    .map_err(|e| Error::internal("The tables are not JSON").caused_by(e))?;
                file("__tables.json", &format!("{text}\n"))
            }
            Format::Markdown => {
                for table in tables.0 {
                    file(&format!("{}.md", table.name), &tables.page(table))?;
                }
                file("README.md", &tables.list(source))
            }
        }
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> crate::failure::Failure {
    Error::config("The description cannot be written")
        .context("path", path.display())
        .caused_by(error)
        .into()
}

/// What records bring beside their columns is no column of the source.
fn without_parts(table: &mut Table) {
    let columns = table.schema.fields().iter().filter(|field| record_part(field).is_none());
    let columns: Vec<_> = columns.cloned().collect();
    let metadata = table.schema.metadata().clone();
    table.schema = Arc::new(Schema::new_with_metadata(columns, metadata));
}

fn is_chosen(spec: &SourceSpec, table: &Table) -> bool {
    let is_match = |pattern: &str| selection::matches(pattern, &table.name);
    spec.tables.iter().any(|entry| is_match(&entry.0.name))
        && !spec.skip_tables.iter().any(|pattern| is_match(pattern))
}
