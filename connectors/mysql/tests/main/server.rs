//! A throw-away MariaDB server, and a reader that keeps its cursor from sync to sync.
//!
//! The server's own time zone is five hours behind UTC and that of its host is nine hours ahead, so
//! that a mistake of zones shows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant as Clock};

use highwater_core::text::TextColumn;
use highwater_core::{
    Completion, Connector, Instant, Message, Output, Plan, ReadMode, Result, Source, State,
    TablePlan, WriteMode,
};
use highwater_mysql::MysqlConnector;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::json;

const INSTALL: &str = "apt-get install -y --no-install-recommends mariadb-server";

struct Server {
    folder: tempfile::TempDir,
    /// A shell that ends the server when its input ends, which is when this process does.
    _keeper: Child,
}

fn program(name: &str) -> String {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"];
    let found = folders.iter().map(|folder| format!("{folder}/{name}"));
    found
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .unwrap_or_else(|| panic!("these tests need {name}; install it with\n    {INSTALL}"))
}

/// The user `mysql` or `nobody`, for the server does not run as root.
fn user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2);
        Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
    };
    ids("mysql").or_else(|| ids("nobody")).unwrap()
}

fn start() -> Server {
    let folder = tempfile::Builder::new().prefix("mysql").tempdir_in("/tmp").unwrap();
    let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
    let as_user = |command: &mut Command| {
        if is_root {
            let (uid, gid) = user();
            command.uid(uid).gid(gid);
        }
    };
    if is_root {
        let (uid, gid) = user();
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
    }
    let data = folder.path().join("data");
    let mut install = Command::new(program("mariadb-install-db"));
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.arg(format!("--datadir={}", data.display())).current_dir("/");
    as_user(&mut install);
    let made = install.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let server = format!(
        "{} --no-defaults --datadir={} --socket={} --pid-file={} --skip-networking \
         --default-time-zone=-05:00 --innodb-flush-log-at-trx-commit=0 --lc-messages=en_US \
         --log-error={} & wait=$!; cat >/dev/null; kill $wait",
        program("mariadbd"),
        data.display(),
        folder.path().join("s").display(),
        folder.path().join("pid").display(),
        folder.path().join("log").display(),
    );
    let mut keeper = Command::new("sh");
    keeper.env("TZ", "Asia/Tokyo");
    keeper.args(["-c", &server]).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
    as_user(&mut keeper);
    let keeper = keeper.spawn().unwrap();
    Server { folder, _keeper: keeper }
}

fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(start)
}

fn url(user: &str, database: &str) -> String {
    let socket = shared().folder.path().join("s");
    format!("{user}@unix({})/{database}", socket.display())
}

/// A connection of somebody else.
pub(crate) struct Other(Conn);

