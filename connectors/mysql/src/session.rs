//! Connections: opening one, its settings, and what the errors of the server mean.

use highwater_core::{Error, ErrorKind, Result};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};

/// Texts and times do not depend on the server's settings, and nothing ends a long read.
const SETTINGS: &str = "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', \
                        SESSION net_write_timeout = 3600, SESSION wait_timeout = 86400";

/// What zones are read in.
pub(crate) const UTC: &str = "SET SESSION time_zone = '+00:00'";

/// An open connection. Dropping it in the middle of a statement closes the socket, and the server
/// ends the statement as soon as it has something to send.
pub(crate) struct Session {
    /// `None` only while it is dropped.
    connection: Option<Conn>,
    /// Whether a statement has begun and its result was not read to its end.
    is_busy: bool,
    place: String,
    /// The time zone that the server writes `datetime` and `date` in.
    pub(crate) zone: Zone,
}

/// A time zone of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    /// By how many seconds its clock is ahead of UTC now.
    pub(crate) seconds: i64,
    /// Whether that never changes.
    pub(crate) is_fixed: bool,
}

/// The driver reads a pending result to its end before it closes a connection, however long that
/// takes. It cannot where there is no runtime, as on a thread of our own, and just closes it.
impl Drop for Session {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take().filter(|_| self.is_busy) else { return };
        let closing = std::thread::Builder::new().name("mysql-close".to_owned());
        if let Err(error) = closing.spawn(move || drop(connection)) {
            tracing::warn!(%error, "a connection to MySQL is closed only after its last result");
        }
    }
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
        let connection = Some(connection);
        let mut session = Self { connection, is_busy: false, place, zone: Zone::default() };
        session.run("prepare the session", SETTINGS).await?;
        let seconds = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())";
        let fixed = "SELECT IF(@@time_zone = 'SYSTEM', @@system_time_zone, @@time_zone)
                            REGEXP '^([+-][0-9]+:[0-9]+|UTC)$'";
        session.zone = Zone {
            seconds: session.one(seconds).await?.unwrap_or_default(),
            is_fixed: session.one::<i64>(fixed).await? == Some(1),
        };
        session.run("prepare the session", UTC).await?;
        Ok(session)
    }

    /// The connection, for a statement; [`Self::ended`] has to follow when its result was read.
    ///
    /// # Errors
    /// None that can happen.
    pub(crate) fn begin(&mut self) -> Result<&mut Conn> {
        self.is_busy = true;
        self.connection.as_mut().ok_or_else(|| Error::internal("A connection is closed"))
    }

    /// The result of the statement was read to its end.
    pub(crate) fn ended(&mut self) {
        self.is_busy = false;
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
        let done = self.begin()?.query_drop(statement).await;
        self.ended();
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
            self.begin()?.query_first(statement).await;
        self.ended();
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
        1146 | 1054 | 1412 => (ErrorKind::Schema, "run the command again: the table has changed"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_changed_after_the_snapshot_is_no_defect_of_ours() {
        let error = mysql_async::Error::Server(mysql_async::ServerError {
            code: 1412,
            message: "Table definition has changed, please retry transaction".to_owned(),
            state: "HY000".to_owned(),
        });
        let error = explain("read the table", error, "db:3306");
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.hint_text().unwrap().contains("run the command again"));
    }
}
