//! A source plugin as a source of ours: one process, one `Sync` call for all its tables.
//!
//! The tables are asked for first (`GetTables`), because a plan is made before anything is sent.
//! What the call then brings is one stream, so there is one partition, read for all destinations
//! at once, and committed when it has ended well.
//!
//! | module | what |
//! |---|---|
//! | [`tables`] | the tables that it listed, and whether it keeps to them |
//! | [`reading`] | the stream: rows, deletions, failures, cursors |
//! | [`pace`] | how often a cursor is sent on |
//! | [`container`] | where we are for a plugin in a container |
//! | [`placeholders`] | `@@plugins.NAME.connection` in its settings |

mod container;
mod pace;
mod placeholders;
mod reading;
mod tables;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use highwater_core::{
    Completion, Error, Output, Partition, Plan, ReadMode, Reads, Result, Source, SourceDelivery,
    State, Table, TableName, TablePlan,
};
use serde_json::Value;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

use crate::host::{LogCounts, Plugin, PluginSpec, Registry};
use crate::proto::plugin::{get_tables, init, test_connection};
use crate::proxy::{Listen, PATIENCE, StateProxy};
use crate::wire::decode_table;
use reading::Reading;
use tables::{Asked, Listed};

/// How much of a plugin's own text an error shows, in characters.
const SAID_CHARACTERS: usize = 500;
/// How many table names a hint lists.
const NAMES_MAX: usize = 10;

/// What a run asks of a source plugin.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The plugin.
    pub plugin: PluginSpec,
    /// Its own settings; `null` counts as none.
    pub spec: Value,
    /// Patterns of the tables to read; the plugin itself says what they match.
    pub tables: Vec<String>,
    /// Patterns of tables that are left out.
    pub skip_tables: Vec<String>,
    /// Whether tables that depend on a matched one are left out unless they are matched too.
    pub skip_dependent_tables: bool,
    /// Whether `_cq_id` is computed from the primary key, and takes its place.
    pub deterministic_cq_id: bool,
    /// The part of the rows to read: number (from 1) and total.
    pub shard: Option<(i32, i32)>,
    /// Names the run in the plugin's own logs.
    pub invocation_id: String,
    /// The table in which the plugin keeps its cursors. Without one it reads everything.
    pub state_table: Option<String>,
    /// The placeholder that stands for the backend of the state table:
    /// `@@plugins.NAME.connection`. It resolves to the state proxy.
    pub state_placeholder: Option<String>,
    /// Whether the plugin is only asked for its tables, and need not reach its system for that.
    pub no_connection: bool,
    /// What the other placeholders in `spec` stand for.
    pub connections: Vec<(String, String)>,
}

impl SourceConfig {
    /// All tables, read in full, with nothing else set.
    pub fn new(plugin: PluginSpec, spec: Value) -> Self {
        Self {
            plugin,
            spec,
            tables: vec!["*".to_owned()],
            skip_tables: Vec::new(),
            skip_dependent_tables: true,
            deterministic_cq_id: false,
            shard: None,
            invocation_id: uuid::Uuid::new_v4().to_string(),
            state_table: None,
            state_placeholder: None,
            no_connection: false,
            connections: Vec::new(),
        }
    }
}

/// A source plugin, for one run. Its process is started when it is first needed, ends in good
/// order at [`Source::close`], and is killed when this is dropped.
#[derive(Debug)]
pub struct SourcePlugin {
    config: SourceConfig,
    session: OnceCell<Session>,
    listed: OnceCell<Listed>,
    /// How often each table was reported as failed.
    errors: Mutex<BTreeMap<TableName, u64>>,
}

/// A plugin that runs, and what stands for its backend.
#[derive(Debug)]
struct Session {
    plugin: Plugin,
    proxy: Option<Proxy>,
}

#[derive(Debug)]
struct Proxy {
    server: StateProxy,
    /// Where it is, seen from the plugin.
    connection: String,
}

impl SourcePlugin {
    /// The plugin; nothing is started yet.
    pub fn new(config: SourceConfig) -> Self {
        Self { config, session: OnceCell::new(), listed: OnceCell::new(), errors: Mutex::default() }
    }

    /// How many errors and warnings the plugin has logged so far.
    pub fn log_counts(&self) -> LogCounts {
        self.session.get().map(|session| session.plugin.logs()).unwrap_or_default()
    }

    /// How often the plugin, or what it sent, made each table fail.
    pub fn table_errors(&self) -> BTreeMap<TableName, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn session(&self) -> Result<&Session> {
        self.session.get_or_try_init(|| Box::pin(self.start())).await
    }

