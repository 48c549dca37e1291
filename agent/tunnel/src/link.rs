//! The interface by rtnetlink(7). The only module that knows the library.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::{fs, io};

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder};
use rustix::io::Errno;
use shoal_agent_planning::tunnel::{Link, LinkKind};
use tokio::task::AbortHandle;

use crate::TunnelError;

/// Values of `rp_filter`: an answer goes by the same interface, or by any.
const STRICT: u8 = 1;
const LOOSE: &str = "2";

/// A netlink socket in one network namespace. It stays there whatever its threads do.
pub(crate) struct Links {
    handle: Handle,
    ifname: String,
    pump: AbortHandle,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Links {
    /// Opens a socket in the namespace of the calling thread. Call it inside the runtime.
    pub(crate) fn open(ifname: &str) -> Result<Self, TunnelError> {
        let opened = rtnetlink::new_connection();
        let (connection, handle, _) = opened.map_err(|source| TunnelError::Link {
            what: "open a netlink socket".to_owned(),
            source,
        })?;
        let pump = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, ifname: ifname.to_owned(), pump })
    }

    /// The interface, if there is one of this name.
    pub(crate) async fn observe(&self) -> Result<Option<Link>, TunnelError> {
        let request = self.handle.link().get().match_name(&self.ifname);
        match request.execute().try_next().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(self.failed("look up", &error)),
            Ok(link) => Ok(link.as_ref().map(link_of)),
        }
    }

    /// Makes an interface of the kernel's WireGuard; `false` if the kernel has none.
    pub(crate) async fn create(&self) -> Result<bool, TunnelError> {
        let message = LinkWireguard::new(&self.ifname).build();
        match self.handle.link().add(message).execute().await {
            Err(error) if is(&error, Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(self.failed("create", &error)),
            Ok(()) => Ok(true),
        }
    }

    /// Deletes the interface, if it is there.
    pub(crate) async fn remove(&self) -> Result<(), TunnelError> {
        let message = LinkUnspec::new_with_name(&self.ifname).build();
        match self.handle.link().del_with_message(message).execute().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(()),
            result => result.map_err(|error| self.failed("delete", &error)),
        }
    }

    pub(crate) async fn set_mtu(&self, mtu: u32) -> Result<(), TunnelError> {
        let message = LinkUnspec::new_with_name(&self.ifname).mtu(mtu).build();
        let done = self.handle.link().set(message).execute().await;
        done.map_err(|error| self.failed(&format!("set mtu {mtu} of"), &error))
    }

    /// Sets it up, which is when the kernel's WireGuard takes its `port`.
    pub(crate) async fn set_up(&self, port: u16) -> Result<(), TunnelError> {
        let message = LinkUnspec::new_with_name(&self.ifname).up().build();
        match self.handle.link().set(message).execute().await {
            Err(error) if is(&error, Errno::ADDRINUSE) => Err(TunnelError::PortInUse { port }),
            result => result.map_err(|error| self.failed("set up", &error)),
        }
    }

    /// Whether packets are dropped of which the answer would go by another interface (`rp_filter`,
    /// Documentation/networking/ip-sysctl.rst): the higher one of its own setting and that of all holds.
    pub(crate) fn is_strict(&self) -> Result<bool, TunnelError> {
        let read = |ifname: &str| {
            let path = rp_filter(ifname);
            match fs::read_to_string(&path) {
                Ok(value) => Ok(value.trim().parse().unwrap_or(STRICT)),
                // It has just gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
                Err(source) => Err(TunnelError::Setting { path, source }),
            }
        };
        Ok(read("all")?.max(read(&self.ifname)?) == STRICT)
    }

    /// Takes them.
    pub(crate) fn loosen(&self) -> Result<(), TunnelError> {
        let path = rp_filter(&self.ifname);
        fs::write(&path, LOOSE).map_err(|source| TunnelError::Setting { path, source })
    }

    /// The host's addresses of IPv4 on it.
    pub(crate) async fn addresses(&self) -> Result<BTreeSet<Ipv4Net>, TunnelError> {
        let Some(index) = self.index().await? else { return Ok(BTreeSet::new()) };
        let mut request = self.handle.address().get().set_link_index_filter(index);
        request.message_mut().header.family = AddressFamily::Inet;
        let found: Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
        let found = found.map_err(|error| self.failed("list the addresses of", &error))?;
        Ok(found.iter().filter(|one| one.header.index == index).filter_map(address_of).collect())
    }

    /// Gives the host an address on it, which may be there.
    pub(crate) async fn add_address(&self, address: Ipv4Addr) -> Result<(), TunnelError> {
        let Some(index) = self.index().await? else { return Ok(()) };
        let request = self.handle.address().add(index, IpAddr::V4(address), 32).replace();
        let done = request.execute().await;
        done.map_err(|error| self.failed(&format!("add address {address} to"), &error))
    }

    /// Takes an address away, which may be gone.
    pub(crate) async fn remove_address(&self, address: Ipv4Net) -> Result<(), TunnelError> {
        let Some(index) = self.index().await? else { return Ok(()) };
        let (ip, length) = (IpAddr::V4(address.addr()), address.prefix_len());
        let message = self.handle.address().add(index, ip, length).message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Err(error) if is(&error, Errno::ADDRNOTAVAIL) => Ok(()),
            done => {
                done.map_err(|error| self.failed(&format!("remove address {address} from"), &error))
            }
        }
    }

    /// What the interfaces take by which packets to these addresses leave, in bytes. Of one to which there is no way,
    /// nothing is said. That a route takes less, or a router behind it, is of one way and found out by trying that.
    pub(crate) async fn wires(&self, to: &BTreeSet<IpAddr>) -> Result<BTreeSet<u32>, TunnelError> {
        let mut interfaces: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        let mut wires = BTreeSet::new();
        for address in to {
            let mut routes = self.handle.route().get(lookup(*address)).execute();
            // There is none, or none at the moment.
            let Ok(Some(route)) = routes.try_next().await else { continue };
            let Some(index) = interface_of(&route) else { continue };
            let takes = match interfaces.get(&index) {
                Some(known) => *known,
                None => {
                    let takes = self.takes(index).await?;
                    interfaces.insert(index, takes);
                    takes
                }
            };
            wires.extend(takes);
        }
        Ok(wires)
    }

    /// The largest packet of an interface, in bytes.
    async fn takes(&self, index: u32) -> Result<Option<u32>, TunnelError> {
        let request = self.handle.link().get().match_index(index);
        match request.execute().try_next().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(self.failed("look up what leads to other nodes beside", &error)),
            Ok(link) => Ok(link.as_ref().map(|link| link_of(link).mtu)),
        }
    }

    async fn index(&self) -> Result<Option<u32>, TunnelError> {
        let request = self.handle.link().get().match_name(&self.ifname);
        match request.execute().try_next().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(self.failed("look up", &error)),
            Ok(link) => Ok(link.map(|link| link.header.index)),
        }
    }

    fn failed(&self, what: &str, error: &rtnetlink::Error) -> TunnelError {
        let what = format!("{what} interface {}", self.ifname);
        if is(error, Errno::PERM) {
            return TunnelError::NotPermitted { what };
        }
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        TunnelError::Link { what, source }
    }
}

/// Of the network namespace of the thread that opens it.
fn rp_filter(ifname: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{ifname}/rp_filter")
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -errno.raw_os_error())
}

/// Asks for the route to an address.
fn lookup(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().build();
    let (family, to, bits) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address), 32),
        IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address), 128),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.attributes.push(RouteAttribute::Destination(to));
    message
}

fn interface_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn address_of(message: &AddressMessage) -> Option<Ipv4Net> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    });
    Ipv4Net::new(local?, message.header.prefix_len).ok()
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link =
        Link { kind: LinkKind::Other, up: message.header.flags.contains(LinkFlags::Up), mtu: 0 };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                if infos.contains(&LinkInfo::Kind(InfoKind::Wireguard)) {
                    link.kind = LinkKind::Wireguard;
                } else if infos.contains(&LinkInfo::Kind(InfoKind::Tun)) {
                    link.kind = LinkKind::Tun;
                }
            }
            _ => {}
        }
    }
    link
}
