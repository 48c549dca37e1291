//! Which level each spec needs, and what nodes report.
//!
//! Every field and every variant is named here, so that a new one does not compile before somebody
//! has decided. In the tables the fields before the `;` are part of the first level; those after it
//! decide for themselves. A spec with a field or variant of a later level leaves the table for an
//! implementation of its own, which is as exhaustive.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{
    Affinity, AppArmor, Availability, BindOptions, ClusterSpec, ConfigSpec, ContainerSpec,
    CredentialSpec, DnsConfig, Driver, EndpointMode, EndpointSpec, FailureAction, Healthcheck,
    ImageOptions, Ipam, IpamConfig, Locality, Mount, MountKind, NetworkAttachmentConfig,
    NetworkKind, NetworkScope, NetworkSpec, NodeRole, NodeSpec, PayloadReference, Placement,
    PlacementPreference, Platform, PluginPrivilege, PluginSpec, PortConfig, Privileges, Protocol,
    PublishMode, RestartCondition, RestartPolicy, SeLinuxContext, Seccomp, SecretSpec, ServiceMode,
    ServiceSpec, StackSpec, TaskRuntime, TaskSpec, TmpfsOptions, TunnelKeySpec, Ulimit,
    UpdateConfig, UpdateOrder, UserRole, UserSpec, VolumeMountOptions, VolumeSpec,
};
use crate::level::{Level, Leveled};
use crate::object::{
    ContainerStatus, DescribedKeys, EngineDescription, HostSubnet, ManagerStatus, NodeDescription,
    NodeState, NodeStatus, PluginDescription, TaskStatus, TroubledLink, TroubledLinks,
    TunnelDescription, TunnelKind,
};
use crate::registry_auth::RegistryAuth;
use crate::resources::{GenericResource, Limits, ResourceRequirements, Resources};
use crate::task_state::TaskState;

/// The highest of some levels.
fn highest(levels: impl IntoIterator<Item = Level>) -> Level {
    levels.into_iter().max().unwrap_or_default()
}

impl<T: Leveled> Leveled for Option<T> {
    fn level(&self) -> Level {
        highest(self.iter().map(Leveled::level))
    }
}

impl<T: Leveled> Leveled for Vec<T> {
    fn level(&self) -> Level {
        highest(self.iter().map(Leveled::level))
    }
}

impl<T: Leveled> Leveled for BTreeMap<String, T> {
    fn level(&self) -> Level {
        highest(self.values().map(Leveled::level))
    }
}

impl<T: Leveled> Leveled for Arc<T> {
    fn level(&self) -> Level {
        T::level(self)
    }
}

macro_rules! structs {
    ($($name:ident { $($field:ident),* $(,)? $(; $($part:ident),* $(,)?)? })*) => {
        $(impl Leveled for $name {
            fn level(&self) -> Level {
                let Self { $($field: _,)* $($($part,)*)? } = self;
                highest([Level::FIRST, $($($part.level(),)*)?])
            }
        })*
    };
}

macro_rules! choices {
    ($($name:ident { $($variant:ident $({ $($field:tt)* })? $(($($value:tt)*))?),* $(,)? })*) => {
        $(impl Leveled for $name {
            fn level(&self) -> Level {
                match self {
                    $(Self::$variant $({ $($field)* })? $(($($value)*))?)|* => Level::FIRST,
                }
            }
        })*
    };
}

structs! {
    ServiceSpec {
        name, labels;
        task_template, mode, update_config, rollback_config, endpoint_spec,
    }
    UpdateConfig {
        parallelism, delay, monitor, max_failure_ratio;
        failure_action, order,
    }
    EndpointSpec { ; mode, ports, affinity, locality }
    PluginSpec { name, remote, disabled, env; plugin_privilege }
    PluginPrivilege { name, description, value }
    RestartPolicy { delay, max_attempts, window; condition }
    Placement { constraints, max_replicas; preferences, platforms }
    Platform { architecture, os }
    ResourceRequirements {
        swap_bytes, memory_swappiness;
        limits, reservations,
    }
    Limits { nano_cpus, memory_bytes, pids }
    Resources { nano_cpus, memory_bytes; generic_resources }
    Driver { name, options }
}

