//! How far a file has been read, and what has to be read of it now.

use highwater_core::{Cursor, Error, Result};
use serde::{Deserialize, Serialize};

use super::input::Hashing;
use super::listing::{SourceFile, Stamp};
use crate::disk;
use crate::spec::{Compression, Format};

/// The cursor of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileCursor {
    /// In bytes.
    pub(crate) size: u64,
    /// Microseconds since 1970.
    pub(crate) modified: i64,
    pub(crate) rows: u64,
    /// Lines of a text file; 0 for Parquet.
    #[serde(default)]
    pub(crate) lines: u64,
    /// XXH3 of all bytes of a text file, 64 bits in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
    /// Whether the file may grow: plain text that ends with a line end.
    #[serde(default)]
    pub(crate) whole_lines: bool,
}

impl FileCursor {
    pub(crate) fn parse(cursor: &Cursor) -> Result<Self> {
        serde_json::from_value(cursor.0.clone()).map_err(|e| {
            Error::config("A cursor is not one of the files connector").caused_by(e).hint(
                "forget it with `highwater state reset`; the table is then read from the beginning",
            )
        })
    }

    pub(crate) fn to_cursor(&self) -> Cursor {
        Cursor(serde_json::to_value(self).unwrap_or_default())
    }
}

/// What has to be read of a file.
pub(crate) enum Reading {
    /// Nothing: it is as it was.
    Nothing,
    /// Nothing: it has another time and the same bytes.
    Touched(FileCursor),
    /// What was appended; the input stands there.
    Rest { input: Box<Hashing>, from: FileCursor },
    /// All of it; `again` when it was read before.
    All { again: bool },
}

/// Compares a file with its cursor. Reads the old part of a text file that has changed.
pub(crate) fn compare(file: &SourceFile, cursor: Option<FileCursor>) -> Result<Reading> {
    let Some(cursor) = cursor else { return Ok(Reading::All { again: false }) };
    let Stamp { size, modified } = file.stamp;
    if cursor.size == size && cursor.modified == modified {
        return Ok(Reading::Nothing);
    }
    let grown = size > cursor.size
        && file.format != Format::Parquet
        && file.compression == Compression::None;
    if !grown && size != cursor.size {
        return Ok(Reading::All { again: true });
    }
    let Some(hash) = &cursor.hash else { return Ok(Reading::All { again: true }) };
    let mut input = Hashing::open(&file.path)?;
    let there = input
        .skip(cursor.size)
        .map_err(|e| disk::failed("A file cannot be read", &file.path, e))?;
    Ok(if there != *hash || input.bytes != cursor.size {
        Reading::All { again: true }
    } else if grown {
        if cursor.whole_lines || passes_line_end(&mut input, file)? {
            Reading::Rest { input: Box::new(input), from: cursor }
        } else {
            // The last line went on: what was read as a row was a part of one.
            Reading::All { again: true }
        }
    } else {
        Reading::Touched(FileCursor { modified, ..cursor })
    })
}

/// Whether a line end follows, so that the last line was whole although nothing ended it.
fn passes_line_end(input: &mut Hashing, file: &SourceFile) -> Result<bool> {
    let failed = |e| disk::failed("A file cannot be read", &file.path, e);
    input.skip(1).map_err(failed)?;
    if input.at_carriage_return() {
        input.skip(1).map_err(failed)?;
    }
    Ok(input.at_line_end())
}
