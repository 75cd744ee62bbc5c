//! CloudQuery's plugins: run as sources, destinations and transformers, and served ourselves.
//!
//! | module | what |
//! |---|---|
//! | [`destination`] | a plugin that rows are written to |
//! | [`host`] | a plugin as a process: started, connected, listened to, stopped |
//! | [`proto`] | the messages and services, generated |
//! | [`proxy`] | what a source plugin takes for the backend of its cursors |
//! | [`serve`] | our connectors as a plugin |
//! | [`source`] | a plugin that rows are read from |
//! | [`transformer`] | a plugin that rows go through |
//! | [`wire`] | tables and rows on the wire, and as we have them |

pub mod destination;
pub mod host;
pub mod proto;
pub mod proxy;
pub mod serve;
pub mod source;
pub mod transformer;
pub mod wire;