structs! {
    Privileges {
        no_new_privileges;
        credential_spec, selinux_context, seccomp, app_armor,
    }
    SeLinuxContext { disable, user, role, kind, level }
    Healthcheck { test, interval, timeout, start_period, start_interval, retries }
    DnsConfig { nameservers, search, options }
    Ulimit { name, soft, hard }
    Mount {
        source, target, read_only, consistency;
        kind, bind_options, volume_options, image_options, tmpfs_options,
    }
    BindOptions {
        propagation, non_recursive, create_mountpoint, read_only_non_recursive,
        read_only_force_recursive,
    }
    VolumeMountOptions { no_copy, labels, subpath; driver_config }
    ImageOptions { subpath }
    TmpfsOptions { size_bytes, mode, options }
}

structs! {
    Ipam { ; driver, config }
    VolumeSpec { name, labels; driver }
    SecretSpec { name, labels, data; driver, templating }
    ConfigSpec { name, labels, data; templating }
    NodeSpec { name, labels; role, availability }
    UserSpec { name, labels, stacks, host_access, expires_at; role }
    StackSpec { name, secrets, configs; services, networks, volumes }
}

impl Leveled for TaskSpec {
    /// Nobody before the fourth level finds the network that a task shares.
    fn level(&self) -> Level {
        let Self {
            runtime,
            resources,
            restart_policy,
            placement,
            networks,
            network_of,
            log_driver,
            force_update: _,
        } = self;
        let shares = if network_of.is_some() { Level::SHARED } else { Level::FIRST };
        let (runs, placed) = (runtime.level(), placement.level());
        let goes_on = restart_policy.level().max(log_driver.level());
        highest([shares, runs, resources.level(), goes_on, placed, networks.level()])
    }
}

impl Leveled for ContainerSpec {
    /// Nobody before the fourth level waits for what is open.
    fn level(&self) -> Level {
        let Self {
            image: _,
            labels: _,
            command: _,
            args: _,
            hostname: _,
            env: _,
            dir: _,
            user: _,
            groups: _,
            init: _,
            stop_signal: _,
            tty: _,
            open_stdin: _,
            read_only: _,
            stop_grace_period: _,
            hosts: _,
            isolation: _,
            sysctls: _,
            capability_add: _,
            capability_drop: _,
            oom_score_adj: _,
            drain_timeout,
            privileges,
            mounts,
            healthcheck,
            dns_config,
            secrets,
            configs,
            ulimits,
        } = self;
        let drain = if drain_timeout.is_some() { Level::DRAIN } else { Level::FIRST };
        highest([
            drain,
            privileges.level(),
            mounts.level(),
            healthcheck.level(),
            dns_config.level(),
            secrets.level(),
            configs.level(),
            ulimits.level(),
        ])
    }
}

impl Leveled for PayloadReference {
    /// Nobody before the fourth level is given any.
    fn level(&self) -> Level {
        let Self { target: _, name: _, version: _, on_change: _ } = self;
        Level::PAYLOADS
    }
}

impl Leveled for IpamConfig {
    /// Who does not know what is reserved would give it away.
    fn level(&self) -> Level {
        let Self { subnet: _, ip_range, gateway: _, aux_addresses } = self;
        let plain = ip_range.is_empty() && aux_addresses.is_empty();
        if plain { Level::FIRST } else { Level::DUAL }
    }
}

/// Whether one IPv4 subnet is all that a network has, and each node has its first address.
fn is_plain(ipam: &Ipam) -> bool {
    let plain = |config: &IpamConfig| match config.subnet.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => {
            config.gateway.is_empty() || config.gateway.parse().ok() == net.hosts().next()
        }
        Ok(IpNet::V6(_)) => false,
        // It is refused.
        Err(_) => true,
    };
    ipam.config.len() <= 1 && ipam.config.iter().all(plain)
}

