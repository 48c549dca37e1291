//! Ports that answer on every node: who is asked leads each new connection to one of all backends, those on
//! other nodes by the mesh; and what comes by the mesh is led to the own ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::element::{Collector, Word};
use super::own::add_tunnels;
use super::{EGRESS, HostFacts, Ruleset, SetName, balance, sticky};
use crate::network::Family;
use crate::network::ingress::{self, Backend, MARK, NUMBERS, PORT, Port, Slot, Ways};
use crate::network::leases::Leases;

/// What stands in the chains of packets where there is a mesh; nothing where there is none.
pub(super) struct Rules {
    /// Before connections are known: who says where it comes from says so truly.
    pub(super) guard: String,
    /// Where addresses of what arrives are translated.
    pub(super) arriving: String,
    /// What may pass, and which way it goes.
    pub(super) admit: String,
    /// Where addresses of what the host itself asks are translated.
    pub(super) asking: String,
    /// Where what leaves gets the host's address.
    pub(super) leaving: String,
    /// What may arrive at the host itself.
    pub(super) input: String,
    /// What may pass through it.
    pub(super) forward: String,
    /// Chains of its own.
    pub(super) chains: String,
}

impl Rules {
    pub(super) fn none() -> Self {
        let none = String::new;
        let (guard, arriving, admit, asking) = (none(), none(), none(), none());
        let (leaving, input, forward, chains) = (none(), none(), none(), none());
        Self { guard, arriving, admit, asking, leaving, input, forward, chains }
    }

    /// With a mesh. A connection that goes by it has its way in its own mark, whichever side it is seen from;
    /// in the mark of a packet that has come by it is who has sent it, as the tunnel knows, and nothing
    /// else.
    pub(super) fn with_mesh() -> Self {
        let has = format!("ct mark & {MARK:#x} == {MARK:#x}");
        let lacks = format!("ct mark & {MARK:#x} != {MARK:#x}");
        let clear = !MARK;
        Self {
            guard: "    iifname @mesh $ip saddr @far$6 $ip saddr . meta mark != @speakers$6 drop
    iifname @mesh $ip saddr @inside$6 drop
    meta nfproto ipv6 iifname @mesh$only6 fib saddr type local drop\n"
                .to_owned(),
            arriving: "    iifname @mesh $ip daddr @home$6 meta l4proto . th dport @arrivals$6 goto pick_arrival$6
    iifname @mesh accept\n"
                .to_owned(),
            admit: format!(
                "    iifname @mesh ct state new ct mark set meta mark | {MARK:#x}
    iifname @mesh ct direction original ct original $ip daddr @home$6 {has} goto steer
    iifname @mesh ct direction reply $ip saddr @far$6 {has} goto steer
    iifname @mesh drop
    ct state new ct status dnat $ip daddr @far$6 ct mark set $ip daddr map @far_marks$6
    {has} meta mark set ct mark accept\n"
            ),
            asking: format!(
                "    ip saddr 127.0.0.0/8 fib daddr type local meta l4proto . th dport @led \
                 meta mark set meta mark | {MARK:#x}\n"
            ),
            leaving: "    oifname @mesh $ip saddr @inside$6 masquerade
    oifname @mesh $ip saddr @nodes$6 masquerade
    oifname @mesh fib saddr type local masquerade
    oifname @mesh accept\n"
                .to_owned(),
            input: format!(
                "    iifname @tunnels ip daddr @home udp dport {PORT} \
                 meta mark set ip saddr map @far_marks meta mark set meta mark & {NUMBERS:#x} accept
    udp dport {PORT} drop
    iifname @mesh ct direction reply {has} accept
    iifname @mesh meta l4proto tcp reject with tcp reset
    iifname @mesh drop\n"
            ),
            forward: format!(
                "    iifname @mesh ct direction original ct status dnat {has} oifname @bridges accept
    iifname @mesh ct direction reply $ip saddr @far$6 {has} accept
    iifname @mesh drop
    oifname @mesh {has} accept
    oifname @mesh drop\n"
            ),
            chains: format!(
                "  chain steer {{
    meta mark set meta mark | {MARK:#x}
  }}
  chain ask {{
    type route hook output priority -150; policy accept;
    {has} ct direction original meta mark set ct mark
    {has} ct original $ip daddr @home$6 meta mark set ct mark
  }}
  chain asked {{
    type route hook output priority -90; policy accept;
    ct state new ct status dnat $ip daddr @far$6 ct mark set $ip daddr map @far_marks$6 \
                 meta mark set ct mark accept
    ct state new ip saddr 127.0.0.0/8 {lacks} meta mark & {MARK:#x} == {MARK:#x} \
                 meta mark set meta mark & {clear:#x}
  }}
  chain fit {{
    type filter hook postrouting priority -150; policy accept;
    oifname @mesh tcp flags syn tcp option maxseg size set rt mtu
  }}\n"
            ),
        }
    }
}

/// The table that says to whom a packet goes by the mesh. Its chain belongs to the device, and goes with it.
pub(super) fn egress_chains(device: &str) -> String {
    format!(
        "  chain egress {{
    type filter hook egress device \"{device}\" priority 0; policy accept;
    ether daddr set meta mark & {:#x} map @far_macs
  }}\n",
        MARK | NUMBERS
    )
}

