//! A system behind a driver: how it is opened, what is known of it, how it spells names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adbc_core::error::Error as AdbcError;
use adbc_core::options::{InfoCode, OptionConnection, OptionDatabase};
use adbc_core::{Connection, Database, Driver, Optionable};
use adbc_driver_manager::ManagedDatabase;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, RecordBatchReader};
use highwater_core::{Error, Result, TableName};

use super::config::{Spec, TextKind, option_value};
use crate::driver;
use crate::session::{Session, System};

/// What is known of a system, by the name that its driver gives it.
struct Known {
    vendor: &'static str,
    quote: char,
    parameter: Option<&'static str>,
    text: &'static [TextKind],
}

const KNOWN: [Known; 6] = [
    Known {
        vendor: "SQLite",
        quote: '"',
        parameter: Some("?"),
        text: &[
            TextKind::Decimal,
            TextKind::Unsigned64,
            TextKind::Time,
            TextKind::Timestamp,
            TextKind::Duration,
            TextKind::Uuid,
            TextKind::List,
        ],
    },
    Known { vendor: "PostgreSQL", quote: '"', parameter: Some("$1"), text: &[TextKind::Uuid] },
    Known { vendor: "Snowflake", quote: '"', parameter: Some("?"), text: &[] },
    Known { vendor: "BigQuery", quote: '`', parameter: Some("?"), text: &[] },
    Known { vendor: "Databricks", quote: '`', parameter: Some("?"), text: &[] },
    Known { vendor: "MySQL", quote: '`', parameter: Some("?"), text: &[] },
];

/// A system that is configured. Opened once, by whoever needs it first.
pub(crate) struct Remote {
    pub(crate) spec: Spec,
    database: std::sync::Mutex<Option<Arc<ManagedDatabase>>>,
}

/// What statements have to know of the system.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    quote: String,
    /// What stands for the one parameter of a statement, where it is known.
    pub(crate) parameter: Option<String>,
    /// The columns that are written as text.
    pub(crate) text: Vec<TextKind>,
}

impl Remote {
    pub(crate) fn new(spec: Spec) -> Self {
        Self { spec, database: std::sync::Mutex::new(None) }
    }

    fn failed(&self, doing: &str, error: &AdbcError) -> Error {
        let explained = match error.status {
            adbc_core::error::Status::IO | adbc_core::error::Status::Timeout => {
                Error::transient(doing)
            }
            _ => Error::config(doing),
        };
        explained
            .context("driver", &self.spec.driver)
            .hint("check `options` and `connection_options`: they are the driver's own")
            .caused_by(self.masked(&error.message))
    }

    /// What the driver says, without what the user told it.
    fn masked(&self, message: &str) -> String {
        let mut masked = message.lines().next().unwrap_or_default().to_owned();
        let told = self.spec.options.values().chain(self.spec.connection_options.values());
        for value in told.filter_map(serde_json::Value::as_str).filter(|text| !text.is_empty()) {
            masked = masked.replace(value, "***");
            // A driver may quote the password of a URI alone.
            let user = value.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
            let password = user.and_then(|(user, _)| user.split_once(':'));
            if let Some((_, password)) = password.filter(|(_, password)| !password.is_empty()) {
                masked = masked.replace(password, "***");
            }
        }
        masked
    }

    fn database(&self) -> Result<Arc<ManagedDatabase>> {
        let mut place = self.database.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(database) = place.as_ref() {
            return Ok(Arc::clone(database));
        }
        let library = library(&self.spec.driver);
        let mut driver = driver::named(&library, self.spec.entrypoint.as_deref())?;
        let options = self.spec.options.iter();
        let options =
            options.map(|(key, value)| (OptionDatabase::from(key.as_str()), option_value(value)));
        let database = driver
            .new_database_with_opts(options)
            .map_err(|error| self.failed("The driver does not take its options", &error))?;
        Ok(Arc::clone(place.insert(Arc::new(database))))
    }

    /// A new connection.
    ///
    /// # Errors
    /// `Config` when there is no such driver or it refuses its options, `Transient` when the
    /// system cannot be reached.
    pub(crate) fn connect(&self) -> Result<Session> {
        let database = self.database()?;
        let system = System::Other(self.spec.driver.clone());
        // No row has been read: what the driver says holds no value, and what it was told is masked.
        let connection = database
            .new_connection()
            .map_err(|error| self.failed("The system cannot be reached", &error))?;
        let mut session = Session::over(connection, system);
        for (key, value) in &self.spec.connection_options {
            let key = OptionConnection::from(key.as_str());
            session
                .connection()
                .set_option(key, option_value(value))
                .map_err(|error| self.failed("The driver does not take an option", &error))?;
        }
        Ok(session.keeping(database))
    }

