//! Which versions of the protocol it claims to speak.
//!
//! `versions=0,1`: these, by the new discovery. `old-discovery=v1`: these, and only by the old
//! discovery. `no-discovery`: none at all, as the oldest plugins. Without a word: 3.

use highwater_cloudquery::proto::discovery::{v0, v1};
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

use crate::script::Script;

struct Versions(String);

pub fn add(router: Router, script: &Script) -> Router {
    if script.has("no-discovery") {
        return router;
    }
    if let Some(versions) = script.value("old-discovery") {
        let service = Versions(versions.to_owned());
        return router.add_service(v0::discovery_server::DiscoveryServer::new(service));
    }
    let service = Versions(script.value("versions").unwrap_or("3").to_owned());
    router.add_service(v1::discovery_server::DiscoveryServer::new(service))
}

#[tonic::async_trait]
impl v1::discovery_server::Discovery for Versions {
    async fn get_versions(
        &self,
        _: Request<v1::get_versions::Request>,
    ) -> Result<Response<v1::get_versions::Response>, Status> {
        let versions = self.0.split(',').map(|v| v.parse().unwrap()).collect();
        Ok(Response::new(v1::get_versions::Response { versions }))
    }
}

#[tonic::async_trait]
impl v0::discovery_server::Discovery for Versions {
    async fn get_versions(
        &self,
        _: Request<v0::get_versions::Request>,
    ) -> Result<Response<v0::get_versions::Response>, Status> {
        let versions = self.0.split(',').map(str::to_owned).collect();
        Ok(Response::new(v0::get_versions::Response { versions }))
    }
}
