//! What a user wants done to rows before they are written: renamed and dropped columns, filters,
//! hashes, encryption. A row to which it cannot be done goes into the quarantine.
//!
//! This file says what becomes of a table, when the plan is made; `rows` does it to rows. Mappings
//! come before all else that a destination wants of its rows (metadata columns, transformers), so
//! that nothing behind them ever sees what they hide.

mod condition;
pub mod faults;
mod hiding;
mod rows;

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use highwater_core::plan::{
    EXTRACTED_AT, GENERATION_ID, META, RAW_ID, SOURCE_NAME, SYNC_GROUP_ID, SYNC_TIME,
};
use highwater_core::types::record_part;
use highwater_core::{
    Error, LogicalType, Mapping, ReadMode, Result, Secret, Table, TableName, WriteMode,
};

use crate::selection;
pub(crate) use rows::{Mapper, Refusal};

/// Names that a mapping must not give: the columns would pass for highwater's own.
const RESERVED: [&str; 7] =
    [SYNC_TIME, SOURCE_NAME, SYNC_GROUP_ID, RAW_ID, EXTRACTED_AT, META, GENERATION_ID];

/// The table as its rows are after the mappings: columns, primary key and cursor field. It has no
/// cursor field where a mapping drops or hides the column. What records bring beside their columns
/// stays as it is.
///
/// # Errors
/// `Config` for a mapping that cannot be done to the table.
pub fn table(mappings: &[Mapping], table: &Table) -> Result<Table> {
    let mut mapped = table.clone();
    for mapping in mappings {
        step(mapping, &mut mapped).map_err(|error| error.context("mapping", mapping.word()))?;
    }
    Ok(mapped)
}

/// Whether a key for `encrypt` can be used.
///
/// # Errors
/// `Config` when it is not 32, 48 or 64 hexadecimal digits.
pub fn check_key(key: &Secret) -> Result<()> {
    hiding::Cipher::new(key).map(drop)
}

/// Refuses mappings that take away the order that the modes need, or that hide values of which
/// the cursor is kept as it is.
///
/// # Errors
/// `Config`.
pub(crate) fn check_order(
    mappings: &[Mapping],
    cursor_field: Option<&String>,
    mapped: &Table,
    read_mode: ReadMode,
    write_mode: WriteMode,
) -> Result<()> {
    let Some(cursor_field) = cursor_field.filter(|_| mapped.cursor_field.is_none()) else {
        return Ok(());
    };
    let error = match write_mode {
        WriteMode::AppendDedup | WriteMode::ReplaceDedup => Error::config(format!(
            "`{write_mode}` tells by the cursor field which row is newer, and a mapping drops or hides it"
        )),
        _ if read_mode == ReadMode::Incremental && fate(mappings, cursor_field) == Fate::Hidden => {
            Error::config(
                "A mapping hides the cursor field, and the cursor is one of its values, kept as it is",
            )
        }
        _ => return Ok(()),
    };
    Err(error
        .context("table", &mapped.name)
        .context("column", cursor_field)
        .hint("leave the cursor field as it is, or name another: `cursor: …` in the table's entry"))
}

/// What becomes of a column of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped,
    Hidden,
}

fn fate(mappings: &[Mapping], column: &str) -> Fate {
    let mut name = column;
    for mapping in mappings {
        match mapping {
            Mapping::Rename { column, to } if column == name => name = to,
            Mapping::Drop { column } if column == name => return Fate::Dropped,
            Mapping::Hash { column, .. } | Mapping::Encrypt { column, .. } if column == name => {
                return Fate::Hidden;
            }
            _ => {}
        }
    }
    Fate::Kept
}

