//! Bridges, bridge ports and VLANs: what to do so that the host has those it should have, and no other
//! of this agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use super::leases::Leases;
use super::{Mac, Subnet, Vlan, names};

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// A tap device: a virtual machine is behind it.
    Tap,
    /// A VLAN of another link.
    Vlan,
    /// Anything else.
    Other,
}

/// A link as the host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// What it is.
    pub kind: LinkKind,
    /// Its number, which no other one has had since the host has started.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// Bytes per packet.
    pub mtu: u32,
    /// Hardware address; none where it is not one of 48 bits.
    pub mac: Option<Mac>,
    /// Name of the bridge it is a port of.
    pub bridge: Option<String>,
    /// As a bridge port: frames may leave by the port they came in.
    pub hairpin: bool,
    /// Addresses of the host on it.
    pub addresses: BTreeSet<IpNet>,
}

impl ObservedLink {
    /// One of this kind, still down, of which there is nothing more to be said. What tests make others of.
    #[must_use]
    pub fn plain(kind: LinkKind) -> Self {
        Self {
            kind,
            index: 1,
            up: false,
            mtu: 1500,
            mac: None,
            bridge: None,
            hairpin: false,
            addresses: BTreeSet::new(),
        }
    }
}

/// A bridge as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredBridge {
    /// The host's addresses on it, one for each subnet, with the length of the prefix; with IPv6 also the one by
    /// which it asks for neighbours.
    pub addresses: BTreeSet<IpNet>,
    /// Bytes per packet.
    pub mtu: u32,
    /// Hardware address. Given, because a bridge left to itself changes it with its ports.
    pub mac: Mac,
}

/// A bridge port as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredPort {
    /// Its bridge.
    pub bridge: String,
    /// Bytes per packet.
    pub mtu: u32,
}

/// Every link of this agent as it should be, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Bridges.
    pub bridges: BTreeMap<String, DesiredBridge>,
    /// Bridge ports.
    pub ports: BTreeMap<String, DesiredPort>,
    /// VLANs of interfaces of the host.
    pub vlans: BTreeMap<String, Vlan>,
    /// What containers have on wires, by the names of the ports that they would have on bridges.
    pub ends: BTreeMap<String, DesiredEnd>,
}

/// What a container has on a wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredEnd {
    /// The interface of the host that it is on.
    pub link: String,
    /// The number of that.
    pub index: u32,
    /// The container.
    pub container: String,
}

impl Desired {
    /// Derives the links from the book.
    #[must_use]
    pub fn of(leases: &Leases) -> Self {
        let bridges = leases.networks().map(|network| {
            let addresses = network.subnets.iter().map(Subnet::of_bridge);
            let addresses = addresses.chain(network.link_local()).collect();
            let (mtu, mac) = (network.mtu, network.mac());
            (network.bridge.clone(), DesiredBridge { addresses, mtu, mac })
        });
        let ports = leases.ports().filter_map(|port| {
            let bridge = leases.network(&port.network)?.bridge.clone();
            Some((port.host_ifname.clone(), DesiredPort { bridge, mtu: port.mtu }))
        });
        let made = leases.places().filter_map(|place| Some((&place.link, place.made.as_ref()?)));
        let ends = leases.attached().filter_map(|one| {
            let wire = one.wire.as_ref()?;
            let (link, container) = (wire.link.clone(), one.container.clone());
            Some((one.host_ifname.clone(), DesiredEnd { link, index: wire.index, container }))
        });
        Self {
            bridges: bridges.collect(),
            ports: ports.collect(),
            vlans: made.map(|(link, vlan)| (link.clone(), vlan.clone())).collect(),
            ends: ends.collect(),
        }
    }

    /// The same on a host that has no IPv6.
    #[must_use]
    pub fn without_v6(mut self) -> Self {
        for bridge in self.bridges.values_mut() {
            bridge.addresses.retain(|address| address.addr().is_ipv4());
        }
        self
    }

