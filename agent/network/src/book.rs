//! The book on disk.
//!
//! Networks are synced to disk when one comes or goes: their subnets stay the same over a reboot.
//! A container's page describes what is in the kernel, so it need not outlive the kernel: it is
//! replaced by a rename, which an agent that crashes or is killed cannot tear, and not synced,
//! which would cost more than connecting the container does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_agent_planning::network::leases::{ContainerLease, Leases, NetworkLease};
use shoal_agent_planning::network::pool;
use shoal_durable::{Fields, FileError, Format, Lasting};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::NetworkError;

/// Random bytes (random(4)).
const RANDOM: &str = "/dev/urandom";
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
    /// Of which networks get subnets of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ula: Option<Ipv6Net>,
}

impl Format for NetworksFile {
    type Content = Networks;
    const NAME: &'static str = "networks";
    const VERSION: u32 = 6;

    fn upgrade(from: u32, mut fields: Fields) -> Option<Fields> {
        match from {
            // They were the content itself.
            1 => {
                let networks = fields.remove("content")?;
                Some(Fields::from_iter([("networks".to_owned(), networks)]))
            }
            // No network spanned hosts; none was on a wire; none was without IPv4.
            2 | 4 | 5 => Some(fields),
            // Each had one subnet, of IPv4.
            3 => {
                let mut fields = fields;
                for lease in fields.get_mut("networks")?.as_object_mut()?.values_mut() {
                    with_subnets(lease.get_mut("config")?.as_object_mut()?, true);
                    with_subnets(lease.get_mut("state")?.as_object_mut()?, false);
                }
                Some(fields)
            }
            _ => None,
        }
    }
}

/// What was said of the one subnet is said of the first of several. A user who had named none wished for one all
/// the same.
fn with_subnets(of: &mut Fields, wished: bool) {
    let words = ["subnet", "gateway", "ip_range", "reserved"].into_iter();
    let words = words.filter_map(|word| Some((word.to_owned(), of.remove(word)?)));
    let subnet: Fields = words.collect();
    let named = subnet.get("subnet").is_some_and(|net| !net.is_null());
    let subnets = if named { vec![Value::Object(subnet)] } else { Vec::new() };
    of.insert("subnets".to_owned(), Value::Array(subnets));
    if wished {
        of.insert("ipv6".to_owned(), Value::Bool(false));
    }
}

/// The page of one container.
enum AttachmentFile {}

impl Format for AttachmentFile {
    type Content = ContainerLease;
    const NAME: &'static str = "network-attachment";
    const VERSION: u32 = 6;

    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        match from {
            1 => content(fields),
            // Nothing was behind a gateway, nothing had IPv6, and nothing was on a wire.
            2..=4 => Some(fields),
            // Each had IPv4.
            5 => {
                let mut fields = fields;
                for attached in fields.get_mut("attachments")?.as_object_mut()?.values_mut() {
                    with_family(attached.as_object_mut()?);
                }
                Some(fields)
            }
            _ => None,
        }
    }
}

/// What was said of IPv4 beside all else is said where it is of IPv6, too.
fn with_family(of: &mut Fields) {
    let words = ["address", "gateway", "default_route", "behind_gateway"].into_iter();
    let words = words.filter_map(|word| Some((word.to_owned(), of.remove(word)?)));
    let v4: Fields = words.collect();
    of.insert("v4".to_owned(), Value::Object(v4));
}

