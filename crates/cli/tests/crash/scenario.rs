//! One scenario: two systems, two tables that change, and a sync that dies along the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use highwater_core::{ReadMode, WriteMode};
use highwater_testkit::crash::{CRASHED, CrashAt, Deliveries, Ended, Program, Shop};
use highwater_testkit::sdk;
use tempfile::TempDir;

use super::systems::{DuckDb, JsonLines, PostgreSql, Sqlite, System};

/// Where rows come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    SqliteToSqlite,
    SqliteToDuckDb,
    PostgresToPostgres,
    /// The first read of a table is committed in several parts.
    PostgresToPostgresInRounds,
    /// The files' own commit log keeps the state.
    SqliteToFiles,
    /// The state is kept in a database beside the files.
    SqliteToFilesStateApart,
    /// A plugin that keeps its cursors as rows of a table at the destination.
    PluginToSqlite,
    /// The same, with that table in a database beside the destination.
    PluginToSqliteStateApart,
    /// A destination plugin, which keeps highwater's cursors too.
    SqliteToPlugin,
    /// Plugins at both ends.
    PluginToPlugin,
    /// A source connector of Airbyte's protocol.
    ConnectorToSqlite,
    ConnectorToPostgres,
}

/// The plugins of these pairs are this very program, called by another name.
const PLUGIN: &str = "highwater-sqlite";

impl Pair {
    /// Every pair with every write mode that its destination has.
    pub fn all() -> Vec<(Self, WriteMode)> {
        let files = [WriteMode::Append, WriteMode::Replace];
        let mut all = Vec::new();
        for pair in [Self::SqliteToSqlite, Self::PostgresToPostgres] {
            all.extend(WriteMode::ALL.iter().map(|mode| (pair, *mode)));
        }
        let test = "every_crash_point_in_every_write_mode_loses_and_doubles_nothing, into DuckDB";
        if sdk::or_skip(test, sdk::duckdb()).is_some() {
            all.extend(WriteMode::ALL.iter().map(|mode| (Self::SqliteToDuckDb, *mode)));
        }
        for pair in [Self::SqliteToFiles, Self::SqliteToFilesStateApart] {
            all.extend(files.map(|mode| (pair, mode)));
        }
        let modes = [
            WriteMode::Append,
            WriteMode::AppendDedup,
            WriteMode::Replace,
            WriteMode::ReplaceDedup,
        ];
        all.extend(modes.map(|mode| (Self::ConnectorToSqlite, mode)));
        let modes = [WriteMode::Append, WriteMode::AppendDedup];
        all.extend(modes.map(|mode| (Self::ConnectorToPostgres, mode)));
        for pair in Self::WITH_PLUGINS {
            let modes = [WriteMode::Append, WriteMode::Overwrite, WriteMode::OverwriteDeleteStale];
            all.extend(modes.map(|mode| (pair, mode)));
        }
        all
    }

    const WITH_PLUGINS: [Self; 4] = [
        Self::PluginToSqlite,
        Self::PluginToSqliteStateApart,
        Self::SqliteToPlugin,
        Self::PluginToPlugin,
    ];

    /// Whether a first read has several commits, and goes on where it died.
    pub fn has_rounds(self) -> bool {
        self == Self::PostgresToPostgresInRounds
    }

    /// Whether other processes take part, which crash by themselves.
    pub fn has_plugins(self) -> bool {
        Self::WITH_PLUGINS.contains(&self) || self.has_connectors()
    }

    fn has_connectors(self) -> bool {
        matches!(self, Self::ConnectorToSqlite | Self::ConnectorToPostgres)
    }

    fn reads_by_plugin(self) -> bool {
        Self::WITH_PLUGINS.contains(&self) && self != Self::SqliteToPlugin
    }

    fn writes_by_plugin(self) -> bool {
        matches!(self, Self::SqliteToPlugin | Self::PluginToPlugin)
    }
}

/// Both systems, the tables as they should be, and the command that syncs them.
pub struct Scenario {
    pub folder: TempDir,
    pub source: Box<dyn System>,
    pub destination: Box<dyn System>,
    pub program: Program,
    pub arguments: Vec<String>,
    guarantee: &'static str,
    /// Whether every row has to be there once, whatever the label says: the connector behind it
    /// sends nothing again that its state covers.
    once: bool,
    has_plugins: bool,
    mode: WriteMode,
    shops: Vec<(Shop, Deliveries)>,
}