/// Text for `nft -f` that makes a table like that of the mesh on a device that every host has, and takes it away
/// again: whether the kernel can judge what leaves by one device.
#[must_use]
pub fn kernel_probe(table: &str) -> String {
    make_and_remove(&format!("{table}_probe"), Some("lo"))
}

/// Makes the table, with a chain on this device, and takes it away again.
fn make_and_remove(table: &str, device: Option<&str>) -> String {
    let mut text = format!("add table {EGRESS} {table}\ndelete table {EGRESS} {table}\n");
    if let Some(device) = device {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "table {EGRESS} {table} {{");
        text += "  map far_macs { type mark : ether_addr; }\n";
        text += &egress_chains(device);
        let _ = writeln!(text, "}}\ndelete table {EGRESS} {table}");
    }
    text
}

impl Ruleset {
    /// Text for `nft -f` that makes the table of the mesh's device and takes it away again: whether it can be had
    /// now, which takes the device.
    #[must_use]
    pub fn egress_probe(&self, table: &str) -> String {
        let device = self.shape.mesh.then(|| ingress::ifname(&self.prefix));
        make_and_remove(table, device.as_deref())
    }
}

/// What leads from and to other nodes, whichever ports do. Says how those lead; not where nothing does.
pub(super) fn add(own: &mut Collector, leases: &Leases, host: &HostFacts) -> Option<Ports> {
    let ingress = &host.ingress;
    if !host.mesh && leases.networks().next().is_none() {
        return None;
    }
    if let Some(home) = ingress.home {
        if host.mesh {
            own.add(SetName::Mesh, vec![Word::Name(ingress::ifname(&host.prefix))], vec![]);
        }
        add_tunnels(own, &host.prefix);
        for family in Family::ALL {
            own.add_of(family, SetName::Home, vec![at(home, family)], vec![]);
        }
        add_far(own, host);
    }
    Some(Ports {
        ways: Ways::of(leases, &host.numbers),
        contested: host.contested.clone(),
        home: ingress.home,
        mesh: host.mesh,
        sticky: ingress.sticky.clone(),
    })
}

/// The other nodes.
fn add_far(own: &mut Collector, host: &HostFacts) {
    for (peer, outside) in &host.ingress.peers {
        let Some(number) = host.numbers.get(peer) else { continue };
        let number = u32::from(*number);
        for family in Family::ALL {
            let at = || at(*peer, family);
            own.add_of(family, SetName::Far, vec![at()], vec![]);
            if !host.mesh {
                continue;
            }
            let mark = vec![Word::Mark(MARK | number)];
            own.add_of(family, SetName::FarMarks, vec![at()], mark);
            let speaker = vec![at(), Word::Mark(number)];
            own.add_of(family, SetName::Speakers, speaker, vec![]);
        }
        if !host.mesh {
            continue;
        }
        let mac = Word::Mac(ingress::mac(*peer));
        own.add(SetName::FarMacs, vec![Word::Mark(MARK | number)], vec![mac]);
        if let Some(outside) = outside {
            let family = Family::of(*outside);
            own.add_of(family, SetName::Nodes, vec![Word::Address(*outside)], vec![]);
        }
    }
}

/// What decides where ports lead, beside who serves at each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ports {
    ways: Ways,
    contested: BTreeSet<Port>,
    home: Option<Ipv4Addr>,
    mesh: bool,
    sticky: BTreeMap<Port, Arc<[String]>>,
}