impl Leveled for NetworkSpec {
    /// Nobody before the second level gives a network that spans nodes its addresses, and nobody before the fourth
    /// one more than a single one to each, or another one than of IPv4, changes who may join, or puts one on a wire.
    fn level(&self) -> Level {
        let Self {
            name: _,
            labels: _,
            driver,
            scope,
            enable_ipv4,
            enable_ipv6,
            internal: _,
            attachable,
            ingress: _,
            ipam,
            config_from: _,
            config_only: _,
        } = self;
        let several = ipam.as_ref().is_some_and(|ipam| ipam.config.len() > 1);
        let kind = match NetworkKind::of(driver) {
            _ if *enable_ipv6 || *enable_ipv4 == Some(false) || *attachable || several => {
                Level::DUAL
            }
            Some(NetworkKind::Overlay) if !ipam.as_ref().is_none_or(is_plain) => Level::DUAL,
            Some(NetworkKind::Overlay) => Level::OVERLAY,
            Some(NetworkKind::Macvlan | NetworkKind::Ipvlan) => Level::WIRE,
            Some(NetworkKind::Bridge | NetworkKind::Host | NetworkKind::Nothing) | None => {
                Level::FIRST
            }
        };
        highest([kind, driver.level(), scope.level(), ipam.level()])
    }
}

impl Leveled for ClusterSpec {
    fn level(&self) -> Level {
        let Self {
            name: _,
            labels: _,
            task_history_retention_limit: _,
            heartbeat_period: _,
            node_cert_expiry: _,
            address_pools,
            tunnel_keys,
        } = self;
        let pools = if address_pools.is_empty() { Level::FIRST } else { Level::OVERLAY };
        pools.max(tunnel_keys.level())
    }
}

impl Leveled for TunnelKeySpec {
    /// Nobody before the fourth level would change a key.
    fn level(&self) -> Level {
        let Self { period, force_rotate } = self;
        let usual = period.is_none() && *force_rotate == 0;
        if usual { Level::FIRST } else { Level::KEYS }
    }
}

// What nodes report is written down at once: below its level it is left out, see
// `NodeDescription::within` and `TaskStatus::within`. The fields `level` are what somebody can do.
structs! {
    NodeDescription { hostname, level; platform, resources, engine, tunnel, troubled_links, host_subnets }
    EngineDescription { version, labels; plugins }
    NodeStatus { message, addr, since; state }
    ManagerStatus { raft_id, addr, level }
    TaskStatus { timestamp, message, err; state, container_status, port_status }
    ContainerStatus { container_id, pid, exit_code, signal, oom_killed }
}

choices! {
    NodeState { Unknown, Down, Ready, Disconnected }
    TaskState {
        New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running, Draining, Complete,
        Shutdown, Failed, Rejected, Remove, Orphaned,
    }
    RegistryAuth { Basic { username: _, password: _ }, Identity(_), Token(_) }
    ServiceMode {
        Replicated { replicas: _ },
        Global {},
        ReplicatedJob { max_concurrent: _, total_completions: _ },
        GlobalJob {},
    }
    FailureAction { Pause, Continue, Rollback }
    UpdateOrder { StopFirst, StartFirst }
    Protocol { Tcp, Udp, Sctp }
    RestartCondition { None, OnFailure, Any }
    PlacementPreference { Spread { descriptor: _ } }
    GenericResource { Named { kind: _, value: _ }, Discrete { kind: _, value: _ } }
    CredentialSpec { Config(_), File(_), Registry(_) }
    Seccomp { Default, Unconfined, Custom(_) }
    AppArmor { Default, Disabled }
    MountKind { Bind, Volume, Tmpfs, Npipe, Cluster, Image }
    NetworkScope { Local, Swarm, Global }
    NodeRole { Agent, Manager }
    Availability { Active, Pause, Drain }
    UserRole { Viewer, Deployer, Operator, Admin }
}

impl Leveled for TaskRuntime {
    fn level(&self) -> Level {
        match self {
            Self::Container(container) => container.level(),
            Self::Plugin(plugin) => plugin.level(),
            Self::Attachment { container_id: _ } => Level::FIRST,
        }
    }
}

