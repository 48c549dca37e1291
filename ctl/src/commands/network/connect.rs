//! Connecting one task to a network, and disconnecting it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use ipnet::IpNet;

use super::super::{Result, Shell, note};

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// A further name of the task there; may be repeated
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Its IPv4 address there; without, a free one is chosen
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address there; without, a free one is chosen
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Id or name
    network: String,
    /// Id, the beginning of one, or SERVICE.SLOT
    task: String,
}

#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// It is fine if the task is not connected there, or has ended
    #[arg(long, short)]
    force: bool,
    /// Id or name
    network: String,
    /// Id, the beginning of one, or SERVICE.SLOT
    task: String,
}

pub(crate) async fn connect(shell: &Shell, args: Connect) -> Result {
    let Connect { alias, ip, ip6, network, task } = args;
    let client = shell.manager().await?;
    let network = client.network(&network).await?.network;
    let (id, name) = (network.id.to_string(), &network.spec.name);
    let wanted: Vec<IpAddr> =
        ip.map(IpAddr::from).into_iter().chain(ip6.map(IpAddr::from)).collect();
    let task = client.connect_task(&task, &id, &alias, &wanted).await?;
    note(&format!(
        "note: this connects one task, not its service: the task that takes its place is not connected \
         (shoalctl service update --network-add {name} {} connects all of them)",
        task.service_name
    ));
    let addresses = task.on(network.id).map(|joined| &*joined.addresses).unwrap_or_default();
    shell.result(&connected(&task.name(), name, addresses), &task)
}

/// What people are told.
fn connected(task: &str, network: &str, addresses: &[IpNet]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|at| at.addr().to_string()).collect();
    if addresses.is_empty() {
        // Its node chooses.
        return format!("{task} is connected to {network}");
    }
    format!("{task} is connected to {network} as {}", addresses.join(" and "))
}

pub(crate) async fn disconnect(shell: &Shell, args: Disconnect) -> Result {
    let Disconnect { force, network, task } = args;
    let task = shell.manager().await?.disconnect_task(&task, &network, force).await?;
    shell.result(&format!("{} is not connected to {network}", task.name()), &task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_where_a_task_is_reached() {
        assert_eq!(connected("web.1", "bridge", &[]), "web.1 is connected to bridge");
        let both = ["10.1.0.5/24", "fd00::5/64"].map(|text| text.parse().unwrap());
        let told = connected("web.1", "back", &both);
        assert_eq!(told, "web.1 is connected to back as 10.1.0.5 and fd00::5");
    }
}