    /// The same without the links that are not named.
    #[must_use]
    pub fn only(&self, ifnames: &BTreeSet<String>) -> Self {
        let mut desired = self.clone();
        desired.bridges.retain(|ifname, _| ifnames.contains(ifname));
        desired.ports.retain(|ifname, _| ifnames.contains(ifname));
        desired.vlans.retain(|ifname, _| ifnames.contains(ifname));
        desired.ends.retain(|_, end| ifnames.contains(&end.link));
        desired
    }

    /// The same, one port only and no bridges: what connecting one container touches.
    #[must_use]
    pub fn only_port(&self, ifname: &str) -> Self {
        let port = self.ports.get(ifname);
        let ports = port.map(|port| (ifname.to_owned(), port.clone()));
        Self { ports: ports.into_iter().collect(), ..Self::default() }
    }
}

/// One change of the host's links.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named by what they are")]
pub enum Action {
    /// Delete a link.
    Remove { ifname: String },
    /// Create a bridge, still down and without address.
    CreateBridge { ifname: String, mac: Mac, mtu: u32 },
    /// Create a VLAN of an interface, still down.
    CreateVlan { ifname: String, vlan: Vlan },
    /// Set the packet size.
    SetMtu { ifname: String, mtu: u32 },
    /// Set the hardware address.
    SetMac { ifname: String, mac: Mac },
    /// Take an address off a link.
    RemoveAddress { ifname: String, address: IpNet },
    /// Put an address on a link.
    AddAddress { ifname: String, address: IpNet },
    /// Make a link a port of a bridge.
    SetBridge { ifname: String, bridge: String },
    /// Let frames leave a bridge port by which they came in. A container that asks for its own
    /// published port needs it on hosts where bridged packets pass the packet filter
    /// (`bridge-nf-call-iptables`), as addresses are then translated on the bridge.
    SetHairpin { ifname: String },
    /// Set a link up.
    SetUp { ifname: String },
}

impl Action {
    /// The link that is changed.
    #[must_use]
    pub fn ifname(&self) -> &str {
        match self {
            Self::Remove { ifname }
            | Self::CreateBridge { ifname, .. }
            | Self::CreateVlan { ifname, .. }
            | Self::SetMtu { ifname, .. }
            | Self::SetMac { ifname, .. }
            | Self::RemoveAddress { ifname, .. }
            | Self::AddAddress { ifname, .. }
            | Self::SetBridge { ifname, .. }
            | Self::SetHairpin { ifname }
            | Self::SetUp { ifname } => ifname,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { ifname } => write!(f, "remove {ifname}"),
            Self::CreateBridge { ifname, .. } => write!(f, "create bridge {ifname}"),
            Self::CreateVlan { ifname, vlan: Vlan { base, number } } => {
                write!(f, "create {ifname}, VLAN {number} of {base}")
            }
            Self::SetMtu { ifname, mtu } => write!(f, "set mtu {mtu} of {ifname}"),
            Self::SetMac { ifname, mac } => write!(f, "set hardware address {mac} of {ifname}"),
            Self::RemoveAddress { ifname, address } => write!(f, "remove {address} from {ifname}"),
            Self::AddAddress { ifname, address } => write!(f, "add {address} to {ifname}"),
            Self::SetBridge { ifname, bridge } => write!(f, "put {ifname} on bridge {bridge}"),
            Self::SetHairpin { ifname } => write!(f, "set hairpin mode of {ifname}"),
            Self::SetUp { ifname } => write!(f, "set {ifname} up"),
        }
    }
}

/// What to do, and what cannot be done from the host alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Ports that are missing: only attaching the container again brings them back, since their
    /// other end belongs into its network namespace.
    pub missing_ports: BTreeSet<String>,
    /// What containers lack on wires, by the same names, with the container and the interface: likewise.
    pub missing_ends: BTreeMap<String, DesiredEnd>,
}

