//! Volumes.

use shoal_agent_planning::prune::add_users;
use shoal_types::error_chain::chain;
use shoal_types::question::{NodeVolume, Pruned};

use super::{Upkeep, failed};
use crate::session::WorkloadError;

impl Upkeep {
    /// Every volume with who uses it or is about to.
    pub(super) async fn volumes(&self) -> Result<Vec<NodeVolume>, WorkloadError> {
        let mut volumes = self.volumes.describe().await.map_err(|e| failed(&e))?;
        let held = self.worker.holdings().await.map_err(|e| failed(&e))?;
        add_users(&mut volumes, &held);
        Ok(volumes)
    }

    pub(super) async fn remove_volume(&self, name: &str) -> Result<Pruned, WorkloadError> {
        let mut pruned = Pruned::default();
        if let Some(volume) = self.volumes().await?.iter().find(|v| v.name == name) {
            if volume.users.is_empty() {
                self.remove(name, &mut pruned).await;
            } else {
                let users = volume.users.join(", ");
                pruned.errors.push(format!("volume {name} is in use by {users}"));
            }
        }
        Ok(pruned)
    }

    /// Whoever has begun to use it meanwhile keeps it.
    pub(super) async fn remove(&self, name: &str, pruned: &mut Pruned) {
        let measured = self.volumes.measure(name.to_owned()).await;
        match self.volumes.remove(name.to_owned()).await {
            Ok(()) => {
                pruned.volumes.push(name.to_owned());
                pruned.reclaimed_bytes += measured.bytes;
            }
            Err(error) => pruned.errors.push(chain(&error).to_string()),
        }
    }
}
