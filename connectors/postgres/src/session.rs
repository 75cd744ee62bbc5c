//! Connections: opening one, the session settings that make values and texts stable, and what
//! the errors of the server mean.

use std::sync::{Arc, OnceLock};

use highwater_core::{Error, ErrorKind, Result};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Connection};

use crate::conninfo::{Place, Target};
use crate::pool::Idle;
use crate::refusal::Refusal;
use crate::tls::TlsLevel;
use crate::wire::{self, Failure, Lent};

/// Settings of every session. Text forms become independent of the server's configuration, and
/// nothing but the network ends a long statement.
const SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "60s"),
    ("client_min_messages", "warning"),
];

/// More of them, each with the first major version that has it.
const NEWER_SETTINGS: &[(u32, (&str, &str))] =
    &[(14, ("idle_session_timeout", "0")), (17, ("transaction_timeout", "0"))];

/// A setting for databases without an encoding: in what encoding their bytes come.
pub(crate) const ENCODING_OF_NONE: &str = "client_encoding";

/// An open connection. Dropping it closes the socket at once, also in the middle of a reply, so
/// that the server ends what it was doing.
pub(crate) struct Session {
    client: Client,
    connection: JoinHandle<()>,
    lent: Lent,
    place: Place,
    writes: bool,
    /// Its `application_name`, where it is not the usual one, and that of the connection string.
    name: Option<String>,
    usual_name: String,
    /// Where it waits for its next use, if it is used again.
    home: Option<Arc<Idle>>,
    /// The schema that tables are created in, once it was asked for and there was one.
    schema: OnceLock<String>,
    /// The process of the server, once it was asked for.
    backend: OnceLock<i32>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Connects and applies the session settings; `extra` come last. `name` is an
    /// `application_name` instead of the one of the connection string.
    ///
    /// # Errors
    /// `Transient` when the server cannot be reached or is starting, `Config` when it refuses
    /// user, password or database, or TLS fails. Host, port, database and user are named, the
    /// password is not.
    pub(crate) async fn open(
        target: &Target,
        extra: &[(&str, &str)],
        name: Option<&str>,
    ) -> Result<Self> {
        let place = target.place.clone();
        let named = name.map(|name| {
            let mut config = target.config.clone();
            config.application_name(name);
            config
        });
        let config = named.as_ref().unwrap_or(&target.config);
        let dialled = match wire::dial(config, &target.tls, true).await {
            // As libpq: `prefer` tries again without encryption.
            Err(Failure::Encryption(_)) if target.tls.level == TlsLevel::Prefer => {
                wire::dial(config, &target.tls, false).await
            }
            other => other,
        };
        let dialled = dialled.map_err(|failure| place.describe(connect_error(failure)))?;
        let server = Server::of(&dialled.connection);
        let session = Self {
            client: dialled.client,
            connection: spawn(dialled.connection),
            lent: dialled.lent,
            place,
            writes: target.writes,
            name: name.map(str::to_owned),
            usual_name: target.config.get_application_name().unwrap_or_default().to_owned(),
            home: None,
            schema: OnceLock::new(),
            backend: OnceLock::new(),
        };
        session.apply(&settings(&server, extra)).await?;
        Ok(session)
    }

    /// Applies settings: all at once, and where the server does not know one of them, those that
    /// it knows.
    async fn apply(&self, settings: &[(&str, &str)]) -> Result<()> {
        let set = |(name, value): &(&str, &str)| {
            format!("pg_catalog.set_config({}, {}, false)", literal(name), literal(value))
        };
        let all: Vec<String> = settings.iter().map(set).collect();
        let applied = self.client.batch_execute(&format!("SELECT {}", all.join(", "))).await;
        match applied {
            Err(error) if error.as_db_error().is_some() => self.apply_known(settings).await,
            other => other.map_err(|e| self.error("prepare the session", e)),
        }
    }

