//! `highwater init`: asks for a source and a destination and writes a commented configuration
//! file that `sync` accepts.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use highwater_core::{Connector, Error};
use highwater_core::{LogicalType, Role, Table, WriteMode};
use serde_json::{Map, Value, json};

use crate::args::Global;
use crate::config::Config;
use crate::config::driver::Driver;
use crate::config::endpoints::{self, UrlTables};
use crate::exit::Exit;
use crate::failure::Result;
use crate::{jobs, output};

/// Write a configuration file, asking for what it needs
#[derive(Debug, Args)]
pub struct Init {
    /// The source: a URL, a database file or data files
    #[arg(value_name = "SOURCE", conflicts_with = "source_flag")]
    pub source: Option<String>,
    /// The destination
    #[arg(value_name = "DESTINATION", conflicts_with = "destination_flag")]
    pub destination: Option<String>,
    /// The source, as CloudQuery writes it
    #[arg(long = "source", value_name = "SOURCE", hide = true)]
    pub source_flag: Option<String>,
    /// The destination, as CloudQuery writes it
    #[arg(long = "destination", value_name = "DESTINATION", hide = true)]
    pub destination_flag: Option<String>,
    /// The file to write; it must not exist
    #[arg(long, value_name = "FILE", default_value = "sync.yml")]
    pub spec_path: PathBuf,
    /// What a sync leaves behind in a table [default: overwrite; for files append where the source
    /// has a cursor, replace otherwise]
    #[arg(long, value_name = "MODE", value_parser = |text: &str| text.parse::<WriteMode>())]
    pub write_mode: Option<WriteMode>,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Accepted from CloudQuery's command lines: there is no AI here
    #[arg(long, hide = true)]
    pub disable_ai: bool,
    /// Accepted from CloudQuery's command lines: there is no platform here
    #[arg(long, hide = true)]
    pub disable_platform: bool,
    /// Accepted from CloudQuery's command lines: there is no conversation here
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub resume_conversation: Option<String>,
}

impl Init {
    /// Writes the file. Looks at the source for its tables; if it cannot be reached, the file
    /// names all tables by a pattern.
    ///
    /// # Errors
    /// `Config` when something is missing and nobody can be asked, or the file exists.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        if self.spec_path.exists() {
            return Err(Error::config("The file exists and is not overwritten")
                .context("file", self.spec_path.display())
                .hint("--spec-path another.yml")
                .into());
        }
        let asks = !self.yes && io::stdin().is_terminal();
        let ask = |given: Option<String>, what: &str| match given {
            Some(given) => Ok(given),
            None if asks => question(what),
            None => Err(Error::config(format!("A {what} is missing"))
                .hint("highwater init SOURCE DESTINATION --yes")
                .into()),
        };
        let source = ask(self.source.or(self.source_flag), "source")?;
        let destination = ask(self.destination.or(self.destination_flag), "destination")?;
        let config = endpoints::config(&source, &destination, &UrlTables::default())?;
        let tables = discovered(&config).await;
        let text = file(&config, &tables, self.write_mode).await?;
        create(&self.spec_path, &text)?;
        let path = self.spec_path.display();
        if global.json {
            output::json(&json!({ "file": path.to_string(), "tables": tables.len() }))?;
        } else {
            let more = variables(&text).iter().fold(String::new(), |mut out, name| {
                let _ = writeln!(out, "  export {name}='…'");
                out
            });
            output::result(&format!("{path} is written. Next:\n{more}  highwater sync {path}"))?;
        }
        Ok(Exit::Success)
    }
}

fn question(what: &str) -> Result<String> {
    eprint!(
        "The {what} (a URL such as postgres://user@host/database, or a file such as shop.db): "
    );
    let unreadable = |e| Error::config("The answer cannot be read").caused_by(e);
    io::stderr().flush().map_err(unreadable)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(unreadable)?;
    match answer.trim() {
        "" => Err(Error::config(format!("A {what} is missing")).into()),
        answer => Ok(answer.to_owned()),
    }
}

async fn discovered(config: &Config) -> Vec<Table> {
    let Some(section) = config.sources.first() else { return Vec::new() };
    let tables = match jobs::source(section).await {
        Ok(source) => source.discover(None).await.map_err(Into::into),
        Err(failure) => Err(failure),
    };
    tables.unwrap_or_else(|failure| {
        let why = failure.error.full_message();
        output::note(&format!("note: The source's tables are not known: {why}"));
        Vec::new()
    })
}

