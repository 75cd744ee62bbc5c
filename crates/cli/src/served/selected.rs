//! The tables that a plugin is asked for, and their rows, through the engine.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_cloudquery::serve::backend::Backend;
use highwater_cloudquery::serve::{Selection, SyncOutput, SyncRequest};
use highwater_cloudquery::wire::wire_name;
use highwater_core::{Error, ReadMode, Result, Source, Table, TableName, WriteMode};
use highwater_engine::selection::{closest, matches};
use highwater_engine::{
    Failure, RunOptions, Silent, StopSignal, Summary, SyncRequest as EngineRequest, TableOptions,
    Target,
};

use super::outlet::{Outlet, announced};
use super::settings::Settings;
use crate::jobs;

/// The tables, as they would be sent.
///
/// # Errors
/// `Config` for a pattern that matches nothing; what the source says.
pub(super) async fn tables(settings: &Settings, selection: &Selection) -> Result<Vec<Table>> {
    let source = settings.source().await?;
    let options = options(settings, &source, selection, None, true).await?;
    if options.is_empty() {
        return Ok(Vec::new());
    }
    let outlet = Arc::new(Outlet::silent());
    let request = request(options, outlet);
    let planned = highwater_engine::plan(source.as_ref(), &request).await;
    let closed = source.close().await;
    let planned = planned?;
    closed?;
    let mut tables = Vec::new();
    for planned in planned {
        if let Some(refused) = planned.refused.into_iter().next() {
            return Err(refused.error);
        }
        tables.extend(planned.plan.tables.values().map(announced));
    }
    Ok(tables)
}

/// Sends tables and rows; then, when all were taken, keeps the cursors.
///
/// # Errors
/// What concerns the source as a whole; a table's failure where it must not be a message.
pub(super) async fn sync(
    settings: &Settings,
    asked: SyncRequest,
    output: SyncOutput,
) -> Result<()> {
    let backend = match &asked.backend {
        Some(backend) => Some(Backend::open(backend).await?),
        None => None,
    };
    let source = settings.source().await?;
    let is_incremental = backend.is_some();
    let options = options(settings, &source, &asked.selection, asked.shard, is_incremental).await?;
    if options.is_empty() {
        return Ok(());
    }
    let names = options.iter().map(|(name, _)| name.clone()).collect();
    let system = match is_incremental {
        true => settings.system(source.as_ref()).await?,
        false => String::new(),
    };
    let with_checkpoints = asked.with_checkpoints;
    let outlet = Arc::new(Outlet::new(output.clone(), backend, with_checkpoints, system, names));
    let request = request(options, Arc::clone(&outlet));
    let run = RunOptions {
        take_over: false,
        tasks_max: std::thread::available_parallelism().map_or(4, |n| n.get()),
        stop: StopSignal::default(),
        observer: Arc::new(Silent),
    };
    let summary = highwater_engine::sync(source, &request, &run).await?;
    let mut failed = None;
    for (table, failure) in failures(&summary) {
        match table {
            Some(table) if asked.with_error_messages => {
                output.failed(table, &words(failure)).await?;
            }
            _ => drop(failed.get_or_insert_with(|| error(failure))),
        }
    }
    output.taken().await?;
    let complete: BTreeSet<TableName> = summary
        .destinations
        .iter()
        .flat_map(|d| d.tables.iter().filter(|table| table.complete))
        .map(|table| table.table.clone())
        .collect();
    outlet.keep_cursors(&complete).await?;
    failed.map_or(Ok(()), Err)
}

fn request(tables: Vec<(TableName, TableOptions)>, outlet: Arc<Outlet>) -> EngineRequest {
    EngineRequest {
        sync: "plugin".to_owned(),
        tables: tables.into_iter().map(|(_, options)| options).collect(),
        skip_tables: Vec::new(),
        targets: vec![Target {
            write_mode: WriteMode::Overwrite,
            ..Target::new("the caller", outlet)
        }],
        state_table: None,
    }
}

/// The tables that are asked for, each by its whole name, with its own settings.
async fn options(
    settings: &Settings,
    source: &Arc<dyn Source>,
    selection: &Selection,
    shard: Option<(u32, u32)>,
    is_incremental: bool,
) -> Result<Vec<(TableName, TableOptions)>> {
    let patterns: Vec<String> = match &selection.tables[..] {
        [] => vec!["*".to_owned()],
        given => given.to_vec(),
    };
    let wanted: Vec<String> = patterns
        .iter()
        .chain(&selection.skip_tables)
        .chain(settings.table_options.keys())
        .flat_map(|pattern| spellings(pattern))
        .collect();
    let discovered = source.discover(Some(&wanted)).await?;
    let selected = select(&discovered, &patterns, selection)?;
    let selected = selected.into_iter().filter(|table| match shard {
        Some((num, total)) => part_of(&wire_name(&table.name), total) == num,
        None => true,
    });
    let options = selected.map(|table| {
        let own = &settings.table_options;
        let exact = own.iter().find(|(name, _)| !name.contains('*') && named(name, &table.name));
        let found = exact.or_else(|| own.iter().find(|(name, _)| named(name, &table.name)));
        let mut options =
            found.map_or_else(TableOptions::default, |(_, own)| jobs::table_options(own));
        options.name = table.name.to_string();
        // How rows are written is the caller's business.
        options.write_mode = None;
        options.history_retention_seconds = None;
        if !is_incremental {
            options.read_mode = Some(ReadMode::FullRefresh);
        }
        (table.name.clone(), options)
    });
    Ok(options.collect())
}

