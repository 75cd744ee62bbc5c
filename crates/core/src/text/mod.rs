//! The canonical text of a value, and the value of a text.
//!
//! Used wherever a system stores text for a type that it does not have: SQLite, CSV, JSON lines.
//! Writing and reading again gives the same value, bit for bit (every NaN becomes one NaN); what
//! is not exactly a value of the type is refused. NULL has no text: the system has to tell it
//! from an empty one.
//!
//! | logical type | canonical text | also read |
//! |---|---|---|
//! | boolean | `true`, `false` | any case; `t`, `f`, `1`, `0` |
//! | integer | `-42` | `+42`, leading zeros |
//! | float | `0.1`, `1e300`, `NaN`, `-Infinity`: the shortest digits that read back the same | any digits, rounded to the nearest; refused where that is infinity, or zero for other digits |
//! | decimal | `-12.50`: as many places as the scale says | exponents; more places if they are zeros |
//! | numeric | the digits, as the source wrote them | |
//! | text, json | as it is; json is checked to be JSON | |
//! | uuid | `0b0e5bd6-1f8e-4a0e-9c5a-2f0f2a3d6c11` | the other forms of a UUID |
//! | binary | base64 with padding | |
//! | date | `2026-11-21`, `-0044-03-15` (year 0 exists), `200000-01-01`, `infinity`, `-infinity` | `+200000-01-01` |
//! | time | `03:04:05.000006`: as many places as the unit has | fewer, or zeros after; no seconds |
//! | timestamp | `2026-11-21 03:04:05.000006`, `infinity`, `-infinity` | `T` for the space |
//! | timestamp, UTC | the same with `Z` | offsets such as `+02`, `-05:30` |
//! | duration | `PT26H-3M0.5S`: ISO 8601, a sign per part | `-PT1H` |
//! | interval | `P1Y2M-3DT4H5.000006S`: months, days and time kept apart | weeks |
//! | list, struct, map | JSON, see [`TextColumn::write_json`] | white space, members in any order |
//!
//! Texts of one column of dates, times and timestamps (years 0 to 9999) sort as their values do.

mod calendar;
mod convert;
mod decimal;
mod json;
mod nested;
mod parse;
mod write;

#[cfg(test)]
mod tests;

pub use convert::{convert, convert_rows};
pub use json::object as json_object;
pub use parse::{Mismatch, TextBuilder};
pub use write::{TextColumn, push_json_string};