/// Plans the way from `observed` to `desired`. Links that do not carry the agent's `prefix` are
/// nobody's business and never touched.
#[must_use]
pub fn plan(desired: &Desired, observed: &BTreeMap<String, ObservedLink>, prefix: &str) -> Plan {
    let mut plan = Plan::default();
    let wanted = |ifname: &str, link: &ObservedLink| match link.kind {
        LinkKind::Bridge => desired.bridges.contains_key(ifname),
        LinkKind::Veth => desired.ports.contains_key(ifname),
        LinkKind::Vlan => desired.vlans.contains_key(ifname),
        LinkKind::Tap | LinkKind::Other => false,
    };
    let kept = observed.iter().filter(|(ifname, _)| names::is_ours(prefix, ifname));
    let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
        kept.partition(|(ifname, link)| wanted(ifname, link));
    plan.actions.extend(gone.into_keys().cloned().map(|ifname| Action::Remove { ifname }));
    for (ifname, bridge) in &desired.bridges {
        ensure_bridge(&mut plan.actions, ifname, bridge, kept.get(ifname).copied());
    }
    for (ifname, vlan) in &desired.vlans {
        let link = kept.get(ifname).copied();
        // While the host does not have the interface there is nothing to be made.
        if link.is_none() && observed.contains_key(&vlan.base) {
            let (ifname, vlan) = (ifname.clone(), vlan.clone());
            plan.actions.push(Action::CreateVlan { ifname, vlan });
        }
        // The kernel sets it up only while the interface is.
        let can_be_up = observed.get(&vlan.base).is_some_and(|base| base.up);
        if can_be_up && !link.is_some_and(|link| link.up) {
            plan.actions.push(Action::SetUp { ifname: ifname.clone() });
        }
    }
    for (ifname, end) in &desired.ends {
        if observed.get(&end.link).map(|link| link.index) != Some(end.index) {
            plan.missing_ends.insert(ifname.clone(), end.clone());
        }
    }
    for (ifname, port) in &desired.ports {
        match kept.get(ifname) {
            Some(link) => ensure_port(&mut plan.actions, ifname, port, link),
            None => {
                plan.missing_ports.insert(ifname.clone());
            }
        }
    }
    plan
}

fn ensure_bridge(
    actions: &mut Vec<Action>,
    name: &str,
    bridge: &DesiredBridge,
    link: Option<&ObservedLink>,
) {
    let ifname = || name.to_owned();
    let mtu = bridge.mtu;
    if link.is_none() {
        actions.push(Action::CreateBridge { ifname: ifname(), mac: bridge.mac, mtu });
    }
    if link.is_some_and(|link| link.mtu != mtu) {
        actions.push(Action::SetMtu { ifname: ifname(), mtu });
    }
    // What containers remember of their gateway is true again.
    if link.and_then(|link| link.mac).is_some_and(|mac| mac != bridge.mac) {
        actions.push(Action::SetMac { ifname: ifname(), mac: bridge.mac });
    }
    let present = link.map(|link| link.addresses.clone()).unwrap_or_default();
    for other in present.difference(&bridge.addresses) {
        actions.push(Action::RemoveAddress { ifname: ifname(), address: *other });
    }
    for address in bridge.addresses.difference(&present) {
        actions.push(Action::AddAddress { ifname: ifname(), address: *address });
    }
    if !link.is_some_and(|link| link.up) {
        actions.push(Action::SetUp { ifname: ifname() });
    }
}

