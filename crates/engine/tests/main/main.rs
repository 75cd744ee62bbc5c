//! The engine over a scripted source and destinations in memory whose operations fail at will.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
mod first_reads;
mod forwarding;
mod generations;
mod intake;
mod later;
mod mappings;
mod planning;
mod plugins;
mod reconcile;
mod several_destinations;
mod sync;
mod together;
mod words;