impl Leveled for Affinity {
    /// Nobody before the fourth level leads a client to the same task twice.
    fn level(&self) -> Level {
        match self {
            Self::ClientIp => Level::AFFINITY,
        }
    }
}

impl Leveled for Locality {
    /// Nobody before the fourth level asks where a task is.
    fn level(&self) -> Level {
        match self {
            Self::PreferLocal => Level::LOCALITY,
        }
    }
}

impl Leveled for EndpointMode {
    /// Nobody before the third level answers names, by which alone such a service is reached.
    fn level(&self) -> Level {
        match self {
            Self::Vip => Level::FIRST,
            Self::Dnsrr => Level::NAMES,
        }
    }
}

impl Leveled for NetworkAttachmentConfig {
    fn level(&self) -> Level {
        let Self { target: _, aliases, driver_opts: _, addresses } = self;
        match (aliases.is_empty(), addresses.is_empty()) {
            (_, false) => Level::DUAL,
            (false, true) => Level::NAMES,
            (true, true) => Level::FIRST,
        }
    }
}

impl Leveled for PortConfig {
    /// Nobody before the fourth level takes an address of IPv6.
    fn level(&self) -> Level {
        let Self { name: _, target_port: _, published_port: _, host_ip, protocol, publish_mode } =
            self;
        let v6 = host_ip.is_some_and(|ip| ip.is_ipv6());
        let address = if v6 { Level::DUAL } else { Level::FIRST };
        highest([address, protocol.level(), publish_mode.level()])
    }
}

impl Leveled for PublishMode {
    fn level(&self) -> Level {
        match self {
            Self::Ingress => Level::INGRESS,
            Self::Host => Level::FIRST,
        }
    }
}

impl Leveled for PluginDescription {
    /// Nobody before the fourth level tells of any.
    fn level(&self) -> Level {
        let Self { kind: _, name: _ } = self;
        Level::WIRE
    }
}

impl Leveled for TunnelDescription {
    fn level(&self) -> Level {
        let Self { public_key: _, port: _, addr: _, kind, keys } = self;
        Level::OVERLAY.max(kind.level()).max(keys.level())
    }
}

impl Leveled for DescribedKeys {
    /// Nobody before the fourth level has another key than that which it made first.
    fn level(&self) -> Level {
        let Self { epoch: _, other: _, lagging: _, lacking: _ } = self;
        Level::KEYS
    }
}

impl Leveled for TroubledLinks {
    fn level(&self) -> Level {
        let Self { count: _, links } = self;
        Level::DUAL.max(links.level())
    }
}

impl Leveled for TroubledLink {
    fn level(&self) -> Level {
        let Self { node_id: _, endpoint: _, passes_bytes: _, full_bytes: _ } = self;
        Level::DUAL
    }
}

impl Leveled for HostSubnet {
    fn level(&self) -> Level {
        let Self { subnet: _, interface: _ } = self;
        Level::SUBNETS
    }
}

