//! What is on a wire, frame by frame.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use shoal_agent_container::sys::packet::packet_socket;
use shoal_agent_planning::tunnel::PORT;

use crate::lab::{Host, PATIENCE};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Kinds of WireGuard's messages.
pub(crate) const INITIATION: u8 = 1;
pub(crate) const DATA: u8 = 4;

/// Somebody who sees every frame of an interface, those that leave it too.
pub(crate) struct Listener {
    socket: OwnedFd,
    heard: VecDeque<Vec<u8>>,
}

impl Listener {
    pub(crate) fn new(host: &Host, ifname: &str) -> Self {
        let index = host.index(ifname);
        let socket = host.space.enter(|| packet_socket(index).unwrap());
        let timeout = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, timeout).unwrap();
        sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
        Self { socket, heard: VecDeque::new() }
    }

    /// Everything up to now; what was sent before this was called is in it.
    pub(crate) fn frames(&mut self) -> &VecDeque<Vec<u8>> {
        let mut frame = vec![0; 4096];
        while let Ok((len, _)) = recv(&self.socket, &mut frame, RecvFlags::DONTWAIT) {
            self.heard.push_back(frame[..len].to_vec());
        }
        &self.heard
    }

    /// The first frame that is like this, from the beginning.
    pub(crate) fn wait(&mut self, what: &str, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.frames().iter().find(|frame| is(frame)) {
                return frame.clone();
            }
            assert!(Instant::now() < deadline, "never on the wire: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How many frames are like this.
    pub(crate) fn count(&mut self, is: impl Fn(&[u8]) -> bool) -> usize {
        self.frames().iter().filter(|frame| is(frame)).count()
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(send(&self.socket, frame, SendFlags::empty()).unwrap(), frame.len());
    }
}

/// Whether these bytes are anywhere in it.
pub(crate) fn has(frame: &[u8], mark: &[u8]) -> bool {
    frame.windows(mark.len()).any(|window| window == mark)
}

/// Whether it is of IPv4 and a part of a packet that did not fit (RFC 791, 3.1).
pub(crate) fn is_fragment(frame: &[u8]) -> bool {
    let place = frame.get(ETHERNET + 6..ETHERNET + 8);
    let place = place.and_then(|place| Some(u16::from_be_bytes(place.try_into().ok()?)));
    frame.get(12..14) == Some(&[8, 0]) && place.is_some_and(|place| place & 0x3fff != 0)
}

/// The kind of the message of WireGuard that is in it, sent from this host.
pub(crate) fn message(frame: &[u8], from: &Host) -> Option<u8> {
    let packet = frame.get(ETHERNET..)?;
    let (source, protocol) = (packet.get(12..16)?, *packet.get(9)?);
    let udp = packet.get(20..)?;
    let to = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let ours = frame[12..14] == [8, 0] && protocol == 17 && source == from.outer().octets();
    (ours && to == PORT).then(|| udp.get(8).copied())?
}
