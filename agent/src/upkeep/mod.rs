//! Answers to managers' questions about this node: what is there, and removing what nobody uses. What
//! may go is decided by `shoal_agent_planning::prune`.

mod disk;
mod networks;
mod usage;
mod volumes;

use std::sync::Arc;

use shoal_agent_image::ImageStore;
use shoal_agent_network::Rules;
use shoal_agent_volume::VolumeDriver;
use shoal_types::error_chain::chain;
use shoal_types::question::{Answer, Question};

use crate::overlay::OverlayHandle;
use crate::session::WorkloadError;
use crate::worker::{Clock, Drivers, WorkerHandle};
use shoal_agent_runtime::Runtime;

/// Answers questions.
pub(crate) struct Upkeep {
    worker: WorkerHandle,
    volumes: Arc<dyn VolumeDriver>,
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    /// Of the names of interfaces that containers are connected by.
    network_prefix: String,
    images: ImageStore,
    last_usage: usage::Last,
    last_disk: disk::Last,
    networks: networks::Networks,
}

impl Upkeep {
    /// About what a worker holds.
    pub(crate) fn new(
        worker: WorkerHandle,
        drivers: &Drivers,
        images: ImageStore,
        overlay: OverlayHandle,
    ) -> Self {
        Self {
            networks: networks::Networks::new(worker.clone(), drivers, overlay),
            worker,
            volumes: Arc::clone(&drivers.volumes),
            runtime: Arc::clone(&drivers.runtime),
            clock: Arc::clone(&drivers.clock),
            network_prefix: Rules::default().prefix,
            images,
            last_usage: usage::Last::default(),
            last_disk: disk::Last::default(),
        }
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// It cannot be found out. What could not be removed is a part of the answer.
    pub(crate) async fn answer(&self, question: Question) -> Result<Answer, WorkloadError> {
        Ok(match question {
            Question::Volumes => Answer::Volumes(self.volumes().await?),
            Question::RemoveVolume(name) => {
                let done = self.remove_volume(&name).await;
                self.forget_disk().await;
                Answer::Pruned(done?)
            }
            Question::Prune(prune) => {
                let done = self.prune(prune).await;
                self.forget_disk().await;
                Answer::Pruned(done?)
            }
            Question::DiskUsage => Answer::DiskUsage(self.disk_usage().await?),
            Question::Usage(asked) => Answer::Usage(self.usage(&asked).await?),
            Question::Networks(asked) => Answer::Networks(self.networks.look(&asked).await),
        })
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> WorkloadError {
    WorkloadError::Failed(chain(error).to_string())
}
