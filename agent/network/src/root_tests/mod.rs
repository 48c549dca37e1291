//! The real driver in real namespaces. Needs root, `ip` and `nft`.

mod across;
mod closed;
mod former;
mod gates;
mod harms;
mod ingress;
mod kept;
mod lab;
mod measure;
mod neighbours;
mod reach;
mod recover;
mod six;
mod spoof;
mod unchanged;
mod verify;
mod wire;

use std::net::{IpAddr, Ipv4Addr};

use self::lab::{HOST, Lab, OUTSIDE, Space, ask_once, ask_until, ask_with};
use super::*;

fn net(id: &str) -> NetworkConfig {
    NetworkConfig { id: id.to_owned(), name: id.to_owned(), ..NetworkConfig::default() }
}

fn internal(id: &str) -> NetworkConfig {
    NetworkConfig { internal: true, ..net(id) }
}

fn request(container: &str, network: &str) -> AttachRequest {
    AttachRequest {
        container: container.to_owned(),
        network: network.to_owned(),
        ..AttachRequest::default()
    }
}

fn port(host_port: u16, protocol: Protocol, target_port: u16) -> PublishedPort {
    let host_ip = Ipv4Addr::UNSPECIFIED.into();
    PublishedPort { host_ip, host_port, protocol, target_port }
}

fn tcp(host_port: u16, target_port: u16) -> PublishedPort {
    port(host_port, Protocol::Tcp, target_port)
}

/// A namespace attached to networks in turn, with a server on port 80; its addresses.
async fn container(
    driver: &BridgeNetworks,
    name: &str,
    networks: &[&str],
) -> (Space, Vec<Ipv4Addr>) {
    let space = Space::new(name);
    let mut addresses = Vec::new();
    for network in networks {
        let attached = driver.attach(request(name, network), space.netns()).await.unwrap();
        addresses.push(attached.v4.as_ref().unwrap().address.addr());
    }
    space.serve(80);
    (space, addresses)
}

/// The gateway of a network's first subnet.
fn gateway(state: &NetworkState) -> Ipv4Addr {
    match state.subnets[0].gateway {
        IpAddr::V4(gateway) => gateway,
        IpAddr::V6(gateway) => panic!("{gateway} is not of IPv4"),
    }
}

/// Every link of the agent in a namespace.
fn links_of(space: &Space) -> Vec<String> {
    let text = space.run("ip", &["-o", "link"]);
    let name = |line: &str| line.split([':', '@']).nth(1).unwrap().trim().to_owned();
    text.lines().map(name).filter(|name| name.starts_with("sh")).collect()
}
