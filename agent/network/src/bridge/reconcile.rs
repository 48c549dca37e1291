//! Making the host what the book says: look, have it planned, do it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use shoal_agent_planning::network::links::{self, Desired};
use shoal_agent_planning::network::ruleset::HostFacts;
use shoal_agent_planning::network::settings::Remembered;
use shoal_agent_planning::network::{Family, NetworkState, Place, guests, ingress};
use shoal_agent_planning::node::host::{
    self, Action, BridgeRoute, MeshAction, Observed, ObservedLinks, Plan, Remotes,
};
use shoal_agent_planning::node::look::{Look, LookAtLinks};

use super::{BridgeNetworks, Inner};
use crate::settings::{boot_id, without_v6};
use crate::{FirewallError, Lost, NetworkError, PublishedPort, Repaired, ports, sysctl};

/// What somebody else must have changed.
#[derive(Debug, Clone, Copy, Default)]
struct Strange {
    /// The tables were not those of this agent.
    tables: bool,
    /// Routes into the tunnel were not as they were left.
    remote: bool,
    /// The mesh's device was not.
    mesh: bool,
}

/// The host as it was found, and what could not be looked at.
pub(super) struct Seen {
    pub(super) observed: Observed,
    strange: Strange,
    pub(super) errors: Vec<NetworkError>,
}

impl BridgeNetworks {
    /// Looks at parts of the host and puts right what is not as the book says. Goes on after an error,
    /// but opens nothing then. Call it under `structure`.
    ///
    /// # Errors
    /// The first.
    pub(super) async fn reconcile(&self, look: &Look) -> Result<Repaired, NetworkError> {
        let under_way = {
            let mut inner = self.lock();
            inner.count_look();
            inner.under_way.clone()
        };
        let (mut look, mut strange) = (look.clone(), Strange::default());
        let mut repaired = Repaired::default();
        let (plan, observed, mut errors) = loop {
            let Seen { observed, strange: more, errors } = self.observe(&look).await;
            strange.tables |= more.tables;
            strange.remote |= more.remote;
            strange.mesh |= more.mesh;
            let mut inner = self.lock();
            let plan = inner.plan(&observed);
            let lacks = host::lacks(&look, &plan, &inner.facts);
            if !lacks.is_empty() {
                look.merge(lacks);
                continue;
            }
            if inner.facts != plan.facts {
                self.tell(&inner, &plan);
                inner.facts = plan.facts.clone();
                inner.generation += 1;
            }
            let under_way = under_way.union(&inner.under_way).cloned().collect();
            repaired.lost_attachments = inner.note_lost(&plan, observed.links.as_ref(), &under_way);
            break (plan, observed, errors);
        };
        self.tell_lost();
        let mut failed = !errors.is_empty();
        let mesh = ingress::ifname(self.prefix());
        let of_mesh = |action: &Action| match action {
            Action::Mesh(_) => true,
            Action::Link(action) => action.ifname() == mesh,
            _ => false,
        };
        let mesh_changes = plan.actions.iter().any(of_mesh);
        for action in plan.actions {
            if (failed && action.opens()) || self.is_under_way(&action) {
                continue;
            }
            self.lock().count_deed();
            let done = self.perform(&action, &mut strange).await;
            self.note_known(&action, &observed, done.is_ok());
            match done {
                Ok(true) if of_mesh(&action) && !strange.mesh => {}
                Ok(true) => repaired.note(&action, strange),
                Ok(false) => {}
                Err(error) => {
                    failed = true;
                    errors.push(error);
                }
            }
        }
        self.lock().share_led(&plan.remote);
        if mesh_changes {
            errors.extend(self.look_at_changed_mesh().await.err());
        }
        if repaired.table_replaced {
            self.forget_stray_flows().await;
        }
        errors.into_iter().next().map_or(Ok(repaired), Err)
    }

    /// It is not as it was seen before, nor known until it is seen.
    async fn look_at_changed_mesh(&self) -> Result<(), NetworkError> {
        let v6 = {
            let mut inner = self.lock();
            inner.mesh = None;
            inner.may_have_v6()
        };
        let found = self.links.observe_mesh(self.prefix(), v6).await?;
        self.lock().mesh = Some(found);
        Ok(())
    }

