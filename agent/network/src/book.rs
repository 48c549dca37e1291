//! The book on disk.
//!
//! Networks are synced to disk when one comes or goes: their subnets stay the same over a reboot.
//! A container's page describes what is in the kernel, so it need not outlive the kernel: it is
//! replaced by a rename, which an agent that crashes or is killed cannot tear, and not synced,
//! which would cost more than connecting the container does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_agent_planning::network::leases::{ContainerLease, Leases, NetworkLease};
use shoal_durable::{Fields, FileError, Format, Lasting};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::NetworkError;

const NETWORKS: &str = "networks.json";
const CONTAINERS: &str = "network-attachments";
const PAGE_SUFFIX: &str = ".json";
/// Longest id of a container that makes a file name, in bytes.
const ID_MAX: usize = 128;
/// The files are for root alone.
pub(super) const MODE: u32 = 0o600;

/// All networks of the node. Synced.
enum NetworksFile {}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Networks {
    networks: BTreeMap<String, NetworkLease>,
}

impl Format for NetworksFile {
    type Content = Networks;
    const NAME: &'static str = "networks";
    const VERSION: u32 = 3;

    fn upgrade(from: u32, mut fields: Fields) -> Option<Fields> {
        match from {
            // They were the content itself.
            1 => {
                let networks = fields.remove("content")?;
                Some(Fields::from_iter([("networks".to_owned(), networks)]))
            }
            // No network spanned hosts.
            2 => Some(fields),
            _ => None,
        }
    }
}

/// The page of one container.
enum AttachmentFile {}

impl Format for AttachmentFile {
    type Content = ContainerLease;
    const NAME: &'static str = "network-attachment";
    const VERSION: u32 = 3;

    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        match from {
            1 => content(fields),
            // Nothing was behind a gateway.
            2 => Some(fields),
            _ => None,
        }
    }
}

/// What version 1 of the files had around everything.
pub(super) fn content(mut fields: Fields) -> Option<Fields> {
    match fields.remove("content")? {
        serde_json::Value::Object(fields) => Some(fields),
        _ => None,
    }
}

/// The files behind the book.
#[derive(Debug)]
pub(super) struct Book {
    networks: Mutex<PathBuf>,
    containers: PathBuf,
}

impl Book {
    /// Opens the book in its directories, which are made if need be; an empty one if there is
    /// none.
    pub(super) fn open(state_dir: &Path, run_dir: &Path) -> Result<(Self, Leases), NetworkError> {
        let containers = run_dir.join(CONTAINERS);
        for dir in [state_dir, &containers] {
            fs::create_dir_all(dir)
                .map_err(|source| NetworkError::WriteBook { path: dir.to_owned(), source })?;
        }
        let networks = state_dir.join(NETWORKS);
        let leases = Leases::restore(read_networks(&networks)?, read_containers(&containers)?);
        Ok((Self { networks: Mutex::new(networks), containers }, leases))
    }

    /// Writes the pages of all networks; they survive a power cut when this returns.
    pub(super) async fn save_networks(
        &self,
        networks: BTreeMap<String, NetworkLease>,
    ) -> Result<(), NetworkError> {
        let path = self.networks.lock().await;
        let to = path.clone();
        let networks = Networks { networks };
        let save = move || -> Result<(), NetworkError> {
            // A host without networks is as it was without us.
            if networks.networks.is_empty() {
                return remove(&to).map_err(|source| NetworkError::WriteBook { path: to, source });
            }
            Ok(shoal_durable::write::<NetworksFile>(&to, &networks, MODE, Lasting::PowerCut)?)
        };
        spawn_blocking(save).await.map_err(|_| NetworkError::HelperGone)?
    }

    /// Writes the page of one container, or removes it.
    pub(super) fn save_container(
        &self,
        container: &str,
        page: Option<&ContainerLease>,
    ) -> Result<(), NetworkError> {
        let path = self.page_of(container)?;
        match page {
            Some(page) => {
                Ok(shoal_durable::write::<AttachmentFile>(&path, page, MODE, Lasting::Crash)?)
            }
            None => remove(&path).map_err(|source| NetworkError::WriteBook { path, source }),
        }
    }

    /// Removes the pages of all containers but these.
    pub(super) fn keep_containers(&self, kept: &BTreeSet<String>) -> Result<(), NetworkError> {
        let path = &self.containers;
        let failed = |source| NetworkError::WriteBook { path: path.clone(), source };
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(PAGE_SUFFIX));
            if !id.is_some_and(|id| kept.contains(id)) {
                remove(&entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Whether a container can have a page.
    pub(super) fn check_id(&self, container: &str) -> Result<(), NetworkError> {
        self.page_of(container).map(drop)
    }

    fn page_of(&self, container: &str) -> Result<PathBuf, NetworkError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if container.is_empty()
            || container.len() > ID_MAX
            || container.starts_with('.')
            || !container.bytes().all(valid)
        {
            return Err(NetworkError::ContainerId { id: container.to_owned() });
        }
        Ok(self.containers.join(format!("{container}{PAGE_SUFFIX}")))
    }
}

fn read_networks(path: &Path) -> Result<BTreeMap<String, NetworkLease>, NetworkError> {
    let read = shoal_durable::read::<NetworksFile>(path)?;
    Ok(read.map(|read| read.networks).unwrap_or_default())
}

fn read_containers(dir: &Path) -> Result<BTreeMap<String, ContainerLease>, NetworkError> {
    let failed = |source| NetworkError::ReadBook { path: dir.to_owned(), source };
    let mut containers = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(PAGE_SUFFIX)) else {
            continue;
        };
        match shoal_durable::read::<AttachmentFile>(&entry.path()) {
            Ok(page) => containers.extend(page.map(|page| (id.to_owned(), page))),
            // Only a power cut can tear it, and then what it describes is gone as well.
            Err(FileError::Damaged { path, source }) => {
                tracing::warn!(path = %path.display(), %source, "skip a torn page of the book");
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(containers)
}

/// Removes a page that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_durable::testing::check_golden;

    use super::*;

    #[test]
    fn the_book_of_every_version_is_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let lease = json!({ "n1": {
            "config": {
                "id": "n1", "name": "back", "subnet": null, "gateway": null, "ip_range": null,
                "reserved": ["10.1.0.9"], "internal": false, "mtu": null, "labels": { "a": "b" },
            },
            "state": {
                "id": "n1", "bridge": "sh-n1", "subnet": "10.1.0.0/24", "gateway": "10.1.0.1",
                "mtu": 1500, "internal": false,
            },
        } });
        let networks = serde_json::from_value(lease).unwrap();
        check_golden::<NetworksFile>(&golden, &Networks { networks });
        let page = json!({
            "attachments": { "n1": {
                "container": "c1", "network": "n1", "address": "10.1.0.2/24",
                "gateway": "10.1.0.1", "mac": "02:00:0a:01:00:02", "ifname": "eth0",
                "host_ifname": "veth1", "mtu": 1500, "default_route": true, "aliases": ["web"],
            } },
            "publication": null,
        });
        check_golden::<AttachmentFile>(&golden, &serde_json::from_value(page).unwrap());
    }
}
