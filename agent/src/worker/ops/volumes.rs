//! What is mounted into a container.

use shoal_agent_image::Image;
use shoal_agent_planning::lower::{ANONYMOUS, ContainerPlan, PlannedMount, Source};
use shoal_agent_planning::oci::{MountConfig, MountKind};
use shoal_agent_volume::{ImageFiles, MountedVolume, VolumeConfig, VolumeError, find_bind_source};
use shoal_types::assignment::AssignedTask;
use shoal_types::id::TaskId;
use shoal_types::spec::{Mount, MountKind as Kind};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::prepare::PrepareError;

/// Tries at mounting a volume that is removed again and again.
const MOUNT_TRIES: u32 = 3;

/// The volumes of one container.
pub(in crate::worker) struct Volumes<'a> {
    context: &'a Context,
    task: TaskId,
}

impl<'a> Volumes<'a> {
    pub(in crate::worker) const fn new(context: &'a Context, task: TaskId) -> Self {
        Self { context, task }
    }

    /// Makes everything that the container mounts and says where it is. Gives up when it is cancelled
    /// while a source does not answer.
    pub(super) async fn make(
        &self,
        plan: &ContainerPlan,
        image: &Image,
        cancel: &CancellationToken,
    ) -> Result<Vec<MountConfig>, PrepareError> {
        let mut mounts = Vec::with_capacity(plan.mounts.len());
        for planned in &plan.mounts {
            let mut read_only = planned.read_only;
            let kind = match &planned.source {
                Source::Bind { path, create, field } => {
                    let found = tokio::select! {
                        found = find_bind_source(path.clone(), *create) => found,
                        () = cancel.cancelled() => return Err(PrepareError::Cancelled),
                    };
                    let field = || field.clone();
                    found.map_err(|source| PrepareError::Bind { field: field(), source })?;
                    MountKind::Bind { source: path.clone() }
                }
                Source::Tmpfs { size_bytes, mode } => {
                    MountKind::Tmpfs { size_bytes: *size_bytes, mode: *mode }
                }
                Source::Volume { config, copy, .. } => {
                    let name = || config.name.clone();
                    let made = self.volume(planned, config, *copy, image).await;
                    let made =
                        made.map_err(|source| PrepareError::Volume { name: name(), source })?;
                    read_only |= made.read_only;
                    MountKind::Bind { source: made.path }
                }
            };
            mounts.push(MountConfig { destination: planned.target.clone(), kind, read_only });
        }
        Ok(mounts)
    }

    async fn volume(
        &self,
        planned: &PlannedMount,
        config: &VolumeConfig,
        copy: bool,
        image: &Image,
    ) -> Result<MountedVolume, VolumeError> {
        let driver = &self.context.drivers.volumes;
        let layers = || image.layers.iter().rev().cloned().collect();
        let files = copy.then(|| ImageFiles { layers: layers(), target: planned.target.clone() });
        for _ in 1..MOUNT_TRIES {
            driver.ensure(config.clone()).await?;
            match driver.mount(config.name.clone(), self.task.to_string(), files.clone()).await {
                // Removed by somebody just now, when nobody used it.
                Err(VolumeError::Unknown { .. }) => {}
                other => return other,
            }
        }
        driver.ensure(config.clone()).await?;
        driver.mount(config.name.clone(), self.task.to_string(), files).await
    }

    /// The volumes that a task names.
    pub(in crate::worker) fn named(task: &AssignedTask) -> impl Iterator<Item = String> + '_ {
        let mounts = task.spec.container().map(|c| c.mounts.as_slice()).unwrap_or_default();
        let named = |m: &&Mount| m.kind == Kind::Volume && !m.source.is_empty();
        mounts.iter().filter(named).map(|m| m.source.clone())
    }

    /// The volumes that were made for the task alone.
    async fn own(&self) -> Result<Vec<String>, VolumeError> {
        let own = self.task.to_string();
        let mut all = self.context.drivers.volumes.list().await?;
        all.retain(|volume| volume.labels.get(ANONYMOUS) == Some(&own));
        Ok(all.into_iter().map(|volume| volume.name).collect())
    }

    /// Makes the volumes of a container that lives ready for it again, after the agent was restarted.
    pub(in crate::worker) async fn adopt(&self, task: &AssignedTask) -> Result<(), VolumeError> {
        for name in Self::named(task).chain(self.own().await?) {
            self.context.drivers.volumes.mount(name, self.task.to_string(), None).await?;
        }
        Ok(())
    }

    /// Ends the container's use of its volumes, and removes those that were made for it alone unless they
    /// are kept. Goes on after an error.
    pub(super) async fn release(&self, task: &AssignedTask, keep_own: bool) -> Vec<VolumeError> {
        let driver = &self.context.drivers.volumes;
        let mut errors = Vec::new();
        for name in Self::named(task) {
            errors.extend(driver.unmount(name, self.task.to_string()).await.err());
        }
        let own = self.own().await.unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        for name in own {
            errors.extend(driver.unmount(name.clone(), self.task.to_string()).await.err());
            if !keep_own {
                errors.extend(driver.remove(name).await.err());
            }
        }
        errors
    }
}
