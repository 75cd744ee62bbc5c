//! `highwater state reset --clear`: removes the rows of tables with their positions.

use highwater_core::Error;
use highwater_engine::refresh::{Choice, Done};
use serde_json::json;

use super::state::One;
use super::{at_table, upkeep};
use crate::args::Global;
use crate::config::{Config, endpoints};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::{self, count};
use crate::plugins::Settings;
use crate::{hints, inputs};

/// Removes what the sync has written to its tables at a destination, all of them for none, and
/// forgets their positions.
///
/// # Errors
/// `Config` when it is not clear what is meant, `Unsupported` where rows cannot be removed,
/// `Fenced` when a run of the sync is at work.
pub(super) async fn clear(one: &One, tables: &[String], global: &Global) -> Result<Exit> {
    if one.what.what.iter().any(|word| endpoints::is_endpoint(word)) {
        return Err(Error::config(
            "`--clear` needs a configuration file: it says how the tables are written, and so \
             where their rows are",
        )
        .hint("`highwater init SOURCE DESTINATION` writes one")
        .into());
    }
    let config = inputs::config(&one.what.to_sync_args())?;
    let settings = Settings::new(global);
    upkeep::known_destination(&config, one.destination.as_deref())?;
    let syncs = upkeep::syncs(&config, one.sync.as_deref(), &settings).await?;
    let cleared = of_one(&config, one, tables, &syncs).await;
    upkeep::close(&syncs).await;
    let (sync, all) = cleared?;
    if global.json {
        let values = all.iter().map(|done| {
            json!({
                "sync": sync, "destination": done.destination,
                "table": done.table.to_string(), "rows_removed": done.what,
            })
        });
        output::json(&values.collect::<Vec<_>>())?;
        return Ok(Exit::Success);
    }
    let row =
        |done: &Done<u64>| vec![done.table.to_string(), done.destination.clone(), count(done.what)];
    let rows: Vec<_> = all.iter().map(row).collect();
    output::result(&output::table(&["TABLE", "DESTINATION", "REMOVED"], &rows))?;
    Ok(Exit::Success)
}

async fn of_one(
    config: &Config,
    one: &One,
    tables: &[String],
    syncs: &[upkeep::Sync<'_>],
) -> Result<(String, Vec<Done<u64>>)> {
    let (section, job) = match syncs {
        [(section, job)] => (section, job),
        _ => {
            let names = config.sources.iter().map(|source| source.spec.name.clone()).collect();
            return Err(unclear("There are several syncs", "--sync", names, one, tables));
        }
    };
    if job.request.targets.len() > 1 && one.destination.is_none() {
        let names = job.request.targets.iter().map(|target| target.name.clone()).collect();
        return Err(unclear(
            "The sync has several destinations",
            "--destination",
            names,
            one,
            tables,
        ));
    }
    upkeep::no_plugin(section)?;
    let mut all = Vec::new();
    for chosen in upkeep::chosen(syncs, tables).await? {
        let choice = Choice {
            tables: chosen.tables,
            destination: one.destination.clone(),
            take_over: one.take_over,
        };
        let done = chosen.upkeep.clear(&choice).await;
        all.extend(done.map_err(|error| at_table(section, error))?);
    }
    Ok((section.spec.name.clone(), all))
}

fn unclear(what: &str, flag: &str, names: Vec<String>, one: &One, tables: &[String]) -> Failure {
    let which = match tables {
        [] => "--all".to_owned(),
        _ => tables
            .iter()
            .map(|t| format!("--table {}", hints::quoted(t)))
            .collect::<Vec<_>>()
            .join(" "),
    };
    let command = format!("highwater state reset {} {which} --clear", hints::pasted(&one.what));
    let (first, others) = names.split_first().map_or(("", &[][..]), |(f, o)| (f.as_str(), o));
    let others: Vec<String> = others.iter().map(|name| hints::quoted(name)).collect();
    Error::config(what)
        .hint(format!("{command} {flag} {}   # or: {}", hints::quoted(first), others.join(", ")))
        .into()
}
