//! An error on its way to the user: what went wrong, the place in a configuration file that it
//! belongs to, and how both are printed.

use std::fmt;

use highwater_core::{Error, ErrorKind};

use crate::hints;

/// The result of everything in the command line.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// An error, and the place in a file that the user has to look at, where there is one.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// Where.
    pub spot: Option<Spot>,
}

/// A place in a configuration file, and its line with every secret taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The file, as the user wrote it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How many characters to underline, at least 1.
    pub width: usize,
    /// The line.
    pub text: String,
}

impl Failure {
    /// An error at a place.
    pub fn at(error: Error, spot: Spot) -> Self {
        Self { error, spot: Some(spot) }
    }

    /// What to do about it, as it can be pasted.
    pub fn hint(&self) -> Option<String> {
        let table = self.error.context_value("table");
        self.error.hint_text().map(|hint| hints::completed(hint, table, None))
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, spot: None }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", self.text)?;
        // A tab stays a tab, so that the caret stands below its character on any terminal.
        let before: String = self
            .text
            .chars()
            .take(self.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let room = self.text.chars().count().saturating_sub(self.column - 1).max(1);
        write!(f, "{margin} | {before}{}", "^".repeat(self.width.clamp(1, room)))
    }
}

/// `error: …`, the place, and `hint: …`, each on lines of their own, without a line end.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error.full_message())?;
        if let Some(spot) = &self.spot {
            write!(f, "\n{spot}")?;
        }
        if let Some(hint) = self.hint() {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_message_place_and_hint() {
        let spot = Spot {
            file: "sync.yml".into(),
            line: 12,
            column: 3,
            width: 6,
            text: "  tabels: [\"*\"]".into(),
        };
        let error = Error::config("Unknown key `tabels`").hint("did you mean `tables`?");
        assert_eq!(
            Failure::at(error, spot).to_string(),
            "error: Unknown key `tabels`\n  --> sync.yml:12:3\n   |\n12 |   tabels: [\"*\"]\n   |   ^^^^^^\nhint: did you mean `tables`?"
        );
    }
}
