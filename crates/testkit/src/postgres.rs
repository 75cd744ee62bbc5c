//! A throw-away PostgreSQL cluster: made with `initdb` in a temporary folder, on a free port of
//! 127.0.0.1, gone when the test process is gone, however that ends.
//!
//! ```no_run
//! use highwater_testkit::postgres::Postgres;
//!
//! let database = Postgres::shared().create_database();
//! database.execute("CREATE TABLE t (id int PRIMARY KEY)");
//! assert_eq!(database.value("SELECT count(*) FROM t").as_deref(), Some("0"));
//! println!("{}", database.url());
//! ```
//!
//! The server never runs as root: when the tests do, it runs as the user `postgres`, else
//! `nobody`.

mod install;
mod pool;
mod query;
mod standby;
mod tls;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use install::{Installation, ServerUser};
use pool::{Loan, Pool};
pub use query::Row;

/// The superuser of every cluster; needs no password.
pub const SUPERUSER: &str = "postgres";
/// A role that has to give [`GUARDED_PASSWORD`] (SCRAM-SHA-256). It may log in and no more.
pub const GUARDED: &str = "guarded";
/// The password of [`GUARDED`]: it holds what breaks URLs, YAML and shells.
pub const GUARDED_PASSWORD: &str = "p@ss: w/rd#1";
/// [`GUARDED_PASSWORD`] as it stands in a URL.
pub const GUARDED_PASSWORD_IN_URL: &str = "p%40ss%3A%20w%2Frd%231";

/// How a cluster is set up. The default is fast: nothing is synced to disk.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Survive a crash of the server (`fsync`, `synchronous_commit`, `full_page_writes`): for
    /// tests that use [`Postgres::stop_immediate`] and expect committed rows to be there.
    pub durable: bool,
    /// Offer TLS with a certificate for `localhost` and 127.0.0.1 of a throw-away authority
    /// ([`Postgres::authority_file`]). Needs the `openssl` program.
    pub tls: bool,
    /// More settings of `postgresql.conf`: `("wal_level", "logical")`.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// Adds a setting of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A running cluster. Dropping it stops it and removes its folder.
#[derive(Debug)]
pub struct Postgres {
    installation: Installation,
    user: Option<ServerUser>,
    folder: PathBuf,
    port: u16,
    pool: Arc<Pool>,
    watchdog: Watchdog,
}