    /// Says what people should know about a change of how the host forwards.
    fn tell(&self, inner: &Inner, plan: &Plan) {
        let (before, now) = (&inner.facts, &plan.facts);
        if now.forwards_for_us && !before.forwards_for_us {
            tracing::warn!(
                "this host did not forward packets: it does so for containers now, and for bridges \
                 of others that it has; for anything else, start the agent with \
                 --forwards-for-others"
            );
        }
        for guest in now.guests.difference(&before.guests) {
            tracing::info!(bridge = guest, "forwarding packets for a bridge of somebody else");
        }
    }

    pub(super) async fn observe(&self, look: &Look) -> Seen {
        let mut errors = Vec::new();
        fn known<T>(result: Result<T, NetworkError>, errors: &mut Vec<NetworkError>) -> Option<T> {
            result.map_err(|error| errors.push(error)).ok()
        }
        let (has_networks, bridges, facts, v6) = {
            let inner = self.lock();
            let networks = inner.leases.networks();
            let bridges: BTreeMap<String, bool> =
                networks.map(|network| (network.bridge.clone(), network.has_v6())).collect();
            (!bridges.is_empty(), bridges, inner.facts.clone(), inner.may_have_v6())
        };
        let HostFacts { on_no_wire, mesh: was_meshed, .. } = facts;
        let without_v6 = v6 && without_v6();
        let mut observed = Observed { on_no_wire, was_meshed, without_v6, ..Observed::default() };
        if let Some(boot) = known(boot_id(), &mut errors) {
            observed.boot = boot;
        }
        observed.remembered = self.settings.remembered();
        if !look.links.is_empty() {
            observed.links = known(self.observe_links(&look.links).await, &mut errors);
        }
        if look.addresses {
            // What cannot be looked at is not taken away.
            if let Some((links, on_no_wire)) =
                known(self.links.observe_addresses(v6).await, &mut errors)
            {
                let mut inner = self.lock();
                inner.guests = guests::of(&links, self.prefix());
                inner.looked_around = true;
                observed.on_no_wire = on_no_wire;
            }
        }
        observed.guests = self.lock().guests.clone();
        if look.rules {
            let of = |family| self.links.observe_fence(family);
            observed.fence = known(of(Family::V4).await, &mut errors).flatten();
            observed.fence_v6 = known(of(Family::V6).await, &mut errors).flatten();
        }
        let mut strange = Strange::default();
        if look.tables {
            match self.table.look(|| self.desired_table()).await {
                Ok(looked) => {
                    observed.tables = Some(looked.tables);
                    strange.tables = looked.strange;
                }
                // A host without nftables needs none as long as it has no networks.
                Err(FirewallError::Missing) if !has_networks => {}
                Err(error) => errors.push(error.into()),
            }
        } else {
            observed.tables = Some(self.table.known().await);
        }
        if look.gates {
            match self.table.gates(self.prefix()).await {
                Ok(gates) => observed.gates = Some(gates),
                Err(FirewallError::Missing) if !has_networks => {}
                Err(error) => errors.push(error.into()),
            }
        }
        self.observe_ways(look, &mut observed, &mut strange, &mut errors).await;
        if look.settings {
            let named = observed.remembered.iter().flat_map(Remembered::names);
            let mesh = ingress::ifname(self.prefix());
            let settings = self.settings.observe(named, &bridges, &mesh, v6);
            observed.settings = Some(settings);
        }
        Seen { observed, strange, errors }
    }

