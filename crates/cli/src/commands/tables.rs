//! `highwater tables`: what tables a source has, as files in CloudQuery's form or on stdout.

use std::path::{Path, PathBuf};

use arrow_schema::Field;
use clap::{Args, ValueEnum};
use highwater_core::types::type_name;
use highwater_core::{Error, Table};
use highwater_engine::selection;
use serde_json::{Value, json};

use crate::args::{Global, PlaceArgs};
use crate::config::spec::SourceSpec;
use crate::exit::Exit;
use crate::failure::Result;
use crate::{inputs, jobs, output};

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
        let mut described = Vec::new();
        for section in &config.sources {
            let source = jobs::source(section).await?;
            let mut tables =
                source.discover(None).await.map_err(|error| section.connector_failure(error))?;
            if self.filter == Filter::Spec {
                tables.retain(|table| is_chosen(&section.spec, table));
            }
            if global.json {
                let tables: Vec<Value> = tables.iter().map(description).collect();
                described.push(json!({ "source": section.spec.name, "tables": tables }));
            } else {
                let folder = self.output_dir.join(&section.spec.name);
                self.write(&folder, &section.spec.name, &tables)?;
                output::result(&format!(
                    "{} tables of {} are described in {}",
                    tables.len(),
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

    fn write(&self, folder: &Path, source: &str, tables: &[Table]) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| unwritable(&path, error))
        };
        match self.format {
            Format::Json => {
                let tables: Value = tables.iter().map(description).collect();
                let text = serde_json::to_string_pretty(&tables)
                    .map_err(|e| Error::internal("The tables are not JSON").caused_by(e))?;
                file("__tables.json", &format!("{text}\n"))
            }
            Format::Markdown => {
                let mut list = format!("# Source Plugin: {source}\n\n## Tables\n\n");
                for table in tables {
                    list.push_str(&format!("- [{0}]({0}.md)\n", table.name));
                    file(&format!("{}.md", table.name), &page(table))?;
                }
                file("README.md", &list)
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

fn is_chosen(spec: &SourceSpec, table: &Table) -> bool {
    let is_match = |pattern: &str| selection::matches(pattern, &table.name);
    spec.tables.iter().any(|entry| is_match(&entry.0.name))
        && !spec.skip_tables.iter().any(|pattern| is_match(pattern))
}

fn is_incremental(table: &Table) -> bool {
    table.source_defined_cursor || table.cursor_field.is_some()
}

fn description(table: &Table) -> Value {
    let column = |field: &Field| {
        json!({
            "name": field.name(),
            "type": type_name(field),
            "not_null": !field.is_nullable(),
            "is_primary_key": table.primary_key.contains(field.name()),
            "is_incremental_key": table.cursor_field.as_ref() == Some(field.name()),
        })
    };
    json!({
        "name": table.name.to_string(),
        "is_incremental": is_incremental(table),
        "primary_key": table.primary_key,
        "columns": table.schema.fields().iter().map(|f| column(f)).collect::<Vec<_>>(),
    })
}

fn page(table: &Table) -> String {
    let mut out = format!("# Table: {}\n\n", table.name);
    match table.primary_key.as_slice() {
        [] => out.push_str("The table has no primary key.\n"),
        [key] => out.push_str(&format!("The primary key is **{key}**.\n")),
        keys => {
            out.push_str(&format!("The composite primary key is (**{}**).\n", keys.join("**, **")))
        }
    }
    if is_incremental(table) {
        out.push_str("It supports incremental syncs.\n");
    }
    out.push_str("\n## Columns\n\n| Name | Type |\n|---|---|\n");
    for field in table.schema.fields() {
        let key = if table.primary_key.contains(field.name()) { " (PK)" } else { "" };
        let cursor = if table.cursor_field.as_ref() == Some(field.name()) {
            " (Incremental Key)"
        } else {
            ""
        };
        out.push_str(&format!("| {}{key}{cursor} | {} |\n", field.name(), type_name(field)));
    }
    out
}