/// A pattern may name a table as it is on the wire, where its namespace is part of the name.
fn spellings(pattern: &str) -> Vec<String> {
    let mut spellings = vec![pattern.to_owned(), format!("*.{pattern}")];
    for (at, _) in pattern.match_indices('_') {
        spellings.push(format!("{}.{}", &pattern[..at], &pattern[at + 1..]));
    }
    spellings
}

fn named(pattern: &str, table: &TableName) -> bool {
    matches(pattern, table) || matches(pattern, &TableName::new(wire_name(table)))
}

/// # Errors
/// `Config` for a pattern that matches nothing.
fn select<'a>(
    discovered: &'a [Table],
    patterns: &[String],
    selection: &Selection,
) -> Result<Vec<&'a Table>> {
    let given = selection.tables.iter().map(|p| ("tables", p));
    for (key, pattern) in given.chain(selection.skip_tables.iter().map(|p| ("skip_tables", p))) {
        if !discovered.iter().any(|table| named(pattern, &table.name)) {
            let names: Vec<String> =
                discovered.iter().map(|t| wire_name(&t.name).into_owned()).collect();
            let error = Error::config("A pattern matches no table")
                .context("key", key)
                .context("pattern", pattern);
            return Err(match closest(pattern, &names) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        }
    }
    let skipped = |table: &Table| selection.skip_tables.iter().any(|p| named(p, &table.name));
    let mut selected: BTreeSet<&TableName> = discovered
        .iter()
        .filter(|table| patterns.iter().any(|pattern| named(pattern, &table.name)))
        .filter(|table| !skipped(table))
        .map(|table| &table.name)
        .collect();
    // Those that depend on a chosen one, and those that depend on these.
    let dependent = |selected: &BTreeSet<&TableName>| {
        discovered.iter().find(|table| {
            table.parent.as_ref().is_some_and(|parent| selected.contains(parent))
                && !selected.contains(&table.name)
                && !skipped(table)
                && !selection.skip_dependent_tables
        })
    };
    while let Some(table) = dependent(&selected) {
        selected.insert(&table.name);
    }
    Ok(discovered.iter().filter(|table| selected.contains(&table.name)).collect())
}

/// Which part of `total` a table belongs to, from 1: the same one in every process and version.
fn part_of(name: &str, total: u32) -> u32 {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u32::try_from(hash % u64::from(total.max(1))).unwrap_or(0) + 1
}

/// What went wrong, with the table where it is one table's failure.
fn failures(summary: &Summary) -> Vec<(Option<&TableName>, &Failure)> {
    let mut failures = Vec::new();
    for destination in &summary.destinations {
        failures.extend(destination.error.as_ref().map(|error| (None, error)));
        for table in &destination.tables {
            failures.extend(table.error.as_ref().map(|error| (Some(&table.target), error)));
        }
    }
    failures
}

fn error(failure: &Failure) -> Error {
    let error = Error::new(failure.kind, &failure.message);
    match &failure.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn words(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{}; hint: {hint}", failure.message),
        None => failure.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Vec<Table> {
        let table = |name: TableName| Table::new(name, vec![]);
        let mut child = table(TableName::new("order_lines"));
        child.parent = Some(TableName::in_namespace("public", "orders"));
        vec![
            table(TableName::in_namespace("public", "orders")),
            table(TableName::in_namespace("shop", "orders")),
            child,
        ]
    }

    fn selected(tables: &[&str], skip: &[&str], skip_dependent: bool) -> Result<Vec<String>> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let selection = Selection {
            tables: texts(tables),
            skip_tables: texts(skip),
            skip_dependent_tables: skip_dependent,
        };
        let discovered = self::tables();
        let selected = select(&discovered, &selection.tables, &selection)?;
        Ok(selected.iter().map(|table| wire_name(&table.name).into_owned()).collect())
    }

    #[test]
    fn tables_are_chosen_by_their_names_on_the_wire_or_at_the_source() {
        for pattern in ["orders", "public.orders", "or*s"] {
            let found = selected(&[pattern], &[], true).unwrap();
            assert!(found.contains(&"orders".to_owned()), "{pattern}: {found:?}");
        }
        assert_eq!(selected(&["shop_orders"], &[], true).unwrap(), ["shop_orders"]);
        assert_eq!(selected(&["orders"], &[], false).unwrap(), ["orders", "order_lines"]);
        assert_eq!(selected(&["orders"], &["order_l*"], false).unwrap(), ["orders"]);
        for (tables, skip) in [(&["nowhere"][..], &[][..]), (&["*"], &["nowhere*"])] {
            let error = selected(tables, skip, true).unwrap_err();
            assert!(error.to_string().contains("nowhere"), "{error}");
        }
    }

    #[test]
    fn every_table_is_in_one_part_and_stays_there() {
        let names: Vec<String> = (0..100).map(|n| format!("table_{n}")).collect();
        let parts: BTreeSet<u32> = names.iter().map(|name| part_of(name, 4)).collect();
        assert_eq!(parts, (1..=4).collect());
        assert_eq!(part_of("orders", 5), 3);
    }
}
