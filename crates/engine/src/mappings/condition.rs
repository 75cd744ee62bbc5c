//! Conditions over the rows of a batch.

use highwater_core::Result;
use highwater_core::mapping::Condition;
use highwater_core::text::TextColumn;

/// A condition with the columns of a batch that it is about.
pub(super) enum Test<'a> {
    And(Vec<Test<'a>>),
    Or(Vec<Test<'a>>),
    Not(Box<Test<'a>>),
    Equal(TextColumn<'a>, &'a str),
    IsNull(TextColumn<'a>),
}

impl<'a> Test<'a> {
    /// # Errors
    /// What `column` says of a name.
    pub(super) fn new(
        condition: &'a Condition,
        column: &impl Fn(&str) -> Result<TextColumn<'a>>,
    ) -> Result<Self> {
        let all = |parts: &'a [Condition]| -> Result<Vec<Self>> {
            parts.iter().map(|part| Self::new(part, column)).collect()
        };
        Ok(match condition {
            Condition::And(parts) => Self::And(all(parts)?),
            Condition::Or(parts) => Self::Or(all(parts)?),
            Condition::Not(part) => Self::Not(Box::new(Self::new(part, column)?)),
            Condition::Equal { column: name, value } => Self::Equal(column(name)?, value),
            Condition::IsNull { column: name } => Self::IsNull(column(name)?),
        })
    }

    /// Whether it holds for a row. `text` is a buffer, to be used again.
    pub(super) fn holds(&self, row: usize, text: &mut String) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.holds(row, text)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(row, text)),
            Self::Not(part) => !part.holds(row, text),
            Self::IsNull(column) => column.is_null(row),
            Self::Equal(column, value) => {
                text.clear();
                column.write(row, text);
                !column.is_null(row) && text == value
            }
        }
    }
}
