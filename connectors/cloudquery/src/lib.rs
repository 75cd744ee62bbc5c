//! CloudQuery's plugins: run as sources, destinations and transformers, and served ourselves.
//!
//! | module | what |
//! |---|---|
//! | [`proto`] | the messages and services, generated |

pub mod proto;
