//! The saved form of an inclusive cursor, and the marks of rows in it.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use highwater_core::{Cursor, Error, Result, TableName};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// The greatest number of single values that a saved cursor may hold hashes of: 160 kB.
pub(super) const CELLS_MAX: usize = 20_000;

/// What [`super`] documents.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) v: u32,
    pub(super) field: String,
    #[serde(default)]
    pub(super) max: Option<String>,
    #[serde(default)]
    pub(super) from: Option<String>,
    #[serde(default)]
    pub(super) columns: Vec<String>,
    #[serde(default)]
    pub(super) boundary: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) boundary_cells: String,
    #[serde(default)]
    pub(super) nulls: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) nulls_cells: String,
}

/// How often each hash was delivered and not met again.
pub(super) type Hashes = HashMap<u128, u32>;

/// What is kept of a delivered row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// The hash of the whole row.
    pub(super) hash: u128,
    /// The hashes of its values, or nothing where there are too many.
    pub(super) cells: Vec<u64>,
}

/// Reads what was saved for the cursor field; an empty state when nothing was.
///
/// # Errors
/// `Config` when it is of another form or of another field.
pub(super) fn parse(saved: Option<&Cursor>, field: &str, table: &TableName) -> Result<Saved> {
    let Some(Cursor(value)) = saved else {
        return Ok(Saved { v: 1, field: field.to_owned(), ..Saved::default() });
    };
    let saved = Saved::deserialize(value).ok().filter(|saved| saved.v == 1).ok_or_else(|| {
        Error::config("The saved cursor has a form that this version does not know")
            .context("table", table)
            .hint(reset_hint(table))
    })?;
    if saved.field != field {
        return Err(Error::config("The saved cursor belongs to another cursor field")
            .context("table", table)
            .context("saved", &saved.field)
            .context("configured", field)
            .hint(format!("cursor: {}", saved.field)));
    }
    Ok(saved)
}

/// What to do when a cursor is of no use any more.
pub(super) fn reset_hint(table: &TableName) -> String {
    format!("highwater state reset --table {table}")
}

/// The hashes of rows and, if every row has them, of their values.
pub(super) fn encode(mut marks: Vec<Mark>) -> (String, String) {
    marks.sort_unstable();
    let hashes: Vec<u8> = marks.iter().flat_map(|mark| mark.hash.to_le_bytes()).collect();
    let cells: Vec<u8> = if marks.iter().any(|mark| mark.cells.is_empty()) {
        Vec::new()
    } else {
        marks.iter().flat_map(|mark| &mark.cells).flat_map(|cell| cell.to_le_bytes()).collect()
    };
    (STANDARD.encode(hashes), STANDARD.encode(cells))
}

/// The hashes of whole rows.
///
/// # Errors
/// `Config` when the text is damaged.
pub(super) fn decode_rows(text: &str) -> Result<Hashes> {
    let bytes = STANDARD.decode(text).map_err(|_| damaged())?;
    let (hashes, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(damaged());
    }
    Ok(counted(hashes.iter().map(|hash| u128::from_le_bytes(*hash))))
}

/// The hashes over the values in the places `kept` of rows of `columns` values.
///
/// # Errors
/// As [`decode_rows`].
pub(super) fn decode_cells(text: &str, columns: usize, kept: &[usize]) -> Result<Hashes> {
    let bytes = STANDARD.decode(text).map_err(|_| damaged())?;
    let (cells, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || columns == 0 || cells.len() % columns != 0 {
        return Err(damaged());
    }
    let rows = cells.chunks_exact(columns);
    Ok(counted(rows.map(|row| {
        let kept: Vec<u64> = kept.iter().map(|at| u64::from_le_bytes(row[*at])).collect();
        of_cells(&kept)
    })))
}

/// The hash of a row by the hashes of its values.
pub(super) fn of_cells(cells: &[u64]) -> u128 {
    let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
    xxh3_128(&bytes)
}

fn counted(hashes: impl Iterator<Item = u128>) -> Hashes {
    let mut counts = Hashes::new();
    for hash in hashes {
        *counts.entry(hash).or_insert(0) += 1;
    }
    counts
}

fn damaged() -> Error {
    Error::config("The saved cursor is damaged")
}
