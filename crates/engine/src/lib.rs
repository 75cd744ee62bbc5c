//! highwater-engine