    /// Looks at what leads to other hosts: routes into the tunnel, and the mesh.
    async fn observe_ways(
        &self,
        look: &Look,
        observed: &mut Observed,
        strange: &mut Strange,
        errors: &mut Vec<NetworkError>,
    ) {
        let v6 = self.lock().may_have_v6();
        if look.remote {
            match self.links.observe_remote(self.prefix(), v6).await {
                Ok((found, up)) => (observed.remote, observed.tunnels) = (found, up),
                Err(error) => errors.push(error),
            }
            let mut inner = self.lock();
            inner.tunnels.clone_from(&observed.tunnels);
            let differs = inner.led != observed.remote;
            strange.remote = inner.led.is_some() && differs;
            if differs {
                inner.led.clone_from(&observed.remote);
            } else {
                // It may share more with what is wanted, which makes comparing cheap.
                observed.remote.clone_from(&inner.led);
            }
        } else {
            let inner = self.lock();
            observed.remote.clone_from(&inner.led);
            observed.tunnels.clone_from(&inner.tunnels);
        }
        if look.remote || self.lock().mesh.is_none() {
            match self.links.observe_mesh(self.prefix(), v6).await {
                Ok(found) => {
                    let mut inner = self.lock();
                    let before = inner.mesh.as_ref().and_then(|before| before.device.as_ref());
                    strange.mesh = before.is_some() && before != found.device.as_ref();
                    inner.mesh = Some(found.clone());
                    observed.mesh = Some(found);
                }
                Err(error) => errors.push(error),
            }
        } else {
            observed.mesh = self.lock().mesh.clone();
        }
        // Who needs no mesh need not know.
        if self.lock().wishes.ingress.spans() {
            match self.table.judges_devices().await {
                Ok(judges) => observed.without_egress = !judges,
                Err(error) => {
                    observed.mesh = None;
                    errors.push(error.into());
                }
            }
        }
    }

    async fn observe_links(&self, look: &LookAtLinks) -> Result<ObservedLinks, NetworkError> {
        let found = match look {
            LookAtLinks::All => self.links.observe().await?,
            LookAtLinks::Named(names) => {
                let mut found = BTreeMap::new();
                for ifname in names {
                    found.extend(self.links.observe_one(ifname).await?);
                }
                found
            }
        };
        let (desired, remote) = {
            let inner = self.lock();
            (Desired::of(&inner.leases), inner.wishes.remote.clone())
        };
        let mut routes = BTreeSet::new();
        for (bridge, wanted) in desired.bridges {
            let Some(link) = found.get(&bridge).filter(|link| link.up) else { continue };
            // Without the address there is nothing of its routes.
            let there = wanted.addresses.intersection(&link.addresses);
            for address in there.filter(|address| BridgeRoute::are_of(address)) {
                routes.extend(self.links.observe_routes(&bridge, *address, &remote).await?);
            }
        }
        Ok(ObservedLinks { looked_at: look.clone(), found, routes })
    }

    /// Whether a link is just being made, or has been meanwhile, so that it is not to be touched.
    fn is_under_way(&self, action: &Action) -> bool {
        let Action::Link(action) = action else { return false };
        let inner = self.lock();
        let port = |ifname: &str| inner.leases.ports().find(|port| port.host_ifname == ifname);
        match port(action.ifname()) {
            Some(port) => {
                let key = (port.container.clone(), port.network.clone());
                let removes = matches!(action, links::Action::Remove { .. });
                inner.under_way.contains(&key) || removes
            }
            None => false,
        }
    }

