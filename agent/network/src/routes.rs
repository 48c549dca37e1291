//! Routes: those of bridges, which the kernel makes with their addresses and anybody can delete; those
//! into the tunnel to other hosts; those of containers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;
use shoal_agent_planning::network::Attached;
use shoal_agent_planning::node::host::{BridgeRoute, RouteKind};

use super::NetworkError;
use super::netlink::{Links, failed, is};

/// Numbers of the tables (rtnetlink(7)).
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
/// Full length of a prefix.
const HOST: u8 = 32;
/// A longer prefix leaves no address for all that are on the subnet.
const BROADCAST_MAX: u8 = 30;

impl Links {
    /// Those of the routes of a bridge with this address that there are. Asks for three addresses, however
    /// many routes the host has.
    pub(super) async fn observe_routes(
        &self,
        bridge: &str,
        address: Ipv4Net,
        remote: &BTreeSet<Ipv4Addr>,
    ) -> Result<Vec<BridgeRoute>, NetworkError> {
        let Some(link) = self.get(bridge).await? else { return Ok(Vec::new()) };
        let (own, index) = (address.addr(), link.header.index);
        // An address of the subnet that is not the bridge's, and has no route of its own.
        let other = address.hosts().find(|host| *host != own && !remote.contains(host));
        let everybody = (address.prefix_len() <= BROADCAST_MAX).then(|| address.broadcast());
        let mut found = Vec::new();
        for kind in RouteKind::ALL {
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

    /// The addresses that are routed into the tunnel; `None` if there is no such link.
    pub(super) async fn observe_remote(
        &self,
        tunnel: &str,
    ) -> Result<Option<BTreeSet<Ipv4Addr>>, NetworkError> {
        let Some(link) = self.get(tunnel).await? else { return Ok(None) };
        if !link.header.flags.contains(LinkFlags::Up) {
            return Ok(None);
        }
        let by = RouteAttribute::Oif(link.header.index);
        let what = || format!("list routes by {tunnel}");
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(TABLE_MAIN)
            .output_interface(link.header.index)
            .build();
        let mut routes = self.handle.route().get(message).execute();
        let mut found = BTreeSet::new();
        while let Some(route) = routes.try_next().await.map_err(failed(what))? {
            // A kernel that filters strictly lists these alone, another one all.
            let host = route.header.destination_prefix_length == HOST;
            if host && route.attributes.contains(&by) {
                found.extend(destination(&route));
            }
        }
        Ok(Some(found))
    }

    /// Leads packets for an address into the tunnel. Says whether they were not.
    pub(super) async fn add_remote(
        &self,
        tunnel: &str,
        address: Ipv4Addr,
    ) -> Result<bool, NetworkError> {
        let message = remote_route(self.index(tunnel).await?, address);
        match self.handle.route().add(message).execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(false),
            result => {
                result.map(|()| true).map_err(failed(|| format!("lead {address} by {tunnel}")))
            }
        }
    }

    /// Does so no more. Says whether it did.
    pub(super) async fn remove_remote(
        &self,
        tunnel: &str,
        address: Ipv4Addr,
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
        let Attached { gateway, ifname, .. } = attached;
        // With an address of 32 bits not even the gateway is reached without being told.
        let direct = (!attached.behind_gateway.is_empty()).then_some((*gateway, HOST, false));
        let behind = attached.behind_gateway.iter();
        let behind = behind.map(|subnet| (subnet.network(), subnet.prefix_len(), true));
        let default = attached.default_route.then_some((Ipv4Addr::UNSPECIFIED, 0, true));
        for (to, length, by_gateway) in direct.into_iter().chain(behind).chain(default) {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index);
            let builder =
                if length == 0 { builder } else { builder.destination_prefix(to, length) };
            let builder = if by_gateway {
                builder.gateway(*gateway)
            } else {
                builder.scope(RouteScope::Link)
            };
            let request = self.handle.route().add(builder.build()).replace();
            let what = || format!("set route {to}/{length} by {gateway} on {ifname}");
            request.execute().await.map_err(failed(what))?;
        }
        Ok(())
    }

    /// The entry of the routing tables that a packet of the host to an address goes by.
    async fn route_to(&self, target: Ipv4Addr) -> Result<Option<RouteMessage>, NetworkError> {
        let mut message =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(target, HOST).build();
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
        let builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(index)
            .protocol(RouteProtocol::Kernel)
            .pref_source(route.address.addr());
        let builder = match route.kind {
            RouteKind::Own => builder
                .destination_prefix(route.address.addr(), HOST)
                .table_id(TABLE_LOCAL)
                .kind(RouteType::Local)
                .scope(RouteScope::Host),
            RouteKind::Broadcast => builder
                .destination_prefix(route.address.broadcast(), HOST)
                .table_id(TABLE_LOCAL)
                .kind(RouteType::Broadcast)
                .scope(RouteScope::Link),
            RouteKind::Subnet => builder
                .destination_prefix(route.address.network(), route.address.prefix_len())
                .table_id(TABLE_MAIN)
                .scope(RouteScope::Link),
        };
        match self.handle.route().add(builder.build()).execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(false),
            result => result.map(|()| true).map_err(failed(|| format!("add route {route}"))),
        }
    }
}

fn remote_route(index: u32, address: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(index)
        .destination_prefix(address, HOST)
        .table_id(TABLE_MAIN)
        .scope(RouteScope::Link)
        .build()
}

fn destination(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

fn is_that(seen: &RouteMessage, route: &BridgeRoute, index: u32) -> bool {
    let by = seen.attributes.contains(&RouteAttribute::Oif(index));
    let to = destination(seen);
    let (network, length) = match route.kind {
        RouteKind::Own => (route.address.addr(), HOST),
        RouteKind::Broadcast => (route.address.broadcast(), HOST),
        RouteKind::Subnet => (route.address.network(), route.address.prefix_len()),
    };
    by && to == Some(network) && seen.header.destination_prefix_length == length
}
