//! The cursor field that a user names: whether it is a column, and one whose values have an order.

use arrow_schema::Field;
use highwater_core::types::type_name;
use highwater_core::{Error, Result, TablePlan};

/// The cursor field of an incremental read. `qualifies` tells the columns whose order is the
/// source's own; `refusal` is the sentence for one that does not.
///
/// # Errors
/// `Config`, with the columns that could be the cursor field.
pub fn find(plan: &TablePlan, qualifies: impl Fn(&Field) -> bool, refusal: &str) -> Result<Field> {
    let refused = |error: Error| {
        let fields = plan.source.schema.fields().iter();
        let names: Vec<_> = fields.filter(|f| qualifies(f)).map(|f| f.name().as_str()).collect();
        error.hint(match names.first() {
            Some(first) => format!("cursor: {first}   # or one of: {}", names.join(", ")),
            None => "read_mode: full_refresh".to_owned(),
        })
    };
    let wrong = |words: &str| Error::config(words).context("table", plan.name());
    let Some(name) = plan.cursor_field.as_deref() else {
        return Err(refused(wrong("An incremental read needs a cursor field")));
    };
    match plan.source.field(name) {
        None => {
            let missing = wrong("The cursor field is not a column of the table");
            Err(refused(missing.context("column", name)))
        }
        Some(field) if qualifies(field) => Ok(field.clone()),
        Some(field) => {
            let refusal = wrong(refusal).context("column", name);
            Err(refused(refusal.context("type", type_name(field))))
        }
    }
}
