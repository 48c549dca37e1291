//! What the tables are made of besides their elements.

use std::fmt::Write as _;

use super::mesh::Rules;
use super::{SetName, Shape, balance};
use crate::network::Family;
use crate::network::fence::MARK;

/// How many echo requests of other nodes a host answers in a second, and at once: they find out whether they reach
/// it, and with how large packets.
const ECHOES: u32 = 200;

/// Name, type and flags of each set and map, in the order they are declared. What has a `$` in it there is once
/// for each family ([`for_family`]).
pub(super) const SETS: [(SetName, &str); 38] = [
    (SetName::Bridges, "set bridges { type ifname; }"),
    (SetName::Internal, "set internal { type ifname; }"),
    (SetName::SameBridge, "set same_bridge { type ifname . ifname; }"),
    (SetName::Subnets, "set subnets$6 { type $addr; flags interval; }"),
    (SetName::Inside, "set inside$6 { type $addr; flags interval; }"),
    (SetName::Lan, "set lan$6 { type $addr . ifname; flags interval; }"),
    (SetName::Gateways, "set gateways$6 { type ifname . $addr; }"),
    (SetName::Anywhere, "set anywhere$6 { type $addr; }"),
    (SetName::Guests, "set guests { type ifname; }"),
    (
        SetName::PublishedAt,
        "map published_at$6 { \
         type $addr . inet_proto . inet_service : $addr . inet_service; }",
    ),
    (
        SetName::PublishedAny,
        "map published_any$6 { type inet_proto . inet_service : $addr . inet_service; }",
    ),
    (SetName::HeldAddresses, "set held_addresses { type ipv4_addr; }"),
    (SetName::HeldMacs, "set held_macs { type ether_addr; }"),
    (SetName::Tunnels, "set tunnels { type ifname; }"),
    (SetName::Across, "set across$6 { type $addr . $addr; flags interval; }"),
    (SetName::Vips, "set vips$6 { type ifname . $addr; }"),
    (SetName::StickyVips, "set sticky_vips$6 { type $addr; }"),
    (
        SetName::Backends,
        "map backends$6 { typeof $ip daddr . numgen random mod 65536 : $ip daddr; }",
    ),
    (SetName::Idle, "set idle$6 { type $addr; }"),
    (SetName::Selves, "set selves$6 { type $addr . $addr; }"),
    (SetName::Mesh, "set mesh { type ifname; }"),
    (SetName::Home, "set home$6 { type $addr; }"),
    (SetName::Far, "set far$6 { type $addr; }"),
    (SetName::FarMarks, "map far_marks$6 { type $addr : mark; }"),
    (SetName::Speakers, "set speakers$6 { type $addr . mark; }"),
    (SetName::Nodes, "set nodes$6 { type $addr; }"),
    (SetName::Ingress, "set ingress$6 { type inet_proto . inet_service; }"),
    (SetName::StickyPorts, "set sticky_ports$6 { type inet_proto . inet_service; }"),
    (
        SetName::IngressSlots,
        "map ingress_slots$6 { typeof meta l4proto . th dport . numgen random mod 65536 : \
         $ip daddr . th dport; }",
    ),
    (SetName::Arrivals, "set arrivals$6 { type inet_proto . inet_service; }"),
    (
        SetName::ArrivalSlots,
        "map arrival_slots$6 { typeof $ip daddr . meta l4proto . th dport . \
         numgen random mod 65536 : $ip daddr . th dport; }",
    ),
    (SetName::Led, "set led$6 { type inet_proto . inet_service; }"),
    (SetName::IdlePorts, "set idle_ports$6 { type inet_proto . inet_service; }"),
    (SetName::FarMacs, "map far_macs { type mark : ether_addr; }"),
    (SetName::Strict, "set strict { type ifname; }"),
    (SetName::Own, "set own$6 { type ifname . ether_addr . $addr; }"),
    (SetName::Targets, "set targets$only6 { typeof iifname . ether saddr . @th,64,128; }"),
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
/// A connection whose backend is gone is forgotten, and its next packet led to another one, which knows nothing of it
/// and resets it. Where connection tracking takes up nothing but beginnings (`nf_conntrack_tcp_loose`), such a packet
/// is led nowhere, and the host resets it.
///
/// What asks at a port that answers on every node while nobody serves is told so: the port is held, so the host
/// would say nothing to who asks by UDP.
///
/// Other nodes ask by an echo of ICMP which packets reach a host. It comes by the tunnel, which has checked who sends
/// it, for the host's address in the tunnel, and is all that reaches the host itself that way.
///
/// Who opens a connection through the tunnel, and who answers, is told of segments that pass there: `rt mtu` looks at
/// the routes of both directions, and nothing is made larger than it was said to be.
///
/// `quiet` keeps to itself that a container could reach a sibling without the host: on a network that spans
/// hosts all goes through it.
///
/// What the host asks of itself at `::1` is led nowhere: an answer that comes from elsewhere cannot go there, as IPv6
/// knows nothing like `route_localnet`.
///
/// `admit` marks what may pass, after addresses were translated back: the routing rules of
/// [`fence`](crate::network::fence) let nothing else through, so that nothing is forwarded while the
/// table is missing. It judges by itself what `forward` judges again: whichever chain or rule
/// somebody deletes, what is not published stays closed.
///
/// What holds of each family is written once, with what differs marked by a `$` ([`for_families`]).
pub(super) fn packet_chains(shape: &Shape) -> String {
    let mesh = if shape.mesh { Rules::with_mesh() } else { Rules::none() };
    let families = Family::ALL.into_iter().filter(|family| shape.v6 || *family == Family::V4);
    let picks = families.map(|family| for_family(&balance::chains(), family, !shape.v6));
    let text = arriving_chains(&mesh) + &judging_chains(shape, &mesh);
    picks.collect::<String>() + &for_families(&text, shape.v6)
}

/// The same for one family: `$ip` is its word for its addresses, `$addr` their type, `$6` what the names of its sets
/// end with, `$nf` what keeps other families out where there are several.
pub(super) fn for_family(text: &str, family: Family, alone: bool) -> String {
    let (ip, addr, end, nf) = match family {
        Family::V4 => ("ip", "ipv4_addr", "", "meta nfproto ipv4 "),
        Family::V6 => ("ip6", "ipv6_addr", "6", "meta nfproto ipv6 "),
    };
    let nf = if alone { "" } else { nf };
    text.replace("$only6", "")
        .replace("$addr", addr)
        .replace("$ip", ip)
        .replace("$6", end)
        .replace("$nf", nf)
}

/// Lines with a `$` once for each family that there is, and those with `$only6` where there is IPv6.
pub(super) fn for_families(text: &str, v6: bool) -> String {
    let mut all = String::new();
    for line in text.split_inclusive('\n') {
        for family in Family::ALL {
            let once = if line.contains("$only6") { Family::V6 } else { Family::V4 };
            let wanted = (v6 || family == Family::V4)
                && (family == once || (line.contains('$') && !line.contains("$only6")));
            if wanted {
                all += &for_family(line, family, !v6);
            }
        }
    }
    all
}

/// The sets and maps that there are: which, of which family, and how each is declared.
pub(super) fn sets(v6: bool) -> impl Iterator<Item = (SetName, Family, String)> {
    SETS.iter().flat_map(move |(set, declaration)| {
        let twins = declaration.contains("$6").then_some(Family::V6).filter(|_| v6);
        let first = (v6 || !declaration.contains("$only6")).then_some(Family::V4);
        let one = move |family| (*set, family, for_family(declaration, family, !v6));
        first.into_iter().chain(twins).map(one)
    })
}

/// What happens to packets before it is known where they go, and after.
fn arriving_chains(mesh: &Rules) -> String {
    let Rules { guard, arriving, admit, asking, leaving, chains, .. } = mesh;
    format!(
        "  chain publish {{
    dnat $ip to $ip daddr . meta l4proto . th dport map @published_at$6
    dnat $ip to meta l4proto . th dport map @published_any$6
    $nfmeta l4proto . th dport @ingress$6 goto pick_port$6
  }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname != \"lo\" ip daddr 127.0.0.0/8 drop
    iifname != \"lo\" ip saddr 127.0.0.0/8 drop
    iifname != @mesh iifname != @tunnels $ip saddr @far$6 drop
    iifname != @mesh iifname != @tunnels iifname != \"lo\" $ip daddr @home$6 drop
{guard}  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    iifname . $ip daddr @vips$6 goto pick_vip$6
    iifname @internal accept
{arriving}    iifname @tunnels accept
    fib daddr type != local accept
    iifname @bridges jump publish
    $ip daddr @anywhere$6 jump publish
    fib daddr . iif type local jump publish
    dnat $ip to meta l4proto . th dport map @published_any$6
    $nfmeta l4proto . th dport @ingress$6 goto pick_port$6
  }}
  chain pass {{
    meta mark set meta mark | {MARK:#x}
  }}
{chains}  chain admit {{
    type filter hook prerouting priority -90; policy accept;
{admit}    $ip daddr . iifname @lan$6 goto pass
    iifname @tunnels $ip saddr . $ip daddr @across$6 goto pass
    iifname @tunnels accept
    iifname @internal accept
    iifname @bridges $ip daddr != @inside$6 goto pass
    $ip daddr @subnets$6 ct state established,related goto pass
    $ip daddr @subnets$6 ct status dnat goto pass
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{asking}    ip6 daddr ::1$only6 accept
    fib daddr type local jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
{leaving}    $ip saddr . $ip daddr @selves$6 masquerade
    $ip saddr . $ip daddr @across$6 accept
    $ip saddr @subnets$6 oifname != @bridges masquerade
    $ip saddr . oifname @lan$6 ct status dnat masquerade
    ip saddr 127.0.0.0/8 oifname @bridges masquerade
  }}
"
    )
}

