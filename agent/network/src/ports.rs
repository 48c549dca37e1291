//! Holding host ports, so that nobody else binds them while they are published, and saying who
//! does where somebody was first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use shoal_agent_planning::network::ingress::Port;
use shoal_agent_planning::network::leases::{Leases, Refusal};
use shoal_types::error_chain::chain;

use super::{NetworkError, Protocol, PublishedPort};

/// The sockets that hold ports, by container.
#[derive(Debug, Default)]
pub(super) struct HeldPorts {
    sockets: BTreeMap<String, BTreeMap<PublishedPort, Held>>,
    /// Those that answer on every node.
    shared: BTreeMap<Port, Held>,
    /// Who has those which were not to be had, as far as it was found out.
    named: BTreeMap<Port, String>,
}

/// What holds a port: a socket for each family of addresses that it is published on.
#[derive(Debug)]
pub(super) struct Held {
    _sockets: Vec<OwnedFd>,
    /// Of IPv6, too.
    v6: bool,
}

/// A port that answers on every node, as one of each address of this host.
pub(super) fn everywhere((protocol, host_port): Port) -> PublishedPort {
    let host_ip = Ipv4Addr::UNSPECIFIED.into();
    PublishedPort { host_ip, host_port, protocol, target_port: 0 }
}

impl HeldPorts {
    /// Takes over the sockets of a container.
    pub(super) fn keep(
        &mut self,
        container: &str,
        held: impl IntoIterator<Item = (PublishedPort, Held)>,
    ) {
        self.sockets.entry(container.to_owned()).or_default().extend(held);
    }

    /// Lets go of the ports of a container.
    pub(super) fn drop_all_of(&mut self, container: &str) {
        self.sockets.remove(container);
    }

    /// Holds exactly these ports that answer on every node, those of IPv6 where there is any. Returns those which somebody else has, with who it
    /// is; `None` where that is still to be found out ([`name`](Self::name)).
    pub(super) fn hold_shared<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a Port>,
        leases: &Leases,
        v6: bool,
    ) -> BTreeMap<Port, Option<String>> {
        let wanted: BTreeSet<Port> = wanted.copied().collect();
        self.shared.retain(|port, held| wanted.contains(port) && held.v6 == v6);
        let named = std::mem::take(&mut self.named);
        let mut contested = BTreeMap::new();
        for port in wanted {
            if self.shared.contains_key(&port) {
                continue;
            }
            let socket = everywhere(port);
            if let Some(container) = leases.holder(&socket) {
                contested.insert(port, Some(format!("container `{container}`")));
                continue;
            }
            let holder = match bind_if_there(&socket, v6) {
                Ok(held) => {
                    self.shared.insert(port, held);
                    continue;
                }
                Err(Errno::ADDRINUSE) => {
                    let holder = named.get(&port).cloned();
                    self.named.extend(holder.clone().map(|holder| (port, holder)));
                    holder
                }
                Err(errno) => Some(chain(&refused(&socket, errno)).to_string()),
            };
            contested.insert(port, holder);
        }
        contested
    }

    /// Ports of containers that are to be held and are not.
    pub(super) fn unheld(&self, leases: &Leases) -> Vec<PublishedPort> {
        let held = |container: &str, port: &PublishedPort| {
            self.sockets.get(container).is_some_and(|held| held.contains_key(port))
        };
        let all = leases.published();
        all.filter(|(container, port)| !held(container, port)).map(|(_, port)| *port).collect()
    }

    /// Remembers who has ports, as long as they are not to be had.
    pub(super) fn name(&mut self, holders: BTreeMap<Port, String>) {
        self.named.extend(holders);
    }

    /// Makes the held ports those of the book: after a restart nothing is held yet. Returns who
    /// was faster, one line each.
    pub(super) fn reconcile(&mut self, leases: &Leases) -> Vec<String> {
        let mut contested = Vec::new();
        let mut wanted: BTreeMap<&str, BTreeSet<&PublishedPort>> = BTreeMap::new();
        for (container, port) in leases.published() {
            wanted.entry(container).or_default().insert(port);
        }
        self.sockets.retain(|container, held| {
            let ports = wanted.get(container.as_str());
            let v6 = leases.has_v6_ports(container);
            let wanted = |port: &PublishedPort| ports.is_some_and(|ports| ports.contains(port));
            held.retain(|port, held| wanted(port) && held.v6 == v6);
            !held.is_empty()
        });
        for (container, ports) in wanted {
            let held = self.sockets.entry(container.to_owned()).or_default();
            for port in ports {
                if held.contains_key(port) {
                    continue;
                }
                match hold(port, leases.has_v6_ports(container)) {
                    Ok(socket) => {
                        held.insert(*port, socket);
                    }
                    Err(Refusal::Taken(error) | Refusal::Hopeless(error)) => {
                        contested.push(format!("container `{container}`: {error}"));
                    }
                }
            }
        }
        contested
    }
}

