//! CloudQuery's plugins: run as sources, destinations and transformers, and served ourselves.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | a plugin as a process: started, connected, listened to, stopped |
//! | [`proto`] | the messages and services, generated |

pub mod host;
pub mod proto;