fn ensure_port(actions: &mut Vec<Action>, name: &str, port: &DesiredPort, link: &ObservedLink) {
    let ifname = || name.to_owned();
    if link.mtu != port.mtu {
        actions.push(Action::SetMtu { ifname: ifname(), mtu: port.mtu });
    }
    let moved = link.bridge.as_ref() != Some(&port.bridge);
    if moved {
        actions.push(Action::SetBridge { ifname: ifname(), bridge: port.bridge.clone() });
    }
    if moved || !link.hairpin {
        actions.push(Action::SetHairpin { ifname: ifname() });
    }
    if !link.up {
        actions.push(Action::SetUp { ifname: ifname() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BRIDGE: &str = "shb0000000000";
    const PORT: &str = "shv0000000000";
    const VLAN: &str = "shl0000000000";
    const END: &str = "shv3333333333";

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn end() -> DesiredEnd {
        DesiredEnd { link: "eth0".to_owned(), index: 1, container: "web".to_owned() }
    }

    fn desired() -> Desired {
        let address = net("10.0.0.1/24");
        let mac = Mac::of_address([10, 0, 0, 1].into());
        let bridge = DesiredBridge { addresses: [address].into(), mtu: 1500, mac };
        let port = DesiredPort { bridge: BRIDGE.to_owned(), mtu: 1500 };
        Desired {
            bridges: BTreeMap::from([(BRIDGE.to_owned(), bridge)]),
            ports: BTreeMap::from([(PORT.to_owned(), port)]),
            vlans: [(VLAN.to_owned(), Vlan { base: "eth0".to_owned(), number: 5 })].into(),
            ends: [(END.to_owned(), end())].into(),
        }
    }

    fn link(kind: LinkKind) -> ObservedLink {
        ObservedLink { up: true, ..ObservedLink::plain(kind) }
    }

    /// What the actions make of the observed links: the judge of the plan.
    fn perform(observed: &mut BTreeMap<String, ObservedLink>, actions: &[Action]) {
        for action in actions {
            let at = |observed: &mut BTreeMap<String, ObservedLink>,
                      ifname: &str,
                      change: &dyn Fn(&mut ObservedLink)| {
                change(observed.get_mut(ifname).expect("the link exists"));
            };
            match action {
                Action::Remove { ifname } => assert!(observed.remove(ifname).is_some()),
                Action::CreateBridge { ifname, mtu, mac } => {
                    let (mtu, mac) = (*mtu, Some(*mac));
                    let new = ObservedLink { up: false, mtu, mac, ..link(LinkKind::Bridge) };
                    assert!(observed.insert(ifname.clone(), new).is_none());
                }
                Action::CreateVlan { ifname, vlan } => {
                    assert!(observed.contains_key(&vlan.base));
                    let new = ObservedLink { up: false, ..link(LinkKind::Vlan) };
                    assert!(observed.insert(ifname.clone(), new).is_none());
                }
                Action::SetMtu { ifname, mtu } => at(observed, ifname, &|link| link.mtu = *mtu),
                Action::SetMac { ifname, mac } => {
                    at(observed, ifname, &|link| link.mac = Some(*mac));
                }
                Action::RemoveAddress { ifname, address } => at(observed, ifname, &|link| {
                    assert!(link.addresses.remove(address));
                }),
                Action::AddAddress { ifname, address } => at(observed, ifname, &|link| {
                    assert!(link.addresses.insert(*address));
                }),
                Action::SetBridge { ifname, bridge } => at(observed, ifname, &|link| {
                    link.bridge = Some(bridge.clone());
                    link.hairpin = false;
                }),
                Action::SetHairpin { ifname } => at(observed, ifname, &|link| {
                    assert!(link.bridge.is_some());
                    link.hairpin = true;
                }),
                Action::SetUp { ifname } => at(observed, ifname, &|link| link.up = true),
            }
        }
    }

    #[test]
    fn an_empty_host_gets_the_bridge_and_reports_the_port() {
        let plan = plan(&desired(), &BTreeMap::new(), "sh");
        let ifname = BRIDGE.to_owned();
        let address = net("10.0.0.1/24");
        let mac = Mac::of_address([10, 0, 0, 1].into());
        assert_eq!(
            plan.actions,
            [
                Action::CreateBridge { ifname: ifname.clone(), mac, mtu: 1500 },
                Action::AddAddress { ifname: ifname.clone(), address },
                Action::SetUp { ifname },
            ]
        );
        assert_eq!(plan.missing_ports, BTreeSet::from([PORT.to_owned()]));
        assert_eq!(plan.missing_ends, [(END.to_owned(), end())].into());
    }

    #[test]
    fn orphans_go_and_strangers_stay() {
        let observed = BTreeMap::from([
            ("eth0".to_owned(), link(LinkKind::Other)),
            ("docker0".to_owned(), link(LinkKind::Bridge)),
            ("shv1111111111".to_owned(), link(LinkKind::Veth)),
            ("shb1111111111".to_owned(), link(LinkKind::Bridge)),
        ]);
        let plan = plan(&Desired::default(), &observed, "sh");
        let gone = ["shb1111111111", "shv1111111111"];
        assert_eq!(plan.actions, gone.map(|ifname| Action::Remove { ifname: ifname.to_owned() }));
    }

    #[test]
    fn a_link_of_the_wrong_kind_is_replaced() {
        let observed = BTreeMap::from([(BRIDGE.to_owned(), link(LinkKind::Other))]);
        let plan = plan(&desired(), &observed, "sh");
        assert_eq!(plan.actions[0], Action::Remove { ifname: BRIDGE.to_owned() });
        assert!(matches!(plan.actions[1], Action::CreateBridge { .. }));
    }

    fn any_link() -> impl Strategy<Value = ObservedLink> {
        let kind = prop_oneof![
            Just(LinkKind::Bridge),
            Just(LinkKind::Veth),
            Just(LinkKind::Vlan),
            Just(LinkKind::Other),
        ];
        let address = prop_oneof![Just(net("10.0.0.1/24")), Just(net("10.0.0.9/24"))];
        let addresses = prop::collection::btree_set(address, 0..3);
        let bridge = prop::option::of(prop_oneof![Just(BRIDGE.to_owned()), Just("x".to_owned())]);
        let mtu = prop_oneof![Just(1500u32), Just(1400)];
        let mac =
            prop::option::of(prop_oneof![Just([2, 0, 0, 0, 0, 9]), Just([2, 115, 10, 0, 0, 1])]);
        let flags = (any::<bool>(), any::<bool>(), 1..3u32);
        (kind, flags, mtu, mac, bridge, addresses).prop_map(
            |(kind, (up, hairpin, index), mtu, mac, bridge, addresses)| {
                let hairpin = hairpin && bridge.is_some();
                ObservedLink { kind, index, up, mtu, mac: mac.map(Mac), bridge, hairpin, addresses }
            },
        )
    }

    proptest! {
        #[test]
        fn performing_a_plan_leaves_nothing_to_plan(
            observed in prop::collection::btree_map(
                prop_oneof![
                    Just(BRIDGE.to_owned()), Just(PORT.to_owned()),
                    Just("shv2222222222".to_owned()), Just("eth0".to_owned()), Just(VLAN.to_owned()),
                ],
                any_link(),
                0..5,
            ),
        ) {
            let mut host = observed.clone();
            let first = plan(&desired(), &host, "sh");
            perform(&mut host, &first.actions);
            let second = plan(&desired(), &host, "sh");
            prop_assert_eq!(second.actions, vec![]);
            prop_assert_eq!(second.missing_ports, first.missing_ports);
            let mac = desired().bridges[BRIDGE].mac;
            prop_assert!(host[BRIDGE].mac.is_none_or(|now| now == mac));
            prop_assert_eq!(host.get("eth0"), observed.get("eth0"));
            let eth0 = host.get("eth0");
            let there = eth0.is_some_and(|link| link.index == 1);
            prop_assert_eq!(first.missing_ends.contains_key(END), !there);
            prop_assert_eq!(&second.missing_ends, &first.missing_ends);
            // Without the interface there is no VLAN of it.
            let vlan = host.get(VLAN).map(|link| (link.kind, link.up));
            let strange = vlan.is_some_and(|(kind, up)| {
                kind != LinkKind::Vlan || (!up && eth0.is_some_and(|base| base.up))
            });
            prop_assert!(!strange && (vlan.is_some() || eth0.is_none()), "{:?}", vlan);
        }
    }
}
