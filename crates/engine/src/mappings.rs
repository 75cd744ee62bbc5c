//! What a user wants done to rows before they are written: renamed and dropped columns, filters,
//! hashes, encryption. A row to which it cannot be done goes into the quarantine.

use highwater_core::{Error, Mapping, Result, Table};

/// The table as its rows are after the mappings: columns, primary key and cursor field.
///
/// # Errors
/// `Config` for a mapping that cannot be done to the table.
pub fn table(mappings: &[Mapping], table: &Table) -> Result<Table> {
    match mappings {
        [] => Ok(table.clone()),
        _ => Err(Error::unsupported("Mappings are not supported yet")),
    }
}
