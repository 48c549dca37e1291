//! The mesh's device of VXLAN in the kernel, where its frames go, and its table of routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use rtnetlink::LinkVxlan;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::RouteAttribute;
use rustix::io::Errno;
use shoal_agent_planning::network::ingress::{self, MTU, NETWORK, PORT};
use shoal_agent_planning::network::{Family, Mac};
use shoal_agent_planning::node::host::{MeshAction, MeshDevice, ObservedMesh, Vxlan};
use shoal_agent_planning::tunnel::Side;

use super::NetworkError;
use super::netlink::{Links, address_of, failed, find, is, mac_of};
use super::routes::route_by;

/// How far an outer packet goes: the tunnel is one step.
const TTL: u8 = 64;

impl Links {
    /// The tunnel and the device of the agent with this prefix.
    ///
    /// Routes of IPv6 are looked for if there is any.
    pub(super) async fn observe_mesh(
        &self,
        prefix: &str,
        v6: bool,
    ) -> Result<ObservedMesh, NetworkError> {
        let up = |link: &LinkMessage| link.header.flags.contains(LinkFlags::Up);
        let (mut tunnels, mut by) = (BTreeSet::new(), BTreeMap::new());
        for side in Side::ALL {
            let link = self.get(&side.ifname(prefix)).await?;
            tunnels.extend(link.as_ref().filter(|link| up(link)).map(|_| side));
            by.extend(link.map(|link| (link.header.index, side)));
        }
        let ifname = ingress::ifname(prefix);
        let Some(link) = self.get(&ifname).await? else {
            return Ok(ObservedMesh { tunnels, device: None });
        };
        let index = link.header.index;
        let what = || format!("list addresses of {ifname}");
        let request = self.handle.address().get().set_link_index_filter(index);
        let addresses: Vec<AddressMessage> =
            request.execute().try_collect().await.map_err(failed(what))?;
        let mtu = find(&link, |attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        let device = MeshDevice {
            index,
            vxlan: vxlan_of(&link),
            up: up(&link),
            arp: !link.header.flags.contains(LinkFlags::Noarp),
            mtu: mtu.unwrap_or_default(),
            mac: mac_of(&link),
            addresses: addresses.iter().filter_map(address_of).collect(),
            far: self.observe_far(index, &by).await?,
            default_routes: self.observe_mesh_routes(index, v6).await?,
        };
        Ok(ObservedMesh { tunnels, device: Some(device) })
    }

    async fn observe_far(
        &self,
        index: u32,
        by: &BTreeMap<u32, Side>,
    ) -> Result<BTreeMap<Mac, BTreeSet<Option<(Ipv4Addr, Side)>>>, NetworkError> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        let mut entries = request.execute();
        let mut far: BTreeMap<Mac, BTreeSet<Option<(Ipv4Addr, Side)>>> = BTreeMap::new();
        let what = || "list where hardware addresses are".to_owned();
        while let Some(entry) = entries.try_next().await.map_err(failed(what))? {
            if entry.header.ifindex == index
                && let Some((mac, to)) = entry_of(&entry, by)
            {
                far.entry(mac).or_default().insert(to);
            }
        }
        Ok(far)
    }

    async fn observe_mesh_routes(
        &self,
        index: u32,
        v6: bool,
    ) -> Result<BTreeSet<Family>, NetworkError> {
        let mut found = BTreeSet::new();
        for family in Family::ALL.into_iter().filter(|family| v6 || *family == Family::V4) {
            let mut routes = self.handle.route().get(route_by(index, family, NETWORK)).execute();
            let what = || format!("list routes of table {NETWORK}");
            while let Some(route) = routes.try_next().await.map_err(failed(what))? {
                let has = |attribute: RouteAttribute| route.attributes.contains(&attribute);
                let is_that = route.header.destination_prefix_length == 0
                    && has(RouteAttribute::Table(NETWORK))
                    && has(RouteAttribute::Oif(index));
                found.extend(is_that.then_some(family));
            }
        }
        Ok(found)
    }

