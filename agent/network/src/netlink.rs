//! Links, addresses and routes by rtnetlink(7). The only module that knows the library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use rustix::io::Errno;
use shoal_agent_planning::network::advertise::HostAddress;
use shoal_agent_planning::network::links::{Action, LinkKind, ObservedLink};
use shoal_agent_planning::network::{Attached, Family, Mac, names, pool};
use shoal_types::object::HostSubnet;
use tokio::task::AbortHandle;

use super::NetworkError;
use super::wire::is_end_of;

/// Group of links that are about to be deleted. Nobody else's by its odd number: "shoal" in ASCII
/// without its first letter.
const DOOMED: u32 = 0x686f_616c;

/// Ranges of addresses that this host uses for something else than networks of the agent whose links are named so, as
/// managers are told of them.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn host_subnets(prefix: &str) -> Result<Vec<HostSubnet>, NetworkError> {
    let links = Links::open().map_err(|source| NetworkError::Netlink { source })?;
    Ok(pool::largest(links.in_use(prefix, true).await?))
}

/// A netlink socket in one network namespace. It stays there whatever its threads do.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) handle: Handle,
    pump: AbortHandle,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Links {
    /// Opens a socket in the namespace of the calling thread. Call it inside the runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let pump = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, pump })
    }

    /// Every link of the namespace, by name.
    pub(super) async fn observe(&self) -> Result<BTreeMap<String, ObservedLink>, NetworkError> {
        let what = || "list links".to_owned();
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed(what))?;
        let what = || "list addresses".to_owned();
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed(what))?;
        Ok(observed(&links, &addresses))
    }

    /// One link, if it is there.
    pub(super) async fn observe_one(
        &self,
        ifname: &str,
    ) -> Result<BTreeMap<String, ObservedLink>, NetworkError> {
        let Some(link) = self.get(ifname).await? else { return Ok(BTreeMap::new()) };
        let request = self.handle.address().get().set_link_index_filter(link.header.index);
        let what = || format!("list addresses of {ifname}");
        let addresses: Vec<AddressMessage> =
            request.execute().try_collect().await.map_err(failed(what))?;
        // Its bridge is told by number.
        let bridge = find(&link, |attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        });
        let mut links = vec![link];
        if let Some(index) = bridge {
            let mut request = self.handle.link().get().match_index(index).execute();
            match request.try_next().await {
                Err(error) if is(&error, Errno::NODEV) => {}
                found => links.extend(found.map_err(failed(|| format!("look up link {index}")))?),
            }
        }
        let mut found = observed(&links, &addresses);
        found.retain(|name, _| name == ifname);
        Ok(found)
    }

    /// Every address of the namespace.
    pub(super) async fn own_addresses(&self) -> Result<BTreeSet<IpAddr>, NetworkError> {
        let what = || "list addresses".to_owned();
        let all: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed(what))?;
        Ok(all.iter().filter_map(address_of).map(|address| address.addr()).collect())
    }

    /// Every address of the namespace that others could reach it by, with its interface: what is up, not
    /// the agent's own by its name, and good for more than one link.
    pub(super) async fn host_addresses(
        &self,
        prefix: &str,
    ) -> Result<Vec<HostAddress>, NetworkError> {
        let what = || "list links".to_owned();
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed(what))?;
        let what = || "list addresses".to_owned();
        let all: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed(what))?;
        let outside = links.iter().filter_map(|link| {
            let flags = link.header.flags;
            let ifname = ifname_of(link)?;
            let usable = flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback);
            let ours = names::is_of_agent(prefix, ifname);
            (usable && !ours).then_some((link.header.index, ifname))
        });
        let outside: BTreeMap<u32, &str> = outside.collect();
        let one = |message: &AddressMessage| {
            let ifname = (*outside.get(&message.header.index)?).to_owned();
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                // One of IPv6 has no local address beside it.
                AddressAttribute::Local(ip) | AddressAttribute::Address(ip @ IpAddr::V6(_)) => {
                    Some(*ip)
                }
                _ => None,
            })?;
            let far = message.header.scope == AddressScope::Universe;
            far.then_some(HostAddress { ifname, ip })
        };
        let mut found: Vec<HostAddress> = all.iter().filter_map(one).collect();
        found.sort();
        Ok(found)
    }

    /// Every link, and the addresses that stand on no wire: those of the loopback interface outside
    /// 127.0.0.0/8 and beside `::1`, and those of dummy links that are good for more than the link.
    /// Of IPv6 if there is any.
    pub(super) async fn observe_addresses(
        &self,
        v6: bool,
    ) -> Result<(BTreeMap<String, ObservedLink>, BTreeSet<IpAddr>), NetworkError> {
        let what = || "list links".to_owned();
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed(what))?;
        let what = || "list addresses".to_owned();
        let mut request = self.handle.address().get();
        if !v6 {
            request.message_mut().header.family = AddressFamily::Inet;
        }
        let addresses: Vec<AddressMessage> =
            request.execute().try_collect().await.map_err(failed(what))?;
        let wireless: BTreeSet<u32> =
            links.iter().filter(|link| is_no_wire(link)).map(|link| link.header.index).collect();
        let on_no_wire = addresses
            .iter()
            .filter(|message| wireless.contains(&message.header.index))
            .filter_map(address_of)
            .map(|address| address.addr())
            .filter(|address| !address.is_loopback() && !is_of_link(*address));
        let on_no_wire = on_no_wire.collect();
        Ok((observed(&links, &addresses), on_no_wire))
    }

    /// Ranges of addresses that the namespace routes to, those of IPv6 if they matter, except by interfaces of
    /// the agent itself and except those that lead nearly everywhere.
    pub(super) async fn in_use(
        &self,
        prefix: &str,
        v6: bool,
    ) -> Result<Vec<HostSubnet>, NetworkError> {
        let what = || "list links".to_owned();
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed(what))?;
        let ifnames: BTreeMap<u32, String> = links
            .iter()
            .filter_map(|link| Some((link.header.index, ifname_of(link)?.to_owned())))
            .collect();
        let what = || "list routes".to_owned();
        let mut all = Vec::new();
        for family in Family::ALL.into_iter().filter(|family| v6 || *family == Family::V4) {
            let message = match family {
                Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
                Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            };
            // There may be very many of them.
            let mut routes = self.handle.route().get(message).execute();
            while let Some(route) = routes.try_next().await.map_err(failed(what))? {
                all.extend(used_by_route(&route, family, &ifnames, prefix));
            }
        }
        Ok(all)
    }

    /// Does one planned change. What is done already is done.
    pub(super) async fn perform(&self, action: &Action) -> Result<(), NetworkError> {
        match action {
            Action::Remove { ifname } => self.remove(ifname).await,
            Action::CreateBridge { ifname, mac, mtu } => {
                let bridge = LinkBridge::new(ifname).address(mac.0.to_vec()).mtu(*mtu).down();
                let request = self.handle.link().add(bridge.build());
                request.execute().await.map_err(failed(|| format!("create bridge {ifname}")))
            }
            Action::CreateVlan { ifname, vlan } => self.create_vlan(ifname, vlan).await,
            Action::SetMtu { ifname, mtu } => {
                let message = LinkUnspec::new_with_name(ifname).mtu(*mtu).build();
                self.set(message, || format!("set mtu {mtu} of {ifname}")).await
            }
            Action::SetMac { ifname, mac } => {
                let message = LinkUnspec::new_with_name(ifname).address(mac.0.to_vec()).build();
                self.set(message, || format!("set hardware address {mac} of {ifname}")).await
            }
            Action::AddAddress { ifname, address } => {
                self.add_address(self.index(ifname).await?, ifname, *address).await
            }
            Action::RemoveAddress { ifname, address } => {
                self.remove_address(self.index(ifname).await?, ifname, *address).await
            }
            Action::SetBridge { ifname, bridge } => {
                let index = self.index(bridge).await?;
                let message = LinkUnspec::new_with_name(ifname).controller(index).build();
                self.set(message, || format!("put {ifname} on bridge {bridge}")).await
            }
            Action::SetHairpin { ifname } => self.set_hairpin(ifname).await,
            Action::SetUp { ifname } => {
                let message = LinkUnspec::new_with_name(ifname).up().build();
                self.set(message, || format!("set {ifname} up")).await
            }
        }
    }

    /// Deletes a link, if it is there.
    pub(super) async fn remove(&self, ifname: &str) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name(ifname).build();
        match self.handle.link().del_with_message(message).execute().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(()),
            result => result.map_err(failed(|| format!("delete {ifname}"))),
        }
    }

    /// Deletes all of these links that are there, at the price of one.
    pub(super) async fn remove_all(&self, ifnames: &BTreeSet<String>) -> Result<(), NetworkError> {
        if ifnames.len() == 1 {
            for ifname in ifnames {
                self.remove(ifname).await?;
            }
            return Ok(());
        }
        // The kernel deletes one link or one group of links per message.
        for ifname in ifnames {
            let message = LinkUnspec::new_with_name(ifname).link_group(DOOMED).build();
            match self.handle.link().set(message).execute().await {
                Err(error) if is(&error, Errno::NODEV) => {}
                result => result.map_err(failed(|| format!("mark {ifname}")))?,
            }
        }
        let message = LinkMessageBuilder::<LinkUnspec>::default().link_group(DOOMED).build();
        match self.handle.link().del_with_message(message).execute().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(()),
            result => result.map_err(failed(|| format!("delete {} links", ifnames.len()))),
        }
    }

    /// Creates a veth pair, one end a port of the bridge and up, the other in the namespace
    /// `netns` under its final name with its hardware address: one message, one turn under the
    /// kernel's lock. The inner end stays down, as it cannot be up before it has a peer. `false`
    /// when one of the names is taken.
    pub(super) async fn create_port(
        &self,
        attached: &Attached,
        bridge: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<bool, NetworkError> {
        let what = || format!("create {} on bridge {bridge}", attached.host_ifname);
        let inner = LinkUnspec::new_with_name(&attached.ifname)
            .address(attached.mac.0.to_vec())
            .mtu(attached.mtu)
            .setns_by_fd(netns.as_raw_fd());
        let pair = LinkVeth::new(&attached.host_ifname, &attached.ifname)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inner.build())))
            .mtu(attached.mtu)
            .controller(self.index(bridge).await?)
            .up();
        match self.handle.link().add(pair.build()).execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(false),
            result => result.map(|()| true).map_err(failed(what)),
        }
    }

    /// Lets frames leave a bridge port by which they came in.
    pub(super) async fn set_hairpin(&self, ifname: &str) -> Result<(), NetworkError> {
        let port = LinkMessageBuilder::<LinkBridgePort>::default()
            .name(ifname)
            .set_port_kind(InfoPortKind::Bridge)
            .hairpin(true);
        let request = self.handle.link().set_port(port.build());
        request.execute().await.map_err(failed(|| format!("set hairpin mode of {ifname}")))
    }

    /// Gives the container's end of an attachment its address and routes; `false` when it is not
    /// there or is not the one meant. Call it on a socket inside the container's namespace.
    pub(super) async fn configure(&self, attached: &Attached) -> Result<bool, NetworkError> {
        let ifname = &attached.ifname;
        let Some(link) = self.get(ifname).await? else { return Ok(false) };
        if !is_end_of(&link, attached) {
            return Ok(false);
        }
        let index = link.header.index;
        // It may have larger packets than when it was made.
        let grows = mtu_of(&link).is_some_and(|mtu| mtu < attached.mtu);
        if grows && attached.wire.is_none() {
            let message = LinkUnspec::new_with_index(index).mtu(attached.mtu).build();
            self.set(message, || format!("set mtu {} of {ifname}", attached.mtu)).await?;
        }
        if !link.header.flags.contains(LinkFlags::Up) {
            let message = LinkUnspec::new_with_index(index).up().build();
            self.set(message, || format!("set {ifname} up")).await?;
        }
        for end in attached.ends() {
            self.add_address(index, ifname, end.address).await?;
        }
        self.set_routes(index, attached).await?;
        Ok(true)
    }

    /// Sets the loopback interface up; the kernel gives it its addresses.
    pub(super) async fn set_up_loopback(&self) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name("lo").up().build();
        self.set(message, || "set lo up".to_owned()).await
    }

    async fn add_address(
        &self,
        index: u32,
        ifname: &str,
        address: IpNet,
    ) -> Result<(), NetworkError> {
        let mut request =
            self.handle.address().add(index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // Nobody else has it: it is good at once (RFC 4862, 5.4).
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(failed(|| format!("add address {address} to {ifname}")))
    }

    async fn remove_address(
        &self,
        index: u32,
        ifname: &str,
        address: IpNet,
    ) -> Result<(), NetworkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        let message = request.message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Err(error) if is(&error, Errno::ADDRNOTAVAIL) => Ok(()),
            result => result.map_err(failed(|| format!("remove address {address} from {ifname}"))),
        }
    }

    async fn set(
        &self,
        message: LinkMessage,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetworkError> {
        self.handle.link().set(message).execute().await.map_err(failed(what))
    }

    pub(super) async fn index(&self, ifname: &str) -> Result<u32, NetworkError> {
        match self.get(ifname).await? {
            Some(link) => Ok(link.header.index),
            None => Err(NetworkError::Link {
                what: format!("look up {ifname}"),
                source: Errno::NODEV.into(),
            }),
        }
    }

    pub(super) async fn get(&self, ifname: &str) -> Result<Option<LinkMessage>, NetworkError> {
        let request = self.handle.link().get().match_name(ifname);
        match request.execute().try_next().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            result => result.map_err(failed(|| format!("look up {ifname}"))),
        }
    }
}

