//! What a host's kernel has of networks, as far as an agent can change it. It does what it is told, some
//! things by itself, and lets anybody delete anything.

use std::collections::{BTreeMap, BTreeSet};

use shoal_agent_planning::network::fence::FenceRule;
use shoal_agent_planning::network::guests;
use shoal_agent_planning::network::links::{self, LinkKind, ObservedLink};
use shoal_agent_planning::network::settings::{
    ACCEPT_REDIRECTS, IP_FORWARD, SRC_VALID_MARK, of_bridge,
};
use shoal_agent_planning::network::{Family, names};
use shoal_agent_planning::node::host::{
    Action, BridgeRoute, Observed, ObservedFence, ObservedLinks, RouteKind, Tables,
};
use shoal_agent_planning::node::look::{Look, LookAtLinks};

use super::random::Random;

/// First letters of the agent's interfaces.
pub(crate) const PREFIX: &str = "sh";
/// A bridge of somebody else.
const GUEST: &str = "docker0";
/// A bridge that the agent has not made, under a name that is the agent's.
const STRAY: &str = "shb0123456789";

/// What of it is whose is told apart by the judges alone.
#[derive(Debug)]
pub(crate) struct Kernel {
    links: BTreeMap<String, ObservedLink>,
    routes: BTreeSet<BridgeRoute>,
    rules: BTreeSet<FenceRule>,
    tables: Tables,
    settings: BTreeMap<String, String>,
    /// Settings of the host as others than the agent want them, now and after a boot.
    owner: BTreeMap<String, String>,
    at_boot: BTreeMap<String, String>,
    /// The links of others.
    others: BTreeMap<String, ObservedLink>,
    /// Others have had a bridge since the boot.
    had_guests: bool,
    /// Counts what anybody has done to it.
    changes: u64,
}

fn link(kind: LinkKind, up: bool) -> ObservedLink {
    ObservedLink { up, ..ObservedLink::plain(kind) }
}

impl Kernel {
    pub(crate) fn new(forwards: bool) -> Self {
        let text = |on: bool| if on { "1" } else { "0" }.to_owned();
        let at_boot = BTreeMap::from([
            (IP_FORWARD.to_owned(), text(forwards)),
            (SRC_VALID_MARK.to_owned(), text(false)),
        ]);
        let mut kernel = Self {
            links: BTreeMap::new(),
            routes: BTreeSet::new(),
            rules: BTreeSet::new(),
            tables: Tables::Absent,
            settings: BTreeMap::new(),
            owner: BTreeMap::new(),
            at_boot,
            others: [("eth0".to_owned(), link(LinkKind::Other, true))].into(),
            had_guests: false,
            changes: 0,
        };
        kernel.boot();
        kernel
    }

    /// All that the agent has made is gone; others make theirs again.
    pub(crate) fn boot(&mut self) {
        self.changes += 1;
        self.links = self.others.clone();
        self.had_guests = !self.guests().is_empty();
        self.routes.clear();
        self.rules.clear();
        self.tables = Tables::Absent;
        self.owner = self.at_boot.clone();
        self.settings = self.at_boot.clone();
        let redirects =
            if self.owner.get(IP_FORWARD).is_some_and(|v| v == "1") { "0" } else { "1" };
        self.settings.insert(ACCEPT_REDIRECTS.to_owned(), redirects.to_owned());
    }

    pub(crate) const fn owner(&self) -> &BTreeMap<String, String> {
        &self.owner
    }

    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// Links of others that are not as they have left them.
    pub(crate) fn touched(&self) -> impl Iterator<Item = &String> {
        let others = self.others.iter();
        let touched = others.filter(|(ifname, link)| self.links.get(*ifname) != Some(*link));
        touched.map(|(ifname, _)| ifname)
    }

    pub(crate) const fn has_tables(&self) -> bool {
        matches!(self.tables, Tables::Hold(_))
    }

    /// Whether anything can be forwarded that the tables do not judge.
    pub(crate) fn is_exposed(&self) -> bool {
        let forwards = self.settings.get(IP_FORWARD).is_some_and(|value| value == "1");
        forwards && !self.has_tables()
    }

    pub(crate) const fn had_guests(&self) -> bool {
        self.had_guests
    }

    pub(crate) fn has(&self, ifname: &str) -> bool {
        self.links.contains_key(ifname)
    }

    /// Bridges of others, as one finds them who looks.
    pub(crate) fn guests(&self) -> BTreeSet<guests::Guest> {
        guests::of(&self.links, PREFIX)
    }

