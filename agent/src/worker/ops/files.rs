//! The files that tell a container who and where it is, of which it gets copies.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shoal_agent_dns::ADDRESS;
use shoal_agent_planning::lower::{ContainerPlan, NetworkPlan, own_files};
use shoal_agent_planning::network::files::{
    HostResolver, RESOLV_CONF, hostname_file, hosts_file, resolution, resolv_conf,
};
use shoal_agent_planning::oci::{MountConfig, MountKind};
use shoal_types::id::TaskId;

use super::prepare::PrepareError;
use super::{Context, given};

const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// For people whose container cannot resolve names.
const NO_SERVERS: &str = "no name resolves in it: the host's name servers cannot be reached from there, and dns names none";

/// The files of one container.
pub(super) struct ContainerFiles {
    dir: PathBuf,
}

impl ContainerFiles {
    pub(super) fn new(context: &Context, task: TaskId) -> Self {
        Self { dir: context.files_dir().join(task.to_string()) }
    }

    /// Makes them, as far as they are known before the container has an address. Says what people
    /// should know about them.
    pub(super) async fn make(
        &self,
        plan: &ContainerPlan,
    ) -> Result<(Vec<MountConfig>, Option<&'static str>), PrepareError> {
        let wanted = own_files(plan);
        let names: Vec<&'static str> = wanted.iter().map(|(name, _)| *name).collect();
        let served = self.write(plan, names, Vec::new(), plan.asker.is_some()).await?;
        let mount = |(name, destination): (&str, PathBuf)| MountConfig {
            destination,
            kind: MountKind::Copy { source: self.dir.join(name) },
            read_only: plan.config.read_only,
        };
        Ok((wanted.into_iter().map(mount).collect(), (!served).then_some(NO_SERVERS)))
    }

    /// Writes the addresses down, into the same file, which is copied when the container starts.
    pub(super) async fn know(
        &self,
        plan: &ContainerPlan,
        addresses: &[IpAddr],
    ) -> Result<(), PrepareError> {
        let hosts = own_files(plan).iter().any(|(name, _)| *name == "hosts");
        if !hosts || addresses.is_empty() {
            return Ok(());
        }
        self.write(plan, vec!["hosts"], addresses.to_vec(), true).await.map(drop)
    }

    /// Writes down that it asks whom the host asks: this host does not answer it names. Says what people
    /// should know about that.
    pub(super) async fn ask_others(
        &self,
        plan: &ContainerPlan,
    ) -> Result<Option<&'static str>, PrepareError> {
        if !own_files(plan).iter().any(|(name, _)| *name == "resolv.conf") {
            return Ok(None);
        }
        let served = self.write(plan, vec!["resolv.conf"], Vec::new(), false).await?;
        Ok((!served).then_some(NO_SERVERS))
    }

    /// Says whether names can be resolved, as far as these files tell.
    async fn write(
        &self,
        plan: &ContainerPlan,
        names: Vec<&'static str>,
        addresses: Vec<IpAddr>,
        answered: bool,
    ) -> Result<bool, PrepareError> {
        let host_network = plan.network == NetworkPlan::Host;
        // What tells its partner who and where it is tells it the same.
        let partners = match &plan.network {
            NetworkPlan::Of(partner) => Some(self.dir.with_file_name(partner.to_string())),
            NetworkPlan::Host | NetworkPlan::Joined(_) => None,
        };
        let own = if addresses.is_empty() { vec![IpAddr::from([127, 0, 1, 1])] } else { addresses };
        let hosts = hosts_file(&own, std::slice::from_ref(&plan.hostname), &plan.hosts);
        let hostname = hostname_file(&plan.hostname);
        let (dir, dns) = (self.dir.clone(), plan.dns.clone());
        let write = move || -> Result<bool, (PathBuf, io::Error)> {
            let mut served = true;
            private_dir(&dir).map_err(|e| (dir.clone(), e))?;
            for name in names {
                let path = dir.join(name);
                if let Some(beside) = partners.as_ref().map(|dir| dir.join(name)) {
                    match fs::read_to_string(&beside) {
                        Ok(text) => {
                            public_file(&path, &text).map_err(|e| (path, e))?;
                            continue;
                        }
                        // One that the partner mounts itself there is none of.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err((beside, error)),
                    }
                }
                let text = match name {
                    "hosts" => hosts.clone(),
                    "hostname" => hostname.clone(),
                    _ => {
                        let read = |path| fs::read_to_string(path).unwrap_or_default();
                        let host =
                            HostResolver { own: read(RESOLV_CONF), resolved: read(RESOLVED_CONF) };
                        if answered {
                            resolution(&host, &dns, *ADDRESS.ip())
                        } else {
                            let made = resolv_conf(&host, &dns, host_network);
                            served = !made.dropped_all;
                            made.text
                        }
                    }
                };
                public_file(&path, &text).map_err(|e| (path, e))?;
            }
            Ok(served)
        };
        let done = tokio::task::spawn_blocking(write).await;
        let done = done.unwrap_or_else(|lost| Err((self.dir.clone(), lost.into())));
        done.map_err(|(path, source)| PrepareError::File { path, source })
    }

    /// Removes them; fine if they are not there.
    pub(super) async fn remove(&self) -> io::Result<()> {
        match tokio::fs::remove_dir_all(&self.dir).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Makes the directory of one container and, above it, that of all. They are nobody else's business.
fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        // It may have been made by somebody else, for everybody.
        Some(all) => fs::set_permissions(all, fs::Permissions::from_mode(0o700)),
        None => Ok(()),
    }
}

/// Every user of the container may read its copy, whatever the agent's umask says.
fn public_file(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// The containers for which files were made.
pub(in crate::worker) fn file_owners(context: &Context) -> io::Result<BTreeSet<String>> {
    let mut owners = names_in(&context.files_dir())?;
    owners.extend(given::owners(context)?);
    Ok(owners)
}

/// What is in a directory; nothing, if that is not there.
pub(super) fn names_in(dir: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        entries => {
            entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        }
    }
}

/// Removes the files of a container; fine if they are not there.
pub(in crate::worker) async fn remove_files(context: &Context, container: &str) -> io::Result<()> {
    given::remove(context, container).await?;
    ContainerFiles { dir: context.files_dir().join(container) }.remove().await
}
