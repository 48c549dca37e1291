//! The sets and maps of the tables, by what they hold.

use super::{EGRESS, FAMILY, FRAMES};
use crate::network::Family;

/// The sets and maps of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetName {
    /// Every bridge of this agent.
    Bridges,
    /// The bridges of internal networks.
    Internal,
    /// Each bridge beside itself: packets that stay on their bridge.
    SameBridge,
    /// Subnets whose packets leave with the host's address.
    Subnets,
    /// Every subnet, also those of internal networks.
    Inside,
    /// Each subnet beside its bridge.
    Lan,
    /// Each internal bridge beside the host's address on it.
    Gateways,
    /// Addresses of the host that are on no wire.
    Anywhere,
    /// Bridges of others that the host forwards for.
    Guests,
    /// Ports published on one address of the host.
    PublishedAt,
    /// Ports published on every address of the host.
    PublishedAny,
    /// Addresses that the node has given to containers, and its own on bridges.
    HeldAddresses,
    /// Hardware addresses likewise.
    HeldMacs,
    /// The tunnel to other hosts.
    Tunnels,
    /// Each subnet of a network that spans hosts, beside itself: what may pass between hosts.
    Across,
    /// Addresses of services, and how one of their backends is drawn.
    Vips,
    /// Those of them whose clients are led to the same backend each time.
    StickyVips,
    /// Slots of such an address, and whose each is.
    Backends,
    /// Such addresses without a backend.
    Idle,
    /// Containers that may be drawn by themselves.
    Selves,
    /// The device by which others hear of connections to published ports.
    Mesh,
    /// The host's own address in the tunnel.
    Home,
    /// Those of other nodes.
    Far,
    /// The mark of what goes to each of them.
    FarMarks,
    /// Each of them beside the mark of what has come from it.
    Speakers,
    /// Other addresses of these nodes.
    Nodes,
    /// Ports that answer on every node, and how a backend of each is drawn.
    Ingress,
    /// Those of them whose clients are led to the same backend each time.
    StickyPorts,
    /// Slots of such a port, and whose each is.
    IngressSlots,
    /// Such ports with backends on this host.
    Arrivals,
    /// Slots of these.
    ArrivalSlots,
    /// Such ports with backends on other hosts.
    Led,
    /// Such ports without a backend.
    IdlePorts,
    /// Hardware addresses on the mesh, by the mark of what goes there.
    FarMacs,
    /// Bridge ports on which nobody says anything but what is their own.
    Strict,
    /// What a container says of itself: bridge port, hardware address, address.
    Own,
    /// The same of IPv6, as it stands in what neighbours ask and say.
    Targets,
    /// The first two of these.
    OwnMacs,
}

impl SetName {
    /// Name in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridges => "bridges",
            Self::Internal => "internal",
            Self::SameBridge => "same_bridge",
            Self::Subnets => "subnets",
            Self::Inside => "inside",
            Self::Lan => "lan",
            Self::Gateways => "gateways",
            Self::Anywhere => "anywhere",
            Self::Guests => "guests",
            Self::PublishedAt => "published_at",
            Self::PublishedAny => "published_any",
            Self::HeldAddresses => "held_addresses",
            Self::HeldMacs => "held_macs",
            Self::Tunnels => "tunnels",
            Self::Across => "across",
            Self::Vips => "vips",
            Self::StickyVips => "sticky_vips",
            Self::Backends => "backends",
            Self::Idle => "idle",
            Self::Selves => "selves",
            Self::Mesh => "mesh",
            Self::Home => "home",
            Self::Far => "far",
            Self::FarMarks => "far_marks",
            Self::Speakers => "speakers",
            Self::Nodes => "nodes",
            Self::Ingress => "ingress",
            Self::StickyPorts => "sticky_ports",
            Self::IngressSlots => "ingress_slots",
            Self::Arrivals => "arrivals",
            Self::ArrivalSlots => "arrival_slots",
            Self::Led => "led",
            Self::IdlePorts => "idle_ports",
            Self::FarMacs => "far_macs",
            Self::Strict => "strict",
            Self::Own => "own",
            Self::Targets => "targets",
            Self::OwnMacs => "own_macs",
        }
    }

    /// Name of the one of this family.
    pub(super) fn name(self, family: Family) -> String {
        let end = if family == Family::V6 { "6" } else { "" };
        format!("{}{end}", self.as_str())
    }

    pub(super) fn family(self) -> &'static str {
        match self {
            Self::HeldAddresses
            | Self::HeldMacs
            | Self::Strict
            | Self::Own
            | Self::Targets
            | Self::OwnMacs => FRAMES,
            Self::FarMacs => EGRESS,
            _ => FAMILY,
        }
    }
}