    /// Does one thing. Says whether there was something to do.
    async fn perform(&self, action: &Action, strange: &mut Strange) -> Result<bool, NetworkError> {
        match action {
            Action::Remember(memory) => self.settings.remember(memory.clone())?,
            Action::Forget => self.settings.forget()?,
            Action::Set { name, value } => sysctl::set_if_there(name, value)?,
            Action::AddRule(family, rule) => self.links.add_rule(*family, rule).await?,
            Action::RemoveRule(family, rule) => self.links.remove_rule(*family, rule).await?,
            Action::PutTables | Action::DropTables => {
                let generation = self.lock().generation;
                match self.filter(generation).await {
                    // A host without nftables has nothing to be removed from there.
                    Err(NetworkError::Firewall(FirewallError::Missing)) if !self.has_networks() => {
                    }
                    result => strange.tables |= result?,
                }
            }
            Action::Link(action) => self.links.perform(action).await?,
            Action::Mesh(action) => {
                self.links.perform_on_mesh(self.prefix(), action).await?;
                if matches!(action, MeshAction::Create { .. }) {
                    // Another one than was seen, until that is looked at.
                    self.lock().mesh = None;
                    self.table.has_device().await;
                }
            }
            Action::Gate(action) => {
                self.table.perform_on_gate(self.prefix(), action).await?;
                tracing::info!(%action, "Docker drops by default what this host forwards");
            }
            Action::AddRoute(route) => return self.links.add_route(route).await,
            Action::AddRemote(address, way) => {
                let ifname = way.by.ifname(self.prefix());
                let added = self.links.add_remote(&ifname, *address, way.largest).await?;
                self.lock().led.as_mut().map(|led| led.insert(*address, *way));
                return Ok(added);
            }
            Action::TurnRemote(address, way) => {
                let ifname = way.by.ifname(self.prefix());
                self.links.turn_remote(&ifname, *address, way.largest).await?;
                self.lock().led.as_mut().map(|led| led.insert(*address, *way));
            }
            Action::RemoveRemote(address, by) => {
                let ifname = by.ifname(self.prefix());
                let removed = self.links.remove_remote(&ifname, *address).await?;
                self.lock().led.as_mut().map(|led| led.remove(address));
                return Ok(removed);
            }
        }
        Ok(true)
    }

    /// While the table was away, clients that keep sending may have been tracked without it.
    async fn forget_stray_flows(&self) {
        let ports: Vec<PublishedPort> = {
            let inner = self.lock();
            let led = inner.all_led_ports().into_iter().map(ports::everywhere);
            inner.leases.published().map(|(_, port)| *port).chain(led).collect()
        };
        self.forget_flows(&ports).await;
    }

    /// Looks at parts of the host, as they are told of.
    pub(crate) async fn put_right(&self, look: &Look) -> Result<Repaired, NetworkError> {
        let _structure = self.structure.lock().await;
        self.reconcile(look).await
    }

    /// Whether there is anything to look after, but for what is on wires.
    pub(crate) fn has_networks(&self) -> bool {
        let inner = self.lock();
        inner.leases.networks().next().is_some() || inner.facts.mesh
    }

    /// What has to be looked at because a link of the host came or went: one that a network is on, or that has a VLAN
    /// of ours.
    pub(crate) fn about_link(&self, name: &str) -> Option<Look> {
        let inner = self.lock();
        let is_of = |place: &&Place| {
            place.link == name || place.made.as_ref().is_some_and(|vlan| vlan.base == name)
        };
        let places: Vec<&Place> = inner.leases.places().filter(is_of).collect();
        (!places.is_empty()).then(|| {
            let mut look = Look::default();
            places.into_iter().for_each(|place| look.merge(look_at(place)));
            look
        })
    }

    /// Whether a link, by its number, may be the mesh's device.
    pub(crate) fn may_be_mesh(&self, index: u32) -> bool {
        let inner = self.lock();
        let Some(mesh) = &inner.mesh else { return true };
        mesh.device.as_ref().is_some_and(|device| device.index == index)
    }

    /// What has to be looked at because a route came or went.
    pub(crate) fn about_route(&self, new: bool, to: IpAddr, whole: bool) -> Option<Look> {
        let inner = self.lock();
        let of_peer = match to {
            IpAddr::V4(to) => inner.wishes.numbers.contains_key(&to),
            IpAddr::V6(_) => false,
        };
        if whole && of_peer {
            let led = inner.led.as_ref()?.contains_key(&to);
            return (led != new).then(Look::remote);
        }
        let mut all = inner.leases.networks();
        let (network, subnet) = all.find_map(|one| Some((one, one.subnet_of(to)?)))?;
        let of_everybody = to.is_ipv4() && to == subnet.subnet.broadcast();
        if whole && network.routed && to != subnet.gateway && !of_everybody {
            let led = inner.led.as_ref()?.contains_key(&to);
            return (led != new).then(Look::remote);
        }
        Some(Look::link(&network.bridge))
    }