/// Binds a port on the host, with `v6` also on its addresses of IPv6 where it is published on all. The sockets never
/// listen and never read: their being there is what keeps others away, packets are redirected before they reach them.
/// None where the kernel has no sockets of this transport, so that nobody else can hold one either.
///
/// # Errors
/// Somebody else holds the port, or the address is not the host's.
pub(super) fn hold(port: &PublishedPort, v6: bool) -> Result<Held, Refusal<NetworkError>> {
    bind_if_there(port, v6).map_err(|errno| match errno {
        Errno::ADDRINUSE => {
            Refusal::Taken(NetworkError::PortInUse { port: *port, holder: holder_of(port) })
        }
        errno => Refusal::Hopeless(refused(port, errno)),
    })
}

fn refused(port: &PublishedPort, errno: Errno) -> NetworkError {
    match errno {
        Errno::ADDRNOTAVAIL => NetworkError::NotOurAddress { port: *port },
        errno => NetworkError::Reserve { port: *port, source: errno.into() },
    }
}

fn bind_if_there(port: &PublishedPort, v6: bool) -> Result<Held, Errno> {
    let everywhere = port.host_ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let twin = (v6 && everywhere).then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let mut sockets = Vec::new();
    for at in [port.host_ip].into_iter().chain(twin) {
        match try_bind(port, at) {
            Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT)
                if port.protocol == Protocol::Sctp => {}
            // Nobody asks by what the kernel does not have.
            Err(Errno::AFNOSUPPORT) if Some(at) == twin => {}
            result => sockets.push(result?),
        }
    }
    Ok(Held { _sockets: sockets, v6 })
}

fn try_bind(port: &PublishedPort, at: IpAddr) -> Result<OwnedFd, Errno> {
    let (kind, protocol) = match port.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC;
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let address = SocketAddr::new(at, port.host_port);
    let socket = socket_with(family, kind, flags, Some(protocol))?;
    if at.is_ipv6() {
        // What is published of IPv4 is another socket's.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    match bind(&socket, &address) {
        // Connections of a server that is gone may linger in TIME_WAIT and are no reason to
        // refuse. Address reuse looks past them, but also past sockets that are bound and do not
        // listen yet, so it is switched off again: nobody else gets past ours.
        Err(Errno::ADDRINUSE) if port.protocol == Protocol::Tcp => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &address)?;
            sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        result => result?,
    }
    Ok(socket)
}

/// Who has bound the port. Blocks: it may look at every file of every process.
pub(super) fn holder_of(port: &PublishedPort) -> String {
    known_holder_of(port).unwrap_or_else(|| "another socket".to_owned())
}

/// The same, as the kernel's tables tell (proc_net(5)).
fn known_holder_of(port: &PublishedPort) -> Option<String> {
    let tables: &[(&str, bool)] = match port.protocol {
        Protocol::Tcp => &[("tcp", false), ("tcp6", true)],
        Protocol::Udp => &[("udp", false), ("udp6", true)],
        Protocol::Sctp => return None,
    };
    let inode = tables.iter().find_map(|(table, v6)| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        text.lines().skip(1).find_map(|line| inode_of(line, port, *v6))
    })?;
    let process = process_with_socket(inode).ok().flatten();
    Some(process.unwrap_or_else(|| "a process of another container or the kernel".to_owned()))
}