    /// Does one planned change. What is done already is done.
    pub(super) async fn perform_on_mesh(
        &self,
        prefix: &str,
        action: &MeshAction,
    ) -> Result<(), NetworkError> {
        let ifname = ingress::ifname(prefix);
        match action {
            MeshAction::Create { home } => {
                // On no other link: it would go with that one, and the tunnel's links come and go as keys change.
                let device = LinkVxlan::new(&ifname, NETWORK)
                    .port(PORT)
                    .local(*home)
                    .learning(false)
                    .ttl(TTL)
                    .address(ingress::mac(*home).0.to_vec())
                    .mtu(MTU)
                    .arp(false)
                    .down();
                let request = self.handle.link().add(device.build());
                request.execute().await.map_err(failed(|| format!("create {ifname}")))
            }
            MeshAction::AddFar(peer, side) => {
                let by = self.index(&side.ifname(prefix)).await?;
                let mac = ingress::mac(*peer);
                let mut request = self
                    .handle
                    .neighbours()
                    .add_bridge(self.index(&ifname).await?, &mac.0)
                    .flags(NeighbourFlags::Own)
                    .destination(IpAddr::V4(*peer))
                    .replace();
                // Else the outer packet would look for its way with the mark of the inner one, which is by
                // the mesh.
                request.message_mut().attributes.push(NeighbourAttribute::IfIndex(by));
                request.execute().await.map_err(failed(|| format!("{action}")))
            }
            MeshAction::RemoveFar(mac) => {
                let mut request =
                    self.handle.neighbours().add_bridge(self.index(&ifname).await?, &mac.0);
                request = request.flags(NeighbourFlags::Own);
                let message = request.message_mut().clone();
                match self.handle.neighbours().del(message).execute().await {
                    Err(error) if is(&error, Errno::NOENT) => Ok(()),
                    result => result.map_err(failed(|| format!("{action}"))),
                }
            }
            MeshAction::AddRoute(family) => {
                let message = route_by(self.index(&ifname).await?, *family, NETWORK);
                match self.handle.route().add(message).execute().await {
                    Err(error) if is(&error, Errno::EXIST) => Ok(()),
                    result => result.map_err(failed(|| format!("{action}"))),
                }
            }
        }
    }
}

fn vxlan_of(link: &LinkMessage) -> Option<Vxlan> {
    let infos = find(link, |attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(infos)) => Some(infos.as_slice()),
            _ => None,
        }),
        _ => None,
    })?;
    let (mut id, mut port, mut local, mut lower, mut learning) = (0, 0, None, None, false);
    for info in infos {
        match info {
            InfoVxlan::Id(value) => id = *value,
            InfoVxlan::Port(value) => port = *value,
            InfoVxlan::Local(value) => local = Some(*value),
            InfoVxlan::Link(value) => lower = Some(*value),
            InfoVxlan::Learning(value) => learning = *value,
            _ => {}
        }
    }
    // Some kernels name none by zero.
    let bound = lower.is_some_and(|lower| lower != 0);
    Some(Vxlan { id, port, local, bound, learning })
}

/// A hardware address, and where frames for it go by the tunnel.
fn entry_of(
    entry: &NeighbourMessage,
    by: &BTreeMap<u32, Side>,
) -> Option<(Mac, Option<(Ipv4Addr, Side)>)> {
    let (mut mac, mut to, mut via) = (None, None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(Mac);
            }
            // The library reads it by the family, which is that of bridges.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                to = bytes.first_chunk::<4>().filter(|_| bytes.len() == 4).copied();
            }
            NeighbourAttribute::IfIndex(index) => via = Some(*index),
            _ => {}
        }
    }
    let side = via.and_then(|via| by.get(&via).copied());
    Some((mac?, to.map(Ipv4Addr::from).zip(side)))
}
