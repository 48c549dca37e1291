//! Arbitrary objects and assignments.

use shoal_types::assignment::{
    AssignedTask, AssignmentChange, EndpointNetwork, IngressPort, Peer, PeerKeys, Rejection,
    ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::object::*;
use shoal_types::task_state::{DesiredState, TaskState};

use super::arbitrary::{Arbitrary, Source, arbitrary, one_of};

arbitrary!(Meta { version, spec_version, created_at, updated_at });
arbitrary!(Cluster { id, meta, spec, root_ca, join_tokens, level, tunnel_keys, former_managers });
arbitrary!(FormerManager { node, since });
arbitrary!(TunnelKeys { epochs, since, forced });
arbitrary!(TunnelEpochs { present, former });
arbitrary!(RootCa { cert_pem, key_pem });
arbitrary!(JoinTokens { agent, manager });

arbitrary!(Node { id, meta, spec, description, status, manager_status, tunnel_address });
arbitrary!(NodeDescription {
    hostname,
    platform,
    resources,
    engine,
    level,
    tunnel,
    troubled_links,
    host_subnets,
});
arbitrary!(HostSubnet { subnet, interface });
arbitrary!(TroubledLinks { count, links });
arbitrary!(TroubledLink { node_id, endpoint, passes_bytes, full_bytes });
arbitrary!(TunnelDescription { public_key, port, addr, kind, keys });
arbitrary!(DescribedKeys { epoch, other, lagging, lacking });
arbitrary!(TunnelEnd { epoch, public_key, port });
one_of!(TunnelKind |s| { Self::Kernel, Self::Userspace });
impl Arbitrary for TunnelKey {
    fn arbitrary(source: &mut Source) -> Self {
        Self(std::array::from_fn(|_| source.any()))
    }
}
arbitrary!(EngineDescription { version, labels, plugins });
arbitrary!(PluginDescription { kind, name });
arbitrary!(NodeStatus { state, message, addr, since });
one_of!(NodeState |s| { Self::Unknown, Self::Down, Self::Ready, Self::Disconnected });
arbitrary!(ManagerStatus { raft_id, addr, level });
arbitrary!(ManagerHealth { leader, reachability });
arbitrary!(NodeSummary { node, manager, assignment });
arbitrary!(AssignmentProgress { sent, applied });
one_of!(Reachability |s| { Self::Unknown, Self::Unreachable, Self::Reachable });

arbitrary!(Service {
    id,
    meta,
    spec,
    previous_spec,
    stack_id,
    deployment_id,
    networks,
    payloads,
    endpoint
});
arbitrary!(Endpoint { spec, ports, virtual_ips });
arbitrary!(VirtualIp { network_id, addr });
arbitrary!(Deployment {
    id,
    meta,
    service_id,
    service_version,
    stack_version,
    kind,
    state,
    completed_at,
    message,
});
one_of!(DeploymentKind |s| { Self::Create, Self::Update, Self::Rollback });
one_of!(DeploymentState |s| {
    Self::Updating,
    Self::Completed,
    Self::Paused,
    Self::RolledBack,
    Self::Superseded,
});

arbitrary!(Task {
    id,
    meta,
    service_id,
    service_name,
    service_labels,
    slot,
    node_id,
    spec,
    spec_version,
    endpoint,
    networks,
    payloads,
    partner,
    desired_state,
    start_after,
    rejections,
    level,
    status,
});
one_of!(Slot |s| { Self::Replica(s.any()), Self::Node(s.any()) });
arbitrary!(TaskNetwork { network_id, aliases, driver_opts, addresses, connected });
arbitrary!(TaskStatus { state, timestamp, message, err, container_status, port_status });
one_of!(TaskState | s | { Self::ALL[s.below(Self::ALL.len())] });
one_of!(DesiredState |s| { Self::Ready, Self::Running, Self::Shutdown, Self::Remove });
arbitrary!(ContainerStatus { container_id, pid, exit_code, signal, oom_killed });

arbitrary!(Network { id, meta, spec, stack_id, predefined, subnets });
arbitrary!(Volume { id, meta, spec, node_id });
arbitrary!(Secret { id, meta, version, stack_id, spec });
arbitrary!(Config { id, meta, version, stack_id, spec });
arbitrary!(Payloads { secrets, configs });
arbitrary!(Stack { id, meta, spec, services, networks, secrets, configs, history });
arbitrary!(User { id, meta, spec });
arbitrary!(StackRevision { spec_version, applied_at, spec, rolled_back, by_hand });

arbitrary!(AssignedTask {
    id,
    service_id,
    service_name,
    service_labels,
    slot,
    node_id,
    spec,
    ports,
    networks,
    payloads,
    partner,
    desired_state,
    level,
});
arbitrary!(Rejection { why, desired_state });
one_of!(AssignmentChange |s| {
    Self::UpdateTask(s.any()),
    Self::UpdateSecret(s.any()),
    Self::RemoveSecret(s.any()),
    Self::UpdateConfig(s.any()),
    Self::RemoveConfig(s.any()),
    Self::RemoveTask(s.any()),
    Self::RejectTask(s.any(), s.any()),
    Self::UpdateNetwork(s.any()),
    Self::RemoveNetwork(s.any()),
    Self::UpdateEndpoint(s.any()),
    Self::RemoveEndpoint(s.any()),
    Self::UpdateVips(s.any()),
    Self::RemoveVips(s.any()),
    Self::UpdatePeer(s.any()),
    Self::RemovePeer(s.any()),
});
arbitrary!(TaskEndpoint {
    task_id,
    service_id,
    service_name,
    slot,
    node_id,
    networks,
    ports,
    affinity,
    locality,
    serving
});
arbitrary!(IngressPort { protocol, published_port });
arbitrary!(EndpointNetwork { network_id, addresses, aliases });
arbitrary!(ServiceVips { service_id, service_name, networks, affinity, locality });
arbitrary!(VipNetwork { network_id, vip, aliases });
arbitrary!(Peer { node_id, public_key, addr, port, tunnel_address, keys });
arbitrary!(PeerKeys { epoch, other, cluster });