    /// Sets those of `settings` that this server has.
    async fn apply_known(&self, settings: &[(&str, &str)]) -> Result<()> {
        let rows: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("({}, {})", literal(name), literal(value)))
            .collect();
        let statement = format!(
            "SELECT set_config(s.name, v.setting, false) FROM (VALUES {}) AS v(name, setting) \
             JOIN pg_catalog.pg_settings AS s ON lower(s.name) = lower(v.name)",
            rows.join(", ")
        );
        self.run("prepare the session", &statement).await
    }

    /// Whether this is its `application_name`.
    pub(crate) fn has_name(&self, name: Option<&str>) -> bool {
        name == self.name.as_deref()
    }

    /// Takes another `application_name`; `None` is the one of the connection string. Speaks to
    /// the server in any case.
    ///
    /// # Errors
    /// As [`Self::error`]: the session is over.
    pub(crate) async fn set_name(&mut self, name: Option<&str>) -> Result<()> {
        let statement = if self.has_name(name) {
            // An empty query.
            String::new()
        } else {
            format!("SET application_name TO {}", literal(name.unwrap_or(&self.usual_name)))
        };
        self.run("use the session again", &statement).await?;
        self.name = name.map(str::to_owned);
        Ok(())
    }

    /// Where the session goes when it is given back.
    pub(crate) fn belongs_to(&mut self, home: &Arc<Idle>) {
        self.home = Some(Arc::clone(home));
    }

    /// Leaves the session for the next use. Only between two transactions, with no temporary
    /// table left.
    pub(crate) fn give_back(mut self) {
        if let Some(home) = self.home.take()
            && !self.client.is_closed()
        {
            home.put(self);
        }
    }

    /// What an error of this connection means; `action` completes "could not …".
    pub(crate) fn error(&self, action: &str, error: tokio_postgres::Error) -> Error {
        match error.as_db_error() {
            Some(db) => self.refused(action, &Refusal::from(db)),
            None => self.at(pg_error(action, &error)),
        }
    }

    /// As [`Self::error`], for what the server said.
    pub(crate) fn refused(&self, action: &str, refusal: &Refusal) -> Error {
        refusal.error_at(action, &self.place, self.writes)
    }

    /// Adds where it happened.
    pub(crate) fn at(&self, error: Error) -> Error {
        self.place.describe(error)
    }

    /// Its stream, which our own reader borrows.
    pub(crate) fn lent(&self) -> &Lent {
        &self.lent
    }

    /// The database, told from every other: the server by its own identifier where that may be
    /// read, else by its address.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub(crate) async fn place(&self) -> Result<String> {
        let statement = "
            SELECT coalesce(
              CASE WHEN has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
                   THEN (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) END,
              inet_server_addr()::text || ':' || inet_server_port()::text,
              'local') || '/' || current_database()";
        let rows = self.client.query_typed(statement, &[]).await;
        let rows = rows.map_err(|e| self.error("identify the database", e))?;
        let Some(row) = rows.first() else {
            return Err(Error::internal("A look at the database returned nothing"));
        };
        row.try_get(0).map_err(|e| self.error("identify the database", e))
    }

    /// The process of the server that the session talks to.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub(crate) async fn backend(&self) -> Result<i32> {
        if let Some(backend) = self.backend.get() {
            return Ok(*backend);
        }
        let failed = |error| self.error("identify the session", error);
        let rows = self.client.query_typed("SELECT pg_catalog.pg_backend_pid()", &[]).await;
        let rows = rows.map_err(failed)?;
        let found = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(failed)?;
        Ok(*self.backend.get_or_init(|| found))
    }

    /// The first schema of the search path that exists: tables without a namespace are created in
    /// it, and looked for in it.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub(crate) async fn schema(&self) -> Result<Option<&str>> {
        if let Some(schema) = self.schema.get() {
            return Ok(Some(schema));
        }
        let statement = "SELECT pg_catalog.current_schema()::text, pg_catalog.pg_backend_pid()";
        let rows = self.client.query_typed(statement, &[]).await;
        let rows = rows.map_err(|e| self.error("find the schema", e))?;
        if let Some(Ok(backend)) = rows.first().map(|row| row.try_get(1)) {
            self.backend.get_or_init(|| backend);
        }
        let found = rows.first().map(|row| row.try_get::<_, Option<String>>(0)).transpose();
        let found = found.map_err(|e| self.error("find the schema", e))?.flatten();
        Ok(found.map(|found| self.schema.get_or_init(|| found).as_str()))
    }

    /// Runs statements that return nothing of interest.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub(crate) async fn run(&self, action: &str, statements: &str) -> Result<()> {
        self.client.batch_execute(statements).await.map_err(|e| self.error(action, e))
    }
}

/// The settings of a session on this server.
fn settings<'a>(server: &Server, extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let newer = NEWER_SETTINGS.iter().filter(|(since, _)| server.version >= *since);
    let extra = extra.iter().filter(|(name, _)| server.is_raw || *name != ENCODING_OF_NONE);
    SETTINGS.iter().chain(newer.map(|(_, setting)| setting)).chain(extra).copied().collect()
}

