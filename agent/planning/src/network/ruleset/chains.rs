//! What the tables are made of besides their elements.

use super::mesh::Rules;
use super::{SetName, balance};
use crate::network::fence::MARK;

/// Name, type and flags of each set and map, in the order they are declared.
pub(super) const SETS: [(SetName, &str); 35] = [
    (SetName::Bridges, "set bridges { type ifname; }"),
    (SetName::Internal, "set internal { type ifname; }"),
    (SetName::SameBridge, "set same_bridge { type ifname . ifname; }"),
    (SetName::Subnets, "set subnets { type ipv4_addr; flags interval; }"),
    (SetName::Inside, "set inside { type ipv4_addr; flags interval; }"),
    (SetName::Lan, "set lan { type ipv4_addr . ifname; flags interval; }"),
    (SetName::Gateways, "set gateways { type ifname . ipv4_addr; }"),
    (SetName::Anywhere, "set anywhere { type ipv4_addr; }"),
    (SetName::Guests, "set guests { type ifname; }"),
    (
        SetName::PublishedAt,
        "map published_at { \
         type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }",
    ),
    (
        SetName::PublishedAny,
        "map published_any { type inet_proto . inet_service : ipv4_addr . inet_service; }",
    ),
    (SetName::HeldAddresses, "set held_addresses { type ipv4_addr; }"),
    (SetName::HeldMacs, "set held_macs { type ether_addr; }"),
    (SetName::Tunnels, "set tunnels { type ifname; }"),
    (SetName::Across, "set across { type ipv4_addr . ipv4_addr; flags interval; }"),
    (SetName::Vips, "map vips { type ifname . ipv4_addr : verdict; }"),
    (SetName::Backends, "map backends { typeof ip daddr . numgen random mod 65536 : ip daddr; }"),
    (SetName::Idle, "set idle { type ipv4_addr; }"),
    (SetName::Selves, "set selves { type ipv4_addr . ipv4_addr; }"),
    (SetName::Mesh, "set mesh { type ifname; }"),
    (SetName::Home, "set home { type ipv4_addr; }"),
    (SetName::Far, "set far { type ipv4_addr; }"),
    (SetName::FarMarks, "map far_marks { type ipv4_addr : mark; }"),
    (SetName::Speakers, "set speakers { type ipv4_addr . mark; }"),
    (SetName::Nodes, "set nodes { type ipv4_addr; }"),
    (SetName::Ingress, "map ingress { type inet_proto . inet_service : verdict; }"),
    (
        SetName::IngressSlots,
        "map ingress_slots { typeof meta l4proto . th dport . numgen random mod 65536 : \
         ip daddr . th dport; }",
    ),
    (SetName::Arrivals, "map arrivals { type inet_proto . inet_service : verdict; }"),
    (
        SetName::ArrivalSlots,
        "map arrival_slots { typeof ip daddr . meta l4proto . th dport . \
         numgen random mod 65536 : ip daddr . th dport; }",
    ),
    (SetName::Led, "set led { type inet_proto . inet_service; }"),
    (SetName::IdlePorts, "set idle_ports { type inet_proto . inet_service; }"),
    (SetName::FarMacs, "map far_macs { type mark : ether_addr; }"),
    (SetName::Strict, "set strict { type ifname; }"),
    (SetName::Own, "set own { type ifname . ether_addr . ipv4_addr; }"),
    (SetName::OwnMacs, "set own_macs { type ifname . ether_addr; }"),
];

/// The chains for packets.
///
/// 127.0.0.0/8 is guarded on every interface (RFC 1122, 3.2.1.3): the kernel would drop such
/// packets itself when it routes them, but publishing on 127.0.0.1 translates the address before,
/// and it needs `route_localnet` on the bridges, which alone would let containers reach services of
/// the host's loopback (CVE-2020-8558). The guard stands before address translation, where a
/// genuine reply still carries the bridge's address.
///
/// A container that draws itself as the backend of its own service would be answered by itself, past the
/// host that translated the address: it is asked by the gateway's.
///
/// Who asks a service without backends by TCP is reset: what the kernel says by ICMP to somebody whose
/// packets leave by where they came in, it says once a second at the most, and mostly not at all.
///
/// What asks at a port that answers on every node while nobody serves is told so: the port is held, so the host
/// would say nothing to who asks by UDP.
///
/// `quiet` keeps to itself that a container could reach a sibling without the host: on a network that spans
/// hosts all goes through it.
///
/// `admit` marks what may pass, after addresses were translated back: the routing rules of
/// [`fence`](crate::network::fence) let nothing else through, so that nothing is forwarded while the
/// table is missing. It judges by itself what `forward` judges again: whichever chain or rule
/// somebody deletes, what is not published stays closed.
pub(super) fn packet_chains(closed: bool, draws: bool, mesh: bool) -> String {
    let mesh = if mesh { Rules::with_mesh() } else { Rules::none() };
    arriving_chains(draws, &mesh) + &judging_chains(closed, &mesh)
}

