//! JSON lines into Arrow rows by the JSON Schema of a stream, and back.
//!
//! | module | what |
//! |---|---|
//! | [`schema`] | JSON Schema into Arrow fields |
//! | `line` | which line is a RECORD, of which stream, and where its data lies |
//! | `decode` | the data of records into columns |
//! | `column` | a column under construction: how a JSON value becomes a value of its type |
//! | `moment` | dates and times as connectors write them |
//! | `scan` | JSON read where it lies |
//! | `encode` | rows into RECORD lines |
//! | [`json_schema`] | Arrow fields into JSON Schema |

mod column;
mod decode;
mod encode;
pub mod json_schema;
mod line;
mod moment;
mod scan;
pub mod schema;
mod strict;

pub use decode::{Decoder, Origin, Wanted};
pub use encode::{Encoder, is_part};
pub use line::{Line, Record, parse};
pub use schema::Kind;
pub use strict::{Misfit, Strictness};
