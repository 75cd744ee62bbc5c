//! Which tables and columns the user's patterns mean.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use highwater_core::types::record_part;
use highwater_core::{Error, Result, Table, TableName};

use crate::options::{SyncRequest, TableOptions};

/// A discovered table and the entry that counts for it.
pub(crate) struct Selected<'a> {
    pub(crate) table: &'a Table,
    pub(crate) options: &'a TableOptions,
}

/// The tables that match an entry and no skip pattern, in the order they were discovered.
///
/// # Errors
/// `Config` when a pattern matches nothing, as in CloudQuery: a misspelt name must not pass.
pub(crate) fn select<'a>(
    request: &'a SyncRequest,
    discovered: &'a [Table],
) -> Result<Vec<Selected<'a>>> {
    let patterns = request.tables.iter().map(|t| ("tables", t.name.as_str()));
    let skips = request.skip_tables.iter().map(|s| ("skip_tables", s.as_str()));
    for (key, pattern) in patterns.chain(skips) {
        if !discovered.iter().any(|t| matches(pattern, &t.name)) {
            return Err(unknown_table(key, pattern, discovered));
        }
    }
    let selected: Vec<_> = discovered
        .iter()
        .filter(|t| !request.skip_tables.iter().any(|s| matches(s, &t.name)))
        .filter_map(|table| {
            options_of(request, &table.name).map(|options| Selected { table, options })
        })
        .collect();
    if selected.is_empty() {
        return Err(
            Error::config("No table is left to sync").hint("check `tables` and `skip_tables`")
        );
    }
    Ok(selected)
}

/// The entry that counts for a table.
pub(crate) fn options_of<'a>(
    request: &'a SyncRequest,
    table: &TableName,
) -> Option<&'a TableOptions> {
    let mut entries = request.tables.iter().filter(|o| matches(&o.name, table));
    let exact = entries.clone().find(|o| !o.name.contains('*'));
    exact.or_else(|| entries.next())
}

/// Whether the pattern, in which `*` matches any text, names the table.
pub fn matches(pattern: &str, table: &TableName) -> bool {
    glob(pattern, &table.to_string()) || glob(pattern, &table.name) && table.namespace.is_none()
}

fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            match rest.find(part) {
                Some(at) => rest = &rest[at + str::len(part)..],
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

fn unknown_table(key: &'static str, pattern: &str, discovered: &[Table]) -> Error {
    let names: Vec<String> = discovered.iter().map(|t| t.name.to_string()).collect();
    let error = Error::config(if pattern.contains('*') {
        "A pattern matches no table of the source"
    } else {
        "The source has no such table"
    })
    .context("key", key)
    .context("table", pattern);
    match closest(pattern, &names) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("the source has: {}", listed(&names))),
    }
}

/// The table as it is read: the selected columns, with the types the user asked for. A cursor that
/// the user did not name is left out with its column, unless `needs_cursor`.
///
/// # Errors
/// `Config` for an unknown column or type word.
pub(crate) fn project(table: &Table, options: &TableOptions, needs_cursor: bool) -> Result<Table> {
    let Some(columns) = &options.columns else { return Ok(table.clone()) };
    let mut fields = Vec::new();
    for column in columns {
        let field = require_column(table, &column.name)?;
        if record_part(field).is_some() {
            continue;
        }
        fields.push(match column.as_type.as_deref() {
            None => field.clone(),
            Some("text") => Field::new(field.name(), DataType::Utf8, field.is_nullable()),
            Some(other) => {
                return Err(Error::config("A column can be read as `text` only")
                    .context("table", &table.name)
                    .context("column", &column.name)
                    .context("type", other));
            }
        });
    }
    // What records bring beside their columns is chosen later.
    let parts = table.schema.fields().iter().filter(|field| record_part(field).is_some());
    fields.extend(parts.map(|field| field.as_ref().clone()));
    let key = options.primary_key.as_ref().unwrap_or(&table.primary_key);
    let cursor = options.cursor.as_ref().or(table.cursor_field.as_ref());
    for column in key.iter().chain(cursor.filter(|_| needs_cursor || options.cursor.is_some())) {
        if !columns.iter().any(|c| &c.name == column) {
            require_column(table, column)?;
            return Err(Error::config(
                "`columns` leaves out a column of the key or the cursor field",
            )
            .context("table", &table.name)
            .context("column", column)
            .hint(format!("add `{column}` to `columns`")));
        }
    }
    let mut projected = table.clone();
    let metadata = table.schema.metadata().clone();
    projected.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    if projected.cursor_field.as_ref().is_some_and(|c| projected.field(c).is_none()) {
        projected.cursor_field = None;
    }
    Ok(projected)
}

/// The column, or an error that names those there are.
pub(crate) fn require_column<'a>(table: &'a Table, column: &str) -> Result<&'a Field> {
    table.field(column).ok_or_else(|| {
        // What records bring beside their columns is no column that anybody sees.
        let fields = table.schema.fields().iter().filter(|field| record_part(field).is_none());
        let names: Vec<String> = fields.map(|field| field.name().clone()).collect();
        let error = Error::config("The table has no such column")
            .context("table", &table.name)
            .context("column", column);
        match closest(column, &names) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("the table has: {}", listed(&names))),
        }
    })
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The name that is nearest to `word`, if one is near: at most a third of it differs.
pub fn closest<'a>(word: &str, names: &'a [String]) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    names
        .iter()
        .map(|name| (distance(&word.to_lowercase(), &name.to_lowercase()), name.as_str()))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_text_anywhere() {
        for (pattern, text, expected) in [
            ("*", "orders", true),
            ("ord*", "orders", true),
            ("*ers", "orders", true),
            ("o*d*s", "orders", true),
            ("orders", "orders", true),
            ("order", "orders", false),
            ("o*x*s", "orders", false),
            ("*ab*ab", "ab", false),
            ("", "orders", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_bare_name_means_the_default_namespace() {
        assert!(matches("orders", &TableName::new("orders")));
        assert!(!matches("orders", &TableName::in_namespace("archive", "orders")));
        assert!(matches("archive.*", &TableName::in_namespace("archive", "orders")));
    }

    #[test]
    fn a_typing_error_finds_its_name() {
        let names = ["orders", "customers"].map(str::to_owned);
        assert_eq!(closest("ordrs", &names), Some("orders"));
        assert_eq!(closest("Costumers", &names), Some("customers"));
        assert_eq!(closest("invoices", &names), None);
    }
}
