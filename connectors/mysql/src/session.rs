//! Connections: opening one, its settings, and what the errors of the server mean.

use highwater_core::{Error, ErrorKind, Result};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};

/// Texts and times do not depend on the server's settings, and nothing ends a long read.
const SETTINGS: &str = "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', \
                        SESSION net_write_timeout = 3600, SESSION wait_timeout = 86400";

/// An open connection. Dropping it closes the socket, and the server ends what it was doing.
pub(crate) struct Session {
    pub(crate) connection: Conn,
    place: String,
    /// By how many seconds the clock of the server's own time zone is ahead of UTC.
    pub(crate) zone_seconds: i64,
}

impl Session {
    /// # Errors
    /// `Transient` when the server cannot be reached, `Config` when it refuses user, password or
    /// database. Host, port, database and user are named, the password is not.
    pub(crate) async fn open(options: &Opts) -> Result<Self> {
        let place = format!("{}:{}", options.ip_or_hostname(), options.tcp_port());
        let connection = Conn::new(options.clone()).await.map_err(|e| {
            let refused = explain("connect", e, &place);
            match refused.kind() {
                ErrorKind::Internal => refused.with_kind(ErrorKind::Transient),
                _ => refused,
            }
            .context("user", options.user().unwrap_or_default())
            .context("database", options.db_name().unwrap_or_default())
        })?;
        let mut session = Self { connection, place, zone_seconds: 0 };
        session.run("prepare the session", SETTINGS).await?;
        let zone = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())";
        session.zone_seconds = session.one(zone).await?.unwrap_or_default();
        session.run("prepare the session", "SET SESSION time_zone = '+00:00'").await?;
        Ok(session)
    }

    /// The server, for errors.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// What an error of this connection means; `action` completes "could not …".
    pub(crate) fn error(&self, action: &str, error: mysql_async::Error) -> Error {
        explain(action, error, &self.place)
    }

    /// # Errors
    /// As [`Self::error`].
    pub(crate) async fn run(&mut self, action: &str, statement: &str) -> Result<()> {
        let done = self.connection.query_drop(statement).await;
        done.map_err(|e| explain(action, e, &self.place))
    }

    /// The first column of the only row.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub(crate) async fn one<T>(&mut self, statement: &str) -> Result<Option<T>>
    where
        T: mysql_async::prelude::FromValue + Send + 'static,
    {
        let row: std::result::Result<Option<Option<T>>, _> =
            self.connection.query_first(statement).await;
        row.map(Option::flatten).map_err(|e| explain("look at the server", e, &self.place))
    }
}

pub(crate) fn explain(action: &str, error: mysql_async::Error, place: &str) -> Error {
    let mysql_async::Error::Server(server) = &error else {
        let words = match &error {
            mysql_async::Error::Io(cause) => cause.to_string(),
            mysql_async::Error::Driver(cause) => cause.to_string(),
            _ => "the connection failed".to_owned(),
        };
        let out = Error::transient(format!("MySQL: could not {action}: {words}"));
        return out.context("server", place);
    };
    let (kind, hint) = match server.code {
        1044 | 1045 | 1698 => {
            (ErrorKind::Config, "check user, password and rights in `connection_string`")
        }
        1049 => (ErrorKind::Config, "correct the database in `connection_string`"),
        1142 | 1143 | 1227 => (ErrorKind::Config, "GRANT SELECT ON database.* TO the user"),
        1146 | 1054 => (ErrorKind::Schema, "run the command again: the table has changed"),
        1040 | 1203 | 1205 | 1213 | 1053 | 1927 | 2006 | 2013 | 3024 | 1317 => {
            (ErrorKind::Transient, "run the same command again later")
        }
        _ => (ErrorKind::Internal, ""),
    };
    let out = Error::new(kind, format!("MySQL: could not {action}: {}", server.message))
        .context("code", server.code)
        .context("server", place);
    if hint.is_empty() { out } else { out.hint(hint) }
}

/// A quoted identifier. The session has `ANSI_QUOTES`.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal. The session has `NO_BACKSLASH_ESCAPES`.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