    /// The parts that are to be looked at. Memories are not the kernel's.
    pub(crate) fn observe(&self, look: &Look) -> Observed {
        let named = |ifname: &str| match &look.links {
            LookAtLinks::All => true,
            LookAtLinks::Named(names) => names.contains(ifname),
        };
        let links = || {
            let found = self.links.iter().filter(|(ifname, _)| named(ifname));
            ObservedLinks {
                looked_at: look.links.clone(),
                found: found.map(|(ifname, link)| (ifname.clone(), link.clone())).collect(),
                routes: self.routes.clone(),
            }
        };
        Observed {
            links: (!look.links.is_empty()).then(links),
            fence: look.rules.then(|| self.fence()),
            tables: look.tables.then(|| self.tables.clone()),
            settings: look.settings.then(|| self.settings.clone()),
            ..Observed::default()
        }
    }

    pub(crate) fn fence(&self) -> ObservedFence {
        ObservedFence { present: self.rules.clone(), has_domains: false }
    }

    /// The other end of a container's link, on its bridge if that is there.
    pub(crate) fn add_port(&mut self, ifname: &str, bridge: &str) {
        self.changes += 1;
        let bridge = self.has(bridge).then(|| bridge.to_owned());
        let hairpin = bridge.is_some();
        let port = ObservedLink { bridge, hairpin, ..link(LinkKind::Veth, true) };
        self.links.insert(ifname.to_owned(), port);
    }

    pub(crate) fn remove(&mut self, ifname: &str) {
        self.changes += 1;
        self.links.remove(ifname);
        self.routes.retain(|route| route.bridge != ifname);
        for port in self.links.values_mut().filter(|port| port.bridge.as_deref() == Some(ifname)) {
            (port.bridge, port.hairpin) = (None, false);
        }
        for (name, _) in of_bridge(ifname, false) {
            self.settings.remove(&name);
        }
    }

    pub(crate) fn put_tables(&mut self, tables: Tables) {
        self.changes += 1;
        self.tables = tables;
    }

    fn set(&mut self, name: &str, value: &str) {
        if name == IP_FORWARD {
            let redirects = if value == "1" { "0" } else { "1" };
            self.settings.insert(ACCEPT_REDIRECTS.to_owned(), redirects.to_owned());
        }
        if let Some(setting) = self.settings.get_mut(name) {
            value.clone_into(setting);
        }
    }

    /// Does as it is told, if it can.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<(), String> {
        self.changes += 1;
        match action {
            Action::Set { name, value } => self.set(name, value),
            Action::AddRule(_, rule) => {
                self.rules.insert(rule.clone());
            }
            Action::RemoveRule(_, rule) => {
                self.rules.remove(rule);
            }
            Action::Link(action) => return self.change(action),
            Action::AddRoute(route) => {
                if !self.links.get(&route.bridge).is_some_and(|link| link.up) {
                    return Err("network is unreachable".to_owned());
                }
                self.routes.insert(route.clone());
            }
            // These hosts have no tunnel and no Docker, so nothing is planned for them.
            Action::Gate(_) => return Err("no such chain".to_owned()),
            Action::AddRemote(..)
            | Action::TurnRemote(..)
            | Action::RemoveRemote(..)
            | Action::Mesh(_) => {
                return Err("network is unreachable".to_owned());
            }
            Action::Remember(_) | Action::Forget | Action::PutTables | Action::DropTables => {}
        }
        Ok(())
    }

    fn change(&mut self, action: &links::Action) -> Result<(), String> {
        use links::Action as A;
        let ifname = action.ifname();
        match action {
            A::Remove { .. } => {
                self.remove(ifname);
                return Ok(());
            }
            A::CreateBridge { mtu, mac, .. } => {
                if self.has(ifname) {
                    return Err("file exists".to_owned());
                }
                let (mtu, mac) = (*mtu, Some(*mac));
                let new = ObservedLink { mtu, mac, ..link(LinkKind::Bridge, false) };
                self.links.insert(ifname.to_owned(), new);
                let settings = of_bridge(ifname, false).into_iter();
                self.settings.extend(settings.map(|(name, _)| (name, "0".to_owned())));
                return Ok(());
            }
            A::CreateVlan { .. } => return Err("no such device".to_owned()),
            A::SetBridge { bridge, .. } if !self.has(bridge) => {
                return Err("no such device".to_owned());
            }
            _ => {}
        }
        let link = self.links.get_mut(ifname).ok_or("no such device")?;
        match action {
            A::Remove { .. } | A::CreateBridge { .. } | A::CreateVlan { .. } => {}
            A::SetMtu { mtu, .. } => link.mtu = *mtu,
            A::SetMac { mac, .. } => link.mac = Some(*mac),
            A::RemoveAddress { address, .. } => {
                link.addresses.remove(address);
                self.routes.retain(|r| r.bridge != ifname || r.address != *address);
            }
            A::AddAddress { address, .. } => {
                link.addresses.insert(*address);
            }
            A::SetBridge { bridge, .. } => link.bridge = Some(bridge.clone()),
            A::SetHairpin { .. } => link.hairpin = true,
            A::SetUp { .. } => link.up = true,
        }
        if matches!(action, A::AddAddress { .. } | A::SetUp { .. }) {
            self.make_routes(ifname);
        }
        Ok(())
    }

    /// A bridge that is up has routes for its addresses.
    fn make_routes(&mut self, ifname: &str) {
        let Some(link) = self.links.get(ifname) else { return };
        for address in link.addresses.iter().filter(|_| link.up && link.kind == LinkKind::Bridge) {
            for &kind in RouteKind::all(Family::of(address.addr())) {
                let bridge = ifname.to_owned();
                self.routes.insert(BridgeRoute { bridge, kind, address: *address });
            }
        }
    }
}

