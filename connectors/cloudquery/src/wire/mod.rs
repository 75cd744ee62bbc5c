//! Tables and rows as CloudQuery's protocol carries them, and as highwater does.
//!
//! Pure functions: bytes in, values out, and back. Nothing here connects to anything.
//!
//! | module | what |
//! |---|---|
//! | [`types`] | one column: CloudQuery's type and ours |
//! | [`values`] | the values of a column, converted by what `types` found |
//! | [`address`] | the texts of network and hardware addresses |
//! | [`table`] | a table as an Arrow schema with CloudQuery's metadata |
//! | [`frames`] | the messages that an Arrow stream consists of |
//! | [`rows`] | rows of a table: decoder and encoder |
//! | [`coalesce`] | many small batches become few large ones |
//! | [`predicate`] | rows to be deleted by a condition |
//! | [`size`] | how many bytes rows take |

pub mod address;
pub mod coalesce;
pub mod frames;
pub mod predicate;
pub mod rows;
pub mod size;
pub mod table;
pub mod types;
pub mod values;

#[cfg(test)]
mod tests;

pub use coalesce::{Coalesced, Coalescer};
pub use predicate::{from_sync, from_write, to_sync, to_write};
pub use rows::{Decoded, Decoder, Encoder, INSERT_BYTES_MAX};
pub use table::{decode_table, encode_table, wire_name};