fn observed(links: &[LinkMessage], addresses: &[AddressMessage]) -> BTreeMap<String, ObservedLink> {
    let ifnames: BTreeMap<u32, &str> =
        links.iter().filter_map(|link| Some((link.header.index, ifname_of(link)?))).collect();
    let mut by_link: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for message in addresses {
        if let Some(address) = address_of(message) {
            by_link.entry(message.header.index).or_default().insert(address);
        }
    }
    links
        .iter()
        .filter_map(|link| {
            let bridge = find(link, |attribute| match attribute {
                LinkAttribute::Controller(index) => ifnames.get(index).map(|name| (*name).into()),
                _ => None,
            });
            let seen = ObservedLink {
                kind: kind_of(link),
                index: link.header.index,
                up: link.header.flags.contains(LinkFlags::Up),
                mtu: mtu_of(link).unwrap_or_default(),
                mac: mac_of(link),
                bridge,
                hairpin: hairpin_of(link),
                addresses: by_link.remove(&link.header.index).unwrap_or_default(),
            };
            Some((ifname_of(link)?.to_owned(), seen))
        })
        .collect()
}

pub(super) fn find<'a, T>(
    link: &'a LinkMessage,
    pick: impl Fn(&'a LinkAttribute) -> Option<T>,
) -> Option<T> {
    link.attributes.iter().find_map(pick)
}

