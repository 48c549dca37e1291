//! What a host cannot have, and what it is told then.

use std::net::UdpSocket;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use shoal_agent_tunnel::{Tunnel as _, TunnelConfig, TunnelError, Tunnels};
use shoal_types::object::TunnelKind;

use crate::lab::{Host, able, able_with_process, block_on};

#[test]
fn a_port_that_is_taken_is_named_and_had_once_it_is_free() {
    if !able() {
        return;
    }
    let host = Host::new(1);
    let taken = host.space.enter(|| UdpSocket::bind("0.0.0.0:51820").unwrap());
    for _ in 0..2 {
        let error = block_on(host.tunnel.ensure(host.desired(&[]))).unwrap_err();
        assert!(matches!(error, TunnelError::PortInUse { port: 51820 }), "{error:?}");
        assert!(error.to_string().contains("--data-path-port"), "{error}");
    }
    // Another one does.
    let mut other = host.desired(&[]);
    other.listen_port = 51900;
    assert_eq!(block_on(host.tunnel.ensure(other)).unwrap().port, 51900);
    let error = block_on(host.tunnel.ensure(host.desired(&[]))).unwrap_err();
    assert!(matches!(error, TunnelError::PortInUse { port: 51820 }), "{error:?}");
    drop(taken);
    block_on(host.tunnel.ensure(host.desired(&[]))).unwrap();
    assert_eq!(block_on(host.tunnel.ensure(host.desired(&[]))).unwrap().done, []);
}

#[test]
fn a_host_without_tun_devices_is_told_what_would_help() {
    if !able_with_process() {
        return;
    }
    let host = Host::new(1);
    let config = host.config.clone();
    let tunnel = host.space.enter(|| {
        shoal_agent_container::sys::process::unshare(UnshareFlags::NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
        Tunnels::open(config).unwrap()
    });
    let error = block_on(tunnel.ensure(host.desired(&[]))).unwrap_err();
    assert!(matches!(error, TunnelError::NoTun { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("modprobe wireguard") && text.contains("/dev/net/tun"), "{text}");
    assert_eq!(host.links(), ["lo"]);
    // The kernel said no first, where that was asked.
    assert_eq!(host.config.kind, Some(TunnelKind::Userspace));
    // It can later.
    host.ensure(&[]);
}

#[test]
fn two_agents_with_one_interface_are_told_so() {
    if !able_with_process() {
        return;
    }
    let host = Host::new(1);
    host.ensure(&[]);
    let dir = tempfile::tempdir().unwrap();
    let config = TunnelConfig {
        state_dir: dir.path().join("state"),
        run_dir: dir.path().join("run"),
        ..host.config.clone()
    };
    let tunnel = host.space.enter(|| Tunnels::open(config).unwrap());
    block_on(tunnel.turn(0)).unwrap();
    let error = block_on(tunnel.ensure(host.desired(&[]))).unwrap_err();
    assert!(matches!(&error, TunnelError::Busy { ifname } if ifname == "shwg0"), "{error:?}");
    assert_eq!(block_on(host.tunnel.ensure(host.desired(&[]))).unwrap().done, []);
}

#[test]
fn names_that_no_interface_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for ifname in ["", "a/b", "sixteen-bytes-xx"] {
        let config = TunnelConfig {
            side: shoal_agent_planning::tunnel::Side::First,
            ifname: ifname.to_owned(),
            state_dir: dir.path().to_owned(),
            run_dir: dir.path().to_owned(),
            program: "/proc/self/exe".into(),
            kind: None,
        };
        let Err(error) = Tunnels::open(config) else { panic!("{ifname:?} is one") };
        assert!(error.is_refusal(), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
