//! The one error type: what went wrong, what the reader can do about it, and where.
//!
//! The [`ErrorKind`] decides the exit code and whether trying again makes sense; the context
//! pairs say where; the hint is one thing to do. Row values and secrets never go into an error.

use std::fmt;

/// The result of everything that can fail in highwater.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The configuration or the command line asks for something impossible: correct it.
    Config,
    /// A system is unreachable or busy: the same sync may succeed later.
    Transient,
    /// Source and destination disagree about a table's columns or identity: a person decides.
    Schema,
    /// A value cannot be represented at the destination without changing it.
    Data,
    /// A newer run of the same sync has taken over, or one is at work: this one may not commit.
    Fenced,
    /// The connector cannot do this, and says so before it touches anything.
    Unsupported,
    /// The run was asked to stop (Ctrl-C, SIGTERM) and stopped cleanly.
    Interrupted,
    /// A defect of highwater or of a system it talks to.
    Internal,
}

/// An error with a kind, context pairs and at most one hint.
///
/// `Display` prints the message and its context on one line (`message (key: value, …)`);
/// the hint is printed by whoever talks to the user, from [`Error::hint_text`].
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// An error of `kind`; `message` starts with a capital and has no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    constructors! {
        /// [`ErrorKind::Config`].
        config => Config;
        /// [`ErrorKind::Transient`].
        transient => Transient;
        /// [`ErrorKind::Schema`].
        schema => Schema;
        /// [`ErrorKind::Data`].
        data => Data;
        /// [`ErrorKind::Fenced`].
        fenced => Fenced;
        /// [`ErrorKind::Unsupported`].
        unsupported => Unsupported;
        /// [`ErrorKind::Interrupted`].
        interrupted => Interrupted;
        /// [`ErrorKind::Internal`].
        internal => Internal;
    }

    /// Adds a pair that says where: `("table", "orders")`. Never a row value, never a secret.
    #[must_use]
    pub fn context(mut self, key: &'static str, value: impl ToString) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Sets the one thing to do about it, best something that can be pasted.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Changes the kind, where a layer above knows better what it means.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone, without context, causes and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The value of a context pair.
    pub fn context_value(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    /// All context pairs, in the order they were added.
    pub fn context_pairs(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Message, context and the chain of causes, for a log line or a summary.
    pub fn full_message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

impl From<arrow_schema::ArrowError> for Error {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::internal("Arrow refused an operation").caused_by(error)
    }
}
