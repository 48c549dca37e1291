//! The kernel's WireGuard by `wireguard-control`, which blocks: for the thread of a tunnel alone, in whose
//! network namespace it works.

use std::collections::btree_map::Entry;
use std::io;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use rustix::io::Errno;
use shoal_agent_planning::tunnel::{AllowedChange, Change, Device, PeerChange, SeenPeer};
use shoal_types::object::TunnelKey;
use wireguard_control::{
    AllowedIp, Backend, Device as Read, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder,
    PeerInfo,
};

use crate::TunnelError;
use crate::key::PrivateKey;

/// Addresses of a peer in one part of a request: a peer has to fit into a message of a page, and a part that
/// names it again adds to it.
const NETS_MAX: usize = 32;

/// What the interface says of itself; `None` if it is not one.
pub(crate) fn observe(ifname: &str) -> Result<Option<Device>, TunnelError> {
    let name = name(ifname)?;
    match Read::get(&name, Backend::Kernel) {
        Ok(read) => Ok(Some(Device {
            key: read.public_key.map(|key| TunnelKey(key.0)),
            listen_port: read.listen_port,
            peers: peers(read.peers, SystemTime::now()),
        })),
        Err(error) if is(&error, &[Errno::NODEV, Errno::OPNOTSUPP, Errno::NOENT]) => Ok(None),
        Err(error) => Err(failed("look up", ifname, error)),
    }
}

/// Carries out a change.
pub(crate) fn configure(
    ifname: &str,
    change: &Change,
    private: &PrivateKey,
) -> Result<(), TunnelError> {
    let name = name(ifname)?;
    match update(change, private).apply(&name, Backend::Kernel) {
        Err(error) if is(&error, &[Errno::ADDRINUSE]) => {
            Err(TunnelError::PortInUse { port: change.listen_port.unwrap_or_default() })
        }
        result => result.map_err(|error| failed("configure", ifname, error)),
    }
}

