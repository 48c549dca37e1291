use proptest::prelude::*;

use super::*;
use crate::network::ingress::Backend;
use crate::network::leases::Rules;
use crate::network::settings::{ACCEPT_REDIRECTS, forwarding_of};
use crate::network::{AttachRequest, NetworkConfig, Protocol};

mod harms;

use self::harms::{Harm, do_harm, harm};

/// A host that is as the actions make it: the judge of the plan.
#[derive(Debug, Clone, PartialEq)]
struct Host {
    links: BTreeMap<String, ObservedLink>,
    routes: BTreeSet<BridgeRoute>,
    rules: BTreeSet<FenceRule>,
    has_domains: bool,
    tables: Tables,
    settings: BTreeMap<String, String>,
    remembered: Option<Remembered>,
    remote: Option<BTreeSet<Ipv4Addr>>,
    device: Option<MeshDevice>,
    /// The tables judge what leaves by it. Before Linux 6.16 that part of them goes with the device.
    judged: bool,
}

const ETH: &str = "eth0";
/// The device of the mesh.
const DEVICE: &str = "shvx0";
/// A network that spans hosts.
const WIDE: &str = "wide";

fn leases(networks: &[(&str, bool)]) -> Leases {
    let mut leases = Leases::default();
    for (id, internal) in networks {
        let (id, internal) = ((*id).to_owned(), *internal);
        let mut config = NetworkConfig { id: id.clone(), internal, ..NetworkConfig::default() };
        let mut request =
            AttachRequest { container: "web".to_owned(), network: id, ..AttachRequest::default() };
        if config.id == WIDE {
            (config.routed, config.subnet) = (true, Some("10.0.5.0/24".parse().unwrap()));
            request.address = Some([10, 0, 5, 2].into());
        }
        leases.ensure_network(&config, &Rules::default(), &[]).unwrap();
        leases.attach(&request, &Rules::default()).unwrap();
    }
    leases
}

fn far(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, last)
}

/// With ports that answer on every node, on `nodes` others.
fn meshed(wishes: &Wishes, nodes: u8) -> Wishes {
    let peers: BTreeMap<Ipv4Addr, _> = (2..2 + nodes).map(|node| (far(node), None)).collect();
    let backends = peers.keys().copied().map(Backend::Far).collect();
    let numbers = Arc::new(ingress::numbers(&Numbers::new(), peers.keys().copied()));
    let remote = wishes.remote.iter().copied().chain(peers.keys().copied());
    let remote = Arc::new(remote.collect());
    let ports = [((Protocol::Tcp, 80), backends)].into();
    let ingress = Arc::new(Ingress { home: Some(far(1)), peers, ports });
    Wishes { ingress, numbers, remote, ..wishes.clone() }
}

fn wishes() -> Wishes {
    Wishes { prefix: "sh".to_owned(), forwards_for_others: false, ..Wishes::default() }
}

fn link(kind: LinkKind, up: bool) -> ObservedLink {
    let (bridge, addresses) = (None, BTreeSet::new());
    ObservedLink { kind, up, mtu: 1500, mac: None, bridge, hairpin: false, addresses }
}

impl Host {
    /// As it was before anybody came.
    fn new(forwards: bool) -> Self {
        let text = |on: bool| if on { "1" } else { "0" }.to_owned();
        let settings = BTreeMap::from([
            (IP_FORWARD.to_owned(), text(forwards)),
            (SRC_VALID_MARK.to_owned(), text(false)),
            (ACCEPT_REDIRECTS.to_owned(), text(!forwards)),
            (forwarding_of(ETH), text(forwards)),
        ]);
        Self {
            links: [(ETH.to_owned(), link(LinkKind::Other, true))].into(),
            routes: BTreeSet::new(),
            rules: BTreeSet::new(),
            has_domains: false,
            tables: Tables::Absent,
            settings,
            remembered: None,
            remote: Some(BTreeSet::new()),
            device: None,
            judged: false,
        }
    }

