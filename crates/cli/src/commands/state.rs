//! `highwater state`: looks at cursors, and changes them by hand.

use std::sync::Arc;

use clap::{Args, Subcommand};
use highwater_core::{
    Cursor, CursorKey, Error, LeaseRequest, Owner, State as Kept, StateStore, TableName,
};
use serde_json::{Value, json};

use super::exported;
use crate::args::{Global, PlaceArgs};
use crate::config::endpoints;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::{self, count};
use crate::plugins::Settings;
use crate::running::Running;
use crate::stores::{self, PluginCursors, Store};
use crate::{hints, inputs, report};

/// Show, set or forget the cursors of syncs
#[derive(Debug, Args)]
pub struct State {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with state.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List the syncs that have state
    List {
        /// Whose state; a destination alone is enough.
        #[command(flatten)]
        what: PlaceArgs,
    },
    /// Show the cursors
    Show {
        /// Whose state; a destination alone is enough.
        #[command(flatten)]
        what: PlaceArgs,
        /// Only this table; may be repeated
        #[arg(long = "table", value_name = "NAME")]
        tables: Vec<String>,
    },
    /// Set the cursor of a table by hand: the next sync goes on from there
    Set {
        /// Which one.
        #[command(flatten)]
        one: One,
        /// The table
        #[arg(long, value_name = "NAME")]
        table: String,
        /// The cursor as JSON, in the form that `state show --json` prints
        #[arg(long, value_name = "JSON")]
        to: String,
        /// The part of the table, where a source has a cursor for each
        #[arg(long, value_name = "PART", default_value = "")]
        part: String,
    },
    /// Forget the cursors of a table: the next sync begins at the beginning
    Reset {
        /// Which ones.
        #[command(flatten)]
        one: One,
        /// A table; may be repeated
        #[arg(long = "table", value_name = "NAME", required_unless_present = "all")]
        tables: Vec<String>,
        /// Forget all tables of the sync
        #[arg(long, conflicts_with = "tables")]
        all: bool,
        /// Also remove the rows that syncs have written to the tables, and their history
        #[arg(long)]
        clear: bool,
    },
}

/// The state of one sync that is changed.
#[derive(Debug, Args)]
pub struct One {
    /// Where.
    #[command(flatten)]
    pub what: PlaceArgs,
    /// The sync, where there are several
    #[arg(long, value_name = "NAME")]
    pub sync: Option<String>,
    /// The destination that keeps the state, where there are several
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// Take the lease from a run that is at work
    #[arg(long)]
    pub take_over: bool,
}

impl State {
    /// Does it.
    ///
    /// # Errors
    /// `Config` when it is not clear what is meant, `Fenced` when a run of the sync is at work.
    pub async fn run(self, global: &Global) -> Result<Exit> {
        match self.action {
            Action::List { what } => list(&what, global).await,
            Action::Show { what, tables } => show(&what, &tables, global).await,
            Action::Set { one, table, to, part } => {
                Box::pin(set(&one, &table, &to, &part, global)).await
            }
            Action::Reset { one, tables, clear: true, .. } => {
                super::clear::clear(&one, &tables, global).await
            }
            Action::Reset { one, tables, .. } => reset(&one, &tables, global).await,
        }
    }
}

async fn list(what: &PlaceArgs, global: &Global) -> Result<Exit> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    let stores = stores::stores(what, global).await?;
    for store in &stores {
        for sync in store.store()?.list().await? {
            let state = store.store()?.look(&sync).await?;
            let (tables, cursors) = (state.tables.len() as u64, state.cursors.len() as u64);
            rows.push(vec![sync.clone(), store.name.clone(), count(tables), count(cursors)]);
            values.push(json!({
                "sync": sync, "kept_at": store.name, "tables": tables, "cursors": cursors,
            }));
        }
    }
    if global.json {
        output::json(&values)?;
    } else if rows.is_empty() {
        output::result("There is no state.")?;
    } else {
        output::result(&output::table(&["SYNC", "KEPT AT", "TABLES", "CURSORS"], &rows))?;
    }
    plugin_notes(&stores);
    Ok(Exit::Success)
}

