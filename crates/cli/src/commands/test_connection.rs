//! `highwater test-connection`: whether every system can be reached with what is configured.

use clap::Args;
use highwater_core::{Error, Result as CoreResult};
use serde_json::{Value, json};

use crate::args::{Global, PlaceArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::{inputs, jobs, output};

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
        for section in &config.sources {
            let source = jobs::source(section).await?;
            let checked = source.check().await;
            tests.add("source", &section.spec.name, &checked);
            if let Err(error) = checked {
                tests.show(&section.connector_failure(error), global);
            }
        }
        for section in &config.destinations {
            let destination = jobs::destination(section).await?;
            let checked = destination.check().await;
            tests.add("destination", &section.spec.name, &checked);
            if let Err(error) = checked {
                tests.show(&section.connector_failure(error), global);
            }
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
    fn add(&mut self, kind: &str, name: &str, checked: &CoreResult<()>) {
        let error = checked.as_ref().err();
        let result = if error.is_some() { "failed" } else { "ok" };
        self.rows.push(vec![kind.to_owned(), name.to_owned(), result.to_owned()]);
        self.values.push(json!({
            "kind": kind,
            "name": name,
            "success": error.is_none(),
            "error": error.map(Error::full_message),
            "hint": error.and_then(Error::hint_text),
        }));
    }

    fn show(&mut self, failure: &Failure, global: &Global) {
        self.exit = self.exit.max(Exit::of_error(failure.kind()));
        output::failure(failure, global.log_format == crate::args::LogFormat::Json);
    }
}
