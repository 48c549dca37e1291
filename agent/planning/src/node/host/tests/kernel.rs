//! A host that does as it is told.

use super::*;

/// A host that is as the actions make it: the judge of the plan.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    pub(super) links: BTreeMap<String, ObservedLink>,
    pub(super) routes: BTreeSet<BridgeRoute>,
    pub(super) rules: BTreeSet<FenceRule>,
    pub(super) rules_v6: BTreeSet<FenceRule>,
    pub(super) has_domains: bool,
    pub(super) tables: Tables,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) remembered: Option<Remembered>,
    pub(super) remote: Option<Remotes>,
    pub(super) device: Option<MeshDevice>,
    /// The tables judge what leaves by it. Before Linux 6.16 that part of them goes with the device.
    pub(super) judged: bool,
    /// It has Docker, which came before.
    pub(super) gates: Gates,
}

/// Whether an interface has IPv6, and no address of its own making.
fn is_v6_on(settings: &BTreeMap<String, String>, ifname: &str) -> bool {
    of_bridge(ifname, true)
        .iter()
        .all(|(name, value)| settings.get(name).is_some_and(|now| now == value))
}

/// Whether it says that an interface forwards.
fn is_switch(name: &str, family: &str) -> bool {
    name.starts_with(family) && name.ends_with("/forwarding")
}

impl Host {
    /// As it was before anybody came.
    pub(super) fn new(forwards: bool) -> Self {
        let text = |on: bool| if on { "1" } else { "0" }.to_owned();
        let settings = BTreeMap::from([
            (IP_FORWARD.to_owned(), text(forwards)),
            (SRC_VALID_MARK.to_owned(), text(false)),
            (ACCEPT_REDIRECTS.to_owned(), text(!forwards)),
            (forwarding_of(ETH), text(forwards)),
            (FORWARD_V6.to_owned(), text(forwards)),
            (forwarding_v6_of(ETH), text(forwards)),
            (accept_ra_of(ETH), text(true)),
            (accept_ra_of("default"), text(true)),
        ]);
        Self {
            links: [(ETH.to_owned(), link(LinkKind::Other, true))].into(),
            routes: BTreeSet::new(),
            rules: BTreeSet::new(),
            rules_v6: BTreeSet::new(),
            has_domains: false,
            tables: Tables::Absent,
            settings,
            remembered: None,
            remote: Some(Remotes::new()),
            device: None,
            judged: false,
            gates: Gates::of_docker(),
        }
    }