async fn show(what: &PlaceArgs, wanted: &[String], global: &Global) -> Result<Exit> {
    let is_wanted = |key: &CursorKey| {
        wanted.is_empty() || key.table().is_some_and(|t| wanted.iter().any(|w| *w == t.to_string()))
    };
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    let stores = stores::stores(what, global).await?;
    for own in stores.first().iter().flat_map(|store| &store.plugins) {
        // Only the plugin knows of which table a row of it is.
        let kept = if wanted.is_empty() { own.rows().await?.rows } else { Default::default() };
        for (key, row) in kept {
            let place = format!("{}, `{}`", own.destination, own.table);
            values.push(json!({
                "sync": own.sync, "kept_at": own.destination, "state_table": own.table,
                "key": key, "cursor": row.value,
            }));
            let position = report::cursor(&Cursor(Value::String(row.value)));
            rows.push(vec![own.sync.clone(), place, key, position]);
        }
    }
    for store in &stores {
        for (sync, mut state) in store.states().await? {
            state.cursors.retain(|key, _| is_wanted(key));
            for (key, position) in report::cursors(&state) {
                rows.push(vec![sync.clone(), store.name.clone(), key, position]);
            }
            values.extend(state.cursors.iter().map(|(key, cursor)| {
                json!({
                    "sync": sync,
                    "kept_at": store.name,
                    "table": key.table().map(ToString::to_string),
                    "part": key.partition(),
                    "cursor": cursor,
                })
            }));
        }
    }
    if global.json {
        output::json(&values)?;
    } else if rows.is_empty() {
        output::result("There is no cursor.")?;
    } else {
        output::result(&output::table(&["SYNC", "KEPT AT", "TABLE", "CURSOR"], &rows))?;
    }
    plugin_notes(&stores);
    Ok(Exit::Success)
}

/// Where the cursors of plugins are: not where those of built-in sources are.
fn plugin_notes(stores: &[Store]) {
    let Some(store) = stores.first() else { return };
    for own in &store.plugins {
        output::note(&format!("note: {}: The cursors are {}.", own.sync, own.place()));
    }
    for sync in &store.without_cursors {
        output::note(&format!(
            "note: {sync}: No cursors are kept, because the plugin has no `backend_options`."
        ));
    }
}

async fn set(one: &One, table: &str, to: &str, part: &str, global: &Global) -> Result<Exit> {
    let form = "copy the form that `highwater state show --json` prints";
    let cursor: Value = serde_json::from_str(to)
        .map_err(|error| Error::config("The cursor is not JSON").hint(form).caused_by(error))?;
    let rest = format!("set --table {} --to {}", hints::quoted(table), hints::quoted(to));
    let change = Change::open(one, &rest, global).await?;
    let written = async {
        let name = change.known_table(one, table, global).await?;
        let cursor = match change.is_of_airbyte(one)? {
            true => exported::unwrapped(cursor, &name)?,
            false => cursor,
        };
        let key = CursorKey::from_parts(Some(name), part);
        if let Some(present) = change.state.cursors.get(&key)
            && !is_alike(&present.0, &cursor)
        {
            let error = Error::config("The cursor has another form than the one it replaces");
            return Err(error.context("table", table).hint(form).into());
        }
        change.put(&[key], Some(&Cursor(cursor.clone()))).await?;
        Ok::<_, crate::failure::Failure>(cursor)
    };
    let written = written.await;
    change.close().await?;
    let cursor = written?;
    if global.json {
        output::json(&json!({
            "sync": change.sync, "kept_at": change.store.name,
            "table": table, "part": part, "cursor": cursor,
        }))?;
    } else {
        let words = format!("The next sync of {} goes on from there with {table}.", change.sync);
        output::result(&words)?;
    }
    Ok(Exit::Success)
}

