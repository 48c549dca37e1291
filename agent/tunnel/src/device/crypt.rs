//! What becomes of packets: which is encrypted for whom, which is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use gotatun::noise::TunnResult;
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;

use super::table::{Own, Peer, Table};
use super::udp::Addressed;

impl Table {
    /// Encrypts packets for whoever has their destinations, padded up to `mtu` bytes at most. What nobody has goes
    /// nowhere.
    pub(super) fn seal(&self, packets: &mut Vec<Packet>, mtu: u16, sealed: &mut Vec<Addressed>) {
        let mut mtu = MtuWatcher::new(mtu);
        for packet in packets.drain(..) {
            let Ok(packet) = packet.try_into_ip() else { continue };
            let Some(peer) = packet.destination().and_then(|to| self.at(to)) else { continue };
            let mut link = peer.link();
            let Some(endpoint) = link.endpoint else { continue };
            // Without a session it waits there, and a handshake goes first.
            let packet = link.tunn.handle_outgoing_packet(packet.into(), Some(&mut mtu));
            let Some(packet) = packet else { continue };
            self.note(&packet, peer);
            sealed.push((packet.into(), endpoint));
        }
    }

    /// Decrypts what is from somebody who is known, and answers: by `send`, in this order.
    pub(super) fn open(
        &self,
        packets: &mut Vec<Addressed>,
        mtu: u16,
        opened: &mut Vec<Packet>,
        mut send: impl FnMut(&mut Vec<Addressed>),
    ) {
        let Some(own) = self.own() else {
            packets.clear();
            return;
        };
        for (packet, from) in packets.drain(..) {
            match own.verify(from, packet) {
                Ok(packet) => opened.extend(self.open_one(own, (packet, from), mtu, &mut send)),
                Err(Some(cookie)) => send(&mut vec![(cookie, from)]),
                Err(None) => {}
            }
        }
    }

    fn open_one(
        &self,
        own: &Own,
        (packet, from): (WgKind, SocketAddr),
        mtu: u16,
        send: &mut impl FnMut(&mut Vec<Addressed>),
    ) -> Option<Packet> {
        let peer = self.sender(own, &packet)?;
        let mut link = peer.link();
        match link.tunn.handle_incoming_packet(packet) {
            TunnResult::WriteToNetwork(answer) => {
                // It is who it says it is, so it is where it has sent from.
                link.endpoint = Some(from);
                self.note(&answer, &peer);
                let mut mtu = MtuWatcher::new(mtu);
                let waited = link.tunn.get_queued_packets(&mut mtu);
                let mut answers: Vec<Addressed> =
                    std::iter::once(answer).chain(waited).map(|one| (one.into(), from)).collect();
                // There is a session from here on: what another thread encrypts with it must not be there before the
                // answer by which the peer has it, too. So nobody gets the link until that is sent.
                send(&mut answers);
                None
            }
            TunnResult::WriteToTunnel(packet) => {
                link.endpoint = Some(from);
                drop(link);
                self.allowed(&peer, packet)
            }
            // Cookies do not say where somebody is.
            TunnResult::Done | TunnResult::Err(_) => None,
        }
    }

    /// The packet, if whoever has sent it has its source address, too.
    fn allowed(&self, peer: &Arc<Peer>, packet: Packet) -> Option<Packet> {
        // Said only to be heard of.
        if packet.is_empty() {
            return None;
        }
        let (source, packet) = packet.try_into_ipvx().ok()?.either(
            |v4| (v4.header.source().into(), v4.into_bytes()),
            |v6| (v6.header.source().into(), v6.into_bytes()),
        );
        let owner = self.at(source)?;
        Arc::ptr_eq(owner, peer).then_some(packet)
    }

    /// Looks at the clock for all peers: what is to be sent.
    pub(super) fn tick(&self, packets: &mut Vec<Addressed>) {
        self.age();
        for (_, peer) in self.peers() {
            let mut link = peer.link();
            let Some(endpoint) = link.endpoint else { continue };
            // What has expired begins anew with the next packet.
            if let Ok(Some(packet)) = link.tunn.update_timers() {
                self.note(&packet, peer);
                packets.push((packet.into(), endpoint));
            }
        }
    }
}
