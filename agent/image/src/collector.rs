//! Collecting images now and then.

use std::time::Duration;

use shoal_types::error_chain::chain;

use super::ImageStore;

/// How often it is looked for images that may go.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Removes, every hour, the images that no task has used for `unused_for`. Never returns.
pub async fn collect_regularly(store: ImageStore, unused_for: Duration) {
    loop {
        // First of all a wait: a host that just booted may not know yet what time it is.
        tokio::time::sleep(INTERVAL).await;
        collect(&store, unused_for).await;
    }
}

async fn collect(store: &ImageStore, unused_for: Duration) {
    match store.collect_garbage(unused_for).await {
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