/// The cursors of a plugin are rows that belong to the plugin: only it knows what they mean.
fn kept_by_plugin(own: &PluginCursors) -> Error {
    Error::unsupported("A plugin keeps its cursors itself, as rows of a table")
        .context("sync", &own.sync)
        .context("table", &own.table)
        .context("destination", &own.destination)
        .hint(format!("DELETE FROM {} at the destination: the next sync begins anew", own.table))
}

/// Whether a position can stand in the place of another: of the same kind, version and field.
fn is_alike(present: &Value, new: &Value) -> bool {
    match (present, new) {
        (Value::Object(present), Value::Object(new)) => {
            let keys = ["v", "kind", "field", "cursor_field"];
            keys.iter().all(|key| present.get(*key) == new.get(*key))
        }
        _ => std::mem::discriminant(present) == std::mem::discriminant(new),
    }
}

async fn reset(one: &One, tables: &[String], global: &Global) -> Result<Exit> {
    let rest = match tables {
        [] => "reset --all".to_owned(),
        _ => tables.iter().fold("reset".to_owned(), |all, table| {
            format!("{all} --table {}", hints::quoted(table))
        }),
    };
    let change = Change::open(one, &rest, global).await?;
    let forgotten = change.forget(tables).await;
    change.close().await?;
    let count = forgotten?;
    if global.json {
        output::json(&json!({
            "sync": change.sync, "kept_at": change.store.name,
            "tables": tables, "forgotten": count,
        }))?;
        return Ok(Exit::Success);
    }
    let words = match (count, tables.is_empty()) {
        (0, _) => "There was no state to forget.".to_owned(),
        (_, true) => format!("The next sync of {} begins at the beginning.", change.sync),
        (_, false) => format!(
            "The next sync of {} begins at the beginning with {}.",
            change.sync,
            tables.join(", ")
        ),
    };
    output::result(&words)?;
    Ok(Exit::Success)
}

/// A sync's state, with its lease held.
struct Change {
    store: Arc<Store>,
    sync: String,
    state: Kept,
}

