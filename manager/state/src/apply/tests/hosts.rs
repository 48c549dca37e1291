//! Subnets that hosts use for something else.

use shoal_types::id::NetworkId;

use super::refused;
use crate::testing::{TestCluster, cluster_with_nodes, dual_spec, overlay_spec, wire_spec};
use crate::{Command, Outcome, Rejected, RejectedCode as Code};

fn create(cluster: &mut TestCluster, subnet: &str) -> Command {
    Command::CreateNetwork { id: cluster.fresh(), spec: overlay_spec("net", Some(subnet)) }
}

fn subnets(cluster: &TestCluster, id: NetworkId) -> Vec<String> {
    cluster.state.network(id).unwrap().subnets.iter().map(ToString::to_string).collect()
}

#[test]
fn a_subnet_that_a_host_uses_is_refused_with_the_host() {
    let (mut cluster, nodes) = cluster_with_nodes(4);
    cluster.set_host_subnets(nodes[1], &[("192.0.2.0/24", "eth0"), ("10.8.0.0/16", "vpn0")]);
    for (subnet, fine) in [
        ("10.8.3.0/24", false),
        ("10.0.0.0/8", false),
        ("10.8.0.0/16", false),
        ("10.9.0.0/16", true),
        ("192.0.2.128/28", false),
        ("192.0.3.0/24", true),
    ] {
        let command = create(&mut cluster, subnet);
        match cluster.clone().try_apply(command) {
            Ok(outcome) => assert!(fine && outcome == Outcome::Applied, "{subnet}"),
            Err(error) => assert!(!fine, "{subnet}: {error}"),
        }
    }
    let command = create(&mut cluster, "10.8.3.0/24");
    let error = refused(&cluster, command.clone());
    assert_eq!(error.code(), Code::FailedPrecondition);
    let why = "node node-2 has 10.8.0.0/16 by interface vpn0: expected addresses that no node uses \
               for something else";
    assert!(error.to_string().ends_with(why), "{error}");
    // Others do, too; and then nobody does.
    cluster.set_host_subnets(nodes[2], &[("10.8.0.0/16", "")]);
    let error = refused(&cluster, command.clone()).to_string();
    assert!(error.contains("by interface vpn0, and so has another one: expected"), "{error}");
    cluster.set_host_subnets(nodes[3], &[("10.8.0.0/16", "")]);
    assert!(refused(&cluster, command.clone()).to_string().contains(", and so have 2 others:"));
    for node in &nodes[1..] {
        cluster.set_host_subnets(*node, &[]);
    }
    assert_eq!(cluster.apply(command), Outcome::Applied);
    cluster.check();
}

#[test]
fn what_hosts_use_is_not_chosen_while_there_is_something_else() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let add = |cluster: &mut TestCluster, name: &str| {
        let id = cluster.fresh();
        cluster.apply(Command::CreateNetwork { id, spec: dual_spec(name, true, Vec::new()) });
        subnets(cluster, id)
    };
    let range = super::super::address::own_range(cluster.state.cluster().unwrap().id).to_string();
    let own = range.replace("::/48", "::/64");
    cluster.set_host_subnets(nodes[0], &[("10.0.0.0/23", "eth0"), (&own, "eth0")]);
    let first = add(&mut cluster, "first");
    assert_eq!(first, ["10.0.2.0/24", &*range.replace("::/48", ":1::/64")]);
    // All of it: a network is of use on other nodes.
    cluster.set_host_subnets(nodes[0], &[("10.0.0.0/8", "vpn0"), ("fc00::/7", "vpn0")]);
    assert_eq!(add(&mut cluster, "second"), ["10.0.0.0/24", &*own]);
    cluster.check();
}

/// Who is on a wire has addresses of the host's own subnet.
#[test]
fn a_network_on_a_wire_has_the_subnet_of_its_hosts() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    cluster.set_host_subnets(nodes[0], &[("192.168.1.0/24", "eth0")]);
    let spec = wire_spec("lan", "macvlan", "192.168.1.0/24", "192.168.1.1");
    let id = cluster.fresh();
    assert_eq!(cluster.apply(Command::CreateNetwork { id, spec }), Outcome::Applied);
    let command = create(&mut cluster, "192.168.1.0/24");
    assert!(matches!(refused(&cluster, command), Rejected::SubnetTaken { .. }));
}