    async fn start(&self) -> Result<Session> {
        let plugin = Plugin::start(&self.config.plugin).await?;
        plugin.hide(&self.config.spec);
        let proxy = match &self.config.state_table {
            None => None,
            Some(table) => {
                let listen = self.listen(&plugin).await;
                let server = StateProxy::start(table, listen, PATIENCE).await?;
                let own = match listen {
                    Listen::Tcp(own) => Some(own),
                    Listen::Unix => None,
                };
                let connection = seen_from(&plugin, server.connection(), own);
                Some(Proxy { server, connection })
            }
        };
        Ok(Session { plugin, proxy })
    }

    /// A socket where the plugin has one itself. Python's gRPC can dial a socket, but names it to
    /// the server in a way that HTTP/2 does not allow; its plugins listen on ports.
    async fn listen(&self, plugin: &Plugin) -> Listen {
        if plugin.in_container() {
            return Listen::Tcp(container::address(&self.config.plugin.docker_command).await);
        }
        let is_ours = self.config.plugin.registry != Registry::Grpc;
        if is_ours && plugin.connection().starts_with("unix:") {
            Listen::Unix
        } else {
            Listen::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST))
        }
    }

    /// The plugin's own settings as it gets them.
    fn spec(&self, session: &Session) -> Result<Vec<u8>> {
        let mut connections: Vec<(String, String)> = self
            .config
            .connections
            .iter()
            .map(|(name, to)| (name.clone(), seen_from(&session.plugin, to, None)))
            .collect();
        if let (Some(name), Some(proxy)) = (&self.config.state_placeholder, &session.proxy) {
            connections.insert(0, (name.clone(), proxy.connection.clone()));
        }
        let spec = placeholders::resolve(&self.config.spec, &connections)
            .map_err(|e| e.context("source", &self.config.plugin.name))?;
        Ok(if spec.is_null() { "{}".to_owned() } else { spec.to_string() }.into_bytes())
    }

    async fn listed(&self) -> Result<&Listed> {
        self.listed.get_or_try_init(|| Box::pin(self.list())).await
    }

    async fn list(&self) -> Result<Listed> {
        let session = self.session().await?;
        let plugin = &session.plugin;
        let request = init::Request {
            spec: self.spec(session)?.into(),
            no_connection: self.config.no_connection,
            invocation_id: self.config.invocation_id.clone(),
        };
        plugin.client().init(request).await.map_err(|s| plugin.explain(s))?;
        let request = get_tables::Request {
            tables: self.config.tables.clone(),
            skip_tables: self.config.skip_tables.clone(),
            skip_dependent_tables: self.config.skip_dependent_tables,
        };
        let answer = match plugin.client().get_tables(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if is_pattern_error(&status) => {
                return Err(self.no_such_table(plugin, &status).await);
            }
            Err(status) => return Err(plugin.explain(status)),
        };
        let tables = answer.tables.iter().map(|table| decode_table(table));
        let tables = tables.collect::<Result<Vec<_>>>();
        let tables = tables.map_err(|e| e.context("plugin", plugin.name()))?;
        let listed = Listed::new(
            tables,
            Asked {
                keeps_state: self.config.state_table.is_some(),
                deterministic_cq_id: self.config.deterministic_cq_id,
            },
        )?;
        if listed.is_empty() {
            return Err(Error::config("The plugin has no table that the patterns match")
                .context("plugin", plugin.name())
                .context("tables", self.config.tables.join(", "))
                .hint(self.names(plugin).await));
        }
        Ok(listed)
    }

    async fn no_such_table(&self, plugin: &Plugin, status: &Status) -> Error {
        let words = plugin.said(status.message(), SAID_CHARACTERS);
        Error::config(format!("A pattern matches no table of the plugin: {words}"))
            .context("plugin", plugin.name())
            .context("tables", self.config.tables.join(", "))
            .hint(self.names(plugin).await)
    }

    /// What there would be to choose from.
    async fn names(&self, plugin: &Plugin) -> String {
        let request = get_tables::Request { tables: vec!["*".to_owned()], ..Default::default() };
        let answer = plugin.client().get_tables(request).await;
        let tables = answer.map(|answer| answer.into_inner().tables).unwrap_or_default();
        let mut names: Vec<String> =
            tables.iter().filter_map(|t| Some(decode_table(t).ok()?.name.to_string())).collect();
        names.sort();
        names.dedup();
        let more = names.len().saturating_sub(NAMES_MAX);
        names.truncate(NAMES_MAX);
        match (names.is_empty(), more) {
            (true, _) => "Correct `tables` and `skip_tables`".to_owned(),
            (false, 0) => format!("The plugin has: {}", names.join(", ")),
            (false, more) => format!("The plugin has: {} and {more} more", names.join(", ")),
        }
    }

    fn count_error(&self, table: &TableName) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(table.clone()).or_default() += 1;
    }
}