/// The inode of a line of the table, if it is about a socket that stands in the way.
fn inode_of(line: &str, port: &PublishedPort, v6: bool) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, number) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16) != Ok(port.host_port) {
        return None;
    }
    if !v6 {
        // The bytes of the address as the machine sees them in a word.
        let word = u32::from_str_radix(address, 16).ok()?;
        let address = IpAddr::from(word.to_ne_bytes());
        let apart =
            address != port.host_ip && !address.is_unspecified() && !port.host_ip.is_unspecified();
        if apart || port.host_ip.is_ipv6() {
            return None;
        }
    }
    // Zero is a connection without owner, such as one in TIME_WAIT.
    fields.get(9)?.parse().ok().filter(|inode| *inode != 0)
}

fn process_with_socket(inode: u64) -> io::Result<Option<String>> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // Processes end while we look; those are not the ones.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let has = |file: fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        };
        if files.flatten().any(has) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Ok(Some(format!("process {pid} ({})", name.trim())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    0 0 424242 1 0000000000000000 100 0 0 10 0";
        let check = |host_ip: [u8; 4], host_port: u16, expect: Option<u64>| {
            let protocol = Protocol::Tcp;
            let port =
                PublishedPort { host_ip: host_ip.into(), host_port, protocol, target_port: 1 };
            // The word is in the order of the machine.
            if cfg!(target_endian = "little") {
                assert_eq!(inode_of(line, &port, false), expect, "{port}");
            }
        };
        check([127, 0, 0, 1], 8080, Some(424_242));
        check([0, 0, 0, 0], 8080, Some(424_242));
        check([127, 0, 0, 2], 8080, None);
        check([127, 0, 0, 1], 8081, None);
    }

    #[test]
    fn who_has_a_port_of_every_node_is_remembered_until_he_lets_go() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = (Protocol::Tcp, other.local_addr().unwrap().port());
        let (mut held, leases) = (HeldPorts::default(), Leases::default());
        let hold = |held: &mut HeldPorts| held.hold_shared([port].iter(), &leases, false);
        assert_eq!(hold(&mut held), [(port, None)].into());
        held.name([(port, "somebody".to_owned())].into());
        for _ in 0..2 {
            assert_eq!(hold(&mut held), [(port, Some("somebody".to_owned()))].into());
        }
        drop(other);
        assert_eq!(hold(&mut held), BTreeMap::new());
        held.hold_shared([].iter(), &leases, false);
        // Whoever comes next is another one.
        let _other = std::net::TcpListener::bind(("127.0.0.1", port.1)).unwrap();
        assert_eq!(hold(&mut held), [(port, None)].into());
    }

    #[test]
    fn a_bound_port_is_held_until_it_is_dropped() {
        // Loopback, any free port: the kernel names it.
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host_port = other.local_addr().unwrap().port();
        let host_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let protocol = Protocol::Tcp;
        let port = PublishedPort { host_ip, host_port, protocol, target_port: 80 };
        let Err(Refusal::Taken(error)) = hold(&port, false) else { panic!("it is taken") };
        let me = format!("process {} (", std::process::id());
        assert!(error.to_string().contains(&me), "{error}");
        drop(other);
        let held = hold(&port, false).unwrap();
        assert!(std::net::TcpListener::bind((host_ip, host_port)).is_err());
        drop(held);
        std::net::TcpListener::bind((host_ip, host_port)).unwrap();

        // On all addresses of the host, those of IPv6 with the container's leave.
        let all = PublishedPort { host_ip: Ipv4Addr::UNSPECIFIED.into(), ..port };
        for v6 in [false, true] {
            let held = hold(&all, v6).unwrap();
            let bound = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, host_port));
            assert_eq!(bound.is_err(), v6);
            drop((held, bound));
        }
        let other = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, host_port)).unwrap();
        assert!(hold(&all, false).is_ok());
        let Err(Refusal::Taken(error)) = hold(&all, true) else { panic!("it is taken") };
        assert!(error.to_string().contains(&me), "{error}");
        drop(other);

        let foreign = PublishedPort { host_ip: [192, 0, 2, 1].into(), ..port };
        let Err(Refusal::Hopeless(error)) = hold(&foreign, true) else { panic!("it is foreign") };
        assert!(error.to_string().ends_with("192.0.2.1 is no address of this host"), "{error}");
    }
}
