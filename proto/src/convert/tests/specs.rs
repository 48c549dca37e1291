//! Arbitrary specs.

use shoal_types::resources::{GenericResource, Limits, ResourceRequirements, Resources};
use shoal_types::spec::*;

use super::arbitrary::{arbitrary, one_of};

arbitrary!(ServiceSpec {
    name,
    labels,
    task_template,
    mode,
    update_config,
    rollback_config,
    endpoint_spec,
});
one_of!(ServiceMode |s| {
    Self::Replicated { replicas: s.any() },
    Self::Global {},
    Self::ReplicatedJob { max_concurrent: s.any(), total_completions: s.any() },
    Self::GlobalJob {},
});
arbitrary!(UpdateConfig { parallelism, delay, failure_action, monitor, max_failure_ratio, order });
one_of!(FailureAction |s| { Self::Pause, Self::Continue, Self::Rollback });
one_of!(UpdateOrder |s| { Self::StopFirst, Self::StartFirst });
arbitrary!(EndpointSpec { mode, ports, affinity, locality });
one_of!(Affinity | _s | { Self::ClientIp });
one_of!(Locality | _s | { Self::PreferLocal });
one_of!(EndpointMode |s| { Self::Vip, Self::Dnsrr });
arbitrary!(PortConfig { name, protocol, target_port, published_port, publish_mode, host_ip });
one_of!(Protocol |s| { Self::Tcp, Self::Udp, Self::Sctp });
one_of!(PublishMode |s| { Self::Ingress, Self::Host });

arbitrary!(TaskSpec {
    runtime,
    resources,
    restart_policy,
    placement,
    networks,
    network_of,
    log_driver,
    force_update,
});
one_of!(TaskRuntime |s| {
    Self::Container(s.any()),
    Self::Plugin(s.any()),
    Self::Attachment { container_id: s.any() },
});
arbitrary!(PluginSpec { name, remote, plugin_privilege, disabled, env });
arbitrary!(PluginPrivilege { name, description, value });
arbitrary!(ResourceRequirements { limits, reservations, swap_bytes, memory_swappiness });
arbitrary!(Limits { nano_cpus, memory_bytes, pids });
arbitrary!(Resources { nano_cpus, memory_bytes, generic_resources });
one_of!(GenericResource |s| {
    Self::Named { kind: s.any(), value: s.any() },
    Self::Discrete { kind: s.any(), value: s.any() },
});
arbitrary!(RestartPolicy { condition, delay, max_attempts, window });
one_of!(RestartCondition |s| { Self::None, Self::OnFailure, Self::Any });
arbitrary!(Placement { constraints, preferences, max_replicas, platforms });
one_of!(PlacementPreference | s | { Self::Spread { descriptor: s.any() } });
arbitrary!(Platform { architecture, os });
arbitrary!(NetworkAttachmentConfig { target, aliases, driver_opts, addresses });

arbitrary!(ContainerSpec {
    image,
    labels,
    command,
    args,
    hostname,
    env,
    dir,
    user,
    groups,
    privileges,
    init,
    stop_signal,
    tty,
    open_stdin,
    read_only,
    mounts,
    stop_grace_period,
    drain_timeout,
    healthcheck,
    hosts,
    dns_config,
    secrets,
    configs,
    isolation,
    sysctls,
    capability_add,
    capability_drop,
    ulimits,
    oom_score_adj,
});
arbitrary!(Privileges { credential_spec, selinux_context, seccomp, app_armor, no_new_privileges });
one_of!(CredentialSpec |s| {
    Self::Config(s.any()),
    Self::File(s.any()),
    Self::Registry(s.any()),
});
arbitrary!(SeLinuxContext { disable, user, role, kind, level });
one_of!(Seccomp |s| { Self::Default, Self::Unconfined, Self::Custom(s.any()) });
one_of!(AppArmor |s| { Self::Default, Self::Disabled });
arbitrary!(Healthcheck { test, interval, timeout, start_period, start_interval, retries });
arbitrary!(DnsConfig { nameservers, search, options });
arbitrary!(PayloadReference { target, name, version, on_change });
one_of!(PayloadTarget |s| { Self::File(s.any()), Self::Env(s.any()), Self::Runtime });
one_of!(OnChange |s| { Self::Restart, Self::Nothing });
arbitrary!(FileTarget { name, uid, gid, mode });
arbitrary!(Ulimit { name, soft, hard });

arbitrary!(Mount {
    kind,
    source,
    target,
    read_only,
    consistency,
    bind_options,
    volume_options,
    image_options,
    tmpfs_options,
});
one_of!(MountKind |s| {
    Self::Bind,
    Self::Volume,
    Self::Tmpfs,
    Self::Npipe,
    Self::Cluster,
    Self::Image,
});
arbitrary!(BindOptions {
    propagation,
    non_recursive,
    create_mountpoint,
    read_only_non_recursive,
    read_only_force_recursive,
});
arbitrary!(VolumeMountOptions { no_copy, labels, subpath, driver_config });
arbitrary!(ImageOptions { subpath });
arbitrary!(TmpfsOptions { size_bytes, mode, options });

arbitrary!(Driver { name, options });
arbitrary!(NetworkSpec {
    name,
    labels,
    driver,
    scope,
    enable_ipv4,
    enable_ipv6,
    internal,
    attachable,
    ingress,
    ipam,
    config_from,
    config_only,
});
one_of!(NetworkScope |s| { Self::Local, Self::Swarm, Self::Global });
arbitrary!(Ipam { driver, config });
arbitrary!(IpamConfig { subnet, ip_range, gateway, aux_addresses });
arbitrary!(VolumeSpec { name, labels, driver });
arbitrary!(SecretSpec { name, labels, data, driver, templating });
arbitrary!(ConfigSpec { name, labels, data, templating });

arbitrary!(NodeSpec { name, labels, role, availability });
one_of!(NodeRole |s| { Self::Agent, Self::Manager });
one_of!(Availability |s| { Self::Active, Self::Pause, Self::Drain });
arbitrary!(ClusterSpec {
    name,
    labels,
    task_history_retention_limit,
    heartbeat_period,
    node_cert_expiry,
    address_pools,
    tunnel_keys,
});
arbitrary!(TunnelKeySpec { period, force_rotate });
arbitrary!(AddressPool { base, size });
arbitrary!(StackSpec { name, services, networks, volumes, secrets, configs });
arbitrary!(UserSpec { name, labels, role, stacks, host_access, expires_at });
one_of!(UserRole |s| { Self::Viewer, Self::Deployer, Self::Operator, Self::Admin });