/// What version 1 of the files had around everything.
pub(super) fn content(mut fields: Fields) -> Option<Fields> {
    match fields.remove("content")? {
        Value::Object(fields) => Some(fields),
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
    ///
    /// What is given with it is the node's own prefix of IPv6: that of the book, or a random one (RFC 4193, 3.2.1),
    /// which is in the book with the first network.
    pub(super) fn open(
        state_dir: &Path,
        run_dir: &Path,
    ) -> Result<(Self, Leases, Ipv6Net), NetworkError> {
        let containers = run_dir.join(CONTAINERS);
        for dir in [state_dir, &containers] {
            fs::create_dir_all(dir)
                .map_err(|source| NetworkError::WriteBook { path: dir.to_owned(), source })?;
        }
        let networks = state_dir.join(NETWORKS);
        let (pages, ula) = read_networks(&networks)?;
        let leases = Leases::restore(pages, read_containers(&containers)?);
        let ula = ula.map_or_else(random_ula, Ok)?;
        Ok((Self { networks: Mutex::new(networks), containers }, leases, ula))
    }

    /// Writes the pages of all networks; they survive a power cut when this returns.
    pub(super) async fn save_networks(
        &self,
        networks: BTreeMap<String, NetworkLease>,
        ula: Ipv6Net,
    ) -> Result<(), NetworkError> {
        let path = self.networks.lock().await;
        let to = path.clone();
        // Who has no IPv6 has no prefix.
        let has_v6 = networks.values().any(NetworkLease::has_v6);
        let networks = Networks { networks, ula: has_v6.then_some(ula) };
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

/// The pages of networks, and the node's own prefix of IPv6.
type Read = (BTreeMap<String, NetworkLease>, Option<Ipv6Net>);

fn read_networks(path: &Path) -> Result<Read, NetworkError> {
    let read = shoal_durable::read::<NetworksFile>(path)?;
    Ok(read.map(|read| (read.networks, read.ula)).unwrap_or_default())
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

fn random_ula() -> Result<Ipv6Net, NetworkError> {
    let mut bits = [0; 5];
    let read = File::open(RANDOM).and_then(|mut file| file.read_exact(&mut bits));
    read.map_err(|source| NetworkError::ReadBook { path: RANDOM.into(), source })?;
    Ok(pool::ula(bits))
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
    use shoal_agent_planning::network::{AttachRequest, NetworkConfig};
    use shoal_durable::testing::check_golden;

    use super::*;

    /// A user's subnet of version 3, and what this version writes of IPv6.
    #[test]
    fn what_was_said_of_one_subnet_is_said_of_several() {
        let of = |config: Value, state: Value| {
            let (mut config, mut state) = (config, state);
            for (word, value) in [
                ("id", json!("n1")),
                ("name", json!("n")),
                ("internal", json!(false)),
                ("mtu", json!(null)),
                ("labels", json!({})),
                ("routed", json!(true)),
            ] {
                config[word] = value;
            }
            for (word, value) in [
                ("id", json!("n1")),
                ("bridge", json!("shb")),
                ("internal", json!(false)),
                ("mtu", json!(1420)),
                ("routed", json!(true)),
            ] {
                state[word] = value;
            }
            json!({ "n1": { "config": config, "state": state } })
        };
        let named = json!({
            "subnet": "10.1.0.0/24", "gateway": "10.1.0.7", "ip_range": null, "reserved": ["10.1.0.9"],
        });
        let had = json!({ "subnet": "10.1.0.0/24", "gateway": "10.1.0.7" });
        let old = json!({ "version": 3, "networks": of(named.clone(), had.clone()) });
        let read = |file: Value| {
            shoal_durable::decode::<NetworksFile>(Path::new("networks.json"), file).unwrap()
        };
        let wished = json!({ "subnets": [named], "ipv6": false });
        let has = json!({ "subnets": [had] });
        let networks = serde_json::from_value(of(wished, has)).unwrap();
        assert_eq!(read(old), Networks { networks, ula: None });

        let (mut leases, rules) =
            (Leases::default(), shoal_agent_planning::network::leases::Rules::default());
        let config = NetworkConfig { id: "n1".to_owned(), ipv6: true, ..NetworkConfig::default() };
        leases.ensure_network(&config, &rules, &[]).unwrap();
        let networks = Networks { networks: leases.network_pages().clone(), ula: Some(rules.ula) };
        let text = shoal_durable::text::<NetworksFile>(&networks).unwrap();
        assert_eq!(read(serde_json::from_slice(&text).unwrap()), networks);
        let (container, network) = ("c1".to_owned(), "n1".to_owned());
        let request = AttachRequest { container, network, ..AttachRequest::default() };
        assert!(leases.attach(&request, &rules).unwrap().v6.is_some());
        let page = leases.container_page("c1").unwrap();
        let text = shoal_durable::text::<AttachmentFile>(page).unwrap();
        let read = shoal_durable::decode::<AttachmentFile>(
            Path::new("c1.json"),
            serde_json::from_slice(&text).unwrap(),
        );
        assert_eq!(read.unwrap(), *page);
    }

    #[test]
    fn the_book_of_every_version_is_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let lease = json!({ "n1": {
            "config": {
                "id": "n1", "name": "back", "subnets": [], "ipv6": false, "internal": false,
                "mtu": null, "labels": { "a": "b" },
            },
            "state": {
                "id": "n1", "bridge": "sh-n1", "mtu": 1500, "internal": false,
                "subnets": [{ "subnet": "10.1.0.0/24", "gateway": "10.1.0.1" }],
            },
        } });
        let networks = serde_json::from_value(lease).unwrap();
        check_golden::<NetworksFile>(&golden, &Networks { networks, ula: None });
        let page = json!({
            "attachments": { "n1": {
                "container": "c1", "network": "n1", "mac": "02:00:0a:01:00:02", "ifname": "eth0",
                "host_ifname": "veth1", "mtu": 1500, "aliases": ["web"], "v4": {
                    "address": "10.1.0.2/24", "gateway": "10.1.0.1", "default_route": true,
                },
            } },
            "publication": null,
        });
        check_golden::<AttachmentFile>(&golden, &serde_json::from_value(page).unwrap());
    }
}