impl Postgres {
    /// The cluster of this test process: started when first asked for, with
    /// `max_prepared_transactions = 10` and `wal_level = logical`.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&Options::default()))
    }

    /// A cluster of its own, for tests that stop it or need other settings.
    ///
    /// # Panics
    /// When no server is installed (the message holds the command that installs it) or when it
    /// does not start (the message holds the end of its log).
    pub fn start(options: &Options) -> Self {
        let mut cluster = Self::unmade();
        cluster.init();
        if options.tls {
            tls::write_certificates(&cluster.folder);
            for name in ["server.key", "server.crt", "authority.crt"] {
                if let Some(user) = &cluster.user {
                    user.own(&cluster.folder.join(name));
                }
            }
        }
        cluster.configure(options);
        cluster.start_on_a_free_port();
        cluster.database(SUPERUSER).execute(&format!(
            "CREATE ROLE {GUARDED} LOGIN PASSWORD '{}'",
            GUARDED_PASSWORD.replace('\'', "''")
        ));
        cluster
    }

    /// A folder for a cluster, and what removes it.
    fn unmade() -> Self {
        let installation = Installation::find();
        let folder = new_folder();
        let user = ServerUser::when_root(&folder);
        if let Some(user) = &user {
            user.own(&folder);
        }
        let watchdog = Watchdog::start(&installation, user.as_ref(), &folder);
        Self { installation, user, folder, port: 0, pool: Arc::default(), watchdog }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database for the superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database for [`GUARDED`], with a password as it stands in a URL.
    pub fn guarded_url(&self, database: &str, password_in_url: &str) -> String {
        format!("postgres://{GUARDED}:{password_in_url}@127.0.0.1:{}/{database}", self.port)
    }

    /// The certificate of the authority that signed the server's, with [`Options::tls`].
    pub fn authority_file(&self) -> PathBuf {
        self.folder.join("authority.crt")
    }

    /// An empty database for this test alone. It belongs to the test until the last clone of the
    /// returned value is dropped: keep it as long as anything uses its URL.
    pub fn create_database(&self) -> Database {
        let loan = self.pool.lend(|name| self.url(name), SUPERUSER);
        Database {
            url: self.url(loan.name()),
            name: loan.name().to_owned(),
            _loan: Some(loan.into()),
        }
    }

    /// An existing database.
    pub fn database(&self, name: &str) -> Database {
        Database { url: self.url(name), name: name.to_owned(), _loan: None }
    }

    /// Ends all server processes at once, as a power cut would: connections break.
    pub fn stop_immediate(&self) {
        self.pg_ctl(&["stop", "-m", "immediate"]);
    }

    /// Ends the server after it broke all connections and wrote everything down.
    pub fn stop_fast(&self) {
        self.pg_ctl(&["stop", "-m", "fast"]);
    }

    /// Starts a stopped server again, on the same port.
    pub fn restart(&self) {
        assert!(self.try_start(), "the server does not start again:\n{}", self.log());
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.installation.program(program));
        if let Some(user) = &self.user {
            user.run(&mut command);
        }
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn init(&self) {
        let output = self
            .command("initdb")
            .args(["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--username", SUPERUSER, "--pgdata"])
            .arg(self.data())
            .output()
            .expect("initdb runs");
        assert!(
            output.status.success(),
            "initdb failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn configure(&self, options: &Options) {
        let on_off = if options.durable { "on" } else { "off" };
        let mut settings: Vec<(String, String)> = [
            ("fsync", on_off),
            ("synchronous_commit", on_off),
            ("full_page_writes", on_off),
            // An incremental read waits for it.
            ("wal_writer_delay", "10ms"),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("max_connections", "200"),
            ("shared_buffers", "32MB"),
            ("max_prepared_transactions", "10"),
            ("wal_level", "logical"),
            ("max_wal_size", "1GB"),
            ("timezone", "UTC"),
            ("log_min_messages", "warning"),
            ("log_line_prefix", "%m [%p] %u@%d "),
            ("password_encryption", "scram-sha-256"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if options.tls {
            for (name, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
                let path = self.folder.join(file).display().to_string();
                settings.push((name.to_owned(), path));
            }
            settings.push(("ssl".to_owned(), "on".to_owned()));
        }
        settings.extend(options.settings.iter().cloned());
        let mut text = String::new();
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(self.data().join("postgresql.auto.conf"), text).expect("settings are written");
        // The first line that matches decides.
        let access = format!(
            "host all {GUARDED} all scram-sha-256\nhost all all all trust\n\
             host replication all all trust\n"
        );
        fs::write(self.data().join("pg_hba.conf"), access).expect("access rules are written");
    }

    fn start_on_a_free_port(&mut self) {
        // Between choosing a port and the server's use of it somebody else may take it.
        for _ in 0..5 {
            self.port = free_port();
            if self.try_start() {
                return;
            }
        }
        panic!("the PostgreSQL server does not start:\n{}", self.log());
    }

    fn try_start(&self) -> bool {
        let status = self
            .command("pg_ctl")
            .args(["start", "--wait", "--silent", "--log"])
            .arg(self.folder.join("server.log"))
            .arg("--pgdata")
            .arg(self.data())
            .args(["--options", &format!("-p {}", self.port)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("pg_ctl runs");
        status.success()
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let output = self
            .command("pg_ctl")
            .args(arguments)
            .arg("--pgdata")
            .arg(self.data())
            .output()
            .expect("pg_ctl runs");
        assert!(
            output.status.success(),
            "pg_ctl {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.watchdog.finish();
    }
}

/// A database of a cluster. The methods wait for the server; they may be called inside and
/// outside a runtime.
#[derive(Debug, Clone)]
pub struct Database {
    url: String,
    name: String,
    _loan: Option<Arc<Loan>>,
}

impl Database {
    /// Its URL for the superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs statements, separated by semicolons.
    ///
    /// # Panics
    /// When one fails.
    pub fn execute(&self, statements: &str) {
        self.try_execute(statements).unwrap_or_else(|e| panic!("{statements}: {e}"));
    }

    /// Runs statements, separated by semicolons.
    ///
    /// # Errors
    /// What the server says.
    pub fn try_execute(&self, statements: &str) -> Result<(), String> {
        query::run(&self.url, statements).map(|_| ())
    }

    /// The rows of a query, each value in PostgreSQL's text form, `None` for NULL.
    ///
    /// # Panics
    /// When it fails.
    pub fn rows(&self, query: &str) -> Vec<Row> {
        query::run(&self.url, query).unwrap_or_else(|e| panic!("{query}: {e}"))
    }

    /// The first value of the first row of a query.
    ///
    /// # Panics
    /// When the query fails or has no row.
    pub fn value(&self, query: &str) -> Option<String> {
        let mut rows = self.rows(query);
        assert!(!rows.is_empty(), "{query}: no row");
        rows.swap_remove(0).swap_remove(0)
    }
}

/// Stops the server and removes the folder when this process ends: a shell that waits for the
/// end of its standard input, whose other end only this process holds.
#[derive(Debug)]
struct Watchdog {
    alive: Option<ChildStdin>,
    shell: Child,
}

impl Watchdog {
    fn start(installation: &Installation, user: Option<&ServerUser>, folder: &Path) -> Self {
        const SCRIPT: &str = r#"
            trap '' INT TERM HUP
            cat >/dev/null
            # More than once: an initdb or a start that was under way may still make files.
            for attempt in 1 2 3 4 5 6 7 8 9 10; do
                "$1" stop -D "$2/data" -m immediate -s >/dev/null 2>&1
                rm -rf "$2" && break
                sleep 1
            done
        "#;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(installation.program("pg_ctl")).arg(folder);
        if let Some(user) = user {
            user.run(&mut command);
        }
        // A group of its own: Ctrl-C at the terminal must not end it before its work is done.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut shell = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        Self { alive: shell.stdin.take(), shell }
    }

    fn finish(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

fn new_folder() -> PathBuf {
    // Not the session's own temporary folder, which other users may not be able to enter.
    let parent = Path::new("/tmp");
    let parent = if parent.is_dir() { parent.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new()
        .prefix("highwater-postgres-")
        .tempdir_in(parent)
        .expect("a temporary folder")
        .keep()
}

/// A port of 127.0.0.1 that nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// How long a helper waits for a server before it calls the test broken.
const PATIENCE: Duration = Duration::from_secs(30);
