//! Airbyte's connectors: run as sources and destinations, and spoken by our own.
//!
//! | module | what |
//! |---|---|
//! | [`destination`] | a destination connector as a destination of ours |
//! | [`host`] | a connector as a process: found, run with its files, listened to, stopped |
//! | [`inlet`] | the input of a destination of ours that somebody else runs, as a source |
//! | [`protocol`] | the messages, and the catalogs and states that they carry |
//! | [`records`] | JSON lines into Arrow rows by a stream's JSON Schema, and back |
//! | [`source`] | a source connector as a source of ours |

pub mod destination;
pub mod host;
pub mod inlet;
pub mod protocol;
pub mod records;
pub mod source;
