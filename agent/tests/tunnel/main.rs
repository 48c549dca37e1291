//! The tunnel with real packets between network namespaces, by the process that real agents start. Needs root
//! and TUN devices; says so when it skips.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may fail by panicking, and says why it skips"
)]

mod ingress;
mod interop;
mod keys;
mod lab;
mod large;
mod narrow;
mod packets;
mod process;
mod refusals;
mod wide;
mod wire;

use lab::{Host, able, able_with_process, block_on};
use shoal_agent_planning::tunnel::Side;
use shoal_agent_tunnel::contract::{Harm, honour};
use shoal_agent_tunnel::{Tunnel as _, TunnelError};
use shoal_types::object::TunnelKind;

impl Harm for Host {
    fn delete_interface(&self) {
        self.space.try_run("ip", &["link", "del", &self.ifname]);
    }

    fn kill(&self) {
        if let Some(process) = self.process() {
            process.signal(9).unwrap();
        }
    }
}

#[test]
fn the_process_keeps_what_every_driver_promises() {
    if !able_with_process() {
        return;
    }
    for side in Side::ALL {
        let host = Host::of(side, TunnelKind::Userspace);
        block_on(honour(&host.tunnel, &host, side, side.port(51820)));
    }
}

/// Where the kernel can; else it says that it cannot, and leaves nothing.
#[test]
fn the_kernel_keeps_what_every_driver_promises() {
    if !able() {
        return;
    }
    let host = Host::with(1, |config| config.kind = Some(TunnelKind::Kernel));
    let can = host.space.try_run("ip", &["link", "add", "probe", "type", "wireguard"]).is_some();
    if can {
        host.space.run("ip", &["link", "del", "probe"]);
        for side in Side::ALL {
            let host = Host::of(side, TunnelKind::Kernel);
            block_on(honour(&host.tunnel, &host, side, side.port(51820)));
        }
        return;
    }
    eprintln!("the kernel has no WireGuard: only its absence is tested");
    let error = block_on(host.tunnel.ensure(host.desired(&[]))).unwrap_err();
    assert!(matches!(error, TunnelError::NoKernel), "{error}");
    assert_eq!(host.links(), ["lo"]);
    assert!(host.process().is_none());
}

#[test]
fn what_is_there_encrypts_unless_something_else_is_asked_for() {
    if !able() {
        return;
    }
    let host = Host::with(1, |config| config.kind = None);
    let can = host.space.try_run("ip", &["link", "add", "probe", "type", "wireguard"]).is_some();
    let state = block_on(host.tunnel.ensure(host.desired(&[]))).unwrap();
    let expected = if can { TunnelKind::Kernel } else { TunnelKind::Userspace };
    assert_eq!(state.kind, expected);
    assert_eq!(host.process().is_some(), !can);
    assert_eq!(block_on(host.tunnel.ensure(host.desired(&[]))).unwrap().done, []);
}