fn step(mapping: &Mapping, table: &mut Table) -> Result<()> {
    match mapping {
        Mapping::Rename { column, to } => {
            let field = named(table, column)?.clone().with_name(to);
            check_vacant(table, column, to)?;
            replace(table, column, Some(field));
        }
        Mapping::Drop { column } => {
            named(table, column)?;
            if table.primary_key.contains(column) {
                return Err(of_key("A column of the primary key cannot be dropped", table, column)
                    .hint("name another key: `primary_key: […]` in the table's entry, or hash the column"));
            }
            replace(table, column, None);
            table.cursor_field.take_if(|cursor| cursor == column);
        }
        Mapping::Filter(condition) => {
            for column in condition.columns() {
                check_text(table, named(table, column)?)?;
            }
        }
        Mapping::Hash { column, to, method: _ } => {
            hide(table, column, to)?;
        }
        Mapping::Encrypt { column, to, key } => {
            hiding::Cipher::new(key)
                .map_err(|error| error.context("table", &table.name).context("column", column))?;
            named(table, column)?;
            if table.primary_key.contains(column) {
                return Err(of_key(
                    "A column of the primary key cannot be encrypted: no two ciphertexts are equal",
                    table,
                    column,
                )
                .hint(format!("hash it: `- hash: {{column: {column}, method: SHA-256}}`")));
            }
            hide(table, column, to)?;
        }
    }
    Ok(())
}

/// Makes the column text that has no order.
fn hide(table: &mut Table, column: &str, to: &str) -> Result<()> {
    let field = named(table, column)?;
    check_text(table, field)?;
    check_vacant(table, column, to)?;
    let hidden = Field::new(to, DataType::Utf8, field.is_nullable());
    replace(table, column, Some(hidden));
    table.cursor_field.take_if(|cursor| cursor == to);
    Ok(())
}

/// A column that mappings may name: one of the table, not of the records that it comes in.
fn named<'a>(table: &'a Table, column: &str) -> Result<&'a Field> {
    let field = selection::require_column(table, column)?;
    match record_part(field) {
        None => Ok(field),
        Some(_) => Err(Error::config("The column is not of the table, but of its records")
            .context("table", &table.name)
            .context("column", column)
            .hint("leave the mapping out")),
    }
}

fn check_text(table: &Table, field: &Field) -> Result<()> {
    LogicalType::of(field).map(drop).map_err(|error| error.context("table", &table.name))
}

fn check_vacant(table: &Table, column: &str, to: &str) -> Result<()> {
    let message = if to.is_empty() {
        "A column needs a name"
    } else if RESERVED.contains(&to) {
        "The name is one of highwater's own columns"
    } else if to != column && table.field(to).is_some() {
        "Two columns would have one name"
    } else {
        return Ok(());
    };
    Err(Error::config(message)
        .context("table", &table.name)
        .context("column", column)
        .context("name", to)
        .hint("to: ANOTHER_NAME"))
}

fn of_key(message: &str, table: &Table, column: &str) -> Error {
    Error::config(message).context("table", &table.name).context("column", column)
}

/// Puts a column in the place of another one, also in the keys; `None`: it goes.
fn replace(table: &mut Table, column: &str, with: Option<Field>) {
    let fields = table.schema.fields().iter().filter_map(|field| match field.name() == column {
        false => Some(Arc::clone(field)),
        true => with.clone().map(Arc::new),
    });
    let metadata = table.schema.metadata().clone();
    table.schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata));
    if let Some(with) = with {
        for key in table.primary_key.iter_mut().chain(&mut table.cursor_field) {
            if key == column {
                key.clone_from(with.name());
            }
        }
    }
}

/// The error of a table whose rows would have to go into a quarantine that is not there.
pub(crate) fn without_quarantine(table: &TableName, refusal: &Refusal) -> Error {
    Error::data("A mapping failed for a row, and the destination has no quarantine for it")
        .context("table", table)
        .context("column", &refusal.column)
        .context("because", &refusal.reason)
        .hint("`highwater migrate` makes the quarantine, where the destination can have one")
}

#[cfg(test)]
mod tests {
    use highwater_core::mapping::{Condition, HashMethod};
    use highwater_core::types::{RECORD, RECORD_META, with_metadata};

    use super::*;

    fn sample() -> Table {
        let fields = ["id", "email", "at"].map(|name| Field::new(name, DataType::Int64, true));
        let part = Field::new("_airbyte_meta", DataType::Utf8, true);
        let fields = fields.into_iter().chain([with_metadata(part, RECORD, RECORD_META)]).collect();
        let mut table = Table::new(TableName::new("t"), fields).with_primary_key(["id"]);
        table.cursor_field = Some("at".into());
        table
    }