    pub(super) fn observe(&self) -> Observed {
        let unjudged = self.device.is_some() && !self.judged;
        let tables = match &self.tables {
            Tables::Hold(_) if unjudged => Tables::Differ,
            tables => tables.clone(),
        };
        Observed {
            boot: "b".to_owned(),
            links: Some(ObservedLinks {
                looked_at: LookAtLinks::All,
                found: self.links.clone(),
                routes: self.routes.clone(),
            }),
            on_no_wire: BTreeSet::new(),
            guests: crate::network::guests::of(&self.links, "sh"),
            fence: Some(ObservedFence {
                present: self.rules.clone(),
                has_domains: self.has_domains,
            }),
            fence_v6: Some(ObservedFence {
                present: self.rules_v6.clone(),
                has_domains: self.has_domains,
            }),
            without_v6: false,
            tables: Some(tables),
            settings: Some(self.settings.clone()),
            remembered: self.remembered.clone(),
            remote: self.remote.clone(),
            tunnels: self.tunnels(),
            mesh: Some(ObservedMesh { tunnels: self.tunnels(), device: self.device.clone() }),
            was_meshed: false,
            without_egress: false,
            gates: Some(self.gates.clone()),
        }
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        // The kernel's own doing.
        if name == IP_FORWARD {
            let (off, on) = (if value == "1" { "0" } else { "1" }, value);
            self.settings.insert(ACCEPT_REDIRECTS.to_owned(), off.to_owned());
            for (_, each) in self.settings.iter_mut().filter(|(n, _)| is_switch(n, "ipv4/")) {
                *each = on.to_owned();
            }
        }
        if value == "1" && name == of_mesh(DEVICE, false)[2].0 {
            let device = self.device.as_mut();
            device.map(|device| device.default_routes.remove(&Family::V6));
        }
        if name == FORWARD_V6 {
            for (_, each) in self.settings.iter_mut().filter(|(n, _)| is_switch(n, "ipv6/")) {
                *each = value.to_owned();
            }
        }
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    pub(super) fn routes_of(&mut self, ifname: &str) {
        let link = &self.links[ifname];
        for address in link.addresses.iter().filter(|_| link.up && link.kind == LinkKind::Bridge) {
            for kind in RouteKind::all(Family::of(address.addr())) {
                let (bridge, kind) = (ifname.to_owned(), *kind);
                self.routes.insert(BridgeRoute { bridge, kind, address: *address });
            }
        }
    }

    pub(super) fn perform(&mut self, action: &Action, leases: &Leases, facts: &HostFacts) {
        match action {
            Action::Remember(remembered) => self.remembered = Some(remembered.clone()),
            Action::Forget => assert!(self.remembered.take().is_some()),
            Action::Set { name, value } => self.set(name, value),
            Action::AddRule(family, rule) => assert!(self.rules_of(*family).insert(rule.clone())),
            Action::RemoveRule(family, rule) => assert!(self.rules_of(*family).remove(rule)),
            Action::PutTables | Action::DropTables => {
                let wanted = Ruleset::of(leases, facts);
                let empty = wanted.is_empty();
                self.judged = self.device.is_some();
                self.tables = if empty { Tables::Absent } else { Tables::Hold(Box::new(wanted)) };
            }
            Action::Link(action) if action.ifname() == DEVICE => self.perform_on_device(action),
            Action::Link(action) => self.perform_on_link(action),
            Action::Mesh(action) => self.perform_on_mesh(action),
            Action::Gate(action) => self.gates.perform(action, "sh"),
            Action::AddRoute(route) => {
                assert!(self.links[&route.bridge].up);
                assert!(self.routes.insert(route.clone()));
            }
            Action::AddRemote(address, way) => {
                assert_eq!(self.remote.as_mut().unwrap().insert(*address, *way), None);
            }
            Action::TurnRemote(address, way) => {
                let had = self.remote.as_mut().unwrap().insert(*address, *way);
                assert_ne!(had.unwrap(), *way);
            }
            Action::RemoveRemote(address, by) => {
                let had = self.remote.as_mut().unwrap().remove(address);
                assert_eq!(had.unwrap().by, *by);
            }
        }
    }

    fn tunnels(&self) -> BTreeSet<Side> {
        if self.remote.is_some() { Side::ALL.into() } else { BTreeSet::new() }
    }

    pub(super) fn rules_of(&mut self, family: Family) -> &mut BTreeSet<FenceRule> {
        match family {
            Family::V4 => &mut self.rules,
            Family::V6 => &mut self.rules_v6,
        }
    }

    pub(super) fn perform_on_link(&mut self, action: &links::Action) {
        use links::Action::*;
        match action {
            Remove { ifname } => {
                assert!(self.links.remove(ifname).is_some());
                self.routes.retain(|route| route.bridge != *ifname);
                self.settings.retain(|name, _| !name.contains(ifname.as_str()));
            }
            CreateBridge { ifname, mtu, mac } => {
                let (mtu, mac) = (*mtu, Some(*mac));
                let new = ObservedLink { mtu, mac, ..link(LinkKind::Bridge, false) };
                assert!(self.links.insert(ifname.clone(), new).is_none());
                for (name, _) in of_bridge(ifname, true) {
                    let value = if name.ends_with("accept_ra") { "1" } else { "0" };
                    self.settings.insert(name, value.to_owned());
                }
            }
            CreateVlan { ifname, .. } => {
                let new = link(LinkKind::Vlan, false);
                assert!(self.links.insert(ifname.clone(), new).is_none());
                for (name, _) in of_vlan(ifname) {
                    self.settings.insert(name, "0".to_owned());
                }
            }
            SetMtu { ifname, mtu } => self.at(ifname).mtu = *mtu,
            SetMac { ifname, mac } => self.at(ifname).mac = Some(*mac),
            RemoveAddress { ifname, address } => {
                assert!(self.at(ifname).addresses.remove(address));
                self.routes.retain(|r| (&r.bridge, &r.address) != (ifname, address));
            }
            AddAddress { ifname, address } => {
                assert!(address.addr().is_ipv4() || self.has_v6(ifname), "{action}");
                assert!(self.at(ifname).addresses.insert(*address));
                self.routes_of(ifname);
            }
            SetBridge { ifname, bridge } => self.at(ifname).bridge = Some(bridge.clone()),
            SetHairpin { ifname } => self.at(ifname).hairpin = true,
            SetUp { ifname } => {
                self.at(ifname).up = true;
                self.routes_of(ifname);
            }
        }
    }

    pub(super) fn perform_on_device(&mut self, action: &links::Action) {
        use links::Action::*;
        if matches!(action, Remove { .. }) {
            self.remove_device();
            return;
        }
        let device = self.device.as_mut().expect("the device exists");
        match action {
            SetMtu { mtu, .. } => device.mtu = *mtu,
            AddAddress { address, .. } => {
                assert!(address.addr().is_ipv4() || is_v6_on(&self.settings, DEVICE), "{action}");
                assert!(device.addresses.insert(*address));
            }
            RemoveAddress { address, .. } => assert!(device.addresses.remove(address)),
            SetUp { .. } => device.up = true,
            other => panic!("{other}"),
        }
    }

    pub(super) fn has_v6(&self, ifname: &str) -> bool {
        is_v6_on(&self.settings, ifname)
    }

    pub(super) fn remove_device(&mut self) {
        (self.device, self.judged) = (None, false);
        self.settings.retain(|name, _| !name.contains(DEVICE));
    }

    pub(super) fn perform_on_mesh(&mut self, action: &MeshAction) {
        if let MeshAction::Create { home } = action {
            assert!(self.device.is_none() && self.remote.is_some());
            let vxlan = Vxlan {
                id: ingress::NETWORK,
                port: ingress::PORT,
                local: Some(*home),
                bound: false,
                learning: false,
            };
            let mac = Some(ingress::mac(*home));
            let (vxlan, mtu) = (Some(vxlan), ingress::MTU);
            self.device = Some(MeshDevice { vxlan, mtu, mac, ..MeshDevice::default() });
            for (name, _) in of_mesh(DEVICE, true) {
                self.settings.insert(name, "0".to_owned());
            }
            return;
        }
        let device = self.device.as_mut().expect("the device exists");
        match action {
            MeshAction::AddFar(peer, side) => {
                let had = device.far.insert(ingress::mac(*peer), [Some((*peer, *side))].into());
                // It is led there by the other interface until then, or not at all.
                assert!(had.is_none_or(|had| had == [Some((*peer, side.other()))].into()));
            }
            MeshAction::RemoveFar(mac) => assert!(device.far.remove(mac).is_some()),
            MeshAction::AddRoute(family) => {
                assert!(device.up);
                device.default_routes.insert(*family);
            }
            MeshAction::Create { .. } => {}
        }
    }

    pub(super) fn at(&mut self, ifname: &str) -> &mut ObservedLink {
        self.links.get_mut(ifname).expect("the link exists")
    }

    /// Whether what is not published cannot be reached: nothing is forwarded, or no bridge is up, or
    /// the fence stands, or the tables do.
    pub(super) fn is_closed(&self, leases: &Leases) -> bool {
        let ours: Vec<&String> = self
            .links
            .iter()
            .filter(|(name, link)| {
                name.starts_with("shb") && link.kind == LinkKind::Bridge && link.up
            })
            .map(|(name, _)| name)
            .collect();
        let fence = |rules: &BTreeSet<FenceRule>, family: Family| {
            rules.contains(&FenceRule::CloseAll)
                || leases.networks().all(|network| {
                    let mut subnets = network.of_family(family);
                    network.of_family(family).next().is_none()
                        || rules.contains(&FenceRule::CloseBridge(network.bridge.clone()))
                            && subnets.all(|one| {
                                rules.contains(&FenceRule::CloseSubnet(one.subnet.trunc()))
                            })
                })
        };
        // What comes by the mesh is judged by the tables, or does not come in.
        let strict =
            self.settings.get(&of_mesh(DEVICE, true)[0].0).is_some_and(|value| value == "1");
        let open_mesh = self.device.as_ref().is_some_and(|device| device.up) && !strict;
        if open_mesh && !matches!(self.tables, Tables::Hold(_)) {
            return false;
        }
        if ours.is_empty() || matches!(self.tables, Tables::Hold(_)) {
            return true;
        }
        let closed = self.settings[IP_FORWARD] == "0" || fence(&self.rules, Family::V4);
        // Of IPv6 a bridge takes nothing that has none.
        let without_v6 = ours.iter().all(|bridge| {
            self.settings.get(&of_bridge(bridge, true)[4].0).is_none_or(|value| value == "1")
        });
        let closed_v6 =
            self.settings[FORWARD_V6] == "0" || without_v6 || fence(&self.rules_v6, Family::V6);
        closed && closed_v6
    }

    /// Performs a plan up to a point; says whether the host stayed closed once it was.
    pub(super) fn go(
        &mut self,
        leases: &Leases,
        wishes: &Wishes,
        most: usize,
    ) -> Result<(), String> {
        let Plan { actions, facts, .. } = plan(leases, wishes, &self.observe());
        let mut closed = self.is_closed(leases);
        for action in actions.iter().take(most) {
            self.perform(action, leases, &facts);
            let now = self.is_closed(leases);
            if closed && !now {
                return Err(format!("{action} opens it, of {actions:?}"));
            }
            closed = now;
        }
        Ok(())
    }

    pub(super) fn plan(&self, leases: &Leases, wishes: &Wishes) -> Vec<Action> {
        plan(leases, wishes, &self.observe()).actions
    }
}
