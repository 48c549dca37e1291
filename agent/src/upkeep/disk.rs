//! What the node keeps on its disk, and removing what of it nobody uses.

use std::time::{Duration, Instant};

use shoal_agent_ground::disk::Measured;
use shoal_agent_planning::prune::{Holding, images_on_disk, takes_volume};
use shoal_types::error_chain::chain;
use shoal_types::question::{DiskUsage, ImagePrune, Prune, Pruned};

use super::{Upkeep, failed};
use crate::session::WorkloadError;
use shoal_agent_runtime::ContainerDisk;

/// Whoever asks again within this time is told the same.
const FRESH: Duration = Duration::from_secs(2);
/// How long counting may take; what is not counted by then is left out.
const TIME_MAX: Duration = Duration::from_secs(40);

/// The last count.
pub(super) type Last = tokio::sync::Mutex<Option<(Instant, DiskUsage)>>;

impl Upkeep {
    pub(super) async fn disk_usage(&self) -> Result<DiskUsage, WorkloadError> {
        // Held while it is counted, so that one count serves all who wait.
        let mut last = self.last_disk.lock().await;
        if let Some((at, usage)) = *last
            && at.elapsed() < FRESH
        {
            return Ok(usage);
        }
        let usage = self.count_disk(Instant::now() + TIME_MAX).await?;
        *last = Some((Instant::now(), usage));
        Ok(usage)
    }

    /// What was counted is not true any more.
    pub(super) async fn forget_disk(&self) {
        *self.last_disk.lock().await = None;
    }

    async fn count_disk(&self, until: Instant) -> Result<DiskUsage, WorkloadError> {
        let images = self.images.on_disk().await.map_err(|e| failed(&e))?;
        let images = images_on_disk(&images);
        let mut usage = DiskUsage { images, whole: true, ..DiskUsage::default() };
        let held = self.worker.holdings().await.map_err(|e| failed(&e))?;
        for task in held {
            // One without a container takes nothing.
            let Some(disk) = self.container_disk(&task, until, &mut usage.whole).await else {
                continue;
            };
            usage.containers.add(!task.ended, disk.written.bytes);
            usage.logs.add(!task.ended, disk.log.bytes);
        }
        for volume in self.volumes().await? {
            let measured = match Instant::now() < until {
                true => self.volumes.measure(volume.name.clone()).await,
                false => Measured::default(),
            };
            usage.whole &= measured.whole;
            usage.volumes.add(!volume.users.is_empty(), measured.bytes);
        }
        Ok(usage)
    }

    async fn container_disk(
        &self,
        task: &Holding,
        until: Instant,
        whole: &mut bool,
    ) -> Option<ContainerDisk> {
        if Instant::now() > until {
            *whole = false;
            return None;
        }
        let disk = self.runtime.disk(&task.id.into()).await.ok()?;
        *whole &= disk.written.whole && disk.log.whole;
        Some(disk)
    }

    /// Removes what nobody uses. Goes on after an error.
    pub(super) async fn prune(&self, prune: Prune) -> Result<Pruned, WorkloadError> {
        let mut pruned = Pruned::default();
        if prune.containers {
            self.prune_containers(&mut pruned).await?;
        }
        if let Some(wanted) = prune.volumes {
            for volume in self.volumes().await?.iter().filter(|v| takes_volume(v, &wanted)) {
                self.remove(&volume.name, &mut pruned).await;
            }
        }
        if let Some(wanted) = prune.images {
            self.prune_images(wanted, &mut pruned).await?;
        }
        Ok(pruned)
    }

    /// What is left of tasks that have ended and been cleaned up: their logs.
    async fn prune_containers(&self, pruned: &mut Pruned) -> Result<(), WorkloadError> {
        let held = self.worker.holdings().await.map_err(|e| failed(&e))?;
        for task in held.iter().filter(|task| task.ended && task.released) {
            let id = task.id.into();
            let Ok(disk) = self.runtime.disk(&id).await else { continue };
            match self.runtime.remove(&id).await {
                Ok(()) => {
                    pruned.containers.push(task.id.to_string());
                    pruned.reclaimed_bytes += disk.written.bytes + disk.log.bytes;
                }
                Err(error) => pruned.errors.push(chain(&error).to_string()),
            }
        }
        Ok(())
    }

    async fn prune_images(
        &self,
        wanted: ImagePrune,
        pruned: &mut Pruned,
    ) -> Result<(), WorkloadError> {
        let report = self.images.prune(wanted).await.map_err(|e| failed(&e))?;
        pruned.images.extend(report.names);
        pruned.reclaimed_bytes += report.bytes;
        pruned.errors.extend(report.errors.iter().map(|error| chain(error).to_string()));
        Ok(())
    }
}