/// What people and other programs do to a host.
impl Kernel {
    /// One of all that they do; what the kernel tells of it.
    pub(crate) fn harm(&mut self, random: &mut Random) -> Look {
        self.changes += 1;
        let ours = |links: &BTreeMap<String, ObservedLink>, kind: LinkKind| -> Vec<String> {
            let ours = |(name, link): &(&String, &ObservedLink)| {
                names::is_ours(PREFIX, name) && link.kind == kind
            };
            links.iter().filter(ours).map(|(name, _)| name.clone()).collect()
        };
        let bridge = random.any(&ours(&self.links, LinkKind::Bridge));
        let port = random.any(&ours(&self.links, LinkKind::Veth));
        match random.below(12) {
            0 => self.flush(Tables::Absent),
            1 => self.flush(Tables::Differ),
            2 => {
                let rules: Vec<FenceRule> = self.rules.iter().cloned().collect();
                if let Some(rule) = random.any(&rules) {
                    self.rules.remove(&rule);
                }
                Look { rules: true, ..Look::default() }
            }
            3 => {
                self.rules.clear();
                Look { rules: true, ..Look::default() }
            }
            4 => {
                self.rules.clear();
                Look { rules: true, ..self.flush(Tables::Absent) }
            }
            5 => bridge.map_or_else(Look::default, |name| self.delete_bridge(&name)),
            6 => self.harm_link(bridge, |link| link.up = false),
            7 => self.harm_link(bridge, |link| link.addresses.clear()),
            8 => {
                let routes: Vec<BridgeRoute> = self.routes.iter().cloned().collect();
                let Some(route) = random.any(&routes) else { return Look::default() };
                self.routes.remove(&route);
                Look::link(route.bridge)
            }
            9 => self.harm_link(port, |link| (link.bridge, link.hairpin) = (None, false)),
            10 => self.harm_setting(random, bridge),
            _ => self.others_come(random),
        }
    }

    fn flush(&mut self, to: Tables) -> Look {
        self.tables = to;
        Look { tables: true, ..Look::default() }
    }

    fn delete_bridge(&mut self, name: &str) -> Look {
        let mut look = Look::link(name);
        let ports = self.links.iter().filter(|(_, port)| port.bridge.as_deref() == Some(name));
        ports.for_each(|(port, _)| look.merge(Look::link(port)));
        self.remove(name);
        look
    }

    fn harm_link(&mut self, ifname: Option<String>, how: impl FnOnce(&mut ObservedLink)) -> Look {
        let Some(ifname) = ifname else { return Look::default() };
        if let Some(link) = self.links.get_mut(&ifname) {
            how(link);
        }
        self.routes.retain(|route| route.bridge != ifname);
        self.make_routes(&ifname);
        Look::link(ifname)
    }

    /// Nobody tells of that.
    fn harm_setting(&mut self, random: &mut Random, bridge: Option<String>) -> Look {
        match (random.below(3), bridge) {
            (0, Some(bridge)) => {
                of_bridge(&bridge, false).iter().for_each(|(name, _)| self.set(name, "0"));
            }
            (n, _) => {
                let name = if n == 1 { SRC_VALID_MARK } else { IP_FORWARD };
                self.set(name, "0");
                self.owner.insert(name.to_owned(), "0".to_owned());
            }
        }
        Look::default()
    }

    fn others_come(&mut self, random: &mut Random) -> Look {
        if random.chance(50) {
            let stray = link(LinkKind::Bridge, true);
            self.links.entry(STRAY.to_owned()).or_insert(stray);
            return Look::link(STRAY);
        }
        if self.others.remove(GUEST).is_some() {
            self.links.remove(GUEST);
        } else {
            let mut bridge = link(LinkKind::Bridge, true);
            if let Ok(address) = "172.17.0.1/16".parse() {
                bridge.addresses.insert(address);
            }
            self.had_guests = true;
            self.others.insert(GUEST.to_owned(), bridge.clone());
            self.links.insert(GUEST.to_owned(), bridge);
        }
        Look { addresses: true, ..Look::default() }
    }
}
