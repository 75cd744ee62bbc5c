//! The data path.
use std::sync::Arc;

use highwater_core::{Result, Source};

use crate::options::{RunOptions, SyncRequest};
use crate::summary::Summary;

/// Runs a sync to its end.
///
/// # Errors
/// Errors of one table or one destination are in the summary; an `Err` means that the run could
/// not begin (plan refused, source out of reach, lease held).
pub async fn sync(
    source: Arc<dyn Source>,
    request: &SyncRequest,
    options: &RunOptions,
) -> Result<Summary> {
    let _ = (source, request, options);
    Err(highwater_core::Error::internal("Not yet"))
}