impl Change {
    /// `rest` is the action and its flags, for the hint where it is not clear whose state is meant.
    async fn open(one: &One, rest: &str, global: &Global) -> Result<Self> {
        let is_meant = |wanted: &Option<String>, name: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == name)
        };
        let mut found = Vec::new();
        for store in stores::stores(&one.what, global).await? {
            if !is_meant(&one.destination, &store.name) {
                continue;
            }
            let store = Arc::new(store);
            for (sync, _) in store.states().await? {
                if is_meant(&one.sync, &sync) {
                    found.push((Arc::clone(&store), sync));
                }
            }
        }
        for (store, sync) in &found {
            if let Some(own) = store.plugins.iter().find(|own| own.sync == *sync) {
                return Err(kept_by_plugin(own).into());
            }
        }
        let (action, flags) = rest.split_once(' ').unwrap_or((rest, ""));
        let command = format!("highwater state {action} {}", hints::pasted(&one.what));
        match found.as_slice() {
            [(store, sync)] => Self::lease(Arc::clone(store), sync.clone(), one.take_over).await,
            [] => Err(Error::config("There is no such sync")
                .hint("`highwater state list` shows them")
                .into()),
            [(first, sync), others @ ..] => {
                let has_one_sync = others.iter().all(|(_, other)| other == sync);
                let (what, flag) = match has_one_sync {
                    true => ("The sync has state at several destinations", "--destination"),
                    false => ("There are several syncs", "--sync"),
                };
                let name = |(store, sync): &(Arc<Store>, String)| match has_one_sync {
                    true => hints::quoted(&store.name),
                    false => hints::quoted(sync),
                };
                let mut names: Vec<String> = others.iter().map(name).collect();
                names.dedup();
                let first = name(&(Arc::clone(first), sync.clone()));
                names.retain(|name| *name != first);
                let names = names.join(", ");
                Err(Error::config(what)
                    .hint(format!("{command} {flag} {first} {flags}   # or: {names}"))
                    .into())
            }
        }
    }

    async fn lease(store: Arc<Store>, sync: String, take_over: bool) -> Result<Self> {
        let request = LeaseRequest { owner: Owner::this_process(), take_over };
        let state = store.store()?.open(&sync, &request).await?;
        Ok(Self { store, sync, state })
    }

    fn store(&self) -> Result<&dyn StateStore> {
        self.store.store()
    }

    /// The table of that name among those that have state.
    fn table(&self, name: &str) -> Option<TableName> {
        let cursors = self.state.cursors.keys().filter_map(CursorKey::table);
        cursors.chain(self.state.tables.keys()).find(|t| t.to_string() == name).cloned()
    }

    /// As [`Self::table`], or one of the source's, where there is a source.
    async fn known_table(&self, one: &One, name: &str, global: &Global) -> Result<TableName> {
        if let Some(table) = self.table(name) {
            return Ok(table);
        }
        let mut known: Vec<TableName> = self.state.tables.keys().cloned().collect();
        let is_store_alone =
            matches!(one.what.what.as_slice(), [only] if endpoints::is_endpoint(only));
        if !is_store_alone {
            let config = inputs::config(&one.what.to_sync_args())?;
            for section in &config.sources {
                let (mut plugins, settings) = (Running::default(), Settings::new(global));
                let source = plugins.source(&config, section, &settings).await?;
                let tables = source.discover(None).await?;
                known.extend(tables.into_iter().map(|table| table.name));
            }
        }
        if let Some(table) = known.iter().find(|table| table.to_string() == name) {
            return Ok(table.clone());
        }
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        Err(Error::config("There is no such table")
            .context("table", name)
            .hint(crate::config::de::one_of(name, &known))
            .into())
    }

    /// Whether the source of the sync is a connector of Airbyte, as far as a configuration says so.
    fn is_of_airbyte(&self, one: &One) -> Result<bool> {
        if matches!(one.what.what.as_slice(), [only] if endpoints::is_endpoint(only)) {
            return Ok(false);
        }
        let config = inputs::config(&one.what.to_sync_args())?;
        let mut of_sync = config.sources.iter().filter(|section| section.spec.name == self.sync);
        Ok(of_sync.any(|section| section.driver.is_airbyte()))
    }

    async fn put(&self, keys: &[CursorKey], cursor: Option<&Cursor>) -> Result<()> {
        let Some(fence) = &self.state.fence else {
            return Err(Error::internal("The state store gave no fence").into());
        };
        for key in keys {
            self.store()?.set(fence, key, cursor).await?;
        }
        Ok(())
    }

    /// Forgets tables, all for none; how many there were.
    async fn forget(&self, names: &[String]) -> Result<usize> {
        let known: std::collections::BTreeSet<TableName> = self
            .state
            .cursors
            .keys()
            .filter_map(CursorKey::table)
            .chain(self.state.tables.keys())
            .cloned()
            .collect();
        let mut forgotten = 0;
        for name in names {
            if !known.iter().any(|t| t.to_string() == *name) {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                let hint = match known.is_empty() {
                    true => "no table of the sync has any: there is nothing to forget".to_owned(),
                    false => crate::config::de::one_of(name, &known),
                };
                let error = Error::config("The table has no state").context("table", name);
                return Err(error.hint(hint).into());
            }
        }
        for table in known.iter().filter(|t| names.is_empty() || names.contains(&t.to_string())) {
            let mut keys: Vec<CursorKey> = self.state.cursors_of(table).into_keys().collect();
            // The record goes with the cursor of the whole table, also where there is none.
            keys.push(CursorKey::Table(table.clone()));
            self.put(&keys, None).await?;
            forgotten += 1;
        }
        if names.is_empty() && self.state.cursors.contains_key(&CursorKey::Global) {
            self.put(&[CursorKey::Global], None).await?;
            forgotten += 1;
        }
        Ok(forgotten)
    }

    async fn close(&self) -> Result<()> {
        match &self.state.fence {
            Some(fence) => Ok(self.store()?.release(fence).await?),
            None => Ok(()),
        }
    }
}