/// What a server says of itself when a session begins.
#[derive(Debug, Clone, Copy, Default)]
struct Server {
    /// The major version; 0 when it says something else.
    version: u32,
    /// Whether the database has no encoding.
    is_raw: bool,
}

impl Server {
    fn of(connection: &Connection<Lent, Lent>) -> Self {
        let said = |name| connection.parameter(name);
        Self::new(said("server_version"), said("server_encoding"))
    }

    fn new(version: Option<&str>, encoding: Option<&str>) -> Self {
        let digits = version.unwrap_or("").split(|c: char| !c.is_ascii_digit()).next();
        let version = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Self { version, is_raw: encoding == Some("SQL_ASCII") }
    }
}

fn spawn(connection: Connection<Lent, Lent>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Whoever waits for a reply is told too; here it is only worth a line in the log.
        if let Err(error) = connection.await {
            tracing::debug!(error = %describe(&error), "a connection to PostgreSQL ended");
        }
    })
}

fn connect_error(failure: Failure) -> Error {
    let error = match failure {
        Failure::Driver(error) => error,
        Failure::Setup(error) => return error,
        Failure::Encryption(what) => {
            return Error::config(format!(
                "PostgreSQL: the encrypted connection failed: error performing TLS handshake: {what}"
            ))
            .hint("check `sslmode` and `sslrootcert` in the connection string");
        }
        Failure::Unreachable(error) => {
            return unreachable(&format!("error connecting to server: {error}"));
        }
    };
    if error.as_db_error().is_some() {
        let refused = pg_error("connect", &error);
        // A session parameter that the server does not know.
        let wrong = matches!(refused.kind(), ErrorKind::Schema | ErrorKind::Data);
        return match error.code().map(SqlState::code) {
            // The database is starting, stopping or recovering: `ALLOW_CONNECTIONS false` too.
            Some("55000") => refused.with_kind(ErrorKind::Transient).hint(
                "the database takes no connections at the moment: run the same command again later",
            ),
            _ if wrong => refused.with_kind(ErrorKind::Config),
            _ => refused,
        };
    }
    let words = error.to_string();
    if words.contains("authentication") || words.contains("configuration") {
        return Error::config(format!("PostgreSQL: could not log in: {}", describe(&error)))
            .hint("give the password in `connection_string`, in PGPASSWORD or in ~/.pgpass");
    }
    unreachable(&describe(&error))
}

fn unreachable(why: &str) -> Error {
    Error::transient(format!("PostgreSQL cannot be reached: {why}"))
        .hint("check that the server runs and that host and port are right")
}

/// The error in words, without anything that may hold a value of a row.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return Refusal::from(db).safe_message();
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Turns an error of the driver into one with a kind; `action` completes "could not …".
pub(crate) fn pg_error(action: &str, error: &tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        let kind = if error.is_closed() || error.to_string().contains("communicating") {
            ErrorKind::Transient
        } else {
            ErrorKind::Internal
        };
        let what = if error.is_closed() {
            "the connection was closed".to_owned()
        } else {
            describe(error)
        };
        return Error::new(kind, format!("PostgreSQL: could not {action}: {what}"));
    };
    Refusal::from(db).error(action)
}

/// A text literal. Holds for every setting of `standard_conforming_strings`.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A quoted identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_literals_are_quoted() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }

    #[test]
    fn settings_follow_the_server() {
        let version = |text| Server::new(text, None).version;
        assert_eq!(version(Some("15.8 (Debian 15.8-0+deb12u1)")), 15);
        assert_eq!(version(Some("9.6.24")), 9);
        assert_eq!((version(Some("unknown")), version(None)), (0, 0));
        let has = |version, name| {
            let server = Server { version, is_raw: false };
            settings(&server, &[]).iter().any(|(known, _)| *known == name)
        };
        assert!(has(15, "lock_timeout") && has(15, "idle_session_timeout"));
        assert!(!has(15, "transaction_timeout") && has(17, "transaction_timeout"));
        let extra = [("search_path", "a"), (ENCODING_OF_NONE, "SQL_ASCII")];
        let last = |encoding| settings(&Server::new(None, encoding), &extra).last().map(|s| s.0);
        assert_eq!(last(Some("UTF8")), Some("search_path"));
        assert_eq!(last(Some("SQL_ASCII")), Some(ENCODING_OF_NONE));
    }
}
