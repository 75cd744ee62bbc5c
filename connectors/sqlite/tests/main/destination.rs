//! The destination.