impl Leveled for TunnelKind {
    fn level(&self) -> Level {
        match self {
            Self::Kernel | Self::Userspace => Level::OVERLAY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Later(u32);

    impl Leveled for Later {
        fn level(&self) -> Level {
            Level::new(self.0)
        }
    }

    #[test]
    fn the_highest_part_decides() {
        assert_eq!(Some(Later(3)).level(), Level::new(3));
        assert_eq!(None::<Later>.level(), Level::FIRST);
        assert_eq!(vec![Later(1), Later(4), Later(2)].level(), Level::new(4));
        assert_eq!(Vec::<Later>::new().level(), Level::FIRST);
        let named = BTreeMap::from([("a".to_owned(), Later(2)), ("b".to_owned(), Later(5))]);
        assert_eq!(named.level(), Level::new(5));
        assert_eq!(Arc::new(Later(2)).level(), Level::new(2));
    }

    /// The first release has nothing that a program of the first level cannot do.
    #[test]
    fn whatever_there_is_is_of_a_level_that_this_program_has() {
        let container = ContainerSpec {
            mounts: vec![Mount::new(MountKind::Volume, "data", "/data")],
            secrets: Vec::new(),
            ..ContainerSpec::default()
        };
        let needed = [
            container.level(),
            NetworkSpec::default().level(),
            StackSpec::default().level(),
            UserSpec::default().level(),
            ClusterSpec::default().level(),
            ServiceMode::GlobalJob {}.level(),
        ];
        assert!(needed.into_iter().all(|level| level == Level::FIRST), "{needed:?}");
    }

    #[test]
    fn what_is_said_of_addresses_beside_one_subnet_needs_the_fourth_level() {
        let of = |name: &str, change: fn(&mut NetworkSpec, &mut IpamConfig)| {
            let driver = Driver { name: name.to_owned(), ..Driver::default() };
            let mut spec = NetworkSpec { driver, ..NetworkSpec::default() };
            let subnet = "10.1.0.0/24".to_owned();
            let mut config = IpamConfig { subnet, ..IpamConfig::default() };
            change(&mut spec, &mut config);
            spec.ipam.get_or_insert_default().config.insert(0, config);
            spec.level()
        };
        type Change = fn(&mut NetworkSpec, &mut IpamConfig);
        let cases: [(Change, [Level; 2]); 10] = [
            (|_, _| {}, [Level::FIRST, Level::OVERLAY]),
            (|_, c| "10.1.0.1".clone_into(&mut c.gateway), [Level::FIRST, Level::OVERLAY]),
            (|_, c| "10.1.0.9".clone_into(&mut c.gateway), [Level::FIRST, Level::DUAL]),
            (|_, c| "10.1.0.0/28".clone_into(&mut c.ip_range), [Level::DUAL; 2]),
            (|_, c| drop(c.aux_addresses.insert("a".into(), "10.1.0.9".into())), [Level::DUAL; 2]),
            (|s, _| s.enable_ipv6 = true, [Level::DUAL; 2]),
            (|s, _| s.enable_ipv4 = Some(true), [Level::FIRST, Level::OVERLAY]),
            (|s, _| s.enable_ipv4 = Some(false), [Level::DUAL; 2]),
            (|s, _| s.attachable = true, [Level::DUAL; 2]),
            (
                |s, _| s.ipam.get_or_insert_default().config.push(IpamConfig::default()),
                [Level::DUAL; 2],
            ),
        ];
        for (n, (change, expected)) in cases.into_iter().enumerate() {
            assert_eq!(["bridge", "overlay"].map(|name| of(name, change)), expected, "case {n}");
        }
    }

    #[test]
    fn who_shares_a_network_needs_the_fourth_level() {
        let of = |network_of| TaskSpec {
            network_of,
            ..TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()))
        };
        assert_eq!(of(None).level(), Level::FIRST);
        assert_eq!(of(Some("db".to_owned())).level(), Level::SHARED);
    }

    #[test]
    fn what_spans_nodes_needs_the_second_level() {
        let driver = |name: &str| Driver { name: name.to_owned(), ..Driver::default() };
        let network = |name: &str| NetworkSpec { driver: driver(name), ..NetworkSpec::default() };
        for name in ["", "bridge", "host", "none", "unknown"] {
            assert_eq!(network(name).level(), Level::FIRST, "{name:?}");
        }
        assert_eq!(network("overlay").level(), Level::OVERLAY);
        for name in ["macvlan", "ipvlan"] {
            assert_eq!(network(name).level(), Level::WIRE, "{name:?}");
        }
        let networks = [("n".to_owned(), network("overlay"))].into();
        assert_eq!(StackSpec { networks, ..StackSpec::default() }.level(), Level::OVERLAY);
        assert_eq!(driver("overlay").level(), Level::FIRST, "a volume may have such a driver");
        let pools = vec![super::super::AddressPool::USUAL];
        let cluster = ClusterSpec { address_pools: pools, ..ClusterSpec::default() };
        assert_eq!(cluster.level(), Level::OVERLAY);
    }
}
