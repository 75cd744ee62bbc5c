//! The messages and services of the protocol, generated from `proto/`.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// `cloudquery.plugin.v3`.
pub mod plugin {
    tonic::include_proto!("cloudquery.plugin.v3");
}

/// Which versions of the protocol a process speaks.
pub mod discovery {
    /// `cloudquery.discovery.v1`.
    pub mod v1 {
        tonic::include_proto!("cloudquery.discovery.v1");
    }
    /// `cloudquery.discovery.v0`, of old plugins.
    pub mod v0 {
        tonic::include_proto!("cloudquery.discovery.v0");
    }
}
