//! `highwater test-connection`: whether every system can be reached with what is configured.

use clap::Args;
use highwater_core::{Error, ErrorKind, Result as CoreResult};
use serde_json::{Value, json};

use crate::args::{Global, PlaceArgs};
use crate::config::Section;
use crate::config::spec::Document;
use crate::exit::Exit;
use crate::failure::Result;
use crate::plugins::Settings;
use crate::running::Running;
use crate::{inputs, output};

/// CloudQuery's word for a plugin that has no test of its connection.
const UNIMPLEMENTED: &str = "UNIMPLEMENTED";

/// Check that every source can be read and every destination written
#[derive(Debug, Args)]
pub struct TestConnection {
    /// What to test.
    #[command(flatten)]
    pub what: PlaceArgs,
}

impl TestConnection {
    /// Checks every source and destination, also after one failed; the worst end counts.
    ///
    /// # Errors
    /// `Config` or `Unsupported` for a wrong configuration.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = inputs::any_config(&self.what.to_sync_args())?;
        let mut tests = Tests { exit: Exit::Success, rows: Vec::new(), values: Vec::new() };
        let settings = Settings::new(global);
        for section in &config.sources {
            let mut plugins = Running::default();
            let source = plugins.source(&config, section, &settings).await?;
            let checked = source.check().await;
            plugins.close().await;
            tests.add(section, "source", checked, global);
        }
        for section in &config.destinations {
            let mut plugins = Running::default();
            let destination = plugins.destination(section, &settings).await?;
            let checked = destination.check().await;
            plugins.close().await;
            tests.add(section, "destination", checked, global);
        }
        if global.json {
            output::json(&tests.values)?;
        } else {
            output::result(&output::table(&["KIND", "NAME", "RESULT"], &tests.rows))?;
        }
        Ok(tests.exit)
    }
}

struct Tests {
    exit: Exit,
    rows: Vec<Vec<String>>,
    values: Vec<Value>,
}

impl Tests {
    fn add<S: Document>(
        &mut self,
        section: &Section<S>,
        kind: &str,
        checked: CoreResult<()>,
        global: &Global,
    ) {
        let name = section.spec.name().to_owned();
        let error = checked.as_ref().err();
        let is_unknown = section.driver.is_plugin()
            && error.is_some_and(|error| error.kind() == ErrorKind::Unsupported);
        let code = match error {
            Some(_) if is_unknown => Some(UNIMPLEMENTED),
            Some(error) => error.context_value("code"),
            None => None,
        };
        let result = if error.is_some() { "failed" } else { "ok" };
        self.rows.push(vec![kind.to_owned(), name.clone(), result.to_owned()]);
        self.values.push(json!({
            "kind": kind,
            "name": name,
            "success": error.is_none(),
            "failure_code": code,
            "error": error.map(Error::full_message),
            "hint": error.and_then(Error::hint_text),
        }));
        let Err(error) = checked else { return };
        // That a plugin cannot tell is no fault of the configuration.
        let exit = if is_unknown { Exit::Failed } else { Exit::of_error(error.kind()) };
        self.exit = self.exit.max(exit);
        let is_json = global.log_format == crate::args::LogFormat::Json;
        output::failure(&section.connector_failure(error), is_json);
    }
}
