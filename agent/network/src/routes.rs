//! Routes: those of bridges, which the kernel makes with their addresses and anybody can delete; those
//! into the tunnel to other hosts; those of containers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt as _;
use imbl::OrdSet;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use rustix::io::Errno;
use shoal_agent_planning::network::{Attached, End, Family};
use shoal_agent_planning::node::host::{BridgeRoute, LargestPacket, Remotes, RouteKind, Way};
use shoal_agent_planning::tunnel::Side;

use super::NetworkError;
use super::netlink::{Links, failed, is};

/// Numbers of the tables (rtnetlink(7)).
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
/// A longer prefix leaves no address for all that are on the subnet.
const BROADCAST_MAX: u8 = 30;

impl Links {
    /// Those of the routes of a bridge with this address that there are. Asks for three addresses, however
    /// many routes the host has.
    pub(super) async fn observe_routes(
        &self,
        bridge: &str,
        address: IpNet,
        remote: &OrdSet<IpAddr>,
    ) -> Result<Vec<BridgeRoute>, NetworkError> {
        let Some(link) = self.get(bridge).await? else { return Ok(Vec::new()) };
        let (own, index) = (address.addr(), link.header.index);
        // An address of the subnet that is not the bridge's, and has no route of its own.
        let is_other =
            |host: &IpAddr| *host != own && *host != address.network() && !remote.contains(host);
        let other = address.hosts().find(is_other);
        let everybody = (address.prefix_len() <= BROADCAST_MAX).then(|| address.broadcast());
        let mut found = Vec::new();
        for &kind in RouteKind::all(Family::of(own)) {
            let target = match kind {
                RouteKind::Own => Some(own),
                RouteKind::Subnet => other,
                RouteKind::Broadcast => everybody,
            };
            let route = BridgeRoute { bridge: bridge.to_owned(), kind, address };
            let Some(target) = target else {
                // A subnet without room for anybody, or for everybody: nobody misses the way to it.
                found.push(route);
                continue;
            };
            let seen = self.route_to(target).await?;
            if seen.is_some_and(|seen| is_that(&seen, &route, index)) {
                found.push(route);
            }
        }
        Ok(found)
    }

    /// The addresses that are routed into the tunnel, those of IPv6 if there is any, with the way to each, and which of
    /// its interfaces there are and up; `None` if there is none.
    pub(super) async fn observe_remote(
        &self,
        prefix: &str,
        v6: bool,
    ) -> Result<(Option<Remotes>, BTreeSet<Side>), NetworkError> {
        let (mut found, mut up) = (Remotes::new(), BTreeSet::new());
        for side in Side::ALL {
            let tunnel = side.ifname(prefix);
            let Some(link) = self.get(&tunnel).await? else { continue };
            if link.header.flags.contains(LinkFlags::Up) {
                up.insert(side);
                self.observe_remote_by(side, &tunnel, link.header.index, v6, &mut found).await?;
            }
        }
        Ok(((!up.is_empty()).then_some(found), up))
    }

    async fn observe_remote_by(
        &self,
        side: Side,
        tunnel: &str,
        index: u32,
        v6: bool,
        found: &mut Remotes,
    ) -> Result<(), NetworkError> {
        let by = RouteAttribute::Oif(index);
        let what = || format!("list routes by {tunnel}");
        for family in Family::ALL.into_iter().filter(|family| v6 || *family == Family::V4) {
            let message = route_by(index, family, TABLE_MAIN);
            let mut routes = self.handle.route().get(message).execute();
            while let Some(route) = routes.try_next().await.map_err(failed(what))? {
                // A kernel that filters strictly lists these alone, another one all.
                let host = route.header.destination_prefix_length == family.bits();
                // That of the host's own address there is the kernel's.
                let leads = route.header.kind == RouteType::Unicast;
                if host && leads && route.attributes.contains(&by) {
                    let to = destination(&route).filter(|to| Family::of(*to) == family);
                    let way = Way { by: side, largest: largest_of(&route) };
                    found.extend(to.map(|to| (to, way)));
                }
            }
        }
        Ok(())
    }

