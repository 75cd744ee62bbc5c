//! CloudQuery's plugins: run as sources, destinations and transformers, and served ourselves.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | a plugin as a process: started, connected, listened to, stopped |
//! | [`proto`] | the messages and services, generated |
//! | [`serve`] | our connectors as a plugin |
//! | [`wire`] | tables and rows on the wire, and as we have them |

pub mod host;
pub mod proto;
pub mod serve;
pub mod wire;
