//! What the server says when it refuses something, and what that means: the kind of the error, and
//! what to do about it. The same for the driver's sessions and for our own reader.

use highwater_core::{Error, ErrorKind};
use tokio_postgres::error::DbError;

use crate::conninfo::Place;
use crate::rights;

/// The parts of an error message of the server that may be used. Details quote values of rows and
/// are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The SQLSTATE, five characters.
    pub code: String,
    message: String,
    schema: Option<String>,
    column: Option<String>,
    constraint: Option<String>,
    context: Option<String>,
}

impl From<&DbError> for Refusal {
    fn from(db: &DbError) -> Self {
        Self {
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
            schema: db.schema().map(str::to_owned),
            column: db.column().map(str::to_owned),
            constraint: db.constraint().map(str::to_owned),
            context: db.where_().map(str::to_owned),
        }
    }
}

impl Refusal {
    /// The body of an ErrorResponse: fields of one byte and a text that ends with a zero byte.
    /// What cannot be read is left out.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut refusal = Self::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => refusal.code = text,
                b'M' => refusal.message = text,
                b's' => refusal.schema = Some(text),
                b'c' => refusal.column = Some(text),
                b'n' => refusal.constraint = Some(text),
                b'W' => refusal.context = Some(text),
                _ => {}
            }
        }
        refusal
    }

    /// The server's message. Those of class 22 (data exceptions) quote values, so they are
    /// replaced; details and contexts of all classes may quote values and are never used.
    pub(crate) fn safe_message(&self) -> String {
        if self.code.starts_with("22") {
            return "a value does not fit its column".to_owned();
        }
        self.message.clone()
    }

    /// A key of one of the server's catalogs: another transaction has just taken a name. No row has
    /// anything to do with it.
    fn kind(&self) -> ErrorKind {
        match (self.code.as_str(), self.schema.as_deref()) {
            ("23505", Some("pg_catalog")) => ErrorKind::Transient,
            (code, _) => kind_of(code),
        }
    }

    /// The error; `action` completes "could not …".
    pub(crate) fn error(&self, action: &str) -> Error {
        let mut out = Error::new(
            self.kind(),
            format!("PostgreSQL: could not {action}: {}", self.safe_message()),
        );
        out = out.context("sqlstate", &self.code);
        let column = self.column.as_deref();
        if let Some(column) = column.or_else(|| column_in_context(self.context.as_deref())) {
            out = out.context("column", column);
        }
        if let Some(constraint) = &self.constraint {
            out = out.context("constraint", constraint);
        }
        match hint_for(&self.code) {
            Some(hint) => out.hint(hint),
            None => out,
        }
    }

    /// What the role or the rows lack there, as a statement where there is one.
    pub(crate) fn hint(&self, place: &Place, writes: bool) -> Option<String> {
        if self.code == "42501" {
            rights::hint(&self.message, writes, &place.user)
        } else {
            writes.then(|| rights::refused_row(&self.code)).flatten()
        }
    }

    /// As [`Self::error`], with the place and the hint for it.
    pub(crate) fn error_at(&self, action: &str, place: &Place, writes: bool) -> Error {
        let out = self.error(action);
        let out = match self.hint(place, writes) {
            Some(hint) => out.hint(hint),
            None => out,
        };
        place.describe(out)
    }
}

/// `COPY t, line 3, column price: "…"` names the column before the value.
fn column_in_context(context: Option<&str>) -> Option<&str> {
    let (_, rest) = context?.split_once(", column ")?;
    let end = rest.find(':').unwrap_or(rest.len());
    Some(rest[..end].lines().next().unwrap_or(""))
}

fn kind_of(code: &str) -> ErrorKind {
    match code {
        // Read-only transaction: a standby, or a user without the right to write.
        "25006" | "42501" | "3D000" => ErrorKind::Config,
        "42P01" | "42703" | "3F000" | "42704" | "42804" => ErrorKind::Schema,
        "0A000" => ErrorKind::Unsupported,
        "40001" | "40P01" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" => {
            ErrorKind::Transient
        }
        // An object in the wrong state for the statement; connecting makes it `Transient`.
        "55000" => ErrorKind::Config,
        _ => match code.get(..2) {
            Some("08" | "53" | "58") => ErrorKind::Transient,
            Some("22" | "23" | "54") => ErrorKind::Data,
            Some("28") => ErrorKind::Config,
            _ => ErrorKind::Internal,
        },
    }
}

fn hint_for(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" | "28000" => {
            "check user and password in `connection_string`, PGPASSWORD or ~/.pgpass, and the server's pg_hba.conf"
        }
        "3D000" => "create it with `createdb NAME`, or correct the database in `connection_string`",
        "42501" => "grant the role what the message says that it lacks",
        "25006" => "connect to the primary server, not to a standby",
        "53100" => "free disk space on the database server and run the sync again",
        "53300" => "raise max_connections on the server, or run with a lower `--tasks N`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_found_in_a_copy_context_and_the_value_is_not() {
        assert_eq!(column_in_context(Some("COPY t, line 1, column price: \"x\"")), Some("price"));
        assert_eq!(column_in_context(Some("COPY t, line 1")), None);
    }

    #[test]
    fn kinds_follow_the_sqlstate() {
        assert_eq!(kind_of("28P01"), ErrorKind::Config);
        assert_eq!(kind_of("40P01"), ErrorKind::Transient);
        assert_eq!(kind_of("57P01"), ErrorKind::Transient);
        assert_eq!(kind_of("22021"), ErrorKind::Data);
        assert_eq!(kind_of("42P01"), ErrorKind::Schema);
        assert_eq!(kind_of("25006"), ErrorKind::Config);
        assert!(hint_for("53300").unwrap().contains("--tasks"));
        assert_eq!(kind_of("XX000"), ErrorKind::Internal);
        assert_eq!(kind_of("é"), ErrorKind::Internal);
    }

    #[test]
    fn a_name_that_another_transaction_takes_is_no_fault_of_a_row() {
        let body = |schema: &str| format!("SERROR\0C23505\0Mduplicate key\0s{schema}\0\0");
        let kind = |schema| Refusal::parse(body(schema).as_bytes()).error("create").kind();
        assert_eq!(kind("pg_catalog"), ErrorKind::Transient);
        assert_eq!(kind("public"), ErrorKind::Data);
    }

    #[test]
    fn an_error_message_is_read_and_its_values_are_not_shown() {
        let body = b"SERROR\0VERROR\0C22P02\0Minvalid input: \"secret\"\0Dsecret\0\
                     WCOPY t, line 1, column price: \"secret\"\0\0";
        let refusal = Refusal::parse(body);
        let error = refusal.error("read");
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.context_value("sqlstate"), Some("22P02"));
        assert_eq!(error.context_value("column"), Some("price"));
        assert!(!format!("{error:?}{error}").contains("secret"));
        // Garbage has no code: nobody's fault but the connection's.
        assert_eq!(Refusal::parse(&[0xff, 0xfe, 0]).error("read").kind(), ErrorKind::Internal);
    }
}
