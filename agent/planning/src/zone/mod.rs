//! Which names lead where, for the containers of a node: pure.
//!
//! Somebody (a task, a service with virtual addresses) says under which names it is known on a network;
//! whoever asks is a container, and sees the networks that it is in and no others. Names have no case
//! (RFC 4343). A name that is known is never asked of anybody else, also while nobody serves under it.

mod asker;
mod roll;
#[cfg(test)]
mod roll_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::asker::{Asker, Forwards};
pub use self::roll::{Place, Roll, Speaker};

/// Where names are asked for (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;
/// Below it are the addresses (RFC 1035, 3.5).
const REVERSE: &str = ".in-addr.arpa";
/// And those of IPv6, digit by digit (RFC 3596, 2.5).
const REVERSE_V6: &str = ".ip6.arpa";
/// Before a service's name: its tasks, also where the service has a virtual address.
const TASKS: &str = "tasks.";

/// A network as askers need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneNetwork {
    /// What people call it; `NAME.NETWORK` is NAME on this network alone.
    pub name: String,
    /// The addresses on it, of which nobody else is asked whose they are.
    pub subnets: Vec<IpNet>,
}

/// Under which names somebody is known on one network, by one of its addresses there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Id of the network.
    pub network: String,
    /// Where the names lead.
    pub address: IpAddr,
    /// What the address is called, without its network.
    pub called: String,
    /// The names, that one not among them unless it leads there, too.
    pub names: BTreeSet<String>,
    /// Whether it can be talked to. Else its names are known and lead nowhere.
    pub serving: bool,
}

impl Claim {
    /// What a task claims on a network: its slot's name and `tasks.SERVICE`, and unless virtual addresses
    /// stand for the service there, the service's names.
    #[must_use]
    pub fn of_task(task: &TaskNames<'_>, network: &str, address: IpAddr, vip: bool) -> Self {
        let slot = format!("{}.{}", task.service, task.slot);
        let mut names = BTreeSet::from([slot.clone(), format!("{TASKS}{}", task.service)]);
        names.extend(task.aliases.iter().map(|alias| format!("{TASKS}{alias}")));
        if !vip {
            names.insert(task.service.to_owned());
            names.extend(task.aliases.iter().cloned());
        }
        let network = network.to_owned();
        Self { network, address, called: slot, names, serving: task.serving }
    }

    /// What a service claims on a network with its virtual address there.
    #[must_use]
    pub fn of_service(
        service: &str,
        aliases: &BTreeSet<String>,
        network: &str,
        address: IpAddr,
    ) -> Self {
        let mut names = aliases.clone();
        names.insert(service.to_owned());
        let network = network.to_owned();
        Self { network, address, called: service.to_owned(), names, serving: true }
    }
}

/// A task, as far as its names go.
#[derive(Debug, Clone)]
pub struct TaskNames<'a> {
    /// The service's whole name.
    pub service: &'a str,
    /// Which slot of it.
    pub slot: &'a str,
    /// Further names of the service on the network: those that users give, and within a stack the short one.
    pub aliases: &'a BTreeSet<String>,
    /// It runs and is to run.
    pub serving: bool,
}

/// The name of a service within its stack: `web` for `shop_web` in `shop`.
#[must_use]
pub fn short_name<'a>(service: &'a str, stack: &str) -> Option<&'a str> {
    service.strip_prefix(stack)?.strip_prefix('_').filter(|short| !short.is_empty())
}

/// What changes in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// There is this network, as it is from now on.
    Network {
        /// Its id.
        id: String,
        /// What it is.
        network: ZoneNetwork,
    },
    /// There is no such network.
    NoNetwork {
        /// Its id.
        id: String,
    },
    /// All that somebody claims from now on; nothing is the end of it.
    Claims {
        /// Who.
        owner: String,
        /// What.
        claims: Vec<Claim>,
    },
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is ours and leads to these addresses, or to none for now.
    Addresses(Vec<IpAddr>),
    /// It is an address of ours, which is called so.
    Called(String),
    /// It would be ours, and is not there.
    Absent,
    /// Others may know it.
    Foreign,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Places {
    network: Option<ZoneNetwork>,
    /// By name and owner: where it leads, if anywhere.
    names: BTreeMap<String, BTreeMap<String, BTreeSet<IpAddr>>>,
    /// By address and owner: what it is called.
    addresses: BTreeMap<IpAddr, BTreeMap<String, String>>,
}

/// All names of a node's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    networks: BTreeMap<String, Places>,
    owners: BTreeMap<String, Vec<Claim>>,
}

