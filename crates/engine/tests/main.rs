//! The engine over a scripted source and destinations in memory whose operations fail at will.

mod bench;
mod planning;
mod several_destinations;
mod sync;