/// Where something on this machine is for the plugin.
fn seen_from(plugin: &Plugin, connection: &str, own: Option<IpAddr>) -> String {
    if plugin.in_container() {
        container::seen_from_inside(connection, own)
    } else {
        connection.to_owned()
    }
}

/// What the SDKs say when a pattern matches nothing; they have no status of its own for it.
fn is_pattern_error(status: &Status) -> bool {
    let words = status.message();
    words.contains("include a pattern") && words.contains("with no matches")
}

#[async_trait]
impl Source for SourcePlugin {
    /// As CloudQuery's `test-connection`: a plugin that cannot test its connection fails the test.
    async fn check(&self) -> Result<()> {
        let session = self.session().await?;
        let plugin = &session.plugin;
        let request = test_connection::Request { spec: self.spec(session)?.into() };
        match plugin.client().test_connection(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                if answer.success {
                    return Ok(());
                }
                let words = plugin.said(&answer.failure_description, SAID_CHARACTERS);
                Err(Error::config(format!("The plugin cannot connect: {words}"))
                    .context("plugin", plugin.name())
                    .context("code", plugin.said(&answer.failure_code, SAID_CHARACTERS)))
            }
            Err(status) if status.code() == Code::Unimplemented => {
                Err(Error::unsupported("The plugin cannot test its connection")
                    .context("plugin", plugin.name())
                    .context("code", "UNIMPLEMENTED")
                    .hint("`highwater sync` tries it for real"))
            }
            Err(status) => Err(plugin.explain(status)),
        }
    }

    /// The plugin itself knows what matches its patterns, so `only` is not looked at.
    async fn discover(&self, _only: Option<&[String]>) -> Result<Vec<Table>> {
        Ok(self.listed().await?.iter().cloned().collect())
    }

    fn delivery(&self, _table: &TablePlan) -> SourceDelivery {
        SourceDelivery::Again("the plugin decides what it sends again".to_owned())
    }

    async fn review(&self, table: &TablePlan) -> Result<Vec<String>> {
        let name = table.name();
        let listed = self.listed().await?;
        let known = listed.get(name).ok_or_else(|| {
            Error::internal("The plugin did not list a planned table").context("table", name)
        })?;
        for field in table.source.schema.fields() {
            if known.field(field.name()).map(|f| f.data_type()) != Some(field.data_type()) {
                return Err(Error::unsupported("A plugin's column has the type that it has")
                    .context("table", name)
                    .context("column", field.name())
                    .hint(format!("name the column alone: `columns: [{}]`", field.name())));
            }
        }
        match (table.read_mode, known.source_defined_cursor, &self.config.state_table) {
            (ReadMode::Incremental, false, _) => {
                Err(Error::unsupported("The plugin reads this table in full, whatever is asked")
                    .context("table", name)
                    .hint("set `read_mode: full_refresh` in the table's entry"))
            }
            (ReadMode::FullRefresh, true, _) => Err(Error::unsupported(
                "The plugin reads this table incrementally, so a full refresh would lack rows",
            )
            .context("table", name)
            .hint("leave `backend_options` out, or use another write mode than `replace`")),
            (ReadMode::Incremental, true, Some(state)) => Ok(vec![format!(
                "Read incrementally by the plugin, which keeps its position in `{state}`."
            )]),
            (ReadMode::FullRefresh, false, None) if listed.is_covered(name) => Ok(vec![
                "Read in full: the plugin could read it incrementally with `backend_options`."
                    .to_owned(),
            ]),
            _ => Ok(Vec::new()),
        }
    }

    /// One: the plugin sends all tables in one stream.
    async fn partitions(&self, plan: &Plan, _state: &State) -> Result<Vec<Partition>> {
        let tables: Vec<TableName> = plan.tables.keys().cloned().collect();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Partition { tables, id: "sync".to_owned(), bounds: Value::Null }])
    }

    async fn read(
        &self,
        plan: &Plan,
        _partition: &Partition,
        state: &State,
        output: Output,
    ) -> Result<Completion> {
        let listed = self.listed().await?;
        let session = self.session().await?;
        Box::pin(Reading::new(self, session, listed, plan, &output).run(state)).await
    }

    fn reads(&self) -> Reads {
        Reads::Once
    }

    async fn close(&self) -> Result<()> {
        match self.session.get() {
            Some(session) => session.plugin.stop().await,
            None => Ok(()),
        }
    }
}