impl Zone {
    /// Takes a change in; costs what the change is about.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Network { id, network } => {
                self.networks.entry(id).or_default().network = Some(network);
            }
            Change::NoNetwork { id } => {
                if let Some(places) = self.networks.get_mut(&id) {
                    places.network = None;
                }
                self.tidy(&id);
            }
            Change::Claims { owner, claims } => self.claim(owner, claims),
        }
    }

    /// What somebody claims.
    #[must_use]
    pub fn claims(&self, owner: &str) -> &[Claim] {
        self.owners.get(owner).map_or(&[], Vec::as_slice)
    }

    /// Everybody who claims something.
    pub fn owners(&self) -> impl Iterator<Item = (&str, &[Claim])> {
        self.owners.iter().map(|(owner, claims)| (owner.as_str(), claims.as_slice()))
    }

    fn claim(&mut self, owner: String, claims: Vec<Claim>) {
        for claim in self.owners.remove(&owner).unwrap_or_default() {
            let Some(places) = self.networks.get_mut(&claim.network) else { continue };
            for name in &claim.names {
                drop_from(&mut places.names, &name.to_ascii_lowercase(), &owner);
            }
            drop_from(&mut places.addresses, &claim.address, &owner);
            self.tidy(&claim.network);
        }
        for claim in &claims {
            let places = self.networks.entry(claim.network.clone()).or_default();
            for name in &claim.names {
                let owners = places.names.entry(name.to_ascii_lowercase()).or_default();
                let leads = owners.entry(owner.clone()).or_default();
                leads.extend(claim.serving.then_some(claim.address));
            }
            let called = places.addresses.entry(claim.address).or_default();
            called.insert(owner.clone(), claim.called.clone());
        }
        if !claims.is_empty() {
            self.owners.insert(owner, claims);
        }
    }

    /// Forgets a network of which nothing is known any more.
    fn tidy(&mut self, id: &str) {
        if self.networks.get(id).is_some_and(|places| *places == Places::default()) {
            self.networks.remove(id);
        }
    }

    /// The changes that lead from this zone to another one.
    #[must_use]
    pub fn difference(&self, wanted: &Self) -> Vec<Change> {
        let gone = self.owners.keys().filter(|owner| !wanted.owners.contains_key(*owner));
        let gone = gone.map(|owner| Change::Claims { owner: owner.clone(), claims: Vec::new() });
        let said =
            wanted.owners.iter().filter(|(owner, claims)| self.owners.get(*owner) != Some(*claims));
        let said = said
            .map(|(owner, claims)| Change::Claims { owner: owner.clone(), claims: claims.clone() });
        let known = |zone: &Self, id: &str| zone.networks.get(id).and_then(|p| p.network.clone());
        let ids: BTreeSet<&String> = self.networks.keys().chain(wanted.networks.keys()).collect();
        let networks =
            ids.into_iter().filter_map(|id| match (known(self, id), known(wanted, id)) {
                (old, new) if old == new => None,
                (_, Some(network)) => Some(Change::Network { id: id.clone(), network }),
                (_, None) => Some(Change::NoNetwork { id: id.clone() }),
            });
        networks.chain(gone).chain(said).collect()
    }

    /// What somebody is told of a name (without the last dot). Its own leads to itself. Else the first
    /// network, in the order of its interfaces, on which somebody serves under it is asked, as Docker does it.
    #[must_use]
    pub fn ask(&self, asker: &Asker, name: &str) -> Known {
        let Asker { container, networks, hostname, forwards: _ } = asker;
        let name = name.to_ascii_lowercase();
        if !hostname.is_empty()
            && name.eq_ignore_ascii_case(hostname)
            && let Some(own) = self.owners.get(container)
        {
            return Known::Addresses(own.iter().map(|claim| claim.address).collect());
        }
        let v4 = || name.strip_suffix(REVERSE).and_then(reversed);
        let v6 = || name.strip_suffix(REVERSE_V6).and_then(reversed_v6);
        if let Some(address) = v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6)) {
            return self.reverse(networks, address);
        }
        let all = || networks.iter().filter_map(|id| self.networks.get(id));
        let mut known = first(all().filter_map(|places| places.names.get(&name)));
        if known == Known::Foreign {
            let on = |places: &'_ Places| -> Option<String> {
                let network = places.network.as_ref()?.name.to_ascii_lowercase();
                Some(name.strip_suffix(&network)?.strip_suffix('.')?.to_owned())
            };
            known = first(all().filter_map(|places| places.names.get(&on(places)?)));
        }
        known
    }

    fn reverse(&self, networks: &[String], address: IpAddr) -> Known {
        let mut known = Known::Foreign;
        for places in networks.iter().filter_map(|id| self.networks.get(id)) {
            let Some(network) = &places.network else { continue };
            if !network.subnets.iter().any(|subnet| subnet.contains(&address)) {
                continue;
            }
            let called = places.addresses.get(&address).and_then(|owners| owners.values().next());
            match called {
                Some(called) => return Known::Called(format!("{called}.{}", network.name)),
                None => known = Known::Absent,
            }
        }
        known
    }
}

/// The first that leads somewhere; else nowhere, if there is any.
fn first<'a>(found: impl Iterator<Item = &'a BTreeMap<String, BTreeSet<IpAddr>>>) -> Known {
    let mut known = Known::Foreign;
    for owners in found {
        let addresses: BTreeSet<IpAddr> = owners.values().flatten().copied().collect();
        if !addresses.is_empty() {
            return Known::Addresses(addresses.into_iter().collect());
        }
        known = Known::Addresses(Vec::new());
    }
    known
}

/// `4.3.2.1` is 1.2.3.4; no other spelling is.
fn reversed(text: &str) -> Option<Ipv4Addr> {
    let [d, c, b, a] = text.parse::<Ipv4Addr>().ok()?.octets();
    Some(Ipv4Addr::new(a, b, c, d))
}

/// All 32 digits, the last first; no other spelling is an address.
fn reversed_v6(text: &str) -> Option<Ipv6Addr> {
    let mut digits = text.split('.').rev();
    let mut bits = 0;
    for _ in 0..32 {
        let digit = digits.next().filter(|digit| digit.len() == 1)?;
        bits = bits << 4 | u128::from_str_radix(digit, 16).ok()?;
    }
    digits.next().is_none().then(|| Ipv6Addr::from_bits(bits))
}

fn drop_from<K: Ord, V>(map: &mut BTreeMap<K, BTreeMap<String, V>>, key: &K, owner: &str) {
    if let Some(owners) = map.get_mut(key) {
        owners.remove(owner);
        if owners.is_empty() {
            map.remove(key);
        }
    }
}