    fn rename(column: &str, to: &str) -> Mapping {
        Mapping::Rename { column: column.into(), to: to.into() }
    }

    fn hash(column: &str, to: &str) -> Mapping {
        Mapping::Hash { column: column.into(), to: to.into(), method: HashMethod::Sha256 }
    }

    fn encrypt(column: &str, key: &str) -> Mapping {
        Mapping::Encrypt { column: column.into(), to: "e".into(), key: Secret::new(key) }
    }

    fn dropped(column: &str) -> Mapping {
        Mapping::Drop { column: column.into() }
    }

    #[test]
    fn columns_key_and_cursor_field_change_alike_and_in_order() {
        let mappings =
            [rename("id", "n"), rename("at", "id"), hash("n", "n_hashed"), rename("email", "n")];
        let mapped = table(&mappings, &sample()).unwrap();
        assert_eq!(mapped.column_names().collect::<Vec<_>>(), ["n_hashed", "n", "id", META]);
        assert_eq!(mapped.primary_key, ["n_hashed"]);
        assert_eq!(mapped.cursor_field.as_deref(), Some("id"));
        assert_eq!(mapped.field("n_hashed").unwrap().data_type(), &DataType::Utf8);
        let mapped = table(&[dropped("email"), hash("at", "at")], &sample()).unwrap();
        assert_eq!(mapped.column_names().collect::<Vec<_>>(), ["id", "at", META]);
        assert_eq!(mapped.cursor_field, None, "a hash has no order");
    }

    #[test]
    fn what_cannot_be_done_to_the_table_is_refused() {
        let key = "00112233445566778899aabbccddeeff";
        let filter =
            Mapping::Filter(Condition::Not(Box::new(Condition::IsNull { column: "emial".into() })));
        for (mapping, message) in [
            (rename("emial", "x"), "The table has no such column"),
            (rename("email", "id"), "Two columns would have one name"),
            (rename("email", SYNC_TIME), "The name is one of highwater's own columns"),
            (rename("email", ""), "A column needs a name"),
            (rename(META, "meta"), "The column is not of the table, but of its records"),
            (dropped("id"), "A column of the primary key cannot be dropped"),
            (filter, "The table has no such column"),
            (encrypt("email", "0011"), "The key is not 32, 48 or 64 hexadecimal digits"),
            (
                encrypt("id", key),
                "A column of the primary key cannot be encrypted: no two ciphertexts are equal",
            ),
        ] {
            let error = table(std::slice::from_ref(&mapping), &sample()).unwrap_err();
            assert_eq!(error.message(), message);
            assert_eq!(error.context_value("mapping"), Some(mapping.word()), "{message}");
            assert!(error.hint_text().is_some(), "{message}");
        }
        assert!(table(&[encrypt("email", key)], &sample()).is_ok());
    }

    #[test]
    fn a_mapping_takes_no_order_away_that_is_needed() {
        let check = |mappings: &[Mapping], read_mode, write_mode| {
            let mapped = table(mappings, &sample()).unwrap();
            check_order(mappings, Some(&"at".to_owned()), &mapped, read_mode, write_mode).is_ok()
        };
        let (all, new) = (ReadMode::FullRefresh, ReadMode::Incremental);
        let renamed = [rename("at", "b"), rename("b", "c")];
        assert!(check(&renamed, new, WriteMode::AppendDedup));
        let hidden = [rename("at", "b"), hash("b", "c")];
        assert!(!check(&hidden, new, WriteMode::AppendDedup));
        assert!(!check(&hidden, all, WriteMode::ReplaceDedup));
        assert!(!check(&hidden, new, WriteMode::Append), "the cursor would show a value");
        assert!(check(&hidden, all, WriteMode::Append));
        assert!(check(&[dropped("at")], new, WriteMode::Append));
        assert!(!check(&[dropped("at")], all, WriteMode::ReplaceDedup));
    }
}
