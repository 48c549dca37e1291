//! Who is known under which names on this host: what its own tasks are, and what managers have said of
//! others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use shoal_types::assignment::{AssignedTask, ServiceVips, TaskEndpoint};
use shoal_types::id::{NetworkId, ServiceId, TaskId};
use shoal_types::object::Network;
use shoal_types::spec::NAMESPACE_LABEL;

use super::{Change, Claim, TaskNames, Zone, ZoneNetwork, short_name};
use crate::network::Attached;
use crate::overlay::OverlayView;

/// A task of this host that has addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    service: ServiceId,
    service_name: String,
    slot: String,
    places: Vec<Place>,
    serving: bool,
}

/// Where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Id of the network.
    network: String,
    addresses: Vec<IpNet>,
    aliases: BTreeSet<String>,
}

impl Speaker {
    /// A task with what it has on networks, and whether it runs, is ready and is to go on. `None` where it
    /// has nothing.
    #[must_use]
    pub fn of(task: &AssignedTask, attached: Vec<Attached>, serving: bool) -> Option<Self> {
        let place = |at: Attached| {
            let id = at.network.parse::<NetworkId>().ok();
            let wanted = task.networks.iter().find(|network| Some(network.network_id) == id);
            let aliases = wanted.map(|network| network.aliases.iter().cloned().collect());
            let addresses = at.ends().map(|end| end.address).collect();
            Place { network: at.network, addresses, aliases: aliases.unwrap_or_default() }
        };
        let places: Vec<Place> = attached.into_iter().map(place).collect();
        (!places.is_empty()).then(|| Self {
            service: task.service_id,
            service_name: task.service_name.clone(),
            slot: task.slot.to_string(),
            places,
            serving,
        })
    }
}

/// All of them. Clones share what they have in common.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Roll {
    /// The tasks of this host. Until managers have said everything, those that have nothing any more are
    /// among them: an earlier agent may have said what they are called.
    speakers: OrdMap<TaskId, Option<Arc<Speaker>>>,
    /// Networks of this host.
    networks: Arc<BTreeMap<NetworkId, Arc<Network>>>,
    /// Absent until managers have said everything, but after a reboot: what they said before holds then.
    overlay: Option<Arc<OverlayView>>,
}

impl Roll {
    /// What a task is from now on; whether that is news.
    pub fn set_speaker(&mut self, id: TaskId, speaker: Option<Speaker>) -> bool {
        if speaker.is_none() && self.overlay.is_some() {
            return self.speakers.remove(&id).is_some();
        }
        let known = self.speakers.get(&id).map(Option::as_deref);
        if known == Some(speaker.as_ref()) {
            return false;
        }
        self.speakers.insert(id, speaker.map(Arc::new));
        true
    }

    /// The networks of this host from now on.
    pub fn set_networks(&mut self, networks: Arc<BTreeMap<NetworkId, Arc<Network>>>) {
        self.networks = networks;
    }

    /// What managers have said of other hosts.
    pub fn set_overlay(&mut self, overlay: Arc<OverlayView>) {
        let before = self.overlay.take();
        self.overlay = overlay.node_id.is_some().then_some(overlay);
        if before.is_none() && self.overlay.is_some() {
            let speakers = std::mem::take(&mut self.speakers).into_iter();
            self.speakers = speakers.filter(|(_, speaker)| speaker.is_some()).collect();
        }
    }

    /// Which names lead where. Until managers have said everything, what was known `before` of others is
    /// still so: an agent that has just begun knows its own tasks alone.
    #[must_use]
    pub fn zone(&self, before: &Zone) -> Zone {
        let mut zone = Zone::default();
        match &self.overlay {
            Some(overlay) => self.of_others(overlay, &mut zone),
            None => self.of_before(before, &mut zone),
        }
        let mut subnets: BTreeMap<&str, BTreeSet<IpNet>> = BTreeMap::new();
        for (id, speaker) in &self.speakers {
            let speaker = speaker.as_deref();
            for place in speaker.map_or(&[][..], |speaker| &speaker.places) {
                // On a network that spans hosts, an address is one of itself.
                let nets = place.addresses.iter().map(IpNet::trunc);
                let nets = nets.filter(|net| net.prefix_len() < net.max_prefix_len());
                subnets.entry(&place.network).or_default().extend(nets);
            }
            let claims = speaker.map(|speaker| self.of_own(speaker, before));
            let claims = claims.unwrap_or_default();
            zone.take(Change::Claims { owner: id.to_string(), claims });
        }
        for (id, network) in &*self.networks {
            let id = id.to_string();
            let mut all = subnets.remove(&*id).unwrap_or_default();
            all.extend(&network.subnets);
            let name = network.spec.name.clone();
            let network = ZoneNetwork { name, subnets: all.into_iter().collect() };
            zone.take(Change::Network { id, network });
        }
        zone
    }