pub(crate) fn name(ifname: &str) -> Result<InterfaceName, TunnelError> {
    ifname.parse().map_err(|_| TunnelError::Ifname { ifname: ifname.to_owned() })
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn failed(what: &str, ifname: &str, source: io::Error) -> TunnelError {
    let what = format!("{what} interface {ifname}");
    if is(&source, &[Errno::PERM]) {
        return TunnelError::NotPermitted { what };
    }
    TunnelError::Link { what, source }
}

fn update(change: &Change, private: &PrivateKey) -> DeviceUpdate {
    let mut update = DeviceUpdate::new();
    if change.key {
        update = update.set_private_key(Key(private.0));
    }
    if let Some(port) = change.listen_port {
        update = update.set_listen_port(port);
    }
    for key in &change.remove {
        update = update.remove_peer_by_key(&Key(key.0));
    }
    for part in change.peers.iter().flat_map(|(key, change)| parts(*key, change)) {
        update = update.add_peer(part);
    }
    update
}

/// One peer's change, in parts that fit.
fn parts(key: TunnelKey, change: &PeerChange) -> Vec<PeerConfigBuilder> {
    let mut first = PeerConfigBuilder::new(&Key(key.0));
    if let Some(endpoint) = change.endpoint {
        first = first.set_endpoint(endpoint);
    }
    if let Some(seconds) = change.keepalive_s {
        first = first.set_persistent_keepalive_interval(seconds);
    }
    let nets: Vec<AllowedIp> = match &change.allowed {
        AllowedChange::Same => Vec::new(),
        AllowedChange::Add(nets) => nets.iter().map(allowed).collect(),
        AllowedChange::Replace(nets) => {
            first = first.replace_allowed_ips();
            nets.iter().map(allowed).collect()
        }
    };
    let mut chunks = nets.chunks(NETS_MAX);
    let first = first.add_allowed_ips(chunks.next().unwrap_or_default());
    let rest = chunks.map(|nets| PeerConfigBuilder::new(&Key(key.0)).add_allowed_ips(nets));
    std::iter::once(first).chain(rest).collect()
}

fn allowed(net: &IpNet) -> AllowedIp {
    AllowedIp { address: net.addr(), cidr: net.prefix_len() }
}

/// One with many addresses comes in parts, of which only the first says more than its key.
fn peers(read: Vec<PeerInfo>, now: SystemTime) -> std::collections::BTreeMap<TunnelKey, SeenPeer> {
    let mut peers = std::collections::BTreeMap::new();
    for PeerInfo { config, stats } in read {
        let nets =
            config.allowed_ips.iter().filter_map(|net| IpNet::new(net.address, net.cidr).ok());
        match peers.entry(TunnelKey(config.public_key.0)) {
            Entry::Vacant(entry) => {
                let seconds = config.persistent_keepalive_interval.filter(|seconds| *seconds != 0);
                entry.insert(SeenPeer {
                    endpoint: config.endpoint,
                    allowed: nets.collect(),
                    keepalive: seconds.map(|seconds| Duration::from_secs(u64::from(seconds))),
                    // One from the future is of now: somebody has set the clock back.
                    handshake_age: stats
                        .last_handshake_time
                        .map(|then| now.duration_since(then).unwrap_or_default()),
                    rx_bytes: stats.rx_bytes,
                    tx_bytes: stats.tx_bytes,
                });
            }
            Entry::Occupied(entry) => entry.into_mut().allowed.extend(nets),
        }
    }
    peers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn nets(count: u8) -> BTreeSet<IpNet> {
        (0..count).map(|low| format!("10.0.0.{low}/32").parse().unwrap()).collect()
    }

    #[test]
    fn a_peer_with_many_addresses_is_told_in_parts_that_fit() {
        let change = PeerChange {
            endpoint: Some("192.0.2.1:1".parse().unwrap()),
            keepalive_s: Some(0),
            allowed: AllowedChange::Replace(nets(200)),
        };
        let parts = parts(TunnelKey([7; 32]), &change);
        assert_eq!(parts.len(), 200_usize.div_ceil(NETS_MAX));
        let mut told = BTreeSet::new();
        for (number, part) in parts.into_iter().enumerate() {
            let part = part.into_peer_config();
            assert_eq!(part.public_key, Key([7; 32]));
            assert_eq!(part.endpoint.is_some(), number == 0);
            assert_eq!(part.persistent_keepalive_interval, (number == 0).then_some(0));
            told.extend(part.allowed_ips.iter().map(|net| net.address));
        }
        assert_eq!(told.len(), 200);
    }

    /// The library shows the mark in nothing but what it prints.
    #[test]
    fn only_the_first_part_replaces() {
        let change =
            PeerChange { allowed: AllowedChange::Replace(nets(40)), ..PeerChange::default() };
        let parts = parts(TunnelKey([7; 32]), &change);
        let replaces: Vec<bool> = parts
            .iter()
            .map(|part| format!("{part:?}").contains("replace_allowed_ips: true"))
            .collect();
        assert_eq!(replaces, [true, false]);
    }

    #[test]
    fn what_comes_in_parts_is_one_peer() {
        let part = |low: u8, first: bool| {
            let mut part = PeerInfo::from_public_key(Key([7; 32]));
            let address = [10, 0, 0, low].into();
            part.config.allowed_ips.push(AllowedIp { address, cidr: 32 });
            if first {
                part.config.endpoint = Some("192.0.2.1:1".parse().unwrap());
                part.config.persistent_keepalive_interval = Some(0);
                part.stats.rx_bytes = 5;
                part.stats.last_handshake_time =
                    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(10));
            }
            part
        };
        for (now, age) in [(15, 5), (5, 0)] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
            let peers = peers(vec![part(1, true), part(2, false)], now);
            let expected = SeenPeer {
                endpoint: Some("192.0.2.1:1".parse().unwrap()),
                allowed: nets(3).into_iter().skip(1).collect(),
                keepalive: None,
                handshake_age: Some(Duration::from_secs(age)),
                rx_bytes: 5,
                tx_bytes: 0,
            };
            assert_eq!(peers, [(TunnelKey([7; 32]), expected)].into());
        }
    }
}