    /// Leads packets for an address into the tunnel. Says whether they were not.
    pub(super) async fn add_remote(
        &self,
        tunnel: &str,
        address: IpAddr,
        largest: LargestPacket,
    ) -> Result<bool, NetworkError> {
        let message = fitting(remote_route(self.index(tunnel).await?, address), largest);
        match self.handle.route().add(message).execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(false),
            result => {
                result.map(|()| true).map_err(failed(|| format!("lead {address} by {tunnel}")))
            }
        }
    }

    /// Leads packets for an address that is led into the tunnel by this interface, and lets them be so large at the most.
    /// None is lost meanwhile.
    pub(super) async fn turn_remote(
        &self,
        tunnel: &str,
        address: IpAddr,
        largest: LargestPacket,
    ) -> Result<(), NetworkError> {
        let message = fitting(remote_route(self.index(tunnel).await?, address), largest);
        let done = self.handle.route().add(message).replace().execute().await;
        done.map_err(failed(|| format!("turn packets for {address} to {tunnel}")))
    }

    /// Does so no more. Says whether it did.
    pub(super) async fn remove_remote(
        &self,
        tunnel: &str,
        address: IpAddr,
    ) -> Result<bool, NetworkError> {
        let Some(link) = self.get(tunnel).await? else { return Ok(false) };
        let mut message = remote_route(link.header.index, address);
        // Whoever has made it.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        match self.handle.route().del(message).execute().await {
            Err(error) if is(&error, Errno::SRCH) => Ok(false),
            result => result
                .map(|()| true)
                .map_err(failed(|| format!("lead {address} by {tunnel} no more"))),
        }
    }

    /// Sets the routes of a container's end of an attachment.
    pub(super) async fn set_routes(
        &self,
        index: u32,
        attached: &Attached,
    ) -> Result<(), NetworkError> {
        for end in attached.ends() {
            self.set_routes_of(index, &attached.ifname, &end).await?;
        }
        Ok(())
    }

    async fn set_routes_of(&self, index: u32, ifname: &str, end: &End) -> Result<(), NetworkError> {
        let End { gateway, behind_gateway, default_route, direct, address: _ } = end;
        // With an address of full length not even the gateway is reached without being told.
        let near = (!behind_gateway.is_empty()).then_some((IpNet::from(*gateway), false));
        let behind = behind_gateway.iter().map(|subnet| (*subnet, true));
        let default = default_route.then(|| (everywhere(Family::of(*gateway)), !direct));
        for (to, by_gateway) in near.into_iter().chain(behind).chain(default) {
            let mut message = route_to(index, to);
            if by_gateway {
                message.attributes.push(RouteAttribute::Gateway(wired(*gateway)));
            } else {
                message.header.scope = RouteScope::Link;
            }
            let request = self.handle.route().add(message).replace();
            let what = || format!("set route {to} by {gateway} on {ifname}");
            request.execute().await.map_err(failed(what))?;
        }
        Ok(())
    }

    /// The entry of the routing tables that a packet of the host to an address goes by.
    async fn route_to(&self, target: IpAddr) -> Result<Option<RouteMessage>, NetworkError> {
        let mut message = RouteMessageBuilder::<IpAddr>::new().build();
        set_destination(&mut message, IpNet::from(target));
        message.header.flags = RouteFlags::FibMatch;
        match self.handle.route().get(message).execute().try_next().await {
            Err(error)
                if [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL]
                    .iter()
                    .any(|errno| is(&error, *errno)) =>
            {
                Ok(None)
            }
            result => result.map_err(failed(|| format!("look up the route to {target}"))),
        }
    }

    /// Puts a route back; `false` where it is there, behind one that goes before it.
    pub(super) async fn add_route(&self, route: &BridgeRoute) -> Result<bool, NetworkError> {
        let index = self.index(&route.bridge).await?;
        let mut message = route_to(index, target_of(route));
        message.header.protocol = RouteProtocol::Kernel;
        (message.header.table, message.header.kind, message.header.scope) = match route.kind {
            RouteKind::Own => (table(TABLE_LOCAL), RouteType::Local, RouteScope::Host),
            RouteKind::Broadcast => (table(TABLE_LOCAL), RouteType::Broadcast, RouteScope::Link),
            RouteKind::Subnet => (table(TABLE_MAIN), RouteType::Unicast, RouteScope::Link),
        };
        // Of IPv6 the kernel finds the source by itself, and takes none that it does not have at that moment.
        if let address @ IpAddr::V4(_) = route.address.addr() {
            message.attributes.push(RouteAttribute::PrefSource(wired(address)));
        }
        match self.handle.route().add(message).execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(false),
            result => result.map(|()| true).map_err(failed(|| format!("add route {route}"))),
        }
    }
}

/// The number of a table that has one of 8 bits.
fn table(number: u32) -> u8 {
    u8::try_from(number).unwrap_or_default()
}

/// A route of everything of a family, by a link, in a table.
pub(super) fn route_by(index: u32, family: Family, table: u32) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .table_id(table)
        .scope(RouteScope::Link)
        .build();
    set_destination(&mut message, everywhere(family));
    message
}

/// A route by a link.
fn route_to(index: u32, to: IpNet) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().output_interface(index).build();
    set_destination(&mut message, to);
    message
}

fn set_destination(message: &mut RouteMessage, to: IpNet) {
    message.header.address_family = match to {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = to.prefix_len();
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(wired(to.network())));
    }
}

/// All addresses of a family.
fn everywhere(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn wired(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn remote_route(index: u32, address: IpAddr) -> RouteMessage {
    let mut message = route_to(index, IpNet::from(address));
    message.header.scope = RouteScope::Link;
    message
}

fn fitting(mut message: RouteMessage, largest: LargestPacket) -> RouteMessage {
    let metric = largest.map(|bytes| RouteAttribute::Metrics(vec![RouteMetric::Mtu(bytes)]));
    message.attributes.extend(metric);
    message
}

fn largest_of(route: &RouteMessage) -> LargestPacket {
    let mut metrics = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.find_map(|metrics| {
        metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(bytes) => Some(*bytes),
            _ => None,
        })
    })
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn target_of(route: &BridgeRoute) -> IpNet {
    match route.kind {
        RouteKind::Own => IpNet::from(route.address.addr()),
        RouteKind::Broadcast => IpNet::from(route.address.broadcast()),
        RouteKind::Subnet => route.address.trunc(),
    }
}

fn is_that(seen: &RouteMessage, route: &BridgeRoute, index: u32) -> bool {
    let by = seen.attributes.contains(&RouteAttribute::Oif(index));
    let target = target_of(route);
    let length = seen.header.destination_prefix_length;
    by && destination(seen) == Some(target.network()) && length == target.prefix_len()
}