fn create(path: &Path, text: &str) -> Result<()> {
    // Never through a link or over a file that appeared meanwhile.
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        Error::config("The file cannot be written")
            .context("file", path.display())
            .caused_by(error)
            .into()
    })
}

/// The file's text. Passwords do not go into it: `${…}` stands in their place.
async fn file(config: &Config, tables: &[Table], asked: Option<WriteMode>) -> Result<String> {
    let mut out = String::from(
        "# What `highwater sync` moves, from where to where. `highwater plan` shows what it would do.\n",
    );
    for section in &config.sources {
        let spec = &section.spec;
        let _ = write!(
            out,
            "kind: source\nspec:\n  # State is kept under this name: another name begins at the beginning.\n  name: {}\n  path: {}\n  destinations: {}\n",
            json!(spec.name),
            spec.path,
            json!(spec.destinations)
        );
        out.push_str(&entries(tables));
        out.push_str(&inner(section.driver, &spec.spec, Role::Source));
    }
    for section in &config.destinations {
        let spec = &section.spec;
        let made = jobs::destination(section).await?;
        let modes: Vec<&str> = made.capabilities().write_modes.iter().map(|m| m.as_str()).collect();
        let usual = config.sources.first().map(|source| jobs::usual_mode(source, made.as_ref()));
        let write_mode = asked.or(usual).unwrap_or(WriteMode::Overwrite);
        let _ = write!(
            out,
            "---\nkind: destination\nspec:\n  name: {}\n  path: {}\n  # {}\n  write_mode: {write_mode}\n",
            json!(spec.name),
            spec.path,
            modes.join(", "),
        );
        out.push_str(&inner(section.driver, &spec.spec, Role::Destination));
    }
    Ok(out)
}

fn entries(tables: &[Table]) -> String {
    if tables.is_empty() {
        return "  tables: [\"*\"]\n".to_owned();
    }
    let mut out = String::from("  tables:\n");
    for table in tables {
        let _ = writeln!(out, "    - name: {}", json!(table.name.to_string()));
        if table.primary_key.is_empty() {
            out.push_str("      # primary_key: [\"…\"]  # the source defines none\n");
        }
        if let Some(cursor) = likely_cursor(table) {
            let _ = writeln!(
                out,
                "      # cursor: {}  # reads only what changed, if this grows with every change",
                json!(cursor)
            );
        }
    }
    out
}

/// A column that, by its name and type, may grow with every change of a row.
fn likely_cursor(table: &Table) -> Option<&str> {
    if table.source_defined_cursor || table.cursor_field.is_some() {
        return None;
    }
    let likely = ["updated", "modified", "changed", "last_update", "mtime"];
    let mut fields = table.schema.fields().iter().filter(|field| {
        let name = field.name().to_lowercase();
        likely.iter().any(|word| name.contains(word))
            && LogicalType::of(field).is_ok_and(|t| t.has_order())
    });
    fields.next().map(|field| field.name().as_str())
}

fn inner(driver: Driver, spec: &Map<String, Value>, role: Role) -> String {
    let kind = driver.connector().map_or("the plugin", Connector::kind);
    let mut out =
        format!("  # {}'s own settings; docs/configuration.md has all of them.\n  spec:\n", kind);
    for (key, value) in spec {
        let value = match value {
            Value::String(text) => json!(without_password(text, role)),
            other => other.clone(),
        };
        let _ = writeln!(out, "    {key}: {value}");
    }
    out
}

/// A URL in which a variable stands for the password.
fn without_password(text: &str, role: Role) -> String {
    let redacted = highwater_core::secret::redact_url(text);
    let variable = match role {
        Role::Source => "${SOURCE_PASSWORD}",
        Role::Destination => "${DESTINATION_PASSWORD}",
    };
    if redacted == text { redacted } else { redacted.replace("***", variable) }
}

/// The variables that the file needs.
fn variables(text: &str) -> Vec<&'static str> {
    ["SOURCE_PASSWORD", "DESTINATION_PASSWORD"]
        .into_iter()
        .filter(|name| text.contains(&format!("${{{name}}}")))
        .collect()
}
