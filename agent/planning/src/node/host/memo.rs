//! What one plan remembers for the next, so that a change costs what it touches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdSet;
use imbl::ordset::DiffItem;

use super::{Remotes, Way, Wishes};
use crate::network::NetworkState;
use crate::network::ingress::Numbers;
use crate::network::leases::Leases;
use crate::network::ruleset::{Composer, HostFacts, Ruleset};
use crate::tunnel::Side;

/// Remembers the last plan. Another one follows from it for nothing: it is the same with a new one.
#[derive(Debug, Default)]
pub struct Memo {
    pub(super) composer: Composer,
    remote: Option<Remote>,
}

/// Which addresses are led into the tunnel, and what they followed from.
#[derive(Debug)]
struct Remote {
    edition: u64,
    v6: bool,
    numbers: Arc<Numbers>,
    narrow: Arc<BTreeMap<IpAddr, u32>>,
    wished: OrdSet<IpAddr>,
    second: OrdSet<IpAddr>,
    wanted: Remotes,
}

impl Memo {
    /// Derives the tables from the book, as a plan does.
    #[must_use]
    pub fn ruleset(&mut self, edition: u64, leases: &Leases, facts: &HostFacts) -> Ruleset {
        self.composer.compose(edition, leases, facts)
    }

    /// Addresses in subnets of the host's networks, and those of other nodes in the tunnel, alone: a route to any
    /// other would lead packets astray that have nothing to do with containers.
    pub(super) fn remote(
        &mut self,
        edition: u64,
        leases: &Leases,
        wishes: &Wishes,
        v6: bool,
    ) -> Remotes {
        let routed: Vec<&NetworkState> =
            leases.networks().filter(|network| network.routed).collect();
        let is_wanted = |address: &IpAddr| {
            let is_other = |network: &&NetworkState| {
                network.subnet_of(*address).is_some()
                    && network.subnets.iter().all(|one| one.gateway != *address)
            };
            let by_mesh = match address {
                IpAddr::V4(address) => wishes.numbers.contains_key(address),
                IpAddr::V6(_) => false,
            };
            (v6 || address.is_ipv4()) && (by_mesh || routed.iter().any(is_other))
        };
        let way = |address: &IpAddr| {
            let is_second = wishes.second.contains(address);
            let by = if is_second { Side::Second } else { Side::First };
            (*address, Way { by, largest: wishes.narrow.get(address).copied() })
        };
        let (wished, second) = (wishes.remote.clone(), wishes.second.clone());
        let last = self.remote.take_if(|last| {
            (last.edition, last.v6) == (edition, v6)
                && last.numbers == wishes.numbers
                && last.narrow == wishes.narrow
        });
        let wanted = match last {
            Some(Remote { wished: before, second: by_second, mut wanted, .. }) => {
                for difference in by_second.diff(&second) {
                    let (DiffItem::Add(address) | DiffItem::Remove(address)) = difference;
                    if wanted.contains_key(address) {
                        wanted.extend([way(address)]);
                    }
                }
                for difference in before.diff(&wished) {
                    match difference {
                        DiffItem::Remove(address) => drop(wanted.remove(address)),
                        DiffItem::Add(address) if is_wanted(address) => {
                            wanted.extend([way(address)]);
                        }
                        DiffItem::Add(_) => {}
                    }
                }
                wanted
            }
            None => wished.iter().filter(|address| is_wanted(address)).map(way).collect(),
        };
        let (numbers, narrow) = (Arc::clone(&wishes.numbers), Arc::clone(&wishes.narrow));
        let kept = wanted.clone();
        self.remote = Some(Remote { edition, v6, numbers, narrow, wished, second, wanted: kept });
        wanted
    }
}