impl Scenario {
    /// New systems, with two tables of so many rows at the source.
    pub fn new(pair: Pair, mode: WriteMode, rows: i64) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (source, destination): (Box<dyn System>, Box<dyn System>) = match pair {
            Pair::SqliteToSqlite
            | Pair::PluginToSqlite
            | Pair::PluginToSqliteStateApart
            | Pair::SqliteToPlugin
            | Pair::PluginToPlugin
            | Pair::ConnectorToSqlite => {
                (Box::new(Sqlite(file("source.db"))), Box::new(Sqlite(file("destination.db"))))
            }
            Pair::SqliteToDuckDb => {
                let (file, library) = (file("destination.duckdb"), sdk::duckdb().unwrap());
                let source = Box::new(Sqlite(folder.path().join("source.db")));
                (source, Box::new(DuckDb { file, library }))
            }
            Pair::ConnectorToPostgres => {
                (Box::new(Sqlite(file("source.db"))), Box::new(PostgreSql::new()))
            }
            Pair::PostgresToPostgres | Pair::PostgresToPostgresInRounds => {
                (Box::new(PostgreSql::new()), Box::new(PostgreSql::new()))
            }
            Pair::SqliteToFiles | Pair::SqliteToFilesStateApart => {
                (Box::new(Sqlite(file("source.db"))), Box::new(JsonLines(file("out"))))
            }
        };
        let mut scenario = Self::between(folder, source, destination, mode, rows);
        if matches!(pair, Pair::SqliteToFiles | Pair::SqliteToFilesStateApart) {
            let apart = pair == Pair::SqliteToFilesStateApart;
            let config = scenario.write_config(apart);
            if apart && mode != WriteMode::Replace {
                scenario.guarantee = "at_least_once";
            }
            scenario.run_config(config);
        }
        if pair.has_rounds() {
            let config = scenario.write_rounds_config();
            scenario.run_config(config);
        }
        if pair.has_connectors() {
            scenario.has_plugins = true;
            scenario.once = true;
            scenario.guarantee = match mode {
                WriteMode::Append => "at_least_once",
                WriteMode::Replace | WriteMode::ReplaceDedup => "exactly_once",
                _ => "effectively_once",
            };
            let config = scenario.write_connector_config();
            scenario.run_config(config);
        } else if pair.has_plugins() {
            scenario.has_plugins = true;
            let program = env!("CARGO_BIN_EXE_highwater");
            std::os::unix::fs::symlink(program, scenario.folder.path().join(PLUGIN)).unwrap();
            scenario.guarantee =
                if mode == WriteMode::Append { "at_least_once" } else { "effectively_once" };
            let config = scenario.write_plugin_config(pair);
            scenario.run_config(config);
        }
        scenario
    }

    fn run_config(&mut self, config: PathBuf) {
        self.arguments =
            ["sync", &config.display().to_string(), "--json"].map(str::to_owned).into();
    }

    /// Tables of some MiB, and a file that commits each of them.
    fn write_rounds_config(&self) -> PathBuf {
        let mut text =
            "kind: source\nspec:\n  name: crash\n  path: postgresql\n  destinations: [there]\n  \
             tables:\n"
                .to_owned();
        for (shop, _) in &self.shops {
            let table = shop.table();
            let apart = |from: u32| {
                format!(
                    "INSERT INTO {table} (id, customer) SELECT -g, repeat('x', 1900) \
                     FROM generate_series({from} + 1, {from} + 600) AS g;"
                )
            };
            // More than 1 MiB of nothing between every eight rows.
            self.source.execute(&format!(
                "ALTER TABLE {table} SET (autovacuum_enabled = off); \
                 CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {table} WHERE id > 8; \
                 DELETE FROM {table} WHERE id > 8; {} \
                 INSERT INTO {table} SELECT * FROM kept WHERE id <= 16; {} \
                 INSERT INTO {table} SELECT * FROM kept WHERE id > 16; \
                 DELETE FROM {table} WHERE id < 0;",
                apart(0),
                apart(600)
            ));
            text.push_str(&format!(
                "    - {{name: {table}, cursor: updated_at, primary_key: [id], read_mode: {}}}\n",
                read_mode(self.mode)
            ));
        }
        text.push_str(&format!(
            "  spec: {{connection_string: \"{}\", commit_every_mib: 1, readers: 2}}\n---\nkind: \
             destination\nspec:\n  name: there\n  path: postgresql\n  write_mode: {}\n  spec: \
             {{connection_string: \"{}\"}}\n",
            self.source.url(),
            self.mode,
            self.destination.url()
        ));
        let config = self.folder.path().join("sync.yml");
        std::fs::write(&config, text).unwrap();
        config
    }

    /// A file as a user of CloudQuery has it.
    fn write_plugin_config(&self, pair: Pair) -> PathBuf {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let plugin = format!("registry: local\n  path: {}", file(PLUGIN));
        let path = |is_plugin| if is_plugin { plugin.as_str() } else { "path: sqlite" };
        let incremental = read_mode(self.mode) == ReadMode::Incremental;
        let mut text = format!(
            "kind: source\nspec:\n  name: crash\n  {}\n  destinations: [there]\n",
            path(pair.reads_by_plugin())
        );
        let mut options = String::new();
        if pair.reads_by_plugin() {
            text.push_str("  tables: [orders, invoices]\n");
            options.push_str("\n    table_options:\n");
            for (shop, _) in &self.shops {
                options.push_str(&format!("      {}: {{primary_key: [id]", shop.table()));
                options.push_str(if incremental { ", cursor: updated_at}\n" } else { "}\n" });
            }
            if incremental {
                let keeper = match pair {
                    Pair::PluginToSqliteStateApart => "keeper",
                    _ => "there",
                };
                text.push_str(&format!(
                    "  backend_options:\n    table_name: cq_state\n    \
                     connection: \"@@plugins.{keeper}.connection\"\n"
                ));
            }
        } else {
            text.push_str("  tables:\n");
            for (shop, _) in &self.shops {
                text.push_str(&format!(
                    "    - {{name: {}, cursor: updated_at, primary_key: [id], read_mode: {}}}\n",
                    shop.table(),
                    read_mode(self.mode)
                ));
            }
        }
        text.push_str(&format!("  spec:\n    connection_string: {}{options}", file("source.db")));
        text.push_str(&format!(
            "\n---\nkind: destination\nspec:\n  name: there\n  {}\n  write_mode: {}\n  spec:\n    \
             connection_string: {}\n",
            path(pair.writes_by_plugin()),
            self.mode,
            file("destination.db")
        ));
        if pair == Pair::PluginToSqliteStateApart {
            text.push_str(&format!(
                "---\nkind: destination\nspec:\n  name: keeper\n  path: sqlite\n  spec:\n    \
                 connection_string: {}\n",
                file("state.db")
            ));
        }
        let config = self.folder.path().join("sync.yml");
        std::fs::write(&config, text).unwrap();
        config
    }

    /// A file as a user of Airbyte has it. The connector is this program.
    fn write_connector_config(&self) -> PathBuf {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let connector = file("source-shop");
        let program = env!("CARGO_BIN_EXE_highwater");
        let script = format!("#!/bin/sh\nexec {program} connector airbyte source-sqlite \"$@\"\n");
        std::fs::write(&connector, script).unwrap();
        std::fs::set_permissions(&connector, Permissions::from_mode(0o755)).unwrap();
        let mut text = format!(
            "kind: source\nspec:\n  name: crash\n  registry: airbyte\n  path: {connector}\n  \
             destinations: [there]\n  spec: {{connection_string: {}}}\n  tables:\n",
            file("source.db")
        );
        for (shop, _) in &self.shops {
            text.push_str(&format!(
                "    - {{name: {}, cursor: updated_at, primary_key: [id], read_mode: {}}}\n",
                shop.table(),
                read_mode(self.mode)
            ));
        }
        let url = self.destination.url();
        let kind = if url.starts_with("postgres") { "postgresql" } else { "sqlite" };
        let url = url.strip_prefix("sqlite://").unwrap_or(&url);
        text.push_str(&format!(
            "---\nkind: destination\nspec:\n  name: there\n  path: {kind}\n  write_mode: {}\n  \
             spec: {{connection_string: \"{url}\"}}\n",
            self.mode,
        ));
        let config = self.folder.path().join("sync.yml");
        std::fs::write(&config, text).unwrap();
        config
    }

    /// Two tables of so many rows at `source`.
    pub fn between(
        folder: TempDir,
        source: Box<dyn System>,
        destination: Box<dyn System>,
        mode: WriteMode,
        rows: i64,
    ) -> Self {
        let mut shops = Vec::new();
        for (seed, table) in ["orders", "invoices"].into_iter().enumerate() {
            let (shop, statements) = Shop::new(table, rows, seed as u64);
            source.execute(&statements);
            shops.push((shop, Deliveries::default()));
        }
        let program = Program::new(env!("CARGO_BIN_EXE_highwater"), folder.path());
        let (source_url, destination_url) = (source.url(), destination.url());
        #[rustfmt::skip]
        let arguments = [
            "sync", &source_url, &destination_url, "--name", "crash",
            "--table", "orders", "--table", "invoices",
            "--cursor", "updated_at", "--primary-key", "id",
            "--write-mode", mode.as_str(), "--read-mode", read_mode(mode).as_str(), "--json",
        ]
        .map(str::to_owned)
        .into();
        let guarantee = "exactly_once";
        let has_plugins = false;
        Self {
            folder,
            source,
            destination,
            program,
            arguments,
            guarantee,
            once: false,
            has_plugins,
            mode,
            shops,
        }
    }

    fn write_config(&self, state_apart: bool) -> PathBuf {
        let path = self.folder.path().join("sync.yml");
        let (source, out) = (self.folder.path().join("source.db"), self.destination.url());
        let state = self.folder.path().join("state.db");
        let (mode, read_mode) = (self.mode, read_mode(self.mode));
        let mut text =
            "kind: source\nspec:\n  name: crash\n  path: sqlite\n  destinations: [files]\n"
                .to_owned();
        if state_apart {
            text.push_str(
                "  backend_options:\n    table_name: cursors\n    connection: \"@@plugins.state.connection\"\n",
            );
        }
        text.push_str("  tables:\n");
        for (shop, _) in &self.shops {
            text.push_str(&format!(
                "    - {{name: {}, cursor: updated_at, primary_key: [id], read_mode: {read_mode}}}\n",
                shop.table()
            ));
        }
        text.push_str(&format!(
            "  spec:\n    connection_string: {}\n---\nkind: destination\nspec:\n  name: files\n  \
             path: file\n  write_mode: {mode}\n  spec:\n    path: {out}\n    format: jsonl\n",
            source.display()
        ));
        if state_apart {
            text.push_str(&format!(
                "---\nkind: destination\nspec:\n  name: state\n  path: sqlite\n  spec:\n    \
                 connection_string: {}\n",
                state.display()
            ));
        }
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Changes both tables at the source.
    pub fn change(&mut self) {
        for (shop, _) in &mut self.shops {
            self.source.execute(&shop.change());
        }
    }

    /// Adds a column to both tables at the source.
    pub fn add_column(&mut self) {
        for (shop, deliveries) in &mut self.shops {
            self.source.execute(&shop.add_column());
            deliveries.column_added();
        }
    }

    /// Syncs, dying at `at`. Whether it got there; if not, the sync is complete.
    pub fn sync_and_crash(&mut self, at: CrashAt) -> Result<bool, String> {
        let ended = self.program.run_and_crash(&self.arguments, at);
        if ended.code == Some(0) {
            self.completed(&ended)?;
            return Ok(false);
        }
        if !self.has_plugins {
            // Where a plugin died, the run that called it ends by itself, and with an error.
            ended.expect(CRASHED)?;
        }
        self.died();
        Ok(true)
    }

    /// A run has died somewhere.
    pub fn died(&mut self) {
        self.shops.iter_mut().for_each(|(shop, deliveries)| deliveries.run_died(shop));
    }

    /// Syncs to the end, compares, and says how often each crash point was passed.
    pub fn sync_and_trace(&mut self) -> Result<BTreeMap<String, u64>, String> {
        let (ended, passed) = self.program.run_and_trace(&self.arguments);
        let ended = ended.expect(0)?;
        self.completed(&ended)?;
        Ok(passed)
    }

    /// Syncs to the end and compares.
    pub fn sync(&mut self) -> Result<Ended, String> {
        let ended = self.program.run(&self.arguments).expect(0)?;
        self.completed(&ended)?;
        Ok(ended)
    }

    /// A run has ended well: compares both sides.
    pub fn completed(&mut self, ended: &Ended) -> Result<(), String> {
        if ended.guarantee() != self.guarantee {
            return Err(format!("expected {}, shown {}", self.guarantee, ended.guarantee()));
        }
        let once = self.once || self.guarantee == "exactly_once";
        for (shop, deliveries) in &mut self.shops {
            deliveries.run_completed(shop);
            let (table, columns) = (shop.table(), shop.columns());
            let expected = deliveries.table(self.mode, read_mode(self.mode), shop);
            let there = self.destination.rows(table, &columns);
            expected.check(there, once).map_err(|wrong| format!("{table}:\n{wrong}"))?;
            if self.mode == WriteMode::AppendDedup {
                let history = format!("{table}_history");
                let there = self.destination.rows(&history, &columns);
                let checked = deliveries.versions().check(there, once);
                checked.map_err(|wrong| format!("{history}:\n{wrong}"))?;
            }
        }
        Ok(())
    }

    /// Syncs once more: nothing has changed, so nothing may be written.
    pub fn sync_again(&mut self) -> Result<(), String> {
        let ended = self.sync()?;
        let written = ended.sum("rows_written") + ended.sum("rows_deleted");
        let incremental = read_mode(self.mode) == ReadMode::Incremental;
        if incremental && (written, ended.sum("rows_read")) != (0, 0) {
            return Err(format!("an unchanged source was written again:\n{}", ended.stdout));
        }
        Ok(())
    }

    /// What there is at the destination.
    pub fn objects(&self) -> BTreeSet<String> {
        self.destination.objects()
    }
}

/// Modes that need every row read full; the others read what changed.
fn read_mode(mode: WriteMode) -> ReadMode {
    match mode {
        WriteMode::Replace | WriteMode::ReplaceDedup | WriteMode::OverwriteDeleteStale => {
            ReadMode::FullRefresh
        }
        _ => ReadMode::Incremental,
    }
}