/// What may arrive, and what may pass.
fn judging_chains(shape: &Shape, mesh: &Rules) -> String {
    let Rules { input, forward, .. } = mesh;
    let mut closed = String::new();
    for (word, _) in [("ipv4", shape.closed), ("ipv6", shape.closed_v6)].iter().filter(|one| one.1)
    {
        if closed.is_empty() {
            closed += "    iifname @guests accept\n    oifname @guests accept\n";
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            closed,
            "    meta nfproto {word} iifname != @bridges oifname != @bridges drop"
        );
    }
    format!(
        "  chain input {{
    type filter hook input priority 0; policy accept;
{input}    iifname @tunnels ip saddr @far ip daddr @home icmp type echo-reply accept
    iifname @tunnels ip saddr @far ip daddr @home icmp type echo-request \
    limit rate {ECHOES}/second burst {ECHOES} packets accept
    iifname @tunnels drop
    iifname @internal ct state established,related accept
    iifname . $ip daddr @gateways$6 accept
    iifname @internal$only6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    iifname @internal drop
    $nfmeta l4proto . th dport @idle_ports$6 meta l4proto tcp reject with tcp reset
    $nfmeta l4proto . th dport @idle_ports$6 reject
  }}
  chain quiet {{
    type filter hook output priority 0; policy accept;
    oifname @bridges icmp type redirect drop
    oifname @bridges$only6 icmpv6 type nd-redirect drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname @bridges $ip daddr @idle$6 meta l4proto tcp reject with tcp reset
    iifname @bridges $ip daddr @idle$6 reject
    ct state invalid,untracked iifname . $ip daddr @vips$6 meta l4proto tcp reject with tcp reset
    oifname @tunnels tcp flags syn tcp option maxseg size set rt mtu
    iifname @tunnels tcp flags syn tcp option maxseg size set rt mtu
{forward}    iifname . oifname @same_bridge accept
    iifname @tunnels $ip saddr . $ip daddr @across$6 oifname @bridges accept
    iifname @bridges $ip saddr . $ip daddr @across$6 oifname @tunnels accept
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
///
/// Where there is IPv6, each container speaks for its own addresses of it alone, and so those on networks without
/// it not at all: as source, and as whom neighbours are told to ask (RFC 4861). Who has no address yet asks whether his
/// own is somebody else's. No container says that it is a router, knows a better way or hands out addresses. Errors
/// that say that a packet is too big pass as what they are: packets of their sender.
pub(super) fn frame_chains(prefix: &str, v6: bool) -> String {
    let speaks_v6 = if v6 {
        "    ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @targets accept
    meta protocol ip6 iifname . ether saddr . ip6 saddr != @own6 drop
    icmpv6 type { nd-router-advert, nd-redirect } drop
    icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @targets drop
    meta protocol ip6 udp sport 547 drop
"
    } else {
        "    meta protocol ip6 drop\n"
    };
    format!(
        "  chain speak {{
    vlan id 0 drop
    ether type 8021ad vlan id 0 drop
{speaks_v6}    iifname @strict iifname . ether saddr != @own_macs drop
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
