//! Where this host's manager listens and is reached, and what it begins with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use shoal_agent_network as network;
use shoal_agent_planning::network::advertise::{NoAddress, advertised};
use shoal_transport::{DEFAULT_PORT, ManagerAddress};
use shoal_types::error_chain::chain;
use tonic::Status;

use crate::identity::ManagerEndpoint;

/// RFC 5737, section 3, and RFC 3849: routed like any other address, but nobody's.
const FAR_AWAY: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// What was left open is filled in: this host is reached at the address that it has towards other managers,
/// else towards far away.
pub(crate) async fn find(
    listen: &str,
    advertise: &str,
    managers: &[ManagerAddress],
) -> Result<ManagerEndpoint, Status> {
    let others = managers.iter().filter_map(|manager| {
        let (host, port) = manager.host_and_port();
        Some(SocketAddr::new(host.parse().ok()?, port)).filter(|other| !other.ip().is_loopback())
    });
    let here = match usual_address(others.chain(FAR_AWAY)) {
        Some(usual) => Ok(usual),
        None => {
            let candidates = network::host_addresses().await;
            let candidates = candidates.map_err(|e| Status::internal(chain(&e).to_string()))?;
            advertised(None, candidates)
        }
    };
    fill(listen, advertise, here)
}

/// The manager begins with nothing: what an attempt has left is removed, anything else is kept.
pub(crate) fn prepare(state_dir: &Path, begun: bool) -> Result<(), Status> {
    let occupied = match std::fs::read_dir(state_dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(Status::internal(format!("cannot read {}: {error}", state_dir.display())));
        }
    };
    if occupied && !begun {
        let why = format!("{} holds a manager's state: move it away first", state_dir.display());
        return Err(Status::failed_precondition(why));
    }
    if occupied {
        let removed = std::fs::remove_dir_all(state_dir);
        removed.map_err(|error| {
            Status::internal(format!("cannot remove {}: {error}", state_dir.display()))
        })?;
    }
    Ok(())
}

/// Said now rather than found in the manager's log.
pub(crate) fn can_listen(endpoint: &ManagerEndpoint) -> Result<(), Status> {
    let bound = endpoint.listen.parse::<SocketAddr>().map(TcpListener::bind);
    match bound {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let why = format!("the manager cannot listen on {}: {error}", endpoint.listen);
            Err(Status::failed_precondition(why))
        }
        Err(error) => Err(Status::invalid_argument(format!("listen_addr: {error}"))),
    }
}

/// Where the manager listens and is reached, with what was left open filled in.
fn fill(
    listen: &str,
    advertise: &str,
    here: Result<IpAddr, NoAddress>,
) -> Result<ManagerEndpoint, Status> {
    let listen = match listen {
        "" => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT),
        text => {
            let address: ManagerAddress = text
                .parse()
                .map_err(|error| Status::invalid_argument(format!("listen_addr: {error}")))?;
            let (host, port) = address.host_and_port();
            let ip = host.parse::<IpAddr>().map_err(|_| {
                let why = "is a name, expected an IP address of this host with a port";
                Status::invalid_argument(format!("listen_addr: {text:?} {why}"))
            })?;
            SocketAddr::new(ip, port)
        }
    };
    let advertise = match advertise {
        "" if !listen.ip().is_unspecified() => listen.into(),
        "" => SocketAddr::new(here.map_err(|error| unsaid(&error))?, listen.port()).into(),
        text => text
            .parse::<ManagerAddress>()
            .map_err(|error| Status::invalid_argument(format!("advertise_addr: {error}")))?,
    };
    if advertise.host_and_port().0.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        let why = format!("advertise_addr: {advertise} is no address that others can reach");
        return Err(Status::invalid_argument(why));
    }
    Ok(ManagerEndpoint { listen: listen.to_string(), advertise: advertise.to_string() })
}

fn unsaid(error: &NoAddress) -> Status {
    let hint = "name the one where other hosts reach this one";
    Status::invalid_argument(format!("advertise_addr: is empty and {error}: {hint}"))
}

/// The address that this host's packets to one of these come from. Nothing is sent.
fn usual_address(towards: impl IntoIterator<Item = SocketAddr>) -> Option<IpAddr> {
    towards.into_iter().find_map(|far| {
        let any: IpAddr = match far {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_is_left_open_is_filled_in() {
        let table = [
            ("10.0.0.1:1", "", Ok(("10.0.0.1:1", "10.0.0.1:1"))),
            ("", "10.0.0.1", Ok(("0.0.0.0:4242", "10.0.0.1:4242"))),
            ("0.0.0.0:7", "a.example:9", Ok(("0.0.0.0:7", "a.example:9"))),
            ("[::1]", "", Ok(("[::1]:4242", "[::1]:4242"))),
            ("example:1", "10.0.0.1", Err("listen_addr: \"example:1\" is a name")),
            ("10.0.0.1:0", "", Err("listen_addr:")),
            ("", "http://x", Err("advertise_addr:")),
            ("", "0.0.0.0:1", Err("advertise_addr: 0.0.0.0:1 is no address")),
            ("", "", Err("advertise_addr: is empty and this host has no address")),
        ];
        for (listen, advertise, expected) in table {
            let nowhere = Err(NoAddress { candidates: Vec::new() });
            match (fill(listen, advertise, nowhere), expected) {
                (Ok(found), Ok((listen, advertise))) => {
                    assert_eq!((&found.listen[..], &found.advertise[..]), (listen, advertise));
                }
                (Err(status), Err(text)) => {
                    assert!(status.message().starts_with(text), "{status}");
                }
                (found, expected) => panic!("{listen} {advertise}: {found:?} {expected:?}"),
            }
        }
    }

    #[test]
    fn a_foreign_managers_state_is_never_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = dir.path().join("manager");
        prepare(&state, false).expect("nothing there");
        std::fs::create_dir_all(state.join("raft")).expect("mkdir");
        let status = prepare(&state, false).expect_err("kept");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(state.join("raft").exists());
        prepare(&state, true).expect("of a broken attempt");
        assert!(!state.exists());
    }
}
