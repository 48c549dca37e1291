//! Collecting images now and then.

use std::sync::Arc;
use std::time::Duration;

use shoal_types::error_chain::chain;

use super::ImageStore;
use crate::session::Workload;

/// How often it is looked for images that may go.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Removes, every hour, the images that no task has used for `unused_for`. Never returns.
pub async fn collect_regularly(
    store: ImageStore,
    workload: Arc<dyn Workload>,
    unused_for: Duration,
) {
    loop {
        // First of all a wait: a host that just booted may not know yet what time it is.
        tokio::time::sleep(INTERVAL).await;
        collect(&store, &*workload, unused_for).await;
    }
}

async fn collect(store: &ImageStore, workload: &dyn Workload, unused_for: Duration) {
    let in_use = match workload.images_in_use().await {
        Ok(in_use) => in_use,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "cannot tell which images are used");
            return;
        }
    };
    match store.collect_garbage(&in_use, unused_for).await {
        Ok(report) => {
            for error in &report.errors {
                tracing::warn!(error = %chain(error), "something of an unused image is left for later");
            }
            if !report.images.is_empty() || report.layers > 0 {
                let (images, layers) = (report.images.len(), report.layers);
                tracing::info!(images, layers, bytes = report.bytes, "removed unused images");
            }
        }
        Err(error) => tracing::warn!(error = %chain(&error), "cannot remove unused images"),
    }
}
