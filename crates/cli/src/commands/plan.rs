//! `highwater plan`: what a sync would read, write and alter. Nothing is touched.

use clap::Args;
use highwater_core::{Destination, TablePlan};
use highwater_engine::{Planned, Target};
use serde_json::{Value, json};

use super::{at_job, at_table, lengths};
use crate::args::{Global, LogFormat, SyncArgs};
use crate::config::check;
use crate::config::spec::SourceSpec;
use crate::exit::Exit;
use crate::failure::Result;
use crate::jobs;
use crate::plugins::Settings;
use crate::{hints, inputs, output};

/// Show what a sync would read, write and alter; nothing is touched
#[derive(Debug, Args)]
pub struct Plan {
    /// What to plan.
    #[command(flatten)]
    pub what: SyncArgs,
    /// Plan a sync that creates and alters no table
    #[arg(long)]
    pub no_migrate: bool,
}

impl Plan {
    /// Plans the syncs of all sources; the worst end counts.
    ///
    /// # Errors
    /// `Config` or `Unsupported` for what cannot be done as asked.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        let config = inputs::config(&self.what)?;
        let settings = Settings { may_migrate: !self.no_migrate, ..Settings::new(global) };
        let (mut exit, mut text, mut syncs) = (Exit::Success, String::new(), Vec::new());
        for section in &config.sources {
            let job = jobs::job(&config, section, &settings).await?;
            let plans = highwater_engine::plan(job.source.as_ref(), &job.request).await;
            job.plugins.close().await;
            let plans = match plans {
                Ok(plans) => plans,
                Err(error) => {
                    let end = Exit::of_error(error.kind());
                    let failure = at_job(section, &job, error).await;
                    if end == Exit::Usage {
                        return Err(failure);
                    }
                    output::failure(&failure, global.log_format == LogFormat::Json);
                    exit = exit.max(end);
                    continue;
                }
            };
            lengths::planned(section, &plans)?;
            let backend = check::backend(&config, section)?.map(|b| b.spec.name.as_str());
            let own = section.driver.is_plugin().then(|| kept_by_plugin(&section.spec, backend));
            let mut destinations = Vec::new();
            for (target, planned) in job.request.targets.iter().zip(plans) {
                text.push_str(&words(target, &planned, backend, own.as_deref()));
                destinations.push(values(target, &planned));
                for refused in planned.refused {
                    exit = exit.max(Exit::of_error(refused.error.kind()));
                    let failure = at_table(section, refused.error);
                    output::failure(&failure, global.log_format == LogFormat::Json);
                }
            }
            syncs.push(json!({ "sync": section.spec.name, "destinations": destinations }));
        }
        if global.json {
            output::json(&json!({ "exit_code": exit.code(), "syncs": syncs }))?;
        } else if !text.is_empty() {
            output::result(text.trim_end())?;
        }
        Ok(exit)
    }
}

/// The statements that a sync would run for a table.
pub fn ddl(destination: &dyn Destination, plan: &TablePlan) -> Vec<String> {
    plan.changes.iter().flat_map(|change| destination.ddl(plan, change)).collect()
}

/// Where a plugin has its cursors.
fn kept_by_plugin(source: &SourceSpec, backend: Option<&str>) -> String {
    match (&source.backend_options, backend) {
        (Some(options), Some(backend)) => {
            let table = &options.table_name;
            format!("cursors are kept by the plugin as rows of `{table}` at `{backend}`")
        }
        _ => "no cursors are kept: the plugin has no `backend_options`".to_owned(),
    }
}

fn words(target: &Target, planned: &Planned, backend: Option<&str>, own: Option<&str>) -> String {
    let plan = &planned.plan;
    let kept = match (own, backend) {
        (Some(own), _) => own.to_owned(),
        (None, Some(backend)) if !plan.state_with_data => {
            format!("cursors are kept at {backend}, in highwater's own tables")
        }
        (None, _) => "cursors are kept with the rows".to_owned(),
    };
    let mut out = format!("{} → {} ({kept})\n\n", plan.sync, target.name);
    for table in plan.tables.values() {
        let mut lines = vec![("read", read_words(table)), ("write", write_words(table))];
        lines.push(("guarantee", table.guarantee.to_string()));
        lines.extend(table.notes.iter().map(|note| ("note", note.clone())));
        for statement in ddl(target.destination.as_ref(), table) {
            lines.push(("ddl", statement));
        }
        out.push_str(&format!("{} → {}\n", table.name(), table.target.name));
        for (title, text) in lines {
            let indented = text.replace('\n', "\n             ");
            out.push_str(&format!("  {title:<10} {indented}\n"));
        }
        out.push('\n');
    }
    if let Some(quarantine) = &planned.quarantine {
        out.push_str(&format!("rows whose mapping fails → {}\n", quarantine.target.name));
        for statement in ddl(target.destination.as_ref(), quarantine) {
            out.push_str(&format!(
                "  {:<10} {}\n",
                "ddl",
                statement.replace('\n', "\n             ")
            ));
        }
        out.push('\n');
    }
    for refused in &planned.refused {
        let (table, target) = (refused.table.name(), &refused.table.target.name);
        out.push_str(&format!("{table} → {target}\n  refused    {}\n\n", refused.error));
    }
    out
}

fn read_words(table: &TablePlan) -> String {
    match &table.cursor_field {
        Some(cursor) => format!("{}, cursor {cursor}", table.read_mode),
        None => table.read_mode.to_string(),
    }
}

fn write_words(table: &TablePlan) -> String {
    let key = &table.target.primary_key;
    if key.is_empty() {
        format!("{}, no primary key", table.write_mode)
    } else {
        format!("{}, primary key {}", table.write_mode, key.join(", "))
    }
}

fn values(target: &Target, planned: &Planned) -> Value {
    let plan = &planned.plan;
    let refused: Vec<Value> = planned
        .refused
        .iter()
        .map(|refused| {
            json!({
                "table": refused.table.name().to_string(),
                "target": refused.table.target.name.to_string(),
                "error": refused.error.full_message(),
                "hint": refused.error.hint_text().map(|hint| hints::completed(hint, Some(&refused.table.name().to_string()), None)),
            })
        })
        .collect();
    let tables: Vec<Value> = plan
        .tables
        .values()
        .map(|table| {
            json!({
                "table": table.name().to_string(),
                "target": table.target.name.to_string(),
                "read_mode": table.read_mode,
                "write_mode": table.write_mode,
                "primary_key": table.target.primary_key,
                "cursor_field": table.cursor_field,
                "null_cursor": table.null_cursor,
                "lookback": table.lookback,
                "guarantee": table.guarantee.to_string(),
                "notes": table.notes,
                "ddl": ddl(target.destination.as_ref(), table),
            })
        })
        .collect();
    let mut values = json!({
        "destination": target.name,
        "state_with_data": plan.state_with_data,
        "tables": tables,
        "refused": refused,
    });
    if let Some(quarantine) = &planned.quarantine {
        values["quarantine"] = json!({
            "target": quarantine.target.name.to_string(),
            "ddl": ddl(target.destination.as_ref(), quarantine),
        });
    }
    values
}