impl Other {
    pub(crate) async fn open(database: &str) -> Self {
        let socket = shared().folder.path().join("s");
        let options = mysql_async::OptsBuilder::default()
            .socket(Some(socket.display().to_string()))
            .user(Some("root"))
            .db_name(Some(database));
        let patience = Clock::now() + Duration::from_secs(120);
        loop {
            match Conn::new(options.clone()).await {
                Ok(connection) => return Self(connection),
                // The server is starting.
                Err(error) if Clock::now() > patience => {
                    let log = fs::read_to_string(shared().folder.path().join("log"));
                    panic!("{error}\n{}", log.unwrap_or_default());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Runs statements, separated by semicolons.
    pub(crate) async fn run(&mut self, statements: &str) {
        self.0.query_drop(statements).await.unwrap();
    }

    pub(crate) async fn one(&mut self, statement: &str) -> String {
        self.0.query_first(statement).await.unwrap().unwrap()
    }

    /// Waits until no other connection to this database is left.
    pub(crate) async fn is_alone(&mut self) -> bool {
        let others = "SELECT COUNT(*) FROM information_schema.processlist
                      WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        let patience = Clock::now() + Duration::from_secs(60);
        while self.one(others).await != "0" {
            if Clock::now() > patience {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// A new database, and a connection to it.
pub(crate) async fn database() -> (String, Other) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("d{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut server = Other::open("mysql").await;
    server.run(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await;
    let other = Other::open(&name).await;
    (name, other)
}

pub(crate) async fn source_as(user: &str, database: &str) -> Box<dyn Source> {
    let spec = json!({"connection_string": url(user, database)});
    MysqlConnector.source(spec).await.unwrap()
}

/// Reads one table over and over, as syncs that all succeed would.
pub(crate) struct Reader {
    pub(crate) source: Box<dyn Source>,
    pub(crate) plan: Plan,
    pub(crate) state: State,
}

impl Reader {
    pub(crate) async fn new(database: &str, table: &str, cursor: Option<&str>) -> Self {
        Self::of(source_as("root", database).await, table, cursor).await
    }

    pub(crate) async fn of(source: Box<dyn Source>, table: &str, cursor: Option<&str>) -> Self {
        let tables = source.discover(None).await.unwrap();
        let table = Arc::new(tables.into_iter().find(|t| t.name.name == table).unwrap());
        let read_mode =
            if cursor.is_some() { ReadMode::Incremental } else { ReadMode::FullRefresh };
        let table = TablePlan {
            cursor_field: cursor.map(str::to_owned),
            ..TablePlan::new(Arc::clone(&table), table, read_mode, WriteMode::Append)
        };
        let plan = Plan {
            sync: "test".into(),
            sync_id: "1".into(),
            started_at: Instant::now(),
            state_with_data: true,
            sync_group_id: None,
            tables: BTreeMap::from([(table.name().clone(), table)]),
        };
        Self { source, plan, state: State::default() }
    }

    pub(crate) fn table(&mut self) -> &mut TablePlan {
        self.plan.tables.values_mut().next().unwrap()
    }

    pub(crate) async fn notes(&self) -> Vec<String> {
        self.source.review(self.plan.tables.values().next().unwrap()).await.unwrap()
    }

    /// The rows of the next sync: columns joined with `|`, sorted.
    pub(crate) async fn try_sync(&mut self) -> Result<Vec<String>> {
        let (output, mut messages) = Output::bounded(8, Arc::new(AtomicBool::new(false)));
        let partitions = self.source.partitions(&self.plan, &self.state).await?;
        let collect = async {
            let (mut rows, mut cursors) = (Vec::new(), BTreeMap::new());
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Batch(batch) => rows.extend(texts(&batch.rows)),
                    Message::Checkpoint(checkpoint) => cursors = checkpoint.cursors,
                    other => panic!("{other:?}"),
                }
            }
            (rows, cursors)
        };
        let read = self.source.read(&self.plan, &partitions[0], &self.state, output);
        let (completion, (mut rows, cursors)) = tokio::join!(read, collect);
        completion?;
        self.state.cursors.extend(cursors);
        rows.sort();
        Ok(rows)
    }

    /// Takes the first batch of an endless table. Then the read is asked to stop, or is dropped.
    pub(crate) async fn give_up(&self, is_asked: bool) {
        let stop = Arc::new(AtomicBool::new(false));
        let (output, mut messages) = Output::bounded(1, Arc::clone(&stop));
        let partitions = self.source.partitions(&self.plan, &self.state).await.unwrap();
        let mut read = self.source.read(&self.plan, &partitions[0], &self.state, output);
        tokio::select! {
            _ = &mut read => panic!("the table has no end"),
            message = messages.recv() => assert!(matches!(message, Some(Message::Batch(_)))),
        }
        if is_asked {
            stop.store(true, Ordering::Relaxed);
            let drain = async { while messages.recv().await.is_some() {} };
            let (completion, ()) = tokio::join!(read, drain);
            assert_eq!(completion.unwrap(), Completion::Stopped);
        }
    }

    pub(crate) async fn sync(&mut self) -> Vec<String> {
        self.try_sync().await.unwrap_or_else(|e| panic!("{}", e.full_message()))
    }
}

fn texts(batch: &arrow_array::RecordBatch) -> Vec<String> {
    let text = |row: usize| {
        let fields = batch.schema_ref().fields().iter().zip(batch.columns());
        let values = fields.map(|(field, column)| {
            let text = TextColumn::new(field, column.as_ref()).unwrap();
            let mut value = String::new();
            if text.is_null(row) {
                value.push_str("NULL")
            } else {
                text.write(row, &mut value)
            }
            value
        });
        values.collect::<Vec<_>>().join("|")
    };
    (0..batch.num_rows()).map(text).collect()
}