    fn observe(&self) -> Observed {
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
            tables: Some(tables),
            settings: Some(self.settings.clone()),
            remembered: self.remembered.clone(),
            remote: self.remote.clone(),
            mesh: Some(ObservedMesh { tunnel: self.remote.is_some(), device: self.device.clone() }),
            was_meshed: false,
            without_egress: false,
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        // The kernel's own doing.
        if name == IP_FORWARD {
            let (off, on) = (if value == "1" { "0" } else { "1" }, value);
            self.settings.insert(ACCEPT_REDIRECTS.to_owned(), off.to_owned());
            for (_, each) in self.settings.iter_mut().filter(|(n, _)| n.ends_with("/forwarding")) {
                *each = on.to_owned();
            }
        }
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    fn routes_of(&mut self, ifname: &str) {
        let link = &self.links[ifname];
        for address in link.addresses.iter().filter(|_| link.up && link.kind == LinkKind::Bridge) {
            for kind in RouteKind::ALL {
                let bridge = ifname.to_owned();
                self.routes.insert(BridgeRoute { bridge, kind, address: *address });
            }
        }
    }

    fn perform(&mut self, action: &Action, leases: &Leases, facts: &HostFacts) {
        match action {
            Action::Remember(remembered) => self.remembered = Some(remembered.clone()),
            Action::Forget => assert!(self.remembered.take().is_some()),
            Action::Set { name, value } => self.set(name, value),
            Action::AddRule(rule) => assert!(self.rules.insert(rule.clone())),
            Action::RemoveRule(rule) => assert!(self.rules.remove(rule)),
            Action::PutTables | Action::DropTables => {
                let wanted = Ruleset::of(leases, facts);
                let empty = wanted.is_empty();
                self.judged = self.device.is_some();
                self.tables = if empty { Tables::Absent } else { Tables::Hold(Box::new(wanted)) };
            }
            Action::Link(action) if action.ifname() == DEVICE => self.perform_on_device(action),
            Action::Link(action) => self.perform_on_link(action),
            Action::Mesh(action) => self.perform_on_mesh(action),
            Action::AddRoute(route) => {
                assert!(self.links[&route.bridge].up);
                assert!(self.routes.insert(route.clone()));
            }
            Action::AddRemote(address) => assert!(self.remote.as_mut().unwrap().insert(*address)),
            Action::RemoveRemote(address) => {
                assert!(self.remote.as_mut().unwrap().remove(address));
            }
        }
    }

    fn perform_on_link(&mut self, action: &links::Action) {
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
                for (name, _) in of_bridge(ifname) {
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

    fn perform_on_device(&mut self, action: &links::Action) {
        use links::Action::*;
        if matches!(action, Remove { .. }) {
            self.remove_device();
            return;
        }
        let device = self.device.as_mut().expect("the device exists");
        match action {
            SetMtu { mtu, .. } => device.mtu = *mtu,
            AddAddress { address, .. } => assert!(device.addresses.insert(*address)),
            RemoveAddress { address, .. } => assert!(device.addresses.remove(address)),
            SetUp { .. } => device.up = true,
            other => panic!("{other}"),
        }
    }

    fn remove_device(&mut self) {
        (self.device, self.judged) = (None, false);
        self.settings.retain(|name, _| !name.contains(DEVICE));
    }

    fn perform_on_mesh(&mut self, action: &MeshAction) {
        if let MeshAction::Create { home } = action {
            assert!(self.device.is_none() && self.remote.is_some());
            let vxlan = Vxlan {
                id: ingress::NETWORK,
                port: ingress::PORT,
                local: Some(*home),
                by_tunnel: true,
                learning: false,
            };
            let mac = Some(ingress::mac(*home));
            let (vxlan, mtu) = (Some(vxlan), ingress::MTU);
            self.device = Some(MeshDevice { vxlan, mtu, mac, ..MeshDevice::default() });
            for (name, _) in of_mesh(DEVICE) {
                self.settings.insert(name, "0".to_owned());
            }
            return;
        }
        let device = self.device.as_mut().expect("the device exists");
        match action {
            MeshAction::AddFar(peer) => {
                let entry = [Some(*peer)].into();
                assert!(device.far.insert(ingress::mac(*peer), entry).is_none());
            }
            MeshAction::RemoveFar(mac) => assert!(device.far.remove(mac).is_some()),
            MeshAction::AddRoute => {
                assert!(device.up);
                device.default_route = true;
            }
            MeshAction::Create { .. } => {}
        }
    }

    fn at(&mut self, ifname: &str) -> &mut ObservedLink {
        self.links.get_mut(ifname).expect("the link exists")
    }

    /// Whether what is not published cannot be reached: nothing is forwarded, or no bridge is up, or
    /// the fence stands, or the tables do.
    fn is_closed(&self, leases: &Leases) -> bool {
        let ours: Vec<&String> = self
            .links
            .iter()
            .filter(|(name, link)| {
                name.starts_with("shb") && link.kind == LinkKind::Bridge && link.up
            })
            .map(|(name, _)| name)
            .collect();
        let fence = self.rules.contains(&FenceRule::CloseAll)
            || leases.networks().all(|network| {
                let (bridge, subnet) = (network.bridge.clone(), network.subnet.trunc());
                self.rules.contains(&FenceRule::CloseBridge(bridge))
                    && self.rules.contains(&FenceRule::CloseSubnet(subnet))
            });
        // What comes by the mesh is judged by the tables, or does not come in.
        let strict = self.settings.get(&of_mesh(DEVICE)[0].0).is_some_and(|value| value == "1");
        let open_mesh = self.device.as_ref().is_some_and(|device| device.up) && !strict;
        if open_mesh && !matches!(self.tables, Tables::Hold(_)) {
            return false;
        }
        self.settings[IP_FORWARD] == "0"
            || ours.is_empty()
            || fence
            || matches!(self.tables, Tables::Hold(_))
    }

    /// Performs a plan up to a point; says whether the host stayed closed once it was.
    fn go(&mut self, leases: &Leases, wishes: &Wishes, most: usize) -> Result<(), String> {
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

    fn plan(&self, leases: &Leases, wishes: &Wishes) -> Vec<Action> {
        plan(leases, wishes, &self.observe()).actions
    }
}

const SETS: [&[(&str, bool)]; 6] = [
    &[],
    &[("front", false)],
    &[("closed", true)],
    &[("front", false), ("closed", true)],
    &[("front", false), (WIDE, false)],
    &[(WIDE, true)],
];

proptest! {
    #[test]
    fn whatever_happens_the_plan_mends_it_and_never_opens_what_is_closed(
        forwards in any::<bool>(),
        has_domains in any::<bool>(),
        asked in any::<bool>(),
        steps in prop::collection::vec(
            (0..SETS.len(), 0..3u8, prop::collection::vec(harm(), 0..4), 0..40usize), 1..5,
        ),
    ) {
        let remote = (7..9).map(|n| [10, 0, 5, n].into()).chain([[10, 0, 6, 7].into()]);
        let remote = Arc::new(remote.collect());
        let wishes = Wishes { forwards_for_others: asked, remote, ..wishes() };
        let mut host = Host { has_domains, ..Host::new(forwards) };
        let alone = wishes;
        for (set, nodes, harms, cut) in steps {
            let leases = leases(SETS[set]);
            let wishes = meshed(&alone, nodes);
            for harm in &harms {
                do_harm(&mut host, harm);
            }
            let foreign = |host: &Host| {
                let mut links = host.links.clone();
                links.retain(|name, _| !name.starts_with("sh"));
                links
            };
            let others = foreign(&host);
            // Cut off somewhere, and begun again.
            host.go(&leases, &wishes, cut).map_err(TestCaseError::fail)?;
            host.go(&leases, &wishes, usize::MAX).map_err(TestCaseError::fail)?;
            prop_assert_eq!(host.plan(&leases, &wishes), vec![]);
            prop_assert_eq!(foreign(&host), others);
            prop_assert!(host.is_closed(&leases));
            if let Some(remote) = &host.remote {
                let wide = SETS[set].iter().any(|(id, _)| *id == WIDE);
                prop_assert_eq!(remote.len(), if wide { 2 } else { 0 } + usize::from(nodes));
            }
            let wanted = host.remote.is_some() && nodes > 0;
            prop_assert_eq!(host.device.is_some(), wanted);
            if let Some(device) = &host.device {
                prop_assert!(device.up && device.default_route);
                prop_assert_eq!(device.far.len(), usize::from(nodes));
                for (name, value) in of_mesh(DEVICE) {
                    prop_assert_eq!(host.settings[&name].as_str(), value);
                }
                prop_assert!(host.rules.contains(&FenceRule::ByMesh));
            }
        }
    }

    #[test]
    fn a_host_gets_back_what_it_was_wherever_it_is_cut_off(
        forwards in any::<bool>(),
        redirects in any::<bool>(),
        cuts in prop::collection::vec(0..30usize, 0..4),
    ) {
        let before = {
            let mut host = Host::new(forwards);
            let value = if redirects { "1" } else { "0" }.to_owned();
            host.settings.insert(ACCEPT_REDIRECTS.to_owned(), value);
            host
        };
        let mut host = before.clone();
        let meshed = meshed(&wishes(), 2);
        host.go(&leases(SETS[3]), &meshed, usize::MAX).map_err(TestCaseError::fail)?;
        for cut in cuts {
            host.go(&leases(&[]), &wishes(), cut).map_err(TestCaseError::fail)?;
        }
        host.go(&leases(&[]), &wishes(), usize::MAX).map_err(TestCaseError::fail)?;
        prop_assert_eq!(host, before);
    }
}

#[test]
fn nothing_is_forwarded_before_the_tables_are_in_place() {
    let host = Host::new(false);
    let actions = host.plan(&leases(SETS[1]), &wishes());
    let at = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let remember = at(&|action| matches!(action, Action::Remember(_)));
    let fence = at(&|action| *action == Action::AddRule(FenceRule::CloseAll));
    let tables = at(&|action| *action == Action::PutTables);
    let up = at(&|action| matches!(action, Action::Link(links::Action::SetUp { .. })));
    let forward = at(&|action| matches!(action, Action::Set { name, .. } if name == IP_FORWARD));
    let order = [remember, fence, tables, up, forward];
    assert!(order.is_sorted(), "{actions:?}");
    assert!(actions[forward].opens() && actions[up].opens() && !actions[tables].opens());
}

#[test]
fn no_setting_is_changed_that_could_not_be_remembered() {
    let networks = leases(SETS[1]);
    let mut host = Host::new(false);
    let Plan { actions, facts, .. } = plan(&networks, &wishes(), &host.observe());
    let before = host.settings.clone();
    let failed = actions.iter().position(|action| matches!(action, Action::Remember(_))).unwrap();
    for action in actions.iter().skip(failed + 1).filter(|action| !action.opens()) {
        host.perform(action, &networks, &facts);
    }
    let kept = before.iter().all(|(name, value)| host.settings.get(name) == Some(value));
    assert!(kept, "{:?}", host.settings);
}

#[test]
fn whoever_comes_later_is_forwarded_for_and_keeps_forwarding() {
    let mut host = Host::new(false);
    let networks = leases(SETS[1]);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    do_harm(&mut host, &Harm::Guest);
    let actions = host.plan(&networks, &wishes());
    let passes = FenceRule::PassFromGuest("docker0".to_owned());
    assert!(actions.contains(&Action::AddRule(passes)), "{actions:?}");
    assert!(actions.contains(&Action::PutTables), "{actions:?}");
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    assert_eq!(host.plan(&networks, &wishes()), []);
    host.go(&leases(&[]), &wishes(), usize::MAX).unwrap();
    assert_eq!(host.settings[IP_FORWARD], "1", "Docker needs it");
    assert_eq!((&host.remembered, host.rules.len()), (&None, 0));
}

#[test]
fn a_host_that_forwards_for_others_is_closed_to_nobody() {
    let mut host = Host::new(false);
    let asked = Wishes { forwards_for_others: true, ..wishes() };
    host.go(&leases(SETS[1]), &asked, usize::MAX).unwrap();
    assert!(!host.rules.contains(&FenceRule::CloseAll));
    host.go(&leases(&[]), &asked, usize::MAX).unwrap();
    assert_eq!(host.settings[IP_FORWARD], "1");
}

#[test]
fn a_look_at_one_link_plans_for_it_alone() {
    let networks = leases(SETS[3]);
    let mut host = Host::new(true);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    let bridges: Vec<String> = networks.networks().map(|network| network.bridge.clone()).collect();
    for bridge in &bridges {
        host.perform_on_link(&links::Action::Remove { ifname: bridge.clone() });
    }
    let looked_at = LookAtLinks::Named([bridges[0].clone()].into());
    let links = ObservedLinks { looked_at, ..ObservedLinks::default() };
    let observed = Observed { links: Some(links), ..Observed::default() };
    let Plan { actions, missing_ports, .. } = plan(&networks, &wishes(), &observed);
    let names = |action: &Action| match action {
        Action::Link(links::Action::CreateBridge { ifname, .. }) => Some(ifname.clone()),
        _ => None,
    };
    let made: Vec<String> = actions.iter().filter_map(names).collect();
    assert_eq!(made, bridges[..1]);
    assert_eq!(missing_ports, BTreeSet::new());
    let first = of_bridge(&bridges[0]).map(|(name, _)| name);
    let set =
        actions.iter().filter(|a| matches!(a, Action::Set { name, .. } if first.contains(name)));
    assert_eq!(set.count(), 2, "{actions:?}");
}

#[test]
fn what_keeps_a_bridge_closed_that_cannot_be_removed_stays() {
    let networks = leases(SETS[3]);
    let mut host = Host::new(true);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    let bridges: Vec<String> = networks.networks().map(|network| network.bridge.clone()).collect();
    let (rules, none) = (host.rules.clone(), leases(&[]));
    // A look at one of two bridges, as when its network is removed, is none at the other.
    let looked_at = LookAtLinks::Named([bridges[0].clone()].into());
    let look = Look { rules: true, links: looked_at.clone(), ..Look::default() };
    let found = [(bridges[0].clone(), host.links[&bridges[0]].clone())].into();
    let links = Some(ObservedLinks { looked_at, found, ..ObservedLinks::default() });
    let plan = plan(&none, &wishes(), &Observed { links, ..host.observe() });
    let lacks = lacks(&look, &plan, &plan.facts);
    assert_eq!(lacks.links, LookAtLinks::All, "{:?}", plan.actions);
    // Whatever of the rest is refused, the tables and rules outlive the bridges.
    let Plan { actions, facts, .. } = super::plan(&none, &wishes(), &host.observe());
    let removes = |action: &Action| matches!(action, Action::Link(links::Action::Remove { .. }));
    let refused = actions.iter().position(removes).unwrap();
    for action in actions[..refused].iter().chain(actions[refused..].iter().filter(|a| !a.opens()))
    {
        if !removes(action) {
            host.perform(action, &none, &facts);
        }
    }
    assert_eq!(host.rules, rules);
    assert!(matches!(host.tables, Tables::Hold(_)), "{actions:?}");
}

#[test]
fn nothing_is_let_in_without_a_look_at_what_judges_it() {
    let networks = leases(SETS[1]);
    let mut host = Host::new(true);
    host.go(&networks, &wishes(), usize::MAX).unwrap();
    let bridge = networks.networks().next().unwrap().bridge.clone();
    do_harm(&mut host, &Harm::Down(0));
    let look = Look::link(bridge);
    let unseen = Observed { fence: None, ..host.observe() };
    let plan = plan(&networks, &wishes(), &unseen);
    let expect = Look { rules: true, tables: true, ..Look::default() };
    assert_eq!(lacks(&look, &plan, &plan.facts), expect, "{:?}", plan.actions);
    let seen = Look { rules: true, tables: true, ..look };
    assert!(lacks(&seen, &plan, &plan.facts).is_empty());
}

/// A look that fails takes nothing away: what other nodes are led by stays, and so does what is remembered.
#[test]
fn a_mesh_that_was_not_looked_at_stays_as_it_is() {
    let (networks, meshed) = (leases(&[]), meshed(&wishes(), 2));
    let mut host = Host::new(false);
    host.go(&networks, &meshed, usize::MAX).unwrap();
    let unseen = |was_meshed| Observed { mesh: None, was_meshed, ..host.observe() };
    let Plan { actions, facts, .. } = plan(&networks, &meshed, &unseen(true));
    assert_eq!((actions, facts.mesh), (vec![], true));
    // Where there was none, or is none to be, there is none.
    assert!(!plan(&networks, &meshed, &unseen(false)).facts.mesh);
    assert!(!plan(&networks, &wishes(), &unseen(true)).facts.mesh);
}

/// What judges what leaves by it may have gone with the one before.
#[test]
fn a_device_that_is_made_anew_is_judged_anew() {
    let (networks, meshed) = (leases(SETS[1]), meshed(&wishes(), 2));
    let mut host = Host::new(false);
    host.go(&networks, &meshed, usize::MAX).unwrap();
    host.device.as_mut().unwrap().arp = true;
    let Plan { actions, .. } = plan(&networks, &meshed, &host.observe());
    assert!(actions.contains(&Action::PutTables), "{actions:?}");
    host.go(&networks, &meshed, usize::MAX).unwrap();
    assert!(host.judged);
    assert_eq!(plan(&networks, &meshed, &host.observe()).actions, []);
}

#[test]
fn a_kernel_that_cannot_say_to_whom_a_packet_goes_has_no_mesh() {
    let (networks, meshed) = (leases(SETS[1]), meshed(&wishes(), 2));
    let mut host = Host::new(false);
    host.go(&networks, &meshed, usize::MAX).unwrap();
    let without = Observed { without_egress: true, was_meshed: true, ..host.observe() };
    let Plan { actions, facts, .. } = plan(&networks, &meshed, &without);
    let gone = Action::Link(links::Action::Remove { ifname: DEVICE.to_owned() });
    assert!(!facts.mesh && actions.contains(&gone), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Mesh(_))), "{actions:?}");
    let text = Ruleset::of(&networks, &facts).replace_text("t");
    assert!(!text.contains("10.9.0.2") && !text.contains("chain steer"), "{text}");
    let unseen = Observed { mesh: None, ..without };
    assert!(!plan(&networks, &meshed, &unseen).facts.mesh);
}