    /// How the system wants to be spoken to: what the user says, else what is known of it.
    pub(crate) fn manner(&self, session: &mut Session) -> Manner {
        let vendor = vendor(session).unwrap_or_default();
        let known = KNOWN
            .iter()
            .find(|known| vendor.to_ascii_lowercase().contains(&known.vendor.to_ascii_lowercase()));
        let spec = &self.spec;
        Manner {
            quote: spec
                .identifier_quote
                .clone()
                .unwrap_or_else(|| known.map_or('"', |known| known.quote).to_string()),
            parameter: spec.parameter.clone().or_else(|| known?.parameter.map(str::to_owned)),
            text: spec
                .text_columns
                .clone()
                .unwrap_or_else(|| known.map(|known| known.text.to_vec()).unwrap_or_default()),
        }
    }
}

impl Manner {
    /// A name as an identifier.
    pub(crate) fn quote(&self, name: &str) -> String {
        let (open, close) = match self.quote.as_str() {
            "[" | "[]" => ("[", "]"),
            quote => (quote, quote),
        };
        format!("{open}{}{close}", name.replace(close, &close.repeat(2)))
    }

    /// A table as a statement calls it.
    pub(crate) fn table(&self, catalog: Option<&str>, name: &TableName) -> String {
        let parts = [catalog, name.namespace.as_deref(), Some(&name.name)];
        let parts: Vec<_> = parts.into_iter().flatten().map(|part| self.quote(part)).collect();
        parts.join(".")
    }
}

/// The name that the driver gives the system; `None` where it gives none.
fn vendor(session: &mut Session) -> Option<String> {
    let codes = [InfoCode::VendorName].into_iter().collect();
    let reader = session.connection().get_info(Some(codes)).ok()?;
    text_info(reader)
}

fn text_info(reader: Box<dyn RecordBatchReader + Send>) -> Option<String> {
    for batch in reader {
        let batch = batch.ok()?;
        let names = batch.column_by_name("info_name")?.as_primitive_opt::<UInt32Type>()?.clone();
        let values = batch.column_by_name("info_value")?.as_union_opt()?.clone();
        for row in 0..batch.num_rows() {
            if names.value(row) != u32::from(&InfoCode::VendorName) || values.type_id(row) != 0 {
                continue;
            }
            let value = values.value(row);
            let text = value.as_string_opt::<i32>()?;
            return (text.len() == 1 && text.is_valid(0)).then(|| text.value(0).to_owned());
        }
    }
    None
}

/// The library in a folder (of a Python package), where the driver is one; else what was said.
fn library(driver: &str) -> String {
    let folder = Path::new(driver);
    if !folder.is_dir() {
        return driver.to_owned();
    }
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|extension| extension.to_str());
        name.contains("adbc_driver") && matches!(extension, Some("so" | "dylib" | "dll"))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(is_library).collect();
    found.sort();
    let library = found.into_iter().next().unwrap_or_else(|| folder.to_owned());
    library.canonicalize().unwrap_or(library).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(quote: &str) -> Manner {
        Manner { quote: quote.to_owned(), parameter: None, text: Vec::new() }
    }

    #[test]
    fn names_are_quoted_as_the_system_wants_it() {
        let name = TableName::in_namespace("s", "a\"b`c]d");
        assert_eq!(manner("\"").table(None, &name), "\"s\".\"a\"\"b`c]d\"");
        assert_eq!(manner("`").table(Some("p"), &name), "`p`.`s`.`a\"b``c]d`");
        assert_eq!(manner("[").table(None, &TableName::new("a]b")), "[a]]b]");
    }

    #[test]
    fn a_folder_of_a_python_package_leads_to_its_library() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("__init__.py"), "").unwrap();
        let file = folder.path().join("libadbc_driver_sqlite.so");
        std::fs::write(&file, "").unwrap();
        let found = library(folder.path().to_str().unwrap());
        assert_eq!(Path::new(&found), file.canonicalize().unwrap());
        assert_eq!(library("snowflake"), "snowflake");
    }
}