/// What happens to packets before it is known where they go, and after.
fn arriving_chains(draws: bool, mesh: &Rules) -> String {
    let picks = if draws { balance::chains() } else { String::new() };
    let Rules { guard, arriving, admit, asking, leaving, chains, .. } = mesh;
    format!(
        "{picks}  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @published_at
    dnat ip to meta l4proto . th dport map @published_any
    meta l4proto . th dport vmap @ingress
  }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname != \"lo\" ip daddr 127.0.0.0/8 drop
    iifname != \"lo\" ip saddr 127.0.0.0/8 drop
{guard}  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    iifname . ip daddr vmap @vips
    iifname @internal accept
{arriving}    iifname @tunnels accept
    fib daddr type != local accept
    iifname @bridges jump publish
    ip daddr @anywhere jump publish
    fib daddr . iif type local jump publish
    dnat ip to meta l4proto . th dport map @published_any
    meta l4proto . th dport vmap @ingress
  }}
  chain pass {{
    meta mark set meta mark | {MARK:#x}
  }}
{chains}  chain admit {{
    type filter hook prerouting priority -90; policy accept;
{admit}    ip daddr . iifname @lan goto pass
    iifname @tunnels ip saddr . ip daddr @across goto pass
    iifname @tunnels accept
    iifname @internal accept
    iifname @bridges ip daddr != @inside goto pass
    ip daddr @subnets ct state established,related goto pass
    ip daddr @subnets ct status dnat goto pass
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{asking}    fib daddr type local jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
{leaving}    ip saddr . ip daddr @selves masquerade
    ip saddr . ip daddr @across accept
    ip saddr @subnets oifname != @bridges masquerade
    ip saddr . oifname @lan ct status dnat masquerade
    ip saddr 127.0.0.0/8 oifname @bridges masquerade
  }}
"
    )
}

/// What may arrive, and what may pass.
fn judging_chains(closed: bool, mesh: &Rules) -> String {
    let Rules { input, forward, .. } = mesh;
    let closed = if closed {
        "    iifname @guests accept
    oifname @guests accept
    meta nfproto ipv4 iifname != @bridges oifname != @bridges drop\n"
    } else {
        ""
    };
    format!(
        "  chain input {{
    type filter hook input priority 0; policy accept;
{input}    iifname @tunnels drop
    iifname @internal ct state established,related accept
    iifname . ip daddr @gateways accept
    iifname @internal drop
    meta l4proto . th dport @idle_ports meta l4proto tcp reject with tcp reset
    meta l4proto . th dport @idle_ports reject
  }}
  chain quiet {{
    type filter hook output priority 0; policy accept;
    oifname @bridges icmp type redirect drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname @bridges ip daddr @idle meta l4proto tcp reject with tcp reset
    iifname @bridges ip daddr @idle reject
{forward}    iifname . oifname @same_bridge accept
    iifname @tunnels ip saddr . ip daddr @across oifname @bridges accept
    iifname @bridges ip saddr . ip daddr @across oifname @tunnels accept
    iifname @tunnels drop
    oifname @tunnels drop
    iifname @internal drop
    oifname @internal drop
    ct state established,related accept
    ct status dnat oifname @bridges accept
    oifname @bridges drop
{closed}  }}
"
    )
}

/// The chains for frames. A frame with a priority tag (VLAN 0, of 802.1Q or of 802.1ad) is received
/// as if it had none, and so is one with several of them: none may carry what the others may not.
pub(super) fn frame_chains(prefix: &str) -> String {
    format!(
        "  chain speak {{
    vlan id 0 drop
    ether type 8021ad vlan id 0 drop
    meta protocol ip6 drop
    iifname @strict iifname . ether saddr != @own_macs drop
    iifname @strict ether type ip iifname . ether saddr . ip saddr != @own drop
    iifname @strict ether type arp iifname . arp saddr ether . arp saddr ip != @own drop
    ether saddr @held_macs iifname . ether saddr != @own_macs drop
    arp saddr ether @held_macs iifname . arp saddr ether != @own_macs drop
    arp saddr ip @held_addresses iifname . arp saddr ether . arp saddr ip != @own drop
    ip saddr @held_addresses iifname . ether saddr . ip saddr != @own drop
  }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{prefix}v*\" jump speak
  }}
  chain forward {{
    type filter hook forward priority -300; policy accept;
    iifname \"{prefix}v*\" udp sport 67 udp dport 68 drop
  }}
"
    )
}