    /// Of networks that span hosts; who is on the others is known here.
    fn of_before(&self, before: &Zone, zone: &mut Zone) {
        let spans = |claim: &&Claim| {
            let id = claim.network.parse::<NetworkId>().ok();
            id.and_then(|id| self.networks.get(&id)).is_some_and(|network| network.spans_nodes())
        };
        for (owner, claims) in before.owners() {
            let claims = claims.iter().filter(spans).cloned().collect();
            zone.take(Change::Claims { owner: owner.to_owned(), claims });
        }
    }

    fn of_others(&self, overlay: &OverlayView, zone: &mut Zone) {
        let mut vips: BTreeMap<ServiceId, &ServiceVips> = BTreeMap::new();
        for service in overlay.vips.values() {
            vips.insert(service.service_id, service);
            let claim = |network: &shoal_types::assignment::VipNetwork| {
                let (id, vip) = (network.network_id, network.vip.addr());
                let further = self.further(id, &service.service_name, &network.aliases);
                Claim::of_service(&service.service_name, &further, &id.to_string(), vip)
            };
            let claims = service.networks.iter().map(claim).collect();
            zone.take(Change::Claims { owner: owner_of(service.service_id), claims });
        }
        let others = |one: &&Arc<TaskEndpoint>| Some(one.node_id) != overlay.node_id;
        for endpoint in overlay.endpoints.values().filter(others) {
            let (slot, vips) = (endpoint.slot.to_string(), vips.get(&endpoint.service_id));
            let mut claims = Vec::new();
            for network in &endpoint.networks {
                let id = network.network_id;
                let aliases = self.further(id, &endpoint.service_name, &network.aliases);
                let task = TaskNames {
                    service: &endpoint.service_name,
                    slot: &slot,
                    aliases: &aliases,
                    serving: endpoint.serving,
                };
                let vip = vips.is_some_and(|vips| vips.networks.iter().any(|n| n.network_id == id));
                let id = id.to_string();
                let addresses = network.addresses.iter();
                claims.extend(addresses.map(|at| Claim::of_task(&task, &id, at.addr(), vip)));
            }
            zone.take(Change::Claims { owner: endpoint.task_id.to_string(), claims });
        }
    }

    fn of_own(&self, speaker: &Speaker, before: &Zone) -> Vec<Claim> {
        let Speaker { service, service_name, slot, places, serving } = speaker;
        let owner = owner_of(*service);
        let claim = |place: &Place| {
            let id = place.network.parse::<NetworkId>().ok();
            let vip = match &self.overlay {
                Some(overlay) => overlay.vips.get(service).is_some_and(|vips| {
                    vips.networks.iter().any(|network| Some(network.network_id) == id)
                }),
                None => before.claims(&owner).iter().any(|claim| claim.network == place.network),
            };
            let further = id.map(|id| self.further(id, service_name, &place.aliases));
            let aliases = further.as_ref().unwrap_or(&place.aliases);
            let task = TaskNames { service: service_name, slot, aliases, serving: *serving };
            let claim = |net: &IpNet| Claim::of_task(&task, &place.network, net.addr(), vip);
            place.addresses.iter().map(claim).collect::<Vec<_>>()
        };
        places.iter().flat_map(claim).collect()
    }

    /// The further names of a service on a network: those that users give, and within a stack the short one.
    fn further<'a>(
        &self,
        network: NetworkId,
        service: &str,
        aliases: impl IntoIterator<Item = &'a String>,
    ) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = aliases.into_iter().cloned().collect();
        let network = self.networks.get(&network).filter(|network| network.stack_id.is_some());
        let stack = network.and_then(|network| network.spec.labels.get(NAMESPACE_LABEL));
        all.extend(stack.and_then(|stack| short_name(service, stack)).map(str::to_owned));
        all
    }
}

/// As whom a service claims something. A task does under its own id, as its container asks.
fn owner_of(service: ServiceId) -> String {
    format!("service {service}")
}