impl Ports {
    /// The elements of one port.
    pub(super) fn add_port(&self, port: Port, backends: &[Backend], to: &mut Collector) {
        for family in to.families() {
            let mut slots = self.ways.slots(port, backends, family);
            slots.retain(|slot| self.mesh || !slot.far);
            let sticky = self.holders(port, backends, family);
            let sticky = sticky.as_deref();
            if sticky.is_some() {
                to.add_of(family, SetName::StickyPorts, words(port), vec![]);
            }
            if self.mesh {
                let here: Vec<Slot> = slots.iter().copied().filter(|slot| !slot.far).collect();
                // Who has not heard yet that the last one is to stop still sends: it goes on until all have.
                let here = if here.is_empty() { self.ways.own(port, family) } else { here };
                let of_here = sticky.map(|sticky| own_of(sticky, &here));
                self.arrivals(port, &here, of_here.as_deref(), family, to);
            }
            if !self.contested.contains(&port) {
                led(port, &slots, sticky, family, to);
            }
        }
    }

    /// Who has each slot of a port whose clients are led to the same one each time.
    fn holders(&self, port: Port, backends: &[Backend], family: Family) -> Option<Vec<Slot>> {
        let names = self.sticky.get(&port)?;
        let slot = |(backend, name): (&Backend, &String)| {
            let slot = self.ways.slot(port, backend, family)?;
            (self.mesh || !slot.far).then(|| (slot, name.as_bytes().to_vec()))
        };
        let (slots, names): (Vec<Slot>, Vec<Vec<u8>>) =
            backends.iter().zip(names.iter()).filter_map(slot).unzip();
        let holders = sticky::holders(&names).into_iter();
        let holders: Vec<Slot> = holders.filter_map(|holder| slots.get(holder).copied()).collect();
        (!holders.is_empty()).then_some(holders)
    }

    /// What comes by the mesh for a port goes to one of the host's own.
    fn arrivals(
        &self,
        port: Port,
        here: &[Slot],
        sticky: Option<&[Slot]>,
        family: Family,
        to: &mut Collector,
    ) {
        let Some(home) = self.home.filter(|_| !here.is_empty()) else { return };
        to.add_of(family, SetName::Arrivals, words(port), vec![]);
        let key = [vec![at(home, family)], words(port)].concat();
        add_slots(family, SetName::ArrivalSlots, &key, (here, sticky), to);
    }
}

/// What asks the host at a port goes to one of all.
fn led(port: Port, slots: &[Slot], sticky: Option<&[Slot]>, family: Family, to: &mut Collector) {
    if slots.is_empty() {
        to.add_of(family, SetName::IdlePorts, words(port), vec![]);
        return;
    }
    if slots.iter().any(|slot| slot.far) {
        to.add_of(family, SetName::Led, words(port), vec![]);
    }
    to.add_of(family, SetName::Ingress, words(port), vec![]);
    add_slots(family, SetName::IngressSlots, &words(port), (slots, sticky), to);
}

/// What comes from other nodes goes to the one that they would lead to if they were here. Where they think of
/// somebody else's, one of the own ones takes his place.
fn own_of(sticky: &[Slot], here: &[Slot]) -> Vec<Slot> {
    let of = |(number, slot): (usize, &Slot)| {
        let is_here = here.contains(slot);
        if is_here { Some(*slot) } else { here.get(number % here.len().max(1)).copied() }
    };
    sticky.iter().enumerate().filter_map(of).collect()
}

/// With who has each where clients are led to the same one each time.
fn add_slots(
    family: Family,
    set: SetName,
    key: &[Word],
    (drawn, sticky): (&[Slot], Option<&[Slot]>),
    to: &mut Collector,
) {
    let (numbers, slots) = match sticky {
        Some(sticky) => (u32::try_from(sticky.len()).map_or(0..0, |size| size..2 * size), sticky),
        None => (balance::slots(drawn.len()), drawn),
    };
    for (number, slot) in numbers.zip(slots) {
        let leads = vec![Word::Address(slot.address), Word::Port(slot.port)];
        to.add_of(family, set, [key, &[Word::Slot(number)]].concat(), leads);
    }
}

/// What a node has of one family on the mesh.
fn at(node: Ipv4Addr, family: Family) -> Word {
    Word::Address(ingress::on_mesh(node, family))
}

fn words((protocol, port): Port) -> Vec<Word> {
    vec![Word::Protocol(protocol), Word::Port(port)]
}