    /// What has to be looked at because an address of IPv6 came or went, of which nobody says the interface.
    pub(crate) fn about_v6_address(&self, address: Ipv6Addr) -> Option<Look> {
        let inner = self.lock();
        if !inner.facts.v6 {
            return None;
        }
        let is_of = |network: &&NetworkState| {
            let own = network.link_local().is_some_and(|own| own.addr() == address);
            own || network.subnet_of(address.into()).is_some()
        };
        if let Some(network) = inner.leases.networks().find(is_of) {
            return Some(Look::link(&network.bridge));
        }
        if inner.wishes.ingress.home.is_some_and(|home| ingress::twin(home) == address) {
            return Some(Look::remote());
        }
        let for_others = !address.is_unicast_link_local();
        for_others.then(|| Look { addresses: true, gates: true, ..Look::default() })
    }
}

/// At what a network on a wire is on.
pub(super) fn look_at(place: &Place) -> Look {
    let mut look = Look { settings: true, ..Look::link(&place.link) };
    if let Some(vlan) = &place.made {
        look.merge(Look::link(&vlan.base));
    }
    look
}

impl Inner {
    /// What is led is what is wanted, most often: the same in memory, it is compared at once.
    fn share_led(&mut self, wanted: &Remotes) {
        if let Some(led) = self.led.as_mut().filter(|led| **led == *wanted) {
            led.clone_from(wanted);
        }
    }

    /// Whether there is, was or may come to be any IPv6.
    pub(super) fn may_have_v6(&self) -> bool {
        let by_mesh = self.wishes.ingress.spans() && self.wishes.ingress.has_v6();
        self.facts.v6 || by_mesh || self.leases.networks().any(NetworkState::has_v6)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "counts in tests")]
    fn count_look(&mut self) {}

    #[cfg(test)]
    fn count_look(&mut self) {
        self.looks += 1;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "counts in tests")]
    fn count_deed(&mut self) {}

    #[cfg(test)]
    fn count_deed(&mut self) {
        self.deeds += 1;
    }

    /// Enters which attachments are lost, as far as links were looked at, and says which of them were found to be. What
    /// the agent has not finished itself nobody has taken away.
    fn note_lost(
        &mut self,
        plan: &Plan,
        links: Option<&ObservedLinks>,
        under_way: &BTreeSet<(String, String)>,
    ) -> Lost {
        let Some(ObservedLinks { looked_at, .. }) = links else { return Lost::new() };
        let Self { leases, lost, .. } = self;
        let (mut found, unfinished) = (Lost::new(), leases.unfinished().collect::<Lost>());
        for port in leases.attached() {
            let link = port.wire.as_ref().map_or(&port.host_ifname, |wire| &wire.link);
            let looked = match looked_at {
                LookAtLinks::All => true,
                LookAtLinks::Named(names) => names.contains(link),
            };
            let key = (port.container.clone(), port.network.clone());
            let missing = plan.missing_ports.contains(&port.host_ifname)
                || plan.missing_ends.contains_key(&port.host_ifname);
            if looked && missing && !under_way.contains(&key) && !unfinished.contains(&key) {
                found.insert(key);
            } else if looked {
                lost.remove(&key);
            }
        }
        lost.extend(found.iter().cloned());
        lost.retain(|(container, network)| {
            leases.container_page(container).is_some_and(|page| page.has(network))
        });
        found
    }
}

impl Repaired {
    fn note(&mut self, action: &Action, strange: Strange) {
        match action {
            Action::AddRule(..) | Action::RemoveRule(..) => self.rules.push(action.to_string()),
            Action::PutTables | Action::DropTables => self.table_replaced |= strange.tables,
            Action::Link(_) | Action::AddRoute(_) | Action::Mesh(_) => {
                self.links.push(action.to_string());
            }
            Action::AddRemote(..) | Action::TurnRemote(..) | Action::RemoveRemote(..)
                if strange.remote =>
            {
                self.links.push(action.to_string());
            }
            Action::Set { .. } => self.settings.push(action.to_string()),
            Action::AddRemote(..)
            | Action::TurnRemote(..)
            | Action::RemoveRemote(..)
            | Action::Gate(_)
            | Action::Remember(_)
            | Action::Forget => {}
        }
    }
}
