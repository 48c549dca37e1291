//! The book on disk.
//!
//! Networks are synced to disk when one comes or goes: their subnets stay the same over a reboot.
//! A container's page describes what is in the kernel, so it need not outlive the kernel: it is
//! replaced by a rename, which an agent that crashes or is killed cannot tear, and not synced,
//! which would cost more than connecting the container does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal_agent_planning::network::leases::{ContainerLease, Leases, NetworkLease};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::NetworkError;

const NETWORKS: &str = "networks.json";
const CONTAINERS: &str = "network-attachments";
const PAGE_SUFFIX: &str = ".json";
/// Longest id of a container that makes a file name, in bytes.
const ID_MAX: usize = 128;

/// What is written. The version is for a later agent that writes something else.
#[derive(Serialize, Deserialize)]
struct Page<T> {
    version: u32,
    content: T,
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
        let leases =
            Leases::restore(read(&networks)?.unwrap_or_default(), read_containers(&containers)?);
        Ok((Self { networks: Mutex::new(networks), containers }, leases))
    }

    /// Writes the pages of all networks; they survive a power cut when this returns.
    pub(super) async fn save_networks(
        &self,
        networks: BTreeMap<String, NetworkLease>,
    ) -> Result<(), NetworkError> {
        let path = self.networks.lock().await;
        let failed = |source| NetworkError::WriteBook { path: path.clone(), source };
        let to = path.clone();
        let save = move || match networks.is_empty() {
            // A host without networks is as it was without us.
            true => remove(&to),
            false => write(&to, &networks, true),
        };
        spawn_blocking(save).await.map_err(io::Error::other).flatten().map_err(failed)
    }

    /// Writes the page of one container, or removes it.
    pub(super) fn save_container(
        &self,
        container: &str,
        page: Option<&ContainerLease>,
    ) -> Result<(), NetworkError> {
        let path = self.page_of(container)?;
        let result = match page {
            Some(page) => write(&path, page, false),
            None => remove(&path),
        };
        result.map_err(|source| NetworkError::WriteBook { path, source })
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

/// Reads a page; `None` when there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NetworkError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice::<Page<T>>(&text)
            .map(|page| Some(page.content))
            .map_err(|source| NetworkError::ParseBook { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetworkError::ReadBook { path: path.to_owned(), source }),
    }
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
        match read(&entry.path()) {
            Ok(page) => containers.extend(page.map(|page| (id.to_owned(), page))),
            // Only a power cut can tear it, and then what it describes is gone as well.
            Err(NetworkError::ParseBook { path, source }) => {
                tracing::warn!(path = %path.display(), %source, "skip a torn page of the book");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(containers)
}

/// Writes beside and renames: a reader finds the old or the new.
pub(super) fn write<T: Serialize>(path: &Path, content: &T, durable: bool) -> io::Result<()> {
    let text = serde_json::to_vec(&Page { version: 1, content })?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(&text)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) if durable => File::open(dir)?.sync_data(),
        _ => Ok(()),
    }
}

/// Removes a page that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
