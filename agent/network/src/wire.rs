//! Links on the wire of an interface of the host: ends of containers, and VLANs.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, IpVlanFlags, IpVlanMode, LinkAttribute,
    LinkInfo, LinkMessage, MacVlanMode, VlanProtocol,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVlan};
use rustix::io::Errno;
use shoal_agent_planning::network::{Attached, OnWire, Vlan, names};
use shoal_types::spec::{IpvlanFlag, IpvlanMode, MacvlanMode, NetworkKind, WireMode};

use super::NetworkError;
use super::netlink::{Links, failed, find, ifname_of, info_of, is, mac_of};

/// Name of the link that is never made: asking for it tells whether the kernel could.
const PROBE: &str = "shoalprobe";

/// The drivers of networks on wires that the kernel has. What is built as a module is loaded for it.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn wire_drivers() -> Result<Vec<NetworkKind>, NetworkError> {
    let links = Links::open().map_err(|source| NetworkError::Netlink { source })?;
    let mut found = Vec::new();
    for (kind, info) in
        [(NetworkKind::Macvlan, InfoKind::MacVlan), (NetworkKind::Ipvlan, InfoKind::IpVlan)]
    {
        if links.knows(info).await? {
            found.push(kind);
        }
    }
    Ok(found)
}

impl Links {
    /// Whether the kernel can make links of a kind. It is asked for one without the link below that every such one
    /// needs, so it is refused in any case: with another number where the kind is unknown (rtnetlink(7)).
    pub(super) async fn knows(&self, kind: InfoKind) -> Result<bool, NetworkError> {
        let probe = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(PROBE).build();
        match self.handle.link().add(probe).execute().await {
            Err(error) if is(&error, Errno::OPNOTSUPP) => Ok(false),
            Err(error) if is(&error, Errno::INVAL) => Ok(true),
            Err(error) => Err(failed(|| "ask for kinds of links")(error)),
            // Not a kernel's answer; it is not to stay.
            Ok(()) => self.remove(PROBE).await.map(|()| true),
        }
    }

    /// The VLAN of this number that the host itself has of a link.
    pub(super) async fn vlan_of(
        &self,
        base: u32,
        number: u16,
        prefix: &str,
    ) -> Result<Option<String>, NetworkError> {
        let what = || "list links".to_owned();
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed(what))?;
        let is_it =
            |link: &&LinkMessage| below(link) == Some(base) && vlan_number(link) == Some(number);
        let names = links.iter().filter(is_it).filter_map(ifname_of);
        Ok(names.filter(|name| !names::is_ours(prefix, name)).map(str::to_owned).next())
    }

    /// Makes a VLAN, still down.
    pub(super) async fn create_vlan(&self, ifname: &str, vlan: &Vlan) -> Result<(), NetworkError> {
        let Vlan { base, number } = vlan;
        let message = LinkVlan::new(ifname, self.index(base).await?, *number).down().build();
        let what = || format!("create VLAN {number} of {base}");
        self.handle.link().add(message).execute().await.map_err(failed(what))
    }

    /// Makes the end of a container on a wire, in its namespace and under its final name, still down.
    pub(super) async fn create_on_wire(
        &self,
        attached: &Attached,
        wire: &OnWire,
        netns: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        let (kind, data) = kind_of(wire.mode);
        let mut message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
            .set_info_data(data)
            .name(&attached.ifname)
            .link(wire.index)
            .setns_by_fd(netns.as_raw_fd());
        if wire.mode.has_own_mac() {
            message = message.address(attached.mac.0.to_vec());
        }
        if attached.mtu != 0 {
            message = message.mtu(attached.mtu);
        }
        let OnWire { link, .. } = wire;
        let what = || {
            let name = wire.mode.kind().as_str();
            format!(
                "create {name} on {link}; a bridge, or a network with the other one of drivers macvlan and ipvlan, may \
                 have the interface"
            )
        };
        self.handle.link().add(message.build()).execute().await.map_err(failed(what))
    }
}

/// Whether a link in a container's namespace is the one that an attachment is.
pub(super) fn is_end_of(link: &LinkMessage, attached: &Attached) -> bool {
    let has_mac = mac_of(link) == Some(attached.mac);
    match &attached.wire {
        None => has_mac,
        Some(wire) => {
            info_of(link) == Some(&kind_of(wire.mode).0)
                && below(link) == Some(wire.index)
                && (has_mac || !wire.mode.has_own_mac())
        }
    }
}

fn kind_of(mode: WireMode) -> (InfoKind, InfoData) {
    match mode {
        WireMode::Macvlan(mode) => {
            let mode = match mode {
                MacvlanMode::Bridge => MacVlanMode::Bridge,
                MacvlanMode::Vepa => MacVlanMode::Vepa,
                MacvlanMode::Private => MacVlanMode::Private,
                MacvlanMode::Passthru => MacVlanMode::Passthrough,
            };
            (InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)]))
        }
        WireMode::Ipvlan(mode, flag) => {
            let mode = match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            };
            let flag = match flag {
                IpvlanFlag::Bridge => IpVlanFlags::empty(),
                IpvlanFlag::Private => IpVlanFlags::Private,
                IpvlanFlag::Vepa => IpVlanFlags::Vepa,
            };
            let data = vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flag)];
            (InfoKind::IpVlan, InfoData::IpVlan(data))
        }
    }
}

/// The number of the link that one is on.
fn below(link: &LinkMessage) -> Option<u32> {
    find(link, |attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// The number of a VLAN, if it is one as IEEE 802.1Q has them, and not one that carries others (802.1ad).
fn vlan_number(link: &LinkMessage) -> Option<u16> {
    let infos = find(link, |attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let carries = |one: &InfoVlan| *one == InfoVlan::Protocol(VlanProtocol::Ieee8021Ad);
    data.iter().filter(|_| !data.iter().any(carries)).find_map(|one| match one {
        InfoVlan::Id(number) => Some(*number),
        _ => None,
    })
}