pub(super) fn ifname_of(link: &LinkMessage) -> Option<&str> {
    find(link, |attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

pub(super) fn mtu_of(link: &LinkMessage) -> Option<u32> {
    find(link, |attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

pub(super) fn mac_of(link: &LinkMessage) -> Option<Mac> {
    find(link, |attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}

pub(super) fn info_of(link: &LinkMessage) -> Option<&InfoKind> {
    find(link, |attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })
}

fn is_no_wire(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Loopback) || info_of(link) == Some(&InfoKind::Dummy)
}

fn kind_of(link: &LinkMessage) -> LinkKind {
    match info_of(link) {
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(InfoKind::Veth) => LinkKind::Veth,
        Some(InfoKind::Tun) => LinkKind::Tap,
        Some(InfoKind::Vlan) => LinkKind::Vlan,
        _ => LinkKind::Other,
    }
}

fn hairpin_of(link: &LinkMessage) -> bool {
    let infos = find(link, |attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos.as_slice()),
        _ => None,
    });
    infos.unwrap_or_default().iter().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.contains(&InfoBridgePort::HairpinMode(true))
        }
        _ => false,
    })
}

/// The local address of a message, with the length of its prefix.
pub(super) fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        // One of IPv6 has no local address beside it.
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip @ IpAddr::V6(_)) => Some(*ip),
        _ => None,
    });
    IpNet::new(local?, message.header.prefix_len).ok()
}

/// Whether an address is good for one link alone.
fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn used_by_route(
    route: &RouteMessage,
    family: Family,
    ifnames: &BTreeMap<u32, String>,
    prefix: &str,
) -> Option<HostSubnet> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    // The request's family is only a wish to older kernels.
    let subnet = IpNet::new(destination, route.header.destination_prefix_length).ok()?;
    let is_meant = Family::of(destination) == family && !pool::leads_anywhere(&subnet);
    // What every link of IPv6 has.
    if !is_meant || is_of_link(destination) || destination.is_multicast() {
        return None;
    }
    let ifname = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => ifnames.get(index),
        _ => None,
    });
    let interface = match ifname {
        Some(ifname) if names::is_of_agent(prefix, ifname) => return None,
        Some(ifname) => ifname.clone(),
        None => String::new(),
    };
    Some(HostSubnet { subnet, interface })
}

pub(super) fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -errno.raw_os_error())
}

/// Turns the library's error into ours: the kernel's own number where there is one.
pub(super) fn failed<D: Display>(
    what: impl FnOnce() -> D,
) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |error| {
        let source = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        NetworkError::Link { what: what().to_string(), source }
    }
}
