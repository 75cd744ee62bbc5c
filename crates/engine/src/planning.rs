//! Makes the plan.
use highwater_core::{Plan, Result, Source};

use crate::options::SyncRequest;

/// What a sync would do, per destination in the order of the request. Touches nothing.
///
/// # Errors
/// `Config` and `Unsupported` for what cannot be done as asked, before anything is touched.
pub async fn plan(source: &dyn Source, request: &SyncRequest) -> Result<Vec<Plan>> {
    let _ = (source, request);
    Err(highwater_core::Error::internal("Not yet"))
}
